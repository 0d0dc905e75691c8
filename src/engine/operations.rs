//! The server's own events: what befalls webhooks and deliveries, told to whoever subscribes to `postrider.>`.
//!
//! They go through the same door as all events. One is made only where a webhook wants it, and none is made of
//! what another one caused, so that they never go round in circles.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::Engine;
use crate::clock::UnixMicros;
use crate::dispatcher::notices::{DeadDelivery, News, Notice};
use crate::event::Event;
use crate::topic::Topic;
use crate::webhook::{DEFAULT_TENANT, TenantSeq, Webhook, WebhookRecord};

/// The most notices taken in together.
const MAX_NOTICES_AT_ONCE: usize = 128;
/// The most bytes of a dead delivery's payload in its event.
const MAX_EXCERPT_BYTES: usize = 1_024;
/// The delay before a retry to turn a webhook off, or to publish that the store is full.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// Runs until the dispatcher or the engine is dropped.
pub(super) async fn run(engine: Weak<Engine>, mut notices: mpsc::Receiver<Notice>) {
    let mut received = Vec::with_capacity(MAX_NOTICES_AT_ONCE);
    while notices.recv_many(&mut received, MAX_NOTICES_AT_ONCE).await > 0 {
        let Some(engine) = engine.upgrade() else { return };
        let mut events: HashMap<TenantSeq, Vec<Event>> = HashMap::new();
        for notice in received.drain(..) {
            if let News::Off(off) = notice.news {
                turn_off(&engine, &notice, &off.to_string());
            }
            if !notice.is_quiet
                && let Some(event) = event_of(&engine, &notice)
            {
                events.entry(notice.settings.tenant).or_default().push(event);
            }
        }
        for (tenant, events) in events {
            if let Err(error) = engine.ingest.publish_own(tenant, events).await {
                tracing::warn!(tenant = tenant.0, %error, "the server's own events could not be stored");
            }
        }
    }
}

/// In a task of its own, since the store may be unavailable for a while.
fn turn_off(engine: &Arc<Engine>, notice: &Notice, reason: &str) {
    let (engine, webhook, reason) = (Arc::downgrade(engine), notice.webhook, reason.to_owned());
    let settings = Arc::clone(&notice.settings);
    tokio::spawn(async move {
        while let Some(engine) = engine.upgrade() {
            match engine.switch_off(webhook, &reason).await {
                Ok(()) => return,
                Err(error) => {
                    let webhook = settings.name.as_str();
                    tracing::error!(webhook, %error, "a webhook that is off cannot be recorded as such; trying again");
                }
            }
            drop(engine);
            tokio::time::sleep(TRY_AGAIN_AFTER).await;
        }
    });
}

/// `None`: no webhook matches its topic.
fn event_of(engine: &Engine, notice: &Notice) -> Option<Event> {
    let topic = match &notice.news {
        News::Failing => "postrider.webhook.failing",
        News::Opened => "postrider.webhook.opened",
        News::Recovered => "postrider.webhook.recovered",
        News::Off(off) if off.is_gone() => "postrider.webhook.gone",
        News::Off(_) => "postrider.webhook.disabled",
        News::Dead(_) => "postrider.delivery.dead",
    };
    let settings = &notice.settings;
    let topic = wanted(engine, settings.tenant, topic)?;
    let mut payload = about(settings.uuid, &settings.name, &settings.receiver);
    if !notice.error.is_empty() {
        payload.insert("error".to_owned(), notice.error.as_str().into());
    }
    if let News::Off(off) = &notice.news {
        payload.insert("reason".to_owned(), off.to_string().into());
    }
    if let News::Dead(dead) = &notice.news {
        describe(engine, dead, &mut payload);
    }
    own_event(topic, payload, notice.at)
}

/// The topic, if a webhook of the tenant matches it.
fn wanted(engine: &Engine, tenant: TenantSeq, topic: &str) -> Option<Topic> {
    Topic::parse(topic).ok().filter(|topic| engine.ingest.is_wanted(tenant, topic))
}

/// The part of the payload that all events about a webhook have.
fn about(uuid: Uuid, name: &str, receiver: &Webhook) -> Map<String, Value> {
    let webhook = json!({
        "uuid": uuid,
        "name": name,
        "url": receiver.destination.masked(),
        "link": format!("/api/v1/webhooks/{uuid}"),
    });
    Map::from_iter([("webhook".to_owned(), webhook)])
}

fn describe(engine: &Engine, dead: &DeadDelivery, payload: &mut Map<String, Value>) {
    let id = engine.store.delivery_ids().encode(dead.key);
    let event = &dead.event.event;
    let body = &event.body()[..event.body().len().min(MAX_EXCERPT_BYTES)];
    payload.insert(
        "delivery".to_owned(),
        json!({
            "id": id,
            "attempts": dead.attempts,
            "status_code": dead.status_code,
            "link": format!("/api/v1/deliveries/{id}"),
        }),
    );
    payload.insert(
        "event".to_owned(),
        json!({
            "id": event.id(),
            "topic": event.topic().as_str(),
            "type": event.kind(),
            "body_excerpt": String::from_utf8_lossy(body).trim_end_matches('\u{fffd}'),
            "link": format!("/api/v1/events/{}", event.id()),
        }),
    );
}

/// An operator's change of a webhook.
pub(super) enum WebhookEdit {
    Created,
    /// The names of the changed fields.
    Updated(Vec<String>),
    Rotated,
    Deleted,
}

/// Publishes the event about an operator's change. Changes by the server have events of other topics.
pub(super) async fn tell(engine: &Engine, record: &WebhookRecord, change: WebhookEdit) {
    let topic = match &change {
        WebhookEdit::Created => "postrider.webhook.created",
        WebhookEdit::Updated(_) => "postrider.webhook.updated",
        WebhookEdit::Rotated => "postrider.webhook.rotated",
        WebhookEdit::Deleted => "postrider.webhook.deleted",
    };
    let Some(topic) = wanted(engine, record.tenant, topic) else { return };
    let mut payload = about(record.uuid, &record.settings.name, &record.settings.receiver);
    if let WebhookEdit::Updated(changed) = change {
        payload.insert("changed".to_owned(), changed.into());
    }
    let Some(event) = own_event(topic, payload, engine.now()) else { return };
    if let Err(error) = engine.ingest.publish_own(record.tenant, vec![event]).await {
        let webhook = record.settings.name.as_str();
        tracing::warn!(webhook, %error, "an event of the server's own could not be stored");
    }
}

/// As [`tell`], about webhooks that were created together.
pub(super) async fn tell_created(engine: &Engine, records: &[WebhookRecord]) {
    for some in records.chunk_by(|one, other| one.tenant == other.tenant) {
        let Some(tenant) = some.first().map(|record| record.tenant) else { continue };
        let Some(topic) = wanted(engine, tenant, "postrider.webhook.created") else { continue };
        for few in some.chunks(MAX_NOTICES_AT_ONCE) {
            let event = |record: &WebhookRecord| {
                let about = about(record.uuid, &record.settings.name, &record.settings.receiver);
                own_event(topic.clone(), about, engine.now())
            };
            if let Err(error) = engine.ingest.publish_own(tenant, few.iter().filter_map(event).collect()).await {
                tracing::warn!(tenant = tenant.0, %error, "the server's own events could not be stored");
            }
        }
    }
}

fn own_event(topic: Topic, payload: Map<String, Value>, at: UnixMicros) -> Option<Event> {
    let kind = topic.as_str().rsplit('.').next().unwrap_or_default().to_owned();
    Event::new(topic, &kind, &Value::Object(payload).to_string(), at)
        .inspect_err(|error| tracing::error!(kind, %error, "an event of the server's own is none"))
        .ok()
}

/// Notes that an event was refused because the store is full. The event about it is published as soon as it can be
/// stored.
pub(super) fn note_full(engine: &Arc<Engine>) {
    if engine.is_full_told.swap(true, Ordering::AcqRel) {
        return;
    }
    let since = engine.now();
    let engine = Arc::downgrade(engine);
    tokio::spawn(async move {
        while let Some(engine) = engine.upgrade() {
            if tell_full(&engine, since).await {
                engine.is_full_told.store(false, Ordering::Release);
                return;
            }
            drop(engine);
            tokio::time::sleep(TRY_AGAIN_AFTER).await;
        }
    });
}

/// Whether the event is published, or no webhook matches its topic.
async fn tell_full(engine: &Engine, since: UnixMicros) -> bool {
    let Some(topic) = wanted(engine, DEFAULT_TENANT, "postrider.store.full") else { return true };
    let now = engine.now();
    let payload = json!({"refused_since": since.to_string(), "told_at": now.to_string(), "link": "/readyz"});
    let Value::Object(payload) = payload else { return true };
    let Some(event) = own_event(topic, payload, now) else { return true };
    engine.ingest.publish_own(DEFAULT_TENANT, vec![event]).await.is_ok()
}
