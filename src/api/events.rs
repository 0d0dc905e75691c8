//! `/events`: what happened, in and out.

use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;
use uuid::Uuid;

use super::App;
use super::auth::{Publisher, Reader};
use super::body::{Received, read_body};
use super::cloudevents::{self, CloudEvent, Form};
use super::input::{JSON, Moment, Params, idempotency_key, media_type};
use super::problem::Problem;
use crate::event::{Event, HOPS_HEADER, Hops, MAX_BATCH_BYTES, MAX_EVENT_BYTES};
use crate::ingest;
use crate::store::StoreError;
use crate::topic::Topic;
use crate::webhook::TenantSeq;

/// A body of this size is parsed on a blocking thread.
const LARGE_BODY_BYTES: usize = 64 * 1024;
const NDJSON: [&str; 2] = ["application/x-ndjson", "application/ndjson"];

const TOPIC: &str = "For CloudEvents alone: the topic. Otherwise it is the attribute `topic`, or else the type, with an underscore \
     for each character that no topic may have.";
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

/// At most 1,000 events, of 16 MiB together.
#[derive(Deserialize, ToSchema)]
#[schema(max_items = 1000)]
#[expect(dead_code, reason = "documents what `Event::batch_from_cloudevents` reads")]
struct CloudEventBatch(Vec<CloudEvent>);

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
///
/// CloudEvents 1.0 are taken in structured mode, as batches (answered as `POST /events/batch` answers), and in binary
/// mode: attributes in headers `ce-…`, any content type, the data as the body.
#[utoipa::path(post, path = "/events", tag = "events", params(
    ("topic" = Option<String>, Query, description = TOPIC),
    ("dry_run" = Option<bool>, Query, description = "Only say what would become of it; without a value it is `true`, not given `false`."),
    ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, description = IDEMPOTENCY_KEY),
), request_body(content(
    (EventInput = "application/json"),
    (CloudEvent = "application/cloudevents+json"),
    (CloudEventBatch = "application/cloudevents-batch+json"),
)), responses(
    (status = 200, body = DryRun, description = "With `dry_run=true`."),
    (status = 202, body = Receipt),
    (status = 400, description = "The body is no JSON, has duplicate keys, or is nested too deeply."),
    (status = 408, description = "The body did not arrive in time."),
    (status = 409, description = "The id of an event was sent before with another topic, type or payload \
        (`event-id-conflict`, `errors` names it), or the `Idempotency-Key` was used with another body. Nothing was stored."),
    (status = 413, description = "The event is larger than 1 MiB."),
    (status = 415, description = "The body is neither `application/json` nor CloudEvents."),
    (status = 422, description = "A field or an attribute is missing or invalid."),
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
    let form = Form::of(request.headers())?;
    let topic = form.topic(&mut params);
    if is_dry_run && matches!(form, Form::Batch) {
        return Err(Problem::field("dry_run", "is about one event, and this is a batch"));
    }
    params.finish()?;
    if matches!(form, Form::Batch) {
        let answer = publish_all(&app, tenant, Batch::CloudEvents(topic), request).await?;
        return Ok(answer.into_response());
    }
    let (mut head, body) = request.into_parts();
    if is_dry_run {
        // The answer names webhooks, which a token with only `publish` must not see.
        Reader::from_request_parts(&mut head, &app).await?;
    }
    let request = Request::from_parts(head, body);
    let key = idempotency_key(request.headers())?;
    let hops = hops(&app, request.headers())?;
    let received = read_body(&app.bodies, request, MAX_EVENT_BYTES).await?;
    let now = app.engine.now();
    let (event, received) = parse(&app, tenant, received, move |body| form.event(body, topic.as_ref(), now)).await?;
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
pub(super) fn hops(app: &App, headers: &HeaderMap) -> Result<Option<Hops>, Problem> {
    Ok(Hops::of_request(headers.get_all(HOPS_HEADER), app.engine.instance())?)
}

/// Parses a body. A large one is parsed in its tenant's turn, on a blocking thread.
pub(super) async fn parse<T: Send + 'static, E: Into<Problem> + Send + 'static>(
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
/// At most 1,000 events and 16 MiB, as a JSON array, as one JSON object a line, or as a batch of CloudEvents. All are
/// stored or none.
#[utoipa::path(post, path = "/events/batch", tag = "events",
    request_body(content(
        (EventBatch = "application/json"),
        (String = "application/x-ndjson"),
        (CloudEventBatch = "application/cloudevents-batch+json"),
    )),
    params(
    ("topic" = Option<String>, Query, description = TOPIC),
    ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, description = IDEMPOTENCY_KEY),
    ), responses(
    (status = 202, body = BatchReceipt),
    (status = 400, description = "The body is no JSON; `errors` names the event."),
    (status = 408, description = "The body did not arrive in time."),
    (status = 409, description = "The id of an event was sent before with another topic, type or payload \
        (`event-id-conflict`, `errors` names it), or the `Idempotency-Key` was used with another body. Nothing was stored."),
    (status = 413, description = "The batch is larger than 16 MiB, or an event larger than 1 MiB."),
    (status = 415, description = "The body is neither `application/json` nor `application/x-ndjson` nor `application/cloudevents-batch+json`."),
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
    mut params: Params,
    request: Request,
) -> Result<(StatusCode, Json<BatchReceipt>), Problem> {
    let batch = match media_type(request.headers(), &[JSON, NDJSON[0], NDJSON[1], cloudevents::BATCH])? {
        JSON => Batch::Array,
        cloudevents::BATCH => Batch::CloudEvents(cloudevents::topic(&mut params)),
        _ => Batch::Lines,
    };
    params.finish()?;
    publish_all(&app, tenant, batch, request).await
}

/// The form of a batch.
enum Batch {
    Array,
    Lines,
    CloudEvents(Option<Topic>),
}

async fn publish_all(
    app: &App,
    tenant: TenantSeq,
    batch: Batch,
    request: Request,
) -> Result<(StatusCode, Json<BatchReceipt>), Problem> {
    let key = idempotency_key(request.headers())?;
    let hops = hops(app, request.headers())?;
    let received = read_body(&app.bodies, request, MAX_BATCH_BYTES).await?;
    let now = app.engine.now();
    let read = move |body: &[u8]| match batch {
        Batch::Array => Event::batch_from_json(body, now),
        Batch::Lines => Event::batch_from_ndjson(body, now),
        Batch::CloudEvents(topic) => Event::batch_from_cloudevents(body, topic.as_ref(), now),
    };
    let (events, received) = parse(app, tenant, received, read).await?;
    let events: Vec<_> = events.into_iter().map(|event| event.with_hops(hops.clone())).collect();
    // A batch of CloudEvents may be empty.
    let receipts =
        if events.is_empty() { Vec::new() } else { accept(app, tenant, events, key, &received.bytes).await? };
    let duplicates = receipts.iter().filter(|receipt| receipt.duplicate).count();
    let answer = BatchReceipt {
        accepted: receipts.len() - duplicates,
        duplicates,
        events: receipts.into_iter().map(Receipt::from).collect(),
    };
    Ok((StatusCode::ACCEPTED, Json(answer)))
}
