//! Deliveries: the states one can be in, the transitions between them, what an
//! attempt came to, and [`deliver`] for programs that need no server.

pub mod attempt;
pub mod client;
pub mod guard;
pub mod id;
pub mod retry;

use std::time::Duration;

use bytes::Bytes;

use crate::clock::UnixMicros;
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

/// How one attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// A status line arrived.
    Status(u16),
    /// The time was up; says in which phase.
    Timeout(String),
    /// No connection, or it broke before the status line.
    Connect(String),
    Tls(String),
    Dns(String),
    /// The egress guard refused the destination. `detail` may name addresses: for admins and logs only.
    Blocked {
        reason: String,
        detail: String,
    },
    /// The answer was not HTTP/1.1 within the limits on its size.
    Protocol(String),
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
    pub timings: Timings,
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

/// How [`deliver`] goes about it.
#[derive(Clone)]
pub struct DeliverOptions {
    /// Delays between attempts; empty for a single attempt.
    pub schedule: retry::Schedule,
}

/// Delivers one event to one webhook and waits for the end: success, a terminal answer, or the schedule's end.
pub async fn deliver(
    client: &client::Client,
    webhook: &Webhook,
    event: &Event,
    options: &DeliverOptions,
) -> DeliveryResult {
    let _ = (client, webhook, event, &options.schedule);
    todo!()
}
