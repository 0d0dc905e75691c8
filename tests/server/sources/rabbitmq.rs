//! Queues of a real RabbitMQ server. It takes seconds to start, so that each test tells several stories.

mod faults;
mod login;
mod raw;
mod unreadable;

use std::time::Duration;

use async_trait::async_trait;
use lapin::types::AMQPValue;
use postrider::serve::ServeSettings;
use postrider::sources::settings::{Surroundings, validate};
use serde_json::{Value, json};

use super::conformance::{self, Origin};
use super::served::{become_state, fails_with, serve};
use crate::support::rabbitmq_server::{Client, RabbitServer};
use crate::support::receiver::TestReceiver;
use crate::support::server::{self, TestServer};

/// A server with a queue, whose name is the topic of its messages.
struct Orders {
    server: RabbitServer,
    queue: &'static str,
}

/// The table of a source.
fn source_at(url: &str, queue: &str) -> String {
    format!("kind = 'rabbitmq'\nurl = '{url}'\nqueue = '{queue}'\ntopic = 'orders.made'")
}

/// What makes a queue one that is kept on several nodes.
fn quorum() -> (&'static str, AMQPValue) {
    ("x-queue-type", AMQPValue::LongString("quorum".into()))
}

impl Orders {
    async fn start() -> Self {
        let orders = Self { server: RabbitServer::start().await, queue: "" };
        orders.with("classic", &[]).await
    }

    /// With another, new queue.
    async fn with(self, queue: &'static str, arguments: &[(&str, AMQPValue)]) -> Self {
        self.server.client().await.queue(queue, arguments).await;
        Self { queue, ..self }
    }

    /// Waits until all messages of a queue are acknowledged.
    async fn empty(&mut self) {
        while self.kept().await > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[async_trait]
impl Origin for Orders {
    fn source(&self) -> String {
        source_at(&self.server.url(), self.queue)
    }

    async fn send(&mut self, ids: &[String]) {
        let client = self.server.client().await;
        for id in ids {
            client.publish(self.queue, Some(id), json!({ "id": id }).to_string()).await;
        }
    }

    async fn send_poison(&mut self) {
        self.server.client().await.publish(self.queue, None, "{").await;
    }

    async fn kept(&mut self) -> usize {
        let ready = self.server.client().await.ready(self.queue).await;
        if ready > 0 && self.queue != "full" {
            return ready as usize;
        }
        // Those that a consumer has, too.
        let listed = self.server.control("list_queues --no-table-headers name messages").await;
        let mut counts = listed.lines().filter_map(|line| line.split_once('\t'));
        counts.find(|(name, _)| *name == self.queue).unwrap().1.trim().parse().unwrap()
    }

    async fn stop(&mut self) {
        self.server.kill();
    }

    async fn start(&mut self) {
        self.server.run_again().await;
    }
}

#[tokio::test]
async fn messages_are_delivered_and_poison_and_full_tenants_hold_nothing_up() {
    let mut orders = Orders::start().await;
    conformance::messages_are_delivered_and_acknowledged(&mut orders).await;
    let mut orders = orders.with("poison", &[]).await;
    conformance::poison_blocks_nothing(&mut orders).await;
    let mut orders = orders.with("full", &[]).await;
    conformance::a_full_tenant_holds_messages_back(&mut orders).await;
}

#[tokio::test]
async fn nothing_of_a_classic_queue_is_lost_by_kills_and_restarts() {
    conformance::nothing_is_lost_by_kills_and_restarts(&mut Orders::start().await).await;
}

#[tokio::test]
async fn nothing_of_a_quorum_queue_is_lost_by_kills_and_restarts() {
    let mut orders = Orders::start().await.with("quorum", &[quorum()]).await;
    conformance::nothing_is_lost_by_kills_and_restarts(&mut orders).await;
}

/// The example of the documents, at a server.
async fn documented(url: &str) -> (TestServer, TestReceiver, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let docs = include_str!("../../../docs/sources.md");
    let (_, section) = docs.split_once("\n## RabbitMQ\n").unwrap();
    let block = section.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let text = block.replace("[[source]]\n", "").replace("amqp://rabbitmq.internal:5672", url);
    let variables = [("RABBITMQ_PASSWORD".to_owned(), "guest".to_owned())].into();
    let text = text.replace("user = \"postrider\"", "user = \"guest\"");
    let surroundings = Surroundings { variables, ..Surroundings::default() };
    let sources = validate(&[toml::from_str(&text).unwrap()], &surroundings).unwrap();
    let server = TestServer::start_with(ServeSettings { sources, ..server::settings(folder.path()) }).await;
    let receiver = TestReceiver::healthy().await;
    server.webhook("w", &receiver.url("/"), ">").await;
    (server, receiver, folder)
}
