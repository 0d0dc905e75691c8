//! What a lane knows, behind its lock, and the rules by which that changes. Pure but for waking workers.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, Id};

use super::queue::{Queue, Queued};
use crate::clock::UnixMicros;
use crate::delivery::retry::Schedule;
use crate::dispatcher::breaker::Breaker;
use crate::dispatcher::memory::Memory;
use crate::store::EventSeq;
use crate::webhook::{Webhook, WebhookRecord};

/// A lane opens another connection at once when more deliveries than this wait for each that it has.
/// Fewer are left to those it has, since a connection costs many times what a request on an open one does;
/// should these hang, [`Lane::relieve`](super::Lane::relieve) finds out.
const MAX_WAITING_PER_WORKER: usize = 8;
/// What workers need to know of the webhook; replaced whole when the webhook changes.
pub(in crate::dispatcher) struct LaneSettings {
    pub(in crate::dispatcher) version: i64,
    pub(in crate::dispatcher) name: String,
    pub(in crate::dispatcher) receiver: Webhook,
    pub(in crate::dispatcher) schedule: Schedule,
    pub(super) max_in_flight: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Running,
    /// Disabled by its owner: what is pending waits in the store.
    Paused,
    /// Deleted: what is pending is discarded.
    Removed,
    /// The node shuts down: what is pending is read back at the next start.
    Stopped,
}

pub(super) struct State {
    pub(super) settings: Arc<LaneSettings>,
    pub(super) mode: Mode,
    pub(super) breaker: Breaker,
    pub(super) queue: Queue,
    /// Places promised to events that are being accepted.
    pub(super) reserved: usize,
    /// Taken from the queue, outcome not yet committed: not to be loaded again.
    pub(super) under_way: HashSet<EventSeq>,
    pub(super) workers: HashMap<Id, AbortHandle>,
    pub(super) idle_workers: usize,
    /// Deliveries wait for hands: the dispatcher looks after this lane.
    pub(super) is_crowded: bool,
    /// Jobs taken in all, and how many it were when the dispatcher last looked.
    pub(super) jobs_taken: u64,
    pub(super) jobs_seen: u64,
    /// When the earliest pending delivery in the store is due, apart from those in memory.
    pub(super) stored_due: Option<UnixMicros>,
    pub(super) load: Load,
    /// There are deliveries in the store that memory had no room for; new ones wait behind them.
    pub(super) has_overflow: bool,
    pub(super) is_health_dirty: bool,
    pub(super) success_flushed_at: Option<UnixMicros>,
}

/// Reading from the store, which goes on beside everything else.
#[derive(Default)]
pub(super) struct Load {
    pub(super) is_under_way: bool,
    /// Something in the store is due, or will be when it is committed: load when the queue has room.
    pub(super) is_wanted: bool,
    /// The store failed or memory was full: not again before this.
    pub(super) rest_until: Option<UnixMicros>,
    /// Settled since the load under way began: what it read of them may be old.
    pub(super) settled_meanwhile: HashSet<EventSeq>,
}

/// What the caller of a lane's method must do, after the lock.
#[derive(Default)]
#[must_use]
pub(in crate::dispatcher) struct Todo {
    pub(in crate::dispatcher) start_workers: usize,
    /// Look after this lane with [`Lane::relieve`](super::Lane::relieve).
    pub(in crate::dispatcher) look_after: bool,
    pub(in crate::dispatcher) load: bool,
    /// Set an alarm: something in the store becomes due.
    pub(in crate::dispatcher) wake_at: Option<UnixMicros>,
    /// Deliveries that leave memory undelivered, with their places in the store to be written.
    pub(in crate::dispatcher) evicted: Vec<Queued>,
    /// The evicted ones are to be discarded, the stored ones too.
    pub(in crate::dispatcher) discard: bool,
}

impl LaneSettings {
    pub(super) fn new(record: &WebhookRecord, default_schedule: &Schedule) -> Arc<Self> {
        let settings = &record.settings;
        Arc::new(Self {
            version: record.version,
            name: settings.name.clone(),
            receiver: settings.receiver.clone(),
            schedule: settings.retry_schedule.clone().unwrap_or_else(|| default_schedule.clone()),
            max_in_flight: settings.max_in_flight as usize,
        })
    }
}

impl Mode {
    pub(super) fn of(record: &WebhookRecord) -> Self {
        if record.settings.enabled { Self::Running } else { Self::Paused }
    }
}

impl State {
    pub(super) fn new(record: &WebhookRecord, default_schedule: &Schedule, threshold: u32) -> Self {
        Self {
            settings: LaneSettings::new(record, default_schedule),
            mode: Mode::of(record),
            breaker: Breaker::new(record.health.clone(), threshold),
            queue: Queue::default(),
            reserved: 0,
            under_way: HashSet::new(),
            workers: HashMap::new(),
            idle_workers: 0,
            is_crowded: false,
            jobs_taken: 0,
            jobs_seen: 0,
            stored_due: None,
            load: Load::default(),
            has_overflow: false,
            is_health_dirty: false,
            success_flushed_at: record.health.last_success_at,
        }
    }

    pub(super) fn can_run(&self) -> bool {
        self.mode == Mode::Running && !self.breaker.is_open()
    }

    /// A delivery is under way no more.
    pub(super) fn leave(&mut self, event: EventSeq) {
        self.under_way.remove(&event);
        if self.load.is_under_way {
            self.load.settled_meanwhile.insert(event);
        }
    }

    /// Whether to read from the store now. As for new events, a lane takes no more memory than it leaves free.
    pub(super) fn wants_load(&self, max_queued: usize, memory: &Memory, now: UnixMicros) -> bool {
        self.can_run()
            && !self.load.is_under_way
            && self.load_due().is_some_and(|at| at <= now)
            && self.queue.len() <= max_queued / 2
            && (self.queue.is_empty() || self.queue.bytes() < memory.free_bytes())
    }

    /// When there is something to load, and loading is not at rest.
    pub(super) fn load_due(&self) -> Option<UnixMicros> {
        self.stored_due.map(|at| self.load.rest_until.map_or(at, |rest| at.max(rest)))
    }

    /// Finds hands for `jobs` new jobs: idle workers first, then new ones up to the cap.
    pub(super) fn employ(&mut self, jobs: usize, wake: &Semaphore) -> Todo {
        let woken = jobs.min(self.idle_workers);
        self.idle_workers -= woken;
        wake.add_permits(woken);
        let waiting = jobs - woken;
        let needed = if self.workers.is_empty() {
            waiting.min(1 + self.queue.len() / MAX_WAITING_PER_WORKER)
        } else {
            waiting.min((self.queue.len() / MAX_WAITING_PER_WORKER).saturating_sub(self.workers.len()))
        };
        let start_workers = needed.min(self.room_for_workers());
        let look_after = waiting > start_workers && !self.is_crowded && self.room_for_workers() > 0;
        self.is_crowded |= look_after;
        Todo { start_workers, look_after, ..Todo::default() }
    }

    /// While the last attempt failed, or there was none, one worker is enough to find out: so many dead
    /// webhooks do not stand in each other's way, and a circuit opens after as many attempts as it should.
    pub(super) fn room_for_workers(&self) -> usize {
        let cap = if self.breaker.is_proven() { self.settings.max_in_flight } else { 1 };
        cap.saturating_sub(self.workers.len())
    }

    pub(super) fn resume(&mut self, wake: &Semaphore) -> Todo {
        let jobs = self.queue.len();
        Todo { load: self.stored_due.is_some(), ..self.employ(jobs, wake) }
    }

    /// Empties the queue, because nothing will be attempted for now or ever.
    pub(super) fn evict(&mut self) -> Todo {
        if self.mode == Mode::Stopped {
            self.queue.take_all();
            return Todo::default();
        }
        if self.queue.has_stored() {
            // They go back to where they were, due since long ago.
            self.stored_due = Some(UnixMicros(0));
        }
        Todo { evicted: self.queue.take_all(), discard: self.mode == Mode::Removed, ..Todo::default() }
    }
}

pub(super) fn earlier(a: Option<UnixMicros>, b: Option<UnixMicros>) -> Option<UnixMicros> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
