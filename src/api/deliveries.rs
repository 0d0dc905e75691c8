//! `/deliveries`: what became of each event at each webhook.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::App;
use super::attempts::{Attempt, key_of};
use super::auth::{Admin, Reader, Viewer};
use super::input::{Id, NoInput, OptionalJsonBody, Params};
use super::problem::Problem;
use super::views::Time;
use super::waiting::DeliveryWait;
use crate::delivery::DeliveryState;
use crate::store::{DeliveryFilter, DeliveryIds, StoredDelivery};
use crate::topic::Pattern;

/// The default reason of a discarded delivery.
const DISCARDED: &str = "discarded by an operator";
/// The longest reason, in characters.
const MAX_REASON_CHARS: usize = 255;

/// One event owed to one webhook.
#[derive(Serialize, ToSchema)]
pub(super) struct Delivery {
    id: Uuid,
    webhook_uuid: Uuid,
    webhook_name: String,
    event_id: String,
    topic: String,
    r#type: String,
    /// When the event was accepted.
    accepted_at: Time,
    #[schema(value_type = DeliveryStateName)]
    state: &'static str,
    /// The error or the reason behind the state.
    #[schema(required)]
    reason: Option<String>,
    /// Attempts made so far.
    attempts: u32,
    /// Of the last answer.
    #[schema(required)]
    status_code: Option<u16>,
    /// Set while it is pending and has a time to wait for.
    #[schema(required)]
    next_attempt_at: Option<Time>,
    /// When it last changed: its end, if it has ended.
    updated_at: Time,
}

/// Where a delivery stands: `pending`: owed, `delivered`: the receiver answered 2xx, `dead`: given up,
/// `skipped`: never attempted, `discarded`: ended by an operator or because its webhook was deleted.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "documents the names of `DeliveryState`")]
pub(super) enum DeliveryStateName {
    Pending,
    Delivered,
    Dead,
    Skipped,
    Discarded,
}

/// A page of deliveries.
#[derive(Serialize, ToSchema)]
pub(super) struct DeliveryPage {
    pub(super) items: Vec<Delivery>,
    /// To be sent as `cursor` for the next page; `null`: this is the last one. A page may be empty and not the last.
    #[schema(required)]
    pub(super) next_cursor: Option<String>,
}

/// A delivery with its attempts.
#[derive(Serialize, ToSchema)]
pub(super) struct DeliveryDetail {
    #[serde(flatten)]
    delivery: Delivery,
    #[serde(flatten)]
    wait: DeliveryWait,
    /// First to last.
    attempt_log: Vec<Attempt>,
}

impl Delivery {
    pub(super) fn new(ids: &DeliveryIds, stored: StoredDelivery) -> Self {
        Self {
            id: ids.encode(stored.key),
            webhook_uuid: stored.webhook_uuid,
            webhook_name: stored.webhook_name,
            event_id: stored.event_id,
            topic: stored.topic,
            r#type: stored.kind,
            accepted_at: Time(stored.accepted_at),
            state: stored.state.as_str(),
            reason: stored.reason,
            attempts: stored.attempts,
            status_code: stored.status_code,
            next_attempt_at: stored.next_attempt_at.map(Time),
            updated_at: Time(stored.updated_at),
        }
    }
}

pub(super) fn parse_state(text: &str) -> Result<DeliveryState, String> {
    DeliveryState::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| {
        let names = DeliveryState::ALL.map(DeliveryState::as_str).join(", ");
        format!("{text:?} is none of {names}")
    })
}

/// List deliveries
///
/// Newest event first.
#[utoipa::path(get, path = "/deliveries", tag = "deliveries", params(
    ("webhook" = Option<Uuid>, Query),
    ("event" = Option<String>, Query, description = "The event's id."),
    ("state" = Option<DeliveryStateName>, Query),
    ("topic" = Option<String>, Query, description = "A topic or a pattern."),
    ("since" = Option<String>, Query, description = "Event accepted at or after: RFC 3339 or unix seconds."),
    ("until" = Option<String>, Query, description = "Event accepted before: RFC 3339 or unix seconds."),
    ("limit" = Option<u32>, Query, minimum = 1, maximum = 500, description = "50 by default."),
    ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before."),
), responses(
    (status = 200, body = DeliveryPage),
    (status = 422, description = "A parameter is invalid or unknown."),
))]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Reader(tenant): Reader,
    mut params: Params,
) -> Result<Json<DeliveryPage>, Problem> {
    let filter = DeliveryFilter {
        webhook: params.take("webhook", |text| text.parse().map_err(|_| format!("{text:?} is no UUID"))),
        event: params.text("event"),
        state: params.take("state", parse_state),
        topic: params.take("topic", |text| Pattern::parse(text).map_err(|error| error.to_string())),
        since: params.time("since"),
        until: params.time("until"),
    };
    let page = params.page();
    params.finish()?;
    let store = app.engine.store();
    let page = store.deliveries(tenant, &filter, page).await?;
    let items = page.items.into_iter().map(|delivery| Delivery::new(store.delivery_ids(), delivery)).collect();
    Ok(Json(DeliveryPage { items, next_cursor: page.next_cursor }))
}

/// Show a delivery
///
/// With its attempts.
#[utoipa::path(get, path = "/deliveries/{id}", tag = "deliveries", params(("id" = Uuid, Path)), responses(
    (status = 200, body = DeliveryDetail),
    (status = 404, description = "There is no such delivery."),
))]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    viewer: Viewer,
    Id(id): Id<Uuid>,
) -> Result<Json<DeliveryDetail>, Problem> {
    let tenant = viewer.tenant;
    let store = app.engine.store();
    let key = key_of(&app, id)?;
    let delivery = store.delivery(tenant, key).await?.ok_or_else(|| Problem::not_found("delivery"))?;
    let webhook = match delivery.state {
        DeliveryState::Pending => store.webhook(tenant, delivery.webhook_uuid).await?,
        _ => None,
    };
    let wait = webhook.map(|webhook| DeliveryWait::of(&app.engine, key, &delivery, &webhook)).unwrap_or_default();
    let attempt_log = Attempt::log(&store.attempts(key).await?, &viewer);
    Ok(Json(DeliveryDetail { delivery: Delivery::new(store.delivery_ids(), delivery), wait, attempt_log }))
}

/// Deliver again
///
/// An ended delivery becomes pending with a fresh schedule; a waiting one is due now.
#[utoipa::path(post, path = "/deliveries/{id}/retry", tag = "deliveries", params(("id" = Uuid, Path)), responses(
    (status = 202, body = Delivery),
    (status = 404, description = "There is no such delivery."),
    (status = 409, description = "It was delivered."),
    (status = 507, description = "The store is full."),
))]
pub(super) async fn retry(
    State(app): State<Arc<App>>,
    Admin(act): Admin,
    Id(id): Id<Uuid>,
    _: NoInput,
) -> Result<(StatusCode, Json<Delivery>), Problem> {
    let delivery = app.engine.retry_delivery(act, key_of(&app, id)?).await?;
    Ok((StatusCode::ACCEPTED, Json(Delivery::new(app.engine.store().delivery_ids(), delivery))))
}

/// Why a delivery is discarded.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DiscardInput {
    /// Shown with the delivery; without control characters.
    #[schema(max_length = 255)]
    reason: Option<String>,
}

/// Refuses a reason that is blank, too long, or has control characters: it is shown in one line.
pub(super) fn check_reason(reason: &str) -> Result<(), Problem> {
    let (chars, is_blank) = (reason.chars().count(), reason.trim().is_empty());
    if !is_blank && chars <= MAX_REASON_CHARS && !reason.chars().any(char::is_control) {
        return Ok(());
    }
    let reason = format!("must have 1 to {MAX_REASON_CHARS} characters, none of them a control character");
    Err(Problem::field("reason", reason))
}

/// Give a delivery up
///
/// A pending or dead delivery ends as discarded. The body may be left out.
#[utoipa::path(post, path = "/deliveries/{id}/discard", tag = "deliveries", params(("id" = Uuid, Path)),
    request_body = Option<DiscardInput>, responses(
    (status = 200, body = Delivery),
    (status = 400, description = "The body is no JSON."),
    (status = 404, description = "There is no such delivery."),
    (status = 409, description = "It has ended already."),
    (status = 413, description = "The body is too large."),
    (status = 415, description = "The body is not `application/json`."),
    (status = 422, description = "A field is invalid."),
    (status = 507, description = "The store is full."),
))]
pub(super) async fn discard(
    State(app): State<Arc<App>>,
    Admin(act): Admin,
    Id(id): Id<Uuid>,
    OptionalJsonBody(input): OptionalJsonBody<DiscardInput>,
) -> Result<Json<Delivery>, Problem> {
    let reason = input.reason.as_deref().filter(|reason| !reason.trim().is_empty()).unwrap_or(DISCARDED);
    check_reason(reason)?;
    let delivery = app.engine.discard_delivery(act, key_of(&app, id)?, reason).await?;
    Ok(Json(Delivery::new(app.engine.store().delivery_ids(), delivery)))
}
