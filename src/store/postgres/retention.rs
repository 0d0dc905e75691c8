//! Purging.

use async_trait::async_trait;

use super::PostgresStore;
use crate::clock::UnixMicros;
use crate::delivery::id::EventSeq;
use crate::store::StoreError;
use crate::store::retention::{Purged, Retention, RetentionStore};

#[async_trait]
impl RetentionStore for PostgresStore {
    async fn purge_events(&self, after: EventSeq, retention: &Retention) -> Result<Purged, StoreError> {
        Err(super::not_yet())
    }

    async fn purge_attempts(&self, after: EventSeq, retention: &Retention) -> Result<Purged, StoreError> {
        Err(super::not_yet())
    }

    async fn purge_records(&self, now: UnixMicros, jobs_before: UnixMicros) -> Result<bool, StoreError> {
        Err(super::not_yet())
    }

    async fn release_space(&self) -> Result<bool, StoreError> {
        Err(super::not_yet())
    }

    fn is_busy(&self) -> bool {
        false
    }
}
