//! PostgreSQL as [`Sql`]: work on records is synchronous, so it has a thread of the blocking pool, which waits there for
//! each statement. These calls are an operator's, some a minute.

use std::error::Error;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use uuid::Uuid;

use super::pool::Connection;
use super::transaction::Commit;
use super::values::text;
use super::{Shared, counters};
use crate::delivery::id::EventSeq;
use crate::store::failure::{Failure, Unreadable};
use crate::store::records::{Read, Write};
use crate::store::seal::Sealer;
use crate::store::sql::{Fields, Row, Select, Sql, Value};
use crate::store::{Act, Shard, StoreError};
use crate::webhook::{TenantSeq, WebhookSeq};

/// Only one transaction at a time gives names to tenants. Reads, and locks of a single tenant, are not blocked.
const LOCK_TENANT_NAMES: &str = "LOCK TABLE tenant IN SHARE ROW EXCLUSIVE MODE";

impl ToSql for Value {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match (self, ty) {
            (Self::Null, _) => Ok(IsNull::Yes),
            (Self::Integer(number), &Type::INT8) => number.to_sql(ty, out),
            (Self::Integer(number), &Type::INT4) => i32::try_from(*number)?.to_sql(ty, out),
            (Self::Integer(number), &Type::INT2) => i16::try_from(*number)?.to_sql(ty, out),
            (Self::Integer(number @ (0 | 1)), &Type::BOOL) => (*number == 1).to_sql(ty, out),
            (Self::Text(given), &Type::TEXT) => text(given).to_sql(ty, out),
            (Self::Bytes(bytes), &Type::BYTEA) => bytes.to_sql(ty, out),
            (Self::Bytes(bytes), &Type::UUID) => Uuid::from_slice(bytes)?.to_sql(ty, out),
            _ => Err(Unreadable(format!("a value is no {ty}")).into()),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

impl FromSql<'_> for Value {
    fn from_sql(ty: &Type, raw: &[u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(match *ty {
            Type::INT8 => Self::Integer(i64::from_sql(ty, raw)?),
            Type::INT4 => Self::Integer(i32::from_sql(ty, raw)?.into()),
            Type::INT2 => Self::Integer(i16::from_sql(ty, raw)?.into()),
            Type::BOOL => Self::Integer(bool::from_sql(ty, raw)?.into()),
            Type::TEXT => Self::Text(String::from_sql(ty, raw)?),
            // A UUID is its bytes.
            _ => Self::Bytes(raw.to_vec()),
        })
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self::Null)
    }

    fn accepts(ty: &Type) -> bool {
        [Type::INT8, Type::INT4, Type::INT2, Type::BOOL, Type::TEXT, Type::BYTEA, Type::UUID].contains(ty)
    }
}

/// All values of a row.
pub(super) fn values(row: &tokio_postgres::Row) -> Result<Row, Failure> {
    (0..row.len()).map(|column| Ok(row.try_get(column)?)).collect()
}

/// Turns `?1` into PostgreSQL's `$1`.
fn numbered(sql: &str) -> String {
    sql.replace('?', "$")
}

fn parameters(values: &[Value]) -> Vec<&(dyn ToSql + Sync)> {
    values.iter().map(|value| value as _).collect()
}

impl Connection {
    /// The rows of a statement of [`Sql`].
    pub(super) async fn query_values(&self, sql: &str, given: &[Value]) -> Result<Vec<Row>, Failure> {
        let rows = self.query_numbered(&numbered(sql), &parameters(given)).await?;
        rows.iter().map(values).collect()
    }

    /// The number of rows that a statement of [`Sql`] changed.
    pub(super) async fn execute_values(&self, sql: &str, given: &[Value]) -> Result<u64, Failure> {
        self.execute_numbered(&numbered(sql), &parameters(given)).await
    }
}

/// A connection on a thread that may block.
struct Snapshot<'a> {
    connection: &'a Connection,
    sealer: &'a Sealer,
    runtime: &'a Handle,
}

impl Select for Snapshot<'_> {
    fn query(&mut self, sql: &'static str, values: &[Value]) -> Result<Vec<Row>, Failure> {
        self.runtime.block_on(self.connection.query_values(sql, values))
    }

    fn sealer(&self) -> &Sealer {
        self.sealer
    }
}

/// A transaction on a thread that may block.
struct Blocking<'a> {
    commit: &'a mut Commit,
    runtime: &'a Handle,
}

impl Select for Blocking<'_> {
    fn query(&mut self, sql: &'static str, values: &[Value]) -> Result<Vec<Row>, Failure> {
        self.runtime.block_on(self.commit.connection.query_values(sql, values))
    }

    fn sealer(&self) -> &Sealer {
        &self.commit.shared.sealer
    }
}

impl Sql for Blocking<'_> {
    fn execute(&mut self, sql: &'static str, values: &[Value]) -> Result<u64, Failure> {
        self.runtime.block_on(self.commit.connection.execute_values(sql, values))
    }

    fn lock(&mut self, table: &'static str, sql: &'static str, values: &[Value]) -> Result<Vec<Row>, Failure> {
        let sql = format!("{sql} FOR NO KEY UPDATE OF {table}");
        self.runtime.block_on(self.commit.connection.query_values(&sql, values))
    }

    fn lock_tenant_names(&mut self) -> Result<(), Failure> {
        self.execute(LOCK_TENANT_NAMES, &[]).map(drop)
    }

    fn act(&self) -> Option<&Act> {
        self.commit.act.as_deref()
    }

    fn pending(&mut self, tenant: TenantSeq) -> Result<u64, Failure> {
        let stats = self.runtime.block_on(counters::stats(&self.commit.connection, Some(tenant)))?;
        Ok(stats.pending)
    }

    fn events(&mut self) -> Result<(EventSeq, EventSeq), Failure> {
        let sql = "SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM event_number";
        let last: EventSeq = Fields::of(self.query_row(sql, &[])?.unwrap_or_default()).next()?;
        let first = self.query_row("SELECT seq FROM event ORDER BY seq LIMIT 1", &[])?;
        let first = first.map(|row| Fields::of(row).next()).transpose()?;
        Ok((first.unwrap_or(EventSeq(last.0 + 1)), last))
    }

    fn made_webhook(&mut self, webhook: WebhookSeq, uuid: Uuid, _: TenantSeq) -> Result<(), Failure> {
        let shard = Shard::of(uuid);
        self.execute(
            "UPDATE webhook SET shard = ?2 WHERE seq = ?1",
            &[webhook.into(), u32::from(shard.number()).into()],
        )?;
        // Correct even if the transaction fails: an unknown webhook gets no deliveries.
        self.commit.shared.presence.note(webhook, shard);
        Ok(())
    }

    fn closed_circuit(&mut self, webhook: WebhookSeq) -> Result<(), Failure> {
        self.execute("UPDATE webhook SET circuit_closed_by = version WHERE seq = ?1", &[webhook.into()]).map(drop)
    }
}

/// Runs work in a transaction, and returns the transaction for its commit.
pub(super) async fn write(mut commit: Commit, write: &Write) -> Result<(Commit, Result<(), Failure>), StoreError> {
    let (runtime, work) = (Handle::current(), write.work.clone());
    let working = spawn_blocking(move || {
        let done = work(&mut Blocking { commit: &mut commit, runtime: &runtime });
        (commit, done)
    });
    working.await.map_err(|error| StoreError::Unavailable(error.to_string()))
}

/// Runs reads. Each statement sees what is committed when it begins.
pub(super) async fn read(connection: Connection, shared: Arc<Shared>, read: Read) -> Result<(), StoreError> {
    let runtime = Handle::current();
    let reading = spawn_blocking(move || {
        (read.work)(&mut Snapshot { connection: &connection, sealer: &shared.sealer, runtime: &runtime })
    });
    Ok(reading.await.map_err(|error| StoreError::Unavailable(error.to_string()))??)
}
