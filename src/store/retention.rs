//! Retention: what is purged, and when. Every step is one small transaction.

use std::collections::HashMap;

use async_trait::async_trait;

use super::{EventSeq, StoreError};
use crate::clock::UnixMicros;
use crate::webhook::TenantSeq;

/// Events that one step of a purge looks at.
pub const MAX_PURGE_SCAN_EVENTS: u32 = 5_000;
/// Rows that one step of a purge deletes or changes; one event with all its deliveries may have more.
pub const MAX_PURGE_ROWS: usize = 500;
/// Bytes of bodies that one step of a purge deletes, unless one alone is larger.
pub const MAX_PURGE_BYTES: usize = 2 << 20;

/// Lines of the audit log that one step of a purge deletes, and tokens.
pub const MAX_PURGE_LINES: u32 = 500;

/// Purging, in steps that never hold up what is accepted.
#[async_trait]
pub trait RetentionStore: Send + Sync + 'static {
    /// Deletes events after `after`, with their deliveries and attempts, that `retention` lets go: each delivery has
    /// ended, and all of it is old enough. One step of it.
    async fn purge_events(&self, after: EventSeq, retention: &Retention) -> Result<Purged, StoreError>;
    /// Deletes attempts of events after `after` that were made before their tenant's cutoff. One step of it.
    async fn purge_attempts(&self, after: EventSeq, retention: &Retention) -> Result<Purged, StoreError>;
    /// Deletes idempotency keys that expired by `now` and replay jobs that ended before `jobs_before`. Returns
    /// whether there is more.
    async fn purge_records(&self, now: UnixMicros, jobs_before: UnixMicros) -> Result<bool, StoreError>;
    /// Deletes lines of the audit log from before `before`, and tokens that ended before then. Once nothing is left to
    /// go, the log gets a line for each tenant that says what went since the last such line. One step of it; returns
    /// whether there may be more.
    async fn purge_audit(&self, before: UnixMicros, now: UnixMicros) -> Result<bool, StoreError>;
    /// When the newest event was accepted or the newest act was noted, by the clock of then.
    async fn newest_at(&self) -> Result<Option<UnixMicros>, StoreError>;
    /// Gives some free space back to the file system. Returns whether there is more to give.
    async fn release_space(&self) -> Result<bool, StoreError>;
    /// Calls wait for the writer: what is not urgent should wait.
    fn is_busy(&self) -> bool;
}

/// From when on what is kept; what is older may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cutoffs {
    /// Of an event: when it was accepted. `None`: none goes.
    pub events: Option<UnixMicros>,
    /// Of a delivered or skipped delivery: when it ended.
    pub delivered: Option<UnixMicros>,
    /// Of a dead or discarded delivery: when it ended.
    pub dead: Option<UnixMicros>,
    /// Of an attempt: when it was started.
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

    /// The latest of a kind: nothing after it goes, whoever owns it.
    pub(super) fn latest(&self, kind: impl Fn(&Cutoffs) -> Option<UnixMicros>) -> Option<UnixMicros> {
        self.tenants.values().chain([&self.default]).filter_map(kind).max()
    }
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purged {
    /// Events or attempts that are gone.
    pub count: u64,
    /// The last event looked at: where the next step begins.
    pub through: EventSeq,
    /// Nothing after it is old enough.
    pub is_end: bool,
}
