//! DECNET's bus as a source: the part of `decnet webhook`. It subscribes to what the tenant's webhooks want, says how it
//! is, and obeys the panel that stops it. Unlike the original it connects again, for ever.
//!
//! The bus does not wait for slow readers: it drops their oldest frames, and nobody learns of it. So reading never waits
//! for the disk. What was read waits in a [`Queue`], which counts what it loses.

mod connection;

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::Deserialize;

use self::connection::{Connection, follow};
use super::door::Door;
use super::queue::Queue;
use super::secret::Surroundings;
use super::{Message, Source, SourceError, Stop};
use crate::bus::socket;
use crate::clock::UnixMicros;
use crate::event::{Event, EventParts, json_members, text_of};
use crate::log_rate::LogRate;
use crate::topic::Topic;
use crate::webhook::TenantSeq;

/// The name of the kind, in the settings file.
pub(super) const KIND: &str = "decnet-bus";
/// The attribute with the topic of the header line. The body has one too, which does not count.
const TOPIC: &str = "topic";
/// The topic on which the worker `webhook` is asked to stop.
const CONTROL_TOPIC: &str = "system.webhook.control";
/// The first pause between two connections. It doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause. It is short, since the events of the pause are lost, and a look at a socket costs little.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// The time in which what was read must be accepted when the source stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(4);

/// The settings of this kind.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BusSettings {
    /// `None`: it is found where DECNET has it.
    socket: Option<PathBuf>,
    #[serde(default)]
    stop: OnStop,
    /// The variable `DECNET_BUS_SOCKET`.
    #[serde(skip)]
    named: Option<PathBuf>,
    #[serde(skip)]
    home: Option<PathBuf>,
}

/// What follows a message on [`CONTROL_TOPIC`] that asks the worker to stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OnStop {
    /// The server stops, as DECNET's worker does.
    #[default]
    Server,
    Ignore,
}

impl BusSettings {
    pub(super) fn within(self, surroundings: &Surroundings) -> Self {
        let path = |name: &str| surroundings.variable(name).map(PathBuf::from);
        Self { named: path("DECNET_BUS_SOCKET"), home: path("HOME"), ..self }
    }

    /// The present place of the socket.
    fn socket(&self) -> PathBuf {
        socket::find(self.socket.as_deref(), self.named.as_deref().map(Path::as_os_str), self.home.as_deref())
    }
}

/// The source. Its queue outlives connections.
pub(super) struct DecnetBus {
    settings: BusSettings,
    queue: Queue,
    losses: LogRate,
}

#[async_trait]
impl Source for DecnetBus {
    fn event(&self, message: &Message, now: UnixMicros) -> Result<Event, String> {
        event(message, now)
    }

    async fn run(&self, door: &Door, stop: &mut Stop) -> Result<(), SourceError> {
        let tenant = door.tenant()?;
        tokio::select! {
            result = self.queue.accept(door) => result?,
            () = self.follow_until_stopped(door, tenant, stop) => {}
        }
        self.queue.drain(door, DRAIN_TIMEOUT).await;
        Ok(())
    }
}

impl DecnetBus {
    pub(super) fn new(settings: BusSettings) -> Self {
        Self { settings, queue: Queue::default(), losses: LogRate::default() }
    }

    /// Reads from one connection after the other until the source is stopped.
    async fn follow_until_stopped(&self, door: &Door, tenant: TenantSeq, stop: &mut Stop) {
        let mut pause = FIRST_PAUSE;
        while !stop.is_stopped() {
            let path = self.settings.socket();
            let result = match Connection::open(&path, door, tenant).await {
                Ok(connection) => {
                    pause = FIRST_PAUSE;
                    door.runs();
                    tracing::info!(source = door.status().name(), socket = %path.display(), "connected to the bus");
                    follow(connection, |topic, body| self.take(topic, body, door, tenant), stop).await
                }
                Err(error) => Err(error),
            };
            if let Err(SourceError(reason)) = result {
                door.failed(&reason, pause);
                stop.sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    /// Takes an event of the bus in, unless no webhook wants it. Never waits.
    fn take(&self, topic: &str, body: Bytes, door: &Door, tenant: TenantSeq) {
        if topic == CONTROL_TOPIC && asks_to_stop(&body) {
            tracing::info!(source = door.status().name(), stop = ?self.settings.stop, "the bus asks the worker to stop");
            if self.settings.stop == OnStop::Server {
                door.end_server();
            }
        }
        // What a webhook may want and no webhook can get is set aside, with the reason.
        let is_unwanted = |topic: Topic| !topic.is_operational() && !door.engine().is_wanted(tenant, &topic);
        if Topic::parse(topic).is_ok_and(is_unwanted) {
            return;
        }
        let attributes = vec![(TOPIC.to_owned(), topic.to_owned())];
        let lost = self.queue.push(Message { origin_id: None, attributes, body }, door.status());
        if lost > 0
            && let Some(left_out) = self.losses.admit(std::time::Instant::now())
        {
            tracing::warn!(
                source = door.status().name(),
                lost,
                left_out,
                "events of the bus were lost: the queue is full"
            );
        }
    }
}

/// Whether the body of a control message asks for an end. Others are of no concern.
fn asks_to_stop(body: &[u8]) -> bool {
    let member = |json: &[u8], name: &str| {
        json_members(json).ok()?.into_iter().find_map(|(key, value)| (&*key == name).then_some(value))
    };
    let action = member(body, "payload").and_then(|payload| member(payload.as_bytes(), "action"));
    action.is_some_and(|action| &*action == "\"stop\"")
}

/// The event that a frame `EVT` carries. The bus's client takes more than this program does: what is not text becomes its
/// JSON text, as a type `5`.
fn event(message: &Message, now: UnixMicros) -> Result<Event, String> {
    let topic =
        Topic::parse(message.attribute(TOPIC).unwrap_or_default()).map_err(|error| format!("topic: {error}"))?;
    let body: &[u8] = if message.body.is_empty() { b"{}" } else { &message.body };
    let members = json_members(body).map_err(|error| error.to_string())?;
    let member = |name: &str| {
        let found = members.iter().find(|(key, _)| &**key == name).map(|(_, value)| &**value);
        found.filter(|value| *value != "null")
    };
    let kind = member("type").map(text_of).unwrap_or_default();
    let own = member("id").map(text_of).filter(|id| !id.is_empty());
    let id = own.as_deref().or(message.origin_id.as_deref());
    // A null of `ts` is no moment.
    let given = members.iter().find(|(key, _)| &**key == "ts").map(|(_, value)| seconds(value)).transpose()?;
    let payload = member("payload").unwrap_or("{}").as_bytes();
    let parts = EventParts { id, topic, kind: &kind, ts: given.as_deref(), payload };
    Event::from_parts(parts, now).map_err(|error| error.to_string())
}

/// Seconds since 1970 as the bus's client reads them: a number, a text that is one, or a boolean.
fn seconds(json: &str) -> Result<String, String> {
    let text = text_of(json);
    match text.trim() {
        "true" => Ok("1".to_owned()),
        "false" => Ok("0".to_owned()),
        number if number.parse::<f64>().is_ok() => Ok(number.to_owned()),
        _ => Err("ts: is no number".to_owned()),
    }
}

/// Whether both names lead to the same socket.
fn is_same_file(one: &Path, other: (u64, u64)) -> bool {
    identity(one) == Some(other)
}

/// Device and inode.
fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    path.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests;
