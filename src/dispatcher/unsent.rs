//! Deliveries that end without an attempt.

use std::sync::Arc;

use super::Shared;
use super::lane::{Lane, LaneSettings, Queued};
use super::notices::Notice;
use super::settler::ToSettle;
use crate::clock::{Clock, UnixMicros};
use crate::delivery::Transition;
use crate::store::{DeliveryKey, ERASED, Settlement};

/// An event that has no body in the webhook's shape, is damaged or too old, ends its delivery, and speaks neither for nor against the
/// receiver.
pub(super) fn unsent(
    shared: &Shared,
    lane: &Arc<Lane>,
    settings: &Arc<LaneSettings>,
    queued: &Queued,
    error: String,
) -> ToSettle {
    let (at, round_attempts) = (shared.clock.now(), queued.round_attempts);
    let key = DeliveryKey { event: queued.seq(), webhook: lane.seq };
    let notice = Notice::dead(settings, key, queued, queued.attempts, None, &error, at);
    let settlement = Settlement { key, attempt: None, round_attempts, transition: Transition::dead(error), at };
    ToSettle::ended(lane, settlement, Some(notice))
}

/// An event that was erased while its delivery was attempted, or waited for another attempt.
pub(super) fn erased(shared: &Shared, lane: &Arc<Lane>, queued: &Queued) -> ToSettle {
    let key = DeliveryKey { event: queued.seq(), webhook: lane.seq };
    let (round_attempts, transition) = (queued.round_attempts, Transition::discarded(ERASED));
    ToSettle::ended(lane, Settlement { key, attempt: None, round_attempts, transition, at: shared.clock.now() }, None)
}

/// The reason of a delivery that is too old.
pub(super) fn too_old(queued: &Queued, settings: &LaneSettings, now: UnixMicros) -> Option<String> {
    let max_age = settings.max_age?;
    (now.since(queued.begins_at) >= max_age).then(|| format!("older than {} s", max_age.as_secs()))
}
