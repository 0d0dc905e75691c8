//! The memory window: which events still have deliveries that no row speaks of.
//!
//! Events are numbered without gaps, so the window is an array of counts that begins at the low-water
//! mark. It changes with a transaction: either everything since the last [`Window::keep`] stays, or
//! [`Window::undo`] puts it back.

use std::collections::VecDeque;

use crate::delivery::id::EventSeq;
use crate::fit::fit;

/// Counts of rowless deliveries, by event, from the low-water mark to the newest event.
#[derive(Debug)]
pub(super) struct Window {
    base: i64,
    rowless: VecDeque<u32>,
    /// Events added since the last `keep`.
    added: usize,
    /// Deliveries that got rows since the last `keep`: the event's position and the number of deliveries.
    taken: Vec<(usize, u32)>,
}

impl Window {
    /// An empty window; the next event is `next`.
    pub(super) fn starting_at(next: EventSeq) -> Self {
        Self { base: next.0, rowless: VecDeque::new(), added: 0, taken: Vec::new() }
    }

    /// The number that the next event gets.
    pub(super) fn next_event(&self) -> EventSeq {
        EventSeq(self.base + position_to_i64(self.rowless.len()))
    }

    /// Adds the next event, of which `rowless` deliveries have no row.
    pub(super) fn push(&mut self, rowless: u32) {
        self.rowless.push_back(rowless);
        self.added += 1;
    }

    /// Takes back the last event that was added in this transaction.
    pub(super) fn withdraw(&mut self) {
        if self.added > 0 {
            self.rowless.pop_back();
            self.added -= 1;
        }
    }

    /// The number of an event's deliveries without a row; 0 if the event is not in the window.
    pub(super) fn rowless(&self, event: EventSeq) -> u32 {
        self.position(event).and_then(|position| self.rowless.get(position)).copied().unwrap_or(0)
    }

    /// Notes that `count` deliveries of an event got rows.
    pub(super) fn take(&mut self, event: EventSeq, count: u32) {
        let Some(position) = self.position(event) else { return };
        if let Some(rowless) = self.rowless.get_mut(position) {
            let taken = count.min(*rowless);
            *rowless -= taken;
            self.taken.push((position, taken));
        }
    }

    /// The first event with a rowless delivery, or the next event's number.
    pub(super) fn low_water(&self) -> EventSeq {
        EventSeq(self.base + position_to_i64(self.leading_zeros()))
    }

    /// Whether nothing has changed since the last `keep`.
    pub(super) fn is_unchanged(&self) -> bool {
        self.added == 0 && self.taken.is_empty()
    }

    /// Keeps the changes of a committed transaction.
    pub(super) fn keep(&mut self) {
        let ended = self.leading_zeros();
        self.rowless.drain(..ended);
        self.base += position_to_i64(ended);
        self.added = 0;
        self.taken.clear();
    }

    /// Undoes the changes of a transaction that was rolled back.
    pub(super) fn undo(&mut self) {
        for (position, count) in self.taken.drain(..) {
            if let Some(rowless) = self.rowless.get_mut(position) {
                *rowless += count;
            }
        }
        self.rowless.truncate(self.rowless.len() - self.added);
        self.added = 0;
    }

    fn position(&self, event: EventSeq) -> Option<usize> {
        usize::try_from(event.0.checked_sub(self.base)?).ok()
    }

    fn leading_zeros(&self) -> usize {
        self.rowless.iter().take_while(|rowless| **rowless == 0).count()
    }
}

fn position_to_i64(position: usize) -> i64 {
    fit(position, i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(counts: &[u32]) -> Window {
        let mut window = Window::starting_at(EventSeq(10));
        for count in counts {
            window.push(*count);
        }
        window.keep();
        window
    }

    #[test]
    fn the_low_water_mark_waits_for_the_oldest_event() {
        let mut window = window(&[2, 1, 1]);
        window.take(EventSeq(11), 1);
        window.take(EventSeq(10), 1);
        window.keep();
        assert_eq!(window.low_water(), EventSeq(10));
        window.take(EventSeq(10), 1);
        assert_eq!(window.low_water(), EventSeq(12));
        window.keep();
        assert_eq!((window.low_water(), window.rowless.len(), window.next_event()), (EventSeq(12), 1, EventSeq(13)));
        assert_eq!(window.rowless(EventSeq(10)), 0);
        assert_eq!(window.rowless(EventSeq(12)), 1);
        assert_eq!(window.rowless(EventSeq(13)), 0);
    }

    #[test]
    fn a_rolled_back_transaction_leaves_no_trace() {
        let mut window = window(&[1, 3]);
        window.take(EventSeq(10), 1);
        window.push(5);
        window.take(EventSeq(12), 2);
        window.take(EventSeq(11), 3);
        window.undo();
        assert_eq!(window.next_event(), EventSeq(12));
        assert_eq!((window.rowless(EventSeq(10)), window.rowless(EventSeq(11))), (1, 3));
        window.push(0);
        window.keep();
        assert_eq!((window.low_water(), window.next_event()), (EventSeq(10), EventSeq(13)));
    }

    #[test]
    fn events_without_rowless_deliveries_pass_through() {
        let window = window(&[0, 0, 0]);
        assert_eq!((window.rowless.len(), window.low_water()), (0, EventSeq(13)));
    }
}
