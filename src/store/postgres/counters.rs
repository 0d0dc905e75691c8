//! Counts of deliveries: sums over the slots of the table `counters`.

use super::pool::Connection;
use super::transaction::Failure;
use crate::store::Stats;
use crate::webhook::TenantSeq;

/// How many deliveries of each tenant are pending.
pub(super) async fn pending(connection: &Connection) -> Result<Vec<(TenantSeq, i64)>, Failure> {
    let rows = connection
        .query(
            "SELECT tenant, sum(owed - delivered - dead - skipped - discarded)::bigint FROM counters
             GROUP BY tenant",
            &[],
        )
        .await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
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
