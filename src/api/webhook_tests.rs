//! `POST /webhooks/{uuid}/test`: one attempt now.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::App;
use super::auth::Admin;
use super::input::{Id, NoInput};
use super::problem::Problem;
use super::views::millis;
use crate::delivery::{End, Outcome};
use crate::dispatcher::trial::Tried;

/// What came of a test.
#[derive(Serialize, ToSchema)]
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
}

/// Where the time went, in milliseconds; `null`: the phase was not needed or not reached.
#[derive(Default, Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "the unit is part of a field's name")]
pub(super) struct Timings {
    #[schema(required)]
    dns_ms: Option<f64>,
    #[schema(required)]
    connect_ms: Option<f64>,
    #[schema(required)]
    tls_ms: Option<f64>,
    /// From the request's first byte out to the response's head in.
    #[schema(required)]
    first_byte_ms: Option<f64>,
}

/// Try a webhook
///
/// One signed attempt now with a test event; it is not repeated and not stored. It waits for the webhook's rate limit, for
/// room among the attempts that the webhook may have at once, and for one of the server's slots, 10 s at most.
#[utoipa::path(post, path = "/webhooks/{uuid}/test", tag = "webhooks", params(("uuid" = Uuid, Path)), responses(
    (status = 200, body = TestResult, description = "The attempt was made; `delivered` says what came of it."),
    (status = 404, description = "There is no such webhook."),
    (status = 429, description = "Too many tests of this tenant at once, or no attempt of this webhook may begin yet; \
        `Retry-After` says when to try again."),
))]
pub(super) async fn test(
    State(app): State<Arc<App>>,
    Admin(act): Admin,
    Id(uuid): Id<Uuid>,
    _: NoInput,
) -> Result<Json<TestResult>, Problem> {
    let Tried { outcome, error } = match app.engine.test_webhook(act, uuid).await? {
        Ok(tried) => tried,
        Err(error) => {
            let (delivered, status_code, error) = (false, None, Some(error.to_string()));
            return Ok(Json(TestResult {
                delivered,
                status_code,
                error,
                duration_ms: 0.0,
                timings: Timings::default(),
            }));
        }
    };
    Ok(Json(test_result(&outcome, error)))
}

fn test_result(outcome: &Outcome, error: Option<String>) -> TestResult {
    let status_code = if let End::Status(status) = outcome.end { Some(status) } else { None };
    let timings = Timings {
        dns_ms: outcome.timings.dns.map(millis),
        connect_ms: outcome.timings.connect.map(millis),
        tls_ms: outcome.timings.tls.map(millis),
        first_byte_ms: outcome.timings.first_byte.map(millis),
    };
    TestResult { delivered: error.is_none(), status_code, error, duration_ms: millis(outcome.duration), timings }
}
