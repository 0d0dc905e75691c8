//! How many lines of one kind the log may get: what a stranger can cause at will must not fill a disk.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The most lines of one kind in a [`LOG_WINDOW`]. Further lines are only counted, and the next line has the count.
pub const MAX_LOG_LINES: u32 = 20;
/// The time for which [`MAX_LOG_LINES`] counts.
pub const LOG_WINDOW: Duration = Duration::from_mins(1);

/// Counts lines of one kind.
#[derive(Debug, Default)]
pub struct LogRate(Mutex<Period>);

#[derive(Debug, Default)]
struct Period {
    began_at: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl LogRate {
    /// Whether a line may be written at `now`; if so, the number of lines left out since the one before.
    pub fn admit(&self, now: Instant) -> Option<u64> {
        let mut period = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if period.began_at.is_none_or(|began_at| now.saturating_duration_since(began_at) >= LOG_WINDOW) {
            (period.began_at, period.lines) = (Some(now), 0);
        }
        if period.lines >= MAX_LOG_LINES {
            period.left_out += 1;
            return None;
        }
        period.lines += 1;
        Some(std::mem::take(&mut period.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_becomes_a_few_lines_and_a_count() {
        let (rate, began_at) = (LogRate::default(), Instant::now());
        let admitted = (0..1_000).filter(|_| rate.admit(began_at) == Some(0)).count();
        assert_eq!(admitted, MAX_LOG_LINES as usize);
        assert_eq!(rate.admit(began_at + LOG_WINDOW / 2), None);
        assert_eq!(rate.admit(began_at + LOG_WINDOW), Some(1_001 - u64::from(MAX_LOG_LINES)));
        assert_eq!(rate.admit(began_at + LOG_WINDOW), Some(0), "a line is left out once");
    }
}
