//! The tenants as the doors know them: who they are, and whether they have used what they may.
//!
//! Quotas are checked in memory: events a second by a token bucket, pending deliveries and stored bytes by the store's
//! gauges and what is on its way into it. The numbers of webhooks and tokens are checked by the store, within the
//! transaction that adds one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;
use uuid::Uuid;

use crate::rate::{Bucket, Rate};
use crate::store::{Quotas, TenantRecord};
use crate::webhook::TenantSeq;

/// `Retry-After` of the quota of pending deliveries; a guess, since the end of a delivery cannot be predicted.
pub const RETRY_PENDING_AFTER: Duration = Duration::from_secs(5);
/// `Retry-After` of the quota of stored bytes: the interval of purges.
pub const RETRY_STORED_AFTER: Duration = Duration::from_mins(1);
/// `Retry-After` of the limit of deliveries on their way into the store.
pub const RETRY_ARRIVING_AFTER: Duration = Duration::from_secs(1);
/// The most deliveries of a tenant on their way into the store, at each node, skipped ones included. They are in
/// memory.
pub const MAX_ARRIVING_DELIVERIES: u64 = 500_000;
/// The most audited acts of a tenant at once, at each node.
pub const ACT_BURST: u32 = 1_000;
/// The rate of audited acts of a tenant, a second.
pub const ACTS_PER_S: u32 = 5;

/// All tenants, in memory, as of the store.
#[derive(Default)]
pub struct Tenants {
    directory: RwLock<Directory>,
    /// The default quotas of a new tenant.
    quotas_of_new: Quotas,
}

#[derive(Default)]
struct Directory {
    tenants: HashMap<TenantSeq, Arc<Tenant>>,
    names: HashMap<String, TenantSeq>,
    uuids: HashMap<Uuid, TenantSeq>,
}

/// A tenant's present record, and its usage.
pub struct Tenant {
    record: TenantRecord,
    /// Shared by all versions of the record.
    used: Arc<Used>,
}

#[derive(Default)]
struct Used {
    events: Mutex<Bucket>,
    acts: Mutex<Bucket>,
    /// The usage of commits under way, which the store's gauges may not contain yet.
    arriving: Mutex<Usage>,
}

/// The usage of a tenant's quotas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Deliveries, skipped ones included: about as many rows.
    pub(crate) deliveries: u64,
    /// Deliveries that have not ended.
    pub(crate) pending: u64,
    /// Bytes of bodies.
    pub(crate) stored_bytes: u64,
}

/// The reason why a tenant's events are not accepted now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuotaError {
    #[error("the tenant may send {max} events a second (`max_events_per_s`)")]
    EventRate { max: u32, retry_after: Duration },
    /// A retry does not help.
    #[error("the tenant may send {max} events a second, and these are {events} at once; send fewer in one request")]
    TooManyAtOnce { max: u32, events: u64 },
    #[error(
        "{pending} deliveries of the tenant are pending and these events would add {added}; it may have {max} \
         (`max_pending`): wait until some have ended"
    )]
    Pending { max: u32, pending: u64, added: u64 },
    #[error("more than {max} deliveries of the tenant would be on their way into the store; send them after another")]
    Arriving { max: u64 },
    #[error(
        "{stored} bytes of the tenant's events are stored and these would add {added}; it may have {max} \
         (`max_stored_bytes`): wait until older ones are purged, or have an operator keep events for a shorter time \
         or raise the quota"
    )]
    StoredBytes { max: u64, stored: u64, added: u64 },
}

impl QuotaError {
    /// The time until a retry; `None`: a retry does not help.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::EventRate { retry_after, .. } => Some(*retry_after),
            Self::TooManyAtOnce { .. } => None,
            Self::Pending { max, added, .. } => (*added <= u64::from(*max)).then_some(RETRY_PENDING_AFTER),
            Self::Arriving { .. } => Some(RETRY_ARRIVING_AFTER),
            Self::StoredBytes { max, added, .. } => (added <= max).then_some(RETRY_STORED_AFTER),
        }
    }
}

impl Tenants {
    /// Without tenants. `quotas_of_new`: the default quotas of a new tenant.
    pub(crate) fn new(quotas_of_new: Quotas) -> Self {
        Self { quotas_of_new, ..Self::default() }
    }

    pub(crate) fn quotas_of_new(&self) -> Quotas {
        self.quotas_of_new
    }

    /// Adds a tenant, or replaces its record.
    pub(crate) fn apply(&self, record: TenantRecord) {
        let mut directory = self.directory.write();
        let old = directory.remove(record.seq);
        directory.names.insert(record.name.clone(), record.seq);
        directory.uuids.insert(record.uuid, record.seq);
        let used = old.map(|old| Arc::clone(&old.used)).unwrap_or_default();
        directory.tenants.insert(record.seq, Arc::new(Tenant { record, used }));
    }

    pub(crate) fn remove(&self, tenant: TenantSeq) {
        self.directory.write().remove(tenant);
    }

    pub(crate) fn get(&self, tenant: TenantSeq) -> Option<Arc<Tenant>> {
        self.directory.read().tenants.get(&tenant).map(Arc::clone)
    }

    /// The tenant of this name or UUID.
    #[must_use]
    pub fn find(&self, name_or_uuid: &str) -> Option<TenantRecord> {
        let directory = self.directory.read();
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
        // Read under the lock, so that the bucket's time never goes back.
        let now = Instant::now();
        let rate = Rate::per_second(max, max);
        bucket.take(events, rate, now).map_err(|retry_after| QuotaError::EventRate { max, retry_after })
    }

    /// Returns tokens of [`Tenant::take_events`] for events that were not accepted.
    pub(crate) fn return_events(&self, events: usize) {
        if let Some(max) = self.record.quotas.max_events_per_s {
            self.used.events.lock().refund(events as u64, Rate::per_second(max, max));
        }
    }

    /// Counts an audited act. The error is the time until the next one.
    pub(crate) fn take_act(&self) -> Result<(), Duration> {
        let mut bucket = self.used.acts.lock();
        let now = Instant::now();
        bucket.take(1, Rate::per_second(ACTS_PER_S, ACT_BURST), now)
    }

    /// Reserves room in the quotas for the usage that events add. The result must be dropped after their commit.
    /// `stored` reads the store's gauges.
    pub(crate) fn reserve(
        &self,
        added: impl FnOnce() -> Usage,
        stored: impl FnOnce() -> Usage,
    ) -> Result<Arriving, QuotaError> {
        let Quotas { max_pending, max_stored_bytes, .. } = self.record.quotas;
        let added = added();
        let mut arriving = self.used.arriving.lock();
        if arriving.deliveries > 0 && arriving.deliveries + added.deliveries > MAX_ARRIVING_DELIVERIES {
            return Err(QuotaError::Arriving { max: MAX_ARRIVING_DELIVERIES });
        }
        // The order matters: a commit is in the gauges before it leaves `arriving`, so no usage is missed.
        let has_quota = max_pending.is_some() || max_stored_bytes.is_some();
        let stored = if has_quota { stored() } else { Usage::default() };
        let pending = arriving.pending + stored.pending;
        if let Some(max) = max_pending
            && added.pending > 0
            && pending + added.pending > u64::from(max)
        {
            return Err(QuotaError::Pending { max, pending, added: added.pending });
        }
        let stored = arriving.stored_bytes + stored.stored_bytes;
        if let Some(max) = max_stored_bytes
            && stored + added.stored_bytes > max
        {
            return Err(QuotaError::StoredBytes { max, stored, added: added.stored_bytes });
        }
        arriving.deliveries += added.deliveries;
        arriving.pending += added.pending;
        arriving.stored_bytes += added.stored_bytes;
        Ok(Arriving { used: Arc::clone(&self.used), added })
    }
}

/// A reservation for events on their way into the store.
pub(crate) struct Arriving {
    used: Arc<Used>,
    added: Usage,
}

impl Drop for Arriving {
    fn drop(&mut self) {
        let mut arriving = self.used.arriving.lock();
        arriving.deliveries -= self.added.deliveries;
        arriving.pending -= self.added.pending;
        arriving.stored_bytes -= self.added.stored_bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let pending = |pending| Usage { deliveries: 0, pending, stored_bytes: 9 };
        let reserve = |added, stored| tenant.reserve(|| pending(added), || pending(stored));
        let first = reserve(4, 3).unwrap();
        let refused = reserve(4, 3).err().unwrap();
        assert_eq!(refused, QuotaError::Pending { max: 10, pending: 7, added: 4 });
        assert_eq!(refused.retry_after(), Some(RETRY_PENDING_AFTER));
        let second = reserve(3, 3).unwrap();
        assert!(reserve(0, 30).is_ok(), "an event that adds none is let through");
        // The commit has told the gauge.
        drop(first);
        drop(reserve(0, 7).unwrap());
        drop(second);
        assert!(reserve(1, 10).is_err());
        let never = reserve(11, 0).err().unwrap();
        assert_eq!(never.retry_after(), None, "it would not fit even alone");
    }

    #[test]
    fn what_arrives_counts_as_stored_until_its_commit() {
        let tenant = tenant(Quotas { max_stored_bytes: Some(1_000), ..Quotas::default() });
        let bytes = |stored_bytes| Usage { deliveries: 0, pending: 9, stored_bytes };
        let reserve = |added, stored| tenant.reserve(|| bytes(added), || bytes(stored));
        let first = reserve(400, 300).unwrap();
        let refused = reserve(301, 300).err().unwrap();
        assert_eq!(refused, QuotaError::StoredBytes { max: 1_000, stored: 700, added: 301 });
        assert_eq!(refused.retry_after(), Some(RETRY_STORED_AFTER));
        let said = refused.to_string();
        assert!(
            ["700 bytes", "301", "1000", "purged", "raise the quota"].iter().all(|part| said.contains(part)),
            "{said}"
        );
        let second = reserve(300, 300).unwrap();
        assert!(reserve(1, 300).is_err());
        // The commit has told the gauge.
        drop(first);
        assert!(reserve(1, 700).is_err());
        drop(second);
        drop(reserve(300, 700).unwrap());
        assert_eq!(reserve(1_001, 0).err().unwrap().retry_after(), None, "it would not fit even alone");
    }

    #[tokio::test(start_paused = true)]
    async fn acts_have_a_burst_and_a_rate() {
        let tenant = tenant(Quotas::default());
        for _ in 0..ACT_BURST {
            tenant.take_act().unwrap();
        }
        assert_eq!(tenant.take_act(), Err(Duration::from_millis(200)));
        tokio::time::advance(Duration::from_secs(2)).await;
        for _ in 0..2 * ACTS_PER_S {
            tenant.take_act().unwrap();
        }
        assert_eq!(tenant.take_act(), Err(Duration::from_millis(200)));
        tokio::time::advance(Duration::from_hours(24)).await;
        for _ in 0..ACT_BURST {
            tenant.take_act().unwrap();
        }
        assert!(tenant.take_act().is_err(), "no more is saved up");
    }

    #[test]
    fn what_arrives_at_once_is_bounded_without_any_quota() {
        let tenant = tenant(Quotas::default());
        let of = |deliveries| Usage { deliveries, ..Usage::default() };
        let nobody = || panic!("nobody asks the store");
        let all = tenant.reserve(|| of(2 * MAX_ARRIVING_DELIVERIES), nobody).unwrap();
        let refused = tenant.reserve(|| of(1), nobody).err().unwrap();
        assert_eq!(refused, QuotaError::Arriving { max: MAX_ARRIVING_DELIVERIES });
        assert_eq!(refused.retry_after(), Some(RETRY_ARRIVING_AFTER));
        drop(all);
        let half = || of(MAX_ARRIVING_DELIVERIES / 2);
        let halves = [tenant.reserve(half, nobody).unwrap(), tenant.reserve(half, nobody).unwrap()];
        assert!(tenant.reserve(|| of(1), nobody).is_err());
        drop(halves);
        assert!(tenant.reserve(|| of(1), nobody).is_ok());
    }

    #[test]
    fn a_tenant_without_quotas_is_never_held_up() {
        let tenant = tenant(Quotas::default());
        tenant.take_events(usize::MAX).unwrap();
        let much = || Usage { deliveries: 0, pending: u64::MAX / 4, stored_bytes: u64::MAX / 4 };
        assert!(tenant.reserve(much, || panic!("nobody asks the store")).is_ok());
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
