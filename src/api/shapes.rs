//! `/shapes`: the bodies that receivers can get, and a look at one before it is sent.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::App;
use super::auth::Reader;
use super::events::EventInput;
use super::input::{Params, PreviewBody};
use super::problem::Problem;
use super::stored_events;
use crate::event::Event;
use crate::shape::{self, Context, RenderError, Shape, ShapeError, ShapeInput};

/// A shape that comes with the server.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "name": "slack",
    "description": "A message with blocks for an incoming webhook of Slack.",
    "content_type": "application/json",
    "template": "{ \"text\": {{ event.topic|tojson }} }"
}))]
pub(super) struct BuiltinShape {
    name: &'static str,
    description: &'static str,
    /// Of the bodies that it makes.
    content_type: &'static str,
    /// Its template, to begin one's own with; `null` for the canonical body as it is.
    #[schema(required)]
    template: Option<&'static str>,
}

/// What to look at: a shape, and an event that is given, stored, or (without either) a sample.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"shape": "slack"}))]
pub(super) struct PreviewInput {
    shape: ShapeInput,
    /// An event as it would be published.
    #[schema(value_type = Option<EventInput>)]
    event: Option<Box<RawValue>>,
    /// The id of a stored event.
    event_id: Option<String>,
}

/// What a receiver would get.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"content_type": "application/json", "body": "{\"text\": \"attacker.session.started\"}"}))]
pub(super) struct Preview {
    content_type: String,
    /// The body as text.
    body: String,
}

impl From<ShapeError> for Problem {
    fn from(error: ShapeError) -> Self {
        Self::field("shape", error.to_string())
    }
}

impl From<RenderError> for Problem {
    fn from(error: RenderError) -> Self {
        let text = error.to_string();
        Self::field("shape", text.strip_prefix("shape: ").unwrap_or(&text))
    }
}

/// List the shapes
///
/// Those that come with the server. A webhook may have a template of its own instead.
#[utoipa::path(get, path = "/shapes", tag = "shapes", responses((status = 200, body = [BuiltinShape])))]
pub(super) async fn list(Reader(_tenant): Reader, params: Params) -> Result<Json<Vec<BuiltinShape>>, Problem> {
    params.finish()?;
    let shown = |builtin: &shape::Builtin| BuiltinShape {
        name: builtin.name,
        description: builtin.description,
        content_type: builtin.content_type,
        template: builtin.source,
    };
    Ok(Json(shape::builtins().iter().map(shown).collect()))
}

/// Preview a shape
///
/// Shows the body that a receiver would get. Nothing is sent. Previews have their turn between the tenants' renderings.
#[utoipa::path(post, path = "/shapes/preview", tag = "shapes", request_body = PreviewInput, responses(
    (status = 200, body = Preview),
    (status = 400, description = "The body is no JSON."),
    (status = 404, description = "There is no such event."),
    (status = 413, description = "The body is too large."),
    (status = 415, description = "The body is not `application/json`."),
    (status = 422, description = "The template does not parse, or fails on this event; the reason names the line."),
    (status = 429, description = "Too many previews of this tenant at once; `Retry-After` says when to try again."),
))]
pub(super) async fn preview(
    State(app): State<Arc<App>>,
    Reader(tenant): Reader,
    PreviewBody(input): PreviewBody<PreviewInput>,
) -> Result<Json<Preview>, Problem> {
    if input.event.is_some() && input.event_id.is_some() {
        return Err(Problem::field("event_id", "is given beside `event`; one of them is enough"));
    }
    let now = app.engine.now();
    let stored = match &input.event_id {
        Some(id) => Some(stored_events::named(&app, tenant, id).await?.event),
        None => None,
    };
    let rendering = app.engine.preview(tenant, move || -> Result<Preview, Problem> {
        let given = || input.event.as_ref().map_or(shape::sample(), |event| event.get());
        let event = stored.map_or_else(|| Event::from_json(given().as_bytes(), now), Ok)?;
        let shape = Shape::parse(&input.shape)?;
        let context = Context {
            webhook_name: "preview",
            webhook_id: "00000000-0000-0000-0000-000000000000",
            webhook_metadata: &BTreeMap::new(),
            tenant: "default",
            delivery_id: "preview",
            attempt: 1,
            now,
        };
        let (content_type, body) = shape::preview(&shape, &event, &context)?;
        Ok(Preview { content_type: content_type.to_str().unwrap_or_default().to_owned(), body })
    });
    rendering.await?.map(Json)
}
