//! Rewriting a database without its free space, so that it can give space back bit by bit from then on.

use rusqlite::Connection;
use tracing::{info, warn};

/// A database of an earlier version up to this size is rewritten when it is opened, which takes about a second.
pub(super) const MAX_REWRITTEN_AT_OPEN_BYTES: u64 = 64 << 20;
/// `PRAGMA auto_vacuum` of a database that keeps its free pages, and of a database that gives them back on request.
pub(super) const NONE: u32 = 0;
pub(super) const INCREMENTAL: u32 = 2;

/// Rewrites a small database of an earlier version, and logs the advice to rewrite a large one.
pub(super) fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    let mode: u32 = connection.pragma_query_value(None, "auto_vacuum", |row| row.get(0))?;
    if mode != NONE {
        return Ok(());
    }
    let bytes = size(connection)?;
    if bytes > MAX_REWRITTEN_AT_OPEN_BYTES {
        warn!(bytes, "the database was made by an earlier version and keeps its size: run `postrider compact` once");
        return Ok(());
    }
    rewrite(connection)?;
    info!(bytes, "the database was rewritten once, so that it can give space back");
    Ok(())
}

/// <https://sqlite.org/pragma.html#pragma_auto_vacuum>: the mode of a database with tables changes with a VACUUM.
pub(super) fn rewrite(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "auto_vacuum", INCREMENTAL)?;
    connection.execute_batch("VACUUM")
}

pub(super) fn size(connection: &Connection) -> rusqlite::Result<u64> {
    let number = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, u32>(0));
    Ok(u64::from(number("page_count")?) * u64::from(number("page_size")?))
}
