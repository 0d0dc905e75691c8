//! Signatures of other senders, profiles of one's own, and headers that are made from the event, by what the receiver got.

use postrider::clock::{Clock, SystemClock};
use postrider::signing::{Head, Plan, ReceiverKey, Secret, StandardKey, Unverified, Verified, profile, verify};
use serde_json::{Value, json};

use crate::support::receiver::{Received, TestReceiver};
use crate::support::server::TestServer;

const WEBHOOKS: &str = "/api/v1/webhooks";
/// Path and query of a webhook whose signature covers them.
const TARGET: &str = "/hook?a=1";

fn verified(plan: &Plan, key: ReceiverKey, request: &Received, body: &[u8]) -> Result<Verified, Unverified> {
    let head = Head { method: &request.method, path: TARGET, headers: &request.headers };
    verify(plan, &[key], head, body, SystemClock.now(), 300)
}

fn secret(text: &Value) -> ReceiverKey {
    ReceiverKey::Secret(Secret::parse_foreign(text.as_str().unwrap()).unwrap())
}

fn standard(text: &Value) -> ReceiverKey {
    ReceiverKey::Standard(StandardKey::parse(text.as_str().unwrap()).unwrap())
}

async fn publish(server: &TestServer, payload: Value) {
    let event = json!({"topic": "orders.7", "type": "paid", "payload": payload});
    server.post("/api/v1/events", &event.to_string()).await.expect(202);
}

/// A profile that no vendor has, of which nothing is the default.
fn acme() -> Value {
    json!({
        "name": "acme", "header": "X-Acme-Signature", "hash": "sha512", "encoding": "base64",
        "content": "{method}\n{path}\n{timestamp}\n{body}", "value": "v=2; sig={signature}", "separator": "; ",
        "timestamp_header": "X-Acme-Time", "id_header": "X-Acme-Id", "key": "standard", "rotation": "header",
        "previous_header": "X-Acme-Signature-Old",
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_signs_as_others_do_over_a_restart_and_a_rotation() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = TestReceiver::healthy().await;
    let server = TestServer::start(folder.path()).await;
    let create = json!({
        "name": "shop", "url": receiver.url(TARGET), "topic_patterns": [">"], "secret": "short",
        "signatures": ["stripe", acme(), "slack"],
    });
    let created = server.post(WEBHOOKS, &create.to_string()).await.expect(201);
    assert_eq!(created["signatures"], create["signatures"]);
    assert_eq!(created["secret"], "short", "a key of another sender is taken over as it is");
    let warnings = created["warnings"].to_string();
    assert!(warnings.contains("short_secret: "), "{warnings}");
    let path = format!("{WEBHOOKS}/{}", created["uuid"].as_str().unwrap());
    let admin = server.admin.clone();
    server.stop().await;

    let mut server = TestServer::start(folder.path()).await;
    server.admin = admin;
    assert_eq!(server.get(&path).await.expect(200)["signatures"], create["signatures"]);
    publish(&server, json!({"n": 1.50})).await;
    let first = receiver.wait_for(1).await.remove(0);
    let rotation = r#"{"overlap_s": 3600, "secret": "whsec_another"}"#;
    let rotated = server.post(&format!("{path}/rotate-secret"), rotation).await.expect(200);
    publish(&server, json!({"n": 2})).await;
    let second = receiver.wait_for(2).await.remove(1);
    server.stop().await;

    let stripe = profile("stripe").unwrap();
    let own = Plan::new(serde_json::from_value(acme()).unwrap()).unwrap();
    for (request, keys, expected) in [
        (&first, &created, [Some(0), Some(0), Some(0)]),
        (&first, &rotated, [None; 3]),
        // Slack's has one signature, of the newest key.
        (&second, &rotated, [Some(0), Some(0), Some(0)]),
        (&second, &created, [Some(1), Some(1), None]),
    ] {
        for (plan, key, expected) in [
            (&**stripe, secret(&keys["secret"]), expected[0]),
            (&own, standard(&keys["standard_secret"]), expected[1]),
            (&**profile("slack").unwrap(), secret(&keys["secret"]), expected[2]),
        ] {
            let found = verified(plan, key.clone(), request, &request.body).ok().map(|found| found.signature);
            assert_eq!(found, expected, "{}", plan.profile().name);
            assert_eq!(verified(plan, key, request, b"{}"), Err(Unverified::NoMatch));
        }
        assert!(!request.headers.keys().any(|name| name.as_str().starts_with("x-decnet-")), "{:?}", request.headers);
        assert!(!request.header("x-acme-id").is_empty());
    }
}

#[tokio::test]
async fn what_cannot_be_signed_is_refused_where_it_is_set() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let base = json!({"name": "w", "url": "http://127.0.0.1:8123/", "topic_patterns": [">"]});
    let with = |settings: Value| {
        let mut body = base.clone();
        body.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        body.to_string()
    };
    let own = |field: &str, value: Value| {
        let mut profile = acme();
        profile[field] = value;
        json!({"signatures": [profile]})
    };
    for (settings, field, reason) in [
        (json!({"signatures": ["strype"]}), "signatures", "there are decnet, standard, ed25519, svix, github, stripe"),
        (json!({"signatures": ["gitlab"]}), "signatures", "verified alone"),
        (json!({"signatures": ["decnet", "stripe"]}), "signatures", "sign with the same key"),
        (json!({"signatures": ["decnet"], "secret": "short"}), "secret", "16 to 256"),
        (json!({"signatures": ["github"], "secret": ""}), "secret", "1 to 256"),
        (json!({"signatures": ["github"], "secret": "…"}), "secret", "the sign that stands for a secret"),
        (
            json!({"signatures": ["github"], "headers": {"x-hub-signature-256": "x"}}),
            "signatures",
            "is set by `headers`",
        ),
        (own("header", json!("Host")), "signatures", "is set by Postrider itself"),
        (own("header", json!("X-DECNET-Signature")), "signatures", "is set by Postrider itself"),
        (own("timestamp_header", json!("x-acme-id")), "signatures", "is set by another signature"),
        (own("content", json!("{payload}")), "signatures", "is no placeholder; {id}, {timestamp}, {body}"),
        (own("content", json!("{timestamp}")), "signatures", "must have {body} once"),
        (own("hash", json!("md5")), "signatures[0].hash", "unknown variant `md5`, expected one of"),
        (own("salt", json!(1)), "signatures[0].salt", "unknown field"),
    ] {
        let answer = server.post(WEBHOOKS, &with(settings.clone())).await;
        assert_eq!(answer.status, 422, "{settings}: {}", answer.body);
        assert!(answer.body.contains(reason) && answer.body.contains(field), "{settings}: {}", answer.body);
    }
    let created = server.post(WEBHOOKS, &with(json!({"signatures": ["github"], "secret": "short"}))).await.expect(201);
    let path = format!("{WEBHOOKS}/{}", created["uuid"].as_str().unwrap());
    let change = async |body: &str| server.call("PATCH", &path, &server.admin, body).await;
    change(r#"{"signatures": ["decnet"]}"#).await.expect_refusal(422, "secret", "16 to 256");
    change(r#"{"signatures": ["github", "slack"]}"#).await.expect_refusal(422, "signatures", "the same key");
    change(r#"{"headers": {"X-HUB-Signature-256": "x"}}"#).await.expect_refusal(
        422,
        "signatures",
        "is set by `headers`",
    );
    // A key with the bytes of the other.
    let same = r#"{"signatures": ["decnet", "standard"], "secret": "abcdefghijklmnopqrstuvwxyz",
        "standard_secret": "whsec_YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXo="}"#;
    change(same).await.expect_refusal(422, "signatures", "the same key");
    change(r#"{"signatures": ["decnet", "standard"], "secret": "long-enough-for-decnet"}"#).await.expect(200);
    let rotate = async |body: &str| server.post(&format!("{path}/rotate-secret"), body).await;
    rotate(r#"{"secret": "short"}"#).await.expect_refusal(422, "secret", "16 to 256");
    rotate(r#"{"secret": "…"}"#).await.expect_refusal(422, "secret", "stands for a secret");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_are_made_from_the_event_and_what_cannot_be_sent_ends_its_delivery_alone() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start(folder.path()).await;
    let receiver = TestReceiver::start(|n, _| if n == 0 { 503.into() } else { 200.into() }).await;
    let headers = json!({
        "X-Customer": "{{ event.payload.customer }}", "X-Try": "{{ delivery.id }}/{{ attempt }}", "X-Team": "blue {",
    });
    let create = json!({
        "name": "w", "url": receiver.url("/"), "topic_patterns": [">"], "headers": headers, "retry_schedule": [0.05],
    });
    let created = server.post(WEBHOOKS, &create.to_string()).await.expect(201);
    assert_eq!(created["headers"], json!({"X-Customer": "…", "X-Team": "…", "X-Try": "…"}));
    let path = format!("{WEBHOOKS}/{}", created["uuid"].as_str().unwrap());
    publish(&server, json!({"customer": "c-7"})).await;
    let requests = receiver.wait_for(2).await;
    for (at, request) in requests.iter().enumerate() {
        assert_eq!((request.header("x-customer"), request.header("x-team")), ("c-7", "blue {"));
        assert_eq!(request.header("x-try"), format!("{}/{}", request.header("webhook-id"), at + 1));
        assert!(verified(profile("decnet").unwrap(), secret(&created["secret"]), request, &request.body).is_ok());
    }
    publish(&server, json!({"customer": "c\r\nX-Evil: 1"})).await;
    let dead = server.wait_for("/api/v1/deliveries?state=dead", |list| list["items"][0]["state"] == "dead").await;
    let error = dead["items"][0]["reason"].as_str().unwrap();
    assert!(error.starts_with("headers: X-Customer: the result has the character '\\r' at byte 1"), "{error}");
    assert_eq!(dead["items"][0]["attempts"], 0);
    publish(&server, json!({"customer": "after"})).await;
    let last = receiver.wait_for(3).await.remove(2);
    assert_eq!(last.header("x-customer"), "after", "nothing was sent for the one that could not be");

    // Masked as the others; the sign keeps a template, and a test renders it.
    let change = async |body: &str| server.call("PATCH", &path, &server.admin, body).await;
    change(r#"{"headers": {"X-Try": "…", "X-Type": "{{ event.type }}"}}"#).await.expect(200);
    assert_eq!(server.post(&format!("{path}/test"), "").await.expect(200)["delivered"], true);
    let tested = receiver.wait_for(4).await.remove(3);
    assert!(tested.header("x-try").ends_with("/1") && tested.headers.contains_key("x-type"), "{:?}", tested.headers);
    change(r#"{"headers": {"X-A": "{{ event.id"}}"#).await.expect_refusal(422, "headers", "the value of \"X-A\": ");
    let batch = r#"{"batch": {"max_events": 2, "max_wait_ms": 5}}"#;
    change(batch).await.expect_refusal(422, "batch", "fixed values of `headers` only");
    change(r#"{"headers": {"X-Team": "blue"}}"#).await.expect(200);
    change(batch).await.expect(200);
    change(r#"{"headers": {"X-A": "{{ tenant }}"}}"#).await.expect_refusal(422, "batch", "fixed values");
    change(r#"{"batch": null, "headers": {"X-A": "{{ tenant }} {{ webhook.name }}"}}"#).await.expect(200);
    let admin = server.admin.clone();
    server.stop().await;

    let mut server = TestServer::start(folder.path()).await;
    server.admin = admin;
    publish(&server, json!({})).await;
    assert_eq!(receiver.wait_for(5).await.remove(4).header("x-a"), "default w", "a restart brings templates back");
    server.stop().await;
}
