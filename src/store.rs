//! What a store promises. It speaks intents, not rows; `tests/server/store_conformance` holds a store to it.

mod accepting;
mod audit;
pub mod cluster;
mod counters;
mod error;
mod failure;
mod gather;
mod id_hash;
mod key_file;
pub mod migrate;
mod owed;
mod paging;
pub mod postgres;
mod read_back;
mod records;
mod rehearsal;
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
pub use self::paging::{Page, PageOf};
pub use self::records::{Read, Write};
pub use self::shard::{SHARDS, Shard};
pub use self::tenant::{
    BYTES_QUOTA, DeletedTenant, MAX_TENANT_DESCRIPTION_CHARS, MAX_TENANT_NAME_CHARS, QUOTA, Quotas, TenantPatch,
    TenantRecord,
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
/// Items on a page when the caller does not say.
pub const DEFAULT_PAGE_ITEMS: u32 = 50;
/// A listing with a selective filter looks at this many rows and then returns what it has, with a cursor to go on.
pub const MAX_ROWS_PER_PAGE: u32 = 200_000;
/// The most bytes of bodies on a page of events, unless one alone is larger.
pub const MAX_BODY_BYTES_PER_PAGE: usize = 8 << 20;
/// A search for a text ends its page with the body that makes up these bytes, and leaves a cursor to go on.
pub const MAX_SEARCHED_BYTES_PER_PAGE: usize = 64 << 20;
/// The most bytes of bodies on a page of [`Store::unsettled`], unless one alone is larger.
pub const MAX_UNSETTLED_BYTES: usize = 16 << 20;
/// The settings of a tenant's webhooks together, in bytes as they are stored. Less than before is always allowed.
pub const MAX_TENANT_SETTINGS_BYTES: u64 = 32 << 20;
/// The most response bytes kept of a successful attempt; of a failed one all that was read.
pub const MAX_KEPT_SUCCESS_RESPONSE_BYTES: usize = 1_024;

/// Keeps everything that must outlive the process.
#[async_trait]
pub trait Store: ReplayStore + RetentionStore + Send + Sync + 'static {
    // --- accepting ---

    /// Commits events and what they are owed to, in one transaction with its fsync, before it
    /// returns. All or nothing. One answer an event, in order; an event whose id the tenant has used
    /// before is not stored again and its `owed` is ignored, also within one call.
    async fn accept(&self, events: Vec<NewEvent>) -> Result<Vec<Accepted>, StoreError>;
    /// As [`Store::accept`], once for the tenant's key: the receipts are kept in the same transaction, and while they
    /// are, the same request gets them again and stores nothing. The same key with another body is a
    /// [`StoreError::IdempotencyConflict`].
    async fn accept_once(
        &self,
        tenant: TenantSeq,
        events: Vec<NewEvent>,
        once: Idempotency,
    ) -> Result<AcceptedOnce, StoreError>;

    // --- delivering ---

    /// Deliveries that no row speaks of yet (owed, accepted with [`Disposition::InMemory`], not
    /// settled), in order of acceptance, after event `after`, of at most `max_events` events and
    /// [`MAX_UNSETTLED_BYTES`]. What a restart reads back, page by page until one is empty.
    async fn unsettled(&self, after: EventSeq, max_events: u32) -> Result<Vec<Unsettled>, StoreError>;

    /// Stored pending deliveries of one webhook whose time has come, earliest first, then in order of
    /// acceptance, or as `portion.probe` says; no more of them than `portion` says. With `portion.in_order` in order of acceptance
    /// alone, and none beyond one whose time has not come.
    async fn due(&self, webhook: WebhookSeq, now: UnixMicros, portion: Portion) -> Result<Due, StoreError>;

    /// When the earliest stored pending delivery later than `after` is due, for one webhook or for each;
    /// webhooks without one are left out.
    async fn next_due(
        &self,
        webhook: Option<WebhookSeq>,
        after: UnixMicros,
    ) -> Result<Vec<(WebhookSeq, UnixMicros)>, StoreError>;

    /// Commits the outcomes of attempts, and the health of the webhooks concerned, in one transaction.
    /// A settlement that would keep a delivery pending changes nothing if an operator ended it meanwhile. Returns the
    /// webhooks of which nothing was written, because the terms in [`SettleBatch::fence`] are over.
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
    async fn stats(&self, tenant: TenantSeq) -> Result<Stats, StoreError>;
    /// Of all tenants together, deleted ones included.
    async fn total_stats(&self) -> Result<Stats, StoreError>;
    /// Deliveries of a tenant that have not ended, as of the last commit. Known without reading.
    fn pending(&self, tenant: TenantSeq) -> u64;
    /// Bytes of the bodies of a tenant's events that are kept, as of the last commit. Known without reading.
    fn stored_bytes(&self, tenant: TenantSeq) -> u64;

    // --- records, each written once in `records` ---

    /// Does work within a transaction of its own or shared, and returns after its commit. Refusals of the work write nothing.
    async fn write(&self, write: Write) -> Result<(), StoreError>;
    /// Does work on one state of what is committed; each statement of it on one where nodes share the store.
    async fn read(&self, read: Read) -> Result<(), StoreError>;
    /// The deleted ones that still have stored pending deliveries.
    async fn deleted_webhooks(&self) -> Result<Vec<WebhookSeq>, StoreError>;

    // --- the audit log ---

    /// The same store for who does `act`: each change of webhooks, deliveries, tokens and tenants that is made through
    /// this handle has its line in the audit log, committed with it.
    fn audited(&self, act: &Act) -> Arc<dyn Store>;
    /// Newest first.
    async fn audit(&self, filter: &AuditFilter, page: Page) -> Result<PageOf<AuditEntry>, StoreError>;

    // --- the store itself ---

    /// What nodes do together that share this store. `None`: the store is one node's own, who holds every shard for ever.
    fn cluster(&self) -> Option<Arc<dyn Cluster>> {
        None
    }
    fn delivery_ids(&self) -> &DeliveryIds;
    /// Fails while the store cannot accept or commit; for readiness. Leaves nothing.
    async fn check(&self) -> Result<(), StoreError>;
    /// Finishes what was handed in, then closes the files. Later calls fail.
    async fn close(&self);
}

/// An event of the store, shared by the lanes that hold it.
#[derive(Clone, Debug)]
pub struct LiveEvent {
    pub seq: EventSeq,
    pub event: Event,
    /// It came back from the disk otherwise than it was written: it is not to be sent.
    pub is_damaged: bool,
}

#[derive(Clone, Debug)]
pub struct Unsettled {
    pub event: Arc<LiveEvent>,
    pub accepted_at: UnixMicros,
    pub webhooks: Vec<WebhookSeq>,
}

/// How much of what is due is wanted at once.
#[derive(Clone, Debug, Default)]
pub struct Portion {
    pub max_deliveries: u32,
    /// Of bodies. One delivery is wanted even if its body alone is larger.
    pub max_bytes: usize,
    /// Events whose deliveries the caller holds: they are passed over, and count neither as read nor as a rest.
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

/// A portion of what is due.
#[derive(Clone, Debug, Default)]
pub struct Due {
    pub deliveries: Vec<DueDelivery>,
    /// More is due than the portion had room for.
    pub is_rest_due: bool,
    /// With [`Portion::in_order`]: the first delivery that is not among these and not held, and when it is due. All after
    /// it wait for it.
    pub awaited: Option<(EventSeq, UnixMicros)>,
}

/// A stored delivery whose time has come.
#[derive(Clone, Debug)]
pub struct DueDelivery {
    pub event: Arc<LiveEvent>,
    pub webhook: WebhookSeq,
    /// Attempts made so far, over all rounds.
    pub attempts: u32,
    /// Attempts made in this round, that is, since it was accepted or last asked for again: the position in the schedule.
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
    /// Somebody waits for the commit: an ordered webhook's next delivery.
    pub is_urgent: bool,
    /// Where the store has a [`Store::cluster`]; `None`: everything is written.
    pub fence: Option<Fence>,
}

/// What became of one delivery.
#[derive(Clone, Debug)]
pub struct Settlement {
    pub key: DeliveryKey,
    /// `None` when no attempt was made (a deleted webhook's deliveries are discarded so).
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
}

impl Portion {
    fn is_passed_over(&self, event: EventSeq) -> bool {
        self.held.contains(&event) || self.probe.as_ref().is_some_and(|probe| probe.avoided.contains(&event))
    }
}

impl AttemptRecord {
    /// The response as it is kept: of a success only the beginning.
    fn kept_response(&self) -> &[u8] {
        let kept = if self.error.is_none() { MAX_KEPT_SUCCESS_RESPONSE_BYTES } else { usize::MAX };
        &self.response[..self.response.len().min(kept)]
    }
}

#[derive(Clone, Debug)]
pub struct StoredEvent {
    pub seq: EventSeq,
    pub event: Event,
    pub accepted_at: UnixMicros,
    /// Webhooks it is or was owed to, by number.
    pub owed: Vec<WebhookSeq>,
    /// It came back from the disk otherwise than it was written.
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
    /// When it last changed: its end, if it has ended.
    pub updated_at: UnixMicros,
}

/// The reason that deliveries of a deleted webhook show.
const WEBHOOK_DELETED: &str = "webhook deleted";

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

    /// How one shows that is pending while its webhook is deleted: it counts as discarded.
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

/// Every webhook there is, for start-up.
#[derive(Clone, Debug)]
pub struct AllWebhooks {
    pub live: Vec<WebhookRecord>,
    /// Deleted webhooks whose stored pending deliveries are not all discarded yet.
    pub deleted: Vec<WebhookSeq>,
}
