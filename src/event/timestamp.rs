//! The form that Python's `datetime.isoformat` gives a moment in UTC, which receivers know.

use std::fmt::Write as _;

use jiff::SignedDuration;
use jiff::civil::date;

use crate::clock::UnixMicros;

const MICROS_PER_SECOND: i64 = 1_000_000;

/// `1970-01-01T00:00:01.500000+00:00`, microseconds only when not zero; `None` outside the years 1 to 9999.
pub(super) fn iso(moment: UnixMicros) -> Option<String> {
    let (second, micros) = (moment.seconds(), moment.0.rem_euclid(MICROS_PER_SECOND));
    let epoch = date(1970, 1, 1).at(0, 0, 0, 0);
    let time = epoch.checked_add(SignedDuration::from_secs(second)).ok()?;
    if time.year() < 1 {
        return None;
    }
    let mut text = format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
        time.year(),
        time.month(),
        time.day(),
        time.hour(),
        time.minute(),
        time.second()
    );
    if micros != 0 {
        // Writing to a string cannot fail.
        _ = write!(text, ".{micros:06}");
    }
    text += "+00:00";
    Some(text)
}

/// The moment of a JSON number of epoch seconds, read as in Python: as an IEEE double, whose fraction is rounded half
/// to even to microseconds. `None` far outside the years 1 to 9999.
pub(super) fn from_epoch_seconds(number: &str) -> Option<UnixMicros> {
    // Within a year of the years that can be written. The microseconds of an i64 reach thirty times as far.
    const FURTHEST_S: f64 = 260_000_000_000.0;
    let seconds: f64 = number.parse().ok()?;
    if !(-FURTHEST_S..FURTHEST_S).contains(&seconds) {
        return None;
    }
    let micros = (seconds.fract() * 1e6).round_ties_even();
    #[expect(clippy::cast_possible_truncation, reason = "whole numbers within the range checked above")]
    let (second, micros) = (seconds.trunc() as i64, micros as i64);
    Some(UnixMicros(second * MICROS_PER_SECOND + micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(number: &str) -> Option<String> {
        iso(from_epoch_seconds(number)?)
    }

    /// Each pair is what `CPython` 3.11 answers to `datetime.fromtimestamp(json.loads(number), timezone.utc).isoformat()`.
    #[test]
    fn epoch_seconds_read_as_python_reads_them() {
        for (number, expected) in [
            ("0", "1970-01-01T00:00:00+00:00"),
            ("-0.0", "1970-01-01T00:00:00+00:00"),
            ("1.5", "1970-01-01T00:00:01.500000+00:00"),
            ("-1.5", "1969-12-31T23:59:58.500000+00:00"),
            ("0.0000005", "1970-01-01T00:00:00+00:00"),
            ("0.0000015", "1970-01-01T00:00:00.000002+00:00"),
            ("0.0000025", "1970-01-01T00:00:00.000002+00:00"),
            ("0.9999999", "1970-01-01T00:00:01+00:00"),
            ("-0.0000007", "1969-12-31T23:59:59.999999+00:00"),
            ("1713916800.123456", "2024-04-24T00:00:00.123456+00:00"),
            ("1790000000.000001", "2026-09-21T14:13:20.000001+00:00"),
            ("17139168e2", "2024-04-24T00:00:00+00:00"),
            ("253402300799", "9999-12-31T23:59:59+00:00"),
            ("-62135596800", "0001-01-01T00:00:00+00:00"),
        ] {
            assert_eq!(text(number).as_deref(), Some(expected), "{number}");
        }
    }

    #[test]
    fn years_that_python_cannot_write_are_refused() {
        for number in ["253402300800", "253402300799.9999999", "-62135596801", "-62135596800.5", "1e300", "-1e400"] {
            assert_eq!(text(number), None, "{number}");
        }
    }
}
