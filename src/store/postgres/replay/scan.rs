//! What a replay job meets next. A scan looks at a bounded number of rows and bytes with one statement, two where
//! bodies are wanted, and says how far it got.

use std::sync::Arc;

use tokio_postgres::Row;

use crate::delivery::DeliveryState;
use crate::delivery::id::{DeliveryKey, EventSeq};
use crate::fit::fit;
use crate::store::LiveEvent;
use crate::store::failure::Failure;
use crate::store::postgres::events;
use crate::store::postgres::listings::regex;
use crate::store::postgres::pool::Connection;
use crate::store::replay::{MAX_REPLAY_SCAN_ROWS, MAX_REPLAY_STEP_BYTES, ReplayAction, ReplayRecord, ReplayScan};
use crate::topic::Pattern;
use crate::webhook::WebhookSeq;

/// After every delivery of an event.
const LAST_WEBHOOK: WebhookSeq = WebhookSeq(i64::MAX);

pub(in crate::store::postgres) async fn scan(
    connection: &Connection,
    job: &ReplayRecord,
    patterns: &[Pattern],
    max_changes: u32,
) -> Result<ReplayScan, Failure> {
    match (&job.action, &job.webhook) {
        (ReplayAction::Replay { include_unmatched: true }, Some(webhook)) => {
            by_event(connection, job, webhook.seq, patterns, max_changes).await
        }
        _ => by_delivery(connection, job, max_changes).await,
    }
}

/// The first columns of each row of the statements.
struct Looked {
    /// The last place looked at, and the number of rows looked at, of all tenants.
    last: DeliveryKey,
    rows: u32,
    /// The rows among them that the job counts.
    scanned: u32,
}

impl Looked {
    /// `None`: no rows were left.
    fn read(rows: &[Row]) -> Result<Option<Self>, Failure> {
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(Self {
            last: DeliveryKey { event: row.try_get(0)?, webhook: row.try_get(1)? },
            rows: count(row, 2)?,
            scanned: count(row, 3)?,
        }))
    }

    /// The place where the next scan goes on, after a scan that returned all its matches.
    fn passed(looked: Option<&Self>, job: &ReplayRecord) -> ReplayScan {
        let end = DeliveryKey { event: job.events.1, webhook: LAST_WEBHOOK };
        let is_end = looked.is_none_or(|looked| looked.rows < MAX_REPLAY_SCAN_ROWS);
        let last = looked.filter(|_| !is_end).map_or(end, |looked| looked.last);
        ReplayScan {
            found: Vec::new(),
            unmatched: Vec::new(),
            cursor: last.max(job.cursor),
            scanned: looked.map_or(0, |looked| looked.scanned),
            is_end,
        }
    }
}

fn count(row: &Row, column: usize) -> Result<u32, Failure> {
    Ok(fit(row.try_get::<_, i64>(column)?, u32::MAX))
}

/// Served by the primary key of `pending` if that state is wanted, and by the index `delivery_ended`, or by the primary
/// key of `delivery` if delivered ones are wanted.
const SELECT_DELIVERIES: &str = "WITH seen AS MATERIALIZED (
         (
             SELECT event_seq, webhook_seq, 4::smallint AS state
             FROM pending
             WHERE event_seq >= $1::bigint AND (event_seq, webhook_seq) > ($1, $2::bigint) AND event_seq <= $3::bigint
                 AND $5::boolean
             ORDER BY event_seq, webhook_seq
             LIMIT $4
         ) UNION ALL (
             SELECT event_seq, webhook_seq, state
             FROM delivery
             WHERE event_seq >= $1::bigint AND (event_seq, webhook_seq) > ($1, $2::bigint) AND event_seq <= $3::bigint
                 AND $6::boolean
             ORDER BY event_seq, webhook_seq
             LIMIT $4
         ) UNION ALL (
             SELECT event_seq, webhook_seq, state
             FROM delivery
             WHERE event_seq >= $1::bigint AND (event_seq, webhook_seq) > ($1, $2::bigint) AND event_seq <= $3::bigint
                 AND NOT $6::boolean AND state = ANY($7::smallint[]) AND state BETWEEN 1 AND 3
             ORDER BY event_seq, webhook_seq
             LIMIT $4
         )
         ORDER BY event_seq, webhook_seq
         LIMIT $4
     ), own AS MATERIALIZED (
         SELECT seen.*, topic, accepted_at, row_number() OVER (ORDER BY event_seq, webhook_seq) AS number
         FROM seen CROSS JOIN LATERAL (
             SELECT tenant, topic, accepted_at FROM event WHERE seq = seen.event_seq OFFSET 0
         ) AS event
         WHERE tenant = $8 AND ($9::bigint IS NULL OR webhook_seq = $9) AND state = ANY($7::smallint[])
     ), wanted AS (
         SELECT event_seq, webhook_seq, number
         FROM own
         WHERE ($10::bigint IS NULL OR accepted_at >= $10)
             AND ($11::bigint IS NULL OR accepted_at < $11)
             AND ($12::text IS NULL OR topic ~ $12)
         ORDER BY event_seq, webhook_seq
         LIMIT $13
     )
     SELECT ends.event_seq, ends.webhook_seq, ends.rows, (SELECT count(*) FROM own), wanted.*
     FROM (
             SELECT event_seq, webhook_seq, count(*) OVER () AS rows
             FROM seen ORDER BY event_seq DESC, webhook_seq DESC LIMIT 1
         ) AS ends LEFT JOIN wanted ON true
     ORDER BY wanted.event_seq, wanted.webhook_seq";

/// Delivery by delivery.
async fn by_delivery(connection: &Connection, job: &ReplayRecord, max_changes: u32) -> Result<ReplayScan, Failure> {
    let selection = &job.selection;
    let is_wanted = |state| selection.states.contains(&state);
    let rows = connection
        .query(
            SELECT_DELIVERIES,
            &[
                &job.cursor.event,
                &job.cursor.webhook,
                &job.events.1,
                &i64::from(MAX_REPLAY_SCAN_ROWS),
                &is_wanted(DeliveryState::Pending),
                &is_wanted(DeliveryState::Delivered),
                &selection.states,
                &job.tenant,
                &job.webhook.as_ref().map(|webhook| webhook.seq),
                &selection.since,
                &selection.until,
                &selection.topic.as_ref().map(regex),
                &(i64::from(max_changes) + 1),
            ],
        )
        .await?;
    let mut scan = Looked::passed(Looked::read(&rows)?.as_ref(), job);
    // Up to the last one found, where the next scan goes on.
    let mut scanned = 0;
    for row in &rows {
        let Some(event) = row.try_get(4)? else { break };
        let key = DeliveryKey { event, webhook: row.try_get(5)? };
        if scan.found.len() >= max_changes as usize {
            scan.is_end = false;
            scan.cursor = scan.found.last().copied().unwrap_or(job.cursor);
            scan.scanned = scanned;
            break;
        }
        scan.found.push(key);
        scanned = count(row, 6)?;
    }
    Ok(scan)
}

/// Served by the primary keys.
const SELECT_EVENTS: &str = "WITH seen AS MATERIALIZED (
         SELECT seq, tenant, topic, accepted_at, octet_length(body) AS bytes
         FROM event
         WHERE seq > $1::bigint AND seq <= $2::bigint
         ORDER BY seq
         LIMIT $3
     ), own AS MATERIALIZED (
         SELECT seen.*, row_number() OVER (ORDER BY seq) AS number FROM seen WHERE tenant = $4
     ), wanted AS (
         SELECT seq, number, state IS NULL AS is_unmatched, bytes
         FROM own LEFT JOIN LATERAL (
             SELECT 4::smallint AS state FROM pending WHERE event_seq = own.seq AND webhook_seq = $5
             UNION ALL
             SELECT state FROM delivery WHERE event_seq = own.seq AND webhook_seq = $5
             OFFSET 0
         ) AS found ON true
         WHERE (state = ANY($6::smallint[]) OR (state IS NULL AND topic ~ ANY($7::text[])))
             AND ($8::bigint IS NULL OR accepted_at >= $8)
             AND ($9::bigint IS NULL OR accepted_at < $9)
             AND ($10::text IS NULL OR topic ~ $10)
         ORDER BY seq
         LIMIT $11
     )
     SELECT ends.seq, $12::bigint, ends.rows, (SELECT count(*) FROM own), wanted.*
     FROM (SELECT seq, count(*) OVER () AS rows FROM seen ORDER BY seq DESC LIMIT 1) AS ends
         LEFT JOIN wanted ON true
     ORDER BY wanted.seq";

/// Event by event, for one webhook, whether it is on the event's list or not.
async fn by_event(
    connection: &Connection,
    job: &ReplayRecord,
    webhook: WebhookSeq,
    patterns: &[Pattern],
    max_changes: u32,
) -> Result<ReplayScan, Failure> {
    let selection = &job.selection;
    // A cursor within an event goes back to the end of the event before.
    let after = EventSeq(job.cursor.event.0 - i64::from(job.cursor.webhook != LAST_WEBHOOK));
    let rows = connection
        .query(
            SELECT_EVENTS,
            &[
                &after,
                &job.events.1,
                &i64::from(MAX_REPLAY_SCAN_ROWS),
                &job.tenant,
                &webhook,
                &selection.states,
                &patterns.iter().map(regex).collect::<Vec<_>>(),
                &selection.since,
                &selection.until,
                &selection.topic.as_ref().map(regex),
                &(i64::from(max_changes) + 1),
                &LAST_WEBHOOK,
            ],
        )
        .await?;
    let mut scan = Looked::passed(Looked::read(&rows)?.as_ref(), job);
    let (mut unmatched, mut bytes, mut last, mut scanned) = (Vec::new(), 0, job.cursor, 0);
    for row in &rows {
        let Some(event) = row.try_get(4)? else { break };
        let is_unmatched = row.try_get(6)?;
        let is_full = scan.found.len() + unmatched.len() >= max_changes as usize;
        if is_full || (is_unmatched && bytes >= MAX_REPLAY_STEP_BYTES) {
            (scan.is_end, scan.cursor, scan.scanned) = (false, last, scanned);
            break;
        }
        if is_unmatched {
            unmatched.push(event);
            bytes += usize::try_from(row.try_get::<_, i32>(7)?).unwrap_or(0);
        } else {
            scan.found.push(DeliveryKey { event, webhook });
        }
        last = DeliveryKey { event, webhook: LAST_WEBHOOK };
        scanned = count(row, 5)?;
    }
    scan.unmatched = events::by_seq(connection, &unmatched)
        .await?
        .into_iter()
        .map(|found| Arc::new(LiveEvent { seq: found.seq, event: found.event, is_damaged: found.is_damaged }))
        .collect();
    Ok(scan)
}
