//! SIGTERM while an attempt is under way, as an operator's restart sends it to the real program.

#![cfg(feature = "server")]
#![expect(clippy::expect_used, reason = "these are tests")]

#[path = "support/receiver.rs"]
mod receiver;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request};
use postrider::delivery::client::{Client, ClientOptions};
use postrider::delivery::guard::{Destination, EgressPolicy};
use receiver::{Answer, TestReceiver};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const TOKEN: &str = "a-token-of-the-operators-choice";
const PATIENCE: Duration = Duration::from_secs(30);

struct Server {
    child: Child,
    url: String,
    client: Client,
}

impl Server {
    fn start(folder: &Path, drain_timeout: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_postrider"))
            .args(["--json", "serve", "--listen", "127.0.0.1:0", "--allow-private", "127.0.0.0/8"])
            .args(["--log", "error", "--drain-timeout", drain_timeout])
            .arg("--data")
            .arg(folder.join("data"))
            .current_dir(folder)
            .env_clear()
            .env("POSTRIDER_ADMIN_TOKEN", TOKEN)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("the server speaks");
        let started: Value = serde_json::from_str(&line).expect("it says where it is");
        let policy = EgressPolicy { allow_all_private: true, ..EgressPolicy::default() };
        let client = Client::new(ClientOptions { policy, ..ClientOptions::default() }).expect("a client");
        Self { child, url: started["url"].as_str().expect("an address").to_owned(), client }
    }

    async fn call(&self, method: Method, path: &str, body: &Value) -> Value {
        let url = format!("{}/api/v1{path}", self.url);
        let request = Request::builder()
            .method(method)
            .uri(&url)
            .header("authorization", format!("Bearer {TOKEN}"))
            .header("content-type", "application/json")
            .body(Bytes::from(body.to_string()))
            .expect("a request");
        let destination = Destination::parse(&url).expect("a destination");
        let response = self.client.request(&destination, request, 1 << 20, PATIENCE).await.expect("an answer");
        let answer = String::from_utf8_lossy(response.body());
        assert!(response.status().is_success(), "{path}: {answer}");
        serde_json::from_str(&answer).expect("JSON")
    }

    /// Its only delivery, once it is as wanted.
    async fn delivery(&self, state: &str) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let page = self.call(Method::GET, "/deliveries", &Value::Null).await;
            if page["items"][0]["state"] == state {
                return page["items"][0].clone();
            }
            assert!(Instant::now() < deadline, "it does not become {state}: {page}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends it as `systemctl stop` does; returns how, and how long it took.
    async fn terminate(mut self) -> (ExitStatus, Duration) {
        let began = Instant::now();
        let id = Pid::from_raw(self.child.id().cast_signed()).expect("a process");
        kill_process(id, Signal::TERM).expect("it runs");
        loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                return (status, began.elapsed());
            }
            assert!(began.elapsed() < PATIENCE, "it does not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a server and publishes an event to a receiver that gives its first answer after `delay`, then sends
/// SIGTERM while that attempt is under way. Fails unless the program ends well; returns how long it took to end.
async fn stop_during_an_attempt(folder: &Path, delay: Duration, drain_timeout: &str) -> (TestReceiver, Duration) {
    let receiver = TestReceiver::start(move |n, _| Answer(200, if n == 0 { delay } else { Duration::ZERO })).await;
    let server = Server::start(folder, drain_timeout);
    let webhook = json!({"name": "slow", "url": receiver.url("/"), "topic_patterns": [">"], "timeout_s": 60});
    server.call(Method::POST, "/webhooks", &webhook).await;
    server.call(Method::POST, "/events", &json!({"id": "e-1", "topic": "a"})).await;
    receiver.wait_for(1).await;
    let (status, took) = server.terminate().await;
    assert!(status.success(), "{status}");
    (receiver, took)
}

#[tokio::test]
async fn an_attempt_that_outlasts_the_drain_is_made_again_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (receiver, took) = stop_during_an_attempt(folder.path(), Duration::from_secs(25), "1s").await;
    assert!(took < Duration::from_secs(8), "a stop does not wait for the receiver: {took:?}");
    assert_eq!(receiver.received_count(), 1);

    let server = Server::start(folder.path(), "10s");
    let delivery = server.delivery("delivered").await;
    assert_eq!(delivery["event_id"], "e-1");
    let ids: Vec<_> = receiver.received().iter().map(|request| request.header("webhook-id").to_owned()).collect();
    assert_eq!(ids.len(), 2, "it was sent again");
    assert_eq!(ids[0], ids[1], "as the same delivery");
    assert!(server.terminate().await.0.success());
}

#[tokio::test]
async fn an_attempt_that_ends_in_time_is_recorded_and_not_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let (receiver, took) = stop_during_an_attempt(folder.path(), Duration::from_secs(3), "25s").await;
    assert!(took < Duration::from_secs(15), "it ends with the attempt, not with the timeout: {took:?}");

    let server = Server::start(folder.path(), "10s");
    let delivery = server.delivery("delivered").await;
    assert_eq!((&delivery["attempts"], &delivery["status_code"]), (&json!(1), &json!(200)));
    // A delivery that were owed still would be made before this one.
    server.call(Method::POST, "/events", &json!({"id": "e-2", "topic": "a"})).await;
    receiver.wait_for(2).await;
    assert_eq!(receiver.event_ids(), ["e-1", "e-2"]);
    assert!(server.terminate().await.0.success());
}
