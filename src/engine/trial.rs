//! A test of a webhook: one attempt with an event that is not stored.

use uuid::Uuid;

use super::Engine;
use crate::delivery::Outcome;
use crate::dispatcher::trial::TestRefused;
use crate::event::Event;
use crate::shape::RenderError;
use crate::store::{Act, Deed, StoreError};
use crate::topic::Topic;

/// The topic of the event that [`Engine::test_webhook`] sends.
pub const TEST_TOPIC: &str = "postrider.test";

/// The reason why a webhook was not tested.
#[derive(Debug, thiserror::Error)]
pub enum TestError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Refused(#[from] TestRefused),
}

impl Engine {
    /// Makes one signed attempt with a test event, within the limits of the webhook's deliveries and without retries.
    /// Only the line in the audit log is stored. The inner error: the shape could not be rendered.
    pub async fn test_webhook(
        &self,
        act: impl Into<Act>,
        uuid: Uuid,
    ) -> Result<Result<Outcome, RenderError>, TestError> {
        let act = act.into();
        let share = self.dispatcher.test_share(act.tenant)?;
        let record = self.find(act.tenant, uuid).await?;
        let event = Topic::parse(TEST_TOPIC).map_err(|error| error.to_string()).and_then(|topic| {
            let payload = r#"{"message":"This is a test from Postrider: the webhook works."}"#;
            Event::new(topic, "test", payload, self.now()).map_err(|error| error.to_string())
        });
        let event = event.map_err(StoreError::Conflict)?;
        let (target, target_name) = (Some(uuid.to_string()), Some(record.settings.name.clone()));
        let deed = Deed { at: self.now(), tenant: act.tenant, action: "webhook.test", target, target_name };
        self.store.audited(&act).record(deed).await?;
        Ok(self.dispatcher.test(share, &record, event).await?)
    }
}
