//! `/events` as they are stored: listing, showing and erasing them.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use utoipa::ToSchema;

use super::App;
use super::auth::{Admin, Reader};
use super::deliveries::{Delivery, DeliveryPage};
use super::input::{Id, Params};
use super::problem::Problem;
use super::views::Time;
use crate::store::{DeliveryFilter, EventFilter, MAX_PAGE_ITEMS, Page, StoredEvent};
use crate::topic::Pattern;
use crate::webhook::TenantSeq;

/// A stored event.
#[derive(Serialize, ToSchema)]
pub(super) struct StoredEventView {
    id: String,
    topic: String,
    r#type: String,
    /// When it happened, as the publisher said.
    #[schema(value_type = String)]
    ts: Box<RawValue>,
    /// With the digits that the publisher sent.
    #[schema(value_type = serde_json::Value)]
    payload: Box<RawValue>,
    /// It came back from the disk otherwise than it was stored, and is not sent; `payload` is a text of what is there.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    damaged: bool,
    /// Its payload was erased: it is not sent any more, and `payload` is `null`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    erased: bool,
    accepted_at: Time,
    /// Webhooks it is or was for, those that were skipped among them.
    deliveries: usize,
    /// On `/events/{id}`: its deliveries. `GET /deliveries?event=…` has the rest of more than 500.
    #[serde(skip_serializing_if = "Option::is_none")]
    delivery_page: Option<DeliveryPage>,
}

/// A page of events.
#[derive(Serialize, ToSchema)]
pub(super) struct EventPage {
    items: Vec<StoredEventView>,
    /// To be sent as `cursor` for the next page; `null`: this is the last one. A page may be empty and not the last.
    #[schema(required)]
    next_cursor: Option<String>,
}

/// The parts of a canonical body that are shown unchanged.
#[derive(Deserialize)]
struct RawParts {
    ts: Box<RawValue>,
    payload: Box<RawValue>,
}

impl RawParts {
    /// The damaged body as a text, or the `null` of an erased one, with the time of acceptance as `ts`.
    fn of_damaged(stored: &StoredEvent) -> serde_json::Result<Self> {
        let body = (!stored.event.is_erased()).then(|| String::from_utf8_lossy(stored.event.body()));
        Ok(Self { ts: to_raw_value(&Time(stored.accepted_at))?, payload: to_raw_value(&body)? })
    }
}

impl StoredEventView {
    fn new(stored: &StoredEvent, delivery_page: Option<DeliveryPage>) -> Result<Self, Problem> {
        let event = &stored.event;
        let parts = if stored.is_damaged { RawParts::of_damaged(stored) } else { serde_json::from_slice(event.body()) };
        let RawParts { ts, payload } = parts
            .map_err(|error| Problem::internal(format!("the body of event {} is no event: {error}", event.id())))?;
        Ok(Self {
            id: event.id().to_owned(),
            topic: event.topic().to_string(),
            r#type: event.kind().to_owned(),
            ts,
            payload,
            damaged: stored.is_damaged && !event.is_erased(),
            erased: event.is_erased(),
            accepted_at: Time(stored.accepted_at),
            deliveries: stored.owed.len(),
            delivery_page,
        })
    }
}

/// The stored event that a preview or a test is of. Of an erased one nothing is left to show or to send.
pub(super) async fn named(app: &App, tenant: TenantSeq, id: &str) -> Result<StoredEvent, Problem> {
    let stored = app.engine.store().event(tenant, id).await?.ok_or_else(|| Problem::not_found("event"))?;
    if stored.event.is_erased() {
        return Err(Problem::field("event_id", "is an event whose payload was erased"));
    }
    Ok(stored)
}

/// List events
///
/// Newest first.
#[utoipa::path(get, path = "/events", tag = "events", params(
    ("topic" = Option<String>, Query, description = "A topic or a pattern."),
    ("type" = Option<String>, Query),
    ("since" = Option<String>, Query, description = "Accepted at or after: RFC 3339 or unix seconds."),
    ("until" = Option<String>, Query, description = "Accepted before: RFC 3339 or unix seconds."),
    ("q" = Option<String>, Query, description = "A text that occurs in the body."),
    ("limit" = Option<u32>, Query, minimum = 1, maximum = 500, description = "50 by default."),
    ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before."),
), responses(
    (status = 200, body = EventPage),
    (status = 422, description = "A parameter is invalid or unknown."),
))]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Reader(tenant): Reader,
    mut params: Params,
) -> Result<Json<EventPage>, Problem> {
    let filter = EventFilter {
        topic: params.take("topic", |text| Pattern::parse(text).map_err(|error| error.to_string())),
        kind: params.text("type"),
        since: params.time("since"),
        until: params.time("until"),
        q: params.text("q"),
    };
    let page = params.page();
    params.finish()?;
    let page = app.engine.store().events(tenant, &filter, page).await?;
    let items = page.items.iter().map(|event| StoredEventView::new(event, None)).collect::<Result<_, _>>()?;
    Ok(Json(EventPage { items, next_cursor: page.next_cursor }))
}

/// Show an event
///
/// With its deliveries.
#[utoipa::path(get, path = "/events/{id}", tag = "events", params(("id" = String, Path)), responses(
    (status = 200, body = StoredEventView),
    (status = 404, description = "There is no such event."),
))]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    Reader(tenant): Reader,
    Id(id): Id<String>,
) -> Result<Json<StoredEventView>, Problem> {
    let store = app.engine.store();
    let event = store.event(tenant, &id).await?.ok_or_else(|| Problem::not_found("event"))?;
    let filter = DeliveryFilter { event: Some(id), ..DeliveryFilter::default() };
    let page = store.deliveries(tenant, &filter, Page { limit: MAX_PAGE_ITEMS, cursor: None }).await?;
    let items = page.items.into_iter().map(|delivery| Delivery::new(store.delivery_ids(), delivery)).collect();
    let deliveries = DeliveryPage { items, next_cursor: page.next_cursor };
    StoredEventView::new(&event, Some(deliveries)).map(Json)
}

/// Erase the payload of an event
///
/// At once, with what was exchanged in its attempts; the record stays. What is pending of it ends as discarded, an attempt that
/// is under way is the last of its delivery, and nothing of it is delivered again.
#[utoipa::path(delete, path = "/events/{id}/payload", tag = "events", params(("id" = String, Path)), responses(
    (status = 200, body = StoredEventView),
    (status = 404, description = "There is no such event."),
    (status = 507, description = "The store is full."),
))]
pub(super) async fn erase(
    State(app): State<Arc<App>>,
    Admin(act): Admin,
    Id(id): Id<String>,
    params: Params,
) -> Result<Json<StoredEventView>, Problem> {
    params.finish()?;
    let event = app.engine.erase_event(act, &id).await?;
    StoredEventView::new(&event, None).map(Json)
}
