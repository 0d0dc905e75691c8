//! Counters of what happened since the start, and a picture of what is going on.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::UnixMicros;
use crate::delivery::DeliveryState;
use crate::figures::{DurationCounter, Durations};
use crate::store::{Settlement, Shard};

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

/// How long things took since the start.
#[derive(Clone, Debug, Default)]
pub struct Latencies {
    /// Storing the events of a call, its commit included.
    pub accepts: Durations,
    /// From an event's acceptance, its `deliver_at` or an operator's wish until the first attempt.
    pub waits: Durations,
    /// Attempts, failed ones too.
    pub attempts: Durations,
    /// From the same moments as waits until the delivery.
    pub deliveries: Durations,
    /// Storing the outcomes of attempts, their commit included.
    pub settlements: Durations,
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
    pub(crate) accepts: DurationCounter,
    pub(super) waits: DurationCounter,
    pub(super) attempts: DurationCounter,
    pub(super) deliveries: DurationCounter,
    pub(super) settlements: DurationCounter,
}

impl Counters {
    /// Counts how long it took to come to this. `since`: from when the delivery's time counts.
    pub(super) fn took(&self, settlement: &Settlement, since: UnixMicros) {
        if let Some(attempt) = &settlement.attempt {
            if settlement.round_attempts == 1 {
                self.waits.add(attempt.started_at.since(since));
            }
            self.attempts.add_us(u64::try_from(attempt.duration_us).unwrap_or_default());
        }
        if settlement.transition.state() == DeliveryState::Delivered {
            self.deliveries.add(settlement.at.since(since));
        }
    }

    pub(super) fn latencies(&self) -> Latencies {
        Latencies {
            accepts: self.accepts.read(),
            waits: self.waits.read(),
            attempts: self.attempts.read(),
            deliveries: self.deliveries.read(),
            settlements: self.settlements.read(),
        }
    }
}
