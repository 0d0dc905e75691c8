//! One connection to the bus: what is said on it, and what is heard.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};

use super::{CONTROL_TOPIC, identity, is_same_file};
use crate::bus::frame::{self, FrameReader, Verb};
use crate::clock::UnixMicros;
use crate::engine::Engine;
use crate::sources::door::Door;
use crate::sources::{SourceError, Status, Stop};
use crate::topic::Pattern;
use crate::webhook::TenantSeq;

/// The name under which the bus and DECNET's panel know the worker.
const WORKER: &str = "webhook";
/// The name under which changes of webhooks are announced, on a connection of their own: a connection does not get its own
/// events back, and webhooks may want this one.
const ANNOUNCER: &str = "api";
/// The topic of the worker's health. The panel takes it for stale after 90 s.
const HEALTH_TOPIC: &str = "system.webhook.health";
/// The topic that says that webhooks have changed.
const CHANGED_TOPIC: &str = "system.webhook.subscriptions_changed";
/// The interval of messages about the worker's health.
const HEALTH_EVERY: Duration = Duration::from_secs(30);
/// The interval of looks whether the socket is still the same file: a bus that was started anew takes its place, while old
/// connections stay with the old one.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Changes of webhooks in this time are announced together.
const GATHER_CHANGES: Duration = Duration::from_millis(50);
/// A bus that does not read for so long is given up.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// The most patterns that are subscribed to. Beyond, everything is: each pattern costs the bus time for each event.
pub(super) const MAX_SUBSCRIPTIONS: usize = 1_000;
/// The pattern for everything.
const EVERYTHING: &str = ">";

/// A connection that has said hello and has subscribed.
pub(super) struct Connection<'a> {
    reader: FrameReader<OwnedReadHalf>,
    speaker: Speaker<'a>,
}

/// The writing half.
struct Speaker<'a> {
    writer: OwnedWriteHalf,
    path: PathBuf,
    /// The socket as it was when the connection was made.
    identity: (u64, u64),
    engine: &'a Engine,
    status: &'a Status,
    tenant: TenantSeq,
    changes: watch::Receiver<()>,
    subscribed: BTreeSet<String>,
}

impl<'a> Connection<'a> {
    pub(super) async fn open(path: &Path, door: &'a Door, tenant: TenantSeq) -> Result<Self, SourceError> {
        let failed = |error: std::io::Error| SourceError::new(&format!("cannot connect to {}", path.display()), error);
        // Comes first: if another bus takes the place meanwhile, the next look finds it.
        let known = identity(path).ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))?;
        let stream = UnixStream::connect(path).await.map_err(failed)?;
        let (reader, writer) = stream.into_split();
        let changes = door.engine().pattern_changes();
        let mut speaker = Speaker {
            writer,
            path: path.to_owned(),
            identity: known,
            engine: door.engine(),
            status: door.status(),
            tenant,
            changes,
            subscribed: BTreeSet::new(),
        };
        speaker.say(Verb::Hello, WORKER, b"").await?;
        speaker.subscribe().await?;
        speaker.say_health().await?;
        Ok(Self { reader: FrameReader::new(reader), speaker })
    }
}

/// Passes events to `take` until the connection fails or the source is stopped. Reading does not wait for writing.
pub(super) async fn follow(
    connection: Connection<'_>,
    take: impl FnMut(&str, Bytes),
    stop: &mut Stop,
) -> Result<(), SourceError> {
    let Connection { reader, mut speaker } = connection;
    let are_changed = Notify::new();
    tokio::select! {
        // What has come is taken before the source stops.
        biased;
        result = listen(reader, take, &are_changed) => result,
        result = speaker.speak(&are_changed) => result,
        () = stop.stopped() => speaker.say(Verb::Bye, "", b"").await,
    }
}

async fn listen(
    mut reader: FrameReader<OwnedReadHalf>,
    mut take: impl FnMut(&str, Bytes),
    are_changed: &Notify,
) -> Result<(), SourceError> {
    loop {
        let frame = reader.read().await.map_err(|error| SourceError::new("cannot read from the bus", error))?;
        let Some(frame) = frame else { return Err(SourceError("the bus closed the connection".to_owned())) };
        match frame.verb {
            Verb::Evt => {
                if &*frame.argument == CHANGED_TOPIC {
                    are_changed.notify_one();
                }
                take(&frame.argument, frame.body);
            }
            Verb::Bye => return Err(SourceError("the bus ended the connection".to_owned())),
            // The original's client passes over what only servers are told.
            Verb::Hello | Verb::Pub | Verb::Sub | Verb::Unsub => {}
        }
    }
}

impl Speaker<'_> {
    /// Keeps the subscriptions as the webhooks want them, and says how the worker is. Fails when the socket is another.
    async fn speak(&mut self, are_changed: &Notify) -> Result<(), SourceError> {
        let mut health = interval_at(Instant::now() + HEALTH_EVERY, HEALTH_EVERY);
        let mut look = interval_at(Instant::now() + LOOK_EVERY, LOOK_EVERY);
        for interval in [&mut health, &mut look] {
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        // When the changes since then are announced, if there are any.
        let mut announce_at: Option<Instant> = None;
        loop {
            tokio::select! {
                _ = self.changes.changed() => {
                    self.subscribe().await?;
                    announce_at = announce_at.or(Some(Instant::now() + GATHER_CHANGES));
                }
                () = sleep_until(announce_at.unwrap_or_else(Instant::now)), if announce_at.is_some() => {
                    announce_at = None;
                    self.announce().await?;
                }
                () = are_changed.notified() => self.subscribe().await?,
                _ = health.tick() => self.say_health().await?,
                _ = look.tick() => if !is_same_file(&self.path, self.identity) {
                    return Err(SourceError(format!("{} is another socket now", self.path.display())));
                },
            }
        }
    }

    /// Subscribes to what the webhooks want, and to nothing else.
    async fn subscribe(&mut self) -> Result<(), SourceError> {
        let wanted = subscriptions(self.engine.wanted(self.tenant).iter().map(Pattern::as_str));
        // New ones come first, so that no event is missed in between.
        for pattern in wanted.difference(&self.subscribed.clone()) {
            self.say(Verb::Sub, pattern, b"").await?;
        }
        for pattern in self.subscribed.clone().difference(&wanted) {
            self.say(Verb::Unsub, pattern, b"").await?;
        }
        self.subscribed = wanted;
        Ok(())
    }

    async fn say_health(&mut self) -> Result<(), SourceError> {
        let body = health(self.engine, self.status, self.engine.now());
        self.say(Verb::Pub, HEALTH_TOPIC, body.as_bytes()).await
    }

    /// Says to everybody on the bus that webhooks have changed.
    async fn announce(&self) -> Result<(), SourceError> {
        let mut frames = Vec::new();
        let body = json!({ "type": "changed", "payload": {} }).to_string();
        for (verb, argument, body) in
            [(Verb::Hello, ANNOUNCER, ""), (Verb::Pub, CHANGED_TOPIC, &body), (Verb::Bye, "", "")]
        {
            encode(verb, argument, body.as_bytes(), &mut frames)?;
        }
        let announced = async {
            let mut stream = UnixStream::connect(&self.path).await?;
            stream.write_all(&frames).await
        };
        written(timeout(WRITE_TIMEOUT, announced).await)
    }

    async fn say(&mut self, verb: Verb, argument: &str, body: &[u8]) -> Result<(), SourceError> {
        let mut frame = Vec::new();
        encode(verb, argument, body, &mut frame)?;
        written(timeout(WRITE_TIMEOUT, self.writer.write_all(&frame)).await)
    }
}

fn encode(verb: Verb, argument: &str, body: &[u8], frames: &mut Vec<u8>) -> Result<(), SourceError> {
    frame::encode(verb, argument, body, frames).map_err(|error| SourceError::new("cannot write to the bus", error))
}

fn written(result: Result<std::io::Result<()>, tokio::time::error::Elapsed>) -> Result<(), SourceError> {
    match result {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(SourceError::new("cannot write to the bus", error)),
        Err(_) => Err(SourceError(format!("the bus has not read for {} s", WRITE_TIMEOUT.as_secs()))),
    }
}

/// The patterns to subscribe to: the given ones, and what the worker itself listens to.
fn subscriptions<'a>(wanted: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    let mut patterns: BTreeSet<String> = wanted.take(MAX_SUBSCRIPTIONS + 1).map(str::to_owned).collect();
    if patterns.len() > MAX_SUBSCRIPTIONS {
        patterns = BTreeSet::from([EVERYTHING.to_owned()]);
    }
    patterns.extend([CONTROL_TOPIC, CHANGED_TOPIC].map(str::to_owned));
    patterns
}

/// The body of a message about the worker's health. The panel shows what it does not know under `extra`.
fn health(engine: &Engine, status: &Status, now: UnixMicros) -> String {
    let (figures, traffic) = (engine.figures(), status.traffic());
    let payload = json!({
        "worker": WORKER,
        "ts": now.since(UnixMicros(0)).as_secs_f64(),
        "program": concat!("postrider/", env!("CARGO_PKG_VERSION")),
        "accepted": traffic.accepted,
        "duplicates": traffic.duplicates,
        "rejected": traffic.rejected,
        "lost": traffic.lost,
        "waiting_for_commit": traffic.queued,
        "delivered": figures.deliveries_delivered,
        "dead": figures.deliveries_dead,
        "failed_attempts": figures.attempts_failed,
        "in_flight": figures.in_flight,
        "queued": figures.queued,
        "circuits_open": figures.circuits_open,
    });
    json!({ "type": "health", "payload": payload }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_patterns_become_one() {
        let pattern = |number| format!("a.{number}");
        let names: Vec<String> = (0..=MAX_SUBSCRIPTIONS).map(pattern).collect();
        let few = subscriptions(names[1..].iter().map(String::as_str));
        assert_eq!(few.len(), MAX_SUBSCRIPTIONS + 2);
        let all = subscriptions(names.iter().map(String::as_str));
        assert_eq!(all, [">", CONTROL_TOPIC, CHANGED_TOPIC].map(str::to_owned).into());
    }
}
