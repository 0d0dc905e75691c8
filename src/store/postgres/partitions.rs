//! Partitions of the tables that grow: each holds a range of event numbers, and so of time.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, Ordering};

use super::pool::{Connection, Connections};
use crate::delivery::id::EventSeq;
use crate::store::StoreError;
use crate::store::failure::Failure;

/// Event numbers in a partition. It never changes, since a partition's number gives its range.
pub(in crate::store) const EVENTS_PER_PARTITION: i64 = 4_000_000;
/// Partitions that exist beyond the present one.
const PARTITIONS_AHEAD: i64 = 2;
/// `pg_advisory_xact_lock`, held by a transaction that makes or drops partitions.
pub(super) const PARTITIONS_LOCK: i64 = 0x5052_4452_0002;
/// The tables, and the column that they are partitioned by.
pub(super) const PARTITIONED: [&str; 3] = ["event", "delivery", "attempt"];

/// The partitions that are known to exist.
pub(super) struct Partitions {
    /// The first event number without a partition.
    end: AtomicI64,
}

impl Partitions {
    pub(super) fn new() -> Self {
        Self { end: AtomicI64::new(0) }
    }

    /// Whether partitions should be made, now that `newest` is stored.
    pub(super) fn are_wanted(&self, newest: EventSeq) -> bool {
        newest.0 >= self.end.load(Ordering::Relaxed) - PARTITIONS_AHEAD * EVENTS_PER_PARTITION
    }

    /// Makes the missing partitions.
    pub(super) async fn make(&self, connections: &Connections) -> Result<(), StoreError> {
        let mut connection = connections.get().await?;
        let made = async {
            connection.begin().await?;
            make_missing(&connection).await
        };
        let end = made.await?;
        connection.commit().await.map_err(Failure::from)?;
        self.end.fetch_max(end, Ordering::Relaxed);
        Ok(())
    }
}

/// Within a transaction. Returns the first number without a partition.
async fn make_missing(connection: &Connection) -> Result<i64, Failure> {
    connection.execute("SELECT pg_advisory_xact_lock($1)", &[&PARTITIONS_LOCK]).await?;
    let newest: i64 = connection.query_one("SELECT last_value FROM event_number", &[]).await?.try_get(0)?;
    let present = newest / EVENTS_PER_PARTITION;
    let mut numbers: BTreeSet<i64> = (present..=present + PARTITIONS_AHEAD).collect();
    // The partitions of a number are made and dropped together, in all tables.
    let found = connection
        .query(
            "SELECT DISTINCT substring(relname FROM '_p([0-9]+)$')::bigint
             FROM pg_class
             WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace
                 AND relname ~ '^(event|delivery|attempt)_p[0-9]{1,12}$'",
            &[],
        )
        .await?;
    for row in found {
        numbers.insert(row.try_get(0)?);
    }
    for number in numbers {
        make_one(connection, number).await?;
    }
    Ok((present + PARTITIONS_AHEAD + 1) * EVENTS_PER_PARTITION)
}

/// Within a transaction: makes the missing partitions of a number, as tables that are then attached, which does not
/// wait for readers and writers of other partitions. A partition that was detached is attached again.
pub(in crate::store) async fn make_one(connection: &Connection, number: i64) -> Result<(), Failure> {
    connection.execute("SELECT pg_advisory_xact_lock($1)", &[&PARTITIONS_LOCK]).await?;
    let (first, end) = (number * EVENTS_PER_PARTITION, (number + 1) * EVENTS_PER_PARTITION);
    for table in PARTITIONED {
        let name = format!("{table}_p{number}");
        // Not `to_regclass`, whose answer may be older than the lock.
        let found = connection
            .query_opt(
                "SELECT relispartition FROM pg_class
                 WHERE relname = $1 AND relnamespace = current_schema()::regnamespace",
                &[&name],
            )
            .await?;
        let is_attached = found.map(|row| row.try_get::<_, bool>(0)).transpose()?;
        if is_attached.is_none() {
            connection.batch(&format!("CREATE TABLE {name} (LIKE {table} INCLUDING ALL)")).await?;
        }
        if is_attached != Some(true) {
            let attach = format!("ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ({first}) TO ({end})");
            connection.batch(&attach).await?;
        }
    }
    Ok(())
}
