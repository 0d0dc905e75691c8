//! How our types are kept in columns.

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};

use crate::clock::UnixMicros;
use crate::delivery::DeliveryState;
use crate::delivery::id::EventSeq;
use crate::store::records::codes::{delivery_code, delivery_state};
use crate::webhook::{TenantSeq, WebhookSeq};

macro_rules! integer_column {
    ($($type:ident),*) => {$(
        impl ToSql for $type {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                Ok(self.0.into())
            }
        }
        impl FromSql for $type {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                value.as_i64().map(Self)
            }
        }
    )*};
}

integer_column!(UnixMicros, EventSeq, WebhookSeq, TenantSeq);

impl ToSql for DeliveryState {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(delivery_code(*self).into())
    }
}

impl FromSql for DeliveryState {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let code = value.as_i64()?;
        delivery_state(code).ok_or(FromSqlError::OutOfRange(code))
    }
}
