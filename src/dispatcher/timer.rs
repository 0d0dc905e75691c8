//! Wakes lanes when something in the store becomes due. Hints only: a wake that finds nothing does no harm.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::clock::{Clock, UnixMicros};
use crate::delivery::retry::MAX_WAIT;
use crate::webhook::WebhookSeq;

/// The longest sleep between two looks at the clock, since the clock may be set.
const MAX_NAP: Duration = Duration::from_secs(1);

/// Outdated alarms that the queue may hold beyond the number of valid ones.
const MAX_OUTDATED: usize = 64;

#[derive(Default)]
pub(super) struct Timer {
    alarms: Mutex<Alarms>,
    changed: Notify,
}

#[derive(Default)]
struct Alarms {
    queue: BinaryHeap<Reverse<(UnixMicros, WebhookSeq)>>,
    /// The valid alarm of each webhook. Other alarms in the queue are outdated.
    armed: HashMap<WebhookSeq, UnixMicros>,
}

impl Timer {
    /// Wakes `webhook` at `at`, unless an earlier alarm is set; a lane that wakes sets its next alarm.
    pub(super) fn set(&self, at: UnixMicros, webhook: WebhookSeq) {
        let mut alarms = self.alarms.lock();
        if alarms.armed.get(&webhook).is_some_and(|armed| *armed <= at) {
            return;
        }
        alarms.armed.insert(webhook, at);
        let is_first = alarms.queue.peek().is_none_or(|Reverse((first, _))| at < *first);
        alarms.queue.push(Reverse((at, webhook)));
        if alarms.queue.len() > 2 * alarms.armed.len() + MAX_OUTDATED {
            alarms.queue = alarms.armed.iter().map(|(webhook, at)| Reverse((*at, *webhook))).collect();
        }
        drop(alarms);
        if is_first {
            self.changed.notify_one();
        }
    }

    /// Waits until an alarm is due and takes it out.
    pub(super) async fn next(&self, clock: &dyn Clock) -> WebhookSeq {
        loop {
            match self.take_due(clock.now()) {
                Ok(webhook) => return webhook,
                Err(Some(nap)) => {
                    let _ = tokio::time::timeout(nap.min(MAX_NAP), self.changed.notified()).await;
                }
                Err(None) => self.changed.notified().await,
            }
        }
    }

    /// An alarm that is due, otherwise the time until the first alarm.
    fn take_due(&self, now: UnixMicros) -> Result<WebhookSeq, Option<Duration>> {
        let mut alarms = self.alarms.lock();
        while let Some(Reverse((at, webhook))) = alarms.queue.peek().copied() {
            let is_armed = alarms.armed.get(&webhook) == Some(&at);
            // An alarm beyond the longest possible wait fires now, since the clock was set back.
            if is_armed && at > now && at <= now.after(MAX_WAIT) {
                return Err(Some(at.since(now)));
            }
            alarms.queue.pop();
            if is_armed {
                alarms.armed.remove(&webhook);
                return Ok(webhook);
            }
        }
        Err(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: WebhookSeq = WebhookSeq(1);
    const B: WebhookSeq = WebhookSeq(2);

    #[test]
    fn wakes_in_order_of_time_and_each_webhook_once() {
        let timer = Timer::default();
        timer.set(UnixMicros(300), A);
        timer.set(UnixMicros(200), B);
        timer.set(UnixMicros(100), A);
        timer.set(UnixMicros(400), A);
        assert_eq!(timer.take_due(UnixMicros(50)), Err(Some(Duration::from_micros(50))));
        assert_eq!(timer.take_due(UnixMicros(1_000)), Ok(A));
        assert_eq!(timer.take_due(UnixMicros(1_000)), Ok(B));
        assert_eq!(timer.take_due(UnixMicros(1_000)), Err(None));
        // Outdated alarms do not pile up.
        for n in 0..1_000 {
            timer.set(UnixMicros(1_000_000), A);
            timer.set(UnixMicros(10), A);
            assert_eq!(timer.take_due(UnixMicros(100)), Ok(A), "{n}");
        }
        assert!(timer.alarms.lock().queue.len() <= 2 + MAX_OUTDATED);
        timer.set(UnixMicros(500), A);
        assert_eq!(timer.take_due(UnixMicros(1_000)), Ok(A));
    }
}
