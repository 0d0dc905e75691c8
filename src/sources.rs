//! Sources: events from where they arise, without a publisher that posts them.
//!
//! Each source is a file in this folder. The rules are the same for all:
//!
//! - A message is acknowledged to its origin after the commit. The origin's id is the event's id, so that a message that
//!   comes again is a duplicate.
//! - A source goes on after a restart of either side, for ever, with pauses that grow.
//! - It takes no more than fits, and slows its origin down. Where the origin does not wait, it counts what it loses.
//! - A message that can never be an event is set aside with its bytes and the reason, and blocks nothing.
//! - A source that fails says so and disturbs no other one.

pub mod decnet_bus;
#[cfg(any(feature = "rabbitmq", feature = "redis"))]
mod dial;
mod door;
#[cfg(any(feature = "nats", feature = "rabbitmq", feature = "redis"))]
mod mapped;
#[cfg(feature = "nats")]
mod nats;
pub mod postgres_outbox;
mod queue;
#[cfg(feature = "rabbitmq")]
mod rabbitmq;
#[cfg(feature = "redis")]
mod redis_streams;
mod secret;
pub mod settings;
mod status;
mod supervisor;
#[cfg(any(feature = "nats", feature = "rabbitmq", feature = "redis"))]
mod tls;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;

pub(crate) use self::door::DISCARD;
use self::door::Door;
pub use self::door::{Again, RetryError};
pub use self::settings::SourceSettings;
pub use self::status::{State, Status, Traffic};
use self::supervisor::supervise;
use crate::clock::UnixMicros;
use crate::engine::Engine;
use crate::event::{Event, fit_id};
use crate::fair::Turns;
use crate::store::{Act, Shard};

/// The attribute of a message that cannot be read as it came. Its value is the reason, and the message can never be an event.
#[cfg(any(feature = "nats", feature = "rabbitmq"))]
const UNREADABLE: &str = "unreadable";

/// The most threads that parse messages of sources at once, in turns by tenant.
const MAX_SOURCE_PARSINGS: usize = 1;

/// What a source brings: one message of its origin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The id that the origin gave the message; `None`: the origin gives none, or it is in the body.
    pub origin_id: Option<String>,
    /// What came beside the body, by name.
    pub attributes: Vec<(String, String)>,
    pub body: Bytes,
}

/// The id of a message by its place in the origin. Another source may have the same place, in another server or another
/// stream of that name; names of sources have no colon.
fn id_by_place(source: &str, place: impl std::fmt::Display) -> String {
    fit_id(format!("{source}:{place}"))
}

impl Message {
    /// The attribute of a name.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }
}

/// What became of a message. In each case it may be acknowledged to its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    Accepted,
    Duplicate,
    /// It can never be an event. It was set aside.
    Rejected,
}

/// The reason why a source cannot go on, in words for people. It is started again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct SourceError(pub(crate) String);

impl SourceError {
    /// `action`, and what happened then.
    pub(crate) fn new(action: &str, error: impl std::fmt::Display) -> Self {
        Self(format!("{action}: {error}"))
    }
}

/// Brings events in from somewhere.
#[async_trait]
trait Source: Send + Sync + 'static {
    /// The event that a message is, or the reason why it can never be one.
    fn event(&self, message: &Message, now: UnixMicros) -> Result<Event, String>;

    /// Runs until `stop` is ready or something fails. The future may be dropped at any time: what was not acknowledged
    /// comes again, from the origin or from what the source keeps.
    async fn run(&self, door: &Door, stop: &mut Stop) -> Result<(), SourceError>;
}

/// Becomes ready when a source is to stop.
#[derive(Clone, Debug)]
pub(crate) struct Stop(watch::Receiver<bool>);

impl Stop {
    pub(crate) async fn stopped(&mut self) {
        // A sender that is gone wants the same.
        let _ = self.0.wait_for(|is_stopped| *is_stopped).await;
    }

    /// Waits, or until it is ready.
    async fn sleep(&mut self, pause: Duration) {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.stopped() => {}
        }
    }

    fn is_stopped(&self) -> bool {
        *self.0.borrow()
    }
}

/// The sources of a server, which run until [`Sources::stop`].
pub struct Sources {
    doors: Vec<Arc<Door>>,
    stop: watch::Sender<bool>,
    /// Set by a source whose origin asks the server to stop.
    end: watch::Sender<bool>,
    tasks: parking_lot::Mutex<Vec<JoinHandle<()>>>,
}

impl Sources {
    /// Starts the sources. Their names are different.
    #[must_use]
    pub fn start(engine: &Arc<Engine>, settings: Vec<SourceSettings>) -> Arc<Self> {
        let (stop, stopped) = watch::channel(false);
        let end = watch::Sender::new(false);
        let mut doors = Vec::with_capacity(settings.len());
        let mut tasks = Vec::with_capacity(settings.len());
        let parsing = Turns::new(MAX_SOURCE_PARSINGS);
        for settings in settings {
            let shard = settings.runs_on_one_node().then(|| Shard::of_name(&settings.name));
            let status =
                Status::new(settings.name.clone(), settings.kind_name(), settings.tenant.clone(), engine.now());
            let door = Door::new(
                Arc::clone(engine),
                settings.source(),
                status,
                Stop(stopped.clone()),
                end.clone(),
                parsing.clone(),
            );
            doors.push(Arc::clone(&door));
            tasks.push(tokio::spawn(supervise(door, shard, Stop(stopped.clone()))));
        }
        Arc::new(Self { doors, stop, end, tasks: parking_lot::Mutex::new(tasks) })
    }

    /// In the order of the configuration.
    pub fn statuses(&self) -> impl Iterator<Item = &Status> {
        self.doors.iter().map(|door| door.status())
    }

    pub fn status(&self, name: &str) -> Option<&Status> {
        self.statuses().find(|status| status.name() == name)
    }

    /// Tries to accept a rejected message again, as the source is configured now. What is accepted is rejected no longer.
    pub async fn retry(&self, act: Act, name: &str, message: Uuid) -> Result<Again, RetryError> {
        let door = self.doors.iter().find(|door| door.status().name() == name).ok_or(RetryError::NotConfigured)?;
        door.retry(act, message).await
    }

    /// Ready when a source's origin has asked the server to stop.
    pub async fn end(&self) {
        let mut end = self.end.subscribe();
        // The sender is this value's own.
        let _ = end.wait_for(|is_end| *is_end).await;
    }

    /// Stops taking messages.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits until all sources have stopped. Each has a time for that.
    pub async fn stopped(&self) {
        self.stop();
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            // A supervisor that failed has stopped.
            let _ = task.await;
        }
    }
}
