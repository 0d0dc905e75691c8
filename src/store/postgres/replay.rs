//! Replay jobs.

use std::sync::Arc;

use async_trait::async_trait;
use uuid::Uuid;

use super::PostgresStore;
use crate::clock::UnixMicros;
use crate::delivery::id::EventSeq;
use crate::store::replay::{
    NewReplay, ReplayFilter, ReplayRecord, ReplayScan, ReplayState, ReplayStep, ReplayStore, Stepped,
};
use crate::store::{Page, PageOf, StoreError};
use crate::topic::Pattern;
use crate::webhook::{TenantSeq, WebhookSeq};

#[async_trait]
impl ReplayStore for PostgresStore {
    async fn create_replay(
        &self,
        tenant: TenantSeq,
        job: NewReplay,
        now: UnixMicros,
    ) -> Result<ReplayRecord, StoreError> {
        Err(super::not_yet())
    }

    async fn replay(&self, tenant: TenantSeq, uuid: Uuid) -> Result<Option<ReplayRecord>, StoreError> {
        Err(super::not_yet())
    }

    async fn replays(
        &self,
        tenant: TenantSeq,
        filter: &ReplayFilter,
        page: Page,
    ) -> Result<PageOf<ReplayRecord>, StoreError> {
        Err(super::not_yet())
    }

    async fn unfinished_replays(&self) -> Result<Vec<ReplayRecord>, StoreError> {
        Err(super::not_yet())
    }

    async fn scan_replay(
        &self,
        job: &ReplayRecord,
        patterns: Arc<[Pattern]>,
        max_changes: u32,
    ) -> Result<ReplayScan, StoreError> {
        Err(super::not_yet())
    }

    async fn step_replay(&self, step: ReplayStep) -> Result<Stepped, StoreError> {
        Err(super::not_yet())
    }

    async fn end_replay(
        &self,
        tenant: TenantSeq,
        uuid: Uuid,
        state: ReplayState,
        reason: &str,
        now: UnixMicros,
    ) -> Result<ReplayRecord, StoreError> {
        Err(super::not_yet())
    }

    async fn resend(
        &self,
        tenant: TenantSeq,
        event: EventSeq,
        webhooks: Vec<WebhookSeq>,
        now: UnixMicros,
    ) -> Result<Vec<WebhookSeq>, StoreError> {
        Err(super::not_yet())
    }
}
