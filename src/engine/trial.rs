//! What an operator asks of a webhook beside its settings: a test, which is one attempt with an event that is not stored,
//! and an attempt now of what waits.

use serde_json::json;
use uuid::Uuid;

use super::Engine;
use crate::dispatcher::trial::{TestRefused, Tried};
use crate::event::Event;
use crate::shape::RenderError;
use crate::store::{Act, Deed, SERVER, StoreError};
use crate::topic::Topic;
use crate::webhook::WebhookRecord;

/// The topic of the event that [`Engine::test_webhook`] sends; the original's.
pub const TEST_TOPIC: &str = "test.ping";

/// The reason why a webhook was not tested.
#[derive(Debug, thiserror::Error)]
pub enum TestError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Refused(#[from] TestRefused),
}

impl Engine {
    /// An attempt now of what the webhook is owed, although its circuit is open or its receiver has asked for time. Fails if
    /// it is off or paused.
    pub async fn resume_webhook(&self, act: impl Into<Act>, uuid: Uuid) -> Result<WebhookRecord, StoreError> {
        let act = act.into();
        let record = self.find(act.tenant, uuid).await?;
        if !record.settings.enabled || record.settings.policy.paused {
            let state = if record.settings.enabled { "paused" } else { "turned off" };
            return Err(StoreError::Conflict(format!("the webhook is {state}, which a change of its settings ends")));
        }
        let deed = self.deed("webhook.resume", &act, &record);
        self.store.audited(&act).record(deed).await?;
        self.dispatcher.wish(record.seq);
        Ok(record)
    }

    fn deed(&self, action: &'static str, act: &Act, record: &WebhookRecord) -> Deed {
        let (target, target_name) = (Some(record.uuid.to_string()), Some(record.settings.name.clone()));
        Deed { at: self.now(), tenant: act.tenant, action, target, target_name }
    }

    /// One signed attempt now of `event` or else of a synthetic one, within the limits of the webhook's deliveries, no retry; stores nothing
    /// but who asked for it. The inner error: there is no body to send.
    pub async fn test_webhook(
        &self,
        act: impl Into<Act>,
        uuid: Uuid,
        event: Option<Event>,
    ) -> Result<Result<Tried, RenderError>, TestError> {
        let act = act.into();
        let share = self.dispatcher.test_share(act.tenant)?;
        let record = self.find(act.tenant, uuid).await?;
        let event = event.map_or_else(|| self.synthetic(&act), Ok)?;
        let deed = self.deed("webhook.test", &act, &record);
        self.store.audited(&act).record(deed).await?;
        Ok(self.dispatcher.test(share, &record, event).await?)
    }

    fn synthetic(&self, act: &Act) -> Result<Event, StoreError> {
        let event = Topic::parse(TEST_TOPIC).map_err(|error| error.to_string()).and_then(|topic| {
            let triggered_by = act.actor.as_ref().map_or(SERVER, |actor| &actor.name);
            let payload = json!({ "message": "Synthetic test event from Postrider", "triggered_by": triggered_by });
            Event::new(topic, "test", &payload.to_string(), self.now()).map_err(|error| error.to_string())
        });
        event.map_err(StoreError::Conflict)
    }
}
