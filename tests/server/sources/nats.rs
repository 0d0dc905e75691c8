//! Subjects and streams of a real NATS server.

mod core;
mod faults;
mod login;
mod unreadable;

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::stream::Config as StreamConfig;
use async_nats::jetstream::{self, Context};
use async_trait::async_trait;
use postrider::serve::ServeSettings;
use postrider::sources::settings::{Surroundings, validate};
use serde_json::{Value, json};

use super::conformance::{self, Origin};
use super::served::{become_state, fails_with, serve};
use crate::support::nats_server::NatsServer;
use crate::support::receiver::TestReceiver;
use crate::support::server::{self, TestServer};

/// The shortest time for which servers know the ids of messages.
const DUPLICATE_WINDOW: Duration = Duration::from_millis(100);

/// A server with the stream `ORDERS`.
struct Orders {
    server: NatsServer,
}

impl Orders {
    async fn start() -> Self {
        let orders = Self { server: NatsServer::start().await };
        orders.make().await;
        orders
    }

    async fn make(&self) {
        let config = StreamConfig {
            name: "ORDERS".to_owned(),
            subjects: vec!["orders.>".to_owned()],
            duplicate_window: DUPLICATE_WINDOW,
            max_message_size: -1,
            ..StreamConfig::default()
        };
        self.server.jetstream().await.create_stream(config).await.unwrap();
    }

    fn source(&self) -> String {
        format!("kind = 'nats-jetstream'\nservers = '{}'\nstream = 'ORDERS'\nconsumer = 'postrider'", self.server.url())
    }

    /// A server with the stream as its source, and a receiver of all that is made.
    async fn server(&self, folder: &std::path::Path) -> (TestServer, TestReceiver) {
        serve(&self.source(), folder).await
    }
}

/// Older servers do not tell of each end of a consumer: it is silent then.
async fn fails_without_consumer(server: &TestServer) {
    let is_told = |source: &Value| {
        let reason = source["reason"].as_str().unwrap_or_default();
        ["Consumer Deleted", "the consumer does not answer", "no such consumer"]
            .iter()
            .any(|words| reason.contains(words))
    };
    server.wait_for("/api/v1/sources", |sources| is_told(&sources[0])).await;
}

/// Stores a message under an id. Waits until the server has forgotten an earlier one with it.
async fn publish(context: &Context, subject: &str, id: Option<&str>, body: impl Into<bytes::Bytes>) {
    let (body, mut headers) = (body.into(), HeaderMap::new());
    if let Some(id) = id {
        headers.insert("Nats-Msg-Id", id);
    }
    loop {
        let sent = context.publish_with_headers(subject.to_owned(), headers.clone(), body.clone()).await.unwrap();
        if !sent.await.unwrap().duplicate {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// How many messages of the stream the consumer has not seen acknowledged.
async fn unacknowledged(context: &Context) -> usize {
    let info = context
        .get_consumer_from_stream::<jetstream::consumer::pull::Config, _, _>("postrider", "ORDERS")
        .await
        .map(|consumer| consumer.cached_info().clone());
    match info {
        Ok(info) => usize::try_from(info.num_pending).unwrap() + info.num_ack_pending,
        // It is not made yet.
        Err(_) => usize::MAX,
    }
}

#[async_trait]
impl Origin for Orders {
    fn source(&self) -> String {
        self.source()
    }

    async fn send(&mut self, ids: &[String]) {
        let context = self.server.jetstream().await;
        for id in ids {
            publish(&context, "orders.made", Some(id), json!({ "id": id }).to_string()).await;
        }
    }

    async fn send_poison(&mut self) {
        publish(&self.server.jetstream().await, "orders.made", None, "{").await;
    }

    async fn kept(&mut self) -> usize {
        unacknowledged(&self.server.jetstream().await).await
    }

    async fn stop(&mut self) {
        self.server.kill();
    }

    async fn start(&mut self) {
        self.server.run_again().await;
    }
}

#[tokio::test]
async fn messages_are_delivered_and_acknowledged() {
    conformance::messages_are_delivered_and_acknowledged(&mut Orders::start().await).await;
}

#[tokio::test]
async fn poison_blocks_nothing() {
    conformance::poison_blocks_nothing(&mut Orders::start().await).await;
}

#[tokio::test]
async fn a_full_tenant_holds_messages_back() {
    conformance::a_full_tenant_holds_messages_back(&mut Orders::start().await).await;
}

#[tokio::test]
async fn nothing_is_lost_by_kills_and_restarts() {
    conformance::nothing_is_lost_by_kills_and_restarts(&mut Orders::start().await).await;
}

#[tokio::test]
async fn a_backlog_is_read_on_one_connection() {
    const BACKLOG: usize = 1_000;
    let (orders, folder) = (Orders::start().await, tempfile::tempdir().unwrap());
    let context = orders.server.jetstream().await;
    for n in 0..BACKLOG {
        context.publish("orders.made", n.to_string().into()).await.unwrap().await.unwrap();
    }
    let (server, _receiver) = orders.server(folder.path()).await;
    server.wait_for("/api/v1/sources", |sources| sources[0]["accepted"] == BACKLOG).await;
    while unacknowledged(&context).await != 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let log = server.log.text();
    assert_eq!(log.matches("reads from NATS").count(), 1, "{log}");
    assert!(!log.contains("the source failed"), "{log}");
    server.stop().await;
}

#[tokio::test]
async fn the_documents_example_reads_a_stream() {
    let (orders, folder) = (Orders::start().await, tempfile::tempdir().unwrap());
    let docs = include_str!("../../../docs/sources.md");
    let (_, section) = docs.split_once("\n## NATS\n").unwrap();
    let blocks: Vec<&str> = section.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    let table = |block: &str| -> toml::Table {
        let text = block.replace("[[source]]\n", "").replace("nats://nats.internal:4222", &orders.server.url());
        toml::from_str(&text).unwrap()
    };
    let tables: Vec<toml::Table> = blocks[..2].iter().map(|block| table(block)).collect();
    let sources = validate(&tables, &Surroundings::default()).unwrap();
    let server = TestServer::start_with(ServeSettings { sources, ..server::settings(folder.path()) }).await;
    let receiver = TestReceiver::healthy().await;
    server.webhook("w", &receiver.url("/"), ">").await;
    server
        .wait_for("/api/v1/sources", |sources| {
            sources.as_array().unwrap().iter().all(|source| source["state"] == "running")
        })
        .await;
    let context = orders.server.jetstream().await;
    publish(&context, "orders.made", None, r#"{"total": 1.50}"#).await;
    let client = orders.server.client().await;
    client.publish("alerts.disk", "\"full\"".into()).await.unwrap();
    client.flush().await.unwrap();
    let mut topics: Vec<String> = receiver
        .wait_for(2)
        .await
        .iter()
        .map(|request| serde_json::from_slice::<Value>(&request.body).unwrap()["topic"].as_str().unwrap().to_owned())
        .collect();
    topics.sort();
    assert_eq!(topics, ["alerts.disk", "orders.made"]);
    server.stop().await;
}
