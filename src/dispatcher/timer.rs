//! Wakes lanes when something in the store becomes due. Hints only: a wake that finds nothing does no harm.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::clock::{Clock, UnixMicros};
use crate::webhook::WebhookSeq;

/// The clock is looked at again after this long at the latest, since it may be set.
const MAX_NAP: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Timer {
    alarms: Mutex<BinaryHeap<Reverse<(UnixMicros, WebhookSeq)>>>,
    changed: Notify,
}

impl Timer {
    pub(super) fn set(&self, at: UnixMicros, webhook: WebhookSeq) {
        let mut alarms = self.alarms.lock();
        let is_first = alarms.peek().is_none_or(|Reverse((first, _))| at < *first);
        alarms.push(Reverse((at, webhook)));
        drop(alarms);
        if is_first {
            self.changed.notify_one();
        }
    }

    /// Waits until an alarm is due and takes it out.
    pub(super) async fn next(&self, clock: &dyn Clock) -> WebhookSeq {
        loop {
            let now = clock.now();
            let first = self.alarms.lock().peek().map(|Reverse(alarm)| *alarm);
            match first {
                Some((at, webhook)) if at <= now => {
                    self.alarms.lock().pop();
                    return webhook;
                }
                Some((at, _)) => {
                    let nap = at.since(now).min(MAX_NAP);
                    let _ = tokio::time::timeout(nap, self.changed.notified()).await;
                }
                None => self.changed.notified().await,
            }
        }
    }
}
