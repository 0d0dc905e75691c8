//! Until when this node may act as the owner of its shards, by its own clock: less long than the store says.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use crate::fit::fit;

/// A node stops acting when one in this many parts of its lease is left: time for work under way to end, and for clocks
/// of different speed.
const MARGIN_SHARE: u32 = 5;
/// No end.
const FOR_EVER: u64 = u64::MAX;

/// The end of a node's lease, which renewals move while attempts check it.
pub(super) struct Lease {
    since: Instant,
    /// Microseconds after `since`.
    until: AtomicU64,
    /// The number of times that the lease has ended.
    ends: AtomicU64,
}

impl Lease {
    /// The lease of a node that shares its store with no other.
    pub(super) fn for_ever() -> Self {
        Self { since: Instant::now(), until: AtomicU64::new(FOR_EVER), ends: AtomicU64::new(0) }
    }

    /// The lease of a node that owns nothing yet.
    pub(super) fn none() -> Self {
        Self { since: Instant::now(), until: AtomicU64::new(0), ends: AtomicU64::new(0) }
    }

    /// Extends the lease after a renewal for `lease` that was sent at `sent_at`. Returns the time until which the node
    /// may act.
    pub(super) fn extend(&self, sent_at: Instant, lease: Duration) -> Instant {
        let until = sent_at + lease.saturating_sub(lease / MARGIN_SHARE);
        let micros = until.saturating_duration_since(self.since).as_micros();
        self.until.store(fit(micros, FOR_EVER - 1), Ordering::Release);
        until
    }

    pub(super) fn end(&self) {
        self.until.store(0, Ordering::Release);
        self.ends.fetch_add(1, Ordering::AcqRel);
    }

    /// A number that changes whenever the lease ends; `None`: the lease is over.
    pub(super) fn number(&self) -> Option<u64> {
        let number = self.ends.load(Ordering::Acquire);
        let lasts = !self.is_over() && self.ends.load(Ordering::Acquire) == number;
        lasts.then_some(number)
    }

    pub(super) fn is_over(&self) -> bool {
        let until = self.until.load(Ordering::Acquire);
        until != FOR_EVER && self.since.elapsed().as_micros() >= u128::from(until)
    }

    /// Runs `work`; `None` if the lease ends before. `work` is not polled after that moment, even if the process was
    /// suspended meanwhile, when a timer alone would fire too late.
    pub(super) async fn while_it_lasts<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        poll_fn(|context| if self.is_over() { Poll::Ready(None) } else { work.as_mut().poll(context).map(Some) }).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_ends_before_the_store_lets_others_have_the_shards() {
        let lease = Lease::none();
        assert!(lease.is_over());
        let sent_at = Instant::now();
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(lease.extend(sent_at, Duration::from_secs(10)), sent_at + Duration::from_secs(8));
        tokio::time::advance(Duration::from_millis(6_999)).await;
        assert!(!lease.is_over());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(lease.is_over());
        lease.extend(Instant::now(), Duration::from_secs(10));
        assert!(!lease.is_over());
        lease.end();
        assert!(lease.is_over());
        assert!(!Lease::for_ever().is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_after_an_end_is_another() {
        let lease = Lease::none();
        assert_eq!(lease.number(), None);
        let extend = || lease.extend(Instant::now(), Duration::from_secs(10));
        extend();
        let number = lease.number();
        tokio::time::advance(Duration::from_secs(1)).await;
        extend();
        assert!(number.is_some() && lease.number() == number);
        lease.end();
        assert_eq!(lease.number(), None);
        extend();
        assert!(lease.number().is_some() && lease.number() != number);
    }

    #[tokio::test(start_paused = true)]
    async fn work_takes_no_step_after_it() {
        let lease = Lease::none();
        lease.extend(Instant::now(), Duration::from_secs(10));
        let steps = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            1
        };
        assert_eq!(lease.while_it_lasts(steps).await, Some(1));
        let steps = async {
            tokio::time::sleep(Duration::from_mins(1)).await;
            panic!("the lease was over");
        };
        assert_eq!(lease.while_it_lasts(steps).await, None::<()>);
    }
}
