//! SQL that both databases understand: a statement, values in, rows out. What operators write goes this way, some calls a
//! minute; what is accepted and delivered does not.
//!
//! A statement names its values `?1`, `?2` and so on. A value that may be null and that a statement compares has its type
//! from what stands before it (`webhook.uuid = ?1 OR ?1 IS NULL`) or from a `CAST`, since PostgreSQL asks for it.

use uuid::Uuid;

use super::failure::{Failure, corrupt};
use super::seal::Sealer;
use super::{Act, EventSeq, StoreError};
use crate::clock::UnixMicros;
use crate::webhook::{TenantSeq, WebhookSeq};

/// A column's value. UUIDs are bytes, booleans are numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Null,
    Integer(i64),
    Text(String),
    Bytes(Vec<u8>),
}

/// The values of one row, in the order of its columns.
pub(super) type Row = Vec<Value>;

/// Reads of one snapshot of the database.
pub(super) trait Select {
    fn query(&mut self, sql: &'static str, values: &[Value]) -> Result<Vec<Row>, Failure>;
    fn sealer(&self) -> &Sealer;

    /// The single row, or none.
    fn query_row(&mut self, sql: &'static str, values: &[Value]) -> Result<Option<Row>, Failure> {
        Ok(self.query(sql, values)?.into_iter().next())
    }

    /// The single value of the single row.
    fn count(&mut self, sql: &'static str, values: &[Value]) -> Result<u64, Failure> {
        let row = self.query_row(sql, values)?.unwrap_or_default();
        Fields::of(row).next::<i64>().map(i64::unsigned_abs)
    }
}

/// A transaction under way. Work refuses before it writes, since other calls may share the transaction.
pub(super) trait Sql: Select {
    /// Returns how many rows it changed.
    fn execute(&mut self, sql: &'static str, values: &[Value]) -> Result<u64, Failure>;
    /// As `query`, and locks these rows of `table` until the transaction ends. SQLite has one writer and needs no lock;
    /// PostgreSQL adds `FOR NO KEY UPDATE`.
    fn lock(&mut self, table: &'static str, sql: &'static str, values: &[Value]) -> Result<Vec<Row>, Failure>;
    /// Lets only one transaction at a time give names to tenants. Reads are not blocked.
    fn lock_tenant_names(&mut self) -> Result<(), Failure>;
    /// The act of the present call; `None`: it is not audited.
    fn act(&self) -> Option<&Act>;
    /// Deliveries of a tenant that have not ended, as this transaction sees them.
    fn pending(&mut self, tenant: TenantSeq) -> Result<u64, Failure>;
    /// The first stored event and the last accepted one. In an empty store the first is greater than the last.
    fn events(&mut self) -> Result<(EventSeq, EventSeq), Failure>;
    /// Called after a webhook is made. The embedded store starts its tenant's counters; PostgreSQL stores the shard.
    fn made_webhook(&mut self, webhook: WebhookSeq, uuid: Uuid, tenant: TenantSeq) -> Result<(), Failure>;
    /// Called after an operator has closed the circuit of a webhook and its row is written. Other nodes must learn of
    /// it.
    fn closed_circuit(&mut self, webhook: WebhookSeq) -> Result<(), Failure>;
}

macro_rules! integer_value {
    ($($type:ty),*) => {$(
        impl From<$type> for Value {
            fn from(number: $type) -> Self {
                Self::Integer(number.into())
            }
        }
    )*};
}

integer_value!(i64, u32, bool);

macro_rules! numbered_value {
    ($($type:ident),*) => {$(
        impl From<$type> for Value {
            fn from($type(number): $type) -> Self {
                Self::Integer(number)
            }
        }
        impl Field for $type {
            fn of(value: Value) -> Option<Self> {
                i64::of(value).map(Self)
            }
        }
    )*};
}

numbered_value!(UnixMicros, EventSeq, WebhookSeq, TenantSeq);

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&String> for Value {
    fn from(text: &String) -> Self {
        Self::Text(text.clone())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(bytes.to_owned())
    }
}

impl From<Uuid> for Value {
    fn from(uuid: Uuid) -> Self {
        Self::Bytes(uuid.as_bytes().to_vec())
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// A type that a column's value is read as. `None`: the value does not fit.
pub(super) trait Field: Sized {
    fn of(value: Value) -> Option<Self>;
}

impl Field for i64 {
    fn of(value: Value) -> Option<Self> {
        match value {
            Value::Integer(number) => Some(number),
            _ => None,
        }
    }
}

impl Field for u32 {
    fn of(value: Value) -> Option<Self> {
        i64::of(value)?.try_into().ok()
    }
}

impl Field for u64 {
    fn of(value: Value) -> Option<Self> {
        i64::of(value)?.try_into().ok()
    }
}

impl Field for bool {
    fn of(value: Value) -> Option<Self> {
        match value {
            Value::Integer(number @ (0 | 1)) => Some(number == 1),
            _ => None,
        }
    }
}

impl Field for String {
    fn of(value: Value) -> Option<Self> {
        match value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl Field for Vec<u8> {
    fn of(value: Value) -> Option<Self> {
        match value {
            Value::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }
}

impl Field for Uuid {
    fn of(value: Value) -> Option<Self> {
        Self::from_slice(&Vec::of(value)?).ok()
    }
}

impl<T: Field> Field for Option<T> {
    fn of(value: Value) -> Option<Self> {
        match value {
            Value::Null => Some(None),
            value => T::of(value).map(Some),
        }
    }
}

/// Reads the values of a row from the first to the last.
pub(super) struct Fields {
    values: std::vec::IntoIter<Value>,
}

impl Fields {
    pub(super) fn of(row: Row) -> Self {
        Self { values: row.into_iter() }
    }

    pub(super) fn next<T: Field>(&mut self) -> Result<T, Failure> {
        let left = self.values.len();
        let field = self.values.next().and_then(T::of);
        field.ok_or_else(|| corrupt(format!("the {left}th column from the end is no {}", std::any::type_name::<T>())))
    }
}

/// The first row that was found, or [`StoreError::NotFound`].
pub(super) fn found(rows: Vec<Row>) -> Result<Row, Failure> {
    rows.into_iter().next().ok_or_else(|| StoreError::NotFound.into())
}
