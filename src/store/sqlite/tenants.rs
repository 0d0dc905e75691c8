//! Tenants: records, and quotas that a transaction can check.

use rusqlite::{Connection, OptionalExtension, Row};
use uuid::Uuid;

use super::commit::{Commit, Failure};
use super::counters::stats;
use crate::clock::UnixMicros;
use crate::store::paging::{page_by_uuid, start_by_uuid};
use crate::store::{Deed, DeletedTenant, Page, PageOf, Quotas, StoreError, TenantPatch, TenantRecord};
use crate::webhook::{DEFAULT_TENANT, TenantSeq, WebhookSeq};

/// The columns that [`record`] reads, in its order.
macro_rules! select_tenants {
    ($rest:literal) => {
        concat!(
            "SELECT seq, uuid, name, description, max_webhooks, max_events_per_s, max_pending, max_tokens,
                 max_stored_bytes, created_at
             FROM tenant WHERE deleted_at IS NULL ",
            $rest
        )
    };
}

pub(super) fn create(commit: &mut Commit<'_>, patch: &TenantPatch, now: UnixMicros) -> Result<TenantRecord, Failure> {
    let mut tenant = TenantRecord {
        seq: TenantSeq(0),
        uuid: Uuid::new_v4(),
        name: String::new(),
        description: String::new(),
        quotas: Quotas::default(),
        created_at: now,
    };
    patch.clone().apply(&mut tenant);
    refuse_taken_name(commit, &tenant)?;
    let [max_webhooks, max_events_per_s, max_pending, max_tokens, max_stored_bytes] = tenant.quotas.columns();
    tenant.seq = TenantSeq(
        commit
            .prepare(
                "INSERT INTO tenant
                     (uuid, name, description, max_webhooks, max_events_per_s, max_pending, max_tokens,
                      max_stored_bytes, created_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?
            .insert((
                tenant.uuid,
                &tenant.name,
                &tenant.description,
                max_webhooks,
                max_events_per_s,
                max_pending,
                max_tokens,
                max_stored_bytes,
                now,
            ))?,
    );
    record_deed(commit, "tenant.create", &tenant, now)?;
    Ok(tenant)
}

pub(super) fn update(
    commit: &mut Commit<'_>,
    seq: TenantSeq,
    patch: &TenantPatch,
    now: UnixMicros,
) -> Result<TenantRecord, Failure> {
    let found = find(commit.connection, seq)?.ok_or(StoreError::NotFound)?;
    let mut tenant = found.clone();
    patch.clone().apply(&mut tenant);
    if seq == DEFAULT_TENANT && tenant.name != found.name {
        return Err(StoreError::Conflict(format!("the tenant `{}` keeps its name", found.name)).into());
    }
    refuse_taken_name(commit, &tenant)?;
    let [max_webhooks, max_events_per_s, max_pending, max_tokens, max_stored_bytes] = tenant.quotas.columns();
    commit
        .prepare(
            "UPDATE tenant SET name = ?2, description = ?3, max_webhooks = ?4, max_events_per_s = ?5, max_pending = ?6,
                 max_tokens = ?7, max_stored_bytes = ?8
             WHERE seq = ?1",
        )?
        .execute((
            seq,
            &tenant.name,
            &tenant.description,
            max_webhooks,
            max_events_per_s,
            max_pending,
            max_tokens,
            max_stored_bytes,
        ))?;
    record_deed(commit, "tenant.update", &tenant, now)?;
    Ok(tenant)
}

pub(super) fn delete(
    commit: &mut Commit<'_>,
    seq: TenantSeq,
    force: bool,
    now: UnixMicros,
) -> Result<DeletedTenant, Failure> {
    let tenant = find(commit.connection, seq)?.ok_or(StoreError::NotFound)?;
    let name = &tenant.name;
    if seq == DEFAULT_TENANT {
        return Err(StoreError::Conflict(format!("the tenant `{name}` cannot be deleted")).into());
    }
    let webhooks: Vec<WebhookSeq> = commit
        .prepare("SELECT seq FROM webhook WHERE tenant = ?1 AND deleted_at IS NULL ORDER BY seq")?
        .query_map([seq], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let stored = stats(commit.connection, Some(seq))?.pending;
    let pending = i64::try_from(stored).unwrap_or(i64::MAX).saturating_add(commit.counters(seq).pending());
    if !force && (!webhooks.is_empty() || pending > 0) {
        let count = webhooks.len();
        let reason = format!(
            "the tenant `{name}` has {count} webhooks and {pending} pending deliveries, which only a forced deletion takes with it"
        );
        return Err(StoreError::Conflict(reason).into());
    }
    for sql in [
        "UPDATE webhook SET deleted_at = ?2 WHERE tenant = ?1 AND deleted_at IS NULL",
        "UPDATE token SET revoked_at = ?2 WHERE tenant = ?1 AND revoked_at IS NULL",
        "UPDATE tenant SET deleted_at = ?2 WHERE seq = ?1",
    ] {
        commit.prepare(sql)?.execute((seq, now))?;
    }
    super::replay::end_with_tenant(commit, seq, now)?;
    record_deed(commit, "tenant.delete", &tenant, now)?;
    Ok(DeletedTenant { tenant, webhooks })
}

fn record_deed(
    commit: &Commit<'_>,
    action: &'static str,
    tenant: &TenantRecord,
    at: UnixMicros,
) -> rusqlite::Result<()> {
    let (target, target_name) = (Some(tenant.uuid.to_string()), Some(tenant.name.clone()));
    commit.record(&Deed { at, tenant: tenant.seq, action, target, target_name })
}

pub(super) fn find(connection: &Connection, seq: TenantSeq) -> rusqlite::Result<Option<TenantRecord>> {
    connection.prepare_cached(select_tenants!("AND seq = ?1"))?.query_row([seq], record).optional()
}

pub(super) fn list(connection: &Connection) -> Result<Vec<TenantRecord>, Failure> {
    let mut statement = connection.prepare_cached(select_tenants!("ORDER BY seq"))?;
    Ok(statement.query_map((), record)?.collect::<Result<_, _>>()?)
}

pub(super) fn page(connection: &Connection, page: &Page) -> Result<PageOf<TenantRecord>, Failure> {
    let (cursor, limit) = start_by_uuid(page)?;
    let after: TenantSeq = match cursor {
        None => TenantSeq(0),
        Some(uuid) => connection
            .prepare_cached("SELECT seq FROM tenant WHERE uuid = ?1")?
            .query_row([uuid], |row| row.get(0))
            .optional()?
            .ok_or(StoreError::Cursor)?,
    };
    let mut statement = connection.prepare_cached(select_tenants!("AND seq > ?1 ORDER BY seq LIMIT ?2"))?;
    let tenants = statement.query_map((after, limit), record)?.collect::<Result<_, _>>()?;
    Ok(page_by_uuid(tenants, page, |tenant| tenant.uuid))
}

fn record(row: &Row<'_>) -> rusqlite::Result<TenantRecord> {
    Ok(TenantRecord {
        seq: row.get(0)?,
        uuid: row.get(1)?,
        name: row.get(2)?,
        description: row.get(3)?,
        quotas: Quotas {
            max_webhooks: row.get(4)?,
            max_events_per_s: row.get(5)?,
            max_pending: row.get(6)?,
            max_tokens: row.get(7)?,
            max_stored_bytes: row.get::<_, Option<i64>>(8)?.and_then(|max| u64::try_from(max).ok()),
        },
        created_at: row.get(9)?,
    })
}

/// Also checked by the index `tenant_name`; asked first because the transaction must go on.
fn refuse_taken_name(commit: &Commit<'_>, tenant: &TenantRecord) -> Result<(), Failure> {
    let taken = commit
        .prepare("SELECT 1 FROM tenant WHERE name = ?1 AND seq != ?2 AND deleted_at IS NULL")?
        .exists((&tenant.name, tenant.seq))?;
    if taken || tenant.name.is_empty() { Err(StoreError::NameTaken.into()) } else { Ok(()) }
}

/// Refuses one webhook more than the tenant may have, and any for a tenant that is not there.
pub(super) fn refuse_webhook_beyond_quota(commit: &Commit<'_>, tenant: TenantSeq) -> Result<(), Failure> {
    let tenant = find(commit.connection, tenant)?.ok_or(StoreError::NotFound)?;
    let Some(max) = tenant.quotas.max_webhooks else { return Ok(()) };
    let count: u32 = commit
        .prepare("SELECT count(*) FROM webhook WHERE tenant = ?1 AND deleted_at IS NULL")?
        .query_row([tenant.seq], |row| row.get(0))?;
    if count >= max { Err(StoreError::TooManyWebhooks { max }.into()) } else { Ok(()) }
}
