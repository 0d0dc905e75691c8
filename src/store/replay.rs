//! Replay jobs: going through stored deliveries in order of acceptance, to make them pending again or to discard
//! them. A job is a row with a cursor; each step commits what it changed and how far it got in one transaction, so
//! that a job that was interrupted goes on where it stopped and does nothing twice.

use std::sync::Arc;

use async_trait::async_trait;
use uuid::Uuid;

use super::{DeliveryKey, DeliveryState, EventSeq, LiveEvent, StoreError};
use crate::clock::UnixMicros;
use crate::topic::Pattern;
use crate::webhook::{TenantSeq, WebhookSeq};

/// The most jobs of one tenant that wait or run at the same time. A further job is a [`StoreError::Conflict`].
pub const MAX_UNFINISHED_REPLAYS: u32 = 100;
/// The most rows that one step of a job looks at.
pub const MAX_REPLAY_SCAN_ROWS: u32 = 5_000;
/// The most bytes of events that one step of a job reads or rewrites, unless one alone is larger.
pub const MAX_REPLAY_STEP_BYTES: usize = 2 << 20;
/// The most deliveries that one call of [`ReplayStore::resend`] takes.
pub const MAX_RESEND_DELIVERIES: usize = 100;

/// The steps of replay jobs.
#[async_trait]
pub trait ReplayStore: Send + Sync + 'static {
    /// Finds the job's next deliveries, at most `max_changes`. `patterns` are those of its webhook, if the job has
    /// `include_unmatched`; events with other topics are skipped.
    async fn scan_replay(
        &self,
        job: &ReplayRecord,
        patterns: Arc<[Pattern]>,
        max_changes: u32,
    ) -> Result<ReplayScan, StoreError>;
    /// Commits a step: changes the deliveries that are still in a state of the job's selection, adds deliveries that
    /// are not owed, and moves the cursor. Changes nothing if the job has ended meanwhile.
    async fn step_replay(&self, step: ReplayStep) -> Result<Stepped, StoreError>;
    /// Makes deliveries of an event pending with a fresh schedule, whatever their state, and adds deliveries that are
    /// not owed. Skips webhooks that are deleted or another tenant's, and deliveries that only memory knows, since they
    /// are on their way. At most [`MAX_RESEND_DELIVERIES`]. Returns the changed ones.
    async fn resend(
        &self,
        tenant: TenantSeq,
        event: EventSeq,
        webhooks: Vec<WebhookSeq>,
        now: UnixMicros,
    ) -> Result<Vec<WebhookSeq>, StoreError>;
}

/// A job to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct NewReplay {
    /// `None`: every webhook of the tenant.
    pub webhook: Option<Uuid>,
    pub selection: Selection,
    pub action: ReplayAction,
    /// Deliveries changed in a second, at most.
    pub rate_per_s: u32,
}

/// The conditions for the deliveries of a job.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selection {
    pub states: Vec<DeliveryState>,
    pub topic: Option<Pattern>,
    /// Earliest acceptance of the event.
    pub since: Option<UnixMicros>,
    /// End of the time of acceptance, exclusive.
    pub until: Option<UnixMicros>,
}

/// The change that a job makes to the deliveries that it finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplayAction {
    /// Makes deliveries pending with a fresh schedule. `include_unmatched` adds deliveries of events that are not owed
    /// to the webhook and that match it now.
    Replay {
        include_unmatched: bool,
    },
    Discard {
        reason: String,
    },
}

/// The state of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayState {
    /// Waits for its turn.
    Queued,
    Running,
    Done,
    Cancelled,
    Failed,
}

impl ReplayState {
    pub const ALL: [Self; 5] = [Self::Queued, Self::Running, Self::Done, Self::Cancelled, Self::Failed];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }

    #[must_use]
    pub fn has_ended(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

/// A job and its progress.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplayRecord {
    pub uuid: Uuid,
    pub tenant: TenantSeq,
    pub webhook: Option<ReplayedWebhook>,
    pub selection: Selection,
    pub action: ReplayAction,
    pub rate_per_s: u32,
    /// The range of events that the job looks at, the first and the last.
    pub events: (EventSeq, EventSeq),
    pub state: ReplayState,
    /// The reason of a cancellation or a failure.
    pub reason: Option<String>,
    /// The last place looked at.
    pub cursor: DeliveryKey,
    /// Deliveries looked at: those in a wanted state, to the job's webhook if it has one, whatever their events. If it
    /// includes what was not matched: events looked at.
    pub scanned: u64,
    /// Deliveries changed.
    pub changed: u64,
    pub created_at: UnixMicros,
    pub updated_at: UnixMicros,
}

/// The webhook that a job is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayedWebhook {
    pub seq: WebhookSeq,
    pub uuid: Uuid,
    pub name: String,
}

impl ReplayRecord {
    /// The passed part of the events, from 0 to 1. Deleted events count as passed.
    #[must_use]
    pub fn progress(&self) -> f64 {
        let (first, last) = self.events;
        if self.state == ReplayState::Done || last < first {
            return 1.0;
        }
        // The event at the cursor may have deliveries left.
        let passed = self.cursor.event.0.clamp(first.0, last.0) - first.0;
        let per_mille = i128::from(passed) * 1_000 / (i128::from(last.0 - first.0) + 1);
        f64::from(u32::try_from(per_mille).unwrap_or(0)) / 1_000.0
    }
}

/// Conditions of a listing of jobs.
#[derive(Clone, Debug, Default)]
pub struct ReplayFilter {
    pub webhook: Option<Uuid>,
    pub state: Option<ReplayState>,
}

/// The next deliveries of a job.
#[derive(Clone, Debug)]
pub struct ReplayScan {
    /// Deliveries in a state of the job's selection.
    pub found: Vec<DeliveryKey>,
    /// Events that are not owed to the job's webhook. The caller decides whether they match.
    pub unmatched: Vec<Arc<LiveEvent>>,
    /// The last place looked at.
    pub cursor: DeliveryKey,
    /// Up to the cursor, as [`ReplayRecord::scanned`] counts.
    pub scanned: u32,
    /// Nothing is left after the cursor.
    pub is_end: bool,
}

/// The result of a step.
#[derive(Clone, Debug)]
pub struct Stepped {
    /// The job after the step.
    pub job: ReplayRecord,
    pub changed: Vec<DeliveryKey>,
}

/// A step to be committed.
#[derive(Clone, Debug)]
pub struct ReplayStep {
    pub tenant: TenantSeq,
    pub job: Uuid,
    /// The job's cursor when the step was prepared. If the cursor has moved meanwhile, because another node runs the
    /// job too, the step does nothing.
    pub from: DeliveryKey,
    /// Deliveries to change, if they are still in a state of the job's selection.
    pub change: Vec<DeliveryKey>,
    /// Deliveries to add, pending.
    pub add: Vec<DeliveryKey>,
    pub cursor: DeliveryKey,
    pub scanned: u32,
    pub is_end: bool,
    pub now: UnixMicros,
}
