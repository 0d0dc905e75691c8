//! What every source promises, tried on each kind with its real origin. The server is a process of its own, so that it can
//! be killed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use http::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use crate::support::program::Program;
use crate::support::receiver::TestReceiver;

const PATIENCE: Duration = Duration::from_mins(1);
/// The number of events of a load, during which the server is killed and the origin restarts.
const LOAD: usize = 1_500;
const KILLS: usize = 4;

/// Where messages come from.
#[async_trait]
pub(super) trait Origin: Send + Sync + 'static {
    /// The table of the source, without its name.
    fn source(&self) -> String;
    /// Brings messages with these ids under the topic `orders.made`, in their order. `id` is the payload, too.
    async fn send(&mut self, ids: &[String]);
    /// Brings a message that can be no event.
    async fn send_poison(&mut self);
    /// How many messages it still keeps for the source.
    async fn kept(&mut self) -> usize;
    async fn stop(&mut self);
    async fn start(&mut self);
}

/// A server with the origin as its source `tried`, and beside it a source whose origin is nowhere.
struct Tried {
    server: Program,
    receiver: TestReceiver,
    folder: tempfile::TempDir,
}

fn start(folder: &Path) -> Program {
    Program::start(folder, &[], Stdio::null())
}

impl Tried {
    async fn start(origin: &dyn Origin) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let other = "[[source]]\nname = 'broken'\nkind = 'decnet-bus'\nsocket = '/nowhere/bus.sock'\n";
        let file = format!("[[source]]\nname = 'tried'\n{}\n{other}", origin.source());
        std::fs::write(folder.path().join("postrider.toml"), file).unwrap();
        let receiver = TestReceiver::healthy().await;
        let server = start(folder.path());
        let webhook = json!({"name": "w", "url": receiver.url("/"), "topic_patterns": ["orders.>"]});
        assert_eq!(server.caller.call(Method::POST, "/api/v1/webhooks", &webhook).await.0, 201);
        Self { server, receiver, folder }
    }

    async fn source(&self) -> Value {
        let (status, sources) = self.server.caller.get("/api/v1/sources").await;
        assert_eq!(status, 200, "{sources}");
        sources[0].clone()
    }

    async fn wait_for(&self, is_wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let source = self.source().await;
            if is_wanted(&source) {
                return source;
            }
            assert!(Instant::now() < deadline, "the source stays {source}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The server dies and is started again.
    fn kill_and_start(self) -> Self {
        self.server.kill();
        let server = start(self.folder.path());
        Self { server, ..self }
    }

    /// Waits until all of these have arrived. Returns how often each did.
    async fn arrived(&self, ids: &[String]) -> BTreeMap<String, usize> {
        let wanted: BTreeSet<&String> = ids.iter().collect();
        let all = async {
            loop {
                let mut counts = BTreeMap::new();
                for request in self.receiver.received() {
                    let body: Value = serde_json::from_slice(&request.body).unwrap();
                    assert_eq!(body["payload"], json!({ "id": body["id"] }), "the payload is the message's");
                    *counts.entry(request.event_id()).or_insert(0) += 1;
                }
                if wanted.iter().all(|id| counts.contains_key(*id)) {
                    return counts;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if let Ok(counts) = timeout(PATIENCE, all).await {
            return counts;
        }
        panic!("{} of {} arrived; {}", self.receiver.received_count(), ids.len(), self.source().await)
    }
}

async fn empty(origin: &mut dyn Origin) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let kept = origin.kept().await;
        if kept == 0 {
            return;
        }
        assert!(Instant::now() < deadline, "{kept} messages are not acknowledged");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn ids(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| format!("message-{number}")).collect()
}

/// Messages are delivered once, in their order, and acknowledged. Ones that come again are duplicates.
pub(super) async fn messages_are_delivered_and_acknowledged(origin: &mut dyn Origin) {
    let tried = Tried::start(origin).await;
    tried.wait_for(|source| source["state"] == "running").await;
    origin.send(&ids(0..50)).await;
    let counts = tried.arrived(&ids(0..50)).await;
    assert!(counts.values().all(|count| *count == 1), "{counts:?}");
    empty(origin).await;
    let events = tried.server.caller.get("/api/v1/events?limit=50").await.1;
    let newest_first: Vec<&str> =
        events["items"].as_array().unwrap().iter().map(|e| e["id"].as_str().unwrap()).collect();
    let expected: Vec<String> = ids(0..50).into_iter().rev().collect();
    assert_eq!(newest_first, expected, "accepted in the order of the origin");

    origin.send(&ids(40..60)).await;
    tried.arrived(&ids(0..60)).await;
    empty(origin).await;
    let source = tried.wait_for(|source| source["duplicates"] == 10).await;
    assert_eq!((&source["accepted"], &source["rejected"], &source["lost"]), (&json!(60), &json!(0), &json!(0)));
    assert_eq!(tried.receiver.received_count(), 60);
    // The source beside it fails all the while.
    let (_, sources) = tried.server.caller.get("/api/v1/sources").await;
    assert_eq!((&sources[0]["state"], &sources[1]["state"]), (&json!("running"), &json!("failing")));
}

/// What can be no event is set aside, and acknowledged.
pub(super) async fn poison_blocks_nothing(origin: &mut dyn Origin) {
    let tried = Tried::start(origin).await;
    origin.send_poison().await;
    origin.send(&ids(0..3)).await;
    origin.send_poison().await;
    tried.arrived(&ids(0..3)).await;
    empty(origin).await;
    let source = tried.wait_for(|source| source["rejected"] == 2).await;
    assert_eq!((&source["kept_rejected"], &source["state"]), (&json!(2), &json!("running")), "{source}");
    let (_, rejected) = tried.server.caller.get("/api/v1/sources/tried/rejected").await;
    let reasons = rejected["items"].as_array().unwrap();
    assert!(reasons.iter().all(|message| !message["reason"].as_str().unwrap().is_empty()), "{rejected}");
}

/// A tenant without room holds messages back at the origin.
pub(super) async fn a_full_tenant_holds_messages_back(origin: &mut dyn Origin) {
    let tried = Tried::start(origin).await;
    let quota = |bytes: u64| json!({"quotas": {"max_stored_bytes": bytes}});
    let caller = &tried.server.caller;
    // There is room for some of the messages.
    assert_eq!(caller.call(Method::PATCH, "/api/v1/tenants/default", &quota(4_000)).await.0, 200);
    origin.send(&ids(0..100)).await;
    let source = tried.wait_for(|source| source["state"] == "waiting").await;
    assert!(source["reason"].as_str().unwrap().contains("max_stored_bytes"), "{source}");
    let kept = origin.kept().await;
    assert!((60..=100).contains(&kept), "what is not committed is not acknowledged: {kept} are kept; {source}");
    let (status, _) = caller.get("/readyz?sources").await;
    assert_eq!(status, 503);
    assert_eq!(caller.call(Method::PATCH, "/api/v1/tenants/default", &quota(1 << 30)).await.0, 200);
    tried.arrived(&ids(0..100)).await;
    empty(origin).await;
}

/// Kills of the server and restarts of the origin under load lose nothing, and what arrives twice was under way.
pub(super) async fn nothing_is_lost_by_kills_and_restarts(origin: &mut dyn Origin) {
    let mut tried = Tried::start(origin).await;
    let mut sent = 0;
    for round in 0..KILLS {
        let until = LOAD * (round + 1) / KILLS;
        while sent < until {
            let next = (sent + 25).min(until);
            origin.send(&ids(sent..next)).await;
            sent = next;
        }
        if round % 2 == 1 {
            origin.stop().await;
            tried.wait_for(|source| source["state"] == "failing").await;
            origin.start().await;
        }
        tried = tried.kill_and_start();
    }
    let counts = tried.arrived(&ids(0..LOAD)).await;
    empty(origin).await;
    let twice = counts.values().filter(|count| **count > 1).count();
    // A kill repeats the attempts that were under way: at most the workers of the one webhook, and what waited for
    // the commit of its outcome.
    assert!(twice <= KILLS * 300, "{twice} of {LOAD} arrived more than once");
    let (_, events) = tried.server.caller.get("/api/v1/stats").await;
    assert_eq!(events["events"], LOAD, "each message is one event: {events}");
    tried.server.signal(Signal::TERM);
    let mut server = tried.server;
    let ended = tokio::task::spawn_blocking(move || server.child.wait().unwrap());
    assert!(timeout(PATIENCE, ended).await.expect("it stops in time").unwrap().success());
}
