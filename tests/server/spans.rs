//! Spans of the log: what is said while an attempt or a load is made tells for whom.

use std::io;
use std::sync::{Arc, Mutex};

use postrider::clock::SystemClock;
use postrider::delivery::DeliveryState;
use postrider::delivery::client::{Client, ClientOptions};
use postrider::delivery::guard::EgressPolicy;
use postrider::engine::Engine;
use postrider::store::Shard;
use postrider::store::postgres::{PostgresOptions, PostgresStore};
use postrider::store::seal::MasterKey;
use postrider::webhook::DEFAULT_TENANT;
use serde_json::Value;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::support::engine::{MASTER_KEY, publish, settings, start, stop, subscribe, wait_for};
use crate::support::postgres_server::Cluster;
use crate::support::receiver::TestReceiver;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// The spans of a name that began.
    fn spans(&self, name: &str) -> Vec<Value> {
        let lines = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let spans = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["span"].clone());
        spans.filter(|span| span["name"] == name).collect()
    }
}

/// What is logged on this thread from now on.
fn log(level: tracing::Level) -> (Lines, DefaultGuard) {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .with_max_level(level)
        .with_span_events(FmtSpan::NEW)
        .with_writer(move || writer.clone())
        .finish();
    (lines, tracing::subscriber::set_default(subscriber))
}

/// Tests a webhook, then delivers an event to it at the second attempt, for which it is loaded from the store; all on this
/// thread.
async fn delivered_at_the_second_attempt(level: tracing::Level) -> (Lines, String) {
    let (lines, _log) = log(level);
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    let receiver = TestReceiver::start(|n, _| if n == 1 { 503.into() } else { 200.into() }).await;
    let webhook = subscribe(&engine, "siem", ">", &receiver.url("/")).await;
    engine.test_webhook(DEFAULT_TENANT, webhook.uuid, None).await.unwrap().unwrap();
    let receipt = publish(&engine, "a.b", 1).await.remove(0);
    wait_for(&engine, DeliveryState::Delivered, 1).await;
    stop(engine).await;
    (lines, receipt.id)
}

#[tokio::test]
async fn attempts_and_loads_say_for_whom_they_are_made() {
    let (lines, event) = delivered_at_the_second_attempt(tracing::Level::DEBUG).await;
    let attempts = lines.spans("attempt");
    assert_eq!(attempts.len(), 2, "{attempts:?}");
    for (number, attempt) in (1..).zip(&attempts) {
        assert_eq!((attempt["webhook"].as_str(), attempt["event"].as_str()), (Some("siem"), Some(&*event)));
        assert_eq!((&attempt["number"], &attempt["events"]), (&Value::from(number), &Value::from(1)));
        assert!(
            attempt["node"].is_null() && attempt["shard"].is_null(),
            "a node that is alone has no shards: {attempt}"
        );
    }
    let loads = lines.spans("load");
    assert!(!loads.is_empty() && loads.iter().all(|load| load["webhook"] == "siem"), "{loads:?}");
    let tests = lines.spans("test");
    assert!(tests.len() == 1 && tests[0]["webhook"] == "siem" && tests[0]["event"].is_string(), "{tests:?}");
}

#[tokio::test]
async fn where_nodes_share_a_store_attempts_say_which_made_them() {
    let server = Cluster::with_database("spans").await;
    let options = PostgresOptions::new(server.url("spans").into());
    let store = PostgresStore::open(options, &MasterKey::new(MASTER_KEY)).await.unwrap();
    let policy = EgressPolicy { allow_all_private: true, ..EgressPolicy::default() };
    let client = Client::new(ClientOptions { policy, ..ClientOptions::default() }).unwrap();
    let (lines, _log) = log(tracing::Level::DEBUG);
    let engine = Engine::start(Arc::new(store), client, Arc::new(SystemClock), settings()).await.unwrap();
    let receiver = TestReceiver::healthy().await;
    let webhook = subscribe(&engine, "siem", ">", &receiver.url("/")).await;
    publish(&engine, "a.b", 1).await;
    wait_for(&engine, DeliveryState::Delivered, 1).await;
    let (attempts, node, shard) = (lines.spans("attempt"), engine.node(), Shard::of(webhook.uuid).number());
    assert_eq!(attempts.len(), 1, "{attempts:?}");
    assert_eq!((&attempts[0]["node"], &attempts[0]["shard"]), (&Value::from(node.to_string()), &Value::from(shard)));
    stop(engine).await;
}

#[tokio::test]
async fn at_the_default_level_there_are_no_spans() {
    let (lines, _) = delivered_at_the_second_attempt(tracing::Level::INFO).await;
    assert!(["attempt", "load", "test"].iter().all(|name| lines.spans(name).is_empty()));
}
