//! What a lane owes: deliveries in memory and on their way, and what it knows of those that are in the store alone.

use std::collections::HashSet;

use super::queue::{Queue, Queued};
use crate::clock::UnixMicros;
use crate::delivery::retry::MAX_WAIT;
use crate::store::EventSeq;

#[derive(Default)]
pub(super) struct Backlog {
    pub(super) queue: Queue,
    /// Places promised to events that are being accepted.
    pub(super) reserved: usize,
    /// Taken from the queue, outcome not yet committed; or withheld. Not to be loaded again.
    pub(super) under_way: HashSet<EventSeq>,
    /// In an ordered lane: the first delivery that is in the store alone, as far as is known, and when it is due. It must
    /// end before later ones begin.
    pub(super) awaited: Option<(EventSeq, UnixMicros)>,
    /// When the earliest pending delivery in the store is due, apart from those in memory.
    pub(super) stored_due: Option<UnixMicros>,
    pub(super) load: Load,
    /// There are deliveries in the store that memory had no room for; new ones wait behind them.
    pub(super) has_overflow: bool,
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

impl Backlog {
    /// Whether an ordered lane waits for another one before it.
    pub(super) fn is_early(&self, queued: &Queued) -> bool {
        self.awaited.is_some_and(|(event, _)| event < queued.seq())
    }

    /// Whether an ordered lane can do nothing before it has read from the store.
    pub(super) fn is_blocked(&self) -> bool {
        self.awaited.is_some() && self.queue.first().is_none_or(|first| self.is_early(first))
    }

    /// Whether nothing is there that a probe could be made with.
    pub(super) fn has_no_probe(&self) -> bool {
        self.under_way.is_empty() && (self.queue.is_empty() || self.is_blocked())
    }

    /// A delivery is under way no more.
    pub(super) fn ended(&mut self, event: EventSeq) {
        self.under_way.remove(&event);
        if self.load.is_under_way {
            self.load.settled_meanwhile.insert(event);
        }
    }

    /// Something in the store is due at `at`. Returns whether that is the first to be, as far as was known.
    pub(super) fn note_due(&mut self, at: UnixMicros) -> bool {
        let is_first = self.stored_due.is_none_or(|due| at < due);
        self.stored_due = earlier(self.stored_due, Some(at));
        is_first
    }

    /// What is in the store is due, since long ago.
    pub(super) fn note_overdue(&mut self) {
        self.stored_due = Some(UnixMicros(0));
    }

    /// A delivery was changed in the store alone. An ordered lane holds back later ones until the store was asked.
    pub(super) fn ask_store_for(&mut self, event: EventSeq, is_ordered: bool) {
        self.note_overdue();
        if is_ordered && self.awaited.is_none_or(|(awaited, _)| event <= awaited) {
            self.awaited = Some((event, UnixMicros(0)));
        }
    }

    /// When there is something to load, and loading is not at rest.
    pub(super) fn load_due(&self, now: UnixMicros) -> Option<UnixMicros> {
        let due = self.stored_due?;
        let not_before = self.load.rest_until.max(self.awaited.map(|(_, at)| at));
        let at = not_before.map_or(due, |at| due.max(at));
        Some(if at > now.after(MAX_WAIT) { now } else { at })
    }

    /// Whether to read from the store now, if the lane can run. As for new events, a lane takes no more memory than it
    /// leaves free.
    pub(super) fn wants_load(&self, max_queued: usize, free_bytes: usize, now: UnixMicros) -> bool {
        // What an ordered lane waits for goes before what it holds, however much that is.
        let is_blocked = self.is_blocked();
        !self.load.is_under_way
            && self.load_due(now).is_some_and(|at| at <= now)
            && (is_blocked || self.queue.len() <= max_queued / 2)
            && (is_blocked || self.queue.is_empty() || self.queue.bytes() < free_bytes)
    }

    /// What a load must pass over.
    pub(super) fn held(&self) -> HashSet<EventSeq> {
        self.queue.events().chain(self.under_way.iter().copied()).collect()
    }
}

pub(super) fn earlier(a: Option<UnixMicros>, b: Option<UnixMicros>) -> Option<UnixMicros> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
