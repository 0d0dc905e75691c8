//! Whole numbers as JSON Schema has them: `286.0` is one, and many clients write it so.

use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

/// A whole number from 0, also one that is written with a fraction of nothing.
struct Whole<T>(T);

impl<'de, T: TryFrom<u64>> Deserialize<'de> for Whole<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number<T>(PhantomData<T>);
        impl<T: TryFrom<u64>> Visitor<'_> for Number<T> {
            type Value = T;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(type_name::<T>())
            }
            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<T, E> {
                T::try_from(number).map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
            }
            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<T, E> {
                let whole = u64::try_from(number).ok().and_then(|whole| T::try_from(whole).ok());
                whole.ok_or_else(|| E::invalid_value(Unexpected::Signed(number), &self))
            }
            fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<T, E> {
                // As text, since its digits are then exact.
                let whole =
                    (number.fract() == 0.0).then(|| format!("{:.0}", number.abs()).parse::<u64>().ok()).flatten();
                let whole = whole.filter(|whole| *whole == 0 || number > 0.0).and_then(|whole| T::try_from(whole).ok());
                whole.ok_or_else(|| E::invalid_value(Unexpected::Float(number), &self))
            }
        }
        deserializer.deserialize_u64(Number(PhantomData)).map(Self)
    }
}

/// A field that is a whole number.
pub(crate) fn whole<'de, D: Deserializer<'de>, T: TryFrom<u64>>(deserializer: D) -> Result<T, D::Error> {
    Whole::deserialize(deserializer).map(|Whole(number)| number)
}

/// The same where `null` is like not given.
pub(crate) fn optional<'de, D: Deserializer<'de>, T: TryFrom<u64>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Ok(Option::<Whole<T>>::deserialize(deserializer)?.map(|Whole(number)| number))
}

/// The same where `null` is a value. Called where the field is given.
#[expect(clippy::option_option, reason = "as the fields have it")]
pub(crate) fn given<'de, D: Deserializer<'de>, T: TryFrom<u64>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    optional(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_number_may_be_written_with_a_fraction_of_nothing() {
        let read = |json: &str| serde_json::from_str::<Whole<u16>>(json).map(|Whole(number)| number);
        for (json, number) in
            [("0", 0), ("286", 286), ("286.0", 286), ("2.86e2", 286), ("-0.0", 0), ("65535.0", 65_535)]
        {
            assert_eq!(read(json).unwrap(), number, "{json}");
        }
        for json in ["0.5", "-1", "-1.0", "65536", "65536.0", "1e300", "\"286\"", "null", "true"] {
            let error = read(json).unwrap_err().to_string();
            assert!(error.contains("expected u16"), "{json}: {error}");
        }
    }
}
