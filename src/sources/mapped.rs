//! How messages of brokers become events, as an operator configures it: templates for topic, type and id, a pointer to the
//! payload, and what the body is.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Message;
use crate::clock::UnixMicros;
use crate::event::{Event, EventError, EventParts, MAX_EVENT_BYTES};
use crate::mapping::{Lookup, MappingError, Pointer, Reading, Template};

/// The most bytes of what comes beside a message (its headers, its fields) that templates may look into, and that are kept
/// if it is rejected.
pub(super) const MAX_HEADER_BYTES: usize = 64 * 1024;

/// The largest body that a pointer or a template looks into, in bytes. No event is made of a larger one.
pub(super) const MAX_BODY_BYTES: usize = 16 << 20;

/// The settings that say it, as given.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMapped {
    topic: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    id: Option<String>,
    payload: Option<String>,
    #[serde(default)]
    body: BodyKind,
}

/// The names of these settings.
pub(super) const KEYS: [&str; 5] = ["topic", "type", "id", "payload", "body"];

/// What the bodies of messages are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum BodyKind {
    #[default]
    Json,
    /// UTF-8. The payload is a string.
    Text,
    /// Any bytes. The payload is a string in base64, with padding.
    Base64,
}

/// The same, validated.
#[derive(Clone, Debug)]
pub(super) struct Mapped {
    topic: Template,
    /// `None`: events have no type.
    kind: Option<Template>,
    /// `None`: the id that the origin gave.
    id: Option<Template>,
    /// `None`: the whole body.
    payload: Option<Pointer>,
    body: BodyKind,
}

impl Lookup for Message {
    fn attribute(&self, name: &str) -> Option<Cow<'_, str>> {
        Message::attribute(self, name).map(Cow::Borrowed)
    }

    fn body(&self) -> &[u8] {
        &self.body
    }
}

impl RawMapped {
    /// `default_topic`: the template of sources that have none. `known`: whether messages may have an attribute.
    pub(super) fn validated(self, default_topic: &str, known: impl Fn(&str) -> bool) -> Result<Mapped, String> {
        let template = |setting: &str, text: &str| {
            let wrong = |error: MappingError| format!("{setting}: {error}");
            let template = Template::parse(text).map_err(wrong)?;
            if let Some(name) = template.attributes().find(|name| !known(name)) {
                return Err(format!("{setting}: messages of this kind have no `{name}`"));
            }
            Ok(template)
        };
        let optional = |setting: &str, text: Option<String>| text.map(|text| template(setting, &text)).transpose();
        let topic = template("topic", self.topic.as_deref().unwrap_or(default_topic))?;
        topic.check_topic().map_err(|error| format!("topic: {error}"))?;
        let pointer = |text: String| Pointer::parse(&text).map_err(|error| format!("payload: {error}"));
        let payload = self.payload.filter(|text| !text.is_empty()).map(pointer).transpose()?;
        if payload.is_some() && self.body != BodyKind::Json {
            return Err("payload: looks into a body that is JSON, and `body` says that it is not".to_owned());
        }
        Ok(Mapped {
            topic,
            kind: optional("type", self.kind.filter(|text| !text.is_empty()))?,
            id: optional("id", self.id)?,
            payload,
            body: self.body,
        })
    }
}

impl Mapped {
    /// The event that a message is, or the reason why it can be none.
    pub(super) fn event(&self, message: &Message, now: UnixMicros) -> Result<Event, String> {
        #[cfg(any(feature = "nats", feature = "rabbitmq"))]
        if let Some(reason) = message.attribute(super::UNREADABLE) {
            return Err(reason.to_owned());
        }
        if message.body.len() > MAX_BODY_BYTES {
            return Err(format!("the message is {} bytes long, the limit is {MAX_BODY_BYTES}", message.body.len()));
        }
        // Comes first, so that nothing looks into what is too large in any case. A part of a body may be small enough.
        if self.payload.is_none() && message.body.len() > MAX_EVENT_BYTES {
            let length = message.body.len();
            return Err(EventError::TooLarge { length, limit: MAX_EVENT_BYTES }.to_string());
        }
        let reading = Reading::new(message);
        let named = |setting: &'static str| move |error: MappingError| format!("{setting}: {error}");
        let topic = reading.topic(&self.topic).map_err(named("topic"))?;
        let render = |setting, template: &Template| reading.render(template).map_err(named(setting));
        let kind = self.kind.as_ref().map(|template| render("type", template)).transpose()?.unwrap_or_default();
        let id = match &self.id {
            Some(template) => Some(Cow::Owned(render("id", template)?)),
            None => message.origin_id.as_deref().map(Cow::Borrowed),
        };
        let payload = match (&self.payload, self.body) {
            (Some(pointer), _) => Cow::Borrowed(reading.json(pointer).map_err(named("payload"))?.as_bytes()),
            (None, BodyKind::Json) => Cow::Borrowed(&*message.body),
            (None, BodyKind::Text) => Cow::Owned(text(&message.body)?.into_bytes()),
            (None, BodyKind::Base64) => Cow::Owned(format!("\"{}\"", STANDARD.encode(&message.body)).into_bytes()),
        };
        let id = id.as_deref().filter(|id| !id.is_empty());
        let parts = EventParts { id, topic, kind: &kind, ts: None, payload: &payload };
        Event::from_parts(parts, now).map_err(|error| error.to_string())
    }
}

/// The settings of these names, taken out of `table`.
pub(super) fn take<T: DeserializeOwned>(table: &mut toml::Table, keys: &[&str]) -> Result<T, String> {
    read(keys.iter().filter_map(|key| table.remove_entry(*key)).collect())
}

pub(super) fn read<T: DeserializeOwned>(table: toml::Table) -> Result<T, String> {
    table.try_into().map_err(|error: toml::de::Error| error.message().to_owned())
}

/// The JSON string of a body that is text.
fn text(body: &Bytes) -> Result<String, String> {
    let text = std::str::from_utf8(body)
        .map_err(|error| format!("the body is no text in UTF-8 from byte {}", error.valid_up_to()))?;
    Ok(serde_json::Value::from(text).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(settings: &str) -> Result<Mapped, String> {
        let raw: RawMapped = toml::from_str(settings).map_err(|error| error.message().to_owned())?;
        raw.validated("{subject}", |name| name == "subject" || name.starts_with("header."))
    }

    fn message(body: &str) -> Message {
        let attribute = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        Message {
            origin_id: Some("ORDERS-7".to_owned()),
            attributes: vec![attribute("subject", "orders.new"), attribute("header.ce-type", "made")],
            body: body.to_owned().into(),
        }
    }

    fn event(settings: &str, body: &str) -> Result<Event, String> {
        mapped(settings).unwrap().event(&message(body), UnixMicros(0))
    }

    #[test]
    fn a_message_is_an_event_without_any_settings() {
        let event = event("", r#"{"b": 1.50, "a": []}"#).unwrap();
        assert_eq!((event.id(), event.topic().as_str(), event.kind()), ("ORDERS-7", "orders.new", ""));
        assert_eq!(&*event.payload_json(), br#"{"a":[],"b":1.50}"#);
    }

    #[test]
    fn templates_take_topic_type_and_id_and_a_pointer_the_payload() {
        let settings = "topic = 'shop.{/kind}'\ntype = '{header.ce-type}'\nid = '/id'\npayload = '/data'";
        let event = event(settings, r#"{"kind": "order", "id": 17, "data": {"total": 1e2}}"#).unwrap();
        assert_eq!((event.id(), event.topic().as_str(), event.kind()), ("17", "shop.order", "made"));
        assert_eq!(&*event.payload_json(), br#"{"total":1e2}"#);
    }

    #[test]
    fn bodies_may_be_text_or_any_bytes() {
        assert_eq!(&*event("body = 'text'", "a \"b\"\n").unwrap().payload_json(), br#""a \"b\"\n""#);
        assert_eq!(&*event("body = 'base64'", "\u{ff}").unwrap().payload_json(), br#""w78=""#);
        let bytes = Message { body: Bytes::from_static(b"ab\xff"), ..message("") };
        let error = mapped("body = 'text'").unwrap().event(&bytes, UnixMicros(0)).unwrap_err();
        assert_eq!(error, "the body is no text in UTF-8 from byte 2");
    }

    #[test]
    fn messages_that_can_be_no_event_say_why() {
        for (settings, body, expected) in [
            ("", "{", "invalid JSON at byte 1"),
            ("", "", "invalid JSON at byte 0"),
            ("type = '{header.none}'", "{}", "type: header.none is missing"),
            ("id = '/id'", "{}", "id: /id is missing"),
            ("id = '/id'", "text", "id: the body is no JSON"),
            ("payload = '/data'", "{}", "payload: /data is missing"),
            ("topic = 'a.{/b}'", r#"{"b": ".."}"#, "topic: "),
        ] {
            let error = event(settings, body).unwrap_err();
            assert!(error.starts_with(expected), "{settings}: {error}");
        }
        let large = format!("\"{}\"", "x".repeat(MAX_EVENT_BYTES));
        assert_eq!(event("", &large).unwrap_err(), "the event is 1048578 bytes long, the limit is 1048576");
    }

    #[test]
    fn wrong_settings_are_told_at_the_start() {
        for (settings, expected) in [
            ("topic = 'a b'", "topic: "),
            ("topic = ''", "topic: must not be empty"),
            ("topic = '{stream}'", "topic: messages of this kind have no `stream`"),
            ("id = '{'", "id: has a brace"),
            ("payload = 'data'", "payload: \"data\" is no JSON pointer"),
            ("payload = '/a'\nbody = 'text'", "payload: looks into a body that is JSON"),
            ("body = 'xml'", "unknown variant `xml`"),
        ] {
            let error = mapped(settings).unwrap_err();
            assert!(error.starts_with(expected), "{settings}: {error}");
        }
    }
}
