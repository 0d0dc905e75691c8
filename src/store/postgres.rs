//! The store for many nodes: PostgreSQL.
//!
//! A write is a transaction, made by [`transaction`], and answered after its commit; accepting shares one among all
//! callers that wait ([`accept`]). The tables are in `migrations/postgres/`. What is owed stands in `pending`, the
//! queue, and moves to `delivery` in the transaction that ends it. Numbers of events are given in order of acceptance,
//! so that a partition, which is a range of numbers, is a range of time and is dropped whole.

mod accept;
mod audit;
mod changes;
mod cluster;
mod counters;
mod deliveries;
pub(super) mod error;
mod events;
mod fence;
mod group;
mod hints;
mod idempotency;
mod listings;
mod moves;
pub(super) mod open;
pub(super) mod partitions;
mod pending;
pub(super) mod pool;
mod presence;
mod replay;
mod retention;
mod schema;
mod scratch;
mod sealed_urls;
mod settle;
mod tenants;
mod tls;
mod tokens;
mod transaction;
mod values;
mod webhooks;
mod window;

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::RwLock;
use uuid::Uuid;

use self::error::Failure;
use self::group::Group;
use self::hints::Hints;
use self::listings::Listing;
pub use self::open::{DEFAULT_MAX_CONNECTIONS, PostgresOptions};
use self::open::{Opening, shown};
use self::partitions::Partitions;
use self::pool::{Connection, Connections, Server};
use self::presence::Presence;
pub use self::scratch::{Counted, Scratch};
use self::transaction::{Commit, Slots, write};
use self::window::Window;
use super::cluster::Cluster;
use super::counters::Gauges;
use super::id_hash::IdHash;
use super::paging::Bounds;
use super::seal::{MasterKey, Sealer};
use super::{
    Accepted, AcceptedOnce, Act, AllWebhooks, AttemptRecord, AuditEntry, AuditFilter, Deed, DeletedTenant,
    DeliveryFilter, DeliveryIds, DeliveryKey, Due, EventFilter, EventSeq, Idempotency, NewEvent, NewToken, OpenError,
    Page, PageOf, Portion, SettleBatch, Stats, Store, StoreError, StoredDelivery, StoredEvent, TenantPatch,
    TenantRecord, TokenRecord, Unsettled,
};
use crate::clock::UnixMicros;
use crate::webhook::{TenantSeq, WebhookRecord, WebhookSeq, WebhookSettings};

/// Connections that the store needs to have some for everything it does at once.
pub const MIN_CONNECTIONS: u32 = 4;
/// Connections beside these for what nodes do together, which must not wait for deliveries.
const CONTROL_CONNECTIONS: u32 = 3;
/// And for the hints of other nodes.
const LISTENING_CONNECTIONS: u32 = 1;

/// The store in PostgreSQL. A clone is another handle to it.
#[derive(Clone)]
pub struct PostgresStore {
    shared: Arc<Shared>,
    group: Arc<Group>,
    /// What calls through this handle leave lines in the audit log for.
    act: Option<Arc<Act>>,
}

/// What all handles, and the tasks behind them, have in common.
struct Shared {
    connections: Connections,
    /// For what nodes do together.
    control: Connections,
    server: Server,
    hints: Hints,
    presence: Presence,
    partitions: Partitions,
    /// Of the table `counters`.
    slots: Slots,
    /// Follows the counters as far as this node moves them.
    gauges: Gauges,
    window: Window,
    /// Whose webhooks are, as far as it was asked for; it never changes.
    tenants: RwLock<HashMap<WebhookSeq, TenantSeq>>,
    delivery_ids: DeliveryIds,
    id_hash: IdHash,
    sealer: Sealer,
}

impl PostgresStore {
    /// Whether the database has no installation yet, which the first [`PostgresStore::open`] makes under its master key.
    pub async fn is_new(options: &PostgresOptions) -> Result<bool, OpenError> {
        open::is_new(options).await
    }

    /// Opens the store, or makes it in an empty database.
    pub async fn open(options: PostgresOptions, master_key: &MasterKey) -> Result<Self, OpenError> {
        let config = options.config()?;
        let database = shown(&config);
        let max_connections = options.max_connections.max(MIN_CONNECTIONS);
        let server = options.server()?;
        let connect = |count| Connections::new(&server, count, &database);
        let (connections, control) = (connect(max_connections)?, connect(CONTROL_CONNECTIONS)?);
        let sealer = Sealer::new(master_key)
            .map_err(|error| OpenError::Database { database: database.clone(), reason: error.to_string() })?;
        let opening = Opening { connections: &connections, sealer: &sealer, database: &database };
        let keys = opening.prepare(options.allow_unsafe_server).await?;
        let partitions = Partitions::new();
        partitions.make(&connections).await.map_err(|error| opening.failed(error.into()))?;
        let connection = connections.get().await.map_err(|error| opening.failed(error.into()))?;
        let window = Window::read(&connection, options.memory_window_events);
        let (window, doubts) = window.await.map_err(|failure| opening.failed(failure))?;
        let usage = counters::usage(&connection).await.map_err(|failure| opening.failed(failure))?;
        drop(connection);
        let (hints, unsent) = Hints::new();
        let shared = Arc::new(Shared {
            connections,
            control,
            server,
            hints,
            presence: Presence::default(),
            partitions,
            slots: Slots::new(max_connections),
            gauges: Gauges::new(usage),
            window,
            tenants: RwLock::default(),
            delivery_ids: DeliveryIds::new(&keys.delivery_id),
            id_hash: IdHash::new(&keys.id_hash),
            sealer,
        });
        tokio::spawn(hints::send_all(Arc::downgrade(&shared), unsent));
        tokio::spawn(window::settle_doubts(Arc::downgrade(&shared), doubts));
        Ok(Self { group: Arc::new(Group::start(&shared)), shared, act: None })
    }

    /// A connection to read on: each statement sees what is committed when it begins.
    async fn read(&self) -> Result<Connection, StoreError> {
        self.shared.connections.get().await
    }

    fn listing<'a>(&'a self, connection: &'a Connection) -> Listing<'a> {
        Listing { connection, ids: &self.shared.delivery_ids, id_hash: &self.shared.id_hash, bounds: Bounds::OF_A_PAGE }
    }

    /// For [`write!`].
    async fn begin(&self) -> Result<Commit, StoreError> {
        Commit::begin(&self.shared, self.act.as_ref()).await
    }
}

impl Shared {
    /// The tenant that a webhook belongs to, deleted or not; `None`: there is no such webhook.
    async fn tenant_of(&self, connection: &Connection, webhook: WebhookSeq) -> Result<Option<TenantSeq>, Failure> {
        if let Some(tenant) = self.tenants.read().get(&webhook) {
            return Ok(Some(*tenant));
        }
        let row = connection.query_opt("SELECT tenant FROM webhook WHERE seq = $1", &[&webhook]).await?;
        let Some(tenant) = row.map(|row| row.try_get(0)).transpose()? else { return Ok(None) };
        self.tenants.write().insert(webhook, tenant);
        Ok(Some(tenant))
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn accept(&self, events: Vec<NewEvent>) -> Result<Vec<Accepted>, StoreError> {
        self.group.accept(events).await
    }

    async fn accept_once(
        &self,
        tenant: TenantSeq,
        events: Vec<NewEvent>,
        once: Idempotency,
    ) -> Result<AcceptedOnce, StoreError> {
        let accept = async { write!(self, |commit| idempotency::accept_once(commit, tenant, &events, &once).await) };
        tokio::time::timeout(group::ANSWER_WITHIN, accept).await.unwrap_or_else(|_| {
            self.shared.window.doubt();
            Err(group::too_late())
        })
    }

    async fn unsettled(&self, after: EventSeq, max_events: u32) -> Result<Vec<Unsettled>, StoreError> {
        Ok(pending::unsettled(&self.read().await?, after, max_events).await?)
    }

    async fn due(&self, webhook: WebhookSeq, now: UnixMicros, portion: Portion) -> Result<Due, StoreError> {
        Ok(pending::due(&self.read().await?, webhook, now, &portion).await?)
    }

    async fn next_due(
        &self,
        webhook: Option<WebhookSeq>,
        after: UnixMicros,
    ) -> Result<Vec<(WebhookSeq, UnixMicros)>, StoreError> {
        Ok(pending::next_due(&self.read().await?, webhook, after).await?)
    }

    async fn settle(&self, batch: Arc<SettleBatch>) -> Result<Vec<WebhookSeq>, StoreError> {
        settle::gather(&batch).await;
        write!(self, |commit| settle::settle(commit, &batch).await)
    }

    async fn discard_pending(
        &self,
        webhook: WebhookSeq,
        reason: &str,
        limit: u32,
        now: UnixMicros,
    ) -> Result<u32, StoreError> {
        write!(self, |commit| deliveries::discard_pending(commit, webhook, reason, limit, now).await)
    }

    async fn event(&self, tenant: TenantSeq, id: &str) -> Result<Option<StoredEvent>, StoreError> {
        Ok(events::by_id(&self.read().await?, &self.shared.id_hash, tenant, id).await?)
    }

    async fn events(
        &self,
        tenant: TenantSeq,
        filter: &EventFilter,
        page: Page,
    ) -> Result<PageOf<StoredEvent>, StoreError> {
        let connection = self.shared.connections.snapshot(Some(tenant)).await?;
        Ok(self.listing(&connection).events(tenant, filter, &page).await?)
    }

    async fn delivery(&self, tenant: TenantSeq, key: DeliveryKey) -> Result<Option<StoredDelivery>, StoreError> {
        Ok(deliveries::delivery(&self.read().await?, tenant, key).await?)
    }

    async fn deliveries(
        &self,
        tenant: TenantSeq,
        filter: &DeliveryFilter,
        page: Page,
    ) -> Result<PageOf<StoredDelivery>, StoreError> {
        let connection = self.shared.connections.snapshot(Some(tenant)).await?;
        Ok(self.listing(&connection).deliveries(tenant, filter, &page).await?)
    }

    async fn attempts(&self, key: DeliveryKey) -> Result<Vec<AttemptRecord>, StoreError> {
        Ok(deliveries::attempts(&self.read().await?, key).await?)
    }

    async fn retry_delivery(
        &self,
        tenant: TenantSeq,
        key: DeliveryKey,
        now: UnixMicros,
    ) -> Result<StoredDelivery, StoreError> {
        write!(self, |commit| deliveries::retry(commit, tenant, key, now).await)
    }

    async fn discard_delivery(
        &self,
        tenant: TenantSeq,
        key: DeliveryKey,
        reason: &str,
        now: UnixMicros,
    ) -> Result<StoredDelivery, StoreError> {
        write!(self, |commit| deliveries::discard(commit, tenant, key, reason, now).await)
    }

    async fn stats(&self, tenant: TenantSeq) -> Result<Stats, StoreError> {
        Ok(counters::stats(&self.read().await?, Some(tenant)).await?)
    }

    async fn total_stats(&self) -> Result<Stats, StoreError> {
        Ok(counters::stats(&self.read().await?, None).await?)
    }

    fn pending(&self, tenant: TenantSeq) -> u64 {
        self.shared.gauges.pending(tenant)
    }

    fn stored_bytes(&self, tenant: TenantSeq) -> u64 {
        self.shared.gauges.stored_bytes(tenant)
    }

    async fn create_webhook(
        &self,
        tenant: TenantSeq,
        settings: WebhookSettings,
        now: UnixMicros,
    ) -> Result<WebhookRecord, StoreError> {
        write!(self, |commit| webhooks::create(commit, tenant, &settings, now).await)
    }

    async fn update_webhook(
        &self,
        tenant: TenantSeq,
        uuid: Uuid,
        version: i64,
        settings: WebhookSettings,
        close_circuit: bool,
        now: UnixMicros,
    ) -> Result<WebhookRecord, StoreError> {
        let update = webhooks::Update { version, settings, close_circuit, now };
        write!(self, |commit| webhooks::update(commit, tenant, uuid, &update).await)
    }

    async fn switch_off(
        &self,
        webhook: WebhookSeq,
        reason: &str,
        now: UnixMicros,
    ) -> Result<Option<WebhookRecord>, StoreError> {
        write!(self, |commit| webhooks::switch_off(commit, webhook, reason, now).await)
    }

    async fn delete_webhook(
        &self,
        tenant: TenantSeq,
        uuid: Uuid,
        now: UnixMicros,
    ) -> Result<WebhookRecord, StoreError> {
        write!(self, |commit| webhooks::delete(commit, tenant, uuid, now).await)
    }

    async fn webhook(&self, tenant: TenantSeq, uuid: Uuid) -> Result<Option<WebhookRecord>, StoreError> {
        Ok(webhooks::webhook(&self.read().await?, &self.shared.sealer, tenant, uuid).await?)
    }

    async fn webhooks(&self, tenant: TenantSeq) -> Result<Vec<WebhookRecord>, StoreError> {
        Ok(webhooks::webhooks(&self.read().await?, &self.shared.sealer, Some(tenant)).await?)
    }

    async fn webhook_page(
        &self,
        tenant: TenantSeq,
        q: Option<&str>,
        page: Page,
    ) -> Result<PageOf<WebhookRecord>, StoreError> {
        Ok(webhooks::page(&self.read().await?, &self.shared.sealer, tenant, q, &page).await?)
    }

    async fn webhook_count(&self, tenant: TenantSeq) -> Result<u64, StoreError> {
        Ok(webhooks::count(&self.read().await?, tenant).await?)
    }

    async fn all_webhooks(&self) -> Result<AllWebhooks, StoreError> {
        Ok(webhooks::all(&self.read().await?, &self.shared.sealer).await?)
    }

    async fn create_tenant(&self, patch: TenantPatch, now: UnixMicros) -> Result<TenantRecord, StoreError> {
        write!(self, |commit| tenants::create(commit, &patch, now).await)
    }

    async fn update_tenant(
        &self,
        tenant: TenantSeq,
        patch: TenantPatch,
        now: UnixMicros,
    ) -> Result<TenantRecord, StoreError> {
        write!(self, |commit| tenants::update(commit, tenant, &patch, now).await)
    }

    async fn delete_tenant(
        &self,
        tenant: TenantSeq,
        force: bool,
        now: UnixMicros,
    ) -> Result<DeletedTenant, StoreError> {
        write!(self, |commit| tenants::delete(commit, tenant, force, now).await)
    }

    async fn tenants(&self) -> Result<Vec<TenantRecord>, StoreError> {
        Ok(tenants::list(&self.read().await?).await?)
    }

    async fn tenant_page(&self, page: Page) -> Result<PageOf<TenantRecord>, StoreError> {
        Ok(tenants::page(&self.read().await?, &page).await?)
    }

    async fn create_token(&self, token: NewToken) -> Result<TokenRecord, StoreError> {
        write!(self, |commit| tokens::create(commit, &token).await)
    }

    async fn token_count(&self, tenant: TenantSeq, now: UnixMicros) -> Result<u64, StoreError> {
        Ok(tokens::count(&self.read().await?, tenant, now).await?.unsigned_abs())
    }

    async fn token(&self, tenant: TenantSeq, uuid: Uuid) -> Result<Option<TokenRecord>, StoreError> {
        Ok(tokens::by_uuid(&self.read().await?, tenant, uuid).await?)
    }

    async fn tokens(&self, tenant: TenantSeq) -> Result<Vec<TokenRecord>, StoreError> {
        Ok(tokens::list(&self.read().await?, tenant).await?)
    }

    async fn token_page(&self, tenant: TenantSeq, page: Page) -> Result<PageOf<TokenRecord>, StoreError> {
        Ok(tokens::page(&self.read().await?, tenant, &page).await?)
    }

    async fn revoke_token(&self, tenant: TenantSeq, uuid: Uuid, now: UnixMicros) -> Result<bool, StoreError> {
        write!(self, |commit| tokens::revoke(commit, tenant, uuid, now).await)
    }

    async fn token_by_hash(&self, hash: [u8; 32]) -> Result<Option<TokenRecord>, StoreError> {
        Ok(tokens::by_hash(&self.read().await?, &hash).await?)
    }

    async fn touch_token(&self, uuid: Uuid, now: UnixMicros) -> Result<(), StoreError> {
        write!(self, |commit| tokens::touch(commit, uuid, now).await)
    }

    fn audited(&self, act: &Act) -> Arc<dyn Store> {
        let act = act.actor.is_some().then(|| Arc::new(act.clone()));
        Arc::new(Self { act, ..self.clone() })
    }

    async fn record(&self, deed: Deed) -> Result<(), StoreError> {
        write!(self, |commit| commit.record(&deed).await)
    }

    async fn audit(&self, filter: &AuditFilter, page: Page) -> Result<PageOf<AuditEntry>, StoreError> {
        let connection = self.shared.connections.snapshot(filter.tenant).await?;
        Ok(self.listing(&connection).page(filter, &page).await?)
    }

    fn cluster(&self) -> Option<Arc<dyn Cluster>> {
        Some(Arc::clone(&self.shared) as Arc<dyn Cluster>)
    }

    fn delivery_ids(&self) -> &DeliveryIds {
        &self.shared.delivery_ids
    }

    async fn check(&self) -> Result<(), StoreError> {
        write!(self, |commit| commit.probe().await)
    }

    async fn close(&self) {
        self.group.close().await;
        self.shared.connections.close().await;
        self.shared.control.close().await;
    }
}
