//! After a start: what a former run held in memory goes back there, or into the store.

use std::sync::Arc;

use super::lane::{Lane, WEBHOOK_DELETED};
use super::settler::{Place, ToSettle};
use super::{RECOVERY_EVENTS, Shared};
use crate::clock::{Clock, UnixMicros};
use crate::delivery::Transition;
use crate::store::{DeliveryKey, EventSeq, SettleBatch, Settlement, StoreError, Unsettled};

impl Shared {
    /// Reads back the deliveries that a former run held in memory.
    pub(super) async fn recover(self: &Arc<Self>) -> Result<(), StoreError> {
        let mut after = EventSeq(0);
        let mut count = 0;
        loop {
            let page = self.store.unsettled(after, RECOVERY_EVENTS).await?;
            let Some(last) = page.last() else { break };
            after = last.event.seq;
            let mut orphans = Vec::new();
            for unsettled in page {
                count += unsettled.webhooks.len();
                self.readmit(unsettled, &mut orphans).await;
            }
            if !orphans.is_empty() {
                let batch = SettleBatch { settlements: orphans, ..SettleBatch::default() };
                self.store.settle(Arc::new(batch)).await?;
            }
        }
        if count > 0 {
            tracing::info!(deliveries = count, "read back deliveries that were in memory at the last stop");
        }
        Ok(())
    }

    /// Puts deliveries into their lanes, or gives them rows if memory is full. Deliveries of deleted webhooks go to
    /// `orphans`.
    async fn readmit(self: &Arc<Self>, unsettled: Unsettled, orphans: &mut Vec<Settlement>) {
        let now = self.clock.now();
        let body_bytes = unsettled.event.event.body().len();
        let charge = self.memory.charge(body_bytes);
        let room = charge.as_ref().map_or(0, |_| self.memory.room_for(body_bytes));
        let held = charge.map(|charge| charge.hold(Arc::clone(&unsettled.event)));
        for webhook in unsettled.webhooks {
            let key = DeliveryKey { event: unsettled.event.seq, webhook };
            let Some(lane) = self.lane(webhook) else {
                let transition = Transition::discarded(WEBHOOK_DELETED);
                orphans.push(Settlement { key, attempt: None, round_attempts: 0, transition, at: now });
                continue;
            };
            let mut reserved = Arc::clone(&lane).reserve(room);
            match held.as_ref().and_then(|held| reserved.admit(Arc::clone(held), unsettled.accepted_at)) {
                Some(todo) => self.carry_out(&lane, todo),
                None => write_down(Arc::clone(self), lane, vec![(key.event, 0)], false, now).await,
            }
        }
    }
}

/// Gives evicted deliveries rows.
pub(super) async fn write_down(
    shared: Arc<Shared>,
    lane: Arc<Lane>,
    keys: Vec<(EventSeq, u32)>,
    discard: bool,
    now: UnixMicros,
) {
    for (event, round_attempts) in keys {
        let transition = if discard { Transition::discarded(WEBHOOK_DELETED) } else { Transition::queued(now) };
        let key = DeliveryKey { event, webhook: lane.seq };
        let settlement = Settlement { key, attempt: None, round_attempts, transition, at: now };
        if shared
            .evicted
            .send(ToSettle::Ended { lane: Arc::clone(&lane), settlement, place: Place::Gone, since: now, notice: None })
            .await
            .is_err()
        {
            return;
        }
    }
}
