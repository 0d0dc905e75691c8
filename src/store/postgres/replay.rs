//! The steps of replay jobs. What a job meets next is found by [`scan`].

mod scan;

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;

use super::PostgresStore;
use super::moves::{self, Wanted};
use super::transaction::{Commit, write};
use crate::clock::UnixMicros;
use crate::delivery::id::{DeliveryKey, EventSeq};
use crate::delivery::{DeliveryState, Transition};
use crate::store::StoreError;
use crate::store::failure::Failure;
use crate::store::records::replays::{UPDATE_PROGRESS, job, progress, select_jobs, stepped};
use crate::store::replay::{ReplayAction, ReplayRecord, ReplayScan, ReplayStep, ReplayStore, Stepped};
use crate::store::sql::found;
use crate::topic::Pattern;
use crate::webhook::{TenantSeq, WebhookSeq};

/// Locks one job against other steps and its end, until the transaction ends. Parameters: its UUID, the tenant.
const LOCK_JOB: &str = select_jobs!("WHERE job.uuid = ?1 AND job.tenant = ?2 FOR NO KEY UPDATE OF job");

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
    let keys = [step.job.into(), step.tenant.into()];
    let rows = commit.connection.query_values(LOCK_JOB, &keys).await?;
    let job = job(found(rows)?)?;
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
    let job = stepped(job, step, changed.len());
    commit.connection.execute_values(UPDATE_PROGRESS, &progress(&job)).await?;
    Ok(Stepped { job, changed })
}

/// The ones of `keys` whose webhooks are the tenant's and not deleted.
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
    // `add` skips events that already have a delivery to the webhook.
    changed.extend(moves::add(commit, tenant, &keys, now).await?);
    Ok(webhooks.iter().copied().filter(|webhook| changed.iter().any(|key| key.webhook == *webhook)).collect())
}

#[async_trait]
impl ReplayStore for PostgresStore {
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
