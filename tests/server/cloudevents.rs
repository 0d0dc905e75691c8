//! CloudEvents as publishers send them and as receivers get them.

use serde_json::{Value, json};

use crate::support::receiver::TestReceiver;
use crate::support::server::{Answer, TestServer};

const STRUCTURED: &str = "application/cloudevents+json; charset=utf-8";
const BATCH: &str = "application/cloudevents-batch+json";

/// With extensions, and digits that a double does not have.
const PAID: &str = r#"{
    "specversion": "1.0", "id": "A-17", "source": "https://shop.example/orders", "type": "com.example.order.paid",
    "subject": "order 17", "time": "2026-09-21T14:13:20.50+02:00", "dataschema": "https://shop.example/order.json",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "sequence": 7, "sampled": true,
    "data": {"total": 12345678901234567890.10, "lines": [1, null]}
}"#;
/// The same as it is stored and passed on.
const PAID_CANONICAL: &str = r#"{"data":{"lines":[1,null],"total":12345678901234567890.10},"dataschema":"https://shop.example/order.json","id":"A-17","sampled":true,"sequence":7,"source":"https://shop.example/orders","specversion":"1.0","subject":"order 17","time":"2026-09-21T14:13:20.50+02:00","traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","type":"com.example.order.paid"}"#;

async fn send(server: &TestServer, path: &str, content_type: &str, more: &str, body: &[u8]) -> Answer {
    let headers = format!("Authorization: Bearer {}\r\nContent-Type: {content_type}\r\n{more}", server.admin);
    server.request("POST", path, &headers, body).await
}

/// The headers of binary mode with the required attributes.
fn attributes(id: &str, kind: &str) -> String {
    format!("CE-SpecVersion: 1.0\r\nce-id: {id}\r\nce-source: /machines\r\nce-type: {kind}\r\n")
}

async fn subscribe(server: &TestServer, receiver: &TestReceiver, name: &str, shape: &str) {
    let webhook =
        json!({"name": name, "url": receiver.url(&format!("/{name}")), "topic_patterns": [">"], "shape": shape});
    server.post("/api/v1/webhooks", &webhook.to_string()).await.expect(201);
}

#[tokio::test]
async fn a_structured_event_goes_through_with_all_that_it_had() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let receiver = TestReceiver::healthy().await;
    subscribe(&server, &receiver, "same", "cloudevents").await;
    let wanting = json!({
        "name": "wanting", "url": receiver.url("/wanting"), "topic_patterns": ["com.example.>"], "shape": "payload",
        "filter": {"payload": {"source": [{"prefix": "https://shop.example/"}], "sequence": [{"numeric": [">", 6]}]}},
    });
    server.post("/api/v1/webhooks", &wanting.to_string()).await.expect(201);

    let receipt = send(&server, "/api/v1/events", STRUCTURED, "", PAID.as_bytes()).await.expect(202);
    let id = "https://shop.example/orders#A-17";
    assert_eq!(receipt, json!({"id": id, "deliveries": 2, "skipped": 0, "duplicate": false}));
    for request in receiver.wait_for(2).await {
        let is_same = request.path == "/same";
        let content_type = if is_same { "application/cloudevents+json; charset=utf-8" } else { "application/json" };
        assert_eq!((request.header("content-type"), &request.body[..]), (content_type, PAID_CANONICAL.as_bytes()));
        assert_eq!(request.event_id(), id);
    }
    let again = send(&server, "/api/v1/events", STRUCTURED, "", PAID.as_bytes()).await.expect(202);
    assert_eq!(again["duplicate"], true);
    let other = PAID.replace("order 17", "order 18");
    send(&server, "/api/v1/events", STRUCTURED, "", other.as_bytes()).await.expect(409);

    let listed = server.get("/api/v1/events?topic=com.example.order.paid").await.expect(200);
    let stored = &listed["items"][0];
    assert_eq!(stored["type"], "com.example.order.paid");
    assert_eq!(stored["ts"], "2026-09-21T14:13:20.50+02:00");
    assert_eq!(stored["payload"]["traceparent"], "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    server.stop().await;
}

#[tokio::test]
async fn binary_mode_carries_json_text_and_bytes() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let receiver = TestReceiver::healthy().await;
    subscribe(&server, &receiver, "same", "cloudevents").await;
    let cases: [(&str, &str, &[u8], Value); 4] = [
        (
            "application/json",
            "ce-comment: %E2%82%AC%20or%20%22%24%22\r\n",
            b"{\"a\": 1.0}",
            json!({
                "data": {"a": 1.0}, "datacontenttype": "application/json", "comment": "\u{20ac} or \"$\"",
            }),
        ),
        (
            "text/plain; charset=utf-8",
            "",
            "grün".as_bytes(),
            json!({
                "data": "grün", "datacontenttype": "text/plain; charset=utf-8",
            }),
        ),
        (
            "application/octet-stream",
            "",
            b"\xff\x00",
            json!({
                "data_base64": "/wA=", "datacontenttype": "application/octet-stream",
            }),
        ),
        ("image/png", "", b"", json!({"datacontenttype": "image/png"})),
    ];
    for (at, (content_type, more, body, expected)) in cases.into_iter().enumerate() {
        let (id, mut expected) = (at.to_string(), expected);
        let headers = format!("{}{more}", attributes(&id, "alarm"));
        let receipt = send(&server, "/api/v1/events", content_type, &headers, body).await.expect(202);
        assert_eq!(receipt["id"], format!("/machines#{id}"));
        for (name, value) in [("specversion", "1.0"), ("id", &*id), ("source", "/machines"), ("type", "alarm")] {
            expected[name] = value.into();
        }
        let request = receiver.wait_for(at + 1).await.swap_remove(at);
        assert_eq!(serde_json::from_slice::<Value>(&request.body).unwrap(), expected);
    }
    // Not JSON by its content type without the attributes, and then no event.
    send(&server, "/api/v1/events", "text/plain", "", b"x").await.expect_refusal(415, "Content-Type", "must be");
    let headers = attributes("9", "alarm");
    send(&server, "/api/v1/events", "application/json", &headers, b"{").await.expect_refusal(400, "body", "byte 1");
    server.stop().await;
}

#[tokio::test]
async fn a_batch_is_taken_whole_or_not_at_all() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let one = |id: &str| json!({"specversion": "1.0", "id": id, "source": "/s", "type": "t", "data": id});
    for path in ["/api/v1/events", "/api/v1/events/batch"] {
        let batch = json!([one(path), one("same"), one("same")]).to_string();
        let receipt = send(&server, path, BATCH, "", batch.as_bytes()).await.expect(202);
        assert_eq!(receipt["events"][0]["id"], format!("/s#{path}"));
        assert_eq!(receipt["accepted"], if path.ends_with("batch") { 1 } else { 2 }, "{receipt}");
        let bad = json!([one("good"), {"specversion": "1.0"}]).to_string();
        send(&server, path, BATCH, "", bad.as_bytes()).await.expect_refusal(422, "events[1].id", "is required");
        let nothing = send(&server, path, BATCH, "", b"[]").await.expect(202);
        assert_eq!(nothing, json!({"accepted": 0, "duplicates": 0, "events": []}));
        send(&server, path, BATCH, "", b"{}").await.expect_refusal(400, "body", "expected '['");
    }
    let batch = json!([one("dry")]).to_string();
    let dry = send(&server, "/api/v1/events?dry_run=true", BATCH, "", batch.as_bytes()).await;
    dry.expect_refusal(422, "dry_run", "is about one event");
    let single = send(&server, "/api/v1/events/batch", STRUCTURED, "", PAID.as_bytes()).await;
    single.expect_refusal(415, "Content-Type", "must be");
    assert_eq!(server.get("/api/v1/events").await.expect(200)["items"].as_array().unwrap().len(), 3);
    server.stop().await;
}

#[tokio::test]
async fn the_publisher_says_the_topic_or_the_type_does() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let event = |id: &str, more: Value| {
        let mut event = json!({"specversion": "1.0", "id": id, "source": "/s", "type": "com.example.made"});
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        event.to_string()
    };
    let topic_of = async |id: &str| {
        let id = format!("/s#{id}").replace('/', "%2F").replace('#', "%23");
        server.get(&format!("/api/v1/events/{id}")).await.expect(200)["topic"].clone()
    };
    for (id, query, more, topic) in [
        ("type", "", json!({}), "com.example.made"),
        ("attribute", "", json!({"topic": "orders.7"}), "orders.7"),
        ("query", "?topic=asked.for", json!({"topic": "orders.7"}), "asked.for"),
        ("odd", "", json!({"type": "order created*"}), "order_created_"),
    ] {
        let (path, body) = (format!("/api/v1/events{query}"), event(id, more));
        send(&server, &path, STRUCTURED, "", body.as_bytes()).await.expect(202);
        assert_eq!(topic_of(id).await, topic);
    }
    let dry = send(&server, "/api/v1/events?dry_run=true&topic=x", STRUCTURED, "", PAID.as_bytes()).await.expect(200);
    assert_eq!(dry["webhooks"], json!([]));
    for (query, more, field, reason) in [
        ("?topic=a..b", json!({}), "topic", "has an empty token"),
        ("", json!({"topic": "a..b"}), "topic", "has an empty token"),
        ("", json!({"type": "a..b"}), "topic", "say one by ?topic="),
        ("", json!({"type": "postrider.event"}), "events[0].topic", "postrider"),
        ("", json!({"specversion": "0.3"}), "specversion", "is \"0.3\", must be \"1.0\""),
        ("", json!({"data": 1, "data_base64": "AA=="}), "data_base64", "is there beside data"),
    ] {
        let (path, body) = (format!("/api/v1/events{query}"), event("refused", more));
        send(&server, &path, STRUCTURED, "", body.as_bytes()).await.expect_refusal(422, field, reason);
    }
    // Our own JSON says its topic itself.
    let own = server.post("/api/v1/events?topic=x", r#"{"topic": "t"}"#).await;
    own.expect_refusal(422, "topic", "is not a parameter of this route");
    server.stop().await;
}

#[tokio::test]
async fn an_event_of_ours_can_come_back_in_and_an_event_of_another_keeps_its_long_id_apart() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let receiver = TestReceiver::healthy().await;
    subscribe(&server, &receiver, "out", "cloudevents").await;
    server
        .post("/api/v1/events", r#"{"id": "e-1", "topic": "door.opened", "type": "opened", "payload": {"n": 1.10}}"#)
        .await
        .expect(202);
    let out = receiver.wait_for(1).await.swap_remove(0);
    let receipt = send(&server, "/api/v1/events?topic=door.again", STRUCTURED, "", &out.body).await.expect(202);
    assert_eq!(receipt["id"], "urn:postrider:default#e-1");
    let again = receiver.wait_for(2).await.swap_remove(1);
    let (first, second): (Value, Value) =
        (serde_json::from_slice(&out.body).unwrap(), serde_json::from_slice(&again.body).unwrap());
    assert_eq!(first, second, "passed on as it was");

    let long = |id: &str| json!({"specversion": "1.0", "id": id, "source": "/s".repeat(60), "type": "t"}).to_string();
    let mut ids = Vec::new();
    for id in ["0123456789", "0123456780", "0123456789"] {
        let receipt = send(&server, "/api/v1/events", STRUCTURED, "", long(id).as_bytes()).await.expect(202);
        assert!(receipt["id"].as_str().unwrap().starts_with("ce-sha256:"), "{receipt}");
        ids.push((receipt["id"].to_string(), receipt["duplicate"] == true));
    }
    assert_eq!((ids[0].0 == ids[2].0, ids[0].0 == ids[1].0), (true, false));
    assert_eq!(ids.iter().map(|(_, duplicate)| *duplicate).collect::<Vec<_>>(), [false, false, true]);
    server.stop().await;
}
