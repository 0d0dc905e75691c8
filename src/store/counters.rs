//! Counts by tenant: what a transaction adds to them, and gauges of what is pending and what is stored.

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
    /// Bytes of bodies; a purge subtracts.
    pub(super) stored_bytes: i64,
}

impl Counters {
    /// The change of the tenant's usage.
    pub(super) fn usage(&self) -> Usage {
        Usage { pending: self.pending(), stored_bytes: self.stored_bytes }
    }

    /// The change of the number of pending deliveries.
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

/// A tenant's usage of the store, or a change of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Deliveries that have not ended.
    pub(super) pending: i64,
    /// Of the bodies of events.
    pub(super) stored_bytes: i64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, more: Self) {
        self.pending += more.pending;
        self.stored_bytes += more.stored_bytes;
    }
}

/// The usage of all tenants, as of the last commit.
#[derive(Default)]
pub(super) struct Gauges(RwLock<HashMap<TenantSeq, Usage>>);

impl Gauges {
    /// Gauges with the values of the counters.
    pub(super) fn new(usage: impl IntoIterator<Item = (TenantSeq, Usage)>) -> Self {
        Self(RwLock::new(usage.into_iter().collect()))
    }

    /// Replaces the values by a new count.
    pub(super) fn set(&self, usage: impl IntoIterator<Item = (TenantSeq, Usage)>) {
        *self.0.write() = usage.into_iter().collect();
    }

    pub(super) fn add(&self, changes: impl Iterator<Item = (TenantSeq, Usage)>) {
        let mut gauges = None;
        for (tenant, change) in changes.filter(|(_, change)| *change != Usage::default()) {
            *gauges.get_or_insert_with(|| self.0.write()).entry(tenant).or_default() += change;
        }
    }

    pub(super) fn pending(&self, tenant: TenantSeq) -> u64 {
        self.0.read().get(&tenant).map_or(0, |usage| u64::try_from(usage.pending).unwrap_or(0))
    }

    pub(super) fn stored_bytes(&self, tenant: TenantSeq) -> u64 {
        self.0.read().get(&tenant).map_or(0, |usage| u64::try_from(usage.stored_bytes).unwrap_or(0))
    }
}
