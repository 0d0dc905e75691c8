//! API tokens: kept as hashes.

use uuid::Uuid;

use super::audit::record;
use super::{codes, tenants};
use crate::clock::UnixMicros;
use crate::store::failure::Failure;
use crate::store::paging::{page_by_uuid, start_by_uuid};
use crate::store::sql::{Fields, Row, Select, Sql};
use crate::store::{Deed, NewToken, Page, PageOf, Scope, StoreError, TokenRecord};
use crate::webhook::TenantSeq;

/// The columns that [`token`] reads, in its order.
macro_rules! select_tokens {
    ($rest:literal) => {
        concat!(
            "SELECT uuid, tenant, name, scopes, created_at, expires_at, last_used_at
             FROM token WHERE revoked_at IS NULL ",
            $rest
        )
    };
}

pub(super) fn create(sql: &mut dyn Sql, token: &NewToken) -> Result<TokenRecord, Failure> {
    let NewToken { tenant, name, scopes, hash, expires_at, now } = token;
    let owner = tenants::lock(sql, *tenant)?;
    if let Some(max) = owner.quotas.max_tokens
        && !scopes.contains(&Scope::Operator)
        && count(sql, *tenant, *now)? >= u64::from(max)
    {
        return Err(StoreError::TooManyTokens { max }.into());
    }
    let uuid = Uuid::new_v4();
    let names = scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(" ");
    let inserted = sql.execute(
        "INSERT INTO token (uuid, tenant, name, scopes, hash, created_at, expires_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (hash) DO NOTHING",
        &[
            uuid.into(),
            (*tenant).into(),
            name.into(),
            names.into(),
            hash[..].into(),
            (*now).into(),
            (*expires_at).into(),
        ],
    )?;
    if inserted == 0 {
        return Err(StoreError::Conflict("there is such a token already".to_owned()).into());
    }
    record(sql, &Deed::of("token.create", *tenant, uuid, *now).named(name))?;
    Ok(TokenRecord {
        uuid,
        tenant: *tenant,
        name: name.clone(),
        scopes: scopes.clone(),
        created_at: *now,
        expires_at: *expires_at,
        last_used_at: None,
    })
}

/// The tokens that are good at `now`. Served by the index `token_live`, of which it reads no others.
pub(super) fn count<S: Select + ?Sized>(sql: &mut S, tenant: TenantSeq, now: UnixMicros) -> Result<u64, Failure> {
    sql.count(
        "SELECT (
             SELECT count(*) FROM token WHERE tenant = ?1 AND revoked_at IS NULL AND expires_at IS NULL
         ) + (
             SELECT count(*) FROM token WHERE tenant = ?1 AND revoked_at IS NULL AND expires_at > ?2
         )",
        &[tenant.into(), now.into()],
    )
}

/// Oldest first, without the revoked ones.
pub(super) fn list(sql: &mut dyn Select, tenant: TenantSeq) -> Result<Vec<TokenRecord>, Failure> {
    let rows = sql.query(select_tokens!("AND tenant = ?1 ORDER BY seq"), &[tenant.into()])?;
    rows.into_iter().map(token).collect()
}

/// Oldest first.
pub(super) fn page(sql: &mut dyn Select, tenant: TenantSeq, page: &Page) -> Result<PageOf<TokenRecord>, Failure> {
    let one = "SELECT seq FROM token WHERE uuid = ?1 AND tenant = ?2";
    let (after, limit) = start_by_uuid(sql, page, one, Some(tenant))?;
    let rows = sql.query(
        select_tokens!("AND tenant = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3"),
        &[tenant.into(), after.into(), limit.into()],
    )?;
    let tokens = rows.into_iter().map(token).collect::<Result<_, _>>()?;
    Ok(page_by_uuid(tokens, page, |token: &TokenRecord| token.uuid))
}

pub(super) fn revoke(sql: &mut dyn Sql, tenant: TenantSeq, uuid: Uuid, now: UnixMicros) -> Result<bool, Failure> {
    let revoked = sql.query_row(
        "UPDATE token SET revoked_at = ?3 WHERE uuid = ?1 AND tenant = ?2 AND revoked_at IS NULL RETURNING name",
        &[uuid.into(), tenant.into(), now.into()],
    )?;
    let Some(row) = revoked else { return Ok(false) };
    let name: String = Fields::of(row).next()?;
    record(sql, &Deed::of("token.revoke", tenant, uuid, now).named(&name))?;
    Ok(true)
}

pub(super) fn touch(sql: &mut dyn Sql, uuid: Uuid, now: UnixMicros) -> Result<(), Failure> {
    sql.execute("UPDATE token SET last_used_at = ?2 WHERE uuid = ?1", &[uuid.into(), now.into()]).map(drop)
}

pub(super) fn by_hash(sql: &mut dyn Select, hash: &[u8; 32]) -> Result<Option<TokenRecord>, Failure> {
    sql.query_row(select_tokens!("AND hash = ?1"), &[hash[..].into()])?.map(token).transpose()
}

pub(super) fn by_uuid(sql: &mut dyn Select, tenant: TenantSeq, uuid: Uuid) -> Result<Option<TokenRecord>, Failure> {
    let row = sql.query_row(select_tokens!("AND uuid = ?1 AND tenant = ?2"), &[uuid.into(), tenant.into()])?;
    row.map(token).transpose()
}

fn token(row: Row) -> Result<TokenRecord, Failure> {
    let mut fields = Fields::of(row);
    Ok(TokenRecord {
        uuid: fields.next()?,
        tenant: fields.next()?,
        name: fields.next()?,
        scopes: codes::scopes(&fields.next::<String>()?)?,
        created_at: fields.next()?,
        expires_at: fields.next()?,
        last_used_at: fields.next()?,
    })
}
