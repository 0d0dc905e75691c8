//! The shape `forward`: what came in at an inlet goes on as it came, byte by byte where the inlet keeps the bytes, so that a
//! receiver can verify the signature of the first sender.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::HeaderValue;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::JSON;
use crate::delivery::access::is_forwardable;
use crate::event::Event;

/// The most headers of a request that was kept, as many as an inlet keeps. A payload with more is none.
pub(super) const MAX_FORWARDED_HEADERS: usize = 32;
/// The most bytes of their names and values together, about as many as the head of a request to this server may have.
pub(super) const MAX_FORWARDED_HEADER_BYTES: usize = 16 * 1024;

/// A header's name and its value.
pub(crate) type Header = (Box<str>, HeaderValue);

/// A body with what belongs to it.
pub(crate) struct Whole {
    pub(crate) body: Bytes,
    pub(crate) content_type: HeaderValue,
    /// Beside those that the webhook has itself.
    pub(crate) headers: Vec<Header>,
}

/// What an inlet keeps of a request, as `src/inlet/incoming.rs` makes it.
#[derive(Deserialize)]
struct Kept<'a> {
    #[serde(borrow)]
    body: Option<&'a RawValue>,
    body_base64: Option<String>,
    content_type: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

/// A payload that is no request that was kept goes on as it is.
pub(super) fn forwarded(event: &Event) -> Whole {
    let payload = event.payload_json();
    kept(&payload).unwrap_or_else(|| Whole {
        body: payload.clone(),
        content_type: HeaderValue::from_static(JSON),
        headers: Vec::new(),
    })
}

fn kept(payload: &[u8]) -> Option<Whole> {
    if !payload.starts_with(b"{") {
        return None;
    }
    let Kept { body, body_base64, content_type, headers } = serde_json::from_slice(payload).ok()?;
    let header_bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if headers.len() > MAX_FORWARDED_HEADERS || header_bytes > MAX_FORWARDED_HEADER_BYTES {
        return None;
    }
    let body = match (body_base64, body) {
        (Some(encoded), None) => Bytes::from(STANDARD.decode(encoded).ok()?),
        // An inlet that keeps a body beside other things says its type.
        (None, Some(body)) if content_type.is_some() => Bytes::copy_from_slice(body.get().as_bytes()),
        _ => return None,
    };
    let content_type = content_type.and_then(|text| HeaderValue::from_str(&text).ok());
    let content_type = content_type.unwrap_or(HeaderValue::from_static("application/octet-stream"));
    let header = |(name, value): (String, String)| {
        let value = HeaderValue::from_str(&value).ok().filter(|_| is_forwardable(&name))?;
        Some((name.into_boxed_str(), value))
    };
    Some(Whole { body, content_type, headers: headers.into_iter().filter_map(header).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixMicros;
    use crate::topic::Topic;

    fn of(payload: &str) -> (String, String, Vec<String>) {
        let event = Event::new(Topic::parse("t").unwrap(), "", payload, UnixMicros(0)).unwrap();
        let Whole { body, content_type, headers } = forwarded(&event);
        let headers = headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        (String::from_utf8_lossy(&body).into_owned(), content_type.to_str().unwrap().to_owned(), headers)
    }

    #[test]
    fn a_request_that_was_kept_goes_on_and_anything_else_as_it_is() {
        let whole = |body: &str, content_type: &str, headers: &[&str]| {
            (body.to_owned(), content_type.to_owned(), headers.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(
            of(r#"{"body_base64":"eyAiYSI6IDF9","content_type":"application/json"}"#),
            whole("{ \"a\": 1}", JSON, &[])
        );
        assert_eq!(of(r#"{"body_base64":""}"#), whole("", "application/octet-stream", &[]));
        assert_eq!(of(r#"{"body":{"a":1.0},"content_type":"a/b+json"}"#), whole(r#"{"a":1.0}"#, "a/b+json", &[]));
        let headers = r#"{"body_base64":"","content_type":"a/b","headers":{"x-a":"1","host":"h","user-agent":"u","x-b":"2\u0000"}}"#;
        assert_eq!(of(headers), whole("", "a/b", &["x-a: 1"]));
        let credentials =
            r#"{"body_base64":"","content_type":"a/b","headers":{"Authorization":"Basic x","Cookie":"a","x-a":"1"}}"#;
        assert_eq!(of(credentials), whole("", "a/b", &["x-a: 1"]));
        // No inlet keeps so much.
        let many: Vec<String> = (0..=MAX_FORWARDED_HEADERS).map(|n| format!("\"x-{n:02}\":\"\"")).collect();
        let many = format!("{{\"body_base64\":\"\",\"headers\":{{{}}}}}", many.join(","));
        assert_eq!(of(&many), whole(&many, JSON, &[]));
        let large =
            format!("{{\"body_base64\":\"\",\"headers\":{{\"x\":\"{}\"}}}}", "y".repeat(MAX_FORWARDED_HEADER_BYTES));
        assert_eq!(of(&large), whole(&large, JSON, &[]));
        for other in [r#"{"body":{"a":1.0}}"#, r#"{"body_base64":"?"}"#, r#"{"headers":1}"#, "[1]", "\"text\"", "null"]
        {
            assert_eq!(of(other), whole(other, JSON, &[]), "{other}");
        }
    }
}
