//! What the deliveries of a webhook wait for.

use serde::Serialize;
use utoipa::ToSchema;

use crate::clock::UnixMicros;
use crate::webhook::WebhookRecord;

/// What keeps all deliveries of a webhook waiting.
#[derive(Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum WaitingFor {
    /// Until it goes on: `paused` is set.
    Paused,
    /// The receiver fails: until the next probe.
    Circuit,
    /// Until the time that the receiver has asked for.
    ReceiverAsked,
}

impl WaitingFor {
    /// Beside it, until when.
    pub(super) fn of(record: &WebhookRecord, now: UnixMicros) -> Option<(Self, Option<UnixMicros>)> {
        let health = &record.health;
        let is_later = |at: &UnixMicros| *at > now;
        match (health.auto_disabled_at, health.probe_at) {
            // What is due is skipped or kept: nothing is waited for.
            _ if !record.settings.enabled => None,
            _ if record.settings.policy.paused => Some((Self::Paused, None)),
            (Some(_), probe_at) => Some((Self::Circuit, probe_at)),
            (None, rests_until) => rests_until.filter(is_later).map(|at| (Self::ReceiverAsked, Some(at))),
        }
    }
}
