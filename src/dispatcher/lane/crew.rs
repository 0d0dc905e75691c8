//! The workers of a lane: who is at work, who waits to be woken, and which tests they leave room.
//!
//! A permit of [`Wake`] wakes an idle worker. Permits and `Crew::idle` together are the workers that wait; both change
//! in this file alone: who is woken moves from the one to the other under the lane's lock, and takes the permit.

use std::collections::HashMap;

use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, Id};

/// What idle workers wait for. It stands beside the lane's lock, since they wait without that.
pub(in crate::dispatcher) struct Wake(Semaphore);

impl Wake {
    pub(super) fn new() -> Self {
        Self(Semaphore::new(0))
    }

    /// Returns when the worker that calls it was woken: it is not idle any more. Dropped before, it takes nothing.
    pub(in crate::dispatcher) async fn woken(&self) {
        // It is never closed.
        if let Ok(permit) = self.0.acquire().await {
            permit.forget();
        }
    }
}

/// How many tests a lane knows of.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Trials {
    /// Waiting or under way: workers leave them room.
    pub(super) expected: usize,
    pub(super) under_way: usize,
}

#[derive(Default)]
pub(super) struct Crew {
    workers: HashMap<Id, AbortHandle>,
    /// Workers that wait and have not been woken.
    idle: usize,
    /// The idle worker that waits for the moment when the queue may go on.
    pacer: Option<Id>,
    /// Attempts that users ask for, beside those of workers.
    pub(super) trials: Trials,
    /// Deliveries wait for hands: the dispatcher looks after this lane.
    pub(super) is_crowded: bool,
    /// Jobs taken in all, and how many it were when the dispatcher last looked.
    jobs_taken: u64,
    jobs_seen: u64,
}

impl Crew {
    pub(super) fn len(&self) -> usize {
        self.workers.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    pub(super) fn has_pacer(&self) -> bool {
        self.pacer.is_some()
    }

    /// Attempts that are under way or may begin at any moment, tests among them.
    pub(super) fn busy(&self) -> usize {
        self.workers.len().saturating_sub(self.idle) + self.trials.under_way
    }

    /// Workers and tests, whatever they do.
    pub(super) fn with_trials(&self) -> usize {
        self.workers.len() + self.trials.expected
    }

    pub(super) fn add(&mut self, worker: AbortHandle) {
        self.workers.insert(worker.id(), worker);
    }

    pub(super) fn abort_all(&self) {
        self.workers.values().for_each(AbortHandle::abort);
    }

    /// The worker `me` is no longer counted. It is not idle.
    pub(super) fn retire(&mut self, me: Id) {
        self.stop_pacing(me);
        self.workers.remove(&me);
    }

    pub(super) fn stop_pacing(&mut self, me: Id) {
        self.pacer.take_if(|pacer| *pacer == me);
    }

    /// The worker `me` waits from now on; as the pacer, if it `paces`.
    pub(super) fn idle(&mut self, me: Id, paces: bool) {
        self.idle += 1;
        if paces {
            self.pacer = Some(me);
        }
    }

    /// A worker waits no longer; `false` if it has just been woken, and finds a permit.
    pub(super) fn stop_waiting(&mut self) -> bool {
        let is_idle = self.idle > 0;
        self.idle -= usize::from(is_idle);
        is_idle
    }

    /// Wakes up to `count` idle workers. Returns how many.
    pub(super) fn wake(&mut self, count: usize, wake: &Wake) -> usize {
        let woken = count.min(self.idle);
        self.idle -= woken;
        wake.0.add_permits(woken);
        woken
    }

    pub(super) fn note_job(&mut self) {
        self.jobs_taken += 1;
    }

    /// Whether no job was taken since the last call.
    pub(super) fn has_taken_none(&mut self) -> bool {
        std::mem::replace(&mut self.jobs_seen, self.jobs_taken) == self.jobs_taken
    }
}
