//! Events as they come back from a disk: as they were written, or damaged.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use crate::event::{Event, Hops};
use crate::topic::Topic;

/// Replaces a damaged topic that does not parse.
const DAMAGED_TOPIC: &str = "damaged";

/// A hash of all parts of an event that are sent, signed or shown to a template, stored beside the event. It finds
/// damage by disks, not changes by people, who could change the hash, too.
pub(super) fn checksum(event: &Event) -> i64 {
    let hops = event.hops().map(Hops::to_bytes).unwrap_or_default();
    hash([event.id().as_bytes(), event.topic().as_str().as_bytes(), event.kind().as_bytes(), event.body(), &hops])
}

fn hash(parts: [&[u8]; 5]) -> i64 {
    let mut hasher = SipHasher13::new();
    for part in parts {
        hasher.write(&(part.len() as u64).to_le_bytes());
        hasher.write(part);
    }
    hasher.finish().cast_signed()
}

/// The checksum of an event whose body was erased, from the other columns. So an erased event is told from one that lost its
/// body by damage.
pub(super) fn checksum_of_erased(id: &[u8], topic: &[u8], kind: &[u8], hops: Option<&[u8]>) -> i64 {
    hash([id, topic, kind, &[], hops.unwrap_or_default()])
}

/// The columns of an event.
pub(super) struct Columns<'a> {
    pub(super) id: &'a [u8],
    pub(super) topic: &'a [u8],
    pub(super) kind: &'a [u8],
    pub(super) body: Vec<u8>,
    pub(super) hops: Option<&'a [u8]>,
    /// `None`: a version without checksums stored the event.
    pub(super) checksum: Option<i64>,
}

/// An event, and whether it may not be sent, because its checksum fails.
pub(super) struct ReadBack {
    pub(super) event: Event,
    /// Or erased.
    pub(super) is_damaged: bool,
}

impl Columns<'_> {
    pub(super) fn read(self) -> Result<ReadBack, crate::topic::TopicError> {
        let Self { id, topic, kind, body, hops, checksum } = self;
        let is_erased = body.is_empty() && checksum == Some(checksum_of_erased(id, topic, kind, hops));
        let is_sound = checksum.is_none_or(|sum| sum == hash([id, topic, kind, &body, hops.unwrap_or_default()]));
        let parsed = std::str::from_utf8(topic).ok().and_then(|topic| Topic::parse(topic).ok());
        let route = hops.map(Hops::from_bytes);
        let is_damaged =
            !is_sound || body.is_empty() || parsed.is_none() || route.as_ref().is_some_and(Option::is_none);
        let text = |bytes| Box::from(String::from_utf8_lossy(bytes));
        let topic = parsed.map_or_else(|| Topic::parse(DAMAGED_TOPIC), Ok)?;
        let event = Event::from_stored(text(id), topic, text(kind), body.into()).with_hops(route.flatten());
        Ok(ReadBack { event: if is_erased { event.erased() } else { event }, is_damaged })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixMicros;

    fn event() -> Event {
        Event::new(Topic::parse("orders.paid").unwrap(), "paid", r#"{"a":1}"#, UnixMicros(1)).unwrap()
    }

    fn columns(event: &Event) -> [Vec<u8>; 4] {
        [event.id().into(), event.topic().as_str().into(), event.kind().into(), event.body().to_vec()]
    }

    fn read(columns: &[Vec<u8>; 4], checksum: Option<i64>) -> ReadBack {
        let [id, topic, kind, body] = columns;
        Columns { id, topic, kind, body: body.clone(), hops: None, checksum }.read().unwrap()
    }

    #[test]
    fn any_flipped_bit_is_damage() {
        let (event, mut count) = (event(), 0);
        let whole = columns(&event);
        let sum = Some(checksum(&event));
        assert!(!read(&whole, sum).is_damaged);
        for column in 0..whole.len() {
            for bit in 0..8 * whole[column].len() {
                let mut flipped = whole.clone();
                flipped[column][bit / 8] ^= 1 << (bit % 8);
                assert!(read(&flipped, sum).is_damaged, "bit {bit} of column {column}");
                count += 1;
            }
        }
        assert!(count > 500);
    }

    #[test]
    fn parts_that_changed_places_are_damage() {
        let event = event();
        let [id, topic, kind, body] = columns(&event);
        let moved = [[id, vec![b'o']].concat(), topic[1..].to_vec(), kind, body];
        assert!(read(&moved, Some(checksum(&event))).is_damaged);
    }

    #[test]
    fn an_event_of_an_earlier_version_is_believed_unless_it_cannot_be_one() {
        let mut columns = columns(&event());
        assert!(!read(&columns, None).is_damaged);
        columns[1] = vec![0xff, b'.', b'.'];
        let damaged = read(&columns, None);
        assert!(damaged.is_damaged);
        assert_eq!(damaged.event.topic().as_str(), DAMAGED_TOPIC);
    }
}
