//! An engine on a real store, and what tests say to it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use postrider::clock::{Clock, SystemClock, UnixMicros};
use postrider::delivery::DeliveryState;
use postrider::delivery::client::{Client, ClientOptions};
use postrider::delivery::guard::EgressPolicy;
use postrider::delivery::retry::Schedule;
use postrider::delivery::statuses::StatusLists;
use postrider::dispatcher::{CircuitSettings, DispatcherSettings};
use postrider::engine::{Engine, EngineSettings};
use postrider::event::Event;
use postrider::ingest::Receipt;
use postrider::store::seal::MasterKey;
use postrider::store::sqlite::{SqliteOptions, SqliteStore};
use postrider::store::{DeliveryFilter, Page, StoredDelivery, TenantPatch};
use postrider::topic::Topic;
use postrider::webhook::{Capture, DEFAULT_TENANT, TenantSeq, WebhookPatch, WebhookRecord};

use super::receiver::TestReceiver;

pub(crate) const MASTER_KEY: [u8; 32] = [3; 32];

pub(crate) fn settings() -> DispatcherSettings {
    DispatcherSettings {
        max_in_flight: 64,
        max_lane_deliveries: 100,
        max_memory_bytes: 16 * 1024 * 1024,
        retry_schedule: Schedule::from_seconds(&[0.05, 0.05, 0.05]).expect("a schedule"),
        max_age: None,
        capture: Capture::Failures,
        statuses: StatusLists::default(),
        circuit: CircuitSettings {
            threshold: 5,
            cool_down: Duration::from_secs(30),
            max_cool_down: Duration::from_hours(1),
        },
    }
}

pub(crate) async fn start_with(folder: &Path, settings: DispatcherSettings) -> Arc<Engine> {
    start_at(folder, settings, Arc::new(SystemClock)).await
}

pub(crate) async fn start_at(folder: &Path, settings: impl Into<EngineSettings>, clock: Arc<dyn Clock>) -> Arc<Engine> {
    let folder = folder.to_owned();
    let open = move || SqliteStore::open(&folder, &MasterKey::new(MASTER_KEY), SqliteOptions::default());
    let store = tokio::task::spawn_blocking(open).await.expect("opening does not panic").expect("the store opens");
    let policy = EgressPolicy { allow_all_private: true, ..EgressPolicy::default() };
    let client = Client::new(ClientOptions { policy, ..ClientOptions::default() }).expect("a client");
    Engine::start(Arc::new(store), client, clock, settings).await.expect("the engine starts")
}

pub(crate) async fn start(folder: &Path) -> Arc<Engine> {
    start_with(folder, settings()).await
}

pub(crate) async fn subscribe(engine: &Arc<Engine>, name: &str, pattern: &str, url: &str) -> WebhookRecord {
    let patch = WebhookPatch {
        name: Some(name.to_owned()),
        url: Some(url.to_owned()),
        topic_patterns: Some(vec![pattern.to_owned()]),
        ..WebhookPatch::default()
    };
    engine.create_webhook(DEFAULT_TENANT, patch).await.expect("the webhook is valid")
}

pub(crate) async fn change(engine: &Arc<Engine>, webhook: &WebhookRecord, patch: WebhookPatch) {
    engine.update_webhook(DEFAULT_TENANT, webhook.uuid, patch).await.expect("the change is valid");
}

pub(crate) fn events(topic: &str, count: usize) -> Vec<Event> {
    let event = |n| {
        let topic = Topic::parse(topic).expect("a topic");
        Event::new(topic, "seen", &format!(r#"{{"n":{n}}}"#), UnixMicros(0)).expect("an event")
    };
    (0..count).map(event).collect()
}

pub(crate) async fn publish(engine: &Arc<Engine>, topic: &str, count: usize) -> Vec<Receipt> {
    engine.publish(DEFAULT_TENANT, events(topic, count)).await.expect("the events are accepted")
}

pub(crate) async fn deliveries(engine: &Engine, state: DeliveryState) -> Vec<StoredDelivery> {
    let filter = DeliveryFilter { state: Some(state), ..DeliveryFilter::default() };
    let page = Page { limit: 500, cursor: None };
    engine.store().deliveries(DEFAULT_TENANT, &filter, page).await.expect("the store reads").items
}

/// Waits until the store shows `count` deliveries in `state`; what it shows is the truth, there is no signal for it.
pub(crate) async fn wait_for(engine: &Engine, state: DeliveryState, count: usize) -> Vec<StoredDelivery> {
    for _ in 0..3_000 {
        let found = deliveries(engine, state).await;
        if found.len() == count {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let pending = deliveries(engine, DeliveryState::Pending).await;
    let found = deliveries(engine, state).await.len();
    panic!("{found} deliveries are {}, not {count}; {:?}; {pending:#?}", state.as_str(), engine.figures());
}

/// A webhook of a tenant of its own, beside those of a test. An event that waits for its time goes the way of all that
/// waits: into the store, by the timer and a load, to a worker. When it has arrived, what should have come before it has
/// come, or is under way; so a test that expects nothing waits for this, and for no time.
pub(crate) struct Sentinel {
    tenant: TenantSeq,
    receiver: TestReceiver,
}

impl Sentinel {
    pub(crate) async fn new(engine: &Arc<Engine>) -> Self {
        let patch = TenantPatch { name: Some("sentinel".to_owned()), ..TenantPatch::default() };
        let tenant = engine.create_tenant(DEFAULT_TENANT.into(), patch).await.expect("a tenant").seq;
        let receiver = TestReceiver::healthy().await;
        let patch = WebhookPatch {
            name: Some("sentinel".to_owned()),
            url: Some(receiver.url("/")),
            topic_patterns: Some(vec![">".to_owned()]),
            ..WebhookPatch::default()
        };
        engine.create_webhook(tenant, patch).await.expect("the webhook is valid");
        Self { tenant, receiver }
    }

    /// Sends an event that is due after `delay`.
    pub(crate) async fn send(&self, engine: &Arc<Engine>, delay: Duration) {
        let now = engine.now();
        let event = serde_json::json!({"topic": "sentinel", "deliver_at": now.after(delay).to_string()}).to_string();
        let event = Event::from_json(event.as_bytes(), now).expect("an event");
        engine.publish(self.tenant, vec![event]).await.expect("the event is accepted");
    }

    /// Waits until `count` have arrived in all, and nothing is under way any more.
    pub(crate) async fn arrived(&self, engine: &Engine, count: usize) {
        self.receiver.wait_for(count).await;
        let at_rest = async {
            while engine.figures().in_flight > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), at_rest).await.expect("what is under way ends");
    }

    /// Sends one that is due after `delay` of a clock that goes, and waits for it.
    pub(crate) async fn pass(&self, engine: &Arc<Engine>, delay: Duration) {
        let before = self.receiver.received_count();
        self.send(engine, delay).await;
        self.arrived(engine, before + 1).await;
    }
}

pub(crate) async fn stop(engine: Arc<Engine>) {
    assert_eq!(engine.drain(Duration::from_secs(10)).await, 0, "attempts were cut off");
}

pub(crate) fn patch(json: &str) -> WebhookPatch {
    serde_json::from_str(json).expect("a patch")
}

pub(crate) async fn record(engine: &Arc<Engine>, webhook: &WebhookRecord) -> WebhookRecord {
    engine.store().webhook(DEFAULT_TENANT, webhook.uuid).await.expect("the store reads").expect("it is there")
}

/// Waits until the stored webhook is as wanted.
pub(crate) async fn wait_until(
    engine: &Arc<Engine>,
    webhook: &WebhookRecord,
    is_wanted: impl Fn(&WebhookRecord) -> bool,
) -> WebhookRecord {
    for _ in 0..2_000 {
        let found = record(engine, webhook).await;
        if is_wanted(&found) {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the webhook stays {:?}", record(engine, webhook).await);
}
