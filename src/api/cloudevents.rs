//! How a publisher's request carries its events: in our own JSON, or as CloudEvents.

use std::collections::BTreeMap;

use axum::http::HeaderMap;
use serde::Deserialize;
use utoipa::ToSchema;

use super::input::{JSON, Params, media_type};
use super::problem::Problem;
use crate::clock::UnixMicros;
use crate::event::{Event, EventError, SPECVERSION_HEADER};
use crate::topic::Topic;

pub(super) const STRUCTURED: &str = "application/cloudevents+json";
pub(super) const BATCH: &str = "application/cloudevents-batch+json";

/// What the body of a request to `/events` is.
pub(super) enum Form {
    /// Our own JSON.
    Event,
    /// A CloudEvent in structured mode.
    Structured,
    /// Several of them.
    Batch,
    /// The data of a CloudEvent in binary mode, whose attributes are these headers.
    Binary(HeaderMap),
}

impl Form {
    /// By the content type, and by a header that no other request has.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        match media_type(headers, &[JSON, STRUCTURED, BATCH]) {
            Ok(STRUCTURED) => Ok(Self::Structured),
            Ok(BATCH) => Ok(Self::Batch),
            _ if headers.contains_key(SPECVERSION_HEADER) => Ok(Self::Binary(headers.clone())),
            Ok(_) => Ok(Self::Event),
            Err(problem) => Err(problem),
        }
    }

    /// The query's `topic`, which only CloudEvents have.
    pub(super) fn topic(&self, params: &mut Params) -> Option<Topic> {
        match self {
            Self::Event => None,
            _ => topic(params),
        }
    }

    /// The event of a body that is no batch.
    pub(super) fn event(&self, body: &[u8], topic: Option<&Topic>, now: UnixMicros) -> Result<Event, EventError> {
        match self {
            Self::Event | Self::Batch => Event::from_json(body, now),
            Self::Structured => Event::from_cloudevent(body, topic, now),
            Self::Binary(headers) => Event::from_binary_cloudevent(headers, body, topic, now),
        }
    }
}

pub(super) fn topic(params: &mut Params) -> Option<Topic> {
    params.take("topic", |text| Topic::parse(text).map_err(|error| error.to_string()))
}

/// A CloudEvent 1.0 in the JSON event format. The payload of the event is all of it.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({
    "specversion": "1.0",
    "id": "A234-1234-1234",
    "source": "https://shop.example/orders",
    "type": "com.example.order.paid",
    "time": "2026-09-21T14:13:20Z",
    "data": {"order": 17, "total": 49.90}
}))]
#[expect(dead_code, reason = "documents what `Event::from_cloudevent` reads, which keeps the digits of numbers")]
pub(super) struct CloudEvent {
    /// `1.0`.
    specversion: String,
    /// With `source` it is the id of the event: `source#id`, or a hash of them if that has more than 128 bytes.
    #[schema(min_length = 1)]
    id: String,
    #[schema(min_length = 1)]
    source: String,
    /// The event's type, and its topic unless another is said.
    #[schema(min_length = 1, max_length = 255)]
    r#type: String,
    /// An extension: the event's topic, unless the query has one.
    #[schema(min_length = 1, max_length = 255)]
    topic: Option<String>,
    /// RFC 3339: the event's `ts`; now, if it is not given.
    time: Option<String>,
    #[schema(min_length = 1)]
    subject: Option<String>,
    #[schema(min_length = 1)]
    dataschema: Option<String>,
    #[schema(min_length = 1)]
    datacontenttype: Option<String>,
    /// Any JSON; digits of numbers are kept.
    data: Option<serde_json::Value>,
    /// In place of `data`: bytes.
    data_base64: Option<String>,
    /// Extensions: strings, whole numbers, `true` and `false`.
    #[serde(flatten)]
    extensions: BTreeMap<String, serde_json::Value>,
}
