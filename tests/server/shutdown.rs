//! SIGTERM while an attempt is under way, as an operator's restart sends it to the real program.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use http::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::program::Program;
use crate::support::receiver::{Answer, TestReceiver};

const PATIENCE: Duration = Duration::from_secs(30);

struct Server(Program);

impl Server {
    fn start(folder: &Path, drain_timeout: &str) -> Self {
        Self(Program::start(folder, &["--log", "error", "--drain-timeout", drain_timeout], Stdio::inherit()))
    }

    async fn call(&self, method: Method, path: &str, body: &Value) -> Value {
        let (status, answer) = self.0.caller.call(method, &format!("/api/v1{path}"), body).await;
        assert!((200..300).contains(&status), "{path}: {answer}");
        answer
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
    async fn terminate(self) -> (ExitStatus, Duration) {
        self.end(Signal::TERM).await
    }

    async fn end(mut self, signal: Signal) -> (ExitStatus, Duration) {
        let began = Instant::now();
        let id = Pid::from_raw(self.0.child.id().cast_signed()).expect("a process");
        kill_process(id, signal).expect("it runs");
        loop {
            if let Some(status) = self.0.child.try_wait().expect("it is our child") {
                return (status, began.elapsed());
            }
            assert!(began.elapsed() < PATIENCE, "it does not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
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

#[tokio::test]
async fn a_quit_lets_the_attempt_under_way_end_and_other_signals_end_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = TestReceiver::start(|_, _| Answer(200, Duration::from_millis(1_500))).await;
    let server = Server::start(folder.path(), "20s");
    let webhook = json!({"name": "slow", "url": receiver.url("/"), "topic_patterns": [">"], "timeout_s": 60});
    server.call(Method::POST, "/webhooks", &webhook).await;
    server.call(Method::POST, "/events", &json!({"id": "e-1", "topic": "a"})).await;
    receiver.wait_for(1).await;
    for signal in [Signal::HUP, Signal::USR1, Signal::USR2] {
        server.0.signal(signal);
        server.call(Method::GET, "/webhooks", &Value::Null).await;
    }
    let (status, _) = server.end(Signal::QUIT).await;
    assert!(status.success(), "{status}");
    let server = Server::start(folder.path(), "10s");
    assert_eq!(server.delivery("delivered").await["attempts"], 1, "its answer was recorded before the end");
    assert_eq!(receiver.received_count(), 1);
}
