//! Subjects of the core protocol. The server sends each message once and waits for nobody, so reading never waits for the
//! disk: what was read waits in a [`Queue`], which counts what it loses.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::Subscriber;
use async_trait::async_trait;
use futures_util::stream::SelectAll;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::task::unconstrained;

use super::connection::Connection;
use super::{CoreSettings, message};
use crate::clock::UnixMicros;
use crate::event::Event;
use crate::log_rate::LogRate;
use crate::sources::door::Door;
use crate::sources::queue::Queue;
use crate::sources::{Message, Source, SourceError, State, Stop};

/// The time in which what was read must be accepted when a run ends.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
/// A server that refuses a subscription says so within this time. It never says that it takes one.
const SETTLED_AFTER: Duration = Duration::from_millis(200);
/// Between looks at how many messages the client dropped, while it does.
const COUNT_EVERY: Duration = Duration::from_millis(250);
/// The time for messages that are under way when the source stops.
const LAST_MESSAGES: Duration = Duration::from_secs(1);

/// The source. Its queue outlives connections.
pub(in crate::sources) struct Core {
    settings: CoreSettings,
    queue: Queue,
    losses: LogRate,
}

/// The messages of one connection.
#[derive(Debug, Default)]
struct Counts {
    taken: u64,
    /// Those that the client told of as dropped.
    told: u64,
    /// Those that were counted as lost.
    lost: u64,
}

#[async_trait]
impl Source for Core {
    fn event(&self, message: &Message, now: UnixMicros) -> Result<Event, String> {
        self.settings.mapped.event(message, now)
    }

    async fn run(&self, door: &Door, stop: &mut Stop) -> Result<(), SourceError> {
        let result = tokio::select! {
            result = self.queue.accept(door) => return result,
            result = self.read(door, stop) => result,
        };
        self.queue.drain(door, DRAIN_TIMEOUT).await;
        result
    }
}

impl Core {
    pub(in crate::sources) fn new(settings: CoreSettings) -> Self {
        Self { settings, queue: Queue::default(), losses: LogRate::default() }
    }

    /// Reads until the source is stopped or something goes wrong.
    async fn read(&self, door: &Door, stop: &mut Stop) -> Result<(), SourceError> {
        let connection = Connection::open(&self.settings.connection, door.status().name()).await?;
        let mut messages = self.subscribe(&connection).await?;
        connection.flush().await;
        tracing::info!(source = door.status().name(), subjects = ?self.settings.subjects, "reads from NATS");
        let (mut counts, mut is_settled) = (Counts::default(), false);
        let mut settled = std::pin::pin!(tokio::time::sleep(SETTLED_AFTER));
        let mut count = tokio::time::interval(COUNT_EVERY);
        let result = loop {
            tokio::select! {
                next = messages.next() => match next {
                    Some(next) => {
                        if !is_settled {
                            is_settled = true;
                            door.runs();
                        }
                        counts.taken += 1;
                        self.take(message(next, None), door);
                    }
                    None => break Err(connection.failed().await),
                },
                told = connection.lost_more_than(counts.told) => {
                    counts.told = told;
                    self.lose(told, &mut counts, door);
                }
                _ = count.tick(), if counts.told > 0 => self.count(&connection, &mut messages, &mut counts, door),
                error = connection.failed() => break Err(error),
                () = &mut settled, if !is_settled => {
                    is_settled = true;
                    if !matches!(door.status().state().0, State::Waiting { .. }) {
                        door.runs();
                    }
                }
                () = stop.stopped() => break Ok(()),
            }
        };
        if counts.told > 0 {
            self.count(&connection, &mut messages, &mut counts, door);
        }
        // How many there are is not known: the server keeps none.
        result.map_err(|SourceError(reason)| SourceError(format!("{reason}; messages of the meantime are lost")))?;
        // No more is sent to this subscription; what is on its way is taken.
        if connection.client.drain().await.is_ok() {
            let last = async {
                while let Some(next) = messages.next().await {
                    self.take(message(next, None), door);
                }
            };
            let _ = tokio::time::timeout(LAST_MESSAGES, last).await;
        }
        Ok(())
    }

    async fn subscribe(&self, connection: &Connection) -> Result<SelectAll<Subscriber>, SourceError> {
        let mut all = SelectAll::new();
        for subject in &self.settings.subjects {
            let subscribed = match &self.settings.queue_group {
                Some(group) => connection.client.queue_subscribe(subject.clone(), group.clone()).await,
                None => connection.client.subscribe(subject.clone()).await,
            };
            all.push(subscribed.map_err(|error| SourceError::new(&format!("cannot subscribe to {subject}"), error))?);
        }
        Ok(all)
    }

    /// Counts what the client dropped, since it tells of a part of it alone: what came and was not taken, once nothing is
    /// left to be taken.
    fn count(&self, connection: &Connection, messages: &mut SelectAll<Subscriber>, counts: &mut Counts, door: &Door) {
        let came = connection.came();
        while counts.taken < came {
            // Its turn would otherwise end before the messages do.
            let Some(Some(next)) = unconstrained(messages.next()).now_or_never() else { break };
            counts.taken += 1;
            self.take(message(next, None), door);
        }
        if connection.came() == came {
            self.lose(came.saturating_sub(counts.taken), counts, door);
        }
    }

    fn take(&self, message: Message, door: &Door) {
        let lost = self.queue.push(message, door.status());
        self.report(lost, door);
    }

    /// Notes that so many messages of the connection were lost before they came into the queue.
    fn lose(&self, lost: u64, counts: &mut Counts, door: &Door) {
        let more = lost.saturating_sub(counts.lost);
        counts.lost += more;
        door.status().lost.fetch_add(more, Ordering::Relaxed);
        self.report(more, door);
    }

    fn report(&self, lost: u64, door: &Door) {
        if lost > 0
            && let Some(left_out) = self.losses.admit(std::time::Instant::now())
        {
            tracing::warn!(source = door.status().name(), lost, left_out, "messages were lost: the queue is full");
        }
    }
}
