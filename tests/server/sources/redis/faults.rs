//! What goes wrong with streams.

use std::collections::BTreeSet;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// The number of entries that wait for an acknowledgement of this consumer.
async fn pending(client: &mut MultiplexedConnection, consumer: &str) -> usize {
    let text = format!("XPENDING {STREAM} postrider - + 1000 {consumer}");
    match command(client, &text).await {
        redis::Value::Array(entries) => entries.len(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_can_be_no_event_is_set_aside_wherever_it_stands() {
    let (orders, folder) = (Orders::start().await, tempfile::tempdir().unwrap());
    let mut client = orders.server.client().await;
    // At the head, before there is a group.
    add_order(&mut client, "bad", "no JSON").await;
    add_order(&mut client, "large", format!("\"{}\"", "x".repeat(2 << 20))).await;
    add_order(&mut client, "larger", format!("\"{}\"", "x".repeat(20 << 20))).await;
    add_order(&mut client, "b ad", "{}").await;
    add(&mut client, &[("id", b"none"), ("other", b"\xff")]).await;
    // As large as may be, and more of them than are accepted together.
    for number in 0..8 {
        add_order(&mut client, &format!("mb-{number}"), format!("\"{}\"", "y".repeat(1_000_000))).await;
    }
    add_order(&mut client, "last", "{}").await;
    let (server, _receiver) = orders.server(folder.path()).await;
    server.wait_for("/api/v1/sources", |sources| sources[0]["accepted"] == 9).await;
    let newest = server.get("/api/v1/events?limit=1").await.expect(200);
    assert_eq!(newest["items"][0]["id"], "last", "{newest}");
    let listed =
        server.wait_for("/api/v1/sources/shop/rejected", |listed| listed["items"].as_array().unwrap().len() == 5).await;
    let mut reasons: Vec<&str> =
        listed["items"].as_array().unwrap().iter().map(|message| message["reason"].as_str().unwrap()).collect();
    reasons.sort_unstable();
    assert!(reasons[0].starts_with("id: must be visible ASCII"), "{reasons:?}");
    assert!(reasons[1].starts_with("invalid JSON at byte"), "{reasons:?}");
    assert_eq!(
        reasons[2..],
        [
            "the entry has no field \"payload\"",
            "the event is 2097154 bytes long, the limit is 1048576",
            "the message is 16777217 bytes long, the limit is 16777216"
        ]
    );
    empty(&mut client).await;
    server.stop().await;
}

#[tokio::test]
async fn a_group_or_a_stream_that_is_deleted_is_told_and_made_again() {
    let (orders, folder) = (Orders::start().await, tempfile::tempdir().unwrap());
    let (server, receiver) = orders.server(folder.path()).await;
    let mut client = orders.server.client().await;
    add_order(&mut client, "o-1", "{}").await;
    receiver.wait_for(1).await;
    empty(&mut client).await;
    command(&mut client, &format!("XGROUP DESTROY {STREAM} postrider")).await;
    fails_with(&server, "the group postrider of the stream orders.made: ").await;
    // The new group goes on where the old one was.
    add_order(&mut client, "o-2", "{}").await;
    assert_eq!(receiver.wait_for(2).await[1].event_id(), "o-2");
    empty(&mut client).await;
    let source = become_state(&server, "running").await;
    assert_eq!(source["duplicates"], 0, "{source}");

    command(&mut client, &format!("DEL {STREAM}")).await;
    fails_with(&server, "").await;
    add_order(&mut client, "o-3", "{}").await;
    assert_eq!(receiver.wait_for(3).await[2].event_id(), "o-3");
    become_state(&server, "running").await;
    // A consumer is made by its next request.
    let Some(consumer) = consumers(&mut client).await.pop() else { panic!("no consumer") };
    command(&mut client, &format!("XGROUP DELCONSUMER {STREAM} postrider {consumer}")).await;
    add_order(&mut client, "o-4", "{}").await;
    receiver.wait_for(4).await;
    // Another kind of value has the name.
    command(&mut client, &format!("SET {STREAM} text")).await;
    fails_with(&server, "WRONGTYPE").await;
    let (status, ready) = (server.get("/readyz?sources").await, server.get("/readyz").await);
    status.expect(503);
    ready.expect(200);
    command(&mut client, &format!("DEL {STREAM}")).await;
    become_state(&server, "running").await;
    server.stop().await;
}

async fn consumers(client: &mut MultiplexedConnection) -> Vec<String> {
    let consumers: Vec<std::collections::HashMap<String, redis::Value>> =
        redis::cmd("XINFO").arg("CONSUMERS").arg(STREAM).arg("postrider").query_async(client).await.unwrap();
    consumers.iter().map(|consumer| redis::from_redis_value(consumer["name"].clone()).unwrap()).collect()
}

#[tokio::test]
async fn a_server_that_is_away_is_told_and_found_when_it_comes() {
    let (mut redis, folder) = (RedisServer::stopped(), tempfile::tempdir().unwrap());
    let (server, receiver) = serve(&source_at(&redis.url()), folder.path()).await;
    fails_with(&server, &format!("cannot connect to {}: Connection refused", redis.url())).await;
    redis.run_again().await;
    become_state(&server, "running").await;
    redis.kill();
    fails_with(&server, "").await;
    redis.run_again().await;
    add_order(&mut redis.client().await, "o-1", "{}").await;
    assert_eq!(receiver.wait_for(1).await[0].event_id(), "o-1");
    server.stop().await;
}

#[tokio::test]
async fn what_consumers_left_is_delivered_and_what_was_trimmed_is_counted() {
    let (orders, folder) = (Orders::start().await, tempfile::tempdir().unwrap());
    let mut client = orders.server.client().await;
    command(&mut client, &format!("XGROUP CREATE {STREAM} postrider 0 MKSTREAM")).await;
    let mut ids = Vec::new();
    for number in 0..6 {
        ids.push(add_order(&mut client, &format!("o-{number}"), "{}").await);
    }
    // A consumer that has died; a crash of this one; and one entry of each that is deleted.
    for consumer in ["dead", "node-1"] {
        command(&mut client, &format!("XREADGROUP GROUP postrider {consumer} COUNT 3 STREAMS {STREAM} >")).await;
    }
    command(&mut client, &format!("XDEL {STREAM} {} {}", ids[1], ids[4])).await;
    let text = format!("{}\nconsumer = 'node-1'\nclaim_after_s = 1", source_at(&orders.server.url()));
    let (server, _receiver) = serve(&text, folder.path()).await;
    server.wait_for("/api/v1/sources", |sources| sources[0]["accepted"] == 4).await;
    let events = server.get("/api/v1/events").await.expect(200);
    let ids_of_events: BTreeSet<&str> =
        events["items"].as_array().unwrap().iter().map(|event| event["id"].as_str().unwrap()).collect();
    assert_eq!(ids_of_events, BTreeSet::from(["o-0", "o-2", "o-3", "o-5"]));
    let source = server.wait_for("/api/v1/sources", |sources| sources[0]["lost"] == 2).await;
    assert_eq!((&source[0]["accepted"], &source[0]["state"]), (&json!(4), &json!("running")), "{source}");
    while pending(&mut client, "dead").await + pending(&mut client, "node-1").await > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn an_entry_that_waits_for_a_full_tenant_is_not_given_to_another_consumer() {
    let (orders, folder) = (Orders::start().await, tempfile::tempdir().unwrap());
    let mut client = orders.server.client().await;
    let text = format!("{}\nclaim_after_s = 1", source_at(&orders.server.url()));
    let (server, receiver) = serve(&text, folder.path()).await;
    let quota = |bytes: u64| json!({"quotas": {"max_stored_bytes": bytes}}).to_string();
    server.call("PATCH", "/api/v1/tenants/default", &server.admin, &quota(4_000)).await.expect(200);
    for number in 0..100 {
        add_order(&mut client, &format!("o-{number}"), "{}").await;
    }
    become_state(&server, "waiting").await;
    let until = tokio::time::Instant::now() + Duration::from_secs(3);
    while tokio::time::Instant::now() < until {
        let claim = format!("XAUTOCLAIM {STREAM} postrider other 1000 0");
        let redis::Value::Array(claimed) = command(&mut client, &claim).await else { panic!("no answer") };
        assert_eq!(claimed[1], redis::Value::Array(Vec::new()));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    server.call("PATCH", "/api/v1/tenants/default", &server.admin, &quota(1 << 30)).await.expect(200);
    receiver.wait_for(100).await;
    let source = become_state(&server, "running").await;
    assert_eq!((&source["accepted"], &source["duplicates"]), (&json!(100), &json!(0)), "{source}");
    server.stop().await;
}

#[tokio::test]
async fn a_group_may_begin_with_what_is_new() {
    let (orders, folder) = (Orders::start().await, tempfile::tempdir().unwrap());
    let mut client = orders.server.client().await;
    add_order(&mut client, "old", "{}").await;
    let text = format!("{}\nbegin = 'new'", source_at(&orders.server.url()));
    let (server, receiver) = serve(&text, folder.path()).await;
    become_state(&server, "running").await;
    add_order(&mut client, "new", "{}").await;
    assert_eq!(receiver.wait_for(1).await[0].event_id(), "new");
    server.stop().await;
}

#[tokio::test]
async fn two_servers_share_a_group() {
    let (orders, one_folder, other_folder) =
        (Orders::start().await, tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, first) = orders.server(one_folder.path()).await;
    let (other, second) = orders.server(other_folder.path()).await;
    for server in [&one, &other] {
        become_state(server, "running").await;
    }
    let mut client = orders.server.client().await;
    for number in 0..200 {
        add_order(&mut client, &format!("o-{number}"), "{}").await;
    }
    while first.received_count() + second.received_count() < 200 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(first.received_count() > 0 && second.received_count() > 0, "{}", first.received_count());
    empty(&mut client).await;
    assert_eq!(first.received_count() + second.received_count(), 200, "each entry went to one of them");
    one.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn what_is_no_broker_is_told() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let sent = [
        ("*1\r\n$999999999999\r\n", "the server announced a text of 999999999999 bytes, the limit is 536870912"),
        ("*9223372036854775807\r\n", "the server sent an answer of more than 268435456 bytes or 1048576 values"),
        ("HTTP/1.1 400 Bad Request\r\n", "the server sent what is no RESP2"),
    ];
    let folder = tempfile::tempdir().unwrap();
    let (server, _receiver) = serve(&source_at(&url), folder.path()).await;
    for (bytes, reason) in sent {
        let serving = async {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut command = [0; 1_024];
                while stream.read(&mut command).await.is_ok_and(|count| count > 0) {
                    if stream.write_all(bytes.as_bytes()).await.is_err() {
                        break;
                    }
                }
            }
        };
        tokio::select! {
            () = serving => {}
            () = fails_with(&server, reason) => {}
        }
    }
    server.stop().await;
}
