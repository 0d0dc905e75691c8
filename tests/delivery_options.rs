//! What a webhook and an event may say about their delivery, by what the receiver got.

#![cfg(feature = "server")]
#![expect(clippy::expect_used, clippy::panic, reason = "these are tests")]

#[path = "support/engine.rs"]
mod engine;
#[path = "support/receiver.rs"]
mod receiver;

use std::sync::Arc;
use std::time::Duration;

use engine::{change, publish, settings, start, start_with, stop, subscribe, wait_for};
use postrider::delivery::DeliveryState;
use postrider::delivery::retry::Schedule;
use postrider::dispatcher::DispatcherSettings;
use postrider::engine::Engine;
use postrider::webhook::{DEFAULT_TENANT, WebhookPatch, WebhookRecord};
use receiver::{Answer, Received, TestReceiver};

fn patch(json: &str) -> WebhookPatch {
    serde_json::from_str(json).expect("a patch")
}

async fn record(engine: &Arc<Engine>, webhook: &WebhookRecord) -> WebhookRecord {
    engine.store().webhook(DEFAULT_TENANT, webhook.uuid).await.expect("the store reads").expect("it is there")
}

/// Waits until the stored webhook is as wanted.
async fn wait_until(
    engine: &Arc<Engine>,
    webhook: &WebhookRecord,
    is_wanted: impl Fn(&WebhookRecord) -> bool,
) -> WebhookRecord {
    for _ in 0..1_000 {
        let found = record(engine, webhook).await;
        if is_wanted(&found) {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the webhook stays {:?}", record(engine, webhook).await);
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
    let slow = TestReceiver::start(|_, _| Answer(200, Duration::from_millis(20))).await;
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

fn number(request: &Received) -> u64 {
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

// --- the receiver's word ---

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_asks_to_stop_turns_its_webhook_off_and_what_it_is_owed_is_kept() {
    for status in [200, 503, 404] {
        let folder = tempfile::tempdir().unwrap();
        let engine = start(folder.path()).await;
        let receiver = TestReceiver::start_saying(move |n, _| match n {
            0 => (status.into(), Some(("webhook-delivery", "disable"))),
            _ => (200.into(), None),
        })
        .await;
        let webhook = subscribe(&engine, "mine", ">", &receiver.url("/")).await;
        change(&engine, &webhook, patch(r#"{"ordered": true}"#)).await;
        publish(&engine, "a.b", 5).await;
        let off = wait_until(&engine, &webhook, |found| !found.settings.enabled).await;
        assert_eq!(off.switched_off.expect("it says why").reason, "receiver asked to stop");
        let taken = usize::from(status == 200);
        wait_for(&engine, DeliveryState::Pending, 5 - taken).await;
        wait_for(&engine, DeliveryState::Delivered, taken).await;
        publish(&engine, "a.b", 1).await;
        wait_for(&engine, DeliveryState::Skipped, 1).await;
        assert_eq!(receiver.received_count(), 1, "after {status}");
        change(&engine, &webhook, patch(r#"{"enabled": true}"#)).await;
        wait_for(&engine, DeliveryState::Delivered, 5).await;
        stop(engine).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_can_refuse_one_delivery_for_good_and_unknown_words_are_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    let receiver = TestReceiver::start_saying(|n, _| match n {
        0 => (503.into(), Some(("webhook-delivery", "abort-message"))),
        1 => (503.into(), Some(("webhook-delivery", "slow-down"))),
        2 => (200.into(), Some(("webhook-delivery", "abort-message"))),
        _ => (200.into(), None),
    })
    .await;
    let webhook = subscribe(&engine, "mine", ">", &receiver.url("/")).await;
    publish(&engine, "a.b", 1).await;
    let dead = wait_for(&engine, DeliveryState::Dead, 1).await;
    assert_eq!(dead[0].reason.as_deref(), Some("receiver aborted: http 503"));
    assert_eq!(dead[0].attempts, 1);
    publish(&engine, "a.b", 1).await;
    let delivered = wait_for(&engine, DeliveryState::Delivered, 1).await;
    assert_eq!(delivered[0].attempts, 2, "an unknown word changes nothing, and a success stays one");
    assert!(record(&engine, &webhook).await.settings.enabled);
    stop(engine).await;
}

// --- proxies ---

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_s_own_failure_does_not_trip_the_receiver_s_circuit() {
    let folder = tempfile::tempdir().unwrap();
    let patient = DispatcherSettings { retry_schedule: Schedule::from_seconds(&[0.01; 9]).unwrap(), ..settings() };
    let engine = start_with(folder.path(), patient).await;
    // Nobody listens at the one, and the other is not let in.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let nobody = silent.local_addr().expect("an address");
    drop(silent);
    let refusing = TestReceiver::start(|_, _| 407.into()).await;
    for (name, proxy, error) in [
        ("nobody", nobody, "proxy: connect: Connection refused (os error 111)"),
        ("refusing", refusing.address, "proxy: answered 407 (it asks for other credentials, or for some)"),
    ] {
        let webhook = subscribe(&engine, name, &format!("{name}.>"), "http://127.0.0.2:4000/").await;
        change(&engine, &webhook, patch(&format!(r#"{{"proxy": {{"url": "http://{proxy}"}}}}"#))).await;
        publish(&engine, &format!("{name}.b"), 1).await;
        let health = wait_until(&engine, &webhook, |found| found.health.last_error.is_some()).await.health;
        assert_eq!(health.last_error.as_deref(), Some(error));
    }
    let dead = wait_for(&engine, DeliveryState::Dead, 2).await;
    assert!(dead.iter().all(|delivery| delivery.attempts == 10), "{dead:?}");
    for webhook in engine.store().webhooks(DEFAULT_TENANT).await.expect("the store reads") {
        let health = webhook.health;
        assert_eq!((health.consecutive_failures, health.auto_disabled_at), (0, None), "{}", webhook.settings.name);
    }
    stop(engine).await;
}
