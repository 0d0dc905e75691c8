//! Where a new delivery goes: a place in the queue, or the store, where it waits for room or for its time.

use std::sync::Arc;

use tokio::time::Instant;
use uuid::Uuid;

use super::Lane;
use super::queue::Queued;
use super::state::{Mode, Todo, earlier};
use crate::clock::UnixMicros;
use crate::dispatcher::memory::HeldEvent;
use crate::store::Disposition;

impl Lane {
    /// Decides where a new delivery goes; `room` is the most that memory allows a lane now. A place promised
    /// ([`Disposition::InMemory`]) is taken by [`Lane::admit`] or given back by [`Lane::release`].
    pub(crate) fn reserve(&self, room: usize) -> Disposition {
        let mut state = self.state.lock();
        if let Some(reason) = state.refusal() {
            return Disposition::Skipped(reason);
        }
        if state.is_ordered() || state.mode == Mode::Left {
            // The store has the order, whatever happens here; or another node has the lane.
            return Disposition::Stored;
        }
        let is_full = state.queue.len() + state.reserved >= self.max_queued.min(room);
        if is_full || state.has_overflow || state.mode == Mode::Paused || state.breaker.is_open() {
            state.has_overflow = true;
            return Disposition::Stored;
        }
        state.reserved += 1;
        Disposition::InMemory
    }

    pub(crate) fn release(&self) {
        self.state.lock().reserved -= 1;
    }

    /// Decides where a new delivery goes that must not be attempted before `due_at`.
    pub(crate) fn postpone(&self, due_at: UnixMicros) -> Disposition {
        self.state.lock().refusal().map_or(Disposition::Later(due_at), Disposition::Skipped)
    }

    /// Queues a delivery whose place was reserved, after its event was committed.
    pub(in crate::dispatcher) fn admit(&self, event: Arc<HeldEvent>) -> Todo {
        let mut state = self.state.lock();
        state.reserved -= 1;
        let waits_since = Instant::now();
        state.queue.push(Queued { event, attempts: 0, round_attempts: 0, is_stored: false, waits_since });
        if state.mode == Mode::Left {
            return Todo { evicted: state.queue.take_all(), ..Todo::default() };
        }
        if state.can_run() { state.employ(1, &self.wake) } else { state.evict() }
    }

    /// A pending delivery of this lane was committed to the store, due at `at`.
    pub(in crate::dispatcher) fn note_stored(&self, at: UnixMicros) -> Todo {
        let mut state = self.state.lock();
        state.stored_due = earlier(state.stored_due, Some(at));
        state.load.is_wanted = true;
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
        let is_earlier = state.stored_due.is_none_or(|due| at < due);
        state.stored_due = earlier(state.stored_due, Some(at));
        Todo { wake_at: is_earlier.then_some(at), ..Todo::default() }
    }

    /// The webhook's UUID and name, and why a new delivery would be skipped, if it would.
    pub(crate) fn prospect(&self) -> (Uuid, String, Option<&'static str>) {
        let state = self.state.lock();
        (state.settings.uuid, state.settings.name.clone(), state.refusal())
    }
}
