//! Accepting once: the receipts of a request are kept with its key, in the transaction that accepts its events.

use super::accept;
use super::transaction::Commit;
use crate::store::failure::{Failure, corrupt};
use crate::store::{AcceptedOnce, Idempotency, KeptReceipt, NewEvent, StoreError};
use crate::webhook::TenantSeq;

pub(super) async fn accept_once(
    commit: &mut Commit,
    tenant: TenantSeq,
    events: &[NewEvent],
    once: &Idempotency,
) -> Result<AcceptedOnce, Failure> {
    if !take_key(commit, tenant, once).await? {
        return accepted_before(commit, tenant, once).await;
    }
    let events: Vec<&NewEvent> = events.iter().collect();
    let slot = commit.slot();
    let stored = accept::store(&commit.connection, &commit.shared, slot, &events).await?;
    let accepted = accept::all(stored.answers.iter().copied())?;
    let kept = events.iter().zip(&accepted).map(|(new, accepted)| KeptReceipt::of(new, accepted));
    let receipts: Vec<KeptReceipt> = kept.collect();
    let receipts = serde_json::to_string(&receipts).map_err(corrupt)?;
    commit
        .connection
        .execute(
            "UPDATE idempotency SET receipts = $3 WHERE tenant = $1 AND key = $2",
            &[&tenant, &once.key, &receipts],
        )
        .await?;
    commit.note_stored(stored);
    Ok(AcceptedOnce::Now(accepted))
}

/// Whether the key was free, or had expired. A concurrent request with the same key waits here for this commit.
async fn take_key(commit: &Commit, tenant: TenantSeq, once: &Idempotency) -> Result<bool, Failure> {
    let taken = commit
        .connection
        .execute(
            "INSERT INTO idempotency (tenant, key, body_hash, expires_at, receipts) VALUES ($1, $2, $3, $4, '')
             ON CONFLICT (tenant, key) DO UPDATE
             SET body_hash = excluded.body_hash, expires_at = excluded.expires_at, receipts = ''
             WHERE idempotency.expires_at <= $5",
            &[&tenant, &once.key, &&once.body_hash[..], &once.expires_at, &once.now],
        )
        .await?;
    Ok(taken > 0)
}

async fn accepted_before(commit: &Commit, tenant: TenantSeq, once: &Idempotency) -> Result<AcceptedOnce, Failure> {
    let row = commit
        .connection
        .query_opt("SELECT body_hash, receipts FROM idempotency WHERE tenant = $1 AND key = $2", &[&tenant, &once.key])
        .await?;
    let gone = || StoreError::Unavailable("the idempotency key has just expired; try again".to_owned());
    let row = row.ok_or_else(gone)?;
    if row.try_get::<_, &[u8]>(0)? != once.body_hash {
        return Err(StoreError::IdempotencyConflict.into());
    }
    Ok(AcceptedOnce::Before(serde_json::from_str(row.try_get(1)?).map_err(corrupt)?))
}
