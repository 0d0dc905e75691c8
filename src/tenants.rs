//! The tenants as the doors know them: who they are, and whether they have used what they may.
//!
//! Quotas are checked in memory: events a second by a token bucket, pending deliveries by the store's gauge and what
//! is on its way into it. The number of webhooks is checked by the store, within the transaction that adds one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;
use uuid::Uuid;

use crate::store::TenantRecord;
use crate::webhook::TenantSeq;

const SECOND: Duration = Duration::from_secs(1);
/// Nanoseconds in a second. A bucket counts in billionths of an event, so that a rate adds a whole number each nanosecond.
const SECOND_NS: u64 = 1_000_000_000;
/// When a publisher whose tenant has too much pending may try again: how soon some of it ends, nobody knows.
pub const RETRY_PENDING_AFTER: Duration = Duration::from_secs(5);

/// Every tenant there is; follows the store. Cheap to ask.
#[derive(Default)]
pub struct Tenants(RwLock<Directory>);

#[derive(Default)]
struct Directory {
    tenants: HashMap<TenantSeq, Arc<Tenant>>,
    names: HashMap<String, TenantSeq>,
    uuids: HashMap<Uuid, TenantSeq>,
}

/// A tenant as it is now, and what it has used.
pub struct Tenant {
    record: TenantRecord,
    /// The same over all changes of the record.
    used: Arc<Used>,
}

#[derive(Default)]
struct Used {
    events: Mutex<Bucket>,
    /// Deliveries that are being committed and that the store's gauge may not know yet.
    arriving: Mutex<u64>,
}

/// Why a tenant's events are not accepted now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuotaError {
    #[error("the tenant may send {max} events a second")]
    EventRate { max: u32, retry_after: Duration },
    /// Waiting does not help.
    #[error("the tenant may send {max} events a second, and these are {events} at once; send fewer")]
    TooManyAtOnce { max: u32, events: u64 },
    #[error("{pending} deliveries of the tenant are pending and these events would add {added}; it may have {max}")]
    Pending { max: u32, pending: u64, added: u64 },
}

impl QuotaError {
    /// When it may be tried again; `None`: waiting does not help.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::EventRate { retry_after, .. } => Some(*retry_after),
            Self::TooManyAtOnce { .. } => None,
            Self::Pending { max, added, .. } => (*added <= u64::from(*max)).then_some(RETRY_PENDING_AFTER),
        }
    }
}

impl Tenants {
    /// Takes in a tenant, or its newer record.
    pub(crate) fn apply(&self, record: TenantRecord) {
        let mut directory = self.0.write();
        let old = directory.remove(record.seq);
        directory.names.insert(record.name.clone(), record.seq);
        directory.uuids.insert(record.uuid, record.seq);
        let used = old.map(|old| Arc::clone(&old.used)).unwrap_or_default();
        directory.tenants.insert(record.seq, Arc::new(Tenant { record, used }));
    }

    pub(crate) fn remove(&self, tenant: TenantSeq) {
        self.0.write().remove(tenant);
    }

    pub(crate) fn get(&self, tenant: TenantSeq) -> Option<Arc<Tenant>> {
        self.0.read().tenants.get(&tenant).map(Arc::clone)
    }

    /// The tenant of this name or UUID.
    #[must_use]
    pub fn find(&self, name_or_uuid: &str) -> Option<TenantRecord> {
        let directory = self.0.read();
        let seq = match Uuid::try_parse(name_or_uuid) {
            Ok(uuid) => directory.uuids.get(&uuid),
            Err(_) => directory.names.get(name_or_uuid),
        };
        Some(directory.tenants.get(seq?)?.record.clone())
    }
}

impl Directory {
    fn remove(&mut self, tenant: TenantSeq) -> Option<Arc<Tenant>> {
        let old = self.tenants.remove(&tenant)?;
        self.names.remove(&old.record.name);
        self.uuids.remove(&old.record.uuid);
        Some(old)
    }
}

impl Tenant {
    pub(crate) fn name(&self) -> &str {
        &self.record.name
    }

    /// Counts `events` against the quota of events a second: all of them or none.
    pub(crate) fn take_events(&self, events: usize) -> Result<(), QuotaError> {
        let Some(max) = self.record.quotas.max_events_per_s else { return Ok(()) };
        let events = events as u64;
        if events > u64::from(max) {
            return Err(QuotaError::TooManyAtOnce { max, events });
        }
        let mut bucket = self.used.events.lock();
        // Read under the lock, so that it never goes back.
        let now = Instant::now();
        bucket.take(events, max, now).map_err(|retry_after| QuotaError::EventRate { max, retry_after })
    }

    /// Gives back what [`Tenant::take_events`] took for events that were not accepted.
    pub(crate) fn return_events(&self, events: usize) {
        if self.record.quotas.max_events_per_s.is_some() {
            self.used.events.lock().put_back(events as u64);
        }
    }

    /// Makes sure that `added` deliveries more may be pending, until what is returned is dropped, which must be after
    /// their commit. `pending` tells the store's gauge.
    pub(crate) fn reserve_pending(
        &self,
        added: impl FnOnce() -> u64,
        pending: impl FnOnce() -> u64,
    ) -> Result<Option<Arriving>, QuotaError> {
        let Some(max) = self.record.quotas.max_pending else { return Ok(None) };
        let added = added();
        let mut arriving = self.used.arriving.lock();
        // In this order: what is committed is in the gauge before it leaves `arriving`, so nothing is missed.
        let pending = *arriving + pending();
        if added > 0 && pending + added > u64::from(max) {
            return Err(QuotaError::Pending { max, pending, added });
        }
        *arriving += added;
        Ok(Some(Arriving { used: Arc::clone(&self.used), added }))
    }
}

/// Deliveries on their way into the store.
pub(crate) struct Arriving {
    used: Arc<Used>,
    added: u64,
}

impl Drop for Arriving {
    fn drop(&mut self) {
        *self.used.arriving.lock() -= self.added;
    }
}

/// A token bucket that holds one second's worth and begins full. It measures time by a clock that is never set.
#[derive(Default)]
struct Bucket {
    /// What may be taken, in billionths of an event.
    level: u64,
    /// When `level` was right; `None`: nothing was taken yet.
    at: Option<Instant>,
}

impl Bucket {
    /// Takes `events`, or says how long to wait for them. `events` are at most `rate`, the events of a second.
    fn take(&mut self, events: u64, rate: u32, now: Instant) -> Result<(), Duration> {
        let (rate, needed) = (u64::from(rate), events * SECOND_NS);
        let elapsed = self.at.map_or(SECOND, |at| now.saturating_duration_since(at).min(SECOND));
        let elapsed_ns = u64::try_from(elapsed.as_nanos()).unwrap_or(SECOND_NS);
        self.level = self.level.saturating_add(elapsed_ns * rate).min(rate * SECOND_NS);
        self.at = Some(now);
        match self.level.checked_sub(needed) {
            Some(rest) => {
                self.level = rest;
                Ok(())
            }
            None => Err(Duration::from_nanos((needed - self.level).div_ceil(rate.max(1)))),
        }
    }

    /// Too much is cut off by the next `take`.
    fn put_back(&mut self, events: u64) {
        self.level = self.level.saturating_add(events * SECOND_NS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Quotas;
    use proptest::prelude::*;

    fn tenant(quotas: Quotas) -> Tenant {
        let record = TenantRecord {
            seq: TenantSeq(2),
            uuid: Uuid::from_u128(2),
            name: "blue".to_owned(),
            description: String::new(),
            quotas,
            created_at: crate::clock::UnixMicros(0),
        };
        Tenant { record, used: Arc::default() }
    }

    proptest! {
        /// In no window are more events let through than the rate and one second's worth, and one that waits as long as
        /// it was told is let through.
        #[test]
        fn the_rate_is_exact(
            rate in 1_u32..2_000,
            calls in proptest::collection::vec((0_u64..1_500_000_000, 1_u64..50), 1..200),
        ) {
            let mut bucket = Bucket::default();
            let mut now = Instant::now();
            let mut taken: Vec<(Instant, u64)> = Vec::new();
            for (pause, events) in calls {
                now += Duration::from_nanos(pause);
                let events = events.min(u64::from(rate));
                if let Err(wait) = bucket.take(events, rate, now) {
                    prop_assert!(wait > Duration::ZERO);
                    let mut too_early = Bucket { ..bucket };
                    let early = now + wait.saturating_sub(Duration::from_nanos(1));
                    prop_assert!(too_early.take(events, rate, early).is_err(), "told to wait too long");
                    now += wait;
                    prop_assert!(bucket.take(events, rate, now).is_ok(), "told to wait too short");
                }
                taken.push((now, events));
            }
            for (first, (start, _)) in taken.iter().enumerate() {
                let mut sum = 0_u64;
                for (end, events) in &taken[first..] {
                    sum += events;
                    let window = *end - *start;
                    let allowed = u128::from(rate) * (window + SECOND).as_nanos();
                    prop_assert!(u128::from(sum) * SECOND.as_nanos() <= allowed, "{sum} events in {window:?}");
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn events_are_taken_all_or_none() {
        let tenant = tenant(Quotas { max_events_per_s: Some(10), ..Quotas::default() });
        tenant.take_events(8).unwrap();
        let refused = tenant.take_events(3).unwrap_err();
        assert_eq!(refused.retry_after(), Some(Duration::from_millis(100)));
        tenant.take_events(2).unwrap();
        tenant.return_events(2);
        tenant.take_events(2).unwrap();
        let never = tenant.take_events(11).unwrap_err();
        assert_eq!((never, never.retry_after()), (QuotaError::TooManyAtOnce { max: 10, events: 11 }, None));
    }

    #[test]
    fn what_arrives_counts_as_pending_until_its_commit() {
        let tenant = tenant(Quotas { max_pending: Some(10), ..Quotas::default() });
        let first = tenant.reserve_pending(|| 4, || 3).unwrap();
        let refused = tenant.reserve_pending(|| 4, || 3).err().unwrap();
        assert_eq!(refused, QuotaError::Pending { max: 10, pending: 7, added: 4 });
        assert_eq!(refused.retry_after(), Some(RETRY_PENDING_AFTER));
        let second = tenant.reserve_pending(|| 3, || 3).unwrap();
        assert!(tenant.reserve_pending(|| 0, || 30).is_ok(), "an event that adds none is let through");
        // The commit has told the gauge.
        drop(first);
        drop(tenant.reserve_pending(|| 0, || 7).unwrap());
        drop(second);
        assert!(tenant.reserve_pending(|| 1, || 10).is_err());
        let never = tenant.reserve_pending(|| 11, || 0).err().unwrap();
        assert_eq!(never.retry_after(), None, "it would not fit even alone");
    }

    #[test]
    fn a_tenant_without_quotas_is_never_held_up() {
        let tenant = tenant(Quotas::default());
        tenant.take_events(usize::MAX).unwrap();
        let added = || panic!("nobody counts");
        assert!(tenant.reserve_pending(added, || u64::MAX).unwrap().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenant_is_found_by_name_and_uuid_and_keeps_its_use_over_changes() {
        let tenants = Tenants::default();
        let blue = tenant(Quotas { max_events_per_s: Some(5), ..Quotas::default() }).record;
        tenants.apply(blue.clone());
        tenants.get(blue.seq).unwrap().take_events(5).unwrap();
        let green = TenantRecord { name: "green".to_owned(), ..blue.clone() };
        tenants.apply(green.clone());
        assert_eq!(tenants.find("blue"), None);
        assert_eq!(tenants.find("green"), Some(green.clone()));
        assert_eq!(tenants.find(&green.uuid.to_string()), Some(green));
        assert!(tenants.get(blue.seq).unwrap().take_events(1).is_err());
        tenants.remove(blue.seq);
        assert!(tenants.get(blue.seq).is_none() && tenants.find("green").is_none());
    }
}
