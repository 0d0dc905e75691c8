//! Keeps one source running: on the node that owns it, again after each failure.

use std::sync::Arc;
use std::time::Duration;

use super::door::Door;
use super::{SourceError, State, Stop};
use crate::store::Shard;

/// The pause after the first failure. It doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause between two starts.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The interval of looks at who owns the source.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The time in which a source that is told to stop must have stopped.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// How one run of a source ended.
enum Ended {
    Stopped,
    /// Another node owns it.
    Lost,
    Failed(SourceError),
}

/// Runs the source of a door until it is stopped.
/// `shard`: the owner alone runs it; `None`: all nodes do.
pub(super) async fn supervise(door: Arc<Door>, shard: Option<Shard>, mut stop: Stop) {
    let mut pause = FIRST_PAUSE;
    while !stop.is_stopped() {
        if shard.is_some_and(|shard| !door.engine().owns(shard)) {
            door.set(State::Elsewhere);
            stop.sleep(LOOK_EVERY).await;
            continue;
        }
        if door.status().state().0 == State::Elsewhere {
            door.set(State::Starting);
        }
        match run(&door, shard, &mut stop).await {
            Ended::Stopped => break,
            Ended::Lost => tracing::info!(source = door.status().name(), "another node runs the source"),
            Ended::Failed(SourceError(reason)) => {
                // It ran before it failed.
                if door.status().state().0.trouble().is_none() {
                    pause = FIRST_PAUSE;
                }
                let retry_in = jittered(pause);
                door.failed(&reason, retry_in);
                stop.sleep(retry_in).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
    door.set(State::Stopped);
}

/// One run, in a task of its own, so that a panic is a failure of this source alone.
async fn run(door: &Arc<Door>, shard: Option<Shard>, stop: &mut Stop) -> Ended {
    let (door_of_run, source, mut stop_of_run) = (Arc::clone(door), Arc::clone(door.source()), stop.clone());
    let mut running = tokio::spawn(async move { source.run(&door_of_run, &mut stop_of_run).await });
    let result = tokio::select! {
        result = &mut running => result,
        () = lost(door, shard) => {
            running.abort();
            let _ = running.await;
            return Ended::Lost;
        }
        () = stop.stopped() => {
            if tokio::time::timeout(STOP_TIMEOUT, &mut running).await.is_err() {
                running.abort();
                tracing::warn!(source = door.status().name(), "the source was cut off");
            }
            return Ended::Stopped;
        }
    };
    match result {
        Ok(Ok(())) if stop.is_stopped() => Ended::Stopped,
        Ok(Ok(())) => Ended::Failed(SourceError("the source ended without being told".to_owned())),
        Ok(Err(error)) => Ended::Failed(error),
        Err(_) => Ended::Failed(SourceError("the source broke off: this is an error of Postrider".to_owned())),
    }
}

/// Ready when another node owns the shard.
async fn lost(door: &Door, shard: Option<Shard>) {
    let Some(shard) = shard else { return std::future::pending().await };
    while door.engine().owns(shard) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// From half the pause to the whole.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + fastrand::f64() / 2.0)
}
