//! The one writer: a thread that takes everything that waits, writes it in one transaction with one
//! fsync, and answers all after the commit.

mod queue;
mod thread;

use std::io;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use self::queue::Queue;
use self::thread::Thread;
use super::commit::{Commit, Size, State, closed};
use super::files::Files;
use super::settle;
use crate::store::failure::{Failure, of_sqlite};
use crate::store::gather::{Place, Room};
use crate::store::{Act, StoreError};

/// A handle to the writer's thread, for one act.
#[derive(Clone)]
pub(super) struct Writer {
    thread: Arc<WriterThread>,
    /// The act for which calls through this handle write lines in the audit log.
    act: Option<Arc<Act>>,
}

struct WriterThread {
    /// `None` after `close`.
    jobs: Mutex<Option<mpsc::Sender<Box<dyn Job>>>>,
    room: Room,
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
            room: Room::new(),
            thread: Mutex::new(Some(thread)),
            stopped: Mutex::new(Some(stopped)),
        };
        Ok(Self { thread: Arc::new(thread), act: None })
    }

    /// A handle to the same thread. An act without an actor is not audited.
    pub(super) fn audited(&self, act: &Act) -> Self {
        let act = act.actor.is_some().then(|| Arc::new(act.clone()));
        Self { thread: Arc::clone(&self.thread), act }
    }

    /// Runs `work` in the next transaction and returns after the commit. `work` may run again after a rollback, and
    /// must refuse before it writes.
    pub(super) async fn write<T, W>(&self, size: Size, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnMut(&mut Commit<'_>) -> Result<T, Failure> + Send + 'static,
    {
        let room = self.thread.room.enter(size.tenant, size.weight()).await;
        let jobs = self.thread.jobs.lock().clone().ok_or_else(closed)?;
        let (answer, answered) = oneshot::channel();
        let call = Call { work, size, act: self.act.clone(), done: None, answer, _room: room };
        jobs.send(Box::new(call)).map_err(|_| closed())?;
        drop(jobs);
        answered.await.unwrap_or_else(|_| Err(StoreError::Unavailable("the writer stopped".to_owned())))
    }

    /// More calls wait than one transaction takes.
    pub(super) fn is_busy(&self) -> bool {
        self.thread.room.is_busy()
    }

    /// Lets the thread finish the calls under way, and waits until it has closed the files.
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
    /// Answers the caller. `Err`: the transaction failed.
    fn answer(self: Box<Self>, committed: Result<(), StoreError>);
}

struct Call<T, W> {
    work: W,
    size: Size,
    act: Option<Arc<Act>>,
    done: Option<Result<T, StoreError>>,
    answer: oneshot::Sender<Result<T, StoreError>>,
    _room: Place,
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
            Err(failure @ Failure::Postgres(_)) => Err(failure.into()),
        });
        Ok(())
    }

    fn answer(self: Box<Self>, committed: Result<(), StoreError>) {
        let Call { done, answer, .. } = *self;
        // The work is done even if the caller has gone.
        let _ = answer.send(committed.and_then(|()| done.unwrap_or_else(|| Err(closed()))));
    }
}

impl Commit<'_> {
    /// Writes the parts that a transaction has once: parked rows, counters and progress.
    fn finish(&mut self) -> rusqlite::Result<()> {
        settle::park(self)?;
        self.write_counters()?;
        self.write_progress()
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

/// Fails while events cannot be accepted or nothing can be committed. It takes up space for a moment, accepts an event
/// that it rolls back, and commits.
pub(super) fn probe(commit: &mut Commit<'_>) -> Result<(), Failure> {
    commit.connection.execute_batch("SAVEPOINT probe")?;
    let room = commit.prepare("INSERT INTO meta (key, value) VALUES ('probe', zeroblob(65536))");
    let room = room.and_then(|mut insert| insert.execute(())).and_then(|_| super::accept::rehearse(commit));
    if commit.connection.is_autocommit() {
        return room.map_err(Failure::Sqlite);
    }
    commit.connection.execute_batch("ROLLBACK TO probe; RELEASE probe")?;
    room.map_err(|error| Failure::Refused(of_sqlite(&error)))?;
    commit.prepare("UPDATE progress SET next_event = next_event")?.execute(())?;
    Ok(())
}
