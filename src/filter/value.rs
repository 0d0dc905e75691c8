//! A leaf of an event, and how its text is compared: as it is, by its number, without regard to case.

/// The largest magnitude that `numeric` and numbers in `anything-but` can have, as in EventBridge.
pub const MAX_NUMBER: i64 = 5_000_000_000;

/// A number in millionths: EventBridge compares six digits after the point.
pub(super) type Micros = i64;

const MICROS_PER_UNIT: i64 = 1_000_000;
const MICROS_DIGITS: i64 = 6;

/// The value of a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// A string, without quotes and escapes.
    Text(&'a str),
    /// A number's characters, and the number if it is within [`MAX_NUMBER`].
    Number(&'a str, Option<Micros>),
    /// `true`, `false` or `null`.
    Word(&'a str),
}

impl<'a> Value<'a> {
    /// A number, `true`, `false` or `null`, by its characters.
    pub(super) fn bare(text: &'a str) -> Self {
        if text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
            Self::Number(text, micros(text))
        } else {
            Self::Word(text)
        }
    }
}

/// The JSON number `text`, cut to six digits after the point; `None` beyond [`MAX_NUMBER`].
///
/// Decimal throughout, since `f64` would make neighbours of these equal or equals different.
pub(super) fn micros(text: &str) -> Option<Micros> {
    const LIMIT: i64 = MAX_NUMBER * MICROS_PER_UNIT;
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = || whole.bytes().chain(fraction.bytes()).map(|byte| i64::from(byte.wrapping_sub(b'0')));
    // Digits of the mantissa that stand before the point, and after the millionths.
    let whole_digits = i64::try_from(whole.len()).ok()?.saturating_add(exponent_of(exponent));
    let kept = whole_digits.saturating_add(MICROS_DIGITS);
    let mut sum = 0_i64;
    let mut count = 0_i64;
    for digit in digits() {
        if count >= kept {
            break;
        }
        sum = sum * 10 + digit;
        if sum > LIMIT {
            return None;
        }
        count += 1;
    }
    while count < kept && sum > 0 {
        sum *= 10;
        if sum > LIMIT {
            return None;
        }
        count += 1;
    }
    Some(if text.starts_with('-') { -sum } else { sum })
}

/// An exponent's digits as a number, at the limit if they are more than that.
fn exponent_of(text: &str) -> i64 {
    const LIMIT: i64 = i64::MAX / 4;
    let digits = text.trim_start_matches(['+', '-']);
    let size = digits
        .bytes()
        .fold(0_i64, |sum, byte| if sum > LIMIT / 16 { LIMIT } else { sum * 10 + i64::from(byte.wrapping_sub(b'0')) });
    if text.starts_with('-') { -size } else { size }
}

/// The one spelling of all that differ from `c` in case alone: upper case, then lower case, where each is one
/// character. So `ß` stays itself, and no text changes its number of characters.
pub(super) fn folded(c: char) -> char {
    if c.is_ascii() {
        return c.to_ascii_lowercase();
    }
    let upper = single(c.to_uppercase()).unwrap_or(c);
    single(upper.to_lowercase()).unwrap_or(upper)
}

fn single(mut chars: impl Iterator<Item = char>) -> Option<char> {
    chars.next().filter(|_| chars.next().is_none())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_compared_to_the_millionth() {
        for same in ["300", "300.0", "3.0e2", "3E+2", "3000e-1", "300.0000009", "0.003e5"] {
            assert_eq!(micros(same), Some(300_000_000), "{same}");
        }
        assert_eq!(micros("-0.000001"), Some(-1));
        assert_eq!(micros("1e-7"), Some(0));
        assert_eq!(micros("-0"), Some(0));
        assert_eq!(micros("0.1"), Some(100_000));
        assert_eq!(micros("5000000000"), Some(5_000_000_000_000_000));
        assert_eq!(micros("-5e9"), Some(-5_000_000_000_000_000));
        assert_eq!(micros("5000000000.000001"), None);
    }

    #[test]
    fn no_number_is_too_long_to_be_looked_at() {
        assert_eq!(micros(&"9".repeat(1 << 20)), None);
        assert_eq!(micros(&format!("0.{}1", "0".repeat(1 << 20))), Some(0));
        assert_eq!(micros(&format!("1e{}", "9".repeat(1 << 20))), None);
        assert_eq!(micros(&format!("1e-{}", "9".repeat(1 << 20))), Some(0));
        assert_eq!(micros("0e99999999999999999999"), Some(0));
        assert_eq!(micros(&format!("0.{}7e{}", "0".repeat(1_000), 1_001)), Some(7_000_000));
    }

    #[test]
    fn case_is_folded_character_by_character() {
        let fold = |text: &str| text.chars().map(folded).collect::<String>();
        assert_eq!(fold("ALICE alice"), "alice alice");
        assert_eq!(fold("ÄÖ Σσς"), fold("äö σσσ"));
        assert_eq!(fold("ß"), "ß");
        assert_eq!(fold("İ"), fold("İ"));
    }

    proptest! {
        #[test]
        fn millionths_of_whole_numbers_and_fractions(whole in -4_999_999_999_i64..5_000_000_000, fraction in 0_i64..1_000_000) {
            let value = whole * MICROS_PER_UNIT + if whole < 0 { -fraction } else { fraction };
            prop_assert_eq!(micros(&format!("{whole}.{fraction:06}")), Some(value));
            prop_assert_eq!(micros(&format!("{value}e-6")), Some(value));
        }
    }
}
