//! The lane of one webhook: its queue in memory, what is under way, and its circuit.
//!
//! A lane is state behind a short lock and does nothing by itself: each method says what the
//! caller must do next ([`Todo`]). Workers, loads and timers are the dispatcher's.

mod later;
mod leaving;
mod loading;
mod queue;
mod state;
mod trial;

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, Id};
use tokio::time::Instant;

pub(super) use self::loading::Loaded;
pub(super) use self::queue::Queued;
pub(crate) use self::state::LaneSettings;
pub(super) use self::state::Todo;
use self::state::{Mode, Readiness, State, earlier};
pub(super) use self::trial::Turn;
use super::DispatcherSettings;
use super::breaker::{Change, Standing};
use super::memory::{HeldEvent, Memory};
use crate::clock::UnixMicros;
use crate::delivery::Outcome;
use crate::delivery::retry::Schedule;
use crate::store::{Disposition, EventSeq, Term};
use crate::webhook::{WebhookHealth, WebhookRecord, WebhookSeq};

/// A success that changes nothing but its time is stored at most this often.
const SUCCESS_FLUSH_US: i64 = 1_000_000;

/// Why an event was not delivered to a webhook that was switched off when it was accepted.
pub(crate) const WEBHOOK_DISABLED: &str = "webhook disabled";
/// Why the pending deliveries of a deleted webhook ended.
pub(crate) const WEBHOOK_DELETED: &str = "webhook deleted";

pub(crate) struct Lane {
    pub(crate) seq: WebhookSeq,
    /// The ownership that it lives by; `None`: this node owns every shard for ever.
    pub(super) term: Option<Term>,
    /// A permit wakes an idle worker. Permits and [`State::idle_workers`] together are the workers that wait.
    pub(super) wake: Semaphore,
    max_queued: usize,
    memory: Memory,
    state: Mutex<State>,
}

/// What was taken from the queue, to be attempted in one request.
pub(super) struct Job {
    pub(super) queued: Queued,
    /// The others of a batch.
    pub(super) more: Vec<Queued>,
    pub(super) settings: Arc<LaneSettings>,
    /// The queue has room again for what waits in the store, or another worker is to wait for its next turn.
    pub(super) todo: Todo,
}

/// What an attempt's end means for the webhook.
pub(super) struct Booked {
    pub(super) change: Change,
    /// It is off from now on, which is to be made known to the store.
    pub(super) off: Option<Off>,
    pub(super) todo: Todo,
}

/// Why a webhook is turned off without its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Off {
    /// The receiver answered 410.
    Gone,
    /// It answered `webhook-delivery: disable`.
    Asked,
    /// The circuit has been open for so many days.
    NoSuccess { days: u32 },
}

impl Off {
    pub(crate) fn is_gone(self) -> bool {
        self == Self::Gone
    }
}

/// What a worker finds.
pub(super) enum Work {
    /// There is a delivery, and this is what the last attempt says.
    Ready { standing: Standing },
    /// Nothing to do: wait for [`Lane::wake`], but not beyond this moment.
    Idle { until: Option<Instant> },
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
        settings: &DispatcherSettings,
        memory: Memory,
        term: Option<Term>,
    ) -> Self {
        Self {
            seq: record.seq,
            term,
            wake: Semaphore::new(0),
            max_queued: settings.max_lane_deliveries,
            memory,
            state: Mutex::new(State::new(record, &settings.retry_schedule, settings.circuit)),
        }
    }

    // --- accepting ---

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

    /// Queues a delivery whose place was reserved, after its event was committed.
    pub(super) fn admit(&self, event: Arc<HeldEvent>) -> Todo {
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
    pub(super) fn note_stored(&self, at: UnixMicros) -> Todo {
        let mut state = self.state.lock();
        state.stored_due = earlier(state.stored_due, Some(at));
        state.load.is_wanted = true;
        if state.mode == Mode::Removed {
            return Todo { discard: true, ..Todo::default() };
        }
        // Not only when it is due: the clock may have been set back or the circuit be open, and then an alarm is needed.
        Todo { load: state.mode == Mode::Running, ..Todo::default() }
    }

    // --- working ---

    /// What the worker `me` should do; one that is told to retire is no longer counted.
    pub(super) fn find_work(&self, me: Id) -> Work {
        let mut state = self.state.lock();
        state.pacer.take_if(|pacer| *pacer == me);
        if !state.can_run() || state.has_workers_to_spare() {
            state.workers.remove(&me);
            // It may have been woken for a job; then that is for another one.
            if state.can_run() && !state.queue.is_empty() && state.idle_workers > 0 {
                state.idle_workers -= 1;
                self.wake.add_permits(1);
            }
            return Work::Retire;
        }
        let until = match state.readiness() {
            Readiness::Now if !state.queue.is_empty() => {
                return Work::Ready { standing: state.breaker.standing() };
            }
            Readiness::At(at) if state.pacer.is_none() => {
                state.pacer = Some(me);
                Some(at)
            }
            Readiness::Now | Readiness::At(_) | Readiness::AfterOthers => None,
        };
        state.idle_workers += 1;
        Work::Idle { until }
    }

    pub(super) fn take_job(&self) -> Option<Job> {
        let mut state = self.state.lock();
        let state = &mut *state;
        if !state.can_run() || state.readiness() != Readiness::Now {
            return None;
        }
        let queued = state.queue.pop()?;
        let mut more = Vec::new();
        if let Some(batch) = state.settings.policy.batch {
            let mut bytes = queued.event.live.event.body().len();
            while more.len() + 1 < batch.max_events {
                let Some(next) = state.queue.first() else { break };
                bytes += next.event.live.event.body().len();
                if bytes > batch.max_bytes || state.is_early(next) {
                    break;
                }
                more.extend(state.queue.pop());
            }
            state.under_way.extend(more.iter().map(Queued::seq));
        }
        state.under_way.insert(queued.seq());
        state.jobs_taken += 1;
        let load = state.load.is_wanted && !state.load.is_under_way && state.queue.len() <= self.max_queued / 2;
        let mut todo = Todo { load, ..Todo::default() };
        if let Some(limiter) = &mut state.limiter {
            limiter.take(Instant::now());
            if !state.queue.is_empty() {
                todo = todo.and(&state.employ(1, &self.wake));
            }
        }
        Some(Job { queued, more, settings: Arc::clone(&state.settings), todo })
    }

    /// The moment came for which the worker `me` was idle; `false` if it has just been woken.
    pub(super) fn stop_waiting(&self) -> bool {
        let mut state = self.state.lock();
        if state.idle_workers == 0 {
            return false;
        }
        state.idle_workers -= 1;
        true
    }

    /// The worker `me` found nothing for so long that it gives up; `false` if it has just been woken.
    pub(super) fn retire(&self, me: Id) -> bool {
        let mut state = self.state.lock();
        if state.idle_workers == 0 {
            return false;
        }
        state.idle_workers -= 1;
        state.pacer.take_if(|pacer| *pacer == me);
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
    ) -> Booked {
        let mut state = self.state.lock();
        let is_current = Arc::ptr_eq(settings, &state.settings);
        let width = state.breaker.width(state.max_workers());
        let change = match error {
            None => {
                let is_news = state.breaker.health().consecutive_failures > 0;
                let is_due = state.success_flushed_at.is_none_or(|at| (now.0 - at.0).abs() >= SUCCESS_FLUSH_US);
                state.is_health_dirty |= is_news || is_due;
                state.breaker.succeeded(outcome.duration, now)
            }
            Some(error) => {
                state.is_health_dirty = true;
                if outcome.end.counts_as_failure() && is_current {
                    state.breaker.failed(error, now)
                } else {
                    state.breaker.excused(error, now);
                    Change::None
                }
            }
        };
        let is_running = state.mode == Mode::Running;
        let off = state.reason_to_turn_off(outcome, change, now).filter(|_| is_current && is_running);
        if off.is_some() {
            // From this moment on, not only when the store knows.
            state.mode = Mode::Off;
        }
        let grew = state.breaker.width(state.max_workers()) > width;
        let todo = if !state.can_run() || matches!(change, Change::Recovered { was_open: true }) {
            state.resume_or_evict(&self.wake, now)
        } else if grew {
            let jobs = state.queue.len();
            state.employ(jobs, &self.wake)
        } else {
            Todo::default()
        };
        Booked { change, off, todo }
    }

    /// What was taken was not attempted after all: if it was to be a probe, another will be.
    pub(super) fn not_attempted(&self, now: UnixMicros) -> Todo {
        let mut state = self.state.lock();
        if !state.breaker.is_open() {
            return Todo::default();
        }
        state.breaker.cancel_probe();
        state.resume_or_evict(&self.wake, now)
    }

    /// A settlement is committed. If it leaves the delivery pending, that is in the store from now on: says
    /// when to wake the lane for it.
    pub(super) fn settled(&self, event: EventSeq, was_under_way: bool, retry_at: Option<UnixMicros>) -> Todo {
        let mut state = self.state.lock();
        if was_under_way {
            state.leave(event);
        }
        let next = if state.is_ordered() && was_under_way && state.can_run() {
            if let Some(at) = retry_at.filter(|_| state.awaited.is_none_or(|(awaited, _)| event < awaited)) {
                state.awaited = Some((event, at));
            }
            let jobs = state.queue.len();
            Todo { load: state.is_blocked(), ..state.employ(jobs, &self.wake) }
        } else {
            Todo::default()
        };
        let Some(at) = retry_at else { return next };
        if state.mode == Mode::Removed {
            return Todo { discard: true, ..Todo::default() };
        }
        // What an ordered lane waits for needs an alarm though other things have been due for long.
        let is_awaited = state.awaited.is_some_and(|(awaited, _)| awaited == event);
        let is_earlier = is_awaited || state.stored_due.is_none_or(|due| at < due);
        state.stored_due = earlier(state.stored_due, Some(at));
        Todo { wake_at: is_earlier.then_some(at), ..Todo::default() }.and(&next)
    }

    /// A worker ended in the middle of a job, because it was aborted or has panicked. `None`: that is as it should
    /// be; otherwise the job must be settled, and others take over its work.
    pub(super) fn worker_lost(&self, me: Id, now: UnixMicros) -> Option<Todo> {
        let mut state = self.state.lock();
        state.workers.remove(&me);
        state.pacer.take_if(|pacer| *pacer == me);
        if matches!(state.mode, Mode::Left | Mode::Stopped) {
            return None;
        }
        if state.breaker.is_open() {
            state.breaker.cancel_probe();
        }
        Some(state.resume_or_evict(&self.wake, now))
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
        // A lane that waits for its own limits is not stuck.
        let is_ready = state.readiness() == Readiness::Now || state.pacer.is_none();
        let is_stuck = is_ready && state.jobs_seen == state.jobs_taken;
        state.jobs_seen = state.jobs_taken;
        let more = if is_stuck { state.queue.len().min(state.workers.len().max(1)) } else { 0 };
        Some(Todo { start_workers: more.min(budget).min(state.room_for_workers()), ..Todo::default() })
    }

    // --- operating ---

    /// Takes over a changed webhook, unless a newer change came first.
    pub(super) fn apply(
        &self,
        record: &WebhookRecord,
        default_schedule: &Schedule,
        close_circuit: bool,
        now: UnixMicros,
    ) -> Todo {
        let mut state = self.state.lock();
        if state.settings.version >= record.version || matches!(state.mode, Mode::Removed | Mode::Left | Mode::Stopped)
        {
            return Todo::default();
        }
        let was_ordered = state.is_ordered();
        state.change_settings(LaneSettings::new(record, default_schedule));
        state.mode = Mode::of(record);
        if close_circuit {
            state.breaker.close();
            state.is_health_dirty = true;
        }
        if state.is_ordered() && !was_ordered {
            // From here on the store has the order.
            let todo = state.evict();
            state.stored_due = Some(UnixMicros(0));
            return Todo { load: state.mode == Mode::Running, ..todo };
        }
        state.resume_or_evict(&self.wake, now)
    }

    /// The version of the webhook that it goes by.
    pub(super) fn version(&self) -> i64 {
        self.state.lock().settings.version
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
    pub(super) fn give_back(&self, event: EventSeq, queued: Option<Queued>, now: UnixMicros) -> Todo {
        self.give_back_all(vec![(event, queued)], now)
    }

    /// The same for many.
    pub(super) fn give_back_all(&self, taken: Vec<(EventSeq, Option<Queued>)>, now: UnixMicros) -> Todo {
        let mut state = self.state.lock();
        for (event, queued) in taken {
            state.leave(event);
            match queued {
                Some(queued) if state.is_ordered() => state.queue.insert_in_order(queued),
                Some(queued) => state.queue.push(queued),
                // A load may have passed it over meanwhile.
                None => state.ask_store_for(event),
            }
        }
        state.cancel_idle_probe();
        state.resume_or_evict(&self.wake, now)
    }

    pub(super) fn is_ordered(&self) -> bool {
        self.state.lock().is_ordered()
    }

    /// (queued, under way, circuit open)
    pub(super) fn gauges(&self) -> (usize, usize, bool) {
        let state = self.state.lock();
        (state.queue.len(), state.under_way.len(), state.breaker.is_open())
    }
}

#[cfg(test)]
mod tests;
