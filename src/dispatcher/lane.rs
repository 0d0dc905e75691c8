//! The lane of one webhook: its queue in memory, what is under way, and its circuit.
//!
//! A lane is state behind a short lock and does nothing by itself: each method says what the
//! caller must do next ([`Todo`]). Workers, loads and timers are the dispatcher's.

mod aging;
mod backlog;
mod changes;
mod crew;
mod loading;
mod places;
mod queue;
mod state;
mod suspects;
mod trial;
mod waiting;
mod work;

use std::sync::Arc;

use parking_lot::Mutex;

pub(super) use self::aging::Look;
pub(super) use self::changes::Whereabouts;
use self::crew::Wake;
pub(super) use self::loading::Loaded;
pub(crate) use self::places::Reservation;
pub(super) use self::queue::Queued;
pub(crate) use self::state::LaneSettings;
use self::state::State;
pub(super) use self::state::{Ended, Judged, Todo, Turn};
pub(crate) use self::waiting::{Held, Hold};
pub(super) use self::work::{Booked, Job, Work};
use super::DispatcherSettings;
use super::memory::Memory;
use crate::clock::UnixMicros;
use crate::store::Term;
use crate::webhook::{TenantSeq, WebhookRecord, WebhookSeq};

/// The reason of deliveries that were skipped because the webhook was off when the event was accepted.
pub(crate) const WEBHOOK_DISABLED: &str = "webhook disabled";
/// The reason of deliveries that were discarded with their webhook.
pub(crate) const WEBHOOK_DELETED: &str = "webhook deleted";

pub(crate) struct Lane {
    pub(crate) seq: WebhookSeq,
    pub(super) tenant: TenantSeq,
    /// The term under which this node has the lane; `None`: this node owns every shard for ever.
    pub(super) term: Option<Term>,
    pub(super) wake: Wake,
    max_queued: usize,
    memory: Memory,
    state: Mutex<State>,
}

/// The reason why the server turns a webhook off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Off {
    /// The receiver answered 410.
    Gone,
    /// The receiver answered `webhook-delivery: disable`.
    Asked,
    /// The circuit has been open for this many days.
    NoSuccess { days: u32 },
}

impl Off {
    pub(crate) fn is_gone(self) -> bool {
        self == Self::Gone
    }
}

impl Lane {
    pub(super) fn new(
        record: &WebhookRecord,
        settings: &DispatcherSettings,
        memory: Memory,
        term: Option<Term>,
        now: UnixMicros,
    ) -> Self {
        Self {
            seq: record.seq,
            tenant: record.tenant,
            term,
            wake: Wake::new(),
            max_queued: settings.max_lane_deliveries,
            memory,
            state: Mutex::new(State::new(record, settings, now)),
        }
    }

    pub(super) fn settings(&self) -> Arc<LaneSettings> {
        Arc::clone(&self.state.lock().settings)
    }

    /// The lane's shard, if other nodes share the store.
    pub(super) fn shard(&self) -> Option<u8> {
        self.term.map(|term| term.shard.number())
    }

    pub(super) fn is_ordered(&self) -> bool {
        self.state.lock().is_ordered()
    }

    /// (queued, under way, circuit open)
    pub(super) fn gauges(&self) -> (usize, usize, bool) {
        let state = self.state.lock();
        (state.backlog.queue.len(), state.backlog.under_way.len(), state.breaker.is_open())
    }
}

#[cfg(test)]
mod tests;
