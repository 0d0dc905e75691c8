//! SQLite as [`Sql`]: the writer's transaction, and a reader's snapshot.

use rusqlite::Connection;
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use uuid::Uuid;

use super::commit::Commit;
use super::counters::stats;
use crate::delivery::id::EventSeq;
use crate::store::Act;
use crate::store::failure::Failure;
use crate::store::seal::Sealer;
use crate::store::sql::{Row, Select, Sql, Value};
use crate::webhook::{TenantSeq, WebhookSeq};

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(number) => ValueRef::Integer(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// The value of a column.
pub(in crate::store) fn value(value: ValueRef<'_>) -> rusqlite::Result<Value> {
    Ok(match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Integer(number),
        ValueRef::Text(_) => Value::Text(value.as_str()?.to_owned()),
        ValueRef::Blob(bytes) => Value::Bytes(bytes.to_vec()),
        // No column has reals.
        ValueRef::Real(number) => Value::Text(number.to_string()),
    })
}

/// All values of a row.
pub(in crate::store) fn values(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    (0..row.as_ref().column_count()).map(|column| value(row.get_ref(column)?)).collect()
}

fn query(connection: &Connection, sql: &str, given: &[Value]) -> Result<Vec<Row>, Failure> {
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map(rusqlite::params_from_iter(given), values)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// A reader's snapshot.
pub(super) struct Snapshot<'a> {
    pub(super) connection: &'a Connection,
    pub(super) sealer: &'a Sealer,
}

impl Select for Snapshot<'_> {
    fn query(&mut self, sql: &'static str, values: &[Value]) -> Result<Vec<Row>, Failure> {
        query(self.connection, sql, values)
    }

    fn sealer(&self) -> &Sealer {
        self.sealer
    }
}

impl Select for Commit<'_> {
    fn query(&mut self, sql: &'static str, values: &[Value]) -> Result<Vec<Row>, Failure> {
        query(self.connection, sql, values)
    }

    fn sealer(&self) -> &Sealer {
        &self.state.sealer
    }
}

impl Sql for Commit<'_> {
    fn execute(&mut self, sql: &'static str, values: &[Value]) -> Result<u64, Failure> {
        Ok(self.prepare(sql)?.execute(rusqlite::params_from_iter(values))? as u64)
    }

    fn lock(&mut self, _: &'static str, sql: &'static str, values: &[Value]) -> Result<Vec<Row>, Failure> {
        self.query(sql, values)
    }

    fn lock_tenant_names(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    fn act(&self) -> Option<&Act> {
        self.act.as_deref()
    }

    fn pending(&mut self, tenant: TenantSeq) -> Result<u64, Failure> {
        let stored = stats(self.connection, Some(tenant))?.pending;
        // The additions of this transaction are written at its end.
        Ok(stored.saturating_add_signed(self.counters(tenant).pending()))
    }

    fn events(&mut self) -> Result<(EventSeq, EventSeq), Failure> {
        let last = EventSeq(self.state.window.next_event().0 - 1);
        let first: Option<EventSeq> = self.prepare("SELECT min(seq) FROM event")?.query_row((), |row| row.get(0))?;
        Ok((first.unwrap_or(EventSeq(last.0 + 1)), last))
    }

    fn made_webhook(&mut self, webhook: WebhookSeq, _: Uuid, tenant: TenantSeq) -> Result<(), Failure> {
        self.state.tenants.insert(webhook, tenant);
        Ok(())
    }

    fn closed_circuit(&mut self, _: WebhookSeq) -> Result<(), Failure> {
        Ok(())
    }
}
