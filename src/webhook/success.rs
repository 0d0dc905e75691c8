//! Whether an answer with the status of a success is one: `success_when`, an event pattern over the answer.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::policy::Policy;
use crate::delivery::{AnswerFields, End, Outcome};
use crate::filter::Filter;

impl Policy {
    /// Why an answer with the status of a success is none after all, if it is none. The webhook's own pattern goes before
    /// that of its shape.
    pub(crate) fn doubt(&self, outcome: &Outcome) -> Option<String> {
        let End::Status(status) = outcome.end else { return None };
        if let Some(pattern) = &self.success_when {
            let text = || format!("http {status}, and success_when does not match it");
            return (!matches(pattern, status, outcome)).then(text);
        }
        let pattern = self.shape.success_when()?;
        let text = || format!("http {status}, and the body has an error ({})", self.shape.name());
        (!matches(pattern, status, outcome)).then(text)
    }
}

/// Whether the pattern matches `{"status": …, "headers": {…}, "body": …, "text": …}`.
fn matches(pattern: &Filter, status: u16, outcome: &Outcome) -> bool {
    let text = String::from_utf8_lossy(&outcome.response);
    let body =
        std::str::from_utf8(&outcome.response).ok().and_then(|text| serde_json::from_str::<&RawValue>(text).ok());
    let headers = headers(&outcome.headers);
    let answer = |body: Option<&RawValue>| {
        serde_json::json!({ "status": status, "headers": headers, "text": text }).as_object().cloned().and_then(
            |answer| {
                let body = body.map_or("null", RawValue::get);
                let mut json = serde_json::to_string(&answer).ok()?;
                json.pop();
                Some(format!("{json},\"body\":{body}}}"))
            },
        )
    };
    // A body that is nested too deep is none that a pattern can look into.
    let is_readable = |json: &String| serde_json::from_str::<Value>(json).is_ok();
    let answer = answer(body).filter(is_readable).or_else(|| answer(None));
    answer.is_some_and(|json| pattern.matches(json.as_bytes()))
}

/// By name in lower case; several of one name are one, as in a list (RFC 9110, section 5.3).
fn headers(fields: &AnswerFields) -> Map<String, Value> {
    let mut headers = BTreeMap::<String, Vec<Cow<'_, str>>>::new();
    for (name, value) in fields.iter() {
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        headers.entry(name).or_default().push(String::from_utf8_lossy(value));
    }
    headers.into_iter().map(|(name, values)| (name, values.join(", ").into())).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::UnixMicros;
    use crate::delivery::exchange::Exchange;
    use crate::shape::{Shape, ShapeInput};
    use bytes::Bytes;

    fn answer(status: u16, body: &str) -> Outcome {
        let headers = [("Content-Type", "application/json"), ("X-Part", "a"), ("x-part", "b")].into_iter().collect();
        Outcome {
            started_at: UnixMicros(0),
            duration: Duration::ZERO,
            end: End::Status(status),
            headers,
            response: Bytes::copy_from_slice(body.as_bytes()),
            retry_after: None,
            control: None,
            exchange: Exchange::default(),
        }
    }

    fn is_success(pattern: &str, body: &str) -> bool {
        let policy = Policy { success_when: Some(Filter::parse(pattern).unwrap()), ..Policy::default() };
        policy.doubt(&answer(200, body)).is_none()
    }

    #[test]
    fn a_pattern_looks_at_status_headers_body_and_text() {
        let cases = [
            (r#"{"status": [200]}"#, "", true),
            (r#"{"status": [201]}"#, "", false),
            (r#"{"headers": {"content-type": [{"prefix": "application/json"}]}}"#, "", true),
            (r#"{"headers": {"x-part": ["a, b"]}}"#, "", true),
            (r#"{"headers": {"x-none": [{"exists": true}]}}"#, "", false),
            (r#"{"body": {"ok": [true]}}"#, r#" {"ok": true} "#, true),
            (r#"{"body": {"ok": [true]}}"#, r#"{"ok": false}"#, false),
            (r#"{"body": {"ok": [true]}}"#, r#"{"ok": true"#, false),
            (r#"{"body": {"n": [{"numeric": [">", 1]}]}}"#, r#"{"n": 1.50}"#, true),
            (r#"{"body": [null]}"#, "no JSON", true),
            (r#"{"body": [null]}"#, "", true),
            (r#"{"text": [{"wildcard": "*\"quoted\"*"}]}"#, r#"a "quoted" word"#, true),
            (r#"{"text": [{"anything-but": {"prefix": "error"}}]}"#, "error: no", false),
        ];
        for (pattern, body, expected) in cases {
            assert_eq!(is_success(pattern, body), expected, "{pattern} of {body}");
        }
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        assert!(is_success(r#"{"body": [null]}"#, &deep));
        let policy = Policy { success_when: Some(Filter::parse(r#"{"status": [201]}"#).unwrap()), ..Policy::default() };
        assert_eq!(policy.doubt(&answer(200, "")).as_deref(), Some("http 200, and success_when does not match it"));
    }

    #[test]
    fn the_shapes_know_the_answers_of_their_receivers() {
        let cases = [
            ("elastic_ecs", 200, r#"{"took":3,"errors":false,"items":[]}"#, true),
            ("elastic_ecs", 201, r#"{"_index":"logs","result":"created"}"#, true),
            ("elastic_ecs", 200, r#"{"took":3,"errors":true,"items":[{"create":{"status":400}}]}"#, false),
            ("elastic_ecs", 200, r#"{"took": 3, "errors": true, "items": []}"#, false),
            ("elastic_ecs", 200, "{\n  \"took\" : 3,\n  \"errors\" : true,\n  \"items\" : [ ", false),
            (
                "elastic_ecs",
                200,
                r#"{"errors":false,"items":[{"create":{"error":"a \"errors\":true in a text"}}]}"#,
                true,
            ),
            ("teams", 200, "1", true),
            ("teams", 202, "", true),
            (
                "teams",
                200,
                "Webhook message delivery failed with error: Microsoft Teams endpoint returned HTTP error 429",
                false,
            ),
            ("thehive_alert", 409, "", true),
            ("slack", 200, "Webhook message delivery failed with error: x", true),
        ];
        for (shape, status, body, expected) in cases {
            let shape = Shape::parse(&ShapeInput::Name(shape.to_owned())).unwrap();
            let policy = Policy { shape, ..Policy::default() };
            assert_eq!(policy.doubt(&answer(status, body)).is_none(), expected, "{} {body}", policy.shape.name());
        }
        let shape = Shape::parse(&ShapeInput::Name("teams".to_owned())).unwrap();
        let own = Some(Filter::parse(r#"{"status": [200]}"#).unwrap());
        let policy = Policy { shape, success_when: own, ..Policy::default() };
        assert_eq!(
            policy.doubt(&answer(200, "Webhook message delivery failed with error: x")),
            None,
            "its own goes before"
        );
    }
}
