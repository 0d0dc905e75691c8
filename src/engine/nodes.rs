//! This node among others: it keeps its lease, takes over and hands over shards, and follows what others change.
//!
//! Two tasks do it. One renews the lease and acts by the answers. The other listens for hints and polls: hints are what
//! makes it fast, polling is what makes it true.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;
use uuid::Uuid;

use super::Engine;
use super::known::Knowledge;
use crate::clock::UnixMicros;
use crate::dispatcher::Member;
use crate::store::cluster::{ChangeMark, Hint, Node, NodeRecord, Renewal, Term};
use crate::store::{Act, Deed, EventSeq, Shard, StoreError};

/// The default time for which a silent node counts as alive.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(10);
/// The values of the lease, in seconds.
pub const LEASE_S: std::ops::RangeInclusive<u64> = 1..=600;
/// The default interval in which a node polls the store, in case hints were lost.
pub const DEFAULT_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The shortest poll interval.
pub const MIN_POLL_INTERVAL: Duration = Duration::from_millis(50);
/// The default time for which attempts under way may go on when their shard is handed over.
pub const DEFAULT_HAND_OVER_TIMEOUT: Duration = Duration::from_secs(30);
/// The number of renewals in the time of a lease.
const RENEWALS_PER_LEASE: u32 = 5;
/// The timeout of a renewal, as a part of the lease.
const RENEWAL_SHARE: (u32, u32) = (3, 5);
/// The longest delay before a retry.
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// The shortest time between two looks at changes after hints.
const CHANGES_PAUSE: Duration = Duration::from_millis(20);
/// The interval in which a drain checks whether it is done.
const DRAIN_LOOK_EVERY: Duration = Duration::from_millis(10);

/// The settings of a node among others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSettings {
    pub name: String,
    /// The address under which other nodes reach it.
    pub address: String,
    pub lease: Duration,
    pub poll_interval: Duration,
    pub hand_over_timeout: Duration,
}

impl Default for NodeSettings {
    fn default() -> Self {
        Self {
            name: String::new(),
            address: String::new(),
            lease: DEFAULT_LEASE,
            poll_interval: DEFAULT_POLL_INTERVAL,
            hand_over_timeout: DEFAULT_HAND_OVER_TIMEOUT,
        }
    }
}

impl NodeSettings {
    /// Fails with the name of the wrong setting, and the reason.
    pub fn check(lease: Duration, poll_interval: Duration) -> Result<(), (&'static str, String)> {
        if !LEASE_S.contains(&lease.as_secs()) {
            return Err(("lease", format!("must be from {}s to {}s", LEASE_S.start(), LEASE_S.end())));
        }
        if poll_interval < MIN_POLL_INTERVAL {
            return Err(("poll_interval", format!("must be at least {MIN_POLL_INTERVAL:?}")));
        }
        Ok(())
    }

    pub(super) fn node(&self, uuid: Uuid, started_at: UnixMicros) -> Node {
        let (name, address) = (self.name.clone(), self.address.clone());
        Node { uuid, name, address, version: env!("CARGO_PKG_VERSION").to_owned(), started_at }
    }
}

/// The state of a node among others.
pub(super) struct Membership {
    pub(super) member: Member,
    node: Node,
    settings: NodeSettings,
    pub(super) knowledge: Knowledge,
    /// Wakes the renewal before its time.
    renew: Notify,
    is_stopping: AtomicBool,
    /// Held during a renewal. True: this node has left.
    has_left: Mutex<bool>,
}

impl Membership {
    /// Changes up to `mark` are known.
    pub(super) fn new(member: Member, node: Node, settings: NodeSettings, mark: ChangeMark) -> Self {
        let (is_stopping, has_left) = (AtomicBool::new(false), Mutex::new(false));
        let knowledge = Knowledge::new(mark);
        Self { member, node, settings, knowledge, renew: Notify::new(), is_stopping, has_left }
    }

    /// Starts the tasks.
    pub(super) fn start(self: &Arc<Self>, engine: &Arc<Engine>) {
        tokio::spawn(keep_lease(Arc::downgrade(engine), Arc::clone(self)));
        tokio::spawn(follow(Arc::downgrade(engine), Arc::clone(self)));
    }

    pub(super) fn lease(&self) -> Duration {
        self.settings.lease
    }

    /// Begins to hand all shards over.
    pub(super) fn stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
        self.renew.notify_one();
    }

    /// Waits until all shards are handed over, for at most `timeout`, and leaves.
    pub(super) async fn leave(&self, engine: &Engine, timeout: Duration) {
        self.stop();
        let give_up_at = Instant::now() + timeout;
        while Instant::now() < give_up_at && !engine.dispatcher.is_without_shards() {
            tokio::time::sleep(DRAIN_LOOK_EVERY).await;
        }
        let mut has_left = self.has_left.lock().await;
        *has_left = true;
        engine.dispatcher.lapse();
        let leave = self.member.cluster.leave(self.node.uuid);
        if !matches!(tokio::time::timeout(RETRY_DELAY * 2, leave).await, Ok(Ok(()))) {
            tracing::warn!("cannot take leave of the other nodes; they find out when the lease ends");
        }
    }

    /// Makes one renewal and starts the actions that follow. `ends_at` is the end of the present lease.
    async fn renew(
        &self,
        engine: &Arc<Engine>,
        ends_at: &mut Option<Instant>,
        takes_silent: bool,
    ) -> Result<(), StoreError> {
        let lease = self.settings.lease;
        let is_stopping = self.is_stopping.load(Ordering::Acquire);
        let held = engine.dispatcher.terms();
        let renewal = Renewal { node: self.node.clone(), lease, held, is_draining: is_stopping, takes_silent };
        let sent_at = Instant::now();
        let (part, whole) = RENEWAL_SHARE;
        let call = tokio::time::timeout(lease * part / whole, self.member.cluster.renew(&renewal));
        let mut call = std::pin::pin!(call);
        let answer = loop {
            tokio::select! {
                biased;
                () = reached(*ends_at) => lapse(engine, ends_at),
                answer = &mut call => break answer,
            }
        };
        let mut renewed = answer.map_err(|_| StoreError::Unavailable("it does not answer".to_owned())).flatten()?;
        renewed.is_draining |= is_stopping;
        let Some((actions, until)) = engine.dispatcher.renewed(&renewal.held, &renewed, sent_at, lease) else {
            *ends_at = None;
            return Err(StoreError::Unavailable("its answer came too late".to_owned()));
        };
        *ends_at = Some(until);
        if !actions.lost.is_empty() {
            tracing::warn!(shards = actions.lost.len(), "other nodes have taken shards over from this one");
        }
        if !actions.take.is_empty() {
            tokio::spawn(take_over(Arc::downgrade(engine), self.member.clone(), actions.take));
        }
        if !actions.hand_over.is_empty() {
            let timeout = self.settings.hand_over_timeout;
            tokio::spawn(hand_over(Arc::downgrade(engine), self.member.clone(), actions.hand_over, timeout));
        }
        Ok(())
    }
}

/// Ready at a moment; `None`: never.
async fn reached(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn lapse(engine: &Engine, ends_at: &mut Option<Instant>) {
    tracing::warn!("the lease could not be renewed in time: nothing is sent until it is");
    *ends_at = None;
    engine.dispatcher.lapse();
}

/// Renews the lease until the engine is dropped.
async fn keep_lease(engine: Weak<Engine>, membership: Arc<Membership>) {
    let interval = membership.settings.lease / RENEWALS_PER_LEASE;
    let (mut ends_at, mut is_failing, mut is_new) = (None, false, true);
    // If this node could not reach the store, others could not either. Before their shards are taken they get the time
    // of a lease to return and commit their outcomes.
    let mut takes_silent_from = Instant::now();
    loop {
        let Some(engine) = engine.upgrade() else { return };
        let began_at = Instant::now();
        // Outcomes are committed before the shards are taken again, since that ends this node's old terms.
        let has_lapsed = !is_new && ends_at.is_none();
        let is_recorded = !has_lapsed || engine.dispatcher.flush().await;
        if has_lapsed {
            takes_silent_from = Instant::now() + membership.settings.lease;
        }
        let has_left = membership.has_left.lock().await;
        if *has_left {
            return;
        }
        let renewed = if is_recorded {
            membership.renew(&engine, &mut ends_at, Instant::now() >= takes_silent_from).await
        } else {
            Err(StoreError::Unavailable("outcomes cannot be recorded yet".to_owned()))
        };
        drop(has_left);
        if renewed.is_err() {
            takes_silent_from = Instant::now() + membership.settings.lease;
        }
        match &renewed {
            Err(error) if !is_failing => tracing::warn!(%error, "cannot renew the lease; trying again"),
            Ok(()) if is_failing => tracing::info!("the lease is renewed again"),
            _ => {}
        }
        if renewed.is_ok() && std::mem::take(&mut is_new) {
            membership.member.cluster.hint(Hint::Shards);
        }
        is_failing = renewed.is_err();
        let rest = if is_failing { RETRY_DELAY.min(interval) } else { interval.saturating_sub(began_at.elapsed()) };
        tokio::select! {
            biased;
            () = reached(ends_at) => lapse(&engine, &mut ends_at),
            () = membership.renew.notified() => {}
            () = tokio::time::sleep(rest) => {}
        }
    }
}

/// Reads the records of new shards and makes their lanes. Tries until it succeeds or the terms are lost.
async fn take_over(engine: Weak<Engine>, member: Member, terms: Vec<Term>) {
    let began_at = Instant::now();
    loop {
        let Some(engine) = engine.upgrade() else { return };
        let coming: Vec<Term> = terms.iter().copied().filter(|term| engine.dispatcher.is_coming(*term)).collect();
        if coming.is_empty() {
            return;
        }
        let shards: Vec<_> = coming.iter().map(|term| term.shard).collect();
        // Otherwise events would have to wait for this look while the take-over holds the lock.
        if let Err(error) = engine.be_informed().await {
            tracing::debug!(%error, "cannot read what others have changed");
        }
        let in_order = engine.changes.lock().await;
        match member.cluster.take_over(&shards).await {
            Ok(taken) => {
                for record in &taken.webhooks {
                    engine.ingest.apply(record);
                }
                let webhooks = engine.dispatcher.begin(&coming, &taken).len();
                drop(in_order);
                tracing::info!(shards = shards.len(), webhooks, took = ?began_at.elapsed(), "took shards over");
                engine.look_for_owed(&member).await;
                tokio::spawn(retrieve_late(Arc::downgrade(&engine), member, coming, taken.through));
                return;
            }
            Err(error) => tracing::warn!(%error, "cannot take shards over yet; trying again"),
        }
        drop(in_order);
        drop(engine);
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

/// Looks once more for events that the previous owner accepted in a statement that was under way when its lease ended.
async fn retrieve_late(engine: Weak<Engine>, member: Member, terms: Vec<Term>, through: EventSeq) {
    tokio::time::sleep(member.cluster.statements_end_after()).await;
    let Some(engine) = engine.upgrade() else { return };
    let held = engine.dispatcher.terms();
    let shards: Vec<_> = terms.iter().filter(|term| held.contains(term)).map(|term| term.shard).collect();
    drop(engine);
    while let Err(error) = member.cluster.retrieve(&shards, through).await {
        tracing::debug!(%error, "cannot look for late deliveries yet");
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

async fn hand_over(engine: Weak<Engine>, member: Member, terms: Vec<Term>, timeout: Duration) {
    let Some(engine) = engine.upgrade() else { return };
    engine.dispatcher.hand_over(&terms, timeout).await;
    loop {
        // Terms that have lapsed meanwhile are left out.
        let held = engine.dispatcher.terms();
        let left: Vec<Term> = terms.iter().copied().filter(|term| held.contains(term)).collect();
        match member.cluster.hand_over(member.node, &left).await {
            Ok(()) => {
                engine.dispatcher.handed_over(&left);
                tracing::info!(shards = left.len(), "handed shards over");
                return;
            }
            Err(error) => tracing::warn!(%error, "cannot give shards back yet; trying again"),
        }
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

/// Takes in hints and polls, until the engine is dropped.
async fn follow(engine: Weak<Engine>, membership: Arc<Membership>) {
    let member = &membership.member;
    let mut hints = member.cluster.listen();
    let mut poll_at = Instant::now();
    let mut looked_at = poll_at;
    let mut is_change_told = false;
    loop {
        let next = if is_change_told { poll_at.min(looked_at + CHANGES_PAUSE) } else { poll_at };
        let hint = tokio::time::timeout_at(next, hints.recv()).await;
        let Some(engine) = engine.upgrade() else { return };
        match hint {
            Ok(Some(Hint::Due(webhook))) => engine.dispatcher.note_due(webhook),
            Ok(Some(Hint::Wished(webhook))) => {
                engine.dispatcher.take_in_wish(webhook);
            }
            Ok(Some(Hint::Withdrawn(key))) => engine.dispatcher.withdraw(key),
            Ok(Some(Hint::Changed)) => is_change_told = true,
            Ok(Some(Hint::Shards)) => membership.renew.notify_one(),
            Ok(None) => tokio::time::sleep_until(next).await,
            Err(_) => {}
        }
        let now = Instant::now();
        if now < next {
            continue;
        }
        (is_change_told, looked_at) = (false, now);
        if let Err(error) = engine.follow_changes(member, &membership.knowledge).await {
            tracing::debug!(%error, "cannot read what others have changed");
        }
        if now >= poll_at {
            poll_at = now + membership.settings.poll_interval;
            engine.look_for_owed(member).await;
        }
    }
}

impl Engine {
    /// Wakes lanes with pending deliveries in the store that they may not know.
    async fn look_for_owed(&self, member: &Member) {
        let shards = self.dispatcher.owned_shards();
        if shards.is_empty() {
            return;
        }
        match member.cluster.owed(&shards).await {
            Ok(owed) => owed.into_iter().for_each(|(webhook, at)| self.dispatcher.note_owed(webhook, at)),
            Err(error) => tracing::debug!(%error, "cannot look for what is owed"),
        }
    }

    /// The nodes that share the store, and their shards. A node that is alone has all shards.
    pub async fn nodes(&self) -> Result<Vec<NodeRecord>, StoreError> {
        match self.store.cluster() {
            Some(cluster) => cluster.nodes().await,
            None => Ok(vec![NodeRecord {
                node: self.node.clone(),
                silent_for: Duration::ZERO,
                is_alive: true,
                is_draining: false,
                shards: Shard::all().collect(),
            }]),
        }
    }

    async fn find_node(&self, node: Uuid) -> Result<NodeRecord, StoreError> {
        self.nodes().await?.into_iter().find(|record| record.node.uuid == node).ok_or(StoreError::NotFound)
    }

    /// This node's UUID.
    pub fn node(&self) -> Uuid {
        self.node.uuid
    }

    /// Makes a node give its shards to the others, or take some again. [`StoreError::Conflict`] if the node is silent.
    pub async fn drain_node(
        &self,
        act: impl Into<Act>,
        node: Uuid,
        is_draining: bool,
    ) -> Result<NodeRecord, StoreError> {
        let Some(membership) = &self.membership else {
            let alone = StoreError::Conflict("there is no other node to take its shards".to_owned());
            return Err(if node == self.node.uuid { alone } else { StoreError::NotFound });
        };
        let cluster = &membership.member.cluster;
        let record = self.find_node(node).await?;
        if !record.is_alive {
            let silent =
                "it is silent, so that others take its shards over by themselves; a restarted server is another node";
            return Err(StoreError::Conflict(silent.to_owned()));
        }
        if !cluster.set_draining(node, is_draining).await? {
            return Err(StoreError::NotFound);
        }
        let act = act.into();
        let record = self.find_node(node).await?;
        let action = if is_draining { "node.drain" } else { "node.resume" };
        let (target, target_name) = (Some(node.to_string()), Some(record.node.name.clone()));
        let deed = Deed { at: self.now(), tenant: act.tenant, action, target, target_name };
        self.store.audited(&act).record(deed).await?;
        cluster.hint(Hint::Shards);
        membership.renew.notify_one();
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_no_shorter_than_a_second_and_polling_no_storm() {
        let check = |lease: f64, poll: f64| {
            let seconds = Duration::from_secs_f64;
            NodeSettings::check(seconds(lease), seconds(poll)).map_err(|(key, _)| key)
        };
        assert_eq!(check(1.0, 0.05), Ok(()));
        assert_eq!(check(600.0, 60.0), Ok(()));
        assert_eq!(check(0.9, 1.0), Err("lease"));
        assert_eq!(check(601.0, 1.0), Err("lease"));
        assert_eq!(check(10.0, 0.049), Err("poll_interval"));
    }
}
