//! The REST API over real HTTP: what a user is told, what is refused and why, and what is kept secret.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use postrider::api::auth::{hash_token, new_token};
use postrider::clock::UnixMicros;
use postrider::serve::{ServeError, serve};
use postrider::store::seal::MasterKey;
use postrider::store::sqlite::{SqliteOptions, SqliteStore};
use postrider::store::{NewToken, Scope, Store, TenantPatch};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::receiver::TestReceiver;
use crate::support::server::{TestServer, settings};
use crate::support::{receiver, server};

const EVENT: &str = r#"{"id":"e-1","topic":"attacker.seen","type":"seen","ts":"t","payload":{"n":1.10}}"#;

/// Replaces what differs from run to run: ids, times and durations, by their form.
fn redacted(mut value: Value) -> Value {
    match &mut value {
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                let redaction = match (key.as_str(), &*value) {
                    ("secret" | "standard_secret" | "token", Value::String(_)) => Some("[secret]"),
                    ("url", _) => Some("[url]"),
                    ("address", Value::String(text)) if text.contains(':') => Some("[address]"),
                    // Written a moment later.
                    ("last_used_at", _) => Some("[time or null]"),
                    (key, Value::String(text)) if key == "at" || key.ends_with("_at") => {
                        assert!(text.ends_with('Z') && text.contains('T'), "{key} is no RFC 3339 in UTC: {text}");
                        Some("[time]")
                    }
                    (key, Value::Number(_)) if key.ends_with("_ms") => Some("[ms]"),
                    ("uuid" | "id" | "webhook_uuid" | "target", Value::String(text)) if text.len() == 36 => {
                        Some("[uuid]")
                    }
                    _ => None,
                };
                *value = redaction.map_or_else(|| redacted(value.take()), Value::from);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| *item = redacted(item.take())),
        _ => {}
    }
    value
}

// --- tokens ---

#[tokio::test]
async fn the_first_start_tells_an_admin_token_and_the_second_does_not() {
    let (folder, server) = TestServer::in_new_folder().await;
    assert_eq!(server.admin.len(), 46);
    let token = server.admin.clone();
    server.get("/api/v1/webhooks").await.expect(200);
    server.stop().await;

    let server = TestServer::start(folder.path()).await;
    assert_eq!(server.admin, "");
    server.call("GET", "/api/v1/webhooks", &token, "").await.expect(200);
    server.stop().await;
}

#[tokio::test]
async fn an_admin_token_of_the_environment_needs_no_row() {
    let folder = tempfile::tempdir().unwrap();
    let given = "a token of the operator's choice";
    let server = TestServer::start_with(postrider::serve::ServeSettings {
        admin_token: Some(given.into()),
        ..settings(folder.path())
    })
    .await;
    assert_eq!(server.admin, "", "no token is made");
    let tokens = server.call("GET", "/api/v1/tokens", given, "").await.expect(200);
    assert_eq!(tokens, json!([]));
    assert_eq!(server.call("GET", "/api/v1/tokens", "another", "").await.status, 401);
    server.stop().await;
}

#[tokio::test]
async fn a_scope_opens_its_routes_and_no_others() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let read = server.token(r#"["read"]"#).await;
    let publish = server.token(r#"["publish"]"#).await;
    let nowhere = "/api/v1/webhooks/00000000-0000-0000-0000-000000000000";
    // Method, path, and what a token that may read and one that may publish are answered.
    for (method, path, reader, publisher) in [
        ("GET", "/api/v1/events", 200, 403),
        ("GET", "/api/v1/events/none", 404, 403),
        ("GET", "/api/v1/webhooks", 200, 403),
        ("GET", nowhere, 404, 403),
        ("GET", "/api/v1/deliveries", 200, 403),
        ("GET", "/api/v1/deliveries/none", 404, 403),
        ("GET", "/api/v1/shapes", 200, 403),
        ("POST", "/api/v1/shapes/preview", 415, 403),
        ("POST", "/api/v1/filters/preview", 415, 403),
        ("GET", "/api/v1/stats", 200, 403),
        ("GET", "/api/v1/tokens", 403, 403),
        ("POST", "/api/v1/tokens", 403, 403),
        ("DELETE", "/api/v1/tokens/none", 403, 403),
        ("POST", "/api/v1/webhooks", 403, 403),
        ("PATCH", nowhere, 403, 403),
        ("DELETE", nowhere, 403, 403),
        ("POST", "/api/v1/webhooks/none/test", 403, 403),
        ("POST", "/api/v1/deliveries/none/retry", 403, 403),
        ("POST", "/api/v1/deliveries/none/discard", 403, 403),
        ("POST", "/api/v1/events", 403, 415),
        ("POST", "/api/v1/events/batch", 403, 415),
    ] {
        assert_eq!(server.call(method, path, &read, "").await.status, reader, "{method} {path} with read");
        assert_eq!(server.call(method, path, &publish, "").await.status, publisher, "{method} {path} with publish");
        let answer = server.request(method, path, "", b"").await;
        assert_eq!(answer.status, 401, "{method} {path} without a token");
        assert!(answer.header("www-authenticate").is_some_and(|challenge| challenge.starts_with("Bearer")));
        assert!(answer.json()["detail"].is_string());
    }
    server.stop().await;
}

#[tokio::test]
async fn a_token_is_good_until_it_is_revoked_or_expires() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let created =
        server.post("/api/v1/tokens", r#"{"name":"fleet","scopes":["publish","read","read"]}"#).await.expect(201);
    insta::assert_json_snapshot!("token_created", redacted(created.clone()));
    insta::assert_json_snapshot!("token_list", redacted(server.get("/api/v1/tokens").await.expect(200)));
    let token = created["token"].as_str().unwrap();
    server.call("POST", "/api/v1/events", token, EVENT).await.expect(202);

    let path = format!("/api/v1/tokens/{}", created["uuid"].as_str().unwrap());
    let revoked = server.call("DELETE", &path, &server.admin, "").await.expect(200);
    assert_eq!(revoked, json!({"message": "Token revoked"}));
    assert_eq!(server.call("POST", "/api/v1/events", token, EVENT).await.status, 401, "at once");
    assert_eq!(server.call("DELETE", &path, &server.admin, "").await.status, 404);

    let soon = postrider::clock::Clock::now(&postrider::clock::SystemClock).after(Duration::from_millis(300));
    let body = json!({"name": "brief", "scopes": ["read"], "expires_at": soon.to_string()}).to_string();
    let brief = server.post("/api/v1/tokens", &body).await.expect(201);
    let brief = brief["token"].as_str().unwrap();
    while server.call("GET", "/api/v1/webhooks", brief, "").await.status == 200 {}
    assert_eq!(server.call("GET", "/api/v1/webhooks", brief, "").await.status, 401);
    server.stop().await;
}

#[tokio::test]
async fn a_token_that_makes_no_sense_is_refused() {
    let (_folder, server) = TestServer::in_new_folder().await;
    for (body, status, field, reason) in [
        (r#"{"name":"a","scopes":[]}"#, 422, "scopes", "at least one"),
        (r#"{"name":"a","scopes":["root"]}"#, 422, "scopes[0]", "unknown variant"),
        (r#"{"name":"","scopes":["read"]}"#, 422, "name", "1 to 64"),
        (r#"{"scopes":["read"]}"#, 422, "body", "missing field `name`"),
        (r#"{"name":"a","scopes":["read"],"expires_at":"2001-01-01T00:00:00Z"}"#, 422, "expires_at", "past"),
        (r#"{"name":"a","scopes":["read"],"expires_at":"soon"}"#, 422, "expires_at", "neither"),
        (r#"{"name":"a","scopes":["read"],"admin":true}"#, 422, "admin", "unknown field"),
    ] {
        server.post("/api/v1/tokens", body).await.expect_refusal(status, field, reason);
    }
    assert_eq!(server.get("/api/v1/tokens").await.expect(200).as_array().unwrap().len(), 1, "only the first start's");
    server.stop().await;
}

/// Makes a token of another tenant than the server's own, which only the store can do.
async fn token_of_another_tenant(folder: &std::path::Path) -> String {
    let key = MasterKey::load_or_create(folder).unwrap();
    let store = SqliteStore::open(folder, &key, SqliteOptions::default()).unwrap();
    let store: &dyn Store = &store;
    let token = new_token().unwrap();
    let patch = TenantPatch { name: Some("others".to_owned()), ..TenantPatch::default() };
    let tenant = store.create_tenant(patch, UnixMicros(0)).await.unwrap();
    let record = NewToken {
        tenant: tenant.seq,
        name: "the others".to_owned(),
        scopes: vec![Scope::Admin],
        hash: hash_token(&token),
        expires_at: None,
        now: UnixMicros(0),
    };
    store.create_token(record).await.unwrap();
    store.close().await;
    token.expose_secret().to_owned()
}

#[tokio::test]
async fn what_another_tenant_has_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let others = token_of_another_tenant(folder.path()).await;
    let server = TestServer::start(folder.path()).await;
    let receiver = TestReceiver::start(|_, _| 404.into()).await;
    let webhook = server.webhook("siem", &receiver.url("/"), ">").await;
    let webhook = format!("/api/v1/webhooks/{}", webhook["uuid"].as_str().unwrap());
    server.post("/api/v1/events", EVENT).await.expect(202);
    let dead = server.wait_for("/api/v1/deliveries?state=dead", |page| page["items"][0].is_object()).await;
    let delivery = format!("/api/v1/deliveries/{}", dead["items"][0]["id"].as_str().unwrap());
    let token = server.get("/api/v1/tokens").await.expect(200)[0]["uuid"].as_str().unwrap().to_owned();
    let token = format!("/api/v1/tokens/{token}");

    for (method, path, body) in [
        ("GET", webhook.as_str(), ""),
        ("PATCH", &webhook, r#"{"name":"theirs"}"#),
        ("DELETE", &webhook, ""),
        ("POST", &format!("{webhook}/test"), ""),
        ("GET", "/api/v1/events/e-1", ""),
        ("GET", &delivery, ""),
        ("POST", &format!("{delivery}/retry"), ""),
        ("POST", &format!("{delivery}/discard"), ""),
        ("DELETE", &token, ""),
    ] {
        let answer = server.call(method, path, &others, body).await;
        assert_eq!(answer.status, 404, "{method} {path}: {}", answer.body);
    }
    for path in ["/api/v1/webhooks", "/api/v1/events", "/api/v1/deliveries", "/api/v1/tokens"] {
        let listed = server.call("GET", path, &others, "").await.expect(200).to_string();
        assert!(
            !listed.contains("siem") && !listed.contains("\"e-1\"") && !listed.contains("\"admin\",\"scopes"),
            "{listed}"
        );
    }
    let receipt = server.call("POST", "/api/v1/events", &others, EVENT).await.expect(202);
    assert_eq!(
        receipt,
        json!({"id": "e-1", "deliveries": 0, "skipped": 0, "duplicate": false}),
        "their event, and not for us"
    );

    assert_eq!(server.get(&webhook).await.expect(200)["name"], "siem");
    let delivery = server.get(&delivery).await.expect(200);
    assert_eq!((&delivery["state"], &delivery["attempts"]), (&json!("dead"), &json!(1)));
    assert_eq!(receiver.received_count(), 1, "nothing was tested or sent again");
    server.stop().await;
}

// --- tenants ---

impl TestServer {
    /// A request of the operator for a tenant.
    async fn as_tenant(&self, tenant: &str, method: &str, path: &str, json: &str) -> server::Answer {
        let headers = format!(
            "Authorization: Bearer {}\r\nX-Postrider-Tenant: {tenant}\r\nContent-Type: application/json\r\n",
            self.admin
        );
        self.request(method, path, &headers, json.as_bytes()).await
    }
}

#[tokio::test]
async fn a_tenant_is_made_shown_changed_and_deleted() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let input = r#"{"name":"blue","description":"the blue team","quotas":{"max_webhooks":2,"max_pending":null}}"#;
    let blue = server.post("/api/v1/tenants", input).await.expect(201);
    insta::assert_json_snapshot!("tenant_created", redacted(blue.clone()));
    server.post("/api/v1/tenants", r#"{"name":"blue"}"#).await.expect_refusal(409, "name", "taken");
    let path = format!("/api/v1/tenants/{}", blue["uuid"].as_str().unwrap());
    insta::assert_json_snapshot!("tenant_shown", redacted(server.get(&path).await.expect(200)));
    let change = r#"{"name":"green","quotas":{"max_events_per_s":100}}"#;
    let green = server.call("PATCH", "/api/v1/tenants/blue", &server.admin, change).await.expect(200);
    let quotas = json!({
        "max_webhooks": 2, "max_events_per_s": 100, "max_pending": null, "max_tokens": null, "max_stored_bytes": null,
    });
    assert_eq!(green["quotas"], quotas);
    assert_eq!(server.get("/api/v1/tenants/blue").await.status, 404);
    let names: Vec<_> = server.get("/api/v1/tenants").await.expect(200).as_array().unwrap().clone();
    assert_eq!(names.iter().map(|tenant| tenant["name"].as_str().unwrap()).collect::<Vec<_>>(), ["default", "green"]);
    for (input, field, reason) in [
        ("{}", "name", "required"),
        (r#"{"name":"Two Words"}"#, "name", "a-z"),
        (r#"{"name":"a","quotas":{"max_pending":1000000001}}"#, "quotas.max_pending", "1000000000"),
        (r#"{"name":"a","quotas":{"max_pending":-1}}"#, "quotas.max_pending", "invalid value"),
        (r#"{"name":"a","quotas":{"pending":1}}"#, "quotas.pending", "unknown field"),
        (
            r#"{"name":"a","quotas":{"max_stored_bytes":1125899906842625}}"#,
            "quotas.max_stored_bytes",
            "1125899906842624",
        ),
    ] {
        server.post("/api/v1/tenants", input).await.expect_refusal(422, field, reason);
    }
    let delete = async |path: &str| server.call("DELETE", path, &server.admin, "").await;
    assert_eq!(delete("/api/v1/tenants/default?force=true").await.status, 409);
    delete("/api/v1/tenants/green?force=maybe").await.expect_refusal(422, "force", "true or false");
    assert_eq!(delete("/api/v1/tenants/green").await.status, 200);
    assert_eq!(delete("/api/v1/tenants/green").await.status, 404);
    server.stop().await;
}

#[tokio::test]
async fn an_operator_acts_for_any_tenant_and_others_for_their_own() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let blue = server.post("/api/v1/tenants", r#"{"name":"blue"}"#).await.expect(201);
    let uuid = blue["uuid"].as_str().unwrap();
    let receiver = TestReceiver::healthy().await;
    let webhook = json!({"name": "siem", "url": receiver.url("/"), "topic_patterns": [">"]}).to_string();
    server.as_tenant("blue", "POST", "/api/v1/webhooks", &webhook).await.expect(201);
    assert_eq!(server.as_tenant(uuid, "GET", "/api/v1/webhooks", "").await.expect(200)[0]["name"], "siem");
    assert_eq!(server.get("/api/v1/webhooks").await.expect(200), json!([]), "by default it acts for its own");
    assert_eq!(server.as_tenant("nobody", "GET", "/api/v1/webhooks", "").await.status, 404);
    server.as_tenant("blue", "POST", "/api/v1/events", EVENT).await.expect(202);
    receiver.wait_for(1).await;

    let token = r#"{"name":"theirs","scopes":["admin"]}"#;
    let token = server.as_tenant("blue", "POST", "/api/v1/tokens", token).await.expect(201);
    let token = token["token"].as_str().unwrap();
    let theirs = async |headers: &str| {
        let headers = format!("Authorization: Bearer {token}\r\n{headers}");
        server.request("GET", "/api/v1/webhooks", &headers, b"").await
    };
    for headers in ["", "X-Postrider-Tenant: blue\r\n", &format!("X-Postrider-Tenant: {uuid}\r\n")] {
        assert_eq!(theirs(headers).await.expect(200)[0]["name"], "siem", "{headers}");
    }
    let foreign = theirs("X-Postrider-Tenant: default\r\n").await;
    let nobody = theirs("X-Postrider-Tenant: nobody\r\n").await;
    assert_eq!((foreign.status, &foreign.body), (403, &nobody.body), "which tenants there are is not told");
    let twice = "X-Postrider-Tenant: blue\r\nX-Postrider-Tenant: default\r\n";
    theirs(twice).await.expect_refusal(422, "X-Postrider-Tenant", "more than once");

    assert_eq!(server.call("DELETE", "/api/v1/tenants/blue", &server.admin, "").await.status, 409, "it has a webhook");
    theirs("").await.expect(200);
    server.call("DELETE", "/api/v1/tenants/blue?force=true", &server.admin, "").await.expect(200);
    assert_eq!(theirs("").await.status, 401, "at once");
    assert_eq!(server.as_tenant(uuid, "POST", "/api/v1/events", EVENT).await.status, 404);
    server.stop().await;
}

#[tokio::test]
async fn only_an_operator_deals_with_operators_tokens() {
    let (_folder, server) = TestServer::in_new_folder().await;
    server.post("/api/v1/tenants", r#"{"name":"blue"}"#).await.expect(201);
    let admin = server.token(r#"["admin"]"#).await;
    let wanted = r#"{"name":"mine","scopes":["operator"]}"#;
    assert_eq!(server.call("POST", "/api/v1/tokens", &admin, wanted).await.status, 403);
    server.as_tenant("blue", "POST", "/api/v1/tokens", wanted).await.expect_refusal(
        422,
        "scopes",
        "belongs to the tenant `default`",
    );
    let operator = server.post("/api/v1/tokens", wanted).await.expect(201);
    let token = operator["token"].as_str().unwrap();
    for path in ["/api/v1/tenants", "/api/v1/webhooks", "/api/v1/tokens"] {
        server.call("GET", path, token, "").await.expect(200);
    }
    let path = format!("/api/v1/tokens/{}", operator["uuid"].as_str().unwrap());
    assert_eq!(server.call("DELETE", &path, &admin, "").await.status, 403);
    server.call("DELETE", &path, &server.admin, "").await.expect(200);
    assert_eq!(server.call("GET", "/api/v1/tenants", token, "").await.status, 401);
    server.stop().await;
}

#[tokio::test]
async fn the_last_use_of_a_token_is_shown() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let created = server.post("/api/v1/tokens", r#"{"name":"fleet","scopes":["publish"]}"#).await.expect(201);
    assert_eq!(created["last_used_at"], Value::Null);
    let token = created["token"].as_str().unwrap();
    server.call("POST", "/api/v1/events", token, EVENT).await.expect(202);
    let first = server.wait_for("/api/v1/tokens", |tokens| tokens[1]["last_used_at"].is_string()).await;
    for _ in 0..5 {
        server.call("POST", "/api/v1/events", token, EVENT).await.expect(202);
    }
    // Another token's revocation makes the server ask the store again.
    let other = server.post("/api/v1/tokens", r#"{"name":"other","scopes":["read"]}"#).await.expect(201);
    let path = format!("/api/v1/tokens/{}", other["uuid"].as_str().unwrap());
    server.call("DELETE", &path, &server.admin, "").await.expect(200);
    server.call("POST", "/api/v1/events", token, EVENT).await.expect(202);
    let again = server.get("/api/v1/tokens").await.expect(200);
    assert_eq!(again[1]["last_used_at"], first[1]["last_used_at"], "it is written once a minute");
    server.stop().await;
}

#[tokio::test]
async fn quotas_are_kept_at_the_doors() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let quota = async |quotas: &str| {
        let path = "/api/v1/tenants/default";
        server.call("PATCH", path, &server.admin, &format!(r#"{{"quotas":{quotas}}}"#)).await.expect(200)
    };
    let problem = |answer: server::Answer, status: u16, kind: &str| {
        let retry_after = answer.header("retry-after").map(str::to_owned);
        let problem = answer.expect(status);
        assert_eq!(problem["type"], format!("urn:postrider:problem:{kind}"), "{problem}");
        (retry_after, problem["detail"].as_str().unwrap().to_owned())
    };
    let stalled = TestReceiver::start(|_, _| receiver::Answer(200, Duration::from_mins(10))).await;
    quota(r#"{"max_webhooks":1}"#).await;
    let webhook = server.webhook("stalled", &stalled.url("/"), "a.>").await;
    let second = json!({"name": "second", "url": stalled.url("/"), "topic_patterns": ["a"]}).to_string();
    let (_, detail) = problem(server.post("/api/v1/webhooks", &second).await, 409, "quota-webhooks");
    assert_eq!(
        detail,
        "the tenant may have 1 webhooks and has them: delete one, or have an operator raise `max_webhooks`"
    );

    let batch = |count: usize| format!("[{}]", vec![r#"{"topic":"a.b"}"#; count].join(","));
    quota(r#"{"max_pending":5}"#).await;
    server.post("/api/v1/events/batch", &batch(4)).await.expect(202);
    let (retry_after, detail) = problem(server.post("/api/v1/events/batch", &batch(2)).await, 429, "quota-pending");
    assert_eq!(retry_after.as_deref(), Some("5"));
    assert_eq!(
        detail,
        "4 deliveries of the tenant are pending and these events would add 2; it may have 5 (`max_pending`): wait until \
         some have ended"
    );
    let (retry_after, _) = problem(server.post("/api/v1/events/batch", &batch(6)).await, 429, "quota-pending");
    assert_eq!(retry_after, None, "it would never fit");
    server.post("/api/v1/events", r#"{"topic":"for.nobody"}"#).await.expect(202);
    server.post("/api/v1/events/batch", &batch(1)).await.expect(202);
    assert_eq!(server.get("/api/v1/tenants/default").await.expect(200)["pending"], 5);
    assert_eq!(server.get("/api/v1/stats").await.expect(200)["events"], 6, "all or nothing");
    let path = format!("/api/v1/webhooks/{}", webhook["uuid"].as_str().unwrap());
    server.call("DELETE", &path, &server.admin, "").await.expect(200);

    quota(r#"{"max_pending":null,"max_events_per_s":3}"#).await;
    let (retry_after, detail) = problem(server.post("/api/v1/events/batch", &batch(4)).await, 429, "quota-events");
    assert_eq!(retry_after, None, "{detail}");
    let mut accepted = 0;
    let refused = loop {
        let answer = server.post("/api/v1/events", r#"{"topic":"a"}"#).await;
        if answer.status != 202 {
            break answer;
        }
        accepted += 1;
        assert!(accepted < 1_000, "the quota is not kept");
    };
    let (retry_after, _) = problem(refused, 429, "quota-events");
    assert_eq!(retry_after.as_deref(), Some("1"));
    assert!(accepted >= 3);
    quota(r#"{"max_events_per_s":0}"#).await;
    problem(server.post("/api/v1/events", r#"{"topic":"a"}"#).await, 429, "quota-events");
    quota(r#"{"max_events_per_s":null}"#).await;
    server.post("/api/v1/events/batch", &batch(1_000)).await.expect(202);
    server.stop().await;
}

#[tokio::test]
async fn the_audit_log_says_who_did_what_and_keeps_no_secret() {
    let (_folder, server) = TestServer::in_new_folder().await;
    server.post("/api/v1/tenants", r#"{"name":"blue"}"#).await.expect(201);
    let token = r#"{"name":"blue's admin","scopes":["admin"]}"#;
    let token = server.as_tenant("blue", "POST", "/api/v1/tokens", token).await.expect(201);
    let theirs = token["token"].as_str().unwrap();
    let secret = "a secret that stays one";
    let webhook = json!({"name": "siem", "url": "http://127.0.0.1:1999/", "topic_patterns": [">"], "secret": secret});
    let webhook = server.call("POST", "/api/v1/webhooks", theirs, &webhook.to_string()).await.expect(201);
    let seen = server.call("GET", "/api/v1/audit", theirs, "").await;
    for hidden in [secret, theirs, "http:", webhook["standard_secret"].as_str().unwrap()] {
        assert!(!seen.body.contains(hidden), "{}", seen.body);
    }
    let seen = seen.expect(200);
    insta::assert_json_snapshot!("audit_page", redacted(seen.clone()));
    assert_eq!(seen["items"][0]["target"], webhook["uuid"]);
    assert_eq!(seen["items"][0]["actor"]["token"], token["uuid"]);
    assert_eq!(server.as_tenant("blue", "GET", "/api/v1/audit", "").await.expect(200), seen, "an operator for blue");
    let all = server.get("/api/v1/audit").await.expect(200);
    assert_eq!(all, seen, "an operator sees all, which is blue's");
    server.token(r#"["read"]"#).await;
    let by_kind = server.get("/api/v1/audit?action=token&limit=1").await.expect(200);
    assert_eq!((&by_kind["items"][0]["tenant"], by_kind["items"].as_array().unwrap().len()), (&json!("default"), 1));
    let older = format!("/api/v1/audit?action=token&cursor={}", by_kind["next_cursor"].as_str().unwrap());
    assert_eq!(server.get(&older).await.expect(200)["items"][0]["target"], token["uuid"]);
    let actor = format!("/api/v1/audit?actor={}", token["uuid"].as_str().unwrap());
    assert_eq!(server.get(&actor).await.expect(200)["items"].as_array().unwrap().len(), 1);
    server.get("/api/v1/audit?since=soon").await.expect_refusal(422, "since", "neither");
    server.stop().await;
}

/// A copy of the folder that a server of the first release left, as `tests/fixtures/README.md` says. The retry that it owes is
/// due in a day from now, as it was then.
fn folder_of_the_first_release() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["postrider.db", "master.key"] {
        let from = format!("{}/tests/fixtures/schema_1/{file}", env!("CARGO_MANIFEST_DIR"));
        std::fs::write(folder.path().join(file), std::fs::read(from).unwrap()).unwrap();
    }
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(folder.path().join("master.key"), private).unwrap();
    let database = rusqlite::Connection::open(folder.path().join("postrider.db")).unwrap();
    let due_tomorrow = "UPDATE delivery SET next_at = (unixepoch() + 86400) * 1000000 WHERE next_at IS NOT NULL";
    assert_eq!(database.execute(due_tomorrow, ()).unwrap(), 1);
    folder
}

#[tokio::test]
async fn an_installation_of_the_first_release_goes_on() {
    let admin = "pr_OQGbBCbKJG3KRl0uR3KZfO-i0GvqNHy2DlN6jiL98k0";
    let fleet = "pr_fHjyHqscfNKCxXWCwvsprp4D6bzYiaEfrC_F9TbRBLQ";
    let folder = folder_of_the_first_release();
    let server = TestServer::start(folder.path()).await;
    assert_eq!(server.admin, "", "its admin token is good");
    let webhooks = server.call("GET", "/api/v1/webhooks", admin, "").await.expect(200);
    assert_eq!((&webhooks[0]["name"], &webhooks[0]["retry_schedule"]), (&json!("siem"), &json!([86400.0])));
    assert_eq!(
        (&webhooks[0]["consecutive_failures"], &webhooks[0]["last_error"]),
        (&json!(1), &json!("connect: Connection refused (os error 111)")),
        "{webhooks}"
    );
    let deliveries = server.call("GET", "/api/v1/deliveries?state=pending", admin, "").await.expect(200);
    assert_eq!((&deliveries["items"][0]["event_id"], &deliveries["items"][0]["attempts"]), (&json!("e-1"), &json!(1)));
    let again = r#"{"id":"e-1","topic":"attacker.seen","payload":{"n":1.10}}"#;
    assert_eq!(server.call("POST", "/api/v1/events", fleet, again).await.expect(202)["duplicate"], true);
    let tokens = server.call("GET", "/api/v1/tokens", admin, "").await.expect(200);
    assert_eq!((&tokens[0]["scopes"], &tokens[1]["scopes"]), (&json!(["admin"]), &json!(["publish"])));
    server.call("POST", "/api/v1/tokens", admin, r#"{"name":"new","scopes":["read"]}"#).await.expect(201);
    assert_eq!(server.call("GET", "/api/v1/tenants", admin, "").await.status, 403, "it stays what it was");
    server.stop().await;

    // Who starts the server is its operator.
    let operator = "given by the environment";
    let server = TestServer::start_with(postrider::serve::ServeSettings {
        admin_token: Some(operator.into()),
        ..settings(folder.path())
    })
    .await;
    let tenants = server.call("GET", "/api/v1/tenants", operator, "").await.expect(200);
    assert_eq!(tenants[0]["name"], "default");
    assert!(tenants[0]["created_at"].as_str().unwrap().starts_with("2026-11-25T08:55:0"), "{tenants}");
    server.call("POST", "/api/v1/tokens", operator, r#"{"name":"op","scopes":["operator"]}"#).await.expect(201);
    let acts = server.call("GET", "/api/v1/audit?actor=environment", operator, "").await.expect(200);
    assert_eq!(acts["items"][0]["actor"], json!({"token": null, "name": "environment"}));
    server.stop().await;
}

// --- events ---

#[tokio::test]
async fn an_event_is_accepted_once_and_keeps_its_digits() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let receipt = server.post("/api/v1/events", EVENT).await.expect(202);
    assert_eq!(receipt, json!({"id": "e-1", "deliveries": 0, "skipped": 0, "duplicate": false}));
    let receipt = server.post("/api/v1/events", EVENT).await.expect(202);
    assert_eq!(receipt, json!({"id": "e-1", "deliveries": 0, "skipped": 0, "duplicate": true}));
    let shown = server.get("/api/v1/events/e-1").await;
    assert!(shown.body.contains(r#""payload":{"n":1.10}"#), "{}", shown.body);
    insta::assert_json_snapshot!("event_without_webhooks", redacted(shown.expect(200)));
    server.stop().await;
}

#[tokio::test]
async fn an_id_that_was_sent_before_with_another_content_is_a_conflict() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let event = |id: &str, n: u32| format!(r#"{{"topic":"a","type":"t","id":"{id}","payload":{{"n":{n}}}}}"#);
    server.post("/api/v1/events", &event("e-1", 1)).await.expect(202);
    for other in [
        event("e-1", 2),
        event("e-1", 1).replace(r#""a""#, r#""b""#),
        event("e-1", 1).replace(r#""t""#, r#""u""#),
        event("e-1", 1).replace(r#"{"n":1}"#, "null"),
    ] {
        server.post("/api/v1/events", &other).await.expect_refusal(409, "events[0].id", "was sent before");
        server.post("/api/v1/events?dry_run=true", &other).await.expect_refusal(409, "events[0].id", "was sent before");
    }
    let batch = format!("[{},{},{}]", event("e-2", 1), event("e-1", 1), event("e-1", 2));
    server.post("/api/v1/events/batch", &batch).await.expect_refusal(409, "events[2].id", "was sent before");
    let batch = format!("[{},{}]", event("e-3", 1), event("e-3", 2));
    let refused = server.post("/api/v1/events/batch", &batch).await;
    refused.expect_refusal(409, "events[1].id", "was sent before");
    assert_eq!(server.get("/api/v1/stats").await.expect(200)["events"], 1, "nothing else was stored");
    assert_eq!(server.post("/api/v1/events", &event("e-1", 1)).await.expect(202)["duplicate"], true);
    server.stop().await;
}

#[tokio::test]
async fn every_payload_is_kept_as_it_came() {
    let (_folder, server) = TestServer::in_new_folder().await;
    for payload in ["null", "false", "0", "-0.0", "\"\"", "[]", "{}", "7", "\"text\""] {
        let id = server.post("/api/v1/events", &format!(r#"{{"topic":"a","payload":{payload}}}"#)).await.expect(202);
        let shown = server.get(&format!("/api/v1/events/{}", id["id"].as_str().unwrap())).await;
        assert!(shown.body.contains(&format!(r#""payload":{payload},"#)), "{payload}: {}", shown.body);
    }
    server.stop().await;
}

#[tokio::test]
async fn an_event_that_is_none_is_refused_with_its_reason_and_not_stored() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let deep = format!(r#"{{"topic":"a","payload":{}{}}}"#, "[".repeat(128), "]".repeat(128));
    for (body, status, field, reason) in [
        ("", 400, "body", "invalid JSON"),
        ("{", 400, "body", "invalid JSON"),
        (r#"{"topic":"a"} x"#, 400, "body", "invalid JSON"),
        (r#"{"topic":"a","topic":"b"}"#, 400, "body", "has this key already"),
        (r#"{"topic":"a","payload":{"k":1,"k":2}}"#, 400, "body", "has this key already"),
        (r#"{"topic":"a","payload":"\ud800"}"#, 400, "body", "surrogate"),
        (&deep, 400, "body", "deep"),
        ("[]", 422, "body", ""),
        ("{}", 422, "topic", ""),
        (r#"{"topic":7}"#, 422, "topic", ""),
        (r#"{"topic":""}"#, 422, "topic", "empty"),
        (r#"{"topic":"a..b"}"#, 422, "topic", "empty token"),
        (r#"{"topic":"a.*"}"#, 422, "topic", "wildcard"),
        (r#"{"topic":"a b"}"#, 422, "topic", "character"),
        (r#"{"topic":"a","type":1}"#, 422, "type", ""),
        (r#"{"topic":"a","id":"é"}"#, 422, "id", ""),
    ] {
        let headers = format!("Authorization: Bearer {}\r\nContent-Type: application/json\r\n", server.admin);
        let answer = server.request("POST", "/api/v1/events", &headers, body.as_bytes()).await;
        answer.expect_refusal(status, field, reason);
    }
    let headers =
        format!("Authorization: Bearer {}\r\nContent-Type: application/json; charset=utf-8\r\n", server.admin);
    let not_utf8 = b"{\"topic\":\"a\",\"payload\":\"\xff\"}";
    server.request("POST", "/api/v1/events", &headers, not_utf8).await.expect_refusal(400, "body", "UTF-8");
    assert_eq!(server.get("/api/v1/events").await.expect(200), json!({"items": [], "next_cursor": null}));
    server.stop().await;
}

#[tokio::test]
async fn a_body_of_another_kind_or_beyond_its_limit_is_refused() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let token = format!("Authorization: Bearer {}\r\n", server.admin);
    let post = async |headers: &str, body: &[u8]| {
        server.request("POST", "/api/v1/events", &format!("{token}{headers}"), body).await
    };
    post("", EVENT.as_bytes()).await.expect_refusal(415, "Content-Type", "is missing");
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    post(form, EVENT.as_bytes()).await.expect_refusal(415, "Content-Type", "must be application/json");
    let gzip = "Content-Type: application/json\r\nContent-Encoding: gzip\r\n";
    post(gzip, EVENT.as_bytes()).await.expect_refusal(415, "Content-Encoding", "gzip");

    let json = "Content-Type: application/json\r\n";
    let large = format!(r#"{{"topic":"a","payload":"{}"}}"#, "x".repeat(1024 * 1024));
    post(json, large.as_bytes()).await.expect_refusal(413, "body", "1048576");
    let chunked = format!(
        "POST /api/v1/events HTTP/1.1\r\nHost: test\r\n{token}{json}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{large}\r\n0\r\n\r\n",
        large.len()
    );
    server.raw(chunked.as_bytes()).await.expect_refusal(413, "body", "1048576");
    let huge = format!(
        "POST /api/v1/events HTTP/1.1\r\nHost: test\r\n{token}{json}Expect: 100-continue\r\nContent-Length: 99999999\r\n\r\n"
    );
    server.raw(huge.as_bytes()).await.expect_refusal(413, "body", "1048576");

    let just_fits = format!(r#"{{"topic":"a","payload":"{}"}}"#, "x".repeat(1024 * 1024 - 26));
    assert_eq!(just_fits.len(), 1024 * 1024);
    post(json, just_fits.as_bytes()).await.expect(202);
    let long_header = format!("X-Long: {}\r\n", "x".repeat(32 * 1024));
    assert_eq!(server.raw(format!("GET / HTTP/1.1\r\nHost: test\r\n{long_header}\r\n").as_bytes()).await.status, 431);
    assert_eq!(server.get("/api/v1/stats").await.expect(200)["events"], 1);
    server.stop().await;
}

#[tokio::test]
async fn a_batch_is_accepted_whole_or_not_at_all() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let batch = async |media_type: &str, body: &str| {
        let headers = format!("Authorization: Bearer {}\r\nContent-Type: {media_type}\r\n", server.admin);
        server.request("POST", "/api/v1/events/batch", &headers, body.as_bytes()).await
    };
    let json = "application/json";
    batch(json, r#"[{"topic":"a"},{"topic":"a."}]"#).await.expect_refusal(422, "events[1].topic", "empty token");
    batch(json, r#"[{"topic":"a"},{"topic":"a","typo":1}]"#).await.expect_refusal(422, "events[1].typo", "");
    batch(json, r#"[{"topic":"a"},{"topic":"a","topic":"b"}]"#).await.expect_refusal(
        400,
        "events[1]",
        "has this key already",
    );
    batch(json, r#"{"topic":"a"}"#).await.expect_refusal(400, "body", "expected '['");
    batch(json, r#"[{"topic":"a"},7]"#).await.expect_refusal(422, "events[1]", "must be a JSON object");
    batch(json, "[").await.expect_refusal(400, "events[0]", "invalid JSON");
    batch(json, "[]").await.expect_refusal(422, "body", "empty");
    let many = format!("[{}]", vec![r#"{"topic":"a"}"#; 1_001].join(","));
    batch(json, &many).await.expect_refusal(422, "body", "1000");
    batch("application/x-ndjson", "{\"topic\":\"a\"}\n{").await.expect_refusal(400, "events[1]", "invalid JSON");
    batch("text/plain", "{}").await.expect_refusal(415, "Content-Type", "application/x-ndjson");
    assert_eq!(server.get("/api/v1/stats").await.expect(200)["events"], 0, "nothing was stored");

    let accepted =
        batch(json, r#"[{"topic":"a","id":"1"},{"topic":"a","id":"2"},{"topic":"a","id":"1"}]"#).await.expect(202);
    insta::assert_json_snapshot!("batch_receipt", accepted);
    let accepted = batch("application/x-ndjson", "{\"topic\":\"a\"}\n\n{\"topic\":\"a\"}\n").await.expect(202);
    assert_eq!((&accepted["accepted"], &accepted["duplicates"]), (&json!(2), &json!(0)));
    server.stop().await;
}

#[tokio::test]
async fn a_batch_or_an_event_in_it_beyond_its_limit_is_refused() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let head = format!(
        "POST /api/v1/events/batch HTTP/1.1\r\nHost: test\r\nConnection: close\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n",
        server.admin
    );
    let event = |bytes: usize| format!(r#"{{"topic":"a","payload":"{}"}}"#, "x".repeat(bytes - 26));
    let large = format!(r#"[{{"topic":"a"}},{}]"#, event(1024 * 1024 + 1));
    let refused = server.post("/api/v1/events/batch", &large).await;
    refused.expect_refusal(413, "events[1]", "1048576");

    // Each event has the size allowed, all together have not.
    let limit = 16 * 1024 * 1024;
    let events = vec![event(1024 * 1024); 16];
    let batch = format!("[{}]", events.join(","));
    assert!(batch.len() > limit);
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{batch}\r\n0\r\n\r\n", batch.len());
    server.raw(chunked.as_bytes()).await.expect_refusal(413, "body", "16777216");
    let declared = format!("{head}Expect: 100-continue\r\nContent-Length: {}\r\n\r\n", batch.len());
    server.raw(declared.as_bytes()).await.expect_refusal(413, "body", "16777216");
    assert_eq!(server.get("/api/v1/stats").await.expect(200)["events"], 0, "nothing was stored");

    let batch = format!("[{}]{}", events[1..].join(","), " ".repeat(limit - 15 * (1024 * 1024 + 1) - 1));
    assert_eq!(batch.len(), limit);
    assert_eq!(server.post("/api/v1/events/batch", &batch).await.expect(202)["accepted"], 15);
    server.stop().await;
}

#[tokio::test]
async fn events_are_listed_newest_first_in_pages_and_by_filters() {
    let (_folder, server) = TestServer::in_new_folder().await;
    for (id, topic, kind) in [("1", "a.b", "x"), ("2", "a.c", "y"), ("3", "b.c", "x")] {
        let event = json!({"id": id, "topic": topic, "type": kind, "payload": {"word": format!("needle-{id}")}});
        server.post("/api/v1/events", &event.to_string()).await.expect(202);
    }
    let ids = async |query: &str| -> Vec<String> {
        let page = server.get(&format!("/api/v1/events?{query}")).await.expect(200);
        page["items"].as_array().unwrap().iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids("").await, ["3", "2", "1"]);
    assert_eq!(ids("topic=a.%3E").await, ["2", "1"]);
    assert_eq!(ids("type=x&topic=").await, ["3", "1"]);
    assert_eq!(ids("q=needle-2").await, ["2"]);
    assert_eq!(ids("since=2001-01-01T00:00:00Z&until=4102444800").await.len(), 3);
    assert_eq!(ids("until=2001-01-01T00:00:00Z").await.len(), 0);

    let mut path = "/api/v1/events?limit=2".to_owned();
    let mut seen = Vec::new();
    for _ in 0..4 {
        let page = server.get(&path).await.expect(200);
        seen.extend(page["items"].as_array().unwrap().iter().map(|event| event["id"].as_str().unwrap().to_owned()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/api/v1/events?limit=2&cursor={cursor}");
    }
    assert_eq!(seen, ["3", "2", "1"]);

    for (query, field, reason) in [
        ("limit=0", "limit", "1 to 500"),
        ("limit=501", "limit", "1 to 500"),
        ("topic=a..b", "topic", "empty token"),
        ("since=now", "since", "RFC 3339"),
        ("cursor=nonsense", "cursor", "not one"),
        ("topics=a", "topics", "not a parameter"),
        ("q=a&q=b", "q", "twice"),
    ] {
        server.get(&format!("/api/v1/events?{query}")).await.expect_refusal(422, field, reason);
    }
    server.get("/api/v1/events?limit=no&since=now").await.expect_refusal(422, "limit", "no");
    server.stop().await;
}

// --- webhooks ---

#[tokio::test]
async fn a_webhook_is_made_shown_changed_and_deleted() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let body =
        r#"{"name":"siem","url":"http://192.0.2.1/hook","simple_events":["DeckyStatus"],"secret":"0123456789abcdef"}"#;
    assert_eq!(server.post("/api/v1/webhooks", body).await.status, 422, "a documentation address is not public");

    let body = r#"{"name":"siem","url":"http://127.0.0.1:4/hook","simple_events":["DeckyStatus"],"secret":"0123456789abcdef"}"#;
    let created = server.post("/api/v1/webhooks", body).await.expect(201);
    assert_eq!(created["secret"], "0123456789abcdef");
    insta::assert_json_snapshot!("webhook_created", redacted(created.clone()));
    let path = format!("/api/v1/webhooks/{}", created["uuid"].as_str().unwrap());
    let shown = server.get(&path).await.expect(200);
    insta::assert_json_snapshot!("webhook_shown", redacted(shown.clone()));
    assert_eq!(server.get("/api/v1/webhooks").await.expect(200), json!([shown]), "a bare array");

    let change = r#"{"name":"soar","retry_schedule":[1,2.5],"timeout_s":3,"enabled":false,"description":null}"#;
    let changed = server.call("PATCH", &path, &server.admin, change).await.expect(200);
    assert_eq!(changed["name"], "soar");
    assert_eq!(changed["retry_schedule"], json!([1.0, 2.5]));
    assert_eq!((&changed["timeout_s"], &changed["enabled"]), (&json!(3), &json!(false)));
    assert_eq!(changed["topic_patterns"], shown["topic_patterns"], "what is not given stays");
    let changed = server.call("PATCH", &path, &server.admin, r#"{"retry_schedule":null}"#).await.expect(200);
    assert_eq!(changed["retry_schedule"], Value::Null, "the server's default again");
    assert_eq!(changed["timeout_s"], 3);

    let deleted = server.call("DELETE", &path, &server.admin, "").await.expect(200);
    assert_eq!(deleted, json!({"message": "Webhook deleted"}));
    assert_eq!(server.get(&path).await.status, 404);
    assert_eq!(server.call("PATCH", &path, &server.admin, "{}").await.status, 404);
    assert_eq!(server.call("DELETE", &path, &server.admin, "").await.status, 404);
    assert_eq!(server.post(&format!("{path}/test"), "").await.status, 404);
    server.stop().await;
}

#[tokio::test]
async fn the_credentials_of_a_webhook_are_seen_by_nobody_and_its_path_by_admins_alone() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let receiver = TestReceiver::healthy().await;
    let events = json!({"name": "events", "url": receiver.url("/own"), "topic_patterns": ["postrider.>"]});
    server.post("/api/v1/webhooks", &events.to_string()).await.expect(201);
    let url = "http://127.0.0.1:4/services/hidden-in-the-path?key=hidden-in-the-query";
    let token_url = "https://127.0.0.1:5/hidden-in-the-path/token";
    let created = json!({
        "name": "chat", "url": url, "topic_patterns": ["chat"],
        "headers": {"X-Team": "hidden-in-a-header", "X-Key": "hidden-in-another"},
        "auth": {"type": "oauth2", "token_url": token_url, "client_id": "me", "client_secret": "hidden-client-secret"},
    });
    let created = server.post("/api/v1/webhooks", &created.to_string()).await.expect(201);
    let path = format!("/api/v1/webhooks/{}", created["uuid"].as_str().unwrap());
    assert_eq!(created["headers"], json!({"X-Team": "…", "X-Key": "…"}));
    assert_eq!((&created["url"], &created["auth"]["token_url"]), (&json!(url), &json!(token_url)));
    assert_eq!(server.get(&path).await.expect(200)["url"], url, "an admin sees it");

    let reader = server.token(r#"["read"]"#).await;
    for path in [path.as_str(), "/api/v1/webhooks"] {
        let seen = server.call("GET", path, &reader, "").await;
        assert!(seen.status == 200 && !seen.body.contains("hidden-"), "{}", seen.body);
        assert!(seen.body.contains(r#""http://127.0.0.1:4/…""#) && seen.body.contains(r#""https://127.0.0.1:5/…""#));
    }
    // What is shown is taken back as it is, by whomever it was shown to.
    let seen = server.call("GET", &path, &reader, "").await.expect(200);
    let back = json!({"url": seen["url"], "headers": seen["headers"]});
    assert_eq!(server.call("PATCH", &path, &server.admin, &back.to_string()).await.expect(200)["url"], url);
    server.call("PATCH", &path, &server.admin, r#"{"url": "http://127.0.0.1:6/…"}"#).await.expect_refusal(
        422,
        "url",
        "stands for its path",
    );
    let told = receiver.wait_for(2).await;
    let told: String = told.iter().map(|request| String::from_utf8_lossy(&request.body)).collect();
    assert!(told.contains("http://127.0.0.1:4/…") && !told.contains("hidden-"), "the server's own events: {told}");
    let log = server.log.text();
    assert!(!log.contains("hidden-in") && !log.contains("hidden-client"), "neither does the log");
    server.stop().await;
}

#[tokio::test]
async fn credentials_are_asked_for_again_where_a_webhook_is_led_elsewhere() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let (receiver, other) = (TestReceiver::healthy().await, TestReceiver::healthy().await);
    let webhook =
        json!({"name": "chat", "url": receiver.url("/"), "topic_patterns": [">"], "headers": {"X-Key": "one"}});
    let webhook = server.post("/api/v1/webhooks", &webhook.to_string()).await.expect(201);
    let path = format!("/api/v1/webhooks/{}", webhook["uuid"].as_str().unwrap());
    let change = async |change: Value| server.call("PATCH", &path, &server.admin, &change.to_string()).await;
    let elsewhere = other.url("/");
    for refused in [json!({"url": elsewhere}), json!({"url": elsewhere, "headers": {"X-Key": "…"}})] {
        change(refused).await.expect_refusal(422, "headers", "with the values of X-Key");
    }
    server.post("/api/v1/events", EVENT).await.expect(202);
    assert_eq!(receiver.wait_for(1).await[0].header("x-key"), "one", "it goes where it went");
    change(json!({"url": elsewhere, "headers": {"X-Key": "two"}})).await.expect(200);
    server.post("/api/v1/events", &EVENT.replace("e-1", "e-2")).await.expect(202);
    assert_eq!(other.wait_for(1).await[0].header("x-key"), "two");
    server.stop().await;
}

#[tokio::test]
async fn a_webhook_with_wrong_settings_is_refused_with_all_that_is_wrong() {
    let (_folder, server) = TestServer::in_new_folder().await;
    server.webhook("taken", "https://127.0.0.1/", ">").await;
    let with = |field: &str, value: Value| {
        let mut body = json!({"name": "new", "url": "https://127.0.0.1/", "topic_patterns": ["a"]});
        body[field] = value;
        body.to_string()
    };
    for (body, status, field, reason) in [
        ("{".to_owned(), 400, "body", "EOF"),
        (r#"{"name":"a","name":"b"}"#.to_owned(), 422, "body", "duplicate field `name`"),
        (format!("{}1{}", "[".repeat(200), "]".repeat(200)), 422, "body", "must be a JSON object"),
        (r#"["new", "", "https://127.0.0.1/", ["a"]]"#.to_owned(), 422, "body", "must be a JSON object"),
        (with("nmae", json!("x")), 422, "nmae", "unknown field"),
        (with("timeout_s", json!("x")), 422, "timeout_s", "invalid type"),
        (with("topic_patterns", json!(["a", 1])), 422, "topic_patterns[1]", "invalid type"),
        (with("name", json!("taken")), 409, "name", "taken"),
        (with("name", json!("")), 422, "name", "1 to 64"),
        (with("name", json!("x".repeat(65))), 422, "name", "65"),
        (with("topic_patterns", json!([])), 400, "topic_patterns", "at least one"),
        (with("topic_patterns", json!(["a.>.b"])), 422, "topic_patterns", "wildcard"),
        (with("simple_events", json!(["Everything"])), 422, "simple_events", "Everything"),
        (with("url", json!("ftp://127.0.0.1/")), 422, "url", ""),
        (with("url", json!("https://10.0.0.1/")), 422, "url", "egress_blocked"),
        (with("url", json!("http://metadata.google.internal/")), 422, "url", "egress_blocked"),
        (with("url", json!("https://127.0.0.1:6379/")), 422, "url", "port 6379 belongs to Redis"),
        (with("secret", json!("0123456789abcdef\n")), 422, "secret", "control character"),
        (with("url", json!(format!("http://{}/", server.address))), 422, "url", "egress_blocked"),
        (with("secret", json!("short")), 422, "secret", "16 to 256"),
        (with("standard_secret", json!("short")), 422, "standard_secret", "whsec_"),
        (with("signatures", json!([])), 422, "signatures", "at least one"),
        (with("signatures", json!(["md5"])), 422, "signatures", "md5"),
        (with("timeout_s", json!(90)), 422, "timeout_s", "1 to 60"),
        (with("max_in_flight", json!(0)), 422, "max_in_flight", "1 to 1024"),
        (with("retry_schedule", json!([1e9])), 422, "retry_schedule", "86,400"),
        (with("description", json!("x".repeat(1_025))), 422, "description", "1025"),
    ] {
        server.post("/api/v1/webhooks", &body).await.expect_refusal(status, field, reason);
    }
    let all = server.post("/api/v1/webhooks", r#"{"name":"","url":"x","topic_patterns":["a"],"timeout_s":0}"#).await;
    assert_eq!(all.status, 422);
    assert_eq!(server.post("/api/v1/webhooks", r#"{"name":"a","url":"https://127.0.0.1/"}"#).await.status, 400);
    assert_eq!(server.get("/api/v1/webhooks").await.expect(200).as_array().unwrap().len(), 1, "nothing was stored");
    server.stop().await;
}

#[tokio::test]
async fn settings_of_another_kind_or_beyond_their_limit_are_refused() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let webhook = server.webhook("siem", "https://127.0.0.1/", ">").await;
    let path = format!("/api/v1/webhooks/{}", webhook["uuid"].as_str().unwrap());
    let token = format!("Authorization: Bearer {}\r\n", server.admin);
    let json = format!("{token}Content-Type: application/json\r\n");
    let long = format!(r#"{{"description":"{}"}}"#, "x".repeat(256 * 1024));
    for (method, path) in [("POST", "/api/v1/webhooks"), ("PATCH", &path)] {
        let send = async |headers: &str, body: &[u8]| server.request(method, path, headers, body).await;
        send(&token, br#"{"name":"b"}"#).await.expect_refusal(415, "Content-Type", "is missing");
        let text = format!("{token}Content-Type: text/plain\r\n");
        send(&text, br#"{"name":"b"}"#).await.expect_refusal(415, "Content-Type", "must be application/json");
        send(&json, b"{\"name\":\"\xff\"}").await.expect_refusal(400, "body", "");
        send(&json, b"").await.expect_refusal(400, "body", "");
        send(&json, long.as_bytes()).await.expect_refusal(413, "body", "262144");
    }
    let webhooks = server.get("/api/v1/webhooks").await.expect(200);
    assert_eq!((webhooks.as_array().unwrap().len(), &webhooks[0]["name"]), (1, &json!("siem")), "nothing was changed");
    server.stop().await;
}

#[tokio::test]
async fn several_wrong_fields_are_all_named() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let path = server.webhook("siem", "https://127.0.0.1/", ">").await;
    let path = format!("/api/v1/webhooks/{}", path["uuid"].as_str().unwrap());
    let change = r#"{"name":"","timeout_s":0,"signatures":["md5"],"secret":"short"}"#;
    let problem = server.call("PATCH", &path, &server.admin, change).await.expect(422);
    insta::assert_json_snapshot!("problem_with_several_fields", problem);
    server.stop().await;
}

#[tokio::test]
async fn a_test_tells_what_the_receiver_answered() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let receiver = TestReceiver::start(|_, request| if request.path == "/ok" { 204 } else { 404 }.into()).await;
    let test = async |name: &str, url: &str| {
        let webhook = server.webhook(name, url, "a").await;
        server.post(&format!("/api/v1/webhooks/{}/test", webhook["uuid"].as_str().unwrap()), "").await.expect(200)
    };
    let ok = test("ok", &receiver.url("/ok")).await;
    assert!(ok["timings"]["connect_ms"].is_number() && ok["timings"]["first_byte_ms"].is_number(), "{ok}");
    assert_eq!((&ok["delivered"], &ok["status_code"], &ok["error"]), (&json!(true), &json!(204), &Value::Null));
    let sent: Value = serde_json::from_slice(&receiver.wait_for(1).await[0].body).unwrap();
    assert_eq!((&sent["topic"], &sent["type"]), (&json!("test.ping"), &json!("test")));
    let payload = json!({"message": "Synthetic test event from Postrider", "triggered_by": "admin"});
    assert_eq!(sent["payload"], payload);
    let gone = test("not found", &receiver.url("/missing")).await;
    assert_eq!((&gone["delivered"], &gone["error"]), (&json!(false), &json!("non-retryable 404")));
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let closed = test("closed", &format!("http://{nobody}/")).await;
    assert_eq!((&closed["delivered"], &closed["status_code"]), (&json!(false), &Value::Null));
    assert!(closed["error"].as_str().unwrap().starts_with("connect: "), "{closed}");
    assert_eq!(receiver.received().len(), 2);
    assert_eq!(server.get("/api/v1/stats").await.expect(200)["events"], 0, "a test is not stored");
    server.stop().await;
}

// --- deliveries ---

/// Answers every request with 500 and a body that is no UTF-8.
async fn failing_receiver() -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 16 * 1024];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            stream.write_all(b"HTTP/1.1 500 No\r\nContent-Length: 7\r\nConnection: close\r\n\r\nno\xff way").await.ok();
            stream.shutdown().await.ok();
        }
    });
    address
}

#[tokio::test]
async fn a_delivery_shows_its_attempts_and_is_retried_or_discarded() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let healthy = TestReceiver::healthy().await;
    let good = server.webhook("good", &healthy.url("/"), "attacker.>").await;
    server.webhook("bad", &format!("http://{}/", failing_receiver().await), "attacker.>").await;
    assert_eq!(server.post("/api/v1/events", EVENT).await.expect(202)["deliveries"], 2);

    server.wait_for("/api/v1/deliveries?state=dead", |page| page["items"][0].is_object()).await;
    server.wait_for("/api/v1/deliveries?state=delivered", |page| page["items"][0].is_object()).await;
    let event = server.get("/api/v1/events/e-1").await.expect(200);
    assert_eq!(event["deliveries"], 2);
    assert_eq!(event["delivery_page"]["items"].as_array().unwrap().len(), 2);

    let dead = server.get("/api/v1/deliveries?state=dead&event=e-1&topic=attacker.*").await.expect(200);
    let path = format!("/api/v1/deliveries/{}", dead["items"][0]["id"].as_str().unwrap());
    insta::assert_json_snapshot!("delivery_dead", redacted(server.get(&path).await.expect(200)));

    let retried = server.post(&format!("{path}/retry"), "").await.expect(202);
    assert_eq!(retried["state"], "pending");
    let again = server.wait_for(&path, |delivery| delivery["attempts"] == 2).await;
    assert_eq!(again["attempt_log"][1]["number"], 2);

    let discarded = server.post(&format!("{path}/discard"), r#"{"reason":"not needed"}"#).await.expect(200);
    assert_eq!((&discarded["state"], &discarded["reason"]), (&json!("discarded"), &json!("not needed")));
    assert_eq!(server.post(&format!("{path}/discard"), "").await.status, 409, "it has ended");
    server.post(&format!("{path}/discard"), r#"{"why":1}"#).await.expect_refusal(422, "why", "unknown field");

    let of_good = format!("/api/v1/deliveries?webhook={}", good["uuid"].as_str().unwrap());
    let delivered = server.get(&of_good).await.expect(200);
    insta::assert_json_snapshot!("delivery_page", redacted(delivered.clone()));
    let path = format!("/api/v1/deliveries/{}", delivered["items"][0]["id"].as_str().unwrap());
    assert_eq!(server.post(&format!("{path}/retry"), "").await.status, 409, "it was delivered");

    for path in ["none", "00000000-0000-0000-0000-000000000000"] {
        assert_eq!(server.get(&format!("/api/v1/deliveries/{path}")).await.status, 404);
        assert_eq!(server.post(&format!("/api/v1/deliveries/{path}/retry"), "").await.status, 404);
        assert_eq!(server.post(&format!("/api/v1/deliveries/{path}/discard"), "").await.status, 404);
    }
    server.get("/api/v1/deliveries?state=lost").await.expect_refusal(422, "state", "pending");
    server.get("/api/v1/deliveries?webhook=x").await.expect_refusal(422, "webhook", "UUID");
    let is_at_rest = |stats: &Value| {
        let process = &stats["process"];
        process["deliveries_dead"] == 2 && process["in_flight"] == 0 && process["memory_bytes"] == 0
    };
    let mut stats = server.wait_for("/api/v1/stats", is_at_rest).await;
    stats["process"]["uptime_s"] = json!("[s]");
    insta::assert_json_snapshot!("stats", stats);
    server.stop().await;
}

// --- operation ---

#[tokio::test]
async fn operators_need_no_token_to_see_how_it_is() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let open = async |path: &str| server.request("GET", path, "", b"").await;
    assert_eq!(open("/healthz").await.expect(200), json!({"status": "ok"}));
    assert_eq!(open("/readyz").await.expect(200), json!({"status": "ok"}));
    assert_eq!(open("/api/v1/openapi.json").await.expect(200)["openapi"], "3.1.0");
    let refused = open("/api/v1/stats").await;
    assert_eq!(refused.status, 401);

    let open_metrics = "Accept: application/openmetrics-text\r\n";
    let metrics = server.request("GET", "/metrics", open_metrics, b"").await;
    assert_eq!(metrics.status, 200);
    for line in [
        "postrider_events_accepted_total 0",
        "postrider_store_deliveries{state=\"dead\"} 0",
        "postrider_http_requests_total{method=\"GET\",route=\"/api/v1/stats\",status=\"401\"} 1",
        "# TYPE postrider_process_resident_memory_bytes gauge",
        "# EOF",
    ] {
        assert!(metrics.body.lines().any(|found| found == line), "no {line:?} in\n{}", metrics.body);
    }

    let page = open("/").await;
    assert_eq!(page.status, 200);
    assert!(page.body.contains("Postrider") && page.body.contains(env!("CARGO_PKG_VERSION")));
    assert!(!page.body.contains("{{") && !page.body.contains("{host}"), "every figure is filled in");
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    server.stop().await;
}

#[tokio::test]
async fn a_trailing_slash_is_optional_and_what_is_not_there_is_a_problem() {
    let (_folder, server) = TestServer::in_new_folder().await;
    for path in ["/api/v1/webhooks/", "/api/v1/events/?limit=1", "/healthz/", "/api/v1/stats/"] {
        server.get(path).await.expect(200);
    }
    server.post("/api/v1/events/", EVENT).await.expect(202);
    for (method, path, status) in
        [("GET", "/nothing", 404), ("GET", "/api/v1/nothing", 404), ("PUT", "/api/v1/events", 405), ("POST", "/", 405)]
    {
        let answer = server.call(method, path, &server.admin, "").await;
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{method} {path}");
        assert_eq!(answer.header("allow").is_some(), status == 405, "{method} {path}");
        assert_eq!(answer.expect(status)["status"], status, "{method} {path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn secrets_are_shown_once_and_never_again() {
    let (folder, server) = TestServer::in_new_folder().await;
    let receiver = TestReceiver::start(|_, _| 500.into()).await;
    let webhook = server.webhook("siem", &receiver.url("/"), ">").await;
    let publish = server.token(r#"["publish"]"#).await;
    let secrets: Vec<String> = [&webhook["secret"], &webhook["standard_secret"], &json!(publish), &json!(server.admin)]
        .map(|secret| secret.as_str().unwrap().trim_start_matches("whsec_").to_owned())
        .to_vec();
    server.answers.lock().unwrap().clear();

    let path = format!("/api/v1/webhooks/{}", webhook["uuid"].as_str().unwrap());
    server.call("POST", "/api/v1/events", &publish, EVENT).await.expect(202);
    server.wait_for("/api/v1/deliveries?state=dead", |page| page["items"][0].is_object()).await;
    server.post(&format!("{path}/test"), "").await.expect(200);
    server.call("PATCH", &path, &server.admin, r#"{"enabled":true}"#).await.expect(200);
    let taken = json!({"name": "siem", "url": receiver.url("/"), "topic_patterns": ["a"], "secret": webhook["secret"]});
    server.post("/api/v1/webhooks", &taken.to_string()).await.expect_refusal(409, "name", "taken");
    server.call("GET", "/api/v1/webhooks", &format!("{publish}x"), "").await.expect(401);
    for path in ["/", "/metrics", "/api/v1/webhooks", &path, "/api/v1/tokens", "/api/v1/events/e-1", "/api/v1/stats"] {
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
    let said = server.answers.lock().unwrap().join("\n") + &server.log.text();
    assert!(said.contains("e-1") && said.contains("answered"), "answers and log are looked at");
    for secret in &secrets {
        assert!(!said.contains(secret.as_str()), "a secret was told again");
    }
    server.stop().await;
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        for secret in &secrets {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{} has a secret in it", path.display());
        }
    }
}

// --- starting and stopping ---

#[tokio::test]
async fn a_port_that_is_taken_fails_before_anything_is_changed() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let mut settings = settings(&data_dir);
    settings.listen = taken.local_addr().unwrap();
    let failed = serve(settings, |_| panic!("it does not start"), std::future::pending()).await;
    assert!(matches!(failed, Err(ServeError::Listen { .. })), "{failed:?}");
    assert!(!data_dir.exists());
}

#[tokio::test]
async fn a_stop_finishes_the_request_under_way_and_nothing_accepted_is_lost() {
    let (folder, server) = TestServer::in_new_folder().await;
    let token = server.admin.clone();
    let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let length = EVENT.len();
    let head = format!(
        "POST /api/v1/events HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut start = [0; 12];
    stream.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 100", "the server waits for the body");

    let address = server.address;
    let stopping = tokio::spawn(server.stop());
    while tokio::net::TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    stream.write_all(EVENT.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("202 Accepted"), "{answer}");
    stopping.await.unwrap();

    let server = TestServer::start(folder.path()).await;
    server.call("GET", "/api/v1/events/e-1", &token, "").await.expect(200);
    server.stop().await;
}

#[tokio::test]
async fn a_stop_has_one_deadline_and_starts_no_attempts() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(folder.path());
    settings.drain_timeout = Duration::from_secs(4);
    let server = TestServer::start_with(settings).await;
    let receiver = TestReceiver::start(|n, _| {
        // The second attempt hangs; were it not for the stop, others would go on beside it.
        receiver::Answer(200, if n == 1 { Duration::from_mins(10) } else { Duration::from_millis(100) })
    })
    .await;
    let webhook = json!({"name": "slow", "url": receiver.url("/"), "topic_patterns": [">"], "max_in_flight": 2});
    server.post("/api/v1/webhooks", &webhook.to_string()).await.expect(201);
    let batch = format!("[{}]", vec![r#"{"topic":"a"}"#; 80].join(","));
    server.post("/api/v1/events/batch", &batch).await.expect(202);
    receiver.wait_for(3).await;
    // A request whose body never arrives.
    let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let head = format!(
        "POST /api/v1/events HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n",
        server.admin
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.read_exact(&mut [0; 12]).await.unwrap();

    let began = std::time::Instant::now();
    let before = receiver.received_count();
    server.stop().await;
    assert!(began.elapsed() < Duration::from_secs(7), "the deadline is 4 s: {:?}", began.elapsed());
    let started = receiver.received_count() - before;
    assert!(started <= 4, "{started} attempts were started during the stop");
}

#[tokio::test]
async fn a_store_that_is_full_says_when_to_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(folder.path());
    let options = SqliteOptions { max_bytes: Some(1024 * 1024), ..SqliteOptions::default() };
    settings.store = postrider::serve::StoreSettings::Sqlite(options);
    let server = TestServer::start_with(settings).await;
    let event = json!({"topic": "a", "payload": "x".repeat(200 * 1024)}).to_string();
    let mut accepted = 0;
    let refused = loop {
        let answer = server.post("/api/v1/events", &event).await;
        if answer.status != 202 {
            break answer;
        }
        accepted += 1;
        assert!(accepted < 20, "the limit is not kept");
    };
    assert_eq!(refused.header("retry-after"), Some("5"));
    assert!(refused.expect(507)["detail"].as_str().unwrap().contains("full"));
    assert_eq!(server.get("/api/v1/stats").await.expect(200)["events"], accepted);
    assert_eq!(server.request("GET", "/healthz", "", b"").await.status, 200, "the process is alive");
    let log = server.log.text();
    assert!(log.contains("a request was refused"), "the reason is there for who asks for it");
    assert!(!log.contains("a request failed"), "a busy publisher does not fill the log with errors");
    server.stop().await;
}
