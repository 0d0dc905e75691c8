use lapin::BasicProperties;
use lapin::types::LongString;

use super::*;

fn settings(text: &str) -> Result<QueueSettings, String> {
    let variables = [("PASSWORD".to_owned(), "hunter2".to_owned())].into();
    let text = format!("url = 'amqp://a'\nqueue = 'orders'\n{text}");
    QueueSettings::of(toml::from_str(&text).unwrap(), &Surroundings { variables, ..Surroundings::default() })
}

#[test]
fn a_source_has_a_queue_and_a_login() {
    let guest = settings("").unwrap();
    assert_eq!((&*guest.user, &*guest.vhost, guest.prefetch), ("guest", "/", 256));
    let source = settings("user = 'a'\npassword = { env = 'PASSWORD' }\nvhost = 'shop'\nprefetch = 1").unwrap();
    assert_eq!((&*source.user, &*source.vhost, source.prefetch), ("a", "shop", 1));
    assert!(!format!("{source:?}").contains("hunter2"));
    assert!(settings("id = '{header.id}'\ntopic = 'a.{exchange}'\ntype = '{type}'").is_ok());
}

#[test]
fn wrong_settings_are_told_at_the_start() {
    for (text, expected) in [
        ("id = '{subject}'", "id: messages of this kind have no `subject`"),
        ("user = 'a'", "user and password belong together"),
        ("user = 'a'\npassword = { env = 'NONE' }", "password: the environment has no variable NONE"),
        ("vhost = ''", "vhost: must have 1 to 255 bytes"),
        ("prefetch = 0", "prefetch: must be from 1 to 4096"),
        ("tls = {}", "tls: the URL must begin with amqps://"),
        ("exchange = 'x'", "unknown field `exchange`"),
    ] {
        let error = settings(text).unwrap_err();
        assert!(error.starts_with(expected), "{text}: {error}");
    }
}

fn delivered(exchange: &str, routing_key: &str, properties: BasicProperties) -> Message {
    let mut delivery = Delivery::mock(1, exchange.into(), routing_key.into(), false, b"{}".to_vec());
    delivery.properties = properties;
    message("orders", &mut delivery)
}

#[test]
fn a_message_has_its_properties_and_its_headers_and_the_id_of_its_publisher() {
    let mut headers = FieldTable::default();
    headers.insert("shop".into(), AMQPValue::LongString(LongString::from("north")));
    headers.insert("count".into(), AMQPValue::LongInt(-3));
    headers.insert("raw".into(), AMQPValue::LongString(LongString::from(&b"\xff"[..])));
    headers.insert("table".into(), AMQPValue::FieldTable(FieldTable::default()));
    let properties = BasicProperties::default()
        .with_message_id("m-1".into())
        .with_type("made".into())
        .with_timestamp(17)
        .with_headers(headers);
    let message = delivered("shop", "orders.made", properties);
    for (name, value) in [
        ("queue", Some("orders")),
        ("exchange", Some("shop")),
        ("routing_key", Some("orders.made")),
        ("message_id", Some("m-1")),
        ("type", Some("made")),
        ("timestamp", Some("17")),
        ("app_id", None),
        ("header.shop", Some("north")),
        ("header.count", Some("-3")),
        ("header.raw", None),
        ("header.table", None),
    ] {
        assert_eq!(message.attribute(name), value, "{name}");
    }
    assert_eq!((message.origin_id.as_deref(), &*message.body), (Some("m-1"), &b"{}"[..]));
}

#[test]
fn a_message_without_a_routing_key_has_the_name_of_its_queue() {
    let message = delivered("fan", "", BasicProperties::default());
    assert_eq!((message.attribute("routing_key"), &message.origin_id), (Some("orders"), &None));
}

#[test]
fn headers_are_kept_within_a_bound() {
    let mut headers = FieldTable::default();
    headers.insert("a".into(), AMQPValue::LongString("x".repeat(MAX_HEADER_BYTES).into()));
    headers.insert("b".into(), AMQPValue::LongString("1".into()));
    let message = delivered("", "orders", BasicProperties::default().with_headers(headers));
    assert_eq!((message.attribute("header.a"), message.attribute("header.b")), (None, Some("1")));
}
