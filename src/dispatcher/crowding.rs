//! Lanes in which deliveries wait for hands are looked after.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Shared;

/// The most workers added by one look, over all lanes, so that the opening of connections does not itself slow down the
/// attempts.
const MAX_RELIEF: usize = 8;
/// The interval of looks at lanes whose deliveries wait for workers.
const LOOK_AFTER_EVERY: Duration = Duration::from_millis(20);
/// A look that is late by this much shows that the processors are busy. Workers are then slow because of that, not
/// because of receivers, and more connections would make it worse.
const MAX_LOOK_DELAY: Duration = Duration::from_millis(5);

/// Gives lanes more workers while all their workers wait for slow answers.
pub(super) async fn look_after_crowded(shared: Arc<Shared>) {
    loop {
        shared.crowding.notified().await;
        loop {
            let due_at = Instant::now() + LOOK_AFTER_EVERY;
            tokio::time::sleep_until(due_at).await;
            let is_late = due_at.elapsed() > MAX_LOOK_DELAY;
            let mut lanes = std::mem::take(&mut *shared.crowded.lock());
            let mut budget = if is_late { 0 } else { MAX_RELIEF };
            // The first lane gets most, so each look begins at another one.
            let first = fastrand::usize(..=lanes.len());
            lanes.rotate_left(first);
            lanes.retain(|lane| match lane.relieve(budget) {
                Some(todo) => {
                    budget -= todo.start_workers;
                    shared.carry_out(lane, todo);
                    true
                }
                None => false,
            });
            let mut crowded = shared.crowded.lock();
            crowded.append(&mut lanes);
            if crowded.is_empty() {
                break;
            }
        }
    }
}
