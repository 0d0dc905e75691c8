//! One bounded request → [`Outcome`].

use std::fmt::Display;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request};
use http_body_util::Full;
use tokio::time::{Instant, timeout_at};

use super::client::{Client, Connection, Trace};
use super::retry::parse_retry_after;
use super::{End, Outcome};
use crate::clock::{Clock, UnixMicros};
use crate::event::Event;
use crate::signing::{Scheme, decnet_signature};
use crate::webhook::Webhook;

/// How much of a response body is read, for the log.
pub const MAX_RESPONSE_BYTES: usize = 16 * 1024;

static APPLICATION_JSON: HeaderValue = HeaderValue::from_static("application/json");
/// The original's; receivers are configured to expect it.
static USER_AGENT: HeaderValue = HeaderValue::from_static("decnet-webhook/1.0");
static X_DECNET_SIGNATURE: HeaderName = HeaderName::from_static("x-decnet-signature");
static X_DECNET_SIGNATURE_PREVIOUS: HeaderName = HeaderName::from_static("x-decnet-signature-previous");
static X_DECNET_EVENT_ID: HeaderName = HeaderName::from_static("x-decnet-event-id");
static X_DECNET_EVENT_TOPIC: HeaderName = HeaderName::from_static("x-decnet-event-topic");
static X_DECNET_TIMESTAMP: HeaderName = HeaderName::from_static("x-decnet-timestamp");
static WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
static WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
static WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// Room for the headers below and `Host`.
const HEADER_COUNT: usize = 11;

/// Makes one attempt and never takes longer than the webhook's timeout.
///
/// `slot` holds the caller's idle connection to this webhook, if it has one; afterwards it holds
/// the connection again if that can be used for another attempt. `webhook_id` is the delivery's
/// `webhook-id`: `[A-Za-z0-9_-]`, the same for every attempt.
pub async fn attempt(
    client: &Client,
    slot: &mut Option<Connection>,
    webhook: &Webhook,
    event: &Event,
    webhook_id: &str,
    clock: &dyn Clock,
) -> Outcome {
    let started_at = clock.now();
    let began_at = Instant::now();
    let mut trace = Trace::default();
    let build = || request(webhook, event, webhook_id, clock.now());
    let exchange = client.exchange(slot, &webhook.destination, build, MAX_RESPONSE_BYTES, &mut trace);
    let ended = timeout_at(began_at + webhook.timeout, exchange).await;
    // The status line decides; a body that drips or breaks after it changes nothing.
    let end = match (&trace.head, ended) {
        (Some(head), _) => End::Status(head.status.as_u16()),
        (None, Ok(Err(end))) => end,
        (None, _) => trace.phase.timed_out(webhook.timeout),
    };
    let retry_after = trace.head.as_ref().and_then(|head| head.headers.get(header::RETRY_AFTER));
    Outcome {
        started_at,
        duration: began_at.elapsed(),
        end,
        retry_after: retry_after.and_then(|value| parse_retry_after(value.as_bytes())),
        response: trace.body.freeze(),
        timings: trace.timings,
    }
}

/// The signed request of one attempt made at `now`, but for `Host`.
fn request(webhook: &Webhook, event: &Event, webhook_id: &str, now: UnixMicros) -> Result<Request<Full<Bytes>>, End> {
    let mut headers = HeaderMap::with_capacity(HEADER_COUNT);
    let timestamp = timestamp_value(now.seconds())?;
    headers.insert(header::CONTENT_TYPE, APPLICATION_JSON.clone());
    headers.insert(header::USER_AGENT, USER_AGENT.clone());
    headers.insert(&X_DECNET_EVENT_ID, HeaderValue::from_str(event.id()).map_err(unsendable)?);
    headers.insert(&X_DECNET_EVENT_TOPIC, HeaderValue::from_str(event.topic().as_str()).map_err(unsendable)?);
    let (keys, schemes) = (&webhook.keys, &webhook.signatures);
    if schemes.contains(&Scheme::Decnet) {
        headers.insert(&X_DECNET_SIGNATURE, owned_value(decnet_signature(&keys.decnet, event.body()))?);
        if let Some(previous) = keys.previous_secret(now) {
            headers.insert(&X_DECNET_SIGNATURE_PREVIOUS, owned_value(decnet_signature(previous, event.body()))?);
        }
    }
    if let Some(signatures) = keys.webhook_signature(schemes, webhook_id, now, event.body()) {
        headers.insert(&WEBHOOK_ID, HeaderValue::from_str(webhook_id).map_err(unsendable)?);
        headers.insert(&WEBHOOK_TIMESTAMP, timestamp.clone());
        headers.insert(&WEBHOOK_SIGNATURE, owned_value(signatures)?);
    }
    headers.insert(&X_DECNET_TIMESTAMP, timestamp);
    let mut request = Request::new(Full::new(event.body().clone()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = webhook.destination.target().clone();
    *request.headers_mut() = headers;
    Ok(request)
}

fn timestamp_value(seconds: i64) -> Result<HeaderValue, End> {
    HeaderValue::from_str(itoa::Buffer::new().format(seconds)).map_err(unsendable)
}

/// Without a copy.
fn owned_value(text: String) -> Result<HeaderValue, End> {
    HeaderValue::from_maybe_shared(Bytes::from(text)).map_err(unsendable)
}

/// Ids and topics are visible ASCII when they are parsed; a store that was tampered with may hold others.
fn unsendable(error: impl Display) -> End {
    End::Protocol(format!("the event cannot be sent in headers: {error}"))
}
