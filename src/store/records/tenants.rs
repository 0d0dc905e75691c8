//! Tenants: records, and quotas that a transaction can check.

use uuid::Uuid;

use super::audit::record;
use super::replays;
use crate::clock::UnixMicros;
use crate::store::failure::Failure;
use crate::store::paging::{page_by_uuid, start_by_uuid};
use crate::store::sql::{Fields, Row, Select, Sql, Value, found};
use crate::store::{Deed, DeletedTenant, Page, PageOf, Quotas, StoreError, TenantKey, TenantPatch, TenantRecord};
use crate::webhook::{DEFAULT_TENANT, TenantSeq, WebhookSeq};

/// The columns that [`tenant`] reads, in its order.
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
pub(in crate::store) use select_tenants;

fn blank(now: UnixMicros) -> TenantRecord {
    TenantRecord {
        seq: TenantSeq(0),
        uuid: Uuid::new_v4(),
        name: String::new(),
        description: String::new(),
        quotas: Quotas::default(),
        created_at: now,
    }
}

/// Refuses a new tenant that cannot be made. Names are locked.
pub(super) fn refuse_taken(sql: &mut dyn Sql, patch: &TenantPatch) -> Result<(), Failure> {
    let mut tenant = blank(UnixMicros(0));
    patch.clone().apply(&mut tenant);
    refuse_taken_name(sql, &tenant)
}

pub(super) fn create(sql: &mut dyn Sql, patch: &TenantPatch, now: UnixMicros) -> Result<TenantRecord, Failure> {
    let mut tenant = blank(now);
    patch.clone().apply(&mut tenant);
    sql.lock_tenant_names()?;
    refuse_taken_name(sql, &tenant)?;
    let row = sql.query_row(
        "INSERT INTO tenant
             (name, description, max_webhooks, max_events_per_s, max_pending, max_tokens, max_stored_bytes, uuid,
              created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
         RETURNING seq",
        &given(&tenant, [tenant.uuid.into(), now.into()]),
    )?;
    tenant.seq = Fields::of(row.unwrap_or_default()).next()?;
    record(sql, &Deed::of("tenant.create", tenant.seq, tenant.uuid, now).named(&tenant.name))?;
    Ok(tenant)
}

pub(super) fn update(
    sql: &mut dyn Sql,
    key: &TenantKey,
    patch: &TenantPatch,
    now: UnixMicros,
) -> Result<TenantRecord, Failure> {
    sql.lock_tenant_names()?;
    let before = lock_found(sql, key)?;
    let seq = before.seq;
    let mut tenant = before.clone();
    patch.clone().apply(&mut tenant);
    if seq == DEFAULT_TENANT && tenant.name != before.name {
        return Err(StoreError::Conflict(format!("the tenant `{}` keeps its name", before.name)).into());
    }
    refuse_taken_name(sql, &tenant)?;
    sql.execute(
        "UPDATE tenant SET name = ?1, description = ?2, max_webhooks = ?3, max_events_per_s = ?4, max_pending = ?5,
             max_tokens = ?6, max_stored_bytes = ?7
         WHERE seq = ?8",
        &given(&tenant, [seq.into()]),
    )?;
    record(sql, &Deed::of("tenant.update", seq, tenant.uuid, now).named(&tenant.name))?;
    Ok(tenant)
}

/// The values of the columns that operators fill, in their order, then others.
fn given<const N: usize>(tenant: &TenantRecord, more: [Value; N]) -> Vec<Value> {
    let texts = [(&tenant.name).into(), (&tenant.description).into()];
    texts.into_iter().chain(tenant.quotas.columns().map(Value::from)).chain(more).collect()
}

pub(super) fn delete(
    sql: &mut dyn Sql,
    key: &TenantKey,
    force: bool,
    now: UnixMicros,
) -> Result<DeletedTenant, Failure> {
    // From here on it gets neither webhooks nor tokens.
    let tenant = lock_found(sql, key)?;
    let seq = tenant.seq;
    if seq == DEFAULT_TENANT {
        return Err(StoreError::Conflict(format!("the tenant `{}` cannot be deleted", tenant.name)).into());
    }
    let rows =
        sql.query("SELECT seq FROM webhook WHERE tenant = ?1 AND deleted_at IS NULL ORDER BY seq", &[seq.into()])?;
    let webhooks: Vec<WebhookSeq> = rows.into_iter().map(|row| Fields::of(row).next()).collect::<Result<_, _>>()?;
    if !force {
        refuse_with_work(&tenant, webhooks.len(), sql.pending(seq)?)?;
    }
    for statement in [
        "UPDATE webhook SET deleted_at = ?2 WHERE tenant = ?1 AND deleted_at IS NULL",
        "UPDATE token SET revoked_at = ?2 WHERE tenant = ?1 AND revoked_at IS NULL",
        "UPDATE tenant SET deleted_at = ?2 WHERE seq = ?1",
    ] {
        sql.execute(statement, &[seq.into(), now.into()])?;
    }
    sql.execute("DELETE FROM inlet WHERE tenant = ?1", &[seq.into()])?;
    replays::end_with_tenant(sql, seq, now)?;
    record(sql, &Deed::of("tenant.delete", seq, tenant.uuid, now).named(&tenant.name))?;
    Ok(DeletedTenant { tenant, webhooks })
}

fn refuse_with_work(tenant: &TenantRecord, webhooks: usize, pending: u64) -> Result<(), StoreError> {
    if webhooks == 0 && pending == 0 {
        return Ok(());
    }
    Err(StoreError::Conflict(format!(
        "the tenant `{}` has {webhooks} webhooks and {pending} pending deliveries, which only a forced deletion takes \
         with it",
        tenant.name
    )))
}

/// The tenant, which stays as it is until the transaction ends: what depends on it is decided by one at a time.
pub(super) fn lock(sql: &mut dyn Sql, seq: TenantSeq) -> Result<TenantRecord, Failure> {
    tenant(found(sql.lock("tenant", select_tenants!("AND seq = ?1"), &[seq.into()])?)?)
}

/// The tenant.
pub(super) fn by_seq(sql: &mut dyn Select, seq: TenantSeq) -> Result<TenantRecord, Failure> {
    tenant(found(sql.query(select_tenants!("AND seq = ?1"), &[seq.into()])?)?)
}

/// As [`lock`], if the tenant is still called what its caller has called it.
fn lock_found(sql: &mut dyn Sql, key: &TenantKey) -> Result<TenantRecord, Failure> {
    let tenant = lock(sql, key.seq)?;
    match &key.name {
        Some(name) if *name != tenant.name => Err(StoreError::NotFound.into()),
        _ => Ok(tenant),
    }
}

/// Oldest first.
pub(super) fn list(sql: &mut dyn Select) -> Result<Vec<TenantRecord>, Failure> {
    sql.query(select_tenants!("ORDER BY seq"), &[])?.into_iter().map(tenant).collect()
}

/// Oldest first.
pub(super) fn page(sql: &mut dyn Select, page: &Page) -> Result<PageOf<TenantRecord>, Failure> {
    let (after, limit) = start_by_uuid(sql, page, "SELECT seq FROM tenant WHERE uuid = ?1", None)?;
    let rows = sql.query(select_tenants!("AND seq > ?1 ORDER BY seq LIMIT ?2"), &[after.into(), limit.into()])?;
    let tenants = rows.into_iter().map(tenant).collect::<Result<_, _>>()?;
    Ok(page_by_uuid(tenants, page, |tenant: &TenantRecord| tenant.uuid))
}

pub(in crate::store) fn tenant(row: Row) -> Result<TenantRecord, Failure> {
    let mut fields = Fields::of(row);
    Ok(TenantRecord {
        seq: fields.next()?,
        uuid: fields.next()?,
        name: fields.next()?,
        description: fields.next()?,
        quotas: Quotas {
            max_webhooks: fields.next()?,
            max_events_per_s: fields.next()?,
            max_pending: fields.next()?,
            max_tokens: fields.next()?,
            max_stored_bytes: fields.next()?,
        },
        created_at: fields.next()?,
    })
}

/// Also checked by the index `tenant_name`; asked first because the transaction must go on. Names are locked.
fn refuse_taken_name(sql: &mut dyn Sql, tenant: &TenantRecord) -> Result<(), Failure> {
    let taken = sql.query_row(
        "SELECT 1 FROM tenant WHERE name = ?1 AND seq != ?2 AND deleted_at IS NULL",
        &[(&tenant.name).into(), tenant.seq.into()],
    )?;
    if taken.is_some() || tenant.name.is_empty() { Err(StoreError::NameTaken.into()) } else { Ok(()) }
}
