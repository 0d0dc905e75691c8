//! What is kept of an attempt: times, the connection, and the exchange as the webhook's `capture` says; what of it is shown
//! to whom.

use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::support::receiver::{Answer, TestReceiver};
use crate::support::server::{TestServer, settings};

const MS: Duration = Duration::from_millis(1);

/// A webhook that is given one event; its delivery, once it has ended.
async fn delivered(server: &TestServer, url: &str, settings: Value) -> Value {
    let mut body = json!({"name": "shown", "url": url, "topic_patterns": ["t"], "retry_schedule": [0.01, 0.01]});
    body.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    server.post("/api/v1/webhooks", &body.to_string()).await.expect(201);
    server.post("/api/v1/events", r#"{"topic":"t","payload":{"amount":12.50}}"#).await.expect(202);
    ended(server).await
}

async fn ended(server: &TestServer) -> Value {
    let is_over = |page: &Value| page["items"].as_array().unwrap().iter().all(|item| item["state"] != "pending");
    let page =
        server.wait_for("/api/v1/deliveries?webhook=", |page| page["items"][0].is_object() && is_over(page)).await;
    server.get(&format!("/api/v1/deliveries/{}", page["items"][0]["id"].as_str().unwrap())).await.expect(200)
}

async fn attempt(server: &TestServer, delivery: &Value, number: u32, token: &str) -> Value {
    let path = format!("/api/v1/deliveries/{}/attempts/{number}", delivery["id"].as_str().unwrap());
    server.call("GET", &path, token, "").await.expect(200)
}

#[tokio::test]
async fn a_failed_attempt_shows_what_was_sent_and_what_came_back() {
    let (folder, server) = TestServer::in_new_folder().await;
    let receiver = TestReceiver::start_answering(|n, _| match n {
        0 => (Answer(503, 20 * MS), Some(("retry-after", "0")), "upstream timeout"),
        _ => (422.into(), Some(("x-reason", "amount")), "an integer is wanted"),
    })
    .await;
    let secrets = json!({"headers": {"X-Team": "blue-secret"}, "auth": {"type": "bearer", "token": "hush-hush"},
        "signatures": ["decnet", "standard"]});
    let delivery = delivered(&server, &receiver.url("/hooks?key=k"), secrets).await;
    let log = delivery["attempt_log"].as_array().unwrap();
    assert_eq!(log.len(), 2, "{delivery}");
    for (n, attempt) in log.iter().enumerate() {
        let timings = &attempt["timings"];
        assert!(timings["slot_ms"].is_number() && timings["first_byte_ms"].is_number(), "{timings}");
        assert!(timings["body_ms"].is_number() && timings["tls_ms"].is_null(), "{timings}");
        assert_eq!(timings["connect_ms"].is_number(), n == 0, "the second goes over the connection of the first");
        assert_eq!(attempt["connection"]["reused"], n == 1);
        assert_eq!(attempt["connection"]["address"], receiver.address.to_string());
        assert_eq!(attempt["captured"], true);
    }
    assert!(log[0]["timings"]["first_byte_ms"].as_f64().unwrap() >= 20.0);
    assert_eq!(log[0]["differs"], json!([]));
    let differs = [
        "status: 503 → 422",
        "answer's body",
        "answer's header retry-after",
        "answer's header content-length",
        "answer's header x-reason",
    ];
    for what in differs {
        assert!(log[1]["differs"].as_array().unwrap().contains(&what.into()), "{what} in {}", log[1]["differs"]);
    }

    let shown = attempt(&server, &delivery, 2, &server.admin).await;
    let (head, sent) = (shown["request"]["head"].as_str().unwrap(), &receiver.received()[1]);
    assert!(head.starts_with("POST /hooks?key=k HTTP/1.1\r\nHost: 127.0.0.1:"), "{head}");
    for name in ["x-decnet-signature", "webhook-signature", "x-decnet-timestamp", "content-type"] {
        assert!(head.contains(sent.header(name)), "{name} in {head}");
    }
    assert!(head.contains("\r\nX-Team: …\r\n") && head.contains("\r\nAuthorization: …\r\n"), "{head}");
    assert_eq!(shown["request"]["body"], String::from_utf8(sent.body.to_vec()).unwrap());
    assert_eq!(shown["answer"]["body"], "an integer is wanted");
    let answer = shown["answer"]["head"].as_str().unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 422 Unprocessable Entity\r\n") && answer.contains("x-reason: amount"),
        "{answer}"
    );
    // Not a byte of a secret lies in the store.
    server.stop().await;
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let stored = std::fs::read(file.unwrap().path()).unwrap();
        for secret in ["blue-secret", "hush-hush"] {
            assert_eq!(memchr::memmem::find(&stored, secret.as_bytes()), None, "{secret}");
        }
    }
}

#[tokio::test]
async fn the_command_makes_the_same_request_again() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let receiver = TestReceiver::start(|_, _| 404.into()).await;
    let delivery = delivered(&server, &receiver.url("/it's?[a]={b}"), json!({"shape": "slack"})).await;
    let curl = attempt(&server, &delivery, 1, &server.admin).await["curl"].as_str().unwrap().to_owned();
    let ran =
        tokio::task::spawn_blocking(move || Command::new("sh").args(["-c", &curl]).output()).await.unwrap().unwrap();
    assert!(ran.status.success(), "{ran:?}");
    let [first, again] = &receiver.received()[..] else { panic!("two requests") };
    assert_eq!((&again.method, &again.path, &again.body), (&first.method, &first.path, &first.body));
    let headers = |headers: &http::HeaderMap| {
        let mut all: Vec<_> = headers.iter().map(|(name, value)| format!("{name}: {value:?}")).collect();
        all.sort();
        all
    };
    assert_eq!(headers(&again.headers), headers(&first.headers));
    server.stop().await;
}

#[tokio::test]
async fn capture_says_how_much_is_kept() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let receiver = TestReceiver::start_answering(|n, _| {
        (if n % 2 == 0 { 500.into() } else { 200.into() }, None, "x".repeat(2_000))
    })
    .await;
    delivered(&server, &receiver.url("/"), json!({})).await;
    let webhook = server.get("/api/v1/webhooks").await.expect(200)[0]["uuid"].as_str().unwrap().to_owned();
    let webhook = format!("/api/v1/webhooks/{webhook}");
    assert_eq!(server.get(&webhook).await.expect(200)["capture"], Value::Null);
    // (setting, [captured, bytes of the answer] of the failure and of the success)
    let cases = [
        ("null", [(true, 2_000), (false, 1_024)]),
        ("\"all\"", [(true, 2_000), (true, 2_000)]),
        ("\"none\"", [(false, 0), (false, 0)]),
    ];
    for (setting, expected) in cases {
        server.call("PATCH", &webhook, &server.admin, &format!(r#"{{"capture": {setting}}}"#)).await.expect(200);
        server.post("/api/v1/events", r#"{"topic":"t"}"#).await.expect(202);
        let delivery = ended(&server).await;
        let kept = |attempt: &Value| (attempt["captured"] == true, attempt["response"].as_str().unwrap().len());
        let log: Vec<_> = delivery["attempt_log"].as_array().unwrap().iter().map(kept).collect();
        assert_eq!(log, expected, "{setting}");
        let success = attempt(&server, &delivery, 2, &server.admin).await;
        assert_eq!(success["request"].is_object(), expected[1].0);
        assert!(success["timings"]["first_byte_ms"].is_number(), "times are kept always");
    }
    server
        .call("PATCH", &webhook, &server.admin, r#"{"capture": "some"}"#)
        .await
        .expect_refusal(422, "capture", "some");
    server.stop().await;
}

#[tokio::test]
async fn the_server_s_default_holds_for_webhooks_that_say_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(folder.path());
    settings.dispatcher.capture = postrider::webhook::Capture::All;
    let server = TestServer::start_with(settings).await;
    let receiver = TestReceiver::healthy().await;
    let delivery = delivered(&server, &receiver.url("/"), json!({})).await;
    assert_eq!(delivery["attempt_log"][0]["captured"], true);
    server.stop().await;
}

#[tokio::test]
async fn a_reader_sees_no_url_and_nobody_but_an_operator_an_address() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let receiver = TestReceiver::start(|_, _| 404.into()).await;
    let delivery = delivered(&server, &receiver.url("/services/secret-path"), json!({})).await;
    let (reader, admin) = (server.token(r#"["read"]"#).await, server.token(r#"["admin"]"#).await);
    let seen = attempt(&server, &delivery, 1, &reader).await;
    assert!(!seen.to_string().contains("secret-path"), "{seen}");
    assert!(seen["request"]["head"].as_str().unwrap().starts_with("POST … HTTP/1.1\r\n"), "{seen}");
    assert_eq!((&seen["curl"], &seen["connection"]["address"]), (&Value::Null, &Value::Null));
    let seen = attempt(&server, &delivery, 1, &admin).await;
    assert!(seen["curl"].as_str().unwrap().contains("secret-path"));
    assert_eq!(seen["connection"]["address"], Value::Null);
    for (id, number) in [(delivery["id"].as_str().unwrap(), "2"), (delivery["id"].as_str().unwrap(), "x"), ("x", "1")] {
        server.get(&format!("/api/v1/deliveries/{id}/attempts/{number}")).await.expect(404);
    }
    // Another tenant's delivery is none.
    server.post("/api/v1/tenants", r#"{"name":"others"}"#).await.expect(201);
    let path = format!("/api/v1/deliveries/{}/attempts/1", delivery["id"].as_str().unwrap());
    let headers = format!("Authorization: Bearer {}\r\nX-Postrider-Tenant: others\r\n", server.admin);
    let answer = server.request("GET", &path, &headers, b"").await;
    assert_eq!(answer.status, 404, "{}", answer.body);
    server.stop().await;
}

#[tokio::test]
async fn a_large_exchange_is_cut_and_says_so() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let receiver = TestReceiver::start_answering(|_, _| (404.into(), None, Bytes::from(vec![b'\xff'; 100_000]))).await;
    let body = json!({"name": "long", "url": receiver.url("/"), "topic_patterns": ["t"],
        "shape": {"template": "{{ event.payload.text }}", "content_type": "text/plain"}});
    server.post("/api/v1/webhooks", &body.to_string()).await.expect(201);
    let event = json!({"topic": "t", "payload": {"text": "a".repeat(20_000)}});
    server.post("/api/v1/events", &event.to_string()).await.expect(202);
    let delivery = ended(&server).await;
    let seen = attempt(&server, &delivery, 1, &server.admin).await;
    let request = &seen["request"];
    assert_eq!((&request["body_bytes"], &request["body_cut"]), (&20_000.into(), &true.into()));
    assert_eq!(request["body"].as_str().unwrap().len(), 16_384);
    assert_eq!(seen["curl"], Value::Null, "the rest is not known");
    assert_eq!(seen["answer"]["body"].as_str().unwrap().chars().count(), 16_384);
    server.stop().await;
}

#[tokio::test]
async fn an_attempt_without_a_request_has_times_and_no_exchange() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let delivery = delivered(&server, &format!("http://{gone}/"), json!({"retry_schedule": []})).await;
    let attempt = attempt(&server, &delivery, 1, &server.admin).await;
    assert!(attempt["error"].as_str().unwrap().starts_with("connect: "), "{attempt}");
    assert_eq!(
        (&attempt["request"], &attempt["answer"], &attempt["connection"]),
        (&Value::Null, &Value::Null, &Value::Null)
    );
    assert!(attempt["timings"]["slot_ms"].is_number(), "{attempt}");
    server.stop().await;
}

#[tokio::test]
async fn each_member_of_a_batch_shows_the_request_without_the_others_bodies() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let receiver = TestReceiver::start(|_, _| 503.into()).await;
    let batch = json!({"batch": {"max_events": 2, "max_wait_ms": 60_000}, "retry_schedule": []});
    let mut body = json!({"name": "b", "url": receiver.url("/"), "topic_patterns": ["t"]});
    body.as_object_mut().unwrap().extend(batch.as_object().unwrap().clone());
    server.post("/api/v1/webhooks", &body.to_string()).await.expect(201);
    server.post("/api/v1/events/batch", r#"[{"topic":"t"},{"topic":"t"}]"#).await.expect(202);
    let delivery = ended(&server).await;
    let seen = attempt(&server, &delivery, 1, &server.admin).await;
    let sent = &receiver.received()[0];
    assert_eq!((&seen["request"]["body"], &seen["request"]["body_bytes"]), (&Value::Null, &sent.body.len().into()));
    assert_eq!(seen["curl"], Value::Null);
    server.stop().await;
}

#[tokio::test]
async fn an_erased_payload_is_nowhere_and_is_not_delivered_any_more() {
    const SECRET: &str = "Erika Mustermann, 12 August 1964";
    let (folder, server) = TestServer::in_new_folder().await;
    let receiver = TestReceiver::start_answering(|_, request| (503.into(), None, request.body.clone())).await;
    // One is tried in vain and waits on disk, one is paused and waits on disk, one is held back in memory by its rate.
    for (name, settings) in [
        ("failing", json!({"retry_schedule": [3_600]})),
        ("paused", json!({"paused": true})),
        ("slow", json!({"rate_limit": {"per_s": 0.001}})),
        (
            "shaped",
            json!({"retry_schedule": [], "shape": {"template": "<{{ event.payload.name }}>", "content_type": "text/plain"}}),
        ),
    ] {
        let mut body = json!({"name": name, "url": receiver.url(&format!("/{name}")), "topic_patterns": ["t"]});
        body.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        server.post("/api/v1/webhooks", &body.to_string()).await.expect(201);
    }
    server.post("/api/v1/events", r#"{"topic":"t","id":"first","payload":1}"#).await.expect(202);
    let event = json!({"topic": "t", "id": "e-1", "payload": {"name": SECRET}});
    server.post("/api/v1/events", &event.to_string()).await.expect(202);
    let path = "/api/v1/deliveries?event=e-1";
    let attempts_of = |page: &Value, name: &str| {
        let items = page["items"].as_array().unwrap();
        items.iter().find(|item| item["webhook_name"] == name).map_or(0, |item| item["attempts"].as_u64().unwrap())
    };
    server.wait_for(path, |page| attempts_of(page, "failing") == 1 && attempts_of(page, "shaped") == 1).await;

    let erased = server.call("DELETE", "/api/v1/events/e-1/payload", &server.admin, "").await.expect(200);
    assert_eq!((&erased["erased"], &erased["payload"], &erased["topic"]), (&true.into(), &Value::Null, &"t".into()));
    let page = server.get(path).await.expect(200);
    for delivery in page["items"].as_array().unwrap() {
        let expected =
            if delivery["webhook_name"] == "shaped" { ("dead", "http 503") } else { ("discarded", "payload erased") };
        assert_eq!((&delivery["state"], &delivery["reason"]), (&expected.0.into(), &expected.1.into()), "{delivery}");
        let shown = server.get(&format!("/api/v1/deliveries/{}", delivery["id"].as_str().unwrap())).await.expect(200);
        assert!(!shown.to_string().contains("Erika"), "{shown}");
    }
    // Once more is as once, and what would send it is refused or ends.
    server.call("DELETE", "/api/v1/events/e-1/payload", &server.admin, "").await.expect(200);
    server.post("/api/v1/events/e-1/resend", "{}").await.expect(409);
    let named = r#"{"shape": "slack", "event_id": "e-1"}"#;
    server.post("/api/v1/shapes/preview", named).await.expect_refusal(422, "event_id", "erased");
    let named = r#"{"filter": {"topic": ["t"]}, "event_id": "e-1"}"#;
    server.post("/api/v1/filters/preview", named).await.expect_refusal(422, "event_id", "erased");
    let webhook = server.get("/api/v1/webhooks").await.expect(200)[0]["uuid"].as_str().unwrap().to_owned();
    let test = format!("/api/v1/webhooks/{webhook}/test");
    server.post(&test, r#"{"event_id": "e-1"}"#).await.expect_refusal(422, "event_id", "erased");
    let failing = page["items"].as_array().unwrap().iter().find(|item| item["webhook_name"] == "failing").unwrap();
    let failing = format!("/api/v1/deliveries/{}", failing["id"].as_str().unwrap());
    server.post(&format!("{failing}/retry"), "").await.expect(202);
    server.wait_for(&failing, |delivery| delivery["state"] == "discarded" && delivery["attempts"] == 1).await;
    server.call("DELETE", "/api/v1/events/nosuch/payload", &server.admin, "").await.expect(404);
    let audit = server.get("/api/v1/audit").await.expect(200);
    assert!(
        audit["items"]
            .as_array()
            .unwrap()
            .iter()
            .any(|line| line["action"] == "event.erase" && line["target"] == "e-1")
    );
    // The first event is as it was, and the bytes of the other are gone from the disk.
    assert_eq!(server.get("/api/v1/events/first").await.expect(200)["payload"], 1);
    let token = server.admin.clone();
    server.stop().await;
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let path = file.unwrap().path();
        let stored = std::fs::read(&path).unwrap();
        assert_eq!(memchr::memmem::find(&stored, b"Erika"), None, "{}", path.display());
    }
    let again = TestServer::start(folder.path()).await;
    assert_eq!(again.call("GET", "/api/v1/events/e-1", &token, "").await.expect(200)["erased"], true);
    again.stop().await;
}

#[tokio::test]
async fn a_test_sends_an_event_of_one_s_own_and_shows_the_whole_exchange() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let receiver = TestReceiver::start_answering(|_, _| (202.into(), Some(("x-who", "me")), "taken")).await;
    let created = server.webhook("tested", &receiver.url("/in"), "nothing.of.this").await;
    let path = format!("/api/v1/webhooks/{}/test", created["uuid"].as_str().unwrap());
    let tested =
        server.post(&path, r#"{"event": {"topic": "order.paid", "id": "o-1", "payload": {"amount": 12.50}}}"#).await;
    let tested = tested.expect(200);
    let sent = &receiver.received()[0];
    assert_eq!((sent.header("x-decnet-event-topic"), sent.event_id()), ("order.paid", "o-1".to_owned()));
    assert!(sent.body.windows(5).any(|digits| digits == b"12.50"), "digits are kept");
    assert_eq!(tested["request"]["body"], String::from_utf8(sent.body.to_vec()).unwrap());
    assert_eq!((&tested["answer"]["body"], &tested["delivered"]), (&"taken".into(), &true.into()));
    assert!(tested["answer"]["head"].as_str().unwrap().contains("x-who: me"), "{tested}");
    assert!(tested["curl"].as_str().unwrap().contains("order.paid"), "{tested}");
    assert_eq!(tested["connection"]["reused"], false);
    assert_eq!(server.get("/api/v1/events").await.expect(200)["items"], json!([]), "it is not stored");

    server.post("/api/v1/events", r#"{"topic":"stored","id":"s-1","payload":1}"#).await.expect(202);
    server.post(&path, r#"{"event_id": "s-1"}"#).await.expect(200);
    assert_eq!(receiver.received()[1].event_id(), "s-1");
    server.post(&path, r#"{"event_id": "nosuch"}"#).await.expect(404);
    server.post(&path, r#"{"event_id": "s-1", "event": {"topic": "t"}}"#).await.expect_refusal(
        422,
        "event_id",
        "one of them",
    );
    server.post(&path, r#"{"event": {"topic": "a..b"}}"#).await.expect(422);
    server.post(&path, "null").await.expect(200);
    assert_eq!(receiver.received().last().unwrap().header("x-decnet-event-topic"), "test.ping");
    server.stop().await;
}
