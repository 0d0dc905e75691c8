//! A store that several nodes share: who they are, who owns which shard, and what each must learn of the others.
//!
//! A node owns a shard by a lease, by the clock of the store. Each new owner raises the shard's epoch; what is settled
//! names the [`Term`] that it was begun in, and changes nothing once another term has begun.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{DeliveryKey, EventSeq, Shard, StoreError, TenantRecord};
use crate::clock::UnixMicros;
use crate::webhook::{TenantSeq, WebhookRecord, WebhookSeq};

/// Hints that wait for a node to look at them; more are dropped, since polling finds what they speak of.
pub const MAX_HINTS: usize = 1_024;

/// One ownership of a shard, from its beginning to the next owner's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term {
    pub shard: Shard,
    pub epoch: i64,
}

/// In whose name, and in which terms, a batch of settlements was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fence {
    pub node: Uuid,
    /// Of each webhook that the batch speaks of. What it says of others is not written.
    pub terms: Vec<(WebhookSeq, Term)>,
}

/// What nodes do together.
#[async_trait]
pub trait Cluster: Send + Sync + 'static {
    /// Says that a node is alive, extends the terms that it names, and takes as many free shards as it has a share in;
    /// in one transaction. A term that it does not name is over, whoever holds the shard.
    async fn renew(&self, renewal: &Renewal) -> Result<Renewed, StoreError>;
    /// Gives shards back, for others to take at once. Terms that are over stay so.
    async fn hand_over(&self, node: Uuid, terms: &[Term]) -> Result<(), StoreError>;
    /// Forgets a node that stops. What it still holds is free.
    async fn leave(&self, node: Uuid) -> Result<(), StoreError>;
    /// What an owner must know when its terms begin. Whatever the owner before held in memory is due in the store.
    async fn take_over(&self, shards: &[Shard]) -> Result<TakenOver, StoreError>;
    /// As [`Cluster::take_over`] does it, for events up to one: an owner before may have stored some, thinking that it
    /// held them in memory.
    async fn retrieve(&self, shards: &[Shard], through: EventSeq) -> Result<(), StoreError>;
    /// After this time no statement goes on that a node began before.
    fn statements_end_after(&self) -> Duration;
    /// These are not in memory, though they were accepted so.
    async fn pass_on(&self, keys: &[DeliveryKey]) -> Result<(), StoreError>;
    /// Webhooks of these shards that have pending deliveries in the store, and when the earliest of each is due.
    async fn owed(&self, shards: &[Shard]) -> Result<Vec<(WebhookSeq, UnixMicros)>, StoreError>;
    /// Webhooks and tenants that were changed since a mark: each change once at least. `None`: none of them, only the mark
    /// of now. Also reads how much is pending, for [`Store::pending`](super::Store::pending).
    async fn changes(&self, since: Option<&ChangeMark>) -> Result<Changes, StoreError>;
    /// This node has taken in what there was at `mark`. The others see it.
    async fn know(&self, node: Uuid, mark: &ChangeMark) -> Result<(), StoreError>;
    /// The other nodes that are alive and have not said that they know what there was at `of`; without it, what there is
    /// now.
    async fn unaware(&self, node: Uuid, of: Option<&ChangeMark>) -> Result<Unaware, StoreError>;

    /// Oldest first; those that died too, for a while.
    async fn nodes(&self) -> Result<Vec<NodeRecord>, StoreError>;
    /// Tells a node to give its shards away, or to take some again. `Ok(false)`: there is no such node.
    async fn set_draining(&self, node: Uuid, is_draining: bool) -> Result<bool, StoreError>;

    /// Tells the other nodes soon, unless that fails.
    fn hint(&self, hint: Hint);
    /// What other nodes hint at, from now on. Some may be lost.
    fn listen(&self) -> mpsc::Receiver<Hint>;
}

/// A node as it presents itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Made at its start: after a restart it is another one.
    pub uuid: Uuid,
    pub name: String,
    /// Where it answers, as the others see it.
    pub address: String,
    pub version: String,
    pub started_at: UnixMicros,
}

/// A node's word that it is alive.
#[derive(Clone, Debug)]
pub struct Renewal {
    pub node: Node,
    pub lease: Duration,
    /// To be extended.
    pub held: Vec<Term>,
    /// It gives its shards away, and takes none.
    pub is_draining: bool,
    /// It also takes shards whose owners are silent. Without it, those that nobody or this node itself holds.
    pub takes_silent: bool,
}

/// What a node has after a renewal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Renewed {
    /// All terms that it holds now, old and new, until one lease from now.
    pub held: Vec<Term>,
    /// Shards that it has beyond its share.
    pub surplus: usize,
    /// An operator wants it to give all of them away.
    pub is_draining: bool,
}

/// The webhooks of shards whose terms begin.
#[derive(Clone, Debug, Default)]
pub struct TakenOver {
    pub webhooks: Vec<WebhookRecord>,
    /// Deleted webhooks whose stored pending deliveries are not all discarded yet.
    pub deleted: Vec<WebhookSeq>,
    /// Events that were begun to be stored by now have numbers up to this one.
    pub through: EventSeq,
}

/// What was committed at a moment: up to where changes were seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeMark(pub(super) String);

#[derive(Clone, Debug)]
pub struct Changes {
    /// For the next time.
    pub mark: ChangeMark,
    pub webhooks: Vec<ChangedWebhook>,
    pub deleted_webhooks: Vec<(TenantSeq, WebhookSeq)>,
    pub tenants: Vec<TenantRecord>,
    pub deleted_tenants: Vec<TenantSeq>,
    /// Some tokens are good no more.
    pub are_tokens_revoked: bool,
}

/// Who does not know of changes yet.
#[derive(Clone, Debug)]
pub struct Unaware {
    /// The moment of the question.
    pub mark: ChangeMark,
    /// Names of nodes.
    pub nodes: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct ChangedWebhook {
    pub record: WebhookRecord,
    /// The version with which an operator last closed the circuit; 0: none did.
    pub circuit_closed_by: i64,
}

/// A node as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRecord {
    pub node: Node,
    /// How long ago it last said that it is alive.
    pub silent_for: Duration,
    /// It says so, by the lease that it said it with.
    pub is_alive: bool,
    pub is_draining: bool,
    pub shards: Vec<Shard>,
}

/// What another node may want to look at now rather than at the next poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hint {
    /// The webhook has a delivery in the store that is due.
    Due(WebhookSeq),
    /// A delivery was changed or ended in the store; who has it in memory forgets it there.
    Withdrawn(DeliveryKey),
    /// An operator wants an attempt of the webhook now.
    Wished(WebhookSeq),
    /// Webhooks, tenants or replay jobs were changed.
    Changed,
    /// Shards are free, or nodes have come or gone.
    Shards,
}
