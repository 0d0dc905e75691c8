//! `deliver` as a program that embeds the library sees it, and the request as the receiver sees it.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postrider::clock::{Clock, ManualClock, SystemClock, UnixMicros};
use postrider::delivery::client::{Client, ClientOptions, MAX_IDLE, Roots};
use postrider::delivery::exchange::Exchange;
use postrider::delivery::guard::Destination;
use postrider::delivery::retry::Schedule;
use postrider::delivery::{DeliverOptions, DeliveryResult, End, MAX_ERROR_BYTES, Outcome, deliver};
use postrider::signing::{DEFAULT_TOLERANCE_S, Scheme, verify_decnet, verify_standard};
use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::receivers::{Received, Receiver, client, event, read_request, webhook, write};

const TIMEOUT: Duration = Duration::from_secs(5);
const EVENT: &str = r#"{"topic": "attacker.session.started", "type": "session", "id": "evt_1",
                       "ts": "2026-09-21T14:13:20Z", "payload": {"port": 22}}"#;

/// Answers with each status in turn, and then always with the last; hands the requests out.
async fn answering(statuses: &[u16]) -> (Receiver, UnboundedReceiver<Received>) {
    let (seen, requests) = tokio::sync::mpsc::unbounded_channel();
    let statuses = Arc::new(Mutex::new(VecDeque::from(statuses.to_vec())));
    let receiver = Receiver::start(move |mut stream| {
        let (seen, statuses) = (seen.clone(), Arc::clone(&statuses));
        async move {
            while let Some(request) = read_request(&mut stream).await {
                let status = {
                    let mut statuses = statuses.lock().unwrap();
                    if statuses.len() > 1 { statuses.pop_front().unwrap() } else { statuses[0] }
                };
                seen.send(request).unwrap();
                let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: 4\r\n\r\nseen");
                write(&mut stream, answer.as_bytes()).await;
            }
        }
    })
    .await;
    (receiver, requests)
}

fn options(delays_s: &[f64]) -> DeliverOptions {
    DeliverOptions { schedule: Schedule::from_seconds(delays_s).unwrap(), ..DeliverOptions::default() }
}

fn failed(status_code: Option<u16>, error: &str, attempts: u32) -> DeliveryResult {
    DeliveryResult { ok: false, status_code, error: Some(error.to_owned()), attempts }
}

#[tokio::test]
async fn the_request_is_the_original_s_with_both_signatures() {
    let (receiver, mut requests) = answering(&[200]).await;
    let webhook = webhook(&format!("{}?tenant=a%20b", receiver.url()), TIMEOUT);
    let clock = Arc::new(ManualClock::at(UnixMicros(1_790_000_000_999_999)));
    let now = clock.now();
    let options = DeliverOptions { clock, ..DeliverOptions::default() };
    let event = event(EVENT);

    let result = deliver(&client(Roots::WebPki), &webhook, &event, &options).await;

    assert_eq!(result, DeliveryResult { ok: true, status_code: Some(200), error: None, attempts: 1 });
    let request = requests.recv().await.unwrap();
    assert_eq!(request.request_line, "POST /hook?tenant=a%20b HTTP/1.1");
    let body = r#"{"id":"evt_1","payload":{"port":22},"topic":"attacker.session.started","ts":"2026-09-21T14:13:20Z","type":"session","v":1}"#;
    assert_eq!(String::from_utf8(request.body.clone()).unwrap(), body);
    verify_decnet(&webhook.keys.decnet, &request.headers, &request.body).unwrap();
    verify_standard(&webhook.keys.standard, &request.headers, &request.body, now, DEFAULT_TOLERANCE_S).unwrap();
    let signature = |name: &str| request.headers[name].to_str().unwrap();
    let expected = [
        ("Host", &*receiver.addr.to_string()),
        ("Accept", "*/*"),
        ("Accept-Encoding", "identity"),
        ("Content-Type", "application/json"),
        ("User-Agent", "decnet-webhook/1.0"),
        ("X-DECNET-Signature", signature("x-decnet-signature")),
        ("X-DECNET-Event-Id", "evt_1"),
        ("X-DECNET-Event-Topic", "attacker.session.started"),
        ("X-DECNET-Timestamp", "1790000000"),
        ("webhook-id", "evt_1"),
        ("webhook-timestamp", "1790000000"),
        ("webhook-signature", signature("webhook-signature")),
        ("Content-Length", &body.len().to_string()),
    ];
    for (name, value) in expected {
        assert_eq!(request.headers[name], value, "{name}");
    }
    let expected: Vec<&str> = expected.iter().map(|(name, _)| *name).collect();
    assert_eq!(request.header_names, expected, "these headers and no others, in this order and spelling");
}

#[tokio::test]
async fn a_webhook_gets_the_signatures_it_chose() {
    let (receiver, mut requests) = answering(&[200]).await;
    let mut webhook = webhook(&receiver.url(), TIMEOUT);
    for (scheme, present, absent) in [
        (Scheme::Decnet, "x-decnet-signature", "webhook-signature"),
        (Scheme::Standard, "webhook-signature", "x-decnet-signature"),
    ] {
        webhook.signatures = scheme.into();
        assert!(deliver(&client(Roots::WebPki), &webhook, &event(EVENT), &options(&[])).await.ok);
        let request = requests.recv().await.unwrap();
        assert!(request.headers.contains_key(present) && !request.headers.contains_key(absent), "{scheme:?}");
        let is_decnet = scheme == Scheme::Decnet;
        for name in ["x-decnet-event-id", "x-decnet-event-topic", "x-decnet-timestamp"] {
            assert_eq!(request.headers.contains_key(name), is_decnet, "{scheme:?}: {name}");
        }
        let agent = concat!("Postrider/", env!("CARGO_PKG_VERSION"));
        assert_eq!(request.headers["user-agent"], if is_decnet { "decnet-webhook/1.0" } else { agent });
    }
}

#[tokio::test]
async fn a_busy_receiver_gets_it_again_with_the_same_id_on_the_same_connection() {
    let (receiver, mut requests) = answering(&[503, 429, 200]).await;
    let webhook = webhook(&receiver.url(), TIMEOUT);
    // An id that is no webhook-id: one is made, once.
    let event = event(r#"{"topic": "a", "id": "a/b"}"#);

    let result = deliver(&client(Roots::WebPki), &webhook, &event, &options(&[0.05, 0.05])).await;

    assert_eq!(result, DeliveryResult { ok: true, status_code: Some(200), error: None, attempts: 3 });
    let mut ids = Vec::new();
    for _ in 0..3 {
        let request = requests.recv().await.unwrap();
        assert_eq!(request.headers["x-decnet-event-id"], "a/b");
        ids.push(request.headers["webhook-id"].to_str().unwrap().to_owned());
    }
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert!(uuid::Uuid::parse_str(&ids[0]).is_ok());
    assert_eq!(receiver.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn the_end_is_told_as_the_original_tells_it() {
    let cases: [(&[u16], &[f64], DeliveryResult); 4] = [
        (&[503], &[], failed(Some(503), "http 503", 1)),
        (&[500], &[0.01, 0.01], failed(Some(500), "http 500", 3)),
        (&[404], &[0.01, 0.01], failed(Some(404), "non-retryable 404", 1)),
        (&[503, 410], &[0.01, 0.01], failed(Some(410), "non-retryable 410", 2)),
    ];
    for (statuses, delays_s, expected) in cases {
        let (receiver, _requests) = answering(statuses).await;
        let webhook = webhook(&receiver.url(), TIMEOUT);
        assert_eq!(deliver(&client(Roots::WebPki), &webhook, &event(EVENT), &options(delays_s)).await, expected);
    }
}

#[test]
fn an_error_s_text_is_cut_between_characters() {
    let outcome = Outcome {
        started_at: SystemClock.now(),
        duration: Duration::ZERO,
        end: End::Tls(format!("x{}", "ä".repeat(MAX_ERROR_BYTES))),
        headers: postrider::delivery::AnswerFields::default(),
        response: bytes::Bytes::new(),
        retry_after: None,
        control: None,
        exchange: Exchange::default(),
    };
    // "tls: x" has 6 bytes, each ä 2.
    assert_eq!(outcome.error_text().unwrap(), format!("tls: x{}", "ä".repeat((MAX_ERROR_BYTES - 6) / 2)));
    let longer = Outcome { end: End::Tls("ä".repeat(MAX_ERROR_BYTES)), ..outcome };
    assert_eq!(longer.error_text().unwrap().len(), MAX_ERROR_BYTES - 1, "the last character does not fit whole");
}

#[tokio::test]
async fn a_blocked_destination_stays_blocked_to_the_schedule_s_end() {
    let (receiver, _requests) = answering(&[200]).await;
    let strict = Client::new(ClientOptions::default()).unwrap();
    let result = deliver(&strict, &webhook(&receiver.url(), TIMEOUT), &event(EVENT), &options(&[0.01])).await;
    assert_eq!(result, failed(None, "egress_blocked: 127.0.0.1 is a forbidden address (loopback)", 2));
    assert_eq!(receiver.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn many_deliveries_share_few_connections() {
    let (receiver, _requests) = answering(&[200]).await;
    let (client, webhook) = (client(Roots::WebPki), webhook(&receiver.url(), TIMEOUT));
    for _ in 0..50 {
        assert!(deliver(&client, &webhook, &event(EVENT), &options(&[])).await.ok);
    }
    assert_eq!(receiver.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_connection_that_was_idle_for_long_is_not_trusted() {
    let (receiver, _requests) = answering(&[200]).await;
    let (client, webhook) = (client(Roots::WebPki), webhook(&receiver.url(), TIMEOUT));
    for connections in 1..=2 {
        assert!(deliver(&client, &webhook, &event(EVENT), &options(&[])).await.ok);
        assert_eq!(receiver.connections.load(Ordering::SeqCst), connections);
        tokio::time::pause();
        tokio::time::advance(MAX_IDLE + Duration::from_secs(1)).await;
        tokio::time::resume();
    }
}

#[tokio::test]
async fn a_plain_request_gives_the_answer_whole_or_says_why_not() {
    let (receiver, mut requests) = answering(&[404]).await;
    let client = client(Roots::WebPki);
    let destination = Destination::parse(&format!("http://{}/", receiver.addr)).unwrap();
    let ask = |max_body_bytes| {
        let request =
            http::Request::delete("/api/v1/x?y").header("authorization", "Bearer t").body("{}".into()).unwrap();
        client.request(&destination, request, max_body_bytes, TIMEOUT)
    };
    let answer = ask(4).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.body().as_ref()), (404, b"seen".as_slice()));
    let request = requests.recv().await.unwrap();
    assert_eq!(request.request_line, "DELETE /api/v1/x?y HTTP/1.1");
    assert_eq!(
        (&request.headers["authorization"], request.body.as_slice()),
        (&"Bearer t".parse().unwrap(), b"{}".as_slice())
    );
    assert_eq!(ask(3).await.unwrap_err(), End::Protocol("the answer has more than 3 bytes".to_owned()));
}

#[tokio::test]
async fn the_default_is_the_original_s_schedule_and_the_machine_s_clock() {
    let options = DeliverOptions::default();
    assert_eq!(options.schedule.delays(), [1, 2, 4].map(Duration::from_secs));
    assert!(options.clock.now().since(SystemClock.now()) < Duration::from_mins(1));
}

#[tokio::test]
async fn a_retry_after_is_heeded_only_if_that_is_asked_for() {
    // A day of waiting would be noticed.
    for (heeds_retry_after, asked_s) in [(false, 86_400), (true, 1)] {
        let receiver = Receiver::start(move |mut stream: TcpStream| async move {
            while read_request(&mut stream).await.is_some() {
                let head = format!("HTTP/1.1 503 Busy\r\nRetry-After: {asked_s}\r\nContent-Length: 0\r\n\r\n");
                write(&mut stream, head.as_bytes()).await;
            }
        })
        .await;
        let webhook = webhook(&receiver.url(), TIMEOUT);
        let options = DeliverOptions { heeds_retry_after, ..options(&[0.01]) };
        let began_at = std::time::Instant::now();
        let result = deliver(&client(Roots::WebPki), &webhook, &event(EVENT), &options).await;
        assert_eq!((result.attempts, result.error.as_deref()), (2, Some("http 503")));
        assert!(!heeds_retry_after || began_at.elapsed() >= Duration::from_secs(asked_s));
    }
}
