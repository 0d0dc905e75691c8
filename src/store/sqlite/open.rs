//! Opening: the checks that change nothing, then migrations and settings.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension};
use uuid::Uuid;

use super::folder::{Folder, at, flags};
use super::log::{self, PAGE_BYTES};
use super::recovery::bring_home;
use super::sealed_urls::seal_urls;
use super::vacuum;
use crate::store::OpenError;
use crate::store::migrate::{self, Migration};
use crate::store::seal::{Belonging, MasterKey, Sealer, random_bytes};
use crate::webhook::DEFAULT_TENANT;
/// The name of a database that is being made, until it is whole.
const NEW_FILE: &str = "postrider.db.new";

const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, sql: include_str!("../../../migrations/sqlite/0001_initial.sql") },
    Migration { version: 2, sql: include_str!("../../../migrations/sqlite/0002_policies.sql") },
    Migration { version: 3, sql: include_str!("../../../migrations/sqlite/0003_replay_retention.sql") },
    Migration { version: 4, sql: include_str!("../../../migrations/sqlite/0004_tenants.sql") },
    Migration { version: 5, sql: include_str!("../../../migrations/sqlite/0005_webhook_health.sql") },
    Migration { version: 6, sql: include_str!("../../../migrations/sqlite/0006_hops.sql") },
    Migration { version: 7, sql: include_str!("../../../migrations/sqlite/0007_checksum.sql") },
    Migration { version: 8, sql: include_str!("../../../migrations/sqlite/0008_disk.sql") },
    Migration { version: 9, sql: include_str!("../../../migrations/sqlite/0009_rejected.sql") },
    Migration { version: 10, sql: include_str!("../../../migrations/sqlite/0010_inlets.sql") },
    Migration { version: 11, sql: include_str!("../../../migrations/sqlite/0011_exchanges.sql") },
    Migration { version: 12, sql: include_str!("../../../migrations/sqlite/0012_figures.sql") },
];

/// The version of a database that is up to date.
pub(in crate::store) const SCHEMA_VERSION: i64 = migrate::latest(MIGRATIONS);

/// `PRAGMA application_id`: "PRDR" in ASCII.
const APPLICATION_ID: i32 = 0x5052_4452;
/// SQLite 3.51.3, the first without the corruption described at <https://sqlite.org/wal.html#walreset>.
const OLDEST_SQLITE: (i32, &str) = (3_051_003, "3.51.3");
/// The first bytes of every SQLite 3 database: <https://sqlite.org/fileformat2.html#magic_header_string>.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
const HEADER_BYTES: usize = 100;
/// Where the header has `user_version` and `application_id`, big-endian.
const USER_VERSION_AT: usize = 60;
const APPLICATION_ID_AT: usize = 68;
/// The time limit of the integrity check at a start, so that a large database starts soon.
const MAX_CHECK: Duration = Duration::from_secs(1);
/// Steps of SQLite's virtual machine between two checks of this limit.
const CHECK_STEPS: i32 = 10_000;
/// The size to which the log is truncated after a burst, in bytes.
const WAL_KEPT_BYTES: u64 = 32 << 20;
/// Page cache of the writer and of each reader, in KiB.
const WRITER_CACHE_KIB: i64 = 32 << 10;
const READER_CACHE_KIB: i64 = 2 << 10;
/// Prepared statements kept by a connection; there are about seventy.
const CACHED_STATEMENTS: usize = 96;

/// Keys of the table `meta`.
pub(in crate::store) const ID_HASH_KEY: &str = "id_hash_key";
pub(in crate::store) const DELIVERY_ID_KEY: &str = "delivery_id_key";
pub(in crate::store) const MASTER_KEY_CHECK: &str = "master_key_check";
pub(super) const MASTER_KEY_CHECK_TEXT: &[u8] = b"postrider";

impl Folder {
    /// Checks the database, or makes one, and opens it for the writer.
    pub(super) fn open(&self, master_key: &MasterKey, max_bytes: Option<u64>) -> Result<Connection, OpenError> {
        let found = rusqlite::version_number();
        if found < OLDEST_SQLITE.0 {
            let found = rusqlite::version().to_owned();
            return Err(OpenError::OldSqlite { found, needed: OLDEST_SQLITE.1.to_owned() });
        }
        let sealer = Sealer::new(master_key).map_err(|error| at(&self.database)(io::Error::other(error)))?;
        if self.database.try_exists().map_err(at(&self.database))? {
            self.inspect(&sealer)?;
            bring_home(&self.database)?;
        } else if self.log_length() > 0 {
            return Err(self.corrupt("the write-ahead log is there, the database is not"));
        } else {
            self.create(&sealer)?;
            let folder = self.database.parent().unwrap_or(Path::new("."));
            master_key.keep_new(folder).map_err(at(folder))?;
        }
        let mut connection = self.connect(max_bytes)?;
        seal_urls(&mut connection, self, &sealer)?;
        Ok(connection)
    }

    /// Opens the database for the writer. It must have been checked, and its log must be empty.
    pub(super) fn connect(&self, max_bytes: Option<u64>) -> Result<Connection, OpenError> {
        let open = || -> rusqlite::Result<Connection> {
            let mut connection = Connection::open_with_flags(&self.database, flags(OpenFlags::SQLITE_OPEN_READ_WRITE))?;
            configure(&connection, WRITER_CACHE_KIB)?;
            connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            // The checkpointer makes checkpoints, so that their errors are noticed.
            connection.pragma_update_and_check(None, "wal_autocheckpoint", 0, |_| Ok(()))?;
            connection.pragma_update_and_check(None, "journal_size_limit", sql_integer(WAL_KEPT_BYTES), |_| Ok(()))?;
            migrate(&mut connection)?;
            vacuum::prepare(&connection)?;
            let max_pages = max_bytes.map_or(u64::from(u32::MAX - 1), |bytes| bytes / PAGE_BYTES as u64);
            connection.pragma_update_and_check(None, "max_page_count", sql_integer(max_pages), |_| Ok(()))?;
            Ok(connection)
        };
        open().map_err(|error| self.failed(error))
    }

    /// Opens an existing database of this program unchanged, for work on the file alone.
    pub(super) fn open_existing(&self) -> Result<Connection, OpenError> {
        self.inspect_header()?;
        Connection::open_with_flags(&self.database, flags(OpenFlags::SQLITE_OPEN_READ_WRITE))
            .map_err(|error| self.failed(error))
    }

    /// A connection to the unchanged database, after the checks of [`Folder::open`], which change nothing either.
    pub(in crate::store) fn open_unchanged(&self, sealer: &Sealer) -> Result<Connection, OpenError> {
        self.inspect(sealer)?;
        self.open_unchanging().map_err(|error| self.failed(error))
    }

    /// A connection for checkpoints.
    pub(super) fn open_copier(&self) -> Result<Connection, OpenError> {
        let open = || -> rusqlite::Result<Connection> {
            let connection = Connection::open_with_flags(&self.database, flags(OpenFlags::SQLITE_OPEN_READ_WRITE))?;
            configure(&connection, READER_CACHE_KIB)?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            // SQLite notices the log only at the first read.
            connection.query_row("SELECT count(*) FROM meta", (), |_| Ok(()))?;
            Ok(connection)
        };
        open().map_err(|error| self.failed(error))
    }

    /// A connection that can only read.
    pub(super) fn open_reader(&self) -> Result<Connection, OpenError> {
        let open = || -> rusqlite::Result<Connection> {
            let connection = Connection::open_with_flags(&self.database, flags(OpenFlags::SQLITE_OPEN_READ_ONLY))?;
            configure(&connection, READER_CACHE_KIB)?;
            connection.pragma_update(None, "query_only", true)?;
            Ok(connection)
        };
        open().map_err(|error| self.failed(error))
    }

    /// Refuses a database that this program must not touch. Reads only.
    fn inspect(&self, sealer: &Sealer) -> Result<(), OpenError> {
        self.inspect_header()?;
        let mut connection = self.open_unchanging().map_err(|error| self.failed(error))?;
        let found: i64 = connection
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .map_err(|error| self.failed(error))?;
        migrate::missing(MIGRATIONS, found).map_err(|newer| self.newer(newer.found))?;
        if let Some(reason) = damage(&mut connection).map_err(|error| self.failed(error))? {
            return Err(self.corrupt(&reason));
        }
        if self.fits(&connection, sealer)? { Ok(()) } else { Err(OpenError::WrongMasterKey { path: self.shown() }) }
    }

    /// Whether `sealer` has the master key of the database.
    pub(super) fn fits(&self, connection: &Connection, sealer: &Sealer) -> Result<bool, OpenError> {
        let check = read_meta(connection, MASTER_KEY_CHECK).map_err(|error| self.failed(error))?;
        let check = check.ok_or_else(|| self.corrupt("the check value of the master key is missing"))?;
        Ok(sealer.open(&check, &master_key_check()).is_ok_and(|text| text.as_slice() == MASTER_KEY_CHECK_TEXT))
    }

    /// Recognises files of other programs, and of newer versions of this program, without SQLite.
    pub(super) fn inspect_header(&self) -> Result<(), OpenError> {
        let mut header = [0; HEADER_BYTES];
        let mut file = File::open(&self.database).map_err(at(&self.database))?;
        let length = file.seek(SeekFrom::End(0)).map_err(at(&self.database))?;
        if length < PAGE_BYTES as u64 {
            return Err(self.corrupt(&format!("it is {length} bytes long, which is less than a page")));
        }
        file.rewind().and_then(|()| file.read_exact(&mut header)).map_err(at(&self.database))?;
        let number = |at: usize| header[at..at + 4].iter().fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte));
        if !header.starts_with(MAGIC) {
            return Err(self.corrupt("it is not an SQLite database"));
        }
        if number(APPLICATION_ID_AT) != APPLICATION_ID.cast_unsigned() {
            return Err(self.corrupt("it is another program's SQLite database"));
        }
        let found = i64::from(number(USER_VERSION_AT));
        migrate::missing(MIGRATIONS, found).map_err(|newer| self.newer(newer.found)).map(drop)
    }

    /// Opens the database without changing any file. Without a log, `immutable` keeps SQLite from making one; the
    /// folder's lock makes this safe. With a log, a read-only connection reads through it.
    pub(super) fn open_unchanging(&self) -> rusqlite::Result<Connection> {
        let flags = flags(OpenFlags::SQLITE_OPEN_READ_ONLY);
        if self.log_length() > 0 {
            return Connection::open_with_flags(&self.database, flags);
        }
        let uri = format!("file:{}?immutable=1", percent_encoded(&self.database));
        Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_URI)
    }

    /// Makes the database under another name and renames it, so that a crash leaves a whole database or none.
    fn create(&self, sealer: &Sealer) -> Result<(), OpenError> {
        let new = self.database.with_file_name(NEW_FILE);
        let folder = self.database.parent().unwrap_or(Path::new("."));
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&new)(error)),
            _ => {}
        }
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).map_err(at(&new))?;
        let other = |error: io::Error| at(&new)(error);
        let id_hash_key = random_bytes::<16>().map_err(other)?;
        let delivery_id_key = random_bytes::<16>().map_err(other)?;
        let check = sealer
            .seal(MASTER_KEY_CHECK_TEXT, &master_key_check())
            .map_err(|error| at(&new)(io::Error::other(error)))?;
        let fill = || -> rusqlite::Result<()> {
            let mut connection = Connection::open_with_flags(&new, flags(OpenFlags::SQLITE_OPEN_READ_WRITE))?;
            connection.pragma_update(None, "page_size", sql_integer(PAGE_BYTES as u64))?;
            // This must come before the first write; later it takes a VACUUM.
            connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
            connection.pragma_update(None, "application_id", APPLICATION_ID)?;
            migrate(&mut connection)?;
            write_meta(&connection, ID_HASH_KEY, &id_hash_key)?;
            write_meta(&connection, DELIVERY_ID_KEY, &delivery_id_key)?;
            write_meta(&connection, MASTER_KEY_CHECK, &check)
        };
        fill().map_err(|error| self.failed(error))?;
        File::open(&new).and_then(|file| file.sync_all()).map_err(at(&new))?;
        fs::rename(&new, &self.database).map_err(at(&self.database))?;
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(at(folder))
    }

    fn log_length(&self) -> u64 {
        fs::metadata(log::path(&self.database)).map_or(0, |metadata| metadata.len())
    }

    fn newer(&self, found: i64) -> OpenError {
        OpenError::NewerSchema { path: self.shown(), found, known: migrate::latest(MIGRATIONS) }
    }
}

fn configure(connection: &Connection, cache_kib: i64) -> rusqlite::Result<()> {
    // SQLite must not empty the log by itself when it closes, since it would take pages of a failed sync for written.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // Readers and the writer wait for each other only for moments, as at the end of a checkpoint or in recovery.
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
    connection.pragma_update(None, "cache_size", -cache_kib)?;
    connection.pragma_update(None, "temp_store", "MEMORY")
}

fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    for migration in migrate::missing(MIGRATIONS, found).unwrap_or_default() {
        let transaction = connection.transaction()?;
        transaction.execute_batch(migration.sql)?;
        transaction.pragma_update(None, "user_version", migration.version)?;
        transaction.commit()?;
    }
    Ok(())
}

/// The damage of the database, as far as the check gets within [`MAX_CHECK`].
fn damage(connection: &mut Connection) -> rusqlite::Result<Option<String>> {
    let start = Instant::now();
    connection.progress_handler(CHECK_STEPS, Some(move || start.elapsed() > MAX_CHECK))?;
    let found = connection.pragma_query_value(None, "quick_check", |row| row.get::<_, String>(0));
    connection.progress_handler(0, None::<fn() -> bool>)?;
    match found {
        Ok(text) if text == "ok" => Ok(None),
        Ok(text) => Ok(Some(text)),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn master_key_check() -> Belonging<'static> {
    Belonging { tenant: DEFAULT_TENANT, webhook: Uuid::nil(), field: MASTER_KEY_CHECK }
}

pub(in crate::store) fn read_meta(connection: &Connection, key: &str) -> rusqlite::Result<Option<Vec<u8>>> {
    connection.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0)).optional()
}

fn write_meta(connection: &Connection, key: &str, value: &[u8]) -> rusqlite::Result<()> {
    connection.execute("INSERT INTO meta (key, value) VALUES (?1, ?2)", (key, value)).map(drop)
}

fn sql_integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A path for a `file:` URI: <https://sqlite.org/uri.html>.
fn percent_encoded(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.');
    percent_encode(path.as_os_str().as_bytes(), ENCODED).to_string()
}
