//! What is still owed: from rows, and from owed lists without rows.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row};

use super::events::live_event;
use super::window::Window;
use crate::clock::UnixMicros;
use crate::delivery::id::EventSeq;
use crate::fit::fit;
use crate::store::failure::{Failure, corrupt};
use crate::store::{
    Due, DueDelivery, MAX_COUNTED_WAITING, MAX_PROBE_CHOICE, MAX_UNSETTLED_BYTES, Portion, Unsettled, Waiting, owed,
};
use crate::webhook::WebhookSeq;

/// Counts the deliveries without a row of every event from the low-water mark on. Both tables are read once, in their
/// order on disk, without bodies.
pub(super) fn read_window(connection: &Connection) -> rusqlite::Result<Window> {
    let (low_water, next): (EventSeq, EventSeq) =
        connection.query_row("SELECT low_water, next_event FROM progress", (), |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut window = Window::starting_at(low_water);
    let mut events = connection.prepare("SELECT seq, owed FROM event WHERE seq >= ?1 ORDER BY seq")?;
    let mut deliveries = connection.prepare(
        "SELECT event_seq, count(*) FROM delivery WHERE event_seq >= ?1 GROUP BY event_seq ORDER BY event_seq",
    )?;
    let mut events = events.query([low_water])?;
    let mut deliveries = deliveries.query([low_water])?;
    let mut with_rows: Option<(EventSeq, u32)> = None;
    while let Some(event) = events.next()? {
        let seq: EventSeq = event.get(0)?;
        let owed = owed::count(event.get_ref(1)?.as_blob()?);
        while with_rows.is_none_or(|(event, _)| event < seq) {
            let Some(row) = deliveries.next()? else { break };
            with_rows = Some((row.get(0)?, row.get(1)?));
        }
        let rows = with_rows.filter(|(event, _)| *event == seq).map_or(0, |(_, rows)| rows);
        fill(&mut window, seq);
        window.push(owed.saturating_sub(rows));
    }
    fill(&mut window, next);
    window.keep();
    Ok(window)
}

/// Fills the gaps of deleted events, which have no deliveries.
fn fill(window: &mut Window, until: EventSeq) {
    while window.next_event() < until {
        window.push(0);
    }
}

pub(super) fn unsettled(connection: &Connection, after: EventSeq, max_events: u32) -> Result<Vec<Unsettled>, Failure> {
    let low_water: EventSeq =
        connection.prepare_cached("SELECT low_water FROM progress")?.query_row((), |row| row.get(0))?;
    let first = low_water.max(EventSeq(after.0.saturating_add(1)));
    let mut events = connection.prepare_cached("SELECT seq, owed FROM event WHERE seq >= ?1 ORDER BY seq")?;
    let mut events = events.query([first])?;
    let mut unsettled = Vec::new();
    let mut bytes = 0;
    while unsettled.len() < max_events as usize {
        let Some(row) = events.next()? else { break };
        let seq = row.get(0)?;
        let owed = row.get_ref(1)?.as_blob().map_err(corrupt)?;
        let webhooks = rowless(connection, seq, owed)?;
        if webhooks.is_empty() {
            continue;
        }
        let (event, accepted_at) = live_event(connection, seq)?;
        bytes += event.event.body().len();
        if bytes > MAX_UNSETTLED_BYTES && !unsettled.is_empty() {
            break;
        }
        unsettled.push(Unsettled { event: Arc::new(event), accepted_at, webhooks });
    }
    Ok(unsettled)
}

/// The webhooks on an event's list whose deliveries have no row.
fn rowless(connection: &Connection, event: EventSeq, owed: &[u8]) -> rusqlite::Result<Vec<WebhookSeq>> {
    let mut statement =
        connection.prepare_cached("SELECT webhook_seq FROM delivery WHERE event_seq = ?1 ORDER BY webhook_seq")?;
    let with_rows: Vec<WebhookSeq> = statement.query_map([event], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let mut webhooks = owed::decode(owed);
    webhooks.retain(|webhook| with_rows.binary_search(webhook).is_err());
    Ok(webhooks)
}

/// Served by the index `delivery_due`. Bodies of deliveries that the caller holds are not read.
pub(super) fn due(
    connection: &Connection,
    webhook: WebhookSeq,
    now: UnixMicros,
    portion: &Portion,
) -> Result<Due, Failure> {
    if portion.in_order {
        return due_in_order(connection, webhook, now, portion);
    }
    let mut statement =
        connection.prepare_cached(if portion.probe.as_ref().is_some_and(|probe| probe.newest_first) {
            "SELECT event_seq, attempts, round_attempts, next_at
         FROM delivery INDEXED BY delivery_due
         WHERE state = 4 AND webhook_seq = ?1 AND next_at <= ?2
         ORDER BY next_at DESC, event_seq DESC
         LIMIT -1 OFFSET ?3"
        } else {
            "SELECT event_seq, attempts, round_attempts, next_at
         FROM delivery INDEXED BY delivery_due
         WHERE state = 4 AND webhook_seq = ?1 AND next_at <= ?2
         ORDER BY next_at, event_seq
         LIMIT -1 OFFSET ?3"
        })?;
    let skipped = match &portion.probe {
        Some(probe) if probe.share > 0 => probe.skipped(count_due(connection, webhook, now)?),
        _ => 0,
    };
    let mut rows = statement.query((webhook, now, skipped))?;
    let mut gathered = Gathered::new(webhook, portion);
    while let Some(row) = rows.next()? {
        if !gathered.add(connection, row)? {
            break;
        }
    }
    Ok(gathered.due)
}

/// How many are due, [`MAX_PROBE_CHOICE`] at most; the index alone.
fn count_due(connection: &Connection, webhook: WebhookSeq, now: UnixMicros) -> rusqlite::Result<u32> {
    connection
        .prepare_cached(
            "SELECT count(*) FROM (
                 SELECT 1 FROM delivery INDEXED BY delivery_due
                 WHERE state = 4 AND webhook_seq = ?1 AND next_at <= ?2
                 LIMIT ?3
             )",
        )?
        .query_row((webhook, now, MAX_PROBE_CHOICE), |row| row.get(0))
}

/// For an ordered webhook. Reads the webhook's whole part of the index `delivery_due`, which is sorted by time, not by
/// order of acceptance. This costs little compared with attempts that are made one by one.
fn due_in_order(
    connection: &Connection,
    webhook: WebhookSeq,
    now: UnixMicros,
    portion: &Portion,
) -> Result<Due, Failure> {
    let awaited: Option<(EventSeq, UnixMicros)> = connection
        .prepare_cached(
            "SELECT event_seq, next_at FROM delivery INDEXED BY delivery_due
             WHERE state = 4 AND webhook_seq = ?1 AND next_at > ?2
             ORDER BY event_seq LIMIT 1",
        )?
        .query_row((webhook, now), |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let mut statement = connection.prepare_cached(
        "SELECT event_seq, attempts, round_attempts, next_at FROM delivery
         WHERE webhook_seq = ?1 AND event_seq IN (
             SELECT event_seq FROM delivery INDEXED BY delivery_due
             WHERE state = 4 AND webhook_seq = ?1 AND next_at <= ?2 AND event_seq < ?3
             ORDER BY event_seq LIMIT ?4
         )
         ORDER BY event_seq",
    )?;
    let end = awaited.map_or(EventSeq(i64::MAX), |(event, _)| event);
    let limit = portion.max_deliveries as usize + portion.held.len() + 1;
    let mut rows = statement.query((webhook, now, end, fit(limit, i64::MAX)))?;
    let mut gathered = Gathered::new(webhook, portion);
    while let Some(row) = rows.next()? {
        if !gathered.add(connection, row)? {
            return Ok(Due { awaited: Some((row.get(0)?, now)), ..gathered.due });
        }
    }
    Ok(Due { awaited, ..gathered.due })
}

/// A portion that is being filled.
struct Gathered<'a> {
    webhook: WebhookSeq,
    portion: &'a Portion,
    due: Due,
    bytes: usize,
}

impl<'a> Gathered<'a> {
    fn new(webhook: WebhookSeq, portion: &'a Portion) -> Self {
        Self { webhook, portion, due: Due::default(), bytes: 0 }
    }

    /// A row of event, attempts, attempts of this round and time; `false` if there is no room for it.
    fn add(&mut self, connection: &Connection, row: &Row<'_>) -> Result<bool, Failure> {
        let seq = row.get(0)?;
        if self.portion.is_passed_over(seq) {
            return Ok(true);
        }
        self.due.is_rest_due = self.due.deliveries.len() >= self.portion.max_deliveries as usize;
        if self.due.is_rest_due {
            return Ok(false);
        }
        let (event, accepted_at) = live_event(connection, seq)?;
        self.bytes += event.event.body().len();
        self.due.is_rest_due = self.bytes > self.portion.max_bytes && !self.due.deliveries.is_empty();
        if self.due.is_rest_due {
            return Ok(false);
        }
        let (event, webhook) = (Arc::new(event), self.webhook);
        let round_attempts = row.get(2)?;
        let begins_at = DueDelivery::begins_at(accepted_at, row.get(3)?, round_attempts);
        self.due.deliveries.push(DueDelivery { event, webhook, attempts: row.get(1)?, round_attempts, begins_at });
        Ok(true)
    }
}

/// Reads the beginning of each webhook's part of the index `delivery_due`, instead of scanning all pending rows.
pub(super) fn next_due(
    connection: &Connection,
    webhook: Option<WebhookSeq>,
    after: UnixMicros,
) -> Result<Vec<(WebhookSeq, UnixMicros)>, Failure> {
    let mut earliest = connection.prepare_cached(
        "SELECT next_at FROM delivery INDEXED BY delivery_due
         WHERE state = 4 AND webhook_seq = ?1 AND next_at > ?2
         ORDER BY next_at LIMIT 1",
    )?;
    let webhooks: Vec<WebhookSeq> = match webhook {
        Some(webhook) => vec![webhook],
        None => connection
            .prepare_cached("SELECT seq FROM webhook ORDER BY seq")?
            .query_map((), |row| row.get(0))?
            .collect::<Result<_, _>>()?,
    };
    let mut next = Vec::new();
    for webhook in webhooks {
        let at = earliest.query_row((webhook, after), |row| row.get(0)).optional()?;
        next.extend(at.map(|at| (webhook, at)));
    }
    Ok(next)
}

/// Reads the index `delivery_due` alone, as far as it counts.
pub(super) fn waiting(connection: &Connection, webhooks: &[WebhookSeq]) -> Result<Vec<Waiting>, Failure> {
    let mut count = connection.prepare_cached(
        "SELECT number, (SELECT accepted_at FROM event WHERE seq = oldest) FROM (
             SELECT count(*) AS number, min(event_seq) AS oldest FROM (
                 SELECT event_seq FROM delivery INDEXED BY delivery_due
                 WHERE state = 4 AND webhook_seq = ?1
                 ORDER BY next_at
                 LIMIT ?2
             )
         )",
    )?;
    let mut count_of = |webhook: &WebhookSeq| {
        count.query_row((webhook, MAX_COUNTED_WAITING), |row| Ok(Waiting { count: row.get(0)?, since: row.get(1)? }))
    };
    Ok(webhooks.iter().map(&mut count_of).collect::<Result<_, _>>()?)
}

/// Deleted webhooks that still have stored pending deliveries.
pub(super) fn deleted_webhooks(connection: &Connection) -> rusqlite::Result<Vec<WebhookSeq>> {
    connection
        .prepare_cached(
            "SELECT seq FROM webhook
             WHERE deleted_at IS NOT NULL AND EXISTS (
                 SELECT 1 FROM delivery INDEXED BY delivery_due WHERE state = 4 AND webhook_seq = webhook.seq
             )
             ORDER BY seq",
        )?
        .query_map((), |row| row.get(0))?
        .collect()
}
