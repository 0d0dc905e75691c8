//! Numbers with which a template can calculate and which it still prints digit by digit.

/// A JSON number as a template's value.
#[derive(Debug, PartialEq)]
pub(super) enum Number {
    Integer(i128),
    /// A double of exactly this number. `is_spelt_otherwise`: it would print other digits.
    Float {
        value: f64,
        is_spelt_otherwise: bool,
    },
    /// More digits than a double has, or too large for one.
    Beyond,
}

impl Number {
    /// `text` is a number as RFC 8259 has it.
    pub(super) fn of(text: &str) -> Self {
        if let Ok(integer) = text.parse::<i128>()
            && text != "-0"
        {
            return Self::Integer(integer);
        }
        let value: f64 = text.parse().unwrap_or(f64::NAN);
        if !value.is_finite() || Decimal::of(text) != Decimal::of(&format!("{value:e}")) {
            return Self::Beyond;
        }
        Self::Float { value, is_spelt_otherwise: printed(value) != text }
    }
}

/// A double as JSON; NaN and infinities become `null`.
pub(super) fn printed(value: f64) -> String {
    serde_json::Number::from_f64(value).map_or_else(|| "null".to_owned(), |number| number.to_string())
}

/// A decimal number in one spelling: `digits` × 10^`exponent`, without zeros at either end of the digits.
#[derive(PartialEq)]
struct Decimal {
    is_negative: bool,
    digits: String,
    exponent: i64,
}

impl Decimal {
    fn of(text: &str) -> Option<Self> {
        let (is_negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = [whole, fraction].concat();
        let digits = all.trim_end_matches('0');
        let zeros = i64::try_from(all.len() - digits.len()).ok()?;
        let exponent = exponent.parse::<i64>().ok()?.checked_sub(i64::try_from(fraction.len()).ok()?)?;
        let digits = digits.trim_start_matches('0').to_owned();
        let exponent = if digits.is_empty() { 0 } else { exponent.checked_add(zeros)? };
        Some(Self { is_negative, digits, exponent })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn float(value: f64, is_spelt_otherwise: bool) -> Number {
        Number::Float { value, is_spelt_otherwise }
    }

    #[test]
    fn a_number_is_calculated_with_only_if_it_stays_itself() {
        for (text, expected) in [
            ("0", Number::Integer(0)),
            ("-7", Number::Integer(-7)),
            ("170141183460469231731687303715884105727", Number::Integer(i128::MAX)),
            ("170141183460469231731687303715884105728", float(1.701_411_834_604_692_3e38, true)),
            ("340282366920938463463374607431768211457", Number::Beyond),
            ("-0", float(-0.0, true)),
            ("1.5", float(1.5, false)),
            ("1.50", float(1.5, true)),
            ("1e2", float(100.0, true)),
            ("100.0", float(100.0, false)),
            ("0.000", float(0.0, true)),
            ("1E-7", float(1e-7, true)),
            ("0.1000000000000000055511151231257827", Number::Beyond),
            ("3.14159265358979323846", Number::Beyond),
            ("1e400", Number::Beyond),
            ("1e-400", Number::Beyond),
            ("1e99999999999999999999", Number::Beyond),
        ] {
            let found = Number::of(text);
            if text == "170141183460469231731687303715884105728" {
                assert!(matches!(found, Number::Beyond | Number::Float { .. }), "{text}: {found:?}");
            } else {
                assert_eq!(found, expected, "{text}");
            }
        }
    }
}
