//! Messages of an origin that does not wait: they are taken at once, and wait here for their commit. When the queue is
//! full, the oldest ones are lost, and counted.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::door::{Door, MAX_BYTES_TOGETHER, MAX_TOGETHER};
use super::{Message, SourceError, Status};

/// The most messages in a queue.
pub(crate) const MAX_QUEUED_MESSAGES: usize = 65_536;
/// The most bytes of the messages in a queue.
pub(crate) const MAX_QUEUED_BYTES: usize = 64 << 20;

#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    is_filled: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    messages: VecDeque<Message>,
    bytes: usize,
    /// Of the first messages: they are being accepted, and are neither lost nor given out again.
    under_way: usize,
}

impl Queue {
    /// Adds a message. Returns how many older ones were lost for it.
    pub(super) fn push(&self, message: Message, status: &Status) -> u64 {
        let mut waiting = self.waiting.lock();
        waiting.bytes += size(&message);
        waiting.messages.push_back(message);
        let mut lost = 0;
        while waiting.is_too_full() {
            let oldest = waiting.under_way;
            let Some(message) = waiting.messages.remove(oldest) else { break };
            waiting.bytes -= size(&message);
            lost += 1;
        }
        status.lost.fetch_add(lost, Ordering::Relaxed);
        waiting.show(status);
        drop(waiting);
        self.is_filled.notify_one();
        lost
    }

    /// Gives the door what waits and what comes, for ever.
    pub(super) async fn accept(&self, door: &Door) -> Result<(), SourceError> {
        loop {
            let messages = self.first().await;
            door.accept(&messages).await?;
            self.done(door.status());
        }
    }

    /// Gives the door what waits, within a time. The log says what is left then.
    pub(super) async fn drain(&self, door: &Door, within: Duration) {
        let draining = async {
            while let Some(messages) = self.try_first() {
                door.accept(&messages).await?;
                self.done(door.status());
            }
            Ok::<(), SourceError>(())
        };
        let _ = tokio::time::timeout(within, draining).await;
        let left = self.len();
        if left > 0 {
            tracing::warn!(source = door.status().name(), left, "messages that were read were not accepted in time");
        }
    }

    /// The oldest messages, which stay in the queue until [`Queue::done`]. Waits for one. Messages that were given out
    /// and are not done are given out again.
    async fn first(&self) -> Vec<Message> {
        loop {
            let filled = self.is_filled.notified();
            if let Some(messages) = self.try_first() {
                return messages;
            }
            filled.await;
        }
    }

    fn try_first(&self) -> Option<Vec<Message>> {
        let mut waiting = self.waiting.lock();
        let mut bytes = 0;
        let fits = |message: &&Message| {
            bytes += size(message);
            bytes <= MAX_BYTES_TOGETHER
        };
        let fitting = waiting.messages.iter().take(MAX_TOGETHER).take_while(fits).count();
        let count = fitting.max(1).min(waiting.messages.len());
        waiting.under_way = count;
        (count > 0).then(|| waiting.messages.iter().take(count).cloned().collect())
    }

    /// The messages that were given out are accepted or set aside.
    fn done(&self, status: &Status) {
        let mut waiting = self.waiting.lock();
        for _ in 0..std::mem::take(&mut waiting.under_way) {
            if let Some(message) = waiting.messages.pop_front() {
                waiting.bytes -= size(&message);
            }
        }
        waiting.show(status);
    }

    fn len(&self) -> usize {
        self.waiting.lock().messages.len()
    }
}

impl Waiting {
    fn is_too_full(&self) -> bool {
        let is_over = self.messages.len() > MAX_QUEUED_MESSAGES || self.bytes > MAX_QUEUED_BYTES;
        // The newest one stays, whatever its size.
        is_over && self.messages.len() > self.under_way + 1
    }

    fn show(&self, status: &Status) {
        status.queued.store(self.messages.len() as u64, Ordering::Relaxed);
        status.queued_bytes.store(self.bytes as u64, Ordering::Relaxed);
    }
}

/// The rough size in memory.
fn size(message: &Message) -> usize {
    let attributes: usize = message.attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
    size_of::<Message>() + message.origin_id.as_ref().map_or(0, String::len) + attributes + message.body.len()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::clock::UnixMicros;

    fn message(number: usize, bytes: usize) -> Message {
        let origin_id = Some(number.to_string());
        Message { origin_id, attributes: Vec::new(), body: Bytes::from(vec![b'x'; bytes]) }
    }

    fn status() -> Status {
        Status::new("bus".to_owned(), "decnet-bus", "default".to_owned(), UnixMicros(1))
    }

    fn ids(messages: &[Message]) -> Vec<usize> {
        messages.iter().map(|message| message.origin_id.as_deref().unwrap().parse().unwrap()).collect()
    }

    #[test]
    fn a_full_queue_loses_the_oldest_message_that_is_not_under_way() {
        let (queue, status) = (Queue::default(), status());
        for number in 0..MAX_QUEUED_MESSAGES {
            assert_eq!(queue.push(message(number, 0), &status), 0);
        }
        let under_way = queue.try_first().unwrap();
        assert_eq!(ids(&under_way), (0..MAX_TOGETHER).collect::<Vec<_>>());
        assert_eq!(queue.push(message(MAX_QUEUED_MESSAGES, 0), &status), 1);
        queue.done(&status);
        assert_eq!(ids(&queue.try_first().unwrap())[0], MAX_TOGETHER + 1, "the one after them was lost");
        assert_eq!((status.traffic().lost, queue.len()), (1, MAX_QUEUED_MESSAGES - MAX_TOGETHER));
    }

    #[test]
    fn its_bytes_are_bounded_too() {
        let (queue, status) = (Queue::default(), status());
        let lost: u64 = (0..100).map(|number| queue.push(message(number, 1 << 20), &status)).sum();
        assert!(lost > 36 && status.traffic().queued_bytes <= MAX_QUEUED_BYTES as u64, "{lost}");
        let together = queue.try_first().unwrap();
        assert!(together.len() <= 4, "a transaction is bounded: {}", together.len());
    }

    #[test]
    fn what_was_given_out_and_not_accepted_is_given_out_again() {
        let (queue, status) = (Queue::default(), status());
        for number in 0..3 {
            queue.push(message(number, 10), &status);
        }
        assert_eq!(queue.try_first(), queue.try_first());
        queue.done(&status);
        assert_eq!((queue.try_first(), status.traffic().queued), (None, 0));
    }
}
