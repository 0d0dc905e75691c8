//! Inlets: what a statement looks into has columns, and all else is one sealed text.

use std::fmt::Display;

use uuid::Uuid;
use zeroize::Zeroizing;

use super::audit::record;
use super::tenants;
use crate::clock::UnixMicros;
use crate::inlet::{InletPatch, InletRecord, InletSettings};
use crate::store::failure::{Failure, corrupt};
use crate::store::paging::{page_by_uuid, start_by_uuid};
use crate::store::seal::{Belonging, Sealer};
use crate::store::sql::{Fields, Row, Select, Sql, found};
use crate::store::{Deed, MAX_TENANT_INLETS, Page, PageOf, StoreError};
use crate::webhook::TenantSeq;

/// What the sealed column is bound to.
pub(in crate::store) const SETTINGS_FIELD: &str = "inlet.settings";

/// The columns that [`inlet`] reads, in its order.
macro_rules! select_inlets {
    ($rest:literal) => {
        concat!("SELECT uuid, tenant, version, settings, created_at, updated_at FROM inlet ", $rest)
    };
}

/// One inlet of a tenant: its UUID, then the tenant.
const SELECT_ONE: &str = select_inlets!("WHERE uuid = ?1 AND tenant = ?2");

pub(super) fn create(
    sql: &mut dyn Sql,
    tenant: TenantSeq,
    settings: &InletSettings,
    now: UnixMicros,
) -> Result<InletRecord, Failure> {
    tenants::lock(sql, tenant)?;
    refuse_taken_name(sql, tenant, &settings.name, None)?;
    let max = MAX_TENANT_INLETS;
    if count(sql, tenant)? >= u64::from(max) {
        return Err(StoreError::TooManyInlets { max }.into());
    }
    let uuid = Uuid::new_v4();
    let sealed = seal(sql.sealer(), settings, tenant, uuid)?;
    sql.execute(
        "INSERT INTO inlet (uuid, tenant, version, name, settings, created_at, updated_at)
         VALUES (?1, ?2, 1, ?3, ?4, ?5, ?5)",
        &[uuid.into(), tenant.into(), (&settings.name).into(), sealed.into(), now.into()],
    )?;
    record(sql, &Deed::of("inlet.create", tenant, uuid, now).named(&settings.name))?;
    Ok(InletRecord { uuid, tenant, version: 1, settings: settings.clone(), created_at: now, updated_at: now })
}

pub(super) fn update(
    sql: &mut dyn Sql,
    tenant: TenantSeq,
    uuid: Uuid,
    version: i64,
    settings: &InletSettings,
    now: UnixMicros,
) -> Result<InletRecord, Failure> {
    // Names are given by one transaction of a tenant at a time.
    tenants::lock(sql, tenant)?;
    let before = lock(sql, tenant, uuid)?;
    if before.version != version {
        return Err(StoreError::Stale.into());
    }
    refuse_taken_name(sql, tenant, &settings.name, Some(uuid))?;
    let sealed = seal(sql.sealer(), settings, tenant, uuid)?;
    sql.execute(
        "UPDATE inlet SET version = version + 1, name = ?2, settings = ?3, updated_at = ?4 WHERE uuid = ?1",
        &[uuid.into(), (&settings.name).into(), sealed.into(), now.into()],
    )?;
    record(sql, &Deed::of("inlet.update", tenant, uuid, now).named(&settings.name))?;
    Ok(InletRecord { version: version + 1, settings: settings.clone(), updated_at: now, ..before })
}

pub(super) fn delete(
    sql: &mut dyn Sql,
    tenant: TenantSeq,
    uuid: Uuid,
    now: UnixMicros,
) -> Result<InletRecord, Failure> {
    let deleted = lock(sql, tenant, uuid)?;
    sql.execute("DELETE FROM inlet WHERE uuid = ?1", &[uuid.into()])?;
    record(sql, &Deed::of("inlet.delete", tenant, uuid, now).named(&deleted.settings.name))?;
    Ok(deleted)
}

/// The inlet, which nobody else changes until the transaction ends.
fn lock(sql: &mut dyn Sql, tenant: TenantSeq, uuid: Uuid) -> Result<InletRecord, Failure> {
    let row = found(sql.lock("inlet", SELECT_ONE, &[uuid.into(), tenant.into()])?)?;
    inlet(row, sql.sealer())
}

/// By its URL, whatever its tenant.
pub(super) fn at(sql: &mut dyn Select, uuid: Uuid) -> Result<Option<InletRecord>, Failure> {
    let row = sql.query_row(select_inlets!("WHERE uuid = ?1"), &[uuid.into()])?;
    row.map(|row| inlet(row, sql.sealer())).transpose()
}

pub(super) fn by_uuid(sql: &mut dyn Select, tenant: TenantSeq, uuid: Uuid) -> Result<Option<InletRecord>, Failure> {
    let row = sql.query_row(SELECT_ONE, &[uuid.into(), tenant.into()])?;
    row.map(|row| inlet(row, sql.sealer())).transpose()
}

/// Oldest first.
pub(super) fn page(sql: &mut dyn Select, tenant: TenantSeq, page: &Page) -> Result<PageOf<InletRecord>, Failure> {
    let one = "SELECT seq FROM inlet WHERE uuid = ?1 AND tenant = ?2";
    let (after, limit) = start_by_uuid(sql, page, one, Some(tenant))?;
    let rows = sql.query(
        select_inlets!("WHERE tenant = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3"),
        &[tenant.into(), after.into(), limit.into()],
    )?;
    let inlets = rows.into_iter().map(|row| inlet(row, sql.sealer())).collect::<Result<_, _>>()?;
    Ok(page_by_uuid(inlets, page, |inlet: &InletRecord| inlet.uuid))
}

/// Served by the index `inlet_name`.
fn count(sql: &mut dyn Sql, tenant: TenantSeq) -> Result<u64, Failure> {
    sql.count("SELECT count(*) FROM inlet WHERE tenant = ?1", &[tenant.into()])
}

/// Also checked by the index `inlet_name`; asked first because the transaction must go on. The tenant is locked.
fn refuse_taken_name(sql: &mut dyn Sql, tenant: TenantSeq, name: &str, except: Option<Uuid>) -> Result<(), Failure> {
    let owner =
        sql.query_row("SELECT uuid FROM inlet WHERE tenant = ?1 AND name = ?2", &[tenant.into(), name.into()])?;
    let owner: Option<Uuid> = owner.map(|row| Fields::of(row).next()).transpose()?;
    if owner.is_some() && owner != except { Err(StoreError::NameTaken.into()) } else { Ok(()) }
}

fn seal(sealer: &Sealer, settings: &InletSettings, tenant: TenantSeq, inlet: Uuid) -> Result<Vec<u8>, StoreError> {
    let unavailable = |error: &dyn Display| StoreError::Unavailable(error.to_string());
    let text = Zeroizing::new(serde_json::to_vec(&settings.stored()).map_err(|error| unavailable(&error))?);
    let belonging = Belonging { tenant, webhook: inlet, field: SETTINGS_FIELD };
    sealer.seal(&text, &belonging).map_err(|error| unavailable(&error))
}

fn inlet(row: Row, sealer: &Sealer) -> Result<InletRecord, Failure> {
    let mut fields = Fields::of(row);
    let (uuid, tenant, version) = (fields.next()?, fields.next()?, fields.next()?);
    let stored: Vec<u8> = fields.next()?;
    let belonging = Belonging { tenant, webhook: uuid, field: SETTINGS_FIELD };
    let text = sealer.open(&stored, &belonging).map_err(corrupt)?;
    let patch: InletPatch = serde_json::from_slice(&text).map_err(corrupt)?;
    let settings = InletSettings::create(&patch).map_err(|faults| corrupt(format!("{faults:?}")))?;
    Ok(InletRecord { uuid, tenant, version, settings, created_at: fields.next()?, updated_at: fields.next()? })
}
