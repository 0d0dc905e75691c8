//! One bounded request → [`Outcome`].

use std::fmt::Display;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::time::{Instant, timeout_at};

use super::access::Authorization;
use super::client::{Client, Connection, Phase, Trace};
use super::receiver::Webhook;
use super::retry::parse_retry_after;
use super::{DeliveryControl, End, Outcome};
use crate::clock::{Clock, UnixMicros};
use crate::event::{Event, HOPS_HEADER};
use crate::signing::{Scheme, decnet_signature};

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
static POSTRIDER_HOPS: HeaderName = HeaderName::from_static(HOPS_HEADER);
static WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
static WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
static WEBHOOK_DELIVERY: HeaderName = HeaderName::from_static("webhook-delivery");
static WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// Room for the headers below and `Host`; a webhook's own come on top.
const HEADER_COUNT: usize = 12;

/// What is sent: an event's body, something else that stands for an event, or for several.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    /// Sent as `X-DECNET-Event-Id`.
    pub event_id: &'a str,
    /// Sent as `X-DECNET-Event-Topic`; `None`: there is no such header.
    pub topic: Option<&'a str>,
    /// Signed and sent as it is.
    pub body: Bytes,
    /// `None`: `application/json`. A webhook's own `content_type` goes before.
    pub content_type: Option<HeaderValue>,
    /// Sent as `Postrider-Hops`, which keeps servers from delivering in circles; see [`Stamp`](crate::event::Stamp). `None`:
    /// there is no such header.
    pub hops: Option<HeaderValue>,
}

impl<'a> Message<'a> {
    /// The event in its canonical form, which is not copied.
    #[must_use]
    pub fn of(event: &'a Event) -> Self {
        Self {
            event_id: event.id(),
            topic: Some(event.topic().as_str()),
            body: event.body().clone(),
            content_type: None,
            hops: None,
        }
    }
}

impl<'a> From<&'a Event> for Message<'a> {
    fn from(event: &'a Event) -> Self {
        Self::of(event)
    }
}

/// Makes one attempt and never takes longer than the webhook's timeout, a token that has to be fetched included.
///
/// `slot` holds the caller's idle connection to this webhook, if it has one; afterwards it holds
/// the connection again if that can be used for another attempt. `webhook_id` is the delivery's
/// `webhook-id`: `[A-Za-z0-9_-]`, the same for every attempt.
pub async fn attempt(
    client: &Client,
    slot: &mut Option<Connection>,
    webhook: &Webhook,
    message: &Message<'_>,
    webhook_id: &str,
    clock: &dyn Clock,
) -> Outcome {
    let started_at = clock.now();
    let began_at = Instant::now();
    let mut trace = Trace::default();
    let sending = Sending { client, webhook, message, webhook_id, clock };
    let ended = if webhook.access.needs_token() {
        timeout_at(began_at + webhook.timeout, Box::pin(sending.with_token(slot, &mut trace))).await
    } else {
        timeout_at(began_at + webhook.timeout, sending.once(slot, None, &mut trace)).await
    };
    // The status line decides; a body that drips or breaks after it changes nothing.
    let end = match (&trace.head, ended) {
        (Some(head), _) => End::Status(head.status.as_u16()),
        (None, Ok(Err(end))) => end,
        (None, _) => trace.phase.timed_out(webhook.timeout),
    };
    let answered = |name: &HeaderName| trace.head.as_ref().and_then(|head| head.headers.get(name));
    let retry_after = answered(&header::RETRY_AFTER).and_then(|value| parse_retry_after(value.as_bytes()));
    let control = answered(&WEBHOOK_DELIVERY).and_then(|value| DeliveryControl::parse(value.as_bytes()));
    Outcome {
        started_at,
        duration: began_at.elapsed(),
        end,
        retry_after,
        control,
        headers: trace.head.map(|head| head.headers).unwrap_or_default(),
        response: trace.body.freeze(),
        timings: trace.timings,
    }
}

/// One attempt's givens.
#[derive(Clone, Copy)]
struct Sending<'a> {
    client: &'a Client,
    webhook: &'a Webhook,
    message: &'a Message<'a>,
    webhook_id: &'a str,
    clock: &'a dyn Clock,
}

impl Sending<'_> {
    async fn once(
        self,
        slot: &mut Option<Connection>,
        authorization: Option<&Authorization>,
        trace: &mut Trace,
    ) -> Result<(), End> {
        let Self { client, webhook, message, webhook_id, clock } = self;
        let build = || {
            let mut request = request(webhook, message, webhook_id, clock.now())?;
            if let Some(authorization) = authorization {
                request.headers_mut().insert(header::AUTHORIZATION, authorization.value.clone());
            }
            Ok(request)
        };
        let target = webhook.access.target(&webhook.destination);
        client.exchange(slot, target, build, MAX_RESPONSE_BYTES, trace).await
    }

    /// With a token. A kept one that the receiver refuses may have been revoked, so the request is made once more
    /// with a new one, as the same attempt.
    async fn with_token(self, slot: &mut Option<Connection>, trace: &mut Trace) -> Result<(), End> {
        let access = &self.webhook.access;
        for is_last in [false, true] {
            *trace = Trace::default();
            trace.phase = Phase::Token;
            let authorization = access.authorization(self.client, self.clock).await?;
            self.once(slot, authorization.as_ref(), trace).await?;
            let is_refused = trace.head.as_ref().is_some_and(|head| head.status == StatusCode::UNAUTHORIZED);
            let Some(authorization) = authorization.filter(|_| is_refused) else { break };
            access.forget(&authorization).await;
            if is_last || !authorization.is_cached {
                break;
            }
        }
        Ok(())
    }
}

/// The signed request of one attempt made at `now`, but for `Host`.
fn request(
    webhook: &Webhook,
    message: &Message<'_>,
    webhook_id: &str,
    now: UnixMicros,
) -> Result<Request<Full<Bytes>>, End> {
    let own_headers = webhook.access.headers();
    let mut headers = HeaderMap::with_capacity(HEADER_COUNT + own_headers.len());
    let timestamp = timestamp_value(now.seconds())?;
    let content_type = webhook.access.content_type().or(message.content_type.as_ref());
    headers.insert(header::CONTENT_TYPE, content_type.unwrap_or(&APPLICATION_JSON).clone());
    headers.insert(header::USER_AGENT, USER_AGENT.clone());
    headers.insert(&X_DECNET_EVENT_ID, HeaderValue::from_str(message.event_id).map_err(unsendable)?);
    if let Some(topic) = message.topic {
        headers.insert(&X_DECNET_EVENT_TOPIC, HeaderValue::from_str(topic).map_err(unsendable)?);
    }
    if let Some(hops) = &message.hops {
        headers.insert(&POSTRIDER_HOPS, hops.clone());
    }
    let (keys, schemes, body) = (&webhook.keys, &webhook.signatures, &message.body);
    if schemes.contains(&Scheme::Decnet) {
        headers.insert(&X_DECNET_SIGNATURE, owned_value(decnet_signature(&keys.decnet, body))?);
        if let Some(previous) = keys.previous_secret(now) {
            headers.insert(&X_DECNET_SIGNATURE_PREVIOUS, owned_value(decnet_signature(previous, body))?);
        }
    }
    if let Some(signatures) = keys.webhook_signature(schemes, webhook_id, now, body) {
        headers.insert(&WEBHOOK_ID, HeaderValue::from_str(webhook_id).map_err(unsendable)?);
        headers.insert(&WEBHOOK_TIMESTAMP, timestamp.clone());
        headers.insert(&WEBHOOK_SIGNATURE, owned_value(signatures)?);
    }
    headers.insert(&X_DECNET_TIMESTAMP, timestamp);
    for (name, value) in own_headers {
        headers.insert(name, value.clone());
    }
    let mut request = Request::new(Full::new(message.body.clone()));
    *request.method_mut() = webhook.method.into();
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
