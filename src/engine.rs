//! One node: its store, its door and its lanes, kept in step. What the API and the command line talk to.

mod operations;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::sync::Mutex;
use uuid::Uuid;

use self::operations::Deed;

use crate::clock::{Clock, UnixMicros};
use crate::delivery::Outcome;
use crate::delivery::attempt::attempt;
use crate::delivery::client::{Client, VetError};
use crate::dispatcher::{Dispatcher, DispatcherSettings, Figures};
use crate::event::Event;
use crate::ingest::{DryRun, Ingest, PublishError, Receipt};
use crate::shape::RenderError;
use crate::signing::{RotationError, Secret, SigningKeys, StandardKey};
use crate::store::{DeliveryKey, Store, StoreError, StoredDelivery};
use crate::topic::Topic;
use crate::webhook::{TenantSeq, WebhookError, WebhookPatch, WebhookRecord, WebhookSeq, WebhookSettings};

/// The topic of the event that [`Engine::test_webhook`] sends.
pub const TEST_TOPIC: &str = "postrider.test";
/// How often a change is tried again when another one came between reading and writing.
const MAX_UPDATE_TRIES: usize = 8;

/// A running node.
pub struct Engine {
    store: Arc<dyn Store>,
    client: Client,
    clock: Arc<dyn Clock>,
    dispatcher: Dispatcher,
    ingest: Ingest,
    /// Held while a webhook is changed, so that store, lanes and patterns take changes in the same order.
    changes: Mutex<()>,
    /// The store has refused events, and a task is about to tell so.
    is_full_told: AtomicBool,
}

/// Why a change of a webhook was refused.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    #[error("the settings are not valid")]
    Invalid(Vec<WebhookError>),
    #[error(transparent)]
    Rotation(#[from] RotationError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Keys for a rotation that a user chose.
#[derive(Default)]
pub struct GivenKeys {
    pub decnet: Option<Secret>,
    pub standard: Option<StandardKey>,
}

impl Engine {
    /// Reads the webhooks and what is owed to them, and starts delivering.
    pub async fn start(
        store: Arc<dyn Store>,
        client: Client,
        clock: Arc<dyn Clock>,
        settings: DispatcherSettings,
    ) -> Result<Arc<Self>, StoreError> {
        let (dispatcher, webhooks, notices) =
            Dispatcher::start(Arc::clone(&store), client.clone(), Arc::clone(&clock), settings).await?;
        let ingest = Ingest::new(Arc::clone(&store), dispatcher.clone(), Arc::clone(&clock));
        for record in &webhooks {
            ingest.apply(record);
        }
        let changes = Mutex::default();
        let engine =
            Arc::new(Self { store, client, clock, dispatcher, ingest, changes, is_full_told: AtomicBool::new(false) });
        tokio::spawn(operations::run(Arc::downgrade(&engine), notices));
        Ok(engine)
    }

    /// For reading, and for tokens.
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    pub fn now(&self) -> UnixMicros {
        self.clock.now()
    }

    /// Accepts events, all or none; one receipt an event, in order.
    pub async fn publish(
        self: &Arc<Self>,
        tenant: TenantSeq,
        events: Vec<Event>,
    ) -> Result<Vec<Receipt>, PublishError> {
        let engine = Arc::clone(self);
        let published = to_the_end(async move { engine.ingest.publish(tenant, events).await }).await;
        if let Err(PublishError::Store(StoreError::Full(_))) = &published {
            operations::note_full(self);
        }
        published
    }

    /// What would become of an event, if it was published now; nothing is stored.
    pub fn dry_run(&self, tenant: TenantSeq, event: &Event) -> Result<DryRun, PublishError> {
        self.ingest.dry_run(tenant, event)
    }

    // --- webhooks ---

    pub async fn create_webhook(
        self: &Arc<Self>,
        tenant: TenantSeq,
        patch: WebhookPatch,
    ) -> Result<WebhookRecord, ChangeError> {
        let settings = WebhookSettings::create(patch).map_err(ChangeError::Invalid)?;
        self.vet(&settings).await?;
        let engine = Arc::clone(self);
        to_the_end(async move {
            let _in_order = engine.changes.lock().await;
            let record = engine.store.create_webhook(tenant, settings, engine.now()).await?;
            engine.dispatcher.add(&record);
            engine.ingest.apply(&record);
            operations::tell(&engine, &record, Deed::Created).await;
            Ok(record)
        })
        .await
    }

    /// Changes what `patch` names; takes effect at once. `enabled: Some(true)` also closes the circuit.
    pub async fn update_webhook(
        self: &Arc<Self>,
        tenant: TenantSeq,
        uuid: Uuid,
        patch: WebhookPatch,
    ) -> Result<WebhookRecord, ChangeError> {
        let close_circuit = patch.enabled == Some(true);
        self.change_webhook(tenant, uuid, close_circuit, false, |old, _| {
            old.patched(patch.clone()).map_err(ChangeError::Invalid)
        })
        .await
    }

    /// Lets new keys take over, those that `given` has and new ones for the others; the keys of before sign for
    /// `overlap` more. Attempts under way end with the keys that they began with.
    pub async fn rotate_keys(
        self: &Arc<Self>,
        tenant: TenantSeq,
        uuid: Uuid,
        given: GivenKeys,
        overlap: Duration,
    ) -> Result<WebhookRecord, ChangeError> {
        // Made once, so that a second try is the same rotation.
        let new = SigningKeys::new(
            given.decnet.unwrap_or_else(Secret::generate),
            given.standard.unwrap_or_else(StandardKey::generate),
        );
        self.change_webhook(tenant, uuid, false, true, |old, now| {
            let mut settings = old.clone();
            settings.receiver.keys = old.receiver.keys.rotated(new.clone(), overlap, now)?;
            Ok(settings)
        })
        .await
    }

    /// Commits what `change` makes of the settings and of the present moment, and lets it take effect at once.
    async fn change_webhook(
        self: &Arc<Self>,
        tenant: TenantSeq,
        uuid: Uuid,
        close_circuit: bool,
        is_rotation: bool,
        change: impl Fn(&WebhookSettings, UnixMicros) -> Result<WebhookSettings, ChangeError>,
    ) -> Result<WebhookRecord, ChangeError> {
        for _ in 0..MAX_UPDATE_TRIES {
            let old = self.find(tenant, uuid).await?;
            let settings = change(&old.settings, self.now())?;
            let (new, known) = (&settings.receiver, &old.settings.receiver);
            if new.destination != known.destination || new.access != known.access {
                self.vet(&settings).await?;
            }
            let deed = if is_rotation { Deed::Rotated } else { Deed::Updated(old.settings.changed_fields(&settings)) };
            let engine = Arc::clone(self);
            let updated = to_the_end(async move {
                let _in_order = engine.changes.lock().await;
                let now = engine.now();
                let record =
                    engine.store.update_webhook(tenant, uuid, old.version, settings, close_circuit, now).await?;
                engine.dispatcher.apply(&record, close_circuit);
                engine.ingest.apply(&record);
                if !matches!(&deed, Deed::Updated(changed) if changed.is_empty()) {
                    operations::tell(&engine, &record, deed).await;
                }
                Ok(record)
            })
            .await;
            match updated {
                Err(ChangeError::Store(StoreError::Conflict(_))) => {}
                other => return other,
            }
        }
        Err(StoreError::Conflict("the webhook is being changed by others; try again".to_owned()).into())
    }

    /// Turns a webhook off without its owner; what it is owed is kept.
    async fn switch_off(self: &Arc<Self>, webhook: WebhookSeq, reason: &str) -> Result<(), StoreError> {
        let (engine, reason) = (Arc::clone(self), reason.to_owned());
        to_the_end(async move {
            let _in_order = engine.changes.lock().await;
            if let Some(record) = engine.store.switch_off(webhook, &reason, engine.now()).await? {
                engine.dispatcher.apply(&record, false);
                engine.ingest.apply(&record);
            }
            Ok(())
        })
        .await
    }

    /// Its pending deliveries end as discarded, `webhook deleted`.
    pub async fn delete_webhook(self: &Arc<Self>, tenant: TenantSeq, uuid: Uuid) -> Result<WebhookRecord, StoreError> {
        let engine = Arc::clone(self);
        to_the_end(async move {
            let _in_order = engine.changes.lock().await;
            let record = engine.store.delete_webhook(tenant, uuid, engine.now()).await?;
            engine.ingest.remove(tenant, record.seq);
            engine.dispatcher.remove(record.seq);
            operations::tell(&engine, &record, Deed::Deleted).await;
            Ok(record)
        })
        .await
    }

    /// One signed attempt now with a test event, no retry; stores nothing. The inner error: there is no body to send.
    pub async fn test_webhook(
        &self,
        tenant: TenantSeq,
        uuid: Uuid,
    ) -> Result<Result<Outcome, RenderError>, StoreError> {
        let record = self.find(tenant, uuid).await?;
        let event = Topic::parse(TEST_TOPIC).map_err(|error| error.to_string()).and_then(|topic| {
            let payload = r#"{"message":"This is a test from Postrider: the webhook works."}"#;
            Event::new(topic, "test", payload, self.now()).map_err(|error| error.to_string())
        });
        let event = event.map_err(StoreError::Conflict)?;
        let shaped = match self.dispatcher.shape(&record, event).await {
            Ok(shaped) => shaped,
            Err(error) => return Ok(Err(error)),
        };
        let (webhook, message) = (&record.settings.receiver, shaped.message());
        Ok(Ok(attempt(&self.client, &mut None, webhook, &message, message.event_id, &*self.clock).await))
    }

    /// Refuses a destination that an attempt would refuse.
    async fn vet(&self, settings: &WebhookSettings) -> Result<(), ChangeError> {
        self.client.vet(&settings.receiver).await.map_err(|VetError { field, error }| {
            let error = match field {
                "url" => error.into(),
                _ => WebhookError::Field { field, reason: error.to_string() },
            };
            ChangeError::Invalid(vec![error])
        })
    }

    async fn find(&self, tenant: TenantSeq, uuid: Uuid) -> Result<WebhookRecord, StoreError> {
        self.store.webhook(tenant, uuid).await?.ok_or(StoreError::NotFound)
    }

    // --- deliveries ---

    /// Makes an ended delivery pending again, or a waiting one due now.
    pub async fn retry_delivery(
        self: &Arc<Self>,
        tenant: TenantSeq,
        key: DeliveryKey,
    ) -> Result<StoredDelivery, StoreError> {
        let engine = Arc::clone(self);
        to_the_end(async move {
            let retry = engine.store.retry_delivery(tenant, key, engine.now());
            let retried = engine.dispatcher.withhold(key, retry).await?;
            engine.dispatcher.wake(key.webhook);
            Ok(retried)
        })
        .await
    }

    pub async fn discard_delivery(
        self: &Arc<Self>,
        tenant: TenantSeq,
        key: DeliveryKey,
        reason: &str,
    ) -> Result<StoredDelivery, StoreError> {
        let (engine, reason) = (Arc::clone(self), reason.to_owned());
        to_the_end(async move {
            let discard = engine.store.discard_delivery(tenant, key, &reason, engine.now());
            engine.dispatcher.withhold(key, discard).await
        })
        .await
    }

    // --- the node ---

    /// What happened since the start, and what is going on, for metrics.
    pub fn figures(&self) -> Figures {
        self.dispatcher.figures()
    }

    /// Starts no more attempts; those under way go on, and events are still accepted. Comes before [`Engine::drain`].
    pub fn stop_attempts(&self) {
        self.dispatcher.stop();
    }

    /// Stops accepting and starting attempts, waits for those under way for at most `timeout`, records them (for
    /// at most 5 s more), and closes the store. Returns how many attempts were cut off; their deliveries are made
    /// again at the next start.
    pub async fn drain(&self, timeout: Duration) -> usize {
        self.ingest.close();
        let cut_off = self.dispatcher.drain(timeout).await;
        self.store.close().await;
        cut_off
    }
}

/// Runs a change in a task of its own: a caller that hangs up must not part what is committed from the lanes.
async fn to_the_end<T, E>(change: impl Future<Output = Result<T, E>> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: From<StoreError> + Send + 'static,
{
    match tokio::spawn(change).await {
        Ok(result) => result,
        Err(_) => Err(StoreError::Unavailable("the server is stopping".to_owned()).into()),
    }
}
