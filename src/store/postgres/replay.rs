//! Replay jobs: their rows, and their steps. What a job meets next is found by [`scan`].

mod scan;

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use tokio_postgres::Row;
use uuid::Uuid;

use super::PostgresStore;
use super::error::{Failure, corrupt};
use super::moves::{self, Wanted};
use super::pool::Connection;
use super::transaction::{Commit, write};
use super::values::text;
use crate::clock::UnixMicros;
use crate::delivery::id::{DeliveryIds, DeliveryKey, EventSeq};
use crate::delivery::{DeliveryState, Transition};
use crate::store::paging::NO_WEBHOOK;
use crate::store::replay::{
    MAX_UNFINISHED_REPLAYS, NewReplay, ReplayAction, ReplayFilter, ReplayRecord, ReplayScan, ReplayState, ReplayStep,
    ReplayStore, ReplayedWebhook, Selection, Stepped,
};
use crate::store::{Deed, MAX_PAGE_ITEMS, Page, PageOf, StoreError};
use crate::topic::Pattern;
use crate::webhook::{TenantSeq, WebhookSeq};

/// Why a job ended that nobody cancelled.
const WEBHOOK_DELETED: &str = "webhook deleted";
const TENANT_DELETED: &str = "tenant deleted";

/// For the column `state`, as in the embedded store.
fn code(state: ReplayState) -> i16 {
    match state {
        ReplayState::Queued => 0,
        ReplayState::Running => 1,
        ReplayState::Done => 2,
        ReplayState::Cancelled => 3,
        ReplayState::Failed => 4,
    }
}

/// The columns that [`record`] reads, in its order.
macro_rules! select_jobs {
    ($rest:literal) => {
        concat!(
            "SELECT job.seq, job.uuid, job.tenant, job.webhook_seq, webhook.uuid, webhook.name, job.states, job.topic,
                 job.since, job.until, job.include_unmatched, job.discard_reason, job.rate_per_s, job.first_event,
                 job.last_event, job.state, job.reason, job.cursor_event, job.cursor_webhook, job.scanned,
                 job.changed, job.created_at, job.updated_at
             FROM replay_job AS job LEFT JOIN webhook ON webhook.seq = job.webhook_seq ",
            $rest
        )
    };
}

fn record(row: &Row) -> Result<ReplayRecord, Failure> {
    let count = |column| Ok::<_, Failure>(row.try_get::<_, i64>(column)?.unsigned_abs());
    let state_named = |name: &str| {
        let state = DeliveryState::ALL.into_iter().find(|state| state.as_str() == name);
        state.ok_or_else(|| corrupt(format!("unknown state {name:?}")))
    };
    let (states, topic): (&str, Option<&str>) = (row.try_get(6)?, row.try_get(7)?);
    let webhook = match row.try_get(3)? {
        None => None,
        Some(seq) => Some(ReplayedWebhook { seq, uuid: row.try_get(4)?, name: row.try_get(5)? }),
    };
    let state: i16 = row.try_get(15)?;
    let state = ReplayState::ALL.into_iter().find(|known| code(*known) == state);
    Ok(ReplayRecord {
        uuid: row.try_get(1)?,
        tenant: row.try_get(2)?,
        webhook,
        selection: Selection {
            states: states.split_whitespace().map(state_named).collect::<Result<_, _>>()?,
            topic: topic.map(Pattern::parse).transpose().map_err(corrupt)?,
            since: row.try_get(8)?,
            until: row.try_get(9)?,
        },
        action: match row.try_get(11)? {
            Some(reason) => ReplayAction::Discard { reason },
            None => ReplayAction::Replay { include_unmatched: row.try_get(10)? },
        },
        rate_per_s: u32::try_from(row.try_get::<_, i64>(12)?).unwrap_or(u32::MAX),
        events: (row.try_get(13)?, row.try_get(14)?),
        state: state.ok_or_else(|| corrupt("unknown state of a replay job"))?,
        reason: row.try_get(16)?,
        cursor: DeliveryKey { event: row.try_get(17)?, webhook: row.try_get(18)? },
        scanned: count(19)?,
        changed: count(20)?,
        created_at: row.try_get(21)?,
        updated_at: row.try_get(22)?,
    })
}

async fn create(commit: &Commit, tenant: TenantSeq, job: &NewReplay, now: UnixMicros) -> Result<ReplayRecord, Failure> {
    let connection = &commit.connection;
    // One at a time for a tenant, so that the limit is exact.
    connection.query_opt("SELECT 1 FROM tenant WHERE seq = $1 FOR NO KEY UPDATE", &[&tenant]).await?;
    let webhook: Option<WebhookSeq> = match job.webhook {
        None => None,
        Some(uuid) => {
            let sql = "SELECT seq FROM webhook WHERE uuid = $1 AND tenant = $2 AND deleted_at IS NULL FOR KEY SHARE";
            let row = connection.query_opt(sql, &[&uuid, &tenant]).await?.ok_or(StoreError::NotFound)?;
            Some(row.try_get(0)?)
        }
    };
    // Served by the index `replay_job_unfinished`.
    let sql = "SELECT count(*) FROM replay_job WHERE tenant = $1 AND state < 2";
    let unfinished: i64 = connection.query_one(sql, &[&tenant]).await?.try_get(0)?;
    if unfinished >= i64::from(MAX_UNFINISHED_REPLAYS) {
        let reason = format!("{unfinished} replay jobs wait or run already; wait for some to end, or cancel them");
        return Err(StoreError::Conflict(reason).into());
    }
    let sql = "SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM event_number";
    let last: EventSeq = connection.query_one(sql, &[]).await?.try_get(0)?;
    let oldest = connection.query_opt("SELECT seq FROM event ORDER BY seq LIMIT 1", &[]).await?;
    let oldest: Option<EventSeq> = oldest.map(|row| row.try_get(0)).transpose()?;
    let first = oldest.unwrap_or(EventSeq(last.0 + 1));
    let uuid = Uuid::new_v4();
    let states: Vec<&str> = job.selection.states.iter().map(|state| state.as_str()).collect();
    let (include_unmatched, discard_reason) = match &job.action {
        ReplayAction::Replay { include_unmatched } => (*include_unmatched, None),
        ReplayAction::Discard { reason } => (false, Some(reason)),
    };
    connection
        .execute(
            "INSERT INTO replay_job (
                 uuid, tenant, webhook_seq, states, topic, since, until, include_unmatched, discard_reason, rate_per_s,
                 first_event, last_event, state, cursor_event, cursor_webhook, scanned, changed, created_at, updated_at
             ) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $11, 0, 0, 0, $14, $14)",
            &[
                &uuid,
                &tenant,
                &webhook,
                &states.join(" "),
                &job.selection.topic.as_ref().map(Pattern::to_string),
                &job.selection.since,
                &job.selection.until,
                &include_unmatched,
                &discard_reason.map(|reason| text(reason)),
                &i64::from(job.rate_per_s),
                &first,
                &last,
                &code(ReplayState::Queued),
                &now,
            ],
        )
        .await?;
    let action = if discard_reason.is_some() { "delivery.discard_all" } else { "replay.start" };
    record_deed(commit, tenant, action, uuid, now).await?;
    job_by_uuid(connection, tenant, uuid).await?.ok_or_else(|| StoreError::NotFound.into())
}

async fn record_deed(
    commit: &Commit,
    tenant: TenantSeq,
    action: &'static str,
    job: Uuid,
    at: UnixMicros,
) -> Result<(), Failure> {
    commit.record(&Deed { at, tenant, action, target: Some(job.to_string()), target_name: None }).await
}

async fn job_by_uuid(connection: &Connection, tenant: TenantSeq, uuid: Uuid) -> Result<Option<ReplayRecord>, Failure> {
    let row = connection.query_opt(select_jobs!("WHERE job.uuid = $1 AND job.tenant = $2"), &[&uuid, &tenant]).await?;
    row.as_ref().map(record).transpose()
}

/// The job, which nobody else steps or ends until the transaction ends.
async fn lock(commit: &Commit, tenant: TenantSeq, uuid: Uuid) -> Result<ReplayRecord, Failure> {
    let sql = select_jobs!("WHERE job.uuid = $1 AND job.tenant = $2 FOR NO KEY UPDATE OF job");
    let row = commit.connection.query_opt(sql, &[&uuid, &tenant]).await?;
    record(&row.ok_or(StoreError::NotFound)?)
}

/// Newest first, by number; jobs are few, so that no index is needed for what is asked of them.
async fn list(
    connection: &Connection,
    ids: &DeliveryIds,
    tenant: TenantSeq,
    filter: &ReplayFilter,
    page: &Page,
) -> Result<PageOf<ReplayRecord>, Failure> {
    let before = match &page.cursor {
        None => EventSeq(i64::MAX),
        Some(cursor) => {
            let place = Uuid::try_parse(cursor).ok().and_then(|id| ids.decode(id)).ok_or(StoreError::Cursor)?;
            // The mark of a cursor of this listing.
            if place.webhook != NO_WEBHOOK {
                return Err(StoreError::Cursor.into());
            }
            place.event
        }
    };
    let limit = page.limit.clamp(1, MAX_PAGE_ITEMS);
    let rows = connection
        .query(
            select_jobs!(
                "WHERE job.tenant = $1 AND job.seq < $2 AND ($3::uuid IS NULL OR webhook.uuid = $3)
                     AND ($4::smallint IS NULL OR job.state = $4)
                 ORDER BY job.seq DESC LIMIT $5"
            ),
            &[&tenant, &before, &filter.webhook, &filter.state.map(code), &i64::from(limit + 1)],
        )
        .await?;
    let shown = &rows[..rows.len().min(limit as usize)];
    let next_cursor = match shown.last() {
        Some(last) if shown.len() < rows.len() => {
            let place = DeliveryKey { event: last.try_get(0)?, webhook: NO_WEBHOOK };
            Some(ids.encode(place).to_string())
        }
        _ => None,
    };
    Ok(PageOf { items: shown.iter().map(record).collect::<Result<_, _>>()?, next_cursor })
}

async fn unfinished(connection: &Connection) -> Result<Vec<ReplayRecord>, Failure> {
    connection.query(select_jobs!("WHERE job.state < 2 ORDER BY job.seq"), &[]).await?.iter().map(record).collect()
}

async fn end(
    commit: &Commit,
    tenant: TenantSeq,
    uuid: Uuid,
    state: ReplayState,
    reason: &str,
    now: UnixMicros,
) -> Result<ReplayRecord, Failure> {
    let job = lock(commit, tenant, uuid).await?;
    if job.state.has_ended() {
        return Err(StoreError::Conflict(format!("it is {} already", job.state.as_str())).into());
    }
    commit
        .connection
        .execute(
            "UPDATE replay_job SET state = $2, reason = $3, updated_at = $4 WHERE uuid = $1",
            &[&uuid, &code(state), &text(reason), &now],
        )
        .await?;
    record_deed(commit, tenant, "replay.cancel", uuid, now).await?;
    Ok(ReplayRecord { state, reason: Some(reason.to_owned()), updated_at: now, ..job })
}

/// The jobs of a tenant end with it.
pub(super) async fn end_with_tenant(commit: &Commit, tenant: TenantSeq, now: UnixMicros) -> Result<(), Failure> {
    commit
        .connection
        .execute(
            "UPDATE replay_job SET state = $2, reason = $3, updated_at = $4 WHERE tenant = $1 AND state < 2",
            &[&tenant, &code(ReplayState::Cancelled), &TENANT_DELETED, &now],
        )
        .await
        .map(drop)
}

/// The jobs of a webhook end with it.
pub(super) async fn end_with_webhook(commit: &Commit, webhook: WebhookSeq, now: UnixMicros) -> Result<(), Failure> {
    commit
        .connection
        .execute(
            "UPDATE replay_job SET state = $2, reason = $3, updated_at = $4 WHERE webhook_seq = $1 AND state < 2",
            &[&webhook, &code(ReplayState::Cancelled), &WEBHOOK_DELETED, &now],
        )
        .await
        .map(drop)
}

/// Deletes at most `limit` jobs that ended before `before`; returns how many.
pub(super) async fn purge(commit: &Commit, before: UnixMicros, limit: u32) -> Result<u64, Failure> {
    commit
        .connection
        .execute(
            "DELETE FROM replay_job WHERE seq IN (
                 SELECT seq FROM replay_job WHERE state >= 2 AND updated_at < $1 ORDER BY seq LIMIT $2 FOR UPDATE
             )",
            &[&before, &i64::from(limit)],
        )
        .await
}

async fn take_step(commit: &mut Commit, step: &ReplayStep) -> Result<Stepped, Failure> {
    let mut job = lock(commit, step.tenant, step.job).await?;
    if job.state.has_ended() || job.cursor != step.from {
        return Ok(Stepped { job, changed: Vec::new() });
    }
    let change = of_live_webhooks(commit, step.tenant, &step.change).await?;
    let wanted = Wanted { keys: &change, states: &job.selection.states, in_memory: true };
    let transition = match &job.action {
        ReplayAction::Replay { .. } => Transition::queued(step.now),
        ReplayAction::Discard { reason } => Transition::discarded(reason),
    };
    let mut changed = moves::change(commit, step.tenant, &wanted, &transition, step.now).await?;
    let add = of_live_webhooks(commit, step.tenant, &step.add).await?;
    changed.extend(moves::add(commit, step.tenant, &add, step.now).await?);
    job.changed += changed.len() as u64;
    job.scanned += u64::from(step.scanned);
    job.cursor = job.cursor.max(step.cursor);
    job.state = if step.is_end { ReplayState::Done } else { ReplayState::Running };
    job.updated_at = step.now;
    commit
        .connection
        .execute(
            "UPDATE replay_job SET state = $2, cursor_event = $3, cursor_webhook = $4, scanned = $5, changed = $6,
                 updated_at = $7
             WHERE uuid = $1",
            &[
                &step.job,
                &code(job.state),
                &job.cursor.event,
                &job.cursor.webhook,
                &job.scanned.cast_signed(),
                &job.changed.cast_signed(),
                &step.now,
            ],
        )
        .await?;
    Ok(Stepped { job, changed })
}

/// Those of `keys` whose webhooks are the tenant's and not deleted.
async fn of_live_webhooks(
    commit: &Commit,
    tenant: TenantSeq,
    keys: &[DeliveryKey],
) -> Result<Vec<DeliveryKey>, Failure> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let webhooks: Vec<WebhookSeq> = keys.iter().map(|key| key.webhook).collect();
    let rows = commit
        .connection
        .query(
            "SELECT seq FROM webhook WHERE seq = ANY($1) AND tenant = $2 AND deleted_at IS NULL",
            &[&webhooks, &tenant],
        )
        .await?;
    let live: HashSet<WebhookSeq> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    Ok(keys.iter().copied().filter(|key| live.contains(&key.webhook)).collect())
}

async fn send_again(
    commit: &mut Commit,
    tenant: TenantSeq,
    event: EventSeq,
    webhooks: &[WebhookSeq],
    now: UnixMicros,
) -> Result<Vec<WebhookSeq>, Failure> {
    let keys: Vec<DeliveryKey> = webhooks.iter().map(|webhook| DeliveryKey { event, webhook: *webhook }).collect();
    let keys = of_live_webhooks(commit, tenant, &keys).await?;
    let wanted = Wanted { keys: &keys, states: &DeliveryState::ALL, in_memory: false };
    let mut changed = moves::change(commit, tenant, &wanted, &Transition::queued(now), now).await?;
    // What has a delivery is owed already, and left alone by this.
    changed.extend(moves::add(commit, tenant, &keys, now).await?);
    Ok(webhooks.iter().copied().filter(|webhook| changed.iter().any(|key| key.webhook == *webhook)).collect())
}

#[async_trait]
impl ReplayStore for PostgresStore {
    async fn create_replay(
        &self,
        tenant: TenantSeq,
        job: NewReplay,
        now: UnixMicros,
    ) -> Result<ReplayRecord, StoreError> {
        write!(self, |commit| create(commit, tenant, &job, now).await)
    }

    async fn replay(&self, tenant: TenantSeq, uuid: Uuid) -> Result<Option<ReplayRecord>, StoreError> {
        Ok(job_by_uuid(&self.read().await?, tenant, uuid).await?)
    }

    async fn replays(
        &self,
        tenant: TenantSeq,
        filter: &ReplayFilter,
        page: Page,
    ) -> Result<PageOf<ReplayRecord>, StoreError> {
        Ok(list(&self.read().await?, &self.shared.delivery_ids, tenant, filter, &page).await?)
    }

    async fn unfinished_replays(&self) -> Result<Vec<ReplayRecord>, StoreError> {
        Ok(unfinished(&self.read().await?).await?)
    }

    async fn scan_replay(
        &self,
        job: &ReplayRecord,
        patterns: Arc<[Pattern]>,
        max_changes: u32,
    ) -> Result<ReplayScan, StoreError> {
        let connection = self.shared.connections.snapshot(Some(job.tenant)).await?;
        Ok(scan::scan(&connection, job, &patterns, max_changes).await?)
    }

    async fn step_replay(&self, step: ReplayStep) -> Result<Stepped, StoreError> {
        write!(self, |commit| take_step(commit, &step).await)
    }

    async fn end_replay(
        &self,
        tenant: TenantSeq,
        uuid: Uuid,
        state: ReplayState,
        reason: &str,
        now: UnixMicros,
    ) -> Result<ReplayRecord, StoreError> {
        write!(self, |commit| end(commit, tenant, uuid, state, reason, now).await)
    }

    async fn resend(
        &self,
        tenant: TenantSeq,
        event: EventSeq,
        webhooks: Vec<WebhookSeq>,
        now: UnixMicros,
    ) -> Result<Vec<WebhookSeq>, StoreError> {
        write!(self, |commit| send_again(commit, tenant, event, &webhooks, now).await)
    }
}
