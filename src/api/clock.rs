//! `/clock`: the machine's clock, as far as things are deleted by it. For operators.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::auth::Operator;
use super::input::NoInput;
use super::problem::Problem;
use super::views::Time;

/// What this server takes for the time.
#[derive(Serialize, ToSchema)]
pub(super) struct Confirmation {
    now: Time,
    /// Purging had stopped, and goes on.
    was_doubted: bool,
}

/// Confirm the clock
///
/// A clock that jumps ahead, or is found more than a day after the newest event at a start, stops purging until it has run on
/// for a day. This says that it is right, to the server that is asked.
#[utoipa::path(post, path = "/clock/confirm", tag = "operation", responses((status = 200, body = Confirmation)))]
pub(super) async fn confirm(
    State(app): State<Arc<App>>,
    Operator(act): Operator,
    _: NoInput,
) -> Result<Json<Confirmation>, Problem> {
    let was_doubted = app.engine.confirm_clock(act).await?;
    Ok(Json(Confirmation { now: Time(app.engine.now()), was_doubted }))
}
