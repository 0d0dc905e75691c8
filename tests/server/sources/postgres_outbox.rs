//! An outbox in a real PostgreSQL, made by the statements that the program prints.

use std::process::{Command, Stdio};
use std::time::Duration;

use async_trait::async_trait;
use http::Method;
use postrider::serve::ServeSettings;
use postrider::sources::settings::{Surroundings, validate};
use serde_json::{Value, json};
use tokio_postgres::{Client, NoTls};

use super::conformance::{self, Origin};
use super::source;
use crate::support::postgres_server::{Cluster, Shutdown};
use crate::support::program::Program;
use crate::support::receiver::TestReceiver;
use crate::support::server::{self, TestServer};

const DATABASE: &str = "shop";

/// The database of an application, with an outbox and a role for each side.
struct Shop {
    cluster: Cluster,
}

impl Shop {
    async fn start() -> Self {
        let cluster = Cluster::with_database(DATABASE).await;
        let shop = Self { cluster };
        shop.execute("CREATE ROLE application LOGIN PASSWORD 'a'; CREATE ROLE reader LOGIN PASSWORD 'r'").await;
        shop.execute(&setup(&["--reader", "reader"])).await;
        shop
    }

    async fn execute(&self, statements: &str) {
        self.cluster.execute(DATABASE, statements).await;
    }

    fn url(&self, role: &str) -> String {
        format!("postgres://{role}:{}@127.0.0.1:{}/{DATABASE}", &role[..1], self.cluster.port())
    }

    /// A connection of the application.
    async fn application(&self) -> Client {
        let (client, connection) = tokio_postgres::connect(&self.url("application"), NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    fn source(&self) -> String {
        format!("kind = 'postgres-outbox'\nurl = '{}'", self.url("reader"))
    }

    async fn count(&self) -> usize {
        let client = self.cluster.connect(DATABASE).await;
        let row = client.query_one("SELECT count(*) FROM postrider.outbox", &[]).await.unwrap();
        usize::try_from(row.get::<_, i64>(0)).unwrap()
    }
}

/// What `postrider source setup` prints.
fn setup(arguments: &[&str]) -> String {
    let output =
        Command::new(env!("CARGO_BIN_EXE_postrider")).args(["source", "setup"]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[async_trait]
impl Origin for Shop {
    fn source(&self) -> String {
        self.source()
    }

    async fn send(&mut self, ids: &[String]) {
        let mut client = self.application().await;
        let transaction = client.transaction().await.unwrap();
        for id in ids {
            let payload = json!({ "id": id }).to_string();
            transaction
                .execute("SELECT postrider.publish('orders.made', $1::text::jsonb, id => $2)", &[&payload, &id])
                .await
                .unwrap();
        }
        transaction.commit().await.unwrap();
    }

    async fn send_poison(&mut self) {
        self.application().await.execute("SELECT postrider.publish('not a topic', '{}')", &[]).await.unwrap();
    }

    async fn kept(&mut self) -> usize {
        self.count().await
    }

    async fn stop(&mut self) {
        self.cluster.stop(Shutdown::Immediate);
    }

    async fn start(&mut self) {
        self.cluster.run_again().await;
    }
}

#[tokio::test]
async fn messages_are_delivered_and_acknowledged() {
    conformance::messages_are_delivered_and_acknowledged(&mut Shop::start().await).await;
}

#[tokio::test]
async fn poison_blocks_nothing() {
    conformance::poison_blocks_nothing(&mut Shop::start().await).await;
}

#[tokio::test]
async fn a_full_tenant_holds_messages_back() {
    conformance::a_full_tenant_holds_messages_back(&mut Shop::start().await).await;
}

#[tokio::test]
async fn nothing_is_lost_by_kills_and_restarts() {
    conformance::nothing_is_lost_by_kills_and_restarts(&mut Shop::start().await).await;
}

async fn server_of(shop: &Shop, folder: &std::path::Path) -> TestServer {
    let sources = source(&format!("name = 'shop'\n{}", shop.source()));
    TestServer::start_with(ServeSettings { sources, ..server::settings(folder) }).await
}

#[tokio::test]
async fn what_commits_is_delivered_and_what_is_rolled_back_never_was() {
    let (shop, folder) = (Shop::start().await, tempfile::tempdir().unwrap());
    let receiver = TestReceiver::healthy().await;
    let server = server_of(&shop, folder.path()).await;
    server.webhook("w", &receiver.url("/"), "orders.>").await;
    let (mut early, mut late) = (shop.application().await, shop.application().await);
    // A transaction that began first commits last. Its row has the lower number.
    let publish = "SELECT postrider.publish('orders.made', $1::text::jsonb, 'made', $2)";
    let slow = early.transaction().await.unwrap();
    slow.execute(publish, &[&r#"{"total": 1.50}"#, &"slow"]).await.unwrap();
    let undone = late.transaction().await.unwrap();
    undone.execute(publish, &[&"{}", &"undone"]).await.unwrap();
    undone.rollback().await.unwrap();
    let quick = late.transaction().await.unwrap();
    quick.execute(publish, &[&"{}", &"quick"]).await.unwrap();
    quick.commit().await.unwrap();
    assert_eq!(receiver.wait_for(1).await[0].event_id(), "quick");
    slow.commit().await.unwrap();
    let got = receiver.wait_for(2).await;
    assert_eq!(got[1].event_id(), "slow");
    let body = String::from_utf8_lossy(&got[1].body).into_owned();
    assert!(body.contains(r#""payload":{"total":1.50}"#) && body.contains(r#""type":"made""#), "{body}");
    // An application that writes into the table itself, as the owner may, gets an id.
    shop.execute("INSERT INTO postrider.outbox (topic, payload) VALUES ('orders.made', '{\"b\":1,\"a\":2e3}')").await;
    let got = receiver.wait_for(3).await;
    assert!(String::from_utf8_lossy(&got[2].body).contains(r#""payload":{"a":2e3,"b":1}"#));
    let events = server.get("/api/v1/events").await.expect(200);
    assert_eq!(events["items"].as_array().unwrap().len(), 3, "{events}");
    server.stop().await;
}

/// The first block of a language in a document.
fn block<'a>(document: &'a str, language: &str) -> &'a str {
    let fence = format!("```{language}\n");
    let (_, rest) = document.split_once(&fence).unwrap_or_else(|| panic!("no block of {language}"));
    rest.split("```\n").next().unwrap()
}

#[tokio::test]
async fn the_documents_examples_publish() {
    let (shop, folder) = (Shop::start().await, tempfile::tempdir().unwrap());
    let receiver = TestReceiver::healthy().await;
    let (readme, docs) = (include_str!("../../../README.md"), include_str!("../../../docs/sources.md"));
    let table = block(readme, "toml").replace("[[source]]\n", "");
    let variables = [("SHOP_OUTBOX_URL".to_owned(), shop.url("reader"))].into();
    let surroundings = Surroundings { variables, ..Surroundings::default() };
    let sources = validate(&[toml::from_str(&table).unwrap()], &surroundings).unwrap();
    let server = TestServer::start_with(ServeSettings { sources, ..server::settings(folder.path()) }).await;
    server.webhook("w", &receiver.url("/"), "orders.>").await;
    shop.execute(
        "CREATE TABLE public.orders (id bigint PRIMARY KEY, paid boolean, total numeric);
         GRANT ALL ON public.orders TO application",
    )
    .await;
    let application = shop.application().await;
    application.batch_execute(block(docs, "sql")).await.unwrap();
    application.batch_execute(block(readme, "sql")).await.unwrap();
    let bodies: Vec<String> =
        receiver.wait_for(2).await.iter().map(|request| String::from_utf8_lossy(&request.body).into_owned()).collect();
    assert!(bodies[0].contains(r#""payload":{"order":4711,"total":99.50},"topic":"orders.created""#), "{bodies:?}");
    assert!(bodies[1].contains(r#""payload":{"order":4711},"topic":"orders.paid""#), "{bodies:?}");
    server.stop().await;
}

#[tokio::test]
async fn an_application_may_publish_and_nothing_else() {
    let shop = Shop::start().await;
    let application = shop.application().await;
    application.execute("SELECT postrider.publish('a', '{}')", &[]).await.unwrap();
    for statement in ["SELECT FROM postrider.outbox", "DELETE FROM postrider.outbox", "DROP TABLE postrider.outbox"] {
        let error = application.batch_execute(statement).await.unwrap_err();
        assert!(error.as_db_error().is_some_and(|error| error.code().code() == "42501"), "{statement}: {error}");
    }
    // The statements may run again, as when a version adds something.
    shop.execute(&setup(&["--reader", "reader"])).await;
    assert_eq!(shop.count().await, 1);
}

#[tokio::test]
async fn a_table_that_cannot_be_read_is_said_and_read_later() {
    let (shop, folder) = (Shop::start().await, tempfile::tempdir().unwrap());
    let receiver = TestReceiver::healthy().await;
    let server = server_of(&shop, folder.path()).await;
    server.webhook("w", &receiver.url("/"), "orders.>").await;
    server.wait_for("/api/v1/sources", |sources| sources[0]["state"] == "running").await;
    // Somebody takes the right away while rows come.
    shop.execute("REVOKE SELECT ON postrider.outbox FROM reader").await;
    shop.execute("INSERT INTO postrider.outbox (id, topic) VALUES ('1', 'orders.made')").await;
    let failing = server.wait_for("/api/v1/sources", |sources| sources[0]["state"] == "failing").await;
    let reason = failing[0]["reason"].as_str().unwrap();
    assert!(reason.contains("permission denied for table outbox (42501)"), "{reason}");
    shop.execute("GRANT SELECT ON postrider.outbox TO reader").await;
    receiver.wait_for(1).await;
    // The table is locked, and there is no table.
    let mut locking = shop.cluster.connect(DATABASE).await;
    let lock = locking.transaction().await.unwrap();
    lock.batch_execute("LOCK postrider.outbox IN ACCESS EXCLUSIVE MODE").await.unwrap();
    lock.batch_execute("INSERT INTO postrider.outbox (id, topic) VALUES ('2', 'orders.made')").await.unwrap();
    let failing = server.wait_for("/api/v1/sources", |sources| sources[0]["state"] == "failing").await;
    assert!(failing[0]["reason"].as_str().unwrap().contains("lock timeout"), "{failing}");
    lock.commit().await.unwrap();
    receiver.wait_for(2).await;
    shop.execute("ALTER TABLE postrider.outbox RENAME TO outbox_of_old").await;
    let failing = server.wait_for("/api/v1/sources", |sources| sources[0]["state"] == "failing").await;
    assert!(failing[0]["reason"].as_str().unwrap().contains("\"postrider.outbox\" does not exist"), "{failing}");
    shop.execute("ALTER TABLE postrider.outbox_of_old RENAME TO outbox").await;
    server.wait_for("/api/v1/sources", |sources| sources[0]["state"] == "running").await;
    let log = server.log.text();
    assert!(!log.contains("reader:r@"), "the log has no password");
    server.stop().await;
}

#[tokio::test]
async fn rows_that_can_be_no_event_are_set_aside() {
    let (shop, folder) = (Shop::start().await, tempfile::tempdir().unwrap());
    let receiver = TestReceiver::healthy().await;
    shop.execute(
        "ALTER TABLE postrider.outbox ALTER COLUMN topic DROP NOT NULL, ALTER COLUMN payload DROP NOT NULL,
             ALTER COLUMN id DROP NOT NULL, ALTER COLUMN type DROP NOT NULL;
         INSERT INTO postrider.outbox (id, topic, type, payload) VALUES
             ('no-topic', NULL, '', '{}'),
             ('long-topic', repeat('x', 3000000), '', '{}'),
             ('large', 'orders.made', '', to_json(repeat('x', 2 << 20))),
             ('twice', 'orders.made', '', '{\"a\": 1, \"a\": 2}'),
             (NULL, 'orders.made', NULL, NULL);
         INSERT INTO postrider.outbox (id, topic, payload)
             SELECT 'mb-' || n, 'orders.made', to_json(repeat('y', 1000000)) FROM generate_series(1, 20) AS n",
    )
    .await;
    let server = server_of(&shop, folder.path()).await;
    server.webhook("w", &receiver.url("/"), "orders.>").await;
    let source = server.wait_for("/api/v1/sources", |sources| sources[0]["accepted"] == 21).await;
    assert_eq!(source[0]["rejected"], 4, "{source}");
    let rejected = server.get("/api/v1/sources/shop/rejected").await.expect(200);
    let reasons: Vec<_> = rejected["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| (message["origin_id"].as_str().unwrap(), message["reason"].as_str().unwrap()))
        .collect();
    assert_eq!(reasons[0], ("no-topic", "topic: must not be empty"));
    assert_eq!(reasons[1], ("long-topic", "topic: is 2048 bytes long, the limit is 255"), "the rest of it is not read");
    let kept = rejected["items"][1]["attributes"]["topic"].as_str().unwrap();
    assert_eq!((kept.chars().count(), kept.ends_with('…')), (1_025, true), "the rest of it is not kept");
    assert_eq!(reasons[2], ("large", "the event is 2097154 bytes long, the limit is 1048576"));
    assert!(reasons[3].0 == "twice" && reasons[3].1.starts_with("invalid JSON at byte"), "{rejected}");
    // A row without an id has its number as the id, with the name of the source.
    assert_eq!(server.get("/api/v1/events/shop:outbox-5").await.expect(200)["payload"], Value::Null);
    assert_eq!(shop.count().await, 0);
    // The same bytes again are kept once, and others with that id beside them.
    shop.execute(
        "INSERT INTO postrider.outbox (id, topic, type, payload)
             VALUES ('no-topic', NULL, '', '{}'), ('twice', 'orders.made', '', '{\"b\": 1, \"b\": 2}')",
    )
    .await;
    server.wait_for("/api/v1/sources", |sources| sources[0]["rejected"] == 6).await;
    let rejected = server.get("/api/v1/sources/shop/rejected").await.expect(200);
    let ids: Vec<_> = rejected["items"].as_array().unwrap().iter().map(|message| &message["origin_id"]).collect();
    assert_eq!(ids, ["no-topic", "long-topic", "large", "twice", "twice"]);
    server.stop().await;
}

#[tokio::test]
async fn a_database_whose_texts_may_be_none_is_refused() {
    let (shop, folder) = (Shop::start().await, tempfile::tempdir().unwrap());
    shop.cluster.execute("postgres", "CREATE DATABASE ascii ENCODING SQL_ASCII LOCALE 'C' TEMPLATE template0").await;
    let sources = source(&format!("name = 'a'\nkind = 'postgres-outbox'\nurl = '{}'", shop.cluster.url("ascii")));
    let server = TestServer::start_with(ServeSettings { sources, ..server::settings(folder.path()) }).await;
    let failing = server.wait_for("/api/v1/sources", |sources| sources[0]["state"] == "failing").await;
    assert!(failing[0]["reason"].as_str().unwrap().contains("SQL_ASCII"), "{failing}");
    server.stop().await;
}

#[tokio::test]
async fn rows_that_are_small_on_the_disk_and_large_in_truth_block_nothing() {
    let (shop, folder) = (Shop::start().await, tempfile::tempdir().unwrap());
    let receiver = TestReceiver::healthy().await;
    // Each is small on the disk, and takes its time to be unpacked.
    shop.execute(
        "INSERT INTO postrider.outbox (id, topic, payload)
             SELECT 'large-' || n, 'orders.made', to_json(repeat('x', 20000000)) FROM generate_series(1, 10) AS n;
         INSERT INTO postrider.outbox (id, topic) VALUES ('after', 'orders.made')",
    )
    .await;
    let server = server_of(&shop, folder.path()).await;
    server.webhook("w", &receiver.url("/"), "orders.>").await;
    assert_eq!(receiver.wait_for(1).await[0].event_id(), "after");
    server.wait_for("/api/v1/sources", |sources| sources[0]["rejected"] == 10).await;
    server.stop().await;
}

#[tokio::test]
async fn rows_may_be_marked_and_kept() {
    let (shop, folder) = (Shop::start().await, tempfile::tempdir().unwrap());
    let receiver = TestReceiver::healthy().await;
    std::fs::write(
        folder.path().join("postrider.toml"),
        "[[source]]\nname = 'kept'\nkind = 'postgres-outbox'\nurl = 'postgres://a@b/c'\ntable = 'public.events_out'\nafter = 'mark'\n",
    )
    .unwrap();
    let file = folder.path().join("postrider.toml");
    let statements = setup(&["kept", "--config", file.to_str().unwrap(), "--reader", "reader"]);
    shop.execute(&statements).await;
    let sources = source(&format!("name = 'kept'\n{}\ntable = 'public.events_out'\nafter = 'mark'", shop.source()));
    let server = TestServer::start_with(ServeSettings { sources, ..server::settings(folder.path()) }).await;
    server.webhook("w", &receiver.url("/"), "orders.>").await;
    shop.application().await.execute("SELECT public.publish('orders.made', '[1]')", &[]).await.unwrap();
    receiver.wait_for(1).await;
    let client = shop.cluster.connect(DATABASE).await;
    let marked = "SELECT count(*) FROM events_out WHERE published_at IS NOT NULL";
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while client.query_one(marked, &[]).await.unwrap().get::<_, i64>(0) != 1 {
        assert!(tokio::time::Instant::now() < deadline, "the row is not marked");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.stop().await;
}

/// The states of the one source at each node.
async fn states(nodes: &[&Program]) -> Vec<String> {
    let mut states = Vec::new();
    for node in nodes {
        let (_, sources) = node.caller.get("/api/v1/sources").await;
        states.push(sources[0]["state"].as_str().unwrap_or_default().to_owned());
    }
    states.sort();
    states
}

async fn become_states(nodes: &[&Program], wanted: &[&str]) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while states(nodes).await != wanted {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", states(nodes).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn of_two_nodes_one_reads_the_outbox_in_their_own_database_and_the_other_when_that_one_dies() {
    let (cluster, folder) = (Cluster::with_database(DATABASE).await, tempfile::tempdir().unwrap());
    let receiver = TestReceiver::healthy().await;
    cluster.execute(DATABASE, "CREATE ROLE application LOGIN PASSWORD 'a'").await;
    cluster.execute(DATABASE, &setup(&[])).await;
    // Without a URL it is the database of the store, where an application publishes in transactions of its own.
    std::fs::write(folder.path().join("postrider.toml"), "[[source]]\nname = 'own'\nkind = 'postgres-outbox'\n")
        .unwrap();
    let store = cluster.url(DATABASE);
    let options = ["--store", &store, "--lease", "2s"];
    let start = || Program::start(folder.path(), &options, Stdio::null());
    let (one, other) = (start(), start());
    let webhook = json!({"name": "w", "url": receiver.url("/"), "topic_patterns": ["orders.>"]});
    assert_eq!(one.caller.call(Method::POST, "/api/v1/webhooks", &webhook).await.0, 201);
    become_states(&[&one, &other], &["elsewhere", "running"]).await;
    let publish =
        "SELECT postrider.publish('orders.made', '{}', id => 'n-' || n) FROM generate_series($1::int, $2) AS n";
    let application = cluster.connect(DATABASE).await;
    application.execute(publish, &[&1, &100]).await.unwrap();
    receiver.wait_for(100).await;
    let (reader, other) = match one.caller.get("/api/v1/sources").await.1[0]["state"].as_str() {
        Some("running") => (one, other),
        _ => (other, one),
    };
    application.execute(publish, &[&101, &300]).await.unwrap();
    reader.kill();
    application.execute(publish, &[&301, &400]).await.unwrap();
    become_states(&[&other], &["running"]).await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while receiver.arrivals().len() != 400 {
        assert!(tokio::time::Instant::now() < deadline, "{} arrived", receiver.arrivals().len());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(other.caller.get("/api/v1/stats").await.1["events"], 400, "each row is one event");
}
