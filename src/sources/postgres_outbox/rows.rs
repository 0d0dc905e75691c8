//! The rows of an outbox, as messages.

use bytes::Bytes;
use tokio_postgres::Row;

use super::{LENGTH, TOPIC, TYPE};
use crate::sources::{Message, id_by_place};

/// Rows that are read together, in their order.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) messages: Vec<Message>,
    /// The key of each.
    pub(super) numbers: Vec<i64>,
}

impl Rows {
    /// Of the columns `seq`, `id`, `topic`, `type`, `payload`, `length`.
    pub(super) fn of(rows: &[Row], source: &str) -> Result<Self, tokio_postgres::Error> {
        let mut all = Self::default();
        for row in rows {
            let number: i64 = row.try_get(0)?;
            let (id, topic, kind): (Option<String>, Option<String>, Option<String>) =
                (row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
            let (payload, length): (Option<String>, i64) = (row.try_get(4)?, row.try_get(5)?);
            let named = |name: &str, value: Option<String>| value.map(|value| (name.to_owned(), value));
            let length = (LENGTH, Some(length.to_string()));
            let attributes =
                [(TOPIC, topic), (TYPE, kind), length].into_iter().filter_map(|(name, value)| named(name, value));
            all.messages.push(Message {
                // A row without an id has its number, so that it is the same event when it is read again.
                origin_id: Some(id.unwrap_or_else(|| id_by_place(source, format_args!("outbox-{number}")))),
                attributes: attributes.collect(),
                body: payload.map_or(Bytes::from_static(b"null"), Bytes::from),
            });
            all.numbers.push(number);
        }
        Ok(all)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }
}
