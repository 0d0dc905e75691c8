//! The embedded store: SQLite in WAL mode, one writer thread with group commit, a pool of readers.

use std::path::Path;

use super::OpenError;
use super::seal::MasterKey;

/// The embedded store.
pub struct SqliteStore {}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqliteOptions {
    /// The database may not grow beyond this many bytes; `None`: the disk is the limit.
    pub max_bytes: Option<u64>,
    /// After this many events without a row for a delivery held in memory, the row is written: bounds what a restart reads back.
    pub memory_window_events: u32,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self { max_bytes: None, memory_window_events: 100_000 }
    }
}

impl SqliteStore {
    /// Opens or creates the store in `folder`; blocks while it does.
    pub fn open(folder: &Path, master_key: &MasterKey, options: SqliteOptions) -> Result<Self, OpenError> {
        let _ = (folder, master_key, options);
        todo!()
    }
}
