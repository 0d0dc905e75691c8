//! `/events`: what happened, in and out.

use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;
use uuid::Uuid;

use super::App;
use super::auth::{Publisher, Reader};
use super::body::{Received, read_body};
use super::deliveries::{Delivery, DeliveryPage};
use super::input::{Id, JSON, Moment, Params, idempotency_key, media_type};
use super::problem::Problem;
use super::views::Time;
use crate::event::{Event, HOPS_HEADER, Hops, MAX_BATCH_BYTES, MAX_EVENT_BYTES};
use crate::ingest;
use crate::store::{DeliveryFilter, EventFilter, MAX_PAGE_ITEMS, Page, StoreError, StoredEvent};
use crate::topic::Pattern;
use crate::webhook::TenantSeq;

/// A body of this size is parsed on a blocking thread.
const LARGE_BODY_BYTES: usize = 64 * 1024;
const NDJSON: [&str; 2] = ["application/x-ndjson", "application/ndjson"];

const IDEMPOTENCY_KEY: &str = "Visible ASCII. For a day, the same body with the same key gets the first answer again, \
     with `duplicate: true`, and nothing is stored; another body with it is refused (409).";

/// An event to be published.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "topic": "attacker.session.started",
    "type": "session.started",
    "payload": {"ip": "203.0.113.7", "port": 22}
}))]
#[expect(dead_code, reason = "documents what `Event::from_json` reads, which keeps the digits of numbers")]
pub(super) struct EventInput {
    /// 1 to 255 bytes of visible ASCII in dot-separated tokens, without `*` and `>`.
    #[schema(min_length = 1, max_length = 255, pattern = "^[!-)+,/-=?-~-]+([.][!-)+,/-=?-~-]+)*$")]
    topic: String,
    #[schema(max_length = 255)]
    r#type: Option<String>,
    /// Visible ASCII. An id sent before is not stored or delivered again; without one the event gets a UUID.
    #[schema(max_length = 128, pattern = "^[!-~]*$")]
    id: Option<String>,
    /// When it happened: a text, kept as it is, or seconds since 1970; now, if it is not given.
    #[schema(value_type = Option<EventTime>)]
    ts: Option<String>,
    /// Any JSON; digits of numbers are kept.
    #[schema(value_type = Option<serde_json::Value>)]
    payload: Option<String>,
    /// Not before this moment, which is at most 24 h ahead: RFC 3339 or seconds since 1970. Of a webhook in strict
    /// order, later events wait for it.
    #[schema(value_type = Option<Moment>)]
    deliver_at: Option<String>,
    /// Of the webhooks that want it, only these.
    #[schema(min_items = 1, max_items = 100)]
    webhooks: Option<Vec<Uuid>>,
    /// The version of this form: 1.
    #[schema(minimum = 1, maximum = 1)]
    v: Option<u8>,
}

/// 1 to 1,000 events, of 16 MiB together.
#[derive(Deserialize, ToSchema)]
#[schema(min_items = 1, max_items = 1000)]
#[expect(dead_code, reason = "documents what `Event::batch_from_json` reads")]
struct EventBatch(Vec<EventInput>);

/// A text, kept as it is, or seconds since 1970.
#[derive(Deserialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "documents what `Event::from_json` reads")]
enum EventTime {
    Text(String),
    Seconds(f64),
}

/// What a publisher is told of one event.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"id": "0191f6c0-7a2e-7c3d-9c1b-2f6d8a4e5b10", "deliveries": 2, "skipped": 0, "duplicate": false}))]
pub(super) struct Receipt {
    id: String,
    /// Webhooks it is delivered to.
    deliveries: u32,
    /// Webhooks that want its topic and do not get it: they are turned off, or their filter or the event's own `webhooks`
    /// leaves them out.
    skipped: u32,
    /// The id was sent before: nothing was stored now, and nothing is delivered again.
    duplicate: bool,
}

/// What a publisher is told of a batch.
#[derive(Serialize, ToSchema)]
pub(super) struct BatchReceipt {
    /// Events stored now.
    accepted: usize,
    /// Events whose id was sent before.
    duplicates: usize,
    /// One an event, in order.
    events: Vec<Receipt>,
}

/// What would become of an event.
#[derive(Serialize, ToSchema)]
pub(super) struct DryRun {
    id: String,
    /// The id was sent before: nothing would be stored or delivered again.
    duplicate: bool,
    /// Every webhook whose topics match, oldest first.
    webhooks: Vec<Prospect>,
}

/// What a webhook would get of an event.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "uuid": "4f6f1c1e-7a2e-4c3d-9c1b-2f6d8a4e5b10", "name": "siem", "would": "skip", "reason": "filter"
}))]
pub(super) struct Prospect {
    uuid: Uuid,
    name: String,
    #[schema(value_type = ProspectName)]
    would: &'static str,
    /// Why it would be skipped: `filter`, `webhook disabled`, or that the event is directed to others.
    #[schema(required)]
    reason: Option<&'static str>,
}

/// What would become of an event for a webhook.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "documents the names of `Prospect`")]
enum ProspectName {
    Deliver,
    Skip,
}

impl From<ingest::Prospect> for Prospect {
    fn from(prospect: ingest::Prospect) -> Self {
        let would = if prospect.skipped.is_some() { "skip" } else { "deliver" };
        Self { uuid: prospect.webhook, name: prospect.name, would, reason: prospect.skipped }
    }
}

impl From<ingest::Receipt> for Receipt {
    fn from(receipt: ingest::Receipt) -> Self {
        let ingest::Receipt { id, deliveries, skipped, duplicate } = receipt;
        Self { id, deliveries, skipped, duplicate }
    }
}

/// Publish an event
///
/// When the answer is 202, the event and what it is owed to are on disk. With `dry_run=true` nothing is stored or sent:
/// the answer is 200 and says which webhooks would get it, for a token that also has the scope `read`.
#[utoipa::path(post, path = "/events", tag = "events", params(
    ("dry_run" = Option<bool>, Query, description = "Only say what would become of it; without a value it is `true`, not given `false`."),
    ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, description = IDEMPOTENCY_KEY),
), request_body = EventInput, responses(
    (status = 200, body = DryRun, description = "With `dry_run=true`."),
    (status = 202, body = Receipt),
    (status = 400, description = "The body is no JSON, has duplicate keys, or is nested too deeply."),
    (status = 408, description = "The body did not arrive in time."),
    (status = 409, description = "The id of an event was sent before with another topic, type or payload \
        (`event-id-conflict`, `errors` names it), or the `Idempotency-Key` was used with another body. Nothing was stored."),
    (status = 413, description = "The event is larger than 1 MiB."),
    (status = 415, description = "The body is not `application/json`."),
    (status = 422, description = "A field is missing or invalid."),
    (status = 429, description = "The tenant sends too much (`quota-events`), has too much pending (`quota-pending`), too much \
        stored (`quota-stored-bytes`), or too much on its way into the store (`too-many-deliveries`)."),
    (status = 507, description = "The store is full."),
    (status = 508, description = "The request has passed through this server before, or through more than 5."),
))]
pub(super) async fn publish(
    State(app): State<Arc<App>>,
    Publisher(tenant): Publisher,
    mut params: Params,
    request: Request,
) -> Result<Response, Problem> {
    let is_dry_run = params.flag("dry_run");
    params.finish()?;
    let (mut head, body) = request.into_parts();
    if is_dry_run {
        // The answer names webhooks, which a token with only `publish` must not see.
        Reader::from_request_parts(&mut head, &app).await?;
    }
    let request = Request::from_parts(head, body);
    media_type(request.headers(), &[JSON])?;
    let key = idempotency_key(request.headers())?;
    let hops = hops(&app, request.headers())?;
    let received = read_body(&app.bodies, request, MAX_EVENT_BYTES).await?;
    let now = app.engine.now();
    let (event, received) = parse(&app, tenant, received, move |body| Event::from_json(body, now)).await?;
    let event = event.with_hops(hops);
    if is_dry_run {
        let stored = app.engine.store().event(tenant, event.id()).await?;
        if stored.as_ref().is_some_and(|stored| !stored.is_damaged && !stored.event.has_same_content(&event)) {
            return Err(StoreError::IdTaken { index: 0 }.into());
        }
        let duplicate = stored.is_some();
        let ingest::DryRun { id, webhooks } = app.engine.dry_run(tenant, &event)?;
        let webhooks = webhooks.into_iter().map(Prospect::from).collect();
        return Ok(Json(DryRun { id, duplicate, webhooks }).into_response());
    }
    let receipt = accept(&app, tenant, vec![event], key, &received.bytes).await?.into_iter().next();
    let receipt = receipt.ok_or_else(|| Problem::internal("no receipt for an event".to_owned()))?;
    Ok((StatusCode::ACCEPTED, Json(Receipt::from(receipt))).into_response())
}

/// The hops of a request, which is refused if it has passed through this installation or through too many.
fn hops(app: &App, headers: &HeaderMap) -> Result<Option<Hops>, Problem> {
    Ok(Hops::of_request(headers.get_all(HOPS_HEADER), app.engine.instance())?)
}

/// Parses a body. A large one is parsed in its tenant's turn, on a blocking thread.
async fn parse<T: Send + 'static, E: Into<Problem> + Send + 'static>(
    app: &App,
    tenant: TenantSeq,
    received: Received,
    parse: impl FnOnce(&[u8]) -> Result<T, E> + Send + 'static,
) -> Result<(T, Received), Problem> {
    let is_large = received.bytes.len() >= LARGE_BODY_BYTES;
    let parse = move || (parse(&received.bytes), received);
    let (parsed, received) = if is_large {
        let parsed = app.parsing.compute(tenant, parse).await;
        parsed.ok_or_else(|| Problem::internal("the parsing of a body broke off".to_owned()))?
    } else {
        parse()
    };
    Ok((parsed.map_err(Into::into)?, received))
}

/// Accepts events, only once if the request has an idempotency key.
async fn accept(
    app: &App,
    tenant: TenantSeq,
    events: Vec<Event>,
    key: Option<String>,
    body: &[u8],
) -> Result<Vec<ingest::Receipt>, Problem> {
    Ok(match key {
        None => app.engine.publish(tenant, events).await?,
        Some(key) => app.engine.publish_once(tenant, events, key, Sha256::digest(body).into()).await?,
    })
}

/// Publish a batch
///
/// At most 1,000 events and 16 MiB, as a JSON array or as one JSON object a line. All are stored or none.
#[utoipa::path(post, path = "/events/batch", tag = "events",
    request_body(content((EventBatch = "application/json"), (String = "application/x-ndjson"))),
    params(
    ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, description = IDEMPOTENCY_KEY),
    ), responses(
    (status = 202, body = BatchReceipt),
    (status = 400, description = "The body is no JSON; `errors` names the event."),
    (status = 408, description = "The body did not arrive in time."),
    (status = 409, description = "The id of an event was sent before with another topic, type or payload \
        (`event-id-conflict`, `errors` names it), or the `Idempotency-Key` was used with another body. Nothing was stored."),
    (status = 413, description = "The batch is larger than 16 MiB, or an event larger than 1 MiB."),
    (status = 415, description = "The body is neither `application/json` nor `application/x-ndjson`."),
    (status = 422, description = "An event is invalid, there are none or more than 1,000, or they are for more than 20,000 \
        deliveries together."),
    (status = 429, description = "The tenant sends too much (`quota-events`), has too much pending (`quota-pending`), too much \
        stored (`quota-stored-bytes`), or too much on its way into the store (`too-many-deliveries`)."),
    (status = 507, description = "The store is full."),
    (status = 508, description = "The request has passed through this server before, or through more than 5."),
))]
pub(super) async fn publish_batch(
    State(app): State<Arc<App>>,
    Publisher(tenant): Publisher,
    params: Params,
    request: Request,
) -> Result<(StatusCode, Json<BatchReceipt>), Problem> {
    params.finish()?;
    let media_type = media_type(request.headers(), &[JSON, NDJSON[0], NDJSON[1]])?;
    let key = idempotency_key(request.headers())?;
    let hops = hops(&app, request.headers())?;
    let received = read_body(&app.bodies, request, MAX_BATCH_BYTES).await?;
    let now = app.engine.now();
    let batch = if media_type == JSON { Event::batch_from_json } else { Event::batch_from_ndjson };
    let (events, received) = parse(&app, tenant, received, move |body| batch(body, now)).await?;
    let events = events.into_iter().map(|event| event.with_hops(hops.clone())).collect();
    let receipts = accept(&app, tenant, events, key, &received.bytes).await?;
    let duplicates = receipts.iter().filter(|receipt| receipt.duplicate).count();
    let answer = BatchReceipt {
        accepted: receipts.len() - duplicates,
        duplicates,
        events: receipts.into_iter().map(Receipt::from).collect(),
    };
    Ok((StatusCode::ACCEPTED, Json(answer)))
}

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
    /// The damaged body as a text, with the time of acceptance as `ts`.
    fn of_damaged(stored: &StoredEvent) -> serde_json::Result<Self> {
        Ok(Self {
            ts: to_raw_value(&Time(stored.accepted_at))?,
            payload: to_raw_value(&String::from_utf8_lossy(stored.event.body()))?,
        })
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
            damaged: stored.is_damaged,
            accepted_at: Time(stored.accepted_at),
            deliveries: stored.owed.len(),
            delivery_page,
        })
    }
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
