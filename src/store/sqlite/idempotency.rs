//! Accepting once: the receipts of a request are kept with its key, in the transaction that accepts its events.

use rusqlite::OptionalExtension;

use super::accept::{self, Summed};
use super::commit::{Commit, Size};
use crate::clock::UnixMicros;
use crate::fit::fit;
use crate::store::failure::{Failure, corrupt};
use crate::store::{AcceptedOnce, Idempotency, KeptReceipt, NewEvent, StoreError};
use crate::webhook::TenantSeq;

/// The rough size of an event's kept receipt without its id, in bytes.
const RECEIPT_BYTES: usize = 16;

pub(super) fn size(events: &[NewEvent]) -> Size {
    let size = accept::size(events);
    let receipts: usize = events.iter().map(|new| new.event.id().len() + RECEIPT_BYTES).sum();
    Size { rows: size.rows + 1, bytes: size.bytes + receipts, ..size }
}

pub(super) fn accept_once(
    commit: &mut Commit<'_>,
    tenant: TenantSeq,
    summed: &Summed,
    once: &Idempotency,
) -> Result<AcceptedOnce, Failure> {
    if let Some((body_hash, receipts)) = find(commit, tenant, once)? {
        if body_hash != once.body_hash {
            return Err(StoreError::IdempotencyConflict.into());
        }
        return Ok(AcceptedOnce::Before(serde_json::from_str(&receipts).map_err(corrupt)?));
    }
    let accepted = accept::accept(commit, summed)?;
    let kept = summed.events.iter().zip(&accepted).map(|(new, accepted)| KeptReceipt::of(new, accepted));
    let receipts: Vec<KeptReceipt> = kept.collect();
    let receipts = serde_json::to_string(&receipts).map_err(corrupt)?;
    // A key that has expired may still be there.
    commit
        .prepare(
            "INSERT INTO idempotency (tenant, key, body_hash, expires_at, receipts) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (tenant, key) DO UPDATE SET body_hash = ?3, expires_at = ?4, receipts = ?5",
        )?
        .execute((tenant, &once.key, once.body_hash, once.expires_at, &receipts))?;
    Ok(AcceptedOnce::Now(accepted))
}

/// The hash and the receipts of an earlier request with the key. Served by the index over (tenant, key).
fn find(commit: &Commit<'_>, tenant: TenantSeq, once: &Idempotency) -> rusqlite::Result<Option<([u8; 32], String)>> {
    commit
        .prepare("SELECT body_hash, receipts FROM idempotency WHERE tenant = ?1 AND key = ?2 AND expires_at > ?3")?
        .query_row((tenant, &once.key, once.now), |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
}

/// Deletes at most `limit` keys that expired by `now`; returns how many. Served by the index `idempotency_expiry`.
pub(super) fn purge(commit: &mut Commit<'_>, now: UnixMicros, limit: usize) -> Result<usize, Failure> {
    Ok(commit
        .prepare(
            "DELETE FROM idempotency WHERE seq IN (
                 SELECT seq FROM idempotency INDEXED BY idempotency_expiry WHERE expires_at <= ?1 LIMIT ?2
             )",
        )?
        .execute((now, fit(limit, i64::MAX)))?)
}
