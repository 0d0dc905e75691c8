//! What happens to a lane beside its work: its webhook is changed or deleted, a delivery is changed by an operator,
//! another node is to have it.

use tokio::time::Instant;

use super::Lane;
use super::queue::Queued;
use super::state::{LaneSettings, Mode, Todo};
use crate::clock::UnixMicros;
use crate::dispatcher::DispatcherSettings;
use crate::store::EventSeq;
use crate::webhook::WebhookRecord;

/// Where a delivery is.
pub(in crate::dispatcher) enum Whereabouts {
    /// It was in the queue or in the store; now it is withheld.
    Withheld(Option<Queued>),
    UnderWay,
}

impl Lane {
    /// Takes over a changed webhook, unless a newer change came first.
    pub(in crate::dispatcher) fn apply(
        &self,
        record: &WebhookRecord,
        defaults: &DispatcherSettings,
        close_circuit: bool,
        now: UnixMicros,
    ) -> Todo {
        let mut state = self.state.lock();
        if state.settings.version >= record.version || matches!(state.mode, Mode::Removed | Mode::Moved | Mode::Stopped)
        {
            return Todo::default();
        }
        let was_ordered = state.is_ordered();
        let instant = Instant::now();
        state.change_settings(LaneSettings::new(record, defaults), instant);
        state.mode = Mode::of(record);
        if close_circuit {
            state.breaker.reset();
            state.rest.end();
            state.is_health_dirty = true;
        }
        if state.is_ordered() && !was_ordered {
            // From here on the store has the order.
            let todo = state.evict();
            state.backlog.note_overdue();
            return Todo { load: state.mode == Mode::Running, ..todo };
        }
        state.resume_or_evict(&self.wake, now, instant)
    }

    /// An operator wants an attempt now: a rest is over, and an open circuit is probed.
    pub(in crate::dispatcher) fn wish(&self, now: UnixMicros) -> Todo {
        let mut state = self.state.lock();
        if state.mode == Mode::Removed {
            return Todo { discard: true, ..Todo::default() };
        }
        let instant = Instant::now();
        let is_waiting = state.breaker.is_open() || state.rest.ends_at(instant).is_some();
        state.is_wished |= is_waiting;
        state.is_health_dirty |= is_waiting;
        state.rest.end();
        state.breaker.hasten_probe(now);
        if is_waiting && let Some((_, due_at)) = &mut state.backlog.awaited {
            *due_at = (*due_at).min(now);
        }
        state.backlog.note_due(now);
        state.backlog.load.is_wanted = true;
        if state.mode != Mode::Running {
            return Todo::default();
        }
        let todo = if state.can_run() { state.employ_all(&self.wake, instant) } else { Todo::default() };
        Todo { load: true, ..todo }
    }

    /// The version of the webhook that it goes by.
    pub(in crate::dispatcher) fn version(&self) -> i64 {
        self.state.lock().settings.version
    }

    pub(in crate::dispatcher) fn remove(&self) -> Todo {
        let mut state = self.state.lock();
        state.mode = Mode::Removed;
        let mut todo = state.evict();
        todo.discard = true;
        todo
    }

    /// Keeps a delivery from being attempted, until [`Lane::restore`].
    pub(in crate::dispatcher) fn withhold(&self, event: EventSeq) -> Whereabouts {
        let mut state = self.state.lock();
        if !state.backlog.under_way.insert(event) {
            return Whereabouts::UnderWay;
        }
        Whereabouts::Withheld(state.backlog.queue.take_out(event))
    }

    /// Lets a delivery be attempted again; `queued` goes back into the queue.
    pub(in crate::dispatcher) fn restore(&self, event: EventSeq, queued: Option<Queued>, now: UnixMicros) -> Todo {
        self.restore_all(vec![(event, queued)], now)
    }

    /// The same for many.
    pub(in crate::dispatcher) fn restore_all(&self, taken: Vec<(EventSeq, Option<Queued>)>, now: UnixMicros) -> Todo {
        let mut state = self.state.lock();
        let is_ordered = state.is_ordered();
        let backlog = &mut state.backlog;
        for (event, queued) in taken {
            backlog.ended(event);
            match queued {
                Some(queued) if is_ordered => backlog.queue.insert_in_order(queued),
                Some(queued) => backlog.queue.push(queued),
                // A load may have passed it over meanwhile.
                None => backlog.ask_store_for(event, is_ordered),
            }
        }
        state.cancel_idle_probe();
        state.resume_or_evict(&self.wake, now, Instant::now())
    }

    /// Another node is to have the webhook: no attempt starts any more. What waits here is for that one to find.
    pub(in crate::dispatcher) fn move_away(&self) {
        let mut state = self.state.lock();
        state.mode = Mode::Moved;
        state.backlog.queue.take_all();
    }

    pub(crate) fn has_moved(&self) -> bool {
        self.term.is_some() && self.state.lock().mode == Mode::Moved
    }

    /// Nothing is under way, and nothing that is being accepted has a place here.
    pub(in crate::dispatcher) fn is_idle(&self) -> bool {
        let state = self.state.lock();
        state.backlog.under_way.is_empty() && state.backlog.reserved == 0
    }
}
