//! What an error of the server means for the transaction that met it.

use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

/// Whether the transaction may succeed on a retry, since it failed because of a concurrent one.
pub(super) fn is_passing(error: &Error) -> bool {
    let passing = [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED];
    error.code().is_some_and(|code| passing.contains(code))
}

/// Whether a row found no partition: no constraint of this schema can be violated by what the program writes.
pub(super) fn lacks_partition(error: &Error) -> bool {
    error.code() == Some(&SqlState::CHECK_VIOLATION)
}
