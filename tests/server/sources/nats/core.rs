//! Subjects without JetStream: each message is sent once, and nobody acknowledges it.

use async_nats::{Client, StatusCode};
use futures_util::StreamExt as _;

use super::*;

/// A server without streams.
struct Subjects {
    server: NatsServer,
}

fn source_of(server: &NatsServer) -> String {
    format!("kind = 'nats'\nservers = '{}'\nsubjects = ['orders.>']", server.url())
}

fn headers(id: Option<&str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(id) = id {
        headers.insert("Nats-Msg-Id", id);
    }
    headers
}

/// Sends a message until somebody listens: the server says if nobody does, in front of what is sent to oneself afterwards.
async fn send_heard(client: &Client, id: Option<&str>, body: &str) {
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await.unwrap();
    loop {
        client
            .publish_with_reply_and_headers("orders.made", inbox.clone(), headers(id), body.to_owned().into())
            .await
            .unwrap();
        client.publish(inbox.clone(), "end".into()).await.unwrap();
        let first = answers.next().await.unwrap();
        if first.status != Some(StatusCode::NO_RESPONDERS) {
            return;
        }
        answers.next().await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[async_trait]
impl Origin for Subjects {
    fn source(&self) -> String {
        source_of(&self.server)
    }

    async fn send(&mut self, ids: &[String]) {
        let client = self.server.client().await;
        let body = |id: &String| json!({ "id": id }).to_string();
        send_heard(&client, Some(&ids[0]), &body(&ids[0])).await;
        for id in &ids[1..] {
            client.publish_with_headers("orders.made", headers(Some(id)), body(id).into()).await.unwrap();
        }
        client.flush().await.unwrap();
    }

    async fn send_poison(&mut self) {
        send_heard(&self.server.client().await, None, "{").await;
    }

    async fn kept(&mut self) -> usize {
        0
    }

    async fn stop(&mut self) {
        self.server.kill();
    }

    async fn start(&mut self) {
        self.server.run_again().await;
    }
}

#[tokio::test]
async fn messages_are_delivered() {
    conformance::messages_are_delivered_and_acknowledged(&mut Subjects { server: NatsServer::start().await }).await;
}

#[tokio::test]
async fn poison_blocks_nothing() {
    conformance::poison_blocks_nothing(&mut Subjects { server: NatsServer::start().await }).await;
}

#[tokio::test]
async fn what_was_read_waits_in_memory_while_a_tenant_is_full() {
    let (nats, folder) = (NatsServer::start().await, tempfile::tempdir().unwrap());
    let (server, receiver) = serve(&source_of(&nats), folder.path()).await;
    let quota = |bytes: u64| json!({"quotas": {"max_stored_bytes": bytes}}).to_string();
    server.call("PATCH", "/api/v1/tenants/default", &server.admin, &quota(4_000)).await.expect(200);
    let client = nats.client().await;
    for number in 0..100 {
        send_heard(&client, Some(&format!("o-{number}")), "{}").await;
    }
    // There is room for some of the messages.
    // Messages under way that are accepted are in both counts.
    let is_read = |sources: &Value| {
        let count = |name: &str| sources[0][name].as_u64().unwrap();
        sources[0]["state"] == "waiting" && count("queued") >= 60 && count("accepted") + count("queued") >= 100
    };
    server.wait_for("/api/v1/sources", is_read).await;
    server.call("PATCH", "/api/v1/tenants/default", &server.admin, &quota(1 << 30)).await.expect(200);
    receiver.wait_for(100).await;
    let source = server.wait_for("/api/v1/sources", |sources| sources[0]["queued"] == 0).await;
    assert_eq!((&source[0]["accepted"], &source[0]["lost"]), (&json!(100), &json!(0)), "{source}");
    server.stop().await;
}

#[tokio::test]
async fn a_server_that_restarts_is_found_again() {
    let (mut nats, folder) = (NatsServer::start().await, tempfile::tempdir().unwrap());
    let (server, receiver) = serve(&source_of(&nats), folder.path()).await;
    send_heard(&nats.client().await, Some("o-1"), "{}").await;
    receiver.wait_for(1).await;
    nats.kill();
    fails_with(&server, "").await;
    nats.run_again().await;
    send_heard(&nats.client().await, Some("o-2"), "{}").await;
    assert_eq!(receiver.wait_for(2).await[1].event_id(), "o-2");
    server.stop().await;
}

#[tokio::test]
async fn servers_of_a_queue_group_share_the_messages() {
    let (nats, one_folder, other_folder) =
        (NatsServer::start().await, tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let text = format!("{}\nqueue_group = 'postrider'", source_of(&nats));
    let (one, first) = serve(&text, one_folder.path()).await;
    let (other, second) = serve(&text, other_folder.path()).await;
    for server in [&one, &other] {
        become_state(server, "running").await;
    }
    let client = nats.client().await;
    for number in 0..200 {
        send_heard(&client, Some(&format!("o-{number}")), "{}").await;
    }
    while first.received_count() + second.received_count() < 200 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(first.received_count() > 20 && second.received_count() > 20, "{}", first.received_count());
    one.stop().await;
    other.stop().await;
    assert_eq!(first.received_count() + second.received_count(), 200, "each message went to one of them");
}

#[tokio::test]
async fn headers_subjects_and_bodies_become_what_templates_say() {
    let (nats, folder) = (NatsServer::start().await, tempfile::tempdir().unwrap());
    let mapping =
        "topic = 'orders.{header.Shop}.{subject}'\ntype = '{header.ce-type}'\nid = '{header.ce-id}'\nbody = 'text'";
    let (server, receiver) = serve(&format!("{}\n{mapping}", source_of(&nats)), folder.path()).await;
    become_state(&server, "running").await;
    let client = nats.client().await;
    send_heard(&client, None, "no headers, so it is rejected").await;
    let mut headers = HeaderMap::new();
    for (name, value) in [("Shop", "north west"), ("ce-type", "made"), ("ce-id", "17")] {
        headers.insert(name, value);
    }
    client.publish_with_headers("orders.made", headers, "17 \"boxes\"".into()).await.unwrap();
    let got = receiver.wait_for(1).await;
    let event: Value = serde_json::from_slice(&got[0].body).unwrap();
    assert_eq!(
        (&event["id"], &event["topic"], &event["type"], &event["payload"]),
        (&json!("17"), &json!("orders.north_west.orders.made"), &json!("made"), &json!("17 \"boxes\""))
    );
    let is_there = |rejected: &Value| !rejected["items"][0].is_null();
    let rejected = server.wait_for("/api/v1/sources/shop/rejected", is_there).await;
    assert_eq!(rejected["items"][0]["reason"], "topic: header.Shop is missing");
    server.stop().await;
}
