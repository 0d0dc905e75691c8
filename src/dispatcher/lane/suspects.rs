//! Deliveries whose last attempt failed. A receiver may be unable to digest some events and take all others: what it cannot
//! digest must not hold up the rest. Pure.

use std::collections::VecDeque;

use crate::store::{EventSeq, Probe};

/// The most deliveries of a lane that are remembered because their last attempt failed.
pub(super) const MAX_SUSPECTS: usize = 64;

/// What is known of failures since the lane began here.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    /// The one that failed last is the last.
    entries: VecDeque<Suspect>,
    /// Failures since an attempt went well.
    row: u32,
}

#[derive(Debug)]
struct Suspect {
    event: EventSeq,
    /// The receiver has answered well to another since: a failure of this one speaks against this one.
    is_cleared: bool,
}

/// Which delivery of a queue is to be attempted next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pick {
    First,
    Last,
    /// The one that has so many 65,536ths of the queue before it.
    At(u16),
}

impl Suspects {
    /// An attempt for `event` failed. Whether the receiver took another one since the last time.
    pub(super) fn failed(&mut self, event: EventSeq) -> bool {
        self.row = self.row.saturating_add(1);
        let known = self.forget(event);
        if self.entries.len() >= MAX_SUSPECTS {
            self.entries.pop_front();
        }
        let is_cleared = known.is_some_and(|suspect| suspect.is_cleared);
        self.entries.push_back(Suspect { event, is_cleared });
        is_cleared
    }

    /// The receiver has answered well to `event`, which is settled; so it works.
    pub(super) fn went_well(&mut self, event: Option<EventSeq>) {
        if self.row == 0 && self.entries.is_empty() {
            return;
        }
        self.row = 0;
        if let Some(event) = event {
            self.forget(event);
        }
        self.entries.iter_mut().for_each(|suspect| suspect.is_cleared = true);
    }

    /// The receiver fails whatever it gets.
    pub(super) fn circuit_opened(&mut self) {
        self.entries.iter_mut().for_each(|suspect| suspect.is_cleared = false);
    }

    fn forget(&mut self, event: EventSeq) -> Option<Suspect> {
        let place = self.entries.iter().position(|suspect| suspect.event == event)?;
        self.entries.remove(place)
    }

    pub(super) fn contains(&self, event: EventSeq) -> bool {
        self.entries.iter().any(|suspect| suspect.event == event)
    }

    /// What a circuit is probed with after `failed` probes: the newest of what waits, the oldest, and so on from both ends
    /// to the middle; none of the suspects.
    pub(super) fn probe(&self, failed: u32) -> Probe {
        Probe {
            newest_first: failed.is_multiple_of(2),
            share: spread(failed / 2),
            avoided: self.entries.iter().map(|suspect| suspect.event).collect(),
        }
    }

    /// After a failure another part of the queue is tried each time: the end, the middle, the quarters, and so on. So
    /// events that the receiver takes are found, wherever they are.
    pub(super) fn pick(&self) -> Pick {
        match self.row {
            0 => Pick::First,
            1 => Pick::Last,
            row => Pick::At(spread(row - 1)),
        }
    }
}

/// The n-th of places that are spread evenly: nothing, the middle, the quarters, the eighths, and so on (van der Corput's
/// sequence), in 65,536ths.
fn spread(n: u32) -> u16 {
    let [high, low, ..] = n.reverse_bits().to_be_bytes();
    u16::from_be_bytes([high, low])
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: EventSeq = EventSeq(1);
    const B: EventSeq = EventSeq(2);

    #[test]
    fn a_delivery_that_fails_while_others_succeed_speaks_against_itself_alone() {
        let mut suspects = Suspects::default();
        assert!(!suspects.failed(A), "who knows");
        assert!(!suspects.failed(A), "nothing else was tried");
        suspects.went_well(Some(B));
        assert!(suspects.failed(A), "another one went well");
        suspects.circuit_opened();
        assert!(!suspects.failed(A), "nothing goes well any more");
        suspects.went_well(Some(A));
        assert!(!suspects.contains(A) && !suspects.failed(A), "it went well itself");
    }

    #[test]
    fn after_failures_the_whole_queue_is_looked_through() {
        let mut suspects = Suspects::default();
        let mut picks = Vec::new();
        for event in 0..6 {
            picks.push(suspects.pick());
            suspects.failed(EventSeq(event));
        }
        let eighth = u16::MAX / 8 + 1;
        let at = |eighths: u16| Pick::At(eighths * eighth);
        assert_eq!(picks, [Pick::First, Pick::Last, at(4), at(2), at(6), at(1)]);
        suspects.went_well(None);
        assert_eq!(suspects.pick(), Pick::First);
    }

    #[test]
    fn probes_look_through_what_waits_from_both_ends() {
        let probes = (0..6).map(|failed| Suspects::default().probe(failed));
        let places: Vec<_> = probes.map(|probe| (probe.newest_first, probe.share)).collect();
        let half = u16::MAX / 2 + 1;
        assert_eq!(places, [(true, 0), (false, 0), (true, half), (false, half), (true, half / 2), (false, half / 2)]);
    }

    #[test]
    fn only_the_latest_are_remembered() {
        let mut suspects = Suspects::default();
        for event in 0..=MAX_SUSPECTS {
            suspects.failed(EventSeq(i64::try_from(event).unwrap()));
        }
        assert_eq!(suspects.probe(0).avoided.len(), MAX_SUSPECTS);
        assert!(!suspects.contains(EventSeq(0)) && suspects.contains(A));
    }
}
