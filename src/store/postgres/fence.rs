//! The fence: a transaction of an owner makes sure that it is the owner still, and stays it until the commit.
//!
//! It takes an advisory lock of each shard that it speaks of, shared, and then looks who owns it. A node that would own
//! the shard next takes the same lock for itself alone, in the transaction that raises the epoch, or leaves the shard for
//! another time. Advisory locks write nothing, and do not hold up the owner's own renewals, as locks of rows would.

use std::collections::{HashMap, HashSet};

use super::pool::Connection;
use crate::store::cluster::Fence;
use crate::store::failure::Failure;
use crate::webhook::WebhookSeq;

/// The first of the two numbers of a shard's advisory lock. The second is the shard's number. The SQL of `cluster`
/// contains it, too.
pub(super) const SHARD_LOCK: i32 = 0x5052;

/// The webhooks of `fence` whose terms are still valid, and stay valid until the transaction ends.
pub(super) async fn guard(connection: &Connection, fence: &Fence) -> Result<HashSet<WebhookSeq>, Failure> {
    // Every transaction takes these locks in order, which prevents deadlocks.
    let mut shards: Vec<i32> = fence.terms.iter().map(|(_, term)| i32::from(term.shard.number())).collect();
    shards.sort_unstable();
    shards.dedup();
    // The second statement begins after the first has its locks, so that it sees all commits up to then.
    let lock = "SELECT count(pg_advisory_xact_lock_shared($1, id)) FROM unnest($2::integer[]) AS id";
    let read = "SELECT id, epoch FROM shard WHERE holder = $1 AND id = ANY($2)";
    let ids: Vec<i16> = shards.iter().filter_map(|id| i16::try_from(*id).ok()).collect();
    let rows = connection.query_after((lock, &[&SHARD_LOCK, &shards]), (read, &[&fence.node, &ids])).await?;
    let mut present: HashMap<i16, i64> = HashMap::with_capacity(rows.len());
    for row in rows {
        present.insert(row.try_get(0)?, row.try_get(1)?);
    }
    let is_present = |shard: u8, epoch: i64| present.get(&i16::from(shard)) == Some(&epoch);
    let guarded = fence.terms.iter().filter(|(_, term)| is_present(term.shard.number(), term.epoch));
    Ok(guarded.map(|(webhook, _)| *webhook).collect())
}
