//! What an answer means: for its delivery, for the other deliveries of the webhook, and for the circuit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use postrider::delivery::DeliveryState;
use postrider::delivery::retry::Schedule;
use postrider::dispatcher::{CircuitSettings, DispatcherSettings};
use postrider::webhook::DEFAULT_TENANT;

use super::support::engine::{
    Sentinel, change, patch, publish, record, settings, start, start_with, stop, subscribe, wait_for, wait_until,
};
use super::support::receiver::TestReceiver;

/// The server's own schedule and threshold, and a cool-down that a test can wait for.
fn server_settings() -> DispatcherSettings {
    let circuit = CircuitSettings { cool_down: Duration::from_millis(500), ..settings().circuit };
    DispatcherSettings { retry_schedule: Schedule::server(), circuit, ..settings() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_speaks_of_the_event_says_nothing_against_the_receiver() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    let receiver = TestReceiver::start(|_, request| if request.path == "/" { 422.into() } else { 200.into() }).await;
    let webhook = subscribe(&engine, "strict", ">", &receiver.url("/")).await;
    publish(&engine, "a.b", 30).await;
    let dead = wait_for(&engine, DeliveryState::Dead, 30).await;
    assert!(dead.iter().all(|delivery| delivery.attempts == 1));
    assert_eq!(dead[0].reason.as_deref(), Some("non-retryable 422"));
    let shown = wait_until(&engine, &webhook, |found| found.health.last_error.is_some()).await.health;
    assert_eq!((shown.auto_disabled_at, shown.consecutive_failures, shown.last_success_at), (None, 0, None));
    stop(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_is_refused_for_its_event_closes_the_circuit() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start_with(folder.path(), server_settings()).await;
    let status = Arc::new(AtomicU16::new(503));
    let answer = Arc::clone(&status);
    let receiver = TestReceiver::start(move |_, _| answer.load(Ordering::SeqCst).into()).await;
    let webhook = subscribe(&engine, "sick", ">", &receiver.url("/")).await;
    publish(&engine, "a.b", 20).await;
    wait_until(&engine, &webhook, |found| found.health.auto_disabled_at.is_some()).await;
    status.store(400, Ordering::SeqCst);
    wait_for(&engine, DeliveryState::Dead, 20).await;
    let closed = record(&engine, &webhook).await.health;
    assert_eq!((closed.auto_disabled_at, closed.last_success_at), (None, None));
    stop(engine).await;
}

// --- a receiver that asks for time ---

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_asks_for_time_gets_it_over_a_restart_until_an_operator_says_otherwise() {
    for (name, status) in [("busy", 429), ("down", 503)] {
        let folder = tempfile::tempdir().unwrap();
        let engine = start_with(folder.path(), server_settings()).await;
        let sentinel = Sentinel::new(&engine).await;
        let answer = Arc::new(AtomicU16::new(status));
        let said = Arc::clone(&answer);
        let receiver =
            TestReceiver::start_saying(move |_, _| (said.load(Ordering::SeqCst).into(), Some(("retry-after", "3600"))))
                .await;
        let webhook = subscribe(&engine, name, ">", &receiver.url("/")).await;
        publish(&engine, "a.b", 20).await;
        let resting = wait_until(&engine, &webhook, |found| found.health.probe_at.is_some()).await.health;
        assert!(resting.probe_at.unwrap() > engine.now().after(Duration::from_secs(3_500)));
        assert_eq!(resting.consecutive_failures, u32::from(status == 503));
        sentinel.pass(&engine, Duration::from_secs(1)).await;
        assert_eq!(receiver.received_count(), 1, "{status}: it was left alone");
        stop(engine).await;

        let engine = start_with(folder.path(), server_settings()).await;
        publish(&engine, "a.b", 20).await;
        sentinel.pass(&engine, Duration::from_secs(1)).await;
        assert_eq!(receiver.received_count(), 1, "{status}: after a restart as well");
        answer.store(200, Ordering::SeqCst);
        change(&engine, &webhook, patch(r#"{"enabled": true}"#)).await;
        // The one that was answered waits for its own time.
        wait_for(&engine, DeliveryState::Delivered, 39).await;
        stop(engine).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_busy_and_names_no_time_is_asked_ever_later() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    let receiver = TestReceiver::start(|n, _| if n < 3 { 429 } else { 200 }.into()).await;
    let webhook = subscribe(&engine, "busy", ">", &receiver.url("/")).await;
    publish(&engine, "a.b", 50).await;
    wait_for(&engine, DeliveryState::Delivered, 50).await;
    let requests = receiver.received();
    assert_eq!(requests.len(), 53);
    for (n, least_ms) in [(1, 980), (2, 1_980), (3, 3_980)] {
        let gap = requests[n].at - requests[n - 1].at;
        assert!(gap >= Duration::from_millis(least_ms), "{n}: {gap:?}");
    }
    assert_eq!(record(&engine, &webhook).await.health.auto_disabled_at, None, "429 is no failure");
    stop(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_is_led_elsewhere_rests_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    let busy = TestReceiver::start_saying(|_, _| (429.into(), Some(("retry-after", "3600")))).await;
    let free = TestReceiver::healthy().await;
    let webhook = subscribe(&engine, "moved", ">", &busy.url("/")).await;
    publish(&engine, "a.b", 5).await;
    wait_until(&engine, &webhook, |found| found.health.probe_at.is_some()).await;
    change(&engine, &webhook, patch(&format!(r#"{{"url": "{}"}}"#, free.url("/")))).await;
    free.wait_for(4).await;
    assert_eq!(busy.received_count(), 1);
    stop(engine).await;
}

// --- events that a receiver cannot digest ---

/// Publishes 40 events, of which the receiver cannot digest those that `is_bad` names, and wants the others to be through
/// soon after the first of them; then one more that waits for nothing.
async fn assert_bad_events_hold_up_no_others(is_bad: fn(usize) -> bool) {
    let folder = tempfile::tempdir().unwrap();
    let engine = start_with(folder.path(), server_settings()).await;
    let receiver = TestReceiver::start(|_, request| {
        if request.header("x-decnet-event-topic") == "bad" { 500 } else { 200 }.into()
    })
    .await;
    let webhook = subscribe(&engine, "picky", ">", &receiver.url("/")).await;
    for place in 0..40 {
        publish(&engine, if is_bad(place) { "bad" } else { "good" }, 1).await;
    }
    let good = || receiver.received().into_iter().filter(|request| request.header("x-decnet-event-topic") == "good");
    wait_for(&engine, DeliveryState::Delivered, 20).await;
    let (first, last) = (good().next().unwrap(), good().last().unwrap());
    let took = last.at - first.at;
    assert!(took < Duration::from_secs(2), "the good ones took {took:?} from the first");

    // What is left fails again and again, and keeps nobody waiting.
    wait_until(&engine, &webhook, |found| found.health.consecutive_failures == 0).await;
    let fresh = publish(&engine, "good", 1).await;
    wait_for(&engine, DeliveryState::Delivered, 21).await;
    let stats = engine.store().stats(DEFAULT_TENANT).await.unwrap();
    assert_eq!((stats.delivered, stats.dead, fresh.len()), (21, 0, 1));
    stop(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_a_receiver_fails_at_hold_up_none_behind_them() {
    assert_bad_events_hold_up_no_others(|place| place < 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_a_receiver_fails_at_hold_up_none_between_them() {
    assert_bad_events_hold_up_no_others(|place| !(10..30).contains(&place)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_a_receiver_fails_at_hold_up_none_among_them() {
    assert_bad_events_hold_up_no_others(|place| place % 8 < 4).await;
}
