//! Changes of tenants: store, quotas, patterns and lanes in step.

use std::sync::Arc;

use super::{Engine, to_the_end};
use crate::store::{Act, StoreError, TenantKey, TenantPatch, TenantRecord};

impl Engine {
    /// `patch` must have no faults. Quotas that it does not set are the defaults of new tenants. The line in the audit
    /// log belongs to the new tenant, whatever tenant `act` has.
    pub async fn create_tenant(self: &Arc<Self>, act: Act, patch: TenantPatch) -> Result<TenantRecord, StoreError> {
        let engine = Arc::clone(self);
        to_the_end(async move {
            let in_order = engine.changes.lock().await;
            let patch = patch.or(engine.tenants.quotas_of_new());
            let record = engine.store.audited(&act).create_tenant(patch, engine.now()).await?;
            engine.tenants.apply(record.clone());
            drop(in_order);
            engine.make_known().await?;
            Ok(record)
        })
        .await
    }

    /// `patch` must have no faults. Takes effect at once. Webhooks and pending deliveries beyond a new quota stay.
    pub async fn update_tenant(
        self: &Arc<Self>,
        act: Act,
        tenant: impl Into<TenantKey>,
        patch: TenantPatch,
    ) -> Result<TenantRecord, StoreError> {
        let (engine, tenant) = (Arc::clone(self), tenant.into());
        to_the_end(async move {
            let in_order = engine.changes.lock().await;
            let record = engine.store.audited(&act).update_tenant(tenant, patch, engine.now()).await?;
            engine.tenants.apply(record.clone());
            drop(in_order);
            engine.make_known().await?;
            Ok(record)
        })
        .await
    }

    /// With `force` the tenant's webhooks are deleted, too, and their pending deliveries end as discarded. The tokens
    /// are revoked.
    pub async fn delete_tenant(
        self: &Arc<Self>,
        act: Act,
        tenant: impl Into<TenantKey>,
        force: bool,
    ) -> Result<TenantRecord, StoreError> {
        let (engine, tenant) = (Arc::clone(self), tenant.into());
        let seq = tenant.seq;
        to_the_end(async move {
            let in_order = engine.changes.lock().await;
            let deleted = engine.store.audited(&act).delete_tenant(tenant, force, engine.now()).await;
            // Even after an error, since the deletion may be committed while its answer was lost.
            engine.forget_tokens();
            let deleted = deleted?;
            engine.tenants.remove(seq);
            for webhook in deleted.webhooks {
                engine.ingest.remove(seq, webhook);
                engine.dispatcher.remove(webhook);
            }
            drop(in_order);
            engine.make_known().await?;
            Ok(deleted.tenant)
        })
        .await
    }
}
