//! Policies of webhooks, by what the receiver got: circuits, order, rates, batches, and what the server tells of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use postrider::clock::{Clock, ManualClock, SystemClock, UnixMicros};
use postrider::delivery::DeliveryState;
use postrider::delivery::retry::Schedule;
use postrider::dispatcher::{CircuitSettings, DispatcherSettings};
use postrider::event::Event;
use postrider::ingest::PublishError;
use postrider::store::StoredDelivery;
use postrider::topic::Topic;
use postrider::webhook::DEFAULT_TENANT;
use serde_json::Value;

use crate::support::engine;
use crate::support::engine::{
    Sentinel, change, patch, publish, record, settings, start, start_at, start_with, stop, subscribe, wait_for,
    wait_until,
};
use crate::support::receiver::{Answer, Received, TestReceiver};

fn with_cool_down(cool_down: Duration) -> DispatcherSettings {
    let circuit = CircuitSettings { cool_down, max_cool_down: 8 * cool_down, ..settings().circuit };
    DispatcherSettings {
        circuit,
        retry_schedule: Schedule::from_seconds(&[0.02; 40]).expect("a schedule"),
        ..settings()
    }
}

/// A receiver that answers with what the status says at the moment.
async fn switchable(status: u16) -> (Arc<AtomicU16>, TestReceiver) {
    let status = Arc::new(AtomicU16::new(status));
    let answer = Arc::clone(&status);
    (status, TestReceiver::start(move |_, _| answer.load(Ordering::SeqCst).into()).await)
}

fn numbers(requests: &[Received]) -> Vec<u64> {
    let number = |request: &Received| {
        let body: Value = serde_json::from_slice(&request.body).expect("JSON");
        body["payload"]["n"].as_u64().expect("a number")
    };
    requests.iter().map(number).collect()
}

// --- the circuit ---

#[tokio::test(flavor = "multi_thread")]
async fn an_open_circuit_probes_one_by_one_and_closes_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start_with(folder.path(), with_cool_down(Duration::from_millis(150))).await;
    let (status, receiver) = switchable(503).await;
    let webhook = subscribe(&engine, "sick", ">", &receiver.url("/")).await;
    publish(&engine, "a.b", 60).await;
    // Five failures, then probes after 150, 300 and 600 ms.
    let requests = receiver.wait_for(8).await;
    let gap = |n: usize| requests[n].at - requests[n - 1].at;
    assert!(gap(5) >= Duration::from_millis(145) && gap(6) >= Duration::from_millis(295), "{:?} {:?}", gap(5), gap(6));
    assert!(gap(7) >= Duration::from_millis(595), "{:?}", gap(7));
    let open = record(&engine, &webhook).await;
    assert!(open.health.auto_disabled_at.is_some() && open.health.probe_at.is_some());
    assert_eq!(receiver.peak(), 1, "one attempt at a time finds out");

    status.store(200, Ordering::SeqCst);
    wait_for(&engine, DeliveryState::Delivered, 60).await;
    let closed = wait_until(&engine, &webhook, |found| found.health.auto_disabled_at.is_none()).await;
    assert_eq!((closed.health.consecutive_failures, closed.health.probe_at), (0, None));
    stop(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_circuit_and_its_cool_down_survive_a_restart_and_a_clock_that_is_set() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(SystemClock.now()));
    let start_here = || start_at(folder.path(), with_cool_down(Duration::from_mins(10)), Arc::clone(&clock) as _);
    let (status, receiver) = switchable(503).await;
    let engine = start_here().await;
    let sentinel = Sentinel::new(&engine).await;
    let webhook = subscribe(&engine, "sick", ">", &receiver.url("/")).await;
    publish(&engine, "a.b", 10).await;
    for seen in 1..5 {
        receiver.wait_for(seen).await;
        // The schedule's delays pass by this clock alone.
        for _ in 0..300 {
            clock.advance(Duration::from_millis(50));
            tokio::time::sleep(Duration::from_millis(10)).await;
            if receiver.received_count() > seen {
                break;
            }
        }
    }
    receiver.wait_for(5).await;
    wait_until(&engine, &webhook, |found| found.health.auto_disabled_at.is_some()).await;
    stop(engine).await;

    let engine = start_here().await;
    publish(&engine, "a.b", 5).await;
    // An hour back: nothing waits an hour longer.
    clock.set(UnixMicros(clock.now().0 - 3_600_000_000));
    sentinel.pass(&engine, Duration::from_secs(1)).await;
    assert_eq!(receiver.received_count(), 5, "nothing is attempted before the cool-down is over");
    status.store(200, Ordering::SeqCst);
    clock.advance(Duration::from_secs(601));
    wait_for(&engine, DeliveryState::Delivered, 15).await;
    stop(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_written_while_the_clock_was_years_ahead_does_not_wait_for_years() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(SystemClock.now()));
    let now = clock.now();
    let (status, receiver) = switchable(503).await;
    let patient = DispatcherSettings { retry_schedule: Schedule::from_seconds(&[60.0; 9]).unwrap(), ..settings() };
    let engine = start_at(folder.path(), patient, Arc::clone(&clock) as _).await;
    subscribe(&engine, "mine", ">", &receiver.url("/")).await;
    clock.advance(Duration::from_hours(24 * 3_650));
    publish(&engine, "a.b", 3).await;
    receiver.wait_for(1).await;
    wait_for(&engine, DeliveryState::Pending, 3).await;
    receiver.wait_for(3).await;
    stop(engine).await;
    status.store(200, Ordering::SeqCst);
    clock.set(now);
    let engine = start_at(folder.path(), settings(), Arc::clone(&clock) as _).await;
    wait_for(&engine, DeliveryState::Delivered, 3).await;
    stop(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gone_turns_the_webhook_off_and_keeps_what_it_is_owed() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    let (status, receiver) = switchable(410).await;
    let webhook = subscribe(&engine, "mine", ">", &receiver.url("/")).await;
    publish(&engine, "a.b", 20).await;
    let off = wait_until(&engine, &webhook, |found| !found.settings.enabled).await;
    assert_eq!(off.switched_off.as_ref().map(|off| off.reason.as_str()), Some("gone"));
    assert_eq!(off.version, 2);
    publish(&engine, "a.b", 1).await;
    assert_eq!(wait_for(&engine, DeliveryState::Skipped, 1).await[0].reason.as_deref(), Some("webhook disabled"));
    // The outcome of the attempt is on disk soon after the webhook is off.
    let is_told =
        |kept: &[StoredDelivery]| kept.iter().any(|delivery| delivery.reason.as_deref() == Some("non-retryable 410"));
    while !is_told(&wait_for(&engine, DeliveryState::Pending, 20).await) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let attempts = receiver.received_count();
    assert!(attempts <= 2, "{attempts} attempts at a receiver that is gone");

    status.store(200, Ordering::SeqCst);
    change(&engine, &webhook, patch(r#"{"enabled": true}"#)).await;
    wait_for(&engine, DeliveryState::Delivered, 20).await;
    assert_eq!(record(&engine, &webhook).await.switched_off, None);
    stop(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_without_a_success_for_days_is_turned_off_if_it_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(SystemClock.now()));
    let quick = DispatcherSettings { retry_schedule: Schedule::from_seconds(&[0.0; 60]).unwrap(), ..settings() };
    let engine = start_at(folder.path(), quick, Arc::clone(&clock) as _).await;
    let (_, receiver) = switchable(500).await;
    let mut webhooks = Vec::new();
    for (name, settings) in [("strict", r#"{"disable_after_days": 2}"#), ("patient", "{}")] {
        let webhook = subscribe(&engine, name, ">", &receiver.url(&format!("/{name}"))).await;
        change(&engine, &webhook, patch(settings)).await;
        webhooks.push(webhook);
    }
    publish(&engine, "a.b", 1).await;
    for webhook in &webhooks {
        wait_until(&engine, webhook, |found| found.health.auto_disabled_at.is_some()).await;
    }
    for _ in 0..40 {
        if !record(&engine, &webhooks[0]).await.settings.enabled {
            break;
        }
        clock.advance(Duration::from_hours(2));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let strict = record(&engine, &webhooks[0]).await;
    assert_eq!(strict.switched_off.map(|off| off.reason).as_deref(), Some("no success for 2 days"));
    let since = clock.now().since(strict.health.auto_disabled_at.expect("open"));
    assert!(since >= Duration::from_hours(48), "turned off after {since:?}");
    assert!(record(&engine, &webhooks[1]).await.settings.enabled);
    stop(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_has_its_own_statuses_to_try_again() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    let receiver = TestReceiver::start(|n, _| if n == 0 { 425.into() } else { 200.into() }).await;
    let webhook = subscribe(&engine, "mine", ">", &receiver.url("/")).await;
    change(&engine, &webhook, patch(r#"{"retry_on": [408, 425]}"#)).await;
    publish(&engine, "a.b", 1).await;
    let delivered = wait_for(&engine, DeliveryState::Delivered, 1).await;
    assert_eq!(delivered[0].attempts, 2);
    let attempts = engine.store().attempts(delivered[0].key).await.unwrap();
    assert_eq!(attempts[0].error.as_deref(), Some("http 425"));
    stop(engine).await;
}

// --- the filter ---

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_skips_what_it_does_not_match_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    let receiver = TestReceiver::healthy().await;
    let webhook = subscribe(&engine, "picky", ">", &receiver.url("/")).await;
    subscribe(&engine, "all", ">", &receiver.url("/all")).await;
    let filter = r#"{"filter": {"topic": [{"prefix": "a."}], "payload": {"n": [{"numeric": [">=", 7]}]}}}"#;
    change(&engine, &webhook, patch(filter)).await;
    publish(&engine, "a.b", 10).await;
    let skipped = wait_for(&engine, DeliveryState::Skipped, 7).await;
    assert!(skipped.iter().all(|delivery| delivery.reason.as_deref() == Some("filter")));
    wait_for(&engine, DeliveryState::Delivered, 13).await;
    let mut wanted: Vec<_> = receiver.received().into_iter().filter(|request| request.path == "/").collect();
    wanted.sort_by_key(|request| numbers(std::slice::from_ref(request)));
    assert_eq!(numbers(&wanted), [7, 8, 9]);
    stop(engine).await;

    // It holds after a restart, until it is taken back.
    let engine = start(folder.path()).await;
    publish(&engine, "a.b", 1).await;
    wait_for(&engine, DeliveryState::Skipped, 8).await;
    change(&engine, &webhook, patch(r#"{"filter": null}"#)).await;
    publish(&engine, "a.b", 1).await;
    wait_for(&engine, DeliveryState::Delivered, 16).await;
    stop(engine).await;
}

// --- the shape ---

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_gets_the_shape_it_wants_signed_and_with_its_content_type() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    let receiver = TestReceiver::healthy().await;
    let webhook = subscribe(&engine, "chat", ">", &receiver.url("/")).await;
    let shape = r#"{"shape": {"template": "{{ event.topic }} of {{ tenant }} has {{ event.payload.n }}", "content_type": "text/plain"}}"#;
    change(&engine, &webhook, patch(shape)).await;
    publish(&engine, "a.b", 1).await;
    let request = &receiver.wait_for(1).await[0];
    assert_eq!(request.body, "a.b of default has 0");
    assert_eq!(request.header("content-type"), "text/plain");
    let keys = &webhook.settings.receiver.keys;
    postrider::signing::verify_decnet(&keys.decnet, &request.headers, &request.body).expect("what is sent is signed");
    let tried = engine.test_webhook(DEFAULT_TENANT, webhook.uuid, None).await.unwrap().expect("it has a body");
    assert_eq!(tried.error, None);
    assert!(receiver.wait_for(2).await[1].body.starts_with(b"test.ping of default has "));
    change(&engine, &webhook, patch(r#"{"shape": "cloudevents", "content_type": "application/vnd.own+json"}"#)).await;
    publish(&engine, "a.b", 1).await;
    let request = &receiver.wait_for(3).await[2];
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    assert_eq!(body["specversion"], "1.0");
    assert_eq!(request.header("content-type"), "application/vnd.own+json", "the webhook's own goes before");
    stop(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_never_ends_costs_its_own_delivery_only() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    let (hostile, healthy) = (TestReceiver::healthy().await, TestReceiver::healthy().await);
    let webhook = subscribe(&engine, "hostile", ">", &hostile.url("/")).await;
    let list = "event.payload.list";
    let endless = format!(
        "{{% for a in {list} %}}{{% for b in {list} %}}{{% for c in {list} %}}{{{{ c }}}}{{% endfor %}}{{% endfor %}}{{% endfor %}}"
    );
    change(&engine, &webhook, patch(&format!(r#"{{"shape": {{"template": "{endless}"}}}}"#))).await;
    subscribe(&engine, "healthy", ">", &healthy.url("/")).await;
    let payload = serde_json::json!({ "list": (0..500).collect::<Vec<_>>() }).to_string();
    let topic = Topic::parse("a.b").unwrap();
    let event = || Event::new(topic.clone(), "long", &payload, UnixMicros(0)).unwrap();
    engine.publish(DEFAULT_TENANT, (0..20).map(|_| event()).collect()).await.unwrap();
    let dead = wait_for(&engine, DeliveryState::Dead, 20).await;
    let reason = dead[0].reason.as_deref().unwrap_or_default();
    assert!(reason.starts_with("shape: line "), "{reason}");
    assert_eq!((dead[0].attempts, dead[0].status_code), (0, None));
    assert_eq!(healthy.wait_for(20).await.len(), 20);
    assert_eq!(hostile.received_count(), 0);
    let record = record(&engine, &webhook).await;
    assert_eq!((record.health.consecutive_failures, record.health.auto_disabled_at), (0, None));
    stop(engine).await;
}

// --- the rate ---

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_holds_over_a_restart_and_for_batches_of_workers() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    let receiver = TestReceiver::healthy().await;
    let webhook = subscribe(&engine, "slow", ">", &receiver.url("/")).await;
    change(&engine, &webhook, patch(r#"{"rate_limit": {"per_s": 20, "burst": 4}}"#)).await;
    let began = Instant::now();
    publish(&engine, "a.b", 40).await;
    receiver.wait_for(12).await;
    stop(engine).await;
    let engine = start(folder.path()).await;
    wait_for(&engine, DeliveryState::Delivered, 40).await;
    stop(engine).await;

    let requests = receiver.received();
    assert_eq!(requests.len(), 40);
    // 40 at 20 a second after a burst of 4 that a fresh limit has not earned.
    assert!(began.elapsed() >= Duration::from_millis(1_750), "{:?}", began.elapsed());
    // The last of any 14 begin half a second after the first: 4 and 10. A request may be late, which brings two closer.
    for window in requests.windows(15) {
        let time = window[14].at - window[0].at;
        assert!(time >= Duration::from_millis(400), "15 requests within {time:?}");
    }
}

// --- the order ---

/// Each event is tried until it is taken or dead, before the next one is tried at all.
fn assert_ordered(requests: &[Received]) {
    let mut last = 0;
    for number in numbers(requests) {
        assert!(number == last || number == last + 1, "{number} after {last}: {:?}", numbers(requests));
        last = number;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordered_webhook_gets_each_event_after_the_one_before_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let calm = CircuitSettings { threshold: 1_000, ..settings().circuit };
    let settings = DispatcherSettings {
        circuit: calm,
        retry_schedule: Schedule::from_seconds(&[0.0, 0.02]).unwrap(),
        max_lane_deliveries: 16,
        ..settings()
    };
    // Some fail once, some for good, each by its number.
    let receiver = TestReceiver::start(|n, request| {
        let n_event = numbers(std::slice::from_ref(request))[0];
        match n_event % 7 {
            3 if n % 3 == 0 => 503.into(),
            5 => Answer(500, Duration::from_millis(1)),
            6 => 404.into(),
            _ => 200.into(),
        }
    })
    .await;
    let engine = start_with(folder.path(), settings.clone()).await;
    let webhook = subscribe(&engine, "ordered", ">", &receiver.url("/")).await;
    change(&engine, &webhook, patch(r#"{"ordered": true}"#)).await;
    publish(&engine, "a.b", 100).await;
    receiver.wait_for(40).await;
    stop(engine).await;
    let engine = start_with(folder.path(), settings).await;
    let stats = async {
        loop {
            let stats = engine.store().stats(DEFAULT_TENANT).await.unwrap();
            if stats.pending == 0 {
                return stats;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let stats = tokio::time::timeout(Duration::from_mins(1), stats).await.expect("all end");
    assert_eq!(stats.delivered + stats.dead, 100);
    assert!(stats.dead >= 28, "{stats:?}");
    assert_eq!(receiver.peak(), 1);
    let requests = receiver.received();
    assert_ordered(&requests);
    assert_eq!(numbers(&requests).last(), Some(&99));
    stop(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_ordered_webhook_waits_for_can_be_discarded() {
    let folder = tempfile::tempdir().unwrap();
    let patient = DispatcherSettings { retry_schedule: Schedule::from_seconds(&[3_600.0]).unwrap(), ..settings() };
    let engine = start_with(folder.path(), patient).await;
    let receiver = TestReceiver::start(|n, _| if n == 0 { 503.into() } else { 200.into() }).await;
    let sentinel = Sentinel::new(&engine).await;
    let webhook = subscribe(&engine, "ordered", ">", &receiver.url("/")).await;
    change(&engine, &webhook, patch(r#"{"ordered": true}"#)).await;
    publish(&engine, "a.b", 10).await;
    receiver.wait_for(1).await;
    let waiting = wait_for(&engine, DeliveryState::Pending, 10).await;
    sentinel.pass(&engine, Duration::from_millis(50)).await;
    assert_eq!(receiver.received_count(), 1, "the others wait for the first");
    let first = waiting.iter().min_by_key(|delivery| delivery.key.event).expect("ten");
    let discarded = async {
        while engine.discard_delivery(DEFAULT_TENANT, first.key, "skipped by hand").await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), discarded).await.expect("the attempt ends");
    wait_for(&engine, DeliveryState::Delivered, 9).await;
    assert_ordered(&receiver.received());
    stop(engine).await;
}

// --- batches ---

fn batch_of(request: &Received) -> Vec<Value> {
    let body: Value = serde_json::from_slice(&request.body).expect("JSON");
    assert_eq!(body["v"], 1);
    assert_eq!(body["id"], request.header("webhook-id"));
    body["events"].as_array().expect("a list of events").clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_gathered_into_signed_batches_and_each_is_its_own_delivery() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    let receiver = TestReceiver::start(|n, _| if n == 1 { 503.into() } else { 200.into() }).await;
    let webhook = subscribe(&engine, "batches", ">", &receiver.url("/")).await;
    change(&engine, &webhook, patch(r#"{"batch": {"max_events": 10, "max_wait_ms": 300}}"#)).await;
    let began = Instant::now();
    publish(&engine, "a.b", 25).await;
    let delivered = wait_for(&engine, DeliveryState::Delivered, 25).await;
    assert!(began.elapsed() >= Duration::from_millis(290), "the last five wait for others");
    assert_eq!(delivered.iter().filter(|delivery| delivery.attempts == 2).count(), 10, "one batch was tried again");
    let requests = receiver.received();
    let mut sizes: Vec<_> = requests.iter().map(|request| batch_of(request).len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [5, 10, 10, 10]);
    let mut arrivals: HashMap<String, usize> = HashMap::new();
    for event in requests.iter().flat_map(batch_of) {
        *arrivals.entry(event["id"].as_str().expect("an id").to_owned()).or_default() += 1;
    }
    assert_eq!(arrivals.len(), 25);
    let keys = &webhook.settings.receiver.keys;
    for request in &requests {
        let now = SystemClock.now();
        postrider::signing::verify_decnet(&keys.decnet, &request.headers, &request.body).expect("it is signed");
        postrider::signing::verify_standard(&keys.standard, &request.headers, &request.body, now, 60)
            .expect("it is signed");
        assert_eq!(request.header("x-decnet-event-topic"), "a.b");
    }
    stop(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_keep_to_their_size_in_bytes_and_to_the_order() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    let receiver = TestReceiver::start(|n, _| if n % 4 == 1 { 500.into() } else { 200.into() }).await;
    let webhook = subscribe(&engine, "batches", ">", &receiver.url("/")).await;
    let settings = r#"{"ordered": true, "batch": {"max_events": 50, "max_wait_ms": 20, "max_bytes": 2048}}"#;
    change(&engine, &webhook, patch(settings)).await;
    publish(&engine, "a.b", 120).await;
    wait_for(&engine, DeliveryState::Delivered, 120).await;
    let mut expected = 0;
    for request in receiver.received() {
        assert!(request.body.len() <= 2_048 + 200, "{} bytes", request.body.len());
        let numbers: Vec<_> = batch_of(&request).iter().map(|event| event["payload"]["n"].as_u64().unwrap()).collect();
        assert!(numbers.is_sorted() && numbers[0] <= expected, "{numbers:?} when {expected} is next");
        expected = expected.max(numbers[numbers.len() - 1] + 1);
    }
    assert_eq!(receiver.peak(), 1);
    stop(engine).await;
}

// --- the server's own events ---

fn topics(requests: &[Received]) -> Vec<String> {
    requests.iter().map(|request| request.header("x-decnet-event-topic").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_are_told_of_circuits_dead_deliveries_and_webhooks_that_are_gone() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start_with(folder.path(), with_cool_down(Duration::from_millis(100))).await;
    let (told, everything) = (TestReceiver::healthy().await, TestReceiver::healthy().await);
    subscribe(&engine, "everything", ">", &everything.url("/")).await;
    let (status, receiver) = switchable(503).await;
    let webhook = subscribe(&engine, "sick", "a.>", &receiver.url("/")).await;
    subscribe(&engine, "operators", "postrider.>", &told.url("/")).await;

    publish(&engine, "a.b", 1).await;
    wait_until(&engine, &webhook, |found| found.health.auto_disabled_at.is_some()).await;
    status.store(200, Ordering::SeqCst);
    told.wait_for(4).await;
    assert_eq!(
        topics(&told.received()),
        ["created", "failing", "opened", "recovered"].map(|t| format!("postrider.webhook.{t}"))
    );
    status.store(404, Ordering::SeqCst);
    publish(&engine, "a.b", 1).await;
    told.wait_for(5).await;
    status.store(410, Ordering::SeqCst);
    publish(&engine, "a.b", 1).await;
    let requests = told.wait_for(6).await;
    assert_eq!(topics(&requests)[4..], ["postrider.delivery.dead", "postrider.webhook.gone"]);
    let dead: Value = serde_json::from_slice(&requests[4].body).unwrap();
    let payload = &dead["payload"];
    assert_eq!(payload["webhook"]["name"], "sick");
    assert_eq!(payload["error"], "non-retryable 404");
    assert_eq!(payload["delivery"]["status_code"], 404);
    assert_eq!(payload["event"]["topic"], "a.b");
    assert!(payload["event"]["body_excerpt"].as_str().unwrap().contains(r#""payload":{"n":0}"#));
    let id = payload["delivery"]["id"].as_str().unwrap();
    assert_eq!(payload["delivery"]["link"], format!("/api/v1/deliveries/{id}"));
    assert_eq!(topics(&everything.wait_for(3).await), ["a.b", "a.b", "a.b"], "`>` is not about the server");
    stop(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_own_events_never_go_round_in_circles() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start_with(folder.path(), with_cool_down(Duration::from_millis(50))).await;
    let sentinel = Sentinel::new(&engine).await;
    let (_, receiver) = switchable(404).await;
    for name in ["one", "other"] {
        subscribe(&engine, name, "postrider.>", &receiver.url(&format!("/{name}"))).await;
    }
    let webhook = subscribe(&engine, "all", "a.>", &receiver.url("/all")).await;
    change(&engine, &webhook, patch(r#"{"topic_patterns": ["a.>", "postrider.>"]}"#)).await;
    // That the webhooks were made is told too.
    let before = engine.store().stats(DEFAULT_TENANT).await.unwrap().events;
    publish(&engine, "a.b", 3).await;
    // Three dead deliveries, told to three webhooks that are dead themselves; and no event of that.
    let own = |stats: postrider::store::Stats| stats.events - 3 - before;
    let stats = async {
        loop {
            let stats = engine.store().stats(DEFAULT_TENANT).await.unwrap();
            if own(stats) >= 3 && stats.pending == 0 {
                return stats;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let stats = tokio::time::timeout(Duration::from_secs(20), stats).await.expect("all end");
    sentinel.pass(&engine, Duration::from_millis(50)).await;
    let later = engine.store().stats(DEFAULT_TENANT).await.unwrap();
    assert_eq!(later.events, stats.events, "nothing comes of them");
    assert!(own(stats) <= 6, "{stats:?}");
    stop(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_may_use_the_servers_topics() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    let mut events = engine::events("a.b", 2);
    events.extend(engine::events("postrider.webhook.gone", 1));
    let refused = engine.publish(DEFAULT_TENANT, events).await;
    assert!(matches!(refused, Err(PublishError::ReservedTopic { index: 2 })), "{refused:?}");
    assert_eq!(engine.store().stats(DEFAULT_TENANT).await.unwrap().events, 0);
    stop(engine).await;
}
