//! The API's contract: what the OpenAPI document says is what the server takes and answers.

use serde_json::{Value, json};

use crate::support::receiver::TestReceiver;
use crate::support::server::TestServer;

fn path_of(webhook: &Value) -> String {
    format!("/api/v1/webhooks/{}", webhook["uuid"].as_str().unwrap())
}

async fn events_of(server: &TestServer) -> usize {
    server.get("/api/v1/events").await.expect(200)["items"].as_array().unwrap().len()
}

#[test]
fn the_document_has_no_field_without_its_type() {
    let document = serde_json::to_value(postrider::api::openapi()).unwrap();
    let schemas = &document["components"]["schemas"];
    for (schema, field) in [
        ("Webhook", "shape"),
        ("Webhook", "auth"),
        ("Webhook", "proxy"),
        ("Webhook", "client_certificate"),
        ("Webhook", "filter"),
        ("WebhookInput", "shape"),
        ("WebhookInput", "auth"),
        ("WebhookInput", "proxy"),
        ("WebhookInput", "client_certificate"),
        ("WebhookInput", "filter"),
        ("FilterPreviewInput", "filter"),
        ("PreviewInput", "shape"),
    ] {
        let of_field = schemas[schema]["properties"][field].to_string();
        assert!(of_field.contains("#/components/schemas/"), "{schema}.{field}: {of_field}");
    }
    let kinds: Vec<&Value> = schemas["Auth"]["oneOf"].as_array().unwrap().iter().collect();
    let kinds: Vec<&Value> = kinds.iter().map(|kind| &kind["properties"]["type"]["enum"][0]).collect();
    assert_eq!(kinds, ["basic", "bearer", "oauth2", "login"]);
    let names = |schema: &str| schemas[schema]["enum"].clone();
    assert_eq!(names("Method"), json!(["POST", "PUT", "PATCH"]));
    let signatures = &schemas["Signature"]["oneOf"];
    assert_eq!(signatures[0]["enum"].as_array().unwrap()[..3], ["decnet", "standard", "ed25519"]);
    assert_eq!(signatures[1]["$ref"], "#/components/schemas/SignatureProfile");
    assert_eq!(names("SimpleEvent"), json!(["AttackerDetail", "DeckyStatus", "SystemStatus"]));
    assert!(names("ShapeName").as_array().is_some_and(|names| names.contains(&json!("slack"))));
    for (name, schema) in schemas.as_object().unwrap() {
        // All that is read refuses what it does not know.
        let is_read = name.ends_with("Input")
            || ["Rotation", "ShapeTemplate", "SignatureProfile", "Proxy", "ClientCertificate"].contains(&&**name);
        assert!(!is_read || schema["additionalProperties"] == false, "{name}");
    }
    for kind in schemas["Auth"]["oneOf"].as_array().unwrap() {
        assert_eq!(kind["additionalProperties"], false, "{kind}");
    }
}

#[tokio::test]
async fn a_switch_without_a_value_is_on_and_no_query_is_passed_over() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let receiver = TestReceiver::healthy().await;
    let webhook = server.webhook("siem", &receiver.url("/"), ">").await;
    for switch in ["dry_run", "dry_run=", "dry_run=true"] {
        let answer = server.post(&format!("/api/v1/events?{switch}"), r#"{"topic": "a"}"#).await.expect(200);
        assert_eq!(answer["webhooks"][0]["would"], "deliver", "{switch}");
    }
    for wrong in ["dry_run=yes", "dry_run=true&dry_run=false", "dryrun"] {
        assert_eq!(server.post(&format!("/api/v1/events?{wrong}"), r#"{"topic": "a"}"#).await.status, 422, "{wrong}");
    }
    let path = path_of(&webhook);
    let new = json!({"name": "other", "url": receiver.url("/"), "topic_patterns": ["b"]}).to_string();
    for (method, path, body) in [
        ("POST", "/api/v1/events/batch".to_owned(), r#"[{"topic": "a"}]"#),
        ("POST", "/api/v1/webhooks".to_owned(), new.as_str()),
        ("PATCH", path.clone(), r#"{"enabled": false}"#),
        ("DELETE", path.clone(), ""),
        ("POST", format!("{path}/test"), ""),
        ("POST", format!("{path}/rotate-secret"), ""),
        ("POST", "/api/v1/deliveries/retry".to_owned(), ""),
    ] {
        let refused = server.call(method, &format!("{path}?dry_run"), &server.admin, body).await;
        refused.expect_refusal(422, "dry_run", "is not a parameter of this route");
    }
    assert_eq!(events_of(&server).await, 0, "nothing was published");
    assert_eq!(server.get(&path).await.expect(200)["enabled"], true, "nothing was changed");
    server.post("/api/v1/events?dry_run=false", r#"{"topic": "a"}"#).await.expect(202);
    assert_eq!(receiver.wait_for(1).await.len(), 1, "no test was sent");
    server.stop().await;
}

#[tokio::test]
async fn whole_numbers_and_nulls_are_what_the_schema_says() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let receiver = TestReceiver::healthy().await;
    let settings = json!({
        "name": "siem", "url": receiver.url("/"), "topic_patterns": [">"], "timeout_s": 30.0, "max_in_flight": 2e0,
        "retry_on": [408.0, 425], "rate_limit": {"per_s": 100, "burst": 5.0}, "disable_after_days": 7.0,
        "batch": {"max_events": 10.0, "max_wait_ms": 5.0, "max_bytes": 2048.0},
    });
    let webhook = server.post("/api/v1/webhooks", &settings.to_string()).await.expect(201);
    assert_eq!((&webhook["timeout_s"], &webhook["max_in_flight"]), (&json!(30), &json!(2)));
    assert_eq!((&webhook["retry_on"], &webhook["disable_after_days"]), (&json!([408, 425]), &json!(7)));
    assert_eq!(webhook["rate_limit"], json!({"per_s": 100.0, "burst": 5}));
    assert_eq!(webhook["batch"], json!({"max_events": 10, "max_wait_ms": 5, "max_bytes": 2048}));
    let path = path_of(&webhook);
    let change = async |change: &str| server.call("PATCH", &path, &server.admin, change).await;
    change(r#"{"timeout_s": 2.5}"#).await.expect_refusal(422, "timeout_s", "expected u64");
    change(r#"{"signatures": []}"#).await.expect_refusal(422, "signatures", "at least one");
    let template = json!({"shape": {"template": "x", "content_type": null}, "batch": null}).to_string();
    assert_eq!(change(&template).await.expect(200)["shape"]["content_type"], "application/json");

    for body in ["", "null", " null\n", "{}"] {
        server.post(&format!("{path}/rotate-secret"), body).await.expect(if body == "{}" { 409 } else { 200 });
    }
    server.post(&format!("{path}/replay"), r#"{"rate_per_s": 286.0}"#).await.expect(202);
    for event in [
        r#"{"topic": "a", "v": null}"#,
        r#"{"topic": "a", "v": 1.0}"#,
        r#"{"topic": "a", "id": "", "type": null, "ts": null, "payload": null, "deliver_at": null, "webhooks": null}"#,
    ] {
        server.post("/api/v1/events", event).await.expect(202);
    }
    for (event, field) in [
        (r#"{"topic": "a", "v": 2}"#, "v"),
        (r#"{"topic": "a", "webhooks": []}"#, "webhooks"),
        (r#"{"topic": "a", "webhooks": ""}"#, "webhooks"),
        (r#"{"topic": null}"#, "topic"),
    ] {
        assert_eq!(server.post("/api/v1/events", event).await.expect(422)["errors"][0]["field"], field, "{event}");
    }
    server.post("/api/v1/events/batch", "[]").await.expect(422);
    let tenant = r#"{"name": "blue", "quotas": {"max_webhooks": 20.0, "max_pending": null}}"#;
    assert_eq!(server.post("/api/v1/tenants", tenant).await.expect(201)["quotas"]["max_webhooks"], 20);
    server.stop().await;
}

#[tokio::test]
async fn a_moment_is_text_or_seconds_wherever_one_is_taken() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let receiver = TestReceiver::healthy().await;
    let webhook = server.webhook("siem", &receiver.url("/"), ">").await;
    let since = 1_790_000_000.5_f64;
    for moment in [json!("2026-09-21T14:13:20.5Z"), json!("1790000000.5"), json!(since)] {
        let replay = json!({"since": moment, "until": 4_000_000_000_u32});
        let replay = server.post(&format!("{}/replay", path_of(&webhook)), &replay.to_string()).await.expect(202);
        assert_eq!(replay["since"], "2026-09-21T14:13:20.500000Z", "{moment}");
        let event = json!({"topic": "a", "deliver_at": moment}).to_string();
        server.post("/api/v1/events?dry_run", &event).await.expect(200);
        let text = moment.as_str().map_or_else(|| moment.to_string(), str::to_owned);
        server.get(&format!("/api/v1/events?since={text}")).await.expect(200);
    }
    for at in [json!("2096-01-01T00:00:00Z"), json!("3976214400"), json!(3_976_214_400_u32)] {
        let token = json!({"name": "t", "scopes": ["read"], "expires_at": at}).to_string();
        let token = server.post("/api/v1/tokens", &token).await.expect(201);
        assert_eq!(token["expires_at"], "2096-01-01T00:00:00.000000Z", "{at}");
    }
    for wrong in ["\"soon\"", "1e300", "true", "\"\""] {
        let token = format!(r#"{{"name": "t", "scopes": ["read"], "expires_at": {wrong}}}"#);
        assert_eq!(
            server.post("/api/v1/tokens", &token).await.expect(422)["errors"][0]["field"],
            "expires_at",
            "{wrong}"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn figures_come_in_the_format_that_the_scraper_asks_for() {
    let (_folder, server) = TestServer::in_new_folder().await;
    server.post("/api/v1/events", r#"{"topic": "a"}"#).await.expect(202);
    let metrics = async |accept: &str| server.request("GET", "/metrics", accept, b"").await;
    for accept in ["", "Accept: */*\r\n", "Accept: text/plain\r\n"] {
        let plain = metrics(accept).await;
        assert_eq!(plain.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"), "{accept}");
        let lines: Vec<&str> = plain.body.lines().collect();
        for family in lines.iter().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let name = family.split(' ').next().unwrap();
            let at = lines.iter().position(|line| line.starts_with(&format!("# HELP {name} "))).expect(name);
            assert!(lines[at + 1].starts_with(&format!("# TYPE {name} ")), "{name}");
            assert!(lines[at + 2].starts_with(name), "{name}: {}", lines[at + 2]);
        }
        assert!(lines.contains(&"# TYPE postrider_events_accepted_total counter"), "{}", plain.body);
        assert!(lines.contains(&"postrider_events_accepted_total 1") && !plain.body.contains("# EOF"));
    }
    let open = metrics("Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.2\r\n").await;
    assert_eq!(open.header("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    assert!(open.body.contains("# TYPE postrider_events_accepted counter\n") && open.body.ends_with("# EOF\n"));
    server.stop().await;
}

#[tokio::test]
async fn a_preview_takes_whatever_event_may_be_published() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let receiver = TestReceiver::healthy().await;
    let webhook = server.webhook("siem", &receiver.url("/"), ">").await;
    let event = json!({
        "topic": "a", "type": "t", "id": "e", "ts": 5, "v": 1, "deliver_at": "2026-09-21T14:13:20Z",
        "webhooks": [webhook["uuid"]], "payload": {"text": "x".repeat(900_000)},
    });
    let shaped = json!({"shape": {"template": "{{ event.payload.text|length }}"}, "event": event}).to_string();
    assert_eq!(server.post("/api/v1/shapes/preview", &shaped).await.expect(200)["body"], "900000");
    let filtered = json!({"filter": {"id": ["e"]}, "event": event}).to_string();
    assert_eq!(server.post("/api/v1/filters/preview", &filtered).await.expect(200)["matches"], true);
    server.post("/api/v1/events", &event.to_string()).await.expect(202);
    server.stop().await;
}

#[tokio::test]
async fn an_act_that_takes_nothing_refuses_what_it_is_told() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let receiver = TestReceiver::healthy().await;
    let webhook = server.webhook("siem", &receiver.url("/"), ">").await;
    let test = format!("{}/test", path_of(&webhook));
    let event = r#"{"topic": "attacker.seen", "payload": {"n": 1}}"#;
    server.post(&test, event).await.expect_refusal(422, "topic", "unknown field");
    server.post(&test, "[]").await.expect_refusal(422, "body", "must be a JSON object");
    server.request("POST", &test, &format!("Authorization: Bearer {}\r\n", server.admin), b"topic=a").await.expect(415);
    assert_eq!(receiver.received_count(), 0, "nothing was sent");
    for body in ["", "{}", "null"] {
        assert_eq!(server.post(&test, body).await.expect(200)["delivered"], true, "{body:?}");
    }
    server.stop().await;
}

/// Every setting that a webhook has, with the receiver's URL.
fn own_signature() -> Value {
    json!({
        "name": "acme", "header": "X-Acme-Signature", "hash": "sha512", "encoding": "base64", "content": "{timestamp}.{body}",
        "value": "t={timestamp};v1={signature}", "separator": ";", "timestamp_header": null, "id_header": null,
        "key": "secret", "rotation": "header", "previous_header": "X-Acme-Previous",
    })
}

fn every_setting(url: &str, name: &str) -> Value {
    json!({
        "name": name, "description": "all of it", "url": format!("{url}?key=1"), "method": "PUT",
        "topic_patterns": ["a.>", "b.*"], "signatures": ["decnet", "standard", "ed25519", own_signature(), "github"], "timeout_s": 20,
        "max_in_flight": 7, "retry_schedule": [1, 2.5], "retry_on": [408, "5xx"], "final_on": [425], "success_on": ["300-303"],
        "success_when": {"body": {"n": [1.50]}}, "rate_limit": {"per_s": 0.5, "burst": 3},
        "ordered": true, "metadata": {"team": "blue"}, "disable_after_days": 9, "filter": {"payload": {"n": [1.50, {"exists": false}]}},
        "headers": {"X-Key": "one", "X-Team": "two"}, "content_type": "application/x-own",
        "proxy": {"url": "http://me:secret@127.0.0.1:4999", "resolve": "here"},
    })
}

#[tokio::test]
async fn what_is_shown_of_a_webhook_is_taken_back_and_changes_nothing() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let receiver = TestReceiver::healthy().await;
    let pair = rcgen::generate_simple_self_signed(vec!["client.example".to_owned()]).unwrap();
    let (certificate, key) = (pair.cert.pem(), pair.signing_key.serialize_pem());
    let oauth2 = json!({
        "type": "oauth2", "token_url": "https://127.0.0.1:5/path/token", "client_id": "me", "client_secret": "secret",
        "scopes": ["a", "b"], "audience": "siem", "resource": "urn:siem", "auth_style": "body",
    });
    let with = |name: &str, settings: Value| {
        let mut webhook = every_setting(&receiver.url("/hook"), name);
        webhook.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        webhook
    };
    let kinds = [
        json!({"name": "plain", "url": receiver.url("/"), "topic_patterns": [">"]}),
        with("basic", json!({"auth": {"type": "basic", "username": "me", "password": "secret"}, "shape": "slack"})),
        with("bearer", json!({"auth": {"type": "bearer", "token": "secret"}, "enabled": false, "paused": true})),
        with(
            "login",
            json!({"auth": {
                "type": "login", "url": "https://127.0.0.1:5/path/login", "method": "PUT", "username": "me", "password": "secret",
                "body": {"otp": "secret"}, "token": "/data/token", "lifetime_s": 900, "header": "X-Token",
            }}),
        ),
        with(
            "jwt",
            json!({"auth": {
                "type": "oauth2", "token_url": "https://127.0.0.1:5/token", "client_id": "me", "auth_style": "private_key_jwt",
                "private_key": key, "key_id": "k1",
            }}),
        ),
        with("oauth2", json!({"auth": oauth2, "shape": {"template": "{{ event.id }}", "content_type": "text/plain"}})),
        with(
            "tls",
            json!({"ca": certificate, "server_name": "siem.internal", "client_certificate": {"certificate": certificate, "key": key}}),
        ),
        with("batch", json!({"batch": {"max_events": 10, "max_wait_ms": 5, "max_bytes": 2048}, "ordered": false})),
    ];
    let reader = server.token(r#"["read"]"#).await;
    let acts = async || server.get("/api/v1/audit").await.expect(200)["items"].as_array().unwrap().len();
    for kind in kinds {
        let created = server.post("/api/v1/webhooks", &kind.to_string()).await.expect(201);
        let path = path_of(&created);
        let shown = server.get(&path).await.expect(200);
        let before = acts().await;
        let taken = server.call("PATCH", &path, &server.admin, &shown.to_string()).await.expect(200);
        assert_eq!(taken, shown, "the whole answer");
        // As one sees it who sees no paths of URLs.
        let seen = server.call("GET", &path, &reader, "").await.expect(200);
        assert_ne!(seen["url"], shown["url"]);
        assert_eq!(server.call("PATCH", &path, &server.admin, &seen.to_string()).await.expect(200), shown);
        let masked = r#"{"secret": "…", "standard_secret": "…"}"#;
        assert_eq!(server.call("PATCH", &path, &server.admin, masked).await.expect(200), shown);
        assert_eq!(acts().await, before, "no act is noted where nothing is changed");
        // The secrets are those of before.
        let moved = json!({"name": format!("{} again", shown["name"].as_str().unwrap()), "uuid": shown["uuid"]});
        let moved = server.call("PATCH", &path, &server.admin, &moved.to_string()).await.expect(200);
        assert_eq!((&moved["auth"], &moved["headers"]), (&shown["auth"], &shown["headers"]));
    }
    server.stop().await;
}

#[tokio::test]
async fn a_field_that_is_only_shown_is_refused_where_it_would_change() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let receiver = TestReceiver::healthy().await;
    let webhook = server.webhook("siem", &receiver.url("/"), ">").await;
    let path = path_of(&webhook);
    let change = async |change: Value| server.call("PATCH", &path, &server.admin, &change.to_string()).await;
    for (field, value) in [
        ("uuid", json!("00000000-0000-0000-0000-000000000000")),
        ("created_at", json!("2026-01-01T00:00:00Z")),
        ("updated_at", Value::Null),
        ("keys", json!([])),
        ("warnings", json!(["none"])),
        ("disabled_reason", json!("gone")),
    ] {
        change(json!({field: value, "name": "soar"})).await.expect_refusal(422, field, "cannot be set; it is ");
    }
    change(json!({"public_key": "x"})).await.expect_refusal(422, "public_key", "unknown field");
    assert_eq!(server.get(&path).await.expect(200)["name"], "siem");
    // The health of a moment ago is passed over.
    change(json!({"consecutive_failures": 7, "last_error": "timeout", "name": "soar"})).await.expect(200);
    let twice = r#"{"uuid": "x", "name": "a", "name": "b"}"#;
    server.call("PATCH", &path, &server.admin, twice).await.expect_refusal(422, "body", "duplicate field `name`");

    let tenant = r#"{"name": "blue", "quotas": {"max_webhooks": 20}}"#;
    server.post("/api/v1/tenants", tenant).await.expect(201);
    let shown = server.get("/api/v1/tenants/blue").await.expect(200);
    let taken = server.call("PATCH", "/api/v1/tenants/blue", &server.admin, &shown.to_string()).await.expect(200);
    assert_eq!((&taken["uuid"], &taken["quotas"]), (&shown["uuid"], &shown["quotas"]));
    let other = json!({"uuid": webhook["uuid"]}).to_string();
    server.call("PATCH", "/api/v1/tenants/blue", &server.admin, &other).await.expect_refusal(
        422,
        "uuid",
        "cannot be set",
    );
    server.stop().await;
}

#[tokio::test]
async fn a_receipt_tells_deliveries_from_what_is_skipped() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let receiver = TestReceiver::healthy().await;
    server.webhook("siem", &receiver.url("/"), "a.>").await;
    let off = json!({"name": "off", "url": receiver.url("/"), "topic_patterns": ["a.b"], "enabled": false});
    server.post("/api/v1/webhooks", &off.to_string()).await.expect(201);
    let picky = json!({"name": "picky", "url": receiver.url("/"), "topic_patterns": [">"], "filter": {"type": ["x"]}});
    server.post("/api/v1/webhooks", &picky.to_string()).await.expect(201);
    let receipt = |duplicate: bool| json!({"id": "e-1", "deliveries": 1, "skipped": 2, "duplicate": duplicate});
    let event = r#"{"topic": "a.b", "id": "e-1"}"#;
    assert_eq!(server.post("/api/v1/events", event).await.expect(202), receipt(false));
    receiver.wait_for(1).await;
    assert_eq!(server.post("/api/v1/events", event).await.expect(202), receipt(true));
    let headers =
        format!("Authorization: Bearer {}\r\nContent-Type: application/json\r\nIdempotency-Key: k\r\n", server.admin);
    for duplicate in [false, true] {
        let body = br#"{"topic": "a.b", "id": "e-2"}"#;
        let answer = server.request("POST", "/api/v1/events", &headers, body).await.expect(202);
        assert_eq!((&answer["deliveries"], &answer["skipped"]), (&json!(1), &json!(2)));
        assert_eq!(answer["duplicate"], duplicate);
    }
    server.stop().await;
}

#[tokio::test]
async fn lists_are_bare_arrays_or_pages_as_they_are_asked_for() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let receiver = TestReceiver::healthy().await;
    for name in ["siem", "soar", "siem two"] {
        server.webhook(name, &receiver.url("/hook"), ">").await;
    }
    let names = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
    };
    let get = async |path: &str| server.get(&format!("/api/v1{path}")).await.expect(200);
    assert_eq!(names(&get("/webhooks").await), ["siem", "soar", "siem two"]);
    let page = get("/webhooks?limit=2").await;
    assert_eq!(names(&page["items"]), ["siem", "soar"]);
    let rest = get(&format!("/webhooks?limit=2&cursor={}", page["next_cursor"].as_str().unwrap())).await;
    assert_eq!((names(&rest["items"]), &rest["next_cursor"]), (vec!["siem two".to_owned()], &Value::Null));
    assert_eq!(names(&get("/webhooks?q=SIEM").await["items"]), ["siem", "siem two"]);
    assert_eq!(names(&get("/webhooks?q=").await["items"]).len(), 3, "a page, since `q` is given");
    let short = get("/webhooks?short").await;
    assert_eq!(short[0]["url"], receiver.url("/hook"));
    assert!(short[0].get("shape").is_none() && short[0]["enabled"] == true, "{short}");
    let reader = server.token(r#"["read"]"#).await;
    let seen = server.call("GET", "/api/v1/webhooks?short&limit=1", &reader, "").await.expect(200);
    assert!(seen["items"][0]["url"].as_str().unwrap().ends_with("/…"), "{seen}");

    server.post("/api/v1/tenants", r#"{"name": "blue"}"#).await.expect(201);
    assert_eq!(names(&get("/tenants").await), ["default", "blue"]);
    assert_eq!(names(&get("/tenants?limit=1").await["items"]), ["default"]);
    assert_eq!(names(&get("/tokens").await), ["admin", "test"]);
    let page = get("/tokens?limit=1").await;
    let rest = get(&format!("/tokens?cursor={}", page["next_cursor"].as_str().unwrap())).await;
    assert_eq!(names(&rest["items"]), ["test"]);
    for path in
        ["/webhooks?limit=0", "/webhooks?limit=501", "/tokens?cursor=x", "/tenants?q=a", "/webhooks?short=maybe"]
    {
        assert_eq!(server.get(&format!("/api/v1{path}")).await.status, 422, "{path}");
    }
    server.stop().await;
}
