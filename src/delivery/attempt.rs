//! One bounded request → [`Outcome`].

use bytes::Bytes;
use http::HeaderValue;
use tokio::time::{Instant, timeout_at};

use super::access::Authorization;
use super::client::{Client, Connection, OutgoingRequest, Phase, RequestHead, Trace};
use super::decoding::decoded;
use super::exchange::Exchange;
use super::receiver::Webhook;
use super::retry::parse_retry_after;
use super::{DeliveryControl, End, Outcome};
use crate::clock::{Clock, UnixMicros};
use crate::event::Event;
use crate::signing::{Scheme, Signing, decnet_signature};

/// How much of a response body is read, for the log.
pub const MAX_RESPONSE_BYTES: usize = 16 * 1024;

/// The statuses of a receiver that wants another credential. 403 is the answer of some to a token that was revoked, or
/// whose rights have changed since.
const REFUSES_TOKEN: [u16; 2] = [401, 403];

/// The original's; its receivers are configured to expect it. So it goes with DECNET signatures, unless the client has one.
const DECNET_USER_AGENT: &str = "decnet-webhook/1.0";
const USER_AGENT: &str = concat!("Postrider/", env!("CARGO_PKG_VERSION"));

/// What is sent: an event's body, something else that stands for an event, or for several.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    /// Sent as `X-DECNET-Event-Id` with a DECNET signature, and with others as their receivers expect it.
    pub event_id: &'a str,
    /// The event's type, for the headers of some signatures; empty if there is none.
    pub kind: &'a str,
    /// Sent as `X-DECNET-Event-Topic`, likewise; `None`: there is no such header.
    pub topic: Option<&'a str>,
    /// Signed and sent as it is.
    pub body: Bytes,
    /// `None`: `application/json`. A webhook's own `content_type` goes before.
    pub content_type: Option<HeaderValue>,
    /// Sent as `Postrider-Hops`, which keeps servers from delivering in circles; see [`Stamp`](crate::event::Stamp). `None`:
    /// there is no such header.
    pub hops: Option<HeaderValue>,
    /// Values for this message of headers that the webhook has, by name: a server renders templates.
    pub headers: &'a [(Box<str>, HeaderValue)],
    /// Sent after all others, but for those that the request has already.
    pub more_headers: &'a [(Box<str>, HeaderValue)],
}

impl<'a> Message<'a> {
    /// The event as the original client sends it ([`Event::decnet_body`]).
    #[must_use]
    pub fn of(event: &'a Event) -> Self {
        Self {
            event_id: event.id(),
            kind: event.kind(),
            topic: Some(event.topic().as_str()),
            body: event.decnet_body(),
            content_type: None,
            hops: None,
            headers: &[],
            more_headers: &[],
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
    let mut trace = Trace::of_at_most(MAX_RESPONSE_BYTES);
    let sending = Sending { client, webhook, message, webhook_id, clock };
    let ended = if webhook.access.needs_token() {
        timeout_at(began_at + webhook.timeout, Box::pin(sending.with_token(slot, &mut trace))).await
    } else {
        timeout_at(began_at + webhook.timeout, sending.once(slot, None, &mut trace)).await
    };
    let Trace { phase, timings, link, request, mut answer } = trace;
    // The status line decides; what drips or breaks after it changes nothing.
    let end = match (answer.status(), ended) {
        (Some(status), _) => End::Status(status),
        (None, Ok(Err(end))) => end,
        (None, _) => phase.timed_out(webhook.timeout),
    };
    answer.close(false);
    let headers = answer.take_fields();
    Outcome {
        started_at,
        duration: began_at.elapsed(),
        end,
        retry_after: headers.get("retry-after").and_then(parse_retry_after),
        control: headers.get("webhook-delivery").and_then(DeliveryControl::parse),
        response: decoded(headers.get("content-encoding"), answer.into_body(), MAX_RESPONSE_BYTES),
        headers,
        exchange: Exchange { timings, link, request: request.map(OutgoingRequest::into_sent) },
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
        let target = self.webhook.access.target(&self.webhook.destination);
        let build = || request(&self, authorization, self.clock.now());
        self.client.exchange(slot, target, build, trace).await
    }

    /// With a token. A kept one that the receiver refuses may have been revoked, so the request is made once more
    /// with a new one, as the same attempt.
    async fn with_token(self, slot: &mut Option<Connection>, trace: &mut Trace) -> Result<(), End> {
        let access = &self.webhook.access;
        for is_last in [false, true] {
            *trace = Trace { phase: Phase::Token, ..Trace::of_at_most(MAX_RESPONSE_BYTES) };
            let authorization = access.authorization(self.client, &self.webhook.destination, self.clock).await?;
            self.once(slot, authorization.as_ref(), trace).await?;
            let is_refused = trace.answer.status().is_some_and(|status| REFUSES_TOKEN.contains(&status));
            let Some(authorization) = authorization.filter(|_| is_refused) else { break };
            access.forget(&authorization).await;
            if is_last || !authorization.is_cached {
                break;
            }
        }
        Ok(())
    }
}

/// The signed request of one attempt made at `now`: the original's header fields in its order, then others. A webhook may
/// have `Accept`, `Accept-Encoding` and `User-Agent` of its own.
fn request(
    sending: &Sending<'_>,
    authorization: Option<&Authorization>,
    now: UnixMicros,
) -> Result<OutgoingRequest, End> {
    let Sending { client, webhook, message, .. } = sending;
    let access = &webhook.access;
    let mut head = RequestHead::new(webhook.method.as_str(), access.target(&webhook.destination));
    let content_type = access.content_type().or(message.content_type.as_ref());
    let content_type = content_type.map_or(b"application/json".as_slice(), HeaderValue::as_bytes);
    let is_decnet = webhook.signatures.contains(Scheme::Decnet);
    let default_agent = if is_decnet { DECNET_USER_AGENT } else { USER_AGENT };
    for (name, value) in [
        ("Accept", b"*/*".as_slice()),
        ("Accept-Encoding", b"identity"),
        ("Content-Type", content_type),
        ("User-Agent", client.user_agent().map_or(default_agent.as_bytes(), HeaderValue::as_bytes)),
    ] {
        if !access.has_header(name) {
            head.field(name, value)?;
        }
    }
    sending.sign(&mut head, now)?;
    if let Some(hops) = &message.hops {
        head.field("Postrider-Hops", hops.as_bytes())?;
    }
    if let Some(authorization) = authorization {
        head.secret_field(access.credential_header(), authorization.value.as_bytes())?;
    }
    for (name, value) in access.headers() {
        let rendered = message.headers.iter().find(|(known, _)| known == name);
        head.secret_field(name, rendered.map_or(value, |(_, rendered)| rendered).as_bytes())?;
    }
    for (name, value) in message.more_headers {
        if !head.has(name) {
            head.field(name, value.as_bytes())?;
        }
    }
    Ok(head.with_body(message.body.clone()))
}

impl Sending<'_> {
    /// The header fields of the signatures, and those that belong to them.
    fn sign(&self, head: &mut RequestHead, now: UnixMicros) -> Result<(), End> {
        let Self { webhook, message, webhook_id, .. } = self;
        let (keys, signatures, body) = (&webhook.keys, &webhook.signatures, &message.body);
        let mut digits = itoa::Buffer::new();
        let timestamp = digits.format(now.seconds());
        if signatures.contains(Scheme::Decnet) {
            head.field("X-DECNET-Signature", decnet_signature(&keys.decnet, body).as_bytes())?;
            if let Some(previous) = keys.previous_secret(now) {
                head.field("X-DECNET-Signature-Previous", decnet_signature(previous, body).as_bytes())?;
            }
            head.field("X-DECNET-Event-Id", message.event_id.as_bytes())?;
            if let Some(topic) = message.topic {
                head.field("X-DECNET-Event-Topic", topic.as_bytes())?;
            }
            head.field("X-DECNET-Timestamp", timestamp.as_bytes())?;
        }
        if let Some(value) = keys.webhook_signature(signatures.schemes(), webhook_id, now, body) {
            head.field("webhook-id", webhook_id.as_bytes())?;
            head.field("webhook-timestamp", timestamp.as_bytes())?;
            head.field("webhook-signature", value.as_bytes())?;
        }
        if signatures.others().is_empty() {
            return Ok(());
        }
        let signing = Signing {
            method: webhook.method.as_str(),
            path: webhook.destination.path_and_query(),
            id: webhook_id,
            now,
            body,
            event_id: message.event_id,
            kind: message.kind,
            topic: message.topic,
        };
        for plan in signatures.others() {
            plan.sign(keys, &signing, |name, value| head.field(name, value))?;
        }
        for (at, plan) in signatures.others().iter().enumerate() {
            plan.describe(&signing, |name, value| {
                // A webhook may have its own, and what two vendors call alike goes once.
                let is_field = |(known, _): &(&str, _)| known.eq_ignore_ascii_case(name);
                let mut earlier = signatures.others()[..at].iter().flat_map(|plan| plan.profile().fields);
                let is_taken = webhook.access.has_header(name) || earlier.any(is_field);
                if is_taken { Ok(()) } else { head.field(name, value) }
            })?;
        }
        Ok(())
    }
}
