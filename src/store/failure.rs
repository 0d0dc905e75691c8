//! Why an operation on a database did not succeed, and what the error of a driver means to a caller.

use std::error::Error as _;

use rusqlite::ErrorCode;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{WasNull, WrongType};

use super::StoreError;

/// The reason why an operation inside a transaction failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The operation has written nothing. The rest of the transaction goes on.
    Refused(StoreError),
    /// The transaction is lost.
    Sqlite(rusqlite::Error),
    /// The transaction is lost.
    Postgres(tokio_postgres::Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Postgres(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(error) => error,
            Failure::Sqlite(error) => of_sqlite(&error),
            Failure::Postgres(error) => of_postgres(&error),
        }
    }
}

/// The stored value is one that no version of this program writes.
pub(super) fn corrupt(error: impl std::fmt::Display) -> Failure {
    Failure::Refused(StoreError::Corrupt(error.to_string()))
}

pub(super) fn of_sqlite(error: &rusqlite::Error) -> StoreError {
    let text = error.to_string();
    match (error, error.sqlite_error_code()) {
        (_, Some(ErrorCode::DiskFull)) => StoreError::Full(text),
        (_, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
        | (
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::IntegralValueOutOfRange(..),
            _,
        ) => StoreError::Corrupt(text),
        _ => StoreError::Unavailable(text),
    }
}

/// The error of a statement or of a commit. After a lost connection it is unknown whether the commit took place.
pub(super) fn of_postgres(error: &tokio_postgres::Error) -> StoreError {
    let text = postgres_text(error);
    match error.code() {
        Some(code) if *code == SqlState::DISK_FULL => StoreError::Full(text),
        Some(code) if [SqlState::DATA_CORRUPTED, SqlState::INDEX_CORRUPTED].contains(code) => StoreError::Corrupt(text),
        None if is_unreadable(error) => StoreError::Corrupt(text),
        _ => StoreError::Unavailable(text),
    }
}

/// The server's message, or the connection's error. Neither contains parameters, so neither contains a secret.
pub(in crate::store) fn postgres_text(error: &tokio_postgres::Error) -> String {
    match (error.as_db_error(), error.source()) {
        (Some(db), _) => format!("{} ({})", db.message(), db.code().code()),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}

/// A column's value in PostgreSQL that no version of this program writes.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unreadable(pub(super) String);

fn is_unreadable(error: &tokio_postgres::Error) -> bool {
    error.source().is_some_and(|source| source.is::<Unreadable>() || source.is::<WasNull>() || source.is::<WrongType>())
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;

    #[test]
    fn an_error_of_sqlite_tells_callers_whether_to_make_room_or_to_wait() {
        let of = |code| of_sqlite(&rusqlite::Error::SqliteFailure(ffi::Error::new(code), None));
        assert!(matches!(of(ffi::SQLITE_FULL), StoreError::Full(_)));
        for code in [
            ffi::SQLITE_IOERR,
            ffi::SQLITE_IOERR_WRITE,
            ffi::SQLITE_IOERR_FSYNC,
            ffi::SQLITE_BUSY,
            ffi::SQLITE_READONLY,
            ffi::SQLITE_CANTOPEN,
        ] {
            assert!(matches!(of(code), StoreError::Unavailable(_)), "{code}");
        }
        for code in [ffi::SQLITE_CORRUPT, ffi::SQLITE_NOTADB] {
            assert!(matches!(of(code), StoreError::Corrupt(_)), "{code}");
        }
    }
}
