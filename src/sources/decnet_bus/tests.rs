//! What the original's client does with 28 streams of frames, and what this source does.

use serde_json::{Value, json};

use super::*;
use crate::bus::frame::{FrameReader, Verb};
use crate::bus::pattern::matches;

const FRAMES: &str = include_str!("../../../tests/fixtures/decnet/bus_frames.jsonl");
const NOW: UnixMicros = UnixMicros(1_790_000_001_500_000);

/// What a stream of frames comes to.
#[derive(Debug, Default, PartialEq)]
struct Heard {
    /// Topic, type, id, ts and payload of each event; `new` and `now` for what is filled in.
    events: Vec<Value>,
    rejected: Vec<String>,
    /// The connection is given up, and another one is made.
    is_over: bool,
}

/// Reads a stream as the source does, with these patterns subscribed.
async fn hear(stream: &[u8], patterns: &[&str]) -> Heard {
    let mut reader = FrameReader::new(stream);
    let mut heard = Heard::default();
    loop {
        match reader.read().await {
            Ok(Some(frame)) if frame.verb == Verb::Evt => {
                if !patterns.iter().any(|pattern| matches(pattern, &frame.argument)) {
                    continue;
                }
                let attributes = vec![(TOPIC.to_owned(), frame.argument.into_string())];
                match event(&Message { origin_id: None, attributes, body: frame.body }, NOW) {
                    Ok(event) => heard.events.push(shown(&event)),
                    Err(reason) => heard.rejected.push(reason),
                }
            }
            Ok(Some(frame)) if frame.verb != Verb::Bye => {}
            Ok(Some(_)) | Err(_) => heard.is_over = true,
            Ok(None) => break,
        }
        if heard.is_over {
            break;
        }
    }
    heard
}

fn shown(event: &Event) -> Value {
    let body: Value = serde_json::from_slice(event.body()).unwrap();
    let id =
        if uuid::Uuid::try_parse(event.id()).is_ok_and(|id| id.get_version_num() == 7) { "new" } else { event.id() };
    let ts = if body["ts"] == "2026-09-21T14:13:21.500000+00:00" { json!("now") } else { body["ts"].clone() };
    json!([event.topic().as_str(), event.kind(), id, ts, body["payload"]])
}

/// What the original's client handed on, once for each event.
fn of_the_original(vector: &Value) -> Vec<Value> {
    let ts = |ts: &Value| match ts.as_f64() {
        Some(1_790_000_000.25) => json!("2026-09-21T14:13:20.250000+00:00"),
        Some(12.5) => json!("1970-01-01T00:00:12.500000+00:00"),
        Some(1.0) => json!("1970-01-01T00:00:01+00:00"),
        Some(other) => json!(other),
        None => json!("now"),
    };
    let mut events: Vec<Value> = Vec::new();
    for event in vector["original"]["events"].as_array().unwrap() {
        let id = if event["id"] == "<32 hex, new>" { &json!("new") } else { &event["id"] };
        let event = json!([event["topic"], event["type"], id, ts(&event["ts"]), event["payload"]]);
        // The original hands an event on once for each pattern, this program once.
        if events.last() != Some(&event) {
            events.push(event);
        }
    }
    events
}

/// Where this source differs on purpose: it goes on where the original ends for good, and what it cannot send it sets
/// aside.
fn differs(name: &str) -> Option<(Vec<Value>, &'static str)> {
    let plain = |kind: &str, id: &str| json!(["attacker.observed", kind, id, "1970-01-01T00:00:01+00:00", {}]);
    Some(match name {
        // A type or an id that is no text is sent as its JSON text.
        "evt-type-number" => (vec![plain("5", "i")], ""),
        "evt-id-number" => (vec![plain("", "5")], ""),
        // The version is not looked at.
        "evt-v-text" => (vec![plain("", "i")], ""),
        "evt-ts-text" | "evt-ts-null" => (vec![], "ts: is no number"),
        "evt-ts-huge" => (vec![], "ts: is outside the years 1 to 9999"),
        "evt-array-body" => (vec![], "invalid JSON at byte 0: is no object"),
        "evt-bad-json" => (vec![], "invalid JSON at byte 1"),
        "evt-no-topic" => (vec![], "topic: must not be empty"),
        _ => return None,
    })
}

#[tokio::test]
async fn streams_of_the_bus_are_heard_as_the_original_hears_them() {
    let vectors = FRAMES.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut count = 0;
    for vector in vectors.filter(|vector| vector["direction"] == "server_to_client") {
        let name = vector["name"].as_str().unwrap();
        let stream: Vec<u8> = vector["send"].as_array().unwrap().iter().flat_map(bytes_of).collect();
        let patterns: Vec<&str> =
            vector["client_patterns"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
        let heard = hear(&stream, &patterns).await;
        let (events, rejected) = differs(name).unwrap_or_else(|| (of_the_original(&vector), ""));
        assert_eq!(heard.events, events, "{name}");
        assert_eq!(heard.rejected.is_empty(), rejected.is_empty(), "{name}: {heard:?}");
        assert!(heard.rejected.iter().all(|reason| reason.starts_with(rejected)), "{name}: {heard:?}");
        let goes_on = vector["original"]["goes_on_reading"] == true;
        let is_forgiven = differs(name).is_some() || name == "fin-from-server";
        assert!(heard.is_over != goes_on || is_forgiven && !heard.is_over, "{name}: {heard:?}");
        count += 1;
    }
    assert_eq!(count, 28);
}

fn bytes_of(part: &Value) -> Vec<u8> {
    let digits = part["hex"].as_str().unwrap();
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    let bytes: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect();
    bytes.repeat(usize::try_from(part["repeat"].as_u64().unwrap_or(1)).unwrap())
}

#[test]
fn an_event_without_an_id_has_that_of_its_message_if_it_was_kept() {
    let attributes = vec![(TOPIC.to_owned(), "a.b".to_owned())];
    let message = |body: &'static str| {
        let body = Bytes::from_static(body.as_bytes());
        event(&Message { origin_id: Some("kept".to_owned()), attributes: attributes.clone(), body }, NOW).unwrap()
    };
    assert_eq!((message("{}").id(), message(r#"{"id":"own"}"#).id()), ("kept", "own"));
}

#[test]
fn only_an_action_stop_ends_the_server() {
    for (body, expected) in [
        (r#"{"type":"control","payload":{"action":"stop","requested_by":"admin","ts":1.5}}"#, true),
        (r#"{"payload":{"action":"start"}}"#, false),
        (r#"{"payload":{}}"#, false),
        (r#"{"payload":[]}"#, false),
        (r#"{"payload":{"action":["stop"]}}"#, false),
        ("[]", false),
        ("", false),
    ] {
        assert_eq!(asks_to_stop(body.as_bytes()), expected, "{body}");
    }
}
