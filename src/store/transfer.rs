//! The move of an embedded store into an empty PostgreSQL database.
//!
//! The data folder is locked and only read. Each table is copied in order of its keys, in batches; a batch, and how far it
//! reaches, are one transaction, so that a run that was cut off goes on where it was and no row comes twice. Then both
//! sides are read from the beginning, and compared by numbers of rows and sums of their hashes. Only when they are the same
//! the database is marked as whole, and only then nodes start on it.
//!
//! Numbers and keys stay what they are, and so do the ids that the API shows, signatures and tokens: what is sealed is
//! copied as it is, and belongs to the same master key.

mod columns;
mod rows;
mod source;
mod target;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

pub use self::rows::Digest;
use self::rows::{Batch, Digests, Table, delivery};
use self::source::Source;
use self::target::{Target, TargetState};
use super::postgres::PostgresOptions;
use super::read_back::Columns;
use super::seal::{MasterKey, MasterKeyError};
use super::sql::{Row, Value};
use super::{OpenError, StoreError};

/// The number of batches that are read ahead of the writer.
const BATCHES_AHEAD: usize = 2;

/// Identifies an embedded store and its state, so that a store that was changed since is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    source: [u8; 32],
    state: [u8; 32],
}

/// The last numbers that were given. New rows get higher ones.
#[derive(Clone, Debug, PartialEq, Eq)]
struct LastNumbers {
    event: i64,
    /// By the name of the table, which is the same in both stores.
    others: BTreeMap<&'static str, i64>,
}

/// The mode of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Copy the missing rows, and compare.
    Move,
    /// Compare, after everything was moved. Writes nothing.
    Verify,
}

/// The progress of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub step: Step,
    /// The table.
    pub name: &'static str,
    /// The keys passed, out of `length`. Keys may have gaps.
    pub position: u64,
    pub length: u64,
    /// The rows so far.
    pub rows: u64,
    pub is_done: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Copying,
    Comparing,
}

/// The result of a move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    pub outcome: TransferEnd,
    /// Each table, and its digest, which is the same on both sides. Empty if nothing was compared.
    pub tables: Vec<(&'static str, Digest)>,
    /// Events whose checksum fails on both sides. They are not sent.
    pub damaged_events: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferEnd {
    Moved {
        /// The run continued one that was cut off.
        was_begun: bool,
    },
    /// Everything had been moved before. Nothing was done.
    WasDone,
    /// Both sides are the same.
    Verified,
}

/// The reason why a store was not moved. The data folder is unchanged in any case.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error("{path} has no database")]
    NoDatabase { path: String },
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Key(#[from] MasterKeyError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{path} has schema version {found}, and {known} is needed")]
    OlderSchema { path: String, found: i64, known: i64 },
    #[error("{database} is not empty: it has {content}")]
    NotEmpty { database: String, content: String },
    #[error("{database} has what was moved from another data folder")]
    OtherSource { database: String },
    #[error("the data folder has changed since the move to {database} began: a server has worked on it")]
    SourceChanged { database: String },
    #[error("the node {node} runs on {database}")]
    NodeRunning { database: String, node: String },
    #[error("another move to {database} is under way")]
    UnderWay { database: String },
    #[error("nothing was moved to {database} yet, or not everything")]
    NotMoved { database: String },
    #[error("{table} differ: {source_rows} rows in the data folder, {target_rows} in {database}, {}", sums(*.source_rows, *.target_rows))]
    Different { database: String, table: &'static str, source_rows: u64, target_rows: u64 },
}

fn sums(source: u64, target: u64) -> &'static str {
    if source == target { "with other checksums" } else { "where there should be as many" }
}

/// Moves the store in `folder`, which must not be in use, to a database. `master_key`: in place of the key file in the
/// folder. Neither side is left locked.
pub async fn transfer(
    folder: PathBuf,
    master_key: Option<MasterKey>,
    options: &PostgresOptions,
    task: Task,
    report: &mut (dyn FnMut(Progress) + Send),
) -> Result<Moved, TransferError> {
    let source = blocking(move || Source::open(&folder, master_key)).await??;
    let source = Arc::new(Mutex::new(source));
    let asked = Arc::clone(&source);
    let identity = blocking(move || asked.lock().identity()).await??;
    let mut target = Target::connect(options, task).await?;
    let found = target.find(&identity).await?;
    let was_begun = match (found, task) {
        (TargetState::Whole, Task::Move) => {
            return Ok(Moved { outcome: TransferEnd::WasDone, tables: Vec::new(), damaged_events: 0 });
        }
        (TargetState::Whole, Task::Verify) => {
            target.refuse_nodes().await?;
            let (tables, damaged_events) = compare(&source, &mut target, report).await?;
            return Ok(Moved { outcome: TransferEnd::Verified, tables, damaged_events });
        }
        (_, Task::Verify) => return Err(TransferError::NotMoved { database: target.database().to_owned() }),
        (TargetState::Nothing, Task::Move) => {
            let keys = read_keys(&source).await?;
            target.begin(&identity, &keys).await?;
            false
        }
        (TargetState::Part, Task::Move) => true,
    };
    for table in Table::ALL.into_iter().filter(|table| *table != Table::Keys) {
        copy(&source, &mut target, table, report).await?;
    }
    let asked = Arc::clone(&source);
    let numbers = blocking(move || asked.lock().last_numbers()).await??;
    target.set_numbers(&numbers).await?;
    let (tables, damaged_events) = compare(&source, &mut target, report).await?;
    target.finish().await?;
    Ok(Moved { outcome: TransferEnd::Moved { was_begun }, tables, damaged_events })
}

async fn read_keys(source: &Arc<Mutex<Source>>) -> Result<Vec<Row>, TransferError> {
    let source = Arc::clone(source);
    let read = blocking(move || {
        let mut keys = Vec::new();
        let mut take = |batch: Batch| {
            keys.extend(batch.rows);
            true
        };
        source.lock().read(Table::Keys, i64::MIN, &mut take).map(|()| keys)
    });
    Ok(read.await??)
}

/// Copies the missing rows of a table: one thread reads while another writes.
async fn copy(
    source: &Arc<Mutex<Source>>,
    target: &mut Target,
    table: Table,
    report: &mut (dyn FnMut(Progress) + Send),
) -> Result<(), TransferError> {
    let asked = Arc::clone(source);
    let extent = blocking(move || asked.lock().extent(table)).await??;
    let (first, last) = extent.unwrap_or((0, -1));
    let length = last.abs_diff(first.saturating_sub(1));
    let reached = target.reached(table).await?;
    let mut progress =
        Progress { step: Step::Copying, name: table.name(), position: 0, length, rows: 0, is_done: false };
    let (mut after, mut rows) = reached.map_or((i64::MIN, 0), |reached| (reached.through, reached.rows));
    if !reached.is_some_and(|reached| reached.is_done) {
        let (hand_over, mut batches) = mpsc::channel(BATCHES_AHEAD);
        let source = Arc::clone(source);
        let reading = spawn_blocking(move || {
            source.lock().read(table, after, &mut |batch| hand_over.blocking_send(batch).is_ok())
        });
        while let Some(batch) = batches.recv().await {
            rows += batch.rows.len() as u64;
            after = batch.through;
            target.write(table, &batch, rows).await?;
            let position = after.abs_diff(first.saturating_sub(1)).min(length);
            progress = Progress { position, rows, ..progress };
            report(progress);
        }
        reading.await.map_err(|error| stopped(&error))??;
        target.end(table, after, rows).await?;
    }
    report(Progress { position: length, rows, is_done: true, ..progress });
    Ok(())
}

/// Reads both sides completely, at the same time. Returns the digest of each table, and the number of damaged events.
async fn compare(
    source: &Arc<Mutex<Source>>,
    target: &mut Target,
    report: &mut (dyn FnMut(Progress) + Send),
) -> Result<(Vec<(&'static str, Digest)>, u64), TransferError> {
    // Dropped when this function returns, whatever the reason. That stops the readers.
    let wanted = Arc::new(());
    let (asked, is_wanted) = (Arc::clone(source), Arc::downgrade(&wanted));
    let reading = spawn_blocking(move || -> Result<(Digests, u64), OpenError> {
        let (source, mut digests, mut damaged) = (asked.lock(), Digests::default(), 0);
        for table in Table::ALL {
            source.read(table, i64::MIN, &mut |batch| {
                for row in batch.rows {
                    damaged += u64::from(table == Table::Events && is_damaged_event(&row));
                    digests.add(table, &table.condensed(row));
                }
                is_wanted.strong_count() > 0
            })?;
        }
        Ok((digests, damaged))
    });
    let there = target.digests(report).await?;
    let (here, damaged) = reading.await.map_err(|error| stopped(&error))??;
    let mut tables = Vec::new();
    for table in Table::ALL {
        let (ours, theirs) = (here.get(table), there.get(table));
        if ours != theirs {
            return Err(TransferError::Different {
                database: target.database().to_owned(),
                table: table.name(),
                source_rows: ours.rows,
                target_rows: theirs.rows,
            });
        }
        tables.push((table.name(), ours));
    }
    Ok((tables, damaged))
}

/// Whether the checksum of a row of `Table::Events` fails.
fn is_damaged_event(row: &Row) -> bool {
    let [_, _, _, Value::Text(id), Value::Text(topic), Value::Bytes(kind), _, Value::Bytes(body), hops, checksum] =
        &row[..]
    else {
        return true;
    };
    let hops = if let Value::Bytes(hops) = hops { Some(&hops[..]) } else { None };
    let checksum = if let Value::Integer(checksum) = checksum { Some(*checksum) } else { None };
    let columns = Columns { id: id.as_bytes(), topic: topic.as_bytes(), kind, body: body.clone(), hops, checksum };
    columns.read().map_or(true, |found| found.is_damaged && !found.event.is_erased())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, TransferError> {
    spawn_blocking(work).await.map_err(|error| stopped(&error).into())
}

fn stopped(error: &tokio::task::JoinError) -> StoreError {
    StoreError::Unavailable(format!("reading the data folder failed: {error}"))
}
