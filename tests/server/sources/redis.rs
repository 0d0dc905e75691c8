//! Streams of a real Redis server.

mod faults;
mod login;

use std::time::Duration;

use async_trait::async_trait;
use postrider::serve::ServeSettings;
use postrider::sources::settings::{Surroundings, validate};
use redis::aio::MultiplexedConnection;
use serde_json::{Value, json};

use super::conformance::{self, Origin};
use super::served::{become_state, fails_with, serve};
use crate::support::receiver::TestReceiver;
use crate::support::redis_server::RedisServer;
use crate::support::server::{self, TestServer};

const STREAM: &str = "orders.made";

/// A server with the stream `orders.made`.
struct Orders {
    server: RedisServer,
}

/// The table of a source of the stream.
fn source_at(url: &str) -> String {
    format!("kind = 'redis'\nurl = '{url}'\nstream = '{STREAM}'\ngroup = 'postrider'\nid = '{{field.id}}'")
}

/// Adds an entry. Returns its id.
async fn add(client: &mut MultiplexedConnection, fields: &[(&str, &[u8])]) -> String {
    redis::cmd("XADD").arg(STREAM).arg("*").arg(fields).query_async(client).await.unwrap()
}

async fn add_order(client: &mut MultiplexedConnection, id: &str, payload: impl AsRef<[u8]>) -> String {
    add(client, &[("id", id.as_bytes()), ("payload", payload.as_ref())]).await
}

/// A command that succeeds.
async fn command(client: &mut MultiplexedConnection, words: &str) -> redis::Value {
    let mut words = words.split_whitespace();
    let mut command = redis::cmd(words.next().unwrap());
    for word in words {
        command.arg(word);
    }
    command.query_async(client).await.unwrap()
}

/// How many entries are not acknowledged, among them those that the group has not got.
async fn unacknowledged(client: &mut MultiplexedConnection) -> usize {
    let groups: redis::RedisResult<Vec<std::collections::HashMap<String, redis::Value>>> =
        redis::cmd("XINFO").arg("GROUPS").arg(STREAM).query_async(client).await;
    let group = groups.ok().and_then(|mut groups| groups.pop());
    let count = |name: &str| match group.as_ref().map(|group| &group[name]) {
        Some(redis::Value::Int(count)) => usize::try_from(*count).unwrap(),
        // There is no group yet.
        _ => usize::MAX / 2,
    };
    count("pending") + count("lag")
}

async fn empty(client: &mut MultiplexedConnection) {
    while unacknowledged(client).await != 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl Orders {
    async fn start() -> Self {
        Self { server: RedisServer::start().await }
    }

    async fn server(&self, folder: &std::path::Path) -> (TestServer, TestReceiver) {
        serve(&source_at(&self.server.url()), folder).await
    }
}

#[async_trait]
impl Origin for Orders {
    fn source(&self) -> String {
        source_at(&self.server.url())
    }

    async fn send(&mut self, ids: &[String]) {
        let mut client = self.server.client().await;
        for id in ids {
            add_order(&mut client, id, json!({ "id": id }).to_string()).await;
        }
    }

    async fn send_poison(&mut self) {
        add(&mut self.server.client().await, &[("payload", b"{")]).await;
    }

    async fn kept(&mut self) -> usize {
        unacknowledged(&mut self.server.client().await).await
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
async fn the_documents_example_reads_a_stream() {
    let (redis, folder) = (RedisServer::start().await, tempfile::tempdir().unwrap());
    let docs = include_str!("../../../docs/sources.md");
    let (_, section) = docs.split_once("\n## Redis Streams\n").unwrap();
    let block = section.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let text = block.replace("[[source]]\n", "").replace("redis://redis.internal:6379", &redis.url());
    let sources = validate(&[toml::from_str(&text).unwrap()], &Surroundings::default()).unwrap();
    let server = TestServer::start_with(ServeSettings { sources, ..server::settings(folder.path()) }).await;
    let receiver = TestReceiver::healthy().await;
    server.webhook("w", &receiver.url("/"), ">").await;
    become_state(&server, "running").await;
    let (_, commands) = section.split_once("redis-cli XADD ").unwrap();
    let line = commands.lines().next().unwrap();
    let (fields, payload) = line.split_once(" payload ").unwrap();
    let mut words = fields.split(' ').map(|word| word.trim_matches('\''));
    let mut command = redis::cmd("XADD");
    command.arg(words.next()).arg(words.collect::<Vec<_>>()).arg("payload").arg(payload.trim_matches('\''));
    let id: String = command.query_async(&mut redis.client().await).await.unwrap();
    let event: Value = serde_json::from_slice(&receiver.wait_for(1).await[0].body).unwrap();
    assert_eq!((&event["id"], &event["topic"]), (&json!(format!("orders:orders-{id}")), &json!("orders")), "{event}");
    assert_eq!(event["payload"], json!({"order": 4711, "total": 99.5}));
    server.stop().await;
}

#[tokio::test]
async fn fields_and_whole_entries_become_what_templates_say() {
    let (orders, folder) = (Orders::start().await, tempfile::tempdir().unwrap());
    let text = format!(
        "kind = 'redis'\nurl = '{}'\nstream = '{STREAM}'\ngroup = 'g'\nfield = '*'\ntopic = 'orders.{{field.shop}}'\n\
         type = '{{field.kind}}'",
        orders.server.url()
    );
    let (server, receiver) = serve(&text, folder.path()).await;
    let mut client = orders.server.client().await;
    let id = add(&mut client, &[("shop", b"north west"), ("kind", b"made"), ("total", b"17")]).await;
    let event: Value = serde_json::from_slice(&receiver.wait_for(1).await[0].body).unwrap();
    assert_eq!(
        (&event["id"], &event["topic"], &event["type"], &event["payload"]),
        (
            &json!(format!("shop:{STREAM}-{id}")),
            &json!("orders.north_west"),
            &json!("made"),
            &json!({"kind": "made", "shop": "north west", "total": "17"})
        )
    );
    server.stop().await;
}
