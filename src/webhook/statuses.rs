//! Statuses in lists as users write them: numbers and texts.

use std::fmt;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::delivery::statuses::{STATUSES, StatusSpan};

/// Documents the items of lists of statuses.
pub(crate) struct StatusItem;

impl PartialSchema for StatusItem {
    fn schema() -> RefOr<Schema> {
        let one = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(*STATUSES.start()))
            .maximum(Some(*STATUSES.end()));
        let many =
            ObjectBuilder::new().schema_type(Type::String).pattern(Some("^([1-9]xx|[1-9][0-9]{2}(-[1-9][0-9]{2})?)$"));
        OneOfBuilder::new()
            .item(one)
            .item(many)
            .description(Some(
                "A status, a class of them as `4xx`, or a range as `500-503`. 410 is in no class and no range.",
            ))
            .into()
    }
}

impl ToSchema for StatusItem {}

impl Serialize for StatusSpan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.single() {
            Some(status) => serializer.serialize_u16(status),
            None => serializer.collect_str(self),
        }
    }
}

/// A number, or a text.
impl<'de> Deserialize<'de> for StatusSpan {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Item;
        impl Visitor<'_> for Item {
            type Value = StatusSpan;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a status: a number from 100 to 999, a class as \"4xx\", or a range as \"500-503\"")
            }
            fn visit_u64<E: Error>(self, number: u64) -> Result<StatusSpan, E> {
                let status = u16::try_from(number).ok().and_then(|status| StatusSpan::one(status).ok());
                status.ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self))
            }
            fn visit_i64<E: Error>(self, number: i64) -> Result<StatusSpan, E> {
                let status = u16::try_from(number).ok().and_then(|status| StatusSpan::one(status).ok());
                status.ok_or_else(|| E::invalid_value(Unexpected::Signed(number), &self))
            }
            /// Many clients write whole numbers so.
            fn visit_f64<E: Error>(self, number: f64) -> Result<StatusSpan, E> {
                let status = number.to_string().parse().ok().and_then(|status| StatusSpan::one(status).ok());
                status.ok_or_else(|| E::invalid_value(Unexpected::Float(number), &self))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<StatusSpan, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_a_number_or_a_text_in_json() {
        let read =
            |json: &str| serde_json::from_str::<StatusSpan>(json).map(|span| serde_json::to_string(&span).unwrap());
        for (json, shown) in [
            ("408", "408"),
            ("408.0", "408"),
            ("\"408\"", "408"),
            ("\"4xx\"", "\"4xx\""),
            ("\"500-503\"", "\"500-503\""),
        ] {
            assert_eq!(read(json).unwrap(), shown, "{json}");
        }
        for json in ["99", "1000", "-408", "408.5", "1e300", "\"4\"", "null", "[408]"] {
            assert!(read(json).unwrap_err().to_string().contains("status"), "{json}");
        }
    }
}
