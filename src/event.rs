//! Events: what a publisher may send, within which limits, and the canonical
//! body that is signed, stored and sent.

use bytes::Bytes;

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

/// Something that happened, validated, with the bytes that will be signed and sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    id: Box<str>,
    topic: Topic,
    kind: Box<str>,
    body: Bytes,
}

/// Why bytes are no event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// Not JSON as RFC 8259 has it, or JSON that Postrider refuses: duplicate keys,
    /// lone surrogates, invalid UTF-8, too deep. Answered with 400.
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

/// Why a batch was refused, whole: the first bad event, counted from 0.
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
    /// Parses one event as a publisher sends it: `{"topic", "type"?, "id"?, "ts"?, "payload"?, "v"?}`.
    pub fn from_json(json: &[u8], now: UnixMicros) -> Result<Self, EventError> {
        let _ = (json, now);
        todo!()
    }

    /// An event made in this process; `payload` is JSON text. Id and `ts` are filled in.
    pub fn new(topic: Topic, kind: &str, payload: &str, now: UnixMicros) -> Result<Self, EventError> {
        let _ = (topic, kind, payload, now);
        todo!()
    }

    /// A batch as a JSON array of events.
    pub fn batch_from_json(json: &[u8], now: UnixMicros) -> Result<Vec<Self>, BatchError> {
        let _ = (json, now);
        todo!()
    }

    /// A batch as newline-delimited JSON; blank lines are passed over.
    pub fn batch_from_ndjson(lines: &[u8], now: UnixMicros) -> Result<Vec<Self>, BatchError> {
        let _ = (lines, now);
        todo!()
    }

    /// An event as a store read it back; the parts were validated when it was accepted.
    #[must_use]
    pub fn from_stored(id: Box<str>, topic: Topic, kind: Box<str>, body: Bytes) -> Self {
        Self { id, topic, kind, body }
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
    /// The canonical body: the bytes that are signed, stored and sent.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }
}
