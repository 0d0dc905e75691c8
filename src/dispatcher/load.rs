//! Fills lanes from the store.

use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use super::lane::{Lane, Loaded, Queued};
use crate::clock::UnixMicros;
use crate::store::{Due, Portion, StoreError};

/// The most bytes of bodies that a lane reads from the store at once; then it has something to do and reads on.
const MAX_LOAD_BYTES: usize = 8 << 20;
/// How long a lane waits before it reads again after the store failed or memory was full.
const LOAD_RETRY_DELAY: Duration = Duration::from_millis(200);

/// Reads a portion of what is due for a lane, and queues it.
pub(super) async fn run(shared: Arc<Shared>, lane: Arc<Lane>, portion: Portion, now: UnixMicros) {
    let Ok(_permit) = shared.loads.acquire().await else { return };
    let loaded = read_due(&shared, &lane, portion, now).await.unwrap_or_else(|error| {
        tracing::error!(%error, "cannot read deliveries that are due; trying again");
        Loaded { next_due: Some(now), is_rest_due: true, rest_until: Some(again_at(&shared)), ..Loaded::default() }
    });
    let todo = lane.finish_load(loaded, shared.clock.now());
    shared.carry_out(&lane, todo);
}

async fn read_due(shared: &Shared, lane: &Lane, portion: Portion, now: UnixMicros) -> Result<Loaded, StoreError> {
    let max_bytes = portion.max_bytes.min(MAX_LOAD_BYTES);
    let Due { deliveries, is_rest_due } = shared.store.due(lane.seq, now, Portion { max_bytes, ..portion }).await?;
    let mut loaded = Loaded { is_rest_due, ..Loaded::default() };
    for delivery in deliveries {
        let Some(charge) = shared.memory.charge(delivery.event.event.body().len()) else {
            loaded.is_rest_due = true;
            loaded.rest_until = Some(again_at(shared));
            break;
        };
        loaded.deliveries.push(Queued {
            event: charge.hold(delivery.event),
            attempts: delivery.attempts,
            round_attempts: delivery.round_attempts,
            is_stored: true,
        });
    }
    loaded.next_due = if loaded.is_rest_due {
        Some(now)
    } else {
        shared.store.next_due(Some(lane.seq), now).await?.first().map(|(_, at)| *at)
    };
    Ok(loaded)
}

fn again_at(shared: &Shared) -> UnixMicros {
    shared.clock.now().after(LOAD_RETRY_DELAY)
}
