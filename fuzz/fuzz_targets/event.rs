//! One event as a publisher sends it: accepted, its canonical body is the same event for ever.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postrider::clock::UnixMicros;
use postrider::event::{Event, MAX_ID_BYTES, MAX_TYPE_BYTES, canonical_json};
use postrider::topic::Topic;
use postrider_fuzz::{NOW, assert_canonical};

fuzz_target!(|input: &[u8]| {
    let canonical = canonical_json(input);
    if let Ok(canonical) = &canonical {
        assert_eq!(canonical_json(canonical.as_bytes()).as_ref(), Ok(canonical), "canonical is what it was before");
        assert!(serde_json::from_str::<serde::de::IgnoredAny>(canonical).is_ok(), "JSON to others too");
    }
    let Ok(event) = Event::from_json(input, NOW) else { return };
    assert!(canonical.is_ok(), "an event is JSON");
    assert!((1..=MAX_ID_BYTES).contains(&event.id().len()) && event.id().bytes().all(|b| b.is_ascii_graphic()));
    assert!(event.kind().len() <= MAX_TYPE_BYTES);
    assert_eq!(Topic::parse(event.topic().as_str()).as_ref(), Ok(event.topic()));
    assert_canonical(event.body());
    // Nothing is filled in a second time, whenever that is.
    let again = Event::from_json(event.body(), UnixMicros(0)).expect("a body is an event");
    assert_eq!(again, event);
    let payload = event.payload_json();
    let found = canonical_json(&payload).map(String::into_bytes);
    assert_eq!(found.as_deref(), Ok(&*payload), "the payload is cut out whole");
    // What is kept and signed tells others the same.
    let value: serde_json::Map<String, serde_json::Value> = match serde_json::from_slice(event.body()) {
        Ok(value) => value,
        // A number beyond every double: JSON all the same.
        Err(_) => return,
    };
    assert_eq!(value["id"], event.id());
    assert_eq!(value["topic"], event.topic().as_str());
    assert_eq!(value["type"], event.kind());
    assert_eq!(value.keys().collect::<Vec<_>>(), ["id", "payload", "topic", "ts", "type", "v"]);
});
