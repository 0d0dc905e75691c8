//! One node: its store, its door and its lanes, kept in step. What the API and the command line talk to.

mod administration;
mod clock_trust;
mod erasure;
pub mod figures;
pub mod import;
mod known;
pub mod nodes;
mod operations;
pub mod replay;
pub mod retention;
mod settings;
mod step;
mod trial;
pub mod waiting;
mod wanted;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use uuid::Uuid;

use self::clock_trust::ClockTrust;
use self::figures::Bookkeeping;
use self::known::Revocations;
use self::nodes::Membership;
use self::operations::WebhookEdit;

use crate::clock::{Clock, UnixMicros};
use crate::delivery::client::{Client, VetError};
use crate::dispatcher::shaping::PreviewError;
use crate::dispatcher::{Dispatcher, Figures, Latencies, Member, ShardFigures};
use crate::event::{Event, Instance};
use crate::ingest::{Ingest, PublishError, Receipt};
use crate::signing::{RotationError, Secret, SigningKeys, StandardKey};
use crate::store::cluster::{Hint, Node};
use crate::store::{Act, DeliveryKey, Idempotency, Store, StoreError, StoredDelivery};
use crate::tenants::Tenants;
use crate::webhook::{self, TenantSeq, WebhookError, WebhookPatch, WebhookRecord, WebhookSeq, WebhookSettings};

use self::replay::Replays;
use self::retention::Purge;
pub use self::settings::{DEFAULT_IDEMPOTENCY_TTL, EngineSettings};
pub use self::trial::{TEST_TOPIC, TestError};

/// The action of a rotation, in the audit log.
const ROTATE: &str = "webhook.rotate";
/// The most tries of a change that conflicts with concurrent ones.
const MAX_UPDATE_TRIES: usize = 8;

/// A running node.
pub struct Engine {
    store: Arc<dyn Store>,
    client: Client,
    clock: Arc<dyn Clock>,
    dispatcher: Dispatcher,
    ingest: Ingest,
    tenants: Arc<Tenants>,
    revocations: Revocations,
    /// Held while a webhook or a tenant is changed, so that store, lanes and patterns take changes in the same order.
    changes: Mutex<()>,
    /// The store is full, and a task waits to publish the event about it.
    is_full_told: AtomicBool,
    replays: Replays,
    purge: JoinHandle<()>,
    bookkeeping: Bookkeeping,
    clock_trust: Arc<ClockTrust>,
    idempotency_ttl: Duration,
    node: Node,
    /// `None`: no other node shares the store.
    membership: Option<Arc<Membership>>,
}

/// The reason why a change of a webhook was refused.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    #[error("the settings are not valid")]
    Invalid(Vec<WebhookError>),
    #[error(transparent)]
    Rotation(#[from] RotationError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Keys that a user chose for a rotation.
#[derive(Default)]
pub struct GivenKeys {
    pub decnet: Option<Secret>,
    pub standard: Option<StandardKey>,
}

impl Engine {
    /// Reads the webhooks and the deliveries that are owed to them, and starts delivering.
    pub async fn start(
        store: Arc<dyn Store>,
        client: Client,
        clock: Arc<dyn Clock>,
        settings: impl Into<EngineSettings>,
    ) -> Result<Arc<Self>, StoreError> {
        let EngineSettings { dispatcher, retention, figures, idempotency_ttl, new_tenant_quotas, node } =
            settings.into();
        let this = node.node(Uuid::new_v4(), clock.now());
        let member = store.cluster().map(|cluster| Member { node: this.uuid, cluster });
        // The mark comes before all other reads, so that later changes are read again.
        let mark = match &member {
            Some(member) => Some(member.cluster.changes(None).await?.mark),
            None => None,
        };
        let tenants = Arc::new(Tenants::new(new_tenant_quotas));
        for record in store.tenants().await? {
            tenants.apply(record);
        }
        let parts = (Arc::clone(&store), client.clone(), Arc::clone(&clock));
        let (dispatcher, notices) =
            Dispatcher::start(parts.0, parts.1, parts.2, dispatcher, Arc::clone(&tenants), member.clone());
        let webhooks = store.all_webhooks().await?;
        if member.is_none() {
            dispatcher.recover(&webhooks).await?;
        }
        let ingest = Ingest::new(Arc::clone(&store), dispatcher.clone(), Arc::clone(&clock), Arc::clone(&tenants));
        for record in &webhooks.live {
            ingest.apply(record);
        }
        let replays = Replays::new(Arc::clone(&store), dispatcher.clone(), Arc::clone(&clock));
        if member.is_none() {
            replays.follow(store.unfinished_replays().await?);
        }
        let clock_trust = Arc::new(ClockTrust::default());
        let parts = (Arc::clone(&store), Arc::clone(&clock), dispatcher.clone(), Arc::clone(&clock_trust));
        let kept = retention.figures;
        let purge = Purge::new(parts.0, parts.1, retention, parts.2, parts.3);
        let purge = tokio::spawn(purge.run());
        let parts = (Arc::clone(&store), dispatcher.clone(), Arc::clone(&clock));
        let bookkeeping = Bookkeeping::start(parts.0, parts.1, parts.2, (figures, kept), this.uuid);
        let membership =
            member.zip(mark).map(|(member, mark)| Arc::new(Membership::new(member, this.clone(), node, mark)));
        let changes = Mutex::default();
        let engine = Arc::new(Self {
            store,
            client,
            clock,
            dispatcher,
            ingest,
            tenants,
            revocations: Revocations::default(),
            changes,
            is_full_told: AtomicBool::new(false),
            replays,
            purge,
            bookkeeping,
            clock_trust,
            idempotency_ttl,
            node: this,
            membership,
        });
        tokio::spawn(operations::run(Arc::downgrade(&engine), notices));
        if let Some(membership) = &engine.membership {
            membership.start(&engine);
        }
        Ok(engine)
    }

    /// The store, for reads.
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// The store, for audited changes that concern neither lanes nor patterns.
    pub fn audited(&self, act: &Act) -> Arc<dyn Store> {
        self.store.audited(act)
    }

    /// The tenants and their quotas.
    pub fn tenants(&self) -> &Tenants {
        &self.tenants
    }

    pub fn now(&self) -> UnixMicros {
        self.clock.now()
    }

    /// Accepts events, all or none. Returns one receipt for each event, in order.
    pub async fn publish(
        self: &Arc<Self>,
        tenant: TenantSeq,
        events: Vec<Event>,
    ) -> Result<Vec<Receipt>, PublishError> {
        self.accept(tenant, events, None).await
    }

    /// As [`Engine::publish`], but once for `key`: a repeated request with the same SHA-256 of its body gets the same
    /// receipts.
    pub async fn publish_once(
        self: &Arc<Self>,
        tenant: TenantSeq,
        events: Vec<Event>,
        key: String,
        body_hash: [u8; 32],
    ) -> Result<Vec<Receipt>, PublishError> {
        let now = self.now();
        let once = Idempotency { key, body_hash, now, expires_at: now.after(self.idempotency_ttl) };
        self.accept(tenant, events, Some(once)).await
    }

    async fn accept(
        self: &Arc<Self>,
        tenant: TenantSeq,
        events: Vec<Event>,
        once: Option<Idempotency>,
    ) -> Result<Vec<Receipt>, PublishError> {
        let engine = Arc::clone(self);
        let published = to_the_end(async move {
            engine.be_informed().await?;
            engine.ingest.publish(tenant, events, once).await
        })
        .await;
        self.note_full(&published);
        published
    }

    fn note_full(self: &Arc<Self>, published: &Result<Vec<Receipt>, PublishError>) {
        if let Err(PublishError::Store(StoreError::Full(_))) = published {
            operations::note_full(self);
        }
    }

    /// The id by which other servers know this installation. It is the same on all nodes that share the store.
    pub fn instance(&self) -> Instance {
        self.dispatcher.stamp().instance()
    }

    /// Computes a preview within the limits of shapes, in turns by tenant.
    pub(crate) async fn preview<T: Send + 'static>(
        &self,
        tenant: TenantSeq,
        compute: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PreviewError> {
        self.dispatcher.preview(tenant, compute).await
    }

    // --- webhooks ---

    pub async fn create_webhook(
        self: &Arc<Self>,
        act: impl Into<Act>,
        patch: WebhookPatch,
    ) -> Result<WebhookRecord, ChangeError> {
        let act = act.into();
        let settings = WebhookSettings::create(patch).map_err(ChangeError::Invalid)?;
        self.vet(&settings)?;
        let engine = Arc::clone(self);
        to_the_end(async move {
            let in_order = engine.changes.lock().await;
            let record = engine.store.audited(&act).create_webhook(act.tenant, settings, engine.now()).await?;
            engine.dispatcher.add(&record);
            engine.ingest.apply(&record);
            operations::tell(&engine, &record, WebhookEdit::Created).await;
            drop(in_order);
            engine.make_known().await?;
            Ok(record)
        })
        .await
    }

    /// Changes the fields of `patch`. The change takes effect at once, on every node. `enabled: Some(true)` also closes
    /// the circuit.
    pub async fn update_webhook(
        self: &Arc<Self>,
        act: impl Into<Act>,
        uuid: Uuid,
        patch: WebhookPatch,
    ) -> Result<WebhookRecord, ChangeError> {
        let close_circuit = patch.enabled == Some(true);
        self.change_webhook(act.into(), uuid, close_circuit, |old, _| old.patched(&patch).map_err(ChangeError::Invalid))
            .await
    }

    /// Rotates the keys: the new keys are the ones of `given`, or else generated. The old keys go on signing for
    /// `overlap`. Attempts under way keep the keys that they began with.
    pub async fn rotate_keys(
        self: &Arc<Self>,
        act: impl Into<Act>,
        uuid: Uuid,
        given: GivenKeys,
        overlap: Duration,
    ) -> Result<WebhookRecord, ChangeError> {
        // Made before the first try, so that a second try is the same rotation.
        let new = SigningKeys::new(
            given.decnet.unwrap_or_else(Secret::generate),
            given.standard.unwrap_or_else(StandardKey::generate),
        );
        let act = Act { action: Some(ROTATE), ..act.into() };
        self.change_webhook(act, uuid, false, |old, now| {
            let mut settings = old.clone();
            settings.receiver.keys = old.receiver.keys.rotated(new.clone(), overlap, now)?;
            webhook::check_signing(&settings.receiver).map(|()| settings).map_err(ChangeError::Invalid)
        })
        .await
    }

    /// Commits the settings that `change` makes of the present ones, and lets them take effect at once.
    async fn change_webhook(
        self: &Arc<Self>,
        act: Act,
        uuid: Uuid,
        close_circuit: bool,
        change: impl Fn(&WebhookSettings, UnixMicros) -> Result<WebhookSettings, ChangeError>,
    ) -> Result<WebhookRecord, ChangeError> {
        let tenant = act.tenant;
        for _ in 0..MAX_UPDATE_TRIES {
            let old = self.find(tenant, uuid).await?;
            let settings = change(&old.settings, self.now())?;
            if settings == old.settings && !close_circuit {
                return Ok(old);
            }
            let (new, known) = (&settings.receiver, &old.settings.receiver);
            if new.destination != known.destination || new.access != known.access {
                self.vet(&settings)?;
            }
            let done = match act.action {
                Some(ROTATE) => WebhookEdit::Rotated,
                _ => WebhookEdit::Updated(old.settings.changed_fields(&settings)),
            };
            let (engine, store) = (Arc::clone(self), self.store.audited(&act));
            let updated = to_the_end(async move {
                let in_order = engine.changes.lock().await;
                let now = engine.now();
                let record = store.update_webhook(tenant, uuid, old.version, settings, close_circuit, now).await?;
                engine.dispatcher.apply(&record, close_circuit);
                engine.ingest.apply(&record);
                if !matches!(&done, WebhookEdit::Updated(changed) if changed.is_empty()) {
                    operations::tell(&engine, &record, done).await;
                }
                drop(in_order);
                engine.make_known().await?;
                Ok(record)
            })
            .await;
            match updated {
                Err(ChangeError::Store(StoreError::Stale)) => {}
                other => return other,
            }
        }
        Err(StoreError::Conflict("the webhook is being changed by others; try again".to_owned()).into())
    }

    /// Turns a webhook off on the server's own account. Its pending deliveries are kept.
    async fn switch_off(self: &Arc<Self>, webhook: WebhookSeq, reason: &str) -> Result<(), StoreError> {
        let (engine, reason) = (Arc::clone(self), reason.to_owned());
        to_the_end(async move {
            let _in_order = engine.changes.lock().await;
            if let Some(record) = engine.store.switch_off(webhook, &reason, engine.now()).await? {
                engine.dispatcher.apply(&record, false);
                engine.ingest.apply(&record);
                engine.dispatcher.hint(Hint::Changed);
            }
            Ok(())
        })
        .await
    }

    /// Pending deliveries end as discarded, with the reason `webhook deleted`.
    pub async fn delete_webhook(
        self: &Arc<Self>,
        act: impl Into<Act>,
        uuid: Uuid,
    ) -> Result<WebhookRecord, StoreError> {
        let (engine, act) = (Arc::clone(self), act.into());
        to_the_end(async move {
            let in_order = engine.changes.lock().await;
            let record = engine.store.audited(&act).delete_webhook(act.tenant, uuid, engine.now()).await?;
            engine.ingest.remove(act.tenant, record.seq);
            engine.dispatcher.remove(record.seq);
            operations::tell(&engine, &record, WebhookEdit::Deleted).await;
            drop(in_order);
            engine.make_known().await?;
            Ok(record)
        })
        .await
    }

    /// Refuses a destination that an attempt would refuse.
    fn vet(&self, settings: &WebhookSettings) -> Result<(), ChangeError> {
        self.client.vet(&settings.receiver).map_err(|VetError { field, error }| {
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
        act: impl Into<Act>,
        key: DeliveryKey,
    ) -> Result<StoredDelivery, StoreError> {
        let (engine, act) = (Arc::clone(self), act.into());
        to_the_end(async move {
            let store = engine.store.audited(&act);
            let retry = store.retry_delivery(act.tenant, key, engine.now());
            let retried = engine.dispatcher.withhold(key, retry).await?;
            engine.dispatcher.wish(key.webhook);
            Ok(retried)
        })
        .await
    }

    pub async fn discard_delivery(
        self: &Arc<Self>,
        act: impl Into<Act>,
        key: DeliveryKey,
        reason: &str,
    ) -> Result<StoredDelivery, StoreError> {
        let (engine, act, reason) = (Arc::clone(self), act.into(), reason.to_owned());
        to_the_end(async move {
            let store = engine.store.audited(&act);
            let discard = store.discard_delivery(act.tenant, key, &reason, engine.now());
            engine.dispatcher.withhold(key, discard).await
        })
        .await
    }

    // --- the node ---

    /// Counters and gauges, for metrics.
    pub fn figures(&self) -> Figures {
        self.dispatcher.figures()
    }

    /// How long things took since the start, for metrics.
    pub fn latencies(&self) -> Latencies {
        self.dispatcher.latencies()
    }

    /// Gauges of webhooks by shard. Empty if no other node shares the store.
    pub fn shard_figures(&self) -> Vec<ShardFigures> {
        self.dispatcher.shard_figures()
    }

    /// Begins no more attempts, or hands the shards over to other nodes. Attempts under way go on, and events are still
    /// accepted. To be called before [`Engine::drain`].
    pub fn stop_attempts(&self) {
        match &self.membership {
            Some(membership) => membership.stop(),
            None => self.dispatcher.stop(),
        }
    }

    /// Accepts no more events and begins no more attempts, waits for attempts under way for at most `timeout`, commits
    /// their outcomes and then the figures (each for at most 5 s more), and closes the store. Returns the number of
    /// attempts cut off, which the next start makes again.
    pub async fn drain(&self, timeout: Duration) -> usize {
        self.ingest.close();
        self.replays.stop();
        self.purge.abort();
        let began_at = Instant::now();
        if let Some(membership) = &self.membership {
            membership.leave(self, timeout).await;
        }
        let cut_off = self.dispatcher.drain(timeout.saturating_sub(began_at.elapsed())).await;
        self.bookkeeping.stop().await;
        self.store.close().await;
        cut_off
    }
}

/// Runs a change in a task of its own, so that a caller that hangs up does not leave a committed change without its
/// effect on lanes.
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
