//! What a webhook and an event may say about their delivery, by what the receiver got.

#![cfg(feature = "server")]
#![expect(clippy::expect_used, clippy::panic, reason = "these are tests")]

#[path = "support/engine.rs"]
mod engine;
#[path = "support/receiver.rs"]
mod receiver;

use std::sync::Arc;
use std::time::Duration;

use engine::{change, publish, start, stop, subscribe, wait_for};
use postrider::delivery::DeliveryState;
use postrider::engine::Engine;
use postrider::webhook::{DEFAULT_TENANT, WebhookPatch, WebhookRecord};
use receiver::TestReceiver;

fn patch(json: &str) -> WebhookPatch {
    serde_json::from_str(json).expect("a patch")
}

async fn record(engine: &Arc<Engine>, webhook: &WebhookRecord) -> WebhookRecord {
    engine.store().webhook(DEFAULT_TENANT, webhook.uuid).await.expect("the store reads").expect("it is there")
}

/// Long enough for a delivery that should not be made to be made.
async fn a_while() {
    tokio::time::sleep(Duration::from_millis(300)).await;
}

// --- pauses ---

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_webhook_keeps_its_deliveries_over_a_restart_and_makes_them_all_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    let receiver = TestReceiver::healthy().await;
    let webhook = subscribe(&engine, "resting", ">", &receiver.url("/")).await;
    change(&engine, &webhook, patch(r#"{"paused": true}"#)).await;
    publish(&engine, "a.b", 150).await;
    a_while().await;
    wait_for(&engine, DeliveryState::Pending, 150).await;
    stop(engine).await;

    let engine = start(folder.path()).await;
    publish(&engine, "a.b", 20).await;
    a_while().await;
    assert_eq!(receiver.received_count(), 0, "nothing is attempted while it is paused");
    assert!(record(&engine, &webhook).await.settings.policy.paused);
    change(&engine, &webhook, patch(r#"{"paused": false}"#)).await;
    wait_for(&engine, DeliveryState::Delivered, 170).await;
    publish(&engine, "a.b", 1).await;
    wait_for(&engine, DeliveryState::Delivered, 171).await;
    stop(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_in_the_midst_of_work_loses_nothing_and_keeps_the_order() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    let slow = TestReceiver::start(|_, _| receiver::Answer(200, Duration::from_millis(20))).await;
    let webhook = subscribe(&engine, "mine", ">", &slow.url("/")).await;
    change(&engine, &webhook, patch(r#"{"ordered": true}"#)).await;
    publish(&engine, "a.b", 30).await;
    slow.wait_for(3).await;
    change(&engine, &webhook, patch(r#"{"paused": true}"#)).await;
    a_while().await;
    let seen = slow.received_count();
    publish(&engine, "a.b", 5).await;
    a_while().await;
    assert_eq!(slow.received_count(), seen);
    assert!(seen < 30, "{seen} of 30 were made before the pause");
    change(&engine, &webhook, patch(r#"{"enabled": true, "paused": false}"#)).await;
    wait_for(&engine, DeliveryState::Delivered, 35).await;
    let numbers: Vec<_> = slow.received().iter().map(number).collect();
    assert_eq!(numbers, (0..30).chain(0..5).collect::<Vec<_>>());
    stop(engine).await;
}

fn number(request: &receiver::Received) -> u64 {
    let body: serde_json::Value = serde_json::from_slice(&request.body).expect("JSON");
    body["payload"]["n"].as_u64().expect("a number")
}

// --- methods ---

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_s_method_is_used_and_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    let receiver = TestReceiver::healthy().await;
    let webhook = subscribe(&engine, "mine", ">", &receiver.url("/")).await;
    for (method, count) in [("PUT", 1), ("PATCH", 2), ("POST", 3), ("PUT", 4)] {
        change(&engine, &webhook, patch(&format!(r#"{{"method": "{method}"}}"#))).await;
        publish(&engine, "a.b", 1).await;
        let requests = receiver.wait_for(count).await;
        assert_eq!(requests[count - 1].method, method);
    }
    stop(engine).await;
    let engine = start(folder.path()).await;
    publish(&engine, "a.b", 1).await;
    let last = receiver.wait_for(5).await.pop().expect("five");
    assert_eq!(last.method, "PUT");
    let keys = &webhook.settings.receiver.keys;
    postrider::signing::verify_decnet(&keys.decnet, &last.headers, &last.body).expect("it is signed as any other");
    for wrong in ["GET", "DELETE", "post", ""] {
        let refused = webhook.settings.patched(patch(&format!(r#"{{"method": "{wrong}"}}"#))).unwrap_err();
        assert_eq!(refused[0].field(), "method");
    }
    stop(engine).await;
}
