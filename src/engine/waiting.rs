//! What deliveries wait for: what the store knows of it, and what a lane here does.

use super::Engine;
use crate::clock::UnixMicros;
use crate::delivery::id::DeliveryKey;
use crate::dispatcher::lane::Hold;
use crate::store::{StoreError, Waiting};
use crate::webhook::WebhookSeq;

/// What a webhook is owed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    pub waiting: Waiting,
    /// What the next delivery in memory waits for, and until when at least.
    pub(crate) hold: Option<(Hold, Option<UnixMicros>)>,
}

impl Engine {
    /// In the order of `webhooks`. Deliveries in the memory of other nodes are not counted.
    pub async fn backlogs(&self, webhooks: Vec<WebhookSeq>) -> Result<Vec<Backlog>, StoreError> {
        let stored = self.store().waiting(webhooks.clone()).await?;
        let backlog = |(webhook, stored): (WebhookSeq, Waiting)| {
            let held = self.dispatcher.held(webhook);
            let count = stored.count.saturating_add(held.count);
            let since = match (stored.since, held.since) {
                (Some(stored), Some(held)) => Some(stored.min(held)),
                (stored, held) => stored.or(held),
            };
            Backlog { waiting: Waiting { count, since }, hold: held.hold }
        };
        Ok(webhooks.into_iter().zip(stored).map(backlog).collect())
    }

    /// What a pending delivery waits for that is due; `None`: it is being attempted.
    pub(crate) fn hold(&self, key: DeliveryKey) -> Option<(Hold, Option<UnixMicros>)> {
        self.dispatcher.hold(key)
    }
}
