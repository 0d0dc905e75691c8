//! Purging. What may go is found on a reader and checked again by the writer, since an operator may have made a
//! delivery pending meanwhile.

use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row};

use super::commit::{Commit, Size};
use super::{SqliteStore, audit, idempotency, replay};
use crate::clock::UnixMicros;
use crate::delivery::DeliveryState;
use crate::delivery::id::EventSeq;
use crate::fit::fit;
use crate::store::failure::Failure;
use crate::store::retention::{
    Cutoffs, MAX_PURGE_BYTES, MAX_PURGE_LINES, MAX_PURGE_ROWS, MAX_PURGE_SCAN_EVENTS, Purged, Retention, RetentionStore,
};
use crate::store::{StoreError, owed};
use crate::webhook::TenantSeq;

/// The most idempotency keys, and the most jobs, deleted in one step. The receipts of a batch can take 140 KB.
const MAX_PURGE_RECORDS: usize = 50;
/// Pages given back to the file system in one step.
const RELEASED_PAGES: u32 = 256;
/// One in this many pages stays in the file as a free page, within bounds, because new events need free pages soon.
const KEPT_FREE_SHARE: u32 = 20;
const KEPT_FREE_PAGES: std::ops::RangeInclusive<u32> = 256..=65_536;

/// The data that a step may delete.
#[derive(Debug)]
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
}

/// The part of an event that a purge reads.
struct Head {
    seq: EventSeq,
    tenant: TenantSeq,
    accepted_at: UnixMicros,
    deliveries: u32,
    body_bytes: usize,
}

const HEAD_OF_EVENT: &str = "SELECT seq, tenant, accepted_at, owed, length(body) FROM event WHERE seq = ?1";

fn read_head(row: &Row<'_>) -> rusqlite::Result<Head> {
    Ok(Head {
        seq: row.get(0)?,
        tenant: row.get(1)?,
        accepted_at: row.get(2)?,
        deliveries: owed::count(row.get_ref(3)?.as_blob()?),
        body_bytes: fit(row.get::<_, i64>(4)?, usize::MAX),
    })
}

/// Walks the events after `after` that were accepted before `before`, until `visit` has filled `found`. Reads no body.
fn walk(
    connection: &Connection,
    after: EventSeq,
    before: UnixMicros,
    mut visit: impl FnMut(&Head, &mut Purgeable) -> Result<(), Failure>,
) -> Result<Purgeable, Failure> {
    let mut found = Purgeable::nothing(after, false);
    let mut statement = connection.prepare_cached(
        "SELECT seq, tenant, accepted_at, owed, length(body) FROM event WHERE seq > ?1 ORDER BY seq LIMIT ?2",
    )?;
    let mut rows = statement.query((after, MAX_PURGE_SCAN_EVENTS))?;
    let mut events = 0;
    while let Some(row) = rows.next()? {
        let head = read_head(row)?;
        if head.accepted_at >= before {
            found.is_end = true;
            return Ok(found);
        }
        if found.is_full() {
            return Ok(found);
        }
        visit(&head, &mut found)?;
        found.through = head.seq;
        events += 1;
    }
    found.is_end = events < MAX_PURGE_SCAN_EVENTS;
    Ok(found)
}

fn find_events(connection: &Connection, after: EventSeq, retention: &Retention) -> Result<Purgeable, Failure> {
    let Some(before) = retention.latest(|cutoffs| cutoffs.events) else {
        return Ok(Purgeable::nothing(after, true));
    };
    walk(connection, after, before, |head, found| {
        if may_go(connection, head, retention.of(head.tenant))? {
            found.events.push(head.seq);
            found.rows += 1 + head.deliveries as usize;
            found.bytes += head.body_bytes;
        }
        Ok(())
    })
}

/// Whether an event is old enough, and each of its deliveries has ended and is old enough. A delivery without a row is
/// pending.
fn may_go(connection: &Connection, event: &Head, cutoffs: &Cutoffs) -> rusqlite::Result<bool> {
    let is_old = |at: UnixMicros, cutoff: Option<UnixMicros>| cutoff.is_some_and(|cutoff| at < cutoff);
    if !is_old(event.accepted_at, cutoffs.events) {
        return Ok(false);
    }
    let mut statement = connection
        .prepare_cached("SELECT state, updated_at FROM delivery WHERE event_seq = ?1 ORDER BY webhook_seq")?;
    let mut rows = statement.query([event.seq])?;
    let mut ended = 0;
    while let Some(row) = rows.next()? {
        let updated_at = row.get(1)?;
        let is_old = match row.get(0)? {
            DeliveryState::Pending => false,
            DeliveryState::Delivered | DeliveryState::Skipped => is_old(updated_at, cutoffs.delivered),
            DeliveryState::Dead | DeliveryState::Discarded => is_old(updated_at, cutoffs.dead),
        };
        if !is_old {
            return Ok(false);
        }
        ended += 1;
    }
    Ok(ended == event.deliveries)
}

/// Deletes the ones of `events` that may still be deleted; returns their number.
fn delete_events(commit: &mut Commit<'_>, events: &[EventSeq], retention: &Retention) -> Result<u64, Failure> {
    let mut count = 0;
    for event in events {
        let head = commit.prepare(HEAD_OF_EVENT)?.query_row([event], read_head).optional()?;
        let Some(head) = head else { continue };
        if may_go(commit.connection, &head, retention.of(head.tenant))? {
            for sql in [
                "DELETE FROM attempt WHERE event_seq = ?1",
                "DELETE FROM delivery WHERE event_seq = ?1",
                "DELETE FROM event WHERE seq = ?1",
            ] {
                commit.prepare(sql)?.execute([event])?;
            }
            commit.counters(head.tenant).stored_bytes -= fit(head.body_bytes, i64::MAX);
            count += 1;
        }
    }
    Ok(count)
}

fn find_attempts(connection: &Connection, after: EventSeq, retention: &Retention) -> Result<Purgeable, Failure> {
    let Some(before) = retention.latest(|cutoffs| cutoffs.attempts) else {
        return Ok(Purgeable::nothing(after, true));
    };
    let mut has_old = connection.prepare_cached(
        "SELECT count(*) FROM (
             SELECT 1 FROM attempt WHERE event_seq = ?1 AND started_at < ?2
             UNION ALL
             SELECT 1 FROM delivery WHERE event_seq = ?1 AND first_started_at < ?2
         )",
    )?;
    // No attempt was made before its event was accepted.
    walk(connection, after, before, |head, found| {
        if let Some(cutoff) = retention.of(head.tenant).attempts {
            let rows: u32 = has_old.query_row((head.seq, cutoff), |row| row.get(0))?;
            if rows > 0 {
                found.events.push(head.seq);
                found.rows += rows as usize;
            }
        }
        Ok(())
    })
}

/// Deletes the old attempts of `events`; returns how many.
fn delete_attempts(commit: &mut Commit<'_>, events: &[EventSeq], retention: &Retention) -> Result<u64, Failure> {
    let mut count = 0;
    for event in events {
        // The event may have been deleted meanwhile.
        let head = commit.prepare(HEAD_OF_EVENT)?.query_row([event], read_head).optional()?;
        let Some(cutoff) = head.and_then(|head| retention.of(head.tenant).attempts) else { continue };
        for sql in [
            "DELETE FROM attempt WHERE event_seq = ?1 AND started_at < ?2",
            "UPDATE delivery SET first_started_at = NULL, first_duration_us = NULL, first_status_code = NULL,
                 first_error = NULL, first_response = NULL, first_exchange = NULL
             WHERE event_seq = ?1 AND first_started_at < ?2",
        ] {
            count += commit.prepare(sql)?.execute((event, cutoff))?;
        }
    }
    Ok(count as u64)
}

/// Served by the index `idempotency_expiry`; jobs are few.
fn has_old_records(connection: &Connection, now: UnixMicros, jobs_before: UnixMicros) -> Result<bool, Failure> {
    Ok(connection
        .prepare_cached(
            "SELECT 1 WHERE EXISTS (SELECT 1 FROM idempotency WHERE expires_at <= ?1)
                 OR EXISTS (SELECT 1 FROM replay_job WHERE state >= 2 AND updated_at < ?2)",
        )?
        .exists((now, jobs_before))?)
}

fn delete_records(commit: &mut Commit<'_>, now: UnixMicros, jobs_before: UnixMicros) -> Result<bool, Failure> {
    let keys = idempotency::purge(commit, now, MAX_PURGE_RECORDS)?;
    let jobs = replay::purge(commit, jobs_before, MAX_PURGE_RECORDS)?;
    Ok(keys == MAX_PURGE_RECORDS || jobs == MAX_PURGE_RECORDS)
}

const RECORDS_SIZE: Size = Size { rows: MAX_PURGE_RECORDS, bytes: 1 << 20, is_urgent: false, tenant: None };
const LINES_SIZE: Size = Size { rows: 2 * MAX_PURGE_LINES as usize, bytes: 1 << 18, is_urgent: false, tenant: None };
const RELEASE_SIZE: Size =
    Size { rows: RELEASED_PAGES as usize, bytes: (RELEASED_PAGES as usize) << 12, is_urgent: false, tenant: None };

/// Free pages beyond the ones that stay.
fn spare_pages(connection: &Connection) -> Result<u32, Failure> {
    let number = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, u32>(0));
    if number("auto_vacuum")? == 0 {
        return Ok(0);
    }
    let kept = (number("page_count")? / KEPT_FREE_SHARE).clamp(*KEPT_FREE_PAGES.start(), *KEPT_FREE_PAGES.end());
    Ok(number("freelist_count")?.saturating_sub(kept))
}

/// Moves pages from the end of the file into free ones; the file is cut at the next checkpoint. Returns whether there
/// are more to move.
fn release_pages(commit: &mut Commit<'_>) -> Result<bool, Failure> {
    let pages = spare_pages(commit.connection)?.min(RELEASED_PAGES);
    if pages > 0 {
        // The statement moves one page for each row that is read.
        let mut statement = commit.connection.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
        let mut moved = statement.query(())?;
        while moved.next()?.is_some() {}
    }
    Ok(pages == RELEASED_PAGES)
}

#[async_trait]
impl RetentionStore for SqliteStore {
    async fn purge_events(&self, after: EventSeq, retention: &Retention) -> Result<Purged, StoreError> {
        let retention = Arc::new(retention.clone());
        let reading = Arc::clone(&retention);
        let found = self.readers.read_slowly(None, move |connection| find_events(connection, after, &reading)).await?;
        self.purge(found, move |commit, events| delete_events(commit, events, &retention)).await
    }

    async fn purge_attempts(&self, after: EventSeq, retention: &Retention) -> Result<Purged, StoreError> {
        let retention = Arc::new(retention.clone());
        let reading = Arc::clone(&retention);
        let found =
            self.readers.read_slowly(None, move |connection| find_attempts(connection, after, &reading)).await?;
        self.purge(found, move |commit, events| delete_attempts(commit, events, &retention)).await
    }

    async fn purge_records(&self, now: UnixMicros, jobs_before: UnixMicros) -> Result<bool, StoreError> {
        let is_due = move |connection: &Connection| has_old_records(connection, now, jobs_before);
        if !self.readers.read(is_due).await? {
            return Ok(false);
        }
        self.writer.write(RECORDS_SIZE, move |commit| delete_records(commit, now, jobs_before)).await
    }

    async fn purge_audit(&self, before: UnixMicros, now: UnixMicros) -> Result<bool, StoreError> {
        let look = move |connection: &Connection| audit::look_for_old(connection, before);
        let [has_old, is_to_be_noted] = self.readers.read_slowly(None, look).await?;
        if has_old {
            self.writer.write(LINES_SIZE, move |commit| audit::purge(commit, before)).await?;
        } else if is_to_be_noted {
            self.writer.write(LINES_SIZE, move |commit| audit::note_purge(commit, now)).await?;
        }
        Ok(has_old || is_to_be_noted)
    }

    async fn newest_at(&self) -> Result<Option<UnixMicros>, StoreError> {
        let newest = |connection: &Connection| {
            let mut newest = connection.prepare_cached(
                "SELECT max(at) FROM (
                     SELECT (SELECT accepted_at FROM event ORDER BY seq DESC LIMIT 1) AS at
                     UNION ALL
                     SELECT (SELECT at FROM audit ORDER BY seq DESC LIMIT 1)
                 )",
            )?;
            Ok(newest.query_row((), |row| row.get(0))?)
        };
        self.readers.read(newest).await
    }

    async fn release_space(&self) -> Result<bool, StoreError> {
        if self.readers.read(spare_pages).await? == 0 {
            return Ok(false);
        }
        self.writer.write(RELEASE_SIZE, release_pages).await
    }

    fn is_busy(&self) -> bool {
        self.writer.is_busy()
    }
}

impl SqliteStore {
    /// Hands what was found to the writer, if there is anything.
    async fn purge(
        &self,
        found: Purgeable,
        mut delete: impl FnMut(&mut Commit<'_>, &[EventSeq]) -> Result<u64, Failure> + Send + 'static,
    ) -> Result<Purged, StoreError> {
        let size = Size { rows: found.rows, bytes: found.bytes, is_urgent: false, tenant: None };
        let Purgeable { events, through, is_end, .. } = found;
        let count =
            if events.is_empty() { 0 } else { self.writer.write(size, move |commit| delete(commit, &events)).await? };
        Ok(Purged { count, through, is_end })
    }
}
