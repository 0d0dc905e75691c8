//! Single deliveries: reading them, their attempts, and what an operator does to them.

use tokio_postgres::Row;

use super::moves::{self, Wanted};
use super::pool::Connection;
use super::transaction::Commit;
use super::values::{number, optional_number, utf8};
use crate::clock::UnixMicros;
use crate::delivery::id::{DeliveryKey, EventSeq};
use crate::delivery::{DeliveryState, Transition};
use crate::store::failure::Failure;
use crate::store::{AttemptRecord, ExchangeBlob, StoreError, StoredDelivery};
use crate::webhook::{TenantSeq, WebhookSeq};

/// A delivery from the columns: webhook's `uuid`, `name` and `deleted_at`, event's `id`, `topic`, `type` and
/// `accepted_at`, then its `state`, `reason`, `attempts`, `status_code`, `next_at` and `updated_at`, at `first` and after.
pub(super) fn stored_delivery(row: &Row, key: DeliveryKey, first: usize) -> Result<StoredDelivery, Failure> {
    let (state, deleted_at): (DeliveryState, Option<UnixMicros>) = (row.try_get(first + 7)?, row.try_get(first + 2)?);
    let delivery = StoredDelivery {
        key,
        webhook_uuid: row.try_get(first)?,
        webhook_name: row.try_get(first + 1)?,
        event_id: row.try_get(first + 3)?,
        topic: row.try_get(first + 4)?,
        kind: utf8(row, first + 5)?.to_owned(),
        accepted_at: row.try_get(first + 6)?,
        state,
        reason: row.try_get(first + 8)?,
        attempts: number(row, first + 9)?,
        status_code: optional_number(row, first + 10)?,
        next_attempt_at: row.try_get(first + 11)?,
        updated_at: row.try_get(first + 12)?,
    };
    Ok(match deleted_at {
        Some(at) if state == DeliveryState::Pending => delivery.of_deleted_webhook(at),
        _ => delivery,
    })
}

pub(super) async fn delivery(
    connection: &Connection,
    tenant: TenantSeq,
    key: DeliveryKey,
) -> Result<Option<StoredDelivery>, Failure> {
    let row = connection
        .query_opt(
            "SELECT webhook.uuid, webhook.name, webhook.deleted_at, event.id, event.topic, event.type,
                 event.accepted_at, found.*
             FROM (
                 SELECT 4::smallint AS state, reason, attempts, status_code, next_at, updated_at
                 FROM pending WHERE event_seq = $1 AND webhook_seq = $2
                 UNION ALL
                 SELECT state, reason, attempts, status_code, NULL, updated_at
                 FROM delivery WHERE event_seq = $1 AND webhook_seq = $2
             ) AS found
             CROSS JOIN (SELECT id, topic, type, accepted_at FROM event WHERE seq = $1 AND tenant = $3) AS event
             CROSS JOIN (SELECT uuid, name, deleted_at FROM webhook WHERE seq = $2) AS webhook",
            &[&key.event, &key.webhook, &tenant],
        )
        .await?;
    row.map(|row| stored_delivery(&row, key, 0)).transpose()
}

pub(super) async fn attempts(connection: &Connection, key: DeliveryKey) -> Result<Vec<AttemptRecord>, Failure> {
    let rows = connection
        .query(
            "SELECT 1, first_started_at, first_duration_us, first_status_code, first_error, first_response,
                 first_exchange
             FROM delivery
             WHERE event_seq = $1 AND webhook_seq = $2 AND first_started_at IS NOT NULL
             UNION ALL
             SELECT number, started_at, duration_us, status_code, error, response, exchange
             FROM attempt
             WHERE event_seq = $1 AND webhook_seq = $2
             ORDER BY 1",
            &[&key.event, &key.webhook],
        )
        .await?;
    let read = |row: &Row| {
        Ok(AttemptRecord {
            number: number(row, 0)?,
            started_at: row.try_get(1)?,
            duration_us: row.try_get(2)?,
            status_code: optional_number(row, 3)?,
            error: row.try_get(4)?,
            response: row.try_get::<_, Vec<u8>>(5)?.into(),
            exchange: ExchangeBlob::stored(row.try_get(6)?),
        })
    };
    rows.iter().map(read).collect()
}

pub(super) async fn retry(
    commit: &mut Commit,
    tenant: TenantSeq,
    key: DeliveryKey,
    now: UnixMicros,
) -> Result<StoredDelivery, Failure> {
    let found = lock(commit, tenant, key).await?;
    let webhook = commit.connection.query_one("SELECT deleted_at FROM webhook WHERE seq = $1", &[&key.webhook]).await?;
    found.refuse_retry(webhook.try_get::<_, Option<UnixMicros>>(0)?.is_some())?;
    let retried = change(commit, tenant, key, &Transition::queued(now), now).await?;
    commit.record(&retried.deed("delivery.retry", tenant, &commit.shared.delivery_ids, now)).await?;
    Ok(retried)
}

pub(super) async fn discard(
    commit: &mut Commit,
    tenant: TenantSeq,
    key: DeliveryKey,
    reason: &str,
    now: UnixMicros,
) -> Result<StoredDelivery, Failure> {
    lock(commit, tenant, key).await?.refuse_discard()?;
    let discarded = change(commit, tenant, key, &Transition::discarded(reason), now).await?;
    commit.record(&discarded.deed("delivery.discard", tenant, &commit.shared.delivery_ids, now)).await?;
    Ok(discarded)
}

/// Reads the delivery and locks it until the end of the transaction. A concurrent settlement waits, or has committed
/// before.
async fn lock(commit: &Commit, tenant: TenantSeq, key: DeliveryKey) -> Result<StoredDelivery, Failure> {
    // In the order of all transactions, which prevents deadlocks: the event first, as in a purge, then the tables in
    // the order in which an ending delivery passes them.
    commit.connection.execute("SELECT FROM event WHERE seq = $1 FOR KEY SHARE", &[&key.event]).await?;
    for sql in [
        "SELECT FROM pending WHERE event_seq = $1 AND webhook_seq = $2 FOR UPDATE",
        "SELECT FROM delivery WHERE event_seq = $1 AND webhook_seq = $2 FOR UPDATE",
    ] {
        commit.connection.execute(sql, &[&key.event, &key.webhook]).await?;
    }
    delivery(&commit.connection, tenant, key).await?.ok_or_else(|| StoreError::NotFound.into())
}

/// Changes a delivery, whatever its state, and reads it again.
async fn change(
    commit: &mut Commit,
    tenant: TenantSeq,
    key: DeliveryKey,
    transition: &Transition,
    at: UnixMicros,
) -> Result<StoredDelivery, Failure> {
    let wanted = Wanted { keys: &[key], states: &DeliveryState::ALL, in_memory: true };
    moves::change(commit, tenant, &wanted, transition, at).await?;
    delivery(&commit.connection, tenant, key).await?.ok_or_else(|| StoreError::NotFound.into())
}

/// Served by the index `pending_due`, which each discarded delivery leaves. Deliveries that are being settled are
/// skipped.
pub(super) async fn discard_pending(
    commit: &mut Commit,
    webhook: WebhookSeq,
    reason: &str,
    limit: u32,
    now: UnixMicros,
) -> Result<u32, Failure> {
    let rows = commit
        .connection
        .query(
            "SELECT event_seq FROM pending
             WHERE NOT in_memory AND webhook_seq = $1
             ORDER BY next_at, event_seq
             LIMIT $2
             FOR UPDATE SKIP LOCKED",
            &[&webhook, &i64::from(limit)],
        )
        .await?;
    let read = |row: &Row| Ok(DeliveryKey { event: row.try_get::<_, EventSeq>(0)?, webhook });
    let keys = rows.iter().map(read).collect::<Result<Vec<_>, Failure>>()?;
    let Some(tenant) = commit.shared.tenant_of(&commit.connection, webhook).await? else { return Ok(0) };
    let wanted = Wanted { keys: &keys, states: &[DeliveryState::Pending], in_memory: false };
    let discarded = moves::change(commit, tenant, &wanted, &Transition::discarded(reason), now).await?;
    Ok(u32::try_from(discarded.len()).unwrap_or(limit))
}
