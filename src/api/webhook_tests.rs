//! `POST /webhooks/{uuid}/test`: one attempt now.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use super::App;
use super::attempts::{Connection, Exchange, Timings};
use super::auth::AnyAdmin;
use super::events::EventInput;
use super::input::{Id, OptionalPreviewBody};
use super::problem::Problem;
use super::stored_events;
use super::views::millis;
use crate::delivery::Outcome;
use crate::dispatcher::trial::Tried;
use crate::event::Event;
use crate::webhook::TenantSeq;

/// What to send: an event that is given or stored, or (without either) a synthetic one.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TestInput {
    /// An event as it would be published. It is sent whatever topics and filter the webhook has, and not stored.
    #[schema(value_type = Option<EventInput>)]
    event: Option<Box<RawValue>>,
    /// The id of a stored event.
    event_id: Option<String>,
}

/// What came of a test.
#[derive(Default, Serialize, ToSchema)]
pub(super) struct TestResult {
    /// Whether the receiver's answer was a success, by default a 2xx.
    delivered: bool,
    #[schema(required)]
    status_code: Option<u16>,
    /// What went wrong: `non-retryable 404`, `http 503`, `answer: …`, `timeout: …`, `connect: …`, `tls: …`, `dns: …`, `auth: …`,
    /// `proxy: …`, `egress_blocked: …`, `shape: …`.
    #[schema(required)]
    error: Option<String>,
    /// Of the whole attempt, in milliseconds.
    duration_ms: f64,
    timings: Timings,
    /// `null`: there was none.
    #[schema(required)]
    connection: Option<Connection>,
    #[serde(flatten)]
    exchange: Exchange,
}

/// Try a webhook
///
/// One signed attempt now, of an event of your own or a synthetic one; it is not repeated and not stored. It waits for the
/// webhook's rate limit, for room among the attempts that the webhook may have at once, and for one of the server's slots, 10 s
/// at most. The body may be left out.
#[utoipa::path(post, path = "/webhooks/{uuid}/test", tag = "webhooks", params(("uuid" = Uuid, Path)),
    request_body = Option<TestInput>, responses(
    (status = 200, body = TestResult, description = "The attempt was made; `delivered` says what came of it."),
    (status = 400, description = "The body is no JSON."),
    (status = 404, description = "There is no such webhook, or no such event."),
    (status = 413, description = "The body is too large."),
    (status = 415, description = "The body is not `application/json`."),
    (status = 422, description = "The event is invalid."),
    (status = 429, description = "Too many tests of this tenant at once, or no attempt of this webhook may begin yet; \
        `Retry-After` says when to try again."),
))]
pub(super) async fn test(
    State(app): State<Arc<App>>,
    AnyAdmin { act, is_operator }: AnyAdmin,
    Id(uuid): Id<Uuid>,
    OptionalPreviewBody(input): OptionalPreviewBody<TestInput>,
) -> Result<Json<TestResult>, Problem> {
    let event = input.event(&app, act.tenant).await?;
    Ok(Json(match app.engine.test_webhook(act, uuid, event).await? {
        Ok(tried) => TestResult::of(&tried, is_operator),
        Err(error) => TestResult { error: Some(error.to_string()), ..TestResult::default() },
    }))
}

impl TestInput {
    /// `None`: a synthetic one.
    async fn event(&self, app: &App, tenant: TenantSeq) -> Result<Option<Event>, Problem> {
        match (&self.event, &self.event_id) {
            (Some(_), Some(_)) => Err(Problem::field("event_id", "is given beside `event`; one of them is enough")),
            (Some(event), None) => Ok(Some(Event::from_json(event.get().as_bytes(), app.engine.now())?)),
            (None, Some(id)) => {
                let stored = stored_events::named(app, tenant, id).await?;
                if stored.is_damaged {
                    return Err(Problem::field("event_id", "is an event whose stored body is damaged"));
                }
                Ok(Some(stored.event))
            }
            (None, None) => Ok(None),
        }
    }
}

impl TestResult {
    fn of(Tried { outcome, error }: &Tried, sees_addresses: bool) -> Self {
        let Outcome { exchange, response, .. } = outcome;
        let is_tls = exchange.link.is_some_and(|link| link.is_tls);
        Self {
            delivered: error.is_none(),
            status_code: outcome.status_code(),
            error: error.clone(),
            duration_ms: millis(outcome.duration),
            timings: exchange.timings.into(),
            connection: exchange.link.map(|link| Connection::new(link, sees_addresses)),
            exchange: Exchange::tried(exchange.request.as_ref(), is_tls, outcome.answer_head().as_deref(), response),
        }
    }
}
