//! How long things took since the start of the process.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::histogram::{BUCKETS, Histogram, bucket_of};

/// Counts durations, from several threads at once. A count takes no lock.
#[derive(Debug, Default)]
pub(crate) struct DurationCounter {
    buckets: [AtomicU64; BUCKETS],
    sum_us: AtomicU64,
}

/// What was counted until a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Durations {
    pub histogram: Histogram,
    pub sum: Duration,
}

impl DurationCounter {
    pub(crate) fn add(&self, duration: Duration) {
        self.add_us(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }

    /// Counts one of so many microseconds.
    pub(crate) fn add_us(&self, duration_us: u64) {
        self.buckets[bucket_of(duration_us)].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(duration_us, Ordering::Relaxed);
    }

    /// Counts that arrive meanwhile may be in one part of the answer and not yet in the other.
    pub(crate) fn read(&self) -> Durations {
        let counts = self.buckets.each_ref().map(|count| count.load(Ordering::Relaxed));
        let sum = Duration::from_micros(self.sum_us.load(Ordering::Relaxed));
        Durations { histogram: Histogram::from_counts(counts), sum }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_counted_in_the_buckets_of_figures() {
        let counter = DurationCounter::default();
        assert_eq!(counter.read(), Durations::default());
        let mut histogram = Histogram::default();
        for duration_us in [1, 700, 700, 90_000_000] {
            counter.add_us(duration_us);
            histogram.add_us(duration_us);
        }
        counter.add(Duration::from_millis(3));
        histogram.add(Duration::from_millis(3));
        assert_eq!(counter.read(), Durations { histogram, sum: Duration::from_micros(90_004_401) });
    }
}
