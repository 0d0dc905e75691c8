//! What operators and their jobs do to deliveries: from what has ended back into the queue, or to their end without an
//! attempt. Many at once, each with one statement.

use super::transaction::Commit;
use super::values::text;
use crate::clock::UnixMicros;
use crate::delivery::id::{DeliveryKey, EventSeq};
use crate::delivery::{DeliveryState, Transition};
use crate::fit::fit;
use crate::store::failure::Failure;
use crate::store::owed;
use crate::webhook::{TenantSeq, WebhookSeq};

/// The deliveries to change: the ones of `keys` that are in one of `states` at the time of the change.
pub(super) struct Wanted<'a> {
    pub(super) keys: &'a [DeliveryKey],
    pub(super) states: &'a [DeliveryState],
    /// Includes pending deliveries that a lane has held since their acceptance.
    pub(super) in_memory: bool,
}

/// Gives the wanted deliveries of a tenant the state of `transition`, and returns them in order. Deliveries that become
/// pending have a fresh schedule.
pub(super) async fn change(
    commit: &mut Commit,
    tenant: TenantSeq,
    wanted: &Wanted<'_>,
    transition: &Transition,
    at: UnixMicros,
) -> Result<Vec<DeliveryKey>, Failure> {
    let mut keys = wanted.keys.to_vec();
    // All transactions lock in this order, which prevents deadlocks.
    keys.sort_unstable();
    let mut changed = Vec::new();
    if let Some(next_at) = transition.next_attempt_at() {
        keep_events(commit, &mut keys).await?;
        let asked = Asked::new(&keys, wanted);
        changed.extend(requeue_ended(commit, &asked, next_at, at).await?);
        changed.extend(requeue_pending(commit, &asked, next_at, at).await?);
    } else {
        let asked = Asked::new(&keys, wanted);
        changed.extend(end_ended(commit, &asked, transition, at).await?);
        changed.extend(end_pending(commit, &asked, transition, at).await?);
    }
    changed.sort_unstable_by_key(|(key, _)| *key);
    let counters = commit.counters(tenant);
    for (_, before) in &changed {
        counters.add(*before, -1);
        counters.add(transition.state(), 1);
    }
    Ok(changed.into_iter().map(|(key, _)| key).collect())
}

/// [`Wanted`] as parameters.
struct Asked<'a> {
    events: Vec<EventSeq>,
    webhooks: Vec<WebhookSeq>,
    states: &'a [DeliveryState],
    is_pending_wanted: bool,
    in_memory: bool,
}

impl<'a> Asked<'a> {
    fn new(keys: &[DeliveryKey], wanted: &Wanted<'a>) -> Self {
        Self {
            events: keys.iter().map(|key| key.event).collect(),
            webhooks: keys.iter().map(|key| key.webhook).collect(),
            states: wanted.states,
            is_pending_wanted: wanted.states.contains(&DeliveryState::Pending),
            in_memory: wanted.in_memory,
        }
    }
}

type Changed = Vec<(DeliveryKey, DeliveryState)>;

/// Keeps the events of `keys` from being purged until the transaction ends. Keys of purged events are removed.
async fn keep_events(commit: &Commit, keys: &mut Vec<DeliveryKey>) -> Result<(), Failure> {
    let events: Vec<EventSeq> = keys.iter().map(|key| key.event).collect();
    let rows = commit
        .connection
        .query("SELECT seq FROM event WHERE seq = ANY($1) ORDER BY seq FOR KEY SHARE", &[&events])
        .await?;
    let kept: Vec<EventSeq> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    keys.retain(|key| kept.binary_search(&key.event).is_ok());
    Ok(())
}

/// The first attempt, which was a part of the delivery's row, gets a row of its own.
async fn requeue_ended(
    commit: &Commit,
    asked: &Asked<'_>,
    next_at: UnixMicros,
    at: UnixMicros,
) -> Result<Changed, Failure> {
    let rows = commit
        .connection
        .query(
            "WITH asked AS (
                 SELECT * FROM unnest($1::bigint[], $2::bigint[]) AS asked (event_seq, webhook_seq)
             ), ended AS (
                 DELETE FROM delivery USING asked
                 WHERE delivery.event_seq BETWEEN asked.event_seq AND asked.event_seq
                     AND (delivery.event_seq, delivery.webhook_seq)
                         BETWEEN (asked.event_seq, asked.webhook_seq) AND (asked.event_seq, asked.webhook_seq)
                     AND delivery.state = ANY($3)
                 RETURNING delivery.*
             ), kept AS (
                 INSERT INTO attempt
                     (event_seq, webhook_seq, number, started_at, duration_us, status_code, error, response, exchange)
                 SELECT event_seq, webhook_seq, 1, first_started_at, first_duration_us, first_status_code, first_error,
                     first_response, first_exchange
                 FROM ended
                 WHERE first_started_at IS NOT NULL
                 ON CONFLICT (event_seq, webhook_seq, number) DO NOTHING
             ), queued AS (
                 INSERT INTO pending (
                     event_seq, webhook_seq, next_at, updated_at, attempts, round_attempts, status_code, in_memory
                 )
                 SELECT event_seq, webhook_seq, $4, $5, attempts, 0, status_code, false FROM ended
             )
             SELECT event_seq, webhook_seq, state FROM ended",
            &[&asked.events, &asked.webhooks, &asked.states, &next_at, &at],
        )
        .await?;
    changed(&rows)
}

async fn requeue_pending(
    commit: &Commit,
    asked: &Asked<'_>,
    next_at: UnixMicros,
    at: UnixMicros,
) -> Result<Changed, Failure> {
    if !asked.is_pending_wanted {
        return Ok(Vec::new());
    }
    let rows = commit
        .connection
        .query(
            "UPDATE pending
             SET next_at = $3, updated_at = $4, round_attempts = 0, in_memory = false, reason = NULL
             FROM unnest($1::bigint[], $2::bigint[]) AS asked (event_seq, webhook_seq)
             WHERE (pending.event_seq, pending.webhook_seq)
                     BETWEEN (asked.event_seq, asked.webhook_seq) AND (asked.event_seq, asked.webhook_seq)
                 AND (NOT pending.in_memory OR $5)
             RETURNING pending.event_seq, pending.webhook_seq, 4::smallint",
            &[&asked.events, &asked.webhooks, &next_at, &at, &asked.in_memory],
        )
        .await?;
    changed(&rows)
}

async fn end_ended(
    commit: &Commit,
    asked: &Asked<'_>,
    transition: &Transition,
    at: UnixMicros,
) -> Result<Changed, Failure> {
    let rows = commit
        .connection
        .query(
            "WITH found AS (
                 SELECT delivery.event_seq, delivery.webhook_seq, delivery.state
                 FROM unnest($1::bigint[], $2::bigint[]) AS asked (event_seq, webhook_seq)
                     JOIN delivery ON delivery.event_seq BETWEEN asked.event_seq AND asked.event_seq
                         AND (delivery.event_seq, delivery.webhook_seq)
                             BETWEEN (asked.event_seq, asked.webhook_seq) AND (asked.event_seq, asked.webhook_seq)
                 WHERE delivery.state = ANY($3)
                 FOR NO KEY UPDATE OF delivery
             )
             UPDATE delivery
             SET state = $4, reason = $5, updated_at = $6
             FROM found
             WHERE delivery.event_seq BETWEEN found.event_seq AND found.event_seq
                 AND (delivery.event_seq, delivery.webhook_seq)
                     BETWEEN (found.event_seq, found.webhook_seq) AND (found.event_seq, found.webhook_seq)
             RETURNING found.event_seq, found.webhook_seq, found.state",
            &[&asked.events, &asked.webhooks, &asked.states, &transition.state(), &transition.reason().map(text), &at],
        )
        .await?;
    changed(&rows)
}

async fn end_pending(
    commit: &Commit,
    asked: &Asked<'_>,
    transition: &Transition,
    at: UnixMicros,
) -> Result<Changed, Failure> {
    if !asked.is_pending_wanted {
        return Ok(Vec::new());
    }
    let rows = commit
        .connection
        .query(
            "WITH found AS (
                 DELETE FROM pending
                 USING unnest($1::bigint[], $2::bigint[]) AS asked (event_seq, webhook_seq)
                 WHERE (pending.event_seq, pending.webhook_seq)
                     BETWEEN (asked.event_seq, asked.webhook_seq) AND (asked.event_seq, asked.webhook_seq)
                     AND (NOT pending.in_memory OR $3)
                 RETURNING pending.*
             )
             INSERT INTO delivery
                 (event_seq, webhook_seq, updated_at, state, attempts, round_attempts, status_code, reason)
             SELECT event_seq, webhook_seq, $4, $5, attempts, round_attempts, status_code, $6 FROM found
             RETURNING event_seq, webhook_seq, 4::smallint",
            &[
                &asked.events,
                &asked.webhooks,
                &asked.in_memory,
                &at,
                &transition.state(),
                &transition.reason().map(text),
            ],
        )
        .await?;
    changed(&rows)
}

fn changed(rows: &[tokio_postgres::Row]) -> Result<Changed, Failure> {
    let read = |row: &tokio_postgres::Row| {
        Ok((DeliveryKey { event: row.try_get(0)?, webhook: row.try_get(1)? }, row.try_get(2)?))
    };
    rows.iter().map(read).collect()
}

/// Adds queued deliveries of a tenant's events to webhooks that are not on the events' lists. Returns the added ones,
/// in order.
pub(super) async fn add(
    commit: &mut Commit,
    tenant: TenantSeq,
    keys: &[DeliveryKey],
    now: UnixMicros,
) -> Result<Vec<DeliveryKey>, Failure> {
    let events: Vec<EventSeq> = keys.iter().map(|key| key.event).collect();
    let rows = commit
        .connection
        .query(
            "SELECT seq, owed FROM event WHERE seq = ANY($1) AND tenant = $2 ORDER BY seq FOR NO KEY UPDATE",
            &[&events, &tenant],
        )
        .await?;
    let (mut seqs, mut lists, mut added) = (Vec::new(), Vec::new(), Vec::new());
    for row in &rows {
        let event: EventSeq = row.try_get(0)?;
        let mut webhooks = owed::decode(row.try_get(1)?);
        let before = added.len();
        for key in keys.iter().filter(|key| key.event == event) {
            if let Err(place) = webhooks.binary_search(&key.webhook) {
                webhooks.insert(place, key.webhook);
                added.push(*key);
            }
        }
        if added.len() > before {
            seqs.push(event);
            lists.push(owed::encode(webhooks.into_iter()));
        }
    }
    if added.is_empty() {
        return Ok(added);
    }
    commit
        .connection
        .execute(
            "UPDATE event SET owed = changed.owed
             FROM unnest($1::bigint[], $2::bytea[]) AS changed (seq, owed)
             WHERE event.seq BETWEEN changed.seq AND changed.seq",
            &[&seqs, &lists],
        )
        .await?;
    added.sort_unstable();
    let transition = Transition::queued(now);
    commit
        .connection
        .execute(
            "INSERT INTO pending (event_seq, webhook_seq, next_at, updated_at, attempts, round_attempts, in_memory)
             SELECT event_seq, webhook_seq, $3, $4, 0, 0, false
             FROM unnest($1::bigint[], $2::bigint[]) AS added (event_seq, webhook_seq)",
            &[
                &added.iter().map(|key| key.event).collect::<Vec<_>>(),
                &added.iter().map(|key| key.webhook).collect::<Vec<_>>(),
                &transition.next_attempt_at(),
                &now,
            ],
        )
        .await?;
    commit.counters(tenant).owed += fit(added.len(), i64::MAX);
    Ok(added)
}
