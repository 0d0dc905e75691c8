//! How our types are kept in columns.

use std::borrow::Cow;
use std::error::Error;

use bytes::BytesMut;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, accepts, to_sql_checked};

use crate::clock::UnixMicros;
use crate::delivery::DeliveryState;
use crate::delivery::id::EventSeq;
use crate::fit::fit;
use crate::store::failure::{Failure, Unreadable, corrupt};
use crate::store::read_back::{Columns, ReadBack};
use crate::store::records::codes::{delivery_code, delivery_state};
use crate::webhook::{TenantSeq, WebhookSeq};

macro_rules! bigint_column {
    ($($type:ident),*) => {$(
        impl ToSql for $type {
            fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
                self.0.to_sql(ty, out)
            }
            accepts!(INT8);
            to_sql_checked!();
        }
        impl FromSql<'_> for $type {
            fn from_sql(ty: &Type, raw: &[u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
                i64::from_sql(ty, raw).map(Self)
            }
            accepts!(INT8);
        }
    )*};
}

bigint_column!(UnixMicros, EventSeq, WebhookSeq, TenantSeq);

impl ToSql for DeliveryState {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        i16::from(delivery_code(*self)).to_sql(ty, out)
    }
    accepts!(INT2);
    to_sql_checked!();
}

impl FromSql<'_> for DeliveryState {
    fn from_sql(ty: &Type, raw: &[u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        let code = i16::from_sql(ty, raw)?;
        Ok(delivery_state(code.into()).ok_or_else(|| Unreadable(format!("{code} is no state of a delivery")))?)
    }
    accepts!(INT2);
}

/// A number of the column `at`, which is an `integer`.
pub(super) fn number<T: TryFrom<i32>>(row: &Row, at: usize) -> Result<T, Failure> {
    let number: i32 = row.try_get(at)?;
    T::try_from(number).map_err(|_| corrupt(format_args!("{number} is out of range")))
}

/// As [`number`], of a column that may be null.
pub(super) fn optional_number<T: TryFrom<i32>>(row: &Row, at: usize) -> Result<Option<T>, Failure> {
    let number: Option<i32> = row.try_get(at)?;
    number.map(|number| T::try_from(number).map_err(|_| corrupt(format_args!("{number} is out of range")))).transpose()
}

/// A text of the column `at`, which is `bytea`, because the text may contain U+0000.
pub(super) fn utf8(row: &Row, at: usize) -> Result<&str, Failure> {
    std::str::from_utf8(row.try_get(at)?).map_err(corrupt)
}

/// An event from the columns `id, topic, type, body, hops, checksum`, at these places.
pub(super) fn event(row: &Row, [id, topic, kind, body, hops, checksum]: [usize; 6]) -> Result<ReadBack, Failure> {
    let (id, topic): (&str, &str) = (row.try_get(id)?, row.try_get(topic)?);
    let columns = Columns {
        id: id.as_bytes(),
        topic: topic.as_bytes(),
        kind: row.try_get(kind)?,
        body: row.try_get(body)?,
        hops: row.try_get(hops)?,
        checksum: row.try_get(checksum)?,
    };
    columns.read().map_err(corrupt)
}

/// For a column `integer`.
pub(super) fn integer(number: u32) -> i32 {
    fit(number, i32::MAX)
}

/// For a column `text` with text from outside: PostgreSQL's texts cannot contain U+0000.
pub(super) fn text(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) }
}
