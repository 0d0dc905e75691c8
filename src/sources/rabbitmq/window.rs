//! How many messages the server may send ahead, and those that it sent. The server knows no bound of bytes: where what
//! waits here is too much, it is given back, and the server may send fewer ahead from then on.

use std::collections::VecDeque;

use lapin::message::Delivery;

use crate::sources::door::{MAX_BYTES_TOGETHER, MAX_TOGETHER};

/// The most bytes of messages that wait for those under way, unless one alone has more.
pub(super) const MAX_HELD_BYTES: usize = 32 << 20;
/// So many messages after the window became smaller, it doubles.
const GROW_AFTER: usize = 1_024;

/// The number of messages that the server may send ahead.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Window {
    most: u16,
    now: u16,
    /// Messages that were accepted since it changed.
    accepted: usize,
}

impl Window {
    pub(super) fn new(most: u16) -> Self {
        Self { most, now: most, accepted: 0 }
    }

    pub(super) fn size(&self) -> u16 {
        self.now
    }

    /// Messages were accepted. Returns whether it grew.
    pub(super) fn accepted(&mut self, messages: usize) -> bool {
        self.accepted += messages;
        let grows = self.now < self.most && self.accepted >= GROW_AFTER;
        if grows {
            (self.now, self.accepted) = (self.now.saturating_mul(2).min(self.most), 0);
        }
        grows
    }

    /// What was sent ahead was too much.
    pub(super) fn overflowed(&mut self, messages: usize, bytes: usize) {
        let mean = bytes / messages.max(1);
        let fitting = u16::try_from(MAX_HELD_BYTES / 2 / mean.max(1)).unwrap_or(u16::MAX);
        (self.now, self.accepted) = (fitting.min(self.now / 2).max(1), 0);
    }
}

/// The messages that were sent ahead.
#[derive(Debug, Default)]
pub(super) struct Held {
    deliveries: VecDeque<Delivery>,
    bytes: usize,
}

impl Held {
    pub(super) fn push(&mut self, delivery: Delivery) {
        self.bytes += delivery.data.len();
        self.deliveries.push_back(delivery);
    }

    pub(super) fn len(&self) -> usize {
        self.deliveries.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is enough for one transaction.
    pub(super) fn is_enough(&self) -> bool {
        self.deliveries.len() >= MAX_TOGETHER || self.bytes >= MAX_BYTES_TOGETHER
    }

    pub(super) fn is_over(&self) -> bool {
        self.bytes > MAX_HELD_BYTES
    }

    /// The first ones, as many as are accepted together.
    pub(super) fn batch(&mut self) -> Vec<Delivery> {
        let mut bytes = 0;
        let fits = |delivery: &&Delivery| {
            bytes += delivery.data.len();
            bytes <= MAX_BYTES_TOGETHER
        };
        let fitting = self.deliveries.iter().take(MAX_TOGETHER).take_while(fits).count();
        let count = fitting.max(1).min(self.deliveries.len());
        let batch: Vec<Delivery> = self.deliveries.drain(..count).collect();
        self.bytes -= batch.iter().map(|delivery| delivery.data.len()).sum::<usize>();
        batch
    }

    pub(super) fn take(&mut self) -> impl Iterator<Item = Delivery> {
        std::mem::take(self).deliveries.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(tag: u64, bytes: usize) -> Delivery {
        Delivery::mock(tag, "".into(), "".into(), false, vec![b'x'; bytes])
    }

    #[test]
    fn a_batch_is_bounded_and_has_at_least_one() {
        let mut held = Held::default();
        for tag in 0..300 {
            held.push(delivery(tag, 10));
        }
        assert!(held.is_enough() && !held.is_over());
        assert_eq!((held.batch().len(), held.batch().len(), held.bytes()), (MAX_TOGETHER, 44, 0));
        held.push(delivery(0, MAX_HELD_BYTES + 1));
        held.push(delivery(1, 1));
        assert!(held.is_over());
        assert_eq!((held.batch().len(), held.bytes(), held.is_over()), (1, 1, false));
    }

    #[test]
    fn a_window_follows_the_size_of_messages_and_grows_again() {
        let mut window = Window::new(256);
        window.overflowed(16, 16 << 20);
        assert_eq!(window.size(), 16, "messages of a MiB");
        window.overflowed(2, 40 << 20);
        assert_eq!(window.size(), 1, "messages of 20 MiB");
        for expected in [2, 4, 8, 16, 32, 64, 128, 256] {
            assert!(!window.accepted(GROW_AFTER - 1));
            assert!(window.accepted(1));
            assert_eq!(window.size(), expected);
        }
        assert!(!window.accepted(10 * GROW_AFTER));
    }
}
