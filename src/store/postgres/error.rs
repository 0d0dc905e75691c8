//! Why an operation did not succeed, and what an error of the server, or of the way to it, means to a caller.

use std::error::Error as _;

use tokio_postgres::Error;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{WasNull, WrongType};

use crate::store::StoreError;

/// Why an operation did not succeed.
#[derive(Debug)]
pub(in crate::store) enum Failure {
    /// What was asked for is not done; the connection is as before.
    Refused(StoreError),
    Postgres(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
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
            Failure::Postgres(error) => store_error(&error),
        }
    }
}

/// What was read cannot have been written.
pub(in crate::store) fn corrupt(error: impl std::fmt::Display) -> Failure {
    Failure::Refused(StoreError::Corrupt(error.to_string()))
}

/// The error of a statement, or of a commit. Nothing is said of whether a commit took place: with the connection gone,
/// nobody knows.
pub(super) fn store_error(error: &Error) -> StoreError {
    let text = text(error);
    match error.code() {
        Some(code) if *code == SqlState::DISK_FULL => StoreError::Full(text),
        Some(code) if [SqlState::DATA_CORRUPTED, SqlState::INDEX_CORRUPTED].contains(code) => StoreError::Corrupt(text),
        None if is_unreadable(error) => StoreError::Corrupt(text),
        _ => StoreError::Unavailable(text),
    }
}

/// Whether the same transaction may succeed when it is done again: another one was in its way.
pub(super) fn is_passing(error: &Error) -> bool {
    let passing = [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED];
    error.code().is_some_and(|code| passing.contains(code))
}

/// Whether a row found no partition: no constraint of this schema can be violated by what the program writes.
pub(super) fn lacks_partition(error: &Error) -> bool {
    error.code() == Some(&SqlState::CHECK_VIOLATION)
}

/// A column's value that no version of this program writes.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(in crate::store) struct Unreadable(pub(in crate::store) String);

fn is_unreadable(error: &Error) -> bool {
    error.source().is_some_and(|source| source.is::<Unreadable>() || source.is::<WasNull>() || source.is::<WrongType>())
}

/// What the server said, or what came in between. Never parameters, so no secret.
pub(super) fn text(error: &Error) -> String {
    match (error.as_db_error(), error.source()) {
        (Some(db), _) => format!("{} ({})", db.message(), db.code().code()),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}
