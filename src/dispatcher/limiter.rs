//! The rate limit of one webhook, exact: a generic cell rate algorithm (ITU-T I.371, annex A). Pure.

use std::time::Duration;

use tokio::time::Instant;

use crate::webhook::RateLimit;

/// Lets `burst + per_s × t` attempts begin within any time `t`, and never one more.
///
/// It measures time by a clock that is never set. It begins empty: what was let through before a restart, a move to
/// another node or a change of the limit is unknown, and is taken to be all that there was.
#[derive(Clone, Debug)]
pub(super) struct Limiter {
    limit: RateLimit,
    interval: Duration,
    /// How far before its turn an attempt may begin.
    tolerance: Duration,
    /// When the next attempt's turn is, if all were evenly spaced.
    turn: Instant,
}

impl Limiter {
    pub(super) fn new(limit: RateLimit, now: Instant) -> Self {
        // Rounded up, so that rounding lets nothing more through.
        let nanos = (1e9 / limit.per_s).ceil();
        let interval = Duration::try_from_secs_f64(nanos / 1e9).unwrap_or(Duration::MAX / 4);
        let interval = interval + Duration::from_nanos(1);
        let tolerance = interval.saturating_mul(limit.burst.saturating_sub(1));
        let turn = now.checked_add(tolerance.saturating_add(interval)).unwrap_or(now);
        Self { limit, interval, tolerance, turn }
    }

    pub(super) fn limit(&self) -> RateLimit {
        self.limit
    }

    /// When the next attempt may begin; it may have been able to for a while.
    pub(super) fn ready_at(&self) -> Instant {
        self.turn.checked_sub(self.tolerance).unwrap_or(self.turn)
    }

    /// Takes the turn of one attempt that begins at `now`, if it may.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        if now < self.ready_at() {
            return false;
        }
        self.turn = self.turn.max(now) + self.interval;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_even_limit_spaces_attempts_and_begins_empty() {
        let start = Instant::now();
        let mut limiter = Limiter::new(RateLimit { per_s: 10.0, burst: 1 }, start);
        assert!(!limiter.take(start));
        let first = start + Duration::from_millis(101);
        assert!(limiter.take(first) && !limiter.take(first));
        assert!(!limiter.take(first + Duration::from_millis(99)));
        assert!(limiter.take(first + Duration::from_millis(101)));
    }

    #[test]
    fn a_pause_earns_a_burst_and_no_more() {
        let start = Instant::now();
        let mut limiter = Limiter::new(RateLimit { per_s: 1.0, burst: 5 }, start);
        let later = start + Duration::from_secs(1_000);
        assert_eq!((0..100).filter(|_| limiter.take(later)).count(), 5);
    }

    #[test]
    fn the_slowest_limit_is_one_a_day() {
        let start = Instant::now();
        let mut limiter = Limiter::new(RateLimit { per_s: 1.0 / 86_400.0, burst: 1 }, start);
        assert!(!limiter.take(start + Duration::from_secs(86_399)));
        assert!(limiter.take(start + Duration::from_secs(86_401)));
    }

    proptest! {
        /// Over any history, restarts among it: in no window do more begin than the limit says.
        #[test]
        fn no_window_has_more_than_the_limit(
            per_s in 0.1..2_000.0_f64,
            burst in 1..50_u32,
            gaps_us in proptest::collection::vec((0..400_000_u64, 0..30_u8), 1..300),
        ) {
            let limit = RateLimit { per_s, burst };
            let mut now = Instant::now();
            let mut limiter = Limiter::new(limit, now);
            let mut begun = Vec::new();
            for (gap_us, dice) in gaps_us {
                now += Duration::from_micros(gap_us);
                if dice == 0 {
                    limiter = Limiter::new(limit, now);
                }
                while limiter.take(now) {
                    begun.push(now);
                }
            }
            // Of the n-th and the m-th, n - m + 1 - per_s × time between them must not exceed the burst.
            let mut most = f64::NEG_INFINITY;
            for (count, at) in (0_u32..).zip(&begun) {
                let earned = per_s * (*at - begun[0]).as_secs_f64();
                most = most.max(earned - f64::from(count));
                let in_window = f64::from(count) + 1.0 - earned + most;
                prop_assert!(in_window <= f64::from(burst) + 1e-6, "{in_window} in a window, {burst} allowed");
            }
        }
    }
}
