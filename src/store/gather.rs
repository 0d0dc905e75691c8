//! Calls that wait share a commit: within which bounds, and what the log says while commits fail.

use tracing::{error, info};

use super::StoreError;
use crate::fair::Turns;
use crate::webhook::TenantSeq;

/// The most weight of the calls of one commit and of those that wait for the next; a row or a KiB weighs 1. A heavier
/// call waits until it is alone. Tenants take turns here, and again at the commits.
const MAX_WAITING_WEIGHT: usize = 6 << 10;
/// A transaction with this many rows or bytes takes no further call.
pub(super) const MAX_COMMIT_ROWS: usize = 4_096;
const MAX_COMMIT_BYTES: usize = 2 << 20;

/// The cost of a call in its tenant's turns. A row costs about as much as a KiB.
pub(super) fn weight(rows: usize, bytes: usize) -> usize {
    (rows + (bytes >> 10)).max(1)
}

/// Whether a commit of this size takes one more call.
pub(super) fn has_room(rows: usize, bytes: usize) -> bool {
    rows < MAX_COMMIT_ROWS && bytes < MAX_COMMIT_BYTES
}

/// Limits the calls that wait, together with those whose commit is under way.
pub(super) struct Room(Turns<Option<TenantSeq>>);

pub(super) type Place = crate::fair::Permit<Option<TenantSeq>>;

impl Room {
    pub(super) fn new() -> Self {
        Self(Turns::new(MAX_WAITING_WEIGHT))
    }

    /// Waits for the turn of a tenant, or of the server itself.
    pub(super) async fn enter(&self, tenant: Option<TenantSeq>, weight: usize) -> Place {
        self.0.acquire_many(tenant, weight.min(MAX_WAITING_WEIGHT)).await
    }

    /// More calls wait than one transaction takes.
    pub(super) fn is_busy(&self) -> bool {
        self.0.free() < MAX_WAITING_WEIGHT - MAX_COMMIT_ROWS
    }
}

/// Logs once that commits fail, and once that they succeed again.
#[derive(Default)]
pub(super) struct CommitLog {
    is_failing: bool,
}

impl CommitLog {
    pub(super) fn note<T>(&mut self, committed: &Result<T, StoreError>) {
        match committed {
            Err(error) if !self.is_failing => error!(%error, "the store cannot commit"),
            Ok(_) if self.is_failing => info!("the store commits again"),
            _ => {}
        }
        self.is_failing = committed.is_err();
    }
}
