//! Events, webhooks and settlements for the stories.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postrider::clock::UnixMicros;
use postrider::delivery::exchange::{Link, Timings};
use postrider::delivery::{DeliveryState, Transition};
use postrider::event::Event;
use postrider::signing::SigningKeys;
use postrider::store::exchange::{Captured, KeptExchange, Part, SentBody};
use postrider::store::{
    Accepted, AttemptRecord, DeliveryKey, Disposition, Due, EventSeq, ExchangeBlob, NewEvent, Owed, Page, Portion,
    SettleBatch, Settlement, Store, StoredDelivery, TenantPatch,
};
use postrider::topic::{Pattern, Topic};
use postrider::webhook::{DEFAULT_TENANT, TenantSeq, Webhook, WebhookSeq, WebhookSettings};

/// A window that no story fills.
pub(crate) const WIDE: u32 = 1_000;

pub(crate) fn at(seconds: i64) -> UnixMicros {
    UnixMicros(seconds * 1_000_000)
}

pub(crate) fn settings(name: &str) -> WebhookSettings {
    let keys = SigningKeys::generate();
    WebhookSettings {
        name: name.to_owned(),
        description: String::new(),
        receiver: Webhook::new("https://receiver.example/hook", keys).unwrap(),
        topic_patterns: vec![Pattern::parse("attacker.>").unwrap()],
        enabled: true,
        max_in_flight: 32,
        retry_schedule: None,
        policy: postrider::webhook::Policy::default(),
    }
}

/// Makes a tenant.
pub(crate) async fn tenant(store: &dyn Store, name: &str) -> TenantSeq {
    let patch = TenantPatch { name: Some(name.to_owned()), ..TenantPatch::default() };
    store.create_tenant(patch, at(1)).await.unwrap().seq
}

pub(crate) async fn webhook(store: &dyn Store, name: &str) -> WebhookSeq {
    store.create_webhook(DEFAULT_TENANT, settings(name), at(1)).await.unwrap().seq
}

pub(crate) async fn webhooks<const N: usize>(store: &dyn Store) -> [WebhookSeq; N] {
    let mut seqs = Vec::new();
    for number in 0..N {
        seqs.push(webhook(store, &format!("webhook {number}")).await);
    }
    seqs.try_into().unwrap()
}

pub(crate) fn event(id: &str, topic: &str) -> Event {
    let body = Bytes::from(format!(r#"{{"id":"{id}","payload":{{"n":1}},"topic":"{topic}"}}"#));
    Event::from_stored(id.into(), Topic::parse(topic).unwrap(), "session".into(), body)
}

/// An event of the default tenant, accepted 100 s after the epoch.
pub(crate) fn new_event(id: &str, owed: &[(WebhookSeq, Disposition)]) -> NewEvent {
    let owed = owed.iter().map(|(webhook, disposition)| Owed { webhook: *webhook, disposition: *disposition });
    let event = event(id, "attacker.session.started");
    NewEvent { tenant: DEFAULT_TENANT, event, accepted_at: at(100), owed: owed.collect() }
}

pub(crate) fn in_memory(id: &str, webhooks: &[WebhookSeq]) -> NewEvent {
    new_event(id, &webhooks.iter().map(|webhook| (*webhook, Disposition::InMemory)).collect::<Vec<_>>())
}

/// An event with a body of so many bytes.
pub(crate) fn sized(id: &str, body_bytes: usize, owed: &[(WebhookSeq, Disposition)]) -> NewEvent {
    let topic = Topic::parse("attacker.session.started").unwrap();
    let event = Event::from_stored(id.into(), topic, "session".into(), Bytes::from(vec![b'x'; body_bytes]));
    NewEvent { event, ..new_event(id, owed) }
}

pub(crate) async fn accept(store: &dyn Store, event: NewEvent) -> EventSeq {
    match store.accept(vec![event]).await.unwrap()[..] {
        [Accepted::New { seq }] => seq,
        ref other => panic!("not one new event: {other:?}"),
    }
}

pub(crate) fn key(event: EventSeq, webhook: WebhookSeq) -> DeliveryKey {
    DeliveryKey { event, webhook }
}

pub(crate) fn attempt(number: u32, status_code: Option<u16>) -> AttemptRecord {
    AttemptRecord {
        number,
        started_at: at(200 + i64::from(number)),
        duration_us: 1_500,
        status_code,
        error: if status_code == Some(200) { None } else { Some("http 503".to_owned()) },
        response: Bytes::from_static(b"answer"),
        exchange: exchange(number),
    }
}

/// One that differs with each attempt, captured after failures as well as after successes.
pub(crate) fn exchange(number: u32) -> ExchangeBlob {
    let part = |text: String| Part::of(&Bytes::from(text));
    let captured = Captured {
        request: part(format!("POST /{number} HTTP/1.1\r\n\r\n")),
        body: if number == 1 { SentBody::Event } else { SentBody::Own(part("\0".repeat(number as usize))) },
        answer: part("HTTP/1.1 503 Service Unavailable\r\n\r\n".to_owned()),
    };
    let timings = Timings { first_byte: Some(Duration::from_micros(number.into())), ..Timings::default() };
    let address = Some(([192, 0, 2, 1], 443).into());
    KeptExchange {
        timings,
        link: Some(Link { address, is_reused: number > 1, is_tls: true }),
        captured: Some(captured),
    }
    .to_blob()
}

pub(crate) fn delivered(key: DeliveryKey, number: u32) -> Settlement {
    Settlement {
        key,
        attempt: Some(attempt(number, Some(200))),
        round_attempts: number,
        transition: Transition::delivered(),
        at: at(300),
    }
}

pub(crate) fn failed(key: DeliveryKey, number: u32, next: UnixMicros) -> Settlement {
    Settlement {
        key,
        attempt: Some(attempt(number, Some(503))),
        round_attempts: number,
        transition: Transition::retry_at(next, "http 503".to_owned()),
        at: at(300),
    }
}

pub(crate) fn dead(key: DeliveryKey, number: u32) -> Settlement {
    Settlement {
        key,
        attempt: Some(attempt(number, Some(404))),
        round_attempts: number,
        transition: Transition::dead("non-retryable 404".to_owned()),
        at: at(300),
    }
}

pub(crate) async fn settle(store: &dyn Store, settlements: Vec<Settlement>) {
    store.settle(Arc::new(SettleBatch { settlements, ..SettleBatch::default() })).await.unwrap();
}

pub(crate) async fn delivery(store: &dyn Store, key: DeliveryKey) -> StoredDelivery {
    store.delivery(DEFAULT_TENANT, key).await.unwrap().expect("the delivery is there")
}

pub(crate) async fn state(store: &dyn Store, key: DeliveryKey) -> DeliveryState {
    delivery(store, key).await.state
}

/// At most `max_deliveries` of what is due, whatever its size.
pub(crate) async fn read_due(store: &dyn Store, webhook: WebhookSeq, now: UnixMicros, max_deliveries: u32) -> Due {
    let portion = Portion { max_deliveries, max_bytes: usize::MAX, ..Portion::default() };
    store.due(webhook, now, portion).await.unwrap()
}

/// What a restart would read back, as pairs.
pub(crate) async fn unsettled(store: &dyn Store) -> Vec<DeliveryKey> {
    let mut keys = Vec::new();
    let mut after = EventSeq(0);
    loop {
        // Small steps, so that every story also walks.
        let some = store.unsettled(after, 2).await.unwrap();
        let Some(last) = some.last() else { return keys };
        assert!(some.len() <= 2 && last.event.seq > after);
        after = last.event.seq;
        keys.extend(some.iter().flat_map(|one| one.webhooks.iter().map(|webhook| key(one.event.seq, *webhook))));
    }
}

pub(crate) fn page(limit: u32) -> Page {
    Page { limit, cursor: None }
}
