//! Which events are wanted, by which webhooks, and when that changes; and whether a source is to run here.

use std::collections::BTreeSet;

use tokio::sync::watch;

use super::Engine;
use crate::event::Event;
use crate::ingest::{DryRun, PublishError};
use crate::store::Shard;
use crate::topic::{Pattern, Topic};
use crate::webhook::TenantSeq;

impl Engine {
    /// Predicts the deliveries of an event. Nothing is stored.
    pub fn dry_run(&self, tenant: TenantSeq, event: &Event) -> Result<DryRun, PublishError> {
        self.ingest.dry_run(tenant, event)
    }

    /// Whether this node owns the shard. A node that is alone owns all shards.
    pub(crate) fn owns(&self, shard: Shard) -> bool {
        self.dispatcher.owns(shard)
    }

    /// Whether any webhook matches the topic.
    pub(crate) fn is_wanted(&self, tenant: TenantSeq, topic: &Topic) -> bool {
        self.ingest.is_wanted(tenant, topic)
    }

    /// The patterns of a tenant's enabled webhooks, each once, without those for the server's own events.
    pub(crate) fn wanted(&self, tenant: TenantSeq) -> BTreeSet<Pattern> {
        self.ingest.wanted(tenant)
    }

    /// Changes whenever webhooks do, on any node.
    pub(crate) fn pattern_changes(&self) -> watch::Receiver<()> {
        self.ingest.pattern_changes()
    }
}
