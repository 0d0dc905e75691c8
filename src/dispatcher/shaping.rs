//! Bodies in the shape that a webhook wants, and whatever else is computed at a user's wish: aside from everything else,
//! and in turns by tenant.

use std::sync::Arc;

use http::HeaderValue;
use uuid::Uuid;

use super::lane::LaneSettings;
use crate::clock::UnixMicros;
use crate::delivery::attempt::Message;
use crate::event::Stamp;
use crate::fair::{Caps, Turns};
use crate::shape::{Context, Header, RenderError, Whole};
use crate::store::LiveEvent;
use crate::tenants::Tenants;
use crate::webhook::TenantSeq;

/// Renderings at the same time, over all lanes, so that a template that always uses up its fuel takes one processor at
/// most.
const MAX_RENDERINGS: usize = 1;
/// The most previews of one tenant that wait or are computed.
const MAX_PREVIEWS: usize = 4;

/// Renders shapes on blocking threads, apart from other work.
pub(crate) struct Shaping {
    turns: Turns<TenantSeq>,
    previews: Caps<TenantSeq>,
    /// The names of tenants, which templates can show.
    tenants: Arc<Tenants>,
}

/// The reason why there is no preview.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PreviewError {
    #[error("{MAX_PREVIEWS} previews of this tenant are being made; try again when one has ended")]
    TooMany,
    #[error("a preview broke off")]
    BrokeOff,
}

/// A body and its content type, and the headers that are made from the event.
pub(crate) struct Shaped {
    event: Arc<LiveEvent>,
    pub(super) body: bytes::Bytes,
    pub(super) content_type: HeaderValue,
    headers: Vec<Header>,
    more_headers: Vec<Header>,
}

/// Which delivery a rendering is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rendered {
    pub(crate) delivery: Uuid,
    /// The number of the attempt, from 1.
    pub(crate) attempt: u32,
    pub(crate) now: UnixMicros,
}

impl Shaping {
    pub(super) fn new(tenants: Arc<Tenants>) -> Self {
        Self { turns: Turns::new(MAX_RENDERINGS), previews: Caps::new(MAX_PREVIEWS), tenants }
    }

    /// Computes a preview in the tenant's turn.
    pub(crate) async fn preview<T: Send + 'static>(
        &self,
        tenant: TenantSeq,
        compute: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PreviewError> {
        let share = self.previews.take(tenant).ok_or(PreviewError::TooMany)?;
        let computed = self.turns.compute(tenant, move || {
            let _share = share;
            compute()
        });
        computed.await.ok_or(PreviewError::BrokeOff)
    }

    /// Renders the event in the shape of `settings`, and the headers that have templates.
    pub(crate) async fn shape(
        &self,
        settings: &Arc<LaneSettings>,
        event: &Arc<LiveEvent>,
        Rendered { delivery, attempt, now }: Rendered,
    ) -> Result<Shaped, RenderError> {
        let (settings, event) = (Arc::clone(settings), Arc::clone(event));
        let tenant = self.tenants.get(settings.tenant);
        let rendered = self.turns.compute(settings.tenant, move || {
            let (webhook_id, delivery_id) = (settings.uuid.to_string(), delivery.to_string());
            let context = Context {
                webhook_name: &settings.name,
                webhook_id: &webhook_id,
                webhook_metadata: &settings.policy.metadata,
                tenant: tenant.as_ref().map_or("", |tenant| tenant.name()),
                delivery_id: &delivery_id,
                attempt,
                now,
            };
            let shape = &settings.policy.shape;
            let Whole { body, content_type, headers: more_headers } = shape.render_whole(&event.event, &context)?;
            let headers = settings.policy.header_templates.render(&event.event, &context)?;
            Ok(Shaped { event, body, content_type, headers, more_headers })
        });
        rendered.await.unwrap_or_else(|| Err(RenderError::new(None, "the rendering broke off")))
    }
}

impl Shaped {
    /// Whether the body is that of the event as it is stored.
    pub(super) fn is_the_event(&self) -> bool {
        self.body == self.event.event.decnet_body()
    }

    pub(crate) fn message(&self, stamp: &Stamp) -> Message<'_> {
        let (event, content_type) = (&self.event.event, Some(self.content_type.clone()));
        let hops = stamp.value([event.hops()]);
        let (headers, more_headers) = (&self.headers, &self.more_headers);
        Message { body: self.body.clone(), content_type, hops, headers, more_headers, ..Message::of(event) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use parking_lot::Mutex;

    use super::*;

    const FLOOD: TenantSeq = TenantSeq(1);
    const QUIET: TenantSeq = TenantSeq(2);

    #[tokio::test]
    async fn a_tenant_s_previews_hold_up_another_s_rendering_by_one_and_no_more() {
        let shaping = Arc::new(Shaping::new(Arc::default()));
        let (begun, order) = (Arc::new(tokio::sync::Notify::new()), Arc::new(Mutex::new(Vec::new())));
        let (release, released) = mpsc::channel::<()>();
        let (holder, has_begun) = (Arc::clone(&shaping), Arc::clone(&begun));
        let held = tokio::spawn(async move {
            let hold = move || {
                has_begun.notify_one();
                released.recv().ok();
            };
            holder.preview(FLOOD, hold).await
        });
        begun.notified().await;
        let compute = |name: &'static str| {
            let order = Arc::clone(&order);
            move || order.lock().push(name)
        };
        let mut others = tokio::task::JoinSet::new();
        for name in ["flood 1", "flood 2", "flood 3"] {
            let (shaping, compute) = (Arc::clone(&shaping), compute(name));
            others.spawn(async move { shaping.preview(FLOOD, compute).await });
            tokio::task::yield_now().await;
        }
        assert_eq!(shaping.preview(FLOOD, || ()).await, Err(PreviewError::TooMany));
        let (quiet, delivered) = (Arc::clone(&shaping), compute("quiet"));
        others.spawn(async move { quiet.turns.compute(QUIET, delivered).await.ok_or(PreviewError::BrokeOff) });
        tokio::task::yield_now().await;
        release.send(()).unwrap();
        assert_eq!(held.await.unwrap(), Ok(()));
        assert!(others.join_all().await.iter().all(Result::is_ok));
        assert_eq!(*order.lock(), ["flood 1", "quiet", "flood 2", "flood 3"]);
        assert_eq!(shaping.preview(FLOOD, || 1).await, Ok(1), "what has ended makes room");
    }
}
