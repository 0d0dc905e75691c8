//! The moment of an event, read from the forms that publishers write into `ts`.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// The longest format of the filter `date`, in bytes.
const MAX_FORMAT_BYTES: usize = 128;
/// The longest text that is parsed as a moment, in bytes.
const MAX_MOMENT_BYTES: usize = 64;

/// Parses RFC 3339, the same without an offset (as UTC), or seconds since 1970; within the years 0 to 9999.
pub(super) fn parse(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    if text.is_empty() || text.len() > MAX_MOMENT_BYTES {
        return None;
    }
    let parsed = text
        .parse::<Timestamp>()
        .ok()
        .or_else(|| TimeZone::UTC.to_timestamp(text.parse::<DateTime>().ok()?).ok())
        .or_else(|| from_seconds(text))?;
    let year = TimeZone::UTC.to_datetime(parsed).year();
    (0..=9999).contains(&year).then_some(parsed)
}

fn from_seconds(text: &str) -> Option<Timestamp> {
    let seconds: f64 = text.parse().ok()?;
    let since_epoch = jiff::SignedDuration::try_from_secs_f64(seconds).ok()?;
    let rounded = (since_epoch.as_nanos() + 500).div_euclid(1_000);
    Timestamp::from_microsecond(i64::try_from(rounded).ok()?).ok()
}

/// In UTC with `Z`, with up to six digits of a second (the most that RFC 5424 takes).
pub(super) fn rfc3339(at: Timestamp) -> String {
    Timestamp::from_microsecond(at.as_microsecond()).unwrap_or(at).to_string()
}

/// Formats like `strftime`, in UTC.
pub(super) fn formatted(at: Timestamp, format: &str) -> Result<String, String> {
    if format.len() > MAX_FORMAT_BYTES {
        return Err(format!("date: the format is longer than {MAX_FORMAT_BYTES} bytes"));
    }
    jiff::fmt::strtime::format(format, at).map_err(|error| format!("date: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_read_from_what_publishers_write() {
        for (text, expected) in [
            ("2026-04-24T00:00:00+00:00", Some("2026-04-24T00:00:00Z")),
            ("2026-04-24T02:00:00.123456789+02:00", Some("2026-04-24T00:00:00.123456Z")),
            ("2026-04-24 00:00:00", Some("2026-04-24T00:00:00Z")),
            ("1713916800.5", Some("2024-04-24T00:00:00.5Z")),
            ("1713916800.123456", Some("2024-04-24T00:00:00.123456Z")),
            ("-1", Some("1969-12-31T23:59:59Z")),
            ("yesterday", None),
            ("", None),
            ("-009999-01-02T01:59:59Z", None),
            ("1e300", None),
            ("NaN", None),
            ("inf", None),
        ] {
            assert_eq!(parse(text).map(rfc3339).as_deref(), expected, "{text}");
        }
        assert_eq!(parse(&"1".repeat(1 << 20)), None);
    }

    #[test]
    fn a_format_is_bounded_and_a_wrong_one_an_error() {
        let at = parse("2026-04-24T01:02:03Z").unwrap();
        assert_eq!(formatted(at, "%d.%m.%Y %H:%M").unwrap(), "24.04.2026 01:02");
        assert!(formatted(at, "%!").unwrap_err().starts_with("date: "));
        assert!(formatted(at, &"%Y".repeat(100)).unwrap_err().contains("longer than 128 bytes"));
        assert!(formatted(at, &"%255Y".repeat(25)).map_or(0, |text| text.len()) <= 25 * 255);
    }
}
