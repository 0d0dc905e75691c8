//! Giving free space back: databases made by earlier versions cannot do it bit by bit before they are rewritten once.

use std::path::Path;

use super::SqliteStore;
use super::folder::Folder;
use super::vacuum::{rewrite, size};
use crate::store::OpenError;

/// A database's size before and after [`SqliteStore::compact`], in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    pub bytes_before: u64,
    pub bytes_after: u64,
}

impl SqliteStore {
    /// Rewrites the database in `folder`, which must not be open, without its free space. From then on the database can
    /// give space back while it is in use. Blocks, and needs as much free disk space as the database has content.
    pub fn compact(folder: &Path) -> Result<Compacted, OpenError> {
        let folder = Folder::lock(folder)?;
        let connection = folder.open_existing()?;
        let compact = || -> rusqlite::Result<Compacted> {
            let bytes_before = size(&connection)?;
            rewrite(&connection)?;
            connection.pragma_update_and_check(None, "wal_checkpoint", "TRUNCATE", |_| Ok(()))?;
            Ok(Compacted { bytes_before, bytes_after: size(&connection)? })
        };
        compact().map_err(|error| folder.failed(error))
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
    use crate::store::Store;
    use crate::store::seal::MasterKey;
    use crate::store::sqlite::vacuum::{INCREMENTAL, MAX_REWRITTEN_AT_OPEN_BYTES, NONE};
    use crate::store::sqlite::{DATABASE_FILE, SqliteOptions};

    fn open(folder: &Path) -> SqliteStore {
        SqliteStore::open(folder, &MasterKey::new([7; 32]), SqliteOptions::default()).unwrap()
    }

    fn raw(folder: &Path) -> Connection {
        Connection::open(folder.join(DATABASE_FILE)).unwrap()
    }

    fn mode(folder: &Path) -> u32 {
        raw(folder).pragma_query_value(None, "auto_vacuum", |row| row.get(0)).unwrap()
    }

    /// As an earlier version left it, with `filler` bytes of free space in it.
    async fn of_an_earlier_version(folder: &Path, filler: u64) {
        open(folder).close().await;
        let connection = raw(folder);
        connection.pragma_update(None, "auto_vacuum", NONE).unwrap();
        connection.execute_batch("VACUUM; CREATE TABLE filler (bytes BLOB)").unwrap();
        for _ in 0..filler.div_ceil(1 << 20) {
            connection.execute("INSERT INTO filler VALUES (zeroblob(1048576))", ()).unwrap();
        }
        connection.execute_batch("DROP TABLE filler; PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        drop(connection);
        assert_eq!(mode(folder), NONE);
    }

    #[tokio::test]
    async fn a_small_database_of_an_earlier_version_is_rewritten_when_it_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        open(folder.path()).close().await;
        assert_eq!(mode(folder.path()), INCREMENTAL, "a new one needs no rewriting");
        of_an_earlier_version(folder.path(), 1 << 20).await;
        open(folder.path()).close().await;
        assert_eq!(mode(folder.path()), INCREMENTAL);
    }

    #[tokio::test]
    async fn a_large_one_is_left_alone_until_it_is_compacted() {
        let folder = tempfile::tempdir().unwrap();
        of_an_earlier_version(folder.path(), MAX_REWRITTEN_AT_OPEN_BYTES).await;
        let store = open(folder.path());
        assert!(matches!(SqliteStore::compact(folder.path()), Err(OpenError::InUse { .. })));
        store.close().await;
        drop(store);
        assert_eq!(mode(folder.path()), NONE);
        let compacted = SqliteStore::compact(folder.path()).unwrap();
        assert!(
            compacted.bytes_before > MAX_REWRITTEN_AT_OPEN_BYTES && compacted.bytes_after < 1 << 20,
            "{compacted:?}"
        );
        assert_eq!(std::fs::metadata(folder.path().join(DATABASE_FILE)).unwrap().len(), compacted.bytes_after);
        assert_eq!(mode(folder.path()), INCREMENTAL);
        open(folder.path()).close().await;
    }
}
