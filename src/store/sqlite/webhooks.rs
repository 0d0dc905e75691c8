//! Webhooks: records, their sealed keys, and their life.

use std::collections::HashMap;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row};
use uuid::Uuid;

use super::commit::{Commit, Failure};
use crate::clock::UnixMicros;
use crate::store::paging::{page_by_uuid, start_by_uuid};
use crate::store::seal::Sealer;
use crate::store::webhook_columns::Columns;
use crate::store::{AllWebhooks, Deed, Page, PageOf, StoreError};
use crate::webhook::{SwitchedOff, TenantSeq, WebhookHealth, WebhookRecord, WebhookSeq, WebhookSettings};

/// The columns that [`record`] reads, in its order.
macro_rules! select_webhooks {
    ($rest:literal) => {
        concat!(
            "SELECT seq, uuid, tenant, version, name, description, url, decnet_secret, standard_key, signatures,
                 timeout_us, topic_patterns, enabled, max_in_flight, retry_schedule, created_at, updated_at,
                 consecutive_failures, last_success_at, last_failure_at, last_error, auto_disabled_at, probe_at,
                 cool_down_us, off_reason, off_at, policy
             FROM webhook JOIN webhook_health USING (seq) ",
            $rest
        )
    };
}

pub(super) fn create(
    commit: &mut Commit<'_>,
    tenant: TenantSeq,
    settings: &WebhookSettings,
    now: UnixMicros,
) -> Result<WebhookRecord, Failure> {
    refuse_taken_name(commit, tenant, &settings.name, None)?;
    super::tenants::refuse_webhook_beyond_quota(commit, tenant)?;
    let uuid = Uuid::new_v4();
    let columns = Columns::of(settings, &commit.state.sealer, tenant, uuid)?;
    refuse_settings_beyond_cap(commit, tenant, uuid, &columns)?;
    let mut insert = commit.prepare(
        "INSERT INTO webhook (
             uuid, tenant, version, name, description, url, decnet_secret, standard_key, signatures, timeout_us,
             topic_patterns, enabled, max_in_flight, retry_schedule, created_at, updated_at, policy
         ) VALUES (?1, ?2, 1, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?14, ?15)",
    )?;
    let seq = WebhookSeq(insert.insert((
        uuid,
        tenant,
        &settings.name,
        &settings.description,
        &columns.url,
        &columns.decnet_secret,
        &columns.standard_key,
        &columns.signatures,
        columns.timeout_us,
        &columns.topic_patterns,
        settings.enabled,
        settings.max_in_flight,
        &columns.retry_schedule,
        now,
        &columns.policy,
    ))?);
    commit.prepare("INSERT INTO webhook_health (seq) VALUES (?1)")?.execute([seq])?;
    commit.state.tenants.insert(seq, tenant);
    record_deed(commit, tenant, "webhook.create", uuid, &settings.name, now)?;
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

/// A replacement of settings.
pub(super) struct Update {
    pub(super) version: i64,
    pub(super) settings: WebhookSettings,
    pub(super) close_circuit: bool,
    pub(super) now: UnixMicros,
}

pub(super) fn update(
    commit: &mut Commit<'_>,
    tenant: TenantSeq,
    uuid: Uuid,
    update: &Update,
) -> Result<WebhookRecord, Failure> {
    let found = webhook(commit.connection, &commit.state.sealer, tenant, uuid)?.ok_or(StoreError::NotFound)?;
    if found.version != update.version {
        return Err(StoreError::Conflict("the webhook was changed meanwhile: read it again".to_owned()).into());
    }
    let settings = &update.settings;
    refuse_taken_name(commit, tenant, &settings.name, Some(uuid))?;
    let columns = Columns::of(settings, &commit.state.sealer, tenant, uuid)?;
    refuse_settings_beyond_cap(commit, tenant, uuid, &columns)?;
    let mut health = found.health;
    if update.close_circuit {
        health = WebhookHealth {
            consecutive_failures: 0,
            auto_disabled_at: None,
            probe_at: None,
            cool_down: Duration::ZERO,
            ..health
        };
    }
    let switched_off = found.switched_off.filter(|_| !settings.enabled);
    commit
        .prepare(
            "UPDATE webhook SET
                 version = version + 1, name = ?2, description = ?3, url = ?4, decnet_secret = ?5, standard_key = ?6,
                 signatures = ?7, timeout_us = ?8, topic_patterns = ?9, enabled = ?10, max_in_flight = ?11,
                 retry_schedule = ?12, updated_at = ?13, policy = ?14
             WHERE seq = ?1",
        )?
        .execute((
            found.seq,
            &settings.name,
            &settings.description,
            &columns.url,
            &columns.decnet_secret,
            &columns.standard_key,
            &columns.signatures,
            columns.timeout_us,
            &columns.topic_patterns,
            settings.enabled,
            settings.max_in_flight,
            &columns.retry_schedule,
            update.now,
            &columns.policy,
        ))?;
    super::settle::update_health(commit, found.seq, &health)?;
    write_switched_off(commit, found.seq, switched_off.as_ref())?;
    record_deed(commit, tenant, "webhook.update", uuid, &settings.name, update.now)?;
    Ok(WebhookRecord {
        version: found.version + 1,
        settings: settings.clone(),
        health,
        switched_off,
        updated_at: update.now,
        ..found
    })
}

/// Turns a webhook off on the program's own account; `None` if it is off or deleted already.
pub(super) fn switch_off(
    commit: &mut Commit<'_>,
    seq: WebhookSeq,
    reason: &str,
    now: UnixMicros,
) -> Result<Option<WebhookRecord>, Failure> {
    let found = {
        let mut statement = commit.prepare(select_webhooks!("WHERE seq = ?1 AND enabled AND deleted_at IS NULL"))?;
        let mut rows = statement.query([seq])?;
        rows.next()?.map(|row| record(row, &commit.state.sealer)).transpose()?
    };
    let Some(mut found) = found else { return Ok(None) };
    commit
        .prepare("UPDATE webhook SET version = version + 1, enabled = 0, updated_at = ?2 WHERE seq = ?1")?
        .execute((seq, now))?;
    found.switched_off = Some(SwitchedOff { reason: reason.to_owned(), at: now });
    write_switched_off(commit, seq, found.switched_off.as_ref())?;
    found.version += 1;
    found.settings.enabled = false;
    found.updated_at = now;
    Ok(Some(found))
}

fn write_switched_off(commit: &Commit<'_>, seq: WebhookSeq, off: Option<&SwitchedOff>) -> rusqlite::Result<()> {
    commit
        .prepare("UPDATE webhook SET off_reason = ?2, off_at = ?3 WHERE seq = ?1")?
        .execute((seq, off.map(|off| &off.reason), off.map(|off| off.at)))
        .map(drop)
}

pub(super) fn delete(
    commit: &mut Commit<'_>,
    tenant: TenantSeq,
    uuid: Uuid,
    now: UnixMicros,
) -> Result<WebhookRecord, Failure> {
    let found = webhook(commit.connection, &commit.state.sealer, tenant, uuid)?.ok_or(StoreError::NotFound)?;
    commit.prepare("UPDATE webhook SET deleted_at = ?2 WHERE seq = ?1")?.execute((found.seq, now))?;
    super::replay::end_with_webhook(commit, found.seq, now)?;
    record_deed(commit, tenant, "webhook.delete", uuid, &found.settings.name, now)?;
    Ok(found)
}

fn record_deed(
    commit: &Commit<'_>,
    tenant: TenantSeq,
    action: &'static str,
    uuid: Uuid,
    name: &str,
    at: UnixMicros,
) -> rusqlite::Result<()> {
    let (target, target_name) = (Some(uuid.to_string()), Some(name.to_owned()));
    commit.record(&Deed { at, tenant, action, target, target_name })
}

pub(super) fn webhook(
    connection: &Connection,
    sealer: &Sealer,
    tenant: TenantSeq,
    uuid: Uuid,
) -> Result<Option<WebhookRecord>, Failure> {
    let mut statement =
        connection.prepare_cached(select_webhooks!("WHERE uuid = ?1 AND tenant = ?2 AND deleted_at IS NULL"))?;
    let mut rows = statement.query((uuid, tenant))?;
    rows.next()?.map(|row| record(row, sealer)).transpose()
}

/// The webhooks of a tenant, or of all.
pub(super) fn webhooks(
    connection: &Connection,
    sealer: &Sealer,
    tenant: Option<TenantSeq>,
) -> Result<Vec<WebhookRecord>, Failure> {
    let mut statement = connection
        .prepare_cached(select_webhooks!("WHERE deleted_at IS NULL AND (?1 IS NULL OR tenant = ?1) ORDER BY seq"))?;
    let mut rows = statement.query([tenant])?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        records.push(record(row, sealer)?);
    }
    Ok(records)
}

/// Oldest first. Served by the table in its order, which is read until the page is full.
pub(super) fn page(
    connection: &Connection,
    sealer: &Sealer,
    tenant: TenantSeq,
    q: Option<&str>,
    page: &Page,
) -> Result<PageOf<WebhookRecord>, Failure> {
    let (cursor, limit) = start_by_uuid(page)?;
    let after: WebhookSeq = match cursor {
        None => WebhookSeq(0),
        Some(uuid) => connection
            .prepare_cached("SELECT seq FROM webhook WHERE uuid = ?1 AND tenant = ?2")?
            .query_row((uuid, tenant), |row| row.get(0))
            .optional()?
            .ok_or(StoreError::Cursor)?,
    };
    let mut statement = connection.prepare_cached(select_webhooks!(
        "WHERE deleted_at IS NULL AND tenant = ?1 AND seq > ?2 AND (?3 IS NULL OR instr(lower(name), lower(?3)) > 0)
         ORDER BY seq LIMIT ?4"
    ))?;
    let mut rows = statement.query((tenant, after, q, limit))?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        records.push(record(row, sealer)?);
    }
    Ok(page_by_uuid(records, page, |record| record.uuid))
}

/// Served by the index `webhook_name`.
pub(super) fn count(connection: &Connection, tenant: TenantSeq) -> rusqlite::Result<u64> {
    connection
        .prepare_cached("SELECT count(*) FROM webhook WHERE tenant = ?1 AND deleted_at IS NULL")?
        .query_row([tenant], |row| row.get::<_, i64>(0))
        .map(i64::unsigned_abs)
}

/// Asked first because the transaction must go on. Served by the index `webhook_name`; lengths are read without the texts.
fn refuse_settings_beyond_cap(
    commit: &Commit<'_>,
    tenant: TenantSeq,
    uuid: Uuid,
    columns: &Columns,
) -> Result<(), Failure> {
    let (others, old): (i64, i64) = commit
        .prepare(
            "SELECT coalesce(sum(bytes) FILTER (WHERE uuid != ?2), 0), coalesce(sum(bytes) FILTER (WHERE uuid = ?2), 0)
             FROM (
                 SELECT uuid, octet_length(name) + octet_length(description) + octet_length(topic_patterns)
                     + coalesce(octet_length(policy), 0) AS bytes
                 FROM webhook WHERE tenant = ?1 AND deleted_at IS NULL
             )",
        )?
        .query_row((tenant, uuid), |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(columns.refuse_beyond_cap(others.unsigned_abs(), old.unsigned_abs())?)
}

pub(super) fn all(connection: &Connection, sealer: &Sealer) -> Result<AllWebhooks, Failure> {
    let mut deleted = connection.prepare_cached(
        "SELECT seq FROM webhook
         WHERE deleted_at IS NOT NULL AND EXISTS (
             SELECT 1 FROM delivery INDEXED BY delivery_due WHERE state = 4 AND webhook_seq = webhook.seq
         )
         ORDER BY seq",
    )?;
    let deleted = deleted.query_map((), |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(AllWebhooks { live: webhooks(connection, sealer, None)?, deleted })
}

/// The owner of every webhook there ever was.
pub(super) fn tenants(connection: &Connection) -> rusqlite::Result<HashMap<WebhookSeq, TenantSeq>> {
    let mut statement = connection.prepare("SELECT seq, tenant FROM webhook")?;
    statement.query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

/// Also checked by the index `webhook_name`; asked first because the transaction must go on.
fn refuse_taken_name(commit: &Commit<'_>, tenant: TenantSeq, name: &str, except: Option<Uuid>) -> Result<(), Failure> {
    let owner: Option<Uuid> = commit
        .prepare("SELECT uuid FROM webhook WHERE tenant = ?1 AND name = ?2 AND deleted_at IS NULL")?
        .query_row((tenant, name), |row| row.get(0))
        .optional()?;
    if owner.is_some() && owner != except { Err(StoreError::NameTaken.into()) } else { Ok(()) }
}

fn record(row: &Row<'_>, sealer: &Sealer) -> Result<WebhookRecord, Failure> {
    let (uuid, tenant) = (row.get(1)?, row.get(2)?);
    let columns = Columns {
        name: row.get(4)?,
        description: row.get(5)?,
        url: row.get(6)?,
        decnet_secret: row.get(7)?,
        standard_key: row.get(8)?,
        signatures: row.get(9)?,
        timeout_us: row.get(10)?,
        topic_patterns: row.get(11)?,
        enabled: row.get(12)?,
        max_in_flight: row.get(13)?,
        retry_schedule: row.get(14)?,
        policy: row.get(26)?,
    };
    let settings = columns.settings(sealer, tenant, uuid)?;
    Ok(WebhookRecord {
        seq: row.get(0)?,
        uuid,
        tenant,
        version: row.get(3)?,
        settings,
        health: WebhookHealth {
            consecutive_failures: row.get(17)?,
            last_success_at: row.get(18)?,
            last_failure_at: row.get(19)?,
            last_error: row.get(20)?,
            auto_disabled_at: row.get(21)?,
            probe_at: row.get(22)?,
            cool_down: Duration::from_micros(row.get::<_, i64>(23)?.unsigned_abs()),
        },
        switched_off: switched_off(row)?,
        created_at: row.get(15)?,
        updated_at: row.get(16)?,
    })
}

fn switched_off(row: &Row<'_>) -> rusqlite::Result<Option<SwitchedOff>> {
    let (reason, at): (Option<String>, Option<UnixMicros>) = (row.get(24)?, row.get(25)?);
    Ok(reason.zip(at).map(|(reason, at)| SwitchedOff { reason, at }))
}
