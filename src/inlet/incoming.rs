//! A request of a sender, and the event that is made of it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde::Serialize;
use serde_json::value::RawValue;

use super::sender::Sender;
use super::settings::InletSettings;
use crate::clock::UnixMicros;
use crate::event::media::is_json;
use crate::event::{Event, EventError, EventParts, canonical_json, fit_id};
use crate::mapping::{Lookup, MappingError, Pointer, Reading, Template};
use crate::signing::{Head, ReceiverKey, Unverified, verify};

/// A request that came in at an inlet.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'a> {
    pub method: &'a str,
    /// What follows the inlet in the path: empty, or with a slash before it.
    pub path: &'a str,
    /// Without the question mark.
    pub query: &'a str,
    pub headers: &'a HeaderMap,
    pub body: &'a [u8],
}

/// The reason why a request makes no event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InletError {
    #[error("{field}: {error}")]
    Mapping { field: &'static str, error: MappingError },
    #[error(transparent)]
    Event(#[from] EventError),
}

impl Lookup for Incoming<'_> {
    /// A header that is there more than once is none.
    fn attribute(&self, name: &str) -> Option<Cow<'_, str>> {
        match name.split_once('.') {
            None if name == "method" => Some(Cow::Borrowed(self.method)),
            None if name == "path" => Some(Cow::Borrowed(self.path)),
            Some(("header", name)) => {
                let mut values = self.headers.get_all(name).iter();
                let value = values.next().filter(|_| values.next().is_none())?;
                std::str::from_utf8(value.as_bytes()).ok().map(Cow::Borrowed)
            }
            Some(("query", name)) => {
                let mut pairs = url::form_urlencoded::parse(self.query.as_bytes());
                pairs.find(|(found, _)| found == name).map(|(_, value)| value)
            }
            _ => None,
        }
    }

    fn body(&self) -> &[u8] {
        self.body
    }
}

impl InletSettings {
    /// Whether the request is from the inlet's sender. A token of this server is not looked at here. `target` is the path
    /// with the query as it was asked for.
    pub fn verify(&self, request: &Incoming<'_>, target: &str, now: UnixMicros) -> Result<(), Unverified> {
        let Sender::Signing { plan, secrets } = &self.sender else { return Ok(()) };
        let keys: Vec<ReceiverKey> = secrets.iter().map(|(_, key)| key.clone()).collect();
        let head = Head { method: request.method, path: target, headers: request.headers };
        verify(plan, &keys, head, request.body, now, self.tolerance_s).map(drop)
    }

    /// The text that Slack wants back before it sends (`url_verification`); `None`: the request is another.
    #[must_use]
    pub fn challenge(&self, request: &Incoming<'_>) -> Option<String> {
        if !self.sender.is_slack() || memchr::memmem::find(request.body, b"url_verification").is_none() {
            return None;
        }
        let reading = Reading::new(request);
        let at = |pointer: &str| reading.json(&Pointer::parse(pointer).ok()?).ok();
        let challenge = at("/challenge").filter(|_| at("/type") == Some("\"url_verification\""))?;
        serde_json::from_str(challenge).ok()
    }

    /// The event that the request is.
    pub fn event(&self, request: &Incoming<'_>, now: UnixMicros) -> Result<Event, InletError> {
        let reading = Reading::new(request);
        let topic = reading.topic(&self.topic).map_err(|error| InletError::Mapping { field: "topic", error })?;
        let kind = value("type", &reading, self.kind.as_ref(), self.sender.known_kind())?;
        let id = value("id", &reading, self.id.as_ref(), self.sender.known_id())?;
        // Whoever may send here must not take an id that an event of another sender will have.
        let scoped = |id| if self.sender == Sender::Anyone { format!("{}/{id}", self.name) } else { id };
        let id = id.map(|id| fit_id(scoped(id)));
        let payload = self.payload(request)?;
        let parts = EventParts {
            id: id.as_deref(),
            topic,
            kind: kind.as_deref().unwrap_or_default(),
            ts: None,
            payload: &payload,
        };
        Ok(Event::from_parts(parts, now)?)
    }

    /// The body itself if it is JSON and nothing else is kept; otherwise an object with the body and what is kept.
    fn payload(&self, request: &Incoming<'_>) -> Result<Vec<u8>, InletError> {
        let keep = &self.keep;
        let content_type = request.headers.get(CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()));
        let is_json = content_type.as_deref().is_some_and(is_json);
        // In its canonical form it can be put into an object: what is no JSON cannot reach beyond its place.
        let json = is_json.then(|| canonical_json(request.body)).transpose()?;
        let body = match json {
            Some(json) if keep.is_nothing() => return Ok(json.into_bytes()),
            Some(json) if !keep.bytes => RawValue::from_string(json).ok(),
            _ => None,
        };
        let body_base64 = body.is_none().then(|| STANDARD.encode(request.body));
        let headers = (!keep.headers.is_empty()).then(|| kept_headers(keep.headers.iter(), request.headers));
        let kept = Kept {
            body,
            body_base64,
            content_type,
            headers,
            method: keep.method.then_some(request.method),
            path: keep.path.then_some(request.path),
            query: keep.query.then_some(request.query),
        };
        serde_json::to_vec(&kept)
            .map_err(|error| EventError::Field { field: "payload".to_owned(), reason: error.to_string() }.into())
    }
}

/// The payload of a request of which more is kept than a body of JSON.
#[derive(Serialize)]
struct Kept<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<BTreeMap<&'a str, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    query: Option<&'a str>,
}

/// Values of one header are joined as one list (RFC 9110, section 5.3).
fn kept_headers<'a>(
    names: impl Iterator<Item = &'a http::HeaderName>,
    headers: &HeaderMap,
) -> BTreeMap<&'a str, String> {
    let text = |name: &http::HeaderName| {
        let values = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
        values.collect::<Vec<_>>().join(", ")
    };
    names.filter(|name| headers.contains_key(*name)).map(|name| (name.as_str(), text(name))).collect()
}

/// What `own` makes, which the request must have; or what the sender is known to say, if it says it.
fn value(
    field: &'static str,
    reading: &Reading<'_, Incoming<'_>>,
    own: Option<&Template>,
    known: Option<&str>,
) -> Result<Option<String>, InletError> {
    let failed = |error| InletError::Mapping { field, error };
    match (own, known) {
        (Some(template), _) => {
            let text = reading.render(template).map_err(failed)?;
            if text.is_empty() { Err(failed(MappingError::Empty)) } else { Ok(Some(text)) }
        }
        (None, Some(known)) => {
            let text = Template::parse(known).and_then(|template| reading.render(&template)).ok();
            Ok(text.filter(|text| !text.is_empty()))
        }
        (None, None) => Ok(None),
    }
}
