//! How long things took, as counts in exponential buckets: small, added up without loss, good to a factor of two.

use std::time::Duration;

/// The number of buckets.
pub const BUCKETS: usize = 28;
/// The upper bound of the first bucket, in microseconds.
pub const FIRST_BOUND_US: u64 = 500;
/// The upper bound of the last bucket, in microseconds. What took longer counts as this.
pub const LAST_BOUND_US: u64 = 24 * 3_600 * 1_000_000;
/// The first byte of an encoded histogram.
const VERSION: u8 = 1;
/// The longest varint of 64 bits, in bytes.
const MAX_VARINT_BYTES: usize = 10;

/// Counts of durations. Bucket 0 is for up to [`FIRST_BOUND_US`]; the bound of each further bucket is twice the bound before
/// it, but for the last, which goes from 9.3 hours to [`LAST_BOUND_US`] and takes all that is longer. A bound belongs to the
/// bucket that it ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram([u64; BUCKETS]);

/// The bytes are no histogram that this version of the program has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are no histogram")]
pub struct NoHistogram;

impl Histogram {
    /// One of these counts, from the shortest durations to the longest.
    pub(super) fn from_counts(counts: [u64; BUCKETS]) -> Self {
        Self(counts)
    }

    /// Counts one.
    pub fn add(&mut self, duration: Duration) {
        self.add_us(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }

    /// Counts one of so many microseconds.
    pub fn add_us(&mut self, duration_us: u64) {
        let count = &mut self.0[bucket_of(duration_us)];
        *count = count.saturating_add(1);
    }

    /// Adds the counts of another one.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.0.iter_mut().zip(&other.0) {
            *count = count.saturating_add(*more);
        }
    }

    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0 == [0; BUCKETS]
    }

    /// The count of each bucket with its upper bound. The last bucket has all that took longer, too.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> {
        self.0.iter().enumerate().map(|(bucket, count)| (Duration::from_micros(upper_bound_us(bucket)), *count))
    }

    /// The duration that a share `p` of all did not exceed, from 0 to 1; `None`: nothing was counted. Within its bucket it is
    /// interpolated on the scale of the buckets, in the first one evenly. So it is never off by more than a factor of two, but
    /// for the first and the last bucket.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a quantile is an estimate")]
    pub fn quantile(&self, p: f64) -> Option<Duration> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = p.clamp(0.0, 1.0) * count as f64;
        let mut below = 0.0;
        let mut estimate = 0.0;
        for (bucket, &here) in self.0.iter().enumerate().filter(|(_, here)| **here > 0) {
            let share = ((rank - below) / here as f64).clamp(0.0, 1.0);
            let (from, to) = (lower_bound_us(bucket) as f64, upper_bound_us(bucket) as f64);
            estimate = if bucket == 0 { to * share } else { from * (to / from).powf(share) };
            below += here as f64;
            if below >= rank {
                break;
            }
        }
        Some(Duration::from_secs_f64(estimate / 1e6))
    }

    /// A version, then the number of each bucket that has something and its count, as varints (LEB128).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        for (bucket, &count) in (0_u8..).zip(&self.0).filter(|(_, count)| **count > 0) {
            bytes.push(bucket);
            push_varint(&mut bytes, count);
        }
        bytes
    }

    /// Reads what [`Self::encode`] wrote, and nothing else.
    pub fn decode(bytes: &[u8]) -> Result<Self, NoHistogram> {
        let Some((&VERSION, mut rest)) = bytes.split_first() else { return Err(NoHistogram) };
        let mut histogram = Self::default();
        let mut next = 0;
        while let Some((&bucket, after)) = rest.split_first() {
            let bucket = usize::from(bucket);
            let (count, after) = split_varint(after).ok_or(NoHistogram)?;
            if bucket < next || count == 0 {
                return Err(NoHistogram);
            }
            *histogram.0.get_mut(bucket).ok_or(NoHistogram)? = count;
            (next, rest) = (bucket + 1, after);
        }
        Ok(histogram)
    }
}

pub(super) fn bucket_of(duration_us: u64) -> usize {
    // The number of bits of what is beyond the first bound, in such bounds.
    let beyond = duration_us.saturating_sub(1) / FIRST_BOUND_US;
    ((u64::BITS - beyond.leading_zeros()) as usize).min(BUCKETS - 1)
}

fn upper_bound_us(bucket: usize) -> u64 {
    if bucket + 1 < BUCKETS { FIRST_BOUND_US << bucket } else { LAST_BOUND_US }
}

fn lower_bound_us(bucket: usize) -> u64 {
    bucket.checked_sub(1).map_or(0, upper_bound_us)
}

fn push_varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
}

/// A number, in as few bytes as it needs, and what follows it.
fn split_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let length = 1 + bytes.iter().take(MAX_VARINT_BYTES).position(|byte| byte & 0x80 == 0)?;
    let (number, rest) = bytes.split_at(length);
    let is_short = length == 1 || number[length - 1] > 0;
    // The tenth byte has room for one bit.
    let fits = length < MAX_VARINT_BYTES || number[length - 1] <= 1;
    let value = number.iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f));
    (is_short && fits).then_some((value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(durations_us: &[u64]) -> Histogram {
        let mut histogram = Histogram::default();
        for us in durations_us {
            histogram.add_us(*us);
        }
        histogram
    }

    #[test]
    fn each_bound_ends_its_bucket() {
        assert_eq!((bucket_of(0), bucket_of(FIRST_BOUND_US), bucket_of(FIRST_BOUND_US + 1)), (0, 0, 1));
        for bucket in 0..BUCKETS {
            let bound = upper_bound_us(bucket);
            assert_eq!(bucket_of(bound), bucket);
            assert_eq!(bucket_of(bound + 1), (bucket + 1).min(BUCKETS - 1), "after {bound}");
            assert_eq!(lower_bound_us(bucket), if bucket == 0 { 0 } else { upper_bound_us(bucket - 1) });
        }
        assert_eq!(upper_bound_us(BUCKETS - 1), 86_400_000_000, "the last bound is a day");
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    #[expect(clippy::cast_precision_loss, reason = "a ratio is compared with two")]
    fn a_quantile_is_off_by_a_factor_of_two_at_most() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut durations: Vec<u64> = (0..10_000).map(|_| 501 + (random.u64(..) >> 29 >> random.u32(..26))).collect();
        durations.sort_unstable();
        let histogram = of(&durations);
        for (p, place) in [(0.5, 5_000), (0.9, 9_000), (0.99, 9_900), (0.999, 9_990)] {
            let estimate = histogram.quantile(p).unwrap().as_secs_f64() * 1e6;
            let ratio = estimate / durations[place - 1] as f64;
            assert!((0.5..=2.0).contains(&ratio), "{p}: {estimate} for {}", durations[place - 1]);
        }
    }

    #[test]
    fn quantiles_stay_within_their_buckets() {
        let ms = |histogram: &Histogram, p| histogram.quantile(p).map(|quantile| quantile.as_secs_f64() * 1e3);
        assert_eq!(Histogram::default().quantile(0.5), None);
        let halves = of(&[100, 100, 3_000, 3_000]);
        assert_eq!((ms(&halves, 0.25), ms(&halves, 0.5)), (Some(0.25), Some(0.5)), "evenly within the first");
        let at = ms(&halves, 0.75).unwrap();
        assert!((at - 8_f64.sqrt()).abs() < 1e-6, "between 2 and 4 ms: {at}");
        assert_eq!((ms(&halves, 1.0), ms(&halves, 7.0), ms(&halves, -1.0)), (Some(4.0), Some(4.0), Some(0.0)));
        assert_eq!(of(&[u64::MAX]).quantile(1.0), Some(Duration::from_hours(24)));
    }

    #[test]
    fn a_histogram_comes_back_from_its_bytes() {
        let mut full = of(&(0..60).map(|bit| 1 << bit).collect::<Vec<_>>());
        full.0[3] = u64::MAX;
        full.0[4] = 0x7f;
        full.0[5] = 0x80;
        for histogram in [Histogram::default(), of(&[1]), of(&[u64::MAX]), full] {
            let bytes = histogram.encode();
            assert_eq!(Histogram::decode(&bytes), Ok(histogram.clone()));
            for length in 0..bytes.len() {
                let cut = Histogram::decode(&bytes[..length]);
                assert!(cut != Ok(histogram.clone()), "{length} of {bytes:?}");
            }
        }
        assert_eq!(Histogram::default().encode(), [1]);
        assert_eq!(of(&[1_000; 300]).encode(), [1, 1, 0xac, 2]);
    }

    #[test]
    fn bytes_that_are_no_histogram_are_refused() {
        let overlong = [&[1, 0][..], &[0x80; 9], &[2]].concat();
        let endless = [&[1, 0][..], &[0x80; 40], &[1]].concat();
        let wrong: [&[u8]; 11] = [
            &[],
            &[0],
            &[2, 0, 1],
            &[1, 0],
            &[1, 28, 1],
            &[1, 255, 1],
            &[1, 3, 1, 3, 1],
            &[1, 3, 1, 2, 1],
            &[1, 0, 0],
            &overlong,
            &endless,
        ];
        for bytes in wrong {
            assert_eq!(Histogram::decode(bytes), Err(NoHistogram), "{bytes:?}");
        }
        assert_eq!(Histogram::decode(&[1, 0, 0x81, 0]), Err(NoHistogram), "longer than it must be");
        // Whatever is read is what would be written.
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..20_000 {
            let bytes: Vec<u8> =
                (0..random.usize(0..9)).map(|place| if place == 0 { 1 } else { random.u8(0..40) }).collect();
            if let Ok(histogram) = Histogram::decode(&bytes) {
                assert_eq!(histogram.encode(), bytes);
            }
        }
    }

    #[test]
    fn sums_stop_at_the_largest_number() {
        let mut histogram = of(&[1, 2_000]);
        histogram.0[0] = u64::MAX;
        let other = histogram.clone();
        histogram.merge(&other);
        assert_eq!((histogram.0[0], histogram.0[2], histogram.count()), (u64::MAX, 2, u64::MAX));
        histogram.add_us(1);
        assert_eq!(histogram.0[0], u64::MAX);
    }
}
