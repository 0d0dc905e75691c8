//! A batch of events, as an array or as lines: it holds what its events hold one by one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postrider::event::{BatchError, Event, EventError, MAX_BATCH_EVENTS};
use postrider_fuzz::NOW;

/// The parts that were given; an id that is absent is made up anew each time.
fn given(event: &Event) -> (&str, &str, Vec<u8>) {
    (event.topic().as_str(), event.kind(), event.payload_json().to_vec())
}

fn check(input: &[u8], batch: Result<Vec<Event>, BatchError>) {
    match batch {
        Ok(events) => {
            assert!((1..=MAX_BATCH_EVENTS).contains(&events.len()));
            // Written as the other kind of batch, they are the same events.
            let bodies: Vec<&[u8]> = events.iter().map(|event| &**event.body()).collect();
            let lines = bodies.join(&b"\n"[..]);
            assert_eq!(Event::batch_from_ndjson(&lines, NOW).as_ref(), Ok(&events));
            let array = [b"[", bodies.join(&b","[..]).as_slice(), b"]"].concat();
            assert_eq!(Event::batch_from_json(&array, NOW).as_ref(), Ok(&events));
        }
        Err(
            BatchError::Event { error: EventError::Json { at, .. }, .. }
            | BatchError::NotAnArray(EventError::Json { at, .. }),
        ) => {
            assert!(at <= input.len(), "the place of an error is in the batch");
        }
        Err(_) => {}
    }
}

fuzz_target!(|input: &[u8]| {
    let lines = Event::batch_from_ndjson(input, NOW);
    // One line is one event.
    if !input.contains(&b'\n') {
        match (Event::from_json(input, NOW), &lines) {
            (Ok(event), Ok(events)) => assert_eq!(given(&event), given(&events[0])),
            (Err(_), Err(_)) => {}
            (alone, batch) => panic!("alone {alone:?}, as a batch {batch:?}"),
        }
    }
    check(input, lines);
    check(input, Event::batch_from_json(input, NOW));
});
