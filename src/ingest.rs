//! The one door: an event that is accepted here is durable, with everything it is owed to.

use std::sync::Arc;

use crate::event::Event;
use crate::store::StoreError;
use crate::webhook::TenantSeq;

/// What a publisher is told of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub id: String,
    /// Webhooks it is owed to.
    pub deliveries: u32,
    /// Sent before: nothing was stored now, nothing is delivered again.
    pub duplicate: bool,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum PublishError {
    #[error("the server is shutting down")]
    Draining,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Matches events and hands them to the store, then to the lanes.
pub struct Ingest {
    // store, directory, lanes
}

impl Ingest {
    pub async fn publish(&self, tenant: TenantSeq, events: Vec<Event>) -> Result<Vec<Receipt>, PublishError> {
        let _ = (tenant, events, Arc::new(()));
        todo!()
    }
}
