//! Several events in one request.

use bytes::Bytes;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::delivery::attempt::Message;
use crate::event::Event;
use crate::topic::Topic;

/// The id of the batch of these deliveries. The same deliveries in the same order have the same id, so that a receiver
/// recognises a repeated batch.
pub(super) fn id(deliveries: impl Iterator<Item = Uuid>) -> Uuid {
    let mut hash = Sha256::new_with_prefix(b"postrider batch");
    for delivery in deliveries {
        hash.update(delivery.as_bytes());
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// `{"events":[…],"id":…,"v":1}` with the unchanged bodies of the events. A topic that all events share is the topic of
/// the batch.
pub(super) fn message<'a>(id: &'a str, events: impl Iterator<Item = &'a Event> + Clone) -> Message<'a> {
    let bytes: usize = events.clone().map(|event| event.body().len() + 1).sum();
    let mut body = Vec::with_capacity(bytes + 64);
    body.extend_from_slice(b"{\"events\":[");
    for (index, event) in events.clone().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(&event.decnet_body());
    }
    // A UUID needs no escapes.
    body.extend_from_slice(b"],\"id\":\"");
    body.extend_from_slice(id.as_bytes());
    body.extend_from_slice(b"\",\"v\":1}");
    let mut topics = events.map(Event::topic);
    let topic = topics.next().filter(|first| topics.all(|topic| topic == *first)).map(Topic::as_str);
    Message { event_id: id, kind: "", topic, body: Bytes::from(body), content_type: None, hops: None, headers: &[] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixMicros;

    fn one(id: &str, topic: &str) -> Event {
        let json = format!(r#"{{"id": "{id}", "topic": "{topic}", "ts": "now", "payload": {{"n": 1.50}}}}"#);
        Event::from_json(json.as_bytes(), UnixMicros(0)).unwrap()
    }

    #[test]
    fn bodies_are_carried_as_they_are() {
        let events = [one("a", "order.paid"), one("b", "order.paid")];
        let batch = message("1-2", events.iter());
        let expected = concat!(
            r#"{"events":[{"id":"a","payload":{"n":1.50},"topic":"order.paid","ts":"now","type":"","v":1},"#,
            r#"{"id":"b","payload":{"n":1.50},"topic":"order.paid","ts":"now","type":"","v":1}],"id":"1-2","v":1}"#
        );
        assert_eq!(batch.body, expected.as_bytes());
        assert_eq!((batch.event_id, batch.topic), ("1-2", Some("order.paid")));
        let mixed = [one("a", "order.paid"), one("b", "order.sent")];
        assert_eq!(message("1", mixed.iter()).topic, None);
    }

    #[test]
    fn the_same_deliveries_have_the_same_id() {
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert_eq!(id([a, b].into_iter()), id([a, b].into_iter()));
        assert_ne!(id([a, b].into_iter()), id([b, a].into_iter()));
        assert_ne!(id([a].into_iter()), id([a, b].into_iter()));
    }
}
