//! Lanes in which deliveries wait for hands are looked after.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Shared;

/// Workers that are added at one look, over all lanes: opening connections must not itself make work slow.
const MAX_RELIEF: usize = 8;
/// How often lanes in which deliveries wait for hands are looked after.
const LOOK_AFTER_EVERY: Duration = Duration::from_millis(20);
/// A look that comes this much late shows that the processors are busy: then slow workers wait for those,
/// not for answers, and more connections would make it worse.
const MAX_LOOK_DELAY: Duration = Duration::from_millis(5);

/// Gives lanes more workers when those they have do not get on.
pub(super) async fn look_after_crowded(shared: Arc<Shared>) {
    loop {
        shared.crowding.notified().await;
        loop {
            let due_at = Instant::now() + LOOK_AFTER_EVERY;
            tokio::time::sleep_until(due_at).await;
            let is_late = due_at.elapsed() > MAX_LOOK_DELAY;
            let mut lanes = std::mem::take(&mut *shared.crowded.lock());
            let mut budget = if is_late { 0 } else { MAX_RELIEF };
            // Whoever is first gets most; so it is another one each time.
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
