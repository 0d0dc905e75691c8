//! The data folder: its lock, the place of its database, and the errors that name it.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rusqlite::{ErrorCode, OpenFlags};

use super::log;
use crate::store::OpenError;

/// The database in the data folder.
pub const DATABASE_FILE: &str = "postrider.db";
/// The file that the process with the open store locks.
const LOCK_FILE: &str = "postrider.lock";

/// A data folder, locked until this is dropped.
pub(in crate::store) struct Folder {
    pub(in crate::store) database: PathBuf,
    /// The files of the database and its log when they were opened.
    place: Option<[FileId; 2]>,
    /// The lock file and the folder itself: a lock file can be deleted, a folder that has a database cannot.
    _locks: [File; 2],
}

/// The device and the inode of a file.
type FileId = (u64, u64);

/// Makes a data folder that only its owner can enter, unless it is there.
pub(crate) fn create_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

impl Folder {
    pub(in crate::store) fn lock(folder: &Path) -> Result<Self, OpenError> {
        create_folder(folder).map_err(at(folder))?;
        let path = folder.join(LOCK_FILE);
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(at(&path))?;
        let itself = File::open(folder).map_err(at(folder))?;
        for (lock, path) in [(&file, &*path), (&itself, folder)] {
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { path: folder.display().to_string() }),
                // Not every file system can lock a folder.
                Err(TryLockError::Error(_)) if path == folder => {}
                Err(TryLockError::Error(error)) => return Err(at(path)(error)),
            }
        }
        Ok(Self { database: folder.join(DATABASE_FILE), place: None, _locks: [file, itself] })
    }

    /// Remembers the open files, for [`Self::is_in_place`].
    pub(super) fn remember_place(&mut self) -> Result<(), OpenError> {
        self.place = Some(self.found().map_err(at(&self.database))?);
        Ok(())
    }

    /// Whether the files of the database and its log are still the ones that were opened.
    pub(super) fn is_in_place(&self) -> bool {
        self.place.is_none() || self.found().ok() == self.place
    }

    fn found(&self) -> io::Result<[FileId; 2]> {
        let id = |path: &Path| fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()));
        Ok([id(&self.database)?, id(&log::path(&self.database))?])
    }

    /// Makes the error of a thread that does not start.
    pub(super) fn cannot_start(&self) -> impl Fn(io::Error) -> OpenError + use<> {
        at(&self.database)
    }

    pub(super) fn shown(&self) -> String {
        self.database.display().to_string()
    }

    pub(in crate::store) fn corrupt(&self, reason: &str) -> OpenError {
        OpenError::Corrupt { path: self.shown(), reason: reason.to_owned() }
    }

    #[expect(clippy::needless_pass_by_value, reason = "for map_err")]
    pub(in crate::store) fn failed(&self, error: rusqlite::Error) -> OpenError {
        let reason = error.to_string();
        match error.sqlite_error_code() {
            // A missing table or column is as bad as a missing page.
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown) => self.corrupt(&reason),
            _ => OpenError::Path { path: self.shown(), reason },
        }
    }
}

pub(in crate::store) fn at(path: &Path) -> impl Fn(io::Error) -> OpenError + use<> {
    let path = path.display().to_string();
    move |error| OpenError::Path { path: path.clone(), reason: error.to_string() }
}

pub(super) fn flags(access: OpenFlags) -> OpenFlags {
    access | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_EXRESCODE
}
