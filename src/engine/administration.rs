//! Changes of tenants: store, quotas, patterns and lanes in step.

use std::sync::Arc;

use super::{Engine, to_the_end};
use crate::store::{Act, StoreError, TenantKey, TenantPatch, TenantRecord};

impl Engine {
    /// `patch` has no faults; quotas of which it says nothing are those of new tenants. Whatever `act` names as its tenant, the line in the audit log is the new tenant's.
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

    /// `patch` has no faults. Takes effect at once; more webhooks or pending deliveries than a new quota allows stay.
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

    /// With `force` its webhooks go too, and their pending deliveries end as discarded. Its tokens are revoked.
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
            // Also after an error: the answer may be lost where the deletion is not.
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
