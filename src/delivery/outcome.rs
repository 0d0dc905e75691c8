//! The outcome of one attempt: its end, the receiver's requests beside the status, and the exchange.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;

use super::exchange::Exchange;
use super::fields::AnswerFields;
use crate::clock::UnixMicros;

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
    /// Of the answer; none if there was none.
    pub headers: AnswerFields,
    /// The beginning of the response body, at most [`MAX_RESPONSE_BYTES`](super::attempt::MAX_RESPONSE_BYTES).
    pub response: Bytes,
    /// `Retry-After` as the receiver sent it, if it can be understood.
    pub retry_after: Option<RetryAfter>,
    /// What the receiver asks for beside its status.
    pub control: Option<DeliveryControl>,
    pub exchange: Exchange,
}

/// A receiver's `Retry-After`, not yet clamped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryAfter {
    Delay(Duration),
    At(UnixMicros),
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

impl End {
    /// See [`Outcome::error_text`].
    #[must_use]
    pub fn error_text(&self) -> Option<String> {
        let mut text = match self {
            Self::Status(200..=299) => return None,
            Self::Status(status @ (429 | 500..)) => http_text(*status),
            Self::Status(status) => final_text(*status),
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
pub(super) fn http_text(status: u16) -> String {
    match status {
        LOOP_DETECTED => {
            format!("http {status} (loop: the event has been at the receiver before, or at too many servers)")
        }
        _ => format!("http {status}"),
    }
}

/// The words for a status that is not.
pub(super) fn final_text(status: u16) -> String {
    format!("non-retryable {status}")
}

impl Outcome {
    /// Of an attempt for which no request was made.
    #[cfg(feature = "server")]
    pub(crate) fn without_request(started_at: UnixMicros, end: End) -> Self {
        Self {
            started_at,
            duration: Duration::ZERO,
            end,
            headers: AnswerFields::default(),
            response: Bytes::new(),
            retry_after: None,
            control: None,
            exchange: Exchange::default(),
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

    /// The head of the answer: the status with its usual words, whatever the receiver's were, and the fields as they came.
    /// `None`: there was no answer.
    #[must_use]
    pub fn answer_head(&self) -> Option<Vec<u8>> {
        let status = self.status_code()?;
        let words = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or_default();
        let line = format!("HTTP/1.1 {status} {words}");
        Some([line.trim_end().as_bytes(), b"\r\n", self.headers.lines()].concat())
    }

    /// Whether the receiver says, with whatever status, that it wants no further deliveries at all.
    #[must_use]
    pub fn asks_to_stop(&self) -> bool {
        self.control == Some(DeliveryControl::Disable)
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
