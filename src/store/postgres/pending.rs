//! What is still owed: entries of the queue, with their events. Bodies are read as far as they are wanted; how long they
//! are is known without reading them.

use std::sync::Arc;

use tokio_postgres::Row;

use super::pool::Connection;
use super::values::{event, number};
use crate::clock::UnixMicros;
use crate::delivery::id::EventSeq;
use crate::store::failure::Failure;
use crate::store::read_back::ReadBack;
use crate::store::{
    Due, DueDelivery, LiveEvent, MAX_COUNTED_WAITING, MAX_PROBE_CHOICE, MAX_UNSETTLED_BYTES, Portion, Unsettled,
    Waiting,
};
use crate::webhook::WebhookSeq;

/// An event from the columns `seq, id, topic, type, body, hops, checksum`, at `first` and after.
fn live_event(row: &Row, first: usize) -> Result<Arc<LiveEvent>, Failure> {
    let ReadBack { event, is_damaged } = event(row, [1, 2, 3, 4, 5, 6].map(|at| first + at))?;
    Ok(Arc::new(LiveEvent { seq: row.try_get(first)?, event, is_damaged }))
}

/// Scans the primary key of `pending`, and skips entries without the mark.
pub(super) async fn unsettled(
    connection: &Connection,
    after: EventSeq,
    max_events: u32,
) -> Result<Vec<Unsettled>, Failure> {
    let rows = connection
        .query(
            "WITH next AS MATERIALIZED (
                 SELECT event_seq, array_agg(webhook_seq ORDER BY webhook_seq) AS webhooks
                 FROM pending
                 WHERE in_memory AND event_seq > $1
                 GROUP BY event_seq
                 ORDER BY event_seq
                 LIMIT $2
             ),
             measured AS (
                 SELECT next.*, event.*,
                     sum(octet_length(event.body)) OVER (ORDER BY next.event_seq) AS bytes,
                     row_number() OVER (ORDER BY next.event_seq) AS place
                 FROM next
                     CROSS JOIN LATERAL (SELECT * FROM event WHERE seq = next.event_seq OFFSET 0) AS event
             )
             SELECT seq, id, topic, type, body, hops, checksum, webhooks, accepted_at FROM measured
             WHERE bytes <= $3 OR place = 1
             ORDER BY seq",
            &[&after, &i64::from(max_events), &bigint(MAX_UNSETTLED_BYTES)],
        )
        .await?;
    let unsettled = |row: &Row| {
        Ok(Unsettled { event: live_event(row, 0)?, accepted_at: row.try_get(8)?, webhooks: row.try_get(7)? })
    };
    rows.iter().map(unsettled).collect()
}

/// Selects due entries of the queue; `$where` has the condition and `$order` the order. The rows are the entries whose
/// bodies have room, up to the first that is not due, then the other entries that were looked at, without bodies. One
/// entry beyond the limit is looked at, to learn whether there is more.
macro_rules! select_due {
    ($where:literal, $order:literal) => {
        select_due!($where, $order, "")
    };
    ($where:literal, $order:literal, $offset:literal) => {
        concat!(
            "WITH next AS MATERIALIZED (
                 SELECT event_seq, next_at, attempts, round_attempts
                 FROM pending
                 WHERE NOT in_memory AND webhook_seq = $1 AND ",
            $where,
            " AND (event_seq IN (SELECT unnest($3::bigint[]))) IS NOT TRUE
                 ORDER BY ",
            $order,
            "
                 LIMIT $4::bigint + 1",
            $offset,
            "
             ),
             measured AS (
                 SELECT next.*, event.*,
                     row_number() OVER in_order AS place,
                     sum(octet_length(event.body)) OVER in_order AS bytes,
                     bool_or(next_at > $2) OVER in_order AS must_wait
                 FROM next
                     CROSS JOIN LATERAL (
                         SELECT seq, id, topic, type, body, hops, checksum, accepted_at FROM event
                         WHERE seq = next.event_seq OFFSET 0
                     ) AS event
                 WINDOW in_order AS (ORDER BY ",
            $order,
            ")
             ),
             judged AS (
                 SELECT *, NOT must_wait AND place <= $4 AND (place = 1 OR bytes <= $5) AS fits FROM measured
             )
             SELECT seq, id, topic, type, CASE WHEN fits THEN body END, hops, checksum, attempts, round_attempts,
                 fits, must_wait, next_at, accepted_at
             FROM judged
             ORDER BY place"
        )
    };
}

/// Served by the index `pending_due`.
const BY_TIME: &str = select_due!("next_at <= $2", "next_at, event_seq");
/// For probes, served by the same index; from its other end with the first.
const NEWEST_PROBE: &str = select_due!("next_at <= $2", "next_at DESC, event_seq DESC", " OFFSET $6::bigint");
const OLDEST_PROBE: &str = select_due!("next_at <= $2", "next_at, event_seq", " OFFSET $6::bigint");
/// Served by the index `pending_in_order`.
const IN_ORDER: &str = select_due!("true", "event_seq");

pub(super) async fn due(
    connection: &Connection,
    webhook: WebhookSeq,
    now: UnixMicros,
    portion: &Portion,
) -> Result<Due, Failure> {
    let (max_deliveries, max_bytes) = (i64::from(portion.max_deliveries), bigint(portion.max_bytes));
    let held = portion.held.iter().copied();
    let rows = match &portion.probe {
        Some(probe) if !portion.in_order => {
            let skipped = match probe.share {
                0 => 0,
                _ => i64::from(probe.skipped(count_due(connection, webhook, now).await?)),
            };
            let statement = if probe.newest_first { NEWEST_PROBE } else { OLDEST_PROBE };
            let passed_over: Vec<_> = held.chain(probe.avoided.iter().copied()).collect();
            connection.query(statement, &[&webhook, &now, &passed_over, &max_deliveries, &max_bytes, &skipped]).await?
        }
        _ => {
            let statement = if portion.in_order { IN_ORDER } else { BY_TIME };
            let held: Vec<_> = held.collect();
            connection.query(statement, &[&webhook, &now, &held, &max_deliveries, &max_bytes]).await?
        }
    };
    let mut due = Due::default();
    for row in &rows {
        if row.try_get(9)? {
            due.deliveries.push(due_delivery(row, webhook)?);
            continue;
        }
        let must_wait: bool = row.try_get(10)?;
        due.is_rest_due = !must_wait;
        if portion.in_order {
            due.awaited = Some((row.try_get(0)?, if must_wait { row.try_get(11)? } else { now }));
        }
        break;
    }
    Ok(due)
}

/// How many are due, [`MAX_PROBE_CHOICE`] at most; the index alone.
async fn count_due(connection: &Connection, webhook: WebhookSeq, now: UnixMicros) -> Result<u32, Failure> {
    let rows = connection
        .query(
            "SELECT count(*)::integer FROM (
                 SELECT 1 FROM pending
                 WHERE NOT in_memory AND webhook_seq = $1 AND next_at <= $2
                 LIMIT $3
             ) AS first",
            &[&webhook, &now, &i64::from(MAX_PROBE_CHOICE)],
        )
        .await?;
    rows.first().map_or(Ok(0), |row| number(row, 0))
}

fn due_delivery(row: &Row, webhook: WebhookSeq) -> Result<DueDelivery, Failure> {
    let round_attempts = number(row, 8)?;
    let begins_at = DueDelivery::begins_at(row.try_get(12)?, row.try_get(11)?, round_attempts);
    Ok(DueDelivery { event: live_event(row, 0)?, webhook, attempts: number(row, 7)?, round_attempts, begins_at })
}

/// `usize::MAX` stands for no limit.
fn bigint(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Reads the beginning of each webhook's part of the index `pending_due`, instead of scanning all pending entries.
pub(super) async fn next_due(
    connection: &Connection,
    webhook: Option<WebhookSeq>,
    after: UnixMicros,
) -> Result<Vec<(WebhookSeq, UnixMicros)>, Failure> {
    let rows = connection
        .query(
            "SELECT webhook.seq, earliest.next_at
             FROM webhook
                 CROSS JOIN LATERAL (
                     SELECT next_at FROM pending
                     WHERE NOT in_memory AND webhook_seq = webhook.seq AND next_at > $2
                     ORDER BY next_at
                     LIMIT 1
                 ) AS earliest
             WHERE $1::bigint IS NULL OR webhook.seq = $1
             ORDER BY webhook.seq",
            &[&webhook, &after],
        )
        .await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// Served by the indexes `pending_due` and `pending_in_order`.
pub(super) async fn waiting(connection: &Connection, webhooks: &[WebhookSeq]) -> Result<Vec<Waiting>, Failure> {
    let rows = connection
        .query(
            "SELECT counted.count, oldest.accepted_at
             FROM unnest($1::bigint[]) WITH ORDINALITY AS wanted (webhook, place)
                 CROSS JOIN LATERAL (
                     SELECT count(*)::integer AS count FROM (
                         SELECT 1 FROM pending
                         WHERE NOT in_memory AND webhook_seq = wanted.webhook
                         LIMIT $2
                     ) AS first
                 ) AS counted
                 LEFT JOIN LATERAL (
                     SELECT event.accepted_at FROM (
                         SELECT event_seq FROM pending
                         WHERE NOT in_memory AND webhook_seq = wanted.webhook
                         ORDER BY event_seq
                         LIMIT 1
                     ) AS first
                         JOIN event ON event.seq = first.event_seq
                 ) AS oldest ON true
             ORDER BY wanted.place",
            &[&webhooks, &i64::from(MAX_COUNTED_WAITING)],
        )
        .await?;
    rows.iter().map(|row| Ok(Waiting { count: number(row, 0)?, since: row.try_get(1)? })).collect()
}

/// Deleted webhooks that still have stored pending deliveries. Served by the index `pending_due`.
pub(super) async fn deleted_webhooks(connection: &Connection) -> Result<Vec<WebhookSeq>, Failure> {
    let rows = connection
        .query(
            "SELECT seq FROM webhook
             WHERE deleted_at IS NOT NULL AND EXISTS (
                 SELECT 1 FROM pending WHERE NOT in_memory AND webhook_seq = webhook.seq
             )
             ORDER BY seq",
            &[],
        )
        .await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}
