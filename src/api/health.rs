//! `/healthz` and `/readyz`: is the process alive, may it be given work.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::problem::Problem;

/// A store that does not answer within this time is not ready.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// All is well.
#[derive(Serialize, ToSchema)]
pub(super) struct Health {
    #[schema(example = "ok")]
    status: &'static str,
}

/// Is the process alive
#[utoipa::path(get, path = "/healthz", tag = "operation", security(()), responses((status = 200, body = Health)))]
pub(super) async fn alive() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// May it be given work
///
/// It may if its store can commit and it is not shutting down.
#[utoipa::path(get, path = "/readyz", tag = "operation", security(()), responses(
    (status = 200, body = Health),
    (status = 503, description = "It is shutting down, or its store cannot commit."),
    (status = 507, description = "The store is full."),
))]
pub(super) async fn ready(State(app): State<Arc<App>>) -> Result<Json<Health>, Problem> {
    if app.draining.load(Ordering::Relaxed) {
        return Err(Problem::unavailable("the server is shutting down"));
    }
    tokio::time::timeout(CHECK_TIMEOUT, app.engine.store().check())
        .await
        .map_err(|_| Problem::unavailable("the store does not answer"))??;
    Ok(Json(Health { status: "ok" }))
}
