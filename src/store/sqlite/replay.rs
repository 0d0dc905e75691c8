//! Replay jobs: their rows, and their steps. What a job meets next is found by [`scan`].

mod scan;

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row};
use uuid::Uuid;

use super::SqliteStore;
use super::commit::{Commit, Failure, Size, corrupt};
use super::settle::{Change, find as find_delivery, insert_unattempted, put};
use crate::clock::UnixMicros;
use crate::delivery::id::{DeliveryIds, DeliveryKey, EventSeq};
use crate::delivery::{DeliveryState, Transition};
use crate::store::replay::{
    MAX_UNFINISHED_REPLAYS, NewReplay, ReplayAction, ReplayFilter, ReplayRecord, ReplayScan, ReplayState, ReplayStep,
    ReplayStore, ReplayedWebhook, Selection, Stepped,
};
use crate::store::{Deed, MAX_PAGE_ITEMS, Page, PageOf, StoreError, owed};
use crate::topic::Pattern;
use crate::webhook::{TenantSeq, WebhookSeq};

/// Why a job ended that nobody cancelled.
const WEBHOOK_DELETED: &str = "webhook deleted";
const TENANT_DELETED: &str = "tenant deleted";
/// What a changed row takes in a transaction, roughly, in bytes: its page and that of an index.
const CHANGE_BYTES: usize = 8_192;

impl ToSql for ReplayState {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let code: i64 = match self {
            Self::Queued => 0,
            Self::Running => 1,
            Self::Done => 2,
            Self::Cancelled => 3,
            Self::Failed => 4,
        };
        Ok(code.into())
    }
}

impl FromSql for ReplayState {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let code = value.as_i64()?;
        let state = usize::try_from(code).ok().and_then(|index| Self::ALL.get(index));
        state.copied().ok_or(FromSqlError::OutOfRange(code))
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

fn record(row: &Row<'_>) -> Result<ReplayRecord, Failure> {
    let count = |column| row.get::<_, i64>(column).map(i64::unsigned_abs);
    let state_named = |name: &str| {
        let state = DeliveryState::ALL.into_iter().find(|state| state.as_str() == name);
        state.ok_or_else(|| corrupt(format!("unknown state {name:?}")))
    };
    let states = row.get_ref(6)?.as_str().map_err(corrupt)?;
    let topic: Option<String> = row.get(7)?;
    let webhook = match row.get(3)? {
        None => None,
        Some(seq) => Some(ReplayedWebhook { seq, uuid: row.get(4)?, name: row.get(5)? }),
    };
    Ok(ReplayRecord {
        uuid: row.get(1)?,
        tenant: row.get(2)?,
        webhook,
        selection: Selection {
            states: states.split_whitespace().map(state_named).collect::<Result<_, _>>()?,
            topic: topic.map(|topic| Pattern::parse(&topic)).transpose().map_err(corrupt)?,
            since: row.get(8)?,
            until: row.get(9)?,
        },
        action: match row.get(11)? {
            Some(reason) => ReplayAction::Discard { reason },
            None => ReplayAction::Replay { include_unmatched: row.get(10)? },
        },
        rate_per_s: row.get(12)?,
        events: (row.get(13)?, row.get(14)?),
        state: row.get(15)?,
        reason: row.get(16)?,
        cursor: DeliveryKey { event: row.get(17)?, webhook: row.get(18)? },
        scanned: count(19)?,
        changed: count(20)?,
        created_at: row.get(21)?,
        updated_at: row.get(22)?,
    })
}

fn create(
    commit: &mut Commit<'_>,
    tenant: TenantSeq,
    job: &NewReplay,
    now: UnixMicros,
) -> Result<ReplayRecord, Failure> {
    let webhook: Option<WebhookSeq> = match job.webhook {
        None => None,
        Some(uuid) => Some(
            commit
                .prepare("SELECT seq FROM webhook WHERE uuid = ?1 AND tenant = ?2 AND deleted_at IS NULL")?
                .query_row((uuid, tenant), |row| row.get(0))
                .optional()?
                .ok_or(StoreError::NotFound)?,
        ),
    };
    let unfinished: u32 = commit
        .prepare("SELECT count(*) FROM replay_job INDEXED BY replay_job_unfinished WHERE tenant = ?1 AND state < 2")?
        .query_row([tenant], |row| row.get(0))?;
    if unfinished >= MAX_UNFINISHED_REPLAYS {
        let reason = format!("{unfinished} replay jobs wait or run already; wait for some to end, or cancel them");
        return Err(StoreError::Conflict(reason).into());
    }
    let last = EventSeq(commit.state.window.next_event().0 - 1);
    let first: Option<EventSeq> = commit.prepare("SELECT min(seq) FROM event")?.query_row((), |row| row.get(0))?;
    let first = first.unwrap_or(EventSeq(last.0 + 1));
    let uuid = Uuid::new_v4();
    let states: Vec<&str> = job.selection.states.iter().map(|state| state.as_str()).collect();
    let (include_unmatched, discard_reason) = match &job.action {
        ReplayAction::Replay { include_unmatched } => (*include_unmatched, None),
        ReplayAction::Discard { reason } => (false, Some(reason)),
    };
    commit
        .prepare(
            "INSERT INTO replay_job (
                 uuid, tenant, webhook_seq, states, topic, since, until, include_unmatched, discard_reason, rate_per_s,
                 first_event, last_event, state, cursor_event, cursor_webhook, scanned, changed, created_at, updated_at
             ) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, 0, 0, 0, ?15, ?15)",
        )?
        .execute(rusqlite::params![
            uuid,
            tenant,
            webhook,
            states.join(" "),
            job.selection.topic.as_ref().map(Pattern::to_string),
            job.selection.since,
            job.selection.until,
            include_unmatched,
            discard_reason,
            job.rate_per_s,
            first,
            last,
            ReplayState::Queued,
            first,
            now,
        ])?;
    let action = if discard_reason.is_some() { "delivery.discard_all" } else { "replay.start" };
    record_deed(commit, tenant, action, uuid, now)?;
    job_by_uuid(commit.connection, tenant, uuid)?.ok_or_else(|| StoreError::NotFound.into())
}

fn record_deed(
    commit: &Commit<'_>,
    tenant: TenantSeq,
    action: &'static str,
    job: Uuid,
    at: UnixMicros,
) -> rusqlite::Result<()> {
    commit.record(&Deed { at, tenant, action, target: Some(job.to_string()), target_name: None })
}

fn job_by_uuid(connection: &Connection, tenant: TenantSeq, uuid: Uuid) -> Result<Option<ReplayRecord>, Failure> {
    let mut statement = connection.prepare_cached(select_jobs!("WHERE job.uuid = ?1 AND job.tenant = ?2"))?;
    let mut rows = statement.query((uuid, tenant))?;
    rows.next()?.map(record).transpose()
}

/// Newest first, by number; jobs are few, so that no index is needed for what is asked of them.
fn list(
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
            if place.webhook != CURSOR_MARK {
                return Err(StoreError::Cursor.into());
            }
            place.event
        }
    };
    let mut statement = connection.prepare_cached(select_jobs!(
        "WHERE job.tenant = ?1 AND job.seq < ?2 AND (?3 IS NULL OR webhook.uuid = ?3)
             AND (?4 IS NULL OR job.state = ?4)
         ORDER BY job.seq DESC LIMIT ?5"
    ))?;
    let limit = page.limit.clamp(1, MAX_PAGE_ITEMS) as usize;
    let mut rows =
        statement.query((tenant, before, filter.webhook, filter.state, page.limit.clamp(1, MAX_PAGE_ITEMS) + 1))?;
    let mut items = Vec::new();
    let mut last = before;
    while let Some(row) = rows.next()? {
        if items.len() == limit {
            let place = DeliveryKey { event: last, webhook: CURSOR_MARK };
            return Ok(PageOf { items, next_cursor: Some(ids.encode(place).to_string()) });
        }
        last = row.get(0)?;
        items.push(record(row)?);
    }
    Ok(PageOf { items, next_cursor: None })
}

/// Marks a cursor of this listing; no webhook has the number.
const CURSOR_MARK: WebhookSeq = WebhookSeq(0);

fn unfinished(connection: &Connection) -> Result<Vec<ReplayRecord>, Failure> {
    let mut statement = connection.prepare_cached(select_jobs!("WHERE job.state < 2 ORDER BY job.seq"))?;
    let mut rows = statement.query(())?;
    let mut jobs = Vec::new();
    while let Some(row) = rows.next()? {
        jobs.push(record(row)?);
    }
    Ok(jobs)
}

fn end(
    commit: &mut Commit<'_>,
    tenant: TenantSeq,
    uuid: Uuid,
    state: ReplayState,
    reason: &str,
    now: UnixMicros,
) -> Result<ReplayRecord, Failure> {
    let job = job_by_uuid(commit.connection, tenant, uuid)?.ok_or(StoreError::NotFound)?;
    if job.state.has_ended() {
        return Err(StoreError::Conflict(format!("it is {} already", job.state.as_str())).into());
    }
    commit
        .prepare("UPDATE replay_job SET state = ?2, reason = ?3, updated_at = ?4 WHERE uuid = ?1")?
        .execute((uuid, state, reason, now))?;
    record_deed(commit, tenant, "replay.cancel", uuid, now)?;
    Ok(ReplayRecord { state, reason: Some(reason.to_owned()), updated_at: now, ..job })
}

/// The jobs of a tenant end with it.
pub(super) fn end_with_tenant(commit: &Commit<'_>, tenant: TenantSeq, now: UnixMicros) -> rusqlite::Result<()> {
    commit
        .prepare("UPDATE replay_job SET state = ?2, reason = ?3, updated_at = ?4 WHERE tenant = ?1 AND state < 2")?
        .execute((tenant, ReplayState::Cancelled, TENANT_DELETED, now))
        .map(drop)
}

/// The jobs of a webhook end with it.
pub(super) fn end_with_webhook(commit: &Commit<'_>, webhook: WebhookSeq, now: UnixMicros) -> rusqlite::Result<()> {
    commit
        .prepare("UPDATE replay_job SET state = ?2, reason = ?3, updated_at = ?4 WHERE webhook_seq = ?1 AND state < 2")?
        .execute((webhook, ReplayState::Cancelled, WEBHOOK_DELETED, now))
        .map(drop)
}

/// Deletes at most `limit` jobs that ended before `before`; returns how many.
pub(super) fn purge(commit: &mut Commit<'_>, before: UnixMicros, limit: usize) -> Result<usize, Failure> {
    Ok(commit
        .prepare(
            "DELETE FROM replay_job WHERE seq IN (
                 SELECT seq FROM replay_job WHERE state >= 2 AND updated_at < ?1 LIMIT ?2
             )",
        )?
        .execute((before, i64::try_from(limit).unwrap_or(i64::MAX)))?)
}

fn take_step(commit: &mut Commit<'_>, step: &ReplayStep) -> Result<Stepped, Failure> {
    let mut job = job_by_uuid(commit.connection, step.tenant, step.job)?.ok_or(StoreError::NotFound)?;
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
    job.changed += changed.len() as u64;
    job.scanned += u64::from(step.scanned);
    job.cursor = job.cursor.max(step.cursor);
    job.state = if step.is_end { ReplayState::Done } else { ReplayState::Running };
    job.updated_at = step.now;
    commit
        .prepare(
            "UPDATE replay_job SET state = ?2, cursor_event = ?3, cursor_webhook = ?4, scanned = ?5, changed = ?6,
                 updated_at = ?7
             WHERE uuid = ?1",
        )?
        .execute((
            step.job,
            job.state,
            job.cursor.event,
            job.cursor.webhook,
            job.scanned.cast_signed(),
            job.changed.cast_signed(),
            step.now,
        ))?;
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

/// Changes a delivery if it is in a state that the job wants; says whether it was.
fn change(commit: &mut Commit<'_>, job: &ReplayRecord, key: DeliveryKey, now: UnixMicros) -> rusqlite::Result<bool> {
    let existing = find_delivery(commit, key)?;
    // Without a row it is pending, while its event is in the window; an event that is not may have been purged.
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
    put(commit, key, &Change { transition: &transition, attempt: None, round_attempts, at: now })?;
    Ok(true)
}

/// Makes an event owed to a webhook to which it is not; says whether it was not. The row is written at once, so that
/// owed minus rows, and with it the window, stays what it is.
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
            put(commit, key, &Change { transition: &transition, attempt: None, round_attempts: 0, at: now })?;
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
    async fn create_replay(
        &self,
        tenant: TenantSeq,
        job: NewReplay,
        now: UnixMicros,
    ) -> Result<ReplayRecord, StoreError> {
        self.writer.write(Size::SMALL, move |commit| create(commit, tenant, &job, now)).await
    }

    async fn replay(&self, tenant: TenantSeq, uuid: Uuid) -> Result<Option<ReplayRecord>, StoreError> {
        self.readers.read(move |connection| job_by_uuid(connection, tenant, uuid)).await
    }

    async fn replays(
        &self,
        tenant: TenantSeq,
        filter: &ReplayFilter,
        page: Page,
    ) -> Result<PageOf<ReplayRecord>, StoreError> {
        let (ids, filter) = (self.delivery_ids.clone(), filter.clone());
        self.readers.read(move |connection| list(connection, &ids, tenant, &filter, &page)).await
    }

    async fn unfinished_replays(&self) -> Result<Vec<ReplayRecord>, StoreError> {
        self.readers.read(unfinished).await
    }

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

    async fn end_replay(
        &self,
        tenant: TenantSeq,
        uuid: Uuid,
        state: ReplayState,
        reason: &str,
        now: UnixMicros,
    ) -> Result<ReplayRecord, StoreError> {
        let reason = reason.to_owned();
        self.writer.write(Size::SMALL, move |commit| end(commit, tenant, uuid, state, &reason, now)).await
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
