//! Lanes that come and go: a node among others has those of the shards that it owns.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use uuid::Uuid;

use super::lane::{Lane, Whereabouts};
use super::settler::ToSettle;
use super::shards::Actions;
use super::{Dispatcher, FLUSH_TIMEOUT, ShardFigures, Shared};
use crate::clock::{Clock, UnixMicros};
use crate::store::cluster::{Cluster, Hint, Renewed, TakenOver, Term};
use crate::store::{DeliveryKey, EventSeq, SHARDS, Shard};
use crate::webhook::{WebhookRecord, WebhookSeq};

/// The interval of looks at lanes that are handed over.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// This node among others that share its store.
#[derive(Clone)]
pub(crate) struct Member {
    pub(crate) node: Uuid,
    pub(crate) cluster: Arc<dyn Cluster>,
}

impl Dispatcher {
    /// Whether this node owns the shard, and so has its lanes. A node that is alone owns all shards.
    pub(crate) fn owns(&self, shard: Shard) -> bool {
        self.shared.member.is_none() || (self.shared.term(shard).is_some() && !self.shared.lease.is_over())
    }

    /// A number that changes whenever this node's lease ends; `None`: it is over, so other nodes may take the node for
    /// dead.
    pub(crate) fn lease_number(&self) -> Option<u64> {
        self.shared.lease.number()
    }

    /// The terms for the next renewal.
    pub(crate) fn terms(&self) -> Vec<Term> {
        self.shared.shards.lock().terms()
    }

    pub(crate) fn owned_shards(&self) -> Vec<Shard> {
        self.shared.shards.lock().all_owned()
    }

    pub(super) fn shard_count(&self) -> usize {
        if self.shared.member.is_some() { self.owned_shards().len() } else { usize::from(SHARDS) }
    }

    /// Gauges by shard.
    pub(crate) fn shard_figures(&self) -> Vec<ShardFigures> {
        let shards = self.shared.shards.lock();
        let owned = shards.all_owned().into_iter().filter_map(|shard| shards.owned(shard));
        let empty =
            |Term { shard, epoch }| ShardFigures { shard, epoch, lanes: 0, circuits_open: 0, in_flight: 0, queued: 0 };
        let mut figures: BTreeMap<Term, ShardFigures> = owned.map(|term| (term, empty(term))).collect();
        drop(shards);
        for lane in self.shared.lanes.read().values() {
            if let Some(of_shard) = lane.term.and_then(|term| figures.get_mut(&term)) {
                let (queued, under_way, is_open) = lane.gauges();
                of_shard.lanes += 1;
                of_shard.circuits_open += u64::from(is_open);
                of_shard.in_flight += under_way as u64;
                of_shard.queued += queued as u64;
            }
        }
        figures.into_values().collect()
    }

    /// Whether no shard is owned, coming or being handed over.
    pub(crate) fn is_without_shards(&self) -> bool {
        self.shared.shards.lock().is_empty()
    }

    pub(crate) fn is_coming(&self, term: Term) -> bool {
        self.shared.shards.lock().is_coming(term)
    }

    /// Takes in the answer to a renewal that was sent at `sent_at` and named `named`. Returns the actions that follow,
    /// and the time until which this node may act. `None`: the answer came too late.
    pub(crate) fn renewed(
        &self,
        named: &[Term],
        renewed: &Renewed,
        sent_at: Instant,
        lease: Duration,
    ) -> Option<(Actions, Instant)> {
        if self.shared.lease.is_over() {
            self.lapse();
        }
        let mut shards = self.shared.shards.lock();
        let until = self.shared.lease.extend(sent_at, lease);
        if self.shared.lease.is_over() {
            drop(shards);
            self.lapse();
            return None;
        }
        let actions = shards.renewed(named, renewed);
        drop(shards);
        self.shared.lose_terms(|term| actions.lost.contains(&term));
        Some((actions, until))
    }

    /// Drops all lanes at the end of the lease, since other nodes may own the shards from then on.
    pub(crate) fn lapse(&self) {
        self.shared.lease.end();
        self.shared.shards.lock().lapse();
        self.shared.lose_terms(|_| true);
    }

    /// Makes the lanes of terms that begin. Returns the webhooks of terms that were not lost meanwhile.
    pub(crate) fn begin<'a>(&self, terms: &[Term], taken: &'a TakenOver) -> Vec<&'a WebhookRecord> {
        let mut shards = self.shared.shards.lock();
        let begun: Vec<Term> = terms.iter().copied().filter(|term| shards.begin(*term)).collect();
        let mut ours = Vec::with_capacity(taken.webhooks.len());
        for record in &taken.webhooks {
            let shard = Shard::of(record.uuid);
            if let Some(term) = begun.iter().find(|term| term.shard == shard) {
                self.insert(record, Some(*term));
                ours.push(record);
            }
        }
        drop(shards);
        for webhook in &taken.deleted {
            self.shared.discard_stored(*webhook);
        }
        ours
    }

    /// Ends the lanes of terms that this node gives away. Attempts under way end and are settled; after `timeout` they
    /// are cut off.
    pub(crate) async fn hand_over(&self, terms: &[Term], timeout: Duration) {
        let lanes = self.shared.move_lanes(|term| terms.contains(&term));
        let give_up_at = Instant::now() + timeout;
        while Instant::now() < give_up_at && lanes.iter().any(|lane| !lane.is_idle()) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let cut_off = lanes.iter().filter(|lane| !lane.is_idle()).count();
        if cut_off > 0 {
            tracing::warn!(webhooks = cut_off, "attempts under way were cut off; the next owner makes them again");
        }
        for lane in lanes {
            lane.abort_workers();
            let _ = self.shared.outcomes.send(ToSettle::Health(lane)).await;
        }
        self.flush().await;
    }

    /// Takes in a change of any node. `circuit_closed_by` is the version of the change with which an operator last
    /// closed the circuit.
    pub(crate) fn follow(&self, record: &WebhookRecord, circuit_closed_by: i64) {
        match self.shared.lane(record.seq) {
            Some(lane) => {
                let close_circuit = circuit_closed_by > lane.version();
                self.apply(record, close_circuit);
            }
            None => self.add(record),
        }
    }

    /// Notes that the store has the terms as handed over.
    pub(crate) fn handed_over(&self, terms: &[Term]) {
        let mut shards = self.shared.shards.lock();
        for term in terms {
            shards.handed_over(*term);
        }
    }

    /// Waits until the outcomes of ended attempts are committed. `false`: they were not in time.
    pub(crate) async fn flush(&self) -> bool {
        let (done, flushed) = oneshot::channel();
        let flush = async {
            if self.shared.outcomes.send(ToSettle::Flush(done)).await.is_ok() {
                let _ = flushed.await;
            }
        };
        tokio::time::timeout(FLUSH_TIMEOUT, flush).await.is_ok()
    }

    /// The store has a delivery of the webhook that is due at `at`. A lane here that does not know it loads it.
    pub(crate) fn note_owed(&self, webhook: WebhookSeq, at: UnixMicros) {
        if let Some(lane) = self.shared.lane(webhook) {
            let todo = if at <= self.shared.clock.now() { lane.note_stored(at) } else { lane.note_later(at) };
            self.shared.carry_out(&lane, todo);
        }
    }

    pub(crate) fn note_due(&self, webhook: WebhookSeq) {
        self.note_owed(webhook, self.shared.clock.now());
    }

    /// Drops a delivery from its lane that another node has changed in the store.
    pub(crate) fn withdraw(&self, key: DeliveryKey) {
        let Some(lane) = self.shared.lane(key.webhook) else { return };
        if let Whereabouts::Withheld(_) = lane.withhold(key.event) {
            let todo = lane.restore(key.event, None, self.shared.clock.now());
            self.shared.carry_out(&lane, todo);
        }
    }

    /// Sends a hint to other nodes, if there are any.
    pub(crate) fn hint(&self, hint: Hint) {
        if let Some(member) = &self.shared.member {
            member.cluster.hint(hint);
        }
    }
}

impl Shared {
    /// The present term of a shard of this node.
    pub(super) fn term(&self, shard: Shard) -> Option<Term> {
        self.shards.lock().owned(shard)
    }

    /// Takes lanes out of the map whose terms are over or are being handed over. They begin no attempt from now on.
    fn move_lanes(&self, is_over: impl Fn(Term) -> bool) -> Vec<Arc<Lane>> {
        let mut lanes = self.lanes.write();
        let over = lanes.extract_if(|_, lane| lane.term.is_some_and(&is_over));
        let over: Vec<Arc<Lane>> = over.map(|(_, lane)| lane).collect();
        drop(lanes);
        for lane in &over {
            lane.move_away();
        }
        over
    }

    /// As [`Self::move_lanes`], and aborts the attempts under way.
    fn lose_terms(&self, is_over: impl Fn(Term) -> bool) {
        for lane in self.move_lanes(is_over) {
            lane.abort_workers();
        }
    }

    /// Drops lanes after the fence has refused their settlements.
    pub(super) fn lose_lanes(&self, stale: &[Arc<Lane>]) {
        for lane in stale {
            lane.move_away();
            lane.abort_workers();
            let mut lanes = self.lanes.write();
            if lanes.get(&lane.seq).is_some_and(|present| Arc::ptr_eq(present, lane)) {
                lanes.remove(&lane.seq);
            }
        }
    }

    /// Makes deliveries that were accepted for a lane that has moved meanwhile due in the store, for the next owner.
    pub(super) fn pass_on(self: &Arc<Self>, webhook: WebhookSeq, events: Vec<EventSeq>) {
        let Some(member) = self.member.clone() else { return };
        let keys: Vec<_> = events.into_iter().map(|event| DeliveryKey { event, webhook }).collect();
        tokio::spawn(async move {
            while let Err(error) = member.cluster.pass_on(&keys).await {
                tracing::debug!(webhook_seq = webhook.0, %error, "deliveries of a lane that has moved cannot be passed on yet");
                tokio::time::sleep(super::settler::RETRY_DELAY).await;
            }
            member.cluster.hint(Hint::Due(webhook));
        });
    }
}
