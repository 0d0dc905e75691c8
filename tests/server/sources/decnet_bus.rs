//! DECNET's bus as a source. The bus here says what a test wants, frame by frame.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use postrider::bus::frame::{Frame, FrameReader, Verb, encode};
use postrider::serve::ServeSettings;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::source;
use crate::bus::program::Program as BusProgram;
use crate::support::receiver::TestReceiver;
use crate::support::server::{self, TestServer};

const PATIENCE: Duration = Duration::from_secs(20);

/// A place for a bus.
struct Bus {
    folder: TempDir,
    listener: UnixListener,
}

/// A connection to it.
struct Client {
    reader: FrameReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl Bus {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("bus.sock")).unwrap();
        Self { folder, listener }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("bus.sock")
    }

    /// The next connection.
    async fn client(&self) -> Client {
        let (stream, _) = timeout(PATIENCE, self.listener.accept()).await.expect("a connection in time").unwrap();
        Client::of(stream)
    }

    /// The next connection of the worker, which has said hello and what it wants.
    async fn worker(&self) -> Client {
        let mut client = self.client().await;
        let hello = client.frame().await;
        assert_eq!((hello.verb, &*hello.argument, &*hello.body), (Verb::Hello, "webhook", &b""[..]));
        client
    }
}

impl Client {
    fn of(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self { reader: FrameReader::new(reader), writer }
    }

    async fn frame(&mut self) -> Frame {
        self.next().await.expect("another frame")
    }

    async fn next(&mut self) -> Option<Frame> {
        timeout(PATIENCE, self.reader.read()).await.expect("a frame in time").expect("whole frames")
    }

    /// The patterns that are subscribed to before the worker says how it is, and what it says.
    async fn subscriptions_and_health(&mut self) -> (Vec<String>, Value) {
        let mut patterns = Vec::new();
        loop {
            let frame = self.frame().await;
            match frame.verb {
                Verb::Sub => patterns.push(frame.argument.into_string()),
                Verb::Pub => {
                    assert_eq!(&*frame.argument, "system.webhook.health");
                    return (patterns, serde_json::from_slice(&frame.body).unwrap());
                }
                other => panic!("{other} {}", frame.argument),
            }
        }
    }

    async fn event(&mut self, topic: &str, body: &str) {
        let mut frame = Vec::new();
        encode(Verb::Evt, topic, body.as_bytes(), &mut frame).unwrap();
        self.writer.write_all(&frame).await.unwrap();
    }
}

fn bus_source(socket: &Path) -> String {
    format!("name = 'decnet'\nkind = 'decnet-bus'\nsocket = '{}'", socket.display())
}

/// A server with the bus as its source.
async fn server_of(folder: &Path, socket: &Path) -> TestServer {
    let sources = source(&bus_source(socket));
    TestServer::start_with(ServeSettings { sources, ..server::settings(folder) }).await
}

fn body(id: &str, payload: &Value) -> String {
    json!({"v": 1, "id": id, "topic": "else.where", "type": "observed", "ts": 1_790_000_000.25, "payload": payload})
        .to_string()
}

async fn delivered(receiver: &TestReceiver, count: usize) -> Vec<(String, Value)> {
    let requests = receiver.wait_for(count).await;
    requests.iter().map(|request| (request.event_id(), serde_json::from_slice(&request.body).unwrap())).collect()
}

#[tokio::test]
async fn events_of_the_bus_reach_the_webhooks_that_want_them() {
    let (bus, folder) = (Bus::start(), tempfile::tempdir().unwrap());
    let receiver = TestReceiver::healthy().await;
    let server = server_of(folder.path(), &bus.socket()).await;
    let mut worker = bus.worker().await;
    let (patterns, health) = worker.subscriptions_and_health().await;
    assert_eq!(patterns, ["system.webhook.control", "system.webhook.subscriptions_changed"], "no webhook, no pattern");
    assert_eq!((&health["type"], &health["payload"]["worker"]), (&json!("health"), &json!("webhook")), "{health}");
    assert!(health["payload"]["ts"].is_f64(), "{health}");

    server.webhook("all about attackers", &receiver.url("/"), "attacker.>").await;
    let frame = worker.frame().await;
    assert_eq!((frame.verb, &*frame.argument), (Verb::Sub, "attacker.>"));
    // The change is announced on another connection, since a connection does not get its own events back.
    let mut announcer = bus.client().await;
    let said = [announcer.frame().await, announcer.frame().await, announcer.frame().await];
    let said = said.map(|frame| format!("{} {} {}", frame.verb, frame.argument, String::from_utf8_lossy(&frame.body)));
    assert_eq!(
        said[..2],
        ["HELLO api ", r#"PUB system.webhook.subscriptions_changed {"payload":{},"type":"changed"}"#]
    );
    assert_eq!(said[2], "BYE  ");

    worker.event("attacker.observed", &body("0123456789abcdef0123456789abcdef", &json!({"ip": "198.51.100.7"}))).await;
    worker.event("system.log", &body("not-wanted", &json!({}))).await;
    worker.event("attacker.observed", &body("0123456789abcdef0123456789abcdef", &json!({"ip": "198.51.100.7"}))).await;
    worker.event("attacker.session.ended", &body("second", &json!([1]))).await;
    let got = delivered(&receiver, 2).await;
    assert_eq!(got[0].0, "0123456789abcdef0123456789abcdef");
    let expected = json!({"id": "0123456789abcdef0123456789abcdef", "payload": {"ip": "198.51.100.7"}, "type": "observed",
        "topic": "attacker.observed", "ts": "2026-09-21T14:13:20.250000+00:00", "v": 1});
    assert_eq!(got[0].1, expected, "the topic is the header line's");
    assert_eq!((&*got[1].0, &got[1].1["payload"]), ("second", &json!([1])));

    let sources = server.get("/api/v1/sources").await.expect(200);
    assert_eq!(
        (&sources[0]["name"], &sources[0]["kind"], &sources[0]["state"]),
        (&json!("decnet"), &json!("decnet-bus"), &json!("running"))
    );
    assert_eq!(
        (&sources[0]["accepted"], &sources[0]["duplicates"], &sources[0]["queued"]),
        (&json!(2), &json!(1), &json!(0)),
        "{sources}"
    );
    let metrics = server.get("/metrics").await.body;
    assert!(metrics.contains(r#"postrider_source_messages_total{source="decnet",result="accepted"} 2"#), "{metrics}");
    server.stop().await;
    assert_eq!(worker.frame().await.verb, Verb::Bye);
}

#[tokio::test]
async fn a_bus_that_comes_late_or_again_or_elsewhere_is_found() {
    let (folder, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let receiver = TestReceiver::healthy().await;
    let socket = place.path().join("late").join("bus.sock");
    let server = server_of(folder.path(), &socket).await;
    server.webhook("w", &receiver.url("/"), "attacker.>").await;
    let failing = server.wait_for("/api/v1/sources", |sources| sources[0]["state"] == "failing").await;
    let reason = failing[0]["reason"].as_str().unwrap();
    assert!(reason.starts_with("cannot connect to ") && reason.ends_with("entity not found"), "{reason}");
    assert_eq!(server.get("/readyz").await.status, 200, "the server itself is well");
    assert_eq!(server.get("/readyz?sources").await.status, 503);

    std::fs::create_dir(place.path().join("late")).unwrap();
    let bus = |path: &Path| Bus { folder: tempfile::tempdir().unwrap(), listener: UnixListener::bind(path).unwrap() };
    let first = bus(&socket);
    let mut worker = first.worker().await;
    worker.subscriptions_and_health().await;
    worker.event("attacker.observed", &body("1", &json!(1))).await;
    delivered(&receiver, 1).await;
    server.wait_for("/api/v1/sources", |sources| sources[0]["state"] == "running").await;
    assert_eq!(server.get("/readyz?sources").await.status, 200);

    // The bus dies inside a frame.
    let mut cut = Vec::new();
    encode(Verb::Evt, "attacker.observed", body("cut", &json!(0)).as_bytes(), &mut cut).unwrap();
    worker.writer.write_all(&cut[..cut.len() - 10]).await.unwrap();
    drop(worker);
    let mut worker = first.worker().await;
    worker.subscriptions_and_health().await;
    worker.event("attacker.observed", &body("2", &json!(2))).await;
    delivered(&receiver, 2).await;

    // Another bus takes the place. The old one goes on, and has nothing to say any more.
    std::fs::remove_file(&socket).unwrap();
    let second = bus(&socket);
    let mut worker_of_second = second.worker().await;
    worker_of_second.subscriptions_and_health().await;
    worker_of_second.event("attacker.observed", &body("3", &json!(3))).await;
    let got = delivered(&receiver, 3).await;
    assert_eq!(got.iter().map(|(id, _)| &**id).collect::<Vec<_>>(), ["1", "2", "3"]);

    // Nonsense ends a connection, as the original's client has it, and another one is made.
    worker_of_second.writer.write_all(b"EVT attacker.observed\n\xff\xff\xff\xff").await.unwrap();
    let mut worker = second.worker().await;
    worker.subscriptions_and_health().await;
    worker.event("attacker.observed", &body("4", &json!(4))).await;
    delivered(&receiver, 4).await;
    server.stop().await;
}

#[tokio::test]
async fn what_can_be_no_event_is_set_aside_and_blocks_nothing() {
    let (bus, folder) = (Bus::start(), tempfile::tempdir().unwrap());
    let receiver = TestReceiver::healthy().await;
    let server = server_of(folder.path(), &bus.socket()).await;
    server.webhook("everything", &receiver.url("/"), ">").await;
    let mut worker = bus.worker().await;
    worker.event("attacker.observed", "[1]").await;
    worker.event("a b", "{}").await;
    worker.event("postrider.webhook.created", "{}").await;
    worker.event("attacker.observed", &body("same", &json!(1))).await;
    worker.event("attacker.observed", &body("same", &json!("another"))).await;
    worker.event("attacker.observed", &body("good", &json!(2))).await;
    let got = delivered(&receiver, 2).await;
    assert_eq!((&*got[0].0, &*got[1].0), ("same", "good"));

    let sources = server.wait_for("/api/v1/sources", |sources| sources[0]["rejected"] == 4).await;
    assert_eq!(sources[0]["kept_rejected"], 4);
    let page = server.get("/api/v1/sources/decnet/rejected?limit=3").await.expect(200);
    let next = page["next_cursor"].as_str().expect("there is another page").to_owned();
    let last = server.get(&format!("/api/v1/sources/decnet/rejected?cursor={next}")).await.expect(200);
    let all: Vec<&Value> = page["items"].as_array().unwrap().iter().chain(last["items"].as_array().unwrap()).collect();
    let shown: Vec<_> = all
        .iter()
        .map(|item| (item["attributes"]["topic"].as_str().unwrap(), item["reason"].as_str().unwrap()))
        .collect();
    assert_eq!(
        shown,
        [
            ("attacker.observed", "invalid JSON at byte 0: is no object"),
            ("a b", "topic: has the character ' ' at byte 1; visible ASCII without spaces is allowed"),
            ("postrider.webhook.created", "topics that begin with `postrider.` are for the server's own events"),
            ("attacker.observed", "the id was sent before, with another topic, type or payload"),
        ]
    );
    assert_eq!((&all[0]["body"], &all[0]["length"]), (&json!("[1]"), &json!(3)));

    let path = |item: &Value| format!("/api/v1/sources/decnet/rejected/{}", item["uuid"].as_str().unwrap());
    let again = server.post(&format!("{}/retry", path(all[0])), "").await;
    assert_eq!(again.status, 409);
    assert!(again.body.contains("it is still no event: invalid JSON"), "{}", again.body);
    assert_eq!(server.get(&path(all[1])).await.expect(200)["body"], "{}");
    assert_eq!(server.call("DELETE", &path(all[1]), &server.admin, "").await.status, 200);
    assert_eq!(server.get(&path(all[1])).await.status, 404);
    let audit = server.get("/api/v1/audit?action=source").await.expect(200);
    assert_eq!(
        (&audit["items"][0]["action"], &audit["items"][0]["target_name"]),
        (&json!("source.discard"), &json!("decnet")),
        "{audit}"
    );
    server.stop().await;
}

#[tokio::test]
async fn a_tenant_without_room_holds_events_back_and_loses_none() {
    let (bus, folder) = (Bus::start(), tempfile::tempdir().unwrap());
    let receiver = TestReceiver::healthy().await;
    let server = server_of(folder.path(), &bus.socket()).await;
    server.webhook("everything", &receiver.url("/"), ">").await;
    let quotas = |bytes: u64| json!({"quotas": {"max_stored_bytes": bytes}}).to_string();
    server.call("PATCH", "/api/v1/tenants/default", &server.admin, &quotas(4_000)).await.expect(200);
    let mut worker = bus.worker().await;
    for number in 0..300 {
        worker.event("attacker.observed", &body(&number.to_string(), &json!(number))).await;
    }
    let waiting = server.wait_for("/api/v1/sources", |sources| sources[0]["state"] == "waiting").await;
    assert!(waiting[0]["queued"].as_u64().unwrap() > 200, "{waiting}");
    assert!(waiting[0]["reason"].as_str().unwrap().contains("max_stored_bytes"), "{waiting}");
    assert_eq!(server.get("/readyz?sources").await.status, 503);
    server.call("PATCH", "/api/v1/tenants/default", &server.admin, &quotas(1 << 30)).await.expect(200);
    let mut ids: Vec<usize> = delivered(&receiver, 300).await.iter().map(|(id, _)| id.parse().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..300).collect::<Vec<_>>());
    server.wait_for("/api/v1/sources", |sources| sources[0]["state"] == "running" && sources[0]["queued"] == 0).await;
    server.stop().await;
}

#[tokio::test]
async fn an_event_beyond_all_that_its_tenant_may_have_waits_aside_until_there_is_room() {
    let (bus, folder) = (Bus::start(), tempfile::tempdir().unwrap());
    let receiver = TestReceiver::healthy().await;
    let server = server_of(folder.path(), &bus.socket()).await;
    server.webhook("everything", &receiver.url("/"), ">").await;
    let quotas = |bytes: u64| json!({"quotas": {"max_stored_bytes": bytes}}).to_string();
    server.call("PATCH", "/api/v1/tenants/default", &server.admin, &quotas(1_000)).await.expect(200);
    let mut worker = bus.worker().await;
    let large = json!("x".repeat(2_000));
    worker.event("attacker.observed", &body("large", &large)).await;
    worker.event("attacker.observed", &body("small", &json!(1))).await;
    assert_eq!(delivered(&receiver, 1).await[0].0, "small", "it blocks no other");
    server.wait_for("/api/v1/sources", |sources| sources[0]["kept_rejected"] == 1).await;
    let rejected = server.get("/api/v1/sources/decnet/rejected").await.expect(200);
    assert!(rejected["items"][0]["reason"].as_str().unwrap().contains("max_stored_bytes"), "{rejected}");
    let path = format!("/api/v1/sources/decnet/rejected/{}/retry", rejected["items"][0]["uuid"].as_str().unwrap());
    assert_eq!(server.post(&path, "").await.status, 409, "there is still no room");

    server.call("PATCH", "/api/v1/tenants/default", &server.admin, &quotas(1 << 20)).await.expect(200);
    let again = server.post(&path, "").await.expect(200);
    assert_eq!((&again["id"], &again["deliveries"], &again["duplicate"]), (&json!("large"), &json!(1), &json!(false)));
    assert_eq!(delivered(&receiver, 2).await[1].1["payload"], large);
    assert_eq!(server.get("/api/v1/sources").await.expect(200)[0]["kept_rejected"], 0);
    assert_eq!(server.post(&path, "").await.status, 404, "it is there no longer");
    let audit = server.get("/api/v1/audit?action=source").await.expect(200);
    assert_eq!((&audit["items"][0]["action"], &audit["items"][1]), (&json!("source.retry"), &Value::Null), "{audit}");
    server.stop().await;
}

#[tokio::test]
async fn decnets_panel_stops_the_server() {
    let (bus, folder) = (Bus::start(), tempfile::tempdir().unwrap());
    let server = server_of(folder.path(), &bus.socket()).await;
    let mut worker = bus.worker().await;
    worker.subscriptions_and_health().await;
    // What is no order to stop does not disturb it.
    for body in ["[]", r#"{"payload":{"action":"start"}}"#, r#"{"payload":[]}"#] {
        worker.event("system.webhook.control", body).await;
    }
    worker.event("system.webhook.control", r#"{"payload":{"action":"stop","requested_by":"admin","ts":1.5}}"#).await;
    assert_eq!(worker.frame().await.verb, Verb::Bye);
    timeout(Duration::from_secs(20), server.ended()).await.expect("it ends by itself");
}

/// Publishes events on a real bus: one for each number, with the number as its payload.
async fn publish(socket: &Path, topic: &str, numbers: std::ops::Range<usize>) {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let mut frames = Vec::new();
    for number in numbers {
        let body = json!({"type": "observed", "payload": number}).to_string();
        encode(Verb::Pub, topic, body.as_bytes(), &mut frames).unwrap();
    }
    stream.write_all(&frames).await.unwrap();
    // The bus has read all when it closes the connection.
    frames.clear();
    encode(Verb::Bye, "", b"", &mut frames).unwrap();
    stream.write_all(&frames).await.unwrap();
    let mut client = Client::of(stream);
    while client.next().await.is_some() {}
}

/// The payloads that arrived under topics with this beginning, sorted.
fn payloads(receiver: &TestReceiver, topic: &str) -> Vec<Value> {
    let bodies = receiver.received().into_iter().map(|request| serde_json::from_slice::<Value>(&request.body).unwrap());
    let mut payloads: Vec<Value> = bodies
        .filter(|body| body["topic"].as_str().unwrap().starts_with(topic))
        .map(|body| body["payload"].clone())
        .collect();
    payloads.sort_by_key(Value::as_u64);
    payloads
}

async fn become_payloads(receiver: &TestReceiver, topic: &str, count: usize) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while payloads(receiver, topic).len() < count {
        assert!(tokio::time::Instant::now() < deadline, "{topic}: {:?}", payloads(receiver, topic));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_real_bus_is_followed_over_its_restarts() {
    let (place, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let receiver = TestReceiver::healthy().await;
    let bus = BusProgram::start(place.path(), &["--heartbeat", "100ms"], Stdio::null());
    let socket = bus.socket.clone();
    let server = server_of(folder.path(), &socket).await;
    server.webhook("attackers", &receiver.url("/a"), "attacker.>").await;
    server.webhook("system", &receiver.url("/s"), "system.>").await;
    // The second webhook was announced; the first one, too, if the source was connected by then.
    become_payloads(&receiver, "system.webhook.subscriptions_changed", 1).await;
    become_payloads(&receiver, "system.bus.health", 2).await;
    publish(&socket, "attacker.observed", 1..501).await;
    become_payloads(&receiver, "attacker.", 500).await;

    assert!(bus.stop() < Duration::from_secs(5));
    server.wait_for("/api/v1/sources", |sources| sources[0]["state"] == "failing").await;
    let bus = BusProgram::start(place.path(), &["--heartbeat", "100ms"], Stdio::null());
    let before = payloads(&receiver, "system.bus.health").len();
    become_payloads(&receiver, "system.bus.health", before + 1).await;
    publish(&socket, "attacker.observed", 501..1_001).await;
    become_payloads(&receiver, "attacker.", 1_000).await;
    assert_eq!(payloads(&receiver, "attacker."), (1..1_001).map(Value::from).collect::<Vec<_>>());
    // Nobody gets his own events: the worker's health is for others.
    assert_eq!(payloads(&receiver, "system.webhook.health"), Vec::<Value>::new());
    let source = server.get("/api/v1/sources").await.expect(200);
    assert_eq!(
        (&source[0]["lost"], &source[0]["rejected"], &source[0]["duplicates"]),
        (&json!(0), &json!(0), &json!(0))
    );
    server.stop().await;
    bus.stop();
}
