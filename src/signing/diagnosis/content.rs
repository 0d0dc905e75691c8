//! What may have been signed: the forms of the content, and the bodies that this one may have been.

use std::borrow::Cow;

use http::HeaderMap;

use super::cause::{BodyChange, Cause};
use crate::event::canonical_json;
use crate::signing::verify::required;
use crate::signing::{Scheme, header};

const BODY_ALONE: &str = "the body alone";
const FULL: &str = "id.timestamp.body";

/// The part of the signed content before the body.
pub(super) struct Prefix {
    pub(super) text: String,
    pub(super) cause: Option<Cause>,
}

/// A body that may be the one that was signed.
pub(super) struct Body<'a> {
    pub(super) bytes: Cow<'a, [u8]>,
    pub(super) cause: Option<Cause>,
}

impl<'a> Body<'a> {
    pub(super) fn as_it_came(body: &'a [u8]) -> Self {
        Self { bytes: Cow::Borrowed(body), cause: None }
    }
}

/// The candidates for the prefix, the right one first.
pub(super) fn prefixes(headers: &HeaderMap, body: &[u8], scheme: Scheme) -> Vec<Prefix> {
    let id = required(headers, header::WEBHOOK_ID).ok();
    let timestamp = required(headers, header::WEBHOOK_TIMESTAMP).ok();
    let event_id = required(headers, header::DECNET_EVENT_ID).ok();
    let decnet_timestamp = required(headers, header::DECNET_TIMESTAMP).ok();
    let expected = if scheme == Scheme::Decnet { BODY_ALONE } else { FULL };
    let mut prefixes = Vec::new();
    let mut push = |text: String, cause| prefixes.push(Prefix { text, cause });
    let content = |signed| (signed != expected).then_some(Cause::Content { signed, expected });
    if scheme == Scheme::Decnet {
        push(String::new(), None);
    }
    if let (Some(id), Some(timestamp)) = (id, timestamp) {
        push(format!("{id}.{timestamp}."), content(FULL));
    }
    if scheme != Scheme::Decnet {
        push(String::new(), content(BODY_ALONE));
    }
    if let Some(timestamp) = timestamp.or(decnet_timestamp) {
        push(format!("{timestamp}."), content("timestamp.body"));
        push(timestamp.to_owned(), content("timestamp and body without a full stop between"));
    }
    if let Some(id) = id {
        push(format!("{id}."), content("id.body"));
    }
    if let (Some(id), Some(timestamp)) = (id, timestamp) {
        push(format!("{timestamp}.{id}."), content("timestamp.id.body"));
        push(format!("{id}{timestamp}"), content("id, timestamp and body without full stops between"));
        if scheme != Scheme::Decnet {
            let mut other_id = |other: &str, name| push(format!("{other}.{timestamp}."), Some(Cause::OtherId(name)));
            if let Some(event_id) = event_id {
                other_id(event_id, header::DECNET_EVENT_ID);
            }
            if let Some(event_id) = body_id(body) {
                other_id(event_id, "the event's id in the body");
            }
            for (name, other) in other_timestamps(timestamp, decnet_timestamp) {
                push(format!("{id}.{other}."), Some(Cause::OtherTimestamp(name)));
            }
        }
    }
    prefixes
}

fn other_timestamps(timestamp: &str, decnet_timestamp: Option<&str>) -> Vec<(&'static str, String)> {
    let mut others = Vec::new();
    others.extend(decnet_timestamp.map(|other| (header::DECNET_TIMESTAMP, other.to_owned())));
    if let Ok(number) = timestamp.parse::<i64>() {
        others.extend(number.checked_mul(1_000).map(|ms| ("the same time in milliseconds", ms.to_string())));
        others.push(("the same time in seconds", (number / 1_000).to_string()));
    }
    others
}

/// The text of the first `"id":"…"` of a body as Postrider sends it.
fn body_id(body: &[u8]) -> Option<&str> {
    let after = std::str::from_utf8(body).ok()?.strip_prefix("{\"id\":\"")?;
    after.split_once('"').map(|(id, _)| id)
}

/// The candidates for the body, the received one first.
pub(super) fn bodies(body: &[u8]) -> Vec<Body<'_>> {
    let mut bodies = vec![Body::as_it_came(body)];
    let mut push = |bytes: Cow<'_, [u8]>, change| {
        if bodies.iter().all(|other: &Body<'_>| other.bytes != bytes) {
            bodies.push(Body { bytes: bytes.into_owned().into(), cause: Some(Cause::Body(change)) });
        }
    };
    let without_mark = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body);
    push(without_mark.into(), BodyChange::ByteOrderMark);
    push(body.trim_ascii_end().into(), BodyChange::LineBreakAdded);
    push([body, b"\n"].concat().into(), BodyChange::LineBreakLost);
    push([body, b"\r\n"].concat().into(), BodyChange::LineBreakLost);
    push(to_lf(body).into(), BodyChange::ToCrLf);
    push(to_crlf(body).into(), BodyChange::ToLf);
    push(compact(without_mark).into(), BodyChange::Spaced);
    if let Ok(canonical) = canonical_json(without_mark) {
        push(canonical.into_bytes().into(), BodyChange::Reserialised);
    }
    bodies
}

fn to_lf(body: &[u8]) -> Vec<u8> {
    let mut bytes = body.to_vec();
    let mut at = 0;
    bytes.retain(|byte| {
        at += 1;
        *byte != b'\r' || body.get(at) != Some(&b'\n')
    });
    bytes
}

fn to_crlf(body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(body.len() + body.len() / 16);
    for byte in to_lf(body) {
        if byte == b'\n' {
            bytes.push(b'\r');
        }
        bytes.push(byte);
    }
    bytes
}

/// JSON without the spaces between its parts, in the same order.
fn compact(json: &[u8]) -> Vec<u8> {
    let (mut in_string, mut escaped) = (false, false);
    let mut bytes = Vec::with_capacity(json.len());
    for byte in json {
        if in_string {
            in_string = escaped || *byte != b'"';
            escaped = !escaped && *byte == b'\\';
        } else if byte.is_ascii_whitespace() {
            continue;
        } else {
            in_string = *byte == b'"';
        }
        bytes.push(*byte);
    }
    bytes
}
