//! CloudEvents 1.0 as they come in: structured mode and batches (JSON event format), and binary mode (HTTP protocol
//! binding). <https://github.com/cloudevents/spec/tree/v1.0.2/cloudevents>
//!
//! The payload of the event is the whole CloudEvent in its JSON format, in whichever mode it came, so that nothing of it is
//! lost: filters and templates see all attributes, and the shape `cloudevents` passes it on as it was.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode, utf8_percent_encode};
use sha2::{Digest, Sha256};

use super::canonical::{Canonicaliser, quote};
use super::media::{is_json, is_text};
use super::{CanonicalParts, Event, EventError, MAX_ID_BYTES, check_kind, check_size, moment, refused, unquoted};
use crate::clock::UnixMicros;
use crate::hex;
use crate::topic::Topic;

/// The beginning of a header with an attribute, in binary mode.
const HEADER_PREFIX: &str = "ce-";
/// The header that says that a request is a CloudEvent in binary mode.
pub const SPECVERSION_HEADER: &str = "ce-specversion";
const SPECVERSION: &str = "1.0";
/// The longest part of a wrong value in an error, in characters.
const SHOWN_CHARS: usize = 64;

/// What of an `id` is percent-encoded, beside all that is no ASCII, so that it is visible and can be told from another.
const IN_ID: AsciiSet = CONTROLS.add(b' ').add(b'%');
/// The same of a `source`, which ends at the first `#`.
const IN_SOURCE: AsciiSet = IN_ID.add(b'#');

/// A member of a CloudEvent as canonical JSON: the key without its quotes, and the value.
type Member<'a> = (Cow<'a, str>, Cow<'a, str>);

impl Event {
    /// A CloudEvent in structured mode. Its topic is `topic`, or else its attribute `topic`, or else its `type`.
    ///
    /// ```
    /// use postrider::clock::UnixMicros;
    /// use postrider::event::Event;
    ///
    /// let json = br#"{"specversion": "1.0", "id": "7", "source": "/shop", "type": "com.example.order.paid", "data": {"total": 1.50}}"#;
    /// let event = Event::from_cloudevent(json, None, UnixMicros(0))?;
    /// assert_eq!((event.id(), event.topic().as_str()), ("/shop#7", "com.example.order.paid"));
    /// assert_eq!(
    ///     event.payload_json(),
    ///     r#"{"data":{"total":1.50},"id":"7","source":"/shop","specversion":"1.0","type":"com.example.order.paid"}"#
    /// );
    /// # Ok::<(), postrider::event::EventError>(())
    /// ```
    pub fn from_cloudevent(json: &[u8], topic: Option<&Topic>, now: UnixMicros) -> Result<Self, EventError> {
        check_size(json.len())?;
        let mut reader = Canonicaliser::new(json)?.inside(1);
        let is_object = reader.read_object()?;
        reader.finish()?;
        from_reader(&reader, is_object, topic, now)
    }

    /// A CloudEvent in binary mode: attributes in headers, the data as the body.
    pub fn from_binary_cloudevent(
        headers: &HeaderMap,
        body: &[u8],
        topic: Option<&Topic>,
        now: UnixMicros,
    ) -> Result<Self, EventError> {
        check_size(body.len())?;
        let mut members = attributes_of(headers)?;
        let content_type = headers.get(CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()));
        if let Some(content_type) = &content_type {
            members.push((Cow::Borrowed("datacontenttype"), Cow::Owned(quote(content_type))));
        }
        if !body.is_empty() {
            members.push(data_of(content_type.as_deref().unwrap_or_default(), body)?);
        }
        members.sort_unstable();
        from_members(members.into_iter(), topic, now)
    }
}

/// The event from the object that `reader` has just read.
pub(super) fn from_reader(
    reader: &Canonicaliser<'_>,
    is_object: bool,
    topic: Option<&Topic>,
    now: UnixMicros,
) -> Result<Event, EventError> {
    if !is_object {
        return Err(refused("event", "must be a JSON object"));
    }
    let members = reader.members().map(|(key, value)| (Cow::Borrowed(key), Cow::Borrowed(value)));
    from_members(members, topic, now)
}

/// The attributes of binary mode, as JSON strings.
fn attributes_of(headers: &HeaderMap) -> Result<Vec<Member<'static>>, EventError> {
    let mut members: Vec<Member<'static>> = Vec::new();
    for name in headers.keys() {
        let Some(attribute) = name.as_str().strip_prefix(HEADER_PREFIX) else { continue };
        if matches!(attribute, "data" | "datacontenttype") {
            return Err(refused(name.as_str(), "is no header: the data are the body, and Content-Type is theirs"));
        }
        let mut values = headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => {
                let text = unescaped(value.as_bytes()).ok_or_else(|| refused(attribute, "is not UTF-8"))?;
                members.push((Cow::Owned(attribute.to_owned()), Cow::Owned(quote(&text))));
            }
            _ => return Err(refused(attribute, "is given more than once")),
        }
    }
    Ok(members)
}

/// A header's value without quotes and percent-encoding (HTTP protocol binding, section 3.1.3.2); `None`: it is not UTF-8.
fn unescaped(value: &[u8]) -> Option<String> {
    let value = value.trim_ascii();
    let quoted = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
    let plain = quoted.map_or(Cow::Borrowed(value), |inside| {
        let (mut plain, mut bytes) = (Vec::with_capacity(inside.len()), inside.iter());
        while let Some(byte) = bytes.next() {
            let is_escape = *byte == b'\\';
            plain.extend(if is_escape { bytes.next() } else { Some(byte) });
        }
        Cow::Owned(plain)
    });
    percent_decode(&plain).decode_utf8().ok().map(Cow::into_owned)
}

/// The data of binary mode: JSON as it is, text as a string, anything else as base64.
fn data_of(content_type: &str, body: &[u8]) -> Result<Member<'static>, EventError> {
    let data = Cow::Borrowed("data");
    if is_json(content_type) {
        let mut reader = Canonicaliser::new(body)?.inside(2);
        reader.read()?;
        reader.finish()?;
        return Ok((data, Cow::Owned(reader.canonical().to_owned())));
    }
    match std::str::from_utf8(body) {
        Ok(text) if is_text(content_type) => Ok((data, Cow::Owned(quote(text)))),
        _ => Ok((Cow::Borrowed("data_base64"), Cow::Owned(quote(&STANDARD.encode(body))))),
    }
}

/// The attributes that make an event, as JSON strings.
#[derive(Default)]
struct Attributes {
    id: Option<Box<str>>,
    source: Option<Box<str>>,
    kind: Option<Box<str>>,
    specversion: Option<Box<str>>,
    topic: Option<Box<str>>,
    /// As JSON.
    time: Option<String>,
    has_data: bool,
}

/// `members` are in the order of their keys.
fn from_members<'a>(
    members: impl Iterator<Item = Member<'a>>,
    topic: Option<&Topic>,
    now: UnixMicros,
) -> Result<Event, EventError> {
    let mut found = Attributes::default();
    let mut payload = String::from("{");
    for (key, value) in members {
        match &*key {
            "data" | "data_base64" => found.note_data(&key, &value)?,
            // The same as one that is not there.
            _ if value == "null" => continue,
            _ => found.note(&key, &value)?,
        }
        if payload.len() > 1 {
            payload.push(',');
        }
        for part in ["\"", &key, "\":", &value] {
            payload.push_str(part);
        }
    }
    payload.push('}');
    check_size(payload.len())?;
    found.event(&payload, topic, now)
}

impl Attributes {
    fn note_data(&mut self, key: &str, value: &str) -> Result<(), EventError> {
        if std::mem::replace(&mut self.has_data, true) {
            return Err(refused("data_base64", "is there beside data; an event has one of them"));
        }
        let is_base64 = || value.starts_with('"') && STANDARD.decode(unquoted(value).as_bytes()).is_ok();
        if key == "data_base64" && !is_base64() {
            return Err(refused(key, "must be base64 with padding"));
        }
        Ok(())
    }

    fn note(&mut self, name: &str, value: &str) -> Result<(), EventError> {
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
            let name: String = name.chars().take(SHOWN_CHARS).collect();
            return Err(refused(&name, "is no name of an attribute: lower-case letters and digits alone make one"));
        }
        let is_integer = |text: &str| text.strip_prefix('-').unwrap_or(text).bytes().all(|byte| byte.is_ascii_digit());
        let is_simple = matches!(value, "true" | "false") || is_integer(value);
        match name {
            "id" => self.id = Some(text(name, value)?),
            "source" => self.source = Some(text(name, value)?),
            "type" => self.kind = Some(text(name, value)?),
            "specversion" => self.specversion = Some(text(name, value)?),
            "topic" => self.topic = Some(text(name, value)?),
            "time" => {
                let is_moment = is_rfc3339(&text(name, value)?);
                self.time = Some(value.to_owned()).filter(|_| is_moment);
                if !is_moment {
                    return Err(refused(name, "must be RFC 3339, as in \"2026-09-21T14:13:20Z\""));
                }
            }
            "subject" | "dataschema" | "datacontenttype" => _ = text(name, value)?,
            _ if value.starts_with('"') || is_simple => {}
            _ => return Err(refused(name, "must be a string, a whole number, true or false")),
        }
        Ok(())
    }

    fn event(self, payload: &str, topic: Option<&Topic>, now: UnixMicros) -> Result<Event, EventError> {
        let needed = |name: &str, value: Option<Box<str>>| value.ok_or_else(|| refused(name, "is required"));
        let version = needed("specversion", self.specversion)?;
        if &*version != SPECVERSION {
            let version: String = version.chars().take(SHOWN_CHARS).collect();
            return Err(refused("specversion", &format!("is {version:?}, must be \"{SPECVERSION}\"")));
        }
        let (id, source) = (needed("id", self.id)?, needed("source", self.source)?);
        let kind = needed("type", self.kind)?;
        check_kind(&kind)?;
        let topic = topic.map_or_else(|| topic_of(self.topic.as_deref(), &kind), |given| Ok(given.clone()))?;
        let id = event_id(&source, &id);
        let ts = match self.time {
            Some(time) => time,
            None => moment(Some(now))?,
        };
        let parts =
            CanonicalParts { id: &quote(&id), payload, topic: &quote(topic.as_str()), ts: &ts, kind: &quote(&kind) };
        Ok(Event { id: id.into(), body: parts.body(), topic, kind, options: None, hops: None, is_erased: false })
    }
}

/// Whether it is a moment as RFC 3339 writes it, section 5.6. The parser takes more forms of ISO 8601.
fn is_rfc3339(text: &str) -> bool {
    let has_form = |text: &str, form: &str| {
        let fits = |(byte, form): (u8, u8)| if form == b'0' { byte.is_ascii_digit() } else { byte == form };
        text.len() == form.len() && text.bytes().zip(form.bytes()).all(fits)
    };
    let upper = text.to_ascii_uppercase();
    let Some((seconds, rest)) = upper.split_at_checked("0000-00-00T00:00:00".len()) else { return false };
    let fraction = rest.strip_prefix('.').map_or(Some(rest), |digits| {
        let zone = digits.trim_start_matches(|c: char| c.is_ascii_digit());
        (zone.len() < digits.len()).then_some(zone)
    });
    let has_zone = |zone: &str| zone == "Z" || has_form(zone, "+00:00") || has_form(zone, "-00:00");
    has_form(seconds, "0000-00-00T00:00:00")
        && fraction.is_some_and(has_zone)
        && upper.parse::<jiff::Timestamp>().is_ok()
}

/// The text of an attribute, which is not empty.
fn text(name: &str, json: &str) -> Result<Box<str>, EventError> {
    if !json.starts_with('"') || json == "\"\"" {
        return Err(refused(name, "must be a string that is not empty"));
    }
    Ok(unquoted(json))
}

/// The topic that the attribute says, or the type with an underscore for each character that no topic may have.
fn topic_of(attribute: Option<&str>, kind: &str) -> Result<Topic, EventError> {
    if let Some(text) = attribute {
        return Ok(Topic::parse(text)?);
    }
    let is_fit = |c: char| c.is_ascii_graphic() && !matches!(c, '*' | '>');
    let text: String = kind.chars().map(|c| if is_fit(c) { c } else { '_' }).collect();
    Topic::parse(&text).map_err(|error| {
        refused("topic", &format!("the type makes none ({error}); say one by ?topic= or by an attribute `topic`"))
    })
}

/// `source#id`, percent-encoded where need be; or a hash, if that is too long for an id. Different pairs have different ids.
fn event_id(source: &str, id: &str) -> String {
    let plain = format!("{}#{}", utf8_percent_encode(source, &IN_SOURCE), utf8_percent_encode(id, &IN_ID));
    if plain.len() <= MAX_ID_BYTES {
        return plain;
    }
    let hash = Sha256::new()
        .chain_update((source.len() as u64).to_le_bytes())
        .chain_update(source.as_bytes())
        .chain_update(id.as_bytes())
        .finalize();
    let mut hashed = String::from("ce-sha256:");
    hex::push(&mut hashed, &hash);
    hashed
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMicros = UnixMicros(1_790_000_000_000_000);

    fn structured(json: &str) -> Result<Event, String> {
        Event::from_cloudevent(json.as_bytes(), None, NOW).map_err(|error| error.to_string())
    }

    fn with(attributes: &str) -> Result<Event, String> {
        structured(&format!(r#"{{"specversion":"1.0","id":"1","source":"/s","type":"t"{attributes}}}"#))
    }

    fn binary(headers: &[(&str, &str)], body: &[u8]) -> Result<Event, String> {
        let required = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")];
        let mut map = HeaderMap::new();
        for (name, value) in required.iter().chain(headers) {
            let name: http::HeaderName = name.parse().unwrap();
            map.append(name, http::HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        Event::from_binary_cloudevent(&map, body, None, NOW).map_err(|error| error.to_string())
    }

    fn payload(event: &Event) -> String {
        String::from_utf8(event.payload_json().to_vec()).unwrap()
    }

    #[test]
    fn all_of_a_cloudevent_is_kept_and_null_is_nothing() {
        let event = with(
            r#","time":"2026-09-21T14:13:20.50+02:00","subject":"a","dataschema":null,"traceparent":"00-ab","sampled":true,
               "n":-5,"data":{"b":1.0,"a":null}"#,
        )
        .unwrap();
        assert_eq!(
            payload(&event),
            r#"{"data":{"a":null,"b":1.0},"id":"1","n":-5,"sampled":true,"source":"/s","specversion":"1.0","subject":"a","time":"2026-09-21T14:13:20.50+02:00","traceparent":"00-ab","type":"t"}"#
        );
        let body = std::str::from_utf8(event.body()).unwrap();
        assert!(body.ends_with(r#","topic":"t","ts":"2026-09-21T14:13:20.50+02:00","type":"t","v":1}"#), "{body}");
        let again = Event::from_json(event.body(), NOW).unwrap();
        assert_eq!(again.body(), event.body(), "the body is canonical");
    }

    #[test]
    fn the_topic_is_said_by_the_publisher_or_by_the_type() {
        let topic = |attributes: &str| with(attributes).map(|event| event.topic().to_string());
        assert_eq!(topic("").as_deref(), Ok("t"));
        assert_eq!(topic(r#","topic":"orders.7""#).as_deref(), Ok("orders.7"));
        let asked = Topic::parse("asked").unwrap();
        let json = br#"{"specversion":"1.0","id":"1","source":"/s","type":"t","topic":"orders.7"}"#;
        assert_eq!(Event::from_cloudevent(json, Some(&asked), NOW).unwrap().topic(), &asked);
        assert!(topic(r#","topic":"a..b""#).unwrap_err().starts_with("topic: has an empty token"));
        let of_type =
            |kind: &str| topic_of(None, kind).map(|topic| topic.to_string()).map_err(|error| error.to_string());
        assert_eq!(of_type("com.example größe *>").as_deref(), Ok("com.example_gr__e___"));
        assert!(of_type("a..b").unwrap_err().contains("say one by ?topic="));
    }

    #[test]
    fn different_sources_and_ids_make_different_ids() {
        for (source, id, expected) in [
            ("/s", "1", "/s#1"),
            ("https://a/b#c", "d", "https://a/b%23c#d"),
            ("https://a/b", "c#d", "https://a/b#c#d"),
            ("/a b", "ü%", "/a%20b#%C3%BC%25"),
        ] {
            assert_eq!(event_id(source, id), expected);
        }
        let long = |length: usize| event_id("/s", &"x".repeat(length));
        assert_eq!(long(125).len(), MAX_ID_BYTES);
        assert_eq!(long(126).len(), "ce-sha256:".len() + 64);
        assert_ne!(long(126), long(127));
        assert_ne!(event_id(&"x".repeat(130), "ab"), event_id(&format!("{}a", "x".repeat(130)), "b"));
    }

    #[test]
    fn what_is_no_cloudevent_of_this_version_is_refused_with_its_attribute() {
        for (json, error) in [
            ("[]", "event: must be a JSON object"),
            ("{", "invalid JSON at byte 1: the text ends, expected a key in quotes"),
            (r#"{"id":"1","source":"/s","type":"t"}"#, "specversion: is required"),
            (r#"{"specversion":"0.3","id":"1","source":"/s","type":"t"}"#, "specversion: is \"0.3\", must be \"1.0\""),
            (r#"{"specversion":"1.0","source":"/s","type":"t"}"#, "id: is required"),
            (r#"{"specversion":"1.0","id":null,"source":"/s","type":"t"}"#, "id: is required"),
            (r#"{"specversion":"1.0","id":"","source":"/s","type":"t"}"#, "id: must be a string that is not empty"),
            (r#"{"specversion":"1.0","id":1,"source":"/s","type":"t"}"#, "id: must be a string that is not empty"),
            (
                r#"{"specversion":1.0,"id":"1","source":"/s","type":"t"}"#,
                "specversion: must be a string that is not empty",
            ),
        ] {
            assert_eq!(structured(json).unwrap_err(), error, "{json}");
        }
        for (attributes, error) in [
            (r#","Name":1"#, "Name: is no name of an attribute: lower-case letters and digits alone make one"),
            (r#","a_b":1"#, "a_b: is no name of an attribute: lower-case letters and digits alone make one"),
            (r#","n":1.5"#, "n: must be a string, a whole number, true or false"),
            (r#","n":{}"#, "n: must be a string, a whole number, true or false"),
            (r#","time":"yesterday""#, "time: must be RFC 3339, as in \"2026-09-21T14:13:20Z\""),
            (r#","data":1,"data_base64":"QQ==""#, "data_base64: is there beside data; an event has one of them"),
            (r#","data_base64":"QQ""#, "data_base64: must be base64 with padding"),
            (r#","data_base64":1"#, "data_base64: must be base64 with padding"),
            (r#","subject":"""#, "subject: must be a string that is not empty"),
        ] {
            assert_eq!(with(attributes).unwrap_err(), error, "{attributes}");
        }
    }

    #[test]
    fn a_time_is_written_as_rfc_3339_says() {
        for good in [
            "2026-09-21T14:13:20Z",
            "2026-09-21t14:13:20z",
            "2026-09-21T14:13:20.123456789+02:00",
            "2026-09-21T14:13:20-00:00",
            "2016-12-31T23:59:60Z",
        ] {
            assert!(is_rfc3339(good), "{good}");
        }
        for bad in [
            "2026-09-21 14:13:20Z",
            "2026-09-21T14:13:20",
            "2026-09-21T14:13Z",
            "2026-09-21T14:13:20.Z",
            "20260921T141320Z",
            "2026-09-21T14:13:20+0200",
            "2026-09-21T14:13:20+02",
            "2026-09-21T14:13:20Z[UTC]",
            "+002026-09-21T14:13:20Z",
            "2026-02-30T14:13:20Z",
            "2026-09-21T14:13:20,5Z",
            "2026-09-2\u{e9}T14:13:20Z",
        ] {
            assert!(!is_rfc3339(bad), "{bad}");
        }
    }

    #[test]
    fn binary_mode_makes_the_same_event() {
        let json =
            binary(&[("content-type", "application/json; charset=utf-8"), ("ce-subject", "a")], b"{\"n\": 1.50}")
                .unwrap();
        let same =
            with(r#","subject":"a","datacontenttype":"application/json; charset=utf-8","data":{"n":1.50}"#).unwrap();
        assert!(json.has_same_content(&same) && json.id() == same.id(), "{json:?}");
        let data = |content_type: &str, body: &[u8]| {
            let headers = [("content-type", content_type)];
            let payload = payload(&binary(&headers[..usize::from(!content_type.is_empty())], body).unwrap());
            payload.split_once(",\"id\"").map(|(before, _)| before.to_owned()).unwrap()
        };
        assert_eq!(data("text/xml", b"<a/>"), r#"{"data":"<a/>","datacontenttype":"text/xml""#);
        assert_eq!(data("text/plain", b"\xff"), r#"{"data_base64":"/w==","datacontenttype":"text/plain""#);
        assert_eq!(data("image/png", b"A"), r#"{"data_base64":"QQ==","datacontenttype":"image/png""#);
        assert_eq!(data("", b"A"), r#"{"data_base64":"QQ==""#);
        assert_eq!(data("application/json", b""), r#"{"datacontenttype":"application/json""#);
        assert!(binary(&[("content-type", "application/json")], b"{").unwrap_err().starts_with("invalid JSON"));
    }

    #[test]
    fn headers_are_unquoted_and_then_decoded_once() {
        for (value, text) in [
            ("plain", "plain"),
            ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
            ("%2525", "%25"),
            (r#""a \"b\" \\ c""#, r#"a "b" \ c"#),
            (r#""%22""#, "\""),
            ("100%", "100%"),
            ("\"", "\""),
        ] {
            let event = binary(&[("ce-subject", value)], b"").unwrap();
            let found: &str = &payload(&event);
            assert!(found.contains(&format!(r#""subject":{}"#, quote(text))), "{value}: {found}");
        }
        assert_eq!(binary(&[("ce-subject", "%FF")], b"").unwrap_err(), "subject: is not UTF-8");
        assert_eq!(binary(&[("ce-id", "2")], b"").unwrap_err(), "id: is given more than once");
        assert!(
            binary(&[("ce-datacontenttype", "a/b")], b"").unwrap_err().starts_with("ce-datacontenttype: is no header")
        );
        assert!(binary(&[("ce-my-name", "b")], b"").unwrap_err().starts_with("my-name: is no name"));
    }

    #[test]
    fn data_that_grow_beyond_the_limit_are_too_large() {
        let body = vec![0xff; 900 * 1024];
        assert!(binary(&[], &body).unwrap_err().contains("the limit is 1048576"));
    }
}
