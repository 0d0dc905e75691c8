//! Records what attempts came to: many outcomes, one commit.

use std::collections::HashMap;
use std::iter;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::Shared;
use super::lane::Lane;
use super::notices::Notice;
use crate::clock::{Clock, UnixMicros};
use crate::delivery::DeliveryState;
use crate::store::cluster::Fence;
use crate::store::figures::FigureOf;
use crate::store::{SettleBatch, Settlement};
use crate::webhook::WebhookSeq;

/// The most settlements in one commit.
const MAX_BATCH: usize = 2_048;
/// The most failed attempts in one commit. A failure writes several times the pages of a success (a row, its entry in
/// the index of due deliveries, the webhook's health), while the acceptance of events waits.
const MAX_FAILURES: usize = 16;
/// The most evictions in one commit. A webhook whose receiver fails has many, and outcomes must not wait behind them.
const MAX_WRITTEN_DOWN: usize = 256;
/// The most settlements that wait for a commit. Beyond that, workers wait with their next attempts.
pub(super) const MAX_WAITING: usize = 2_048;
/// The delay before a failed commit is tried again.
pub(super) const RETRY_DELAY: Duration = Duration::from_millis(500);

/// A message to the settler.
pub(super) enum ToSettle {
    Ended {
        lane: Arc<Lane>,
        settlement: Settlement,
        place: Place,
        /// From when the time until the delivery counts.
        since: UnixMicros,
        /// Sent after the commit.
        notice: Option<Box<Notice>>,
    },
    /// The health of a lane whose circuit an operator has closed.
    Health(Arc<Lane>),
    /// Answered after everything before it is committed.
    Flush(oneshot::Sender<()>),
}

/// Where a delivery is in its lane's memory when its settlement is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It was taken from the queue, and leaves memory.
    UnderWay,
    /// It was attempted, and the lane goes on with it.
    Kept,
    /// It has left the queue already.
    Gone,
}

impl ToSettle {
    /// An attempt for a delivery ended, and another is made at once.
    pub(super) fn kept(lane: &Arc<Lane>, settlement: Settlement) -> Self {
        let since = settlement.at;
        Self::Ended { lane: Arc::clone(lane), settlement, place: Place::Kept, since, notice: None }
    }

    /// An attempt for a delivery ended.
    pub(super) fn ended(lane: &Arc<Lane>, settlement: Settlement, notice: Option<Notice>) -> Self {
        let (since, notice) = (settlement.at, notice.map(Box::new));
        Self::Ended { lane: Arc::clone(lane), settlement, place: Place::UnderWay, since, notice }
    }

    /// The same, with the time from which the time until the delivery counts.
    pub(super) fn begun_at(mut self, at: UnixMicros) -> Self {
        if let Self::Ended { since, .. } = &mut self {
            *since = at;
        }
        self
    }

    /// The error of the attempt, if it failed.
    pub(super) fn error(&self) -> Option<&str> {
        match self {
            Self::Ended { settlement, .. } => settlement.attempt.as_ref()?.error.as_deref(),
            _ => None,
        }
    }
}

/// Runs until the last sender of `outcomes` is dropped.
pub(super) async fn run(
    shared: Arc<Shared>,
    mut outcomes: mpsc::Receiver<ToSettle>,
    mut evicted: mpsc::Receiver<ToSettle>,
) {
    let mut received = Vec::with_capacity(MAX_BATCH);
    while receive(&mut received, &mut outcomes, &mut evicted).await {
        while !received.is_empty() {
            let count = next_commit(&received);
            record(&shared, received.drain(..count)).await;
        }
    }
}

/// Waits for messages: all outcomes that have come, and after them some evictions. `false`: no more will come.
async fn receive(
    received: &mut Vec<ToSettle>,
    outcomes: &mut mpsc::Receiver<ToSettle>,
    evicted: &mut mpsc::Receiver<ToSettle>,
) -> bool {
    tokio::select! {
        biased;
        count = outcomes.recv_many(received, MAX_BATCH) => if count == 0 { return false },
        Some(first) = evicted.recv() => received.push(first),
    }
    received.extend(iter::from_fn(|| evicted.try_recv().ok()).take(MAX_WRITTEN_DOWN));
    true
}

/// The number of messages for the next commit.
fn next_commit(received: &[ToSettle]) -> usize {
    let mut failures = 0;
    let is_too_much = |message: &ToSettle| {
        failures += usize::from(message.error().is_some());
        failures > MAX_FAILURES
    };
    received.iter().position(is_too_much).unwrap_or(received.len())
}

/// The content of one commit, and the lanes of its settlements.
#[derive(Default)]
struct Gathered {
    lanes: HashMap<WebhookSeq, Arc<Lane>>,
    ended: Vec<Ended>,
    flushes: Vec<oneshot::Sender<()>>,
}

struct Ended {
    lane: Arc<Lane>,
    settlement: Settlement,
    place: Place,
    since: UnixMicros,
    notice: Option<Box<Notice>>,
}

impl Gathered {
    fn of(messages: impl ExactSizeIterator<Item = ToSettle>) -> Self {
        let mut gathered = Self { ended: Vec::with_capacity(messages.len()), ..Self::default() };
        for message in messages {
            match message {
                ToSettle::Ended { lane, settlement, place, since, notice } => {
                    gathered.concerns(&lane);
                    gathered.ended.push(Ended { lane, settlement, place, since, notice });
                }
                ToSettle::Health(lane) => gathered.concerns(&lane),
                ToSettle::Flush(done) => gathered.flushes.push(done),
            }
        }
        let lanes = &gathered.lanes;
        // A webhook that was lost and taken again has a new lane. Outcomes of the old one are dropped.
        gathered.ended.retain(|ended| {
            lanes.get(&ended.settlement.key.webhook).is_some_and(|lane| Arc::ptr_eq(lane, &ended.lane))
        });
        gathered
    }

    /// Of two lanes of a webhook, keeps the one of the later term.
    fn concerns(&mut self, lane: &Arc<Lane>) {
        let known = self.lanes.entry(lane.seq).or_insert_with(|| Arc::clone(lane));
        if known.term < lane.term {
            *known = Arc::clone(lane);
        }
    }
}

/// Commits the messages, then tells the lanes and the notices task.
async fn record(shared: &Arc<Shared>, messages: impl ExactSizeIterator<Item = ToSettle>) {
    let Gathered { mut lanes, ended, flushes } = Gathered::of(messages);
    let now = shared.clock.now();
    if !flushes.is_empty() {
        for (seq, lane) in shared.lanes.read().iter() {
            lanes.entry(*seq).or_insert_with(|| Arc::clone(lane));
        }
    }
    let health = lanes.values().filter_map(|lane| Some((lane.seq, lane.take_health(now)?))).collect();
    let is_urgent = lanes.values().any(|lane| lane.is_ordered());
    let fence = shared.member.as_ref().map(|member| {
        let terms = lanes.values().filter_map(|lane| Some((lane.seq, lane.term?)));
        Fence { node: member.node, terms: terms.collect() }
    });
    let mut notices = Vec::new();
    let (mut settlements, mut places) = (Vec::with_capacity(ended.len()), Vec::with_capacity(ended.len()));
    for Ended { settlement, place, since, notice, .. } in ended {
        notices.extend(notice);
        settlements.push(settlement);
        places.push((place, since));
    }
    let batch = Arc::new(SettleBatch { settlements, health, is_urgent, fence });
    let stale = settle(shared, &batch).await;
    if !stale.is_empty() {
        tracing::warn!(webhooks = stale.len(), "outcomes were not recorded: other nodes own their webhooks now");
        let is_stale = |settlement: &&Settlement| stale.contains(&settlement.key.webhook);
        shared.counters.settlements_stale.add(batch.settlements.iter().filter(is_stale).count() as u64);
        let lost: Vec<_> = stale.iter().filter_map(|webhook| lanes.remove(webhook)).collect();
        notices.retain(|notice| !stale.contains(&notice.webhook));
        shared.lose_lanes(&lost);
    }
    shared.tally.settled(batch.settlements.iter().zip(&places).filter_map(|(settlement, (_, since))| {
        let lane = lanes.get(&settlement.key.webhook)?;
        Some((FigureOf { tenant: lane.tenant, webhook: lane.seq }, settlement, *since))
    }));
    for (settlement, (place, since)) in batch.settlements.iter().zip(places) {
        if let Some(lane) = lanes.get(&settlement.key.webhook) {
            shared.counters.took(settlement, since);
            after_commit(shared, lane, settlement, place);
        }
    }
    for notice in notices {
        shared.tell(*notice).await;
    }
    for done in flushes {
        let _ = done.send(());
    }
}

/// Tries until it succeeds, since outcomes of sent requests must be committed; meanwhile no further attempts begin.
/// Returns the webhooks of other nodes, whose settlements were not written.
async fn settle(shared: &Shared, batch: &Arc<SettleBatch>) -> Vec<WebhookSeq> {
    if batch.settlements.is_empty() && batch.health.is_empty() {
        return Vec::new();
    }
    let (mut failures, began) = (0_u32, Instant::now());
    let stale = loop {
        match shared.store.settle(Arc::clone(batch)).await {
            Ok(stale) => break stale,
            Err(error) if failures == 0 => {
                tracing::error!(%error, settlements = batch.settlements.len(), "cannot record outcomes; delivery pauses until the store works again");
            }
            Err(_) => {}
        }
        failures = failures.saturating_add(1);
        tokio::time::sleep(RETRY_DELAY).await;
    };
    shared.counters.settlements.add(began.elapsed());
    if failures > 0 {
        tracing::info!(failures, "the store works again; delivery resumes");
    }
    stale
}

fn after_commit(shared: &Arc<Shared>, lane: &Arc<Lane>, settlement: &Settlement, place: Place) {
    match settlement.transition.state() {
        DeliveryState::Delivered => shared.counters.deliveries_delivered.add(1),
        DeliveryState::Dead => shared.counters.deliveries_dead.add(1),
        DeliveryState::Pending | DeliveryState::Skipped | DeliveryState::Discarded => {}
    }
    let was_under_way = match place {
        Place::UnderWay => true,
        Place::Gone => false,
        Place::Kept => return,
    };
    let todo = lane.settled(settlement.key.event, was_under_way, settlement.transition.next_attempt_at());
    shared.carry_out(lane, todo);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn outcomes_do_not_wait_behind_what_leaves_memory() {
        let (outcome, mut outcomes) = mpsc::channel(MAX_WAITING);
        let (evict, mut evicted) = mpsc::channel(MAX_WAITING);
        let message = || ToSettle::Flush(oneshot::channel().0);
        for _ in 0..MAX_WAITING {
            evict.try_send(message()).unwrap();
        }
        let mut received = Vec::new();
        assert!(receive(&mut received, &mut outcomes, &mut evicted).await);
        assert_eq!(received.len(), MAX_WRITTEN_DOWN + 1);
        received.clear();
        let (done, answered) = oneshot::channel();
        outcome.try_send(ToSettle::Flush(done)).unwrap();
        assert!(receive(&mut received, &mut outcomes, &mut evicted).await);
        assert_eq!(received.len(), 1 + MAX_WRITTEN_DOWN);
        drop(received.remove(0));
        answered.await.expect_err("the outcome is the first");
        drop(outcome);
        received.clear();
        assert!(!receive(&mut received, &mut outcomes, &mut evicted).await);
    }
}
