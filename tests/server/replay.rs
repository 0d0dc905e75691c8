//! Replay, resending and idempotency over real HTTP: what the receiver got, also over a restart and a crash.

use std::collections::HashSet;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::Method;
use postrider::serve::ServeSettings;
use serde_json::{Value, json};

use crate::support::program;
use crate::support::program::Program;
use crate::support::receiver::TestReceiver;
use crate::support::server::{TestServer, settings};

/// Refuses what it gets with 404 until it is made well.
struct Patient {
    receiver: TestReceiver,
    is_well: Arc<AtomicBool>,
}

impl Patient {
    async fn start() -> Self {
        let is_well = Arc::new(AtomicBool::new(false));
        let well = Arc::clone(&is_well);
        let receiver =
            TestReceiver::start(move |_, _| if well.load(Ordering::SeqCst) { 200.into() } else { 404.into() }).await;
        Self { receiver, is_well }
    }

    fn heal(&self) {
        self.is_well.store(true, Ordering::SeqCst);
    }
}

/// A server whose circuits never open: so many may die.
async fn server(folder: &Path) -> TestServer {
    let mut settings: ServeSettings = settings(folder);
    settings.dispatcher.circuit.threshold = u32::MAX;
    settings.admin_token = Some(program::TOKEN.into());
    let mut server = TestServer::start_with(settings).await;
    program::TOKEN.clone_into(&mut server.admin);
    server
}

fn batch(topic: &str, name: &str, count: usize) -> String {
    let events =
        (0..count).map(|number| json!({"id": format!("{name}-{number}"), "topic": topic, "payload": {"n": 1}}));
    events.collect::<Value>().to_string()
}

async fn publish(server: &TestServer, topic: &str, name: &str, count: usize) {
    server.post("/api/v1/events/batch", &batch(topic, name, count)).await.expect(202);
}

async fn wait_for_stat(server: &TestServer, stat: &str, count: usize) -> Value {
    server.wait_for("/api/v1/stats", |stats| stats[stat] == count && stats["pending"] == 0).await
}

/// The job at its end.
async fn ended(server: &TestServer, job: &Value) -> Value {
    let path = format!("/api/v1/replays/{}", job["uuid"].as_str().unwrap());
    server.wait_for(&path, |job| !matches!(job["state"].as_str(), Some("queued" | "running"))).await
}

fn uuid(webhook: &Value) -> &str {
    webhook["uuid"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_deliveries_are_made_again_and_others_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path()).await;
    let (patient, healthy) = (Patient::start().await, TestReceiver::healthy().await);
    let sick = server.webhook("sick", &patient.receiver.url("/"), ">").await;
    server.webhook("well", &healthy.url("/"), ">").await;
    publish(&server, "attacker.seen", "a", 120).await;
    publish(&server, "system.up", "s", 30).await;
    wait_for_stat(&server, "dead", 150).await;
    patient.heal();

    let path = format!("/api/v1/webhooks/{}/replay", uuid(&sick));
    let job = server.post(&path, r#"{"topic": "attacker.>"}"#).await.expect(202);
    let job = ended(&server, &job).await;
    assert_eq!((&job["state"], &job["changed"], &job["progress"]), (&json!("done"), &json!(120), &json!(1.0)));
    let stats = wait_for_stat(&server, "delivered", 150 + 120).await;
    assert_eq!((&stats["dead"], &stats["attempts"]), (&json!(30), &json!(300 + 120)));

    // The rest, of all webhooks.
    let job = server.call("POST", "/api/v1/deliveries/retry", &server.admin, "").await.expect(202);
    assert_eq!((&job["webhook_uuid"], &job["action"]), (&Value::Null, &json!("replay")));
    assert_eq!(ended(&server, &job).await["changed"], 30);
    wait_for_stat(&server, "delivered", 300).await;
    assert_eq!(patient.receiver.received_count(), 300);
    assert_eq!(healthy.received_count(), 150, "what was delivered is not delivered again");

    // Unless it is asked for.
    let path = format!("/api/v1/webhooks/{}/replay", uuid(&sick));
    let job = server.post(&path, r#"{"states": ["delivered"], "topic": "system.up"}"#).await.expect(202);
    assert_eq!(ended(&server, &job).await["changed"], 30);
    let stats = wait_for_stat(&server, "delivered", 300).await;
    assert_eq!(stats["attempts"], 480);
    let jobs = server.get("/api/v1/replays?state=done").await.expect(200);
    assert_eq!(jobs["items"].as_array().unwrap().len(), 3);
    let of_sick = server.get(&format!("/api/v1/replays?webhook={}", uuid(&sick))).await.expect(200);
    assert_eq!(of_sick["items"].as_array().unwrap().len(), 2);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_gets_what_it_would_have_matched_before_it_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path()).await;
    let receiver = TestReceiver::healthy().await;
    publish(&server, "attacker.seen", "a", 10).await;
    publish(&server, "system.up", "s", 10).await;
    let late = server.webhook("late", &receiver.url("/"), "attacker.>").await;
    publish(&server, "attacker.seen", "b", 5).await;
    wait_for_stat(&server, "delivered", 5).await;

    let path = format!("/api/v1/webhooks/{}/replay", uuid(&late));
    let job = server.post(&path, r#"{"include_unmatched": true}"#).await.expect(202);
    assert_eq!(ended(&server, &job).await["changed"], 10);
    wait_for_stat(&server, "delivered", 15).await;
    let event = server.get("/api/v1/events/a-3").await.expect(200);
    assert_eq!((&event["deliveries"], &event["delivery_page"]["items"][0]["state"]), (&json!(1), &json!("delivered")));
    let arrivals = receiver.arrivals();
    assert!(arrivals.len() == 15 && arrivals.values().all(|count| *count == 1), "{arrivals:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_event_is_sent_again_to_all_or_to_one() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path()).await;
    let receiver = TestReceiver::healthy().await;
    for name in ["a", "b"] {
        server.webhook(name, &receiver.url(&format!("/{name}")), "attacker.>").await;
    }
    let other = server.webhook("other", &receiver.url("/other"), "system.>").await;
    publish(&server, "attacker.seen", "e", 1).await;
    wait_for_stat(&server, "delivered", 2).await;

    let resent = server.call("POST", "/api/v1/events/e-0/resend", &server.admin, "").await.expect(202);
    assert_eq!(resent, json!({"id": "e-0", "deliveries": 2, "under_way": 0}));
    receiver.wait_for(4).await;
    wait_for_stat(&server, "delivered", 2).await;
    let to_other = json!({"webhook": uuid(&other)}).to_string();
    assert_eq!(server.post("/api/v1/events/e-0/resend", &to_other).await.expect(202)["deliveries"], 1);
    wait_for_stat(&server, "delivered", 3).await;
    let mut paths: Vec<_> = receiver.received().into_iter().map(|request| request.path).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["/a", "/a", "/b", "/b", "/other"]);

    server.post("/api/v1/events/nothing/resend", "{}").await.expect(404);
    let nobody = json!({"webhook": uuid::Uuid::new_v4()}).to_string();
    server.post("/api/v1/events/e-0/resend", &nobody).await.expect(404);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_are_discarded_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path()).await;
    let patient = Patient::start().await;
    let sick = server.webhook("sick", &patient.receiver.url("/"), ">").await;
    publish(&server, "a.b", "e", 40).await;
    wait_for_stat(&server, "dead", 40).await;
    let body = json!({"webhook": uuid(&sick), "reason": "known"}).to_string();
    let job = server.post("/api/v1/deliveries/discard", &body).await.expect(202);
    assert_eq!((&job["action"], &job["discard_reason"]), (&json!("discard"), &json!("known")));
    assert_eq!(ended(&server, &job).await["changed"], 40);
    wait_for_stat(&server, "discarded", 40).await;
    let shown = server.get("/api/v1/deliveries?state=discarded").await.expect(200);
    assert_eq!(shown["items"][0]["reason"], "known");
    assert_eq!(patient.receiver.received_count(), 40);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_job_cannot_be_told_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path()).await;
    let receiver = TestReceiver::healthy().await;
    let webhook = server.webhook("w", &receiver.url("/"), ">").await;
    let path = format!("/api/v1/webhooks/{}/replay", uuid(&webhook));
    for (body, field, reason) in [
        (r#"{"states": ["pending"]}"#, "states", "is not possible here, only delivered, dead"),
        (r#"{"states": ["lost"]}"#, "states", "is none of pending"),
        (r#"{"states": []}"#, "states", "must name a state"),
        (r#"{"topic": "a..b"}"#, "topic", ""),
        (r#"{"since": "yesterday"}"#, "since", "neither RFC 3339 nor unix seconds"),
        (r#"{"since": "20", "until": "10"}"#, "until", "must be after"),
        (r#"{"rate_per_s": 0}"#, "rate_per_s", "is 0, must be 1 to 10000"),
        (r#"{"rate_per_s": 10001}"#, "rate_per_s", "must be 1 to 10000"),
        (r#"{"state": "dead"}"#, "state", "unknown field"),
    ] {
        server.post(&path, body).await.expect_refusal(422, field, reason);
    }
    let discard = "/api/v1/deliveries/discard";
    server.post(discard, r#"{"states": ["delivered"], "reason": "x"}"#).await.expect_refusal(
        422,
        "states",
        "only pend",
    );
    server.post(discard, r#"{"reason": " "}"#).await.expect_refusal(422, "reason", "must have 1 to 255");
    let long = json!({"reason": "x".repeat(256)}).to_string();
    server.post(discard, &long).await.expect_refusal(422, "reason", "must have 1 to 255");
    let reader = server.token(r#"["read", "publish"]"#).await;
    assert_eq!(server.call("POST", &path, &reader, "{}").await.status, 403);
    let nobody = uuid::Uuid::new_v4();
    server.post(&format!("/api/v1/webhooks/{nobody}/replay"), "{}").await.expect(404);
    server.get(&format!("/api/v1/replays/{nobody}")).await.expect(404);
    server.post(&format!("/api/v1/replays/{nobody}/cancel"), "").await.expect(404);
    server.get("/api/v1/replays?state=over").await.expect_refusal(422, "state", "is none of queued");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_cancelled_and_others_end_with_their_webhook() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path()).await;
    let patient = Patient::start().await;
    let sick = server.webhook("sick", &patient.receiver.url("/"), ">").await;
    publish(&server, "a.b", "e", 50).await;
    wait_for_stat(&server, "dead", 50).await;
    patient.heal();
    let path = format!("/api/v1/webhooks/{}/replay", uuid(&sick));
    let slow = server.post(&path, r#"{"rate_per_s": 1}"#).await.expect(202);
    let job = format!("/api/v1/replays/{}", uuid(&slow));
    server.wait_for(&job, |job| job["state"] == "running" && job["changed"] == 1).await;
    let cancelled = server.post(&format!("{job}/cancel"), "").await.expect(200);
    assert_eq!((&cancelled["state"], &cancelled["reason"]), (&json!("cancelled"), &json!("cancelled by an operator")));
    server.post(&format!("{job}/cancel"), "").await.expect(409);

    let doomed = server.post(&path, r#"{"rate_per_s": 1}"#).await.expect(202);
    server.call("DELETE", &format!("/api/v1/webhooks/{}", uuid(&sick)), &server.admin, "").await.expect(200);
    let doomed = ended(&server, &doomed).await;
    assert_eq!((&doomed["state"], &doomed["reason"]), (&json!("cancelled"), &json!("webhook deleted")));
    assert!(patient.receiver.received_count() < 55, "at most a few were made again");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_goes_on_after_a_restart_and_does_nothing_twice() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path()).await;
    let patient = Patient::start().await;
    let sick = server_with_dead(&server, &patient, 60).await;
    patient.heal();
    let path = format!("/api/v1/webhooks/{sick}/replay");
    let job = server.post(&path, r#"{"rate_per_s": 40}"#).await.expect(202);
    let at = format!("/api/v1/replays/{}", uuid(&job));
    server.wait_for(&at, |job| job["changed"].as_u64() >= Some(10)).await;
    server.stop().await;

    let server = self::server(folder.path()).await;
    let job = ended(&server, &job).await;
    assert_eq!((&job["state"], &job["changed"]), (&json!("done"), &json!(60)));
    let stats = wait_for_stat(&server, "delivered", 60).await;
    assert_eq!(stats["attempts"], 120);
    let arrivals = patient.receiver.arrivals();
    assert!(arrivals.len() == 60 && arrivals.values().all(|count| *count == 2), "{arrivals:?}");
    server.stop().await;
}

/// Makes a webhook with so many dead deliveries; returns its UUID.
async fn server_with_dead(server: &TestServer, patient: &Patient, count: usize) -> String {
    let sick = server.webhook("sick", &patient.receiver.url("/"), ">").await;
    publish(server, "a.b", "e", count).await;
    wait_for_stat(server, "dead", count).await;
    uuid(&sick).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_survives_a_crash() {
    const EVENTS: usize = 300;
    let folder = tempfile::tempdir().unwrap();
    let patient = Patient::start().await;
    let options = ["--log", "error", "--circuit-threshold", "100000"];
    let crashing = Program::start(folder.path(), &options, Stdio::inherit());
    let webhook = json!({"name": "w", "url": patient.receiver.url("/"), "topic_patterns": [">"]});
    let (status, webhook) = crashing.caller.call(Method::POST, "/api/v1/webhooks", &webhook).await;
    assert_eq!(status, 201, "{webhook}");
    let events: Value = serde_json::from_str(&batch("a.b", "e", EVENTS)).unwrap();
    assert_eq!(crashing.caller.call(Method::POST, "/api/v1/events/batch", &events).await.0, 202);
    wait_until(&crashing, "/api/v1/stats", |stats| stats["dead"] == EVENTS).await;
    patient.heal();
    let path = format!("/api/v1/webhooks/{}/replay", uuid(&webhook));
    let (status, job) = crashing.caller.call(Method::POST, &path, &json!({"rate_per_s": 200})).await;
    assert_eq!(status, 202, "{job}");
    let at = format!("/api/v1/replays/{}", uuid(&job));
    wait_until(&crashing, &at, |job| job["changed"].as_u64() >= Some(40)).await;
    crashing.kill();

    let server = Program::start(folder.path(), &options, Stdio::inherit());
    let job = wait_until(&server, &at, |job| job["state"] == "done").await;
    assert_eq!(job["changed"], EVENTS, "each was changed once");
    wait_until(&server, "/api/v1/stats", |stats| stats["delivered"] == EVENTS && stats["pending"] == 0).await;
    let arrived: HashSet<String> = patient.receiver.event_ids().into_iter().collect();
    assert_eq!(arrived.len(), EVENTS);
    assert!(
        patient.receiver.arrivals().values().all(|count| (2..=3).contains(count)),
        "once more after a crash, at most"
    );
}

async fn wait_until(server: &Program, path: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..3_000 {
        let (_, answer) = server.caller.get(path).await;
        if is_wanted(&answer) {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{path} stays as it is")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_an_idempotency_key_counts_once() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path()).await;
    let receiver = TestReceiver::healthy().await;
    server.webhook("w", &receiver.url("/"), ">").await;
    let auth = format!("Authorization: Bearer {}\r\nContent-Type: application/json\r\n", server.admin);
    let send = async |path: &str, key: &str, body: &str| {
        server.request("POST", path, &format!("{auth}Idempotency-Key: {key}\r\n"), body.as_bytes()).await
    };
    let event = r#"{"topic": "a.b"}"#;
    let first = send("/api/v1/events", "one", event).await.expect(202);
    assert_eq!((&first["deliveries"], &first["duplicate"]), (&json!(1), &json!(false)));
    let again = send("/api/v1/events", "one", event).await.expect(202);
    assert_eq!(again, json!({"id": first["id"], "deliveries": 1, "skipped": 0, "duplicate": true}));
    let other = send("/api/v1/events", "one", r#"{"topic": "a.c"}"#).await;
    assert_eq!((other.status, &other.json()["type"]), (409, &json!("urn:postrider:problem:idempotency-conflict")));
    assert_eq!(send("/api/v1/events", "two", event).await.expect(202)["duplicate"], false);

    let events = r#"[{"topic": "a.b"}, {"topic": "a.b"}]"#;
    let first = send("/api/v1/events/batch", "three", events).await.expect(202);
    let again = send("/api/v1/events/batch", "three", events).await.expect(202);
    assert_eq!((&again["accepted"], &again["duplicates"]), (&json!(0), &json!(2)));
    assert_eq!(again["events"][1]["id"], first["events"][1]["id"]);
    wait_for_stat(&server, "delivered", 4).await;
    assert_eq!(receiver.received_count(), 4);

    let longest = "k".repeat(255);
    assert_eq!(send("/api/v1/events", &longest, event).await.expect(202)["duplicate"], false);
    for (key, reason) in
        [(format!("{longest}k"), "has 256 bytes"), ("a b".to_owned(), "byte 2"), (String::new(), "has 0")]
    {
        send("/api/v1/events", &key, event).await.expect_refusal(422, "Idempotency-Key", reason);
    }
    let twice = "x\r\nIdempotency-Key: y";
    send("/api/v1/events", twice, event).await.expect_refusal(422, "Idempotency-Key", "given once");
    server.stop().await;
}
