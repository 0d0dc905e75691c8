//! Deliveries: the states one can be in, the transitions between them, what an
//! attempt came to, and [`deliver`] for programs that need no server.

pub mod access;
pub mod attempt;
pub mod client;
pub mod guard;
pub mod id;
pub mod retry;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::clock::{Clock, SystemClock, UnixMicros};
use crate::event::Event;
use crate::webhook::Webhook;

/// Where a delivery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeliveryState {
    /// Owed: waiting for its first attempt or its next one, or under way.
    Pending,
    /// The receiver answered 2xx.
    Delivered,
    /// Given up: the schedule is exhausted, or the answer was terminal.
    Dead,
    /// Never attempted, for a reason known when the event was accepted.
    Skipped,
    /// An operator ended it, or its webhook was deleted.
    Discarded,
}

impl DeliveryState {
    pub const ALL: [Self; 5] = [Self::Pending, Self::Delivered, Self::Dead, Self::Skipped, Self::Discarded];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
            Self::Skipped => "skipped",
            Self::Discarded => "discarded",
        }
    }
}

/// A change of a delivery's state. The functions below are the only way to make one, and
/// a store writes no state that did not come out of one.
///
/// ```text
///             accept                2xx
///    ──────────► pending ─────────────────────► delivered
///                 │  ▲ │ schedule exhausted, terminal status
///      retryable  └──┘ ├──────────────────────► dead ──── retried ───► pending
///                      │ discarded by an operator, webhook deleted
///                      └──────────────────────► discarded ── retried ─► pending
///    accept, webhook disabled ────────────────► skipped (reason) ── retried ─► pending
/// ```
///
/// An operator who asks for it makes delivered ones pending, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    state: DeliveryState,
    next_attempt_at: Option<UnixMicros>,
    reason: Option<String>,
}

impl Transition {
    /// The receiver took it.
    #[must_use]
    pub fn delivered() -> Self {
        Self { state: DeliveryState::Delivered, next_attempt_at: None, reason: None }
    }

    /// The attempt failed and another will be made at `at`.
    #[must_use]
    pub fn retry_at(at: UnixMicros, error: String) -> Self {
        Self { state: DeliveryState::Pending, next_attempt_at: Some(at), reason: Some(error) }
    }

    /// No attempt will follow.
    #[must_use]
    pub fn dead(error: String) -> Self {
        Self { state: DeliveryState::Dead, next_attempt_at: None, reason: Some(error) }
    }

    /// Not attempted, and why.
    #[must_use]
    pub fn skipped(reason: &str) -> Self {
        Self { state: DeliveryState::Skipped, next_attempt_at: None, reason: Some(reason.to_owned()) }
    }

    /// Ended without success by decision, and why.
    #[must_use]
    pub fn discarded(reason: &str) -> Self {
        Self { state: DeliveryState::Discarded, next_attempt_at: None, reason: Some(reason.to_owned()) }
    }

    /// Owed from `at` on: accepted for a lane that had no room, or asked for again.
    #[must_use]
    pub fn queued(at: UnixMicros) -> Self {
        Self { state: DeliveryState::Pending, next_attempt_at: Some(at), reason: None }
    }

    #[must_use]
    pub fn state(&self) -> DeliveryState {
        self.state
    }
    /// Set exactly when the state is pending.
    #[must_use]
    pub fn next_attempt_at(&self) -> Option<UnixMicros> {
        self.next_attempt_at
    }
    /// The error or reason that a user sees.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }
}

/// The longest text of an attempt's error, in bytes; a longer one is cut. It is stored with every attempt, and some
/// list what the receiver sent: every name of a wrong certificate, for one.
pub const MAX_ERROR_BYTES: usize = 512;

/// The status by which a receiver says that it will never come back.
pub const GONE: u16 = 410;

/// The status by which a server says that a request goes in circles (RFC 5842, section 7.2): another Postrider, or this one.
pub const LOOP_DETECTED: u16 = 508;

/// How one attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// A status line arrived.
    Status(u16),
    /// The time was up; says in which phase.
    Timeout(String),
    /// No connection, or it broke before the status line.
    Connect(String),
    /// This machine could not open a connection: it has no descriptor, port or memory left.
    Local(String),
    Tls(String),
    /// The name has no address that may be contacted. `reason` is the same of names that are not there and of those that
    /// lead inside, so that nobody learns from it what is inside; `detail` is for logs and says which.
    Dns {
        reason: String,
        detail: String,
    },
    /// The egress guard refused the destination as it is written.
    Blocked(String),
    /// The answer was not HTTP/1.1 within the limits on its size.
    Protocol(String),
    /// The credential that the webhook asks for could not be had.
    Auth(String),
    /// The webhook's proxy could not be reached, or does not do its work: nothing is known of the receiver.
    Proxy(String),
    /// This machine took too long to make the body; the text is that of the shape's error.
    Unshaped(String),
}

/// What one attempt came to. Touches no store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub started_at: UnixMicros,
    pub duration: Duration,
    pub end: End,
    /// The beginning of the response body, at most [`attempt::MAX_RESPONSE_BYTES`].
    pub response: Bytes,
    /// `Retry-After` as the receiver sent it, if it can be understood.
    pub retry_after: Option<retry::RetryAfter>,
    /// What the receiver asks for beside its status.
    pub control: Option<DeliveryControl>,
    pub timings: Timings,
}

/// What a receiver may ask for in the header `webhook-delivery` of its answer, as proposed for Standard Webhooks
/// (pull request 291, "delivery control") and honoured by Svix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryControl {
    /// `disable`: no more deliveries to this webhook; with any status.
    Disable,
    /// `abort-message`: no more attempts for this delivery; a success stays one.
    AbortMessage,
}

impl DeliveryControl {
    /// Of the header's value; what is not known is ignored, so that there may be more one day.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        match value.trim_ascii() {
            b"disable" => Some(Self::Disable),
            b"abort-message" => Some(Self::AbortMessage),
            _ => None,
        }
    }
}

/// Where the time of an attempt went. `None`: the phase was not needed or not reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    pub dns: Option<Duration>,
    pub connect: Option<Duration>,
    pub tls: Option<Duration>,
    /// From the request's first byte out to the response's head in.
    pub first_byte: Option<Duration>,
}

/// What [`deliver`] came to: the original's result, field by field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryResult {
    pub ok: bool,
    pub status_code: Option<u16>,
    pub error: Option<String>,
    pub attempts: u32,
}

impl End {
    /// Whether it speaks against the receiver. A blocked destination, a proxy that fails or a lack of descriptors is
    /// the operator's affair.
    #[must_use]
    pub fn counts_as_failure(&self) -> bool {
        !matches!(
            self,
            Self::Status(200..=299) | Self::Blocked(_) | Self::Local(_) | Self::Proxy(_) | Self::Unshaped(_)
        )
    }

    /// See [`Outcome::error_text`].
    #[must_use]
    pub fn error_text(&self) -> Option<String> {
        let mut text = match self {
            Self::Status(200..=299) => return None,
            Self::Status(status @ (429 | 500..=599)) => http_text(*status),
            Self::Status(status) => format!("non-retryable {status}"),
            Self::Timeout(phase) => format!("timeout: {phase}"),
            Self::Connect(reason) | Self::Local(reason) => format!("connect: {reason}"),
            Self::Tls(reason) => format!("tls: {reason}"),
            Self::Dns { reason, .. } => format!("dns: {reason}"),
            Self::Blocked(reason) => format!("egress_blocked: {reason}"),
            Self::Protocol(reason) => format!("protocol: {reason}"),
            Self::Auth(reason) => format!("auth: {reason}"),
            Self::Proxy(reason) => format!("proxy: {reason}"),
            Self::Unshaped(reason) => reason.clone(),
        };
        text.truncate(text.floor_char_boundary(MAX_ERROR_BYTES));
        Some(text)
    }
}

/// The words for a status that is tried again.
fn http_text(status: u16) -> String {
    match status {
        LOOP_DETECTED => {
            format!("http {status} (loop: the event has been at the receiver before, or at too many servers)")
        }
        _ => format!("http {status}"),
    }
}

impl Outcome {
    /// Of an attempt for which no request was made.
    #[cfg(feature = "server")]
    pub(crate) fn without_request(started_at: UnixMicros, end: End) -> Self {
        Self {
            started_at,
            duration: Duration::ZERO,
            end,
            response: Bytes::new(),
            retry_after: None,
            control: None,
            timings: Timings::default(),
        }
    }

    /// The answer's status, if there was an answer.
    #[must_use]
    pub fn status_code(&self) -> Option<u16> {
        match self.end {
            End::Status(status) => Some(status),
            _ => None,
        }
    }

    /// Whether the receiver wants no further deliveries at all: 410, or [`DeliveryControl::Disable`].
    #[must_use]
    pub fn ends_webhook(&self) -> bool {
        self.end == End::Status(GONE) || self.control == Some(DeliveryControl::Disable)
    }

    #[must_use]
    pub fn is_success(&self) -> bool {
        matches!(self.end, End::Status(200..=299))
    }

    /// What went wrong, in the words that users of the API match on; `None` after a success. It never
    /// shows a resolved address, and has at most [`MAX_ERROR_BYTES`].
    #[must_use]
    pub fn error_text(&self) -> Option<String> {
        self.end.error_text()
    }
}

/// How [`deliver`] goes about it. By default as the original does.
#[derive(Clone)]
pub struct DeliverOptions {
    /// Delays between attempts; empty for a single attempt.
    pub schedule: retry::Schedule,
    /// Says what time the attempts are made at; delays are waited out in real time.
    pub clock: Arc<dyn Clock>,
}

impl Default for DeliverOptions {
    fn default() -> Self {
        Self { schedule: retry::Schedule::original(), clock: Arc::new(SystemClock) }
    }
}

/// How far from the schedule's delay a delay may be, as a factor: receivers that failed together are
/// not tried again together.
pub const JITTER: std::ops::RangeInclusive<f64> = 0.8..=1.2;

/// A factor for the next delay, uniform in [`JITTER`].
#[must_use]
pub fn random_jitter() -> f64 {
    JITTER.start() + fastrand::f64() * (JITTER.end() - JITTER.start())
}

/// The longest `webhook-id` taken over from an event's id, in bytes.
const MAX_WEBHOOK_ID_BYTES: usize = 64;

/// Delivers one event to one webhook and waits for the end: success, a terminal answer, or the schedule's end.
///
/// The `webhook-id` is the event's id if that has the right form (1 to 64 of `[A-Za-z0-9_-]`), so that a
/// program that starts over sends the same one, and otherwise a random UUID.
///
/// ```no_run
/// use postrider::clock::{Clock, SystemClock};
/// use postrider::delivery::client::{Client, ClientOptions};
/// use postrider::delivery::{DeliverOptions, deliver};
/// use postrider::event::Event;
/// use postrider::signing::{Secret, SigningKeys, StandardKey};
/// use postrider::webhook::Webhook;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::new(ClientOptions::default())?;
/// let keys = SigningKeys::generate();
/// let webhook = Webhook::new("https://siem.example.com/hook", keys)?;
/// let event = Event::from_json(br#"{"topic": "attacker.session.started"}"#, SystemClock.now())?;
/// let result = deliver(&client, &webhook, &event, &DeliverOptions::default()).await;
/// assert!(result.ok, "{:?} after {} attempts", result.error, result.attempts);
/// # Ok(())
/// # }
/// ```
pub async fn deliver(
    client: &client::Client,
    webhook: &Webhook,
    event: &Event,
    options: &DeliverOptions,
) -> DeliveryResult {
    let fits = |id: &str| {
        (1..=MAX_WEBHOOK_ID_BYTES).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
    };
    let webhook_id =
        if fits(event.id()) { event.id().to_owned() } else { uuid::Uuid::new_v4().hyphenated().to_string() };
    let clock = &*options.clock;
    let message = attempt::Message::of(event);
    let mut attempts = 0;
    loop {
        attempts += 1;
        let mut slot = client.checkout(webhook.access.target(&webhook.destination));
        let outcome = attempt::attempt(client, &mut slot, webhook, &message, &webhook_id, clock).await;
        client.checkin(slot);
        let now = clock.now();
        let error = match retry::next(attempts, &outcome, &options.schedule, now, random_jitter()) {
            retry::Next::RetryAt { at, .. } => {
                tokio::time::sleep(at.since(now)).await;
                continue;
            }
            retry::Next::Delivered => None,
            retry::Next::Dead { error } => Some(error),
        };
        return DeliveryResult { ok: error.is_none(), status_code: outcome.status_code(), error, attempts };
    }
}
