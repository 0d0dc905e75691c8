//! How much of the events that wait or are under way is in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::event::MAX_EVENT_BYTES;
use crate::store::LiveEvent;

/// The cost of an event beside its body: headers, queue entries, allocations.
const EVENT_OVERHEAD_BYTES: usize = 512;

/// The least bound: room for some events of the largest size, without which a lane could not go on.
pub const MIN_MEMORY_BYTES: usize = 4 * MAX_EVENT_BYTES;

/// A bound on the bytes of all events in memory.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    used_bytes: Arc<AtomicUsize>,
    max_bytes: usize,
}

/// A share of the bound, given back when dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    used_bytes: Arc<AtomicUsize>,
    bytes: usize,
}

/// An event in memory, with the share that it takes. Shared by all lanes that hold it.
#[derive(Debug)]
pub(crate) struct HeldEvent {
    pub(crate) live: Arc<LiveEvent>,
    charge: Charge,
}

impl HeldEvent {
    /// The event's share of the bound.
    pub(super) fn bytes(&self) -> usize {
        self.charge.bytes
    }
}

impl Memory {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { used_bytes: Arc::default(), max_bytes: max_bytes.max(MIN_MEMORY_BYTES) }
    }

    pub(super) fn used_bytes(&self) -> usize {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// Free bytes.
    pub(super) fn free_bytes(&self) -> usize {
        self.max_bytes.saturating_sub(self.used_bytes())
    }

    /// The number of further events with a body of `body_bytes` that fit. A lane may hold no more than this number, so
    /// that a slow lane leaves half of the free memory to others (Choudhury and Hahne's dynamic threshold, 1998).
    pub(crate) fn room_for(&self, body_bytes: usize) -> usize {
        self.free_bytes() / (body_bytes + EVENT_OVERHEAD_BYTES)
    }

    /// A share for an event with a body of `body_bytes`, or `None` when the bound is reached.
    pub(crate) fn charge(&self, body_bytes: usize) -> Option<Charge> {
        let bytes = body_bytes + EVENT_OVERHEAD_BYTES;
        let before = self.used_bytes.fetch_add(bytes, Ordering::Relaxed);
        let charge = Charge { used_bytes: Arc::clone(&self.used_bytes), bytes };
        (before + bytes <= self.max_bytes).then_some(charge)
    }
}

impl Charge {
    pub(crate) fn hold(self, live: Arc<LiveEvent>) -> Arc<HeldEvent> {
        Arc::new(HeldEvent { live, charge: self })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.used_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_beyond_the_bound_and_takes_back_what_is_dropped() {
        let half = MIN_MEMORY_BYTES / 2 - EVENT_OVERHEAD_BYTES;
        let memory = Memory::new(0);
        assert_eq!(memory.room_for(half), 2);
        let first = memory.charge(half).expect("there is room for two");
        let second = memory.charge(half).expect("there is room for two");
        assert!(memory.charge(0).is_none());
        assert_eq!((memory.room_for(half), memory.free_bytes()), (0, 0));
        drop(first);
        assert!(memory.charge(half).is_some());
        drop(second);
        assert_eq!((memory.used_bytes(), memory.room_for(half)), (0, 2));
    }
}
