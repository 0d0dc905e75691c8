//! Single deliveries: reading them, their attempts, and what an operator does to them.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, Row};
use uuid::Uuid;

use super::commit::Commit;
use super::settle::{Existing, RowChange, put};
use crate::clock::UnixMicros;
use crate::delivery::id::{DeliveryKey, EventSeq};
use crate::delivery::{DeliveryState, Transition};
use crate::store::failure::Failure;
use crate::store::{AttemptRecord, ExchangeBlob, StoreError, StoredDelivery, owed};
use crate::webhook::{TenantSeq, WebhookSeq};

/// The part of an event that each of its deliveries shows.
#[derive(Clone, Debug)]
pub(super) struct EventHead {
    pub(super) seq: EventSeq,
    pub(super) tenant: TenantSeq,
    pub(super) id: String,
    pub(super) topic: String,
    pub(super) kind: String,
    pub(super) accepted_at: UnixMicros,
    pub(super) owed: Vec<WebhookSeq>,
}

pub(super) fn event_head(connection: &Connection, seq: EventSeq) -> rusqlite::Result<Option<EventHead>> {
    connection
        .prepare_cached("SELECT seq, tenant, id, topic, type, accepted_at, owed FROM event WHERE seq = ?1")?
        .query_row([seq], |row| {
            Ok(EventHead {
                seq: row.get(0)?,
                tenant: row.get(1)?,
                id: row.get(2)?,
                topic: row.get(3)?,
                kind: row.get(4)?,
                accepted_at: row.get(5)?,
                owed: owed::decode(row.get_ref(6)?.as_blob()?),
            })
        })
        .optional()
}

/// The part of a webhook that its deliveries show.
#[derive(Clone, Debug)]
pub(super) struct WebhookHead {
    uuid: Uuid,
    name: String,
    deleted_at: Option<UnixMicros>,
}

/// Webhooks looked up so far.
#[derive(Default)]
pub(super) struct WebhookHeads(HashMap<WebhookSeq, WebhookHead>);

impl WebhookHeads {
    fn get(&mut self, connection: &Connection, seq: WebhookSeq) -> Result<&WebhookHead, Failure> {
        use std::collections::hash_map::Entry;
        match self.0.entry(seq) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(unknown) => {
                let head = connection
                    .prepare_cached("SELECT uuid, name, deleted_at FROM webhook WHERE seq = ?1")?
                    .query_row([seq], |row| {
                        Ok(WebhookHead { uuid: row.get(0)?, name: row.get(1)?, deleted_at: row.get(2)? })
                    })
                    .optional()?;
                let gone = || StoreError::Corrupt(format!("an event is owed to webhook {}, which is unknown", seq.0));
                Ok(unknown.insert(head.ok_or_else(gone)?))
            }
        }
    }
}

/// The row of a delivery.
#[derive(Clone, Debug)]
pub(super) struct DeliveryRow {
    pub(super) webhook: WebhookSeq,
    pub(super) state: DeliveryState,
    attempts: u32,
    next_at: Option<UnixMicros>,
    updated_at: UnixMicros,
    status_code: Option<u16>,
    reason: Option<String>,
}

/// The rows of an event's deliveries to webhooks `first` to `last`, ascending.
pub(super) fn delivery_rows(
    connection: &Connection,
    event: EventSeq,
    first: WebhookSeq,
    last: WebhookSeq,
) -> rusqlite::Result<Vec<DeliveryRow>> {
    let read = |row: &Row<'_>| {
        Ok(DeliveryRow {
            webhook: row.get(0)?,
            state: row.get(1)?,
            attempts: row.get(2)?,
            next_at: row.get(3)?,
            updated_at: row.get(4)?,
            status_code: row.get(5)?,
            reason: row.get(6)?,
        })
    };
    connection
        .prepare_cached(
            "SELECT webhook_seq, state, attempts, next_at, updated_at, status_code, reason
             FROM delivery
             WHERE event_seq = ?1 AND webhook_seq BETWEEN ?2 AND ?3
             ORDER BY webhook_seq",
        )?
        .query_map((event, first, last), read)?
        .collect()
}

/// A delivery as users see it. A delivery without a row is pending and was never attempted. A pending delivery of a
/// deleted webhook is shown as discarded.
pub(super) fn stored_delivery(
    connection: &Connection,
    heads: &mut WebhookHeads,
    event: &EventHead,
    webhook: WebhookSeq,
    row: Option<&DeliveryRow>,
) -> Result<StoredDelivery, Failure> {
    let head = heads.get(connection, webhook)?;
    let delivery = StoredDelivery {
        key: DeliveryKey { event: event.seq, webhook },
        webhook_uuid: head.uuid,
        webhook_name: head.name.clone(),
        event_id: event.id.clone(),
        topic: event.topic.clone(),
        kind: event.kind.clone(),
        accepted_at: event.accepted_at,
        state: row.map_or(DeliveryState::Pending, |row| row.state),
        reason: row.and_then(|row| row.reason.clone()),
        attempts: row.map_or(0, |row| row.attempts),
        status_code: row.and_then(|row| row.status_code),
        next_attempt_at: row.map_or(Some(event.accepted_at), |row| row.next_at),
        updated_at: row.map_or(event.accepted_at, |row| row.updated_at),
    };
    Ok(match head.deleted_at {
        Some(at) if delivery.state == DeliveryState::Pending => delivery.of_deleted_webhook(at),
        _ => delivery,
    })
}

pub(super) fn delivery(
    connection: &Connection,
    tenant: TenantSeq,
    key: DeliveryKey,
) -> Result<Option<StoredDelivery>, Failure> {
    let Some(event) = event_head(connection, key.event)? else { return Ok(None) };
    if event.tenant != tenant || event.owed.binary_search(&key.webhook).is_err() {
        return Ok(None);
    }
    let rows = delivery_rows(connection, key.event, key.webhook, key.webhook)?;
    stored_delivery(connection, &mut WebhookHeads::default(), &event, key.webhook, rows.first()).map(Some)
}

pub(super) fn attempts(connection: &Connection, key: DeliveryKey) -> Result<Vec<AttemptRecord>, Failure> {
    let read = |row: &Row<'_>| {
        Ok(AttemptRecord {
            number: row.get(0)?,
            started_at: row.get(1)?,
            duration_us: row.get(2)?,
            status_code: row.get(3)?,
            error: row.get(4)?,
            response: row.get::<_, Vec<u8>>(5)?.into(),
            exchange: ExchangeBlob::stored(row.get(6)?),
        })
    };
    let mut statement = connection.prepare_cached(
        "SELECT 1, first_started_at, first_duration_us, first_status_code, first_error, first_response,
             first_exchange
         FROM delivery
         WHERE event_seq = ?1 AND webhook_seq = ?2 AND first_started_at IS NOT NULL
         UNION ALL
         SELECT number, started_at, duration_us, status_code, error, response, exchange
         FROM attempt
         WHERE event_seq = ?1 AND webhook_seq = ?2
         ORDER BY 1",
    )?;
    Ok(statement.query_map((key.event, key.webhook), read)?.collect::<Result<_, _>>()?)
}

pub(super) fn retry(
    commit: &mut Commit<'_>,
    tenant: TenantSeq,
    key: DeliveryKey,
    now: UnixMicros,
) -> Result<StoredDelivery, Failure> {
    let found = delivery(commit.connection, tenant, key)?.ok_or(StoreError::NotFound)?;
    found.refuse_retry(WebhookHeads::default().get(commit.connection, key.webhook)?.deleted_at.is_some())?;
    let retried = change(commit, tenant, key, &Transition::queued(now), Some(0), now)?;
    commit.record(&retried.deed("delivery.retry", tenant, &commit.state.delivery_ids, now))?;
    Ok(retried)
}

pub(super) fn discard(
    commit: &mut Commit<'_>,
    tenant: TenantSeq,
    key: DeliveryKey,
    reason: &str,
    now: UnixMicros,
) -> Result<StoredDelivery, Failure> {
    let found = delivery(commit.connection, tenant, key)?.ok_or(StoreError::NotFound)?;
    found.refuse_discard()?;
    let discarded = change(commit, tenant, key, &Transition::discarded(reason), None, now)?;
    commit.record(&discarded.deed("delivery.discard", tenant, &commit.state.delivery_ids, now))?;
    Ok(discarded)
}

/// Changes a delivery that `tenant` owns and reads it again. `round_attempts`: `None` keeps the count.
fn change(
    commit: &mut Commit<'_>,
    tenant: TenantSeq,
    key: DeliveryKey,
    transition: &Transition,
    round_attempts: Option<u32>,
    at: UnixMicros,
) -> Result<StoredDelivery, Failure> {
    let existing = super::settle::find(commit, key)?;
    let kept = existing.as_ref().map_or(0, |Existing { round_attempts, .. }| *round_attempts);
    let round_attempts = round_attempts.unwrap_or(kept);
    put(commit, key, &RowChange { transition, attempt: None, round_attempts, at })?;
    delivery(commit.connection, tenant, key)?.ok_or_else(|| StoreError::NotFound.into())
}

/// Served by the index `delivery_due`, which each discarded delivery leaves.
pub(super) fn discard_pending(
    commit: &mut Commit<'_>,
    webhook: WebhookSeq,
    reason: &str,
    limit: u32,
    now: UnixMicros,
) -> Result<u32, Failure> {
    let pending: Vec<(EventSeq, u32)> = commit
        .prepare(
            "SELECT event_seq, round_attempts FROM delivery INDEXED BY delivery_due
             WHERE state = 4 AND webhook_seq = ?1
             LIMIT ?2",
        )?
        .query_map((webhook, limit), |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    let transition = Transition::discarded(reason);
    for (event, round_attempts) in &pending {
        let key = DeliveryKey { event: *event, webhook };
        put(
            commit,
            key,
            &RowChange { transition: &transition, attempt: None, round_attempts: *round_attempts, at: now },
        )?;
    }
    Ok(u32::try_from(pending.len()).unwrap_or(limit))
}
