//! What a store promises. It speaks intents, not rows; `tests/server/store_conformance` holds a store to it.

mod accepting;
mod audit;
pub mod cluster;
mod counters;
mod error;
pub mod exchange;
mod failure;
pub mod figures;
mod gather;
mod id_hash;
pub mod import;
mod key_file;
pub mod migrate;
mod owed;
mod paging;
pub mod postgres;
mod read_back;
mod records;
mod rehearsal;
pub mod rejected;
pub mod replay;
pub mod retention;
pub mod seal;
mod shard;
mod sql;
pub mod sqlite;
mod tenant;
mod token;
pub mod transfer;

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use uuid::Uuid;

pub use self::accepting::{Accepted, AcceptedOnce, Disposition, Idempotency, KeptReceipt, NewEvent, Owed, Share};
pub use self::audit::{Act, Actor, AuditEntry, AuditFilter, Deed, SERVER};
pub use self::cluster::Term;
use self::cluster::{Cluster, Fence};
pub use self::error::{OpenError, StoreError};
pub use self::exchange::ExchangeBlob;
pub use self::paging::{Page, PageOf};
pub use self::records::{Read, Write};
pub use self::shard::{SHARDS, Shard};
pub use self::tenant::{
    BYTES_QUOTA, DeletedTenant, MAX_TENANT_DESCRIPTION_CHARS, MAX_TENANT_NAME_CHARS, QUOTA, Quotas, TenantKey,
    TenantPatch, TenantRecord,
};
pub use self::token::{NewToken, Scope, TokenRecord};
use crate::clock::UnixMicros;
pub use crate::delivery::id::{DeliveryIds, DeliveryKey, EventSeq};
use crate::delivery::{DeliveryState, Transition};
use crate::event::Event;
use crate::fit::fit;
use crate::topic::Pattern;
use crate::webhook::{TenantSeq, WebhookHealth, WebhookRecord, WebhookSeq};
pub use replay::ReplayStore;
pub use retention::RetentionStore;

/// The most items on a page of a listing.
pub const MAX_PAGE_ITEMS: u32 = 500;
/// The default size of a page.
pub const DEFAULT_PAGE_ITEMS: u32 = 50;
/// The most rows that one page of a listing looks at. A selective filter then gives a short page, with a cursor to go
/// on.
pub const MAX_ROWS_PER_PAGE: u32 = 200_000;
/// The most bytes of bodies on a page of events, unless one alone is larger.
pub const MAX_BODY_BYTES_PER_PAGE: usize = 8 << 20;
/// The most bytes of bodies that one page searches for a text. The page ends with the body that reaches this limit, and
/// has a cursor to go on.
pub const MAX_SEARCHED_BYTES_PER_PAGE: usize = 64 << 20;
/// The most bytes of bodies on a page of [`Store::unsettled`], unless one alone is larger.
pub const MAX_UNSETTLED_BYTES: usize = 16 << 20;
/// The most bytes that the settings of a tenant's webhooks take together, as stored. A change that makes them smaller
/// is always allowed.
pub const MAX_TENANT_SETTINGS_BYTES: u64 = 32 << 20;
/// The most inlets that a tenant may have.
pub const MAX_TENANT_INLETS: u32 = 256;
/// The most pending deliveries of a webhook that are counted for a list of webhooks.
pub const MAX_COUNTED_WAITING: u32 = 10_000;

/// Keeps everything that must outlive the process.
#[async_trait]
pub trait Store: ReplayStore + RetentionStore + Send + Sync + 'static {
    // --- accepting ---

    /// Commits events and their lists of webhooks in one transaction, all or nothing, and returns after its fsync. The
    /// answers are in the order of the events. An event whose id the tenant has used before, even within the same call,
    /// is not stored again, and its `owed` is ignored.
    async fn accept(&self, events: Vec<NewEvent>) -> Result<Vec<Accepted>, StoreError>;
    /// As [`Store::accept`], but once for an idempotency key of the tenant. The same transaction keeps the receipts.
    /// Until they expire, a repeated request gets them again and stores nothing. The same key with another body is a
    /// [`StoreError::IdempotencyConflict`].
    async fn accept_once(
        &self,
        tenant: TenantSeq,
        events: Vec<NewEvent>,
        once: Idempotency,
    ) -> Result<AcceptedOnce, StoreError>;

    // --- delivering ---

    /// Deliveries without a row: accepted with [`Disposition::InMemory`] and not settled. They come in order of
    /// acceptance, after event `after`, of at most `max_events` events and [`MAX_UNSETTLED_BYTES`]. A restart reads
    /// page after page until one is empty.
    async fn unsettled(&self, after: EventSeq, max_events: u32) -> Result<Vec<Unsettled>, StoreError>;

    /// Stored pending deliveries of one webhook that are due, within the bounds of `portion`: the earliest first, equal
    /// times in order of acceptance, or as `portion.probe` says. With `portion.in_order` they come in order of acceptance
    /// alone, and end before the first that is not due.
    async fn due(&self, webhook: WebhookSeq, now: UnixMicros, portion: Portion) -> Result<Due, StoreError>;

    /// The earliest time after `after` at which a stored pending delivery is due, for one webhook or for each. Webhooks
    /// without such a delivery are left out.
    async fn next_due(
        &self,
        webhook: Option<WebhookSeq>,
        after: UnixMicros,
    ) -> Result<Vec<(WebhookSeq, UnixMicros)>, StoreError>;

    /// How many stored deliveries of each webhook are pending, in the order of `webhooks`.
    async fn waiting(&self, webhooks: Vec<WebhookSeq>) -> Result<Vec<Waiting>, StoreError>;

    /// Commits the outcomes of attempts, and the health of the webhooks concerned, in one transaction. A settlement
    /// that keeps a delivery pending changes nothing if an operator has ended the delivery meanwhile. Returns the
    /// webhooks whose settlements were not written, because their terms in [`SettleBatch::fence`] are over.
    async fn settle(&self, batch: Arc<SettleBatch>) -> Result<Vec<WebhookSeq>, StoreError>;

    /// Ends at most `limit` stored pending deliveries of a webhook as discarded; returns how many.
    async fn discard_pending(
        &self,
        webhook: WebhookSeq,
        reason: &str,
        limit: u32,
        now: UnixMicros,
    ) -> Result<u32, StoreError>;

    // --- what users ask about events and deliveries ---

    async fn event(&self, tenant: TenantSeq, id: &str) -> Result<Option<StoredEvent>, StoreError>;
    /// Newest first.
    async fn events(
        &self,
        tenant: TenantSeq,
        filter: &EventFilter,
        page: Page,
    ) -> Result<PageOf<StoredEvent>, StoreError>;
    async fn delivery(&self, tenant: TenantSeq, key: DeliveryKey) -> Result<Option<StoredDelivery>, StoreError>;
    /// Newest event first; within an event the newest webhook first.
    async fn deliveries(
        &self,
        tenant: TenantSeq,
        filter: &DeliveryFilter,
        page: Page,
    ) -> Result<PageOf<StoredDelivery>, StoreError>;
    /// The attempts of a delivery, first to last.
    async fn attempts(&self, key: DeliveryKey) -> Result<Vec<AttemptRecord>, StoreError>;
    /// Makes a delivery pending again with a fresh schedule, due `now`; a delivered one is a [`StoreError::Conflict`].
    async fn retry_delivery(
        &self,
        tenant: TenantSeq,
        key: DeliveryKey,
        now: UnixMicros,
    ) -> Result<StoredDelivery, StoreError>;
    /// Ends a pending or dead delivery; any other state is a [`StoreError::Conflict`].
    async fn discard_delivery(
        &self,
        tenant: TenantSeq,
        key: DeliveryKey,
        reason: &str,
        now: UnixMicros,
    ) -> Result<StoredDelivery, StoreError>;
    /// Erases the body of an event, and what was exchanged for it, and ends the deliveries of `keys` that are pending as
    /// discarded. Returns these. Deliveries that are not among `keys` end when they are due.
    async fn erase_payload(
        &self,
        tenant: TenantSeq,
        event: EventSeq,
        keys: Vec<DeliveryKey>,
        now: UnixMicros,
    ) -> Result<Vec<DeliveryKey>, StoreError>;
    async fn stats(&self, tenant: TenantSeq) -> Result<Stats, StoreError>;
    /// Of all tenants together, deleted ones included.
    async fn total_stats(&self) -> Result<Stats, StoreError>;
    /// Deliveries of a tenant that have not ended, as of the last commit. Does not read the store.
    fn pending(&self, tenant: TenantSeq) -> u64;
    /// Bytes of the bodies of a tenant's stored events, as of the last commit. Does not read the store.
    fn stored_bytes(&self, tenant: TenantSeq) -> u64;

    // --- records, each written once in `records` ---

    /// Runs the work in a transaction, which other calls may share, and returns after the commit. Work that is refused
    /// writes nothing.
    async fn write(&self, write: Write) -> Result<(), StoreError>;
    /// Runs the work on one snapshot of the committed state. In a store that nodes share, each statement has a snapshot
    /// of its own.
    async fn read(&self, read: Read) -> Result<(), StoreError>;
    /// Deleted webhooks that still have stored pending deliveries.
    async fn deleted_webhooks(&self) -> Result<Vec<WebhookSeq>, StoreError>;

    // --- the audit log ---

    /// A handle of this store for `act`. Each change of webhooks, deliveries, tokens and tenants through this handle is
    /// committed together with its line in the audit log.
    fn audited(&self, act: &Act) -> Arc<dyn Store>;
    /// Newest first.
    async fn audit(&self, filter: &AuditFilter, page: Page) -> Result<PageOf<AuditEntry>, StoreError>;

    // --- the store itself ---

    /// The operations of nodes that share this store. `None`: the store belongs to a single node, which owns every
    /// shard for ever.
    fn cluster(&self) -> Option<Arc<dyn Cluster>> {
        None
    }
    fn delivery_ids(&self) -> &DeliveryIds;
    /// Fails while the store cannot accept or commit; for readiness. Writes nothing that stays.
    async fn check(&self) -> Result<(), StoreError>;
    /// Finishes the calls under way, then closes the files. Later calls fail.
    async fn close(&self);
}

/// An event of the store, shared by the lanes that hold it.
#[derive(Clone, Debug)]
pub struct LiveEvent {
    pub seq: EventSeq,
    pub event: Event,
    /// It must not be sent: its checksum does not match, so it was changed on the disk, or it is erased
    /// ([`Event::is_erased`]).
    pub is_damaged: bool,
}

#[derive(Clone, Debug)]
pub struct Unsettled {
    pub event: Arc<LiveEvent>,
    pub accepted_at: UnixMicros,
    pub webhooks: Vec<WebhookSeq>,
}

/// The bounds of one read of due deliveries.
#[derive(Clone, Debug, Default)]
pub struct Portion {
    pub max_deliveries: u32,
    /// Of bodies. The first delivery is read even if its body is larger.
    pub max_bytes: usize,
    /// Events whose deliveries the caller holds. These are skipped, and count neither as read nor as left to read.
    pub held: HashSet<EventSeq>,
    /// For an ordered webhook.
    pub in_order: bool,
    /// Where to look, not with `in_order`.
    pub probe: Option<Probe>,
    /// One is wanted that is not due, too, if none is due. For who reads; the store leaves it.
    pub at_any_time: bool,
}

/// The most deliveries among which a probe is chosen by its place.
pub const MAX_PROBE_CHOICE: u32 = 1_000;

/// Which of the deliveries that are due a circuit is probed with: after each that failed another one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probe {
    pub newest_first: bool,
    /// So many 65,536ths of the first [`MAX_PROBE_CHOICE`] are left out.
    pub share: u16,
    /// Events that are passed over as well.
    pub avoided: HashSet<EventSeq>,
}

impl Probe {
    /// How many of `count` deliveries are left out.
    fn skipped(&self, count: u32) -> u32 {
        fit((u64::from(count) * u64::from(self.share)) >> u16::BITS, u32::MAX)
    }
}

/// Due deliveries, within the bounds of a [`Portion`].
#[derive(Clone, Debug, Default)]
pub struct Due {
    pub deliveries: Vec<DueDelivery>,
    /// More is due than the portion had room for.
    pub is_rest_due: bool,
    /// With [`Portion::in_order`]: the first delivery that is neither among these nor held, and its time. All later
    /// deliveries wait for it.
    pub awaited: Option<(EventSeq, UnixMicros)>,
}

/// The stored pending deliveries of one webhook, counted up to [`MAX_COUNTED_WAITING`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    pub count: u32,
    /// When the oldest of those that were counted was accepted.
    pub since: Option<UnixMicros>,
}

/// A stored delivery whose time has come.
#[derive(Clone, Debug)]
pub struct DueDelivery {
    pub event: Arc<LiveEvent>,
    pub webhook: WebhookSeq,
    /// Attempts made so far, over all rounds.
    pub attempts: u32,
    /// Attempts made in this round, which began with the acceptance or the last replay: the position in the schedule.
    pub round_attempts: u32,
    /// Since when its age counts.
    pub begins_at: UnixMicros,
}

impl DueDelivery {
    /// Before the first attempt of a round, `next_at` is when that was to begin: the acceptance, a `deliver_at`, or the wish
    /// of an operator. After it nothing but the acceptance is known.
    fn begins_at(accepted_at: UnixMicros, next_at: UnixMicros, round_attempts: u32) -> UnixMicros {
        if round_attempts == 0 { accepted_at.max(next_at) } else { accepted_at }
    }
}

#[derive(Clone, Debug, Default)]
pub struct SettleBatch {
    pub settlements: Vec<Settlement>,
    pub health: Vec<(WebhookSeq, WebhookHealth)>,
    /// An ordered webhook's next delivery waits for the commit.
    pub is_urgent: bool,
    /// Given if the store has a [`Store::cluster`]. `None`: everything is written.
    pub fence: Option<Fence>,
}

/// The new state of one delivery.
#[derive(Clone, Debug)]
pub struct Settlement {
    pub key: DeliveryKey,
    /// `None` if no attempt was made, as when deliveries of a deleted webhook are discarded.
    pub attempt: Option<AttemptRecord>,
    pub round_attempts: u32,
    pub transition: Transition,
    pub at: UnixMicros,
}

/// One HTTP request made for a delivery, as the log shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptRecord {
    /// From 1, over all rounds.
    pub number: u32,
    pub started_at: UnixMicros,
    pub duration_us: i64,
    pub status_code: Option<u16>,
    pub error: Option<String>,
    /// The beginning of the response body.
    pub response: Bytes,
    pub exchange: ExchangeBlob,
}

impl Portion {
    fn is_passed_over(&self, event: EventSeq) -> bool {
        self.held.contains(&event) || self.probe.as_ref().is_some_and(|probe| probe.avoided.contains(&event))
    }
}

impl AttemptRecord {
    /// The bytes of its answer and of its exchange.
    fn bytes(&self) -> usize {
        self.response.len() + self.exchange.as_bytes().len()
    }
}

#[derive(Clone, Debug)]
pub struct StoredEvent {
    pub seq: EventSeq,
    pub event: Event,
    pub accepted_at: UnixMicros,
    /// All webhooks on the event's list, by number.
    pub owed: Vec<WebhookSeq>,
    /// The checksum does not match: the event was changed on the disk; or it is erased ([`Event::is_erased`]).
    pub is_damaged: bool,
}

#[derive(Clone, Debug)]
pub struct StoredDelivery {
    pub key: DeliveryKey,
    pub webhook_uuid: Uuid,
    pub webhook_name: String,
    pub event_id: String,
    pub topic: String,
    pub kind: String,
    pub accepted_at: UnixMicros,
    pub state: DeliveryState,
    /// The error or the reason behind the state.
    pub reason: Option<String>,
    pub attempts: u32,
    pub status_code: Option<u16>,
    pub next_attempt_at: Option<UnixMicros>,
    /// The time of the last change, which is the end of a delivery that has ended.
    pub updated_at: UnixMicros,
}

/// The reason that deliveries of a deleted webhook show.
const WEBHOOK_DELETED: &str = "webhook deleted";
/// The reason that deliveries of an event show whose payload was erased before they ended.
pub const ERASED: &str = "payload erased";

fn erasure_deed(tenant: TenantSeq, id: &str, at: UnixMicros) -> Deed {
    Deed { at, tenant, action: "event.erase", target: Some(id.to_owned()), target_name: None }
}

impl StoredDelivery {
    fn refuse_retry(&self, is_webhook_deleted: bool) -> Result<(), StoreError> {
        let reason = match self.state {
            DeliveryState::Delivered => "it was delivered already",
            _ if is_webhook_deleted => "its webhook was deleted",
            _ => return Ok(()),
        };
        Err(StoreError::Conflict(reason.to_owned()))
    }

    fn refuse_discard(&self) -> Result<(), StoreError> {
        match self.state {
            DeliveryState::Pending | DeliveryState::Dead => Ok(()),
            state => Err(StoreError::Conflict(format!("it is {}", state.as_str()))),
        }
    }

    fn deed(&self, action: &'static str, tenant: TenantSeq, ids: &DeliveryIds, at: UnixMicros) -> Deed {
        Deed::of(action, tenant, ids.encode(self.key), at).named(&self.event_id)
    }

    /// A pending delivery of a deleted webhook is shown as discarded.
    fn of_deleted_webhook(self, deleted_at: UnixMicros) -> Self {
        Self {
            state: DeliveryState::Discarded,
            reason: Some(WEBHOOK_DELETED.to_owned()),
            next_attempt_at: None,
            updated_at: deleted_at,
            ..self
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    pub topic: Option<Pattern>,
    pub kind: Option<String>,
    /// Accepted at or after.
    pub since: Option<UnixMicros>,
    /// Accepted before.
    pub until: Option<UnixMicros>,
    /// A text that occurs in the body, case-sensitive.
    pub q: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct DeliveryFilter {
    pub webhook: Option<Uuid>,
    pub event: Option<String>,
    pub state: Option<DeliveryState>,
    pub topic: Option<Pattern>,
    pub since: Option<UnixMicros>,
    pub until: Option<UnixMicros>,
}

/// Counts since the installation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub events: u64,
    pub pending: u64,
    pub delivered: u64,
    pub dead: u64,
    pub skipped: u64,
    pub discarded: u64,
    pub attempts: u64,
}

/// Every webhook, for a start.
#[derive(Clone, Debug)]
pub struct AllWebhooks {
    pub live: Vec<WebhookRecord>,
    /// Deleted webhooks whose stored pending deliveries are not all discarded yet.
    pub deleted: Vec<WebhookSeq>,
}
