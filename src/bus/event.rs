//! Bodies of `EVT`, which the server makes of what is published.

use std::borrow::Cow;

use serde::Serialize;
use uuid::Uuid;

pub use super::json::JsonError;
use super::json::{self, MAX_PRINTED_DEPTH, Value};
use crate::clock::UnixMicros;

/// The reason why a body cannot be published. It ends the publisher's connection.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the body is not UTF-8")]
    NotUtf8,
    #[error("the body is not JSON: {0}")]
    NotJson(#[from] JsonError),
    #[error("the body is JSON and no object")]
    NotAnObject,
    #[error("`{field}` is nested deeper than {MAX_PRINTED_DEPTH}")]
    TooDeep { field: &'static str },
    #[error("the event cannot be printed: {0}")]
    Print(#[from] serde_json::Error),
}

/// The body of an event. The order of the fields is that of the original.
#[derive(Serialize)]
struct Body<'a, K, P> {
    v: u8,
    /// 32 digits.
    id: String,
    topic: &'a str,
    #[serde(rename = "type")]
    kind: K,
    ts: f64,
    payload: P,
}

/// The event that becomes of the body of a `PUB`, which has `payload` and `type` of any kind, at `now`. All else in the
/// body is ignored. What Python takes for false is as if it were not there, and so is an empty body.
pub fn published(topic: &str, body: &[u8], now: UnixMicros) -> Result<Vec<u8>, BodyError> {
    let (mut kind, mut payload) = (Value::Text(Cow::default()), Value::Object(Vec::new()));
    if !body.is_empty() {
        let text = std::str::from_utf8(body).map_err(|_| BodyError::NotUtf8)?;
        let Value::Object(members) = json::parse(text)? else { return Err(BodyError::NotAnObject) };
        for (name, value) in members {
            let (field, name) = match &*name {
                "payload" => (&mut payload, "payload"),
                "type" => (&mut kind, "type"),
                _ => continue,
            };
            if value.is_deeper_than(MAX_PRINTED_DEPTH) {
                return Err(BodyError::TooDeep { field: name });
            }
            if !value.is_falsy() {
                *field = value;
            }
        }
    }
    event(topic, kind, payload, now)
}

/// An event of the server's own.
pub(super) fn event(
    topic: &str,
    kind: impl Serialize,
    payload: impl Serialize,
    now: UnixMicros,
) -> Result<Vec<u8>, BodyError> {
    let id = Uuid::new_v4().simple().to_string();
    Ok(serde_json::to_vec(&Body { v: 1, id, topic, kind, ts: seconds(now), payload })?)
}

/// Seconds since 1970. A double has them to the microsecond until the year 2242.
#[expect(clippy::cast_precision_loss, reason = "2^53 microseconds are 285 years")]
pub(super) fn seconds(at: UnixMicros) -> f64 {
    at.0 as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMicros = UnixMicros(1_790_000_000_250_000);

    fn made(body: &str) -> Result<String, BodyError> {
        let text = String::from_utf8(published("a.b", body.as_bytes(), NOW)?).unwrap();
        let (front, id) = text.split_at(r#"{"v":1,"id":""#.len());
        let (id, rest) = id.split_at(32);
        assert!(id.bytes().all(|digit| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit)), "{text}");
        Ok(format!("{front}{rest}"))
    }

    #[test]
    fn an_event_has_the_fields_of_the_original_in_its_order() {
        let event = |kind: &str, payload: &str| {
            format!(r#"{{"v":1,"id":"","topic":"a.b","type":{kind},"ts":1790000000.25,"payload":{payload}}}"#)
        };
        for (body, kind, payload) in [
            ("", r#""""#, "{}"),
            ("{}", r#""""#, "{}"),
            (
                r#"{"payload":{"z":1,"a":2.50},"type":"t","id":"x","ts":0,"v":9,"topic":"c"}"#,
                r#""t""#,
                r#"{"z":1,"a":2.5}"#,
            ),
            (r#"{"payload":0,"type":false}"#, r#""""#, "{}"),
            (r#"{"payload":-0.0,"type":[]}"#, r#""""#, "{}"),
            (r#"{"payload":[0],"type":5}"#, "5", "[0]"),
            (r#"{"payload":{"a":1},"payload":null}"#, r#""""#, "{}"),
        ] {
            assert_eq!(made(body).unwrap(), event(kind, payload), "{body}");
        }
    }

    #[test]
    fn what_is_no_object_or_too_deep_is_refused() {
        assert!(matches!(published("a", b"{\"a\":\"\xff\"}", NOW), Err(BodyError::NotUtf8)));
        assert!(matches!(made("[1]"), Err(BodyError::NotAnObject)));
        assert!(matches!(made("\u{feff}{}"), Err(BodyError::NotJson(_))));
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(made(&format!(r#"{{"payload":{}}}"#, nested(MAX_PRINTED_DEPTH))).is_ok());
        let too_deep = nested(MAX_PRINTED_DEPTH + 1);
        assert!(matches!(made(&format!(r#"{{"payload":{too_deep}}}"#)), Err(BodyError::TooDeep { field: "payload" })));
        assert!(matches!(made(&format!(r#"{{"type":{too_deep}}}"#)), Err(BodyError::TooDeep { field: "type" })));
        // Of what is not printed the depth does not matter.
        assert!(made(&format!(r#"{{"other":{too_deep},"payload":{too_deep},"payload":1}}"#)).is_ok());
    }
}
