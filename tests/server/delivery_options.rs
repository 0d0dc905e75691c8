//! What a webhook and an event may say about their delivery, by what the receiver got.

use std::sync::Arc;
use std::time::Duration;

use postrider::clock::{Clock, ManualClock, SystemClock, UnixMicros};
use postrider::delivery::DeliveryState;
use postrider::delivery::retry::Schedule;
use postrider::dispatcher::DispatcherSettings;
use postrider::engine::GivenKeys;
use postrider::event::Event;
use postrider::webhook::DEFAULT_TENANT;
use serde_json::{Value, json};

use crate::support::engine::{
    Sentinel, change, patch, publish, record, settings, start, start_at, start_with, stop, subscribe, wait_for,
    wait_until,
};
use crate::support::receiver::{Answer, Received, TestReceiver};
use crate::support::server;

/// How far ahead an event is that waits for its time and no longer than it must.
const A_MOMENT: Duration = Duration::from_millis(50);

// --- pauses ---

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_webhook_keeps_its_deliveries_over_a_restart_and_makes_them_all_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    let sentinel = Sentinel::new(&engine).await;
    let receiver = TestReceiver::healthy().await;
    let webhook = subscribe(&engine, "resting", ">", &receiver.url("/")).await;
    change(&engine, &webhook, patch(r#"{"paused": true}"#)).await;
    publish(&engine, "a.b", 150).await;
    sentinel.pass(&engine, A_MOMENT).await;
    wait_for(&engine, DeliveryState::Pending, 150).await;
    stop(engine).await;

    let engine = start(folder.path()).await;
    publish(&engine, "a.b", 20).await;
    sentinel.pass(&engine, A_MOMENT).await;
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
    let sentinel = Sentinel::new(&engine).await;
    let slow = TestReceiver::start(|_, _| Answer(200, Duration::from_millis(20))).await;
    let webhook = subscribe(&engine, "mine", ">", &slow.url("/")).await;
    change(&engine, &webhook, patch(r#"{"ordered": true}"#)).await;
    publish(&engine, "a.b", 30).await;
    slow.wait_for(3).await;
    change(&engine, &webhook, patch(r#"{"paused": true}"#)).await;
    sentinel.pass(&engine, A_MOMENT).await;
    let seen = slow.received_count();
    publish(&engine, "a.b", 5).await;
    sentinel.pass(&engine, A_MOMENT).await;
    assert_eq!(slow.received_count(), seen);
    assert!(seen < 30, "{seen} of 30 were made before the pause");
    change(&engine, &webhook, patch(r#"{"enabled": true, "paused": false}"#)).await;
    wait_for(&engine, DeliveryState::Delivered, 35).await;
    let numbers: Vec<_> = slow.received().iter().map(number).collect();
    assert_eq!(numbers, (0..30).chain(0..5).collect::<Vec<_>>());
    stop(engine).await;
}

fn number(request: &Received) -> u64 {
    let body: Value = serde_json::from_slice(&request.body).expect("JSON");
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
        let refused = webhook.settings.patched(&patch(&format!(r#"{{"method": "{wrong}"}}"#))).unwrap_err();
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

// --- later ---

fn event(json: &Value, now: UnixMicros) -> Event {
    Event::from_json(json.to_string().as_bytes(), now).expect("an event")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_for_later_waits_over_a_restart_and_holds_up_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(SystemClock.now()));
    let start_here = || start_at(folder.path(), settings(), Arc::clone(&clock) as _);
    let engine = start_here().await;
    let sentinel = Sentinel::new(&engine).await;
    let receiver = TestReceiver::healthy().await;
    subscribe(&engine, "mine", ">", &receiver.url("/")).await;
    let due_at = clock.now().after(Duration::from_hours(1));
    let later = event(&json!({"topic": "a.b", "id": "later", "deliver_at": due_at.to_string()}), clock.now());
    let past = event(&json!({"topic": "a.b", "id": "past", "deliver_at": 5}), clock.now());
    let receipts = engine.publish(DEFAULT_TENANT, vec![later.clone(), past]).await.expect("they are accepted");
    assert_eq!(receipts.iter().map(|receipt| receipt.deliveries).sum::<u32>(), 2);
    publish(&engine, "a.b", 3).await;
    wait_for(&engine, DeliveryState::Delivered, 4).await;
    let waiting = wait_for(&engine, DeliveryState::Pending, 1).await;
    assert_eq!((waiting[0].event_id.as_str(), waiting[0].next_attempt_at), ("later", Some(due_at)));
    let again = engine.publish(DEFAULT_TENANT, vec![later]).await.expect("it is known");
    assert!(again[0].duplicate);
    stop(engine).await;

    let engine = start_here().await;
    clock.advance(Duration::from_secs(3_590));
    publish(&engine, "a.b", 1).await;
    receiver.wait_for(5).await;
    sentinel.send(&engine, Duration::from_secs(8)).await;
    clock.advance(Duration::from_secs(9));
    sentinel.arrived(&engine, 1).await;
    assert_eq!(receiver.received_count(), 5, "a second is left");
    clock.advance(Duration::from_secs(2));
    let requests = receiver.wait_for(6).await;
    assert_eq!(requests[5].event_id(), "later");
    let body = String::from_utf8_lossy(&requests[5].body).into_owned();
    assert!(!body.contains("deliver_at") && body.starts_with(r#"{"id":"later","payload":{},"topic":"a.b""#), "{body}");
    wait_for(&engine, DeliveryState::Delivered, 6).await;
    stop(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordered_webhook_waits_for_what_is_for_later_and_an_operator_can_end_the_wait() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    let sentinel = Sentinel::new(&engine).await;
    let receiver = TestReceiver::healthy().await;
    let webhook = subscribe(&engine, "mine", ">", &receiver.url("/")).await;
    change(&engine, &webhook, patch(r#"{"ordered": true}"#)).await;
    let now = SystemClock.now();
    for (id, delay_ms) in [("first", 600), ("second", 0), ("third", 3_600_000), ("fourth", 0)] {
        let deliver_at = now.after(Duration::from_millis(delay_ms)).to_string();
        let event = event(&json!({"topic": "a.b", "id": id, "deliver_at": deliver_at}), now);
        engine.publish(DEFAULT_TENANT, vec![event]).await.expect("it is accepted");
    }
    let began = std::time::Instant::now();
    receiver.wait_for(2).await;
    assert!(began.elapsed() >= Duration::from_millis(400), "{:?}", began.elapsed());
    sentinel.pass(&engine, A_MOMENT).await;
    assert_eq!(receiver.event_ids(), ["first", "second"]);
    let pending = wait_for(&engine, DeliveryState::Pending, 2).await;
    let third = pending.iter().find(|delivery| delivery.event_id == "third").expect("it waits");
    engine.retry_delivery(DEFAULT_TENANT, third.key).await.expect("it is made now");
    wait_for(&engine, DeliveryState::Delivered, 4).await;
    assert_eq!(receiver.event_ids(), ["first", "second", "third", "fourth"]);
    stop(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_is_off_skips_what_is_for_later_too_and_a_paused_one_keeps_it() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    let sentinel = Sentinel::new(&engine).await;
    let receiver = TestReceiver::healthy().await;
    for (name, settings) in [("off", r#"{"enabled": false}"#), ("paused", r#"{"paused": true}"#)] {
        let webhook = subscribe(&engine, name, ">", &receiver.url("/")).await;
        change(&engine, &webhook, patch(settings)).await;
    }
    let now = SystemClock.now();
    let later = now.after(Duration::from_millis(50)).to_string();
    let event = event(&json!({"topic": "a.b", "deliver_at": later}), now);
    engine.publish(DEFAULT_TENANT, vec![event]).await.expect("it is accepted");
    let skipped = wait_for(&engine, DeliveryState::Skipped, 1).await;
    assert_eq!(skipped[0].reason.as_deref(), Some("webhook disabled"));
    // Later than the other one was to be.
    sentinel.pass(&engine, Duration::from_millis(100)).await;
    assert_eq!(receiver.received_count(), 0);
    let paused = wait_for(&engine, DeliveryState::Pending, 1).await.remove(0);
    let webhook = engine.store().webhook(DEFAULT_TENANT, paused.webhook_uuid).await.unwrap().expect("it is there");
    change(&engine, &webhook, patch(r#"{"paused": false}"#)).await;
    wait_for(&engine, DeliveryState::Delivered, 1).await;
    stop(engine).await;
}

// --- directed, and dry runs ---

#[tokio::test(flavor = "multi_thread")]
async fn a_directed_event_goes_to_those_it_names_and_a_dry_run_says_who_would_get_what() {
    let folder = tempfile::tempdir().unwrap();
    let server = server::TestServer::start(folder.path()).await;
    let receiver = TestReceiver::healthy().await;
    let mut uuids = Vec::new();
    for (name, settings) in [
        ("one", json!({"topic_patterns": [">"]})),
        ("filtered", json!({"topic_patterns": [">"], "filter": {"payload": {"score": [{"numeric": [">", 5]}]}}})),
        ("off", json!({"topic_patterns": ["a.>"], "enabled": false})),
        ("other", json!({"topic_patterns": ["b.>"]})),
        ("last", json!({"topic_patterns": ["a.*"]})),
    ] {
        let mut webhook = json!({"name": name, "url": receiver.url(&format!("/{name}"))});
        webhook.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        let created = server.post("/api/v1/webhooks", &webhook.to_string()).await.expect(201);
        uuids.push(created["uuid"].as_str().unwrap().to_owned());
    }
    let dry = |event: Value| {
        let server = &server;
        async move { server.post("/api/v1/events?dry_run=true", &event.to_string()).await.expect(200) }
    };
    let told = |answer: &Value| {
        let row = |row: &Value| format!("{} {} {}", row["name"], row["would"], row["reason"]).replace('"', "");
        answer["webhooks"].as_array().unwrap().iter().map(row).collect::<Vec<_>>()
    };
    let answer = dry(json!({"topic": "a.b", "payload": {"score": 5}})).await;
    let expected = ["one deliver null", "filtered skip filter", "off skip webhook disabled", "last deliver null"];
    assert_eq!(told(&answer), expected);
    assert_eq!(answer["duplicate"], false);
    let event =
        json!({"topic": "a.b", "id": "e-1", "payload": {"score": 6}, "webhooks": [uuids[1], uuids[3], uuids[4]]});
    let expected = [
        "one skip not among `webhooks`",
        "filtered deliver null",
        "off skip not among `webhooks`",
        "last deliver null",
    ];
    assert_eq!(told(&dry(event.clone()).await), expected);
    let stats = server.get("/api/v1/stats").await.expect(200);
    assert_eq!(stats["events"], 0, "{stats}");

    let receipt = server.post("/api/v1/events", &event.to_string()).await.expect(202);
    assert_eq!(receipt["deliveries"], 2, "of those named, the ones that want the topic");
    let requests = receiver.wait_for(2).await;
    let mut paths: Vec<_> = requests.iter().map(|request| request.path.clone()).collect();
    paths.sort();
    assert_eq!(paths, ["/filtered", "/last"]);
    assert_eq!(dry(event).await["duplicate"], true);

    let nobody = "00000000-0000-4000-8000-000000000000";
    let unknown = json!([{"topic": "a.b"}, {"topic": "a.b", "webhooks": [uuids[0], nobody]}]);
    let refused = server.post("/api/v1/events/batch", &unknown.to_string()).await;
    refused.expect_refusal(422, "events[1].webhooks", nobody);
    server.post("/api/v1/events?dry_run=true", &unknown[1].to_string()).await.expect_refusal(
        422,
        "events[0].webhooks",
        nobody,
    );
    server.post("/api/v1/events?dry_run=1", r#"{"topic":"a"}"#).await.expect_refusal(422, "dry_run", "true or false");
    server.post("/api/v1/events?dryrun=true", r#"{"topic":"a"}"#).await.expect_refusal(
        422,
        "dryrun",
        "not a parameter",
    );
    let stats = server.get("/api/v1/stats").await.expect(200);
    assert_eq!(stats["events"], 1, "all of a batch or none: {stats}");

    let token = server.token(r#"["publish"]"#).await;
    let refused = server.call("POST", "/api/v1/events?dry_run=true", &token, r#"{"topic":"a.b"}"#).await;
    assert_eq!(refused.status, 403, "who may only publish does not see webhooks");
    server.stop().await;
}

// --- filters, metadata, events of changes, https ---

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_is_tried_on_a_given_event_or_a_stored_one() {
    let folder = tempfile::tempdir().unwrap();
    let server = server::TestServer::start(folder.path()).await;
    let stored = json!({"topic": "a.b", "id": "e-1", "payload": {"score": 7}});
    server.post("/api/v1/events", &stored.to_string()).await.expect(202);
    let preview = |body: Value| {
        let server = &server;
        async move { server.post("/api/v1/filters/preview", &body.to_string()).await }
    };
    let over = |limit: u32| json!({"payload": {"score": [{"numeric": [">", limit]}]}});
    for (filter, event, matches) in [
        (over(6), json!({"event": stored}), true),
        (over(7), json!({"event": stored}), false),
        (over(6), json!({"event_id": "e-1"}), true),
        (over(7), json!({"event_id": "e-1"}), false),
    ] {
        let mut body = event;
        body["filter"] = filter;
        assert_eq!(preview(body).await.expect(200), json!({ "matches": matches }));
    }
    let wrong = json!({"filter": {"payload": {"score": [{"numeric": [">"]}]}}, "event_id": "e-1"});
    preview(wrong).await.expect_refusal(422, "filter", "line 1 column");
    preview(json!({"filter": over(1)})).await.expect_refusal(422, "event", "one of `event` and `event_id`");
    preview(json!({"filter": over(1), "event": {"topic": "a.*"}})).await.expect_refusal(422, "topic", "");
    preview(json!({"filter": over(1), "event_id": "none"})).await.expect(404);
    server.stop().await;
}

#[test]
fn the_command_tries_a_filter_without_a_server() {
    let run = |filter: &str, event: &str| {
        let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_postrider"));
        program.env_clear().args(["filter", "test", "--filter", filter, "--event", event]);
        let output = program.output().expect("it runs");
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().expect("it exits"), String::from_utf8(text).expect("UTF-8"))
    };
    let filter = r#"{"payload": {"score": [{"numeric": [">", 5]}]}}"#;
    assert_eq!(run(filter, r#"{"topic": "a", "payload": {"score": 6}}"#), (0, "matches\n".to_owned()));
    assert_eq!(run(filter, r#"{"topic": "a", "payload": {"score": 5}}"#), (1, "does not match\n".to_owned()));
    let (code, text) = run(r#"{"payload": 5}"#, r#"{"topic": "a"}"#);
    assert!(code == 2 && text.contains("the filter: line 1 column"), "{code} {text}");
    let (code, text) = run(filter, r#"{"topic": ""}"#);
    assert!(code == 2 && text.contains("the event: topic"), "{code} {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_sends_what_the_webhook_s_metadata_says() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    let receiver = TestReceiver::healthy().await;
    let webhook = subscribe(&engine, "mine", ">", &receiver.url("/")).await;
    let shape =
        r##"{"metadata": {"channel": "#soc"}, "shape": {"template": "{{ webhook.metadata.channel|tojson }}"}}"##;
    change(&engine, &webhook, patch(shape)).await;
    publish(&engine, "a.b", 1).await;
    assert_eq!(receiver.wait_for(1).await[0].body, r##""#soc""##);
    stop(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_operators_do_to_webhooks_is_told_without_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(folder.path()).await;
    let sentinel = Sentinel::new(&engine).await;
    let told = TestReceiver::healthy().await;
    let watcher = subscribe(&engine, "watcher", "postrider.>", &told.url("/")).await;
    told.wait_for(1).await;
    let gone = TestReceiver::start(|_, _| 410.into()).await;
    let webhook = subscribe(&engine, "mine", "a.>", &gone.url("/")).await;
    let secret = "a-secret-that-nobody-sees";
    let settings = json!({
        "secret": secret, "auth": {"type": "bearer", "token": secret}, "timeout_s": 20, "paused": false, "ordered": true
    });
    change(&engine, &webhook, patch(&settings.to_string())).await;
    change(&engine, &webhook, patch(r#"{"timeout_s": 20, "enabled": true}"#)).await;
    change(&engine, &webhook, patch(r#"{"auth": null}"#)).await;
    let overlap = Duration::from_mins(1);
    engine.rotate_keys(DEFAULT_TENANT, webhook.uuid, GivenKeys::default(), overlap).await.expect("keys rotate");
    told.wait_for(5).await;
    publish(&engine, "a.b", 1).await;
    told.wait_for(6).await;
    wait_until(&engine, &webhook, |found| !found.settings.enabled).await;
    engine.delete_webhook(DEFAULT_TENANT, webhook.uuid).await.expect("it is deleted");
    let requests = told.wait_for(7).await;
    sentinel.pass(&engine, A_MOMENT).await;
    assert_eq!(told.received_count(), 7, "what the server does has its own event, and nothing goes round in circles");
    let bodies: Vec<Value> = requests.iter().map(|request| serde_json::from_slice(&request.body).unwrap()).collect();
    let told: Vec<_> =
        bodies.iter().map(|body| (body["topic"].as_str().unwrap(), &body["payload"]["changed"])).collect();
    let none = &Value::Null;
    let mut expected = vec![
        ("postrider.webhook.created", none),
        ("postrider.webhook.created", none),
        ("postrider.webhook.rotated", none),
        ("postrider.webhook.gone", none),
        ("postrider.webhook.deleted", none),
    ];
    let changes = (json!(["auth", "ordered", "secret", "timeout_s"]), json!(["auth"]));
    expected.extend([("postrider.webhook.updated", &changes.0), ("postrider.webhook.updated", &changes.1)]);
    let sorted = |mut all: Vec<(&str, &Value)>| {
        all.sort_by_key(|(topic, changed)| format!("{topic} {changed}"));
        format!("{all:?}")
    };
    assert_eq!(sorted(told), sorted(expected));
    for body in &bodies {
        assert!(!body.to_string().contains(secret), "{body}");
        let subject = &body["payload"]["webhook"];
        let (uuid, name) = (subject["uuid"].as_str().unwrap(), subject["name"].as_str().unwrap());
        let known = [(watcher.uuid.to_string(), "watcher"), (webhook.uuid.to_string(), "mine")];
        assert!(known.contains(&(uuid.to_owned(), name)), "{subject}");
        assert_eq!(subject["link"], format!("/api/v1/webhooks/{uuid}"));
    }
    stop(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_https_is_demanded_other_webhooks_are_refused_and_not_attempted() {
    let folder = tempfile::tempdir().unwrap();
    let strict = |https_only| {
        let mut settings = server::settings(folder.path());
        settings.client.policy.https_only = https_only;
        settings.admin_token = Some("the token of this test".to_owned().into());
        settings
    };
    let receiver = TestReceiver::healthy().await;
    let webhook = |url: &str| json!({"name": url, "url": url, "topic_patterns": [">"]}).to_string();
    let token = "the token of this test";
    let before = server::TestServer::start_with(strict(false)).await;
    before.call("POST", "/api/v1/webhooks", token, &webhook(&receiver.url("/"))).await.expect(201);
    before.stop().await;

    let server = server::TestServer::start_with(strict(true)).await;
    let refused = server.call("POST", "/api/v1/webhooks", token, &webhook("http://127.0.0.1:4000/")).await;
    refused.expect_refusal(422, "url", "https only");
    let mut with_token: Value = serde_json::from_str(&webhook("https://127.0.0.1:4000/")).unwrap();
    let auth = json!({"type": "oauth2", "token_url": "http://127.0.0.1:4001/", "client_id": "c", "client_secret": "s"});
    with_token["auth"] = auth;
    let refused = server.call("POST", "/api/v1/webhooks", token, &with_token.to_string()).await;
    refused.expect_refusal(422, "auth", "https only");
    server.call("POST", "/api/v1/webhooks", token, &webhook("https://127.0.0.1:4000/")).await.expect(201);
    server.call("POST", "/api/v1/events", token, r#"{"topic": "a", "id": "e"}"#).await.expect(202);
    let mut errors = Vec::new();
    for _ in 0..500 {
        let found = server.call("GET", "/api/v1/deliveries?state=dead", token, "").await.expect(200);
        errors = found["items"].as_array().unwrap().iter().map(|found| found["reason"].to_string()).collect();
        if errors.len() == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(errors.iter().any(|error| error.contains("egress_blocked: this server sends to https only")), "{errors:?}");
    assert_eq!(receiver.received_count(), 0);
    server.stop().await;
}
