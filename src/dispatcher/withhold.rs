//! Changing deliveries in the store while no attempt is made for them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::Dispatcher;
use super::lane::{Lane, Whereabouts};
use crate::clock::Clock;
use crate::store::cluster::Hint;
use crate::store::{DeliveryKey, StoreError};
use crate::webhook::WebhookSeq;

impl Dispatcher {
    /// Keeps a delivery from being attempted while `change` runs; fails if an attempt is under way.
    pub(crate) async fn withhold<T>(
        &self,
        key: DeliveryKey,
        change: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let Some(lane) = self.shared.lane(key.webhook) else {
            return change.await.inspect(|_| self.hint(Hint::Withdrawn(key)));
        };
        let Whereabouts::Withheld(queued) = lane.withhold(key.event) else {
            return Err(StoreError::Conflict("an attempt is under way; try again when it has ended".to_owned()));
        };
        let result = change.await;
        let todo = lane.restore(key.event, queued.filter(|_| result.is_err()), self.shared.clock.now());
        self.shared.carry_out(&lane, todo);
        result
    }

    /// As [`Self::withhold`] for many deliveries. `change` gets the deliveries without an attempt under way, and
    /// returns the ones that it changed beside its result. The others stay as they were.
    pub(crate) async fn withhold_all<T, F>(
        &self,
        keys: Vec<DeliveryKey>,
        change: impl FnOnce(Vec<DeliveryKey>) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<(T, Vec<DeliveryKey>), StoreError>>,
    {
        let mut free = Vec::with_capacity(keys.len());
        let mut taken: HashMap<WebhookSeq, (Arc<Lane>, Vec<_>)> = HashMap::new();
        let mut elsewhere = Vec::new();
        for key in keys {
            let Some(lane) = self.shared.lane(key.webhook) else {
                elsewhere.push(key);
                free.push(key);
                continue;
            };
            if let Whereabouts::Withheld(queued) = lane.withhold(key.event) {
                taken.entry(key.webhook).or_insert_with(|| (lane, Vec::new())).1.push((key.event, queued));
                free.push(key);
            }
        }
        let result = change(free).await;
        let changed: HashSet<DeliveryKey> = result.iter().flat_map(|(_, changed)| changed).copied().collect();
        elsewhere.into_iter().filter(|key| changed.contains(key)).for_each(|key| self.hint(Hint::Withdrawn(key)));
        for (webhook, (lane, mut events)) in taken {
            for (event, queued) in &mut events {
                queued.take_if(|_| changed.contains(&DeliveryKey { event: *event, webhook }));
            }
            let todo = lane.restore_all(events, self.shared.clock.now());
            self.shared.carry_out(&lane, todo);
        }
        result.map(|(result, _)| result)
    }
}
