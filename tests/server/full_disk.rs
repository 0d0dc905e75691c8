//! A disk that is full for a while: nothing is promised that is not kept, and all goes on by itself.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::support::program::Program;
use crate::support::receiver::{Answer, TestReceiver};

const PATIENCE: Duration = Duration::from_secs(30);
/// How long the receiver thinks about what arrives before the disk is full: until it is.
const THINKING: Duration = Duration::from_secs(4);

/// The program itself, whose files can be kept from growing and allowed to grow again while it runs: the write
/// fails in the kernel, as it does on a full disk.
struct Server {
    program: Program,
    log: mpsc::UnboundedReceiver<String>,
}

impl Server {
    fn start(folder: &Path) -> Self {
        let mut program = Program::start(folder, &["--log", "info"], Stdio::piped());
        let (tell, log) = mpsc::unbounded_channel();
        let stderr = BufReader::new(program.child.stderr.take().expect("a pipe"));
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
        Self { program, log }
    }

    /// No file may grow beyond `bytes`; `None`: as before.
    fn limit_files(&self, bytes: Option<u64>) {
        let maximum = getrlimit(Resource::Fsize).maximum;
        let limit = Rlimit { current: bytes.or(maximum), maximum };
        prlimit(Some(Pid::from_child(&self.program.child)), Resource::Fsize, limit).expect("its own user may limit it");
    }

    /// Nothing can be written any more.
    fn fill_disk(&self) {
        self.limit_files(Some(0));
    }

    async fn call(&self, method: Method, path: &str, body: &Value) -> Response<Bytes> {
        self.program.caller.try_call(method, path, body).await.expect("the server answers")
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.program.caller.get(path).await
    }

    async fn publish(&self, id: &str) -> Response<Bytes> {
        self.call(Method::POST, "/api/v1/events", &json!({"id": id, "topic": "disk.test", "payload": {"a": 1}})).await
    }

    /// Waits until the server has logged `text`.
    async fn wait_for_log(&mut self, text: &str) {
        let logged = async {
            while let Some(line) = self.log.recv().await {
                if line.contains(text) {
                    return;
                }
            }
            panic!("the server has ended");
        };
        tokio::time::timeout(PATIENCE, logged).await.unwrap_or_else(|_| panic!("{text:?} was not logged"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn delivery_pauses_while_the_disk_is_full_and_resumes_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path());
    // After one that shows that it works, the answers to three come when the disk is full; the first of them asks
    // for another attempt.
    let receiver = TestReceiver::start(|n, _| match n {
        1 => Answer(503, THINKING),
        2 | 3 => Answer(200, THINKING),
        _ => 200.into(),
    })
    .await;
    let webhook =
        json!({"name": "mine", "url": receiver.url("/"), "topic_patterns": [">"], "retry_schedule": vec![0.1; 5]});
    assert_eq!(server.call(Method::POST, "/api/v1/webhooks", &webhook).await.status(), 201);
    for (n, id) in ["before", "retried", "first", "second"].into_iter().enumerate() {
        assert_eq!(server.publish(id).await.status(), 202);
        receiver.wait_for(n + 1).await;
    }

    server.fill_disk();
    let refused = server.publish("refused").await;
    assert!([503, 507].contains(&refused.status().as_u16()), "{refused:?}");
    assert!(refused.headers().contains_key("retry-after"), "{refused:?}");
    assert_eq!(server.get("/api/v1/events/refused").await.0, 404, "nothing of it is stored");
    assert!([503, 507].contains(&server.get("/readyz").await.0));
    assert_eq!(server.get("/healthz").await.0, 200);
    server.wait_for_log("cannot record outcomes").await;
    // The retry would have come 0.1 s after the answer.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (_, stats) = server.get("/api/v1/stats").await;
    assert_eq!((&stats["events"], &stats["pending"]), (&json!(4), &json!(3)), "{stats}");
    assert_eq!(receiver.received_count(), 4, "nothing is sent whose outcome cannot be recorded");
    let refused = server.publish("also-refused").await;
    assert!([503, 507].contains(&refused.status().as_u16()), "{refused:?}");

    server.limit_files(None);
    server.wait_for_log("delivery resumes").await;
    assert_eq!(server.get("/readyz").await.0, 200);
    assert_eq!(server.publish("refused").await.status(), 202, "the publisher tries again");
    receiver.wait_for(6).await;
    let settled = async {
        loop {
            let (_, stats) = server.get("/api/v1/stats").await;
            if stats["pending"] == 0 {
                return stats;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let stats = tokio::time::timeout(PATIENCE, settled).await.expect("everything ends");
    assert_eq!((&stats["events"], &stats["delivered"], &stats["attempts"]), (&json!(5), &json!(5), &json!(6)));
    let arrivals = receiver.arrivals();
    let times = ["before", "retried", "first", "second", "refused", "also-refused"].map(|id| arrivals.get(id).copied());
    assert_eq!(times, [Some(1), Some(2), Some(1), Some(1), Some(1), None]);
}
