//! The audit log: lines that the calls of named callers leave, and reading them.

use std::sync::Arc;

use rusqlite::{Connection, Row};

use super::commit::Commit;
use super::listings::Listing;
use crate::clock::UnixMicros;
use crate::delivery::id::{DeliveryKey, EventSeq};
use crate::store::audit::{Gone, PURGE_ACTION};
use crate::store::failure::Failure;
use crate::store::paging::{Collector, NO_WEBHOOK};
use crate::store::records::audit::record;
use crate::store::retention::MAX_PURGE_LINES;
use crate::store::{Act, Actor, AuditEntry, AuditFilter, Deed, Page, PageOf};
use crate::webhook::DEFAULT_TENANT;

impl Commit<'_> {
    /// Adds a line to the audit log if the call is audited. Called at the end, when the result is certain.
    pub(super) fn record(&mut self, deed: &Deed) -> Result<(), Failure> {
        record(self, deed)
    }
}

/// Whether any line or token is from before `before`, and whether deletions have no line of their own yet. Served by
/// the index `audit_at`.
pub(super) fn look_for_old(connection: &Connection, before: UnixMicros) -> Result<[bool; 2], Failure> {
    let has_old = connection.prepare_cached("SELECT 1 FROM audit WHERE at < ?1")?.exists([before])?
        || connection
            .prepare_cached("SELECT 1 FROM token WHERE revoked_at < ?1 OR expires_at < ?1")?
            .exists([before])?;
    let is_to_be_noted = connection.prepare_cached("SELECT 1 FROM audit_purge")?.exists(())?;
    Ok([has_old, is_to_be_noted])
}

/// Deletes the oldest lines, and tokens, from before `before`, and counts them for [`note_purge`].
pub(super) fn purge(commit: &mut Commit<'_>, before: UnixMicros) -> Result<(), Failure> {
    commit.prepare("INSERT INTO audit_purging (before) VALUES (?1)")?.execute([before])?;
    let deleted = commit
        .prepare(
            "DELETE FROM audit WHERE seq IN (SELECT seq FROM audit WHERE at < ?1 ORDER BY at LIMIT ?2)
             RETURNING tenant, at, action = ?3",
        )?
        .query_map((before, MAX_PURGE_LINES, PURGE_ACTION), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<Result<Vec<_>, _>>()?;
    commit.prepare("DELETE FROM audit_purging")?.execute(())?;
    for Gone { tenant, lines, first_at, last_at } in Gone::gather(deleted) {
        commit
            .prepare(
                "INSERT INTO audit_purge (tenant, lines, first_at, last_at) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (tenant) DO UPDATE SET
                     lines = lines + ?2, first_at = min(first_at, ?3), last_at = max(last_at, ?4)",
            )?
            .execute((tenant, lines, first_at, last_at))?;
    }
    commit
        .prepare(
            "DELETE FROM token WHERE seq IN (
                 SELECT seq FROM token WHERE revoked_at < ?1 OR expires_at < ?1 ORDER BY seq LIMIT ?2
             )",
        )?
        .execute((before, MAX_PURGE_LINES))?;
    Ok(())
}

/// Adds a line for each tenant whose lines were deleted; a part of them, if they are many.
pub(super) fn note_purge(commit: &mut Commit<'_>, now: UnixMicros) -> Result<(), Failure> {
    let gone = commit
        .prepare(
            "DELETE FROM audit_purge WHERE tenant IN (SELECT tenant FROM audit_purge ORDER BY tenant LIMIT ?1)
             RETURNING tenant, lines, first_at, last_at",
        )?
        .query_map([MAX_PURGE_LINES], |row| {
            Ok(Gone { tenant: row.get(0)?, lines: row.get(1)?, first_at: row.get(2)?, last_at: row.get(3)? })
        })?
        .collect::<Result<Vec<_>, _>>()?;
    commit.act = Some(Arc::new(Act::of_server(DEFAULT_TENANT)));
    for gone in gone {
        commit.record(&gone.deed(now))?;
    }
    Ok(())
}

/// The columns that [`entry`] reads, in its order.
macro_rules! select_audit {
    ($condition:literal) => {
        concat!(
            "SELECT audit.seq, audit.uuid, at, name, actor_token, actor_name, action, target, target_name, fields,
                 address
             FROM audit LEFT JOIN tenant ON tenant.seq = audit.tenant ",
            $condition,
            " ORDER BY audit.seq DESC"
        )
    };
}

/// Newest first; the tenant is that of the filter.
pub(super) fn list(listing: &Listing<'_>, filter: &AuditFilter, page: &Page) -> Result<PageOf<AuditEntry>, Failure> {
    let start = listing.start(page)?.event;
    // Two statements, as one for both cases would not use the index.
    let sql = match filter.tenant {
        Some(_) => select_audit!("WHERE audit.tenant = ?2 AND audit.seq < ?1"),
        None => select_audit!("WHERE audit.seq < ?1 AND ?2 IS NULL"),
    };
    let mut statement = listing.connection.prepare_cached(sql)?;
    let mut rows = statement.query((start, filter.tenant))?;
    let mut collector = Collector::new(page, listing.bounds);
    while let Some(row) = rows.next()? {
        let place = DeliveryKey { event: row.get::<_, EventSeq>(0)?, webhook: NO_WEBHOOK };
        collector.see(place);
        let entry = entry(row)?;
        if filter.wants(&entry) {
            collector.add(place, entry, 0);
        }
        if !collector.goes_on() {
            break;
        }
    }
    Ok(collector.finish(listing.ids))
}

fn entry(row: &Row<'_>) -> rusqlite::Result<AuditEntry> {
    let fields: String = row.get(9)?;
    Ok(AuditEntry {
        id: row.get(1)?,
        at: row.get(2)?,
        tenant: row.get::<_, Option<String>>(3)?.unwrap_or_default(),
        actor: Actor { token: row.get(4)?, name: row.get(5)? },
        action: row.get(6)?,
        target: row.get(7)?,
        target_name: row.get(8)?,
        fields: fields.split_whitespace().map(str::to_owned).collect(),
        address: row.get(10)?,
    })
}
