//! Where a new delivery goes: a place in the queue, or the store, where it waits for room or for its time.

use std::sync::Arc;

use tokio::time::Instant;
use uuid::Uuid;

use super::Lane;
use super::queue::Queued;
use super::state::{Mode, Todo};
use crate::clock::UnixMicros;
use crate::dispatcher::memory::HeldEvent;
use crate::store::Disposition;

/// Where a new delivery of a lane goes. A place in the queue ([`Disposition::InMemory`]) is the delivery's until
/// [`Reservation::admit`] takes it, and free again when this is dropped before.
pub(crate) struct Reservation {
    lane: Arc<Lane>,
    disposition: Disposition,
    holds_place: bool,
}

impl Reservation {
    fn new(lane: Arc<Lane>, disposition: Disposition) -> Self {
        Self { holds_place: disposition == Disposition::InMemory, lane, disposition }
    }

    pub(crate) fn lane(&self) -> &Arc<Lane> {
        &self.lane
    }

    pub(crate) fn disposition(&self) -> Disposition {
        self.disposition
    }

    /// Queues the delivery in its place, after its event was committed; `None`: there is no place.
    pub(in crate::dispatcher) fn admit(&mut self, event: Arc<HeldEvent>, accepted_at: UnixMicros) -> Option<Todo> {
        std::mem::take(&mut self.holds_place).then(|| self.lane.admit(event, accepted_at))
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.holds_place {
            self.lane.state.lock().backlog.reserved -= 1;
        }
    }
}

impl Lane {
    /// Decides where a new delivery goes; `room` is the most that memory allows a lane now.
    pub(crate) fn reserve(self: Arc<Self>, room: usize) -> Reservation {
        let disposition = self.decide(room);
        Reservation::new(self, disposition)
    }

    fn decide(&self, room: usize) -> Disposition {
        let mut state = self.state.lock();
        if let Some(reason) = state.refusal() {
            return Disposition::Skipped(reason);
        }
        if state.is_ordered() || state.mode == Mode::Moved {
            // The store has the order, whatever happens here; or another node has the lane.
            return Disposition::Stored;
        }
        let is_held_up = state.mode == Mode::Paused || state.breaker.is_open();
        let backlog = &mut state.backlog;
        let is_full = backlog.queue.len() + backlog.reserved >= self.max_queued.min(room);
        if is_full || backlog.has_overflow || is_held_up {
            backlog.has_overflow = true;
            return Disposition::Stored;
        }
        backlog.reserved += 1;
        Disposition::InMemory
    }

    /// Decides where a new delivery goes that must not be attempted before `due_at`.
    pub(crate) fn postpone(self: Arc<Self>, due_at: UnixMicros) -> Reservation {
        let disposition = self.state.lock().refusal().map_or(Disposition::Later(due_at), Disposition::Skipped);
        Reservation::new(self, disposition)
    }

    /// Queues a delivery in the place that was reserved for it.
    fn admit(&self, event: Arc<HeldEvent>, begins_at: UnixMicros) -> Todo {
        let mut state = self.state.lock();
        state.backlog.reserved -= 1;
        let waits_since = Instant::now();
        let queued =
            Queued { event, attempts: 0, round_attempts: 0, is_stored: false, begins_at, waits_since, half: None };
        state.backlog.queue.push(queued);
        if state.mode == Mode::Moved {
            return Todo { evicted: state.backlog.queue.take_all(), ..Todo::default() };
        }
        if state.can_run() { state.employ(1, &self.wake, waits_since) } else { state.evict() }
    }

    /// A pending delivery of this lane was committed to the store, due at `at`.
    pub(in crate::dispatcher) fn note_stored(&self, at: UnixMicros) -> Todo {
        let mut state = self.state.lock();
        state.backlog.note_due(at);
        state.backlog.load.is_wanted = true;
        if state.mode == Mode::Removed {
            return Todo { discard: true, ..Todo::default() };
        }
        // Not only when it is due: the clock may have been set back or the circuit be open, and then an alarm is needed.
        Todo { load: state.mode == Mode::Running, ..Todo::default() }
    }

    /// A delivery of this lane was committed to the store that is due at `at`, later than now.
    pub(in crate::dispatcher) fn note_later(&self, at: UnixMicros) -> Todo {
        let mut state = self.state.lock();
        if state.mode == Mode::Removed {
            return Todo { discard: true, ..Todo::default() };
        }
        let is_first = state.backlog.note_due(at);
        Todo { wake_at: is_first.then_some(at), ..Todo::default() }
    }

    /// The webhook's UUID and name, and why a new delivery would be skipped, if it would.
    pub(crate) fn prospect(&self) -> (Uuid, String, Option<&'static str>) {
        let state = self.state.lock();
        (state.settings.uuid, state.settings.name.clone(), state.refusal())
    }
}
