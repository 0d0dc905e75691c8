//! The audit log: lines that the calls of named callers leave, and reading them.

use std::sync::Arc;

use tokio_postgres::Row;
use uuid::Uuid;

use super::listings::{PageRows, Scan};
use super::pool::Connection;
use super::transaction::Commit;
use super::values::text;
use crate::clock::UnixMicros;
use crate::delivery::id::DeliveryKey;
use crate::store::audit::{Gone, PURGE_ACTION};
use crate::store::failure::Failure;
use crate::store::records::audit::{INSERT_LINE, line};
use crate::store::retention::MAX_PURGE_LINES;
use crate::store::{Act, Actor, AuditEntry, AuditFilter, Deed};
use crate::webhook::DEFAULT_TENANT;

impl Commit {
    /// Adds a line to the audit log if the call is audited. Called at the end, when the result is certain.
    pub(super) async fn record(&self, deed: &Deed) -> Result<(), Failure> {
        match line(self.act.as_deref(), deed) {
            Some(values) => self.connection.execute_values(INSERT_LINE, &values).await.map(drop),
            None => Ok(()),
        }
    }
}

/// Whether any line or token is from before `before`, and whether deletions have no line of their own yet. Lines are
/// found by the index `audit_at`.
pub(super) async fn look_for_old(connection: &Connection, before: UnixMicros) -> Result<[bool; 2], Failure> {
    let row = connection
        .query_one(
            "SELECT EXISTS (SELECT 1 FROM audit WHERE at < $1)
                 OR EXISTS (SELECT 1 FROM token WHERE revoked_at < $1 OR expires_at < $1),
                 EXISTS (SELECT 1 FROM audit_purge)",
            &[&before],
        )
        .await?;
    Ok([row.try_get(0)?, row.try_get(1)?])
}

/// Deletes the oldest lines, and tokens, from before `before`, and counts them for [`note_purge`].
pub(super) async fn purge(commit: &Commit, before: UnixMicros) -> Result<(), Failure> {
    let connection = &commit.connection;
    let sql = "SELECT set_config('postrider.audit_purged_before', $1::bigint::text, true)";
    connection.query_one(sql, &[&before]).await?;
    let deleted = connection
        .query(
            "DELETE FROM audit WHERE seq IN (
                 SELECT seq FROM audit WHERE at < $1 ORDER BY at, seq LIMIT $2 FOR UPDATE
             )
             RETURNING tenant, at, action = $3",
            &[&before, &i64::from(MAX_PURGE_LINES), &PURGE_ACTION],
        )
        .await?;
    let lines = deleted.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)));
    for gone in Gone::gather(lines.collect::<Result<Vec<_>, Failure>>()?) {
        connection
            .execute(
                "INSERT INTO audit_purge (tenant, lines, first_at, last_at) VALUES ($1, $2, $3, $4)
                 ON CONFLICT (tenant) DO UPDATE SET
                     lines = audit_purge.lines + excluded.lines,
                     first_at = least(audit_purge.first_at, excluded.first_at),
                     last_at = greatest(audit_purge.last_at, excluded.last_at)",
                &[&gone.tenant, &gone.lines, &gone.first_at, &gone.last_at],
            )
            .await?;
    }
    connection
        .execute(
            "DELETE FROM token WHERE seq IN (
                 SELECT seq FROM token WHERE revoked_at < $1 OR expires_at < $1 ORDER BY seq LIMIT $2 FOR UPDATE
             )",
            &[&before, &i64::from(MAX_PURGE_LINES)],
        )
        .await
        .map(drop)
}

/// Adds a line for each tenant whose lines were deleted; a part of them, if they are many.
pub(super) async fn note_purge(commit: &mut Commit, now: UnixMicros) -> Result<(), Failure> {
    let rows = commit
        .connection
        .query(
            "DELETE FROM audit_purge WHERE tenant IN (
                 SELECT tenant FROM audit_purge ORDER BY tenant LIMIT $1 FOR UPDATE
             )
             RETURNING tenant, lines, first_at, last_at",
            &[&i64::from(MAX_PURGE_LINES)],
        )
        .await?;
    commit.act = Some(Arc::new(Act::of_server(DEFAULT_TENANT)));
    for row in rows {
        let (tenant, lines) = (row.try_get(0)?, row.try_get(1)?);
        let gone = Gone { tenant, lines, first_at: row.try_get(2)?, last_at: row.try_get(3)? };
        commit.record(&gone.deed(now)).await?;
    }
    Ok(())
}

impl Scan for AuditFilter {
    type Item = AuditEntry;

    /// Served by the primary key, or for one tenant by the index `audit_tenant`.
    async fn portion(
        &self,
        connection: &Connection,
        place: DeliveryKey,
        rows: u32,
        items: u32,
    ) -> Result<PageRows<AuditEntry>, Failure> {
        let actor_token = self.actor.as_ref().and_then(|actor| Uuid::try_parse(actor).ok());
        let rows = connection
            .query(
                "WITH seen AS MATERIALIZED (
                     SELECT * FROM audit
                     WHERE seq < $1::bigint AND ($4::bigint IS NULL OR tenant = $4)
                     ORDER BY seq DESC
                     LIMIT $2
                 ), wanted AS (
                     SELECT seen.seq, 0::bigint AS webhook_seq, seen.uuid, at, tenant.name, actor_token, actor_name,
                         action, target, target_name, fields, address
                     FROM seen LEFT JOIN tenant ON tenant.seq = seen.tenant
                     WHERE ($5::text IS NULL OR action = $5 OR starts_with(action, $5 || '.'))
                         AND ($6::text IS NULL OR actor_name = $6 OR actor_token = $7::uuid)
                         AND ($8::bigint IS NULL OR at >= $8)
                         AND ($9::bigint IS NULL OR at < $9)
                     ORDER BY seen.seq DESC
                     LIMIT $3
                 )
                 SELECT ends.seq, 0::bigint, ends.rows, wanted.*
                 FROM (SELECT min(seq) AS seq, count(*) AS rows FROM seen) AS ends LEFT JOIN wanted ON true
                 ORDER BY wanted.seq DESC",
                &[
                    &place.event,
                    &i64::from(rows),
                    &i64::from(items),
                    &self.tenant,
                    &self.action.as_deref().map(text),
                    &self.actor.as_deref().map(text),
                    &actor_token,
                    &self.since,
                    &self.until,
                ],
            )
            .await?;
        PageRows::read(&rows, |row, _| entry(row))
    }
}

fn entry(row: &Row) -> Result<AuditEntry, Failure> {
    let fields: &str = row.try_get(13)?;
    Ok(AuditEntry {
        id: row.try_get(5)?,
        at: row.try_get(6)?,
        tenant: row.try_get::<_, Option<String>>(7)?.unwrap_or_default(),
        actor: Actor { token: row.try_get(8)?, name: row.try_get(9)? },
        action: row.try_get(10)?,
        target: row.try_get(11)?,
        target_name: row.try_get(12)?,
        fields: fields.split_whitespace().map(str::to_owned).collect(),
        address: row.try_get(14)?,
    })
}
