//! API tokens: kept as hashes.

use tokio_postgres::Row;
use uuid::Uuid;

use super::error::Failure;
use super::pool::Connection;
use super::tenants;
use super::transaction::Commit;
use crate::clock::UnixMicros;
use crate::store::paging::{page_by_uuid, start_by_uuid};
use crate::store::{Deed, NewToken, Page, PageOf, Scope, StoreError, TokenRecord};
use crate::webhook::TenantSeq;

/// The columns that [`record`] reads, in its order.
macro_rules! select_tokens {
    ($rest:literal) => {
        concat!(
            "SELECT uuid, tenant, name, scopes, created_at, expires_at, last_used_at
             FROM token WHERE revoked_at IS NULL ",
            $rest
        )
    };
}

pub(super) async fn create(commit: &Commit, token: &NewToken) -> Result<TokenRecord, Failure> {
    let tenant = tenants::lock(commit, token.tenant).await?;
    if let Some(max) = tenant.quotas.max_tokens
        && !token.scopes.contains(&Scope::Operator)
        && count(&commit.connection, token.tenant, token.now).await? >= i64::from(max)
    {
        return Err(StoreError::TooManyTokens { max }.into());
    }
    let uuid = Uuid::new_v4();
    let scopes = token.scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(" ");
    let inserted = commit
        .connection
        .execute(
            "INSERT INTO token (uuid, tenant, name, scopes, hash, created_at, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (hash) DO NOTHING",
            &[&uuid, &token.tenant, &token.name, &scopes, &&token.hash[..], &token.now, &token.expires_at],
        )
        .await?;
    if inserted == 0 {
        return Err(StoreError::Conflict("there is such a token already".to_owned()).into());
    }
    record_deed(commit, "token.create", token.tenant, uuid, &token.name, token.now).await?;
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
pub(super) async fn count(connection: &Connection, tenant: TenantSeq, now: UnixMicros) -> Result<i64, Failure> {
    let row = connection
        .query_one(
            "SELECT (
                 SELECT count(*) FROM token WHERE tenant = $1 AND revoked_at IS NULL AND expires_at IS NULL
             ) + (
                 SELECT count(*) FROM token WHERE tenant = $1 AND revoked_at IS NULL AND expires_at > $2
             )",
            &[&tenant, &now],
        )
        .await?;
    Ok(row.try_get(0)?)
}

/// Deletes at most `limit` that ended before `before`.
pub(super) async fn purge(commit: &Commit, before: UnixMicros, limit: u32) -> Result<(), Failure> {
    commit
        .connection
        .execute(
            "DELETE FROM token WHERE seq IN (
                 SELECT seq FROM token WHERE revoked_at < $1 OR expires_at < $1 ORDER BY seq LIMIT $2 FOR UPDATE
             )",
            &[&before, &i64::from(limit)],
        )
        .await
        .map(drop)
}

/// Oldest first, without the revoked ones.
pub(super) async fn list(connection: &Connection, tenant: TenantSeq) -> Result<Vec<TokenRecord>, Failure> {
    connection.query(select_tokens!("AND tenant = $1 ORDER BY seq"), &[&tenant]).await?.iter().map(record).collect()
}

/// Oldest first.
pub(super) async fn page(
    connection: &Connection,
    tenant: TenantSeq,
    page: &Page,
) -> Result<PageOf<TokenRecord>, Failure> {
    let (cursor, limit) = start_by_uuid(page)?;
    let after: i64 = match cursor {
        None => 0,
        Some(uuid) => connection
            .query_opt("SELECT seq FROM token WHERE uuid = $1 AND tenant = $2", &[&uuid, &tenant])
            .await?
            .ok_or(StoreError::Cursor)?
            .try_get(0)?,
    };
    let sql = select_tokens!("AND tenant = $1 AND seq > $2 ORDER BY seq LIMIT $3");
    let rows = connection.query(sql, &[&tenant, &after, &limit]).await?;
    let tokens = rows.iter().map(record).collect::<Result<_, _>>()?;
    Ok(page_by_uuid(tokens, page, |token: &TokenRecord| token.uuid))
}

pub(super) async fn revoke(commit: &Commit, tenant: TenantSeq, uuid: Uuid, now: UnixMicros) -> Result<bool, Failure> {
    let revoked = commit
        .connection
        .query_opt(
            "UPDATE token SET revoked_at = $3 WHERE uuid = $1 AND tenant = $2 AND revoked_at IS NULL RETURNING name",
            &[&uuid, &tenant, &now],
        )
        .await?;
    let Some(row) = revoked else { return Ok(false) };
    let name: String = row.try_get(0)?;
    record_deed(commit, "token.revoke", tenant, uuid, &name, now).await?;
    Ok(true)
}

async fn record_deed(
    commit: &Commit,
    action: &'static str,
    tenant: TenantSeq,
    token: Uuid,
    name: &str,
    at: UnixMicros,
) -> Result<(), Failure> {
    let (target, target_name) = (Some(token.to_string()), Some(name.to_owned()));
    commit.record(&Deed { at, tenant, action, target, target_name }).await
}

pub(super) async fn touch(commit: &Commit, uuid: Uuid, now: UnixMicros) -> Result<(), Failure> {
    commit.connection.execute("UPDATE token SET last_used_at = $2 WHERE uuid = $1", &[&uuid, &now]).await?;
    Ok(())
}

pub(super) async fn by_hash(connection: &Connection, hash: &[u8; 32]) -> Result<Option<TokenRecord>, Failure> {
    let row = connection.query_opt(select_tokens!("AND hash = $1"), &[&&hash[..]]).await?;
    row.as_ref().map(record).transpose()
}

pub(super) async fn by_uuid(
    connection: &Connection,
    tenant: TenantSeq,
    uuid: Uuid,
) -> Result<Option<TokenRecord>, Failure> {
    let row = connection.query_opt(select_tokens!("AND uuid = $1 AND tenant = $2"), &[&uuid, &tenant]).await?;
    row.as_ref().map(record).transpose()
}

fn record(row: &Row) -> Result<TokenRecord, Failure> {
    let scopes: &str = row.try_get(3)?;
    Ok(TokenRecord {
        uuid: row.try_get(0)?,
        tenant: row.try_get(1)?,
        name: row.try_get(2)?,
        scopes: scopes.split_whitespace().map(scope).collect::<Result<_, _>>()?,
        created_at: row.try_get(4)?,
        expires_at: row.try_get(5)?,
        last_used_at: row.try_get(6)?,
    })
}

fn scope(name: &str) -> Result<Scope, StoreError> {
    [Scope::Operator, Scope::Admin, Scope::Publish, Scope::Read]
        .into_iter()
        .find(|scope| scope.as_str() == name)
        .ok_or_else(|| StoreError::Corrupt(format!("unknown scope {name:?}")))
}
