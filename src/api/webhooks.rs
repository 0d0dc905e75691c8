//! `/webhooks`: receivers, in the original's shape and with more.

use std::collections::BTreeMap;
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};
use uuid::Uuid;

use super::App;
use super::auth::{Admin, Viewer};
use super::change::{Change, Changes, change_schema, new_schema, new_schemas};
use super::input::{Given, Id, NoInput, Params};
use super::keys::{self, Keys};
use super::problem::Problem;
use super::views::{Message, Time};
use super::waiting::{WaitingFor, Waits, backlogs};
use crate::clock::UnixMicros;
use crate::delivery::access::{RawAuth, RawClientCertificate, RawProxy, SecretText};
use crate::delivery::retry::Schedule;
use crate::delivery::statuses::StatusSpan;
use crate::filter::EventPattern;
use crate::shape::ShapeInput;
use crate::signing::{KeyKind, SignatureInput};
use crate::webhook::statuses::StatusItem;
use crate::webhook::{Batching, Capture, Method, RateLimit, RawBatching, RawRateLimit, WebhookPatch, WebhookRecord};

/// [`WebhookPatch`] for a new webhook: documents what is needed.
pub(super) struct NewWebhook;

impl PartialSchema for NewWebhook {
    fn schema() -> RefOr<Schema> {
        let description = "A new webhook: `name`, `url` and one of `topic_patterns` and `simple_events` are needed.";
        new_schema::<WebhookPatch>(&["name", "url"], description)
    }
}

impl ToSchema for NewWebhook {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        new_schemas::<WebhookPatch>(schemas);
    }
}

impl Changes for WebhookPatch {
    const READ_ONLY: &'static [&'static str] = &[
        "uuid",
        "keys",
        "disabled_reason",
        "disabled_at",
        "consecutive_failures",
        "last_success_at",
        "last_failure_at",
        "last_error",
        "auto_disabled_at",
        "next_probe_at",
        "waiting",
        "waiting_for",
        "waiting_since",
        "waiting_until",
        "created_at",
        "updated_at",
        "warnings",
    ];
    const MOVING: &'static [&'static str] = &[
        "consecutive_failures",
        "last_success_at",
        "last_failure_at",
        "last_error",
        "auto_disabled_at",
        "next_probe_at",
        "waiting",
        "waiting_for",
        "waiting_since",
        "waiting_until",
    ];
}

/// [`WebhookPatch`] for a webhook that is there: documents that what is shown is taken back.
pub(super) struct WebhookChange;

impl PartialSchema for WebhookChange {
    fn schema() -> RefOr<Schema> {
        let mut change = change_schema::<WebhookPatch, Webhook>();
        if let RefOr::T(Schema::Object(change)) = &mut change {
            change.description = Some("Changes of a webhook; what is shown of it may be given back.".to_owned());
        }
        change
    }
}

impl ToSchema for WebhookChange {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        WebhookPatch::schemas(schemas);
    }
}

/// A webhook. Its keys are never shown but in the answer to its creation.
#[derive(Serialize, ToSchema)]
pub(super) struct Webhook {
    pub(super) uuid: Uuid,
    pub(super) name: String,
    description: String,
    /// Path and query are shown to admins alone: others see `https://host/…`.
    pub(super) url: String,
    #[schema(value_type = Method)]
    method: &'static str,
    pub(super) topic_patterns: Vec<String>,
    pub(super) enabled: bool,
    /// Deliveries wait until it is `false` again.
    pub(super) paused: bool,
    /// Names of known profiles, and profiles of its own.
    #[schema(example = json!(["decnet", "standard"]))]
    signatures: Vec<SignatureInput>,
    /// The keys that sign, the newest first, without what is secret of them.
    keys: Vec<Keys>,
    timeout_s: u64,
    max_in_flight: u32,
    /// Delays between attempts in seconds; `null`: the server's default.
    #[schema(required)]
    retry_schedule: Option<Vec<f64>>,
    /// Statuses that are tried again; what none of the three lists has, the server's say.
    #[schema(value_type = Vec<StatusItem>)]
    retry_on: Vec<StatusSpan>,
    /// Statuses that end a delivery as dead and say nothing against the receiver.
    #[schema(value_type = Vec<StatusItem>)]
    final_on: Vec<StatusSpan>,
    /// Statuses that are a success.
    #[schema(value_type = Vec<StatusItem>)]
    success_on: Vec<StatusSpan>,
    /// An event pattern over the answer; `null`: what the shape brings.
    #[schema(required, value_type = Option<EventPattern>)]
    success_when: Option<Box<RawValue>>,
    /// In seconds; `null`: the server's default.
    #[schema(required)]
    max_age_s: Option<u64>,
    #[schema(required)]
    rate_limit: Option<RawRateLimit>,
    ordered: bool,
    #[schema(required)]
    batch: Option<RawBatching>,
    metadata: BTreeMap<String, String>,
    #[schema(required)]
    disable_after_days: Option<u32>,
    /// An event pattern; events of the topics that it does not match are skipped.
    #[schema(required, value_type = Option<EventPattern>)]
    filter: Option<Box<RawValue>>,
    /// A built-in shape's name, or a template with its content type.
    shape: ShapeInput,
    /// What is kept of its exchanges; `null`: what the server says.
    #[schema(required)]
    capture: Option<Capture>,
    /// Headers beside those that Postrider sets; each value is shown as `…`.
    #[schema(value_type = BTreeMap<String, String>)]
    headers: BTreeMap<String, SecretText>,
    #[schema(required)]
    content_type: Option<String>,
    /// As it was set, without its secrets.
    #[schema(required)]
    auth: Option<RawAuth>,
    #[schema(required)]
    ca: Option<String>,
    #[schema(required)]
    server_name: Option<String>,
    /// As it was set, without its secrets.
    #[schema(required)]
    client_certificate: Option<RawClientCertificate>,
    /// As it was set, without its secrets.
    #[schema(required)]
    proxy: Option<RawProxy>,
    /// Why it was turned off without its owner: `gone` after a 410, `receiver asked to stop` after an answer with
    /// `webhook-delivery: disable`, or `no success for N days`.
    #[schema(required)]
    pub(super) disabled_reason: Option<String>,
    #[schema(required)]
    disabled_at: Option<Time>,
    /// Failed attempts since the last success.
    pub(super) consecutive_failures: u32,
    #[schema(required)]
    last_success_at: Option<Time>,
    #[schema(required)]
    last_failure_at: Option<Time>,
    #[schema(required)]
    pub(super) last_error: Option<String>,
    /// Since when deliveries wait because the receiver fails; clears itself when it recovers.
    #[schema(required)]
    pub(super) auto_disabled_at: Option<Time>,
    /// While deliveries wait, because the receiver fails or has asked for time: when the next attempt may be made.
    #[schema(required)]
    next_probe_at: Option<Time>,
    /// What its deliveries wait for, or the next of them does. `rate`, `batch`, `order` and `slot` are known at the server that
    /// makes the webhook's attempts.
    #[schema(required)]
    pub(super) waiting_for: Option<WaitingFor>,
    /// Until when at least; `null`: nobody knows, or they do not wait.
    #[schema(required)]
    pub(super) waiting_until: Option<Time>,
    /// How many deliveries wait, counted up to 10,000. What is being attempted may be among them.
    pub(super) waiting: u32,
    /// When the event of the oldest of those was accepted.
    #[schema(required)]
    pub(super) waiting_since: Option<Time>,
    created_at: Time,
    updated_at: Time,
    /// What an operator should know, each beginning with a stable word: `insecure_url: …`.
    warnings: Vec<String>,
}

/// A webhook just made: the only answer that shows its keys.
#[derive(Serialize, ToSchema)]
pub(super) struct CreatedWebhook {
    #[serde(flatten)]
    webhook: Webhook,
    /// The key of `X-DECNET-Signature`, and of other signatures that use its text.
    secret: String,
    /// The key of `webhook-signature`, version `v1`.
    standard_secret: String,
    /// Verifies signatures of version `v1a`, if `signatures` has `ed25519`; it may be shown to anyone.
    #[schema(required)]
    public_key: Option<String>,
}

impl Webhook {
    /// `sees_urls`: whether the caller may see whole URLs.
    pub(super) fn shown(record: &WebhookRecord, now: UnixMicros, sees_urls: bool) -> Self {
        let webhook = Self::new(record, now);
        if sees_urls {
            return webhook;
        }
        let url = record.settings.receiver.destination.masked();
        Self { url, auth: webhook.auth.map(RawAuth::without_path), ..webhook }
    }

    /// With what `record` is owed.
    async fn with_backlog(self, app: &App, record: WebhookRecord) -> Result<Self, Problem> {
        let backlog = backlogs(&app.engine, slice::from_ref(&record)).await?.pop().unwrap_or_default();
        Ok(self.waiting(Waits::of(&record, app.engine.now()).with_backlog(&backlog)))
    }

    pub(super) fn waiting(self, waits: Waits) -> Self {
        let Waits { waiting_for, until, count: waiting, since } = waits;
        Self { waiting_for, waiting_until: until.map(Time), waiting, waiting_since: since.map(Time), ..self }
    }

    fn new(record: &WebhookRecord, now: UnixMicros) -> Self {
        let (settings, health) = (&record.settings, &record.health);
        let (receiver, policy) = (&settings.receiver, &settings.policy);
        let access = receiver.access.shown();
        let seconds = |schedule: &Schedule| schedule.delays().iter().map(Duration::as_secs_f64).collect();
        Self {
            uuid: record.uuid,
            name: settings.name.clone(),
            description: settings.description.clone(),
            url: receiver.destination.as_str().to_owned(),
            method: receiver.method.as_str(),
            topic_patterns: settings.topic_patterns.iter().map(ToString::to_string).collect(),
            enabled: settings.enabled,
            paused: policy.paused,
            signatures: receiver.signatures.inputs(),
            keys: keys::live(record, now),
            timeout_s: receiver.timeout.as_secs(),
            max_in_flight: settings.max_in_flight,
            retry_schedule: settings.retry_schedule.as_ref().map(seconds),
            retry_on: policy.statuses.retry_on.spans().to_vec(),
            final_on: policy.statuses.final_on.spans().to_vec(),
            success_on: policy.statuses.success_on.spans().to_vec(),
            success_when: policy.success_when.as_ref().and_then(|pattern| pattern.to_raw_value().ok()),
            max_age_s: policy.max_age.map(|age| age.as_secs()),
            rate_limit: policy.rate_limit.map(RateLimit::to_raw),
            ordered: policy.ordered,
            batch: policy.batch.map(Batching::to_raw),
            metadata: policy.metadata.clone(),
            disable_after_days: policy.disable_after_days,
            filter: policy.filter.as_ref().and_then(|filter| filter.to_raw_value().ok()),
            shape: policy.shape.raw(),
            capture: policy.capture,
            headers: access.headers,
            content_type: access.content_type,
            auth: access.auth,
            ca: access.ca,
            server_name: access.server_name,
            client_certificate: access.client_certificate,
            proxy: access.proxy,
            disabled_reason: record.switched_off.as_ref().map(|off| off.reason.clone()),
            disabled_at: record.switched_off.as_ref().map(|off| Time(off.at)),
            consecutive_failures: health.consecutive_failures,
            last_success_at: health.last_success_at.map(Time),
            last_failure_at: health.last_failure_at.map(Time),
            last_error: health.last_error.clone(),
            auto_disabled_at: health.auto_disabled_at.map(Time),
            next_probe_at: health.probe_at.filter(|at| health.auto_disabled_at.is_some() || *at > now).map(Time),
            waiting_for: None,
            waiting_until: None,
            waiting: 0,
            waiting_since: None,
            created_at: Time(record.created_at),
            updated_at: Time(record.updated_at),
            warnings: warnings(record),
        }
    }
}

fn warnings(record: &WebhookRecord) -> Vec<String> {
    let receiver = &record.settings.receiver;
    let insecure = "insecure_url: events travel unencrypted and can be read on the way; use https";
    let insecure = (!receiver.destination.is_tls()).then_some(insecure);
    let short = "short_secret: whoever sees a request can find a secret under 16 characters by trying; take a longer one where the \
        receiver lets you";
    let uses_secret = receiver.signatures.profiles().any(|profile| profile.key == KeyKind::Secret);
    let short = (uses_secret && !receiver.keys.decnet.is_long_enough()).then_some(short);
    insecure
        .into_iter()
        .chain(short)
        .chain(receiver.access.warnings(&receiver.destination))
        .map(str::to_owned)
        .collect()
}

/// Create a webhook
///
/// The answer is the only one that shows its keys.
#[utoipa::path(post, path = "/webhooks", tag = "webhooks", request_body = NewWebhook, responses(
    (status = 201, body = CreatedWebhook),
    (status = 400, description = "The body is no JSON, or no pattern is given."),
    (status = 409, description = "The name is taken, or the tenant has as many webhooks (`quota-webhooks`) or settings \
        (`quota-settings`) as it may."),
    (status = 413, description = "The body is too large."),
    (status = 415, description = "The body is not `application/json`."),
    (status = 422, description = "A field is invalid, or the destination is forbidden (`egress_blocked: …`)."),
    (status = 507, description = "The store is full."),
))]
pub(super) async fn create(
    State(app): State<Arc<App>>,
    Admin(act): Admin,
    Given { input, fields }: Given<WebhookPatch>,
) -> Result<(StatusCode, Json<CreatedWebhook>), Problem> {
    let record = app.engine.create_webhook(act.with_fields(fields), input).await?;
    let keys = &record.settings.receiver.keys;
    let created = CreatedWebhook {
        webhook: Webhook::new(&record, app.engine.now()),
        secret: keys.decnet.expose().to_owned(),
        standard_secret: keys.standard.expose().to_string(),
        public_key: keys::public_key(keys.ed25519.as_ref()),
    };
    Ok((StatusCode::CREATED, Json(created)))
}

/// Show a webhook
#[utoipa::path(get, path = "/webhooks/{uuid}", tag = "webhooks", params(("uuid" = Uuid, Path)), responses(
    (status = 200, body = Webhook),
    (status = 404, description = "There is no such webhook."),
))]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    Viewer { tenant, sees_urls, .. }: Viewer,
    Id(uuid): Id<Uuid>,
) -> Result<Json<Webhook>, Problem> {
    let record = app.engine.store().webhook(tenant, uuid).await?.ok_or_else(|| Problem::not_found("webhook"))?;
    Ok(Json(Webhook::shown(&record, app.engine.now(), sees_urls).with_backlog(&app, record).await?))
}

/// Change a webhook
///
/// Changes what is given and leaves the rest; takes effect at once. `enabled: true` also closes the circuit. What is shown
/// may be given back whole: what is read-only must be as it is then (but for the webhook's health, which is passed over, and
/// its circuit stays as it is), `…` is the secret of before.
#[utoipa::path(patch, path = "/webhooks/{uuid}", tag = "webhooks", params(("uuid" = Uuid, Path)),
    request_body = WebhookChange, responses(
    (status = 200, body = Webhook),
    (status = 400, description = "The body is no JSON, or no pattern would be left."),
    (status = 404, description = "There is no such webhook."),
    (status = 409, description = "The name is taken, the tenant has as much of settings as it may (`quota-settings`), or \
        someone else changed the webhook at this moment."),
    (status = 413, description = "The body is too large."),
    (status = 415, description = "The body is not `application/json`."),
    (status = 422, description = "A field is invalid, or the destination is forbidden (`egress_blocked: …`)."),
    (status = 507, description = "The store is full."),
))]
pub(super) async fn update(
    State(app): State<Arc<App>>,
    Admin(act): Admin,
    Id(uuid): Id<Uuid>,
    change: Change<WebhookPatch>,
) -> Result<Json<Webhook>, Problem> {
    let record = app.engine.store().webhook(act.tenant, uuid).await?.ok_or_else(|| Problem::not_found("webhook"))?;
    let is_circuit_shown = change.shows("auto_disabled_at");
    let Given { mut input, fields } = change.checked(&Webhook::new(&record, app.engine.now()))?;
    if is_circuit_shown && record.settings.enabled {
        // A disabled webhook that is given back as shown is not turned on.
        input.enabled = input.enabled.filter(|enabled| !enabled);
    }
    let record = app.engine.update_webhook(act.with_fields(fields), uuid, input).await?;
    Ok(Json(Webhook::new(&record, app.engine.now()).with_backlog(&app, record).await?))
}

/// Delete a webhook
///
/// Its pending deliveries end as discarded.
#[utoipa::path(delete, path = "/webhooks/{uuid}", tag = "webhooks", params(("uuid" = Uuid, Path)), responses(
    (status = 200, body = Message),
    (status = 404, description = "There is no such webhook."),
))]
pub(super) async fn delete(
    State(app): State<Arc<App>>,
    Admin(act): Admin,
    Id(uuid): Id<Uuid>,
    params: Params,
) -> Result<Json<Message>, Problem> {
    params.finish()?;
    app.engine.delete_webhook(act, uuid).await?;
    Ok(Json(Message { message: "Webhook deleted" }))
}

/// Go on with a webhook
///
/// Makes an attempt of what the webhook is owed now, whatever the cool-down of its circuit and the time that its receiver has
/// asked for: the delivery that is due, or else the next that will be. The answer does not wait for it.
#[utoipa::path(post, path = "/webhooks/{uuid}/resume", tag = "webhooks", params(("uuid" = Uuid, Path)), responses(
    (status = 200, body = Webhook, description = "The webhook as it was before that attempt."),
    (status = 404, description = "There is no such webhook."),
    (status = 409, description = "It is turned off or paused."),
))]
pub(super) async fn resume(
    State(app): State<Arc<App>>,
    Admin(act): Admin,
    Id(uuid): Id<Uuid>,
    _: NoInput,
) -> Result<Json<Webhook>, Problem> {
    let record = app.engine.resume_webhook(act, uuid).await?;
    Ok(Json(Webhook::new(&record, app.engine.now()).with_backlog(&app, record).await?))
}
