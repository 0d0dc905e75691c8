//! Batches: their bodies, and what becomes of their events when a receiver refuses some of them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postrider::delivery::DeliveryState;
use postrider::dispatcher::{CircuitSettings, DispatcherSettings};
use postrider::engine::Engine;
use postrider::webhook::WebhookRecord;
use serde_json::Value;

use super::support::engine::{
    change, deliveries, events, patch, publish, record, settings, start, start_with, stop, subscribe, wait_for,
};
use super::support::receiver::{Received, TestReceiver};
use postrider::webhook::DEFAULT_TENANT;

/// The numbers of the events in a body with `"n":…` in each of them.
fn numbers(request: &Received) -> Vec<u32> {
    let text = String::from_utf8_lossy(&request.body).replace(' ', "");
    let number = |rest: &str| rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse();
    text.split("\"n\":").skip(1).filter_map(|rest| number(rest).ok()).collect()
}

/// A receiver that answers `refusal` to requests with one of the `bad` events.
async fn picky(bad: &'static [u32], refusal: u16) -> TestReceiver {
    let answer = move |_: usize, request: &Received| {
        let has_bad = numbers(request).iter().any(|n| bad.contains(n));
        if has_bad { refusal.into() } else { 200.into() }
    };
    TestReceiver::start(answer).await
}

async fn with_batches(engine: &Arc<Engine>, receiver: &TestReceiver, more: &str) -> WebhookRecord {
    let webhook = subscribe(engine, "many", ">", &receiver.url("/")).await;
    let settings = format!(r#"{{"batch": {{"max_events": 64, "max_wait_ms": 300}}{more}}}"#);
    change(engine, &webhook, patch(&settings)).await;
    webhook
}

/// How often each event was in a request that was accepted.
fn taken(receiver: &TestReceiver, bad: &[u32]) -> HashMap<u32, u32> {
    let mut taken = HashMap::new();
    for numbers in receiver.received().iter().map(numbers) {
        if !numbers.iter().any(|n| bad.contains(n)) {
            for n in numbers {
                *taken.entry(n).or_default() += 1;
            }
        }
    }
    taken
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_refused_takes_no_other_of_its_batch_with_it() {
    for (status, order) in [(400, ""), (413, r#", "ordered": true"#), (422, r#", "max_in_flight": 1"#)] {
        let folder = tempfile::tempdir().unwrap();
        let engine = start(folder.path()).await;
        let bad: &[u32] = &[13, 61];
        let receiver = picky(bad, status).await;
        let webhook = with_batches(&engine, &receiver, order).await;
        publish(&engine, "a.b", 64).await;
        let dead = wait_for(&engine, DeliveryState::Dead, 2).await;
        wait_for(&engine, DeliveryState::Delivered, 62).await;
        assert_eq!(dead[0].reason.as_deref(), Some(&*format!("non-retryable {status}")));
        // 64, 32, 16, 8, 4, 2, 1: each is an attempt, and none of them counts against the schedule.
        assert!(dead.iter().all(|delivery| delivery.attempts == 7), "{dead:?}");
        let attempts = engine.store().attempts(dead[0].key).await.unwrap();
        assert_eq!(attempts.len(), 7);
        assert!(attempts.iter().all(|attempt| attempt.status_code == Some(status)), "{attempts:?}");
        let taken = taken(&receiver, bad);
        assert!(taken.len() == 62 && taken.values().all(|times| *times == 1), "{taken:?}");
        assert!(receiver.received_count() <= 1 + 2 * 2 * 6, "{} requests", receiver.received_count());
        let health = record(&engine, &webhook).await.health;
        assert_eq!((health.consecutive_failures, health.auto_disabled_at), (0, None), "{status}");
        if order.contains("ordered") {
            let sent: Vec<_> = receiver.received().iter().map(numbers).collect();
            let is_taken = |numbers: &Vec<u32>| !numbers.iter().any(|n| bad.contains(n));
            let arrived: Vec<_> = sent.into_iter().filter(is_taken).flatten().collect();
            assert!(arrived.is_sorted(), "{arrived:?}");
        }
        stop(engine).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_in_which_all_are_refused_ends_with_a_bounded_number_of_requests() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    let receiver = TestReceiver::start(|_, _| 415.into()).await;
    with_batches(&engine, &receiver, "").await;
    publish(&engine, "a.b", 64).await;
    wait_for(&engine, DeliveryState::Dead, 64).await;
    assert!(receiver.received_count() < 2 * 64, "{} requests", receiver.received_count());
    stop(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_at_which_a_receiver_fails_ends_alone() {
    let folder = tempfile::tempdir().unwrap();
    let circuit = CircuitSettings { cool_down: Duration::from_millis(50), ..settings().circuit };
    let engine = start_with(folder.path(), DispatcherSettings { circuit, ..settings() }).await;
    let bad: &[u32] = &[7];
    let receiver = picky(bad, 500).await;
    with_batches(&engine, &receiver, "").await;
    publish(&engine, "a.b", 64).await;
    let dead = wait_for(&engine, DeliveryState::Dead, 1).await;
    assert_eq!((dead[0].reason.as_deref(), dead[0].attempts), (Some("http 500"), 4));
    wait_for(&engine, DeliveryState::Delivered, 63).await;
    assert!(taken(&receiver, bad).values().all(|times| *times == 1));
    stop(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_in_the_middle_of_a_refused_batch_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    let bad: &[u32] = &[40];
    let receiver = TestReceiver::start(move |_, request| {
        let has_bad = numbers(request).iter().any(|n| bad.contains(n));
        super::support::receiver::Answer(if has_bad { 422 } else { 200 }, Duration::from_millis(20))
    })
    .await;
    let webhook = with_batches(&engine, &receiver, "").await;
    publish(&engine, "a.b", 64).await;
    receiver.wait_for(2).await;
    for _ in 0..4 {
        change(&engine, &webhook, patch(r#"{"paused": true}"#)).await;
        tokio::time::sleep(Duration::from_millis(30)).await;
        change(&engine, &webhook, patch(r#"{"paused": false}"#)).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    wait_for(&engine, DeliveryState::Dead, 1).await;
    wait_for(&engine, DeliveryState::Delivered, 63).await;
    assert!(taken(&receiver, bad).values().all(|times| *times == 1));
    stop(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_has_the_form_that_its_receiver_takes() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    let receiver = TestReceiver::healthy().await;
    let lines = r#", "format": "lines""#;
    let template = r#"{"template": "{{ event.payload.n }} at {{ event.topic }}", "content_type": "text/plain"}"#;
    // The shape, the format, the content type, and the beginning of the body.
    let cases = [
        ("\"payload\"", "", "application/json", r#"[{"n":0},{"n":1}]"#),
        ("\"payload\"", lines, "application/x-ndjson", "{\"n\":0}\n{\"n\":1}\n"),
        ("\"decnet\"", lines, "application/x-ndjson", "{\"id\":"),
        ("\"decnet\"", r#", "format": "array""#, "application/json", "[{\"id\":"),
        ("\"cloudevents\"", "", "application/cloudevents-batch+json; charset=utf-8", "[{\n  \"specversion\""),
        ("\"splunk_hec\"", "", "application/json", "{"),
        ("\"wazuh\"", "", "application/json", "{\"events\": [\""),
        ("\"syslog\"", "", "text/plain; charset=utf-8", "<133>1 "),
        (template, "", "text/plain", "0 at to.8\n1 at to.8\n"),
    ];
    for (place, (shape, format, content_type, body)) in cases.into_iter().enumerate() {
        let topic = format!("to.{place}");
        let webhook = subscribe(&engine, &topic, &topic, &receiver.url("/")).await;
        let batch = format!(r#"{{"shape": {shape}, "batch": {{"max_events": 2, "max_wait_ms": 60000{format}}}}}"#);
        change(&engine, &webhook, patch(&batch)).await;
        publish(&engine, &topic, 2).await;
        let request = receiver.wait_for(place + 1).await.swap_remove(place);
        let text = String::from_utf8_lossy(&request.body);
        assert_eq!(request.header("content-type"), content_type, "{shape}");
        assert!(text.starts_with(body), "{shape}{format}: {text}");
    }
    wait_for(&engine, DeliveryState::Delivered, 2 * 9).await;
    stop(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_body_ends_and_what_does_not_fit_goes_in_the_next_request() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    let receiver = TestReceiver::healthy().await;
    let webhook = subscribe(&engine, "large", ">", &receiver.url("/")).await;
    // Event 5 is no JSON; each of the others has a little more than 600 bytes.
    let fill = "x".repeat(600);
    let template = format!(
        r#"{{\"n\": {{{{ event.payload.n }}}}, \"fill\": \"{fill}{{% if event.payload.n == 5 %}}\"\"{{% endif %}}\"}}"#
    );
    let settings = format!(
        r#"{{"shape": {{"template": "{template}"}}, "batch": {{"max_events": 10, "max_wait_ms": 100, "max_bytes": 2048}}}}"#
    );
    change(&engine, &webhook, patch(&settings)).await;
    publish(&engine, "a.b", 10).await;
    let dead = wait_for(&engine, DeliveryState::Dead, 1).await;
    assert!(dead[0].reason.as_deref().unwrap().starts_with("shape: the result is no JSON"), "{dead:?}");
    wait_for(&engine, DeliveryState::Delivered, 9).await;
    let sizes: Vec<_> = receiver.received().iter().map(|request| (numbers(request), request.body.len())).collect();
    assert!(sizes.iter().all(|(_, bytes)| *bytes <= 2048 + 64), "{sizes:?}");
    let sent: Vec<_> = sizes.iter().flat_map(|(numbers, _)| numbers.clone()).collect();
    assert_eq!(sent, [0, 1, 2, 3, 4, 6, 7, 8, 9], "{sizes:?}");
    stop(engine).await;
}

/// As Elasticsearch answers `_bulk`: `bad` documents do not fit the mapping, and the answer to the first request is lost.
async fn elasticsearch(bad: u32, index: &Arc<Mutex<BTreeMap<String, Value>>>) -> TestReceiver {
    let index = Arc::clone(index);
    let answer = move |count: usize, request: &Received| {
        assert_eq!(request.header("content-type"), "application/x-ndjson");
        let lines = std::str::from_utf8(&request.body).unwrap().lines();
        let lines: Vec<Value> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
        let mut index = index.lock().unwrap();
        let mut items = Vec::new();
        for pair in lines.chunks(2) {
            let id = pair[0]["create"]["_id"].as_str().unwrap().to_owned();
            let status = if pair[1]["postrider"]["payload"]["n"] == bad {
                400
            } else if index.contains_key(&id) {
                409
            } else {
                201
            };
            if status == 201 {
                index.insert(id.clone(), pair[1].clone());
            }
            items.push(format!(r#"{{"create":{{"_index":"logs","_id":"{id}","status":{status}}}}}"#));
        }
        let has_errors = items.iter().any(|item| !item.contains("201"));
        // With blanks, as programs other than Elasticsearch print it.
        let body = format!(r#"{{"took": 7, "errors": {has_errors}, "items": [{}]}}"#, items.join(", "));
        (if count == 0 { 504 } else { 200 }.into(), None, body)
    };
    TestReceiver::start_answering(answer).await
}

#[tokio::test(flavor = "multi_thread")]
async fn elasticsearch_takes_each_document_once_and_one_that_it_refuses_ends_alone() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    let index = Arc::default();
    let receiver = elasticsearch(3, &index).await;
    let webhook = subscribe(&engine, "siem", ">", &receiver.url("/logs-x/_bulk")).await;
    change(&engine, &webhook, patch(r#"{"shape": "elastic_ecs", "batch": {"max_events": 20, "max_wait_ms": 200}}"#))
        .await;
    engine.publish(DEFAULT_TENANT, events("a.b", 20)).await.unwrap();
    let dead = wait_for(&engine, DeliveryState::Dead, 1).await;
    assert_eq!((dead[0].reason.as_deref(), dead[0].attempts), (Some("non-retryable 400"), 2));
    wait_for(&engine, DeliveryState::Delivered, 19).await;
    assert_eq!(index.lock().unwrap().len(), 19);
    assert!(deliveries(&engine, DeliveryState::Delivered).await.iter().all(|delivery| delivery.attempts == 2));
    assert_eq!(record(&engine, &webhook).await.health.consecutive_failures, 0);
    stop(engine).await;
}
