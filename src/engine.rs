//! One node: its store, its door and its lanes, kept in step. What the API and the command line talk to.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::clock::{Clock, UnixMicros};
use crate::delivery::Outcome;
use crate::delivery::client::Client;
use crate::dispatcher::{Dispatcher, DispatcherSettings, Figures};
use crate::event::Event;
use crate::ingest::{Ingest, PublishError, Receipt};
use crate::store::{DeliveryKey, Store, StoreError, StoredDelivery};
use crate::webhook::{TenantSeq, WebhookError, WebhookPatch, WebhookRecord};

/// A running node.
pub struct Engine {
    store: Arc<dyn Store>,
    client: Client,
    clock: Arc<dyn Clock>,
    dispatcher: Dispatcher,
    ingest: Ingest,
}

/// Why a change of a webhook was refused.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    #[error("the settings are not valid")]
    Invalid(Vec<WebhookError>),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Engine {
    /// Reads the webhooks and what is owed to them, and starts delivering.
    pub async fn start(
        store: Arc<dyn Store>,
        client: Client,
        clock: Arc<dyn Clock>,
        settings: DispatcherSettings,
    ) -> Result<Arc<Self>, StoreError> {
        let _ = (store, client, clock, settings);
        todo!()
    }

    /// For reading, and for tokens.
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    pub fn now(&self) -> UnixMicros {
        self.clock.now()
    }

    /// Accepts events, all or none; one receipt an event, in order.
    pub async fn publish(&self, tenant: TenantSeq, events: Vec<Event>) -> Result<Vec<Receipt>, PublishError> {
        self.ingest.publish(tenant, events).await
    }

    pub async fn create_webhook(&self, tenant: TenantSeq, patch: WebhookPatch) -> Result<WebhookRecord, ChangeError> {
        let _ = (tenant, patch, &self.client);
        todo!()
    }

    /// Changes what `patch` names; takes effect at once. `enabled: Some(true)` also closes the circuit.
    pub async fn update_webhook(
        &self,
        tenant: TenantSeq,
        uuid: Uuid,
        patch: WebhookPatch,
    ) -> Result<WebhookRecord, ChangeError> {
        let _ = (tenant, uuid, patch);
        todo!()
    }

    /// Its pending deliveries end as discarded, `webhook deleted`.
    pub async fn delete_webhook(&self, tenant: TenantSeq, uuid: Uuid) -> Result<(), StoreError> {
        let _ = (tenant, uuid);
        todo!()
    }

    /// One signed attempt now with a test event, no retry; stores nothing.
    pub async fn test_webhook(&self, tenant: TenantSeq, uuid: Uuid) -> Result<Outcome, StoreError> {
        let _ = (tenant, uuid);
        todo!()
    }

    /// Makes an ended delivery pending again, or a waiting one due now.
    pub async fn retry_delivery(&self, tenant: TenantSeq, key: DeliveryKey) -> Result<StoredDelivery, StoreError> {
        let _ = (tenant, key);
        todo!()
    }

    pub async fn discard_delivery(
        &self,
        tenant: TenantSeq,
        key: DeliveryKey,
        reason: &str,
    ) -> Result<StoredDelivery, StoreError> {
        let _ = (tenant, key, reason);
        todo!()
    }

    /// What happened since the start, and what is going on, for metrics.
    pub fn figures(&self) -> Figures {
        self.dispatcher.figures()
    }

    /// Stops accepting and starting attempts, waits for those under way for at most `timeout`, records them,
    /// and closes the store. Returns how many attempts were cut off; their deliveries are made again at the next start.
    pub async fn drain(&self, timeout: Duration) -> usize {
        let _ = timeout;
        todo!()
    }
}
