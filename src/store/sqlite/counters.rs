//! What is counted of each tenant: kept with every transaction, read for answers and quotas.

use std::collections::HashMap;

use rusqlite::{Connection, Row};

use super::commit::Commit;
use crate::store::Stats;
use crate::store::counters::{Gauges, Usage};
use crate::store::failure::Failure;
use crate::webhook::{TenantSeq, WebhookSeq};

pub(super) fn read_gauges(connection: &Connection) -> rusqlite::Result<Gauges> {
    let mut statement = connection
        .prepare("SELECT tenant, owed - delivered - dead - skipped - discarded, stored_bytes FROM counters")?;
    let usage = |row: &Row<'_>| Ok((row.get(0)?, Usage { pending: row.get(1)?, stored_bytes: row.get(2)? }));
    let usage = statement.query_map((), usage)?.collect::<Result<Vec<_>, _>>()?;
    Ok(Gauges::new(usage))
}

/// The tenants of all webhooks, deleted ones included.
pub(super) fn tenants(connection: &Connection) -> rusqlite::Result<HashMap<WebhookSeq, TenantSeq>> {
    let mut statement = connection.prepare("SELECT seq, tenant FROM webhook")?;
    statement.query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

/// The counts of a tenant, or of all together.
pub(super) fn stats(connection: &Connection, tenant: Option<TenantSeq>) -> Result<Stats, Failure> {
    let count = |row: &Row<'_>, column| Ok::<_, rusqlite::Error>(row.get::<_, i64>(column)?.unsigned_abs());
    Ok(connection
        .prepare_cached(
            "SELECT coalesce(sum(events), 0), coalesce(sum(owed - delivered - dead - skipped - discarded), 0),
                 coalesce(sum(delivered), 0), coalesce(sum(dead), 0), coalesce(sum(skipped), 0),
                 coalesce(sum(discarded), 0), coalesce(sum(attempts), 0)
             FROM counters WHERE ?1 IS NULL OR tenant = ?1",
        )?
        .query_row([tenant], |row| {
            Ok(Stats {
                events: count(row, 0)?,
                pending: count(row, 1)?,
                delivered: count(row, 2)?,
                dead: count(row, 3)?,
                skipped: count(row, 4)?,
                discarded: count(row, 5)?,
                attempts: count(row, 6)?,
            })
        })?)
}

impl Commit<'_> {
    pub(super) fn write_counters(&self) -> rusqlite::Result<()> {
        for (tenant, add) in &self.state.counters {
            self.prepare(
                "INSERT INTO counters
                     (tenant, events, owed, delivered, dead, skipped, discarded, attempts, stored_bytes)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
                 ON CONFLICT (tenant) DO UPDATE SET
                     events = events + ?2, owed = owed + ?3, delivered = delivered + ?4, dead = dead + ?5,
                     skipped = skipped + ?6, discarded = discarded + ?7, attempts = attempts + ?8,
                     stored_bytes = stored_bytes + ?9",
            )?
            .execute((
                tenant,
                add.events,
                add.owed,
                add.delivered,
                add.dead,
                add.skipped,
                add.discarded,
                add.attempts,
                add.stored_bytes,
            ))?;
        }
        Ok(())
    }
}
