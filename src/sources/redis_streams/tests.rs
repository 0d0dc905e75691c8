use bytes::Bytes;

use super::*;

fn settings(text: &str) -> Result<StreamSettings, String> {
    let variables = [("PASSWORD".to_owned(), "hunter2".to_owned())].into();
    let text = format!("url = 'redis://a'\nstream = 'orders'\ngroup = 'postrider'\n{text}");
    StreamSettings::of(toml::from_str(&text).unwrap(), &Surroundings { variables, ..Surroundings::default() })
}

#[test]
fn a_source_has_a_stream_and_a_group() {
    let source = settings("user = 'a'\npassword = { env = 'PASSWORD' }\nbegin = 'new'\ndatabase = 3").unwrap();
    assert_eq!((&*source.stream, source.begin, source.database), ("orders", Begin::New, 3));
    assert!(!format!("{source:?}").contains("hunter2"));
    assert!(settings("id = '{stream}/{entry}'\ntopic = 'a.{field.kind}'\ntype = '{added_at}'").is_ok());
}

#[test]
fn wrong_settings_are_told_at_the_start() {
    for (text, expected) in [
        ("id = '{subject}'", "id: messages of this kind have no `subject`"),
        ("user = 'a'", "user: a user has a password"),
        ("password = { env = 'NONE' }", "password: the environment has no variable NONE"),
        ("consumer = 'a b'", "consumer: must have 1 to 255 visible characters"),
        ("field = ''", "field: must not be empty"),
        ("begin = 'later'", "unknown variant `later`"),
        ("claim_after_s = 0", "claim_after_s: must be from 1 to 86400"),
        ("database = -1", "invalid value"),
        ("tls = {}", "tls: the URL must begin with rediss://"),
        ("sentinel = 'x'", "unknown field `sentinel`"),
    ] {
        let error = settings(text).unwrap_err();
        assert!(error.starts_with(expected), "{text}: {error}");
    }
}

fn fields(of: &[(&'static str, &'static [u8])]) -> Vec<(Bytes, Bytes)> {
    of.iter().map(|(name, value)| (Bytes::from(*name), Bytes::from(*value))).collect()
}

#[test]
fn a_message_has_the_fields_and_the_place_of_its_entry() {
    let body = Body::Field("payload".to_owned());
    let message =
        body.message("shop", "orders", "17-3", &fields(&[("kind", b"made"), ("payload", b"{}"), ("raw", b"\xff")]));
    for (name, value) in
        [("stream", "orders"), ("entry", "17-3"), ("added_at", "17"), ("field.kind", "made"), ("body", "payload")]
    {
        assert_eq!(message.attribute(name), Some(value));
    }
    let long = body.message("shop", &"s".repeat(MAX_KEY_BYTES), "17-3", &[]);
    assert!(long.origin_id.as_deref().unwrap().starts_with("sha256:"), "{long:?}");
    assert_eq!((message.attribute("field.payload"), message.attribute("field.raw")), (None, None));
    assert_eq!((message.origin_id.as_deref(), &*message.body), (Some("shop:orders-17-3"), &b"{}"[..]));
}

#[test]
fn an_entry_without_the_field_is_kept_whole_and_can_be_sent_again_with_other_settings() {
    let (payload, whole) = (Body::Field("payload".to_owned()), Body::of("*").unwrap());
    let message = payload.message("shop", "s", "1-0", &fields(&[("data", b"{}"), ("n", b"1")]));
    assert_eq!(&*message.body, br#"{"data":"{}","n":"1"}"#);
    assert_eq!(payload.of_message(&message).unwrap_err(), "the entry has no field \"payload\"");
    assert_eq!(&*Body::of("data").unwrap().of_message(&message).unwrap().body, b"{}");
    assert_eq!(whole.of_message(&message).unwrap().body, message.body);
    let message = whole.message("shop", "s", "1-0", &fields(&[("data", b"\xff")]));
    assert_eq!(&*message.body, br#"{"data":"/w=="}"#);
    assert_eq!(whole.of_message(&message).unwrap_err(), "the field \"data\" is no text in UTF-8");
}
