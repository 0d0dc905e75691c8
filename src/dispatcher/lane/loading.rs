//! How a lane is filled from the store: what to read next, and what becomes of it.

use std::time::Duration;

use tokio::time::Instant;

use super::Lane;
use super::backlog::{Load, earlier};
use super::queue::Queued;
use super::state::{Mode, State, Todo};
use crate::clock::UnixMicros;
use crate::store::{EventSeq, Portion, Probe};

/// When a probe is asked for again that could not begin.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What a load brought.
#[derive(Default)]
pub(in crate::dispatcher) struct Loaded {
    pub(in crate::dispatcher) deliveries: Vec<Queued>,
    /// When the earliest of the rest is due.
    pub(in crate::dispatcher) next_due: Option<UnixMicros>,
    /// There is a rest that is due already.
    pub(in crate::dispatcher) is_rest_due: bool,
    /// In an ordered lane: what comes next and is not due yet.
    pub(in crate::dispatcher) awaited: Option<(EventSeq, UnixMicros)>,
    /// Memory was full: not again before this.
    pub(in crate::dispatcher) rest_until: Option<UnixMicros>,
}

impl Lane {
    /// What to load now. Otherwise, when to ask again: never, if there is nothing to load or other things come first.
    pub(in crate::dispatcher) fn begin_load(&self, now: UnixMicros) -> Result<Portion, Option<UnixMicros>> {
        let mut state = self.state.lock();
        if state.mode != Mode::Running || (state.breaker.is_open() && !state.breaker.is_shut()) {
            return Err(None);
        }
        let is_probe = state.breaker.is_shut();
        if is_probe {
            let probe_at = state.breaker.probe_at(now).max(state.rest.until(now, Instant::now()).unwrap_or(now));
            let at = state.backlog.load_due(now).map(|at| at.max(probe_at));
            if state.backlog.load.is_under_way || at.is_none_or(|at| at > now) {
                return Err(at.filter(|at| *at > now));
            }
            if state.is_ordered() && !state.backlog.under_way.is_empty() {
                // The first of all may be among them.
                return Err(Some(now.after(LOOK_AGAIN_AFTER)));
            }
            state.breaker.begin_probe();
        }
        if !state.wants_load(self.max_queued, &self.memory, now) {
            if is_probe {
                state.breaker.cancel_probe();
            }
            let due = state.backlog.load_due(now);
            state.backlog.load.is_wanted |= due.is_some_and(|at| at <= now);
            return Err(due.filter(|at| *at > now));
        }
        let in_order = state.is_ordered();
        let at_any_time = std::mem::take(&mut state.is_wished);
        let probe = (is_probe && !in_order).then(|| {
            // What an operator asked for became due last.
            let of_wish = Probe { newest_first: true, ..Probe::default() };
            if at_any_time { of_wish } else { state.suspects.probe(state.breaker.failed_probes()) }
        });
        let backlog = &mut state.backlog;
        backlog.load.is_under_way = true;
        backlog.load.is_wanted = false;
        backlog.stored_due = None;
        let room = if is_probe { 1 } else { self.max_queued.saturating_sub(backlog.queue.len()).max(1) };
        Ok(Portion {
            in_order,
            probe,
            at_any_time,
            max_deliveries: u32::try_from(room).unwrap_or(u32::MAX),
            max_bytes: self.memory.free_bytes().saturating_sub(backlog.queue.bytes()) / 2,
            held: backlog.held(),
        })
    }

    /// Queues what was loaded.
    pub(in crate::dispatcher) fn finish_load(&self, loaded: Loaded, now: UnixMicros) -> Todo {
        let mut state = self.state.lock();
        let is_ordered = state.is_ordered();
        let backlog = &mut state.backlog;
        backlog.load.is_under_way = false;
        backlog.load.is_wanted |= loaded.is_rest_due;
        backlog.load.rest_until = loaded.rest_until;
        backlog.stored_due = earlier(backlog.stored_due, loaded.next_due);
        let mut known = std::mem::take(&mut backlog.load.settled_meanwhile);
        if is_ordered {
            backlog.awaited = loaded.awaited;
            // What was read of these is older than what became of them.
            if let Some(first) = known.iter().min() {
                backlog.ask_store_for(*first, is_ordered);
            }
        }
        known.extend(backlog.queue.events());
        let before = backlog.queue.len();
        for queued in loaded.deliveries {
            let seq = queued.event.live.seq;
            if known.contains(&seq) || backlog.under_way.contains(&seq) {
                continue;
            }
            if is_ordered { backlog.queue.insert_in_order(queued) } else { backlog.queue.push(queued) }
        }
        backlog.has_overflow = loaded.is_rest_due;
        let added = if is_ordered { backlog.queue.len() } else { backlog.queue.len() - before };
        self.go_on(&mut state, added, now)
    }

    /// The store could not be read. What is known stays known, above all what an ordered lane waits for; the store is asked
    /// again at `again_at`.
    pub(in crate::dispatcher) fn fail_load(&self, again_at: UnixMicros, now: UnixMicros) -> Todo {
        let mut state = self.state.lock();
        // What became of deliveries meanwhile was noted when it was committed.
        state.backlog.load = Load { is_wanted: true, rest_until: Some(again_at), ..Load::default() };
        state.backlog.note_due(now);
        state.backlog.has_overflow = true;
        self.go_on(&mut state, 0, now)
    }

    /// After a load that queued `added` deliveries.
    pub(super) fn go_on(&self, state: &mut State, added: usize, now: UnixMicros) -> Todo {
        let instant = Instant::now();
        state.cancel_idle_probe();
        if !state.can_run() {
            let due = state.backlog.load_due(now);
            let todo = state.resume_or_evict(&self.wake, now, instant);
            return Todo { wake_at: todo.wake_at.zip(due).map(|(probe, due)| probe.max(due)), ..todo };
        }
        let load = state.wants_load(self.max_queued, &self.memory, now);
        let wake_at = state.backlog.load_due(now).filter(|_| !load);
        Todo { load, wake_at, ..state.employ(added, &self.wake, instant) }
    }
}
