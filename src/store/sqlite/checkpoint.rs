//! Keeping the write-ahead log short without holding up the writer.
//!
//! A checkpoint copies the log's pages into the database and syncs both, which takes milliseconds that everybody who
//! waits for a commit would wait too. So a thread of its own does that while the writer goes on, and the writer copies the
//! few pages that came meanwhile when nobody waits for it: with all pages copied, the log begins anew.
//! <https://sqlite.org/wal.html#checkpointing>

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use rusqlite::Connection;
use tracing::error;

use super::recovery::is_failed_write;

/// A checkpoint for each 16 MiB of log measured best; with 1,000 pages hot pages are copied too often.
const CHECKPOINT_PAGES: u32 = 4_000;
/// Growth of the log after which the writer itself finishes a checkpoint although calls wait, and after which the next
/// checkpoint is tried while a reader keeps the log from starting over.
const SLACK_PAGES: u32 = 1_000;

/// The writer's handle to the thread that copies.
pub(super) struct Checkpointer {
    /// Pages in the log as of the last commit.
    pages: Arc<AtomicU32>,
    is_copying: Arc<AtomicBool>,
    /// The thread could not write to the database or sync it.
    has_failed: Arc<AtomicBool>,
    wanted: Option<mpsc::SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
    stage: Stage,
}

/// The state of the next checkpoint.
#[derive(Clone, Copy)]
enum Stage {
    /// The checkpoint begins at this many pages.
    Waiting { at: u32 },
    /// The thread was asked when the log had this many pages.
    Copying { from: u32 },
}

impl Checkpointer {
    /// Takes over the checkpoints of `writer`. `copier` is a connection to the same file that may write.
    pub(super) fn start(writer: &mut Connection, copier: Connection) -> io::Result<Self> {
        let (pages, is_copying) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
        let has_failed = Arc::new(AtomicBool::new(false));
        let (wanted, asked) = mpsc::sync_channel(1);
        let counter = Arc::clone(&pages);
        // This hook replaces SQLite's own checkpoints.
        let hooked = writer.wal_hook(Some(move |_: &mut _, pages: i32| {
            counter.store(pages.unsigned_abs(), Ordering::Relaxed);
            Ok(())
        }));
        hooked.map_err(io::Error::other)?;
        let (busy, failed) = (Arc::clone(&is_copying), Arc::clone(&has_failed));
        let thread = std::thread::Builder::new().name("store-checkpoint".to_owned()).spawn(move || {
            while asked.recv().is_ok() {
                if !copy(&copier) {
                    failed.store(true, Ordering::Release);
                }
                busy.store(false, Ordering::Release);
            }
        })?;
        let stage = Stage::Waiting { at: CHECKPOINT_PAGES };
        Ok(Self { pages, is_copying, has_failed, wanted: Some(wanted), thread: Some(thread), stage })
    }

    /// Called after a commit of `writer`. `is_idle`: no call waits. `false`: the disk failed, and the content of the
    /// database is unknown.
    #[must_use]
    pub(super) fn advance(&mut self, writer: &Connection, is_idle: bool) -> bool {
        let pages = self.pages.load(Ordering::Relaxed);
        match self.stage {
            Stage::Waiting { at } if pages >= at => {
                self.is_copying.store(true, Ordering::Release);
                if self.wanted.as_ref().is_some_and(|wanted| wanted.try_send(()).is_ok()) {
                    self.stage = Stage::Copying { from: pages };
                }
            }
            // The log has started over.
            Stage::Waiting { at } if at > CHECKPOINT_PAGES && pages < CHECKPOINT_PAGES => {
                self.stage = Stage::Waiting { at: CHECKPOINT_PAGES };
            }
            Stage::Copying { from } if !self.is_copying.load(Ordering::Acquire) => {
                if pages < from {
                    // The copy was finished without a commit meanwhile, so the next commit has started the log over.
                    self.stage = Stage::Waiting { at: CHECKPOINT_PAGES };
                } else if is_idle || pages >= from.saturating_add(SLACK_PAGES) {
                    if !copy(writer) {
                        self.has_failed.store(true, Ordering::Release);
                    }
                    self.stage = Stage::Waiting { at: pages.saturating_add(SLACK_PAGES).max(CHECKPOINT_PAGES) };
                }
            }
            Stage::Waiting { .. } | Stage::Copying { .. } => {}
        }
        !self.has_failed.load(Ordering::Acquire)
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.wanted = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Copies the part of the log that no reader needs any more, without waiting for readers. `false`: the disk failed.
fn copy(connection: &Connection) -> bool {
    let Err(error) = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", (), |_| Ok(())) else { return true };
    error!(%error, "a checkpoint failed; the write-ahead log grows until one succeeds");
    !is_failed_write(&error)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::{Duration, Instant};

    use super::*;

    /// A database whose log is copied by a thread, and its writer.
    struct Logged {
        folder: tempfile::TempDir,
        writer: Connection,
        checkpointer: Checkpointer,
    }

    fn connect(path: &Path) -> Connection {
        let connection = Connection::open(path).unwrap();
        connection.query_row("PRAGMA journal_mode = WAL", (), |_| Ok(())).unwrap();
        connection
    }

    impl Logged {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("log.db");
            let mut writer = connect(&path);
            writer.execute_batch("CREATE TABLE filler (bytes BLOB)").unwrap();
            let checkpointer = Checkpointer::start(&mut writer, connect(&path)).unwrap();
            Self { folder, writer, checkpointer }
        }

        /// Commits about so many pages.
        fn write(&mut self, pages: u32) {
            self.writer.execute("INSERT INTO filler VALUES (zeroblob(?1))", [pages * 4_096]).unwrap();
        }

        fn pages_in_log(&self) -> u32 {
            self.checkpointer.pages.load(Ordering::Relaxed)
        }

        /// Lets the thread finish what it was asked.
        fn wait_for_copy(&self) {
            let since = Instant::now();
            while self.checkpointer.is_copying.load(Ordering::Acquire) {
                assert!(since.elapsed() < Duration::from_secs(30), "the thread does not end its copy");
                std::thread::yield_now();
            }
        }

        /// Reads what is there now, until it is dropped.
        fn reader(&self) -> Connection {
            let reader = connect(&self.folder.path().join("log.db"));
            reader.execute_batch("BEGIN; SELECT count(*) FROM filler").unwrap();
            reader
        }

        fn rows(&self) -> i64 {
            self.reader().query_row("SELECT count(*) FROM filler", (), |row| row.get(0)).unwrap()
        }
    }

    #[test]
    fn the_log_begins_anew_when_nobody_waits() {
        let mut logged = Logged::new();
        logged.write(CHECKPOINT_PAGES);
        // The thread copies what is there as of now.
        let reader = logged.reader();
        logged.write(10);
        assert!(logged.checkpointer.advance(&logged.writer, false));
        logged.wait_for_copy();
        drop(reader);
        assert!(logged.checkpointer.advance(&logged.writer, false));
        logged.write(1);
        assert!(logged.pages_in_log() > CHECKPOINT_PAGES, "a call waits: later");
        assert!(logged.checkpointer.advance(&logged.writer, true));
        logged.write(1);
        assert!(logged.pages_in_log() < 10, "{}", logged.pages_in_log());
        assert_eq!(logged.rows(), 4);
    }

    #[test]
    fn the_log_stays_short_though_calls_always_wait() {
        let mut logged = Logged::new();
        for _ in 0..400 {
            logged.write(100);
            assert!(logged.checkpointer.advance(&logged.writer, false));
            logged.wait_for_copy();
            assert!(logged.pages_in_log() <= CHECKPOINT_PAGES + 2 * SLACK_PAGES, "{}", logged.pages_in_log());
        }
        assert_eq!(logged.rows(), 400);
    }

    #[test]
    fn a_reader_that_stays_delays_it_and_costs_no_checkpoint_a_commit() {
        let mut logged = Logged::new();
        logged.write(1);
        let reader = logged.reader();
        let mut copies = 0;
        for _ in 0..80 {
            logged.write(100);
            let was_waiting = matches!(logged.checkpointer.stage, Stage::Waiting { .. });
            assert!(logged.checkpointer.advance(&logged.writer, true));
            copies += u32::from(was_waiting && matches!(logged.checkpointer.stage, Stage::Copying { .. }));
            logged.wait_for_copy();
        }
        assert!(logged.pages_in_log() >= 8_000, "the reader needs the log");
        assert!((2..=5).contains(&copies), "{copies}");
        drop(reader);
        for _ in 0..12 {
            logged.write(100);
            assert!(logged.checkpointer.advance(&logged.writer, true));
            logged.wait_for_copy();
        }
        assert!(logged.pages_in_log() < 2_000, "{}", logged.pages_in_log());
        assert_eq!(logged.rows(), 93);
    }
}
