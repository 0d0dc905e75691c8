//! Limits of what takes room, as users and operators see them: stored bytes, tokens, acts, and quotas of new tenants.

use std::sync::Arc;
use std::time::{Duration, Instant};

use postrider::serve::ServeSettings;
use postrider::store::Quotas;
use postrider::tenants::{ACT_BURST, ACTS_PER_S, RETRY_STORED_AFTER};
use serde_json::{Value, json};

use crate::support::server::{Answer, TestServer, settings};

/// What a refusal with problem details says: its kind, when to try again, and the detail.
#[track_caller]
fn refusal(answer: Answer, status: u16) -> (String, Option<u64>, String) {
    let retry_after = answer.header("retry-after").map(|seconds| seconds.parse().unwrap());
    let problem = answer.expect(status);
    let kind = problem["type"].as_str().unwrap().trim_start_matches("urn:postrider:problem:").to_owned();
    (kind, retry_after, problem["detail"].as_str().unwrap().to_owned())
}

async fn set_quotas(server: &TestServer, quotas: Value) {
    let body = json!({ "quotas": quotas }).to_string();
    server.call("PATCH", "/api/v1/tenants/default", &server.admin, &body).await.expect(200);
}

fn batch(events: usize) -> String {
    json!(vec![json!({"topic": "a.b", "payload": "x".repeat(1_000)}); events]).to_string()
}

async fn stored(server: &TestServer) -> u64 {
    server.get("/api/v1/tenants/default").await.expect(200)["stored_bytes"].as_u64().unwrap()
}

#[tokio::test]
async fn a_tenant_stores_no_more_than_it_may() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start(folder.path()).await;
    server.post("/api/v1/events/batch", &batch(1)).await.expect(202);
    let one = stored(&server).await;
    assert!((1_000..1_300).contains(&one), "{one}");

    // What is there counts, whenever the quota came.
    set_quotas(&server, json!({"max_stored_bytes": 5 * one})).await;
    server.post("/api/v1/events/batch", &batch(3)).await.expect(202);
    let (kind, retry_after, detail) = refusal(server.post("/api/v1/events/batch", &batch(2)).await, 429);
    assert_eq!((kind.as_str(), retry_after), ("quota-stored-bytes", Some(RETRY_STORED_AFTER.as_secs())));
    let added = 2 * one;
    for part in [format!("{} bytes", 4 * one), format!("add {added}"), format!("have {}", 5 * one)] {
        assert!(detail.contains(&part), "{detail} has no {part}");
    }
    assert!(detail.contains("purged") && detail.contains("raise the quota"), "{detail}");
    assert_eq!(stored(&server).await, 4 * one, "all or nothing");
    assert_eq!(server.get("/api/v1/stats").await.expect(200)["events"], 4);
    let (_, retry_after, _) = refusal(server.post("/api/v1/events/batch", &batch(6)).await, 429);
    assert_eq!(retry_after, None, "it would never fit");
    server.post("/api/v1/events/batch", &batch(1)).await.expect(202);
    assert_eq!(refusal(server.post("/api/v1/events/batch", &batch(1)).await, 429).0, "quota-stored-bytes");
    let admin = server.admin.clone();
    server.stop().await;

    let mut server = TestServer::start(folder.path()).await;
    server.admin = admin;
    assert_eq!(stored(&server).await, 5 * one);
    assert_eq!(refusal(server.post("/api/v1/events/batch", &batch(1)).await, 429).0, "quota-stored-bytes");
    set_quotas(&server, json!({"max_stored_bytes": 6 * one})).await;
    server.post("/api/v1/events/batch", &batch(1)).await.expect(202);
    server.stop().await;
}

#[tokio::test]
async fn publishers_at_once_store_no_more_than_their_tenant_may() {
    let folder = tempfile::tempdir().unwrap();
    let server = Arc::new(TestServer::start(folder.path()).await);
    server.post("/api/v1/events/batch", &batch(1)).await.expect(202);
    let one = stored(&server).await;
    set_quotas(&server, json!({"max_stored_bytes": 41 * one})).await;
    let publishers: Vec<_> = (0..24)
        .map(|_| {
            let server = Arc::clone(&server);
            tokio::spawn(async move { server.post("/api/v1/events/batch", &batch(3)).await.status })
        })
        .collect();
    let mut accepted = 0;
    for publisher in publishers {
        match publisher.await.unwrap() {
            202 => accepted += 1,
            status => assert_eq!(status, 429),
        }
    }
    assert_eq!(stored(&server).await, (1 + 3 * accepted) * one);
    assert!(accepted <= 13, "{accepted} batches of 3 were let through");
    // What was refused has given back what it had reserved.
    while server.post("/api/v1/events/batch", &batch(1)).await.status == 202 {}
    assert_eq!(stored(&server).await, 41 * one);
    Arc::try_unwrap(server).unwrap_or_else(|_| panic!("nobody else has it")).stop().await;
}

#[tokio::test]
async fn a_tenant_has_no_more_tokens_than_it_may() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start(folder.path()).await;
    let shown = server.get("/api/v1/tenants/default").await.expect(200);
    assert_eq!((&shown["tokens"], &shown["quotas"]["max_tokens"]), (&json!(1), &Value::Null));
    set_quotas(&server, json!({"max_tokens": 2})).await;
    let token = r#"{"name": "one", "scopes": ["read"]}"#;
    let made = server.post("/api/v1/tokens", token).await.expect(201);
    let (kind, _, detail) = refusal(server.post("/api/v1/tokens", token).await, 409);
    assert_eq!(kind, "quota-tokens");
    assert!(detail.contains("may have 2 tokens") && detail.contains("revoke one"), "{detail}");
    let path = format!("/api/v1/tokens/{}", made["uuid"].as_str().unwrap());
    server.call("DELETE", &path, &server.admin, "").await.expect(200);
    server.post("/api/v1/tokens", token).await.expect(201);
    assert_eq!(server.get("/api/v1/tenants/default").await.expect(200)["tokens"], 2);
    server.stop().await;
}

#[tokio::test]
async fn a_start_makes_the_admin_token_whatever_the_quota() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start(folder.path()).await;
    set_quotas(&server, json!({"max_tokens": 0})).await;
    let own = server.get("/api/v1/tokens").await.expect(200)[0]["uuid"].as_str().unwrap().to_owned();
    server.call("DELETE", &format!("/api/v1/tokens/{own}"), &server.admin, "").await.expect(200);
    server.stop().await;
    let server = TestServer::start(folder.path()).await;
    server.get("/api/v1/tokens").await.expect(200);
    server.stop().await;
}

#[tokio::test]
async fn a_new_tenant_has_the_server_s_quotas_unless_it_is_told_others() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start(folder.path()).await;
    server.post("/api/v1/tenants", r#"{"name": "before"}"#).await.expect(201);
    server.stop().await;

    let quotas = Quotas {
        max_webhooks: Some(10),
        max_events_per_s: Some(20),
        max_pending: Some(30),
        max_tokens: Some(40),
        max_stored_bytes: Some(50),
    };
    let with_quotas = ServeSettings { new_tenant_quotas: quotas, ..settings(folder.path()) };
    let operator = "given by the environment";
    let server = TestServer::start_with(ServeSettings { admin_token: Some(operator.into()), ..with_quotas }).await;
    let make = async |body: Value| {
        let made = server.call("POST", "/api/v1/tenants", operator, &body.to_string()).await.expect(201);
        let path = format!("/api/v1/tenants/{}", made["uuid"].as_str().unwrap());
        let shown = server.call("GET", &path, operator, "").await.expect(200);
        assert_eq!(shown["quotas"], made["quotas"], "what applies is shown");
        shown["quotas"].clone()
    };
    let own = json!({
        "max_webhooks": 10, "max_events_per_s": 20, "max_pending": 30, "max_tokens": 40, "max_stored_bytes": 50,
    });
    for body in [json!({"name": "a"}), json!({"name": "b", "quotas": {}}), json!({"name": "c", "quotas": null})] {
        assert_eq!(make(body).await, own);
    }
    let mut told = own;
    (told["max_pending"], told["max_tokens"], told["max_stored_bytes"]) = (Value::Null, json!(7), Value::Null);
    let body = json!({"name": "d", "quotas": {"max_pending": null, "max_tokens": 7, "max_stored_bytes": null}});
    assert_eq!(make(body).await, told);
    let none = json!({
        "max_webhooks": null, "max_events_per_s": null, "max_pending": null, "max_tokens": null, "max_stored_bytes": null,
    });
    assert_eq!(make(json!({"name": "e", "quotas": none})).await, none);
    let tenants = server.call("GET", "/api/v1/tenants", operator, "").await.expect(200);
    assert_eq!((&tenants[0]["quotas"], &tenants[1]["quotas"]), (&none, &none), "tenants that there were have theirs");
    server.stop().await;
}

/// An admin's token of a tenant.
async fn admin_of(server: &TestServer, tenant: &str) -> String {
    let headers = format!(
        "Authorization: Bearer {}\r\nContent-Type: application/json\r\nX-Postrider-Tenant: {tenant}\r\n",
        server.admin
    );
    let made = server.request("POST", "/api/v1/tokens", &headers, br#"{"name":"admin","scopes":["admin"]}"#).await;
    made.expect(201)["token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_acts_of_a_tenant_have_a_rate_and_an_operator_s_have_none() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start(folder.path()).await;
    for tenant in ["loud", "quiet"] {
        server.post("/api/v1/tenants", &json!({"name": tenant}).to_string()).await.expect(201);
    }
    let (loud, quiet) = (admin_of(&server, "loud").await, admin_of(&server, "quiet").await);
    // Also what comes to nothing is an act.
    let nothing = format!("/api/v1/tokens/{}", uuid::Uuid::nil());
    let (mut done, began) = (0, Instant::now());
    let refused = loop {
        let answer = server.call("DELETE", &nothing, &loud, "").await;
        if answer.status != 404 {
            break answer;
        }
        done += 1;
    };
    let most = u64::from(ACT_BURST) + u64::from(ACTS_PER_S) * (began.elapsed().as_secs() + 1);
    assert!((u64::from(ACT_BURST)..=most).contains(&done), "{done} acts");
    let (kind, retry_after, detail) = refusal(refused, 429);
    assert_eq!((kind.as_str(), retry_after), ("too-many-acts", Some(1)));
    assert!(detail.contains("5 acts") && detail.contains("1000 at once"), "{detail}");

    // Another token of the tenant is refused, too; who looks, publishes, or is another tenant's, is not.
    let headers = format!("Authorization: Bearer {}\r\nX-Postrider-Tenant: loud\r\n", server.admin);
    assert_eq!(server.request("DELETE", &nothing, &headers, b"").await.status, 404, "an operator's acts are exempt");
    let other = admin_of(&server, "loud").await;
    let mut let_through = 0;
    while server.call("DELETE", &nothing, &other, "").await.status != 429 {
        let_through += 1;
        assert!(let_through < ACT_BURST / 2, "each token has a rate of its own");
    }
    server.call("GET", "/api/v1/tokens", &loud, "").await.expect(200);
    server.call("GET", "/api/v1/audit", &loud, "").await.expect(200);
    server.call("POST", "/api/v1/events", &loud, r#"{"topic": "a"}"#).await.expect(202);
    assert_eq!(server.call("DELETE", &nothing, &quiet, "").await.status, 404);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(server.call("DELETE", &nothing, &loud, "").await.status, 404, "who waits so long is let through");
    for _ in 0..=ACT_BURST {
        assert_eq!(server.call("DELETE", &nothing, &server.admin, "").await.status, 404);
    }
    server.stop().await;
}

/// Each webhook that an event matches is a row, also where it is skipped.
#[tokio::test]
async fn a_batch_for_too_many_webhooks_is_refused_whole() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start(folder.path()).await;
    for n in 0..25 {
        let webhook = json!({"name": format!("w{n}"), "url": "http://127.0.0.1:4000/", "topic_patterns": [">"], "enabled": false});
        server.post("/api/v1/webhooks", &webhook.to_string()).await.expect(201);
    }
    let batch = |count: usize| Value::from(vec![json!({"topic": "a", "payload": {}}); count]).to_string();
    let refused = server.post("/api/v1/events/batch", &batch(801)).await.expect(422);
    let reason = refused["errors"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("more than 20000 deliveries together; send fewer"), "{reason}");
    assert_eq!(server.get("/api/v1/stats").await.expect(200)["skipped"], 0);
    server.post("/api/v1/events/batch", &batch(800)).await.expect(202);
    assert_eq!(server.get("/api/v1/stats").await.expect(200)["skipped"], 20_000);
}
