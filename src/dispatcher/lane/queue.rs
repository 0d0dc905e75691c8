//! The deliveries of a lane that wait in memory, and how much of it they take.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::Instant;

use super::suspects::{Pick, Suspects};
use crate::clock::UnixMicros;
use crate::dispatcher::memory::{Charge, HeldEvent};
use crate::store::{DueDelivery, EventSeq};

/// A delivery in memory.
#[derive(Clone)]
pub(in crate::dispatcher) struct Queued {
    pub(in crate::dispatcher) event: Arc<HeldEvent>,
    pub(in crate::dispatcher) attempts: u32,
    pub(in crate::dispatcher) round_attempts: u32,
    /// It was read from the store, which has a row for it.
    pub(in crate::dispatcher) is_stored: bool,
    /// Since when its age counts.
    pub(in crate::dispatcher) begins_at: UnixMicros,
    /// Since when it waits in memory.
    pub(in crate::dispatcher) waits_since: Instant,
    /// Set after a batch with it was refused: the first of its half, with which alone it goes.
    pub(in crate::dispatcher) half: Option<EventSeq>,
}

impl Queued {
    /// A delivery as it was read from the store, in the room of `charge`.
    pub(in crate::dispatcher) fn stored(delivery: DueDelivery, charge: Charge, waits_since: Instant) -> Self {
        Self {
            event: charge.hold(delivery.event),
            attempts: delivery.attempts,
            round_attempts: delivery.round_attempts,
            is_stored: true,
            begins_at: delivery.begins_at,
            waits_since,
            half: None,
        }
    }

    /// The store gave back another event than it got.
    pub(in crate::dispatcher) fn is_damaged(&self) -> bool {
        self.event.live.is_damaged
    }

    pub(in crate::dispatcher) fn seq(&self) -> EventSeq {
        self.event.live.seq
    }
}

#[derive(Default)]
pub(super) struct Queue {
    entries: VecDeque<Queued>,
    bytes: usize,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of memory that its events take, each counted whole though other lanes may hold it too.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn events(&self) -> impl Iterator<Item = EventSeq> + '_ {
        self.entries.iter().map(Queued::seq)
    }

    /// Those that the store has no row for.
    pub(super) fn unstored(&self) -> impl Iterator<Item = &Queued> {
        self.entries.iter().filter(|queued| !queued.is_stored)
    }

    pub(super) fn has_stored(&self) -> bool {
        self.entries.iter().any(|queued| queued.is_stored)
    }

    pub(super) fn push(&mut self, queued: Queued) {
        self.bytes += queued.event.bytes();
        self.entries.push_back(queued);
    }

    /// Puts back what was taken from the front, in its order.
    pub(super) fn push_front(&mut self, taken: Vec<Queued>) {
        for queued in taken.into_iter().rev() {
            self.bytes += queued.event.bytes();
            self.entries.push_front(queued);
        }
    }

    /// Puts it where the order of acceptance wants it.
    pub(super) fn insert_in_order(&mut self, queued: Queued) {
        self.bytes += queued.event.bytes();
        let place = self.entries.partition_point(|other| other.seq() < queued.seq());
        self.entries.insert(place, queued);
    }

    pub(super) fn first(&self) -> Option<&Queued> {
        self.entries.front()
    }

    pub(super) fn pop(&mut self) -> Option<Queued> {
        let queued = self.entries.pop_front()?;
        self.bytes -= queued.event.bytes();
        Some(queued)
    }

    /// Takes one from where `pick` says, or the next behind it that is none of `suspects`; if there are no others, the
    /// first.
    pub(super) fn take_beside(&mut self, suspects: &Suspects) -> Option<Queued> {
        let len = self.entries.len();
        let is_free = |place: &usize| !suspects.contains(self.entries[*place].seq());
        let place = match suspects.pick() {
            Pick::First => Some(0),
            Pick::Last => (0..len).rev().find(is_free),
            Pick::At(share) => {
                let from = (len * usize::from(share)) >> u16::BITS;
                (from..len).chain(0..from).find(is_free)
            }
        };
        let queued = self.entries.remove(place.unwrap_or_default())?;
        self.bytes -= queued.event.bytes();
        Some(queued)
    }

    pub(super) fn take_out(&mut self, event: EventSeq) -> Option<Queued> {
        let place = self.entries.iter().position(|queued| queued.seq() == event)?;
        let queued = self.entries.remove(place)?;
        self.bytes -= queued.event.bytes();
        Some(queued)
    }

    /// Takes out all that are as old.
    pub(super) fn take_begun_before(&mut self, cutoff: UnixMicros) -> Vec<Queued> {
        if !self.entries.iter().any(|queued| queued.begins_at <= cutoff) {
            return Vec::new();
        }
        let (old, young): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.entries).into_iter().partition(|queued| queued.begins_at <= cutoff);
        self.entries = young.into();
        self.bytes -= old.iter().map(|queued| queued.event.bytes()).sum::<usize>();
        old
    }

    pub(super) fn take_all(&mut self) -> Vec<Queued> {
        self.bytes = 0;
        std::mem::take(&mut self.entries).into()
    }
}
