//! A copy of a database for where its own files must not be touched.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::bail;
use tempfile::TempDir;

/// The largest database that is copied, its log included.
const MAX_COPIED_BYTES: u64 = 1 << 30;
/// How often a copy is begun anew because the database has changed meanwhile.
const MAX_TRIES: u32 = 5;
/// What SQLite keeps beside a database and needs for reading it.
const BESIDE: [&str; 2] = ["-wal", "-journal"];
/// How a database begins, and the place and a value of the byte that says how it is written
/// (<https://sqlite.org/fileformat.html#the_database_header>).
const MAGIC: &[u8] = b"SQLite format 3\0";
const READ_VERSION_AT: usize = 19;
const WAL: u8 = 2;

/// Whether SQLite reads the file where it is without making files beside it. Those would be the caller's, and might shut
/// DECNET out.
pub(super) fn can_be_read_in_place(path: &Path) -> io::Result<bool> {
    let mut header = [0; READ_VERSION_AT + 1];
    let is_wal = match File::open(path)?.read_exact(&mut header) {
        Ok(()) => header.starts_with(MAGIC) && header[READ_VERSION_AT] == WAL,
        // Nothing, or no database; SQLite says so.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => false,
        Err(error) => return Err(error),
    };
    let is_there = |suffix| beside(path, suffix).exists();
    Ok(if is_wal { is_there("-wal") && is_there("-shm") } else { !is_there("-journal") })
}

/// A database with what is beside it, in a folder that goes with this.
pub(super) struct Copied {
    folder: TempDir,
}

impl Copied {
    pub(super) fn of(path: &Path) -> anyhow::Result<Self> {
        for _ in 0..MAX_TRIES {
            let before = state(path)?;
            let bytes: u64 = before.iter().flatten().map(|(bytes, _)| bytes).sum();
            if bytes > MAX_COPIED_BYTES {
                bail!("it has {bytes} bytes, and one that must be copied may have {MAX_COPIED_BYTES}");
            }
            let copied = Self { folder: tempfile::tempdir()? };
            for suffix in BESIDE.into_iter().chain([""]) {
                let from = beside(path, suffix);
                if from.exists() {
                    fs::copy(from, beside(&copied.path(), suffix))?;
                }
            }
            if state(path)? == before {
                return Ok(copied);
            }
        }
        bail!("it changes while it is copied; try again while DECNET is stopped")
    }

    pub(super) fn path(&self) -> PathBuf {
        self.folder.path().join("copy.db")
    }
}

/// The size and the time of the last change of each file that is there.
fn state(path: &Path) -> io::Result<Vec<Option<(u64, SystemTime)>>> {
    let one = |suffix| match fs::metadata(beside(path, suffix)) {
        // Whoever reads a pipe waits for its writer.
        Ok(metadata) if !metadata.is_file() => {
            let reason = format!("{} is no regular file", beside(path, suffix).display());
            Err(io::Error::new(io::ErrorKind::InvalidInput, reason))
        }
        Ok(metadata) => metadata.modified().map(|at| Some((metadata.len(), at))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    BESIDE.into_iter().chain([""]).map(one).collect()
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}
