//! Retention: what is purged, and when. Every step is one small transaction.

use std::collections::HashMap;

use async_trait::async_trait;

use super::{EventSeq, StoreError};
use crate::clock::UnixMicros;
use crate::webhook::TenantSeq;

/// The most events that one step of a purge looks at.
pub const MAX_PURGE_SCAN_EVENTS: u32 = 5_000;
/// The most rows that one step of a purge deletes or changes, unless one event with its deliveries has more.
pub const MAX_PURGE_ROWS: usize = 500;
/// The most bytes of bodies that one step of a purge deletes, unless one alone is larger.
pub const MAX_PURGE_BYTES: usize = 2 << 20;

/// The most lines of the audit log that one step of a purge deletes, and the most tokens.
pub const MAX_PURGE_LINES: u32 = 500;

/// Purging, in steps so small that they do not delay the acceptance of events.
#[async_trait]
pub trait RetentionStore: Send + Sync + 'static {
    /// Deletes events after `after` that `retention` lets go, with their deliveries and attempts: every delivery has
    /// ended, and event and deliveries are old enough. One step.
    async fn purge_events(&self, after: EventSeq, retention: &Retention) -> Result<Purged, StoreError>;
    /// Deletes attempts of events after `after` that are older than their tenant's cutoff. One step.
    async fn purge_attempts(&self, after: EventSeq, retention: &Retention) -> Result<Purged, StoreError>;
    /// Deletes idempotency keys that expired by `now` and replay jobs that ended before `jobs_before`. Returns whether
    /// more are left.
    async fn purge_records(&self, now: UnixMicros, jobs_before: UnixMicros) -> Result<bool, StoreError>;
    /// Deletes lines of the audit log from before `before`, and tokens that ended before it. The last step adds one
    /// line for each tenant, about all lines deleted since the last such line. One step; returns whether more may be
    /// left.
    async fn purge_audit(&self, before: UnixMicros, now: UnixMicros) -> Result<bool, StoreError>;
    /// The newest time in the store: of an event's acceptance or a line of the audit log, by the clock of that moment.
    async fn newest_at(&self) -> Result<Option<UnixMicros>, StoreError>;
    /// Gives some free space back to the file system. Returns whether there is more to give.
    async fn release_space(&self) -> Result<bool, StoreError>;
    /// Whether calls wait for the writer, so that work that is not urgent should wait.
    fn is_busy(&self) -> bool;
}

/// The oldest times that are kept. Older data may be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cutoffs {
    /// By an event's acceptance. `None`: no event is deleted.
    pub events: Option<UnixMicros>,
    /// By the end of a delivered or skipped delivery.
    pub delivered: Option<UnixMicros>,
    /// By the end of a dead or discarded delivery.
    pub dead: Option<UnixMicros>,
    /// By the start of an attempt.
    pub attempts: Option<UnixMicros>,
}

/// The cutoffs of every tenant.
#[derive(Clone, Debug)]
pub struct Retention {
    pub default: Cutoffs,
    /// For tenants with cutoffs of their own.
    pub tenants: HashMap<TenantSeq, Cutoffs>,
}

impl Retention {
    #[must_use]
    pub fn of(&self, tenant: TenantSeq) -> &Cutoffs {
        self.tenants.get(&tenant).unwrap_or(&self.default)
    }

    /// The latest cutoff of a kind. Nothing newer is deleted for any tenant.
    pub(super) fn latest(&self, kind: impl Fn(&Cutoffs) -> Option<UnixMicros>) -> Option<UnixMicros> {
        self.tenants.values().chain([&self.default]).filter_map(kind).max()
    }
}

/// The result of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purged {
    /// The number of deleted events or attempts.
    pub count: u64,
    /// The last event looked at: where the next step begins.
    pub through: EventSeq,
    /// No later event is old enough.
    pub is_end: bool,
}
