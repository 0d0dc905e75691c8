//! The route: all or nothing, on both stores, also when the server is killed.

use std::process::Stdio;

use http::Method;
use postrider::engine::import::MAX_IMPORTED_WEBHOOKS;
use serde_json::{Value, json};

use super::{ROUTE, acts, outcomes, row, send, webhooks};
use crate::support::postgres_server::Cluster;
use crate::support::program::Program;
use crate::support::receiver::TestReceiver;
use crate::support::server::TestServer;

const URL: &str = "https://receiver.example/hook";

#[tokio::test]
async fn one_that_is_refused_keeps_all_out_unless_it_is_skipped() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let taken = server.webhook("hook 3", URL, ">").await;
    let uuid = |number: u128| uuid::Uuid::from_u128(number).to_string();
    let mut inside = row(2, "http://10.1.2.3/");
    inside["settings"]["topic_patterns"] = json!(["a b"]);
    let rows = json!([row(1, URL), inside, row(3, URL), row(1, URL), row(4, URL)]);
    let before = acts(&server).await;
    let answer = send(&server, &json!({"webhooks": rows})).await.expect(200);
    assert_eq!(outcomes(&answer), ["new", "refused", "refused", "refused", "new"], "{answer}");
    assert_eq!((&answer["done"], &answer["new"], &answer["refused"]), (&json!(false), &json!(2), &json!(3)));
    let reason = |row: usize| answer["webhooks"][row]["errors"].to_string();
    assert!(reason(1).contains("topic_patterns"), "{answer}");
    assert!(reason(2).contains("the name is taken") && reason(3).contains("is given twice"), "{answer}");
    assert_eq!((webhooks(&server).await.len(), acts(&server).await), (1, before), "nothing was made");

    let dry = json!({"dry_run": true, "skip_refused": true, "webhooks": rows});
    let answer = send(&server, &dry).await.expect(200);
    assert_eq!((&answer["done"], outcomes(&answer)[0]), (&json!(false), "new"));
    assert_eq!((webhooks(&server).await.len(), acts(&server).await), (1, before), "nothing was made");

    let skipping = json!({"skip_refused": true, "webhooks": rows});
    let answer = send(&server, &skipping).await.expect(200);
    assert_eq!((&answer["done"], outcomes(&answer)[4]), (&json!(true), "new"));
    let there: Vec<_> = webhooks(&server).await.iter().map(|webhook| webhook["uuid"].clone()).collect();
    assert_eq!(there, [taken["uuid"].clone(), json!(uuid(1)), json!(uuid(4))]);
    assert_eq!(acts(&server).await, before + 2, "one line for each");

    let again = send(&server, &skipping).await.expect(200);
    assert_eq!(outcomes(&again), ["same", "refused", "refused", "refused", "same"], "{again}");
    assert_eq!(acts(&server).await, before + 2, "nothing was done");
    server.stop().await;
}

#[tokio::test]
async fn what_is_there_with_other_settings_is_left_as_it_is() {
    let (_folder, server) = TestServer::in_new_folder().await;
    send(&server, &json!({"webhooks": [row(1, URL)]})).await.expect(200);
    let path = format!("/api/v1/webhooks/{}", uuid::Uuid::from_u128(1));
    let ours = json!({"description": "ours", "enabled": false}).to_string();
    server.call("PATCH", &path, &server.admin, &ours).await.expect(200);
    let mut changed = row(1, URL);
    changed["settings"]["secret"] = json!("another secret of his");
    let answer = send(&server, &json!({"webhooks": [changed]})).await.expect(200);
    assert_eq!(outcomes(&answer), ["differs"]);
    assert_eq!(answer["webhooks"][0]["differing"], json!(["description", "enabled", "secret"]));
    assert_eq!(server.get(&path).await.expect(200)["description"], "ours");

    server.call("DELETE", &path, &server.admin, "").await.expect(200);
    let answer = send(&server, &json!({"webhooks": [row(1, URL)]})).await.expect(200);
    assert!(answer["webhooks"][0]["errors"].to_string().contains("was deleted here"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn tenants_are_made_with_their_webhooks_or_not_at_all() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let of = |number: u128, tenant: &str| {
        let mut row = row(number, URL);
        row["tenant"] = json!(tenant);
        row
    };
    let rows = json!([of(1, "blue"), of(2, "red"), of(3, "blue")]);
    let answer = send(&server, &json!({"webhooks": rows})).await.expect(200);
    assert_eq!(outcomes(&answer), ["refused"; 3]);
    assert!(answer["webhooks"][0]["errors"].to_string().contains("there is no tenant"), "{answer}");

    let refused = json!({"create_tenants": true, "webhooks": [of(1, "blue"), of(2, "Not A Name")]});
    let answer = send(&server, &refused).await.expect(200);
    assert_eq!((outcomes(&answer), &answer["tenants"]), (vec!["new", "refused"], &json!([])));
    assert_eq!(server.get("/api/v1/tenants/blue").await.status, 404);

    let answer = send(&server, &json!({"create_tenants": true, "webhooks": rows})).await.expect(200);
    assert_eq!((&answer["done"], &answer["tenants"]), (&json!(true), &json!(["blue", "red"])), "{answer}");
    assert_eq!(server.get("/api/v1/tenants/blue").await.expect(200)["webhooks"], 2);
    let answer = send(&server, &json!({"create_tenants": true, "webhooks": rows})).await.expect(200);
    assert_eq!((outcomes(&answer), &answer["tenants"]), (vec!["same"; 3], &json!([])));
    // An id belongs to one tenant.
    let answer = send(&server, &json!({"webhooks": [of(1, "red")]})).await.expect(200);
    assert!(answer["webhooks"][0]["errors"].to_string().contains("another tenant"), "{answer}");

    let quota = json!({"quotas": {"max_webhooks": 3}}).to_string();
    server.call("PATCH", "/api/v1/tenants/blue", &server.admin, &quota).await.expect(200);
    let answer = send(&server, &json!({"webhooks": [of(4, "blue"), of(5, "blue")]})).await.expect(200);
    assert_eq!(outcomes(&answer), ["new", "refused"], "{answer}");
    assert!(answer["webhooks"][1]["errors"].to_string().contains("may have 3 webhooks"), "{answer}");
    assert_eq!(server.get("/api/v1/tenants/blue").await.expect(200)["webhooks"], 2);
    server.stop().await;
}

#[tokio::test]
async fn an_import_is_bounded_and_an_error_repeats_no_secret() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let many: Vec<Value> = (0..=MAX_IMPORTED_WEBHOOKS).map(|_| row(1, "x")).collect();
    let limit = format!("the limit is {MAX_IMPORTED_WEBHOOKS}");
    send(&server, &json!({"webhooks": many})).await.expect_refusal(422, "webhooks", &limit);
    let wrong = json!({"webhooks": [{"uuid": uuid::Uuid::nil(), "settings": {"secret": ["geheim"]}}]});
    let answer = send(&server, &wrong).await;
    assert!(answer.status == 422 && !answer.body.contains("geheim"), "{}", answer.body);
    let text = "x".repeat(16 * 1024 * 1024);
    assert_eq!(send(&server, &json!({"webhooks": [{"uuid": text}]})).await.status, 413);
    let mut odd = row(1, URL);
    odd["state"] = json!({"disabled_reason": "gone"});
    let answer = send(&server, &json!({"webhooks": [odd]})).await.expect(200);
    assert_eq!(answer["webhooks"][0]["errors"][0]["field"], "disabled_reason");
    let admin = server.token(r#"["admin"]"#).await;
    let answer = server.call("POST", ROUTE, &admin, &json!({"webhooks": []}).to_string()).await;
    assert_eq!(answer.status, 403, "it is the operator's");
    assert!(webhooks(&server).await.is_empty());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_stores_import_alike_and_deliver_at_once() {
    let (cluster, receiver) = (Cluster::with_database("hooks").await, TestReceiver::healthy().await);
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let url = cluster.url("hooks");
    for (folder, options) in folders.iter().zip([vec![], vec!["--store", &url]]) {
        let server = Program::start(folder.path(), &options, Stdio::inherit());
        let mut off = row(2, &receiver.url("/off"));
        off["settings"]["enabled"] = json!(false);
        off["state"] = json!({
            "disabled_reason": "DECNET turned it off", "disabled_at": "2026-05-03T00:00:00.5Z", "consecutive_failures": 5,
            "last_error": "http 503\u{7}", "auto_disabled_at": "2026-05-03T00:00:00.5Z", "created_at": "2999-01-01T00:00:00Z",
        });
        let mut blue = row(3, &receiver.url("/blue"));
        blue["tenant"] = json!("blue");
        let body = json!({"create_tenants": true, "webhooks": [row(1, &receiver.url("/on")), off, blue]});
        let (status, answer) = server.caller.call(Method::POST, ROUTE, &body).await;
        assert_eq!((status, &answer["done"], &answer["new"]), (200, &json!(true), &json!(3)), "{answer}");
        let event = json!({"topic": "attacker.seen"});
        let before = receiver.received_count();
        assert_eq!(server.caller.call(Method::POST, "/api/v1/events", &event).await.0, 202);
        assert_eq!(receiver.wait_for(before + 1).await[before].path, "/on");
        let (_, shown) = server.caller.get(&format!("/api/v1/webhooks/{}", uuid::Uuid::from_u128(2))).await;
        assert_eq!(
            (&shown["disabled_reason"], &shown["last_error"]),
            (&json!("DECNET turned it off"), &json!("http 503 "))
        );
        assert_eq!(shown["auto_disabled_at"], "2026-05-03T00:00:00.500000Z", "{shown}");
        assert!(shown["created_at"].as_str().unwrap() < "2999", "{shown}");
        // On again, it gets what comes from then on.
        let path = format!("/api/v1/webhooks/{}", uuid::Uuid::from_u128(2));
        assert_eq!(server.caller.call(Method::PATCH, &path, &json!({"enabled": true})).await.0, 200);
        assert_eq!(server.caller.call(Method::POST, "/api/v1/events", &event).await.0, 202);
        let paths: Vec<String> = receiver.wait_for(before + 3).await[before..].iter().map(|r| r.path.clone()).collect();
        assert!(paths.contains(&"/off".to_owned()), "{paths:?}");
        let (_, again) = server.caller.call(Method::POST, ROUTE, &json!({"webhooks": body["webhooks"]})).await;
        assert_eq!(outcomes(&again), ["same", "differs", "same"], "{again}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_has_imported_all_or_nothing() {
    const MANY: u128 = 2_000;
    let body = json!({"webhooks": (1..=MANY).map(|number| row(number, URL)).collect::<Vec<_>>()});
    let folder = tempfile::tempdir().unwrap();
    let mut is_there = false;
    // Earlier and later within the import, until it is done.
    for delay_ms in (0..).step_by(150) {
        let server = Program::start(folder.path(), &["--log", "error"], Stdio::inherit());
        let (_, stats) = server.caller.get("/api/v1/tenants/default").await;
        assert!(stats["webhooks"] == 0 || stats["webhooks"] == u64::try_from(MANY).unwrap(), "{stats}");
        is_there |= stats["webhooks"] != 0;
        if is_there {
            break;
        }
        let caller = server.caller.clone();
        let asked = body.clone();
        let importing = tokio::spawn(async move { caller.try_call(Method::POST, ROUTE, &asked).await });
        tokio::time::sleep(std::time::Duration::from_millis(delay_ms)).await;
        server.kill();
        importing.await.unwrap();
    }
}
