//! The open files of a store: the writer's connection, the one that copies the log, and the readers'.

use std::sync::Arc;

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use tracing::error;

use super::checkpoint::Checkpointer;
use super::folder::Folder;
use super::reader::{READERS, Readers};
use super::recovery::{bring_home, cut_uncommitted};
use crate::store::OpenError;

/// All connections to one database, and the lock of its folder.
pub(super) struct Files {
    folder: Folder,
    max_bytes: Option<u64>,
    readers: Arc<Readers>,
    writing: Writing,
}

/// The connections of the writer's thread.
enum Writing {
    Open {
        connection: Connection,
        checkpointer: Checkpointer,
    },
    /// All connections are closed, and the log may end with transactions that were refused.
    Closed,
    /// All connections are closed, and refused transactions are cut off the log.
    Cut,
}

impl Files {
    /// For a database that only `connection` has open.
    pub(super) fn open(mut folder: Folder, connection: Connection, max_bytes: Option<u64>) -> Result<Self, OpenError> {
        let (writing, readers) = connect(&mut folder, connection)?;
        Ok(Self { folder, max_bytes, readers: Arc::new(Readers::new(readers)), writing })
    }

    pub(super) fn readers(&self) -> &Arc<Readers> {
        &self.readers
    }

    pub(super) fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The writer's connection; `None` after a failed [`Self::open_anew`].
    pub(super) fn connection(&self) -> Option<&Connection> {
        match &self.writing {
            Writing::Open { connection, .. } => Some(connection),
            Writing::Closed | Writing::Cut => None,
        }
    }

    /// `false`: the disk failed.
    pub(super) fn advance_checkpoint(&mut self, is_idle: bool) -> bool {
        match &mut self.writing {
            Writing::Open { connection, checkpointer } => checkpointer.advance(connection, is_idle),
            Writing::Closed | Writing::Cut => true,
        }
    }

    /// Closes everything, copies committed transactions from the log to the database, and opens everything again. After
    /// an error nothing is open, and the call must be repeated.
    pub(super) fn open_anew(&mut self) -> Result<(), OpenError> {
        if matches!(self.writing, Writing::Open { .. }) {
            self.readers.suspend();
            // The checkpointer finishes its copy. Closing the connections leaves the log unchanged.
            self.writing = Writing::Closed;
        }
        if matches!(self.writing, Writing::Closed) {
            cut_uncommitted(&self.folder.database)?;
            self.writing = Writing::Cut;
        }
        bring_home(&self.folder.database)?;
        let connection = self.folder.connect(self.max_bytes)?;
        let (writing, readers) = connect(&mut self.folder, connection)?;
        self.writing = writing;
        self.readers.resume(readers);
        Ok(())
    }

    /// If the disk is sound, the log is copied into the database, so that only one file is left.
    pub(super) fn close(self, is_sound: bool) {
        let Writing::Open { connection, checkpointer } = self.writing else { return };
        drop(checkpointer);
        if !is_sound {
            error!("the write-ahead log remains; the next start brings it into the database");
            return;
        }
        let emptied = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(())).and_then(|()| {
            // The last connection removes the log.
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)
        });
        if let Err(error) = emptied {
            error!(%error, "the write-ahead log remains; the next start brings it into the database");
        }
    }
}

fn connect(folder: &mut Folder, mut connection: Connection) -> Result<(Writing, Vec<Connection>), OpenError> {
    let checkpointer = Checkpointer::start(&mut connection, folder.open_copier()?).map_err(folder.cannot_start())?;
    let readers = (0..READERS).map(|_| folder.open_reader()).collect::<Result<_, _>>()?;
    folder.remember_place()?;
    Ok((Writing::Open { connection, checkpointer }, readers))
}
