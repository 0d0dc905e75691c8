//! The only caller of `SystemTime::now`. Everything else takes a [`Clock`], so that tests decide what time it is.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A moment: microseconds since 1970-01-01T00:00:00Z, leap seconds ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMicros(pub i64);

impl UnixMicros {
    /// Whole seconds since the epoch, rounded down.
    #[must_use]
    pub fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// This moment and `delay` after it; stops at the largest moment.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        let delay_us = i64::try_from(delay.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(delay_us))
    }

    /// How long after `earlier` this moment is; zero if it is before.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        let elapsed_us = self.0.saturating_sub(earlier.0).max(0);
        Duration::from_micros(elapsed_us.unsigned_abs())
    }
}

/// RFC 3339 in UTC with microseconds, as in `2026-11-23T18:00:00.000000Z`.
impl fmt::Display for UnixMicros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(timestamp) => write!(f, "{timestamp:.6}"),
            Err(_) => write!(f, "{}µs", self.0),
        }
    }
}

/// The text is no moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MomentError {
    #[error("is neither RFC 3339 nor unix seconds")]
    Form,
    #[error("is out of range")]
    Range,
}

/// RFC 3339 with an offset, or seconds since 1970, with a fraction if need be.
impl FromStr for UnixMicros {
    type Err = MomentError;
    fn from_str(text: &str) -> Result<Self, MomentError> {
        if let Ok(timestamp) = text.parse::<jiff::Timestamp>() {
            return Ok(Self(timestamp.as_microsecond()));
        }
        let seconds: f64 = text.parse().map_err(|_| MomentError::Form)?;
        jiff::SignedDuration::try_from_secs_f64(seconds)
            .and_then(jiff::Timestamp::from_duration)
            .map(|timestamp| Self(timestamp.as_microsecond()))
            .map_err(|_| MomentError::Range)
    }
}

/// A source of the time.
pub trait Clock: Send + Sync + 'static {
    /// The present moment. It may step backwards when the machine's clock is set.
    fn now(&self) -> UnixMicros;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the machine's clock")]
    fn now(&self) -> UnixMicros {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixMicros(0).after(since_epoch)
    }
}

/// A clock that never goes back: when the other clock is set back, it goes on from its own time.
///
/// This clock decides which deliveries are due, so that a clock that is set back by an hour does not delay retries by
/// an hour. It follows every step forward. After a restart it begins with the other clock's time.
pub struct SteadyClock {
    inner: Arc<dyn Clock>,
    /// The lead over the other clock, in microseconds.
    ahead_us: AtomicI64,
    latest: AtomicI64,
}

/// Smaller steps back are taken for concurrent readings that overtook each other.
const MAX_SLIP_US: i64 = 1_000_000;

impl SteadyClock {
    #[must_use]
    pub fn new(inner: Arc<dyn Clock>) -> Self {
        let latest = AtomicI64::new(inner.now().0);
        Self { inner, ahead_us: AtomicI64::new(0), latest }
    }
}

impl Clock for SteadyClock {
    fn now(&self) -> UnixMicros {
        let ahead_us = self.ahead_us.load(Ordering::Relaxed);
        let now = self.inner.now().0.saturating_add(ahead_us);
        let latest = self.latest.fetch_max(now, Ordering::Relaxed);
        if latest.saturating_sub(now) > MAX_SLIP_US {
            let further = ahead_us.saturating_add(latest - now);
            // The first thread that notices the step wins.
            let _ = self.ahead_us.compare_exchange(ahead_us, further, Ordering::Relaxed, Ordering::Relaxed);
        }
        UnixMicros(now.max(latest))
    }
}

/// A clock that stands still until a test moves it.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock that shows `now`.
    #[must_use]
    pub fn at(now: UnixMicros) -> Self {
        Self(AtomicI64::new(now.0))
    }

    /// Moves the clock to `now`, forward or back.
    pub fn set(&self, now: UnixMicros) {
        self.0.store(now.0, Ordering::SeqCst);
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.set(self.now().after(by));
    }
}

impl Clock for ManualClock {
    fn now(&self) -> UnixMicros {
        UnixMicros(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_clock_goes_on_while_the_other_is_set_back() {
        let wall = Arc::new(ManualClock::at(UnixMicros(10_000_000_000)));
        let steady = SteadyClock::new(Arc::clone(&wall) as Arc<dyn Clock>);
        let began = steady.now();
        assert_eq!(began, wall.now());
        wall.set(UnixMicros(began.0 - 3_600_000_000));
        assert_eq!(steady.now(), began);
        wall.advance(Duration::from_secs(5));
        assert_eq!(steady.now().since(began), Duration::from_secs(5));
        wall.advance(Duration::from_hours(24));
        assert_eq!(steady.now().since(began), Duration::from_secs(86_405));
        // A slip changes nothing for good.
        let before = steady.now();
        wall.set(UnixMicros(wall.now().0 - 10));
        assert_eq!(steady.now(), before);
        wall.advance(Duration::from_micros(30));
        assert_eq!(steady.now().since(before), Duration::from_micros(20));
    }
}
