//! The embedded store: SQLite in WAL mode, one writer thread with group commit, a pool of readers.
//!
//! A write goes through [`writer`]: it waits for others, shares their transaction and its fsync, and is
//! answered after the commit. A read takes a snapshot from [`reader`]'s pool. The tables are in
//! `migrations/sqlite/`; what is special about them is that the happy path writes two rows: the event
//! with the list of webhooks it is owed to, and the delivery when it has ended. What a restart must
//! read back is owed minus rows, from the low-water mark that [`window`] keeps.

mod accept;
mod audit;
mod checkpoint;
mod commit;
mod compact;
mod counters;
mod deliveries;
mod disk;
mod erasure;
mod events;
mod files;
pub(super) mod folder;
mod idempotency;
mod listings;
mod log;
pub(super) mod open;
mod pending;
mod reader;
mod recovery;
mod rekey;
mod replay;
mod retention;
mod sealed_urls;
mod settle;
pub(super) mod sql;
mod vacuum;
mod values;
mod window;
mod writer;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;

use self::accept::Summed;
use self::commit::{Size, State};
pub use self::compact::Compacted;
use self::files::Files;
pub use self::folder::DATABASE_FILE;
use self::folder::Folder;
pub(super) use self::folder::create_folder;
use self::listings::Listing;
use self::open::{DELIVERY_ID_KEY, ID_HASH_KEY, read_meta};
use self::reader::Readers;
pub(crate) use self::rekey::finish_key_change;
pub use self::rekey::{ChangeKeyError, Changed, change_master_key};
use self::sql::Snapshot;
use self::writer::Writer;
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
use crate::store::failure::Failure;
use crate::webhook::{DEFAULT_TENANT, TenantSeq, WebhookSeq};

/// The embedded store. A clone is another handle to it.
#[derive(Clone)]
pub struct SqliteStore {
    writer: Writer,
    readers: Arc<Readers>,
    gauges: Arc<Gauges>,
    delivery_ids: DeliveryIds,
    id_hash: IdHash,
    sealer: Arc<Sealer>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SqliteOptions {
    /// The most bytes of the database; `None`: the disk is the limit.
    pub max_bytes: Option<u64>,
    /// The most events that the memory window spans. Deliveries of older events get rows, which bounds what a restart
    /// reads back.
    pub memory_window_events: u32,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self { max_bytes: None, memory_window_events: 100_000 }
    }
}

impl SqliteStore {
    /// Opens or creates the store in `folder`. Blocks the thread.
    pub fn open(folder: &Path, master_key: &MasterKey, options: SqliteOptions) -> Result<Self, OpenError> {
        let folder = Folder::lock(folder)?;
        let connection = folder.open(master_key, options.max_bytes)?;
        let failed = |error| folder.failed(error);
        let key = |name: &str| -> Result<Vec<u8>, OpenError> {
            let key = read_meta(&connection, name).map_err(failed)?;
            key.ok_or_else(|| folder.corrupt(&format!("{name} is missing")))
        };
        let wrong_length = |_| folder.corrupt("a key has the wrong length");
        let id_hash = IdHash::new(&key(ID_HASH_KEY)?.try_into().map_err(wrong_length)?);
        let delivery_ids = DeliveryIds::new(&key(DELIVERY_ID_KEY)?.try_into().map_err(wrong_length)?);
        let sealer = Arc::new(Sealer::new(master_key).map_err(|error| folder.corrupt(&error.to_string()))?);
        let gauges = Arc::new(counters::read_gauges(&connection).map_err(failed)?);
        let state = State {
            window: pending::read_window(&connection).map_err(failed)?,
            max_window: options.memory_window_events as usize,
            sealer: Arc::clone(&sealer),
            id_hash: id_hash.clone(),
            tenants: counters::tenants(&connection).map_err(failed)?,
            counters: HashMap::new(),
            gauges: Arc::clone(&gauges),
            delivery_ids: delivery_ids.clone(),
        };
        let thread_failed = folder.cannot_start();
        let files = Files::open(folder, connection, options.max_bytes)?;
        let readers = Arc::clone(files.readers());
        let writer = Writer::start(files, state).map_err(thread_failed)?;
        Ok(Self { writer, readers, gauges, delivery_ids, id_hash, sealer })
    }

    /// Runs `work`, which may take long, on a blocking thread.
    async fn list<T: Send + 'static>(
        &self,
        tenant: TenantSeq,
        work: impl FnOnce(&Listing<'_>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (ids, id_hash) = (self.delivery_ids.clone(), self.id_hash.clone());
        self.readers
            .read_slowly(Some(tenant), move |connection| {
                work(&Listing { connection, ids: &ids, id_hash: &id_hash, tenant, bounds: Bounds::OF_A_PAGE })
            })
            .await
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn accept(&self, events: Vec<NewEvent>) -> Result<Vec<Accepted>, StoreError> {
        let (size, summed) = (accept::size(&events), Summed::new(events));
        self.writer.write(size, move |commit| accept::accept(commit, &summed)).await
    }

    async fn accept_once(
        &self,
        tenant: TenantSeq,
        events: Vec<NewEvent>,
        once: Idempotency,
    ) -> Result<AcceptedOnce, StoreError> {
        let (size, summed) = (idempotency::size(&events), Summed::new(events));
        self.writer.write(size, move |commit| idempotency::accept_once(commit, tenant, &summed, &once)).await
    }

    async fn unsettled(&self, after: EventSeq, max_events: u32) -> Result<Vec<Unsettled>, StoreError> {
        self.readers.read(move |connection| pending::unsettled(connection, after, max_events)).await
    }

    async fn due(&self, webhook: WebhookSeq, now: UnixMicros, portion: Portion) -> Result<Due, StoreError> {
        self.readers.read(move |connection| pending::due(connection, webhook, now, &portion)).await
    }

    async fn next_due(
        &self,
        webhook: Option<WebhookSeq>,
        after: UnixMicros,
    ) -> Result<Vec<(WebhookSeq, UnixMicros)>, StoreError> {
        self.readers.read(move |connection| pending::next_due(connection, webhook, after)).await
    }

    async fn waiting(&self, webhooks: Vec<WebhookSeq>) -> Result<Vec<Waiting>, StoreError> {
        self.readers.read(move |connection| pending::waiting(connection, &webhooks)).await
    }

    async fn settle(&self, batch: Arc<SettleBatch>) -> Result<Vec<WebhookSeq>, StoreError> {
        self.writer.write(settle::size(&batch), move |commit| settle::settle(commit, &batch)).await?;
        Ok(Vec::new())
    }

    async fn discard_pending(
        &self,
        webhook: WebhookSeq,
        reason: &str,
        limit: u32,
        now: UnixMicros,
    ) -> Result<u32, StoreError> {
        let reason = reason.to_owned();
        let size = Size { rows: limit as usize, bytes: 0, is_urgent: false, tenant: None };
        self.writer.write(size, move |commit| deliveries::discard_pending(commit, webhook, &reason, limit, now)).await
    }

    async fn event(&self, tenant: TenantSeq, id: &str) -> Result<Option<StoredEvent>, StoreError> {
        let (id, id_hash) = (id.to_owned(), self.id_hash.clone());
        self.readers.read(move |connection| events::event(connection, &id_hash, tenant, &id)).await
    }

    async fn events(
        &self,
        tenant: TenantSeq,
        filter: &EventFilter,
        page: Page,
    ) -> Result<PageOf<StoredEvent>, StoreError> {
        let filter = filter.clone();
        self.list(tenant, move |listing| listing.events(&filter, &page)).await
    }

    async fn delivery(&self, tenant: TenantSeq, key: DeliveryKey) -> Result<Option<StoredDelivery>, StoreError> {
        self.readers.read(move |connection| deliveries::delivery(connection, tenant, key)).await
    }

    async fn deliveries(
        &self,
        tenant: TenantSeq,
        filter: &DeliveryFilter,
        page: Page,
    ) -> Result<PageOf<StoredDelivery>, StoreError> {
        let filter = filter.clone();
        self.list(tenant, move |listing| listing.deliveries(&filter, &page)).await
    }

    async fn attempts(&self, key: DeliveryKey) -> Result<Vec<AttemptRecord>, StoreError> {
        self.readers.read(move |connection| deliveries::attempts(connection, key)).await
    }

    async fn retry_delivery(
        &self,
        tenant: TenantSeq,
        key: DeliveryKey,
        now: UnixMicros,
    ) -> Result<StoredDelivery, StoreError> {
        self.writer.write(Size::SMALL, move |commit| deliveries::retry(commit, tenant, key, now)).await
    }

    async fn discard_delivery(
        &self,
        tenant: TenantSeq,
        key: DeliveryKey,
        reason: &str,
        now: UnixMicros,
    ) -> Result<StoredDelivery, StoreError> {
        let reason = reason.to_owned();
        self.writer.write(Size::SMALL, move |commit| deliveries::discard(commit, tenant, key, &reason, now)).await
    }

    async fn erase_payload(
        &self,
        tenant: TenantSeq,
        event: EventSeq,
        keys: Vec<DeliveryKey>,
        now: UnixMicros,
    ) -> Result<Vec<DeliveryKey>, StoreError> {
        let size = Size { rows: 1 + keys.len(), ..Size::SMALL };
        self.writer.write(size, move |commit| erasure::erase(commit, tenant, event, &keys, now)).await
    }

    async fn stats(&self, tenant: TenantSeq) -> Result<Stats, StoreError> {
        self.readers.read(move |connection| counters::stats(connection, Some(tenant))).await
    }

    async fn total_stats(&self) -> Result<Stats, StoreError> {
        self.readers.read(move |connection| counters::stats(connection, None)).await
    }

    fn pending(&self, tenant: TenantSeq) -> u64 {
        self.gauges.pending(tenant)
    }

    fn stored_bytes(&self, tenant: TenantSeq) -> u64 {
        self.gauges.stored_bytes(tenant)
    }

    async fn write(&self, write: Write) -> Result<(), StoreError> {
        let size = Size { is_urgent: write.is_urgent, ..Size::SMALL };
        self.writer.write(size, move |commit| (write.work)(commit)).await
    }

    async fn read(&self, read: Read) -> Result<(), StoreError> {
        let sealer = Arc::clone(&self.sealer);
        self.readers.read(move |connection| (read.work)(&mut Snapshot { connection, sealer: &sealer })).await
    }

    async fn deleted_webhooks(&self) -> Result<Vec<WebhookSeq>, StoreError> {
        self.readers.read(|connection| Ok(pending::deleted_webhooks(connection)?)).await
    }

    fn audited(&self, act: &Act) -> Arc<dyn Store> {
        Arc::new(Self { writer: self.writer.audited(act), ..self.clone() })
    }

    async fn audit(&self, filter: &AuditFilter, page: Page) -> Result<PageOf<AuditEntry>, StoreError> {
        let filter = filter.clone();
        // The tenant of a listing of the log is in its filter.
        self.list(DEFAULT_TENANT, move |listing| audit::list(listing, &filter, &page)).await
    }

    fn delivery_ids(&self) -> &DeliveryIds {
        &self.delivery_ids
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.writer.write(Size::SMALL, writer::probe).await
    }

    async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}
