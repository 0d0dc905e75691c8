//! Counts by tenant: sums over the slots of the table `counters`.

use tokio_postgres::Row;

use super::pool::Connection;
use crate::store::Stats;
use crate::store::counters::Usage;
use crate::store::failure::Failure;
use crate::webhook::TenantSeq;

/// The usage of each tenant.
pub(super) async fn usage(connection: &Connection) -> Result<Vec<(TenantSeq, Usage)>, Failure> {
    let rows = connection
        .query(
            "SELECT tenant, sum(owed - delivered - dead - skipped - discarded)::bigint, sum(stored_bytes)::bigint
             FROM counters
             GROUP BY tenant",
            &[],
        )
        .await?;
    let usage = |row: &Row| Ok((row.try_get(0)?, Usage { pending: row.try_get(1)?, stored_bytes: row.try_get(2)? }));
    rows.iter().map(usage).collect()
}

/// The counts of a tenant, or of all together.
pub(super) async fn stats(connection: &Connection, tenant: Option<TenantSeq>) -> Result<Stats, Failure> {
    let row = connection
        .query_one(
            "SELECT coalesce(sum(events), 0)::bigint,
                 coalesce(sum(owed - delivered - dead - skipped - discarded), 0)::bigint,
                 coalesce(sum(delivered), 0)::bigint, coalesce(sum(dead), 0)::bigint,
                 coalesce(sum(skipped), 0)::bigint, coalesce(sum(discarded), 0)::bigint,
                 coalesce(sum(attempts), 0)::bigint
             FROM counters WHERE $1::bigint IS NULL OR tenant = $1",
            &[&tenant],
        )
        .await?;
    let count = |column| Ok::<_, Failure>(row.try_get::<_, i64>(column)?.unsigned_abs());
    Ok(Stats {
        events: count(0)?,
        pending: count(1)?,
        delivered: count(2)?,
        dead: count(3)?,
        skipped: count(4)?,
        discarded: count(5)?,
        attempts: count(6)?,
    })
}
