//! A bit of a stored event flips on the disk: the event is not sent, its deliveries end and say so, and all others arrive.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use http::Method;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::program::Program;
use crate::support::receiver::TestReceiver;
use crate::support::{postgres_server, receiver};

const EVENTS: usize = 40;
/// Which of them are damaged, and how each.
const DAMAGED: [usize; 4] = [3, 4, 17, 39];
const PATIENCE: Duration = Duration::from_mins(1);

fn id(n: usize) -> String {
    format!("event-{n:02}")
}

fn start(folder: &Path, options: &[&str]) -> Program {
    Program::start(folder, &[options, &["--log", "off"]].concat(), Stdio::inherit())
}

async fn stop(server: Program) {
    server.signal(Signal::TERM);
    let (mut server, began) = (server, Instant::now());
    while server.child.try_wait().expect("it is our child").is_none() {
        assert!(began.elapsed() < PATIENCE, "the server does not end");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Webhooks that wait, and what they wait for.
async fn publish(server: &Program, receiver: &TestReceiver) {
    for (name, settings) in [
        ("single", json!({})),
        ("ordered", json!({"ordered": true})),
        ("batch", json!({"batch": {"max_events": 8, "max_wait_ms": 0}})),
        ("shaped", json!({"shape": {"template": "{\"topic\": {{ event.topic|tojson }}}"}})),
    ] {
        let mut webhook = json!({"name": name, "url": receiver.url(&format!("/{name}")), "topic_patterns": ["rot.>"],
            "paused": true});
        webhook.as_object_mut().expect("an object").extend(settings.as_object().expect("an object").clone());
        let (status, problem) = server.caller.call(Method::POST, "/api/v1/webhooks", &webhook).await;
        assert_eq!(status, 201, "{problem}");
    }
    let events: Value =
        (0..EVENTS).map(|n| json!({"id": id(n), "topic": format!("rot.t{n}"), "payload": {"n": 7000 + n}})).collect();
    assert_eq!(server.caller.call(Method::POST, "/api/v1/events/batch", &events).await.0, 202);
}

/// Everything goes on, and this is how it ends.
async fn assert_not_sent(server: &Program, receiver: &TestReceiver) {
    let (_, webhooks) = server.caller.get("/api/v1/webhooks").await;
    for webhook in webhooks.as_array().expect("a list") {
        let path = format!("/api/v1/webhooks/{}", webhook["uuid"].as_str().expect("an id"));
        assert_eq!(server.caller.call(Method::PATCH, &path, &json!({"paused": false})).await.0, 200);
    }
    let began = Instant::now();
    while server.caller.get("/api/v1/stats").await.1["pending"] != 0 {
        assert!(began.elapsed() < PATIENCE, "not everything ends");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let sound: BTreeSet<String> = (0..EVENTS).filter(|n| !DAMAGED.contains(n)).map(id).collect();
    let requests = receiver.received();
    for name in ["single", "ordered"] {
        let arrived = requests.iter().filter(|request| request.path == format!("/{name}"));
        let arrived: Vec<String> = arrived.map(receiver::Received::event_id).collect();
        assert_eq!(arrived.iter().cloned().collect::<BTreeSet<_>>(), sound, "{name}");
        assert!(name != "ordered" || arrived.is_sorted(), "{arrived:?}");
    }
    let in_batches = requests.iter().filter(|request| request.path == "/batch");
    let batched = in_batches.flat_map(|request| {
        let body: Value = serde_json::from_slice(&request.body).expect("a batch");
        let events = body["events"].as_array().expect("a list").clone();
        events.into_iter().map(|event| event["id"].as_str().expect("a text").to_owned())
    });
    assert_eq!(batched.collect::<BTreeSet<_>>(), sound);
    assert_eq!(requests.iter().filter(|request| request.path == "/shaped").count(), sound.len());

    for n in DAMAGED {
        let (_, found) = server.caller.get(&format!("/api/v1/deliveries?event={}", id(n))).await;
        for delivery in found["items"].as_array().expect("a list") {
            assert_eq!((&delivery["state"], &delivery["reason"]), (&json!("dead"), &json!("stored body is damaged")));
        }
        assert_eq!(found["items"].as_array().map(Vec::len), Some(4), "{found}");
        assert_eq!(server.caller.get(&format!("/api/v1/events/{}", id(n))).await.1["damaged"], true);
    }
    let (status, listed) = server.caller.get("/api/v1/events?limit=500").await;
    assert_eq!((status, listed["items"].as_array().map(Vec::len)), (200, Some(EVENTS)));
    let metrics = server.caller.text("/metrics").await;
    assert!(metrics.contains(&format!("postrider_deliveries_damaged_total {}", 4 * DAMAGED.len())), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_that_flips_in_the_data_folder_is_not_sent() {
    let (folder, receiver) = (tempfile::tempdir().expect("a folder"), TestReceiver::healthy().await);
    let server = start(folder.path(), &[]);
    publish(&server, &receiver).await;
    stop(server).await;

    let database = folder.path().join("data/postrider.db");
    let mut bytes = fs::read(&database).expect("the database is there");
    for n in DAMAGED {
        let text = format!("{{\"n\":{}}}", 7000 + n);
        // Pages that were split have left copies behind.
        let places: Vec<usize> = memchr::memmem::find_iter(&bytes, text.as_bytes()).collect();
        assert!(!places.is_empty(), "the body is there");
        for at in places {
            bytes[at + 5] ^= 1;
        }
    }
    fs::write(&database, bytes).expect("it can be written");

    let server = start(folder.path(), &[]);
    assert_not_sent(&server, &receiver).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_changes_of_an_event_in_a_database_is_not_sent() {
    let (folder, receiver) = (tempfile::tempdir().expect("a folder"), TestReceiver::healthy().await);
    let cluster = postgres_server::Cluster::start().await;
    cluster.create_database("hooks", None).await;
    let url = cluster.url("hooks");
    let server = start(folder.path(), &["--store", &url]);
    publish(&server, &receiver).await;
    stop(server).await;

    let client = cluster.connect("hooks").await;
    let changes = ["body = set_bit(body, 90, 1 - get_bit(body, 90))", "topic = 'rot..'", "type = 'x'", "body = ''"];
    for (n, change) in DAMAGED.into_iter().zip(changes) {
        let rows = client.execute(&format!("UPDATE event SET {change} WHERE id = '{}'", id(n)), &[]).await;
        assert_eq!(rows.expect("the database answers"), 1);
    }

    let server = start(folder.path(), &["--store", &url]);
    assert_not_sent(&server, &receiver).await;
}
