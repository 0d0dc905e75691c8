//! DECNET's webhooks: its table `webhook_subscriptions`, read from the SQLite file as the database that it is.

mod copy;
mod patterns;
mod row;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use rusqlite::limits::Limit;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use self::row::Row;
use super::found::Found;
use crate::engine::import::MAX_IMPORTED_WEBHOOKS;

/// The file's name in DECNET's folder.
const FILE: &str = "decnet.db";
const TABLE: &str = "webhook_subscriptions";
/// The largest value read, in bytes.
const MAX_VALUE_BYTES: i32 = 1 << 20;
/// How long a lock of DECNET is waited for.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Columns that every version has.
const NEEDED: [&str; 6] = ["uuid", "name", "url", "secret", "topic_patterns", "enabled"];
/// Columns that an older one may lack.
const OPTIONAL: [&str; 6] =
    ["consecutive_failures", "last_success_at", "last_failure_at", "last_error", "auto_disabled_at", "created_at"];

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// DECNET's `decnet.db`, or the folder that it is in
    #[arg(value_name = "FILE|FOLDER")]
    path: PathBuf,
}

/// All webhooks, oldest first.
pub(super) fn read(args: &Args) -> anyhow::Result<Vec<Found>> {
    let path = if args.path.is_dir() { args.path.join(FILE) } else { args.path.clone() };
    if !path.is_file() {
        bail!("there is no file {}", path.display());
    }
    let what = || format!("cannot read DECNET's webhooks from {}", path.display());
    if copy::can_be_read_in_place(&path).with_context(what)? {
        match read_at(&path, OpenFlags::SQLITE_OPEN_READ_ONLY) {
            Err(error) if needs_a_copy(&error) => {}
            read => return read.with_context(what),
        }
    }
    let copied = copy::Copied::of(&path).with_context(what)?;
    read_at(&copied.path(), OpenFlags::SQLITE_OPEN_READ_WRITE).with_context(what)
}

/// Whether SQLite must write beside the file before it can be read: what a crash has left in its journal is undone first,
/// and the index of its write-ahead log is made.
fn needs_a_copy(error: &anyhow::Error) -> bool {
    let code = error.downcast_ref().and_then(rusqlite::Error::sqlite_error_code);
    matches!(code, Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied))
}

fn read_at(path: &Path, flags: OpenFlags) -> anyhow::Result<Vec<Found>> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)?;
    // The file is another's: no function of SQLite is called for what its schema says.
    connection.pragma_update(None, "trusted_schema", false)?;
    // One state of the database for all that follows.
    let connection = connection.unchecked_transaction()?;
    let columns = columns(&connection)?;
    let list: Vec<&str> = NEEDED
        .into_iter()
        .chain(OPTIONAL)
        .map(|column| if columns.iter().any(|there| there == column) { column } else { "NULL" })
        .collect();
    let order = if columns.iter().any(|there| there == "created_at") { "created_at, uuid" } else { "uuid" };
    let sql = format!("SELECT {} FROM {TABLE} ORDER BY {order} LIMIT {}", list.join(", "), MAX_IMPORTED_WEBHOOKS + 1);
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query(())?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(Row::read(row)?.found());
    }
    Ok(found)
}

/// The columns of the table, which must be one: a view of that name could compute for ever.
fn columns(connection: &Connection) -> anyhow::Result<Vec<String>> {
    let kind = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?1 AND sql NOT LIKE '%VIRTUAL%'";
    if connection.query_row(kind, [TABLE], |row| row.get::<_, i64>(0))? == 0 {
        bail!("it has no table {TABLE}, so it is no database of DECNET, or one from before there were webhooks");
    }
    let mut statement = connection.prepare("SELECT name FROM pragma_table_info(?1)")?;
    let columns = statement.query_map([TABLE], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
    if let Some(missing) = NEEDED.iter().find(|needed| !columns.iter().any(|column| column == *needed)) {
        bail!("its table {TABLE} has no column {missing}");
    }
    Ok(columns)
}
