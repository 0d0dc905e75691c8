//! Counters of what happened since the start, and a picture of what is going on.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::store::Shard;

/// Counters since the start, and gauges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub events_accepted: u64,
    pub events_duplicate: u64,
    pub attempts_succeeded: u64,
    pub attempts_failed: u64,
    pub deliveries_delivered: u64,
    pub deliveries_dead: u64,
    /// The ones among these whose stored event was damaged.
    pub deliveries_damaged: u64,
    pub lanes: u64,
    pub circuits_open: u64,
    /// Attempts that are under way or whose outcome is not committed yet.
    pub in_flight: u64,
    /// Deliveries waiting in memory.
    pub queued: u64,
    /// Bytes of events in memory.
    pub memory_bytes: u64,
    /// Shards that this node owns.
    pub shards: u64,
    /// Outcomes that were not committed, because other nodes owned their webhooks by then.
    pub settlements_stale: u64,
}

/// Gauges of a shard that this node owns, if the store has several nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardFigures {
    pub shard: Shard,
    /// The number of owners that the shard has had.
    pub epoch: i64,
    pub lanes: u64,
    pub circuits_open: u64,
    pub in_flight: u64,
    pub queued: u64,
}

/// An exact counter, without an order to other memory accesses.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) events_accepted: Counter,
    pub(crate) events_duplicate: Counter,
    pub(super) attempts_succeeded: Counter,
    pub(super) attempts_failed: Counter,
    pub(super) deliveries_delivered: Counter,
    pub(super) deliveries_dead: Counter,
    pub(super) deliveries_damaged: Counter,
    pub(super) settlements_stale: Counter,
}
