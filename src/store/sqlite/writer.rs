//! The one writer: a thread that takes everything that waits, writes it in one transaction with one
//! fsync, and answers all after the commit.

mod queue;
mod thread;

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use rusqlite::{CachedStatement, Connection, ErrorCode};
use tokio::sync::oneshot;

use self::queue::Queue;
use self::thread::Thread;
use super::files::Files;
use super::settle;
use super::window::Window;
use crate::delivery::id::DeliveryIds;
use crate::fair::{Permit, Turns};
use crate::store::counters::{Counters, Gauges};
use crate::store::id_hash::IdHash;
use crate::store::seal::Sealer;
use crate::store::{Act, StoreError};
use crate::webhook::{TenantSeq, WebhookSeq};

/// What the calls of a commit, and those that wait for the next, may weigh, a row or a KiB one; a heavier one waits until it
/// is alone. Tenants take turns at it, and then again at the commits.
const MAX_WAITING_WEIGHT: usize = 6 << 10;
/// A transaction takes no more calls when it has this many rows or bytes.
const MAX_COMMIT_ROWS: usize = 4_096;
const MAX_COMMIT_BYTES: usize = 2 << 20;

/// Why an operation inside a transaction did not succeed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Nothing was written by it; the rest of the transaction goes on.
    Refused(StoreError),
    /// The transaction is lost.
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(error) => error,
            Failure::Sqlite(error) => store_error(&error),
        }
    }
}

fn store_error(error: &rusqlite::Error) -> StoreError {
    let text = error.to_string();
    match (error, error.sqlite_error_code()) {
        (_, Some(ErrorCode::DiskFull)) => StoreError::Full(text),
        (_, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
        | (
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::IntegralValueOutOfRange(..),
            _,
        ) => StoreError::Corrupt(text),
        _ => StoreError::Unavailable(text),
    }
}

pub(super) fn closed() -> StoreError {
    StoreError::Unavailable("it is closed".to_owned())
}

/// How much a call writes, for the bounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) rows: usize,
    pub(super) bytes: usize,
    /// Whether somebody waits for it.
    pub(super) is_urgent: bool,
    /// Who takes turns with others; `None`: the server itself.
    pub(super) tenant: Option<TenantSeq>,
}

impl Size {
    /// A change of configuration.
    pub(super) const SMALL: Self = Self { rows: 1, bytes: 4_096, is_urgent: true, tenant: None };

    /// What it takes of the turns of whoever takes them: a row costs about as much as a KiB.
    fn weight(self) -> u64 {
        (self.rows + (self.bytes >> 10)).max(1) as u64
    }
}

/// A handle to the writer's thread, and for whom it writes.
#[derive(Clone)]
pub(super) struct Writer {
    thread: Arc<WriterThread>,
    /// What calls through this handle leave lines in the audit log for.
    act: Option<Arc<Act>>,
}

struct WriterThread {
    /// `None` after `close`.
    jobs: Mutex<Option<mpsc::Sender<Box<dyn Job>>>>,
    room: Turns<Option<TenantSeq>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    stopped: Mutex<Option<oneshot::Receiver<()>>>,
}

impl Writer {
    /// Starts the thread; its folder stays locked until it has closed the connections.
    pub(super) fn start(files: Files, state: State) -> io::Result<Self> {
        let (jobs, waiting) = mpsc::channel();
        let (stopping, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || {
            Thread::new(files, state).run(Queue::new(waiting));
            let _ = stopping.send(());
        })?;
        let thread = WriterThread {
            jobs: Mutex::new(Some(jobs)),
            room: Turns::new(MAX_WAITING_WEIGHT),
            thread: Mutex::new(Some(thread)),
            stopped: Mutex::new(Some(stopped)),
        };
        Ok(Self { thread: Arc::new(thread), act: None })
    }

    /// A handle to the same thread. Without an actor it is nobody's act.
    pub(super) fn audited(&self, act: &Act) -> Self {
        let act = act.actor.is_some().then(|| Arc::new(act.clone()));
        Self { thread: Arc::clone(&self.thread), act }
    }

    /// Does `work` within the next transaction and returns after its commit. `work` may be done again
    /// when a transaction was rolled back, and must refuse before it writes.
    pub(super) async fn write<T, W>(&self, size: Size, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnMut(&mut Commit<'_>) -> Result<T, Failure> + Send + 'static,
    {
        let weight = usize::try_from(size.weight()).unwrap_or(MAX_WAITING_WEIGHT).min(MAX_WAITING_WEIGHT);
        let room = self.thread.room.acquire_many(size.tenant, weight).await;
        let jobs = self.thread.jobs.lock().clone().ok_or_else(closed)?;
        let (answer, answered) = oneshot::channel();
        let call = Call { work, size, act: self.act.clone(), done: None, answer, _room: room };
        jobs.send(Box::new(call)).map_err(|_| closed())?;
        drop(jobs);
        answered.await.unwrap_or_else(|_| Err(StoreError::Unavailable("the writer stopped".to_owned())))
    }

    /// More waits than goes into one transaction.
    pub(super) fn is_busy(&self) -> bool {
        self.thread.room.free() < MAX_WAITING_WEIGHT - MAX_COMMIT_ROWS
    }

    /// Lets the thread finish what it was given, and waits until it has closed the file.
    pub(super) async fn close(&self) {
        drop(self.thread.jobs.lock().take());
        let stopped = self.thread.stopped.lock().take();
        if let Some(stopped) = stopped {
            let _ = stopped.await;
        }
    }
}

impl Drop for WriterThread {
    fn drop(&mut self) {
        drop(self.jobs.lock().take());
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }
}

/// A call that waits for its transaction.
trait Job: Send {
    fn size(&self) -> Size;
    /// An error means that the transaction is lost.
    fn apply(&mut self, commit: &mut Commit<'_>) -> Result<(), rusqlite::Error>;
    /// Tells the caller; `Err` is what became of the transaction.
    fn answer(self: Box<Self>, committed: Result<(), StoreError>);
}

struct Call<T, W> {
    work: W,
    size: Size,
    act: Option<Arc<Act>>,
    done: Option<Result<T, StoreError>>,
    answer: oneshot::Sender<Result<T, StoreError>>,
    _room: Permit<Option<TenantSeq>>,
}

impl<T, W> Job for Call<T, W>
where
    T: Send,
    W: FnMut(&mut Commit<'_>) -> Result<T, Failure> + Send,
{
    fn size(&self) -> Size {
        self.size
    }

    fn apply(&mut self, commit: &mut Commit<'_>) -> Result<(), rusqlite::Error> {
        commit.act.clone_from(&self.act);
        self.done = Some(match (self.work)(commit) {
            Ok(value) => Ok(value),
            Err(Failure::Refused(error)) => Err(error),
            Err(Failure::Sqlite(error)) => return Err(error),
        });
        Ok(())
    }

    fn answer(self: Box<Self>, committed: Result<(), StoreError>) {
        let Call { done, answer, .. } = *self;
        // The caller may have gone; what it asked for is done all the same.
        let _ = answer.send(committed.and_then(|()| done.unwrap_or_else(|| Err(closed()))));
    }
}

/// What the writer knows beside the files; changes with the transaction or not at all.
pub(super) struct State {
    pub(super) window: Window,
    /// Events that the window may hold after a commit.
    pub(super) max_window: usize,
    pub(super) sealer: Arc<Sealer>,
    pub(super) id_hash: IdHash,
    /// Every webhook there ever was.
    pub(super) tenants: HashMap<WebhookSeq, TenantSeq>,
    /// What this transaction adds to the counters.
    pub(super) counters: HashMap<TenantSeq, Counters>,
    /// Follows the counters, for readers.
    pub(super) gauges: Arc<Gauges>,
    pub(super) delivery_ids: DeliveryIds,
}

/// A transaction under way.
pub(super) struct Commit<'c> {
    pub(super) connection: &'c Connection,
    pub(super) state: &'c mut State,
    /// Whose call is being worked off.
    pub(super) act: Option<Arc<Act>>,
}

impl<'c> Commit<'c> {
    pub(super) fn prepare(&self, sql: &str) -> rusqlite::Result<CachedStatement<'c>> {
        self.connection.prepare_cached(sql)
    }

    pub(super) fn counters(&mut self, tenant: TenantSeq) -> &mut Counters {
        self.state.counters.entry(tenant).or_default()
    }

    /// The counters of the tenant that owns `webhook`.
    pub(super) fn counters_of(&mut self, webhook: WebhookSeq) -> Option<&mut Counters> {
        let tenant = *self.state.tenants.get(&webhook)?;
        Some(self.counters(tenant))
    }

    /// Writes what goes into every transaction once.
    fn finish(&mut self) -> rusqlite::Result<()> {
        settle::park(self)?;
        self.write_counters()?;
        self.write_progress()
    }

    fn write_counters(&self) -> rusqlite::Result<()> {
        for (tenant, add) in &self.state.counters {
            self.prepare(
                "INSERT INTO counters
                     (tenant, events, owed, delivered, dead, skipped, discarded, attempts, stored_bytes)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
                 ON CONFLICT (tenant) DO UPDATE SET
                     events = events + ?2, owed = owed + ?3, delivered = delivered + ?4, dead = dead + ?5,
                     skipped = skipped + ?6, discarded = discarded + ?7, attempts = attempts + ?8,
                     stored_bytes = stored_bytes + ?9",
            )?
            .execute((
                tenant,
                add.events,
                add.owed,
                add.delivered,
                add.dead,
                add.skipped,
                add.discarded,
                add.attempts,
                add.stored_bytes,
            ))?;
        }
        Ok(())
    }

    fn write_progress(&self) -> rusqlite::Result<()> {
        if self.state.window.is_unchanged() {
            return Ok(());
        }
        self.prepare("UPDATE progress SET low_water = ?1, next_event = ?2")?
            .execute((self.state.window.low_water(), self.state.window.next_event()))
            .map(drop)
    }
}

/// Fails while nothing can be accepted or nothing can be committed: needs room for a moment, accepts an event that it takes
/// back, and a commit.
pub(super) fn probe(commit: &mut Commit<'_>) -> Result<(), Failure> {
    commit.connection.execute_batch("SAVEPOINT probe")?;
    let room = commit.prepare("INSERT INTO meta (key, value) VALUES ('probe', zeroblob(65536))");
    let room = room.and_then(|mut insert| insert.execute(())).and_then(|_| super::accept::rehearse(commit));
    if commit.connection.is_autocommit() {
        return room.map_err(Failure::Sqlite);
    }
    commit.connection.execute_batch("ROLLBACK TO probe; RELEASE probe")?;
    room.map_err(|error| Failure::Refused(store_error(&error)))?;
    commit.prepare("UPDATE progress SET next_event = next_event")?.execute(())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;

    #[test]
    fn an_error_of_sqlite_tells_callers_whether_to_make_room_or_to_wait() {
        let of = |code| store_error(&rusqlite::Error::SqliteFailure(ffi::Error::new(code), None));
        assert!(matches!(of(ffi::SQLITE_FULL), StoreError::Full(_)));
        for code in [
            ffi::SQLITE_IOERR,
            ffi::SQLITE_IOERR_WRITE,
            ffi::SQLITE_IOERR_FSYNC,
            ffi::SQLITE_BUSY,
            ffi::SQLITE_READONLY,
            ffi::SQLITE_CANTOPEN,
        ] {
            assert!(matches!(of(code), StoreError::Unavailable(_)), "{code}");
        }
        for code in [ffi::SQLITE_CORRUPT, ffi::SQLITE_NOTADB] {
            assert!(matches!(of(code), StoreError::Corrupt(_)), "{code}");
        }
    }
}
