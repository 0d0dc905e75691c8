//! What goes wrong with streams.

use super::*;
use crate::support::receiver::Received;

#[tokio::test]
async fn what_can_be_no_event_is_set_aside_wherever_it_stands() {
    let (orders, folder) = (Orders::start().await, tempfile::tempdir().unwrap());
    let context = orders.server.jetstream().await;
    // At the head, before there is a consumer.
    publish(&context, "orders.made", Some("bad"), "no JSON").await;
    publish(&context, "orders.made", Some("large"), format!("\"{}\"", "x".repeat(5 << 20))).await;
    publish(&context, "orders.made", Some("b ad"), "{}").await;
    // As large as may be, and more of them than are accepted together.
    for number in 0..8 {
        let body = format!("\"{}\"", "y".repeat(1_000_000));
        publish(&context, "orders.made", Some(&format!("mb-{number}")), body).await;
    }
    publish(&context, "orders.made", Some("last"), "{}").await;
    let (server, _receiver) = orders.server(folder.path()).await;
    server.wait_for("/api/v1/sources", |sources| sources[0]["accepted"] == 9).await;
    let newest = server.get("/api/v1/events?limit=1").await.expect(200);
    assert_eq!(newest["items"][0]["id"], "last", "{newest}");
    let listed =
        server.wait_for("/api/v1/sources/shop/rejected", |listed| listed["items"].as_array().unwrap().len() == 3).await;
    let mut reasons: Vec<&str> =
        listed["items"].as_array().unwrap().iter().map(|message| message["reason"].as_str().unwrap()).collect();
    reasons.sort_unstable();
    assert!(reasons[0].starts_with("id: must be visible ASCII"), "{reasons:?}");
    assert!(reasons[1].starts_with("invalid JSON at byte"), "{reasons:?}");
    assert_eq!(reasons[2], "the event is 5242882 bytes long, the limit is 1048576");
    while unacknowledged(&context).await != 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn a_message_that_is_published_again_is_a_duplicate() {
    let (orders, folder) = (Orders::start().await, tempfile::tempdir().unwrap());
    let (server, receiver) = orders.server(folder.path()).await;
    let context = orders.server.jetstream().await;
    publish(&context, "orders.made", Some("o-1"), "{}").await;
    receiver.wait_for(1).await;
    // The server has forgotten the id by then, and stores the message again.
    publish(&context, "orders.made", Some("o-1"), "{}").await;
    server.wait_for("/api/v1/sources", |sources| sources[0]["duplicates"] == 1).await;
    // Another event with the same id can never be accepted.
    publish(&context, "orders.made", Some("o-1"), "{\"other\": 1}").await;
    server.wait_for("/api/v1/sources", |sources| sources[0]["rejected"] == 1).await;
    // Without an id of the publisher it is the place in the stream.
    publish(&context, "orders.made", None, "{}").await;
    assert_eq!(receiver.wait_for(2).await[1].event_id(), "shop:ORDERS-4");
    server.stop().await;
}

#[tokio::test]
async fn a_consumer_or_a_stream_that_is_deleted_is_told_and_made_again() {
    let (orders, folder) = (Orders::start().await, tempfile::tempdir().unwrap());
    let (server, receiver) = orders.server(folder.path()).await;
    let context = orders.server.jetstream().await;
    publish(&context, "orders.made", Some("o-1"), "{}").await;
    receiver.wait_for(1).await;
    context.delete_consumer_from_stream("postrider", "ORDERS").await.unwrap();
    fails_without_consumer(&server).await;
    // The new consumer begins at the head. What it brings again is a duplicate.
    publish(&context, "orders.made", Some("o-2"), "{}").await;
    assert_eq!(receiver.wait_for(2).await[1].event_id(), "o-2");
    server.wait_for("/api/v1/sources", |sources| sources[0]["duplicates"] == 1).await;

    context.delete_stream("ORDERS").await.unwrap();
    fails_with(&server, "stream not found").await;
    let (status, ready) = (server.get("/readyz?sources").await, server.get("/readyz").await);
    status.expect(503);
    ready.expect(200);
    orders.make().await;
    publish(&context, "orders.made", Some("o-3"), "{}").await;
    assert_eq!(receiver.wait_for(3).await[2].event_id(), "o-3");
    become_state(&server, "running").await;
    server.stop().await;
}

#[tokio::test]
async fn a_server_that_is_away_is_told_and_found_when_it_comes() {
    let (mut nats, folder) = (NatsServer::stopped(), tempfile::tempdir().unwrap());
    let text =
        format!("kind = 'nats-jetstream'\nservers = ['{}']\nstream = 'ORDERS'\nconsumer = 'postrider'", nats.url());
    let (server, receiver) = serve(&text, folder.path()).await;
    fails_with(&server, &format!("cannot connect to {}: Connection refused", nats.url())).await;
    nats.run_again().await;
    fails_with(&server, "stream not found").await;
    let mut orders = Orders { server: nats };
    orders.make().await;
    become_state(&server, "running").await;
    orders.server.kill();
    fails_with(&server, "").await;
    orders.server.run_again().await;
    publish(&orders.server.jetstream().await, "orders.made", Some("o-1"), "{}").await;
    assert_eq!(receiver.wait_for(1).await[0].event_id(), "o-1");
    server.stop().await;
}

#[tokio::test]
async fn a_message_that_waits_for_a_full_tenant_is_not_sent_again() {
    let (orders, folder) = (Orders::start().await, tempfile::tempdir().unwrap());
    let context = orders.server.jetstream().await;
    let ack_wait = Duration::from_millis(600);
    let config = jetstream::consumer::pull::Config {
        durable_name: Some("postrider".to_owned()),
        ack_wait,
        ..Default::default()
    };
    let consumer = context.create_consumer_on_stream(config, "ORDERS").await.unwrap();
    let (server, receiver) = orders.server(folder.path()).await;
    let quota = |bytes: u64| json!({"quotas": {"max_stored_bytes": bytes}}).to_string();
    server.call("PATCH", "/api/v1/tenants/default", &server.admin, &quota(4_000)).await.expect(200);
    for number in 0..100 {
        publish(&context, "orders.made", Some(&format!("o-{number}")), "{}").await;
    }
    become_state(&server, "waiting").await;
    let until = tokio::time::Instant::now() + 4 * ack_wait;
    while tokio::time::Instant::now() < until {
        let info = consumer.get_info().await.unwrap();
        assert!(info.num_redelivered == 0 && info.num_ack_pending > 0, "{info:?}");
        tokio::time::sleep(ack_wait / 10).await;
    }
    server.call("PATCH", "/api/v1/tenants/default", &server.admin, &quota(1 << 30)).await.expect(200);
    receiver.wait_for(100).await;
    let source = become_state(&server, "running").await;
    assert_eq!((&source["accepted"], &source["duplicates"]), (&json!(100), &json!(0)), "{source}");
    server.stop().await;
}

#[tokio::test]
async fn a_consumer_that_is_there_is_used_as_it_is_or_refused_with_the_reason() {
    let (orders, folder) = (Orders::start().await, tempfile::tempdir().unwrap());
    let context = orders.server.jetstream().await;
    let config = |filter: &str, ack_policy| jetstream::consumer::pull::Config {
        durable_name: Some("postrider".to_owned()),
        filter_subject: filter.to_owned(),
        ack_policy,
        ..Default::default()
    };
    let made = jetstream::consumer::AckPolicy::Explicit;
    context.create_consumer_on_stream(config("orders.made", made), "ORDERS").await.unwrap();
    let text = format!("{}\nfilter_subjects = ['orders.*']", orders.source());
    let (server, receiver) = serve(&text, folder.path()).await;
    fails_with(&server, "it exists, with the filter subjects [\"orders.made\"]").await;
    context.delete_consumer_from_stream("postrider", "ORDERS").await.unwrap();
    become_state(&server, "running").await;
    publish(&context, "orders.paid", Some("o-1"), "{}").await;
    publish(&context, "orders.paid.twice", Some("o-2"), "{}").await;
    publish(&context, "orders.paid", Some("o-3"), "{}").await;
    let ids: Vec<String> = receiver.wait_for(2).await.iter().map(Received::event_id).collect();
    assert_eq!(ids, ["o-1", "o-3"]);
    context.delete_consumer_from_stream("postrider", "ORDERS").await.unwrap();
    fails_without_consumer(&server).await;
    server.stop().await;

    let none = jetstream::consumer::AckPolicy::None;
    let _ = context.delete_consumer_from_stream("postrider", "ORDERS").await;
    context.create_consumer_on_stream(config("", none), "ORDERS").await.unwrap();
    let other_folder = tempfile::tempdir().unwrap();
    let (server, _receiver) = orders.server(other_folder.path()).await;
    fails_with(&server, "its ack policy must be explicit").await;
    server.stop().await;
}

#[tokio::test]
async fn two_servers_share_a_consumer() {
    let (orders, one_folder, other_folder) =
        (Orders::start().await, tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, first) = orders.server(one_folder.path()).await;
    let (other, second) = orders.server(other_folder.path()).await;
    for server in [&one, &other] {
        become_state(server, "running").await;
    }
    let context = orders.server.jetstream().await;
    for number in 0..200 {
        publish(&context, "orders.made", Some(&format!("o-{number}")), "{}").await;
    }
    while first.received_count() + second.received_count() < 200 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(first.received_count() > 0 && second.received_count() > 0, "{}", first.received_count());
    while unacknowledged(&context).await != 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(first.received_count() + second.received_count(), 200, "each message went to one of them");
    one.stop().await;
    other.stop().await;
}
