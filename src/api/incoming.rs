//! `/in/{inlet}`: requests of other senders.
//!
//! Whoever sends here has no token. What costs much comes late: the inlet is looked up, the body is read within limits, its
//! signature is verified, and only then is anything parsed.

use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::header::{ALLOW, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::time::Instant;
use uuid::Uuid;

use super::App;
use super::auth::{Peer, Publisher, Slowdown, group};
use super::body::{Received, read_body};
use super::budget::{Owner, OwnerOf};
use super::events::{Receipt, hops, parse};
use super::problem::{FieldError, Problem};
use crate::event::EventError;
use crate::ingest::{self, PublishError};
use crate::inlet::{Incoming, InletError, InletRecord, MAX_INLET_BYTES, Sender};
use crate::log_rate::LogRate;
use crate::store::StoreError;

const PREFIX: &str = "/in/";
const METHODS: HeaderValue = HeaderValue::from_static("POST, PUT, OPTIONS");
/// Abuse protection of CloudEvents (HTTP 1.1 Web Hooks for Event Delivery, section 4).
const ASKED_ORIGIN: &str = "webhook-request-origin";
const ASKED_RATE: &str = "webhook-request-rate";
const ALLOWED_ORIGIN: &str = "webhook-allowed-origin";
const ALLOWED_RATE: &str = "webhook-allowed-rate";

/// What has become of requests, and who has failed of late.
#[derive(Default)]
pub(super) struct InletCounts {
    pub(super) requests: Family<ResultLabel, Counter>,
    /// Peers that asked for inlets that are not there.
    unknown: Slowdown<IpAddr>,
    /// Peers whose signatures did not match, by inlet: whoever does not know an inlet's URL cannot hold up its sender.
    unsigned: Slowdown<(IpAddr, Uuid)>,
    /// Lines about requests that were refused.
    refusals: LogRate,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ResultLabel {
    result: &'static str,
}

impl InletCounts {
    pub(super) fn count(&self, result: &'static str) {
        self.requests.get_or_create(&ResultLabel { result }).inc();
    }
}

/// What a request came to.
enum Taken {
    Event(ingest::Receipt),
    /// The sender asked first, and gets this answer.
    Handshake(Response),
}

/// Take a request of another sender
///
/// Also by `PUT`, and below the inlet (`/in/{inlet}/…`). The inlet says how the request is verified and which event it is.
/// `OPTIONS` with `WebHook-Request-Origin` is answered as CloudEvents ask for.
#[utoipa::path(post, path = "/in/{inlet}", tag = "inlets", security(()), params(("inlet" = Uuid, Path)),
    request_body(content = String, content_type = "*/*", description = "At most 1 MiB."), responses(
    (status = 200, description = "Slack's `challenge`.", content_type = "text/plain", body = String),
    (status = 202, body = Receipt),
    (status = 401, description = "The signature is missing, wrong or too old."),
    (status = 403, description = "The token lacks the scope, or is for another tenant."),
    (status = 404, description = "There is no such inlet, or it is off."),
    (status = 408, description = "The body did not arrive in time."),
    (status = 409, description = "An event of another topic has this id."),
    (status = 413, description = "The body, or the event that is made of it, is larger than 1 MiB."),
    (status = 415, description = "The body has a content encoding."),
    (status = 422, description = "The request cannot be an event: its topic, its type or its id is missing, or it is no JSON."),
    (status = 429, description = "Too many requests were refused, or the tenant sends too much; `Retry-After` says when to \
        come back."),
    (status = 503, description = "The store is unavailable or the server is shutting down."),
    (status = 507, description = "The store is full."),
    (status = 508, description = "The request has passed through this server before, or through more than 5."),
))]
pub(super) async fn receive(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    let taken = take(&app, request).await;
    app.inlets.count(match &taken {
        Ok(Taken::Event(receipt)) if receipt.duplicate => "duplicate",
        Ok(Taken::Event(_)) => "accepted",
        Ok(Taken::Handshake(_)) => "handshake",
        Err(problem) => match problem.status() {
            401 | 403 => "unsigned",
            404 => "unknown",
            413 => "too_large",
            429 => "limited",
            500.. => "failed",
            _ => "refused",
        },
    });
    Ok(match taken? {
        Taken::Event(receipt) => (StatusCode::ACCEPTED, Json(Receipt::from(receipt))).into_response(),
        Taken::Handshake(response) => response,
    })
}

/// The answer to a sender that asks whether it may send (`OPTIONS`).
pub(super) async fn ask(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let Place { uuid, .. } = Place::of(&parts.uri)?;
    find(&app, uuid, peer(&parts)).await?;
    app.inlets.count("handshake");
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    headers.insert(ALLOW, METHODS);
    if let Some(origin) = parts.headers.get(ASKED_ORIGIN) {
        let rate = parts.headers.get(ASKED_RATE).cloned().unwrap_or(HeaderValue::from_static("*"));
        headers.insert(ALLOWED_ORIGIN, origin.clone());
        headers.insert(ALLOWED_RATE, rate);
        *response.status_mut() = StatusCode::OK;
    }
    Ok(response)
}

/// Where a request goes.
struct Place<'a> {
    uuid: Uuid,
    /// What follows the inlet: empty, or with a slash before it.
    path: &'a str,
}

impl<'a> Place<'a> {
    fn of(uri: &'a Uri) -> Result<Self, Problem> {
        let rest = uri.path().strip_prefix(PREFIX).unwrap_or_default();
        let (uuid, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        // Spelt in one way, so that an inlet has one URL.
        let uuid = Uuid::try_parse(uuid).ok().filter(|parsed| parsed.to_string() == uuid);
        uuid.map(|uuid| Self { uuid, path }).ok_or_else(unknown)
    }
}

fn unknown() -> Problem {
    Problem::not_found("inlet")
}

fn refused_too_often(wait: Duration) -> Problem {
    Problem::too_many("too-many-failures", "too many requests from this address were refused; come back later", wait)
}

fn peer(parts: &Parts) -> IpAddr {
    group(parts.extensions.get::<Peer>().map(|peer| peer.0))
}

/// Who asks for inlets that are not there is slowed down. Others are not: behind a proxy all senders have one address.
async fn find(app: &App, uuid: Uuid, peer: IpAddr) -> Result<InletRecord, Problem> {
    let found = app.engine.store().inlet_at(uuid).await?;
    found.filter(|inlet| inlet.settings.enabled).ok_or_else(|| refusal(&app.inlets.unknown, peer, unknown()))
}

/// The answer to a request that is refused: `problem`, or that there were too many.
fn refusal<K: Copy + Eq + Hash>(failing: &Slowdown<K>, key: K, problem: Problem) -> Problem {
    match failing.look(key, Instant::now()) {
        Ok(()) => {
            failing.note(key, Instant::now());
            problem
        }
        Err(wait) => refused_too_often(wait),
    }
}

async fn take(app: &Arc<App>, request: Request) -> Result<Taken, Problem> {
    let (parts, body) = request.into_parts();
    let uri = parts.uri.clone();
    let Place { uuid, path } = Place::of(&uri)?;
    let inlet = find(app, uuid, peer(&parts)).await?;
    let name = inlet.settings.name.clone();
    let taken = take_for(app, inlet, path, Request::from_parts(parts, body)).await;
    if let Err(problem) = &taken
        && problem.status() < 500
        && let Some(left_out) = app.inlets.refusals.admit(std::time::Instant::now())
    {
        tracing::info!(inlet = %uuid, name, status = problem.status(), reason = problem.reason(), left_out, "a request was refused");
    }
    taken
}

/// `path` is what follows the inlet in the request's.
async fn take_for(app: &Arc<App>, inlet: InletRecord, path: &str, request: Request) -> Result<Taken, Problem> {
    let (mut parts, body) = request.into_parts();
    let (uuid, uri, peer) = (inlet.uuid, parts.uri.clone(), peer(&parts));
    match inlet.settings.sender {
        Sender::Bearer => {
            let Publisher(tenant) = Publisher::from_request_parts(&mut parts, app).await?;
            if tenant != inlet.tenant {
                return Err(Problem::forbidden("the token is for another tenant than the inlet"));
            }
        }
        Sender::Anyone | Sender::Signing { .. } => {
            if let Some(owner) = parts.extensions.get::<OwnerOf>() {
                owner.set(Owner { tenant: inlet.tenant, token: None });
            }
        }
    }
    let hops = hops(app, &parts.headers)?;
    let (method, headers) = (parts.method.clone(), parts.headers.clone());
    let received = read_body(&app.bodies, Request::from_parts(parts, body), MAX_INLET_BYTES).await?;
    let now = app.engine.now();
    let target = uri.path_and_query().map_or(uri.path(), |target| target.as_str());
    let whole = Arrived { uri: &uri, path, method: method.as_str(), headers: &headers };
    let incoming = whole.with(&received);
    if let Err(error) = inlet.settings.verify(&incoming, target, now) {
        return Err(refusal(&app.inlets.unsigned, (peer, uuid), Problem::unauthorized(&error.to_string())));
    }
    if let Some(challenge) = inlet.settings.challenge(&incoming) {
        let content_type = HeaderValue::from_static("text/plain; charset=utf-8");
        return Ok(Taken::Handshake(([(CONTENT_TYPE, content_type)], challenge).into_response()));
    }
    let (tenant, path) = (inlet.tenant, path.to_owned());
    let make = {
        let (uri, method) = (uri.clone(), method.clone());
        move |body: &[u8]| {
            let query = uri.query().unwrap_or_default();
            let incoming = Incoming { method: method.as_str(), path: &path, query, headers: &headers, body };
            inlet.settings.event(&incoming, now)
        }
    };
    let (event, _received) = parse(app, tenant, received, make).await?;
    let (id, topic) = (event.id().to_owned(), event.topic().clone());
    match app.engine.publish(tenant, vec![event.with_hops(hops)]).await {
        Ok(receipts) => {
            let receipt = receipts.into_iter().next();
            receipt.map(Taken::Event).ok_or_else(|| Problem::internal("no receipt for an event".to_owned()))
        }
        // Senders change what they send again, as the number of tries: with its topic it is the same by its id.
        Err(PublishError::Store(StoreError::IdTaken { .. })) => {
            let present = app.engine.store().event(tenant, &id).await?;
            if present.is_some_and(|present| *present.event.topic() != topic) {
                let detail =
                    "an event of another topic has this id; let the inlet's `id` tell them apart, as in \"shop-{/id}\"";
                return Err(Problem::new(StatusCode::CONFLICT, "event-id-conflict", detail));
            }
            tracing::warn!(inlet = %uuid, id, "the id was there with another content; the request is taken for a repetition");
            Ok(Taken::Event(ingest::Receipt { id, deliveries: 0, skipped: 0, duplicate: true }))
        }
        Err(error) => Err(error.into()),
    }
}

/// A request without its body.
struct Arrived<'a> {
    uri: &'a Uri,
    path: &'a str,
    method: &'a str,
    headers: &'a HeaderMap,
}

impl<'a> Arrived<'a> {
    fn with(&self, received: &'a Received) -> Incoming<'a> {
        let query = self.uri.query().unwrap_or_default();
        Incoming { method: self.method, path: self.path, query, headers: self.headers, body: &received.bytes }
    }
}

/// What can never be an event stays with its sender.
impl From<InletError> for Problem {
    fn from(error: InletError) -> Self {
        match error {
            InletError::Mapping { field, error } => Self::field(field, error.to_string()),
            InletError::Event(EventError::Json { at, reason }) => {
                Self::fields(vec![FieldError { field: "body".to_owned(), reason: format!("byte {at}: {reason}") }])
            }
            InletError::Event(error) => error.into(),
        }
    }
}
