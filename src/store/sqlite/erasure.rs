//! Erasing the payload of an event: its record stays, without a body.

use rusqlite::{OptionalExtension, Row};

use super::commit::Commit;
use super::settle::{self, RowChange};
use crate::clock::UnixMicros;
use crate::delivery::id::{DeliveryKey, EventSeq};
use crate::delivery::{DeliveryState, Transition};
use crate::store::failure::Failure;
use crate::store::read_back::checksum_of_erased;
use crate::store::{ERASED, StoreError, erasure_deed};
use crate::webhook::TenantSeq;

/// The bytes on the disk are overwritten, too, as far as SQLite can.
pub(super) fn erase(
    commit: &mut Commit<'_>,
    tenant: TenantSeq,
    event: EventSeq,
    keys: &[DeliveryKey],
    now: UnixMicros,
) -> Result<Vec<DeliveryKey>, Failure> {
    let read = |row: &Row<'_>| {
        let id: String = row.get(0)?;
        let [topic, kind] = [row.get_ref(1)?.as_bytes()?, row.get_ref(2)?.as_bytes()?];
        let checksum = checksum_of_erased(id.as_bytes(), topic, kind, row.get_ref(3)?.as_blob_or_null()?);
        Ok((id, checksum, row.get(4)?))
    };
    let found: Option<(String, i64, i64)> = commit
        .prepare("SELECT id, topic, type, hops, length(body) FROM event WHERE seq = ?1 AND tenant = ?2")?
        .query_row((event, tenant), read)
        .optional()?;
    let (id, checksum, bytes) = found.ok_or(StoreError::NotFound)?;
    commit.connection.pragma_update(None, "secure_delete", true)?;
    let overwritten = overwrite(commit, event, checksum);
    commit.connection.pragma_update(None, "secure_delete", false)?;
    overwritten?;
    commit.counters(tenant).stored_bytes -= bytes;
    let changed = discard(commit, keys, now)?;
    commit.record(&erasure_deed(tenant, &id, now))?;
    Ok(changed)
}

fn overwrite(commit: &Commit<'_>, event: EventSeq, checksum: i64) -> rusqlite::Result<()> {
    commit.prepare("UPDATE event SET body = x'', checksum = ?2 WHERE seq = ?1")?.execute((event, checksum))?;
    for sql in [
        "UPDATE attempt SET response = x'', exchange = NULL WHERE event_seq = ?1",
        "UPDATE delivery SET first_response = iif(first_started_at IS NULL, NULL, x''), first_exchange = NULL
         WHERE event_seq = ?1",
    ] {
        commit.prepare(sql)?.execute([event])?;
    }
    Ok(())
}

/// Ends the pending ones of `keys`, with a row or without; returns these.
fn discard(commit: &mut Commit<'_>, keys: &[DeliveryKey], now: UnixMicros) -> Result<Vec<DeliveryKey>, Failure> {
    let transition = Transition::discarded(ERASED);
    let mut changed = Vec::new();
    for key in keys {
        let existing = settle::find(commit, *key)?;
        if existing.as_ref().is_some_and(|existing| existing.state != DeliveryState::Pending) {
            continue;
        }
        let round_attempts = existing.map_or(0, |existing| existing.round_attempts);
        settle::put(commit, *key, &RowChange { transition: &transition, attempt: None, round_attempts, at: now })?;
        changed.push(*key);
    }
    Ok(changed)
}
