//! Replay jobs: their rows. The steps of a job, and what it meets next, are each store's own.

use uuid::Uuid;

use super::audit::record;
use super::codes::{self, replay_code};
use crate::clock::UnixMicros;
use crate::delivery::id::{DeliveryIds, DeliveryKey, EventSeq};
use crate::store::failure::{Failure, corrupt};
use crate::store::paging::NO_WEBHOOK;
use crate::store::replay::{
    MAX_UNFINISHED_REPLAYS, NewReplay, ReplayAction, ReplayFilter, ReplayRecord, ReplayState, ReplayStep,
    ReplayedWebhook, Selection,
};
use crate::store::sql::{Fields, Row, Select, Sql, Value, found};
use crate::store::{Deed, MAX_PAGE_ITEMS, Page, PageOf, StoreError};
use crate::topic::Pattern;
use crate::webhook::{TenantSeq, WebhookSeq};

/// Why a job ended that nobody cancelled.
const WEBHOOK_DELETED: &str = "webhook deleted";
const TENANT_DELETED: &str = "tenant deleted";

/// The columns that [`job`] reads, in its order.
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

pub(in crate::store) use select_jobs;

/// One job of a tenant: its UUID, then the tenant.
pub(in crate::store) const SELECT_JOB: &str = select_jobs!("WHERE job.uuid = ?1 AND job.tenant = ?2");

/// Takes the values of [`progress`].
pub(in crate::store) const UPDATE_PROGRESS: &str =
    "UPDATE replay_job SET state = ?2, cursor_event = ?3, cursor_webhook = ?4, scanned = ?5, changed = ?6,
         updated_at = ?7
     WHERE uuid = ?1";

/// A job from the columns of [`SELECT_JOB`].
pub(in crate::store) fn job(row: Row) -> Result<ReplayRecord, Failure> {
    let mut fields = Fields::of(row);
    let _seq: i64 = fields.next()?;
    let (uuid, tenant, webhook) = (fields.next()?, fields.next()?, fields.next()?);
    let (webhook_uuid, webhook_name) = (fields.next()?, fields.next()?);
    let webhook = match webhook {
        None => None,
        Some(seq) => {
            let named = Option::zip(webhook_uuid, webhook_name);
            let (uuid, name) = named.ok_or_else(|| corrupt("a replay job's webhook is not there"))?;
            Some(ReplayedWebhook { seq, uuid, name })
        }
    };
    let selection = Selection {
        states: codes::delivery_states(&fields.next::<String>()?)?,
        topic: fields.next::<Option<String>>()?.map(|topic| Pattern::parse(&topic)).transpose().map_err(corrupt)?,
        since: fields.next()?,
        until: fields.next()?,
    };
    let (include_unmatched, discard_reason) = (fields.next()?, fields.next()?);
    Ok(ReplayRecord {
        uuid,
        tenant,
        webhook,
        selection,
        action: match discard_reason {
            Some(reason) => ReplayAction::Discard { reason },
            None => ReplayAction::Replay { include_unmatched },
        },
        rate_per_s: fields.next()?,
        events: (fields.next()?, fields.next()?),
        state: codes::replay_state(fields.next()?)?,
        reason: fields.next()?,
        cursor: DeliveryKey { event: fields.next()?, webhook: fields.next()? },
        scanned: fields.next()?,
        changed: fields.next()?,
        created_at: fields.next()?,
        updated_at: fields.next()?,
    })
}

pub(super) fn create(
    sql: &mut dyn Sql,
    tenant: TenantSeq,
    new: &NewReplay,
    now: UnixMicros,
) -> Result<ReplayRecord, Failure> {
    // One at a time for a tenant, so that the limit is exact.
    found(sql.lock("tenant", "SELECT 1 FROM tenant WHERE seq = ?1 AND deleted_at IS NULL", &[tenant.into()])?)?;
    let webhook: Option<WebhookSeq> = match new.webhook {
        None => None,
        Some(uuid) => {
            let rows = sql.lock(
                "webhook",
                "SELECT seq FROM webhook WHERE uuid = ?1 AND tenant = ?2 AND deleted_at IS NULL",
                &[uuid.into(), tenant.into()],
            )?;
            Some(Fields::of(found(rows)?).next()?)
        }
    };
    // Served by the index `replay_job_unfinished`.
    let unfinished = sql.count("SELECT count(*) FROM replay_job WHERE tenant = ?1 AND state < 2", &[tenant.into()])?;
    if unfinished >= u64::from(MAX_UNFINISHED_REPLAYS) {
        let reason = format!("{unfinished} replay jobs wait or run already; wait for some to end, or cancel them");
        return Err(StoreError::Conflict(reason).into());
    }
    let (first, last) = sql.events()?;
    let uuid = Uuid::new_v4();
    let states: Vec<&str> = new.selection.states.iter().map(|state| state.as_str()).collect();
    let (include_unmatched, discard_reason) = match &new.action {
        ReplayAction::Replay { include_unmatched } => (*include_unmatched, None),
        ReplayAction::Discard { reason } => (false, Some(reason)),
    };
    sql.execute(
        "INSERT INTO replay_job (
             uuid, tenant, webhook_seq, states, topic, since, until, include_unmatched, discard_reason, rate_per_s,
             first_event, last_event, state, cursor_event, cursor_webhook, scanned, changed, created_at, updated_at
         ) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?11, 0, 0, 0, ?14, ?14)",
        &[
            uuid.into(),
            tenant.into(),
            webhook.into(),
            states.join(" ").into(),
            new.selection.topic.as_ref().map(Pattern::to_string).into(),
            new.selection.since.into(),
            new.selection.until.into(),
            include_unmatched.into(),
            discard_reason.into(),
            new.rate_per_s.into(),
            first.into(),
            last.into(),
            replay_code(ReplayState::Queued).into(),
            now.into(),
        ],
    )?;
    let action = if discard_reason.is_some() { "delivery.discard_all" } else { "replay.start" };
    record(sql, &Deed::of(action, tenant, uuid, now))?;
    by_uuid(sql, tenant, uuid)?.ok_or_else(|| StoreError::NotFound.into())
}

pub(super) fn by_uuid<S: Select + ?Sized>(
    sql: &mut S,
    tenant: TenantSeq,
    uuid: Uuid,
) -> Result<Option<ReplayRecord>, Failure> {
    sql.query_row(SELECT_JOB, &[uuid.into(), tenant.into()])?.map(job).transpose()
}

/// Newest first, by number. Jobs are few, so that this needs no index.
pub(super) fn list(
    sql: &mut dyn Select,
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
    let mut rows = sql.query(
        select_jobs!(
            "WHERE job.tenant = ?1 AND job.seq < ?2 AND (webhook.uuid = ?3 OR ?3 IS NULL)
                 AND (job.state = ?4 OR ?4 IS NULL)
             ORDER BY job.seq DESC LIMIT ?5"
        ),
        &[
            tenant.into(),
            before.into(),
            filter.webhook.into(),
            filter.state.map(replay_code).into(),
            (limit + 1).into(),
        ],
    )?;
    let has_more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let next_cursor = match rows.last().and_then(|row| row.first()) {
        Some(Value::Integer(seq)) if has_more => {
            Some(ids.encode(DeliveryKey { event: EventSeq(*seq), webhook: NO_WEBHOOK }).to_string())
        }
        _ => None,
    };
    Ok(PageOf { items: rows.into_iter().map(job).collect::<Result<_, _>>()?, next_cursor })
}

/// Oldest first.
pub(super) fn unfinished(sql: &mut dyn Select) -> Result<Vec<ReplayRecord>, Failure> {
    sql.query(select_jobs!("WHERE job.state < 2 ORDER BY job.seq"), &[])?.into_iter().map(job).collect()
}

pub(super) fn end(
    sql: &mut dyn Sql,
    tenant: TenantSeq,
    uuid: Uuid,
    state: ReplayState,
    reason: &str,
    now: UnixMicros,
) -> Result<ReplayRecord, Failure> {
    let ending = job(found(sql.lock("job", SELECT_JOB, &[uuid.into(), tenant.into()])?)?)?;
    if ending.state.has_ended() {
        return Err(StoreError::Conflict(format!("it is {} already", ending.state.as_str())).into());
    }
    sql.execute(
        "UPDATE replay_job SET state = ?2, reason = ?3, updated_at = ?4 WHERE uuid = ?1",
        &[uuid.into(), replay_code(state).into(), reason.into(), now.into()],
    )?;
    record(sql, &Deed::of("replay.cancel", tenant, uuid, now))?;
    Ok(ReplayRecord { state, reason: Some(reason.to_owned()), updated_at: now, ..ending })
}

/// The jobs of a tenant end with it.
pub(super) fn end_with_tenant(sql: &mut dyn Sql, tenant: TenantSeq, now: UnixMicros) -> Result<(), Failure> {
    sql.execute(
        "UPDATE replay_job SET state = ?2, reason = ?3, updated_at = ?4 WHERE tenant = ?1 AND state < 2",
        &[tenant.into(), replay_code(ReplayState::Cancelled).into(), TENANT_DELETED.into(), now.into()],
    )
    .map(drop)
}

/// The jobs of a webhook end with it.
pub(super) fn end_with_webhook(sql: &mut dyn Sql, webhook: WebhookSeq, now: UnixMicros) -> Result<(), Failure> {
    sql.execute(
        "UPDATE replay_job SET state = ?2, reason = ?3, updated_at = ?4 WHERE webhook_seq = ?1 AND state < 2",
        &[webhook.into(), replay_code(ReplayState::Cancelled).into(), WEBHOOK_DELETED.into(), now.into()],
    )
    .map(drop)
}

/// How far a job has got after `step`, in which `changed` deliveries were changed.
pub(in crate::store) fn stepped(job: ReplayRecord, step: &ReplayStep, changed: usize) -> ReplayRecord {
    ReplayRecord {
        changed: job.changed + changed as u64,
        scanned: job.scanned + u64::from(step.scanned),
        cursor: job.cursor.max(step.cursor),
        state: if step.is_end { ReplayState::Done } else { ReplayState::Running },
        updated_at: step.now,
        ..job
    }
}

/// For [`UPDATE_PROGRESS`].
pub(in crate::store) fn progress(job: &ReplayRecord) -> [Value; 7] {
    [
        job.uuid.into(),
        replay_code(job.state).into(),
        job.cursor.event.into(),
        job.cursor.webhook.into(),
        job.scanned.cast_signed().into(),
        job.changed.cast_signed().into(),
        job.updated_at.into(),
    ]
}
