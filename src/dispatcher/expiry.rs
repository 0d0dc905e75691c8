//! Ends deliveries that are too old, without an attempt: in memory and in the store, whether the circuit is open, the webhook
//! paused or off, or the lane full.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::Shared;
use super::lane::{Lane, Look, Queued};
use super::load::MAX_LOAD_BYTES;
use super::unsent::{too_old, unsent};
use crate::clock::{Clock, UnixMicros};
use crate::store::{Portion, StoreError};

/// How often lanes are asked whether they want to be looked through.
const TICK: Duration = Duration::from_millis(500);
/// The most deliveries of a lane that one look reads from the store: those that have waited longest, and as many of those
/// that are due.
const LOOK_PORTION: u32 = 100;

/// Runs until the dispatcher has gone.
pub(super) async fn end_what_is_too_old(shared: Weak<Shared>) {
    loop {
        tokio::time::sleep(TICK).await;
        let Some(shared) = shared.upgrade() else { return };
        let now = shared.clock.now();
        let lanes: Vec<Arc<Lane>> = shared.lanes.read().values().cloned().collect();
        for lane in lanes {
            if let Some(look) = lane.begin_look(now) {
                look_through(&shared, &lane, look, now).await;
            }
        }
    }
}

async fn look_through(shared: &Arc<Shared>, lane: &Arc<Lane>, look: Look, now: UnixMicros) {
    let Look { cutoff, mut old, held } = look;
    if let Some(held) = held {
        let portion = Portion { max_deliveries: LOOK_PORTION, max_bytes: MAX_LOAD_BYTES, held, ..Portion::default() };
        let (found, is_rest) = match read(shared, lane, cutoff, portion, now).await {
            Ok(read) => read,
            Err(error) => {
                tracing::error!(webhook = lane.settings().name, %error, "cannot read deliveries that may be too old; trying again");
                (Vec::new(), false)
            }
        };
        let (found, todo) = lane.end_look(found, is_rest, shared.clock.now());
        shared.carry_out(lane, todo);
        old.extend(found);
    }
    let settings = lane.settings();
    for queued in old {
        let reason = too_old(&queued, &settings, now).unwrap_or_else(|| "older than it may be".to_owned());
        if shared.outcomes.send(unsent(shared, lane, &settings, &queued, reason)).await.is_err() {
            return;
        }
    }
}

/// What has been due since the cutoff is too old, whatever came of it; of what is due, the attempts so far leave that open.
async fn read(
    shared: &Shared,
    lane: &Lane,
    cutoff: UnixMicros,
    portion: Portion,
    now: UnixMicros,
) -> Result<(Vec<Queued>, bool), StoreError> {
    let overdue = shared.store.due(lane.seq, cutoff, portion.clone()).await?;
    let is_rest = overdue.is_rest_due;
    let mut found = overdue.deliveries;
    if !is_rest {
        let held = portion.held.iter().copied().chain(found.iter().map(|delivery| delivery.event.seq)).collect();
        let due = shared.store.due(lane.seq, now, Portion { held, ..portion }).await?;
        found.extend(due.deliveries.into_iter().filter(|delivery| delivery.begins_at <= cutoff));
    }
    let waits_since = Instant::now();
    let old = found.into_iter().filter_map(|delivery| {
        let charge = shared.memory.charge(delivery.event.event.body().len())?;
        Some(Queued::stored(delivery, charge, waits_since))
    });
    Ok((old.collect(), is_rest))
}
