//! Deliveries: their states and transitions, the outcome of an attempt, and [`deliver`] for programs that need no
//! server.

pub mod access;
pub mod attempt;
pub mod client;
mod decoding;
pub mod exchange;
mod fields;
pub mod guard;
pub mod id;
mod outcome;
pub(crate) mod receiver;
pub mod retry;
mod state;
pub mod statuses;
pub mod verdict;
mod vet;

use std::sync::Arc;

pub use self::fields::AnswerFields;
pub use self::outcome::{DeliveryControl, End, GONE, LOOP_DETECTED, MAX_ERROR_BYTES, Outcome};
use self::receiver::Webhook;
pub use self::state::{DeliveryState, Transition};
use crate::clock::{Clock, SystemClock};
use crate::event::Event;

/// The result of [`deliver`], with the fields of the original's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryResult {
    pub ok: bool,
    pub status_code: Option<u16>,
    pub error: Option<String>,
    pub attempts: u32,
}

/// Options of [`deliver`]. The defaults are the original's.
#[derive(Clone)]
pub struct DeliverOptions {
    /// Delays between attempts; empty for a single attempt.
    pub schedule: retry::Schedule,
    /// Whether a `Retry-After` of the receiver may postpone the next attempt, by up to a day. The original ignores it.
    pub heeds_retry_after: bool,
    /// The time of day of the attempts. Delays pass in real time.
    pub clock: Arc<dyn Clock>,
}

impl Default for DeliverOptions {
    fn default() -> Self {
        Self { schedule: retry::Schedule::original(), heeds_retry_after: false, clock: Arc::new(SystemClock) }
    }
}

/// The factor between a delay and the schedule's delay, so that deliveries that failed together are not retried
/// together.
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
        let mut outcome = attempt::attempt(client, &mut slot, webhook, &message, &webhook_id, clock).await;
        client.checkin(slot);
        if !options.heeds_retry_after {
            outcome.retry_after = None;
        }
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
