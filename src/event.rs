//! Events: what a publisher may send, within which limits, and the canonical
//! body that is signed, stored and sent.

mod batch;
mod canonical;
mod cloudevent;
mod hops;
pub(crate) mod media;
mod options;
mod timestamp;

use std::borrow::Cow;

use bytes::Bytes;
#[cfg(feature = "server")]
use sha2::{Digest, Sha256};
use uuid::Uuid;

use self::canonical::{Canonicaliser, quote, unescaped};
pub use self::cloudevent::SPECVERSION_HEADER;
pub use self::hops::{HOPS_HEADER, HopError, Hops, Instance, MAX_HOPS, MAX_VIA, Stamp};
pub use self::options::{DeliveryOptions, MAX_DELIVERY_DELAY, MAX_DIRECTED_WEBHOOKS};

use crate::clock::UnixMicros;
use crate::topic::{Topic, TopicError};

/// The largest event accepted, in bytes of JSON as received.
pub const MAX_EVENT_BYTES: usize = 1024 * 1024;
/// The largest batch accepted, in bytes as received.
pub const MAX_BATCH_BYTES: usize = 16 * 1024 * 1024;
/// The most events in a batch.
pub const MAX_BATCH_EVENTS: usize = 1_000;
/// The deepest nesting of arrays and objects, the event's own object included.
pub const MAX_DEPTH: usize = 128;
/// The longest event id, in bytes of visible ASCII (it travels in a header).
pub const MAX_ID_BYTES: usize = 128;
/// The longest event type, in bytes of UTF-8.
pub const MAX_TYPE_BYTES: usize = 255;

/// The parts of an event.
pub(crate) struct EventParts<'a> {
    /// `None`: a new UUID v7.
    pub(crate) id: Option<&'a str>,
    pub(crate) topic: Topic,
    pub(crate) kind: &'a str,
    /// Seconds since 1970, as a number of JSON; `None`: now.
    pub(crate) ts: Option<&'a str>,
    /// JSON text.
    pub(crate) payload: &'a [u8],
}

/// A validated event, with the bytes that are signed and sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    id: Box<str>,
    topic: Topic,
    kind: Box<str>,
    body: Bytes,
    options: Option<Box<DeliveryOptions>>,
    hops: Option<Box<Hops>>,
    /// It came from a store that has its body no more.
    is_erased: bool,
}

/// JSON as Postrider signs it: no spaces, keys sorted by their UTF-8 bytes, numbers with the digits they came with.
pub fn canonical_json(json: &[u8]) -> Result<String, EventError> {
    check_size(json.len())?;
    let mut reader = Canonicaliser::new(json)?;
    reader.read()?;
    reader.finish()?;
    Ok(reader.canonical().to_owned())
}

/// The reason why bytes are no event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// Not JSON (RFC 8259), or JSON that Postrider refuses: duplicate keys, lone surrogates, invalid UTF-8, too deep.
    /// Answered with 400.
    #[error("invalid JSON at byte {at}: {reason}")]
    Json { at: usize, reason: String },
    /// More than [`MAX_EVENT_BYTES`]. Answered with 413.
    #[error("the event is {length} bytes long, the limit is {limit}")]
    TooLarge { length: usize, limit: usize },
    /// A field is missing, unknown, of the wrong type, or out of its limits. Answered with 422.
    #[error("{field}: {reason}")]
    Field { field: String, reason: String },
    #[error("topic: {0}")]
    Topic(#[from] TopicError),
}

/// The reason why a whole batch was refused: its first bad event, counted from 0.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    #[error("event {index}: {error}")]
    Event { index: usize, error: EventError },
    #[error("the batch is no JSON array: {0}")]
    NotAnArray(EventError),
    #[error("the batch is empty")]
    Empty,
    #[error("the batch has more than {limit} events")]
    TooManyEvents { limit: usize },
    #[error("the batch is {length} bytes long, the limit is {limit}")]
    TooLarge { length: usize, limit: usize },
}

impl Event {
    /// Parses one event as a publisher sends it: `{"topic", "type"?, "id"?, "ts"?, "payload"?, "v"?}`, and
    /// `"deliver_at"?` and `"webhooks"?`, which say what a server is to do with it.
    ///
    /// Absent, `null` and empty are the same for `type`, `id` and `ts`: no type, a new UUID v7, and `now`. Absent and
    /// `null` are the same for all else but `topic`.
    ///
    /// ```
    /// use postrider::clock::UnixMicros;
    /// use postrider::event::Event;
    ///
    /// let json = br#"{ "topic": "door.opened", "id": "e-1", "ts": 1.5, "payload": {"b": 1.0, "a": []} }"#;
    /// let event = Event::from_json(json, UnixMicros(0))?;
    /// assert_eq!(
    ///     event.body(),
    ///     r#"{"id":"e-1","payload":{"a":[],"b":1.0},"topic":"door.opened","ts":"1970-01-01T00:00:01.500000+00:00","type":"","v":1}"#
    /// );
    /// # Ok::<(), postrider::event::EventError>(())
    /// ```
    pub fn from_json(json: &[u8], now: UnixMicros) -> Result<Self, EventError> {
        check_size(json.len())?;
        let mut reader = Canonicaliser::new(json)?;
        let is_object = reader.read_object()?;
        reader.finish()?;
        Self::from_reader(&reader, is_object, now)
    }

    /// An event made in this process; `payload` is JSON text. Id and `ts` are filled in.
    pub fn new(topic: Topic, kind: &str, payload: &str, now: UnixMicros) -> Result<Self, EventError> {
        Self::from_parts(EventParts { id: None, topic, kind, ts: None, payload: payload.as_bytes() }, now)
    }

    /// An event whose parts did not come in one JSON object.
    pub(crate) fn from_parts(parts: EventParts<'_>, now: UnixMicros) -> Result<Self, EventError> {
        let EventParts { id, topic, kind, ts, payload } = parts;
        check_size(payload.len())?;
        let mut reader = Canonicaliser::new(payload)?.inside(1);
        reader.read()?;
        reader.finish()?;
        check_kind(kind)?;
        let id = match id {
            Some(id) => {
                check_id(id)?;
                quote(id)
            }
            None => new_id(now),
        };
        let ts = moment(ts.map_or(Some(now), timestamp::from_epoch_seconds))?;
        let payload = reader.canonical();
        let canonical = CanonicalParts { id: &id, payload, topic: &quote(topic.as_str()), ts: &ts, kind: &quote(kind) };
        Ok(Self {
            id: unquoted(&id),
            body: canonical.body(),
            topic,
            kind: kind.into(),
            options: None,
            hops: None,
            is_erased: false,
        })
    }

    /// The event from the object that `reader` has just read.
    fn from_reader(reader: &Canonicaliser<'_>, is_object: bool, now: UnixMicros) -> Result<Self, EventError> {
        if !is_object {
            return Err(refused("event", "must be a JSON object"));
        }
        let fields = Fields::of(reader)?;
        let topic = string("topic", fields.topic.ok_or_else(|| refused("topic", "is required"))?)?;
        let topic_value = Topic::parse(&unquoted(topic))?;
        let kind = match fields.kind {
            None | Some("null") => "\"\"",
            Some(text) => string("type", text)?,
        };
        let kind_value = unquoted(kind);
        check_kind(&kind_value)?;
        let id = match fields.id {
            None | Some("null" | "\"\"") => Cow::Owned(new_id(now)),
            Some(text) => Cow::Borrowed(string("id", text)?),
        };
        let id_value = unquoted(&id);
        check_id(&id_value)?;
        let ts = match fields.ts {
            None | Some("null" | "\"\"") => Cow::Owned(moment(Some(now))?),
            Some(number) if number.starts_with(is_number_start) => {
                Cow::Owned(moment(timestamp::from_epoch_seconds(number))?)
            }
            Some(text) if text.starts_with('"') => Cow::Borrowed(text),
            Some(_) => return Err(refused("ts", "must be a string or a number")),
        };
        // The digits are kept as given, so `1.0` must count as the same number.
        let is_one = |version: &str| version == "null" || version.parse() == Ok(1.0_f64);
        if fields.version.is_some_and(|version| !is_one(version)) {
            return Err(refused("v", "must be 1"));
        }
        let options = DeliveryOptions::parse(fields.deliver_at, fields.webhooks, now)?;
        let payload = fields.payload.unwrap_or("{}");
        let body = CanonicalParts { id: &id, payload, topic, ts: &ts, kind }.body();
        Ok(Self { id: id_value, topic: topic_value, kind: kind_value, body, options, hops: None, is_erased: false })
    }

    /// An event as a store read it back; the parts were validated when it was accepted.
    #[must_use]
    pub fn from_stored(id: Box<str>, topic: Topic, kind: Box<str>, body: Bytes) -> Self {
        Self { id, topic, kind, body, options: None, hops: None, is_erased: false }
    }

    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.topic
    }
    /// The event's `type`.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }
    /// The canonical body: the bytes that are stored.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The same, without a payload because that was erased.
    #[cfg(feature = "server")]
    pub(crate) fn erased(self) -> Self {
        Self { is_erased: true, ..self }
    }

    /// Whether its payload was erased from the store it comes from. It has no body, and is never sent.
    #[must_use]
    pub fn is_erased(&self) -> bool {
        self.is_erased
    }

    /// The body that is signed and sent unless a webhook has a shape: the canonical one, in which a payload that Python
    /// calls false (`null`, `false`, `0`, `""`, `[]`) is `{}`. The original client sends it so.
    #[must_use]
    pub fn decnet_body(&self) -> Bytes {
        let (start, end) = self.payload_range();
        if !is_false_in_python(&self.body[start..end]) {
            return self.body.clone();
        }
        [&self.body[..start], b"{}", &self.body[end..]].concat().into()
    }

    /// What its publisher asks of its deliveries; not kept in a store, which has its deliveries.
    #[must_use]
    pub fn options(&self) -> Option<&DeliveryOptions> {
        self.options.as_deref()
    }

    /// The same event, having passed through other servers.
    #[must_use]
    pub fn with_hops(self, hops: Option<Hops>) -> Self {
        Self { hops: hops.map(Box::new), ..self }
    }

    /// The servers that the event passed through before it was accepted; `None`: it came from its publisher.
    #[must_use]
    pub fn hops(&self) -> Option<&Hops> {
        self.hops.as_deref()
    }

    /// The payload in its canonical form, as it lies in the body.
    #[must_use]
    pub fn payload_json(&self) -> Bytes {
        let (start, end) = self.payload_range();
        self.body.slice(start..end)
    }

    /// Whether an event with the same id is the same: `ts` may differ, because a publisher that leaves it out gets
    /// another one each time.
    #[must_use]
    pub fn has_same_content(&self, other: &Self) -> bool {
        self.topic == other.topic && self.kind == other.kind && self.payload_json() == other.payload_json()
    }

    /// Where the payload begins and ends in the body.
    fn payload_range(&self) -> (usize, usize) {
        const BEFORE: &[u8] = b",\"payload\":";
        // Quotes inside strings are escaped, so neither key can be part of a string: the first
        // occurrence of one and the last of the other are the event's own.
        let start = memchr::memmem::find(&self.body, BEFORE).map_or(0, |at| at + BEFORE.len());
        let end = memchr::memmem::rfind(&self.body, b",\"topic\":").unwrap_or(start);
        (start, end.max(start))
    }
}

/// An event's fields in their canonical form; `None` is absent.
#[derive(Default)]
struct Fields<'a> {
    id: Option<&'a str>,
    payload: Option<&'a str>,
    topic: Option<&'a str>,
    ts: Option<&'a str>,
    kind: Option<&'a str>,
    version: Option<&'a str>,
    deliver_at: Option<&'a str>,
    webhooks: Option<&'a str>,
}

impl<'a> Fields<'a> {
    fn of(reader: &'a Canonicaliser<'_>) -> Result<Self, EventError> {
        /// The longest part of an unknown field's name in an error, in characters.
        const SHOWN_CHARS: usize = 64;
        let mut fields = Self::default();
        for (key, value) in reader.members() {
            let field = match key {
                "id" => &mut fields.id,
                "payload" => &mut fields.payload,
                "topic" => &mut fields.topic,
                "ts" => &mut fields.ts,
                "type" => &mut fields.kind,
                "v" => &mut fields.version,
                "deliver_at" => &mut fields.deliver_at,
                "webhooks" => &mut fields.webhooks,
                _ => {
                    let field = unescaped(key).take(SHOWN_CHARS).collect();
                    return Err(EventError::Field { field, reason: "unknown field".to_owned() });
                }
            };
            *field = Some(value);
        }
        Ok(fields)
    }
}

/// The values of a body, each as canonical JSON.
struct CanonicalParts<'a> {
    id: &'a str,
    payload: &'a str,
    topic: &'a str,
    ts: &'a str,
    kind: &'a str,
}

impl CanonicalParts<'_> {
    fn body(&self) -> Bytes {
        let parts = [
            "{\"id\":",
            self.id,
            ",\"payload\":",
            self.payload,
            ",\"topic\":",
            self.topic,
            ",\"ts\":",
            self.ts,
            ",\"type\":",
            self.kind,
            ",\"v\":1}",
        ];
        Bytes::from(parts.concat())
    }
}

fn refused(field: &str, reason: &str) -> EventError {
    EventError::Field { field: field.to_owned(), reason: reason.to_owned() }
}

fn check_size(length: usize) -> Result<(), EventError> {
    let limit = MAX_EVENT_BYTES;
    if length > limit { Err(EventError::TooLarge { length, limit }) } else { Ok(()) }
}

fn check_kind(kind: &str) -> Result<(), EventError> {
    if kind.len() > MAX_TYPE_BYTES {
        return Err(refused("type", &format!("is {} bytes long, the limit is {MAX_TYPE_BYTES}", kind.len())));
    }
    Ok(())
}

fn check_id(id: &str) -> Result<(), EventError> {
    if id.len() > MAX_ID_BYTES {
        return Err(refused("id", &format!("is {} bytes long, the limit is {MAX_ID_BYTES}", id.len())));
    }
    if !id.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(refused("id", "must be visible ASCII without spaces: it travels in a header"));
    }
    Ok(())
}

/// An id as events have it: visible ASCII within the limit. Another text is hashed, so that it is the same again when it
/// comes again.
#[cfg(feature = "server")]
pub(crate) fn fit_id(text: String) -> String {
    if text.len() <= MAX_ID_BYTES && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return text;
    }
    let mut hashed = String::from("sha256:");
    crate::hex::push(&mut hashed, &Sha256::digest(text.as_bytes()));
    hashed
}

/// A new UUID v7, as JSON.
fn new_id(now: UnixMicros) -> String {
    // A clock before 1970 gives ids of 1970, which are unique all the same.
    let since_epoch = now.since(UnixMicros(0));
    let time = uuid::Timestamp::from_unix(uuid::NoContext, since_epoch.as_secs(), since_epoch.subsec_nanos());
    quote(Uuid::new_v7(time).hyphenated().encode_lower(&mut Uuid::encode_buffer()))
}

/// `ts` as JSON.
fn moment(moment: Option<UnixMicros>) -> Result<String, EventError> {
    let text = moment.and_then(timestamp::iso).ok_or_else(|| refused("ts", "is outside the years 1 to 9999"))?;
    Ok(format!("\"{text}\""))
}

/// Of a payload in its canonical form: `bool(payload)` of Python is false.
fn is_false_in_python(payload: &[u8]) -> bool {
    let is_zero = || {
        let mantissa = payload.split(|byte| matches!(byte, b'e' | b'E')).next().unwrap_or_default();
        !mantissa.is_empty() && mantissa.iter().all(|byte| matches!(byte, b'-' | b'0' | b'.'))
    };
    matches!(payload, b"null" | b"false" | b"\"\"" | b"[]" | b"{}") || is_zero()
}

fn is_number_start(c: char) -> bool {
    c == '-' || c.is_ascii_digit()
}

/// The canonical `json` if it is a string.
fn string<'a>(field: &str, json: &'a str) -> Result<&'a str, EventError> {
    if json.starts_with('"') { Ok(json) } else { Err(refused(field, "must be a string")) }
}

/// The text of a canonical JSON string.
fn unquoted(json: &str) -> Box<str> {
    let inside = &json[1..json.len() - 1];
    if inside.contains('\\') { unescaped(inside).collect() } else { inside.into() }
}

/// A key of a JSON object and its value, both as text.
pub(crate) type Member = (Box<str>, Box<str>);

/// The members of a JSON object as text: strings without quotes and escapes, other values in canonical form. For small
/// answers of other servers; parsed as strictly as an event.
pub(crate) fn object_members(json: &[u8]) -> Result<Vec<Member>, EventError> {
    let members = json_members(json)?;
    Ok(members.into_iter().map(|(key, value)| (key, text_of(&value))).collect())
}

/// The members of a JSON object, with their values in canonical form. Parsed as strictly as an event.
pub(crate) fn json_members(json: &[u8]) -> Result<Vec<Member>, EventError> {
    let mut reader = Canonicaliser::new(json)?;
    if !reader.read_object()? {
        return Err(EventError::Json { at: 0, reason: "is no object".to_owned() });
    }
    reader.finish()?;
    Ok(reader.members().map(|(key, value)| (unescaped(key).collect(), value.into())).collect())
}

/// Of a canonical value: the text of a string, another value as it is.
pub(crate) fn text_of(canonical: &str) -> Box<str> {
    if canonical.starts_with('"') { unquoted(canonical) } else { canonical.into() }
}

#[cfg(test)]
mod tests;
