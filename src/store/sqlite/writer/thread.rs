//! The thread that writes: one transaction after another, and what it does when the disk fails or the folder goes.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tracing::{error, info, warn};

use super::Job;
use super::queue::{Pace, Queue, Waited};
use crate::store::StoreError;
use crate::store::failure::of_sqlite;
use crate::store::gather::CommitLog;
use crate::store::sqlite::commit::{Commit, State, closed};
use crate::store::sqlite::disk;
use crate::store::sqlite::files::Files;
use crate::store::sqlite::recovery::is_failed_write;

/// The interval of checks of the folder while nothing is written.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The first delay between two tries of a failed disk; it doubles up to [`MAX_TRY_DELAY`].
const TRY_DELAY: Duration = Duration::from_millis(100);
const MAX_TRY_DELAY: Duration = Duration::from_secs(5);

pub(super) struct Thread {
    files: Files,
    state: State,
    pace: Pace,
    disk: Disk,
    /// The last check found that the folder was moved or replaced.
    has_moved: bool,
    log: CommitLog,
}

/// The state of the disk.
enum Disk {
    Sound,
    /// A write or a sync failed. The content of the disk is unknown, and nothing is committed.
    Failed {
        error: String,
        try_at: Instant,
        delay: Duration,
    },
}

impl Thread {
    pub(super) fn new(files: Files, state: State) -> Self {
        Self { files, state, pace: Pace::default(), disk: Disk::Sound, has_moved: false, log: CommitLog::default() }
    }

    /// Works until all handles are dropped, then closes the files.
    pub(super) fn run(mut self, mut queue: Queue) {
        loop {
            self.advance_checkpoint(queue.is_idle());
            let waited = queue.wait(self.rest());
            match waited {
                Waited::Call => {}
                Waited::Nothing => self.look_at_folder(),
                Waited::Closed => break,
            }
            self.try_disk();
            if waited == Waited::Call {
                let calls = queue.gather(&self.pace);
                match self.refusal() {
                    Some(refusal) => answer(calls, &Err(refusal)),
                    None => self.work_off(calls),
                }
            }
        }
        let is_sound = matches!(self.disk, Disk::Sound);
        self.files.close(is_sound);
    }

    /// The longest wait for a call.
    fn rest(&self) -> Duration {
        match &self.disk {
            Disk::Sound => LOOK_EVERY,
            Disk::Failed { try_at, .. } => try_at.saturating_duration_since(Instant::now()).min(LOOK_EVERY),
        }
    }

    /// The reason why nothing is committed now.
    fn refusal(&self) -> Option<StoreError> {
        let reason = match &self.disk {
            _ if self.has_moved => {
                "its folder was removed or replaced while the server ran: put it back, or restart the server".to_owned()
            }
            Disk::Failed { error, .. } => {
                format!("the disk failed ({error}); nothing is accepted until all that was committed is on it again")
            }
            Disk::Sound => return None,
        };
        Some(StoreError::Unavailable(reason))
    }

    fn work_off(&mut self, mut jobs: Vec<Box<dyn Job>>) {
        let committed = self.commit(&mut jobs);
        if jobs.len() > 1 && matches!(committed, Err(StoreError::Full(_))) {
            // A call that needs space must not make calls fail that need none.
            for job in jobs {
                let mut alone = [job];
                let committed = self.commit(&mut alone);
                self.log.note(&committed);
                answer(alone, &committed);
            }
            return;
        }
        self.log.note(&committed);
        answer(jobs, &committed);
    }

    /// Makes one transaction. A commit to files that were moved away counts as failed.
    fn commit(&mut self, jobs: &mut [Box<dyn Job>]) -> Result<(), StoreError> {
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        let Some(connection) = self.files.connection() else { return Err(closed()) };
        match commit(connection, &mut self.state, &mut self.pace, jobs) {
            Ok(()) => {
                self.look_at_folder();
                self.refusal().map_or(Ok(()), Err)
            }
            Err(error) => {
                if is_failed_write(&error) {
                    self.fail(error.to_string());
                }
                Err(of_sqlite(&error))
            }
        }
    }

    fn look_at_folder(&mut self) {
        let has_moved = !self.files.folder().is_in_place();
        if has_moved && !self.has_moved {
            let path = self.files.folder().database.display().to_string();
            error!(path, "the database is not where it was: it was removed or replaced; nothing is accepted");
        } else if self.has_moved && !has_moved {
            info!("the database is where it was");
        }
        self.has_moved = has_moved;
    }

    fn advance_checkpoint(&mut self, is_idle: bool) {
        if matches!(self.disk, Disk::Sound) && !self.files.advance_checkpoint(is_idle) {
            self.fail("a checkpoint failed".to_owned());
        }
    }

    fn fail(&mut self, error: String) {
        error!(error, "the disk failed; nothing is accepted until all that was committed is on it again");
        self.disk = Disk::Failed { error, try_at: Instant::now() + TRY_DELAY, delay: TRY_DELAY };
    }

    /// After a failed disk works again, writes the state that readers see to it anew.
    fn try_disk(&mut self) {
        let Disk::Failed { try_at, delay, .. } = &mut self.disk else { return };
        if self.has_moved || Instant::now() < *try_at {
            return;
        }
        let folder = self.files.folder().database.parent().unwrap_or(Path::new("."));
        match disk::attempt_write(folder).and_then(|()| self.files.open_anew()) {
            Ok(()) => {
                info!("the disk works again, and has all that was committed");
                self.disk = Disk::Sound;
            }
            Err(error) => {
                if *delay == MAX_TRY_DELAY {
                    warn!(%error, "the disk still fails");
                }
                *delay = (*delay * 2).min(MAX_TRY_DELAY);
                *try_at = Instant::now() + *delay;
            }
        }
    }
}

/// Makes one transaction of all of `jobs`. After an error none is done, and the state is unchanged.
fn commit(
    connection: &Connection,
    state: &mut State,
    pace: &mut Pace,
    jobs: &mut [Box<dyn Job>],
) -> rusqlite::Result<()> {
    let began_at = Instant::now();
    let weight = jobs.iter().map(|job| job.size().weight() as u64).sum();
    let write = || -> rusqlite::Result<()> {
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute(())?;
        let mut commit = Commit { connection, state, act: None };
        for job in jobs {
            job.apply(&mut commit)?;
        }
        commit.finish()?;
        let written_at = Instant::now();
        connection.prepare_cached("COMMIT")?.execute(())?;
        pace.note(weight, written_at - began_at, written_at.elapsed());
        Ok(())
    };
    let written = write();
    if written.is_ok() {
        // Before the callers are answered: they free their reservations of quotas then, and rely on these gauges.
        state.gauges.add(state.counters.iter().map(|(tenant, counters)| (*tenant, counters.usage())));
    }
    state.counters.clear();
    if written.is_ok() {
        state.window.keep();
    } else {
        state.window.undo();
        // SQLite may have rolled back on its own: https://sqlite.org/lang_transaction.html#immediate
        if !connection.is_autocommit()
            && let Err(error) = connection.execute_batch("ROLLBACK")
        {
            error!(%error, "cannot roll back");
        }
    }
    written
}

fn answer(jobs: impl IntoIterator<Item = Box<dyn Job>>, committed: &Result<(), StoreError>) {
    for job in jobs {
        job.answer(committed.clone());
    }
}
