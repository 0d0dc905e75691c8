//! Settling: the outcomes of attempts. The changes of operators and of replay jobs stand in `moves`.
//!
//! A delivery is an entry of the queue, `pending`, until it has ended, and a row of `delivery` from then on. An attempt is
//! kept in that row if it was the first and ended the delivery, which is the common case, and in `attempt` otherwise.

use std::collections::HashSet;
use std::time::Duration;

use super::fence;
use super::transaction::Commit;
use super::values::{integer, number, text};
use crate::delivery::DeliveryState;
use crate::delivery::id::DeliveryKey;
use crate::fit::fit;
use crate::store::failure::Failure;
use crate::store::{AttemptRecord, SettleBatch, Settlement};
use crate::webhook::{WebhookHealth, WebhookSeq};

/// Outcomes are held back for this long, while further ones gather: the settler sends one batch at a time, and no
/// client waits for an outcome.
const PATIENCE: Duration = Duration::from_millis(3);
/// A batch with this many rows is worth a transaction of its own, and is not held back.
const WORTHWHILE_ROWS: usize = 512;

/// Waits, if that saves transactions.
pub(super) async fn gather(batch: &SettleBatch) {
    if !batch.is_urgent && batch.settlements.len() < WORTHWHILE_ROWS {
        tokio::time::sleep(PATIENCE).await;
    }
}

/// Returns the webhooks whose settlements were not written, because another node owns them now.
pub(super) async fn settle(commit: &mut Commit, batch: &SettleBatch) -> Result<Vec<WebhookSeq>, Failure> {
    let guarded = match &batch.fence {
        Some(fence) => Some(fence::guard(&commit.connection, fence).await?),
        None => None,
    };
    let may_write = |webhook: WebhookSeq| guarded.as_ref().is_none_or(|guarded| guarded.contains(&webhook));
    let settlements = batch.settlements.iter().filter(|settlement| may_write(settlement.key.webhook));
    for round in rounds(settlements) {
        let (kept, ended): (Vec<_>, Vec<_>) =
            round.into_iter().partition(|settlement| settlement.transition.state() == DeliveryState::Pending);
        let mut changed = keep(commit, &kept).await?;
        let moved = end(commit, &ended).await?;
        for settlement in ended.iter().filter(|settlement| !moved.contains(&settlement.key)) {
            end_again(commit, settlement).await?;
        }
        changed.extend(&moved);
        let settled = kept.iter().chain(&ended).filter(|settlement| changed.contains(&settlement.key));
        count(commit, settled.copied()).await?;
        let later = kept.iter().chain(ended.iter().filter(|settlement| attempt_in_row(settlement).is_none()));
        insert_attempts(commit, later.filter(|settlement| changed.contains(&settlement.key)).copied()).await?;
    }
    let health = batch.health.iter().filter(|(webhook, _)| may_write(*webhook));
    update_health(commit, health).await?;
    let spoken_of = batch.settlements.iter().map(|settlement| settlement.key.webhook);
    let spoken_of: HashSet<_> = spoken_of.chain(batch.health.iter().map(|(webhook, _)| *webhook)).collect();
    Ok(spoken_of.into_iter().filter(|webhook| !may_write(*webhook)).collect())
}

/// The settlements in order of their deliveries, which prevents deadlocks. A round has each delivery at most once,
/// because a statement changes a row only once.
fn rounds<'a>(settlements: impl Iterator<Item = &'a Settlement>) -> Vec<Vec<&'a Settlement>> {
    let mut sorted: Vec<&Settlement> = settlements.collect();
    sorted.sort_by_key(|settlement| settlement.key);
    let mut rounds: Vec<Vec<&Settlement>> = Vec::new();
    for same in sorted.chunk_by(|a, b| a.key == b.key) {
        for (round, settlement) in same.iter().enumerate() {
            if rounds.len() == round {
                rounds.push(Vec::new());
            }
            rounds[round].push(settlement);
        }
    }
    rounds
}

/// The attempt that is a part of the delivery's row.
fn attempt_in_row(settlement: &Settlement) -> Option<&AttemptRecord> {
    let is_end = settlement.transition.state() != DeliveryState::Pending;
    settlement.attempt.as_ref().filter(|attempt| is_end && attempt.number <= 1)
}

fn column<'a, T>(settlements: &[&'a Settlement], of: impl Fn(&'a Settlement) -> T) -> Vec<T> {
    settlements.iter().map(|settlement| of(settlement)).collect()
}

fn keys(rows: &[tokio_postgres::Row]) -> Result<HashSet<DeliveryKey>, Failure> {
    rows.iter().map(|row| Ok(DeliveryKey { event: row.try_get(0)?, webhook: row.try_get(1)? })).collect()
}

fn attempts_made(settlement: &Settlement) -> i32 {
    settlement.attempt.as_ref().map_or(0, |attempt| integer(attempt.number))
}

fn status_code(settlement: &Settlement) -> Option<i32> {
    settlement.attempt.as_ref().and_then(|attempt| attempt.status_code).map(i32::from)
}

/// Changes entries that stay in the queue; returns the ones found.
async fn keep(commit: &Commit, kept: &[&Settlement]) -> Result<HashSet<DeliveryKey>, Failure> {
    if kept.is_empty() {
        return Ok(HashSet::new());
    }
    let next_at = |settlement: &Settlement| settlement.transition.next_attempt_at().unwrap_or(settlement.at);
    let rows = commit
        .connection
        .query(
            "UPDATE pending SET
                 in_memory = false, next_at = given.next_at, updated_at = given.at,
                 attempts = greatest(pending.attempts, given.attempt), round_attempts = given.round_attempts,
                 status_code = CASE WHEN given.attempt > 0 THEN given.status_code ELSE pending.status_code END,
                 reason = given.reason
             FROM unnest(
                 $1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::integer[], $6::integer[], $7::integer[],
                 $8::text[]
             ) AS given (event_seq, webhook_seq, next_at, at, attempt, round_attempts, status_code, reason)
             WHERE (pending.event_seq, pending.webhook_seq)
                 BETWEEN (given.event_seq, given.webhook_seq) AND (given.event_seq, given.webhook_seq)
             RETURNING pending.event_seq, pending.webhook_seq",
            &[
                &column(kept, |settlement| settlement.key.event),
                &column(kept, |settlement| settlement.key.webhook),
                &column(kept, next_at),
                &column(kept, |settlement| settlement.at),
                &column(kept, attempts_made),
                &column(kept, |settlement| integer(settlement.round_attempts)),
                &column(kept, status_code),
                &column(kept, |settlement| settlement.transition.reason().map(text)),
            ],
        )
        .await?;
    keys(&rows)
}

/// Moves entries that have ended out of the queue; returns the ones found.
async fn end(commit: &Commit, ended: &[&Settlement]) -> Result<HashSet<DeliveryKey>, Failure> {
    if ended.is_empty() {
        return Ok(HashSet::new());
    }
    let rows = commit
        .connection
        .query(
            "WITH gone AS (
                 DELETE FROM pending
                 USING unnest(
                     $1::bigint[], $2::bigint[], $3::smallint[], $4::integer[], $5::integer[], $6::bigint[],
                     $7::integer[], $8::text[], $9::bigint[], $10::bigint[], $11::text[], $12::bytea[],
                     $13::bytea[]
                 ) AS given (
                     event_seq, webhook_seq, state, attempt, round_attempts, at,
                     status_code, reason, started_at, duration_us, error, response, exchange
                 )
                 WHERE (pending.event_seq, pending.webhook_seq)
                     BETWEEN (given.event_seq, given.webhook_seq) AND (given.event_seq, given.webhook_seq)
                 RETURNING given.*, pending.attempts AS attempts_before, pending.status_code AS status_code_before
             )
             INSERT INTO delivery (
                 event_seq, webhook_seq, updated_at, state, attempts, round_attempts, status_code, reason,
                 first_started_at, first_duration_us, first_status_code, first_error, first_response, first_exchange
             )
             SELECT
                 event_seq, webhook_seq, at, state, greatest(attempt, attempts_before), round_attempts,
                 CASE WHEN attempt > 0 THEN status_code ELSE status_code_before END, reason,
                 started_at, duration_us, CASE WHEN started_at IS NOT NULL THEN status_code END, error, response,
                 exchange
             FROM gone
             RETURNING event_seq, webhook_seq",
            &[
                &column(ended, |settlement| settlement.key.event),
                &column(ended, |settlement| settlement.key.webhook),
                &column(ended, |settlement| settlement.transition.state()),
                &column(ended, attempts_made),
                &column(ended, |settlement| integer(settlement.round_attempts)),
                &column(ended, |settlement| settlement.at),
                &column(ended, status_code),
                &column(ended, |settlement| settlement.transition.reason().map(text)),
                &column(ended, |settlement| attempt_in_row(settlement).map(|attempt| attempt.started_at)),
                &column(ended, |settlement| attempt_in_row(settlement).map(|attempt| attempt.duration_us)),
                &column(ended, |settlement| {
                    attempt_in_row(settlement).and_then(|attempt| attempt.error.as_deref()).map(text)
                }),
                &column(ended, |settlement| attempt_in_row(settlement).map(|attempt| &attempt.response[..])),
                &column(ended, |settlement| attempt_in_row(settlement).map(|attempt| attempt.exchange.as_bytes())),
            ],
        )
        .await?;
    keys(&rows)
}

/// Settles a delivery that is not in the queue, because an operator has ended it or because it was settled before. The
/// state delivered is final.
async fn end_again(commit: &mut Commit, settlement: &Settlement) -> Result<(), Failure> {
    let key = settlement.key;
    let Some(row) = commit
        .connection
        .query_opt(
            "SELECT state, attempts FROM delivery WHERE event_seq = $1 AND webhook_seq = $2 FOR UPDATE",
            &[&key.event, &key.webhook],
        )
        .await?
    else {
        return Ok(());
    };
    let (state, attempts): (DeliveryState, i32) = (row.try_get(0)?, number(&row, 1)?);
    if state == DeliveryState::Delivered {
        return Ok(());
    }
    let attempt = settlement.attempt.as_ref().filter(|attempt| integer(attempt.number) > attempts);
    commit
        .connection
        .execute(
            "UPDATE delivery SET
                 state = $3, attempts = greatest(attempts, $4), round_attempts = $5, updated_at = $6,
                 status_code = CASE WHEN $4 > 0 THEN $7 ELSE status_code END, reason = $8
             WHERE event_seq = $1 AND webhook_seq = $2",
            &[
                &key.event,
                &key.webhook,
                &settlement.transition.state(),
                &attempts_made(settlement),
                &integer(settlement.round_attempts),
                &settlement.at,
                &status_code(settlement),
                &settlement.transition.reason().map(text),
            ],
        )
        .await?;
    if let Some(tenant) = commit.shared.tenant_of(&commit.connection, key.webhook).await? {
        let counters = commit.counters(tenant);
        counters.attempts += i64::from(attempt.is_some());
        counters.add(state, -1);
        counters.add(settlement.transition.state(), 1);
    }
    insert_attempts(commit, attempt.map(|_| settlement).into_iter()).await
}

/// Counts settlements of deliveries that were in the queue.
async fn count<'a>(commit: &mut Commit, settled: impl Iterator<Item = &'a Settlement>) -> Result<(), Failure> {
    for settlement in settled {
        let tenant = commit.shared.tenant_of(&commit.connection, settlement.key.webhook).await?;
        if let Some(tenant) = tenant {
            let counters = commit.counters(tenant);
            counters.attempts += i64::from(settlement.attempt.is_some());
            counters.add(settlement.transition.state(), 1);
        }
    }
    Ok(())
}

async fn insert_attempts<'a>(
    commit: &Commit,
    settlements: impl Iterator<Item = &'a Settlement>,
) -> Result<(), Failure> {
    let attempts: Vec<_> = settlements
        .filter_map(|settlement| settlement.attempt.as_ref().map(|attempt| (settlement.key, attempt)))
        .collect();
    if attempts.is_empty() {
        return Ok(());
    }
    commit
        .connection
        .execute(
            "INSERT INTO attempt (
                 event_seq, webhook_seq, number, started_at, duration_us, status_code, error, response, exchange
             )
             SELECT event_seq, webhook_seq, number, started_at, duration_us, status_code, error, response, exchange
             FROM unnest(
                 $1::bigint[], $2::bigint[], $3::integer[], $4::bigint[], $5::bigint[], $6::integer[], $7::text[],
                 $8::bytea[], $9::bytea[]
             ) AS given (
                 event_seq, webhook_seq, number, started_at, duration_us, status_code, error, response, exchange
             )
             ON CONFLICT (event_seq, webhook_seq, number) DO NOTHING",
            &[
                &attempts.iter().map(|(key, _)| key.event).collect::<Vec<_>>(),
                &attempts.iter().map(|(key, _)| key.webhook).collect::<Vec<_>>(),
                &attempts.iter().map(|(_, attempt)| integer(attempt.number)).collect::<Vec<_>>(),
                &attempts.iter().map(|(_, attempt)| attempt.started_at).collect::<Vec<_>>(),
                &attempts.iter().map(|(_, attempt)| attempt.duration_us).collect::<Vec<_>>(),
                &attempts.iter().map(|(_, attempt)| attempt.status_code.map(i32::from)).collect::<Vec<_>>(),
                &attempts.iter().map(|(_, attempt)| attempt.error.as_deref().map(text)).collect::<Vec<_>>(),
                &attempts.iter().map(|(_, attempt)| &attempt.response[..]).collect::<Vec<_>>(),
                &attempts.iter().map(|(_, attempt)| attempt.exchange.as_bytes()).collect::<Vec<_>>(),
            ],
        )
        .await
        .map(drop)
}

pub(super) async fn update_health<'a>(
    commit: &Commit,
    health: impl Iterator<Item = &'a (WebhookSeq, WebhookHealth)>,
) -> Result<(), Failure> {
    // A statement changes a row only once, so the last health of each webhook is taken.
    let last: std::collections::BTreeMap<_, _> = health.map(|(webhook, health)| (*webhook, health)).collect();
    if last.is_empty() {
        return Ok(());
    }
    let micros = |health: &WebhookHealth| fit(health.cool_down.as_micros(), i64::MAX);
    commit
        .connection
        .execute(
            "UPDATE webhook_health SET
                 consecutive_failures = given.consecutive_failures, last_success_at = given.last_success_at,
                 last_failure_at = given.last_failure_at, last_error = given.last_error,
                 auto_disabled_at = given.auto_disabled_at, probe_at = given.probe_at,
                 cool_down_us = given.cool_down_us
             FROM unnest(
                 $1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[], $6::bigint[], $7::bigint[],
                 $8::bigint[]
             ) AS given (
                 seq, consecutive_failures, last_success_at, last_failure_at, last_error, auto_disabled_at, probe_at,
                 cool_down_us
             )
             WHERE webhook_health.seq BETWEEN given.seq AND given.seq",
            &[
                &last.keys().copied().collect::<Vec<_>>(),
                &last.values().map(|health| i64::from(health.consecutive_failures)).collect::<Vec<_>>(),
                &last.values().map(|health| health.last_success_at).collect::<Vec<_>>(),
                &last.values().map(|health| health.last_failure_at).collect::<Vec<_>>(),
                &last.values().map(|health| health.last_error.as_deref().map(text)).collect::<Vec<_>>(),
                &last.values().map(|health| health.auto_disabled_at).collect::<Vec<_>>(),
                &last.values().map(|health| health.probe_at).collect::<Vec<_>>(),
                &last.values().map(|health| micros(health)).collect::<Vec<_>>(),
            ],
        )
        .await
        .map(drop)
}
