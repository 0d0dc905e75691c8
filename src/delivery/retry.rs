//! When to try again: (attempt, outcome, schedule, now) → next. Pure.

use std::time::Duration;

use super::Outcome;
use crate::clock::UnixMicros;

/// The most delays in a schedule.
pub const MAX_SCHEDULE_DELAYS: usize = 64;
/// The longest delay between two attempts; `Retry-After` is clamped to it too.
pub const MAX_DELAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Delays between attempts: n delays make at most n + 1 attempts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule(Vec<Duration>);

/// A receiver's `Retry-After`, not yet clamped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryAfter {
    Delay(Duration),
    At(UnixMicros),
}

/// What follows an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    Delivered,
    RetryAt { at: UnixMicros, error: String },
    Dead { error: String },
}

/// Why delays are no schedule.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ScheduleError {
    #[error("a schedule has at most {MAX_SCHEDULE_DELAYS} delays, this one has {0}")]
    TooManyDelays(usize),
    #[error("delay {index} is {seconds} s; a delay is between 0 and 86,400 s")]
    Delay { index: usize, seconds: f64 },
}

impl Schedule {
    /// The original's: 1, 2, 4 s.
    #[must_use]
    pub fn original() -> Self {
        todo!()
    }
    /// The server's default: 1 s, 2 s, 4 s, 30 s, 2 min, 10 min, 30 min, 1 h, 3 h, 6 h, 12 h, 24 h, 24 h.
    #[must_use]
    pub fn server() -> Self {
        todo!()
    }
    /// A single attempt.
    #[must_use]
    pub fn once() -> Self {
        Self(Vec::new())
    }
    /// Delays in seconds, as the API has them.
    pub fn from_seconds(seconds: &[f64]) -> Result<Self, ScheduleError> {
        let _ = seconds;
        todo!()
    }
    #[must_use]
    pub fn delays(&self) -> &[Duration] {
        &self.0
    }
}

/// Reads a `Retry-After` header's value (seconds or an HTTP date); nonsense is `None`.
#[must_use]
pub fn parse_retry_after(value: &[u8]) -> Option<RetryAfter> {
    let _ = value;
    todo!()
}

/// Decides what follows attempt `attempt` (from 1) that ended with `outcome`. `jitter` multiplies the
/// schedule's delay and is uniform in [0.8, 1.2].
#[must_use]
pub fn next(attempt: u32, outcome: &Outcome, schedule: &Schedule, now: UnixMicros, jitter: f64) -> Next {
    let _ = (attempt, outcome, schedule, now, jitter);
    todo!()
}
