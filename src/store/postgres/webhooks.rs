//! Webhooks: records, their sealed keys, and their life.

use std::time::Duration;

use tokio_postgres::Row;
use uuid::Uuid;

use super::error::Failure;
use super::pool::Connection;
use super::transaction::Commit;
use super::values::{integer, number};
use super::{replay, settle, tenants};
use crate::clock::UnixMicros;
use crate::store::paging::{page_by_uuid, start_by_uuid};
use crate::store::seal::Sealer;
use crate::store::shard::Shard;
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
                 cool_down_us, off_reason, off_at, policy, circuit_closed_by
             FROM webhook JOIN webhook_health USING (seq) ",
            $rest
        )
    };
}
pub(super) use select_webhooks;

pub(super) async fn create(
    commit: &Commit,
    tenant: TenantSeq,
    settings: &WebhookSettings,
    now: UnixMicros,
) -> Result<WebhookRecord, Failure> {
    let owner = tenants::lock(commit, tenant).await?;
    refuse_taken_name(commit, tenant, &settings.name, None).await?;
    tenants::refuse_webhook_beyond_quota(commit, &owner).await?;
    let uuid = Uuid::new_v4();
    let columns = Columns::of(settings, &commit.shared.sealer, tenant, uuid)?;
    refuse_settings_beyond_cap(commit, tenant, uuid, &columns).await?;
    let row = commit
        .connection
        .query_one(
            "INSERT INTO webhook (
                 uuid, tenant, version, name, description, url, decnet_secret, standard_key, signatures, timeout_us,
                 topic_patterns, enabled, max_in_flight, retry_schedule, created_at, updated_at, policy, shard
             ) VALUES ($1, $2, 1, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $14, $15, $16)
             RETURNING seq",
            &[
                &uuid,
                &tenant,
                &columns.name,
                &columns.description,
                &columns.url,
                &columns.decnet_secret,
                &columns.standard_key,
                &columns.signatures,
                &columns.timeout_us,
                &columns.topic_patterns,
                &columns.enabled,
                &integer(columns.max_in_flight),
                &columns.retry_schedule,
                &now,
                &columns.policy,
                &i16::from(Shard::of(uuid).number()),
            ],
        )
        .await?;
    let seq = row.try_get(0)?;
    commit.connection.execute("INSERT INTO webhook_health (seq) VALUES ($1)", &[&seq]).await?;
    // Whether or not it is committed: nothing is sent to a webhook that is not there.
    commit.shared.presence.note(seq, Shard::of(uuid));
    record_deed(commit, "webhook.create", tenant, uuid, &settings.name, now).await?;
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

pub(super) async fn update(
    commit: &Commit,
    tenant: TenantSeq,
    uuid: Uuid,
    update: &Update,
) -> Result<WebhookRecord, Failure> {
    // Names are given by one transaction of a tenant at a time.
    tenants::lock(commit, tenant).await?;
    let found = lock(commit, tenant, uuid).await?;
    if found.version != update.version {
        return Err(StoreError::Conflict("the webhook was changed meanwhile: read it again".to_owned()).into());
    }
    let settings = &update.settings;
    refuse_taken_name(commit, tenant, &settings.name, Some(uuid)).await?;
    let columns = Columns::of(settings, &commit.shared.sealer, tenant, uuid)?;
    refuse_settings_beyond_cap(commit, tenant, uuid, &columns).await?;
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
        .connection
        .execute(
            "UPDATE webhook SET
                 version = version + 1, name = $2, description = $3, url = $4, decnet_secret = $5, standard_key = $6,
                 signatures = $7, timeout_us = $8, topic_patterns = $9, enabled = $10, max_in_flight = $11,
                 retry_schedule = $12, updated_at = $13, policy = $14, off_reason = $15, off_at = $16,
                 circuit_closed_by = CASE WHEN $17 THEN version + 1 ELSE circuit_closed_by END
             WHERE seq = $1",
            &[
                &found.seq,
                &columns.name,
                &columns.description,
                &columns.url,
                &columns.decnet_secret,
                &columns.standard_key,
                &columns.signatures,
                &columns.timeout_us,
                &columns.topic_patterns,
                &columns.enabled,
                &integer(columns.max_in_flight),
                &columns.retry_schedule,
                &update.now,
                &columns.policy,
                &switched_off.as_ref().map(|off| &off.reason),
                &switched_off.as_ref().map(|off| off.at),
                &update.close_circuit,
            ],
        )
        .await?;
    if update.close_circuit {
        settle::update_health(commit, std::iter::once(&(found.seq, health.clone()))).await?;
    }
    record_deed(commit, "webhook.update", tenant, uuid, &settings.name, update.now).await?;
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
pub(super) async fn switch_off(
    commit: &Commit,
    seq: WebhookSeq,
    reason: &str,
    now: UnixMicros,
) -> Result<Option<WebhookRecord>, Failure> {
    let changed = commit
        .connection
        .execute(
            "UPDATE webhook SET version = version + 1, enabled = false, updated_at = $2, off_reason = $3, off_at = $2
             WHERE seq = $1 AND enabled AND deleted_at IS NULL",
            &[&seq, &now, &reason],
        )
        .await?;
    if changed == 0 {
        return Ok(None);
    }
    let row = commit.connection.query_one(select_webhooks!("WHERE seq = $1"), &[&seq]).await?;
    record(&row, &commit.shared.sealer).map(Some)
}

pub(super) async fn delete(
    commit: &Commit,
    tenant: TenantSeq,
    uuid: Uuid,
    now: UnixMicros,
) -> Result<WebhookRecord, Failure> {
    let found = lock(commit, tenant, uuid).await?;
    commit.connection.execute("UPDATE webhook SET deleted_at = $2 WHERE seq = $1", &[&found.seq, &now]).await?;
    replay::end_with_webhook(commit, found.seq, now).await?;
    record_deed(commit, "webhook.delete", tenant, uuid, &found.settings.name, now).await?;
    Ok(found)
}

async fn record_deed(
    commit: &Commit,
    action: &'static str,
    tenant: TenantSeq,
    webhook: Uuid,
    name: &str,
    at: UnixMicros,
) -> Result<(), Failure> {
    let (target, target_name) = (Some(webhook.to_string()), Some(name.to_owned()));
    commit.record(&Deed { at, tenant, action, target, target_name }).await
}

/// The webhook, which nobody else changes until the transaction ends.
async fn lock(commit: &Commit, tenant: TenantSeq, uuid: Uuid) -> Result<WebhookRecord, Failure> {
    let sql = select_webhooks!("WHERE uuid = $1 AND tenant = $2 AND deleted_at IS NULL FOR NO KEY UPDATE OF webhook");
    let row = commit.connection.query_opt(sql, &[&uuid, &tenant]).await?;
    record(&row.ok_or(StoreError::NotFound)?, &commit.shared.sealer)
}

pub(super) async fn webhook(
    connection: &Connection,
    sealer: &Sealer,
    tenant: TenantSeq,
    uuid: Uuid,
) -> Result<Option<WebhookRecord>, Failure> {
    let sql = select_webhooks!("WHERE uuid = $1 AND tenant = $2 AND deleted_at IS NULL");
    let row = connection.query_opt(sql, &[&uuid, &tenant]).await?;
    row.as_ref().map(|row| record(row, sealer)).transpose()
}

/// The webhooks of a tenant, or of all.
pub(super) async fn webhooks(
    connection: &Connection,
    sealer: &Sealer,
    tenant: Option<TenantSeq>,
) -> Result<Vec<WebhookRecord>, Failure> {
    let sql = select_webhooks!("WHERE deleted_at IS NULL AND ($1::bigint IS NULL OR tenant = $1) ORDER BY seq");
    connection.query(sql, &[&tenant]).await?.iter().map(|row| record(row, sealer)).collect()
}

/// Oldest first.
pub(super) async fn page(
    connection: &Connection,
    sealer: &Sealer,
    tenant: TenantSeq,
    q: Option<&str>,
    page: &Page,
) -> Result<PageOf<WebhookRecord>, Failure> {
    let (cursor, limit) = start_by_uuid(page)?;
    let after = match cursor {
        None => WebhookSeq(0),
        Some(uuid) => connection
            .query_opt("SELECT seq FROM webhook WHERE uuid = $1 AND tenant = $2", &[&uuid, &tenant])
            .await?
            .ok_or(StoreError::Cursor)?
            .try_get(0)?,
    };
    let sql = select_webhooks!(
        "WHERE deleted_at IS NULL AND tenant = $1 AND seq > $2
             AND ($3::text IS NULL OR strpos(lower(name COLLATE \"C\"), lower($3::text COLLATE \"C\")) > 0)
         ORDER BY seq LIMIT $4"
    );
    let rows = connection.query(sql, &[&tenant, &after, &q, &limit]).await?;
    let records = rows.iter().map(|row| record(row, sealer)).collect::<Result<_, _>>()?;
    Ok(page_by_uuid(records, page, |record: &WebhookRecord| record.uuid))
}

/// Served by the index `webhook_name`.
pub(super) async fn count(connection: &Connection, tenant: TenantSeq) -> Result<u64, Failure> {
    let sql = "SELECT count(*) FROM webhook WHERE tenant = $1 AND deleted_at IS NULL";
    Ok(connection.query_one(sql, &[&tenant]).await?.try_get::<_, i64>(0)?.unsigned_abs())
}

/// The tenant is locked, so that the sum is that of the commit. Lengths are read without what is kept out of the row.
async fn refuse_settings_beyond_cap(
    commit: &Commit,
    tenant: TenantSeq,
    uuid: Uuid,
    columns: &Columns,
) -> Result<(), Failure> {
    let row = commit
        .connection
        .query_one(
            "SELECT coalesce(sum(bytes) FILTER (WHERE uuid <> $2), 0)::bigint,
                 coalesce(sum(bytes) FILTER (WHERE uuid = $2), 0)::bigint
             FROM (
                 SELECT uuid, octet_length(name) + octet_length(description) + octet_length(topic_patterns)
                     + coalesce(octet_length(policy), 0) AS bytes
                 FROM webhook WHERE tenant = $1 AND deleted_at IS NULL
             ) AS settings",
            &[&tenant, &uuid],
        )
        .await?;
    let bytes = |column: usize| row.try_get::<_, i64>(column).map(i64::unsigned_abs);
    Ok(columns.refuse_beyond_cap(bytes(0)?, bytes(1)?)?)
}

/// The deleted ones are looked up in the index `pending_due`.
pub(super) async fn all(connection: &Connection, sealer: &Sealer) -> Result<AllWebhooks, Failure> {
    let deleted = connection
        .query(
            "SELECT seq FROM webhook
             WHERE deleted_at IS NOT NULL AND EXISTS (
                 SELECT 1 FROM pending WHERE NOT in_memory AND webhook_seq = webhook.seq
             )
             ORDER BY seq",
            &[],
        )
        .await?;
    let deleted = deleted.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    Ok(AllWebhooks { live: webhooks(connection, sealer, None).await?, deleted })
}

/// Also checked by the index `webhook_name`. The tenant is locked.
async fn refuse_taken_name(
    commit: &Commit,
    tenant: TenantSeq,
    name: &str,
    except: Option<Uuid>,
) -> Result<(), Failure> {
    let row = commit
        .connection
        .query_opt("SELECT uuid FROM webhook WHERE tenant = $1 AND name = $2 AND deleted_at IS NULL", &[&tenant, &name])
        .await?;
    let owner: Option<Uuid> = row.map(|row| row.try_get(0)).transpose()?;
    if owner.is_some() && owner != except { Err(StoreError::NameTaken.into()) } else { Ok(()) }
}

pub(super) fn record(row: &Row, sealer: &Sealer) -> Result<WebhookRecord, Failure> {
    let (uuid, tenant) = (row.try_get(1)?, row.try_get(2)?);
    let columns = Columns {
        name: row.try_get(4)?,
        description: row.try_get(5)?,
        url: row.try_get(6)?,
        decnet_secret: row.try_get(7)?,
        standard_key: row.try_get(8)?,
        signatures: row.try_get(9)?,
        timeout_us: row.try_get(10)?,
        topic_patterns: row.try_get(11)?,
        enabled: row.try_get(12)?,
        max_in_flight: number(row, 13)?,
        retry_schedule: row.try_get(14)?,
        policy: row.try_get(26)?,
    };
    let (off_reason, off_at): (Option<String>, Option<UnixMicros>) = (row.try_get(24)?, row.try_get(25)?);
    Ok(WebhookRecord {
        seq: row.try_get(0)?,
        uuid,
        tenant,
        version: row.try_get(3)?,
        settings: columns.settings(sealer, tenant, uuid)?,
        health: WebhookHealth {
            consecutive_failures: u32::try_from(row.try_get::<_, i64>(17)?).unwrap_or(u32::MAX),
            last_success_at: row.try_get(18)?,
            last_failure_at: row.try_get(19)?,
            last_error: row.try_get(20)?,
            auto_disabled_at: row.try_get(21)?,
            probe_at: row.try_get(22)?,
            cool_down: Duration::from_micros(row.try_get::<_, i64>(23)?.unsigned_abs()),
        },
        switched_off: off_reason.zip(off_at).map(|(reason, at)| SwitchedOff { reason, at }),
        created_at: row.try_get(15)?,
        updated_at: row.try_get(16)?,
    })
}
