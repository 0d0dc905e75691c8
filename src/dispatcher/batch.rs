//! Several events in one request.

use http::HeaderValue;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::delivery::attempt::Message;
use crate::event::Event;
use crate::shape::{BatchForm, Member};
use crate::topic::Topic;

/// The bodies of a batch.
pub(super) struct BatchContent {
    pub(super) form: BatchForm,
    pub(super) members: Vec<Member>,
    /// Of a single body.
    pub(super) content_type: Option<HeaderValue>,
}

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

/// The batch of these bodies. A topic that all events share is the topic of the batch.
pub(super) fn message<'a>(id: &'a str, content: &BatchContent, events: impl Iterator<Item = &'a Event>) -> Message<'a> {
    let mut topics = events.map(Event::topic);
    let topic = topics.next().filter(|first| topics.all(|topic| topic == *first)).map(Topic::as_str);
    let content_type = content.form.content_type().or_else(|| content.content_type.clone());
    let body = content.form.join(id, &content.members);
    Message { event_id: id, kind: "", topic, body, content_type, hops: None, headers: &[], more_headers: &[] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixMicros;

    fn one(id: &str, topic: &str) -> Event {
        let json = format!(r#"{{"id": "{id}", "topic": "{topic}", "ts": "now", "payload": {{"n": 1.50}}}}"#);
        Event::from_json(json.as_bytes(), UnixMicros(0)).unwrap()
    }

    fn content(events: &[Event]) -> BatchContent {
        let member = |event: &Event| Member { delivery: Uuid::nil(), body: event.decnet_body() };
        BatchContent { form: BatchForm::Events, members: events.iter().map(member).collect(), content_type: None }
    }

    #[test]
    fn bodies_are_carried_as_they_are() {
        let events = [one("a", "order.paid"), one("b", "order.paid")];
        let batch = message("1-2", &content(&events), events.iter());
        let expected = concat!(
            r#"{"events":[{"id":"a","payload":{"n":1.50},"topic":"order.paid","ts":"now","type":"","v":1},"#,
            r#"{"id":"b","payload":{"n":1.50},"topic":"order.paid","ts":"now","type":"","v":1}],"id":"1-2","v":1}"#
        );
        assert_eq!(batch.body, expected.as_bytes());
        assert_eq!((batch.event_id, batch.topic), ("1-2", Some("order.paid")));
        let mixed = [one("a", "order.paid"), one("b", "order.sent")];
        assert_eq!(message("1", &content(&mixed), mixed.iter()).topic, None);
    }

    #[test]
    fn the_same_deliveries_have_the_same_id() {
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert_eq!(id([a, b].into_iter()), id([a, b].into_iter()));
        assert_ne!(id([a, b].into_iter()), id([b, a].into_iter()));
        assert_ne!(id([a].into_iter()), id([a, b].into_iter()));
    }
}
