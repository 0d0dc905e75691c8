//! Tenants: records, and quotas that a transaction can check.

use tokio_postgres::Row;
use uuid::Uuid;

use super::error::Failure;
use super::pool::Connection;
use super::replay;
use super::transaction::Commit;
use super::values::text;
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
pub(super) use select_tenants;

/// One transaction at a time gives tenants names; reading them, and locking one, goes on beside it.
const LOCK_NAMES: &str = "LOCK TABLE tenant IN SHARE ROW EXCLUSIVE MODE";

pub(super) async fn create(commit: &Commit, patch: &TenantPatch, now: UnixMicros) -> Result<TenantRecord, Failure> {
    let mut tenant = TenantRecord {
        seq: TenantSeq(0),
        uuid: Uuid::new_v4(),
        name: String::new(),
        description: String::new(),
        quotas: Quotas::default(),
        created_at: now,
    };
    patch.clone().apply(&mut tenant);
    commit.connection.execute(LOCK_NAMES, &[]).await?;
    refuse_taken_name(commit, &tenant).await?;
    let [max_webhooks, max_events_per_s, max_pending, max_tokens, max_stored_bytes] = tenant.quotas.columns();
    let row = commit
        .connection
        .query_one(
            "INSERT INTO tenant
                 (uuid, name, description, max_webhooks, max_events_per_s, max_pending, max_tokens,
                  max_stored_bytes, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
             RETURNING seq",
            &[
                &tenant.uuid,
                &tenant.name,
                &text(&tenant.description),
                &max_webhooks,
                &max_events_per_s,
                &max_pending,
                &max_tokens,
                &max_stored_bytes,
                &tenant.created_at,
            ],
        )
        .await?;
    tenant.seq = row.try_get(0)?;
    record_deed(commit, "tenant.create", &tenant, now).await?;
    Ok(tenant)
}

pub(super) async fn update(
    commit: &Commit,
    seq: TenantSeq,
    patch: &TenantPatch,
    now: UnixMicros,
) -> Result<TenantRecord, Failure> {
    commit.connection.execute(LOCK_NAMES, &[]).await?;
    let found = lock(commit, seq).await?;
    let mut tenant = found.clone();
    patch.clone().apply(&mut tenant);
    if seq == DEFAULT_TENANT && tenant.name != found.name {
        return Err(StoreError::Conflict(format!("the tenant `{}` keeps its name", found.name)).into());
    }
    refuse_taken_name(commit, &tenant).await?;
    let [max_webhooks, max_events_per_s, max_pending, max_tokens, max_stored_bytes] = tenant.quotas.columns();
    commit
        .connection
        .execute(
            "UPDATE tenant SET name = $2, description = $3, max_webhooks = $4, max_events_per_s = $5, max_pending = $6,
                 max_tokens = $7, max_stored_bytes = $8
             WHERE seq = $1",
            &[
                &seq,
                &tenant.name,
                &text(&tenant.description),
                &max_webhooks,
                &max_events_per_s,
                &max_pending,
                &max_tokens,
                &max_stored_bytes,
            ],
        )
        .await?;
    record_deed(commit, "tenant.update", &tenant, now).await?;
    Ok(tenant)
}

pub(super) async fn delete(
    commit: &Commit,
    seq: TenantSeq,
    force: bool,
    now: UnixMicros,
) -> Result<DeletedTenant, Failure> {
    // From here on it gets neither webhooks nor tokens.
    let tenant = lock(commit, seq).await?;
    let name = &tenant.name;
    if seq == DEFAULT_TENANT {
        return Err(StoreError::Conflict(format!("the tenant `{name}` cannot be deleted")).into());
    }
    let webhooks = commit
        .connection
        .query("SELECT seq FROM webhook WHERE tenant = $1 AND deleted_at IS NULL ORDER BY seq", &[&seq])
        .await?;
    let webhooks: Vec<WebhookSeq> = webhooks.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    let pending = super::counters::stats(&commit.connection, Some(seq)).await?.pending;
    if !force && (!webhooks.is_empty() || pending > 0) {
        let count = webhooks.len();
        let reason = format!(
            "the tenant `{name}` has {count} webhooks and {pending} pending deliveries, which only a forced deletion takes with it"
        );
        return Err(StoreError::Conflict(reason).into());
    }
    for sql in [
        "UPDATE webhook SET deleted_at = $2 WHERE tenant = $1 AND deleted_at IS NULL",
        "UPDATE token SET revoked_at = $2 WHERE tenant = $1 AND revoked_at IS NULL",
        "UPDATE tenant SET deleted_at = $2 WHERE seq = $1",
    ] {
        commit.connection.execute(sql, &[&seq, &now]).await?;
    }
    replay::end_with_tenant(commit, seq, now).await?;
    record_deed(commit, "tenant.delete", &tenant, now).await?;
    Ok(DeletedTenant { tenant, webhooks })
}

async fn record_deed(
    commit: &Commit,
    action: &'static str,
    tenant: &TenantRecord,
    at: UnixMicros,
) -> Result<(), Failure> {
    let (target, target_name) = (Some(tenant.uuid.to_string()), Some(tenant.name.clone()));
    commit.record(&Deed { at, tenant: tenant.seq, action, target, target_name }).await
}

/// The tenant, which stays as it is until the transaction ends: what depends on it is decided by one at a time.
pub(super) async fn lock(commit: &Commit, seq: TenantSeq) -> Result<TenantRecord, Failure> {
    let row = commit.connection.query_opt(select_tenants!("AND seq = $1 FOR NO KEY UPDATE"), &[&seq]).await?;
    record(&row.ok_or(StoreError::NotFound)?)
}

pub(super) async fn list(connection: &Connection) -> Result<Vec<TenantRecord>, Failure> {
    connection.query(select_tenants!("ORDER BY seq"), &[]).await?.iter().map(record).collect()
}

/// Oldest first.
pub(super) async fn page(connection: &Connection, page: &Page) -> Result<PageOf<TenantRecord>, Failure> {
    let (cursor, limit) = start_by_uuid(page)?;
    let after = match cursor {
        None => TenantSeq(0),
        Some(uuid) => connection
            .query_opt("SELECT seq FROM tenant WHERE uuid = $1", &[&uuid])
            .await?
            .ok_or(StoreError::Cursor)?
            .try_get(0)?,
    };
    let sql = select_tenants!("AND seq > $1 ORDER BY seq LIMIT $2");
    let rows = connection.query(sql, &[&after, &limit]).await?;
    let tenants = rows.iter().map(record).collect::<Result<_, _>>()?;
    Ok(page_by_uuid(tenants, page, |tenant: &TenantRecord| tenant.uuid))
}

pub(super) fn record(row: &Row) -> Result<TenantRecord, Failure> {
    let quota =
        |column| Ok::<_, Failure>(row.try_get::<_, Option<i64>>(column)?.and_then(|max| u32::try_from(max).ok()));
    Ok(TenantRecord {
        seq: row.try_get(0)?,
        uuid: row.try_get(1)?,
        name: row.try_get(2)?,
        description: row.try_get(3)?,
        quotas: Quotas {
            max_webhooks: quota(4)?,
            max_events_per_s: quota(5)?,
            max_pending: quota(6)?,
            max_tokens: quota(7)?,
            max_stored_bytes: row.try_get::<_, Option<i64>>(8)?.and_then(|max| u64::try_from(max).ok()),
        },
        created_at: row.try_get(9)?,
    })
}

/// Also checked by the index `tenant_name`. [`LOCK_NAMES`] is held.
async fn refuse_taken_name(commit: &Commit, tenant: &TenantRecord) -> Result<(), Failure> {
    let taken = commit
        .connection
        .query_opt(
            "SELECT 1 FROM tenant WHERE name = $1 AND seq != $2 AND deleted_at IS NULL",
            &[&tenant.name, &tenant.seq],
        )
        .await?;
    if taken.is_some() || tenant.name.is_empty() { Err(StoreError::NameTaken.into()) } else { Ok(()) }
}

/// Refuses one webhook more than the tenant, which is locked, may have.
pub(super) async fn refuse_webhook_beyond_quota(commit: &Commit, tenant: &TenantRecord) -> Result<(), Failure> {
    let Some(max) = tenant.quotas.max_webhooks else { return Ok(()) };
    let row = commit
        .connection
        .query_one("SELECT count(*) FROM webhook WHERE tenant = $1 AND deleted_at IS NULL", &[&tenant.seq])
        .await?;
    let count: i64 = row.try_get(0)?;
    if count >= i64::from(max) { Err(StoreError::TooManyWebhooks { max }.into()) } else { Ok(()) }
}
