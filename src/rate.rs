//! How often something may happen: attempts for a webhook, events and acts of a tenant, tokens that a peer guesses. Pure.
//!
//! A bucket that fills with time. It is counted in whole numbers, and so exact.

use std::time::Duration;

use tokio::time::Instant;

use crate::fit::fit;

const SECOND_NS: u64 = 1_000_000_000;

/// Allows at most `burst + rate × t` within any time `t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    /// The gain of a bucket in a nanosecond.
    gain: u64,
    /// The cost of one.
    cost: u64,
    /// The capacity of a bucket.
    burst: u32,
}

impl Rate {
    pub(crate) fn per_second(per_s: u32, burst: u32) -> Self {
        Self { gain: u64::from(per_s), cost: SECOND_NS, burst }
    }

    /// As [`Rate::per_second`], for fractional rates, rounded so that no more than the rate gets through.
    pub(crate) fn fraction_per_second(per_s: f64, burst: u32) -> Self {
        let interval = Duration::try_from_secs_f64((1e9 / per_s).ceil() / 1e9);
        debug_assert!(interval.is_ok(), "{per_s} a second is no rate");
        Self::one_in(interval.unwrap_or(Duration::MAX / 4) + Duration::from_nanos(1), burst)
    }

    pub(crate) fn one_in(interval: Duration, burst: u32) -> Self {
        Self { gain: 1, cost: fit(interval.as_nanos(), u64::MAX), burst }
    }

    fn full(&self) -> u64 {
        self.cost.saturating_mul(u64::from(self.burst))
    }

    /// The time to gain `missing`.
    fn time_for(&self, missing: u64) -> Duration {
        Duration::from_nanos(missing.div_ceil(self.gain.max(1)))
    }
}

/// A token bucket, which begins full by default. It measures time by a clock that is never set. Each call may use
/// another rate.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bucket {
    level: u64,
    /// The time of `level`; `None`: nothing was taken yet.
    at: Option<Instant>,
}

impl Bucket {
    pub(crate) fn empty(now: Instant) -> Self {
        Self { level: 0, at: Some(now) }
    }

    fn level(&self, rate: Rate, now: Instant) -> u64 {
        self.at.map_or(rate.full(), |at| {
            let elapsed_ns: u64 = fit(now.saturating_duration_since(at).as_nanos(), u64::MAX);
            self.level.saturating_add(elapsed_ns.saturating_mul(rate.gain)).min(rate.full())
        })
    }

    /// Takes `count`, all or none. The error is the time to wait. More than the burst never becomes available.
    pub(crate) fn take(&mut self, count: u64, rate: Rate, now: Instant) -> Result<(), Duration> {
        self.level = self.level(rate, now);
        self.at = Some(self.at.map_or(now, |at| at.max(now)));
        let needed = count.saturating_mul(rate.cost);
        match self.level.checked_sub(needed) {
            Some(rest) => {
                self.level = rest;
                Ok(())
            }
            None => Err(rate.time_for(needed - self.level)),
        }
    }

    /// The time from which one is available, possibly in the past.
    pub(crate) fn ready_at(&self, rate: Rate, now: Instant) -> Instant {
        let Some(at) = self.at else { return now };
        let ready_at = at.checked_add(rate.time_for(rate.cost.saturating_sub(self.level)));
        debug_assert!(ready_at.is_some(), "a rate is one in a day at least");
        ready_at.unwrap_or(at)
    }

    /// Returns what [`Bucket::take`] took in vain. The next call caps the level at the burst.
    pub(crate) fn refund(&mut self, count: u64, rate: Rate) {
        self.level = self.level.saturating_add(count.saturating_mul(rate.cost));
    }

    /// Whether the bucket is full again.
    pub(crate) fn is_full(&self, rate: Rate, now: Instant) -> bool {
        self.level(rate, now) == rate.full()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// In no window are more let through than the rate and one second's worth, and what waits as long as it was told
        /// is let through.
        #[test]
        fn a_bucket_is_exact(
            rate in 1_u32..2_000,
            calls in proptest::collection::vec((0_u64..1_500_000_000, 1_u64..50), 1..200),
        ) {
            let mut bucket = Bucket::default();
            let per_s = Rate::per_second(rate, rate);
            let mut now = Instant::now();
            let mut taken: Vec<(Instant, u64)> = Vec::new();
            for (pause, events) in calls {
                now += Duration::from_nanos(pause);
                let events = events.min(u64::from(rate));
                if let Err(wait) = bucket.take(events, per_s, now) {
                    prop_assert!(wait > Duration::ZERO);
                    let mut too_early = bucket;
                    let early = now + wait.saturating_sub(Duration::from_nanos(1));
                    prop_assert!(too_early.take(events, per_s, early).is_err(), "told to wait too long");
                    now += wait;
                    prop_assert!(bucket.take(events, per_s, now).is_ok(), "told to wait too short");
                }
                taken.push((now, events));
            }
            for (first, (start, _)) in taken.iter().enumerate() {
                let mut sum = 0_u64;
                for (end, events) in &taken[first..] {
                    sum += events;
                    let window = *end - *start;
                    let allowed = u128::from(rate) * (window + Duration::from_secs(1)).as_nanos();
                    prop_assert!(u128::from(sum) * u128::from(SECOND_NS) <= allowed, "{sum} events in {window:?}");
                }
            }
        }
    }
}
