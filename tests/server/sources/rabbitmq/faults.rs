//! What goes wrong with queues.

use lapin::BasicProperties;
use lapin::options::{BasicGetOptions, ExchangeDeclareOptions, QueueBindOptions};
use lapin::types::FieldTable;

use super::*;
use crate::support::receiver::Received;

/// Poison of all kinds, in front of and behind what is as large as may be.
async fn publish_poison(client: &Client, queue: &str) {
    client.publish(queue, Some("bad"), "no JSON").await;
    client.publish(queue, Some("large"), format!("\"{}\"", "x".repeat(2 << 20))).await;
    client.publish(queue, Some("larger"), format!("\"{}\"", "x".repeat(20 << 20))).await;
    client.publish(queue, Some("b ad"), "{}").await;
    for number in 0..8 {
        let body = format!("\"{}\"", "y".repeat(1_000_000));
        client.publish(queue, Some(&format!("mb-{number}")), body).await;
    }
    client.publish(queue, Some("last"), "{}").await;
}

#[tokio::test]
async fn what_can_be_no_event_is_set_aside_and_goes_to_the_dead_letter_exchange() {
    let mut orders = Orders::start().await;
    let client = orders.server.client().await;
    client.queue("dead", &[]).await;
    for (queue, kind) in [("letters", None), ("letters-quorum", Some(quorum()))] {
        let mut arguments = vec![
            ("x-dead-letter-exchange", AMQPValue::LongString("".into())),
            ("x-dead-letter-routing-key", AMQPValue::LongString("dead".into())),
        ];
        arguments.extend(kind);
        orders = orders.with(queue, &arguments).await;
        publish_poison(&client, queue).await;
        let folder = tempfile::tempdir().unwrap();
        let (server, _receiver) = serve(&orders.source(), folder.path()).await;
        server.wait_for("/api/v1/sources", |sources| sources[0]["accepted"] == 9).await;
        let is_there = |listed: &Value| listed["items"].as_array().unwrap().len() == 4;
        let listed = server.wait_for("/api/v1/sources/shop/rejected", is_there).await;
        let mut reasons: Vec<&str> =
            listed["items"].as_array().unwrap().iter().map(|message| message["reason"].as_str().unwrap()).collect();
        reasons.sort_unstable();
        assert!(reasons[0].starts_with("id: must be visible ASCII"), "{reasons:?}");
        assert!(reasons[1].starts_with("invalid JSON at byte"), "{reasons:?}");
        assert_eq!(
            reasons[2..],
            [
                "the event is 2097154 bytes long, the limit is 1048576",
                "the message is 20971522 bytes long, the limit is 16777216"
            ]
        );
        let source = become_state(&server, "running").await;
        assert_eq!((&source["duplicates"], &source["lost"]), (&json!(0), &json!(0)), "{source}");
        server.stop().await;
        // What was not acknowledged is in the queue again.
        assert_eq!(client.ready(queue).await, 0);
        while client.ready("dead").await < 4 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        while client.channel.basic_get("dead".into(), BasicGetOptions { no_ack: true }).await.unwrap().is_some() {}
    }
    what_is_sent_ahead_is_given_back_when_it_is_too_much(&orders.with("ahead", &[]).await, &client).await;
}

/// A tenant is full, and large messages are sent ahead meanwhile.
async fn what_is_sent_ahead_is_given_back_when_it_is_too_much(orders: &Orders, client: &Client) {
    let folder = tempfile::tempdir().unwrap();
    let (server, receiver) = serve(&orders.source(), folder.path()).await;
    let quota = |bytes: u64| json!({"quotas": {"max_stored_bytes": bytes}}).to_string();
    server.call("PATCH", "/api/v1/tenants/default", &server.admin, &quota(400)).await.expect(200);
    for number in 0..10 {
        client.publish("ahead", Some(&format!("o-{number}")), "{}").await;
    }
    become_state(&server, "waiting").await;
    for number in 0..3 {
        client.publish("ahead", Some(&format!("large-{number}")), vec![b'x'; 15 << 20]).await;
    }
    client.publish("ahead", Some("last"), "{}").await;
    while client.ready("ahead").await < 4 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.call("PATCH", "/api/v1/tenants/default", &server.admin, &quota(1 << 30)).await.expect(200);
    assert_eq!(receiver.wait_for(11).await[10].event_id(), "last");
    let source = server.wait_for("/api/v1/sources", |sources| sources[0]["rejected"] == 3).await;
    assert_eq!((&source[0]["accepted"], &source[0]["duplicates"]), (&json!(11), &json!(0)), "{source}");
    assert!(server.log.text().contains("another number ahead"), "{}", server.log.text());
    server.stop().await;
    assert_eq!(client.ready("ahead").await, 0);
}

#[tokio::test]
async fn a_server_or_a_queue_that_is_away_is_told_and_found_when_it_comes() {
    let (mut rabbit, folder) = (RabbitServer::stopped(""), tempfile::tempdir().unwrap());
    let (server, receiver) = serve(&source_at(&rabbit.url(), "classic"), folder.path()).await;
    fails_with(&server, &format!("cannot connect to {}: Connection refused", rabbit.url())).await;
    rabbit.run_again().await;
    fails_with(&server, "cannot read the queue classic: NOT_FOUND - no queue 'classic' in vhost '/'").await;
    let mut orders = Orders { server: rabbit, queue: "classic" }.with("classic", &[]).await;
    become_state(&server, "running").await;
    orders.send(&["o-1".to_owned()]).await;
    receiver.wait_for(1).await;
    orders.empty().await;

    // The queue is deleted under the consumer, and made again.
    orders.server.client().await.delete_queue("classic").await;
    fails_with(&server, "").await;
    server.get("/readyz?sources").await.expect(503);
    server.get("/readyz").await.expect(200);
    let mut orders = orders.with("classic", &[]).await;
    become_state(&server, "running").await;
    // Somebody ends the connections.
    orders.server.control("close_all_connections bye").await;
    fails_with(&server, "bye").await;
    become_state(&server, "running").await;
    // A message that is published again is a duplicate, and the id of another is taken.
    orders.send(&["o-1".to_owned(), "o-2".to_owned()]).await;
    receiver.wait_for(2).await;
    orders.server.client().await.publish("classic", Some("o-1"), r#"{"other": 1}"#).await;
    let source = server.wait_for("/api/v1/sources", |sources| sources[0]["rejected"] == 1).await;
    assert_eq!((&source[0]["accepted"], &source[0]["duplicates"]), (&json!(2), &json!(1)), "{source}");
    orders.server.kill();
    fails_with(&server, "").await;
    server.stop().await;
}

#[tokio::test]
async fn exchanges_headers_and_bodies_become_what_templates_say_and_servers_share_a_queue() {
    let (orders, folder) = (Orders::start().await, tempfile::tempdir().unwrap());
    let client = orders.server.client().await;
    let declare = ExchangeDeclareOptions::default();
    client
        .channel
        .exchange_declare("shop".into(), lapin::ExchangeKind::Topic, declare, FieldTable::default())
        .await
        .unwrap();
    let (queue, exchange) = ("classic".into(), "shop".into());
    client
        .channel
        .queue_bind(queue, exchange, "#".into(), QueueBindOptions::default(), FieldTable::default())
        .await
        .unwrap();
    let mapping = "topic = 'orders.{header.shop}.{routing_key}'\ntype = '{type}'\nid = '{exchange}-{header.number}'\n\
                   body = 'text'\nprefetch = 10";
    let text = format!("kind = 'rabbitmq'\nurl = '{}'\nqueue = 'classic'\n{mapping}", orders.server.url());
    let (one, first) = serve(&text, folder.path()).await;
    become_state(&one, "running").await;
    let properties = |number: i32| {
        let mut headers = FieldTable::default();
        headers.insert("shop".into(), AMQPValue::LongString("north west".into()));
        headers.insert("number".into(), AMQPValue::LongInt(number));
        BasicProperties::default().with_type("made".into()).with_headers(headers)
    };
    client.publish("classic", None, "no headers, so it is rejected").await;
    client.publish_with("shop", "made", properties(17), b"17 \"boxes\"").await;
    let event: Value = serde_json::from_slice(&first.wait_for(1).await[0].body).unwrap();
    assert_eq!(
        (&event["id"], &event["topic"], &event["type"], &event["payload"]),
        (&json!("shop-17"), &json!("orders.north_west.made"), &json!("made"), &json!("17 \"boxes\""))
    );
    one.wait_for("/api/v1/sources", |sources| sources[0]["rejected"] == 1).await;

    let other_folder = tempfile::tempdir().unwrap();
    let (other, second) = serve(&text, other_folder.path()).await;
    become_state(&other, "running").await;
    for number in 100..300 {
        client.publish_with("shop", "made", properties(number), b"x").await;
    }
    while first.received_count() + second.received_count() < 201 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(first.received_count() > 20 && second.received_count() > 20, "{}", first.received_count());
    one.stop().await;
    other.stop().await;
    let ids: std::collections::BTreeSet<String> =
        first.received().iter().chain(&second.received()).map(Received::event_id).collect();
    assert_eq!(ids.len(), 201, "each message went to one of them");
    assert_eq!(client.ready("classic").await, 0);

    let (server, receiver, _folder) = documented(&orders.server.url()).await;
    fails_with(&server, "no queue 'orders'").await;
    client.queue("orders", &[]).await;
    client.publish("orders", Some("o-1"), r#"{"total": 1.50}"#).await;
    let event: Value = serde_json::from_slice(&receiver.wait_for(1).await[0].body).unwrap();
    assert_eq!((&event["id"], &event["topic"]), (&json!("o-1"), &json!("orders")));
    server.stop().await;
}
