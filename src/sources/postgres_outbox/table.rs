//! The name of a table.

use std::fmt;

use serde::Deserialize;

/// The longest name of PostgreSQL, in bytes (`NAMEDATALEN` − 1).
const MAX_NAME_BYTES: usize = 63;

/// A table with its schema. Its text is an SQL identifier.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Table {
    schema: String,
    name: String,
}

/// The text names no table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no name of a table: letters, digits and `_`, as in `postrider.outbox`")]
pub struct TableError(String);

impl Default for Table {
    fn default() -> Self {
        Self { schema: "postrider".to_owned(), name: "outbox".to_owned() }
    }
}

impl Table {
    pub fn parse(text: &str) -> Result<Self, TableError> {
        let is_name = |name: &str| {
            let is_letter = |c: char| c.is_ascii_alphanumeric() || c == '_';
            !name.is_empty() && name.len() <= MAX_NAME_BYTES && name.chars().all(is_letter)
        };
        let (schema, name) = text.split_once('.').unwrap_or(("public", text));
        if !is_name(schema) || !is_name(name) {
            return Err(TableError(text.to_owned()));
        }
        Ok(Self { schema: schema.to_owned(), name: name.to_owned() })
    }

    /// The schema, as an SQL identifier.
    #[must_use]
    pub fn schema(&self) -> String {
        format!("\"{}\"", self.schema)
    }

    /// The channel of its notifications.
    #[must_use]
    pub fn channel(&self) -> String {
        // PostgreSQL cuts longer names of channels nowhere: it refuses them.
        let channel = format!("{}.{}", self.schema, self.name);
        channel.chars().take(MAX_NAME_BYTES).collect()
    }
}

impl TryFrom<String> for Table {
    type Error = TableError;
    fn try_from(text: String) -> Result<Self, TableError> {
        Self::parse(&text)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\".\"{}\"", self.schema, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_so_that_they_can_stand_in_statements() {
        assert_eq!(Table::default().to_string(), "\"postrider\".\"outbox\"");
        assert_eq!(Table::parse("events_2").unwrap().to_string(), "\"public\".\"events_2\"");
        for text in ["", ".", "a.", ".a", "a.b.c", "a\"b", "a b", "ä", "a;b", &"a".repeat(64)] {
            assert!(Table::parse(text).is_err(), "{text}");
        }
        let long = Table::parse(&format!("{}.{}", "a".repeat(63), "b".repeat(63))).unwrap();
        assert_eq!(long.channel().len(), 63);
    }
}
