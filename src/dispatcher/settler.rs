//! Records what attempts came to: many outcomes, one commit.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::Shared;
use super::lane::Lane;
use crate::delivery::DeliveryState;
use crate::store::{SettleBatch, Settlement};
use crate::webhook::WebhookSeq;

/// The most settlements in one commit.
const MAX_BATCH: usize = 4_096;
/// Settlements that may wait for a commit; then workers wait with their next attempts.
pub(super) const MAX_WAITING: usize = 8_192;
/// How long to wait before a commit that failed is tried again.
const RETRY_DELAY: Duration = Duration::from_millis(500);

pub(super) enum Message {
    Ended {
        lane: Arc<Lane>,
        settlement: Settlement,
    },
    /// Answered when everything before it is committed.
    Flush(oneshot::Sender<()>),
}

/// Runs until the last sender is gone.
pub(super) async fn run(shared: Arc<Shared>, mut messages: mpsc::Receiver<Message>) {
    let mut received = Vec::with_capacity(MAX_BATCH);
    while messages.recv_many(&mut received, MAX_BATCH).await > 0 {
        let mut lanes: HashMap<WebhookSeq, Arc<Lane>> = HashMap::new();
        let mut settlements = Vec::with_capacity(received.len());
        let mut flushes = Vec::new();
        for message in received.drain(..) {
            match message {
                Message::Ended { lane, settlement } => {
                    lanes.entry(lane.seq).or_insert(lane);
                    settlements.push(settlement);
                }
                Message::Flush(done) => flushes.push(done),
            }
        }
        let now = shared.clock.now();
        if !flushes.is_empty() {
            lanes.extend(shared.lanes.read().iter().map(|(seq, lane)| (*seq, Arc::clone(lane))));
        }
        let health = lanes.values().filter_map(|lane| Some((lane.seq, lane.take_health(now)?))).collect();
        let batch = Arc::new(SettleBatch { settlements, health });
        commit(&shared, &batch).await;
        for settlement in &batch.settlements {
            if let Some(lane) = lanes.get(&settlement.key.webhook) {
                after_commit(&shared, lane, settlement);
            }
        }
        for done in flushes {
            let _ = done.send(());
        }
    }
}

/// Tries until it succeeds: what has been sent must be recorded, and meanwhile nothing more is sent.
async fn commit(shared: &Shared, batch: &Arc<SettleBatch>) {
    if batch.settlements.is_empty() && batch.health.is_empty() {
        return;
    }
    let mut failures = 0_u32;
    while let Err(error) = shared.store.settle(Arc::clone(batch)).await {
        if failures == 0 {
            tracing::error!(%error, settlements = batch.settlements.len(), "cannot record outcomes; delivery pauses until the store works again");
        }
        failures = failures.saturating_add(1);
        tokio::time::sleep(RETRY_DELAY).await;
    }
    if failures > 0 {
        tracing::info!(failures, "the store works again; delivery resumes");
    }
}

fn after_commit(shared: &Arc<Shared>, lane: &Arc<Lane>, settlement: &Settlement) {
    match settlement.transition.state() {
        DeliveryState::Delivered => shared.counters.deliveries_delivered.add(1),
        DeliveryState::Dead => shared.counters.deliveries_dead.add(1),
        DeliveryState::Pending | DeliveryState::Skipped | DeliveryState::Discarded => {}
    }
    if let Some(at) = lane.settled(settlement.key.event, settlement.transition.next_attempt_at()) {
        shared.timer.set(at, lane.seq);
    }
}
