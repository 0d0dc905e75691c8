//! Bodies of several events in one request, each form as its receivers take it, and what such a receiver answers for each
//! event. Pure.

use std::fmt;

use bytes::Bytes;
use http::HeaderValue;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use uuid::Uuid;

use super::{BatchFormat, JSON, Kind, Shape, is_json};

/// The body of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BatchForm {
    /// `{"events":[…],"id":…,"v":1}`.
    Events,
    Array,
    /// The batched mode of `CloudEvents` 1.0: <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>.
    CloudEvents,
    Lines {
        is_json: bool,
    },
    /// One body of JSON after the other, as Splunk's HTTP Event Collector takes them.
    Sequence,
    /// For Elasticsearch's `_bulk`: a line that says what to do, and the document in the next.
    Bulk,
    /// The bodies are `{"events": […]}`, and so is the batch.
    Merged,
}

/// A body of a batch.
pub(crate) struct Member {
    pub(crate) delivery: Uuid,
    pub(crate) body: Bytes,
}

/// What the answer to a batch says of its events.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// The status of each event in its order, as far as they are told.
    pub(crate) statuses: Vec<u16>,
    /// It says that all went well.
    pub(crate) is_without_errors: bool,
}

/// The beginning and the end of the bodies that [`BatchForm::Merged`] puts together.
const MERGED: (&[u8], &[u8]) = (b"{\"events\": [", b"]}");
/// The most events of a batch for Wazuh, whose API refuses more.
pub const MAX_MERGED_EVENTS: usize = 100;
/// Room for what stands around a body, in bytes.
const AROUND_BYTES: usize = 64;
/// The status of a document that Elasticsearch has already: an attempt before brought it.
const EXISTS: u16 = 409;
/// What stands for that.
const CREATED: u16 = 201;

impl Shape {
    /// How its bodies make one; the error says why they do not.
    pub(crate) fn batch_form(&self, format: Option<BatchFormat>) -> Result<BatchForm, String> {
        if matches!(self.0, Kind::Forward) {
            return Err("forward sends requests on as they came, one by one".to_owned());
        }
        let is_json = is_json(self.content_type().to_str().unwrap_or_default());
        match format {
            Some(BatchFormat::Array) if is_json => return Ok(BatchForm::Array),
            Some(BatchFormat::Array) => return Err("\"array\" is for bodies of JSON; take \"lines\"".to_owned()),
            Some(BatchFormat::Lines) => return Ok(BatchForm::Lines { is_json }),
            None => {}
        }
        match (&self.0, self.name()) {
            (Kind::Decnet, _) => Ok(BatchForm::Events),
            (Kind::Builtin(_), "cloudevents") => Ok(BatchForm::CloudEvents),
            (Kind::Builtin(_), "splunk_hec") => Ok(BatchForm::Sequence),
            (Kind::Builtin(_), "elastic_ecs") => Ok(BatchForm::Bulk),
            (Kind::Builtin(_), "wazuh") => Ok(BatchForm::Merged),
            (Kind::Builtin(_), name @ ("slack" | "discord" | "teams" | "thehive_alert")) => Err(format!(
                "the receivers of {name} take one event a request; if yours takes several, say how: \
                 \"format\": \"array\" or \"lines\""
            )),
            _ if is_json => Ok(BatchForm::Array),
            _ => Ok(BatchForm::Lines { is_json }),
        }
    }
}

impl BatchForm {
    /// The content type of the batch; `None`: that of its bodies.
    pub(crate) fn content_type(self) -> Option<HeaderValue> {
        let name = match self {
            Self::Events | Self::Array | Self::Sequence | Self::Merged => JSON,
            Self::CloudEvents => "application/cloudevents-batch+json; charset=utf-8",
            Self::Lines { is_json: true } | Self::Bulk => "application/x-ndjson",
            Self::Lines { is_json: false } => return None,
        };
        Some(HeaderValue::from_static(name))
    }

    /// The bodies in one, in their order. `id` is the batch's.
    pub(crate) fn join(self, id: &str, members: &[Member]) -> Bytes {
        let bytes: usize = members.iter().map(|member| member.body.len() + AROUND_BYTES).sum();
        let mut whole = Vec::with_capacity(bytes + AROUND_BYTES);
        whole.extend_from_slice(match self {
            Self::Events => b"{\"events\":[",
            Self::Array | Self::CloudEvents => b"[",
            Self::Merged => MERGED.0,
            Self::Lines { .. } | Self::Sequence | Self::Bulk => b"",
        });
        for (index, Member { delivery, body }) in members.iter().enumerate() {
            let separator: &[u8] = match self {
                Self::Events | Self::Array | Self::CloudEvents | Self::Merged if index > 0 => b",",
                _ => b"",
            };
            whole.extend_from_slice(separator);
            match self {
                Self::Events | Self::Array | Self::CloudEvents | Self::Sequence => whole.extend_from_slice(body),
                Self::Merged => whole.extend_from_slice(within(body)),
                Self::Lines { is_json } => push_line(&mut whole, body, is_json),
                Self::Bulk => {
                    // The same in every attempt, so that no document is there twice.
                    whole.extend_from_slice(b"{\"create\":{\"_id\":\"");
                    whole.extend_from_slice(delivery.hyphenated().encode_lower(&mut Uuid::encode_buffer()).as_bytes());
                    whole.extend_from_slice(b"\"}}\n");
                    push_line(&mut whole, body, true);
                }
            }
        }
        match self {
            Self::Events => {
                // A UUID needs no escapes.
                for part in [b"],\"id\":\"".as_slice(), id.as_bytes(), b"\",\"v\":1}"] {
                    whole.extend_from_slice(part);
                }
            }
            Self::Array | Self::CloudEvents => whole.push(b']'),
            Self::Merged => whole.extend_from_slice(MERGED.1),
            Self::Lines { .. } | Self::Sequence | Self::Bulk => {}
        }
        whole.into()
    }

    /// What a successful answer to a batch says of each event; `None`: it holds for all. The answer may be cut off.
    pub(crate) fn told(self, answer: &[u8]) -> Option<Told> {
        if self != Self::Bulk {
            return None;
        }
        let mut told = Told::default();
        // An error is the end of what is there.
        let _ = BulkAnswer(&mut told).deserialize(&mut serde_json::Deserializer::from_slice(answer));
        Some(told)
    }
}

/// The events of a body that is to be merged.
fn within(body: &[u8]) -> &[u8] {
    body.strip_prefix(MERGED.0).and_then(|body| body.strip_suffix(MERGED.1)).unwrap_or(body)
}

fn push_line(whole: &mut Vec<u8>, body: &[u8], is_json: bool) {
    let start = whole.len();
    whole.extend_from_slice(body.trim_ascii_end());
    if is_json {
        // In JSON they stand between values alone: in texts they are escaped.
        for byte in &mut whole[start..] {
            if matches!(byte, b'\n' | b'\r') {
                *byte = b' ';
            }
        }
    }
    whole.push(b'\n');
}

/// Reads `{"items": [{"create": {"status": 201, …}}, …], …}` into the statuses: what came before an error stays.
struct BulkAnswer<'a>(&'a mut Told);
struct BulkItems<'a>(&'a mut Vec<u16>);

/// What is known of one document.
#[derive(Deserialize)]
struct BulkItem {
    create: BulkStatus,
}

#[derive(Deserialize)]
struct BulkStatus {
    status: u16,
}

impl<'de> DeserializeSeed<'de> for BulkAnswer<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for BulkAnswer<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an answer of _bulk")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "items" => map.next_value_seed(BulkItems(&mut self.0.statuses))?,
                "errors" => self.0.is_without_errors = !map.next_value::<bool>()?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for BulkItems<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for BulkItems<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the items of an answer of _bulk")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while let Some(BulkItem { create: BulkStatus { status } }) = items.next_element()? {
            self.0.push(if status == EXISTS { CREATED } else { status });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixMicros;
    use crate::event::Event;
    use crate::shape::{Context, ShapeInput, TemplateInput};

    fn shape(name: &str) -> Shape {
        Shape::parse(&ShapeInput::Name(name.to_owned())).unwrap()
    }

    fn template(template: &str, content_type: &str) -> Shape {
        let (template, content_type) = (template.to_owned(), content_type.to_owned());
        Shape::parse(&ShapeInput::Template(TemplateInput { template, content_type })).unwrap()
    }

    fn joined(form: BatchForm, bodies: &[&str]) -> String {
        let member =
            |(n, body): (u128, &&str)| Member { delivery: Uuid::from_u128(n), body: Bytes::from((*body).to_owned()) };
        let members: Vec<_> = (1..).zip(bodies).map(member).collect();
        String::from_utf8(form.join("the-batch", &members).to_vec()).unwrap()
    }

    #[test]
    fn each_form_is_what_its_receivers_take() {
        let bodies = [r#"{"a":1}"#, "{\n \"a\": \"\\n\"\n}\n"];
        assert_eq!(joined(BatchForm::Events, &bodies[..1]), r#"{"events":[{"a":1}],"id":"the-batch","v":1}"#);
        assert_eq!(joined(BatchForm::Array, &bodies), "[{\"a\":1},{\n \"a\": \"\\n\"\n}\n]");
        assert_eq!(joined(BatchForm::Sequence, &bodies), "{\"a\":1}{\n \"a\": \"\\n\"\n}\n");
        assert_eq!(joined(BatchForm::Lines { is_json: true }, &bodies), "{\"a\":1}\n{  \"a\": \"\\n\" }\n");
        assert_eq!(joined(BatchForm::Lines { is_json: false }, &["a\nb\r\n", "c"]), "a\nb\nc\n");
        let bulk = concat!(
            r#"{"create":{"_id":"00000000-0000-0000-0000-000000000001"}}"#,
            "\n{\"a\":1}\n",
            r#"{"create":{"_id":"00000000-0000-0000-0000-000000000002"}}"#,
            "\n{  \"a\": \"\\n\" }\n"
        );
        assert_eq!(joined(BatchForm::Bulk, &bodies), bulk);
    }

    #[test]
    fn built_in_shapes_know_their_form() {
        let event = |id: &str| {
            let json =
                format!(r#"{{"id": "{id}", "topic": "a.b", "ts": "2026-01-02T03:04:05Z", "payload": {{"n": 1}}}}"#);
            Event::from_json(json.as_bytes(), UnixMicros(0)).unwrap()
        };
        let metadata = std::collections::BTreeMap::new();
        let context = Context {
            webhook_name: "w",
            webhook_id: "1",
            webhook_metadata: &metadata,
            tenant: "default",
            delivery_id: "2",
            attempt: 1,
            now: UnixMicros(0),
        };
        let together = |name: &str| {
            let shape = shape(name);
            let form = shape.batch_form(None).unwrap();
            let members: Vec<_> = ["e-1", "e-2"]
                .map(|id| Member { delivery: Uuid::nil(), body: shape.render(&event(id), &context).unwrap() })
                .into();
            String::from_utf8(form.join("b", &members).to_vec()).unwrap()
        };
        let array: serde_json::Value = serde_json::from_str(&together("cloudevents")).unwrap();
        assert_eq!((&array[0]["id"], &array[1]["id"]), (&"e-1".into(), &"e-2".into()));
        let wazuh: serde_json::Value = serde_json::from_str(&together("wazuh")).unwrap();
        let texts = wazuh["events"].as_array().unwrap();
        assert!(texts.len() == 2 && texts[1].as_str().unwrap().contains("\"e-2\""), "{wazuh}");
        let bulk = together("elastic_ecs");
        let lines: Vec<serde_json::Value> = bulk.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((lines.len(), &lines[3]["event"]["id"]), (4, &"e-2".into()));
        let hec = together("splunk_hec");
        let events = serde_json::Deserializer::from_str(&hec).into_iter::<serde_json::Value>();
        assert_eq!(events.map(|event| event.unwrap()["event"]["id"].clone()).collect::<Vec<_>>(), ["e-1", "e-2"]);
        assert_eq!(together("syslog").lines().count(), 2);
        assert_eq!(together("payload"), r#"[{"n":1},{"n":1}]"#);
        for name in ["slack", "discord", "teams", "thehive_alert"] {
            assert!(shape(name).batch_form(None).unwrap_err().contains("one event a request"), "{name}");
            assert_eq!(shape(name).batch_form(Some(BatchFormat::Array)), Ok(BatchForm::Array));
        }
    }

    #[test]
    fn templates_go_by_their_content_type() {
        assert_eq!(template("{}", "application/vnd.x+json").batch_form(None), Ok(BatchForm::Array));
        let text = template("x", "text/plain");
        assert_eq!(text.batch_form(None), Ok(BatchForm::Lines { is_json: false }));
        assert!(text.batch_form(Some(BatchFormat::Array)).unwrap_err().contains("take \"lines\""));
        assert_eq!(BatchForm::Lines { is_json: false }.content_type(), None, "that of the shape");
        assert_eq!(BatchForm::Lines { is_json: true }.content_type().unwrap(), "application/x-ndjson");
    }

    #[test]
    fn elasticsearch_tells_of_each_document_as_far_as_its_answer_was_read() {
        let answer = br#"{"took":3,"errors":true,"items":[
            {"create":{"_index":"x","_id":"1","status":201,"result":"created"}},
            {"create":{"_id":"2","status":409,"error":{"type":"version_conflict_engine_exception"}}},
            {"create":{"_id":"3","status":400,"error":{"type":"document_parsing_exception"}}}]}"#;
        let told = |answer: &[u8]| BatchForm::Bulk.told(answer).unwrap();
        assert_eq!(told(answer), Told { statuses: vec![201, 201, 400], is_without_errors: false });
        let end = answer.windows(3).position(|bytes| bytes == b"400").unwrap();
        assert_eq!(told(&answer[..end]).statuses, [201, 201]);
        let well = told(br#"{"took": 1, "errors": false, "items": [{"create": {"sta"#);
        assert_eq!(well, Told { statuses: Vec::new(), is_without_errors: true });
        assert_eq!(told(b"<html>"), Told::default());
        assert_eq!(BatchForm::Array.told(answer), None);
    }
}
