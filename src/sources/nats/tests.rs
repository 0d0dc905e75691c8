use async_nats::HeaderMap;
use bytes::Bytes;

use super::*;

fn settings<T>(text: &str, of: impl Fn(toml::Table, &Surroundings) -> Result<T, String>) -> Result<T, String> {
    let variables = [("PASSWORD".to_owned(), "hunter2".to_owned())].into();
    of(toml::from_str(text).unwrap(), &Surroundings { variables, ..Surroundings::default() })
}

fn core(text: &str) -> Result<CoreSettings, String> {
    settings(&format!("servers = 'nats://a:4222'\nsubjects = ['orders.>']\n{text}"), CoreSettings::of)
}

fn jetstream(text: &str) -> Result<JetstreamSettings, String> {
    settings(&format!("servers = ['a', 'tls://b:4443']\n{text}"), JetstreamSettings::of)
}

#[test]
fn both_kinds_have_settings_of_their_own() {
    assert!(!core("").unwrap().is_shared());
    assert!(core("queue_group = 'postrider'").unwrap().is_shared());
    let stream = jetstream("stream = 'ORDERS'\nconsumer = 'postrider'\nfilter_subjects = ['orders.*.made']").unwrap();
    assert_eq!(stream.filter_subjects, ["orders.*.made"]);
    assert!(core("type = '{header.ce-type}'").is_ok());
    assert!(jetstream("stream = 'O'\nconsumer = 'p'\nid = '{stream}/{sequence}'").is_ok());
}

#[test]
fn wrong_settings_are_told_at_the_start() {
    for (text, expected) in [
        ("id = '{sequence}'", "id: messages of this kind have no `sequence`"),
        ("stream = 'ORDERS'", "unknown field `stream`"),
        ("queue_group = 'a b'", "queue_group: must be a name"),
        ("user = 'a'", "one of user with password, token, nkey and credentials"),
        ("token = 'hunter2'\nnkey = 'hunter2'", "one of user with password"),
        ("nkey = 'SUhunter2'", "nkey: must be the seed of a user"),
        ("credentials = 'hunter2'", "credentials: must have a JWT"),
        ("user = 'a'\npassword = { env = 'NONE' }", "password: the environment has no variable NONE"),
        ("tls = { ca = '/nowhere/ca.pem' }", "tls.ca: cannot read /nowhere/ca.pem"),
        ("tls = { certificate = '/nowhere' }", "tls: certificate and key belong together"),
        ("tls = { cert = '/nowhere' }", "unknown field `cert`"),
    ] {
        let error = core(text).unwrap_err();
        assert!(error.starts_with(expected) && !error.contains("hunter2"), "{text}: {error}");
    }
    for (text, expected) in [
        ("servers = 'http://a'", "servers: expected nats://host:port"),
        ("servers = []", "servers: must be from 1 to 32"),
        ("servers = 7", "servers: expected a text or a list"),
        ("servers = 'nats://u:hunter2@a'", "servers: a user, a password or a token is a setting of its own"),
        ("servers = 'nats://hunter2@a'", "servers: a user, a password or a token is a setting of its own"),
        ("servers = 'nats://a/hunter2'", "servers: expected nats://host:port"),
        ("servers = 'nats://a?x=hunter2'", "servers: expected nats://host:port"),
        ("servers = 'a#hunter2'", "servers: expected nats://host:port"),
        ("servers = 'a'\nsubjects = []", "subjects: must name at least one"),
        ("servers = 'a'\nsubjects = ['a..b']", "subjects: \"a..b\" is no subject"),
        ("servers = 'a'\nsubjects = ['a b']", "subjects: \"a b\" is no subject"),
    ] {
        let text = if text.contains("subjects") { text.to_owned() } else { format!("{text}\nsubjects = ['a']") };
        let error = settings(&text, CoreSettings::of).unwrap_err();
        assert!(error.starts_with(expected) && !error.contains("hunter2"), "{text}: {error}");
    }
    for (text, expected) in [
        ("stream = 'a.b'\nconsumer = 'c'", "stream: \"a.b\" is no name"),
        ("stream = 'a'\nconsumer = ''", "consumer: \"\" is no name"),
        ("stream = 'a'", "missing field `consumer`"),
    ] {
        let error = jetstream(text).unwrap_err();
        assert!(error.starts_with(expected), "{text}: {error}");
    }
    assert!(!format!("{:?}", core("user = 'a'\npassword = { env = 'PASSWORD' }").unwrap()).contains("hunter2"));
}

fn received(headers: &[(&str, &str)]) -> NatsMessage {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, *value);
    }
    NatsMessage {
        subject: "orders.made".into(),
        reply: None,
        payload: Bytes::from_static(b"{}"),
        headers: Some(map),
        status: None,
        description: None,
        length: 0,
    }
}

#[test]
fn a_message_has_its_headers_and_its_place_and_the_id_of_its_publisher() {
    let place = Place { source: "shop", stream: "ORDERS".to_owned(), sequence: 7, stored_at: 9 };
    let message = message(received(&[("ce-type", "made"), ("ce-type", "2"), (MESSAGE_ID, "m-1")]), Some(&place));
    for (name, value) in [
        ("subject", "orders.made"),
        ("stream", "ORDERS"),
        ("sequence", "7"),
        ("stored_at", "9"),
        ("header.ce-type", "made"),
    ] {
        assert_eq!(message.attribute(name), Some(value));
    }
    assert_eq!(message.origin_id.as_deref(), Some("m-1"));
    assert_eq!(super::message(received(&[]), Some(&place)).origin_id.as_deref(), Some("shop:ORDERS-7"));
    assert_eq!(super::message(received(&[]), None).origin_id, None);
}

#[test]
fn headers_are_kept_within_a_bound() {
    let large = "x".repeat(MAX_HEADER_BYTES);
    let message = message(received(&[("a", "1"), ("b", &large), ("c", "3")]), None);
    assert_eq!((message.attribute("header.a"), message.attribute("header.b")), (Some("1"), None));
}
