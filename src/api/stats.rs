//! `/stats`: how much happened, and what is going on.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::auth::Reader;
use super::input::Params;
use super::problem::Problem;

/// Counts since the installation, and the figures of the process that answers.
#[derive(Serialize, ToSchema)]
pub(super) struct Stats {
    events: u64,
    /// Deliveries by state.
    pending: u64,
    delivered: u64,
    dead: u64,
    skipped: u64,
    discarded: u64,
    attempts: u64,
    process: ProcessStats,
}

/// The process that answers; counts are since its start.
#[derive(Serialize, ToSchema)]
pub(super) struct ProcessStats {
    uptime_s: u64,
    events_accepted: u64,
    events_duplicate: u64,
    attempts_succeeded: u64,
    attempts_failed: u64,
    deliveries_delivered: u64,
    deliveries_dead: u64,
    lanes: u64,
    circuits_open: u64,
    /// Attempts under way.
    in_flight: u64,
    /// Deliveries waiting in memory.
    queued: u64,
    /// Bytes of event bodies in memory.
    memory_bytes: u64,
}

/// Show figures
#[utoipa::path(get, path = "/stats", tag = "stats", responses((status = 200, body = Stats)))]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    Reader(tenant): Reader,
    params: Params,
) -> Result<Json<Stats>, Problem> {
    params.finish()?;
    let stats = app.engine.store().stats(tenant).await?;
    let figures = app.engine.figures();
    Ok(Json(Stats {
        events: stats.events,
        pending: stats.pending,
        delivered: stats.delivered,
        dead: stats.dead,
        skipped: stats.skipped,
        discarded: stats.discarded,
        attempts: stats.attempts,
        process: ProcessStats {
            uptime_s: app.uptime().as_secs(),
            events_accepted: figures.events_accepted,
            events_duplicate: figures.events_duplicate,
            attempts_succeeded: figures.attempts_succeeded,
            attempts_failed: figures.attempts_failed,
            deliveries_delivered: figures.deliveries_delivered,
            deliveries_dead: figures.deliveries_dead,
            lanes: figures.lanes,
            circuits_open: figures.circuits_open,
            in_flight: figures.in_flight,
            queued: figures.queued,
            memory_bytes: figures.memory_bytes,
        },
    }))
}
