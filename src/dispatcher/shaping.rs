//! Bodies in the shape that a webhook wants.

use std::sync::Arc;

use http::HeaderValue;
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::lane::LaneSettings;
use crate::clock::UnixMicros;
use crate::delivery::attempt::Message;
use crate::shape::{Context, RenderError};
use crate::store::LiveEvent;
use crate::tenants::Tenants;

/// Templates that are rendered at once, over all lanes: one that uses up its fuel each time takes one processor.
const MAX_RENDERINGS: usize = 1;

/// Renders aside from everything else.
pub(crate) struct Shaping {
    places: Arc<Semaphore>,
    /// Whose names templates can show.
    tenants: Arc<Tenants>,
}

/// A body and what it is.
pub(crate) struct Shaped {
    event: Arc<LiveEvent>,
    body: bytes::Bytes,
    content_type: HeaderValue,
}

impl Shaping {
    pub(super) fn new(tenants: Arc<Tenants>) -> Self {
        Self { places: Arc::new(Semaphore::new(MAX_RENDERINGS)), tenants }
    }

    /// The event as `settings` want it.
    pub(crate) async fn shape(
        &self,
        settings: &Arc<LaneSettings>,
        event: &Arc<LiveEvent>,
        delivery: Uuid,
        now: UnixMicros,
    ) -> Result<Shaped, RenderError> {
        let failed = |reason: &str| RenderError::new(None, reason);
        let permit = Arc::clone(&self.places).acquire_owned().await.map_err(|_| failed("the server is stopping"))?;
        let (settings, event) = (Arc::clone(settings), Arc::clone(event));
        let tenant = self.tenants.get(settings.tenant);
        let rendering = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let (webhook_id, delivery_id) = (settings.uuid.to_string(), delivery.to_string());
            let context = Context {
                webhook_name: &settings.name,
                webhook_id: &webhook_id,
                webhook_metadata: &settings.policy.metadata,
                tenant: tenant.as_ref().map_or("", |tenant| tenant.name()),
                delivery_id: &delivery_id,
                now,
            };
            let shape = &settings.policy.shape;
            let body = shape.render(&event.event, &context)?;
            Ok(Shaped { body, content_type: shape.content_type(), event })
        });
        rendering.await.unwrap_or_else(|_| Err(failed("the rendering broke off")))
    }
}

impl Shaped {
    pub(crate) fn message(&self) -> Message<'_> {
        let content_type = Some(self.content_type.clone());
        Message { body: self.body.clone(), content_type, ..Message::of(&self.event.event) }
    }
}
