//! Purging. What may go is found in a snapshot and checked again under a lock on its events, since an operator may have
//! made a delivery pending meanwhile: who does that locks the event too ([`super::moves`]).

use async_trait::async_trait;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use super::partitions::{EVENTS_PER_PARTITION, PARTITIONED, PARTITIONS_LOCK};
use super::pool::Connection;
use super::transaction::{Commit, write};
use super::{PostgresStore, audit, replay};
use crate::clock::UnixMicros;
use crate::delivery::id::EventSeq;
use crate::fit::fit;
use crate::store::StoreError;
use crate::store::failure::Failure;
use crate::store::retention::{
    Cutoffs, MAX_PURGE_BYTES, MAX_PURGE_ROWS, MAX_PURGE_SCAN_EVENTS, Purged, Retention, RetentionStore,
};
use crate::webhook::TenantSeq;

/// The most idempotency keys, and the most jobs, deleted in one step.
const MAX_PURGE_RECORDS: u32 = 50;
/// The most events that one statement of a step looks at.
const PORTION_EVENTS: u32 = 500;
/// Dropping a partition locks the whole table for a moment, and writers queue behind it while it waits. So it waits
/// only briefly.
const DROP_LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '200ms'";
/// Stands for no cutoff: earlier than all data.
const NEVER: UnixMicros = UnixMicros(i64::MIN);

/// The data that a step may delete.
struct Purgeable {
    events: Vec<EventSeq>,
    through: EventSeq,
    is_end: bool,
    rows: usize,
    bytes: usize,
}

impl Purgeable {
    fn nothing(through: EventSeq, is_end: bool) -> Self {
        Self { events: Vec::new(), through, is_end, rows: 0, bytes: 0 }
    }

    fn is_full(&self) -> bool {
        self.rows >= MAX_PURGE_ROWS || self.bytes >= MAX_PURGE_BYTES
    }

    /// Adds the result of a statement over the events after `through`. A row has an event's number, its time of
    /// acceptance, whether it has data to delete, the number of those rows, and the bytes of its body. `false`: the
    /// step is full, or no further event is old enough.
    fn take(&mut self, rows: &[Row], before: UnixMicros) -> Result<bool, Failure> {
        for row in rows {
            let accepted_at: UnixMicros = row.try_get(1)?;
            if accepted_at >= before {
                self.is_end = true;
                return Ok(false);
            }
            if self.is_full() {
                return Ok(false);
            }
            self.through = row.try_get(0)?;
            if row.try_get(2)? {
                self.events.push(self.through);
                self.rows += fit(row.try_get::<_, i64>(3)?, usize::MAX);
                self.bytes += fit(row.try_get::<_, i32>(4)?, usize::MAX);
            }
        }
        self.is_end = rows.len() < PORTION_EVENTS as usize;
        Ok(!self.is_end)
    }
}

/// [`Retention`] as parameters: the tenants with cutoffs of their own, and the cutoffs of all others.
struct Columns {
    tenants: Vec<TenantSeq>,
    events: Vec<UnixMicros>,
    delivered: Vec<UnixMicros>,
    dead: Vec<UnixMicros>,
    attempts: Vec<UnixMicros>,
    default: Cutoffs,
}

impl Columns {
    fn of(retention: &Retention) -> Self {
        let column = |of: fn(&Cutoffs) -> Option<UnixMicros>| {
            retention.tenants.values().map(|cutoffs| of(cutoffs).unwrap_or(NEVER)).collect()
        };
        Self {
            tenants: retention.tenants.keys().copied().collect(),
            events: column(|cutoffs| cutoffs.events),
            delivered: column(|cutoffs| cutoffs.delivered),
            dead: column(|cutoffs| cutoffs.dead),
            attempts: column(|cutoffs| cutoffs.attempts),
            default: retention.default,
        }
    }
}

/// The columns that [`Purgeable::take`] reads, of the events that `$which` names. An event may be deleted when it is
/// old enough, and each of its deliveries has ended and is old enough. Served by the primary keys.
macro_rules! select_events {
    ($which:literal) => {
        concat!(
            "WITH seen AS MATERIALIZED (
                 SELECT seq, tenant, accepted_at, octet_length(body) AS bytes FROM event ",
            $which,
            "), dated AS (
                 SELECT seen.*, coalesce(own.events, $3) AS events_before,
                     coalesce(own.delivered, $4) AS delivered_before, coalesce(own.dead, $5) AS dead_before
                 FROM seen LEFT JOIN unnest($6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[])
                     AS own (tenant, events, delivered, dead) ON own.tenant = seen.tenant
             )
             SELECT seq, accepted_at,
                 accepted_at < events_before
                     AND NOT EXISTS (SELECT 1 FROM pending WHERE event_seq = seq)
                     AND NOT EXISTS (
                         SELECT 1 FROM delivery
                         WHERE event_seq = seq
                             AND updated_at >= CASE WHEN state IN (0, 2) THEN delivered_before ELSE dead_before END
                     ),
                 1 + (SELECT count(*) FROM delivery WHERE event_seq = seq), bytes
             FROM dated ORDER BY seq"
        )
    };
}

async fn find_events(connection: &Connection, after: EventSeq, retention: &Retention) -> Result<Purgeable, Failure> {
    let Some(before) = retention.latest(|cutoffs| cutoffs.events) else {
        return Ok(Purgeable::nothing(after, true));
    };
    let mut found = Purgeable::nothing(after, false);
    for _ in 0..MAX_PURGE_SCAN_EVENTS / PORTION_EVENTS {
        let portion = i64::from(PORTION_EVENTS);
        let sql = select_events!("WHERE seq > $1::bigint ORDER BY seq LIMIT $2::bigint");
        let rows = query_events(connection, sql, &found.through.clone(), &portion, retention).await?;
        if !found.take(&rows, before)? {
            break;
        }
    }
    Ok(found)
}

async fn query_events(
    connection: &Connection,
    sql: &'static str,
    first: &(dyn tokio_postgres::types::ToSql + Sync),
    second: &(dyn tokio_postgres::types::ToSql + Sync),
    retention: &Retention,
) -> Result<Vec<Row>, Failure> {
    let columns = Columns::of(retention);
    let Cutoffs { events, delivered, dead, .. } = columns.default;
    connection
        .query(
            sql,
            &[
                first,
                second,
                &events.unwrap_or(NEVER),
                &delivered.unwrap_or(NEVER),
                &dead.unwrap_or(NEVER),
                &columns.tenants,
                &columns.events,
                &columns.delivered,
                &columns.dead,
            ],
        )
        .await
}

/// Deletes the ones of `events` that may still be deleted; returns their number.
async fn delete_events(commit: &mut Commit, events: &[EventSeq], retention: &Retention) -> Result<u64, Failure> {
    let connection = &commit.connection;
    let sql = "SELECT seq, tenant, id, octet_length(body) FROM event WHERE seq = ANY($1) ORDER BY seq FOR UPDATE";
    let locked = connection.query(sql, &[&events]).await?;
    // This statement sees everything that was committed before the locks were granted.
    let sql = select_events!("WHERE seq = ANY($1::bigint[]) AND seq <= $2::bigint");
    let rows = query_events(connection, sql, &events, &i64::MAX, retention).await?;
    let mut going = Vec::new();
    for row in &rows {
        if row.try_get(2)? {
            going.push(row.try_get::<_, EventSeq>(0)?);
        }
    }
    let (mut keys, mut freed): (Vec<Uuid>, Vec<(TenantSeq, i32)>) = (Vec::new(), Vec::new());
    for row in &locked {
        if going.binary_search(&row.try_get(0)?).is_ok() {
            keys.push(commit.shared.id_hash.wide(row.try_get(1)?, row.try_get(2)?));
            freed.push((row.try_get(1)?, row.try_get(3)?));
        }
    }
    let deleted = connection
        .execute(
            "WITH ids AS (
                 DELETE FROM event_id WHERE key = ANY($2) AND event_seq = ANY($1)
             ), attempts AS (
                 DELETE FROM attempt WHERE event_seq = ANY($1)
             ), deliveries AS (
                 DELETE FROM delivery WHERE event_seq = ANY($1)
             )
             DELETE FROM event WHERE seq = ANY($1)",
            &[&going, &keys],
        )
        .await?;
    for (tenant, bytes) in freed {
        commit.counters(tenant).stored_bytes -= i64::from(bytes);
    }
    Ok(deleted)
}

/// Served by the primary keys. No attempt was made before its event was accepted.
async fn find_attempts(connection: &Connection, after: EventSeq, retention: &Retention) -> Result<Purgeable, Failure> {
    let Some(before) = retention.latest(|cutoffs| cutoffs.attempts) else {
        return Ok(Purgeable::nothing(after, true));
    };
    let columns = Columns::of(retention);
    let mut found = Purgeable::nothing(after, false);
    for _ in 0..MAX_PURGE_SCAN_EVENTS / PORTION_EVENTS {
        let rows = connection
            .query(
                "WITH seen AS MATERIALIZED (
                     SELECT seq, tenant, accepted_at FROM event
                     WHERE seq > $1::bigint ORDER BY seq LIMIT $2::bigint
                 ), old AS (
                     SELECT seq, accepted_at, (
                         SELECT count(*) FROM attempt
                         WHERE event_seq = seq AND started_at < coalesce(own.attempts, $3)
                     ) + (
                         SELECT count(*) FROM delivery
                         WHERE event_seq = seq AND first_started_at < coalesce(own.attempts, $3)
                     ) AS rows
                     FROM seen LEFT JOIN unnest($4::bigint[], $5::bigint[]) AS own (tenant, attempts)
                         ON own.tenant = seen.tenant
                 )
                 SELECT seq, accepted_at, rows > 0, rows, 0 FROM old ORDER BY seq",
                &[
                    &found.through,
                    &i64::from(PORTION_EVENTS),
                    &columns.default.attempts.unwrap_or(NEVER),
                    &columns.tenants,
                    &columns.attempts,
                ],
            )
            .await?;
        if !found.take(&rows, before)? {
            break;
        }
    }
    Ok(found)
}

/// Deletes the old attempts of `events`; returns how many.
async fn delete_attempts(commit: &Commit, events: &[EventSeq], retention: &Retention) -> Result<u64, Failure> {
    let columns = Columns::of(retention);
    let default = columns.default.attempts.unwrap_or(NEVER);
    let mut count = 0;
    for sql in [
        "DELETE FROM attempt
         USING event LEFT JOIN unnest($3::bigint[], $4::bigint[]) AS own (tenant, attempts) USING (tenant)
         WHERE event.seq = ANY($1) AND attempt.event_seq = event.seq AND attempt.event_seq = ANY($1)
             AND attempt.started_at < coalesce(own.attempts, $2)",
        "UPDATE delivery SET first_started_at = NULL, first_duration_us = NULL, first_status_code = NULL,
             first_error = NULL, first_response = NULL, first_exchange = NULL
         FROM event LEFT JOIN unnest($3::bigint[], $4::bigint[]) AS own (tenant, attempts) USING (tenant)
         WHERE event.seq = ANY($1) AND delivery.event_seq = event.seq AND delivery.event_seq = ANY($1)
             AND delivery.first_started_at < coalesce(own.attempts, $2)",
    ] {
        count += commit.connection.execute(sql, &[&events, &default, &columns.tenants, &columns.attempts]).await?;
    }
    Ok(count)
}

/// Served by the index `idempotency_expiry`; jobs are few.
async fn has_old_records(connection: &Connection, now: UnixMicros, jobs_before: UnixMicros) -> Result<bool, Failure> {
    let row = connection
        .query_one(
            "SELECT EXISTS (SELECT 1 FROM idempotency WHERE expires_at <= $1)
                 OR EXISTS (SELECT 1 FROM replay_job WHERE state >= 2 AND updated_at < $2)",
            &[&now, &jobs_before],
        )
        .await?;
    Ok(row.try_get(0)?)
}

async fn delete_records(commit: &Commit, now: UnixMicros, jobs_before: UnixMicros) -> Result<bool, Failure> {
    let keys = commit
        .connection
        .execute(
            "DELETE FROM idempotency WHERE (tenant, key) IN (
                 SELECT tenant, key FROM idempotency WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2 FOR UPDATE
             )",
            &[&now, &i64::from(MAX_PURGE_RECORDS)],
        )
        .await?;
    let jobs = replay::purge(commit, jobs_before, MAX_PURGE_RECORDS).await?;
    Ok(keys == u64::from(MAX_PURGE_RECORDS) || jobs == u64::from(MAX_PURGE_RECORDS))
}

/// The numbers of partitions that have no event and will get none, oldest first. The one before the present partition
/// is left out, since a transaction under way may have taken a number in it.
async fn spent_partitions(connection: &Connection) -> Result<Vec<i64>, Failure> {
    let rows = connection
        .query(
            "SELECT number
             FROM pg_inherits
                 JOIN pg_class ON pg_class.oid = inhrelid
                 CROSS JOIN LATERAL substring(relname FROM '^event_p([0-9]+)$') AS digits
                 CROSS JOIN LATERAL (SELECT digits::bigint AS number) AS parsed
             WHERE inhparent = 'event'::regclass
                 AND number < (SELECT last_value FROM event_number) / $1::bigint - 1
                 AND NOT EXISTS (
                     SELECT 1 FROM event WHERE seq >= number * $1::bigint AND seq < (number + 1) * $1::bigint
                 )
             ORDER BY number",
            &[&EVENTS_PER_PARTITION],
        )
        .await?;
    Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
}

/// Drops a partition, which frees its files.
async fn drop_partition(commit: &Commit, number: i64) -> Result<(), Failure> {
    let connection = &commit.connection;
    connection.batch(DROP_LOCK_TIMEOUT).await?;
    connection.execute("SELECT pg_advisory_xact_lock($1)", &[&PARTITIONS_LOCK]).await?;
    for table in PARTITIONED {
        connection.batch(&format!("DROP TABLE IF EXISTS {table}_p{number}")).await?;
    }
    Ok(())
}

#[async_trait]
impl RetentionStore for PostgresStore {
    async fn purge_events(&self, after: EventSeq, retention: &Retention) -> Result<Purged, StoreError> {
        let found = find_events(&self.shared.connections.snapshot(None).await?, after, retention).await?;
        let Purgeable { events, through, is_end, .. } = found;
        let count = match &events[..] {
            [] => 0,
            some => write!(self, |commit| delete_events(commit, some, retention).await)?,
        };
        Ok(Purged { count, through, is_end })
    }

    async fn purge_attempts(&self, after: EventSeq, retention: &Retention) -> Result<Purged, StoreError> {
        let found = find_attempts(&self.shared.connections.snapshot(None).await?, after, retention).await?;
        let Purgeable { events, through, is_end, .. } = found;
        let count = match &events[..] {
            [] => 0,
            some => write!(self, |commit| delete_attempts(commit, some, retention).await)?,
        };
        Ok(Purged { count, through, is_end })
    }

    async fn purge_records(&self, now: UnixMicros, jobs_before: UnixMicros) -> Result<bool, StoreError> {
        if !has_old_records(&self.connection().await?, now, jobs_before).await? {
            return Ok(false);
        }
        write!(self, |commit| delete_records(commit, now, jobs_before).await)
    }

    async fn purge_audit(&self, before: UnixMicros, now: UnixMicros) -> Result<bool, StoreError> {
        let connection = self.shared.connections.snapshot(None).await?;
        let [has_old, is_to_be_noted] = audit::look_for_old(&connection, before).await?;
        drop(connection);
        if has_old {
            write!(self, |commit| audit::purge(commit, before).await)?;
        } else if is_to_be_noted {
            write!(self, |commit| audit::note_purge(commit, now).await)?;
        }
        Ok(has_old || is_to_be_noted)
    }

    async fn newest_at(&self) -> Result<Option<UnixMicros>, StoreError> {
        let connection = self.shared.connections.snapshot(None).await?;
        let sql = "
            SELECT greatest(
                (SELECT accepted_at FROM event ORDER BY seq DESC LIMIT 1),
                (SELECT at FROM audit ORDER BY seq DESC LIMIT 1)
            )";
        let newest = connection.query_one(sql, &[]).await?;
        Ok(newest.try_get(0).map_err(Failure::from)?)
    }

    async fn release_space(&self) -> Result<bool, StoreError> {
        let spent = spent_partitions(&self.shared.connections.snapshot(None).await?).await?;
        let Some(oldest) = spent.first() else { return Ok(false) };
        let dropped = write!(self, |commit| match drop_partition(commit, *oldest).await {
            // A long transaction, such as a backup, uses the partition. A later step tries again.
            Err(Failure::Postgres(error)) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) =>
                Err(StoreError::Conflict("the partition is in use".to_owned()).into()),
            done => done,
        });
        match dropped {
            Ok(()) => Ok(spent.len() > 1),
            Err(StoreError::Conflict(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn is_busy(&self) -> bool {
        self.group.is_busy()
    }
}
