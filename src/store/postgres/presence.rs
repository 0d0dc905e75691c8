//! What accepting must know of this node's shards: an entry of the queue is marked as held in memory only while the
//! database says that its shard is this node's.

use std::collections::HashMap;
use std::sync::OnceLock;

use parking_lot::RwLock;
use uuid::Uuid;

use crate::store::Shard;
use crate::webhook::WebhookSeq;

/// This node among others; `None` until its first renewal.
#[derive(Default)]
pub(super) struct Presence {
    node: OnceLock<Uuid>,
    /// The shards of webhooks that this node owns or has read.
    shards: RwLock<HashMap<WebhookSeq, Shard>>,
}

impl Presence {
    /// Sets the node that uses the store.
    pub(super) fn begin(&self, node: Uuid) {
        self.node.get_or_init(|| node);
    }

    pub(super) fn note(&self, webhook: WebhookSeq, shard: Shard) {
        self.shards.write().insert(webhook, shard);
    }

    pub(super) fn node(&self) -> Option<Uuid> {
        self.node.get().copied()
    }

    /// `None`: the webhook is unknown here, so it is not this node's.
    pub(super) fn shard(&self, webhook: WebhookSeq) -> Option<Shard> {
        self.shards.read().get(&webhook).copied()
    }
}
