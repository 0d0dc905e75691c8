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
mod erasure;
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
mod sql;
mod tls;
mod transaction;
mod values;
mod window;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::RwLock;

use self::group::Group;
use self::hints::Hints;
use self::listings::Listing;
pub use self::open::{DEFAULT_MAX_CONNECTIONS, PostgresOptions};
use self::open::{Opening, shown};
use self::partitions::Partitions;
use self::pool::{Connection, Connections, Server};
use self::presence::Presence;
pub use self::scratch::{Counted, Scratch};
use self::transaction::{Commit, CounterSlots, write};
use self::window::Window;
use super::cluster::Cluster;
use super::counters::Gauges;
use super::id_hash::IdHash;
use super::paging::Bounds;
use super::seal::{MasterKey, Sealer};
use super::{
    Accepted, AcceptedOnce, Act, AttemptRecord, AuditEntry, AuditFilter, DeliveryFilter, DeliveryIds, DeliveryKey, Due,
    EventFilter, EventSeq, Idempotency, NewEvent, OpenError, Page, PageOf, Portion, Read, SettleBatch, Stats, Store,
    StoreError, StoredDelivery, StoredEvent, Unsettled, Waiting, Write,
};
use crate::clock::UnixMicros;
use crate::store::failure::{Failure, postgres_text};
use crate::webhook::{TenantSeq, WebhookSeq};

/// What a database said. It has no parameters of statements, and so no secret.
pub(crate) fn text_of(error: &tokio_postgres::Error) -> String {
    postgres_text(error)
}

/// Fewer connections would not suffice for the work that the store does at the same time.
pub const MIN_CONNECTIONS: u32 = 4;
/// Further connections for the work between nodes, which must not wait for deliveries.
const CONTROL_CONNECTIONS: u32 = 3;
/// A further connection for the hints of other nodes.
const LISTENING_CONNECTIONS: u32 = 1;

/// The store in PostgreSQL. A clone is another handle to it.
#[derive(Clone)]
pub struct PostgresStore {
    shared: Arc<Shared>,
    group: Arc<Group>,
    /// The act for which calls through this handle write lines in the audit log.
    act: Option<Arc<Act>>,
}

/// The state that all handles and the tasks behind them share.
struct Shared {
    connections: Connections,
    /// For the work between nodes.
    control: Connections,
    server: Server,
    hints: Hints,
    presence: Presence,
    partitions: Partitions,
    /// Of the table `counters`.
    slots: CounterSlots,
    /// Follows the changes that this node makes to the counters.
    gauges: Gauges,
    window: Window,
    /// The tenants of webhooks, a cache. A webhook's tenant never changes.
    tenants: RwLock<HashMap<WebhookSeq, TenantSeq>>,
    delivery_ids: DeliveryIds,
    id_hash: IdHash,
    sealer: Sealer,
}

impl PostgresStore {
    /// Whether the database has no installation yet. The first [`PostgresStore::open`] makes it, under its master key.
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
            slots: CounterSlots::new(max_connections),
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

    /// A connection to read on. Each statement sees what is committed when it begins.
    async fn connection(&self) -> Result<Connection, StoreError> {
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
        let accept = async {
            if events.len() > 1 {
                accept::refuse_taken(&self.connection().await?, &self.shared, &events).await?;
            }
            write!(self, |commit| idempotency::accept_once(commit, tenant, &events, &once).await)
        };
        tokio::time::timeout(group::ANSWER_WITHIN, accept).await.unwrap_or_else(|_| {
            self.shared.window.doubt();
            Err(group::too_late())
        })
    }

    async fn unsettled(&self, after: EventSeq, max_events: u32) -> Result<Vec<Unsettled>, StoreError> {
        Ok(pending::unsettled(&self.connection().await?, after, max_events).await?)
    }

    async fn due(&self, webhook: WebhookSeq, now: UnixMicros, portion: Portion) -> Result<Due, StoreError> {
        Ok(pending::due(&self.connection().await?, webhook, now, &portion).await?)
    }

    async fn next_due(
        &self,
        webhook: Option<WebhookSeq>,
        after: UnixMicros,
    ) -> Result<Vec<(WebhookSeq, UnixMicros)>, StoreError> {
        Ok(pending::next_due(&self.connection().await?, webhook, after).await?)
    }

    async fn waiting(&self, webhooks: Vec<WebhookSeq>) -> Result<Vec<Waiting>, StoreError> {
        Ok(pending::waiting(&self.connection().await?, &webhooks).await?)
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
        Ok(events::by_id(&self.connection().await?, &self.shared.id_hash, tenant, id).await?)
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
        Ok(deliveries::delivery(&self.connection().await?, tenant, key).await?)
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
        Ok(deliveries::attempts(&self.connection().await?, key).await?)
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

    async fn erase_payload(
        &self,
        tenant: TenantSeq,
        event: EventSeq,
        keys: Vec<DeliveryKey>,
        now: UnixMicros,
    ) -> Result<Vec<DeliveryKey>, StoreError> {
        write!(self, |commit| erasure::erase(commit, tenant, event, &keys, now).await)
    }

    async fn stats(&self, tenant: TenantSeq) -> Result<Stats, StoreError> {
        Ok(counters::stats(&self.connection().await?, Some(tenant)).await?)
    }

    async fn total_stats(&self) -> Result<Stats, StoreError> {
        Ok(counters::stats(&self.connection().await?, None).await?)
    }

    fn pending(&self, tenant: TenantSeq) -> u64 {
        self.shared.gauges.pending(tenant)
    }

    fn stored_bytes(&self, tenant: TenantSeq) -> u64 {
        self.shared.gauges.stored_bytes(tenant)
    }

    async fn write(&self, write: Write) -> Result<(), StoreError> {
        let mut tries = 0;
        loop {
            let (commit, done) = sql::write(self.begin().await?, &write).await?;
            if let ControlFlow::Break(answer) = commit.end(done, &mut tries).await {
                return answer;
            }
        }
    }

    async fn read(&self, read: Read) -> Result<(), StoreError> {
        sql::read(self.connection().await?, Arc::clone(&self.shared), read).await
    }

    async fn deleted_webhooks(&self) -> Result<Vec<WebhookSeq>, StoreError> {
        Ok(pending::deleted_webhooks(&self.connection().await?).await?)
    }

    fn audited(&self, act: &Act) -> Arc<dyn Store> {
        let act = act.actor.is_some().then(|| Arc::new(act.clone()));
        Arc::new(Self { act, ..self.clone() })
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
