//! Webhooks: records, their sealed keys, and their life.

use std::time::Duration;

use uuid::Uuid;

use super::audit::record;
use super::webhook_columns::Columns;
use super::{replays, tenants};
use crate::clock::UnixMicros;
use crate::store::failure::Failure;
use crate::store::paging::{page_by_uuid, start_by_uuid};
use crate::store::seal::Sealer;
use crate::store::sql::{Fields, Row, Select, Sql, Value, found};
use crate::store::{Deed, Page, PageOf, StoreError, TenantRecord};
use crate::webhook::{SwitchedOff, TenantSeq, WebhookHealth, WebhookRecord, WebhookSeq, WebhookSettings};

/// The columns that [`webhook`] reads, in its order.
macro_rules! select_webhooks {
    ($rest:literal) => {
        select_webhooks!("", $rest)
    };
    ($more_columns:literal, $rest:literal) => {
        concat!(
            "SELECT seq, uuid, tenant, version, name, description, url, decnet_secret, standard_key, signatures,
                 timeout_us, topic_patterns, enabled, max_in_flight, retry_schedule, policy,
                 consecutive_failures, last_success_at, last_failure_at, last_error, auto_disabled_at, probe_at,
                 cool_down_us, off_reason, off_at, created_at, updated_at",
            $more_columns,
            " FROM webhook JOIN webhook_health USING (seq) ",
            $rest
        )
    };
}
pub(in crate::store) use select_webhooks;

/// One webhook of a tenant: its UUID, then the tenant.
const SELECT_ONE: &str = select_webhooks!("WHERE uuid = ?1 AND tenant = ?2 AND deleted_at IS NULL");

/// Webhooks by their numbers, [`READ_TOGETHER`] of them; a number may be given twice.
const SELECT_SOME: &str = select_webhooks!(
    "WHERE seq IN (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22,
         ?23, ?24, ?25, ?26, ?27, ?28, ?29, ?30, ?31, ?32)
         AND deleted_at IS NULL
     ORDER BY seq"
);
/// How many webhooks one statement of a search reads: each statement is a round trip to PostgreSQL.
const READ_TOGETHER: usize = 32;
/// The most rows of names that a search reads at once.
const MAX_SEARCHED_NAMES: u32 = 5_000;

pub(super) fn create(
    sql: &mut dyn Sql,
    tenant: TenantSeq,
    settings: &WebhookSettings,
    now: UnixMicros,
) -> Result<WebhookRecord, Failure> {
    let owner = tenants::lock(sql, tenant)?;
    refuse_taken_name(sql, tenant, &settings.name, None)?;
    refuse_beyond_quota(sql, &owner)?;
    let uuid = Uuid::new_v4();
    let columns = Columns::of(settings, sql.sealer(), tenant, uuid)?;
    refuse_settings_beyond_cap(sql, tenant, uuid, &columns)?;
    let seq = insert(sql, uuid, tenant, columns, None, (now, now))?;
    sql.execute("INSERT INTO webhook_health (seq) VALUES (?1)", &[Value::from(seq)])?;
    sql.made_webhook(seq, uuid, tenant)?;
    record(sql, &Deed::of("webhook.create", tenant, uuid, now).named(&settings.name))?;
    Ok(WebhookRecord {
        seq,
        uuid,
        tenant,
        version: 1,
        settings: settings.clone(),
        health: WebhookHealth::default(),
        switched_off: None,
        created_at: now,
        updated_at: now,
    })
}

/// Adds the row of a webhook, which was created and changed at `times`. Returns its number.
pub(super) fn insert(
    sql: &mut dyn Sql,
    uuid: Uuid,
    tenant: TenantSeq,
    columns: Columns,
    switched_off: Option<&SwitchedOff>,
    times: (UnixMicros, UnixMicros),
) -> Result<WebhookSeq, Failure> {
    let more = [
        times.0.into(),
        times.1.into(),
        switched_off.map(|off| &off.reason).into(),
        switched_off.map(|off| off.at).into(),
    ];
    let row = sql.query_row(
        "INSERT INTO webhook (
             uuid, tenant, version, name, description, url, decnet_secret, standard_key, signatures, timeout_us,
             topic_patterns, enabled, max_in_flight, retry_schedule, policy, created_at, updated_at, off_reason, off_at
         ) VALUES (?1, ?2, 1, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)
         RETURNING seq",
        &given([uuid.into(), tenant.into()], columns, more),
    )?;
    Fields::of(row.unwrap_or_default()).next()
}

/// A replacement of settings.
pub(super) struct Update {
    pub(super) version: i64,
    pub(super) settings: WebhookSettings,
    pub(super) close_circuit: bool,
    pub(super) now: UnixMicros,
}

pub(super) fn update(
    sql: &mut dyn Sql,
    tenant: TenantSeq,
    uuid: Uuid,
    update: &Update,
) -> Result<WebhookRecord, Failure> {
    // Names are given by one transaction of a tenant at a time.
    tenants::lock(sql, tenant)?;
    let before = lock(sql, tenant, uuid)?;
    if before.version != update.version {
        return Err(StoreError::Stale.into());
    }
    let settings = &update.settings;
    refuse_taken_name(sql, tenant, &settings.name, Some(uuid))?;
    let columns = Columns::of(settings, sql.sealer(), tenant, uuid)?;
    refuse_settings_beyond_cap(sql, tenant, uuid, &columns)?;
    let switched_off = before.switched_off.filter(|_| !settings.enabled);
    let off = [
        update.now.into(),
        switched_off.as_ref().map(|off| &off.reason).into(),
        switched_off.as_ref().map(|off| off.at).into(),
    ];
    sql.execute(
        "UPDATE webhook SET
             version = version + 1, name = ?2, description = ?3, url = ?4, decnet_secret = ?5, standard_key = ?6,
             signatures = ?7, timeout_us = ?8, topic_patterns = ?9, enabled = ?10, max_in_flight = ?11,
             retry_schedule = ?12, policy = ?13, updated_at = ?14, off_reason = ?15, off_at = ?16
         WHERE seq = ?1",
        &given([before.seq.into()], columns, off),
    )?;
    let mut health = before.health;
    if update.close_circuit {
        close_circuit(sql, before.seq, &mut health)?;
    }
    record(sql, &Deed::of("webhook.update", tenant, uuid, update.now).named(&settings.name))?;
    Ok(WebhookRecord {
        version: before.version + 1,
        settings: settings.clone(),
        health,
        switched_off,
        updated_at: update.now,
        ..before
    })
}

/// The values of the columns that settings fill, in their order, between others.
fn given<const N: usize, const M: usize>(before: [Value; N], columns: Columns, after: [Value; M]) -> Vec<Value> {
    let Columns {
        name,
        description,
        url,
        decnet_secret,
        standard_key,
        signatures,
        timeout_us,
        topic_patterns,
        enabled,
        max_in_flight,
        retry_schedule,
        policy,
    } = columns;
    let settings = [
        name.into(),
        description.into(),
        url.into(),
        decnet_secret.into(),
        standard_key.into(),
        signatures.into(),
        timeout_us.into(),
        topic_patterns.into(),
        enabled.into(),
        max_in_flight.into(),
        retry_schedule.into(),
        policy.into(),
    ];
    before.into_iter().chain(settings).chain(after).collect()
}

fn close_circuit(sql: &mut dyn Sql, webhook: WebhookSeq, health: &mut WebhookHealth) -> Result<(), Failure> {
    health.consecutive_failures = 0;
    health.last_error = None;
    health.auto_disabled_at = None;
    health.probe_at = None;
    health.cool_down = Duration::ZERO;
    sql.execute(
        "UPDATE webhook_health
         SET consecutive_failures = 0, last_error = NULL, auto_disabled_at = NULL, probe_at = NULL, cool_down_us = 0
         WHERE seq = ?1",
        &[webhook.into()],
    )?;
    sql.closed_circuit(webhook)
}

/// Turns a webhook off on the program's own account; `None` if it is off or deleted already.
pub(super) fn switch_off(
    sql: &mut dyn Sql,
    seq: WebhookSeq,
    reason: &str,
    now: UnixMicros,
) -> Result<Option<WebhookRecord>, Failure> {
    let changed = sql.execute(
        "UPDATE webhook SET version = version + 1, enabled = false, updated_at = ?2, off_reason = ?3, off_at = ?2
         WHERE seq = ?1 AND enabled AND deleted_at IS NULL",
        &[seq.into(), now.into(), reason.into()],
    )?;
    if changed == 0 {
        return Ok(None);
    }
    by_seq(sql, seq)
}

pub(super) fn delete(
    sql: &mut dyn Sql,
    tenant: TenantSeq,
    uuid: Uuid,
    now: UnixMicros,
) -> Result<WebhookRecord, Failure> {
    let deleted = lock(sql, tenant, uuid)?;
    sql.execute("UPDATE webhook SET deleted_at = ?2 WHERE seq = ?1", &[deleted.seq.into(), now.into()])?;
    replays::end_with_webhook(sql, deleted.seq, now)?;
    record(sql, &Deed::of("webhook.delete", tenant, uuid, now).named(&deleted.settings.name))?;
    Ok(deleted)
}

/// The webhook, which nobody else changes until the transaction ends.
fn lock(sql: &mut dyn Sql, tenant: TenantSeq, uuid: Uuid) -> Result<WebhookRecord, Failure> {
    let row = found(sql.lock("webhook", SELECT_ONE, &[uuid.into(), tenant.into()])?)?;
    webhook(row, sql.sealer())
}

pub(super) fn by_uuid(sql: &mut dyn Select, tenant: TenantSeq, uuid: Uuid) -> Result<Option<WebhookRecord>, Failure> {
    let row = sql.query_row(SELECT_ONE, &[uuid.into(), tenant.into()])?;
    row.map(|row| webhook(row, sql.sealer())).transpose()
}

fn by_seq<S: Select + ?Sized>(sql: &mut S, seq: WebhookSeq) -> Result<Option<WebhookRecord>, Failure> {
    let row = sql.query_row(select_webhooks!("WHERE seq = ?1 AND deleted_at IS NULL"), &[seq.into()])?;
    row.map(|row| webhook(row, sql.sealer())).transpose()
}

/// The webhooks of a tenant, oldest first.
pub(super) fn list(sql: &mut dyn Select, tenant: TenantSeq) -> Result<Vec<WebhookRecord>, Failure> {
    let rows =
        sql.query(select_webhooks!("WHERE tenant = ?1 AND deleted_at IS NULL ORDER BY seq"), &[tenant.into()])?;
    rows.into_iter().map(|row| webhook(row, sql.sealer())).collect()
}

/// The webhooks of all tenants, oldest first.
pub(super) fn all(sql: &mut dyn Select) -> Result<Vec<WebhookRecord>, Failure> {
    let rows = sql.query(select_webhooks!("WHERE deleted_at IS NULL ORDER BY seq"), &[])?;
    rows.into_iter().map(|row| webhook(row, sql.sealer())).collect()
}

/// Oldest first. In SQLite served by the table in its order, which is read until the page is full; in PostgreSQL by the
/// index `webhook_name`, whose rows of the tenant are all read. So the page is chosen before anything is joined to it.
pub(super) fn page(
    sql: &mut dyn Select,
    tenant: TenantSeq,
    q: Option<&str>,
    page: &Page,
) -> Result<PageOf<WebhookRecord>, Failure> {
    let one = "SELECT seq FROM webhook WHERE uuid = ?1 AND tenant = ?2";
    let (after, limit) = start_by_uuid(sql, page, one, Some(tenant))?;
    let records = if let Some(q) = q {
        search(sql, tenant, &q.to_ascii_lowercase(), WebhookSeq(after), usize::try_from(limit).unwrap_or(0))?
    } else {
        let rows = sql.query(
            select_webhooks!(
                "WHERE seq IN (
                     SELECT seq FROM webhook WHERE deleted_at IS NULL AND tenant = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3
                 )
                 ORDER BY seq"
            ),
            &[tenant.into(), after.into(), limit.into()],
        )?;
        rows.into_iter().map(|row| webhook(row, sql.sealer())).collect::<Result<_, _>>()?
    };
    Ok(page_by_uuid(records, page, |record: &WebhookRecord| record.uuid))
}

/// At most `limit` webhooks whose names have `q`, which is in small letters, in them. The databases differ in how they
/// look into texts: the names are read, and then those that were found.
fn search(
    sql: &mut dyn Select,
    tenant: TenantSeq,
    q: &str,
    mut after: WebhookSeq,
    limit: usize,
) -> Result<Vec<WebhookRecord>, Failure> {
    let mut found = Vec::new();
    loop {
        let names = sql.query(
            "SELECT seq, name FROM webhook WHERE deleted_at IS NULL AND tenant = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3",
            &[tenant.into(), after.into(), MAX_SEARCHED_NAMES.into()],
        )?;
        let is_last = names.len() < MAX_SEARCHED_NAMES as usize;
        for row in names {
            let mut fields = Fields::of(row);
            after = fields.next()?;
            if fields.next::<String>()?.to_ascii_lowercase().contains(q) {
                found.push(after);
            }
            if found.len() == limit {
                return some(sql, &found);
            }
        }
        if is_last {
            return some(sql, &found);
        }
    }
}

/// Those of these webhooks, which ascend, that are not deleted.
fn some(sql: &mut dyn Select, seqs: &[WebhookSeq]) -> Result<Vec<WebhookRecord>, Failure> {
    let mut records = Vec::with_capacity(seqs.len());
    for some in seqs.chunks(READ_TOGETHER) {
        let mut values = [const { Value::Null }; READ_TOGETHER];
        for (value, seq) in values.iter_mut().zip(some) {
            *value = (*seq).into();
        }
        for row in sql.query(SELECT_SOME, &values)? {
            records.push(webhook(row, sql.sealer())?);
        }
    }
    Ok(records)
}

/// Served by the index `webhook_name`.
pub(super) fn count<S: Select + ?Sized>(sql: &mut S, tenant: TenantSeq) -> Result<u64, Failure> {
    sql.count("SELECT count(*) FROM webhook WHERE tenant = ?1 AND deleted_at IS NULL", &[tenant.into()])
}

/// Refuses one webhook more than the tenant, which is locked, may have.
fn refuse_beyond_quota(sql: &mut dyn Sql, tenant: &TenantRecord) -> Result<(), Failure> {
    let Some(max) = tenant.quotas.max_webhooks else { return Ok(()) };
    let count = count(sql, tenant.seq)?;
    if count >= u64::from(max) { Err(StoreError::TooManyWebhooks { max }.into()) } else { Ok(()) }
}

/// Asked first because the transaction must go on. The tenant is locked, so that the sum is that of the commit. Served by
/// the index `webhook_name`; lengths are read without the texts.
fn refuse_settings_beyond_cap(
    sql: &mut dyn Sql,
    tenant: TenantSeq,
    uuid: Uuid,
    columns: &Columns,
) -> Result<(), Failure> {
    let row = sql.query_row(
        "SELECT CAST(coalesce(sum(bytes) FILTER (WHERE uuid != ?2), 0) AS bigint),
             CAST(coalesce(sum(bytes) FILTER (WHERE uuid = ?2), 0) AS bigint)
         FROM (
             SELECT uuid, octet_length(name) + octet_length(description) + octet_length(topic_patterns)
                 + coalesce(octet_length(policy), 0) AS bytes
             FROM webhook WHERE tenant = ?1 AND deleted_at IS NULL
         ) AS settings",
        &[tenant.into(), uuid.into()],
    )?;
    let mut fields = Fields::of(row.unwrap_or_default());
    Ok(columns.refuse_beyond_cap(fields.next()?, fields.next()?)?)
}

/// Also checked by the index `webhook_name`; asked first because the transaction must go on. The tenant is locked.
fn refuse_taken_name(sql: &mut dyn Sql, tenant: TenantSeq, name: &str, except: Option<Uuid>) -> Result<(), Failure> {
    let owner = owner_of_name(sql, tenant, name)?;
    if owner.is_some() && owner != except { Err(StoreError::NameTaken.into()) } else { Ok(()) }
}

/// The webhook of that name. Served by the index `webhook_name`.
pub(super) fn owner_of_name(sql: &mut dyn Select, tenant: TenantSeq, name: &str) -> Result<Option<Uuid>, Failure> {
    let owner = sql.query_row(
        "SELECT uuid FROM webhook WHERE tenant = ?1 AND name = ?2 AND deleted_at IS NULL",
        &[tenant.into(), name.into()],
    )?;
    owner.map(|row| Fields::of(row).next()).transpose()
}

/// The bytes that the settings of a tenant's webhooks take together. Served by the index `webhook_name`; lengths are read
/// without the texts.
pub(super) fn settings_bytes(sql: &mut dyn Select, tenant: TenantSeq) -> Result<u64, Failure> {
    sql.count(
        "SELECT CAST(coalesce(sum(
             octet_length(name) + octet_length(description) + octet_length(topic_patterns)
                 + coalesce(octet_length(policy), 0)
         ), 0) AS bigint)
         FROM webhook WHERE tenant = ?1 AND deleted_at IS NULL",
        &[tenant.into()],
    )
}

pub(in crate::store) fn webhook(row: Row, sealer: &Sealer) -> Result<WebhookRecord, Failure> {
    let mut fields = Fields::of(row);
    let (seq, uuid, tenant, version) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let columns = Columns {
        name: fields.next()?,
        description: fields.next()?,
        url: fields.next()?,
        decnet_secret: fields.next()?,
        standard_key: fields.next()?,
        signatures: fields.next()?,
        timeout_us: fields.next()?,
        topic_patterns: fields.next()?,
        enabled: fields.next()?,
        max_in_flight: fields.next()?,
        retry_schedule: fields.next()?,
        policy: fields.next()?,
    };
    let health = WebhookHealth {
        consecutive_failures: fields.next()?,
        last_success_at: fields.next()?,
        last_failure_at: fields.next()?,
        last_error: fields.next()?,
        auto_disabled_at: fields.next()?,
        probe_at: fields.next()?,
        cool_down: Duration::from_micros(fields.next()?),
    };
    let (off_reason, off_at) = (fields.next::<Option<String>>()?, fields.next::<Option<UnixMicros>>()?);
    Ok(WebhookRecord {
        seq,
        uuid,
        tenant,
        version,
        settings: columns.settings(sealer, tenant, uuid)?,
        health,
        switched_off: off_reason.zip(off_at).map(|(reason, at)| SwitchedOff { reason, at }),
        created_at: fields.next()?,
        updated_at: fields.next()?,
    })
}
