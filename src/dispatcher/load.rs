//! Fills lanes from the store.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::Instrument;

use super::lane::{Lane, Loaded, Queued};
use super::{Shared, spans};
use crate::clock::{Clock, UnixMicros};
use crate::delivery::retry::MAX_WAIT;
use crate::store::{Portion, Probe, StoreError};

/// The most bytes of bodies of one load, so that a lane has work before it reads on.
pub(super) const MAX_LOAD_BYTES: usize = 8 << 20;
/// The delay before a lane reads again after the store failed or memory was full.
const LOAD_RETRY_DELAY: Duration = Duration::from_millis(200);

/// Reads a portion of a lane's due deliveries, and queues them.
pub(super) async fn run(shared: Arc<Shared>, lane: Arc<Lane>, portion: Portion, now: UnixMicros) {
    let Ok(_permit) = shared.loads.acquire().await else { return };
    let read = read_due(&shared, &lane, portion, now).instrument(spans::load(&shared, &lane));
    let todo = match read.await {
        Ok(loaded) => lane.finish_load(loaded, shared.clock.now()),
        Err(error) => {
            tracing::error!(webhook = lane.settings().name, %error, "cannot read deliveries that are due; trying again");
            lane.fail_load(again_at(&shared), shared.clock.now())
        }
    };
    shared.carry_out(&lane, todo);
}

async fn read_due(shared: &Shared, lane: &Lane, portion: Portion, now: UnixMicros) -> Result<Loaded, StoreError> {
    let is_in_order = portion.in_order;
    let mut portion = Portion { max_bytes: portion.max_bytes.min(MAX_LOAD_BYTES), ..portion };
    let mut due = shared.store.due(lane.seq, now, portion.clone()).await?;
    while due.deliveries.is_empty() && portion.probe.as_ref().is_some_and(|probe| *probe != Probe::default()) {
        // From the place on there is none; then any that is no suspect; then any.
        portion.probe = portion.probe.map(|probe| match probe.share {
            0 => Probe::default(),
            _ => Probe { share: 0, newest_first: false, ..probe },
        });
        due = shared.store.due(lane.seq, now, portion.clone()).await?;
    }
    // What a probe left out may be due.
    due.is_rest_due |= portion.probe.as_ref().is_some_and(|probe| *probe != Probe::default());
    let mut next_due = None;
    if !due.is_rest_due {
        next_due = shared.store.next_due(Some(lane.seq), now).await?.first().map(|(_, at)| *at);
        // No delay is so long: it was written while the clock was far ahead.
        let is_wrong = next_due.is_some_and(|at| at > now.after(MAX_WAIT));
        if due.deliveries.is_empty() && (is_wrong || portion.at_any_time) {
            if portion.at_any_time {
                (portion.max_deliveries, portion.probe) = (1, None);
            }
            due = shared.store.due(lane.seq, UnixMicros(i64::MAX), portion).await?;
        }
    }
    let mut loaded = Loaded { is_rest_due: due.is_rest_due, awaited: due.awaited, next_due, ..Loaded::default() };
    let waits_since = Instant::now();
    for delivery in due.deliveries {
        let Some(charge) = shared.memory.charge(delivery.event.event.body().len()) else {
            loaded.awaited = is_in_order.then_some((delivery.event.seq, now));
            loaded.is_rest_due = true;
            loaded.rest_until = Some(again_at(shared));
            break;
        };
        loaded.deliveries.push(Queued::stored(delivery, charge, waits_since));
    }
    if loaded.is_rest_due {
        loaded.next_due = Some(now);
    }
    Ok(loaded)
}

fn again_at(shared: &Shared) -> UnixMicros {
    shared.clock.now().after(LOAD_RETRY_DELAY)
}
