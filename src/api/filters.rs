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
use super::input::JsonBody;
use super::problem::Problem;
use crate::event::Event;
use crate::filter::Filter;

/// A filter, and an event that is given or stored.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = FilterPreviewInput, example = json!({
    "filter": {"payload": {"score": [{"numeric": [">=", 7]}]}},
    "event": {"topic": "attacker.session.started", "payload": {"score": 9}}
}))]
pub(super) struct PreviewInput {
    /// An event pattern, as a webhook has it.
    #[schema(value_type = Object)]
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
))]
pub(super) async fn preview(
    State(app): State<Arc<App>>,
    Reader(tenant): Reader,
    JsonBody(input): JsonBody<PreviewInput>,
) -> Result<Json<Preview>, Problem> {
    let filter = Filter::parse(input.filter.get()).map_err(|error| Problem::field("filter", error.to_string()))?;
    let event = match (&input.event, &input.event_id) {
        (Some(event), None) => Event::from_json(event.get().as_bytes(), app.engine.now())?,
        (None, Some(id)) => {
            let stored = app.engine.store().event(tenant, id).await?;
            stored.ok_or_else(|| Problem::not_found("event"))?.event
        }
        _ => return Err(Problem::field("event", "one of `event` and `event_id` is needed")),
    };
    Ok(Json(Preview { matches: filter.matches(event.body()) }))
}
