//! Durations and sizes as people write them.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A duration written as a number and a unit: `500ms`, `30s`, `2m`, `1.5h`, `1d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub Duration);

/// An amount of bytes written as a number and a unit: `512KiB`, `64MiB`, `1GB`, `4096`; or `unlimited`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Size {
    Bytes(u64),
    Unlimited,
}

/// A limit: a number, or `unlimited`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    Of(u32),
    Unlimited,
}

/// A retention: a [`Span`], or `forever`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Keep {
    For(Duration),
    Forever,
}

/// A port, as a number or as the text of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawNumber")]
pub struct Port(pub NonZeroU16);

/// A number, or its text, as variables have it.
#[derive(Deserialize)]
#[serde(untagged)]
enum RawNumber {
    Number(u64),
    Text(String),
}

impl TryFrom<RawNumber> for Port {
    type Error = String;

    fn try_from(raw: RawNumber) -> Result<Self, String> {
        match raw {
            RawNumber::Number(number) => number.to_string().parse(),
            RawNumber::Text(text) => text.parse(),
        }
    }
}

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.trim().parse().map(Self).map_err(|_| format!("{text:?} is no port, 1 to 65535"))
    }
}

impl FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "unlimited" => Ok(Self::Unlimited),
            count => count.parse().map(Self::Of).map_err(|_| format!("{text:?} is neither a count nor `unlimited`")),
        }
    }
}

impl Count {
    /// `None`: unlimited.
    #[must_use]
    pub fn max(self) -> Option<u32> {
        match self {
            Self::Of(max) => Some(max),
            Self::Unlimited => None,
        }
    }
}

impl Serialize for Count {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Of(max) => serializer.serialize_u32(*max),
            Self::Unlimited => serializer.serialize_str("unlimited"),
        }
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match RawNumber::deserialize(deserializer)? {
            RawNumber::Number(number) => number.to_string(),
            RawNumber::Text(text) => text,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Milliseconds of each unit, the largest first.
const SPANS_MS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
/// Bytes of each unit; the binary ones first, the largest first.
const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no duration; write a number and a unit, as in 500ms, 30s, 2m, 1h or 1d");
        let (number, unit) = split(text);
        let unit_ms = SPANS_MS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?.1;
        let number: f64 = number.parse().map_err(|_| wrong())?;
        Duration::try_from_secs_f64(number).ok().and_then(|s| scale(s, unit_ms)).map(Self).ok_or_else(wrong)
    }
}

/// `seconds`, with `unit_ms` for each second.
fn scale(seconds: Duration, unit_ms: u64) -> Option<Duration> {
    let nanos = seconds.as_nanos().checked_mul(u128::from(unit_ms))? / 1_000;
    u64::try_from(nanos).ok().map(Duration::from_nanos)
}

impl FromStr for Keep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "forever" {
            return Ok(Self::Forever);
        }
        let Span(span) = text.parse().map_err(|error| format!("{error}, or forever"))?;
        Ok(Self::For(span))
    }
}

impl Keep {
    /// `None`: for ever.
    #[must_use]
    pub fn span(self) -> Option<Duration> {
        match self {
            Self::For(span) => Some(span),
            Self::Forever => None,
        }
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::For(span) => Span(*span).fmt(f),
            Self::Forever => f.write_str("forever"),
        }
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no size; write a whole number and a unit, as in 512KiB, 64MiB or 1GB");
        if text == "unlimited" {
            return Ok(Self::Unlimited);
        }
        let (number, unit) = split(text);
        let unit = if unit.is_empty() { "B" } else { unit };
        let unit_bytes = SIZES.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?.1;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        number.checked_mul(unit_bytes).map(Self::Bytes).ok_or_else(wrong)
    }
}

impl Size {
    /// `None`: unlimited.
    #[must_use]
    pub fn bytes(self) -> Option<u64> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Unlimited => None,
        }
    }
}

/// A number and the unit behind it.
fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

/// Reads a [`Span`], for flags of the command line.
pub fn parse_span(text: &str) -> Result<Duration, String> {
    text.parse::<Span>().map(|span| span.0)
}

/// In the largest unit that needs no fraction.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        match SPANS_MS.iter().find(|(_, unit_ms)| ms >= u128::from(*unit_ms) && ms.is_multiple_of(u128::from(*unit_ms)))
        {
            Some((unit, unit_ms)) => write!(f, "{}{unit}", ms / u128::from(*unit_ms)),
            None => f.write_str("0s"),
        }
    }
}

/// In the largest binary unit that needs no fraction.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Bytes(bytes) = *self else { return f.write_str("unlimited") };
        match SIZES[..4].iter().find(|(_, unit)| bytes >= *unit && bytes % unit == 0) {
            Some((name, unit)) => write!(f, "{}{name}", bytes / unit),
            None => write!(f, "{bytes}B"),
        }
    }
}

macro_rules! as_text {
    ($type:ty) => {
        impl TryFrom<String> for $type {
            type Error = String;
            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }
        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
    };
}
as_text!(Span);
as_text!(Size);
as_text!(Keep);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_a_number_or_the_text_of_one() {
        let port = |json: &str| serde_json::from_str::<Port>(json).map(|port| port.0.get()).ok();
        assert_eq!((port("9200"), port("\"9200\""), port("65535")), (Some(9200), Some(9200), Some(65_535)));
        assert_eq!((port("0"), port("65536"), port("-1"), port("\"http\"")), (None, None, None, None));
        assert_eq!(serde_json::to_string(&Port(NonZeroU16::MIN)).unwrap(), "1");
    }

    #[test]
    fn a_count_is_a_number_or_unlimited() {
        let count = |json: &str| serde_json::from_str::<Count>(json).ok();
        assert_eq!((count("7"), count("\"7\"")), (Some(Count::Of(7)), Some(Count::Of(7))));
        assert_eq!((count("\"unlimited\""), count("\"many\""), count("-1")), (Some(Count::Unlimited), None, None));
        for (count, json) in [(Count::Of(7), "7"), (Count::Unlimited, "\"unlimited\"")] {
            assert_eq!(serde_json::to_string(&count).unwrap(), json);
        }
    }

    #[test]
    fn durations_are_read_and_written_as_people_do() {
        for (text, ms) in
            [("500ms", 500), ("30s", 30_000), ("2m", 120_000), ("1.5s", 1_500), ("1h", 3_600_000), ("0s", 0)]
        {
            assert_eq!(text.parse::<Span>(), Ok(Span(Duration::from_millis(ms))), "{text}");
        }
        for (ms, text) in [(500, "500ms"), (1_500, "1500ms"), (120_000, "2m"), (86_400_000, "1d"), (0, "0s")] {
            assert_eq!(Span(Duration::from_millis(ms)).to_string(), text);
        }
        for text in ["", "30", "s", "-1s", "1 week", "1e3s", "inf", "99999999999999999999d"] {
            assert!(text.parse::<Span>().is_err(), "{text:?} was taken for a duration");
        }
    }

    #[test]
    fn what_is_kept_is_kept_for_a_time_or_for_ever() {
        for (text, keep) in [("30d", Keep::For(Duration::from_hours(720))), ("forever", Keep::Forever)] {
            assert_eq!(text.parse::<Keep>(), Ok(keep));
            assert_eq!(keep.to_string(), text);
        }
        assert_eq!("30".parse::<Keep>().unwrap_err().split(", ").last(), Some("or forever"));
    }

    #[test]
    fn sizes_are_read_and_written_as_people_do() {
        for (text, bytes) in [("64MiB", 64 << 20), ("1GB", 1_000_000_000), ("4096", 4096), ("512 KiB", 512 << 10)] {
            assert_eq!(text.parse::<Size>(), Ok(Size::Bytes(bytes)), "{text}");
        }
        assert_eq!("unlimited".parse::<Size>(), Ok(Size::Unlimited));
        assert_eq!(Size::Bytes(64 << 20).to_string(), "64MiB");
        assert_eq!(Size::Bytes(1_000).to_string(), "1000B");
        for text in ["", "MiB", "1.5GiB", "-1", "64 mib", "99999999TiB"] {
            assert!(text.parse::<Size>().is_err(), "{text:?} was taken for a size");
        }
    }
}
