//! Erasing the payload of an event, in the store and in the lanes.

use std::sync::Arc;

use super::{Engine, to_the_end};
use crate::store::{Act, DeliveryKey, StoreError, StoredEvent};

impl Engine {
    /// Erases an event's payload and what was exchanged for it. The record stays. Pending deliveries end as discarded; one
    /// whose attempt is under way ends with that attempt, or when it is due again. Returns the event as it is then.
    pub async fn erase_event(self: &Arc<Self>, act: impl Into<Act>, id: &str) -> Result<StoredEvent, StoreError> {
        let (engine, act, id) = (Arc::clone(self), act.into(), id.to_owned());
        to_the_end(async move {
            let store = engine.store.audited(&act);
            let stored = store.event(act.tenant, &id).await?.ok_or(StoreError::NotFound)?;
            if stored.event.is_erased() {
                return Ok(stored);
            }
            let keys = stored.owed.iter().map(|webhook| DeliveryKey { event: stored.seq, webhook: *webhook }).collect();
            let erase = async |free| {
                let changed = store.erase_payload(act.tenant, stored.seq, free, engine.now()).await?;
                Ok(((), changed))
            };
            engine.dispatcher.withhold_all(keys, erase).await?;
            store.event(act.tenant, &id).await?.ok_or(StoreError::NotFound)
        })
        .await
    }
}
