//! What the API answers does not depend on the store behind it: the same requests to a server on SQLite and to one on
//! PostgreSQL.

use std::process::Stdio;

use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::postgres_server::Cluster;
use crate::support::program::{Caller, Program};
use crate::support::receiver::TestReceiver;

const DATABASE: &str = "hooks";

/// Two servers that differ in their stores alone.
struct Both {
    servers: [(&'static str, Program); 2],
    _folders: [TempDir; 2],
    _cluster: Cluster,
}

impl Both {
    async fn start() -> Self {
        let cluster = Cluster::with_database(DATABASE).await;
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let url = cluster.url(DATABASE);
        let sqlite = Program::start(folders[0].path(), &[], Stdio::inherit());
        let postgres = Program::start(folders[1].path(), &["--store", &url], Stdio::inherit());
        Self { servers: [("SQLite", sqlite), ("PostgreSQL", postgres)], _folders: folders, _cluster: cluster }
    }

    fn callers(&self) -> impl Iterator<Item = (&'static str, &Caller)> {
        self.servers.iter().map(|(name, server)| (*name, &server.caller))
    }
}

/// The UUID of a new webhook.
async fn webhook(caller: &Caller, name: &str, receiver: &TestReceiver) -> String {
    let webhook = json!({"name": name, "url": receiver.url("/"), "topic_patterns": [">"]});
    let (status, made) = caller.call(Method::POST, "/api/v1/webhooks", &webhook).await;
    assert_eq!(status, 201, "{made}");
    made["uuid"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_with_a_nul_is_refused_and_named() {
    let (both, receiver) = (Both::start().await, TestReceiver::healthy().await);
    for (store, caller) in both.callers() {
        let uuid = webhook(caller, "w", &receiver).await;
        let blue = json!({"name": "blue", "description": "as it is"});
        assert_eq!(caller.call(Method::POST, "/api/v1/tenants", &blue).await.0, 201);
        // Each field with a text of the caller's choice, once with U+0000 and once with another control character.
        for control in ["\0", "\u{1b}"] {
            let text = format!("a{control}b");
            let (webhook, delivery) = (format!("/api/v1/webhooks/{uuid}"), uuid::Uuid::from_u128(7));
            let one = format!("/api/v1/deliveries/{delivery}/discard");
            for (method, path, field, body) in [
                (Method::POST, "/api/v1/tenants", "name", json!({"name": text})),
                (Method::POST, "/api/v1/tenants", "description", json!({"name": "red", "description": text})),
                (Method::PATCH, "/api/v1/tenants/blue", "description", json!({"description": text})),
                (Method::POST, "/api/v1/deliveries/discard", "reason", json!({"reason": text})),
                (Method::POST, &one, "reason", json!({"reason": text})),
                (Method::POST, "/api/v1/deliveries/retry", "topic", json!({"topic": text})),
                (Method::POST, "/api/v1/tokens", "name", json!({"name": text, "scopes": ["read"]})),
                (Method::PATCH, &webhook, "name", json!({"name": text})),
                (Method::PATCH, &webhook, "description", json!({"description": text})),
                (Method::PATCH, &webhook, "metadata", json!({"metadata": {"team": text}})),
                (Method::PATCH, &webhook, "metadata", json!({"metadata": {text.clone(): "soc"}})),
                (Method::PATCH, &webhook, "headers", json!({"headers": {"X-Team": text}})),
                (Method::PATCH, &webhook, "topic_patterns", json!({"topic_patterns": [text]})),
                (Method::POST, "/api/v1/events", "id", json!({"id": text, "topic": "a", "type": "t", "payload": {}})),
                (Method::POST, "/api/v1/events", "topic", json!({"topic": text, "type": "t", "payload": {}})),
            ] {
                let (status, problem) = caller.call(method.clone(), path, &body).await;
                let named = problem["errors"].as_array().into_iter().flatten().map(|error| error["field"].clone());
                let named: Vec<Value> = named.collect();
                assert!(status == 422 && named == [field], "{store}: {method} {path} {body}: {status} {problem}");
            }
        }
        assert_eq!(caller.get("/api/v1/tenants/blue").await.1["description"], "as it is", "{store}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_with_a_nul_finds_nothing_or_is_refused() {
    let both = Both::start().await;
    for (path, expected) in [
        ("/api/v1/audit?actor=a%00b", 422),
        ("/api/v1/audit?action=a%00b", 422),
        ("/api/v1/events?topic=a%00b", 422),
        ("/api/v1/events?cursor=a%00b", 422),
        ("/api/v1/events?q=a%00b", 200),
        ("/api/v1/events?type=a%00b", 200),
        ("/api/v1/deliveries?event=a%00b", 200),
        ("/api/v1/webhooks?q=a%00b", 200),
        ("/api/v1/webhooks?cursor=a%00b", 422),
        ("/api/v1/events/a%00b", 404),
        ("/api/v1/tenants/a%00b", 404),
        ("/api/v1/webhooks/a%00b", 404),
    ] {
        for (store, caller) in both.callers() {
            let (status, answer) = caller.get(path).await;
            assert_eq!(status, expected, "{store}: {path}: {answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_type_with_a_nul_is_kept_and_found() {
    let both = Both::start().await;
    for (store, caller) in both.callers() {
        let event = json!({"id": "e-1", "topic": "a", "type": "a\0b", "payload": {"text": "c\0d"}});
        assert_eq!(caller.call(Method::POST, "/api/v1/events", &event).await.0, 202, "{store}");
        let (_, found) = caller.get("/api/v1/events?type=a%00b").await;
        assert_eq!((&found["items"][0]["id"], &found["items"][0]["type"]), (&json!("e-1"), &json!("a\0b")), "{store}");
        let (_, shown) = caller.get("/api/v1/events/e-1").await;
        assert_eq!(shown["payload"]["text"].as_str().or(shown["payload"]["payload"]["text"].as_str()), Some("c\0d"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_renaming_and_a_deletion_under_the_old_name_one_alone_succeeds() {
    const ROUNDS: u32 = 60;
    let both = Both::start().await;
    for (store, caller) in both.callers() {
        for round in 0..ROUNDS {
            let (old, new) = (format!("old-{round}"), format!("new-{round}"));
            let (status, made) = caller.call(Method::POST, "/api/v1/tenants", &json!({"name": old})).await;
            assert_eq!(status, 201, "{made}");
            let path = format!("/api/v1/tenants/{old}");
            let (rename, no_body) = (json!({"name": new}), Value::Null);
            let (renamed, deleted) =
                tokio::join!(caller.call(Method::PATCH, &path, &rename), caller.call(Method::DELETE, &path, &no_body));
            let answers = [renamed.0, deleted.0];
            assert!(answers == [200, 404] || answers == [404, 200], "{store}, round {round}: {renamed:?} {deleted:?}");
            assert_eq!(caller.get(&path).await.0, 404, "{store}: nobody is called so any more");
            let is_there = caller.get(&format!("/api/v1/tenants/{new}")).await.0;
            assert_eq!(is_there, renamed.0, "{store}: it is there if it was renamed");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_changed_twice_at_once_is_changed_once() {
    const ROUNDS: u32 = 60;
    let both = Both::start().await;
    for (store, caller) in both.callers() {
        for round in 0..ROUNDS {
            let old = format!("old-{round}");
            assert_eq!(caller.call(Method::POST, "/api/v1/tenants", &json!({"name": old})).await.0, 201);
            let path = format!("/api/v1/tenants/{old}");
            let names = ["a", "b"].map(|name| json!({"name": format!("{name}-{round}")}));
            let (one, other) = tokio::join!(
                caller.call(Method::PATCH, &path, &names[0]),
                caller.call(Method::PATCH, &path, &names[1])
            );
            let mut answers = [one.0, other.0];
            answers.sort_unstable();
            assert_eq!(answers, [200, 404], "{store}, round {round}: {one:?} {other:?}");
        }
    }
}
