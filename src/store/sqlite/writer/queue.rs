//! Calls that wait for the writer, in fair order: tenants take turns, weighed by how much each of them writes.
//!
//! Each call gets a start in a time of its own that advances by what is written (Goyal, Vin and Cheng's start-time fair
//! queueing): that of the call being written, or the end of its tenant's last one, whichever is later. The earliest goes
//! first. So whoever has little to write waits for what is being written, and for nothing of what others queued before.

use std::collections::{BTreeMap, HashMap};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::Job;
use crate::store::gather::{MAX_COMMIT_ROWS, has_room};
use crate::store::sqlite::commit::Size;
use crate::webhook::TenantSeq;

/// While several tenants write, a commit is full at this weight (a row or a KiB weighs 1), or at the weight that is
/// written in the time of a sync, if that is more. So a tenant with little to write does not wait for a large commit.
const MIN_SHARED_WEIGHT: u64 = 256;
/// Several tenants count as writing for this long after two consecutive calls of different tenants.
const SHARED_FOR: Duration = Duration::from_secs(1);
/// Calls that are not urgent are held back for this long, so that they share the commit of others.
const PATIENCE: Duration = Duration::from_millis(3);
/// A commit with this many rows is worth its fsync, and is not held back.
const WORTHWHILE_ROWS: usize = 512;

/// The tenant of a call; `None`: the server itself.
type Owner = Option<TenantSeq>;

pub(super) struct Queue {
    calls: Receiver<Box<dyn Job>>,
    /// By their virtual start time, then in order of arrival.
    waiting: BTreeMap<(u64, u64), Box<dyn Job>>,
    count: u64,
    /// The virtual start time of the call that was taken last.
    now: u64,
    /// The virtual end time of the last call of each owner that has had a turn since the queue was empty.
    ends: HashMap<Owner, u64>,
    last: Owner,
    /// The time of the last two consecutive calls of different tenants.
    shared_at: Option<Instant>,
}

/// The result of a wait for calls.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Waited {
    Call,
    /// No call has come.
    Nothing,
    /// No call will come any more.
    Closed,
}

/// The size of a commit.
#[derive(Default)]
struct Load {
    calls: usize,
    rows: usize,
    bytes: usize,
    /// The weight of all calls but the first, which is taken whatever its weight.
    more: u64,
    is_urgent: bool,
}

impl Load {
    fn has_room_for(&self, size: Size, max_weight: Option<u64>) -> bool {
        let has_room = has_room(self.rows, self.bytes);
        self.calls == 0 || has_room && max_weight.is_none_or(|max| self.more + size.weight() as u64 <= max)
    }

    fn add(&mut self, size: Size) {
        self.more += if self.calls > 0 { size.weight() as u64 } else { 0 };
        self.calls += 1;
        self.rows += size.rows;
        self.bytes += size.bytes;
        self.is_urgent |= size.is_urgent;
    }
}

/// The speed of recent commits, in nanoseconds; 0: no commit yet.
#[derive(Default)]
pub(super) struct Pace {
    /// The average time to write a weight of 1.
    per_weight: u64,
    /// The shortest time of a sync, since a large commit makes its sync longer.
    sync: u64,
}

impl Pace {
    /// Notes a commit: its weight, the time of its writes, and the time of its sync.
    pub(super) fn note(&mut self, weight: u64, written: Duration, synced: Duration) {
        let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let (per_weight, sync) = (ns(written) / weight.max(1), ns(synced));
        if self.sync == 0 {
            *self = Self { per_weight, sync };
        }
        // Both averages follow a change within some dozen commits.
        self.per_weight = self.per_weight - self.per_weight / 8 + per_weight / 8;
        self.sync = sync.min(self.sync.saturating_add(self.sync / 16 + 1));
    }

    /// The most weight of a commit while several tenants write.
    fn shared_weight(&self) -> u64 {
        (self.sync / self.per_weight.max(1)).clamp(MIN_SHARED_WEIGHT, MAX_COMMIT_ROWS as u64)
    }
}

impl Queue {
    pub(super) fn new(calls: Receiver<Box<dyn Job>>) -> Self {
        let (waiting, ends) = (BTreeMap::new(), HashMap::new());
        Self { calls, waiting, count: 0, now: 0, ends, last: None, shared_at: None }
    }

    /// Whether no call waits.
    pub(super) fn is_idle(&mut self) -> bool {
        self.take_in();
        self.waiting.is_empty()
    }

    /// Waits for a call if the queue is empty.
    pub(super) fn wait(&mut self, patience: Duration) -> Waited {
        if !self.is_idle() {
            return Waited::Call;
        }
        match self.calls.recv_timeout(patience) {
            Ok(call) => {
                self.put(call);
                Waited::Call
            }
            Err(RecvTimeoutError::Timeout) => Waited::Nothing,
            Err(RecvTimeoutError::Disconnected) => Waited::Closed,
        }
    }

    /// The calls of the next commit, within the bounds of a transaction. Without an urgent call the commit is held back
    /// for a moment, since an outcome that shares the next event's commit costs no fsync of its own.
    pub(super) fn gather(&mut self, pace: &Pace) -> Vec<Box<dyn Job>> {
        let deadline = Instant::now() + PATIENCE;
        let (mut commit, mut load) = (Vec::new(), Load::default());
        loop {
            self.take_in();
            let is_shared = self.shared_at.is_some_and(|at| at.elapsed() < SHARED_FOR);
            let max_weight = is_shared.then(|| pace.shared_weight());
            while let Some(call) = self.next(&load, max_weight) {
                load.add(call.size());
                commit.push(call);
            }
            // Calls that still wait show that this commit is full.
            if load.is_urgent || load.rows >= WORTHWHILE_ROWS || !self.waiting.is_empty() {
                return commit;
            }
            match self.calls.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(call) => self.put(call),
                Err(_) => return commit,
            }
        }
    }

    fn take_in(&mut self) {
        while let Ok(call) = self.calls.try_recv() {
            self.put(call);
        }
    }

    fn put(&mut self, call: Box<dyn Job>) {
        let size = call.size();
        if self.waiting.is_empty() {
            // With an empty queue no owner is ahead of or behind the others.
            self.ends.clear();
        }
        if size.tenant.is_some() && size.tenant != self.last {
            if self.last.is_some() {
                self.shared_at = Some(Instant::now());
            }
            self.last = size.tenant;
        }
        let end = self.ends.entry(size.tenant).or_default();
        let start = self.now.max(*end);
        *end = start + size.weight() as u64;
        self.waiting.insert((start, self.count), call);
        self.count += 1;
    }

    /// The next call in turn, if the commit has room for it.
    fn next(&mut self, load: &Load, max_weight: Option<u64>) -> Option<Box<dyn Job>> {
        let first = self.waiting.first_entry()?;
        if !load.has_room_for(first.get().size(), max_weight) {
            return None;
        }
        self.now = first.key().0;
        Some(first.remove())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreError;
    use crate::store::sqlite::commit::Commit;
    use std::sync::mpsc::{self, Sender};

    /// A call that does nothing.
    struct Named(Size);

    impl Job for Named {
        fn size(&self) -> Size {
            self.0
        }
        fn apply(&mut self, _: &mut Commit<'_>) -> Result<(), rusqlite::Error> {
            Ok(())
        }
        fn answer(self: Box<Self>, _: Result<(), StoreError>) {}
    }

    fn queue() -> (Sender<Box<dyn Job>>, Queue) {
        let (calls, waiting) = mpsc::channel();
        (calls, Queue::new(waiting))
    }

    fn send(calls: &Sender<Box<dyn Job>>, tenant: i64, rows: usize) {
        let size = Size { rows, bytes: rows * 100, is_urgent: true, tenant: Some(TenantSeq(tenant)) };
        calls.send(Box::new(Named(size))).unwrap();
    }

    /// The tenants of the next commit.
    fn commit(queue: &mut Queue) -> Vec<i64> {
        let tenant = |call: Box<dyn Job>| call.size().tenant.map_or(0, |tenant| tenant.0);
        queue.gather(&Pace::default()).into_iter().map(tenant).collect()
    }

    #[test]
    fn a_tenant_alone_fills_commits() {
        let (calls, mut queue) = queue();
        for _ in 0..10 {
            send(&calls, 1, 1_000);
        }
        assert_eq!(commit(&mut queue).len(), 5);
        assert_eq!(commit(&mut queue).len(), 5);
        assert!(queue.is_idle());
    }

    #[test]
    fn who_has_little_to_write_is_next() {
        let (calls, mut queue) = queue();
        for _ in 0..10 {
            send(&calls, 1, 1_000);
        }
        send(&calls, 2, 1);
        // The first came before anybody else was there.
        assert_eq!(commit(&mut queue), [1, 2]);
        assert_eq!(commit(&mut queue), [1]);
        send(&calls, 2, 1);
        send(&calls, 3, 1);
        send(&calls, 2, 1);
        assert_eq!(commit(&mut queue), [2, 3, 2]);
        assert_eq!(commit(&mut queue), [1]);
    }

    #[test]
    fn a_shared_commit_is_as_long_as_its_sync() {
        let mut pace = Pace::default();
        assert_eq!(pace.shared_weight(), MIN_SHARED_WEIGHT);
        pace.note(100, Duration::from_micros(500), Duration::from_millis(5));
        assert_eq!(pace.shared_weight(), 1_000);
        // A disk that has become faster, and one that has become slow.
        pace.note(1_000, Duration::from_millis(5), Duration::from_micros(50));
        assert_eq!(pace.shared_weight(), MIN_SHARED_WEIGHT);
        for _ in 0..200 {
            pace.note(100, Duration::from_micros(500), Duration::from_millis(500));
        }
        assert_eq!(pace.shared_weight(), MAX_COMMIT_ROWS as u64);
    }

    #[test]
    fn a_shared_commit_keeps_to_the_bounds_of_all() {
        let (calls, mut queue) = queue();
        let mut slow = Pace::default();
        slow.note(1, Duration::ZERO, Duration::MAX);
        for tenant in [1, 2, 1, 2, 1] {
            let size = Size { rows: 1, bytes: 1 << 20, is_urgent: true, tenant: Some(TenantSeq(tenant)) };
            calls.send(Box::new(Named(size))).unwrap();
        }
        let commits: Vec<usize> = (0..3).map(|_| queue.gather(&slow).len()).collect();
        assert_eq!(commits, [2, 2, 1], "of 2 MiB");
    }

    #[test]
    fn what_is_written_is_shared_by_its_weight() {
        let (calls, mut queue) = queue();
        for _ in 0..100 {
            send(&calls, 1, 1_000);
            for _ in 0..4 {
                send(&calls, 2, 250);
            }
        }
        let mut rows = [0; 3];
        for _ in 0..60 {
            for call in queue.gather(&Pace::default()) {
                let tenant = usize::try_from(call.size().tenant.unwrap().0).unwrap();
                rows[tenant] += call.size().rows;
            }
        }
        assert!(rows[1].abs_diff(rows[2]) <= 1_000, "{rows:?}");
        assert!(!queue.is_idle());
    }

    #[test]
    fn who_was_silent_has_saved_up_nothing() {
        let (calls, mut queue) = queue();
        for _ in 0..100 {
            send(&calls, 1, 1_000);
        }
        for _ in 0..10 {
            queue.gather(&Pace::default());
        }
        for _ in 0..50 {
            send(&calls, 2, 1_000);
        }
        let turns: Vec<i64> = (0..10).flat_map(|_| commit(&mut queue)).collect();
        assert_eq!(turns.iter().filter(|tenant| **tenant == 2).count(), 5, "{turns:?}");
    }
}
