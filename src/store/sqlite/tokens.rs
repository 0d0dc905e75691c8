//! API tokens: kept as hashes.

use rusqlite::{Connection, OptionalExtension, Row};
use uuid::Uuid;

use super::commit::{Commit, Failure, corrupt};
use crate::clock::UnixMicros;
use crate::store::paging::{page_by_uuid, start_by_uuid};
use crate::store::{Deed, NewToken, Page, PageOf, Scope, StoreError, TokenRecord};
use crate::webhook::TenantSeq;

pub(super) fn create(commit: &mut Commit<'_>, token: &NewToken) -> Result<TokenRecord, Failure> {
    let tenant = super::tenants::find(commit.connection, token.tenant)?.ok_or(StoreError::NotFound)?;
    if let Some(max) = tenant.quotas.max_tokens
        && !token.scopes.contains(&Scope::Operator)
        && count(commit.connection, token.tenant, token.now)? >= max
    {
        return Err(StoreError::TooManyTokens { max }.into());
    }
    let known = commit.prepare("SELECT 1 FROM token WHERE hash = ?1")?.exists([&token.hash[..]])?;
    if known {
        return Err(StoreError::Conflict("there is such a token already".to_owned()).into());
    }
    let uuid = Uuid::new_v4();
    let scopes = token.scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(" ");
    commit
        .prepare(
            "INSERT INTO token (uuid, tenant, name, scopes, hash, created_at, expires_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute((uuid, token.tenant, &token.name, scopes, &token.hash[..], token.now, token.expires_at))?;
    commit.record(&Deed {
        at: token.now,
        tenant: token.tenant,
        action: "token.create",
        target: Some(uuid.to_string()),
        target_name: Some(token.name.clone()),
    })?;
    Ok(TokenRecord {
        uuid,
        tenant: token.tenant,
        name: token.name.clone(),
        scopes: token.scopes.clone(),
        created_at: token.now,
        expires_at: token.expires_at,
        last_used_at: None,
    })
}

/// How many are good at `now`. Served by the index `token_live`, of which it reads no others.
pub(super) fn count(connection: &Connection, tenant: TenantSeq, now: UnixMicros) -> rusqlite::Result<u32> {
    connection
        .prepare_cached(
            "SELECT (
                 SELECT count(*) FROM token WHERE tenant = ?1 AND revoked_at IS NULL AND expires_at IS NULL
             ) + (
                 SELECT count(*) FROM token WHERE tenant = ?1 AND revoked_at IS NULL AND expires_at > ?2
             )",
        )?
        .query_row((tenant, now), |row| row.get(0))
}

/// Whether any ended before `before`.
pub(super) fn any_ended(connection: &Connection, before: UnixMicros) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM token WHERE revoked_at < ?1 OR expires_at < ?1")?.exists([before])
}

/// Deletes at most `limit` that ended before `before`.
pub(super) fn purge(commit: &Commit<'_>, before: UnixMicros, limit: u32) -> rusqlite::Result<()> {
    commit
        .prepare(
            "DELETE FROM token WHERE seq IN (
                 SELECT seq FROM token WHERE revoked_at < ?1 OR expires_at < ?1 ORDER BY seq LIMIT ?2
             )",
        )?
        .execute((before, limit))
        .map(drop)
}

/// Oldest first, without the revoked ones.
pub(super) fn list(connection: &Connection, tenant: TenantSeq) -> Result<Vec<TokenRecord>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT uuid, tenant, name, scopes, created_at, expires_at, last_used_at FROM token
         WHERE tenant = ?1 AND revoked_at IS NULL
         ORDER BY seq",
    )?;
    let mut rows = statement.query([tenant])?;
    let mut tokens = Vec::new();
    while let Some(row) = rows.next()? {
        tokens.push(record(row)?);
    }
    Ok(tokens)
}

/// Oldest first.
pub(super) fn page(connection: &Connection, tenant: TenantSeq, page: &Page) -> Result<PageOf<TokenRecord>, Failure> {
    let (cursor, limit) = start_by_uuid(page)?;
    let after: i64 = match cursor {
        None => 0,
        Some(uuid) => connection
            .prepare_cached("SELECT seq FROM token WHERE uuid = ?1 AND tenant = ?2")?
            .query_row((uuid, tenant), |row| row.get(0))
            .optional()?
            .ok_or(StoreError::Cursor)?,
    };
    let mut statement = connection.prepare_cached(
        "SELECT uuid, tenant, name, scopes, created_at, expires_at, last_used_at FROM token
         WHERE tenant = ?1 AND revoked_at IS NULL AND seq > ?2
         ORDER BY seq LIMIT ?3",
    )?;
    let mut rows = statement.query((tenant, after, limit))?;
    let mut tokens = Vec::new();
    while let Some(row) = rows.next()? {
        tokens.push(record(row)?);
    }
    Ok(page_by_uuid(tokens, page, |token| token.uuid))
}

pub(super) fn revoke(commit: &mut Commit<'_>, tenant: TenantSeq, uuid: Uuid, now: UnixMicros) -> Result<bool, Failure> {
    let revoked: Option<String> = commit
        .prepare(
            "UPDATE token SET revoked_at = ?3 WHERE uuid = ?1 AND tenant = ?2 AND revoked_at IS NULL RETURNING name",
        )?
        .query_row((uuid, tenant, now), |row| row.get(0))
        .optional()?;
    let Some(name) = revoked else { return Ok(false) };
    commit.record(&Deed {
        at: now,
        tenant,
        action: "token.revoke",
        target: Some(uuid.to_string()),
        target_name: Some(name),
    })?;
    Ok(true)
}

pub(super) fn touch(commit: &Commit<'_>, uuid: Uuid, now: UnixMicros) -> Result<(), Failure> {
    commit.prepare("UPDATE token SET last_used_at = ?2 WHERE uuid = ?1")?.execute((uuid, now))?;
    Ok(())
}

pub(super) fn by_hash(connection: &Connection, hash: &[u8; 32]) -> Result<Option<TokenRecord>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT uuid, tenant, name, scopes, created_at, expires_at, last_used_at FROM token
         WHERE hash = ?1 AND revoked_at IS NULL",
    )?;
    let mut rows = statement.query([&hash[..]])?;
    rows.next()?.map(record).transpose()
}

pub(super) fn by_uuid(connection: &Connection, tenant: TenantSeq, uuid: Uuid) -> Result<Option<TokenRecord>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT uuid, tenant, name, scopes, created_at, expires_at, last_used_at FROM token
         WHERE uuid = ?1 AND tenant = ?2 AND revoked_at IS NULL",
    )?;
    let mut rows = statement.query((uuid, tenant))?;
    rows.next()?.map(record).transpose()
}

fn record(row: &Row<'_>) -> Result<TokenRecord, Failure> {
    let scopes = row.get_ref(3)?.as_str().map_err(corrupt)?;
    Ok(TokenRecord {
        uuid: row.get(0)?,
        tenant: row.get(1)?,
        name: row.get(2)?,
        scopes: scopes.split_whitespace().map(scope).collect::<Result<_, _>>()?,
        created_at: row.get(4)?,
        expires_at: row.get(5)?,
        last_used_at: row.get(6)?,
    })
}

fn scope(name: &str) -> Result<Scope, Failure> {
    [Scope::Operator, Scope::Admin, Scope::Publish, Scope::Read]
        .into_iter()
        .find(|scope| scope.as_str() == name)
        .ok_or_else(|| corrupt(format!("unknown scope {name:?}")))
}
