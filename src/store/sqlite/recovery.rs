//! What a log may hide after a disk has failed, and how it is made sure of.
//!
//! A write that failed leaves pages in the kernel's cache that look as if they were on the disk: ext4 and XFS mark them
//! clean, the next `fsync` succeeds, and ext4 leaves the new part of a file marked as never written even when the same
//! page is written again. Whoever reads sees what was written, until the cache is dropped or the power fails. So neither
//! another `fsync` nor writing the same log again makes anything durable.
//! (Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020.)
//!
//! What readers can see goes another way, therefore: from the log, whose synced part is on the disk, into the database,
//! whose cached pages are dropped before, so that they are written as if for the first time; then it is read back from the
//! disk itself, past the cache; and only then the log is cut to nothing, which gives its blocks back. A log that is not
//! empty is the mark of all this: it outlives the process, and no start accepts anything before.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};
use tracing::{error, info};

use super::disk::{self, DiskFile};
use super::folder::{at, flags};
use super::log::{self, Log, PAGE_BYTES, page_hash};
use crate::store::OpenError;

/// The header of a log's index, which says how much of the log readers see:
/// <https://sqlite.org/walformat.html#the_wal_index_file_format>.
const INDEX_HEADER_BYTES: usize = 48;
const IS_INITIALIZED_AT: usize = 12;
const FRAMES_AT: usize = 16;
const INDEX_SALTS_AT: usize = 32;
const LOG_SALTS_AT: usize = 16;

/// Whether the error means that earlier writes may not be on the disk.
pub(super) fn is_failed_write(error: &rusqlite::Error) -> bool {
    let rusqlite::Error::SqliteFailure(failure, _) = error else { return false };
    let writing = [
        ffi::SQLITE_IOERR,
        ffi::SQLITE_IOERR_WRITE,
        ffi::SQLITE_IOERR_FSYNC,
        ffi::SQLITE_IOERR_DIR_FSYNC,
        ffi::SQLITE_IOERR_TRUNCATE,
        ffi::SQLITE_IOERR_CLOSE,
    ];
    failure.code == ErrorCode::SystemIoFailure && writing.contains(&failure.extended_code)
}

/// Copies the log into the database and to the disk, and empties the log. The database must not be open.
pub(super) fn bring_home(database: &Path) -> Result<(), OpenError> {
    let Some(log) = Log::read(database).map_err(at(database))? else { return Ok(()) };
    if log.is_damaged() {
        keep_damaged(database, &log)?;
    }
    if log.frames > 0 {
        drop_cached(database, &log).map_err(at(database))?;
        let copied = checkpoint(database, "PRAGMA wal_checkpoint(FULL)")?;
        if copied != log.frames {
            let reason = format!("{copied} of the {} frames of its log were copied", log.frames);
            return Err(OpenError::Path { path: database.display().to_string(), reason });
        }
        read_back(database, &log)?;
        info!(frames = log.frames, "what was in the write-ahead log is in the database");
    }
    checkpoint(database, "PRAGMA wal_checkpoint(TRUNCATE)").map(drop)
}

/// Returns the number of copied frames.
fn checkpoint(database: &Path, statement: &str) -> Result<u32, OpenError> {
    let run = || -> rusqlite::Result<(bool, i64)> {
        let connection = Connection::open_with_flags(database, flags(OpenFlags::SQLITE_OPEN_READ_WRITE))?;
        // Closing leaves the log unchanged.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        // Only now does it know that there is a log.
        connection.query_row("SELECT count(*) FROM sqlite_schema", (), |_| Ok(()))?;
        connection.query_row(statement, (), |row| Ok((row.get(0)?, row.get(2)?)))
    };
    let failed = |reason: String| OpenError::Path { path: database.display().to_string(), reason };
    match run() {
        Ok((false, copied)) => Ok(u32::try_from(copied).unwrap_or_default()),
        Ok((true, _)) => Err(failed("another program reads it".to_owned())),
        Err(error) => Err(failed(format!("the write-ahead log cannot be copied: {error}"))),
    }
}

/// Drops the pages that the checkpoint is about to write from the kernel's cache, which may differ from the disk after
/// a failed write.
fn drop_cached(database: &Path, log: &Log) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(database)?;
    // Dirty pages would stay in the cache.
    file.sync_data()?;
    runs(log.pages.keys().copied(), usize::MAX)
        .into_iter()
        .try_for_each(|(first, count)| disk::forget(&file, place(first), count * PAGE_BYTES))
}

fn place(page: u32) -> u64 {
    u64::from(page.saturating_sub(1)) * PAGE_BYTES as u64
}

/// Runs of at most `most` adjacent pages: the first page and the number of pages.
fn runs(pages: impl Iterator<Item = u32>, most: usize) -> Vec<(u32, usize)> {
    let mut runs: Vec<(u32, usize)> = Vec::new();
    for page in pages {
        match runs.last_mut() {
            Some((first, count)) if *count < most && u64::from(page) == u64::from(*first) + *count as u64 => {
                *count += 1;
            }
            _ => runs.push((page, 1)),
        }
    }
    runs
}

/// Fails unless every page on the disk equals the page in the log.
fn read_back(database: &Path, log: &Log) -> Result<(), OpenError> {
    let mut disk = DiskFile::open(database).map_err(at(database))?;
    // The log may still have pages beyond the end of the database.
    let pages = log.pages.range(..=log.database_pages);
    for (first, count) in runs(pages.map(|(page, _)| *page), disk::MAX_READ_BYTES / PAGE_BYTES) {
        let bytes = disk.read(place(first), count * PAGE_BYTES).map_err(at(database))?;
        for (number, page) in (first..).zip(bytes.chunks_exact(PAGE_BYTES)) {
            if log.pages.get(&number) != Some(&page_hash(page)) {
                let reason = format!("page {number} is not on the disk as it was written");
                return Err(OpenError::Path { path: database.display().to_string(), reason });
            }
        }
    }
    Ok(())
}

/// Keeps a log from which committed transactions cannot be read under another name, since the next log takes its place.
fn keep_damaged(database: &Path, log: &Log) -> Result<(), OpenError> {
    let path = log::path(database);
    let kept = free_name(&path);
    fs::copy(&path, &kept).and_then(|_| File::open(&kept)?.sync_all()).map_err(at(&kept))?;
    error!(
        commits = log.unreachable_commits, kept = %kept.display(),
        "the write-ahead log is damaged in the middle: what was committed behind the damage is lost; the log is kept, and a \
         backup may have it"
    );
    Ok(())
}

fn free_name(path: &Path) -> PathBuf {
    let named = |n: u32| {
        let mut name = path.to_owned().into_os_string();
        name.push(format!(".damaged-{n}"));
        PathBuf::from(name)
    };
    (1..u32::MAX).map(named).find(|path| !path.exists()).unwrap_or_else(|| named(u32::MAX))
}

/// Cuts transactions off the log that no reader has seen: they were refused, and must not come back. All connections
/// were just closed, and their shared index is as the last commit left it.
pub(super) fn cut_uncommitted(database: &Path) -> Result<(), OpenError> {
    let path = log::path(database);
    let cut = || -> io::Result<()> {
        let mut index = database.to_owned().into_os_string();
        index.push("-shm");
        let mut header = [0; 2 * INDEX_HEADER_BYTES];
        File::open(index)?.read_exact(&mut header)?;
        let (header, copy) = header.split_at(INDEX_HEADER_BYTES);
        if header != copy || header[IS_INITIALIZED_AT] == 0 {
            return Err(io::Error::other("the index of the log is damaged"));
        }
        let number = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let frames = number(FRAMES_AT);
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let length = log::length(frames);
        if frames > 0 {
            let mut salts = [0; 8];
            file.read_exact_at(&mut salts, LOG_SALTS_AT as u64)?;
            if salts != header[INDEX_SALTS_AT..INDEX_SALTS_AT + 8] || file.metadata()?.len() < length {
                return Err(io::Error::other("the log is not the one that its index is of"));
            }
        }
        file.set_len(length)?;
        file.sync_all()
    };
    cut().map_err(at(&path))
}
