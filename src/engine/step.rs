//! Steps of long work, made beside everything else: calls that wait for the store's writer go first.

use std::time::Duration;

use crate::store::Store;

/// The wait of a step for a busy writer: at most `looks` looks, `pause` apart. Then the step goes on all the same.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deference {
    pub(super) pause: Duration,
    pub(super) looks: u32,
}

/// Waits while calls wait for the writer, within bounds: work goes on under load, slowly.
pub(super) async fn let_events_pass(store: &dyn Store, Deference { pause, looks }: Deference) {
    for _ in 0..looks {
        if !store.is_busy() {
            return;
        }
        tokio::time::sleep(pause).await;
    }
}
