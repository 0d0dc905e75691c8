//! Other senders' webhooks, from their requests to the receivers of the events that they are.

use std::time::Duration;

use postrider::clock::{Clock, SystemClock, UnixMicros};
use postrider::signing::{Head, ReceiverKey, Secret, Signing, SigningKeys, StandardKey, profile, profiles, verify};
use postrider::store::MAX_TENANT_INLETS;
use serde_json::{Value, json};

use crate::support::receiver::TestReceiver;
use crate::support::server::{Answer, TestServer};

const DOCUMENT: &str = include_str!("../../docs/inlets.md");
const JSON: (&str, &str) = ("Content-Type", "application/json");

type Header = (String, String);

async fn create(server: &TestServer, inlet: &Value) -> Value {
    server.post("/api/v1/inlets", &inlet.to_string()).await.expect(201)
}

/// An inlet's path.
async fn inlet(server: &TestServer, inlet: &Value) -> String {
    path(&create(server, inlet).await)
}

fn path(inlet: &Value) -> String {
    inlet["path"].as_str().unwrap().to_owned()
}

async fn send(server: &TestServer, method: &str, path: &str, headers: &[Header], body: &[u8]) -> Answer {
    let lines = headers.iter().flat_map(|(name, value)| [name, ": ", value, "\r\n"]).collect::<String>();
    server.request(method, path, &lines, body).await
}

fn keys(secret: &str) -> SigningKeys {
    let mut keys = SigningKeys::new(Secret::parse_foreign(secret).unwrap(), StandardKey::generate());
    keys.need_ed25519();
    keys
}

/// The headers of a request that a sender signs.
fn signed(name: &str, keys: &SigningKeys, at: UnixMicros, path: &str, id: &str, body: &[u8]) -> Vec<Header> {
    let mut headers = vec![(JSON.0.to_owned(), JSON.1.to_owned())];
    let mut push = |name: &str, value: &[u8]| -> Result<(), std::convert::Infallible> {
        headers.push((name.to_owned(), String::from_utf8(value.to_vec()).unwrap()));
        Ok(())
    };
    let signing =
        Signing { method: "POST", path, id, now: at, body, event_id: id, kind: "paid", topic: Some("shop.paid") };
    let plan = profile(name).unwrap();
    if name == "gitlab" {
        let Ok(()) = push("X-Gitlab-Token", keys.decnet.expose().as_bytes());
    } else {
        let (Ok(()), Ok(())) = (plan.sign(keys, &signing, &mut push), plan.describe(&signing, &mut push));
    }
    headers
}

/// The secret of `keys` as an inlet of that signature takes it.
fn secret(name: &str, keys: &SigningKeys) -> String {
    match name {
        "standard" | "svix" => keys.standard.expose().to_string(),
        "ed25519" => keys.ed25519.as_ref().unwrap().public().to_string(),
        _ => keys.decnet.expose().to_owned(),
    }
}

fn an_hour_ago() -> UnixMicros {
    UnixMicros(SystemClock.now().0 - 3_600_000_000)
}

#[tokio::test]
async fn every_sender_is_known_by_its_signature() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let (own, other) = (keys("a secret of the sender's own"), keys("another secret, of who knows whom"));
    let body = br#"{ "type": "paid", "total": 1.50 }"#;
    let signing: Vec<_> = profiles().map(|plan| plan.profile().name.to_string()).collect();
    assert_eq!(signing.len(), 13);
    for name in &signing {
        let at = inlet(&server, &json!({
            "name": name, "signature": name, "secrets": [secret(name, &own)], "topic": format!("in.{name}"), "id": "",
        }))
        .await;
        let id = format!("of-{name}");
        let now = SystemClock.now();
        let good = signed(name, &own, now, &at, &id, body);
        let receipt = send(&server, "POST", &at, &good, body).await.expect(202);
        assert_eq!(receipt["duplicate"], false, "{name}");
        let refused = async |why: &str, headers: &[Header], body: &[u8]| {
            let answer = send(&server, "POST", &at, headers, body).await;
            assert_eq!(answer.status, 401, "{name}, {why}: {}", answer.body);
        };
        refused("unsigned", &good[..1], body).await;
        refused("another's", &signed(name, &other, now, &at, &id, body), body).await;
        if name != "gitlab" {
            refused("over other bytes", &good, br#"{ "type": "paid", "total": 150 }"#).await;
        }
        let old = send(&server, "POST", &at, &signed(name, &own, an_hour_ago(), &at, &id, body), body).await;
        let signs_time = ["standard", "ed25519", "svix", "stripe", "slack", "convoy", "hook0"].contains(&&**name);
        assert_eq!(old.status, if signs_time { 401 } else { 202 }, "{name}: {}", old.body);
        let twice: Vec<Header> = good.iter().chain(good.iter().skip(1)).cloned().collect();
        refused("two signatures", &twice, body).await;
        let events = server.get(&format!("/api/v1/events?topic=in.{name}")).await.expect(200);
        assert_eq!(events["items"][0]["payload"], json!({"type": "paid", "total": 1.5}), "{name}");
    }
    let text = server.log.text();
    assert!(!text.contains(own.decnet.expose()), "no secret is in the log");
    server.stop().await;
}

/// The blocks of `docs/inlets.md` of one kind.
fn blocks(kind: &str) -> Vec<Value> {
    let opening = format!("```json {kind}\n");
    let blocks = DOCUMENT.split(&opening).skip(1).map(|rest| rest.split_once("\n```").unwrap().0);
    blocks.map(|block| serde_json::from_str(block).unwrap_or_else(|error| panic!("{error}: {block}"))).collect()
}

#[tokio::test]
async fn the_examples_of_the_documentation_work() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let (inlets, events) = (blocks("inlet"), blocks("event"));
    assert_eq!((inlets.len(), events.len()), (3, 2));
    for (example, event) in inlets.iter().zip(&events) {
        let at = inlet(&server, example).await;
        let name = example["signature"].as_str().unwrap();
        let body = event["payload"].to_string();
        let keys = keys(example["secrets"][0].as_str().unwrap());
        let mut headers = signed(name, &keys, SystemClock.now(), &at, event["id"].as_str().unwrap(), body.as_bytes());
        for (name, value) in &mut headers {
            if name == "X-GitHub-Event" {
                *value = event["type"].as_str().unwrap().to_owned();
            }
        }
        let receipt = send(&server, "POST", &at, &headers, body.as_bytes()).await.expect(202);
        assert_eq!(receipt["id"], event["id"]);
        let stored = server.get(&format!("/api/v1/events/{}", receipt["id"].as_str().unwrap())).await.expect(200);
        for field in ["id", "topic", "type", "payload"] {
            assert_eq!(stored[field], event[field], "{name}: {field}");
        }
    }
    // GitHub's own example of a signature.
    let at = format!("/in/{}", server.get("/api/v1/inlets").await.expect(200)[0]["uuid"].as_str().unwrap());
    let signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    let headers = [("X-Hub-Signature-256", signature), ("X-GitHub-Event", "ping")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    send(&server, "POST", &at, &headers, b"Hello, World!").await.expect(202);
    server.stop().await;
}

#[tokio::test]
async fn a_request_goes_on_byte_by_byte_and_its_sender_s_signature_still_holds() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let receiver = TestReceiver::healthy().await;
    let (inlets, mut webhook) = (blocks("inlet"), blocks("webhook").remove(0));
    let at = inlet(&server, &inlets[2]).await;
    webhook["url"] = receiver.url("/github").into();
    server.post("/api/v1/webhooks", &webhook.to_string()).await.expect(201);
    let keys = keys(inlets[2]["secrets"][0].as_str().unwrap());
    // Neither the order of the keys nor the spaces nor the escapes are those of the stored form.
    let body = b"{ \"b\" : 1.50,\r\n  \"a\": \"\\u00e4\" }\n";
    let headers = signed("github", &keys, SystemClock.now(), &at, "d-1", body);
    send(&server, "POST", &at, &headers, body).await.expect(202);
    let arrived = receiver.wait_for(1).await.swap_remove(0);
    assert_eq!(&arrived.body[..], body);
    assert_eq!(arrived.header("content-type"), "application/json");
    assert_eq!((arrived.header("x-github-event"), arrived.header("x-github-delivery")), ("paid", "d-1"));
    let head = Head { method: "POST", path: "/github", headers: &arrived.headers };
    let key = [ReceiverKey::Secret(keys.decnet.clone())];
    verify(profile("github").unwrap(), &key, head, &arrived.body, SystemClock.now(), 300).unwrap();
    // What is no JSON goes on with its own type.
    let form = b"payload=%7B%7D";
    let mut headers = signed("github", &keys, SystemClock.now(), &at, "d-2", form);
    headers[0].1 = "application/x-www-form-urlencoded".to_owned();
    send(&server, "POST", &at, &headers, form).await.expect(202);
    let arrived = receiver.wait_for(2).await.swap_remove(1);
    assert_eq!((arrived.header("content-type"), &arrived.body[..]), ("application/x-www-form-urlencoded", &form[..]));
    // A webhook that signs as the sender does sends its own signature.
    let uuid = server.get("/api/v1/webhooks").await.expect(200)[0]["uuid"].as_str().unwrap().to_owned();
    let change = json!({"signatures": ["github"]}).to_string();
    server.call("PATCH", &format!("/api/v1/webhooks/{uuid}"), &server.admin, &change).await.expect(200);
    let headers = signed("github", &keys, SystemClock.now(), &at, "d-3", body);
    send(&server, "POST", &at, &headers, body).await.expect(202);
    let arrived = receiver.wait_for(3).await.swap_remove(2);
    assert_eq!(arrived.headers.get_all("x-hub-signature-256").iter().count(), 1);
    assert_ne!(arrived.header("x-hub-signature-256"), headers[1].1);
    let batch = json!({"batch": {"max_events": 2, "max_wait_ms": 10}}).to_string();
    let refused = server.call("PATCH", &format!("/api/v1/webhooks/{uuid}"), &server.admin, &batch).await;
    refused.expect_refusal(422, "batch.format", "one by one");
    server.stop().await;
}

#[tokio::test]
async fn what_is_sent_again_is_a_duplicate_even_if_it_has_changed() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let at = inlet(&server, &json!({"name": "s", "signature": "stripe", "secrets": ["s"], "topic": "stripe"})).await;
    let mut receipts = Vec::new();
    for (body, past_s) in [
        (&br#"{"id":"evt_1","type":"t","pending_webhooks":1}"#[..], 0),
        (br#"{"id":"evt_1","type":"t","pending_webhooks":1}"#, 60),
        (br#"{"id":"evt_1","type":"t","pending_webhooks":2}"#, 0),
    ] {
        let signed_at = UnixMicros(SystemClock.now().0 - past_s * 1_000_000);
        let headers = signed("stripe", &keys("s"), signed_at, &at, "", body);
        receipts.push(send(&server, "POST", &at, &headers, body).await.expect(202));
    }
    let seen: Vec<_> = receipts.iter().map(|receipt| (&receipt["id"], &receipt["duplicate"])).collect();
    let id = json!("evt_1");
    assert_eq!(seen, [(&id, &json!(false)), (&id, &json!(true)), (&id, &json!(true))]);
    let events = server.get("/api/v1/events").await.expect(200);
    assert_eq!(events["items"].as_array().unwrap().len(), 1);
    // Another sender's event is no repetition, whatever its id.
    let other = json!({"name": "shop", "signature": "bearer", "topic": "shop.paid", "id": "/id"});
    let bearer = [("Authorization".to_owned(), format!("Bearer {}", server.admin))];
    let refused = send(&server, "POST", &inlet(&server, &other).await, &bearer, br#"{"id":"evt_1"}"#).await.expect(409);
    assert!(refused["detail"].as_str().unwrap().contains("let the inlet's `id` tell them apart"), "{refused}");
    let log = server.log.text();
    assert!(log.contains("a request was refused") && log.contains("shop"), "{log}");
    // Anyone may send here, and takes no id that an event of another sender has or will have.
    let anyone = json!({"name": "any", "signature": "none", "topic": "stripe", "id": "/id"});
    let anyone = inlet(&server, &anyone).await;
    for (id, expected) in [("evt_1", "any/evt_1"), ("evt_2", "any/evt_2")] {
        let receipt = send(&server, "POST", &anyone, &[], format!("{{\"id\":\"{id}\"}}").as_bytes()).await.expect(202);
        assert_eq!((&receipt["id"], &receipt["duplicate"]), (&json!(expected), &json!(false)));
    }
    let body = br#"{"id":"evt_2","type":"t"}"#;
    let headers = signed("stripe", &keys("s"), SystemClock.now(), &at, "", body);
    let receipt = send(&server, "POST", &at, &headers, body).await.expect(202);
    assert_eq!((&receipt["id"], &receipt["duplicate"]), (&json!("evt_2"), &json!(false)));
    server.stop().await;
}

#[tokio::test]
async fn both_secrets_are_good_while_the_sender_changes_its_own() {
    let (folder, server) = TestServer::in_new_folder().await;
    let created =
        create(&server, &json!({"name": "s", "signature": "slack", "secrets": ["old one"], "topic": "s"})).await;
    assert_eq!(created["secrets"], json!(["…"]));
    let (at, uuid) = (path(&created), created["uuid"].as_str().unwrap().to_owned());
    let status = async |server: &TestServer, secret: &str| {
        let headers = signed("slack", &keys(secret), SystemClock.now(), &at, "", b"{}");
        send(server, "POST", &at, &headers, b"{}").await.status
    };
    let change = async |server: &TestServer, patch: Value| {
        server.call("PATCH", &format!("/api/v1/inlets/{uuid}"), &server.admin, &patch.to_string()).await.expect(200)
    };
    change(&server, json!({"secrets": ["new one", "…"]})).await;
    assert_eq!((status(&server, "old one").await, status(&server, "new one").await), (202, 202));
    // What is shown may be given back.
    let shown = server.get(&format!("/api/v1/inlets/{uuid}")).await.expect(200);
    assert_eq!(shown["secrets"], json!(["…", "…"]));
    change(&server, shown).await;
    server.stop().await;
    let server = TestServer::start_with(crate::support::server::settings(folder.path())).await;
    assert_eq!((status(&server, "old one").await, status(&server, "new one").await), (202, 202), "after a restart");
    server.stop().await;
}

#[tokio::test]
async fn an_inlet_that_is_off_or_gone_is_not_there() {
    let (_folder, server) = TestServer::in_new_folder().await;
    server.post("/api/v1/tenants", r#"{"name": "blue"}"#).await.expect(201);
    let blue =
        format!("Authorization: Bearer {}\r\nX-Postrider-Tenant: blue\r\n{}: {}\r\n", server.admin, JSON.0, JSON.1);
    let new = json!({"name": "i", "signature": "none", "topic": "t"}).to_string();
    let of_blue = path(&server.request("POST", "/api/v1/inlets", &blue, new.as_bytes()).await.expect(201));
    let created = create(&server, &json!({"name": "i", "signature": "none", "topic": "t", "enabled": false})).await;
    let (at, record) = (path(&created), format!("/api/v1/inlets/{}", created["uuid"].as_str().unwrap()));
    let status = async |method: &str, at: &str| send(&server, method, at, &[], b"x").await.status;
    assert_eq!(status("POST", &at).await, 404);
    server.call("PATCH", &record, &server.admin, r#"{"enabled": true}"#).await.expect(200);
    for method in ["POST", "PUT"] {
        assert_eq!(status(method, &at).await, 202);
        assert_eq!(status(method, &format!("{at}/below/it")).await, 202);
    }
    for method in ["GET", "PATCH", "DELETE"] {
        assert_eq!(status(method, &at).await, 405, "{method}");
    }
    assert_eq!(status("POST", &at.to_uppercase().replace("/IN/", "/in/")).await, 404, "an inlet has one URL");
    server.call("DELETE", &record, &server.admin, "").await.expect(200);
    assert_eq!(status("POST", &of_blue).await, 202);
    server.call("DELETE", "/api/v1/tenants/blue", &server.admin, "").await.expect(200);
    for at in [&*at, &*of_blue, "/in/0b0e8f4e-7a2e-4c3d-9c1b-2f6d8a4e5b10", "/in/x", "/in/"] {
        assert_eq!(status("POST", at).await, 404, "{at}");
        assert_eq!(status("OPTIONS", at).await, 404, "{at}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_request_that_makes_no_event_stays_with_its_sender() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let at = inlet(
        &server,
        &json!({
            "name": "i", "signature": "none", "topic": "a.{/kind}", "keep": {"bytes": true},
        }),
    )
    .await;
    let send = async |content_type: &str, body: &[u8]| {
        send(&server, "POST", &at, &[("Content-Type".to_owned(), content_type.to_owned())], body).await
    };
    send(JSON.1, b"{\"kind\": \"b\"}").await.expect(202);
    send(JSON.1, b"{}").await.expect_refusal(422, "topic", "/kind is missing");
    send(JSON.1, b"{\"kind\": \"b\"").await.expect_refusal(422, "topic", "the body is no JSON");
    send(JSON.1, b"{\"kind\": \"b\", \"x\": 1, \"x\": 2}").await.expect_refusal(422, "body", "has this key already");
    send(JSON.1, b"{\"kind\": \"..\"}").await.expect_refusal(422, "topic", "is no topic");
    send("text/plain", b"hello").await.expect_refusal(422, "topic", "the body is no JSON");
    let large = format!("{{\"kind\": \"b\", \"fill\": \"{}\"}}", "x".repeat(900 * 1024));
    send(JSON.1, large.as_bytes()).await.expect_refusal(413, "body", "the limit is 1048576");
    let operational = inlet(&server, &json!({"name": "o", "signature": "none", "topic": "{query.topic}"})).await;
    let refused = crate::inlets::send(&server, "POST", &format!("{operational}?topic=postrider.x"), &[], b"").await;
    refused.expect_refusal(422, "events[0].topic", "postrider");
    server.stop().await;
}

#[tokio::test]
async fn bodies_that_are_too_large_or_shorter_than_announced_are_refused() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let at = inlet(&server, &json!({"name": "i", "signature": "none", "topic": "t"})).await;
    let huge = vec![b'x'; 17 * 1024 * 1024];
    assert_eq!(send(&server, "POST", &at, &[], &huge).await.status, 413);
    let announced = format!(
        "POST {at} HTTP/1.1\r\nHost: t\r\nConnection: close\r\nContent-Length: 17825792\r\nExpect: 100-continue\r\n\r\n"
    );
    assert_eq!(server.raw(announced.as_bytes()).await.status, 413, "before it is sent");
    for length in ["-1", "5x", "5, 6", "18446744073709551616"] {
        let wrong =
            format!("POST {at} HTTP/1.1\r\nHost: t\r\nConnection: close\r\nContent-Length: {length}\r\n\r\nhello");
        assert_eq!(server.raw(wrong.as_bytes()).await.status, 400, "{length}");
    }
    // What comes beyond the announced length is no part of it.
    let longer = format!("POST {at} HTTP/1.1\r\nHost: t\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhello");
    let id = server.raw(longer.as_bytes()).await.expect(202)["id"].as_str().unwrap().to_owned();
    let stored = server.get(&format!("/api/v1/events/{id}")).await.expect(200);
    assert_eq!(stored["payload"], json!({"body_base64": "aGU="}));
    // A body that breaks off is no event.
    {
        use tokio::io::AsyncWriteExt;
        let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
        let cut = format!("POST {at} HTTP/1.1\r\nHost: t\r\nContent-Length: 50\r\n\r\nhello");
        stream.write_all(cut.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer).await.ok();
        assert!(!answer.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&answer));
    }
    let encoded = send(&server, "POST", &at, &[("Content-Encoding".to_owned(), "gzip".to_owned())], b"x").await;
    assert_eq!(encoded.status, 415);
    assert_eq!(server.get("/api/v1/events").await.expect(200)["items"].as_array().unwrap().len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn senders_that_ask_first_are_answered() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let slack =
        inlet(&server, &json!({"name": "s", "signature": "slack", "secrets": ["s"], "topic": "slack.{/event/type}"}))
            .await;
    let body = br#"{"token":"Jhj5dZrVaK7ZwHHjRyZWjbDl","challenge":"3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P","type":"url_verification"}"#;
    let asked =
        send(&server, "POST", &slack, &signed("slack", &keys("s"), SystemClock.now(), &slack, "", body), body).await;
    assert_eq!((asked.status, &*asked.body), (200, "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P"));
    assert!(asked.header("content-type").unwrap().starts_with("text/plain"));
    let unsigned = send(&server, "POST", &slack, &[(JSON.0.to_owned(), JSON.1.to_owned())], body).await;
    assert_eq!(unsigned.status, 401, "not even an answer for who does not sign");
    let asks = [("WebHook-Request-Origin", "eventemitter.example.com"), ("WebHook-Request-Rate", "120")];
    let asks = asks.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let allowed = send(&server, "OPTIONS", &slack, &asks, b"").await;
    assert_eq!(allowed.status, 200);
    assert_eq!(allowed.header("webhook-allowed-origin"), Some("eventemitter.example.com"));
    assert_eq!(allowed.header("webhook-allowed-rate"), Some("120"));
    assert_eq!(allowed.header("allow"), Some("POST, PUT, OPTIONS"));
    assert_eq!(send(&server, "OPTIONS", &slack, &[], b"").await.status, 204);
    assert_eq!(server.get("/api/v1/events").await.expect(200)["items"], json!([]));
    server.stop().await;
}

#[tokio::test]
async fn a_token_of_this_server_opens_an_inlet_of_its_tenant() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let at = inlet(&server, &json!({"name": "b", "signature": "bearer", "topic": "t"})).await;
    let status = async |token: &str| {
        let headers = [("Authorization".to_owned(), format!("Bearer {token}"))];
        send(&server, "POST", &at, &headers, b"x").await.status
    };
    assert_eq!(status(&server.token(r#"["publish"]"#).await).await, 202);
    assert_eq!(status(&server.token(r#"["read"]"#).await).await, 403);
    assert_eq!(status(&format!("pr_{}", "A".repeat(43))).await, 401);
    assert_eq!(send(&server, "POST", &at, &[], b"x").await.status, 401);
    server.post("/api/v1/tenants", r#"{"name": "blue"}"#).await.expect(201);
    let blue =
        format!("Authorization: Bearer {}\r\nX-Postrider-Tenant: blue\r\n{}: {}\r\n", server.admin, JSON.0, JSON.1);
    let token =
        server.request("POST", "/api/v1/tokens", &blue, br#"{"name": "t", "scopes": ["publish"]}"#).await.expect(201);
    assert_eq!(status(token["token"].as_str().unwrap()).await, 403, "another tenant's");
    server.stop().await;
}

#[tokio::test]
async fn who_is_refused_again_and_again_is_slowed_down_and_counted() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let new = |name: &str| json!({"name": name, "signature": "github", "secrets": ["s"], "topic": "t"});
    let (tried, other) = (inlet(&server, &new("tried")).await, inlet(&server, &new("other")).await);
    let good = signed("github", &keys("s"), SystemClock.now(), "/", "1", b"{}");
    send(&server, "POST", &tried, &good, b"{}").await.expect(202);
    let mut refused = 0;
    let limited = loop {
        let answer = send(&server, "POST", &tried, &[], b"{}").await;
        if answer.status != 401 {
            break answer;
        }
        refused += 1;
        assert!(refused < 100, "nothing slows it down");
    };
    assert!(refused >= 20, "{refused}");
    assert_eq!((limited.status, limited.header("retry-after").is_some()), (429, true), "{}", limited.body);
    send(&server, "POST", &other, &good, b"{}").await.expect(202);
    // Behind a proxy the sender has the address of whoever fails.
    send(&server, "POST", &tried, &good, b"{}").await.expect(202);
    let mut unknown = 0;
    while send(&server, "POST", "/in/0b0e8f4e-7a2e-4c3d-9c1b-2f6d8a4e5b10", &[], b"").await.status == 404 {
        unknown += 1;
        assert!(unknown < 100, "nothing slows it down");
    }
    send(&server, "POST", &tried, &good, b"{}").await.expect(202);
    let metrics = server.get("/metrics").await;
    let counted = |result: &str| {
        let line = format!("postrider_inlet_requests_total{{result=\"{result}\"}} ");
        metrics.body.lines().find_map(|found| found.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
    };
    assert_eq!((counted("accepted"), counted("duplicate")), (1, 3));
    assert_eq!((counted("unsigned"), counted("unknown"), counted("limited")), (refused, unknown, 2));
    server.stop().await;
}

#[tokio::test]
async fn inlets_are_managed_over_the_api() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let new = json!({
        "name": "shop", "signature": {"name": "acme", "header": "X-Acme", "content": "{body}"}, "secrets": ["s3cret-of-acme"],
        "topic": "shop.{/type}", "type": "/type", "id": "shop:{/id}", "tolerance_s": 60,
        "keep": {"headers": ["X-Shop"], "query": true},
    });
    let created = create(&server, &new).await;
    let uuid = created["uuid"].as_str().unwrap();
    assert_eq!(created["path"], format!("/in/{uuid}"));
    assert_eq!((&created["secrets"], &created["signature"]["header"]), (&json!(["…"]), &json!("X-Acme")));
    for field in ["name", "topic", "type", "id", "tolerance_s"] {
        assert_eq!(created[field], new[field], "{field}");
    }
    let record = format!("/api/v1/inlets/{uuid}");
    assert_eq!(server.get(&record).await.expect(200), created);
    assert_eq!(server.get("/api/v1/inlets").await.expect(200), json!([created]));
    assert_eq!(
        server.get("/api/v1/inlets?limit=1").await.expect(200),
        json!({"items": [created], "next_cursor": null})
    );

    let taken = server.post("/api/v1/inlets", &new.to_string()).await.expect(409);
    assert_eq!(taken["type"], "urn:postrider:problem:name-taken");
    let patch = async |patch: Value| server.call("PATCH", &record, &server.admin, &patch.to_string()).await;
    let changed = patch(json!({"topic": "t", "type": ""})).await.expect(200);
    assert_eq!((&changed["topic"], &changed["type"], &changed["id"]), (&json!("t"), &json!(""), &json!("shop:{/id}")));
    patch(json!({"uuid": uuid::Uuid::nil()})).await.expect_refusal(422, "uuid", "cannot be set");
    patch(json!({"topic": "a b"})).await.expect_refusal(422, "topic", "is no topic");
    patch(json!({"secrets": [{"geheim": 1}]})).await.expect_refusal(422, "secrets[0]", "is not what it must be");
    let wrong = json!({"name": "", "signature": "x", "topic": ""}).to_string();
    let faults = server.post("/api/v1/inlets", &wrong).await.expect(422);
    assert_eq!(faults["errors"].as_array().unwrap().len(), 3, "{faults}");

    let audit = server.get("/api/v1/audit?action=inlet").await.expect(200);
    let lines: Vec<_> =
        audit["items"].as_array().unwrap().iter().map(|line| (&line["action"], &line["fields"])).collect();
    assert_eq!(lines[0], (&json!("inlet.update"), &json!(["topic", "type"])));
    assert_eq!(lines[1].0, &json!("inlet.create"));
    assert!(!audit.to_string().contains("s3cret-of-acme"));

    for n in 1..MAX_TENANT_INLETS {
        create(&server, &json!({"name": n.to_string(), "signature": "none", "topic": "t"})).await;
    }
    let one_more = json!({"name": "more", "signature": "none", "topic": "t"}).to_string();
    let full = server.post("/api/v1/inlets", &one_more).await.expect(409);
    assert_eq!(full["type"], "urn:postrider:problem:quota-inlets");
    server.call("DELETE", &record, &server.admin, "").await.expect(200);
    server.call("DELETE", &record, &server.admin, "").await.expect(404);
    server.post("/api/v1/inlets", &one_more).await.expect(201);
    assert!(!server.answers.lock().unwrap().iter().any(|answer| answer.contains("s3cret-of-acme")));
    server.stop().await;
}

async fn command(server: &TestServer, arguments: &[&str]) -> (bool, String, String) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_postrider"));
    command.args(arguments).env_clear();
    command.env("POSTRIDER_SERVER", format!("http://{}", server.address)).env("POSTRIDER_TOKEN", &server.admin);
    let output = tokio::time::timeout(Duration::from_secs(20), command.output()).await.unwrap().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn inlets_are_managed_on_the_command_line() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let create = [
        "inlet",
        "create",
        "--name",
        "github",
        "--signature",
        "github",
        "--secret",
        "old",
        "--topic",
        "github.{header.X-GitHub-Event}",
        "--keep",
        "bytes,query",
        "--keep-header",
        "X-GitHub-Event",
        "--tolerance",
        "1m",
    ];
    let (is_done, out, err) = command(&server, &create).await;
    assert!(
        is_done && out.contains("/in/") && out.contains("bytes") && err.contains("as others reach it"),
        "{out}{err}"
    );
    let (_, out, _) = command(&server, &["inlet", "show", "github", "--json"]).await;
    let shown: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        shown["keep"],
        json!({"headers": ["x-github-event"], "method": false, "path": false, "query": true, "bytes": true})
    );
    assert_eq!(shown["tolerance_s"], 60);
    let at = path(&shown);
    let status = async |secret: &str| {
        let headers = signed("github", &keys(secret), SystemClock.now(), &at, secret, b"{}");
        send(&server, "POST", &at, &headers, b"{}").await.status
    };
    assert!(command(&server, &["inlet", "update", "github", "--add-secret", "new"]).await.0);
    assert_eq!((status("old").await, status("new").await), (202, 202));
    let (is_done, _, err) = command(&server, &["inlet", "update", "github", "--add-secret", "newest"]).await;
    assert!(!is_done && err.contains("has 2 secrets already"), "{err}");
    assert!(command(&server, &["inlet", "update", "github", "--drop-old-secret", "--name", "hub"]).await.0);
    assert_eq!((status("old").await, status("new").await), (401, 202));
    let (_, out, _) = command(&server, &["inlet", "list"]).await;
    assert!(out.contains("hub") && out.contains(&at), "{out}");
    assert!(command(&server, &["inlet", "update", "hub", "--disable"]).await.0);
    assert_eq!(status("new").await, 404);
    let (is_done, _, err) = command(&server, &["inlet", "delete", "hub"]).await;
    assert!(!is_done && err.contains("--yes"), "{err}");
    let (is_done, out, _) = command(&server, &["inlet", "delete", "hub", "--yes"]).await;
    assert!(is_done && out.contains("deleted hub"), "{out}");
    let (is_done, _, err) = command(&server, &["inlet", "show", "hub"]).await;
    assert!(!is_done && err.contains("there is no inlet \"hub\""), "{err}");
    server.stop().await;
}
