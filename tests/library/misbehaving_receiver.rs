//! Receivers that hang, flood, break off, lie and redirect: each attempt ends within its timeout, says
//! what happened, and holds little memory.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use postrider::clock::SystemClock;
use postrider::delivery::Outcome;
use postrider::delivery::attempt::{MAX_RESPONSE_BYTES, Message, attempt};
use postrider::delivery::client::{Client, Connection, Roots};
use postrider::delivery::guard::{Resolve, ResolveError};
use postrider::delivery::retry::RetryAfter;
use postrider::webhook::Webhook;
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;

use crate::receivers::{Receiver, client, client_asking, event, read_request, webhook, write};

const TIMEOUT: Duration = Duration::from_secs(1);
/// How late an attempt may end on a busy machine.
const GRACE: Duration = Duration::from_secs(4);
/// What may be on its way in the buffers of the kernel when the client stops reading.
const IN_FLIGHT_BYTES: u64 = 32 << 20;
const MEMORY_GROWTH_BYTES: u64 = 32 << 20;

async fn attempt_on(slot: &mut Option<Connection>, client: &Client, webhook: &Webhook) -> Outcome {
    let event = event(r#"{"topic": "attacker.session.started", "payload": {"src": "198.51.100.7"}}"#);
    let began_at = Instant::now();
    let outcome = attempt(client, slot, webhook, &Message::of(&event), "msg_1", &SystemClock).await;
    assert!(began_at.elapsed() < webhook.timeout + GRACE, "took {:?}", began_at.elapsed());
    outcome
}

/// One attempt at a receiver over plain HTTP, with no connection before; and whether there is one to use after.
async fn attempt_at(receiver: &Receiver) -> (Outcome, bool) {
    let mut slot = None;
    let outcome = attempt_on(&mut slot, &client(Roots::WebPki), &webhook(&receiver.url(), TIMEOUT)).await;
    (outcome, slot.is_some())
}

/// A receiver that reads a request, answers with these bytes and hangs up.
async fn answering(answer: &'static [u8]) -> Receiver {
    Receiver::start(async move |mut stream| {
        read_request(&mut stream).await;
        write(&mut stream, answer).await;
    })
    .await
}

/// Writes `piece` until the peer stops taking it, and counts.
async fn flood(stream: &mut (impl AsyncWrite + Unpin), piece: &[u8], sent_bytes: &AtomicU64) {
    while write(stream, piece).await {
        sent_bytes.fetch_add(piece.len() as u64, Ordering::SeqCst);
    }
}

/// Floods with `piece` after `beginning`; returns what the attempt came to and how much was sent.
async fn attempt_at_flood(beginning: &'static [u8], piece: Vec<u8>) -> (Outcome, u64) {
    let sent_bytes = Arc::new(AtomicU64::new(0));
    let (counter, piece) = (Arc::clone(&sent_bytes), Arc::new(piece));
    let receiver = Receiver::start(move |mut stream| {
        let (counter, piece) = (Arc::clone(&counter), Arc::clone(&piece));
        async move {
            read_request(&mut stream).await;
            write(&mut stream, beginning).await;
            flood(&mut stream, &piece, &counter).await;
        }
    })
    .await;
    let before = resident_bytes();
    let (outcome, reusable) = attempt_at(&receiver).await;
    let growth = resident_bytes().saturating_sub(before);
    assert!(growth < MEMORY_GROWTH_BYTES, "memory grew by {growth} bytes");
    assert!(!reusable, "a connection full of rest must not be used again");
    (outcome, sent_bytes.load(Ordering::SeqCst))
}

fn resident_bytes() -> u64 {
    const PAGE_BYTES: u64 = 4_096;
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * PAGE_BYTES
}

fn error_of(outcome: &Outcome) -> String {
    outcome.error_text().unwrap()
}

async fn hang(_stream: TcpStream) {
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn one_that_reads_and_never_answers() {
    let receiver = Receiver::start(async |mut stream| {
        read_request(&mut stream).await;
        hang(stream).await;
    })
    .await;
    let (outcome, reusable) = attempt_at(&receiver).await;
    assert_eq!(error_of(&outcome), "timeout: waiting for the response (limit 1 s)");
    assert!(!reusable && outcome.duration >= TIMEOUT && outcome.exchange.timings.first_byte.is_none());
}

#[tokio::test]
async fn one_that_accepts_and_never_reads() {
    let receiver = Receiver::start(hang).await;
    let payload = "x".repeat(1_000_000);
    let large = event(&format!(r#"{{"topic": "a", "payload": {{"x": "{payload}"}}}}"#));
    let webhook = webhook(&receiver.url(), TIMEOUT);
    let outcome =
        attempt(&client(Roots::WebPki), &mut None, &webhook, &Message::of(&large), "msg_1", &SystemClock).await;
    assert_eq!(error_of(&outcome), "timeout: waiting for the response (limit 1 s)");
}

#[tokio::test]
async fn one_that_drips_its_head() {
    let receiver = Receiver::start(async |mut stream| {
        read_request(&mut stream).await;
        for byte in b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n" {
            write(&mut stream, &[*byte]).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    let (outcome, _) = attempt_at(&receiver).await;
    assert_eq!(error_of(&outcome), "timeout: waiting for the response (limit 1 s)");
}

#[tokio::test]
async fn one_that_drips_its_body_has_answered_all_the_same() {
    let receiver = Receiver::start(async |mut stream| {
        read_request(&mut stream).await;
        write(&mut stream, b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").await;
        while write(&mut stream, b".").await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    let (outcome, reusable) = attempt_at(&receiver).await;
    assert!(outcome.is_success() && !reusable, "{outcome:?}");
    assert!((1..100).contains(&outcome.response.len()), "what came is kept: {:?}", outcome.response);
}

#[tokio::test]
async fn one_that_sends_ten_gigabytes() {
    let (outcome, sent_bytes) =
        attempt_at_flood(b"HTTP/1.1 200 OK\r\ncontent-length: 10000000000\r\n\r\n", vec![b'x'; 64 * 1024]).await;
    assert!(outcome.is_success());
    assert_eq!(outcome.response.len(), MAX_RESPONSE_BYTES);
    assert!(sent_bytes < IN_FLIGHT_BYTES, "{sent_bytes}");
}

#[tokio::test]
async fn one_that_sends_chunks_without_end() {
    let chunk = [b"1000\r\n".as_slice(), &[b'x'; 0x1000], b"\r\n"].concat();
    let (outcome, sent_bytes) =
        attempt_at_flood(b"HTTP/1.1 500 Oops\r\ntransfer-encoding: chunked\r\n\r\n", chunk).await;
    assert_eq!(error_of(&outcome), "http 500");
    assert_eq!(outcome.response.len(), MAX_RESPONSE_BYTES);
    assert!(sent_bytes < IN_FLIGHT_BYTES, "{sent_bytes}");
}

#[tokio::test]
async fn one_that_sends_100_000_headers_has_answered_all_the_same() {
    let headers: Vec<u8> = (0..100_000).flat_map(|n| ["x-", &n.to_string(), ": y\r\n"].concat().into_bytes()).collect();
    let (outcome, sent_bytes) = attempt_at_flood(b"HTTP/1.1 200 OK\r\nretry-after: 7\r\n", headers).await;
    assert!(outcome.is_success());
    assert_eq!(outcome.retry_after, Some(RetryAfter::Delay(Duration::from_secs(7))), "what came is read");
    assert!(sent_bytes < IN_FLIGHT_BYTES, "{sent_bytes}");
}

#[tokio::test]
async fn one_that_sends_a_header_line_without_end_has_answered_all_the_same() {
    let (outcome, sent_bytes) = attempt_at_flood(b"HTTP/1.1 503 Busy\r\nx: ", vec![b'x'; 64 * 1024]).await;
    assert_eq!(error_of(&outcome), "http 503");
    assert!(sent_bytes < IN_FLIGHT_BYTES, "{sent_bytes}");
}

#[tokio::test]
async fn one_that_sends_a_status_line_without_end() {
    let (outcome, sent_bytes) = attempt_at_flood(b"HTTP/1.1 200 ", vec![b'x'; 64 * 1024]).await;
    assert_eq!(error_of(&outcome), "protocol: the head of the answer has more than 65536 bytes");
    assert!(sent_bytes < IN_FLIGHT_BYTES, "{sent_bytes}");
}

#[tokio::test]
async fn one_that_says_continue_for_ever() {
    let (outcome, sent_bytes) = attempt_at_flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n".repeat(1_000)).await;
    assert_eq!(error_of(&outcome), "protocol: the head of the answer has more than 65536 bytes");
    assert!(sent_bytes < IN_FLIGHT_BYTES, "{sent_bytes}");
}

#[tokio::test]
async fn one_that_sends_a_gzip_bomb() {
    // 64 KiB of zeros.
    let bomb = "H4sIAAAAAAACA+3BAQEAAACAkP6v7ggKAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\
                AAAAAAAAAAAAAAAAAAAAAAAAAAAAauuOl9cAAAEA";
    let bomb = base64::prelude::BASE64_STANDARD.decode(bomb).unwrap();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n", bomb.len());
    let receiver = answering([head.into_bytes(), bomb.clone()].concat().leak()).await;
    let (outcome, _) = attempt_at(&receiver).await;
    assert!(outcome.is_success());
    assert!(outcome.response == vec![0; MAX_RESPONSE_BYTES], "{} bytes are shown", outcome.response.len());
}

#[tokio::test]
async fn one_that_compresses_although_it_was_not_asked_to() {
    let reason = b"{\"error\":\"field x is missing\"}";
    let compressed = |encoder: &dyn Fn() -> Vec<u8>, name: &str| {
        let body = encoder();
        let head = format!("HTTP/1.1 400 Bad\r\nContent-Encoding: {name}\r\nContent-Length: {}\r\n\r\n", body.len());
        [head.into_bytes(), body].concat()
    };
    let gzip = || {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(reason).unwrap();
        encoder.finish().unwrap()
    };
    let deflate = || {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(reason).unwrap();
        encoder.finish().unwrap()
    };
    let cases = [
        (compressed(&gzip, "gzip"), reason.to_vec()),
        (compressed(&gzip, "X-GZIP"), reason.to_vec()),
        (compressed(&deflate, "deflate"), reason.to_vec()),
        (compressed(&|| reason.to_vec(), "gzip"), reason.to_vec()),
        (compressed(&|| reason.to_vec(), "br"), reason.to_vec()),
    ];
    for (answer, shown) in cases {
        let (outcome, _) = attempt_at(&answering(answer.leak()).await).await;
        assert_eq!(error_of(&outcome), "non-retryable 400");
        assert_eq!(outcome.response, shown);
    }
}

#[tokio::test]
async fn one_that_breaks_off_within_the_body() {
    let receiver = answering(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n0123456789").await;
    let (outcome, reusable) = attempt_at(&receiver).await;
    assert!(outcome.is_success() && !reusable);
    assert_eq!(outcome.response, "0123456789");
}

#[tokio::test]
async fn one_that_closes_before_it_answers() {
    let receiver = answering(b"").await;
    let (outcome, _) = attempt_at(&receiver).await;
    assert!(error_of(&outcome).starts_with("connect: "), "{:?}", outcome.end);
    assert_eq!(receiver.connections.load(Ordering::SeqCst), 1, "a fresh connection is not tried twice");
}

#[tokio::test]
async fn one_that_breaks_off_within_the_head() {
    let receiver = answering(b"HTTP/1.1 200").await;
    let (outcome, _) = attempt_at(&receiver).await;
    assert!(error_of(&outcome).starts_with("connect: "), "{:?}", outcome.end);
}

/// Answers the first request of each connection, and for the second does what `then` says.
async fn keeping_alive_once(then: &'static [u8]) -> Receiver {
    Receiver::start(async move |mut stream| {
        read_request(&mut stream).await;
        write(&mut stream, b"HTTP/1.1 204 No Content\r\n\r\n").await;
        read_request(&mut stream).await;
        write(&mut stream, then).await;
    })
    .await
}

#[tokio::test]
async fn one_that_closes_a_kept_connection_at_the_second_request_gets_it_once_more_at_once() {
    let receiver = keeping_alive_once(b"").await;
    let (client, webhook) = (client(Roots::WebPki), webhook(&receiver.url(), TIMEOUT));
    let mut slot = None;
    assert!(attempt_on(&mut slot, &client, &webhook).await.is_success());
    assert!(slot.is_some(), "the connection is kept");
    assert!(attempt_on(&mut slot, &client, &webhook).await.is_success());
    assert_eq!(receiver.connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn one_that_began_to_answer_on_a_kept_connection_does_not_get_it_once_more() {
    let receiver = keeping_alive_once(b"HTTP/1.1 2").await;
    let (client, webhook) = (client(Roots::WebPki), webhook(&receiver.url(), TIMEOUT));
    let mut slot = None;
    assert!(attempt_on(&mut slot, &client, &webhook).await.is_success());
    let outcome = attempt_on(&mut slot, &client, &webhook).await;
    assert!(error_of(&outcome).starts_with("connect: "), "{:?}", outcome.end);
    assert_eq!(receiver.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn one_that_closed_the_kept_connection_long_ago() {
    let (closed, mut was_closed) = tokio::sync::mpsc::unbounded_channel();
    let receiver = Receiver::start(move |mut stream| {
        let closed = closed.clone();
        async move {
            read_request(&mut stream).await;
            write(&mut stream, b"HTTP/1.1 204 No Content\r\n\r\n").await;
            drop(stream);
            closed.send(()).unwrap();
        }
    })
    .await;
    let (client, webhook) = (client(Roots::WebPki), webhook(&receiver.url(), TIMEOUT));
    let mut slot = None;
    for _ in 0..2 {
        assert!(attempt_on(&mut slot, &client, &webhook).await.is_success());
        was_closed.recv().await.unwrap();
    }
    assert_eq!(receiver.connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn one_that_redirects_to_the_cloud_s_credentials() {
    let receiver =
        answering(b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n").await;
    let (outcome, _) = attempt_at(&receiver).await;
    assert_eq!(error_of(&outcome), "non-retryable 302");
    assert_eq!(receiver.connections.load(Ordering::SeqCst), 1);
}

/// Head lines that spoil neither the verdict nor the rule for using the connection again: the second part says whether
/// the end of the answer is beyond doubt.
const ODD_HEADS: [(&[u8], bool); 22] = [
    (b"Content-Length: 2\r\n", true),
    (b"X-Empty:\r\nContent-Length: 2\r\n", true),
    (b"X-Latin: caf\xe9\r\nContent-Length: 2\r\n", true),
    (b"Content-Length: 2\r\nContent-Length: 2\r\n", true),
    (b"Content-Length: 2, 2\r\n", true),
    (b"Transfer-Encoding: chunked\r\n", true),
    (b"X-Odd : 1\r\nContent-Length: 2\r\n", false),
    (b"Content-Length : 2\r\n", false),
    (b"no colon\r\nContent-Length: 2\r\n", false),
    (b": no name\r\nContent-Length: 2\r\n", false),
    (b"X-Control: a\x01b\r\nContent-Length: 2\r\n", false),
    (b"X-Zero: a\0b\r\nContent-Length: 2\r\n", false),
    (b"X-Folded: a\r\n b\r\nContent-Length: 2\r\n", false),
    (b"Content-Length:\r\n 2\r\n", false),
    (b"Transfer-Encoding:\r\n chunked\r\n", false),
    (b"Transfer-Encoding: gzip,\r\n\tchunked\r\n", false),
    (b"X-Bare: a\nContent-Length: 2\r\n", false),
    (b"X-Return: a\rb\r\nContent-Length: 2\r\n", false),
    (b"Content-Length: 2\r\nContent-Length: 3\r\n", false),
    (b"Content-Length: two\r\n", false),
    (b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", false),
    (b"Connection: close\r\nContent-Length: 2\r\n", false),
];

#[tokio::test]
async fn ones_whose_heads_are_odd_have_answered_all_the_same() {
    for (fields, is_beyond_doubt) in ODD_HEADS {
        for status in ["200 OK", "503 Busy"] {
            let is_chunked = memchr::memmem::find(fields, b"chunked").is_some();
            let body: &[u8] = if is_chunked { b"2\r\nok\r\n0\r\n\r\n" } else { b"ok" };
            let answer = [b"HTTP/1.1 ", status.as_bytes(), b"\r\n", fields, b"\r\n", body].concat();
            let receiver = Receiver::start(move |mut stream: TcpStream| {
                let answer = answer.clone();
                async move {
                    read_request(&mut stream).await;
                    write(&mut stream, &answer).await;
                    hang(stream).await;
                }
            })
            .await;
            let (outcome, reusable) = attempt_at(&receiver).await;
            let text = format!("{status}: {}", fields.escape_ascii());
            assert_eq!(outcome.is_success(), status.starts_with("200"), "{text}");
            assert_eq!(outcome.error_text().as_deref(), status.starts_with("503").then_some("http 503"), "{text}");
            assert_eq!(reusable, is_beyond_doubt, "{text}");
            assert!(outcome.duration < TIMEOUT, "{text}: nothing is waited for");
        }
    }
}

#[tokio::test]
async fn one_that_answers_before_it_has_read_the_request() {
    for (size, keeps_reading) in [(100_000, false), (900_000, false), (900_000, true)] {
        let receiver = Receiver::start(move |mut stream: TcpStream| async move {
            let mut beginning = [0; 64];
            stream.read_exact(&mut beginning).await.unwrap();
            write(&mut stream, b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlarge").await;
            if keeps_reading {
                hang(stream).await;
            }
        })
        .await;
        let payload = "x".repeat(size);
        let large = event(&format!(r#"{{"topic": "a", "payload": {{"x": "{payload}"}}}}"#));
        let (client, webhook) = (client(Roots::WebPki), webhook(&receiver.url(), TIMEOUT * 5));
        let attempts = (0..20).map(|_| {
            let (client, webhook, large) = (client.clone(), webhook.clone(), large.clone());
            tokio::spawn(async move {
                attempt(&client, &mut None, &webhook, &Message::of(&large), "msg_1", &SystemClock).await
            })
        });
        for attempt in attempts.collect::<Vec<_>>() {
            let outcome = attempt.await.unwrap();
            assert_eq!(outcome.error_text().as_deref(), Some("non-retryable 413"), "{size}: {:?}", outcome.end);
            assert_eq!(outcome.response, "large");
            assert!(outcome.duration < TIMEOUT * 4, "{:?}", outcome.duration);
        }
    }
}

#[tokio::test]
async fn one_that_says_200_at_once_and_reads_on_gets_the_whole_request() {
    let (read, mut was_read) = tokio::sync::mpsc::unbounded_channel();
    let receiver = Receiver::start(move |mut stream| {
        let read = read.clone();
        async move {
            write(&mut stream, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            let request = read_request(&mut stream).await.unwrap();
            read.send(request.body.len()).unwrap();
            hang(stream).await;
        }
    })
    .await;
    let payload = "x".repeat(900_000);
    let large = event(&format!(r#"{{"topic": "a", "payload": {{"x": "{payload}"}}}}"#));
    let webhook = webhook(&receiver.url(), TIMEOUT * 5);
    let client = client(Roots::WebPki);
    let outcome = attempt(&client, &mut None, &webhook, &Message::of(&large), "msg_1", &SystemClock).await;
    assert!(outcome.is_success());
    assert_eq!(was_read.recv().await, Some(large.body().len()));
}

#[tokio::test]
async fn one_that_says_how_long_it_keeps_a_connection_is_not_surprised() {
    for (seconds, connections) in [(0, 2), (60, 1)] {
        let receiver = Receiver::start(move |mut stream: TcpStream| async move {
            while read_request(&mut stream).await.is_some() {
                let head =
                    format!("HTTP/1.1 200 OK\r\nKeep-Alive: max=9, timeout={seconds}\r\nContent-Length: 0\r\n\r\n");
                write(&mut stream, head.as_bytes()).await;
            }
        })
        .await;
        let (client, webhook) = (client(Roots::WebPki), webhook(&receiver.url(), TIMEOUT));
        let mut slot = None;
        for _ in 0..2 {
            assert!(attempt_on(&mut slot, &client, &webhook).await.is_success());
        }
        assert_eq!(receiver.connections.load(Ordering::SeqCst), connections, "timeout={seconds}");
    }
}

#[tokio::test]
async fn ones_that_answer_with_this_and_that() {
    let in_a_minute = Some(RetryAfter::Delay(Duration::from_mins(1)));
    let cases: [(&[u8], Option<&str>, Option<RetryAfter>); 15] = [
        (b"HTTP/1.1 204 No Content\r\n\r\n", None, None),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", Some("non-retryable 304"), None),
        (b"HTTP/1.1 429 Slow down\r\nretry-after: 60\r\ncontent-length: 0\r\n\r\n", Some("http 429"), in_a_minute),
        (b"HTTP/1.1 503 Busy\r\nretry-after: 1e300\r\ncontent-length: 0\r\n\r\n", Some("http 503"), None),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", None, None),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", Some("non-retryable 101"), None),
        (b"SSH-2.0-OpenSSH_9.9\r\n", Some("protocol: "), None),
        (b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n", None, None),
        (b"HTTP/0.9 503 Busy\r\n\r\n", Some("http 503"), None),
        (b"HTTP/2 200 OK\r\n\r\n", Some("protocol: the answer is not HTTP/1.1"), None),
        (
            b"\0\0\x06\x04\0\0\0\0\0\0\x05\0\0\x40\0",
            Some("protocol: the answer is not HTTP/1.1 (the receiver seems"),
            None,
        ),
        (b"220 mail.example ESMTP\r\n", Some("protocol: "), None),
        (b"HTTP/1.1 200", Some("connect: "), None),
        (b"HTTP/1.1 599 x\r\n", Some("http 599"), None),
        (b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", None, None),
    ];
    for (answer, error, retry_after) in cases {
        let (outcome, _) = attempt_at(&answering(answer).await).await;
        let text = String::from_utf8_lossy(answer);
        match (error, outcome.error_text()) {
            (Some(expected), Some(error)) => assert!(error.starts_with(expected), "{text}: {error}"),
            (expected, error) => assert_eq!(error.as_deref(), expected, "{text}"),
        }
        assert_eq!(outcome.retry_after, retry_after, "{text}");
    }
}

#[tokio::test]
async fn one_that_is_not_there() {
    let receiver = answering(b"").await;
    let url = receiver.url();
    drop(receiver);
    tokio::task::yield_now().await;
    let outcome = attempt_on(&mut None, &client(Roots::WebPki), &webhook(&url, TIMEOUT)).await;
    assert_eq!(error_of(&outcome), "connect: Connection refused (os error 111)");
}

/// A resolver that fails, or hangs.
struct Nameless(Option<ResolveError>);

#[async_trait::async_trait]
impl Resolve for Nameless {
    async fn resolve(&self, _host: &str) -> Result<Vec<std::net::IpAddr>, ResolveError> {
        match &self.0 {
            Some(error) => Err(error.clone()),
            None => std::future::pending().await,
        }
    }
}

#[tokio::test]
async fn one_whose_name_servers_fail_or_hang() {
    const NAMELESS: &str = "dns: receiver.example is not there, or has a forbidden address";
    let (not_found, failed) =
        (ResolveError::NotFound("no such name".to_owned()), ResolveError::Failed("SERVFAIL".to_owned()));
    for (resolver, error) in
        [(Some(not_found), NAMELESS), (Some(failed), "dns: SERVFAIL"), (None, "timeout: dns (limit 1 s)")]
    {
        let client = client_asking(Roots::WebPki, Arc::new(Nameless(resolver)));
        let outcome = attempt_on(&mut None, &client, &webhook("https://receiver.example/", TIMEOUT)).await;
        assert_eq!(error_of(&outcome), error);
        assert!(outcome.end.counts_as_failure());
    }
}

#[tokio::test]
async fn one_inside_is_blocked_and_that_is_not_its_failure() {
    let webhook = webhook("http://10.0.0.1/", TIMEOUT);
    let outcome = attempt_on(&mut None, &client(Roots::WebPki), &webhook).await;
    assert_eq!(error_of(&outcome), "egress_blocked: 10.0.0.1 is a forbidden address (private)");
    assert!(!outcome.end.counts_as_failure());
}

mod tls {
    use super::*;

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
    use rustls::RootCertStore;
    use rustls::pki_types::PrivateKeyDer;
    use tokio_rustls::TlsAcceptor;

    use crate::receivers::{Names, Received};

    fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    fn trusting(authority: &CertifiedIssuer<'static, KeyPair>) -> Roots {
        let mut store = RootCertStore::empty();
        store.add(authority.der().clone()).unwrap();
        Roots::Custom(store)
    }

    /// A server with a certificate for `name`, by `authority` or by itself.
    fn acceptor(name: &str, authority: Option<&CertifiedIssuer<'static, KeyPair>>, expired: bool) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        if expired {
            params.not_before = date_time_ymd(2019, 1, 1);
            params.not_after = date_time_ymd(2020, 1, 1);
        }
        let certificate = match authority {
            Some(authority) => params.signed_by(&key, authority).unwrap(),
            None => params.self_signed(&key).unwrap(),
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }

    /// Answers 200 to each request, and hands it out with the SNI and the ALPN of its connection.
    async fn serving(
        acceptor: TlsAcceptor,
    ) -> (Receiver, tokio::sync::mpsc::UnboundedReceiver<(Received, Option<String>, Option<Vec<u8>>)>) {
        let (seen, requests) = tokio::sync::mpsc::unbounded_channel();
        let receiver = Receiver::start(move |stream| {
            let (acceptor, seen) = (acceptor.clone(), seen.clone());
            async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                while let Some(request) = read_request(&mut stream).await {
                    let session = stream.get_ref().1;
                    let sni = session.server_name().map(str::to_owned);
                    let alpn = session.alpn_protocol().map(<[u8]>::to_vec);
                    seen.send((request, sni, alpn)).unwrap();
                    write(&mut stream, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                }
            }
        })
        .await;
        (receiver, requests)
    }

    async fn attempt_with(roots: Roots, acceptor: TlsAcceptor) -> Outcome {
        let (receiver, _requests) = serving(acceptor).await;
        let webhook = webhook(&format!("https://{}/", receiver.addr), TIMEOUT * 2);
        attempt_on(&mut None, &client(roots), &webhook).await
    }

    #[tokio::test]
    async fn ones_with_wrong_certificates() {
        let ours = authority("ours");
        let cases = [
            (
                "unknown authority",
                acceptor("127.0.0.1", Some(&authority("theirs")), false),
                "the certificate's authority is unknown; give it as `ca`",
            ),
            (
                "self-signed",
                acceptor("127.0.0.1", None, false),
                "the certificate's authority is unknown; give it as `ca`",
            ),
            ("expired", acceptor("127.0.0.1", Some(&ours), true), "the certificate expired on 2020-01-01"),
            (
                "wrong name",
                acceptor("other.example", Some(&ours), false),
                "the certificate is for other.example and not for 127.0.0.1",
            ),
        ];
        for (what, acceptor, reason) in cases {
            let error = error_of(&attempt_with(trusting(&ours), acceptor).await);
            assert!(error.starts_with("tls: ") && error.contains(reason), "{what}: {error}");
        }
        let outcome = attempt_with(trusting(&ours), acceptor("127.0.0.1", Some(&ours), false)).await;
        assert!(outcome.is_success() && outcome.exchange.timings.tls.is_some(), "the right one: {outcome:?}");
    }

    #[tokio::test]
    async fn one_with_a_name_sees_that_name_and_its_connection_kept() {
        let ours = authority("ours");
        for name in ["receiver.example", "my_receiver.example", "_a.b_.example"] {
            let (receiver, mut requests) = serving(acceptor(name, Some(&ours), false)).await;
            let names = Names::default();
            names.set(&["127.0.0.1"]);
            let client = client_asking(trusting(&ours), names.resolver());
            let port = receiver.addr.port();
            let webhook = webhook(&format!("https://{name}:{port}/in?x=1"), TIMEOUT * 2);
            let mut slot = None;
            for _ in 0..3 {
                let outcome = attempt_on(&mut slot, &client, &webhook).await;
                assert!(outcome.is_success(), "{outcome:?}");
                let (request, sni, alpn) = requests.recv().await.unwrap();
                assert_eq!(request.request_line, "POST /in?x=1 HTTP/1.1");
                assert_eq!(request.headers["host"], format!("{name}:{port}"));
                assert_eq!(sni.as_deref(), Some(name));
                assert_eq!(alpn.as_deref(), Some(b"http/1.1".as_slice()));
            }
            assert_eq!(receiver.connections.load(Ordering::SeqCst), 1);
        }
    }

    #[tokio::test]
    async fn one_that_speaks_plain_http_on_an_https_port() {
        let receiver = Receiver::start(async |mut stream| {
            let mut hello = [0; 64];
            stream.read_exact(&mut hello).await.unwrap();
            write(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        })
        .await;
        let webhook = webhook(&format!("https://{}/", receiver.addr), TIMEOUT);
        let outcome = attempt_on(&mut None, &client(Roots::WebPki), &webhook).await;
        assert_eq!(error_of(&outcome), "tls: what the receiver sends is no TLS (it may speak plain HTTP on this port)");
    }

    #[tokio::test]
    async fn one_that_never_shakes_hands() {
        let receiver = Receiver::start(hang).await;
        let webhook = webhook(&format!("https://{}/", receiver.addr), TIMEOUT);
        let outcome = attempt_on(&mut None, &client(Roots::WebPki), &webhook).await;
        assert_eq!(error_of(&outcome), "timeout: tls (limit 1 s)");
    }
}
