//! The server of the bus: accepts clients, says every few seconds that it is there, and stops.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::claim::Claimed;
use super::connection::{self, Shared};
use super::event;
use super::hub::{Figures, Hub, MAX_BUS_CONNECTIONS};
use crate::clock::Clock;
use crate::log_rate::LogRate;

/// The default time between two heartbeats.
pub const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(10);
/// The least time between two heartbeats.
pub const MIN_HEARTBEAT: Duration = Duration::from_millis(100);
/// How long a stop lets clients read what waits for them.
pub const BUS_FLUSH_TIMEOUT: Duration = Duration::from_millis(500);
/// The pause after a connection could not be accepted, for want of file descriptors as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The topic and the type of the heartbeat.
const HEARTBEAT: (&str, &str) = ("system.bus.health", "bus.health");

/// How a server behaves.
pub struct BusSettings {
    /// The time between two heartbeats, at least [`MIN_HEARTBEAT`].
    pub heartbeat: Duration,
    pub clock: Arc<dyn Clock>,
}

/// The payload of the heartbeat.
#[derive(Serialize)]
struct Health {
    pid: u32,
    /// To the millisecond.
    uptime_sec: f64,
    ts: f64,
}

/// Serves the bus until `stop` is ready. Its clients then get what waits for them, as far as they read it at once.
pub async fn serve(socket: Claimed, settings: BusSettings, stop: impl Future<Output = ()>) {
    let shared = Arc::new(Shared {
        hub: Mutex::new(Hub::default()),
        clock: settings.clock,
        ended: LogRate::default(),
        unsendable: LogRate::default(),
        slow: LogRate::default(),
    });
    let (refusals, failures) = (LogRate::default(), LogRate::default());
    let began = Instant::now();
    let mut heartbeat = interval(settings.heartbeat.max(MIN_HEARTBEAT));
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connections = JoinSet::new();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            accepted = socket.accept() => match accepted {
                Ok(stream) => {
                    let place = shared.hub.lock().join();
                    if let Some((id, wake)) = place {
                        connections.spawn(connection::serve(stream, id, wake, Arc::clone(&shared)));
                    } else if let Some(left_out) = refusals.admit(std::time::Instant::now()) {
                        tracing::warn!(left_out, "a client is turned away: {MAX_BUS_CONNECTIONS} are connected");
                    }
                }
                Err(error) => {
                    if let Some(left_out) = failures.admit(std::time::Instant::now()) {
                        tracing::warn!(%error, left_out, "a connection cannot be accepted");
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            _ = heartbeat.tick() => beat(&shared, began),
            Some(_) = connections.join_next() => {}
            () = &mut stop => break,
        }
    }
    // No client comes any more, and another server may take the place.
    drop(socket);
    shared.hub.lock().close();
    let all = async { while connections.join_next().await.is_some() {} };
    // Who does not read is cut off with the set.
    let _ = timeout(BUS_FLUSH_TIMEOUT, all).await;
    let Figures { connections, published, dropped } = shared.hub.lock().figures();
    tracing::info!(connections, published, dropped, "the bus has stopped");
}

fn beat(shared: &Shared, began: Instant) {
    let (topic, kind) = HEARTBEAT;
    let now = shared.clock.now();
    let uptime_sec = (began.elapsed().as_secs_f64() * 1e3).round() / 1e3;
    let payload = Health { pid: std::process::id(), uptime_sec, ts: event::seconds(now) };
    match event::event(topic, kind, payload, now) {
        Ok(body) => shared.publish(None, topic, &body),
        Err(error) => tracing::error!(%error, "there is no heartbeat"),
    }
}
