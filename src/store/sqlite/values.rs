//! How our types are kept in columns.

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};

use crate::clock::UnixMicros;
use crate::delivery::DeliveryState;
use crate::delivery::id::EventSeq;
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

/// States by their code in the column `delivery.state`. The partial indexes name the codes too.
const STATES: [DeliveryState; 5] = [
    DeliveryState::Delivered,
    DeliveryState::Dead,
    DeliveryState::Skipped,
    DeliveryState::Discarded,
    DeliveryState::Pending,
];

impl ToSql for DeliveryState {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let code: i64 = match self {
            Self::Delivered => 0,
            Self::Dead => 1,
            Self::Skipped => 2,
            Self::Discarded => 3,
            Self::Pending => 4,
        };
        Ok(code.into())
    }
}

impl FromSql for DeliveryState {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let code = value.as_i64()?;
        let state = usize::try_from(code).ok().and_then(|index| STATES.get(index));
        state.copied().ok_or(FromSqlError::OutOfRange(code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_comes_back() {
        for state in DeliveryState::ALL {
            let ToSqlOutput::Owned(value) = state.to_sql().unwrap() else { panic!("an owned integer") };
            assert_eq!(DeliveryState::column_result((&value).into()), Ok(state));
        }
    }
}
