//! Erasing the payload of an event: its record stays, without a body.

use super::moves::{self, Wanted};
use super::transaction::Commit;
use crate::clock::UnixMicros;
use crate::delivery::id::{DeliveryKey, EventSeq};
use crate::delivery::{DeliveryState, Transition};
use crate::store::failure::Failure;
use crate::store::read_back::checksum_of_erased;
use crate::store::{ERASED, StoreError, erasure_deed};
use crate::webhook::TenantSeq;

/// The old rows stay on the disk until a vacuum.
pub(super) async fn erase(
    commit: &mut Commit,
    tenant: TenantSeq,
    event: EventSeq,
    keys: &[DeliveryKey],
    now: UnixMicros,
) -> Result<Vec<DeliveryKey>, Failure> {
    // The event first, in the order of all transactions.
    let found = commit
        .connection
        .query_opt(
            "SELECT id, topic, type, hops, octet_length(body)::bigint FROM event
             WHERE seq = $1 AND tenant = $2 FOR NO KEY UPDATE",
            &[&event, &tenant],
        )
        .await?
        .ok_or(StoreError::NotFound)?;
    let (id, topic, bytes): (String, &str, i64) = (found.try_get(0)?, found.try_get(1)?, found.try_get(4)?);
    let (kind, hops): (&[u8], Option<&[u8]>) = (found.try_get(2)?, found.try_get(3)?);
    let checksum = checksum_of_erased(id.as_bytes(), topic.as_bytes(), kind, hops);
    let wanted = Wanted { keys, states: &[DeliveryState::Pending], in_memory: true };
    let changed = moves::change(commit, tenant, &wanted, &Transition::discarded(ERASED), now).await?;
    commit.connection.execute("UPDATE event SET body = '', checksum = $2 WHERE seq = $1", &[&event, &checksum]).await?;
    for sql in [
        "UPDATE delivery SET first_response = CASE WHEN first_started_at IS NOT NULL THEN ''::bytea END,
             first_exchange = NULL
         WHERE event_seq = $1",
        "UPDATE attempt SET response = '', exchange = NULL WHERE event_seq = $1",
    ] {
        commit.connection.execute(sql, &[&event]).await?;
    }
    commit.counters(tenant).stored_bytes -= bytes;
    commit.record(&erasure_deed(tenant, &id, now)).await?;
    Ok(changed)
}
