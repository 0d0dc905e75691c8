//! What was exchanged in an attempt: as the log of a delivery, a single attempt and a test show it.

use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use bytes::Bytes;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::App;
use super::auth::Viewer;
use super::input::Params;
use super::problem::Problem;
use super::views::{Time, millis};
use crate::clock::UnixMicros;
use crate::delivery::exchange::{self, Link, SentRequest, curl};
use crate::store::exchange::{Captured, KeptExchange, Part, SentBody};
use crate::store::{AttemptRecord, DeliveryKey};

/// Where the time went, in milliseconds; `null`: the phase was not needed or not reached.
#[derive(Default, Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "the unit is part of a field's name")]
pub(super) struct Timings {
    /// The wait for one of the server's slots, before the attempt began.
    #[schema(required)]
    slot_ms: Option<f64>,
    #[schema(required)]
    dns_ms: Option<f64>,
    #[schema(required)]
    connect_ms: Option<f64>,
    #[schema(required)]
    tls_ms: Option<f64>,
    /// From the request's first byte out to the response's head in.
    #[schema(required)]
    first_byte_ms: Option<f64>,
    /// From there to the end of the answer, as far as it is read.
    #[schema(required)]
    body_ms: Option<f64>,
}

/// The connection of a request.
#[derive(Serialize, ToSchema)]
pub(super) struct Connection {
    /// It was made for an earlier attempt.
    reused: bool,
    tls: bool,
    /// The receiver's, to operators; `null` where a proxy resolved its name.
    #[schema(required, example = "192.0.2.1:443")]
    address: Option<String>,
}

/// One HTTP request made for a delivery.
#[derive(Serialize, ToSchema)]
pub(super) struct Attempt {
    /// From 1.
    number: u32,
    started_at: Time,
    duration_ms: f64,
    #[schema(required)]
    status_code: Option<u16>,
    #[schema(required)]
    error: Option<String>,
    /// The beginning of the response body as text; what is no UTF-8 is replaced.
    response: String,
    timings: Timings,
    /// `null`: there was none, or the attempt was made by an older version.
    #[schema(required)]
    connection: Option<Connection>,
    /// Whether `/deliveries/{id}/attempts/{number}` has the exchange; see the webhook's `capture`.
    captured: bool,
    /// What is otherwise than in the attempt before it, in words; nothing of what is new each time, as times and signatures.
    differs: Vec<String>,
}

/// An attempt and its exchange.
#[derive(Serialize, ToSchema)]
pub(super) struct AttemptDetail {
    #[serde(flatten)]
    attempt: Attempt,
    #[serde(flatten)]
    exchange: Exchange,
}

/// What was sent and what came back.
#[derive(Default, Serialize, ToSchema)]
pub(super) struct Exchange {
    /// `null`: no request was made, or the exchange was not captured.
    #[schema(required)]
    request: Option<Request>,
    /// `null`: there was no answer, or the exchange was not captured.
    #[schema(required)]
    answer: Option<Answer>,
    /// The same request again, as a command for a shell; `…` stands for what is not kept. `null`: the request is not known, its
    /// body is not known whole, or it has a URL that the caller may not see.
    #[schema(required)]
    curl: Option<String>,
}

/// A request as it was sent.
#[derive(Serialize, ToSchema)]
pub(super) struct Request {
    /// Request line and header fields. `…` stands for credentials and for the values of the webhook's own headers.
    head: String,
    /// As text; what is no UTF-8 is replaced. `null`: it is kept no more, or was never kept, as that of a batch.
    #[schema(required)]
    body: Option<String>,
    /// Bytes of the body as it was sent.
    body_bytes: u64,
    /// `body` is only its beginning.
    body_cut: bool,
}

/// An answer as it came.
#[derive(Serialize, ToSchema)]
pub(super) struct Answer {
    /// Status line, with the usual words for the status, and header fields.
    head: String,
    /// As far as it was read, as text; what is no UTF-8 is replaced.
    body: String,
}

impl From<exchange::Timings> for Timings {
    fn from(timings: exchange::Timings) -> Self {
        let exchange::Timings { slot, dns, connect, tls, first_byte, body } = timings;
        Self {
            slot_ms: slot.map(millis),
            dns_ms: dns.map(millis),
            connect_ms: connect.map(millis),
            tls_ms: tls.map(millis),
            first_byte_ms: first_byte.map(millis),
            body_ms: body.map(millis),
        }
    }
}

impl Connection {
    pub(super) fn new(link: Link, sees_addresses: bool) -> Self {
        let address = link.address.filter(|_| sees_addresses).map(|address| address.to_string());
        Self { reused: link.is_reused, tls: link.is_tls, address }
    }
}

impl Attempt {
    fn new(attempt: &AttemptRecord, exchange: &KeptExchange, before: Option<&AttemptRecord>, viewer: &Viewer) -> Self {
        let ended_at = UnixMicros(attempt.started_at.0.saturating_add(attempt.duration_us));
        Self {
            number: attempt.number,
            started_at: Time(attempt.started_at),
            duration_ms: millis(ended_at.since(attempt.started_at)),
            status_code: attempt.status_code,
            error: attempt.error.clone(),
            response: String::from_utf8_lossy(&attempt.response).into_owned(),
            timings: exchange.timings.into(),
            connection: exchange.link.map(|link| Connection::new(link, viewer.sees_addresses)),
            captured: exchange.captured.is_some(),
            differs: before.map(|before| attempt.differences(before)).unwrap_or_default(),
        }
    }

    /// The log of a delivery, first to last.
    pub(super) fn log(attempts: &[AttemptRecord], viewer: &Viewer) -> Vec<Self> {
        let before = std::iter::once(None).chain(attempts.iter().map(Some));
        let attempts = attempts.iter().zip(before);
        attempts.map(|(attempt, before)| Self::new(attempt, &attempt.exchange.read(), before, viewer)).collect()
    }
}

impl Exchange {
    /// Of a stored attempt. `event_body`: of its event, if that is there still.
    fn kept(exchange: &KeptExchange, response: &[u8], event_body: Option<Bytes>, viewer: &Viewer) -> Self {
        let KeptExchange { captured: Some(captured), link, .. } = exchange else { return Self::default() };
        let is_tls = link.is_some_and(|link| link.is_tls);
        let body = Body::of(captured, event_body);
        Self::new(&captured.request, &body, is_tls, viewer.sees_urls).answered(&captured.answer.bytes, response)
    }

    /// Of an attempt that is not stored.
    pub(super) fn tried(sent: Option<&SentRequest>, is_tls: bool, answer: Option<&[u8]>, response: &[u8]) -> Self {
        let exchange = sent.map(|sent| {
            let body = Body { kept: Some(sent.body().clone()), total_bytes: sent.body().len() as u64 };
            Self::new(&Part::of(&sent.head().into()), &body, is_tls, true)
        });
        exchange.unwrap_or_default().answered(answer.unwrap_or_default(), response)
    }

    fn new(head: &Part, body: &Body, is_tls: bool, sees_urls: bool) -> Self {
        let is_whole = head.is_whole() && sees_urls;
        let whole_body = body.kept.as_ref().filter(|kept| is_whole && kept.len() as u64 == body.total_bytes);
        let curl = whole_body.and_then(|body| curl::command(&head.bytes, body, is_tls));
        let head = String::from_utf8_lossy(&head.bytes);
        let request = Request {
            head: if sees_urls { head.into_owned() } else { without_target(&head) },
            body: body.kept.as_ref().map(|kept| String::from_utf8_lossy(kept).into_owned()),
            body_bytes: body.total_bytes,
            body_cut: body.kept.as_ref().is_some_and(|kept| (kept.len() as u64) < body.total_bytes),
        };
        Self { request: Some(request), answer: None, curl }
    }

    fn answered(self, head: &[u8], body: &[u8]) -> Self {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let answer = (!head.is_empty()).then(|| Answer { head: text(head), body: text(body) });
        Self { answer, ..self }
    }
}

/// The body of a request, as far as it is known.
struct Body {
    kept: Option<Bytes>,
    total_bytes: u64,
}

impl Body {
    fn of(captured: &Captured, event_body: Option<Bytes>) -> Self {
        match &captured.body {
            SentBody::Event => {
                let total_bytes = content_length(&captured.request.bytes);
                // An event whose body was erased or damaged is not the one that was sent.
                let kept = event_body.filter(|body| total_bytes.is_none_or(|total| total == body.len() as u64));
                Self { total_bytes: total_bytes.unwrap_or_default(), kept }
            }
            SentBody::Own(part) => Self { kept: Some(part.bytes.clone()), total_bytes: part.total_bytes },
            SentBody::Batch(total_bytes) => Self { kept: None, total_bytes: *total_bytes },
        }
    }
}

/// What a request's head says of the length of its body. It is the last field.
fn content_length(head: &[u8]) -> Option<u64> {
    let head = std::str::from_utf8(head).ok()?;
    head.lines().find_map(|line| line.strip_prefix("Content-Length: "))?.parse().ok()
}

/// A head without the target of its request, which may be a secret itself.
fn without_target(head: &str) -> String {
    let (line, fields) = head.split_once("\r\n").unwrap_or((head, ""));
    let method = line.split(' ').next().unwrap_or_default();
    format!("{method} … HTTP/1.1\r\n{fields}")
}

/// The delivery that an id names.
pub(super) fn key_of(app: &App, id: Uuid) -> Result<DeliveryKey, Problem> {
    app.engine.store().delivery_ids().decode(id).ok_or_else(|| Problem::not_found("delivery"))
}

/// The ids of an attempt in a path.
pub(super) struct AttemptId {
    delivery: Uuid,
    number: u32,
}

impl<S: Send + Sync> FromRequestParts<S> for AttemptId {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path((delivery, number)) = Path::<(String, String)>::from_request_parts(parts, state).await?;
        let ids = delivery.parse().ok().zip(number.parse().ok());
        ids.map(|(delivery, number)| Self { delivery, number }).ok_or_else(|| Problem::not_found("attempt"))
    }
}

/// Show an attempt
///
/// With what was sent and what came back, as far as the webhook's `capture` has kept it.
#[utoipa::path(get, path = "/deliveries/{id}/attempts/{number}", tag = "deliveries", params(
    ("id" = Uuid, Path, description = "The delivery's id."),
    ("number" = u32, Path, minimum = 1, description = "The attempt's number."),
), responses(
    (status = 200, body = AttemptDetail),
    (status = 404, description = "There is no such attempt."),
))]
pub(super) async fn show_attempt(
    State(app): State<Arc<App>>,
    viewer: Viewer,
    AttemptId { delivery, number }: AttemptId,
    params: Params,
) -> Result<Json<AttemptDetail>, Problem> {
    params.finish()?;
    let store = app.engine.store();
    let key = key_of(&app, delivery)?;
    let stored = store.delivery(viewer.tenant, key).await?.ok_or_else(|| Problem::not_found("delivery"))?;
    let attempts = store.attempts(key).await?;
    let place = attempts.iter().position(|attempt| attempt.number == number);
    let place = place.ok_or_else(|| Problem::not_found("attempt"))?;
    let attempt = &attempts[place];
    let exchange = attempt.exchange.read();
    let has_event_body = |captured: &Captured| captured.body == SentBody::Event;
    let event_body = if exchange.captured.as_ref().is_some_and(has_event_body) {
        let event = store.event(viewer.tenant, &stored.event_id).await?;
        event.filter(|event| !event.is_damaged).map(|event| event.event.decnet_body())
    } else {
        None
    };
    let before = place.checked_sub(1).map(|before| &attempts[before]);
    Ok(Json(AttemptDetail {
        exchange: Exchange::kept(&exchange, &attempt.response, event_body, &viewer),
        attempt: Attempt::new(attempt, &exchange, before, &viewer),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_may_not_see_a_url_sees_no_path() {
        let head = "POST /services/T0/B0/secret HTTP/1.1\r\nHost: hooks.example\r\nAccept: */*\r\n\r\n";
        assert_eq!(without_target(head), "POST … HTTP/1.1\r\nHost: hooks.example\r\nAccept: */*\r\n\r\n");
    }
}
