//! Spans of the log: for whom an attempt or a load is made. They are at `debug`: at the log's default level such a span is
//! none, and its fields are not read.

use tracing::field::{DisplayValue, display};
use tracing::{Span, debug_span};
use uuid::Uuid;

use super::Shared;
use super::lane::{Job, Lane, LaneSettings};
use crate::event::Event;

/// One attempt: for one delivery, or for the `events` of a batch, of which `event` is the first.
pub(super) fn attempt(shared: &Shared, lane: &Lane, job: &Job) -> Span {
    debug_span!(
        "attempt",
        webhook = job.settings.name.as_str(),
        event = job.queued.event.live.event.id(),
        events = 1 + job.more.len(),
        number = job.queued.attempts.saturating_add(1),
        node = node(shared),
        shard = lane.shard(),
    )
}

/// The attempt of a test, which belongs to no delivery. `lane`: the lane, if this node has it.
pub(super) fn test(shared: &Shared, settings: &LaneSettings, event: &Event, lane: Option<&Lane>) -> Span {
    debug_span!(
        "test",
        webhook = settings.name.as_str(),
        event = event.id(),
        node = node(shared),
        shard = lane.and_then(Lane::shard),
    )
}

/// One load of a lane from the store.
pub(super) fn load(shared: &Shared, lane: &Lane) -> Span {
    debug_span!("load", webhook = lane.settings().name.as_str(), node = node(shared), shard = lane.shard())
}

/// This node, if others share the store.
fn node(shared: &Shared) -> Option<DisplayValue<Uuid>> {
    shared.member.as_ref().map(|member| display(member.node))
}
