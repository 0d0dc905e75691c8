//! A database that is filled with what an embedded store has, and what is there of it.

use std::collections::BTreeSet;

use tokio_postgres::error::SqlState;

use super::columns::{self, ROWS_PER_FETCH, Written};
use super::{Batch, Digests, Identity, LastNumbers, Progress, Step, Table, Task, TransferError, delivery};
use crate::store::failure::{Failure, corrupt};
use crate::store::postgres::open::{self, PostgresOptions, shown};
use crate::store::postgres::partitions;
use crate::store::postgres::pool::{Connection, Connections};
use crate::store::sql::{Row, Value};
use crate::store::{OpenError, StoreError};

/// `pg_advisory_lock`, held during a move.
const TRANSFER_LOCK: i64 = 0x5052_4452_0003;
/// One connection for the move, and one for migrations.
const CONNECTIONS: u32 = 2;
/// Settings for large batches and for reads of whole tables, which take longer than a server's statements.
const SESSION: &str = "
    SELECT set_config('statement_timeout', '0', false), set_config('enable_seqscan', 'on', false)";
const SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// The state of a target database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TargetState {
    Nothing,
    Part,
    Whole,
}

/// The progress of a table's copy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reached {
    pub(super) through: i64,
    pub(super) rows: u64,
    pub(super) is_done: bool,
}

/// A database, locked against other moves until this is dropped.
pub(super) struct Target {
    connection: Connection,
    database: String,
    /// The partitions that are known to exist.
    partitions: BTreeSet<i64>,
}

impl Target {
    /// Checks the server and, to move, brings the schema up to date. Changes nothing that it refuses.
    pub(super) async fn connect(options: &PostgresOptions, task: Task) -> Result<Self, TransferError> {
        let config = options.config()?;
        let database = shown(&config);
        let connections = Connections::new(&options.server()?, CONNECTIONS, &database)?;
        let failed = |failure: Failure| open::open_error(&database, failure);
        let connection = connections.get().await.map_err(|error| failed(error.into()))?;
        open::check_server(&connection, &database, options.allow_unsafe_server).await?;
        let lock = connection.execute("SELECT pg_advisory_lock($1)", &[&TRANSFER_LOCK]).await;
        match lock {
            Err(Failure::Postgres(error)) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                return Err(TransferError::UnderWay { database });
            }
            other => other.map_err(failed)?,
        };
        let version = open::schema_version(&connection).await.map_err(failed)?;
        let missing = open::missing_migrations(&database, version)?;
        if !missing.is_empty() && task == Task::Verify {
            return Err(TransferError::NotMoved { database });
        }
        if version == 0
            && let Some(content) = foreign_table(&connection).await.map_err(failed)?
        {
            return Err(TransferError::NotEmpty { database, content });
        }
        let target = Self { connection, database, partitions: BTreeSet::new() };
        if version > 0 {
            target.refuse_installation().await?;
        }
        target.migrated(&connections, missing).await
    }

    async fn migrated(
        self,
        connections: &Connections,
        missing: &'static [crate::store::migrate::Migration],
    ) -> Result<Self, TransferError> {
        for migration in missing {
            open::migrate(connections, migration).await.map_err(|failure| self.failed(failure))?;
        }
        self.connection.batch(SESSION).await.map_err(|error| self.failed(error.into()))?;
        Ok(self)
    }

    pub(super) fn database(&self) -> &str {
        &self.database
    }

    fn failed(&self, failure: Failure) -> OpenError {
        open::open_error(&self.database, failure)
    }

    pub(super) async fn refuse_nodes(&self) -> Result<(), TransferError> {
        // The columns exist from the second migration on.
        let sql =
            "SELECT name FROM node WHERE seen_at > clock_timestamp() - lease_us * interval '1 microsecond' LIMIT 1";
        let alive = self.connection.query_opt(sql, &[]).await;
        match alive {
            Err(Failure::Postgres(error)) if error.code() == Some(&SqlState::UNDEFINED_COLUMN) => Ok(()),
            Err(failure) => Err(self.failed(failure).into()),
            Ok(None) => Ok(()),
            Ok(Some(row)) => {
                let node = row.try_get(0).map_err(|error| self.failed(error.into()))?;
                Err(TransferError::NodeRunning { database: self.database.clone(), node })
            }
        }
    }

    /// Refuses a database in which nodes have stored data of their own.
    async fn refuse_installation(&self) -> Result<(), TransferError> {
        if open::has_transfer(&self.connection).await.map_err(|failure| self.failed(failure))? {
            return Ok(());
        }
        self.refuse_nodes().await?;
        let row = self.connection.query_one("SELECT EXISTS (SELECT 1 FROM meta)", &[]).await;
        if row.and_then(|row| Ok(row.try_get(0)?)).map_err(|failure| self.failed(failure))? {
            let content = "an installation that nodes have begun".to_owned();
            return Err(TransferError::NotEmpty { database: self.database.clone(), content });
        }
        Ok(())
    }

    /// The state of the database with regard to this source. Changes nothing.
    pub(super) async fn find(&self, identity: &Identity) -> Result<TargetState, TransferError> {
        let sql = "SELECT source, state, finished_at IS NOT NULL FROM transfer";
        let row = self.connection.query_opt(sql, &[]).await.map_err(|failure| self.failed(failure))?;
        let Some(row) = row else { return Ok(TargetState::Nothing) };
        let read =
            || -> Result<(Vec<u8>, Vec<u8>, bool), Failure> { Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)) };
        let (source, state, is_whole) = read().map_err(|failure| self.failed(failure))?;
        let database = self.database.clone();
        if source != identity.source {
            return Err(TransferError::OtherSource { database });
        }
        if state != identity.state {
            return Err(TransferError::SourceChanged { database });
        }
        Ok(if is_whole { TargetState::Whole } else { TargetState::Part })
    }

    /// Claims the database for the source: from now on no node starts on it before the move has ended. The rows of
    /// `meta` make this conflict with a node that makes an installation at the same time.
    pub(super) async fn begin(&mut self, identity: &Identity, keys: &[Row]) -> Result<(), TransferError> {
        let begun = self.try_begin(identity, keys).await;
        match begun {
            Err(Failure::Postgres(error)) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {
                let content = "an installation that a node has just begun".to_owned();
                Err(TransferError::NotEmpty { database: self.database.clone(), content })
            }
            other => other.map_err(|failure| self.failed(failure).into()),
        }
    }

    async fn try_begin(&mut self, identity: &Identity, keys: &[Row]) -> Result<(), Failure> {
        self.connection.begin().await?;
        let Identity { source, state } = identity;
        let sql = "INSERT INTO transfer (source, state) VALUES ($1, $2)";
        self.connection.execute(sql, &[&&source[..], &&state[..]]).await?;
        for key in keys {
            let sql = "INSERT INTO meta (key, value) VALUES ($1, $2)";
            self.connection.execute(sql, &[&key[0], &key[1]]).await?;
        }
        // The source has a tenant and marks with the same numbers.
        self.connection.execute("DELETE FROM tenant", &[]).await?;
        self.connection.execute("DELETE FROM figure_mark", &[]).await?;
        Ok(self.connection.commit().await?)
    }

    /// `None`: nothing of the table was copied.
    pub(super) async fn reached(&self, table: Table) -> Result<Option<Reached>, StoreError> {
        let sql = "SELECT through, row_count, is_done FROM transfer_progress WHERE name = $1";
        let row = self.connection.query_opt(sql, &[&table.name()]).await?;
        let read = |row: &tokio_postgres::Row| -> Result<Reached, Failure> {
            let rows = u64::try_from(row.try_get::<_, i64>(1)?).map_err(corrupt)?;
            Ok(Reached { through: row.try_get(0)?, rows, is_done: row.try_get(2)? })
        };
        Ok(row.as_ref().map(read).transpose()?)
    }

    /// Adds rows and notes the progress, in one transaction. `rows`: the table's number of rows afterwards.
    pub(super) async fn write(&mut self, table: Table, batch: &Batch, rows: u64) -> Result<(), StoreError> {
        self.connection.begin().await.map_err(Failure::from)?;
        if table.is_partitioned() {
            self.make_partitions(batch).await?;
        }
        if table == Table::Deliveries {
            self.write_deliveries(&batch.rows).await?;
        } else {
            self.copy(Written::of(table), batch.rows.iter().map(|row| row.iter().collect())).await?;
        }
        self.note(table, batch.through, rows, false).await?;
        Ok(self.connection.commit().await.map_err(Failure::from)?)
    }

    /// Notes that the table is complete.
    pub(super) async fn end(&mut self, table: Table, through: i64, rows: u64) -> Result<(), StoreError> {
        Ok(self.note(table, through, rows, true).await?)
    }

    async fn note(&self, table: Table, through: i64, rows: u64, is_done: bool) -> Result<(), Failure> {
        let rows = i64::try_from(rows).map_err(corrupt)?;
        let sql = "INSERT INTO transfer_progress (name, through, row_count, is_done) VALUES ($1, $2, $3, $4)
            ON CONFLICT (name) DO UPDATE SET
                through = excluded.through, row_count = excluded.row_count, is_done = excluded.is_done";
        self.connection.execute(sql, &[&table.name(), &through, &rows, &is_done]).await.map(drop)
    }

    async fn copy<'a>(&self, written: &Written, rows: impl Iterator<Item = Vec<&'a Value>>) -> Result<(), Failure> {
        self.connection.copy_in(&written.statement(), &written.types(), rows).await
    }

    /// Pending deliveries go to the queue, and their first attempts to the table of attempts. Ended deliveries keep the
    /// first attempt in their row.
    async fn write_deliveries(&self, rows: &[Row]) -> Result<(), Failure> {
        let (pending, ended): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| delivery::is_pending(row));
        let firsts: Vec<Row> = pending.iter().filter_map(|row| delivery::first_attempt(row)).collect();
        self.copy(&columns::PENDING, pending.into_iter().map(columns::pending)).await?;
        self.copy(&columns::ENDED, ended.into_iter().map(columns::ended)).await?;
        self.copy(Written::of(Table::Attempts), firsts.iter().map(|row| row.iter().collect())).await
    }

    /// Within a transaction: makes the partitions for the rows of `batch`, whose first column is an event's number.
    async fn make_partitions(&mut self, batch: &Batch) -> Result<(), Failure> {
        for row in &batch.rows {
            let Some(Value::Integer(event)) = row.first() else { continue };
            let number = event / partitions::EVENTS_PER_PARTITION;
            if !self.partitions.contains(&number) {
                partitions::make_one(&self.connection, number).await?;
                // If the transaction fails, this target is not used any more.
                self.partitions.insert(number);
            }
        }
        Ok(())
    }

    /// Sets the sequences, so that new rows get higher numbers than the moved ones.
    pub(super) async fn set_numbers(&self, numbers: &LastNumbers) -> Result<(), StoreError> {
        let set = async || -> Result<(), Failure> {
            let sql = "SELECT setval('event_number', greatest($1::bigint, 1), $1::bigint > 0)";
            self.connection.execute(sql, &[&numbers.event]).await?;
            for (table, last) in &numbers.others {
                let sql = "SELECT setval(pg_get_serial_sequence($1, 'seq'), greatest($2::bigint, 1), $2::bigint > 0)";
                self.connection.execute(sql, &[table, last]).await?;
            }
            Ok(())
        };
        Ok(set().await?)
    }

    /// Reads all tables from one snapshot.
    pub(super) async fn digests(&mut self, report: &mut (dyn FnMut(Progress) + Send)) -> Result<Digests, StoreError> {
        let mut digests = Digests::default();
        self.connection.begin_with(SNAPSHOT).await.map_err(Failure::from)?;
        for table in Table::ALL {
            let mut progress = self.unread(table).await?;
            for select in columns::selects(table) {
                progress = self.read(table, &select, progress, &mut digests, report).await?;
            }
            let rows = digests.get(table).rows;
            report(Progress { rows, position: progress.length, is_done: true, ..progress });
        }
        self.connection.commit().await.map_err(Failure::from)?;
        Ok(digests)
    }

    async fn unread(&self, table: Table) -> Result<Progress, StoreError> {
        let length = self.reached(table).await?.map_or(0, |reached| reached.rows);
        Ok(Progress { step: Step::Comparing, name: table.name(), position: 0, length, rows: 0, is_done: false })
    }

    /// Returns the table's progress afterwards.
    async fn read(
        &self,
        table: Table,
        select: &str,
        mut progress: Progress,
        digests: &mut Digests,
        report: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Progress, Failure> {
        self.connection.batch(&format!("DECLARE reading NO SCROLL CURSOR FOR {select}")).await?;
        let fetch = self.connection.prepare(&format!("FETCH {ROWS_PER_FETCH} FROM reading")).await?;
        loop {
            let rows = self.connection.query_prepared(&fetch).await?;
            for row in &rows {
                let row = (0..row.len()).map(|at| row.try_get(at)).collect::<Result<Row, _>>()?;
                digests.add(table, &row);
            }
            progress.rows += rows.len() as u64;
            progress.position = progress.rows.min(progress.length);
            if rows.is_empty() {
                break;
            }
            report(progress);
        }
        self.connection.batch("CLOSE reading").await?;
        Ok(progress)
    }

    /// Allows nodes to start. Statistics are made at once, since a new database has none.
    pub(super) async fn finish(&self) -> Result<(), StoreError> {
        self.connection.batch("ANALYZE").await.map_err(Failure::from)?;
        let sql = "UPDATE transfer SET finished_at = clock_timestamp()";
        self.connection.execute(sql, &[]).await?;
        Ok(())
    }
}

/// A table that is not a part of an extension, which shows that the database is used for something else.
async fn foreign_table(connection: &Connection) -> Result<Option<String>, Failure> {
    let row = connection
        .query_opt(
            "SELECT relname::text FROM pg_class
             WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f')
                 AND NOT EXISTS (
                     SELECT 1 FROM pg_depend
                     WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid AND deptype = 'e'
                 )
             ORDER BY relname LIMIT 1",
            &[],
        )
        .await?;
    row.map(|row| Ok(format!("the table {}", row.try_get::<_, String>(0)?))).transpose()
}
