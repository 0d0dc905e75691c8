//! The rate limit of one webhook, exact. Pure.

use tokio::time::Instant;

use crate::rate::{Bucket, Rate};
use crate::webhook::RateLimit;

/// Lets `burst + per_s × t` attempts begin within any time `t`, and never one more.
///
/// It begins empty: the attempts before a restart, a move to another node or a change of the limit are unknown, so the
/// burst counts as used.
#[derive(Clone, Debug)]
pub(super) struct Limiter {
    limit: RateLimit,
    rate: Rate,
    bucket: Bucket,
}

impl Limiter {
    pub(super) fn new(limit: RateLimit, now: Instant) -> Self {
        let rate = Rate::fraction_per_second(limit.per_s, limit.burst);
        Self { limit, rate, bucket: Bucket::empty(now) }
    }

    pub(super) fn limit(&self) -> RateLimit {
        self.limit
    }

    /// The time from which the next attempt may begin, possibly in the past.
    pub(super) fn ready_at(&self, now: Instant) -> Instant {
        self.bucket.ready_at(self.rate, now)
    }

    /// Takes the turn of one attempt at `now`; `false`: it may not begin yet.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        self.bucket.take(1, self.rate, now).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use proptest::prelude::*;

    fn limiter(per_s: f64, burst: u32, now: Instant) -> Limiter {
        Limiter::new(RateLimit { per_s, burst }, now)
    }

    #[test]
    fn an_even_limit_spaces_attempts_and_begins_empty() {
        let start = Instant::now();
        let mut limiter = limiter(10.0, 1, start);
        assert!(!limiter.take(start));
        let first = start + Duration::from_millis(101);
        assert!(limiter.take(first) && !limiter.take(first));
        assert!(!limiter.take(first + Duration::from_millis(99)));
        assert!(limiter.take(first + Duration::from_millis(101)));
    }

    #[test]
    fn a_pause_earns_a_burst_and_no_more() {
        let start = Instant::now();
        let mut limiter = limiter(1.0, 5, start);
        let later = start + Duration::from_secs(1_000);
        assert_eq!((0..100).filter(|_| limiter.take(later)).count(), 5);
    }

    #[test]
    fn the_slowest_limit_is_one_a_day_and_has_the_largest_burst() {
        let start = Instant::now();
        for burst in [1, 100_000] {
            let mut limiter = limiter(1.0 / 86_400.0, burst, start);
            assert!(!limiter.take(start + Duration::from_secs(86_399)));
            assert!(limiter.take(start + Duration::from_secs(86_401)));
        }
    }

    #[test]
    fn a_limiter_says_when_the_next_may_come() {
        let start = Instant::now();
        let mut limiter = limiter(10.0, 3, start);
        for _ in 0..10 {
            let ready_at = limiter.ready_at(start);
            assert!(!limiter.clone().take(ready_at - Duration::from_nanos(1)), "told to wait too long");
            assert!(limiter.take(ready_at), "told to wait too short");
        }
        assert!(limiter.ready_at(start) > start + Duration::from_secs(1));
    }

    proptest! {
        /// Over any history, restarts among it: in no window do more begin than the limit says.
        #[test]
        fn no_window_has_more_than_the_limit(
            per_s in 0.1..2_000.0_f64,
            burst in 1..50_u32,
            gaps_us in proptest::collection::vec((0..400_000_u64, 0..30_u8), 1..300),
        ) {
            let mut now = Instant::now();
            let mut limiter = limiter(per_s, burst, now);
            let mut begun = Vec::new();
            for (gap_us, dice) in gaps_us {
                now += Duration::from_micros(gap_us);
                if dice == 0 {
                    limiter = Limiter::new(limiter.limit(), now);
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
