//! The steps of replay jobs. What a job meets next is found by [`scan`].

mod scan;

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::OptionalExtension;

use super::SqliteStore;
use super::commit::{Commit, Size};
use super::settle::{RowChange, find as find_delivery, insert_unattempted, put};
use crate::clock::UnixMicros;
use crate::delivery::id::{DeliveryKey, EventSeq};
use crate::delivery::{DeliveryState, Transition};
use crate::fit::fit;
use crate::store::failure::Failure;
use crate::store::records::replays::{SELECT_JOB, UPDATE_PROGRESS, job, progress, stepped};
use crate::store::replay::{ReplayAction, ReplayRecord, ReplayScan, ReplayStep, ReplayStore, Stepped};
use crate::store::sql::{Select, Sql, found};
use crate::store::{StoreError, owed};
use crate::topic::Pattern;
use crate::webhook::{TenantSeq, WebhookSeq};

/// The rough size of a changed row in a transaction, in bytes: its page and a page of an index.
const CHANGE_BYTES: usize = 8_192;

/// Deletes at most `limit` jobs that ended before `before`; returns how many.
pub(super) fn purge(commit: &mut Commit<'_>, before: UnixMicros, limit: usize) -> Result<usize, Failure> {
    Ok(commit
        .prepare(
            "DELETE FROM replay_job WHERE seq IN (
                 SELECT seq FROM replay_job WHERE state >= 2 AND updated_at < ?1 LIMIT ?2
             )",
        )?
        .execute((before, fit(limit, i64::MAX)))?)
}

fn take_step(commit: &mut Commit<'_>, step: &ReplayStep) -> Result<Stepped, Failure> {
    let job = job(found(commit.query(SELECT_JOB, &[step.job.into(), step.tenant.into()])?)?)?;
    let mut changed = Vec::new();
    if job.state.has_ended() || job.cursor != step.from {
        return Ok(Stepped { job, changed });
    }
    let mut webhooks = LiveWebhooks::of(step.tenant);
    for key in &step.change {
        if webhooks.has(commit, key.webhook)? && change(commit, &job, *key, step.now)? {
            changed.push(*key);
        }
    }
    for key in &step.add {
        if webhooks.has(commit, key.webhook)? && add(commit, step.tenant, *key, step.now)? {
            changed.push(*key);
        }
    }
    let job = stepped(job, step, changed.len());
    commit.execute(UPDATE_PROGRESS, &progress(&job))?;
    Ok(Stepped { job, changed })
}

/// Webhooks of a tenant that are not deleted, looked up so far.
struct LiveWebhooks {
    tenant: TenantSeq,
    known: HashMap<WebhookSeq, bool>,
}

impl LiveWebhooks {
    fn of(tenant: TenantSeq) -> Self {
        Self { tenant, known: HashMap::new() }
    }

    fn has(&mut self, commit: &Commit<'_>, webhook: WebhookSeq) -> rusqlite::Result<bool> {
        if let Some(known) = self.known.get(&webhook) {
            return Ok(*known);
        }
        let is_live = commit
            .prepare("SELECT 1 FROM webhook WHERE seq = ?1 AND tenant = ?2 AND deleted_at IS NULL")?
            .exists((webhook, self.tenant))?;
        self.known.insert(webhook, is_live);
        Ok(is_live)
    }
}

/// Changes a delivery if it is in a state of the job's selection; returns whether it was.
fn change(commit: &mut Commit<'_>, job: &ReplayRecord, key: DeliveryKey, now: UnixMicros) -> rusqlite::Result<bool> {
    let existing = find_delivery(commit, key)?;
    // A delivery without a row is pending if its event is in the window. Otherwise the event may have been purged.
    let (state, round_attempts) = match &existing {
        Some(existing) => (existing.state, existing.round_attempts),
        None if commit.state.window.rowless(key.event) > 0 => (DeliveryState::Pending, 0),
        None => return Ok(false),
    };
    if !job.selection.states.contains(&state) {
        return Ok(false);
    }
    let (transition, round_attempts) = match &job.action {
        ReplayAction::Replay { .. } => (Transition::queued(now), 0),
        ReplayAction::Discard { reason } => (Transition::discarded(reason), round_attempts),
    };
    put(commit, key, &RowChange { transition: &transition, attempt: None, round_attempts, at: now })?;
    Ok(true)
}

/// Adds a webhook to an event's list; returns whether it was missing. The row is written at once, so that the number of
/// deliveries without a row, and with it the window, does not change.
fn add(commit: &mut Commit<'_>, tenant: TenantSeq, key: DeliveryKey, now: UnixMicros) -> rusqlite::Result<bool> {
    let found = commit
        .prepare("SELECT owed FROM event WHERE seq = ?1 AND tenant = ?2")?
        .query_row((key.event, tenant), |row| Ok(owed::decode(row.get_ref(0)?.as_blob()?)))
        .optional()?;
    let Some(mut webhooks) = found else { return Ok(false) };
    let Err(place) = webhooks.binary_search(&key.webhook) else { return Ok(false) };
    webhooks.insert(place, key.webhook);
    commit
        .prepare("UPDATE event SET owed = ?2 WHERE seq = ?1")?
        .execute((key.event, owed::encode(webhooks.into_iter())))?;
    insert_unattempted(commit, key, &Transition::queued(now), now)?;
    commit.counters(tenant).owed += 1;
    Ok(true)
}

fn send_again(
    commit: &mut Commit<'_>,
    tenant: TenantSeq,
    event: EventSeq,
    webhooks: &[WebhookSeq],
    now: UnixMicros,
) -> Result<Vec<WebhookSeq>, Failure> {
    let mut live = LiveWebhooks::of(tenant);
    let mut changed = Vec::new();
    for webhook in webhooks {
        let key = DeliveryKey { event, webhook: *webhook };
        if !live.has(commit, *webhook)? {
            continue;
        }
        let is_changed = if find_delivery(commit, key)?.is_some() {
            let transition = Transition::queued(now);
            put(commit, key, &RowChange { transition: &transition, attempt: None, round_attempts: 0, at: now })?;
            true
        } else {
            add(commit, tenant, key, now)?
        };
        changed.extend(is_changed.then_some(*webhook));
    }
    Ok(changed)
}

#[async_trait]
impl ReplayStore for SqliteStore {
    async fn scan_replay(
        &self,
        job: &ReplayRecord,
        patterns: Arc<[Pattern]>,
        max_changes: u32,
    ) -> Result<ReplayScan, StoreError> {
        let job = job.clone();
        self.readers
            .read_slowly(Some(job.tenant), move |connection| scan::scan(connection, &job, &patterns, max_changes))
            .await
    }

    async fn step_replay(&self, step: ReplayStep) -> Result<Stepped, StoreError> {
        let rows = step.change.len() + step.add.len() + 1;
        let size = Size { rows, bytes: rows * CHANGE_BYTES, is_urgent: false, tenant: None };
        self.writer.write(size, move |commit| take_step(commit, &step)).await
    }

    async fn resend(
        &self,
        tenant: TenantSeq,
        event: EventSeq,
        webhooks: Vec<WebhookSeq>,
        now: UnixMicros,
    ) -> Result<Vec<WebhookSeq>, StoreError> {
        let size = Size { rows: webhooks.len(), bytes: webhooks.len() * CHANGE_BYTES, is_urgent: true, tenant: None };
        self.writer.write(size, move |commit| send_again(commit, tenant, event, &webhooks, now)).await
    }
}
