//! The real program with few descriptors, and receivers that take all that they can get.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::program;
use crate::support::program::Program;
use crate::support::receiver::{Answer, TestReceiver};

const FILES: u32 = 256;
const PATIENCE: Duration = Duration::from_secs(30);
/// Longer than the test.
const HANGING: Duration = Duration::from_mins(5);
/// The server leaves so many to receivers, of 256.
const TO_RECEIVERS: usize = 64;
const NEW_CONNECTIONS: usize = 30;

/// The status of an answer on a connection of its own.
async fn status(address: String, path: &'static str) -> u16 {
    let ask = async {
        let mut stream = TcpStream::connect(&address).await.ok()?;
        let token = program::TOKEN;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        answer.split(' ').nth(1)?.parse().ok()
    };
    tokio::time::timeout(PATIENCE / 3, ask).await.ok().flatten().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn receivers_that_hang_leave_descriptors_to_the_api_and_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let hangs = Arc::new(AtomicBool::new(false));
    let does_hang = Arc::clone(&hangs);
    let receiver = TestReceiver::start(move |_, request| {
        let is_to_hang = request.path == "/hanging" && does_hang.load(Ordering::Relaxed);
        Answer(200, if is_to_hang { HANGING } else { Duration::from_millis(20) })
    })
    .await;
    let log = std::fs::File::create(folder.path().join("log")).unwrap();
    let server = Program::start_limited(FILES, folder.path(), &["--drain-timeout", "1s"], log.into());
    let call = async |path: &str, body: &Value| {
        let (status, answer) = server.caller.call(Method::POST, &format!("/api/v1{path}"), body).await;
        assert!((200..300).contains(&status), "{path}: {answer}");
    };
    for name in ["hanging", "well"] {
        let webhook = json!({
            "name": name, "url": receiver.url(&format!("/{name}")), "topic_patterns": [name], "max_in_flight": 500,
            "timeout_s": 60,
        });
        call("/webhooks", &webhook).await;
    }
    let batch = |topic: &str| Value::from((0..600).map(|_| json!({"topic": topic, "payload": {}})).collect::<Vec<_>>());
    // Its lane has opened to its full width when it begins to hang.
    call("/events/batch", &batch("hanging")).await;
    receiver.wait_for(600).await;
    hangs.store(true, Ordering::Relaxed);
    call("/events/batch", &batch("hanging")).await;
    let hanging = async || receiver.received_count() - 600;
    let taken = async {
        let mut before = usize::MAX;
        while hanging().await != before || before < 20 {
            before = hanging().await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    tokio::time::timeout(PATIENCE, taken).await.unwrap();
    let count = hanging().await;
    assert!(count <= TO_RECEIVERS, "{count} attempts are under way");

    // All at once, on connections that are new.
    let address = server.caller.address();
    let paths = ["/readyz", "/healthz", "/api/v1/webhooks", "/api/v1/stats"];
    let asked: Vec<_> = (0..NEW_CONNECTIONS).map(|n| tokio::spawn(status(address.to_owned(), paths[n % 4]))).collect();
    for asked in asked {
        assert_eq!(asked.await.unwrap(), 200);
    }
    // What is accepted is stored, and what another receiver can take arrives.
    let before = receiver.received_count();
    call("/events/batch", &json!([{"topic": "well", "payload": {}}])).await;
    let arrived = async {
        while !receiver.received()[before..].iter().any(|request| request.path == "/well") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, arrived).await.unwrap();
    let said = std::fs::read_to_string(folder.path().join("log")).unwrap();
    assert!(said.contains("fewer attempts at once are made than `max_in_flight` allows"), "{said}");
    assert!(!said.contains("cannot accept a connection"), "{said}");
}
