//! A server that has done everything, moved, and a node that goes on.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::migrate_store::{DATABASE, contents, migrate, moved, refused, rows};
use crate::support::postgres_server::Cluster;
use crate::support::program::{Caller, Program, TOKEN};
use crate::support::receiver::{Answer, TestReceiver};

/// A circuit that opens stays open for the length of the test.
const CALM: [&str; 6] = ["--log", "error", "--circuit-cool-down", "1h", "--circuit-max-cool-down", "1h"];
const BLUE: &str = "blue-team";
/// Digits that no number type keeps.
const DIGITS: &str = "12345678901234567890.123456789012345678901234567890e-7";

/// Those who get what is sent.
struct Receivers {
    healthy: TestReceiver,
    /// Unavailable until it recovers.
    sick: TestReceiver,
    refusing: TestReceiver,
    /// Takes requests, and answers them when it recovers.
    hanging: TestReceiver,
    has_recovered: Arc<AtomicBool>,
}

impl Receivers {
    async fn start() -> Self {
        let has_recovered = Arc::new(AtomicBool::new(false));
        let (sick, hanging) = (Arc::clone(&has_recovered), Arc::clone(&has_recovered));
        Self {
            healthy: TestReceiver::healthy().await,
            sick: TestReceiver::start(move |_, _| if sick.load(Ordering::SeqCst) { 200 } else { 503 }.into()).await,
            refusing: TestReceiver::start(|_, _| 404.into()).await,
            hanging: TestReceiver::start(move |_, _| {
                let patience = if hanging.load(Ordering::SeqCst) { Duration::ZERO } else { Duration::from_mins(5) };
                Answer(200, patience)
            })
            .await,
            has_recovered,
        }
    }
}

/// What the story needs to know later.
struct Story {
    /// A token of the scope `read`, and one that was revoked.
    token: String,
    revoked: String,
}

/// Calls as the operator for a tenant.
async fn call_for(caller: &Caller, tenant: &str, method: Method, path: &str, body: &Value) -> (u16, Value) {
    let bearer = format!("Bearer {TOKEN}");
    let headers = [("authorization", &*bearer), ("x-postrider-tenant", tenant)];
    let answer = caller.try_call_with(method, path, &headers, body).await.unwrap();
    (answer.status().as_u16(), serde_json::from_slice(answer.body()).unwrap_or_default())
}

async fn done(caller: &Caller, tenant: &str, method: Method, path: &str, body: &Value) -> Value {
    let (status, answer) = call_for(caller, tenant, method, path, body).await;
    assert!((200..300).contains(&status), "{path}: {status} {answer}");
    answer
}

async fn post(caller: &Caller, path: &str, body: &Value) -> Value {
    done(caller, "default", Method::POST, path, body).await
}

/// Waits until the counts of a tenant are as wanted: pending, delivered, dead, skipped, discarded.
async fn counted(caller: &Caller, tenant: &str, wanted: [u64; 5]) {
    let names = ["pending", "delivered", "dead", "skipped", "discarded"];
    let mut found = Value::Null;
    let waiting = async {
        loop {
            found = call_for(caller, tenant, Method::GET, "/api/v1/stats", &Value::Null).await.1;
            if names.iter().zip(wanted).all(|(name, count)| found[name] == count) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_mins(1), waiting).await;
    assert!(in_time.is_ok(), "{tenant}: wanted {wanted:?} of {names:?}, found {found}");
}

/// Waits until the replay job has ended.
async fn job_done(caller: &Caller) {
    let waiting = async {
        while done(caller, "default", Method::GET, "/api/v1/replays", &Value::Null).await["items"][0]["state"] != "done"
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), waiting).await.unwrap();
}

async fn webhook(caller: &Caller, body: Value) -> String {
    post(caller, "/api/v1/webhooks", &body).await["uuid"].as_str().unwrap().to_owned()
}

fn event(id: &str, topic: &str) -> Value {
    json!({ "id": id, "topic": topic, "type": "login", "payload": { "user": "Zoë 🦉 \u{202e}x", "n": 1 } })
}

/// Everything that can be in a store, one after the other.
async fn live(caller: &Caller, receivers: &Receivers) -> Story {
    let all_settings = json!({
        "name": "Prüfer ✓", "description": "with \"everything\"\u{2028}", "url": receivers.healthy.url("/a?b=c"),
        "method": "PUT", "topic_patterns": ["a.>"], "secret": "a secret of 24 characters",
        "signatures": ["decnet", "standard", "ed25519"], "timeout_s": 7, "max_in_flight": 3,
        "retry_schedule": [0.5, 2.25], "retry_on": [408, 425], "rate_limit": { "per_s": 90_000.0, "burst": 1_000 },
        "metadata": { "team": "blau", "ü": "🦉" }, "disable_after_days": 9,
        "headers": { "X-Team": "blue" }, "auth": { "type": "bearer", "token": "t0ken" },
        "filter": { "payload": { "n": [{ "numeric": ["<", 5] }] } },
    });
    let healthy = webhook(caller, all_settings).await;
    webhook(
        caller,
        json!({ "name": "sick", "url": receivers.sick.url("/"), "topic_patterns": ["sick.*"], "retry_schedule": [3_600.0] }),
    )
    .await;
    webhook(
        caller,
        json!({ "name": "refusing", "url": receivers.refusing.url("/"), "topic_patterns": ["dead.*"], "max_in_flight": 1 }),
    )
    .await;
    webhook(
        caller,
        json!({ "name": "hanging", "url": receivers.hanging.url("/"), "topic_patterns": ["hang.*"], "timeout_s": 60 }),
    )
    .await;
    let off =
        webhook(caller, json!({ "name": "off", "url": receivers.healthy.url("/off"), "topic_patterns": ["off.*"] }))
            .await;
    done(caller, "default", Method::PATCH, &format!("/api/v1/webhooks/{off}"), &json!({ "enabled": false })).await;

    let large = "é\u{fffd}x".repeat(100_000);
    for (id, topic, payload) in [
        ("odd/event?1", "a.odd", json!({ "text": "\u{0}\u{1f}\u{7f}\u{85}\u{202e}𝄞", "": null })),
        ("large", "a.large", json!({ "n": 1, "large": large })),
        ("plain", "a.b", json!({ "n": 2 })),
        ("filtered", "a.b", json!({ "n": 7 })),
        ("unmatched", "nobody", json!([])),
        ("skipped", "off.x", json!({})),
    ] {
        let event = json!({ "id": id, "topic": topic, "type": "t\u{0}\u{1}é", "payload": payload });
        post(caller, "/api/v1/events", &event).await;
    }
    let digits = format!(r#"{{"id": "digits", "topic": "a.b", "payload": {{"n": 1, "digits": {DIGITS}}}}}"#);
    publish(caller, &[], &digits).await;
    for n in 0..3 {
        post(caller, "/api/v1/events", &event(&format!("sick-{n}"), "sick.x")).await;
    }
    for n in 0..6 {
        post(caller, "/api/v1/events", &event(&format!("dead-{n}"), "dead.x")).await;
    }
    others(caller, receivers, &healthy).await
}

/// Publishes a text as it is.
async fn publish(caller: &Caller, headers: &[(&str, &str)], text: &str) {
    let bearer = format!("Bearer {TOKEN}");
    let headers = [&[("authorization", &*bearer)], headers].concat();
    let answer = caller.try_call_with(Method::POST, "/api/v1/events", &headers, &text).await.unwrap();
    assert_eq!(answer.status().as_u16(), 202, "{answer:?}");
}

/// What is done to what was sent, and by others.
async fn others(caller: &Caller, receivers: &Receivers, healthy: &str) -> Story {
    // Of the six that are refused one is left when the circuit opens.
    counted(caller, "default", [4, 3, 5, 3, 0]).await;
    let dead = done(caller, "default", Method::GET, "/api/v1/deliveries?state=dead", &Value::Null).await;
    let given_up = dead["items"][0]["id"].as_str().unwrap();
    post(caller, &format!("/api/v1/deliveries/{given_up}/discard"), &json!({ "reason": "nobody wants it ✗" })).await;
    post(caller, "/api/v1/events/plain/resend", &json!({})).await;
    receivers.healthy.wait_for(4).await;
    post(caller, &format!("/api/v1/webhooks/{healthy}/rotate-secret"), &json!({})).await;
    let job = json!({ "states": ["delivered"], "topic": "a.large" });
    post(caller, &format!("/api/v1/webhooks/{healthy}/replay"), &job).await;
    receivers.healthy.wait_for(5).await;
    counted(caller, "default", [4, 3, 4, 3, 1]).await;

    let gone = webhook(caller, json!({ "name": "gone", "url": receivers.sick.url("/"), "topic_patterns": ["gone.*"], "retry_schedule": [3_600.0] })).await;
    post(caller, "/api/v1/events", &event("gone", "gone.x")).await;
    receivers.sick.wait_for(4).await;
    done(caller, "default", Method::DELETE, &format!("/api/v1/webhooks/{gone}"), &Value::Null).await;

    publish(caller, &[("idempotency-key", "key-1")], &event("once", "a.b").to_string()).await;
    let tenant = json!({ "name": BLUE, "description": "blau", "quotas": {
        "max_webhooks": 2, "max_pending": 9, "max_tokens": 4, "max_stored_bytes": 1_000_000,
    } });
    post(caller, "/api/v1/tenants", &tenant).await;
    let webhook = json!({ "name": "blue", "url": receivers.healthy.url("/blue"), "topic_patterns": [">"] });
    done(caller, BLUE, Method::POST, "/api/v1/webhooks", &webhook).await;
    done(caller, BLUE, Method::POST, "/api/v1/events", &event("plain", "a.b")).await;
    let tenant = post(caller, "/api/v1/tenants", &json!({ "name": "short-lived" })).await;
    let uuid = tenant["uuid"].as_str().unwrap();
    done(caller, "default", Method::DELETE, &format!("/api/v1/tenants/{uuid}"), &Value::Null).await;

    let token = async |name: &str| {
        let made = post(caller, "/api/v1/tokens", &json!({ "name": name, "scopes": ["read"] })).await;
        (made["token"].as_str().unwrap().to_owned(), made["uuid"].as_str().unwrap().to_owned())
    };
    let ((kept, _), (revoked, uuid)) = (token("kept").await, token("revoked").await);
    done(caller, "default", Method::DELETE, &format!("/api/v1/tokens/{uuid}"), &Value::Null).await;

    for n in 0..2 {
        post(caller, "/api/v1/events", &event(&format!("hang-{n}"), "hang.x")).await;
    }
    // One is under way, and the other behind it.
    receivers.hanging.wait_for(1).await;
    Story { token: kept, revoked }
}

/// Whatever the API lists, of all tenants, with every delivery's attempts.
async fn everything(caller: &Caller) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for tenant in ["default", BLUE] {
        let read = async |path: String| done(caller, tenant, Method::GET, &path, &Value::Null).await;
        for path in ["webhooks", "tokens", "tenants"] {
            found.insert(format!("{tenant} {path}"), settled(read(format!("/api/v1/{path}")).await));
        }
        for path in ["events", "deliveries", "replays", "audit"] {
            let (mut items, mut query) = (Vec::new(), "?limit=7".to_owned());
            loop {
                let page = read(format!("/api/v1/{path}{query}")).await;
                items.extend(page["items"].as_array().unwrap().clone());
                let Some(cursor) = page["next_cursor"].as_str() else { break };
                query = format!("?limit=7&cursor={cursor}");
            }
            if path == "deliveries" {
                for item in &items {
                    let id = item["id"].as_str().unwrap();
                    let shown = settled(read(format!("/api/v1/deliveries/{id}")).await);
                    found.insert(format!("{tenant} {id}"), shown);
                }
            }
            found.insert(format!("{tenant} {path}"), items.into());
        }
        let mut stats = read("/api/v1/stats".to_owned()).await;
        stats.as_object_mut().unwrap().remove("process");
        found.insert(format!("{tenant} stats"), stats);
    }
    found
}

/// `value` without what is true of a moment: what waits in memory, and for what.
fn settled(mut value: Value) -> Value {
    let mut forget = |shown: &mut Value| {
        for field in ["waiting", "waiting_for", "waiting_since", "waiting_until", "waiting_behind"] {
            shown.as_object_mut().unwrap().remove(field);
        }
    };
    match value.as_array_mut() {
        Some(items) => items.iter_mut().for_each(&mut forget),
        None => forget(&mut value),
    }
    value
}

/// A node on the database, with the data folder's master key.
fn node(folder: &Path, cluster: &Cluster) -> Program {
    let store = cluster.url(DATABASE);
    let options = [&CALM[..], &["--lease", "2s", "--store", &store]].concat();
    Program::start(folder, &options, Stdio::inherit())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_the_same_afterwards_and_what_was_pending_is_delivered() {
    let (cluster, old, new) =
        (Cluster::with_database(DATABASE).await, tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let receivers = Receivers::start().await;
    let server = Program::start(old.path(), &CALM, Stdio::inherit());
    let story = live(&server.caller, &receivers).await;
    counted(&server.caller, BLUE, [0, 1, 0, 0, 0]).await;
    counted(&server.caller, "default", [6, 4, 4, 3, 2]).await;
    job_done(&server.caller).await;
    let before = everything(&server.caller).await;
    let said = refused(&mut migrate(old.path(), &cluster.url(DATABASE)));
    assert!(said.contains("in use") && said.contains("Stop the server"), "{said}");
    // As in a crash: what hangs is known to memory alone.
    server.kill();

    let data = old.path().join("data");
    let files = contents(&data);
    let document = moved(&mut migrate(old.path(), &cluster.url(DATABASE)));
    assert_eq!(contents(&data), files, "the data folder is as it was");
    assert_eq!((&document["outcome"], &document["was_begun"]), (&json!("moved"), &json!(false)));
    assert_eq!(rows(&document, "deliveries"), 20);
    assert!(!document.to_string().contains(cluster.password()), "{document}");

    std::fs::create_dir(new.path().join("data")).unwrap();
    std::fs::copy(data.join("master.key"), new.path().join("data/master.key")).unwrap();
    let first = node(new.path(), &cluster);
    let after = everything(&first.caller).await;
    for (what, before) in &before {
        assert_eq!(after.get(what), Some(before), "{what}");
    }
    assert_eq!(before.len(), after.len());
    let again = moved(&mut migrate(old.path(), &cluster.url(DATABASE)));
    assert_eq!(again["outcome"], "already moved");
    let said = refused(migrate(old.path(), &cluster.url(DATABASE)).arg("--verify"));
    assert!(said.contains("runs on"), "{said}");
    first.kill();

    receivers.has_recovered.store(true, Ordering::SeqCst);
    let second = node(new.path(), &cluster);
    goes_on(&second.caller, &receivers, &story).await;
}

/// What was moved works.
async fn goes_on(caller: &Caller, receivers: &Receivers, story: &Story) {
    // Both that hung; those that wait for their time or for the circuit still do.
    counted(caller, "default", [4, 6, 4, 3, 2]).await;
    let ids: Vec<String> = receivers.hanging.event_ids();
    assert!(["hang-0", "hang-1"].iter().all(|id| ids.iter().any(|seen| seen == id)), "{ids:?}");
    for (token, wanted) in [(&story.token, 200), (&story.revoked, 401)] {
        let headers = [("authorization", &*format!("Bearer {token}"))];
        let answer = caller.try_call_with(Method::GET, "/api/v1/webhooks", &headers, &Value::Null).await.unwrap();
        assert_eq!(answer.status().as_u16(), wanted);
    }
    let duplicate = post(caller, "/api/v1/events", &event("sick-1", "sick.x")).await;
    assert_eq!(duplicate, json!({ "id": "sick-1", "deliveries": 1, "skipped": 0, "duplicate": true }));

    let sent = |id: &str| receivers.healthy.received().into_iter().rfind(|request| request.event_id() == id).unwrap();
    let (before, count) = (sent("digits"), receivers.healthy.received_count());
    assert!(String::from_utf8_lossy(&before.body).contains("digits"), "{before:?}");
    post(caller, "/api/v1/events/digits/resend", &json!({})).await;
    receivers.healthy.wait_for(count + 1).await;
    let after = sent("digits");
    assert_eq!(before.body, after.body);
    // The key was rotated since: the older signature is sent beside the new one.
    assert_eq!(before.header("x-decnet-signature"), after.header("x-decnet-signature-previous"));
    assert_eq!((after.header("x-team"), after.header("authorization")), ("blue", "Bearer t0ken"));

    // New things get numbers of their own.
    post(caller, "/api/v1/tenants", &json!({ "name": "green-team" })).await;
    let made = json!({ "name": "new", "url": receivers.healthy.url("/new"), "topic_patterns": ["new.*"] });
    webhook(caller, made).await;
    let count = receivers.healthy.received_count();
    assert_eq!(post(caller, "/api/v1/events", &event("new", "new.x")).await["deliveries"], 1);
    receivers.healthy.wait_for(count + 1).await;
    let pending = "/api/v1/deliveries?state=pending&topic=sick.x";
    let pending = done(caller, "default", Method::GET, pending, &Value::Null).await;
    let retried = pending["items"][0]["id"].as_str().unwrap();
    post(caller, &format!("/api/v1/deliveries/{retried}/retry"), &json!({})).await;
    receivers.sick.wait_for(5).await;
    counted(caller, "default", [3, 8, 4, 3, 2]).await;
    let bearer = format!("Bearer {TOKEN}");
    let headers = [("authorization", &*bearer), ("idempotency-key", "key-1")];
    for (body, wanted) in [(event("once", "a.b"), 202), (event("twice", "a.b"), 409)] {
        let answer = caller.try_call_with(Method::POST, "/api/v1/events", &headers, &body).await.unwrap();
        assert_eq!(answer.status().as_u16(), wanted, "{answer:?}");
    }
}
