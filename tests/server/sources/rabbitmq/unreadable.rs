//! What a server sends and the client cannot read, or takes too much for.

use lapin::options::QueueBindOptions;
use lapin::types::FieldTable;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::raw::{Publisher, long, nested, short};
use super::*;

const HEADERS: u16 = 1 << 13;
const TYPE: u16 = 1 << 5;
const MESSAGE_ID: u16 = 1 << 7;

#[tokio::test]
async fn what_the_client_cannot_read_is_set_aside_with_its_bytes_and_holds_nothing_up() {
    let orders = Orders::start().await;
    let client = orders.server.client().await;
    client.queue("dead", &[]).await;
    let letters = [
        ("x-dead-letter-exchange", AMQPValue::LongString("".into())),
        ("x-dead-letter-routing-key", AMQPValue::LongString("dead".into())),
    ];
    let orders = orders.with("unreadable", &letters).await;
    let bound = client.channel.queue_bind(
        "unreadable".into(),
        "amq.fanout".into(),
        "".into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    bound.await.unwrap();
    let mut publisher = Publisher::connect(&orders.server.url()).await;
    let id = |id: &str| short(id.as_bytes());
    for (number, depth) in [16, 17, 300, 3_000].into_iter().enumerate() {
        let properties = [nested(depth), id(&format!("deep-{number}"))].concat();
        publisher.publish("", b"unreadable", HEADERS | MESSAGE_ID, &properties, b"{\"deep\":1}").await;
    }
    let name = [long(&[&short(b"\xff")[..], b"t\x01"].concat()), id("name")].concat();
    publisher.publish("", b"unreadable", HEADERS | MESSAGE_ID, &name, b"{}").await;
    let kind = [id("type"), short(b"\xff\x1b[31m")].concat();
    publisher.publish("", b"unreadable", MESSAGE_ID | TYPE, &kind, b"{}").await;
    publisher.publish("amq.fanout", b"a.\xff", MESSAGE_ID, &id("key"), b"{}").await;
    publisher.publish("amq.fanout", b"last", MESSAGE_ID, &id("last"), b"{}").await;
    publisher.close().await;

    let folder = tempfile::tempdir().unwrap();
    let (server, _receiver) = serve(&orders.source(), folder.path()).await;
    server.wait_for("/api/v1/sources", |sources| sources[0]["accepted"] == 2).await;
    let events = server.get("/api/v1/events").await.expect(200);
    assert_eq!((&events["items"][0]["id"], &events["items"][1]["id"]), (&json!("last"), &json!("deep-0")), "{events}");
    let is_there = |listed: &Value| listed["items"].as_array().unwrap().len() == 6;
    let listed = server.wait_for("/api/v1/sources/shop/rejected", is_there).await;
    let reasons: Vec<(&str, &str)> = listed["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| (message["origin_id"].as_str().unwrap(), message["reason"].as_str().unwrap()))
        .collect();
    let deep = "its headers are nested too deeply";
    let expected = [
        ("deep-1", deep),
        ("deep-2", deep),
        ("deep-3", deep),
        ("name", "the name of a header is no text in UTF-8"),
        ("type", "a property is no text in UTF-8"),
        ("key", "the routing key is no text in UTF-8"),
    ];
    assert_eq!(reasons, expected);
    // It can be sent again no more than before, and its bytes are there.
    let first = &listed["items"][0];
    let path = format!("/api/v1/sources/shop/rejected/{}", first["uuid"].as_str().unwrap());
    assert!(server.get(&path).await.expect(200).to_string().contains("deep"), "{first}");
    let again = server.call("POST", &format!("{path}/retry"), &server.admin, "").await;
    assert!(again.body.contains(deep), "{}", again.body);
    assert!(server.get("/api/v1/sources").await.expect(200)[0]["state"] == "running");
    server.stop().await;
    assert_eq!(client.ready("unreadable").await, 0);
    while client.ready("dead").await < 6 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_server_without_a_bound_of_frames_gets_one() {
    let mut rabbit = RabbitServer::stopped("frame_max = 0");
    rabbit.run_again().await;
    let orders = Orders { server: rabbit, queue: "classic" }.with("classic", &[]).await;
    let folder = tempfile::tempdir().unwrap();
    let (server, receiver) = serve(&orders.source(), folder.path()).await;
    become_state(&server, "running").await;
    orders.server.client().await.publish("classic", Some("o-1"), format!("\"{}\"", "x".repeat(500_000))).await;
    receiver.wait_for(1).await;
    let listed = orders.server.control("list_connections --no-table-headers client_properties frame_max").await;
    let ours = listed.lines().find(|line| line.contains("postrider shop")).unwrap();
    assert!(ours.ends_with("131072"), "{ours}");
    server.stop().await;
}

#[tokio::test]
async fn what_is_no_broker_is_told() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("amqp://{}", listener.local_addr().unwrap());
    let greeting = |frame: Vec<u8>| [&[1, 0, 0][..], &long(&frame), &[0xce]].concat();
    let deep = greeting([&[0, 10, 0, 10, 0, 9][..], &nested(3_000), &long(b"PLAIN"), &long(b"en_US")].concat());
    let sent = [
        (deep, "the greeting of the server cannot be read: its headers are nested too deeply"),
        (b"\x01\0\0\x40\0\0\0".to_vec(), "the server sent a frame of 1073741832 bytes, the limit is 131072"),
        (b"HTTP/1.1 400 Bad Request\r\n".to_vec(), "the server sent what is no AMQP 0-9-1"),
    ];
    let folder = tempfile::tempdir().unwrap();
    let (server, _receiver) = serve(&source_at(&url, "classic"), folder.path()).await;
    for (bytes, reason) in sent {
        let serving = async {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut hello = [0; 8];
                let _ = stream.read_exact(&mut hello).await;
                let _ = stream.write_all(&bytes).await;
                let _ = stream.read(&mut hello).await;
            }
        };
        tokio::select! {
            () = serving => {}
            () = fails_with(&server, reason) => {}
        }
    }
    server.stop().await;
}
