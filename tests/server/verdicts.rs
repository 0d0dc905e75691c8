//! What an answer means: for its delivery, for the other deliveries of the webhook, and for the circuit.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use postrider::delivery::DeliveryState;
use postrider::delivery::retry::Schedule;
use postrider::delivery::statuses::{StatusLists, Statuses};
use postrider::dispatcher::{CircuitSettings, DispatcherSettings};
use postrider::engine::Engine;
use postrider::event::Event;
use postrider::store::StoredDelivery;
use postrider::store::replay::{NewReplay, ReplayAction, Selection};
use postrider::webhook::DEFAULT_TENANT;
use serde_json::{Value, json};

use super::support::engine::{
    Sentinel, change, deliveries, patch, publish, record, settings, start, start_with, stop, subscribe, wait_for,
    wait_until,
};
use super::support::receiver::{Answer, TestReceiver};
use super::support::server::TestServer;

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

// --- what a webhook and the server say of answers ---

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_s_lists_go_before_the_server_s_and_these_before_the_rules_for_all() {
    let folder = tempfile::tempdir().unwrap();
    let list = |items: &[&str]| Statuses::new(items.iter().map(|item| item.parse().unwrap()).collect());
    let statuses =
        StatusLists { retry_on: list(&["404", "425"]), final_on: list(&["5xx"]), success_on: list(&["409"]) };
    let engine = start_with(folder.path(), DispatcherSettings { statuses, ..settings() }).await;
    let receiver = TestReceiver::start(|_, request| {
        let status = request.path.trim_start_matches('/');
        status.parse::<u16>().unwrap().into()
    })
    .await;
    // Path, the webhook's own lists, how the delivery ends, after how many attempts, and why.
    let cases = [
        ("404", "{}", DeliveryState::Dead, 4, Some("http 404")),
        ("502", "{}", DeliveryState::Dead, 1, Some("non-retryable 502")),
        ("409", "{}", DeliveryState::Delivered, 1, None),
        ("425", r#"{"final_on": [425]}"#, DeliveryState::Dead, 1, Some("non-retryable 425")),
        ("503", r#"{"retry_on": ["500-599"]}"#, DeliveryState::Dead, 4, Some("http 503")),
        ("400", r#"{"success_on": ["4xx"]}"#, DeliveryState::Delivered, 1, None),
        ("202", r#"{"retry_on": [202]}"#, DeliveryState::Dead, 4, Some("http 202")),
        ("410", r#"{"final_on": [410]}"#, DeliveryState::Dead, 1, Some("non-retryable 410")),
    ];
    for (place, (path, lists, state, attempts, reason)) in cases.into_iter().enumerate() {
        let topic = format!("to.{place}");
        let webhook = subscribe(&engine, &topic, &topic, &receiver.url(&format!("/{path}"))).await;
        change(&engine, &webhook, patch(lists)).await;
        publish(&engine, &topic, 1).await;
        let found = wait_until_ended(&engine, &topic).await;
        assert_eq!((found.state, found.attempts, found.reason.as_deref()), (state, attempts, reason), "{path} {lists}");
        assert!(record(&engine, &webhook).await.settings.enabled, "{path}");
    }
    stop(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_success_that_its_answer_denies_is_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    let receiver = TestReceiver::start_answering(|n, _| {
        let said = if n == 0 { r#"{"took": 1, "ok": false}"# } else { r#"{"took": 2, "ok": true}"# };
        (200.into(), Some(("x-node", "A")), said)
    })
    .await;
    let webhook = subscribe(&engine, "picky", ">", &receiver.url("/")).await;
    let pattern = r#"{"success_when": {"status": [200], "headers": {"x-node": ["A"]}, "body": {"ok": [true]}}}"#;
    change(&engine, &webhook, patch(pattern)).await;
    publish(&engine, "a.b", 1).await;
    let delivered = wait_for(&engine, DeliveryState::Delivered, 1).await;
    let attempts = engine.store().attempts(delivered[0].key).await.unwrap();
    let errors: Vec<_> = attempts.iter().map(|attempt| attempt.error.as_deref()).collect();
    assert_eq!(errors, [Some("answer: http 200, and success_when does not match it"), None]);
    assert_eq!(attempts[0].response, r#"{"took": 1, "ok": false}"#.as_bytes());
    assert_eq!(record(&engine, &webhook).await.health.consecutive_failures, 0);

    change(&engine, &webhook, patch(r#"{"success_when": {"body": {"ok": [false]}}}"#)).await;
    let tried = engine.test_webhook(DEFAULT_TENANT, webhook.uuid, None).await.unwrap().unwrap();
    assert_eq!(tried.error.as_deref(), Some("answer: http 200, and success_when does not match it"));
    stop(engine).await;
}

/// Waits for the end of the delivery to the webhook of this name.
async fn wait_until_ended(engine: &Engine, name: &str) -> StoredDelivery {
    for _ in 0..3_000 {
        for state in [DeliveryState::Delivered, DeliveryState::Dead] {
            if let Some(found) = deliveries(engine, state).await.into_iter().find(|found| found.webhook_name == name) {
                return found;
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the delivery to {name} does not end");
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

// --- an operator's word ---

/// Circuits stay open for longer than a test takes.
fn patient_settings() -> DispatcherSettings {
    let circuit = CircuitSettings { cool_down: Duration::from_hours(1), ..settings().circuit };
    DispatcherSettings { circuit, ..server_settings() }
}

#[derive(Clone, Copy, Debug)]
enum Word {
    Resume,
    Retry,
    Resend,
    Replay,
    Test,
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_s_word_is_done_at_once_whatever_the_cool_down_says() {
    for word in [Word::Resume, Word::Retry, Word::Resend, Word::Replay, Word::Test] {
        let folder = tempfile::tempdir().unwrap();
        let engine = start_with(folder.path(), patient_settings()).await;
        let status = Arc::new(AtomicU16::new(503));
        let answer = Arc::clone(&status);
        let receiver = TestReceiver::start(move |_, _| answer.load(Ordering::SeqCst).into()).await;
        let webhook = subscribe(&engine, "sick", ">", &receiver.url("/")).await;
        publish(&engine, "a.b", 10).await;
        wait_until(&engine, &webhook, |found| found.health.auto_disabled_at.is_some()).await;
        let waiting = wait_for(&engine, DeliveryState::Pending, 10).await;
        let wanted = waiting.iter().find(|delivery| delivery.attempts == 0).expect("five were not tried");
        status.store(200, Ordering::SeqCst);
        let seen = receiver.received_count();
        match word {
            Word::Resume => drop(engine.resume_webhook(DEFAULT_TENANT, webhook.uuid).await.unwrap()),
            Word::Retry => drop(engine.retry_delivery(DEFAULT_TENANT, wanted.key).await.unwrap()),
            Word::Resend => drop(engine.resend(DEFAULT_TENANT, &wanted.event_id, None).await.unwrap()),
            Word::Replay => {
                let selection = Selection { states: vec![DeliveryState::Pending], ..Selection::default() };
                let action = ReplayAction::Replay { include_unmatched: false };
                let job = NewReplay { webhook: Some(webhook.uuid), selection, action, rate_per_s: 1_000 };
                drop(engine.start_replay(DEFAULT_TENANT, job).await.unwrap());
            }
            Word::Test => {
                assert_eq!(engine.test_webhook(DEFAULT_TENANT, webhook.uuid, None).await.unwrap().unwrap().error, None);
            }
        }
        wait_for(&engine, DeliveryState::Delivered, 10).await;
        if let Word::Retry | Word::Resend = word {
            assert_eq!(receiver.received()[seen].event_id(), wanted.event_id, "{word:?}: the one that was asked for");
        }
        stop(engine).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumption_ends_a_rest_and_does_not_wait_for_the_schedule() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start_with(folder.path(), patient_settings()).await;
    let status = Arc::new(AtomicU16::new(429));
    let answer = Arc::clone(&status);
    let receiver =
        TestReceiver::start_saying(move |_, _| (answer.load(Ordering::SeqCst).into(), Some(("retry-after", "3600"))))
            .await;
    let webhook = subscribe(&engine, "busy", ">", &receiver.url("/")).await;
    publish(&engine, "a.b", 1).await;
    wait_until(&engine, &webhook, |found| found.health.probe_at.is_some()).await;
    change(&engine, &webhook, patch(r#"{"paused": true}"#)).await;
    let refused = engine.resume_webhook(DEFAULT_TENANT, webhook.uuid).await.unwrap_err();
    assert!(refused.to_string().contains("paused"), "{refused}");
    change(&engine, &webhook, patch(r#"{"paused": false}"#)).await;
    // The receiver is as busy as before: it is asked once, and rests again.
    engine.resume_webhook(DEFAULT_TENANT, webhook.uuid).await.unwrap();
    receiver.wait_for(2).await;
    let booked = async {
        while wait_for(&engine, DeliveryState::Pending, 1).await[0].attempts < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), booked).await.expect("the attempt is recorded");
    status.store(200, Ordering::SeqCst);
    engine.resume_webhook(DEFAULT_TENANT, webhook.uuid).await.unwrap();
    wait_for(&engine, DeliveryState::Delivered, 1).await;
    assert_eq!(receiver.received_count(), 3);
    stop(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_says_what_a_webhook_waits_for_and_goes_on_when_told() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let receiver = TestReceiver::start_saying(|_, _| (429.into(), Some(("retry-after", "3600")))).await;
    let webhook = json!({"name": "busy", "url": receiver.url("/"), "topic_patterns": [">"], "retry_schedule": [1, 1]});
    let webhook = server.post("/api/v1/webhooks", &webhook.to_string()).await.expect(201);
    assert_eq!((&webhook["waiting_for"], &webhook["waiting_until"]), (&Value::Null, &Value::Null));
    let path = format!("/api/v1/webhooks/{}", webhook["uuid"].as_str().unwrap());
    server.post("/api/v1/events", r#"{"topic": "a.b"}"#).await.expect(202);
    let resting = server.wait_for(&path, |shown| shown["waiting_for"] == "receiver_asked").await;
    assert!(resting["waiting_until"].is_string() && resting["auto_disabled_at"].is_null(), "{resting}");
    server.post(&format!("{path}/resume"), "").await.expect(200);
    assert_eq!(receiver.wait_for(2).await.len(), 2);
    let unknown = "/api/v1/webhooks/00000000-0000-4000-8000-000000000000/resume";
    server.post(unknown, "").await.expect(404);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_says_for_what() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let receiver = TestReceiver::start(|_, request| {
        let delay = if request.path == "/slow" { Duration::from_secs(20) } else { Duration::ZERO };
        Answer(if request.path == "/broken" { 500 } else { 200 }, delay)
    })
    .await;
    // Settings, events, and what the last of its deliveries waits for.
    let cases = [
        ("rate", r#"{"rate_limit": {"per_s": 0.001}}"#, "/", 2, "rate", true),
        ("batch", r#"{"batch": {"max_events": 10, "max_wait_ms": 60000}}"#, "/", 2, "batch", true),
        ("order", r#"{"ordered": true}"#, "/slow", 2, "order", false),
        ("slot", r#"{"max_in_flight": 1, "timeout_s": 30}"#, "/slow", 3, "slot", false),
        ("paused", r#"{"paused": true}"#, "/", 2, "paused", false),
        ("schedule", r#"{"retry_schedule": [3600]}"#, "/broken", 1, "schedule", true),
        ("circuit", r#"{"retry_schedule": [3600], "max_in_flight": 1}"#, "/broken", 120, "circuit", true),
    ];
    for (name, settings, path, events, waiting_for, is_limited) in cases {
        let mut webhook: Value = serde_json::from_str(settings).unwrap();
        (webhook["name"], webhook["url"]) = (name.into(), receiver.url(path).into());
        webhook["topic_patterns"] = json!([name]);
        let webhook = server.post("/api/v1/webhooks", &webhook.to_string()).await.expect(201);
        let (uuid, batch) = (webhook["uuid"].as_str().unwrap(), vec![json!({"topic": name}); events]);
        server.post("/api/v1/events/batch", &Value::from(batch).to_string()).await.expect(202);
        let deliveries = server.get(&format!("/api/v1/deliveries?webhook={uuid}&limit=500")).await.expect(200);
        let [newest, oldest] = [&deliveries["items"][0]["id"], &deliveries["items"][events - 1]["id"]];
        let path = format!("/api/v1/deliveries/{}", newest.as_str().unwrap());
        let delivery = server.wait_for(&path, |shown| shown["waiting_for"] == waiting_for).await;
        assert_eq!(delivery["waiting_until"].is_string(), is_limited, "{delivery}");
        let behind = if waiting_for == "order" { oldest } else { &Value::Null };
        assert_eq!(&delivery["waiting_behind"], behind, "{name}");
        let list = server.get(&format!("/api/v1/webhooks?q={name}&short")).await.expect(200);
        let webhook = &list["items"][0];
        if !matches!(name, "order" | "schedule") {
            assert_eq!(webhook["waiting_for"], waiting_for, "{webhook}");
        }
        assert!(webhook["waiting"].as_u64().is_some_and(|count| count >= 1), "{webhook}");
        assert!(webhook["waiting_since"].is_string(), "{webhook}");
    }
    // What is under way ends at once.
    drop(receiver);
    server.stop().await;
}

// --- what is too old ---

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_old_ends_whatever_keeps_it_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let second = Some(Duration::from_secs(1));
    let engine = start_with(folder.path(), DispatcherSettings { max_age: second, ..patient_settings() }).await;
    let receiver = TestReceiver::start_saying(|_, request| match request.path.as_str() {
        "/busy" => (429.into(), Some(("retry-after", "3600"))),
        "/broken" => (500.into(), None),
        _ => (200.into(), None),
    })
    .await;
    let mut webhooks = Vec::new();
    for (name, settings) in [
        ("broken", "{}"),
        ("busy", "{}"),
        ("slowed", r#"{"rate_limit": {"per_s": 0.001}}"#),
        ("paused", r#"{"paused": true}"#),
        ("paused_in_order", r#"{"paused": true, "ordered": true}"#),
        ("patient", r#"{"paused": true, "max_age_s": 3600}"#),
    ] {
        let webhook = subscribe(&engine, name, "a.b", &receiver.url(&format!("/{name}"))).await;
        change(&engine, &webhook, patch(settings)).await;
        webhooks.push(webhook);
    }
    publish(&engine, "a.b", 20).await;
    let dead = wait_for(&engine, DeliveryState::Dead, 100).await;
    assert!(dead.iter().all(|delivery| delivery.reason.as_deref() == Some("older than 1 s")), "{dead:#?}");
    let was_tried = |delivery: &&StoredDelivery| delivery.attempts > 0;
    let tried: HashSet<_> = dead.iter().filter(was_tried).map(|delivery| delivery.webhook_name.as_str()).collect();
    assert_eq!(tried, HashSet::from(["broken", "busy"]), "one of `slowed` would have had to wait for its turn");
    assert_eq!(wait_for(&engine, DeliveryState::Pending, 20).await[0].webhook_name, "patient");
    for webhook in &webhooks[3..] {
        change(&engine, webhook, patch(r#"{"paused": false}"#)).await;
    }
    wait_for(&engine, DeliveryState::Delivered, 20).await;
    publish(&engine, "a.b", 1).await;
    wait_for(&engine, DeliveryState::Delivered, 23).await;
    stop(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_age_of_what_is_for_later_begins_then() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    let receiver = TestReceiver::healthy().await;
    let webhook = subscribe(&engine, "mine", ">", &receiver.url("/")).await;
    change(&engine, &webhook, patch(r#"{"max_age_s": 1}"#)).await;
    let now = engine.now();
    let later = serde_json::json!({"topic": "a.b", "deliver_at": now.after(Duration::from_secs(3)).to_string()});
    let event = Event::from_json(later.to_string().as_bytes(), now).unwrap();
    engine.publish(DEFAULT_TENANT, vec![event]).await.unwrap();
    wait_for(&engine, DeliveryState::Delivered, 1).await;
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
    subscribe(&engine, "picky", ">", &receiver.url("/")).await;
    for place in 0..40 {
        publish(&engine, if is_bad(place) { "bad" } else { "good" }, 1).await;
    }
    let good = || receiver.received().into_iter().filter(|request| request.header("x-decnet-event-topic") == "good");
    wait_for(&engine, DeliveryState::Delivered, 20).await;
    let (first, last) = (good().next().unwrap(), good().last().unwrap());
    let took = last.at - first.at;
    assert!(took < Duration::from_secs(2), "the good ones took {took:?} from the first");

    // What is left fails again and again, and keeps nobody waiting.
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
