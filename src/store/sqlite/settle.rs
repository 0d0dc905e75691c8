//! Settling: the rows of deliveries, as attempts and operators change them. Retention deletes them elsewhere.

use rusqlite::{OptionalExtension, Row};

use super::commit::{Commit, Size};
use crate::clock::UnixMicros;
use crate::delivery::id::{DeliveryKey, EventSeq};
use crate::delivery::{DeliveryState, Transition};
use crate::fit::fit;
use crate::store::failure::Failure;
use crate::store::{AttemptRecord, SettleBatch, Settlement, owed};
use crate::webhook::{WebhookHealth, WebhookSeq};

/// The most rows that one transaction writes for events that leave the memory window, beside the rows of its calls.
const MAX_PARKED_ROWS: u32 = 4_096;
/// The rough size of a delivery's row, in bytes.
const ROW_BYTES: usize = 64;

/// A change of one delivery.
pub(super) struct RowChange<'a> {
    pub(super) transition: &'a Transition,
    pub(super) attempt: Option<&'a AttemptRecord>,
    pub(super) round_attempts: u32,
    pub(super) at: UnixMicros,
}

/// The part of a row that a change depends on.
pub(super) struct Existing {
    pub(super) state: DeliveryState,
    pub(super) attempts: u32,
    pub(super) round_attempts: u32,
    status_code: Option<u16>,
}

pub(super) fn size(batch: &SettleBatch) -> Size {
    let attempt = |settlement: &Settlement| settlement.attempt.as_ref().map_or(0, AttemptRecord::bytes);
    let bytes = batch.settlements.iter().map(|settlement| attempt(settlement) + ROW_BYTES).sum();
    Size { rows: batch.settlements.len() + batch.health.len(), bytes, is_urgent: batch.is_urgent, tenant: None }
}

pub(super) fn settle(commit: &mut Commit<'_>, batch: &SettleBatch) -> Result<(), Failure> {
    for settlement in &batch.settlements {
        settle_one(commit, settlement)?;
    }
    for (webhook, health) in &batch.health {
        update_health(commit, *webhook, health)?;
    }
    Ok(())
}

fn settle_one(commit: &mut Commit<'_>, settlement: &Settlement) -> rusqlite::Result<()> {
    let key = settlement.key;
    let change = RowChange {
        transition: &settlement.transition,
        attempt: settlement.attempt.as_ref(),
        round_attempts: settlement.round_attempts,
        at: settlement.at,
    };
    // The common case is a delivery without a row. The caller cannot be sure of that: a delivery that it holds in
    // memory gets a row when its event leaves the window.
    let rowless = commit.state.window.rowless(key.event) > 0;
    if rowless && insert(commit, key, &change)? {
        return Ok(());
    }
    match find(commit, key)? {
        Some(existing) if may_follow(existing.state, settlement.transition.state()) => {
            update(commit, key, &existing, &change)
        }
        _ => Ok(()),
    }
}

/// Delivered is final, and only an operator makes an ended delivery pending again.
fn may_follow(existing: DeliveryState, next: DeliveryState) -> bool {
    match existing {
        DeliveryState::Pending => true,
        DeliveryState::Delivered => false,
        DeliveryState::Dead | DeliveryState::Skipped | DeliveryState::Discarded => next != DeliveryState::Pending,
    }
}

/// Changes a delivery, whether it has a row or not.
pub(super) fn put(commit: &mut Commit<'_>, key: DeliveryKey, change: &RowChange<'_>) -> rusqlite::Result<()> {
    match find(commit, key)? {
        Some(existing) => update(commit, key, &existing, change),
        None => insert(commit, key, change).map(drop),
    }
}

pub(super) fn find(commit: &Commit<'_>, key: DeliveryKey) -> rusqlite::Result<Option<Existing>> {
    let read = |row: &Row<'_>| {
        Ok(Existing {
            state: row.get(0)?,
            attempts: row.get(1)?,
            round_attempts: row.get(2)?,
            status_code: row.get(3)?,
        })
    };
    commit
        .prepare(
            "SELECT state, attempts, round_attempts, status_code FROM delivery
             WHERE event_seq = ?1 AND webhook_seq = ?2",
        )?
        .query_row((key.event, key.webhook), read)
        .optional()
}

/// Writes the row of a delivery that has none; `false` if it has one.
fn insert(commit: &mut Commit<'_>, key: DeliveryKey, change: &RowChange<'_>) -> rusqlite::Result<bool> {
    let first = change.attempt.filter(|attempt| attempt.number == 1);
    let inserted = commit
        .prepare(
            "INSERT INTO delivery (
                 event_seq, webhook_seq, state, attempts, round_attempts, next_at, updated_at, status_code, reason,
                 first_started_at, first_duration_us, first_status_code, first_error, first_response, first_exchange
             ) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)
             ON CONFLICT (event_seq, webhook_seq) DO NOTHING",
        )?
        .execute((
            key.event,
            key.webhook,
            change.transition.state(),
            change.attempt.map_or(0, |attempt| attempt.number),
            change.round_attempts,
            change.transition.next_attempt_at(),
            change.at,
            change.attempt.and_then(|attempt| attempt.status_code),
            change.transition.reason(),
            first.map(|attempt| attempt.started_at),
            first.map(|attempt| attempt.duration_us),
            first.and_then(|attempt| attempt.status_code),
            first.and_then(|attempt| attempt.error.as_deref()),
            first.map(|attempt| &attempt.response[..]),
            first.map(|attempt| attempt.exchange.as_bytes()),
        ))?;
    if inserted == 0 {
        return Ok(false);
    }
    if let Some(later) = change.attempt.filter(|attempt| attempt.number > 1) {
        insert_attempt(commit, key, later)?;
    }
    commit.state.window.take(key.event, 1);
    if let Some(counters) = commit.counters_of(key.webhook) {
        counters.attempts += i64::from(change.attempt.is_some());
        counters.add(change.transition.state(), 1);
    }
    Ok(true)
}

/// A row without an attempt, for a delivery that the window does not count; `false` if it has one.
pub(super) fn insert_unattempted(
    commit: &Commit<'_>,
    key: DeliveryKey,
    transition: &Transition,
    at: UnixMicros,
) -> rusqlite::Result<bool> {
    commit
        .prepare(
            "INSERT INTO delivery
                 (event_seq, webhook_seq, state, attempts, round_attempts, next_at, updated_at, reason)
             VALUES (?1, ?2, ?3, 0, 0, ?4, ?5, ?6)
             ON CONFLICT (event_seq, webhook_seq) DO NOTHING",
        )?
        .execute((key.event, key.webhook, transition.state(), transition.next_attempt_at(), at, transition.reason()))
        .map(|inserted| inserted > 0)
}

fn update(
    commit: &mut Commit<'_>,
    key: DeliveryKey,
    existing: &Existing,
    change: &RowChange<'_>,
) -> rusqlite::Result<()> {
    let attempts = change.attempt.map_or(existing.attempts, |attempt| attempt.number.max(existing.attempts));
    let status_code = change.attempt.map_or(existing.status_code, |attempt| attempt.status_code);
    commit
        .prepare(
            "UPDATE delivery SET state = ?3, attempts = ?4, round_attempts = ?5, next_at = ?6, updated_at = ?7,
                 status_code = ?8, reason = ?9
             WHERE event_seq = ?1 AND webhook_seq = ?2",
        )?
        .execute((
            key.event,
            key.webhook,
            change.transition.state(),
            attempts,
            change.round_attempts,
            change.transition.next_attempt_at(),
            change.at,
            status_code,
            change.transition.reason(),
        ))?;
    if let Some(attempt) = change.attempt {
        match attempt.number {
            0 | 1 => update_first_attempt(commit, key, attempt)?,
            _ => insert_attempt(commit, key, attempt)?,
        }
    }
    if let Some(counters) = commit.counters_of(key.webhook) {
        counters.attempts += i64::from(change.attempt.is_some());
        counters.add(existing.state, -1);
        counters.add(change.transition.state(), 1);
    }
    Ok(())
}

/// The first attempt of a delivery whose row was written before it.
fn update_first_attempt(commit: &Commit<'_>, key: DeliveryKey, attempt: &AttemptRecord) -> rusqlite::Result<()> {
    commit
        .prepare(
            "UPDATE delivery SET first_started_at = ?3, first_duration_us = ?4, first_status_code = ?5,
                 first_error = ?6, first_response = ?7, first_exchange = ?8
             WHERE event_seq = ?1 AND webhook_seq = ?2",
        )?
        .execute((
            key.event,
            key.webhook,
            attempt.started_at,
            attempt.duration_us,
            attempt.status_code,
            &attempt.error,
            &attempt.response[..],
            attempt.exchange.as_bytes(),
        ))
        .map(drop)
}

fn insert_attempt(commit: &Commit<'_>, key: DeliveryKey, attempt: &AttemptRecord) -> rusqlite::Result<()> {
    commit
        .prepare(
            "INSERT INTO attempt
                 (event_seq, webhook_seq, number, started_at, duration_us, status_code, error, response, exchange)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
             ON CONFLICT (event_seq, webhook_seq, number) DO NOTHING",
        )?
        .execute((
            key.event,
            key.webhook,
            attempt.number,
            attempt.started_at,
            attempt.duration_us,
            attempt.status_code,
            &attempt.error,
            &attempt.response[..],
            attempt.exchange.as_bytes(),
        ))
        .map(drop)
}

pub(super) fn update_health(commit: &Commit<'_>, webhook: WebhookSeq, health: &WebhookHealth) -> rusqlite::Result<()> {
    commit
        .prepare(
            "UPDATE webhook_health SET consecutive_failures = ?2, last_success_at = ?3, last_failure_at = ?4,
                 last_error = ?5, auto_disabled_at = ?6, probe_at = ?7, cool_down_us = ?8
             WHERE seq = ?1",
        )?
        .execute((
            webhook,
            health.consecutive_failures,
            health.last_success_at,
            health.last_failure_at,
            &health.last_error,
            health.auto_disabled_at,
            health.probe_at,
            fit(health.cool_down.as_micros(), i64::MAX),
        ))
        .map(drop)
}

/// Gives pending rows to the oldest deliveries without any, while the memory window is longer than allowed.
pub(super) fn park(commit: &mut Commit<'_>) -> rusqlite::Result<()> {
    let mut rows = 0;
    while rows < MAX_PARKED_ROWS {
        let window = &commit.state.window;
        let (oldest, next) = (window.low_water(), window.next_event());
        if usize::try_from(next.0 - oldest.0).unwrap_or(0) <= commit.state.max_window {
            return Ok(());
        }
        rows += park_event(commit, oldest)?;
    }
    Ok(())
}

fn park_event(commit: &mut Commit<'_>, event: EventSeq) -> rusqlite::Result<u32> {
    let found = commit
        .prepare("SELECT owed, accepted_at FROM event WHERE seq = ?1")?
        .query_row([event], |row| Ok((owed::decode(row.get_ref(0)?.as_blob()?), row.get(1)?)))
        .optional()?;
    let (webhooks, accepted_at) = found.unwrap_or_default();
    let transition = Transition::queued(accepted_at);
    let mut inserted = 0;
    for webhook in webhooks {
        let key = DeliveryKey { event, webhook };
        inserted += u32::from(insert_unattempted(commit, key, &transition, accepted_at)?);
    }
    // All deliveries of the event have rows now, whatever the count was.
    let rowless = commit.state.window.rowless(event);
    commit.state.window.take(event, rowless);
    Ok(inserted.max(1))
}
