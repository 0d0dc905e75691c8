//! The lane of one webhook: its queue in memory, what is under way, and its circuit.
//!
//! A lane is state behind a short lock and does nothing by itself: each method says what the
//! caller must do next ([`Todo`]). Workers, loads and timers are the dispatcher's.

mod queue;
mod state;

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, Id};

pub(super) use self::queue::Queued;
pub(super) use self::state::{LaneSettings, Todo};
use self::state::{Mode, State, earlier};
use super::breaker::Change;
use super::memory::{HeldEvent, Memory};
use crate::clock::UnixMicros;
use crate::delivery::Outcome;
use crate::delivery::retry::Schedule;
use crate::store::{Disposition, EventSeq, Portion};
use crate::webhook::{WebhookHealth, WebhookRecord, WebhookSeq};

/// A success that changes nothing but its time is stored at most this often.
const SUCCESS_FLUSH_US: i64 = 1_000_000;

/// Why an event was not delivered to a webhook that was switched off when it was accepted.
pub(crate) const WEBHOOK_DISABLED: &str = "webhook disabled";
/// Why the pending deliveries of a deleted webhook ended.
pub(crate) const WEBHOOK_DELETED: &str = "webhook deleted";

pub(crate) struct Lane {
    pub(crate) seq: WebhookSeq,
    /// A permit wakes an idle worker. Permits and [`State::idle_workers`] together are the workers that wait.
    pub(super) wake: Semaphore,
    max_queued: usize,
    memory: Memory,
    state: Mutex<State>,
}

/// A delivery taken from the queue, to be attempted.
pub(super) struct Job {
    pub(super) queued: Queued,
    pub(super) settings: Arc<LaneSettings>,
    /// The queue has room again for what waits in the store.
    pub(super) load: bool,
}

/// What a load brought.
#[derive(Default)]
pub(super) struct Loaded {
    pub(super) deliveries: Vec<Queued>,
    /// When the earliest of the rest is due.
    pub(super) next_due: Option<UnixMicros>,
    /// There is a rest that is due already.
    pub(super) is_rest_due: bool,
    /// The store failed or memory was full: not again before this.
    pub(super) rest_until: Option<UnixMicros>,
}

/// What a worker finds.
pub(super) enum Work {
    /// There is a delivery; whether the webhook's last attempt succeeded.
    Ready { is_proven: bool },
    /// Nothing to do: wait for [`Lane::wake`].
    Idle,
    /// This worker is no longer needed.
    Retire,
}

/// Where a delivery is.
pub(super) enum Whereabouts {
    /// It was in the queue or in the store; now it is kept from being attempted.
    Taken(Option<Queued>),
    UnderWay,
}

impl Lane {
    pub(super) fn new(
        record: &WebhookRecord,
        default_schedule: &Schedule,
        threshold: u32,
        max_queued: usize,
        memory: Memory,
    ) -> Self {
        Self {
            seq: record.seq,
            wake: Semaphore::new(0),
            max_queued,
            memory,
            state: Mutex::new(State::new(record, default_schedule, threshold)),
        }
    }

    // --- accepting ---

    /// Decides where a new delivery goes; `room` is the most that memory allows a lane now. A place promised
    /// ([`Disposition::InMemory`]) is taken by [`Lane::admit`] or given back by [`Lane::release`].
    pub(crate) fn reserve(&self, room: usize) -> Disposition {
        let mut state = self.state.lock();
        match state.mode {
            Mode::Paused => return Disposition::Skipped(WEBHOOK_DISABLED),
            Mode::Removed => return Disposition::Skipped(WEBHOOK_DELETED),
            Mode::Running | Mode::Stopped => {}
        }
        let is_full = state.queue.len() + state.reserved >= self.max_queued.min(room);
        if is_full || state.has_overflow || state.breaker.is_open() {
            state.has_overflow = true;
            return Disposition::Stored;
        }
        state.reserved += 1;
        Disposition::InMemory
    }

    pub(crate) fn release(&self) {
        self.state.lock().reserved -= 1;
    }

    /// Queues a delivery whose place was reserved, after its event was committed.
    pub(super) fn admit(&self, event: Arc<HeldEvent>) -> Todo {
        let mut state = self.state.lock();
        state.reserved -= 1;
        state.queue.push(Queued { event, attempts: 0, round_attempts: 0, is_stored: false });
        if state.can_run() { state.employ(1, &self.wake) } else { state.evict() }
    }

    /// A pending delivery of this lane was committed to the store, due at `at`.
    pub(super) fn note_stored(&self, at: UnixMicros) -> Todo {
        let mut state = self.state.lock();
        state.stored_due = earlier(state.stored_due, Some(at));
        state.load.is_wanted = true;
        if state.mode == Mode::Removed {
            return Todo { discard: true, ..Todo::default() };
        }
        // Not only when it is due: the clock may have been set back, and then an alarm is needed.
        Todo { load: state.can_run(), ..Todo::default() }
    }

    // --- working ---

    /// What the worker `me` should do; one that is told to retire is no longer counted.
    pub(super) fn find_work(&self, me: Id) -> Work {
        let mut state = self.state.lock();
        if !state.can_run() || state.workers.len() > state.settings.max_in_flight {
            state.workers.remove(&me);
            // It may have been woken for a job; then that is for another one.
            if state.can_run() && !state.queue.is_empty() && state.idle_workers > 0 {
                state.idle_workers -= 1;
                self.wake.add_permits(1);
            }
            Work::Retire
        } else if state.queue.is_empty() {
            state.idle_workers += 1;
            Work::Idle
        } else {
            Work::Ready { is_proven: state.breaker.is_proven() }
        }
    }

    pub(super) fn take_job(&self) -> Option<Job> {
        let mut state = self.state.lock();
        if !state.can_run() {
            return None;
        }
        let queued = state.queue.pop()?;
        state.under_way.insert(queued.event.live.seq);
        state.jobs_taken += 1;
        let load = state.load.is_wanted && !state.load.is_under_way && state.queue.len() <= self.max_queued / 2;
        Some(Job { queued, settings: Arc::clone(&state.settings), load })
    }

    /// The worker `me` found nothing for so long that it gives up; `false` if it has just been woken.
    pub(super) fn retire(&self, me: Id) -> bool {
        let mut state = self.state.lock();
        if state.idle_workers == 0 {
            return false;
        }
        state.idle_workers -= 1;
        state.workers.remove(&me);
        true
    }

    /// Starts up to `count` workers within the cap. They are spawned under the lock, so that none
    /// can end before it is counted.
    pub(super) fn start_workers(&self, count: usize, spawn: impl Fn() -> AbortHandle) {
        let mut state = self.state.lock();
        for _ in 0..count {
            if state.room_for_workers() == 0 {
                break;
            }
            let worker = spawn();
            state.workers.insert(worker.id(), worker);
        }
    }

    /// No attempt starts any more.
    pub(super) fn stop(&self) {
        let mut state = self.state.lock();
        state.mode = Mode::Stopped;
        state.queue.take_all();
    }

    pub(super) fn abort_workers(&self) {
        for worker in self.state.lock().workers.values() {
            worker.abort();
        }
    }

    /// Books an attempt's end in the circuit.
    ///
    /// A failure under `settings` that were changed meanwhile says nothing of the webhook as it is now.
    pub(super) fn book(
        &self,
        settings: &Arc<LaneSettings>,
        outcome: &Outcome,
        error: Option<&str>,
        now: UnixMicros,
    ) -> (Change, Todo) {
        let mut state = self.state.lock();
        let mut was_proven = true;
        let change = match error {
            None => {
                was_proven = state.breaker.is_proven();
                let is_news = state.breaker.health().consecutive_failures > 0;
                let is_due = state.success_flushed_at.is_none_or(|at| (now.0 - at.0).abs() >= SUCCESS_FLUSH_US);
                state.is_health_dirty |= is_news || is_due;
                state.breaker.succeeded(now)
            }
            Some(error) => {
                state.is_health_dirty = true;
                if outcome.end.counts_as_failure() && Arc::ptr_eq(settings, &state.settings) {
                    state.breaker.failed(error, now)
                } else {
                    state.breaker.excused(error, now);
                    Change::None
                }
            }
        };
        let todo = match change {
            // The first success opens the lane to its full width.
            Change::None if !was_proven => {
                let jobs = state.queue.len();
                state.employ(jobs, &self.wake)
            }
            Change::None => Todo::default(),
            Change::Opened => state.evict(),
            Change::Closed => state.resume(&self.wake),
        };
        (change, todo)
    }

    /// A settlement is committed. If it leaves the delivery pending, that is in the store from now on: says
    /// when to wake the lane for it.
    pub(super) fn settled(&self, event: EventSeq, was_under_way: bool, retry_at: Option<UnixMicros>) -> Todo {
        let mut state = self.state.lock();
        if was_under_way {
            state.leave(event);
        }
        let Some(at) = retry_at else { return Todo::default() };
        if state.mode == Mode::Removed {
            return Todo { discard: true, ..Todo::default() };
        }
        let is_earlier = state.stored_due.is_none_or(|due| at < due);
        state.stored_due = earlier(state.stored_due, Some(at));
        Todo { wake_at: is_earlier.then_some(at), ..Todo::default() }
    }

    /// A worker ended in the middle of a job, because it was aborted or has panicked. `None`: that is as it should
    /// be; otherwise the job must be settled, and others take over its work.
    pub(super) fn worker_lost(&self, me: Id) -> Option<Todo> {
        let mut state = self.state.lock();
        state.workers.remove(&me);
        if state.mode == Mode::Stopped {
            return None;
        }
        let jobs = state.queue.len();
        Some(if state.can_run() { state.employ(jobs, &self.wake) } else { Todo::default() })
    }

    /// The health to be stored with the next commit, if it changed.
    pub(super) fn take_health(&self, now: UnixMicros) -> Option<WebhookHealth> {
        let mut state = self.state.lock();
        if !std::mem::take(&mut state.is_health_dirty) {
            return None;
        }
        state.success_flushed_at = Some(now);
        Some(state.breaker.health().clone())
    }

    /// Called again and again while deliveries wait for hands. If none was taken since the last time, those
    /// at work are busy with slow answers, and others are needed: at most `budget`. `None`: no more looking.
    pub(super) fn relieve(&self, budget: usize) -> Option<Todo> {
        let mut state = self.state.lock();
        if state.queue.is_empty() || !state.can_run() || state.room_for_workers() == 0 {
            state.is_crowded = false;
            return None;
        }
        let is_stuck = state.jobs_seen == state.jobs_taken;
        state.jobs_seen = state.jobs_taken;
        let more = if is_stuck { state.queue.len().min(state.workers.len().max(1)) } else { 0 };
        Some(Todo { start_workers: more.min(budget).min(state.room_for_workers()), ..Todo::default() })
    }

    // --- loading from the store ---

    /// What to load now. Otherwise, when to ask again: never, if there is nothing to load or other things come first.
    pub(super) fn begin_load(&self, now: UnixMicros) -> Result<Portion, Option<UnixMicros>> {
        let mut state = self.state.lock();
        if !state.wants_load(self.max_queued, &self.memory, now) {
            let due = state.load_due();
            state.load.is_wanted |= due.is_some_and(|at| at <= now);
            return Err(due.filter(|at| *at > now));
        }
        state.load.is_under_way = true;
        state.load.is_wanted = false;
        state.stored_due = None;
        Ok(Portion {
            max_deliveries: u32::try_from(self.max_queued - state.queue.len()).unwrap_or(u32::MAX),
            max_bytes: self.memory.free_bytes().saturating_sub(state.queue.bytes()) / 2,
            held: state.queue.events().chain(state.under_way.iter().copied()).collect(),
        })
    }

    /// Queues what was loaded.
    pub(super) fn finish_load(&self, loaded: Loaded, now: UnixMicros) -> Todo {
        let mut state = self.state.lock();
        state.load.is_under_way = false;
        state.load.is_wanted |= loaded.is_rest_due;
        state.load.rest_until = loaded.rest_until;
        state.stored_due = earlier(state.stored_due, loaded.next_due);
        let mut known = std::mem::take(&mut state.load.settled_meanwhile);
        known.extend(state.queue.events());
        let before = state.queue.len();
        for queued in loaded.deliveries {
            let seq = queued.event.live.seq;
            if !known.contains(&seq) && !state.under_way.contains(&seq) {
                state.queue.push(queued);
            }
        }
        state.has_overflow = loaded.is_rest_due;
        if !state.can_run() {
            return state.evict();
        }
        let added = state.queue.len() - before;
        let load = state.wants_load(self.max_queued, &self.memory, now);
        Todo { load, wake_at: state.load_due().filter(|_| !load), ..state.employ(added, &self.wake) }
    }

    // --- operating ---

    /// Takes over a changed webhook, unless a newer change came first.
    pub(super) fn apply(&self, record: &WebhookRecord, default_schedule: &Schedule, close_circuit: bool) -> Todo {
        let mut state = self.state.lock();
        if state.settings.version >= record.version || matches!(state.mode, Mode::Removed | Mode::Stopped) {
            return Todo::default();
        }
        state.settings = LaneSettings::new(record, default_schedule);
        state.mode = Mode::of(record);
        if close_circuit {
            state.breaker.close();
            state.is_health_dirty = true;
        }
        if state.can_run() { state.resume(&self.wake) } else { state.evict() }
    }

    pub(super) fn remove(&self) -> Todo {
        let mut state = self.state.lock();
        state.mode = Mode::Removed;
        let mut todo = state.evict();
        todo.discard = true;
        todo
    }

    /// Keeps a delivery from being attempted, until [`Lane::give_back`].
    pub(super) fn take_out(&self, event: EventSeq) -> Whereabouts {
        let mut state = self.state.lock();
        if !state.under_way.insert(event) {
            return Whereabouts::UnderWay;
        }
        Whereabouts::Taken(state.queue.take_out(event))
    }

    /// Lets a delivery be attempted again; `queued` goes back into the queue.
    pub(super) fn give_back(&self, event: EventSeq, queued: Option<Queued>) -> Todo {
        self.give_back_all(vec![(event, queued)])
    }

    /// The same for many.
    pub(super) fn give_back_all(&self, taken: Vec<(EventSeq, Option<Queued>)>) -> Todo {
        let mut state = self.state.lock();
        for (event, queued) in taken {
            state.leave(event);
            match queued {
                Some(queued) => state.queue.push(queued),
                // A load may have passed it over meanwhile.
                None => state.stored_due = Some(UnixMicros(0)),
            }
        }
        if state.can_run() { state.resume(&self.wake) } else { state.evict() }
    }

    /// (queued, under way, circuit open)
    pub(super) fn gauges(&self) -> (usize, usize, bool) {
        let state = self.state.lock();
        (state.queue.len(), state.under_way.len(), state.breaker.is_open())
    }
}
