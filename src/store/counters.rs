//! Counts of deliveries by tenant: what a transaction adds to them, and a gauge of what is pending.

use std::collections::HashMap;

use parking_lot::RwLock;

use crate::delivery::DeliveryState;
use crate::webhook::TenantSeq;

/// Additions to a tenant's row of `counters`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    pub(super) events: i64,
    pub(super) owed: i64,
    pub(super) delivered: i64,
    pub(super) dead: i64,
    pub(super) skipped: i64,
    pub(super) discarded: i64,
    pub(super) attempts: i64,
}

impl Counters {
    /// How many deliveries more are pending.
    pub(super) fn pending(&self) -> i64 {
        self.owed - self.delivered - self.dead - self.skipped - self.discarded
    }

    /// `change` deliveries more are in `state`.
    pub(super) fn add(&mut self, state: DeliveryState, change: i64) {
        match state {
            DeliveryState::Pending => {}
            DeliveryState::Delivered => self.delivered += change,
            DeliveryState::Dead => self.dead += change,
            DeliveryState::Skipped => self.skipped += change,
            DeliveryState::Discarded => self.discarded += change,
        }
    }
}

/// Pending deliveries by tenant, as of the last commit.
#[derive(Default)]
pub(super) struct Gauges(RwLock<HashMap<TenantSeq, i64>>);

impl Gauges {
    /// Starts from what the counters say.
    pub(super) fn new(pending: impl IntoIterator<Item = (TenantSeq, i64)>) -> Self {
        Self(RwLock::new(pending.into_iter().collect()))
    }

    /// Puts what was counted anew in place of what was.
    pub(super) fn set(&self, pending: impl IntoIterator<Item = (TenantSeq, i64)>) {
        *self.0.write() = pending.into_iter().collect();
    }

    pub(super) fn add(&self, changes: impl Iterator<Item = (TenantSeq, i64)>) {
        let mut gauges = None;
        for (tenant, change) in changes.filter(|(_, change)| *change != 0) {
            *gauges.get_or_insert_with(|| self.0.write()).entry(tenant).or_default() += change;
        }
    }

    pub(super) fn pending(&self, tenant: TenantSeq) -> u64 {
        self.0.read().get(&tenant).map_or(0, |pending| u64::try_from(*pending).unwrap_or(0))
    }
}
