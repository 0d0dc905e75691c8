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

/// The most hints that wait for a node. Further hints are dropped, since polling finds the same changes.
pub const MAX_HINTS: usize = 1_024;

/// One ownership of a shard, from its beginning to the next owner's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term {
    pub shard: Shard,
    pub epoch: i64,
}

/// The node and the terms under which a batch of settlements was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fence {
    pub node: Uuid,
    /// The term of each webhook in the batch. Settlements of other webhooks are not written.
    pub terms: Vec<(WebhookSeq, Term)>,
}

/// The operations of nodes that share a store.
#[async_trait]
pub trait Cluster: Send + Sync + 'static {
    /// Renews a node's lease, extends the terms that the renewal names, and takes free shards up to the node's share,
    /// in one transaction. A term of this node that the renewal does not name is over.
    async fn renew(&self, renewal: &Renewal) -> Result<Renewed, StoreError>;
    /// Gives shards back, for other nodes to take at once. Terms that are over stay over.
    async fn hand_over(&self, node: Uuid, terms: &[Term]) -> Result<(), StoreError>;
    /// Removes a node that stops. The shards that it still holds become free.
    async fn leave(&self, node: Uuid) -> Result<(), StoreError>;
    /// Reads what an owner must know when its terms begin. Deliveries that the previous owner held in memory become due
    /// in the store.
    async fn take_over(&self, shards: &[Shard]) -> Result<TakenOver, StoreError>;
    /// Makes deliveries held in memory due in the store, as [`Cluster::take_over`] does, for events up to `through`. A
    /// statement of a previous owner may have marked some after the take-over.
    async fn retrieve(&self, shards: &[Shard], through: EventSeq) -> Result<(), StoreError>;
    /// Statements that were begun before have ended after this time.
    fn statements_end_after(&self) -> Duration;
    /// Makes deliveries due in the store that were accepted as held in memory, but that no lane has taken.
    async fn pass_on(&self, keys: &[DeliveryKey]) -> Result<(), StoreError>;
    /// Webhooks of these shards with pending deliveries in the store, and the time of the earliest of each.
    async fn owed(&self, shards: &[Shard]) -> Result<Vec<(WebhookSeq, UnixMicros)>, StoreError>;
    /// Webhooks and tenants that were changed since a mark; a change may be given twice. `None`: no changes, only the
    /// present mark. Also refreshes the gauges behind [`Store::pending`](super::Store::pending).
    async fn changes(&self, since: Option<&ChangeMark>) -> Result<Changes, StoreError>;
    /// Records that this node has taken in all changes up to `mark`.
    async fn know(&self, node: Uuid, mark: &ChangeMark) -> Result<(), StoreError>;
    /// The other live nodes that have not recorded `of`, or the present mark if `of` is `None`.
    async fn unaware(&self, node: Uuid, of: Option<&ChangeMark>) -> Result<Unaware, StoreError>;

    /// Oldest first. Nodes that died are listed for a while.
    async fn nodes(&self) -> Result<Vec<NodeRecord>, StoreError>;
    /// Asks a node to give its shards away, or to take some again. `Ok(false)`: there is no such node.
    async fn set_draining(&self, node: Uuid, is_draining: bool) -> Result<bool, StoreError>;

    /// Sends a hint to the other nodes. It may get lost.
    fn hint(&self, hint: Hint);
    /// Hints of other nodes from now on. Some may get lost.
    fn listen(&self) -> mpsc::Receiver<Hint>;
}

/// A node as it presents itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Made at the start, so that a restarted server is another node.
    pub uuid: Uuid,
    pub name: String,
    /// The address under which other nodes reach it.
    pub address: String,
    pub version: String,
    pub started_at: UnixMicros,
}

/// The request by which a node extends its lease and its terms.
#[derive(Clone, Debug)]
pub struct Renewal {
    pub node: Node,
    pub lease: Duration,
    /// Terms to extend.
    pub held: Vec<Term>,
    /// The node gives its shards away, and takes none.
    pub is_draining: bool,
    /// Whether it takes shards of silent owners, too. Otherwise it takes only shards without an owner, and its own.
    pub takes_silent: bool,
}

/// The state of a node after a renewal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Renewed {
    /// All terms of the node, old and new, for one lease from now.
    pub held: Vec<Term>,
    /// The number of shards beyond the node's share.
    pub surplus: usize,
    /// An operator drains the node.
    pub is_draining: bool,
}

/// The webhooks of shards whose terms begin.
#[derive(Clone, Debug, Default)]
pub struct TakenOver {
    pub webhooks: Vec<WebhookRecord>,
    /// Deleted webhooks whose stored pending deliveries are not all discarded yet.
    pub deleted: Vec<WebhookSeq>,
    /// The highest number given to an event so far. Statements under way may still store events up to it.
    pub through: EventSeq,
}

/// A position in the sequence of commits, up to which changes were seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeMark(pub(super) String);

#[derive(Clone, Debug)]
pub struct Changes {
    /// The mark for the next read.
    pub mark: ChangeMark,
    pub webhooks: Vec<ChangedWebhook>,
    pub deleted_webhooks: Vec<(TenantSeq, WebhookSeq)>,
    pub tenants: Vec<TenantRecord>,
    pub deleted_tenants: Vec<TenantSeq>,
    /// Tokens were revoked.
    pub are_tokens_revoked: bool,
}

/// The nodes that do not know of changes yet.
#[derive(Clone, Debug)]
pub struct Unaware {
    /// The mark that was asked about.
    pub mark: ChangeMark,
    /// Their names.
    pub nodes: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct ChangedWebhook {
    pub record: WebhookRecord,
    /// The version of the change with which an operator last closed the circuit; 0: never.
    pub circuit_closed_by: i64,
}

/// A node as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRecord {
    pub node: Node,
    /// The time since its last renewal.
    pub silent_for: Duration,
    /// Its lease has not ended.
    pub is_alive: bool,
    pub is_draining: bool,
    pub shards: Vec<Shard>,
}

/// A message that makes another node look now rather than at the next poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hint {
    /// The webhook has a delivery in the store that is due.
    Due(WebhookSeq),
    /// A delivery was changed or ended in the store; a lane that holds it drops it.
    Withdrawn(DeliveryKey),
    /// An operator wants an attempt of the webhook now.
    Wished(WebhookSeq),
    /// Webhooks, tenants or replay jobs were changed.
    Changed,
    /// Shards are free, or nodes have come or gone.
    Shards,
}
