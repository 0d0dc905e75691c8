//! Batches of events: a JSON array, also of CloudEvents, or newline-delimited JSON. All or nothing.

use crate::clock::UnixMicros;
use crate::topic::Topic;

use super::canonical::Canonicaliser;
use super::{BatchError, Event, EventError, MAX_BATCH_BYTES, MAX_BATCH_EVENTS, check_size, cloudevent};

impl Event {
    /// A batch as a JSON array of events. Offsets in errors count from the start of the batch.
    pub fn batch_from_json(json: &[u8], now: UnixMicros) -> Result<Vec<Self>, BatchError> {
        let events = array(json, 0, |reader, is_object| Self::from_reader(reader, is_object, now))?;
        not_empty(events)
    }

    /// A batch of CloudEvents (JSON batch format), which may be empty. `topic` is for all of them.
    pub fn batch_from_cloudevents(
        json: &[u8],
        topic: Option<&Topic>,
        now: UnixMicros,
    ) -> Result<Vec<Self>, BatchError> {
        array(json, 1, |reader, is_object| cloudevent::from_reader(reader, is_object, topic, now))
    }

    /// A batch as newline-delimited JSON. Blank lines are skipped and not counted. Offsets in errors count from the
    /// start of the batch.
    pub fn batch_from_ndjson(lines: &[u8], now: UnixMicros) -> Result<Vec<Self>, BatchError> {
        check_batch_size(lines)?;
        let mut events = Vec::new();
        let mut start = 0;
        for line in lines.split(|byte| *byte == b'\n') {
            if !line.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r')) {
                let index = next_index(&events)?;
                let event = Self::from_json(line, now);
                events.push(event.map_err(|error| BatchError::Event { index, error: further(error, start) })?);
            }
            start += line.len() + 1;
        }
        not_empty(events)
    }
}

/// The events of a JSON array, each made from an object that has just been read at `depth`.
fn array(
    json: &[u8],
    depth: usize,
    make: impl Fn(&Canonicaliser<'_>, bool) -> Result<Event, EventError>,
) -> Result<Vec<Event>, BatchError> {
    check_batch_size(json)?;
    let mut reader = Canonicaliser::new(json).map_err(BatchError::NotAnArray)?.inside(depth);
    if !reader.take(b'[') {
        return Err(BatchError::NotAnArray(reader.unexpected("'['")));
    }
    let mut events = Vec::new();
    if !reader.take(b']') {
        loop {
            let index = next_index(&events)?;
            let event = next_event(&mut reader, &make).map_err(|error| BatchError::Event { index, error })?;
            events.push(event);
            if reader.take(b']') {
                break;
            }
            if !reader.take(b',') {
                return Err(BatchError::NotAnArray(reader.unexpected("',' or ']'")));
            }
        }
    }
    reader.finish().map_err(BatchError::NotAnArray)?;
    Ok(events)
}

fn check_batch_size(batch: &[u8]) -> Result<(), BatchError> {
    let (length, limit) = (batch.len(), MAX_BATCH_BYTES);
    if length > limit { Err(BatchError::TooLarge { length, limit }) } else { Ok(()) }
}

fn next_index(events: &[Event]) -> Result<usize, BatchError> {
    let limit = MAX_BATCH_EVENTS;
    if events.len() == limit { Err(BatchError::TooManyEvents { limit }) } else { Ok(events.len()) }
}

fn not_empty(events: Vec<Event>) -> Result<Vec<Event>, BatchError> {
    if events.is_empty() { Err(BatchError::Empty) } else { Ok(events) }
}

fn next_event(
    reader: &mut Canonicaliser<'_>,
    make: impl Fn(&Canonicaliser<'_>, bool) -> Result<Event, EventError>,
) -> Result<Event, EventError> {
    reader.peek();
    let start = reader.position();
    let is_object = reader.read_object()?;
    check_size(reader.position() - start)?;
    make(reader, is_object)
}

fn further(error: EventError, by: usize) -> EventError {
    match error {
        EventError::Json { at, reason } => EventError::Json { at: at + by, reason },
        other => other,
    }
}
