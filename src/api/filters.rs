//! `/filters`: a look at what a filter would let through.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::App;
use super::auth::Reader;
use super::events::EventInput;
use super::input::PreviewBody;
use super::problem::Problem;
use super::stored_events;
use crate::event::Event;
use crate::filter::{EventPattern, Filter};

/// A filter, and an event that is given or stored.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = FilterPreviewInput, example = json!({
    "filter": {"payload": {"score": [{"numeric": [">=", 7]}]}},
    "event": {"topic": "attacker.session.started", "payload": {"score": 9}}
}))]
pub(super) struct PreviewInput {
    /// An event pattern, as a webhook has it.
    #[schema(value_type = EventPattern)]
    filter: Box<RawValue>,
    /// An event as it would be published.
    #[schema(value_type = Option<EventInput>)]
    event: Option<Box<RawValue>>,
    /// The id of a stored event.
    event_id: Option<String>,
}

/// Whether the event would be delivered.
#[derive(Serialize, ToSchema)]
#[schema(as = FilterPreview)]
pub(super) struct Preview {
    matches: bool,
}

/// Try a filter
///
/// Says whether it lets an event through. Nothing is stored or sent.
#[utoipa::path(post, path = "/filters/preview", tag = "filters", request_body = PreviewInput, responses(
    (status = 200, body = Preview),
    (status = 400, description = "The body is no JSON."),
    (status = 404, description = "There is no such event."),
    (status = 413, description = "The body is too large."),
    (status = 415, description = "The body is not `application/json`."),
    (status = 422, description = "The filter or the event is invalid; the reason says where."),
    (status = 429, description = "Too many previews of this tenant at once; `Retry-After` says when to try again."),
))]
pub(super) async fn preview(
    State(app): State<Arc<App>>,
    Reader(tenant): Reader,
    PreviewBody(input): PreviewBody<PreviewInput>,
) -> Result<Json<Preview>, Problem> {
    if input.event.is_some() == input.event_id.is_some() {
        return Err(Problem::field("event", "one of `event` and `event_id` is needed"));
    }
    let now = app.engine.now();
    let stored = match &input.event_id {
        Some(id) => Some(stored_events::named(&app, tenant, id).await?.event),
        None => None,
    };
    let matching = app.engine.preview(tenant, move || -> Result<Preview, Problem> {
        let filter = Filter::parse(input.filter.get()).map_err(|error| Problem::field("filter", error.to_string()))?;
        let given = || input.event.as_ref().map_or("", |event| event.get());
        let event = stored.map_or_else(|| Event::from_json(given().as_bytes(), now), Ok)?;
        Ok(Preview { matches: filter.matches(event.body()) })
    });
    matching.await?.map(Json)
}
