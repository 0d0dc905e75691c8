//! Rows on their way from one store to the other, in a form that is neither's, and digests that show that they arrived.

use std::collections::BTreeMap;
use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::store::sql::{Row, Value};

impl Value {
    /// The rough size in memory.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Null | Self::Integer(_) => size_of::<Self>(),
            Self::Text(text) => size_of::<Self>() + text.len(),
            Self::Bytes(bytes) => size_of::<Self>() + bytes.len(),
        }
    }

    /// Large bytes are compared by their hashes, so that the database need not send them.
    fn hash(&mut self) {
        if let Self::Bytes(bytes) = self {
            *bytes = Sha256::digest(&*bytes).to_vec();
        }
    }
}

/// Rows that are written together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) rows: Vec<Row>,
    /// The key of the last row. All rows of that key are in this batch or earlier ones.
    pub(super) through: i64,
}

/// The tables that are moved, as both stores have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Table {
    /// Keys of the installation.
    Keys,
    Tenants,
    Counters,
    Webhooks,
    WebhookHealth,
    Tokens,
    Inlets,
    Audit,
    /// Counts of purged lines of the audit log that no line tells of yet.
    AuditPurges,
    IdempotencyKeys,
    ReplayJobs,
    Rejected,
    /// Figures over time.
    Figures,
    /// How far hours and days of them are made.
    FigureMarks,
    Events,
    EventIds,
    /// Deliveries in all states, with their first attempts if these are in the same row.
    Deliveries,
    Attempts,
}

impl Table {
    pub(super) const ALL: [Self; 18] = [
        Self::Keys,
        Self::Tenants,
        Self::Counters,
        Self::Webhooks,
        Self::WebhookHealth,
        Self::Tokens,
        Self::Inlets,
        Self::Audit,
        Self::AuditPurges,
        Self::IdempotencyKeys,
        Self::ReplayJobs,
        Self::Rejected,
        Self::Figures,
        Self::FigureMarks,
        Self::Events,
        Self::EventIds,
        Self::Deliveries,
        Self::Attempts,
    ];
    /// Short tables, at least one of which changes with everything that a server does.
    pub(super) const TELLING: [Self; 9] = [
        Self::Keys,
        Self::Tenants,
        Self::Counters,
        Self::Webhooks,
        Self::WebhookHealth,
        Self::Tokens,
        Self::Inlets,
        Self::ReplayJobs,
        Self::FigureMarks,
    ];

    /// Whether the table is partitioned by event numbers.
    pub(super) fn is_partitioned(self) -> bool {
        matches!(self, Self::Events | Self::Deliveries | Self::Attempts)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Tenants => "tenants",
            Self::Counters => "counters",
            Self::Webhooks => "webhooks",
            Self::WebhookHealth => "webhook health",
            Self::Tokens => "tokens",
            Self::Inlets => "inlets",
            Self::Audit => "audit log",
            Self::AuditPurges => "audit purges",
            Self::IdempotencyKeys => "idempotency keys",
            Self::ReplayJobs => "replay jobs",
            Self::Rejected => "rejected messages",
            Self::Figures => "figures",
            Self::FigureMarks => "figure marks",
            Self::Events => "events",
            Self::EventIds => "event ids",
            Self::Deliveries => "deliveries",
            Self::Attempts => "attempts",
        }
    }

    /// The columns whose bytes may be large.
    fn large_columns(self) -> &'static [usize] {
        match self {
            Self::Events => &[7],
            Self::Attempts => &[7, 8],
            Self::Rejected => &[6],
            Self::Deliveries => &[delivery::FIRST_RESPONSE, delivery::FIRST_EXCHANGE],
            _ => &[],
        }
    }

    /// The row with hashes in place of its large columns.
    pub(super) fn condensed(self, mut row: Row) -> Row {
        for column in self.large_columns() {
            row[*column].hash();
        }
        row
    }
}

/// The columns of a delivery.
pub(super) mod delivery {
    use super::{Row, Value};

    // event, webhook, updated_at, then:
    pub(in crate::store::transfer) const STATE: usize = 3;
    pub(in crate::store::transfer) const ATTEMPTS: usize = 4;
    pub(in crate::store::transfer) const NEXT_AT: usize = 8;
    // The columns of the first attempt, if the row contains it.
    pub(in crate::store::transfer) const FIRST_STARTED_AT: usize = 9;
    pub(in crate::store::transfer) const FIRST_RESPONSE: usize = 13;
    pub(in crate::store::transfer) const FIRST_EXCHANGE: usize = 14;
    /// The code of `pending` in both stores.
    pub(in crate::store::transfer) const PENDING: i64 = 4;

    pub(in crate::store::transfer) fn is_pending(row: &Row) -> bool {
        row[STATE] == Value::Integer(PENDING)
    }

    /// A delivery without a row, which was never attempted.
    pub(in crate::store::transfer) fn in_memory(event: i64, webhook: i64, accepted_at: i64) -> Row {
        let mut row = vec![Value::Null; FIRST_EXCHANGE + 1];
        row[..=ATTEMPTS + 1].clone_from_slice(&[event, webhook, accepted_at, PENDING, 0, 0].map(Value::Integer));
        row[NEXT_AT] = Value::Integer(accepted_at);
        row
    }

    /// The first attempt as a row of [`Table::Attempts`](super::Table::Attempts).
    pub(in crate::store::transfer) fn first_attempt(row: &Row) -> Option<Row> {
        let number = Value::Integer(1);
        let attempt = [row[0].clone(), row[1].clone(), number].into_iter();
        (row[FIRST_STARTED_AT] != Value::Null)
            .then(|| attempt.chain(row[FIRST_STARTED_AT..=FIRST_EXCHANGE].iter().cloned()).collect())
    }
}

/// The number of rows and the sum of their hashes, which does not depend on their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    pub rows: u64,
    sum: [u64; 4],
}

impl Digest {
    fn add(&mut self, row: &[Value]) {
        let mut hasher = Sha256::new();
        // Each value has its kind and its length, so that different rows have different bytes.
        for value in row {
            let (kind, bytes) = match value {
                Value::Null => (0_u8, &[][..]),
                Value::Integer(number) => (1, &number.to_le_bytes()[..]),
                Value::Text(text) => (2, text.as_bytes()),
                Value::Bytes(bytes) => (3, &bytes[..]),
            };
            hasher.update([kind]);
            hasher.update((bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        }
        self.rows += 1;
        for (sum, part) in self.sum.iter_mut().zip(hasher.finalize().chunks_exact(8)) {
            *sum = sum.wrapping_add(part.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)));
        }
    }
}

/// The sum, in hexadecimal digits.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.sum.iter().try_for_each(|part| write!(f, "{part:016x}"))
    }
}

/// The digests of all tables of one store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Digests(BTreeMap<Table, Digest>);

impl Digests {
    /// Adds a [condensed](Table::condensed) row. A first attempt counts as a row of attempts, wherever a store keeps
    /// it.
    pub(super) fn add(&mut self, table: Table, row: &Row) {
        if table == Table::Deliveries {
            self.of(table).add(&row[..delivery::FIRST_STARTED_AT]);
            if let Some(attempt) = delivery::first_attempt(row) {
                self.of(Table::Attempts).add(&attempt);
            }
        } else {
            self.of(table).add(row);
        }
    }

    fn of(&mut self, table: Table) -> &mut Digest {
        self.0.entry(table).or_default()
    }

    pub(super) fn get(&self, table: Table) -> Digest {
        self.0.get(&table).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(rows: &[&[Value]]) -> Digest {
        let mut digest = Digest::default();
        for row in rows {
            digest.add(row);
        }
        digest
    }

    #[test]
    fn a_digest_knows_rows_and_not_their_order() {
        let (a, b) = ([Value::Text("a".to_owned()), Value::Null], [Value::Integer(1), Value::Bytes(vec![0])]);
        assert_eq!(digest(&[&a, &b]), digest(&[&b, &a]));
        assert_ne!(digest(&[&a, &a]), digest(&[&b, &b]), "two that are the same do not cancel each other out");
        assert_eq!(digest(&[&a]).to_string().len(), 64);
    }

    #[test]
    fn no_two_rows_look_the_same() {
        let text = |text: &str| Value::Text(text.to_owned());
        let rows = [
            vec![text("ab"), text("")],
            vec![text("a"), text("b")],
            vec![text("a"), Value::Bytes(b"b".to_vec())],
            vec![Value::Null, Value::Integer(0)],
            vec![Value::Integer(0), Value::Null],
            vec![Value::Null],
            vec![text("")],
        ];
        for (place, row) in rows.iter().enumerate() {
            for other in &rows[place + 1..] {
                assert_ne!(digest(&[row]), digest(&[other]));
            }
        }
    }

    #[test]
    fn an_attempt_counts_the_same_in_the_row_of_its_delivery_and_in_one_of_its_own() {
        let mut ended = delivery::in_memory(7, 3, 100);
        ended[delivery::FIRST_STARTED_AT] = Value::Integer(200);
        ended[delivery::FIRST_RESPONSE] = Value::Bytes(vec![1; 32]);
        let (mut inside, mut apart) = (Digests::default(), Digests::default());
        inside.add(Table::Deliveries, &ended);
        let attempt = delivery::first_attempt(&ended).unwrap();
        apart.add(Table::Deliveries, &delivery::in_memory(7, 3, 100));
        apart.add(Table::Attempts, &attempt);
        assert_eq!(inside, apart);
        assert_eq!(inside.get(Table::Attempts).rows, 1);
    }
}
