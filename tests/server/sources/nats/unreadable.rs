//! Messages that the client cannot read: it ends the connection over them.

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::*;

/// A client that writes the protocol by itself, so that it can send what a client's types forbid.
struct Publisher(BufReader<TcpStream>);

impl Publisher {
    async fn connect(server: &NatsServer) -> Self {
        let stream = TcpStream::connect(server.url().strip_prefix("nats://").unwrap()).await.unwrap();
        let mut publisher = Self(BufReader::new(stream));
        publisher.send(b"CONNECT {\"verbose\":false,\"headers\":true}\r\n").await;
        publisher.flush().await;
        publisher
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// `headers`: all lines of them.
    async fn publish(&mut self, subject: &[u8], headers: &[u8], body: &[u8]) {
        let (head, all) = (headers.len(), headers.len() + body.len());
        let sizes = if head == 0 { format!(" {all}\r\n") } else { format!(" {head} {all}\r\n") };
        let verb = if head == 0 { &b"PUB "[..] } else { b"HPUB " };
        self.send(&[verb, subject, sizes.as_bytes(), headers, body, b"\r\n"].concat()).await;
    }

    /// Waits until the server has all of it.
    async fn flush(&mut self) {
        self.send(b"PING\r\n").await;
        let mut line = Vec::new();
        while line != b"PONG\r\n" {
            line.clear();
            assert!(self.0.read_until(b'\n', &mut line).await.unwrap() > 0);
        }
    }
}

/// Headers, or a subject, that the client cannot read, and why not.
const POISON: [(&[u8], &[u8], &str); 8] = [
    (b"orders.a", b"NATS/1.0\r\nX: \xff\x1b[31m\r\n\r\n", "the headers are no text in UTF-8"),
    (b"orders.a", b"NATS/1.0\r\n\xff\xfe: x\r\n\r\n", "the headers are no text in UTF-8"),
    (b"orders.a", b"NATS/1.0\r\nno colon here\r\n\r\n", "a line of the headers has no colon"),
    (b"orders.a", b"NATS/1.0\r\na b: c\r\n\r\n", "the name of a header is not of visible ASCII"),
    (b"orders.a", b"NATS/1.0\r\na: b\rc\r\n\r\n", "a header has a carriage return"),
    (b"orders.a", b"HTTP/1.0\r\n\r\n", "the headers do not begin with NATS/1.0"),
    (b"orders.\xff\xfe", b"", "the subject is no text in UTF-8"),
    (b"orders.x\xc2\xa0y", b"NATS/1.0\r\n\r\n", "the subject has white space"),
];

#[tokio::test]
async fn what_the_client_cannot_read_is_set_aside_and_what_stands_around_it_is_delivered() {
    let (orders, folder) = (Orders::start().await, tempfile::tempdir().unwrap());
    let mut publisher = Publisher::connect(&orders.server).await;
    publisher.publish(b"orders.first", b"", b"{\"n\":0}").await;
    for (subject, headers, _) in POISON {
        publisher.publish(subject, headers, b"{\"poison\":1}").await;
        publisher.publish(b"orders.good", b"NATS/1.0\r\nX: 1\r\n\r\n", b"{\"good\":1}").await;
    }
    publisher.flush().await;
    let (server, receiver) = orders.server(folder.path()).await;
    server.wait_for("/api/v1/sources", |sources| sources[0]["accepted"] == 9).await;
    // While it runs: each one alone, between others.
    for (number, (subject, headers, _)) in POISON.into_iter().enumerate() {
        publisher.publish(b"orders.good", b"", b"{\"live\":1}").await;
        publisher.publish(subject, headers, b"{\"poison\":2}").await;
        publisher.publish(b"orders.good", b"", b"{\"live\":2}").await;
        publisher.flush().await;
        let so_far = 9 + 2 * (number + 1);
        server.wait_for("/api/v1/sources", |sources| sources[0]["accepted"] == so_far).await;
    }
    // What came while it ran was there after the webhook was.
    receiver.wait_for(16).await;
    let source = server.wait_for("/api/v1/sources", |sources| sources[0]["rejected"] == 16).await;
    assert_eq!((&source[0]["accepted"], &source[0]["lost"]), (&json!(25), &json!(0)), "{source}");
    let listed = server.get("/api/v1/sources/shop/rejected?limit=100").await.expect(200);
    let mut reasons: Vec<&str> =
        listed["items"].as_array().unwrap().iter().map(|message| message["reason"].as_str().unwrap()).collect();
    reasons.sort_unstable();
    let mut expected: Vec<&str> = POISON.iter().flat_map(|(_, _, reason)| [*reason, *reason]).collect();
    expected.sort_unstable();
    assert_eq!(reasons, expected);
    let context = orders.server.jetstream().await;
    while unacknowledged(&context).await != 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    become_state(&server, "running").await;
    server.stop().await;
}

/// Newer servers take a publisher's status away: the message is a good one there.
#[tokio::test]
async fn a_status_that_is_no_number_holds_nothing_up() {
    let (orders, folder) = (Orders::start().await, tempfile::tempdir().unwrap());
    let mut publisher = Publisher::connect(&orders.server).await;
    publisher.publish(b"orders.a", b"NATS/1.0 much\r\n\r\n", b"{}").await;
    publisher.publish(b"orders.good", b"", b"{}").await;
    publisher.flush().await;
    let (server, _receiver) = orders.server(folder.path()).await;
    let number = |source: &Value, name: &str| source[name].as_u64().unwrap();
    let all = |sources: &Value| number(&sources[0], "accepted") + number(&sources[0], "rejected") == 2;
    let sources = server.wait_for("/api/v1/sources", all).await;
    let listed = server.get("/api/v1/sources/shop/rejected").await.expect(200);
    let listed = listed["items"].as_array().unwrap();
    assert_eq!(listed.len() as u64, number(&sources[0], "rejected"), "{listed:?}");
    for message in listed {
        assert_eq!(message["reason"], "the headers have a status that is no number of three digits");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_status_that_a_publisher_wrote_makes_no_message_an_answer_of_the_server() {
    let (orders, folder) = (Orders::start().await, tempfile::tempdir().unwrap());
    let mut publisher = Publisher::connect(&orders.server).await;
    for status in ["100", "404 No Messages", "408", "409 Consumer Deleted", "503"] {
        publisher.publish(b"orders.a", format!("NATS/1.0 {status}\r\n\r\n").as_bytes(), b"{}").await;
    }
    publisher.flush().await;
    let (server, _receiver) = orders.server(folder.path()).await;
    let source = server.wait_for("/api/v1/sources", |sources| sources[0]["accepted"] == 5).await;
    assert_eq!((&source[0]["state"], &source[0]["rejected"]), (&json!("running"), &json!(0)), "{source}");
    server.stop().await;
}

#[tokio::test]
async fn without_a_stream_the_source_says_that_messages_are_lost_and_goes_on() {
    let (nats, folder) = (NatsServer::start().await, tempfile::tempdir().unwrap());
    let text = format!("kind = 'nats'\nservers = '{}'\nsubjects = ['orders.>']", nats.url());
    let (server, receiver) = serve(&text, folder.path()).await;
    become_state(&server, "running").await;
    let mut publisher = Publisher::connect(&nats).await;
    publisher.publish(b"orders.a", b"NATS/1.0\r\nX: \xff\r\n\r\n", b"{}").await;
    publisher.flush().await;
    let is_told = |log: &str| log.contains("the source failed") && log.contains("messages of the meantime are lost");
    while !is_told(&server.log.text()) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    become_state(&server, "running").await;
    publisher.publish(b"orders.a", b"", b"{}").await;
    publisher.flush().await;
    receiver.wait_for(1).await;
    server.stop().await;
}

#[tokio::test]
async fn each_message_that_comes_faster_than_it_is_read_is_accepted_or_counted_as_lost() {
    let (nats, folder) = (NatsServer::start().await, tempfile::tempdir().unwrap());
    let text = format!("kind = 'nats'\nservers = '{}'\nsubjects = ['orders.>']", nats.url());
    let (server, _receiver) = serve(&text, folder.path()).await;
    become_state(&server, "running").await;
    let mut publisher = Publisher::connect(&nats).await;
    let (mut sent, portion) = (0_u64, b"PUB orders.a 2\r\n{}\r\n".repeat(10_000));
    for _ in 0..40 {
        publisher.send(&portion).await;
        sent += 10_000;
    }
    publisher.flush().await;
    let is_counted = |sources: &Value| {
        let count = |name: &str| sources[0][name].as_u64().unwrap();
        count("accepted") + count("duplicates") + count("lost") + count("queued") >= sent && count("queued") == 0
    };
    let source = server.wait_for("/api/v1/sources", is_counted).await;
    let count = |name: &str| source[0][name].as_u64().unwrap();
    assert_eq!(count("accepted") + count("lost"), sent, "{source}");
    server.stop().await;
}

#[tokio::test]
async fn sources_with_streams_of_one_name_take_nothing_from_each_other() {
    let (one, other, folder) = (Orders::start().await, Orders::start().await, tempfile::tempdir().unwrap());
    for orders in [&one, &other] {
        // The same, as from a clock, and another at the same place.
        let context = orders.server.jetstream().await;
        publish(&context, "orders.tick", None, "{}").await;
        publish(&context, "orders.tick", None, json!({"at": orders.server.url()}).to_string()).await;
    }
    let table = |name: &str, orders: &Orders| -> toml::Table {
        toml::from_str(&format!("name = '{name}'\n{}", orders.source())).unwrap()
    };
    let tables = [table("eu", &one), table("us", &other)];
    let sources = validate(&tables, &Surroundings::default()).unwrap();
    let server = TestServer::start_with(ServeSettings { sources, ..server::settings(folder.path()) }).await;
    let receiver = TestReceiver::healthy().await;
    server.webhook("w", &receiver.url("/"), "orders.>").await;
    let are_accepted = |sources: &Value| sources.as_array().unwrap().iter().all(|source| source["accepted"] == 2);
    server.wait_for("/api/v1/sources", are_accepted).await;
    let events = server.get("/api/v1/events").await.expect(200);
    let mut ids: Vec<&str> =
        events["items"].as_array().unwrap().iter().map(|event| event["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["eu:ORDERS-1", "eu:ORDERS-2", "us:ORDERS-1", "us:ORDERS-2"]);
    server.stop().await;
}
