//! `/replays`: jobs that make many deliveries pending again or discard them, and resending one event.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::App;
use super::auth::{Admin, Reader};
use super::deliveries::{DeliveryStateName, check_reason, parse_state};
use super::input::{Id, JsonBody, Moment, NoInput, OptionalJsonBody, Params};
use super::problem::{FieldError, Problem};
use super::views::Time;
use crate::delivery::DeliveryState;
use crate::engine::replay::{DEFAULT_REPLAY_RATE_PER_S, REPLAY_RATE_PER_S};
use crate::store::replay::{NewReplay, ReplayAction, ReplayFilter, ReplayRecord, ReplayState, Selection};
use crate::topic::Pattern;
use crate::webhook::whole;

/// A job that makes many deliveries pending again or discards them.
#[derive(Serialize, ToSchema)]
pub(super) struct Replay {
    uuid: Uuid,
    #[schema(value_type = ReplayActionName)]
    action: &'static str,
    /// `null`: every webhook.
    #[schema(required)]
    webhook_uuid: Option<Uuid>,
    #[schema(required)]
    webhook_name: Option<String>,
    /// Deliveries in these states.
    #[schema(value_type = Vec<DeliveryStateName>)]
    states: Vec<&'static str>,
    /// A topic or a pattern.
    #[schema(required)]
    topic: Option<String>,
    /// Event accepted at or after.
    #[schema(required)]
    since: Option<Time>,
    /// Event accepted before.
    #[schema(required)]
    until: Option<Time>,
    /// Also events that are not owed to the webhook and that it would match now.
    include_unmatched: bool,
    /// What discarded deliveries show.
    #[schema(required)]
    discard_reason: Option<String>,
    rate_per_s: u32,
    #[schema(value_type = ReplayStateName)]
    state: &'static str,
    /// Why it was cancelled or has failed.
    #[schema(required)]
    reason: Option<String>,
    /// How far through the events it is, 0 to 1.
    progress: f64,
    /// Deliveries looked at: those in one of `states`, whatever their topic and time. With `include_unmatched`: events
    /// looked at.
    scanned: u64,
    /// Deliveries made pending or discarded.
    changed: u64,
    created_at: Time,
    updated_at: Time,
}

/// What a job does.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "documents the names of `ReplayAction`")]
enum ReplayActionName {
    Replay,
    Discard,
}

/// Where a job stands. A `queued` one waits for its turn.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "documents the names of `ReplayState`")]
enum ReplayStateName {
    Queued,
    Running,
    Done,
    Cancelled,
    Failed,
}

/// A page of jobs.
#[derive(Serialize, ToSchema)]
pub(super) struct ReplayPage {
    items: Vec<Replay>,
    /// To be sent as `cursor` for the next page; `null`: this is the last one.
    #[schema(required)]
    next_cursor: Option<String>,
}

impl From<ReplayRecord> for Replay {
    fn from(record: ReplayRecord) -> Self {
        let progress = record.progress();
        let (action, include_unmatched, discard_reason) = match record.action {
            ReplayAction::Replay { include_unmatched } => ("replay", include_unmatched, None),
            ReplayAction::Discard { reason } => ("discard", false, Some(reason)),
        };
        let (webhook_uuid, webhook_name) = record.webhook.map(|webhook| (webhook.uuid, webhook.name)).unzip();
        Self {
            uuid: record.uuid,
            action,
            webhook_uuid,
            webhook_name,
            states: record.selection.states.into_iter().map(DeliveryState::as_str).collect(),
            topic: record.selection.topic.map(|topic| topic.to_string()),
            since: record.selection.since.map(Time),
            until: record.selection.until.map(Time),
            include_unmatched,
            discard_reason,
            rate_per_s: record.rate_per_s,
            state: record.state.as_str(),
            reason: record.reason,
            progress,
            scanned: record.scanned,
            changed: record.changed,
            created_at: Time(record.created_at),
            updated_at: Time(record.updated_at),
        }
    }
}

/// Which deliveries of a webhook are made again.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"since": "2026-11-23T18:00:00Z", "states": ["dead"]}))]
pub(super) struct ReplayInput {
    /// Event accepted at or after: RFC 3339 or unix seconds.
    since: Option<Moment>,
    /// Event accepted before: RFC 3339 or unix seconds.
    until: Option<Moment>,
    /// Any but `pending`; `["dead"]`, if it is not given.
    #[schema(value_type = Option<Vec<DeliveryStateName>>)]
    states: Option<Vec<String>>,
    /// A topic or a pattern.
    topic: Option<String>,
    /// Also events that are not owed to the webhook and that it would match now: those from before it was made.
    #[serde(default)]
    include_unmatched: bool,
    /// Deliveries in a second, 1,000 if it is not given.
    #[serde(default, deserialize_with = "whole::optional")]
    #[schema(minimum = 1, maximum = 10_000)]
    rate_per_s: Option<u32>,
}

/// Which deliveries are made again, over all webhooks or of one.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"states": ["dead"], "topic": "attacker.>"}))]
pub(super) struct BulkRetryInput {
    /// Only to this webhook.
    webhook: Option<Uuid>,
    /// Event accepted at or after: RFC 3339 or unix seconds.
    since: Option<Moment>,
    /// Event accepted before: RFC 3339 or unix seconds.
    until: Option<Moment>,
    /// Any but `pending`; `["dead"]`, if it is not given.
    #[schema(value_type = Option<Vec<DeliveryStateName>>)]
    states: Option<Vec<String>>,
    /// A topic or a pattern.
    topic: Option<String>,
    /// Deliveries in a second, 1,000 if it is not given.
    #[serde(default, deserialize_with = "whole::optional")]
    #[schema(minimum = 1, maximum = 10_000)]
    rate_per_s: Option<u32>,
}

/// Which deliveries are given up, and why.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"webhook": "6f0f0f5c-1f4e-4a60-9d0e-0d6b9a1f2c11", "reason": "receiver is gone"}))]
pub(super) struct BulkDiscardInput {
    /// Shown with each delivery; without control characters.
    #[schema(min_length = 1, max_length = 255)]
    reason: String,
    /// Only to this webhook.
    webhook: Option<Uuid>,
    /// Event accepted at or after: RFC 3339 or unix seconds.
    since: Option<Moment>,
    /// Event accepted before: RFC 3339 or unix seconds.
    until: Option<Moment>,
    /// `pending` or `dead`; `["dead"]`, if it is not given.
    #[schema(value_type = Option<Vec<DeliveryStateName>>)]
    states: Option<Vec<String>>,
    /// A topic or a pattern.
    topic: Option<String>,
    /// Deliveries in a second, 1,000 if it is not given.
    #[serde(default, deserialize_with = "whole::optional")]
    #[schema(minimum = 1, maximum = 10_000)]
    rate_per_s: Option<u32>,
}

/// The given fields that all kinds of jobs have.
struct RawJob {
    since: Option<Moment>,
    until: Option<Moment>,
    states: Option<Vec<String>>,
    topic: Option<String>,
    rate_per_s: Option<u32>,
}

impl RawJob {
    /// `allowed`: the states that the action may select.
    fn check(
        self,
        webhook: Option<Uuid>,
        action: ReplayAction,
        allowed: &[DeliveryState],
    ) -> Result<NewReplay, Problem> {
        let mut errors = Vec::new();
        let mut wrong = |field: &str, reason: String| errors.push(FieldError { field: field.to_owned(), reason });
        let (since, until) = (self.since.map(|Moment(at)| at), self.until.map(|Moment(at)| at));
        if since.zip(until).is_some_and(|(since, until)| since >= until) {
            wrong("until", "must be after `since`".to_owned());
        }
        let topic = self.topic.and_then(|text| match Pattern::parse(&text) {
            Ok(pattern) => Some(pattern),
            Err(error) => {
                wrong("topic", error.to_string());
                None
            }
        });
        let mut states = Vec::new();
        for name in self.states.unwrap_or_else(|| vec![DeliveryState::Dead.as_str().to_owned()]) {
            match parse_state(&name) {
                Ok(state) if !allowed.contains(&state) => {
                    let names: Vec<_> = allowed.iter().map(|state| state.as_str()).collect();
                    wrong("states", format!("{name:?} is not possible here, only {}", names.join(", ")));
                }
                Ok(state) if states.contains(&state) => {}
                Ok(state) => states.push(state),
                Err(reason) => wrong("states", reason),
            }
        }
        let rate_per_s = self.rate_per_s.unwrap_or(DEFAULT_REPLAY_RATE_PER_S);
        if !REPLAY_RATE_PER_S.contains(&rate_per_s) {
            let (least, most) = (REPLAY_RATE_PER_S.start(), REPLAY_RATE_PER_S.end());
            wrong("rate_per_s", format!("is {rate_per_s}, must be {least} to {most}"));
        }
        if states.is_empty() && errors.is_empty() && action != (ReplayAction::Replay { include_unmatched: true }) {
            errors.push(FieldError { field: "states".to_owned(), reason: "must name a state".to_owned() });
        }
        if !errors.is_empty() {
            return Err(Problem::fields(errors));
        }
        Ok(NewReplay { webhook, selection: Selection { states, topic, since, until }, action, rate_per_s })
    }
}

/// The states of deliveries that can be replayed.
const REPLAYABLE: [DeliveryState; 4] =
    [DeliveryState::Delivered, DeliveryState::Dead, DeliveryState::Skipped, DeliveryState::Discarded];
/// The states of deliveries that can be discarded.
const DISCARDABLE: [DeliveryState; 2] = [DeliveryState::Pending, DeliveryState::Dead];

type Started = Result<(StatusCode, Json<Replay>), Problem>;

/// Deliver a webhook's events again
///
/// Starts a job over the events accepted so far, oldest first. The body may be left out: all dead deliveries.
#[utoipa::path(post, path = "/webhooks/{uuid}/replay", tag = "replays", params(("uuid" = Uuid, Path)),
    request_body = Option<ReplayInput>, responses(
    (status = 202, body = Replay),
    (status = 400, description = "The body is no JSON."),
    (status = 404, description = "There is no such webhook."),
    (status = 409, description = "100 jobs wait or run already."),
    (status = 413, description = "The body is too large."),
    (status = 415, description = "The body is not `application/json`."),
    (status = 422, description = "A field is invalid."),
    (status = 507, description = "The store is full."),
))]
pub(super) async fn start(
    State(app): State<Arc<App>>,
    Admin(tenant): Admin,
    Id(uuid): Id<Uuid>,
    OptionalJsonBody(input): OptionalJsonBody<ReplayInput>,
) -> Started {
    let ReplayInput { since, until, states, topic, include_unmatched, rate_per_s } = input;
    let raw = RawJob { since, until, states, topic, rate_per_s };
    let job = raw.check(Some(uuid), ReplayAction::Replay { include_unmatched }, &REPLAYABLE)?;
    let record = app.engine.start_replay(tenant, job).await?;
    Ok((StatusCode::ACCEPTED, Json(record.into())))
}

/// Deliver many again
///
/// Starts a job over the events accepted so far, oldest first. The body may be left out: all dead deliveries.
#[utoipa::path(post, path = "/deliveries/retry", tag = "deliveries", operation_id = "retry_all",
    request_body = Option<BulkRetryInput>, responses(
    (status = 202, body = Replay),
    (status = 400, description = "The body is no JSON."),
    (status = 404, description = "There is no such webhook."),
    (status = 409, description = "100 jobs wait or run already."),
    (status = 413, description = "The body is too large."),
    (status = 415, description = "The body is not `application/json`."),
    (status = 422, description = "A field is invalid."),
    (status = 507, description = "The store is full."),
))]
pub(super) async fn retry_all(
    State(app): State<Arc<App>>,
    Admin(tenant): Admin,
    OptionalJsonBody(input): OptionalJsonBody<BulkRetryInput>,
) -> Started {
    let BulkRetryInput { webhook, since, until, states, topic, rate_per_s } = input;
    let raw = RawJob { since, until, states, topic, rate_per_s };
    let job = raw.check(webhook, ReplayAction::Replay { include_unmatched: false }, &REPLAYABLE)?;
    let record = app.engine.start_replay(tenant, job).await?;
    Ok((StatusCode::ACCEPTED, Json(record.into())))
}

/// Give many deliveries up
///
/// Starts a job over the events accepted so far, oldest first.
#[utoipa::path(post, path = "/deliveries/discard", tag = "deliveries", operation_id = "discard_all",
    request_body = BulkDiscardInput, responses(
    (status = 202, body = Replay),
    (status = 400, description = "The body is no JSON."),
    (status = 404, description = "There is no such webhook."),
    (status = 409, description = "100 jobs wait or run already."),
    (status = 413, description = "The body is too large."),
    (status = 415, description = "The body is not `application/json`."),
    (status = 422, description = "A field is missing or invalid."),
    (status = 507, description = "The store is full."),
))]
pub(super) async fn discard_all(
    State(app): State<Arc<App>>,
    Admin(tenant): Admin,
    JsonBody(input): JsonBody<BulkDiscardInput>,
) -> Started {
    let BulkDiscardInput { reason, webhook, since, until, states, topic, rate_per_s } = input;
    check_reason(&reason)?;
    let raw = RawJob { since, until, states, topic, rate_per_s };
    let job = raw.check(webhook, ReplayAction::Discard { reason }, &DISCARDABLE)?;
    let record = app.engine.start_replay(tenant, job).await?;
    Ok((StatusCode::ACCEPTED, Json(record.into())))
}

/// List the jobs
///
/// Newest first. Jobs that have ended are shown for 30 days.
#[utoipa::path(get, path = "/replays", tag = "replays", params(
    ("webhook" = Option<Uuid>, Query),
    ("state" = Option<ReplayStateName>, Query),
    ("limit" = Option<u32>, Query, minimum = 1, maximum = 500, description = "50 by default."),
    ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before."),
), responses(
    (status = 200, body = ReplayPage),
    (status = 422, description = "A parameter is invalid or unknown."),
))]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Reader(tenant): Reader,
    mut params: Params,
) -> Result<Json<ReplayPage>, Problem> {
    let filter = ReplayFilter {
        webhook: params.take("webhook", |text| text.parse().map_err(|_| format!("{text:?} is no UUID"))),
        state: params.take("state", |text| {
            ReplayState::ALL
                .into_iter()
                .find(|state| state.as_str() == text)
                .ok_or_else(|| format!("{text:?} is none of {}", ReplayState::ALL.map(ReplayState::as_str).join(", ")))
        }),
    };
    let page = params.page();
    params.finish()?;
    let page = app.engine.store().replays(tenant, &filter, page).await?;
    let items = page.items.into_iter().map(Replay::from).collect();
    Ok(Json(ReplayPage { items, next_cursor: page.next_cursor }))
}

/// Show a job
#[utoipa::path(get, path = "/replays/{uuid}", tag = "replays", params(("uuid" = Uuid, Path)), responses(
    (status = 200, body = Replay),
    (status = 404, description = "There is no such job."),
))]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    Reader(tenant): Reader,
    Id(uuid): Id<Uuid>,
) -> Result<Json<Replay>, Problem> {
    let record = app.engine.store().replay(tenant, uuid).await?.ok_or_else(|| Problem::not_found("replay"))?;
    Ok(Json(record.into()))
}

/// Cancel a job
///
/// What it has changed stays changed.
#[utoipa::path(post, path = "/replays/{uuid}/cancel", tag = "replays", params(("uuid" = Uuid, Path)), responses(
    (status = 200, body = Replay),
    (status = 404, description = "There is no such job."),
    (status = 409, description = "It has ended."),
    (status = 507, description = "The store is full."),
))]
pub(super) async fn cancel(
    State(app): State<Arc<App>>,
    Admin(tenant): Admin,
    Id(uuid): Id<Uuid>,
    _: NoInput,
) -> Result<Json<Replay>, Problem> {
    Ok(Json(app.engine.cancel_replay(tenant, uuid).await?.into()))
}

/// To whom an event is sent again.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ResendInput {
    /// To this webhook, also if the event was not owed to it; otherwise to all that it was owed to.
    webhook: Option<Uuid>,
}

/// What resending came to.
#[derive(Serialize, ToSchema)]
pub(super) struct Resent {
    /// The event's id.
    id: String,
    /// Deliveries made again.
    deliveries: u32,
    /// Deliveries that are on their way already.
    under_way: u32,
}

/// Send an event again
///
/// Whatever became of it, to all webhooks that it was owed to and that are still there, or to one. The body may be
/// left out.
#[utoipa::path(post, path = "/events/{id}/resend", tag = "events", params(("id" = String, Path)),
    request_body = Option<ResendInput>, responses(
    (status = 202, body = Resent),
    (status = 400, description = "The body is no JSON."),
    (status = 404, description = "There is no such event, or no such webhook."),
    (status = 413, description = "The body is too large."),
    (status = 415, description = "The body is not `application/json`."),
    (status = 422, description = "A field is invalid."),
    (status = 507, description = "The store is full."),
))]
pub(super) async fn resend(
    State(app): State<Arc<App>>,
    Admin(tenant): Admin,
    Id(id): Id<String>,
    OptionalJsonBody(input): OptionalJsonBody<ResendInput>,
) -> Result<(StatusCode, Json<Resent>), Problem> {
    let resent = app.engine.resend(tenant, &id, input.webhook).await?;
    let answer = Resent { id, deliveries: resent.deliveries, under_way: resent.under_way };
    Ok((StatusCode::ACCEPTED, Json(answer)))
}
