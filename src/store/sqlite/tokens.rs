//! API tokens: kept as hashes.

use rusqlite::{Connection, Row};
use uuid::Uuid;

use super::pending::corrupt;
use super::writer::{Commit, Failure};
use crate::clock::UnixMicros;
use crate::store::{NewToken, Scope, StoreError, TokenRecord};
use crate::webhook::TenantSeq;

pub(super) fn create(commit: &mut Commit<'_>, token: &NewToken) -> Result<TokenRecord, Failure> {
    let known = commit.prepare("SELECT 1 FROM token WHERE hash = ?1")?.exists([&token.hash[..]])?;
    if known {
        return Err(StoreError::Conflict("there is such a token already".to_owned()).into());
    }
    let uuid = Uuid::new_v4();
    let scopes = token.scopes.iter().map(|scope| scope_name(*scope)).collect::<Vec<_>>().join(" ");
    commit
        .prepare(
            "INSERT INTO token (uuid, tenant, name, scopes, hash, created_at, expires_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute((uuid, token.tenant, &token.name, scopes, &token.hash[..], token.now, token.expires_at))?;
    Ok(TokenRecord {
        uuid,
        tenant: token.tenant,
        name: token.name.clone(),
        scopes: token.scopes.clone(),
        created_at: token.now,
        expires_at: token.expires_at,
    })
}

/// Oldest first, without the revoked ones.
pub(super) fn list(connection: &Connection, tenant: TenantSeq) -> Result<Vec<TokenRecord>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT uuid, tenant, name, scopes, created_at, expires_at FROM token
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

pub(super) fn revoke(commit: &mut Commit<'_>, tenant: TenantSeq, uuid: Uuid, now: UnixMicros) -> Result<bool, Failure> {
    let revoked = commit
        .prepare("UPDATE token SET revoked_at = ?3 WHERE uuid = ?1 AND tenant = ?2 AND revoked_at IS NULL")?
        .execute((uuid, tenant, now))?;
    Ok(revoked > 0)
}

pub(super) fn by_hash(connection: &Connection, hash: &[u8; 32]) -> Result<Option<TokenRecord>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT uuid, tenant, name, scopes, created_at, expires_at FROM token
         WHERE hash = ?1 AND revoked_at IS NULL",
    )?;
    let mut rows = statement.query([&hash[..]])?;
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
    })
}

fn scope_name(scope: Scope) -> &'static str {
    match scope {
        Scope::Admin => "admin",
        Scope::Publish => "publish",
        Scope::Read => "read",
    }
}

fn scope(name: &str) -> Result<Scope, Failure> {
    match name {
        "admin" => Ok(Scope::Admin),
        "publish" => Ok(Scope::Publish),
        "read" => Ok(Scope::Read),
        other => Err(corrupt(format!("unknown scope {other:?}"))),
    }
}
