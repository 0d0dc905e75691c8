//! What the original client did, byte for byte: every line of these files was made by running it.

use postrider::clock::UnixMicros;
use postrider::event::Event;
use postrider::signing::{Secret, decnet_signature};
use postrider::topic::{Pattern, PatternIndex, Topic};
use serde_json::Value;

const PAYLOADS: &str = include_str!("vectors/payload.jsonl");
const PATTERNS: &str = include_str!("vectors/pattern.jsonl");

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_event_gets_the_body_and_the_signature_that_the_original_client_sent() {
    let lines = lines(PAYLOADS);
    assert_eq!(lines.len(), 250);
    for line in &lines {
        let text = |field: &str| line[field].as_str().unwrap();
        let event = Event::from_json(text("event").as_bytes(), UnixMicros(0)).unwrap();
        let body = event.decnet_body();
        assert_eq!(body, text("body"), "{line}");
        let secret = Secret::parse(text("secret")).unwrap();
        assert_eq!(decnet_signature(&secret, &body), text("signature"), "{line}");
        let again = Event::from_json(text("body").as_bytes(), UnixMicros(0)).unwrap();
        assert_eq!(again.decnet_body(), body, "{line}");
    }
}

#[test]
fn every_batch_of_these_events_gives_the_same_bodies() {
    let lines = lines(PAYLOADS);
    let events: Vec<&str> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
    let array = format!(" [ {} ] ", events.join(" , "));
    let ndjson = events.join("\r\n\n");
    for batch in [
        Event::batch_from_json(array.as_bytes(), UnixMicros(0)),
        Event::batch_from_ndjson(ndjson.as_bytes(), UnixMicros(0)),
    ] {
        let bodies: Vec<_> = batch.unwrap().iter().map(Event::decnet_body).collect();
        let expected: Vec<_> = lines.iter().map(|line| line["body"].as_str().unwrap()).collect();
        assert_eq!(bodies, expected);
    }
}

#[test]
fn every_pattern_wants_the_topics_that_it_wanted_in_the_original() {
    let lines = lines(PATTERNS);
    assert_eq!(lines.len(), 347);
    let mut all = PatternIndex::default();
    let mut cases = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let pattern = Pattern::parse(line["pattern"].as_str().unwrap()).unwrap();
        let topic = Topic::parse(line["topic"].as_str().unwrap()).unwrap();
        all.insert(&pattern, number);
        cases.push((pattern, topic, line["matches"].as_bool().unwrap()));
    }
    for (number, (pattern, topic, is_match)) in cases.iter().enumerate() {
        assert_eq!(pattern.matches(topic), *is_match, "{pattern} {topic}");
        let mut found = Vec::new();
        all.matches(topic, &mut found);
        assert_eq!(found.binary_search(&number).is_ok(), *is_match, "{pattern} {topic}");
    }
}
