//! Schema versions: which migrations a database still needs. Both stores apply what this module hands
//! them, each in a transaction that also records the version.

/// One step of a schema. The text of a released migration never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migration {
    /// The schema's version after this migration: from 1, without gaps.
    pub version: i64,
    pub sql: &'static str,
}

/// A database made by a newer program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("schema version {found} is newer than {known}")]
pub struct NewerSchema {
    pub found: i64,
    pub known: i64,
}

/// The version that `migrations` lead to; 0 if there are none.
#[must_use]
pub const fn latest(migrations: &[Migration]) -> i64 {
    match migrations.last() {
        Some(migration) => migration.version,
        None => 0,
    }
}

/// The migrations that a database at version `found` still needs, in order.
pub fn missing(migrations: &'static [Migration], found: i64) -> Result<&'static [Migration], NewerSchema> {
    let known = latest(migrations);
    if found > known {
        return Err(NewerSchema { found, known });
    }
    let done = migrations.partition_point(|migration| migration.version <= found);
    Ok(&migrations[done..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: &[Migration] = &[
        Migration { version: 1, sql: "one" },
        Migration { version: 2, sql: "two" },
        Migration { version: 3, sql: "three" },
    ];

    #[test]
    fn an_old_database_gets_what_it_lacks_in_order() {
        assert_eq!(missing(STEPS, 0), Ok(STEPS));
        assert_eq!(missing(STEPS, 1), Ok(&STEPS[1..]));
        assert_eq!(missing(STEPS, 3), Ok(&STEPS[3..]));
    }

    #[test]
    fn a_newer_database_is_refused() {
        assert_eq!(missing(STEPS, 4), Err(NewerSchema { found: 4, known: 3 }));
    }
}
