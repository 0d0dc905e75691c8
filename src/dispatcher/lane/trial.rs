//! Tests of a webhook that a user asks for: attempts beside the queue, within the same limits.

use tokio::time::Instant;

use super::Lane;
use super::state::{Todo, Turn};
use crate::dispatcher::breaker::Standing;

impl Lane {
    /// A test waits from now on, until [`Lane::end_trial`]; says what the last attempt was like.
    pub(in crate::dispatcher) fn expect_trial(&self) -> Standing {
        let mut state = self.state.lock();
        state.crew.trials.expected += 1;
        state.breaker.standing()
    }

    /// When the test may begin, as things are.
    pub(in crate::dispatcher) fn trial_turn(&self) -> Turn {
        self.state.lock().trial_turn(Instant::now())
    }

    /// Begins the test, if it may; right before its attempt.
    pub(in crate::dispatcher) fn begin_trial(&self) -> bool {
        let mut state = self.state.lock();
        let now = Instant::now();
        if state.trial_turn(now) != Turn::Now {
            return false;
        }
        if let Some(limiter) = &mut state.limiter {
            limiter.take(now);
        }
        state.crew.trials.under_way += 1;
        true
    }

    /// The test has ended or is given up: the queue has its room again.
    pub(in crate::dispatcher) fn end_trial(&self, was_under_way: bool) -> Todo {
        let mut state = self.state.lock();
        state.crew.trials.expected -= 1;
        state.crew.trials.under_way -= usize::from(was_under_way);
        if !state.can_run() || state.backlog.queue.is_empty() {
            return Todo::default();
        }
        state.employ_all(&self.wake, Instant::now())
    }
}
