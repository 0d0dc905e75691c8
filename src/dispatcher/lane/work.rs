//! What workers do: they find work, take it, and say what became of it.

use std::sync::Arc;

use tokio::task::{AbortHandle, Id};
use tokio::time::Instant;

use super::queue::Queued;
use super::state::{Ended, LaneSettings, Mode, Readiness, Todo};
use super::{Lane, Off};
use crate::clock::UnixMicros;
use crate::dispatcher::breaker::{CircuitChange, Standing};
use crate::store::EventSeq;
use crate::webhook::WebhookHealth;

/// What was taken from the queue, to be attempted in one request.
pub(in crate::dispatcher) struct Job {
    pub(in crate::dispatcher) queued: Queued,
    /// The others of a batch.
    pub(in crate::dispatcher) more: Vec<Queued>,
    pub(in crate::dispatcher) settings: Arc<LaneSettings>,
    /// The queue has room again for what waits in the store, or another worker is to wait for its next turn.
    pub(in crate::dispatcher) todo: Todo,
}

/// What an attempt's end means for the webhook.
pub(in crate::dispatcher) struct Booked {
    pub(in crate::dispatcher) change: CircuitChange,
    /// It is off from now on, which is to be made known to the store.
    pub(in crate::dispatcher) off: Option<Off>,
    pub(in crate::dispatcher) todo: Todo,
}

/// What a worker finds.
pub(in crate::dispatcher) enum Work {
    /// There is a delivery, and this is what the last attempt says.
    Ready { standing: Standing },
    /// Nothing to do: wait for [`Lane::wake`], but not beyond this moment.
    Idle { until: Option<Instant> },
    /// This worker is no longer needed.
    Retire,
}

impl Lane {
    /// What the worker `me` should do; one that is told to retire is no longer counted.
    pub(in crate::dispatcher) fn find_work(&self, me: Id) -> Work {
        let mut state = self.state.lock();
        state.crew.stop_pacing(me);
        let has_queued = !state.backlog.queue.is_empty();
        if !state.can_run() || state.has_workers_to_spare() {
            state.crew.retire(me);
            // It may have been woken for a job; then that is for another one.
            if state.can_run() && has_queued {
                state.crew.wake(1, &self.wake);
            }
            return Work::Retire;
        }
        let until = match state.readiness(Instant::now()) {
            Readiness::Now if has_queued => {
                return Work::Ready { standing: state.breaker.standing() };
            }
            Readiness::At(at) if !state.crew.has_pacer() => Some(at),
            Readiness::Now | Readiness::At(_) | Readiness::AfterOthers => None,
        };
        state.crew.idle(me, until.is_some());
        Work::Idle { until }
    }

    pub(in crate::dispatcher) fn take_job(&self) -> Option<Job> {
        let mut state = self.state.lock();
        let state = &mut *state;
        let now = Instant::now();
        if !state.can_run() || state.readiness(now) != Readiness::Now {
            return None;
        }
        let backlog = &mut state.backlog;
        let is_one_by_one = state.settings.policy.batch.is_none() && !state.settings.policy.ordered;
        let queued = if is_one_by_one { backlog.queue.take_beside(&state.suspects) } else { backlog.queue.pop() }?;
        let mut more = Vec::new();
        if let Some(batch) = state.settings.policy.batch {
            let mut bytes = queued.event.live.event.body().len();
            let most = state.settings.most_together(&queued);
            while more.len() + 1 < most {
                let Some(next) = backlog.queue.first() else { break };
                bytes += next.event.live.event.body().len();
                let goes_along = next.half == queued.half && state.settings.most_together(next) >= most;
                let fits = bytes <= batch.max_bytes && goes_along;
                if !fits || backlog.is_early(next) {
                    break;
                }
                more.extend(backlog.queue.pop());
            }
            backlog.under_way.extend(more.iter().map(Queued::seq));
        }
        backlog.under_way.insert(queued.seq());
        let load = backlog.load.is_wanted && !backlog.load.is_under_way && backlog.queue.len() <= self.max_queued / 2;
        state.crew.note_job();
        let mut todo = Todo { load, ..Todo::default() };
        if let Some(limiter) = &mut state.limiter {
            limiter.take(now);
            if !state.backlog.queue.is_empty() {
                todo = todo.and(&state.employ(1, &self.wake, now));
            }
        }
        if state.rest.has_just_ended(now) {
            // One waited for that, and now there is work for all.
            todo = todo.and(&state.employ_all(&self.wake, now));
        }
        Some(Job { queued, more, settings: Arc::clone(&state.settings), todo })
    }

    /// The moment came for which the worker `me` was idle; `false` if it has just been woken.
    pub(in crate::dispatcher) fn stop_waiting(&self) -> bool {
        self.state.lock().crew.stop_waiting()
    }

    /// The worker `me` found nothing for so long that it gives up; `false` if it has just been woken.
    pub(in crate::dispatcher) fn retire(&self, me: Id) -> bool {
        let mut state = self.state.lock();
        let was_idle = state.crew.stop_waiting();
        if was_idle {
            state.crew.retire(me);
        }
        was_idle
    }

    /// Starts up to `count` workers within the cap. They are spawned under the lock, so that none
    /// can end before it is counted.
    pub(in crate::dispatcher) fn start_workers(&self, count: usize, spawn: impl Fn() -> AbortHandle) {
        let mut state = self.state.lock();
        for _ in 0..count {
            if state.room_for_workers() == 0 {
                break;
            }
            state.crew.add(spawn());
        }
    }

    /// No attempt starts any more.
    pub(in crate::dispatcher) fn stop(&self) {
        let mut state = self.state.lock();
        state.mode = Mode::Stopped;
        state.backlog.queue.take_all();
    }

    pub(in crate::dispatcher) fn abort_workers(&self) {
        self.state.lock().crew.abort_all();
    }

    /// Books an attempt's end in the circuit.
    ///
    /// A failure under `settings` that were changed meanwhile says nothing of the webhook as it is now.
    pub(in crate::dispatcher) fn book(
        &self,
        settings: &Arc<LaneSettings>,
        ended: &Ended<'_>,
        now: UnixMicros,
    ) -> Booked {
        let mut state = self.state.lock();
        let is_current = Arc::ptr_eq(settings, &state.settings);
        let width = state.breaker.width(state.max_workers());
        let change = state.book(ended, is_current, now);
        let is_running = state.mode == Mode::Running;
        let off = state.reason_to_turn_off(ended, change, now).filter(|_| is_current && is_running);
        if off.is_some() {
            // From this moment on, not only when the store knows.
            state.mode = Mode::Off;
        }
        let grew = state.breaker.width(state.max_workers()) > width;
        let todo = if !state.can_run() || matches!(change, CircuitChange::Recovered { was_open: true }) {
            state.resume_or_evict(&self.wake, now, Instant::now())
        } else if grew {
            state.employ_all(&self.wake, Instant::now())
        } else {
            Todo::default()
        };
        Booked { change, off, todo }
    }

    /// A refused batch goes back to where it was, to be sent in two halves.
    pub(in crate::dispatcher) fn halve(&self, mut members: Vec<Queued>, now: UnixMicros) -> Todo {
        let middle = members.len().div_ceil(2);
        for half in members.chunks_mut(middle.max(1)) {
            let first = half.first().map(Queued::seq);
            for queued in half {
                queued.half = first;
            }
        }
        self.put_back(members, now)
    }

    /// What was taken goes back to where it was, in the order in which it was taken.
    pub(in crate::dispatcher) fn put_back(&self, taken: Vec<Queued>, now: UnixMicros) -> Todo {
        let mut state = self.state.lock();
        for queued in &taken {
            state.backlog.under_way.remove(&queued.seq());
        }
        state.backlog.queue.push_front(taken);
        state.resume_or_evict(&self.wake, now, Instant::now())
    }

    /// What was taken was not attempted after all: if it was to be a probe, another will be.
    pub(in crate::dispatcher) fn not_attempted(&self, now: UnixMicros) -> Todo {
        let mut state = self.state.lock();
        if !state.breaker.is_open() {
            return Todo::default();
        }
        state.breaker.cancel_probe();
        state.resume_or_evict(&self.wake, now, Instant::now())
    }

    /// A settlement is committed. If it leaves the delivery pending, that is in the store from now on: says
    /// when to wake the lane for it.
    pub(in crate::dispatcher) fn settled(
        &self,
        event: EventSeq,
        was_under_way: bool,
        retry_at: Option<UnixMicros>,
    ) -> Todo {
        let mut state = self.state.lock();
        if was_under_way {
            state.backlog.ended(event);
        }
        let next = if state.is_ordered() && was_under_way && state.can_run() {
            let is_first = state.backlog.awaited.is_none_or(|(awaited, _)| event < awaited);
            if let Some(at) = retry_at.filter(|_| is_first) {
                state.backlog.awaited = Some((event, at));
            }
            Todo { load: state.backlog.is_blocked(), ..state.employ_all(&self.wake, Instant::now()) }
        } else {
            Todo::default()
        };
        let Some(at) = retry_at else { return next };
        if state.mode == Mode::Removed {
            return Todo { discard: true, ..Todo::default() };
        }
        // What an ordered lane waits for needs an alarm though other things have been due for long.
        let is_awaited = state.backlog.awaited.is_some_and(|(awaited, _)| awaited == event);
        let is_first = state.backlog.note_due(at);
        Todo { wake_at: (is_awaited || is_first).then_some(at), ..Todo::default() }.and(&next)
    }

    /// A worker ended in the middle of a job, because it was aborted or has panicked. `None`: that is as it should
    /// be; otherwise the job must be settled, and others take over its work.
    pub(in crate::dispatcher) fn worker_lost(&self, me: Id, now: UnixMicros) -> Option<Todo> {
        let mut state = self.state.lock();
        state.crew.retire(me);
        if matches!(state.mode, Mode::Moved | Mode::Stopped) {
            return None;
        }
        if state.breaker.is_open() {
            state.breaker.cancel_probe();
        }
        Some(state.resume_or_evict(&self.wake, now, Instant::now()))
    }

    /// The health to be stored with the next commit, if it changed.
    pub(in crate::dispatcher) fn take_health(&self, now: UnixMicros) -> Option<WebhookHealth> {
        let mut state = self.state.lock();
        if !std::mem::take(&mut state.is_health_dirty) {
            return None;
        }
        state.success_flushed_at = Some(now);
        let mut health = state.breaker.health().clone();
        health.probe_at = health.probe_at.max(state.rest.until(now, Instant::now()));
        Some(health)
    }

    /// Called again and again while deliveries wait for hands. If none was taken since the last time, those
    /// at work are busy with slow answers, and others are needed: at most `budget`. `None`: no more looking.
    pub(in crate::dispatcher) fn relieve(&self, budget: usize) -> Option<Todo> {
        let mut state = self.state.lock();
        if state.backlog.queue.is_empty() || !state.can_run() || state.room_for_workers() == 0 {
            state.crew.is_crowded = false;
            return None;
        }
        // A lane that waits for its own limits is not stuck.
        let is_ready = state.readiness(Instant::now()) == Readiness::Now || !state.crew.has_pacer();
        let is_stuck = state.crew.has_taken_none() && is_ready;
        let more = if is_stuck { state.backlog.queue.len().min(state.crew.len().max(1)) } else { 0 };
        Some(Todo { start_workers: more.min(budget).min(state.room_for_workers()), ..Todo::default() })
    }
}
