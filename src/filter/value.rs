//! A leaf of an event, and how its text is compared: as it is, by its number, without regard to case.

use std::cmp::Ordering;

/// The value of a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// A string, without quotes and escapes.
    Text(&'a str),
    /// A number's characters.
    Number(&'a str),
    /// `true`, `false` or `null`.
    Word(&'a str),
}

impl<'a> Value<'a> {
    /// A number, `true`, `false` or `null`, by its characters.
    pub(super) fn bare(text: &'a str) -> Self {
        if is_number(text) { Self::Number(text) } else { Self::Word(text) }
    }
}

/// Whether a bare value is a number.
pub(super) fn is_number(text: &str) -> bool {
    text.starts_with(|c: char| c == '-' || c.is_ascii_digit())
}

/// The place of a number among all doubles, which keep the order of numbers but may put neighbours at one place.
pub(super) type Place = i64;

/// The place of the JSON number `text`. A number beyond all doubles has that of infinity.
pub(super) fn place(text: &str) -> Place {
    // A JSON number is one of Rust too; `+ 0.0` makes the two zeros one.
    let bits = (text.parse::<f64>().unwrap_or_default() + 0.0).to_bits().cast_signed();
    // The bits of negative doubles ascend as they go down.
    bits ^ (bits >> 63).cast_unsigned().wrapping_shr(1).cast_signed()
}

/// Compares two JSON numbers exactly: `300`, `300.0` and `3e2` are equal, 9007199254740993 and 9007199254740992 are not.
pub(super) fn compare(a: &str, b: &str) -> Ordering {
    let (a, b) = (Decimal::of(a), Decimal::of(b));
    a.sign().cmp(&b.sign()).then_with(|| {
        let magnitude = a.magnitude.cmp(&b.magnitude).then_with(|| a.digits().cmp(b.digits()));
        if a.is_negative { magnitude.reverse() } else { magnitude }
    })
}

/// The one spelling of all JSON numbers that are equal to `text`; `None` if it has more than `max_digits` digits.
pub(super) fn normalized(text: &str, max_digits: usize) -> Option<String> {
    let number = Decimal::of(text);
    let mut spelling = String::with_capacity(24);
    for (count, digit) in number.digits().enumerate() {
        if count == max_digits {
            return None;
        }
        if count == 0 && number.is_negative {
            spelling.push('-');
        }
        spelling.push(char::from(digit));
    }
    // The number is 0.digits × 10^magnitude.
    spelling.push('e');
    spelling.push_str(itoa::Buffer::new().format(number.magnitude));
    Some(spelling)
}

/// A JSON number in parts, nothing of it copied: `0.digits × 10^magnitude`, the first digit not 0.
struct Decimal<'a> {
    is_negative: bool,
    magnitude: i64,
    /// What stands before the point and after it, from the first digit that is not 0 to the last.
    whole: &'a [u8],
    fraction: &'a [u8],
}

impl<'a> Decimal<'a> {
    fn of(text: &'a str) -> Self {
        let unsigned = text.strip_prefix('-').unwrap_or(text);
        let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let leading = |digits: &str| digits.bytes().take_while(|digit| *digit == b'0').count();
        let whole = &whole[leading(whole)..];
        let fraction = fraction.trim_end_matches('0');
        let skipped = if whole.is_empty() { leading(fraction) } else { 0 };
        let fraction = &fraction[skipped..];
        let kept = if fraction.is_empty() { whole.trim_end_matches('0') } else { whole };
        if kept.is_empty() && fraction.is_empty() {
            return Self { is_negative: false, magnitude: 0, whole: b"", fraction: b"" };
        }
        let places = |count: usize| i64::try_from(count).unwrap_or(i64::MAX / 4);
        Self {
            is_negative: text.starts_with('-'),
            magnitude: (places(whole.len()) - places(skipped)).saturating_add(exponent_of(exponent)),
            whole: kept.as_bytes(),
            fraction: fraction.as_bytes(),
        }
    }

    fn sign(&self) -> i8 {
        match (self.whole, self.fraction) {
            ([], []) => 0,
            _ if self.is_negative => -1,
            _ => 1,
        }
    }

    fn digits(&self) -> impl Iterator<Item = u8> + use<'a> {
        self.whole.iter().chain(self.fraction).copied()
    }
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
    fn equal_numbers_have_one_spelling() {
        for same in ["300", "300.0", "3.0e2", "3E+2", "3000e-1", "0.003e5", "300.000"] {
            assert_eq!(normalized(same, 9).as_deref(), Some("3e3"), "{same}");
            assert_eq!(compare(same, "300"), Ordering::Equal, "{same}");
        }
        for zero in ["0", "-0", "0.0", "-0e99999999999999999999", "0.000e-5"] {
            assert_eq!(normalized(zero, 9).as_deref(), Some("e0"), "{zero}");
        }
        assert_eq!(normalized("-1.25", 9).as_deref(), Some("-125e1"));
        assert_eq!(normalized("1234567891", 9), None);
        assert_ne!(normalized("9007199254740993", 99), normalized("9007199254740992", 99));
    }

    #[test]
    fn numbers_are_compared_exactly_and_doubles_keep_the_order() {
        let ascending = [
            "-1e400",
            "-6000000000",
            "-5e9",
            "-1.5",
            "-1",
            "-0.0000001",
            "0",
            "1e-400",
            "0.0000001",
            "0.1",
            "0.1000000000000000000001",
            "1",
            "100",
            "4999999999",
            "5000000000.000001",
            "1e10",
            "9007199254740992",
            "9007199254740993",
            "9007199254740994",
            "1e400",
        ];
        for (index, low) in ascending.iter().enumerate() {
            assert_eq!(compare(low, low), Ordering::Equal);
            for high in &ascending[index + 1..] {
                assert_eq!(compare(low, high), Ordering::Less, "{low} {high}");
                assert_eq!(compare(high, low), Ordering::Greater, "{high} {low}");
                assert!(place(low) <= place(high), "{low} {high}");
            }
        }
        assert_eq!(place("-0.0"), place("0"));
    }

    #[test]
    fn no_number_is_too_long_to_be_looked_at() {
        let nines = "9".repeat(1 << 20);
        assert_eq!(compare(&nines, "1"), Ordering::Greater);
        assert_eq!(compare(&format!("0.{}1", "0".repeat(1 << 20)), "0"), Ordering::Greater);
        assert_eq!(compare(&format!("1e{nines}"), &format!("2e{nines}")), Ordering::Less);
        assert_eq!(compare(&format!("1e-{nines}"), "1e-400"), Ordering::Less);
        assert_eq!(compare(&format!("0.{}7e{}", "0".repeat(1_000), 1_001), "7"), Ordering::Equal);
        assert_eq!(place(&nines), place("1e400"));
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
        fn whole_numbers_and_fractions_compare_as_integers_do(a in any::<i64>(), b in any::<i64>(), shift in 0..30_u32) {
            let spelled = |number: i64| format!("{number}e-{shift}");
            prop_assert_eq!(compare(&spelled(a), &spelled(b)), a.cmp(&b));
            prop_assert_eq!(normalized(&spelled(a), 99) == normalized(&spelled(b), 99), a == b);
            prop_assert!((place(&spelled(a)) <= place(&spelled(b))) || a > b);
        }

        #[test]
        fn doubles_compare_as_their_texts_do(a in any::<f64>(), b in any::<f64>()) {
            if a.is_finite() && b.is_finite() {
                let (a, b) = (if a == 0.0 { 0.0 } else { a }, if b == 0.0 { 0.0 } else { b });
                prop_assert_eq!(compare(&format!("{a:e}"), &format!("{b:e}")), a.total_cmp(&b));
                prop_assert_eq!(place(&format!("{a:e}")).cmp(&place(&format!("{b:e}"))), a.total_cmp(&b));
            }
        }
    }
}
