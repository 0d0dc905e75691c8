//! The reading of answers against hyper's, on answers that are put together at random from sound and from odd parts.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use postrider::delivery::client::{AnswerReader, BodyEnd, MAX_HEAD_BYTES};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const MAX_BODY_BYTES: usize = 64;

const STATUS_LINES: [&str; 12] = [
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 200\r\n",
    "HTTP/1.1 204 No Content\r\n",
    "HTTP/1.1 304 Not Modified\r\n",
    "HTTP/1.1 503 Service Unavailable\r\n",
    "HTTP/1.0 200 OK\r\n",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\n",
    "HTTP/1.1 999 x\r\n",
    "HTTP/1.1 200 OK\n",
    "HTTP/1.1 20 OK\r\n",
    "HTTP/2 200\r\n",
    "\r\nHTTP/1.1 200 OK\r\n",
];
const FIELDS: [&str; 20] = [
    "Content-Length: 5\r\n",
    "content-length:5\r\n",
    "Content-Length: 0\r\n",
    "Content-Length: 70\r\n",
    "Content-Length: 5, 5\r\n",
    "Content-Length: +5\r\n",
    "Content-Length: 6\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: gzip, chunked\r\n",
    "Transfer-Encoding: identity\r\n",
    "Connection: close\r\n",
    "Connection: keep-alive\r\n",
    "Retry-After: 7\r\n",
    "X-A: b\r\n",
    "X-B:\r\n",
    "X-C : d\r\n",
    "X-D: e\n",
    " folded\r\n",
    "no colon\r\n",
    "X-E: \x01\r\n",
];
const BODIES: [&str; 10] = [
    "",
    "hello",
    "hello, and more",
    "5\r\nhello\r\n0\r\n\r\n",
    "5;name=value\r\nhello\r\n2\r\n!!\r\n0\r\nTrailer: x\r\n\r\n",
    "5\r\nhello",
    "z\r\nhello\r\n0\r\n\r\n",
    "50\r\nxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n0\r\n\r\n",
    "0\r\n\r\nHTTP/1.1 200 OK\r\n",
    "5\r\nhelloxx0\r\n\r\n",
];

fn answer() -> impl Strategy<Value = String> {
    let fields = proptest::collection::vec(proptest::sample::select(&FIELDS[..]), 0..4);
    let (status, body) = (proptest::sample::select(&STATUS_LINES[..]), proptest::sample::select(&BODIES[..]));
    (status, fields, body).prop_map(|(status, fields, body)| format!("{status}{}\r\n{body}", fields.concat()))
}

/// An answer as it was read to the end of its connection.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    status: Option<u16>,
    body: Vec<u8>,
    end: Option<BodyEnd>,
    retry_after: Option<Vec<u8>>,
    /// Before the connection ended.
    was_clean: bool,
}

fn read(bytes: &[u8], piece: usize) -> Read {
    let mut reader = AnswerReader::of_at_most(MAX_BODY_BYTES);
    // An answer that cannot be read has no status, which is compared.
    let _ = bytes.chunks(piece).try_for_each(|piece| reader.feed(piece));
    let was_clean = reader.ends_cleanly();
    reader.close(true);
    Read {
        status: reader.status(),
        end: reader.end(),
        retry_after: reader.fields().get("retry-after").map(<[u8]>::to_vec),
        was_clean,
        body: reader.into_body().to_vec(),
    }
}

/// Status, body if it could be read, and whether hyper would send another request on the connection.
async fn read_by_hyper(bytes: &[u8]) -> Option<(u16, Option<Bytes>, bool)> {
    let (ours, mut theirs) = tokio::io::duplex(4_096);
    let (mut sender, driver) = http1::handshake(TokioIo::new(ours)).await.unwrap();
    let driving = tokio::spawn(driver);
    let request = http::Request::post("/").body(Full::new(Bytes::new())).unwrap();
    let asked = sender.send_request(request);
    let answering = async {
        let mut request = [0; 1_024];
        assert!(theirs.read(&mut request).await.unwrap() > 0);
        theirs.write_all(bytes).await.unwrap();
    };
    let (answer, ()) = tokio::join!(asked, answering);
    let found = match answer {
        Err(_) => None,
        Ok(answer) => {
            let status = answer.status().as_u16();
            let reading = tokio::spawn(answer.into_body().collect());
            // Whatever reads to the end of the connection waits now; whatever has its end is ready.
            for _ in 0..8 {
                tokio::task::yield_now().await;
            }
            let is_kept = reading.is_finished() && sender.is_ready();
            drop(theirs);
            let body = reading.await.unwrap().ok().map(http_body_util::Collected::to_bytes);
            Some((status, body, is_kept))
        }
    };
    driving.abort();
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn what_hyper_reads_is_read_alike_and_no_connection_is_kept_that_it_would_drop(
        answer in answer(),
        piece in 1..40_usize,
    ) {
        let whole = read(answer.as_bytes(), usize::MAX);
        prop_assert_eq!(&read(answer.as_bytes(), piece), &whole, "in pieces of {}: {:?}", piece, &answer);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let Some((status, body, is_kept)) = runtime.block_on(read_by_hyper(answer.as_bytes())) else {
            prop_assert!(!whole.was_clean, "kept: {:?}", answer);
            return Ok(());
        };
        prop_assert_eq!(whole.status, Some(status), "{:?}", &answer);
        if let Some(body) = body
            && whole.end != Some(BodyEnd::Broken)
        {
            let kept = body.len().min(MAX_BODY_BYTES);
            prop_assert_eq!(&whole.body, &body[..kept], "{:?}", &answer);
        }
        prop_assert!(is_kept || !whole.was_clean, "kept, where hyper would not: {:?}", &answer);
    }

    #[test]
    fn whatever_comes_is_read_within_bounds(pieces in proptest::collection::vec(any::<Vec<u8>>(), 0..20)) {
        let mut reader = AnswerReader::of_at_most(MAX_BODY_BYTES);
        let _ = pieces.iter().try_for_each(|piece| reader.feed(piece));
        reader.close(false);
        prop_assert!(reader.status().is_none_or(|status| (100..1_000).contains(&status)));
        prop_assert!(reader.into_body().len() <= MAX_BODY_BYTES);
    }
}

#[test]
fn a_sound_answer_keeps_its_connection_and_an_odd_one_does_not() {
    for (answer, is_kept) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", true),
        ("HTTP/1.1 204 No Content\r\n\r\n", true),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", false),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n", false),
        ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello", true),
        ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: foo, Close\r\n\r\nhello", false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello!", false),
        ("HTTP/1.1 200 OK\r\n\r\nhello", false),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", false),
        ("HTTP/2.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", false),
        ("HTTP/0.9 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello", false),
    ] {
        let read = read(answer.as_bytes(), usize::MAX);
        assert_eq!(read.was_clean, is_kept, "{answer:?}");
        assert_eq!(read.end, Some(BodyEnd::Complete), "{answer:?}");
    }
}

#[test]
fn a_folded_field_frames_the_body() {
    for (fields, body) in [
        ("Content-Length:\r\n 5\r\n", "hello, and more"),
        ("Content-Length: 5\r\n folded\r\n", "hello, and more"),
        ("Content-Length:\n\t5\n", "hello, and more"),
        ("Content-Length: 5\r\nX-A:\r\n b\r\n", "hello, and more"),
        ("X-A: b\r\n \r\nContent-Length: 5\r\n", "hello, and more"),
        (" X-A: b\r\nContent-Length: 5\r\n", "hello, and more"),
        ("Transfer-Encoding:\r\n chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n folded\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        ("Transfer-Encoding: gzip,\r\n\tchunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
    ] {
        let answer = format!("HTTP/1.1 103 x\r\nX-A: b\r\n\r\nHTTP/1.1 200 OK\r\n{fields}\r\n{body}");
        for piece in [1, 7, usize::MAX] {
            let read = read(answer.as_bytes(), piece);
            assert_eq!(
                (read.status, &*read.body, read.end),
                (Some(200), &b"hello"[..], Some(BodyEnd::Complete)),
                "{answer:?}"
            );
            assert!(!read.was_clean, "{answer:?}");
        }
    }
}

#[test]
fn framing_that_never_ends_is_given_up() {
    let chunk = format!("1;{}\r\nx\r\n", "e".repeat(4_000));
    let flood = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}", chunk.repeat(100));
    let read_flood = read(flood.as_bytes(), 1_000);
    assert_eq!(read_flood.end, Some(BodyEnd::Broken));
    assert!(read_flood.body.len() < 100, "{}", read_flood.body.len());
    let honest = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n", "1\r\nx\r\n".repeat(60));
    assert_eq!(read(honest.as_bytes(), 7).end, Some(BodyEnd::Complete));
    let trailers =
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{}", "a: b\r\n".repeat(MAX_HEAD_BYTES));
    assert_eq!(read(trailers.as_bytes(), 1_000).end, Some(BodyEnd::Broken));
}
