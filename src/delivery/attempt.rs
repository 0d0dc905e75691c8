//! One bounded request → [`Outcome`].

use super::Outcome;
use super::client::{Client, Connection};
use crate::clock::Clock;
use crate::event::Event;
use crate::webhook::Webhook;

/// How much of a response body is read, for the log.
pub const MAX_RESPONSE_BYTES: usize = 16 * 1024;

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
    let _ = (client, slot, webhook, event, webhook_id, clock);
    todo!()
}
