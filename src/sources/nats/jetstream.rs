//! A stream of JetStream, read by a durable pull consumer. Its messages are acknowledged after their commit.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, FromConsumer as _, PullConsumer, pull};
use async_nats::jetstream::stream::ConsumerErrorKind;
use async_nats::jetstream::{self, AckKind, Context, ErrorCode, Message as Received};
use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::time::{Instant, interval_at};

use super::connection::{ANSWER_TIMEOUT, Connection};
use super::pull::Pull;
use super::rescue::Rescue;
use super::{JetstreamSettings, Place, message};
use crate::clock::UnixMicros;
use crate::event::Event;
use crate::sources::door::{Door, MAX_TOGETHER};
use crate::sources::{Message, Source, SourceError, Stop, Taken, UNREADABLE};

/// Of a consumer that is made here: the time after which a message that is neither acknowledged nor said to be in
/// progress comes again, as after a crash.
const ACK_WAIT: Duration = Duration::from_secs(15);
/// Of the same: the most messages that are given out and not acknowledged, of all nodes together.
const MAX_ACK_PENDING: usize = 8 * MAX_TOGETHER;
/// The part of the time above after which a message is said to be in progress.
const PROGRESS_PART: u32 = 3;
/// The shortest interval of that.
const LEAST_PROGRESS: Duration = Duration::from_millis(100);

/// The source.
pub(in crate::sources) struct Jetstream {
    settings: JetstreamSettings,
    /// How the connection ended, if it may have been over a message that the client cannot read.
    ended: Mutex<Option<SourceError>>,
}

#[async_trait]
impl Source for Jetstream {
    fn event(&self, message: &Message, now: UnixMicros) -> Result<Event, String> {
        self.settings.mapped.event(message, now)
    }

    async fn run(&self, door: &Door, stop: &mut Stop) -> Result<(), SourceError> {
        loop {
            let connection = Connection::open(&self.settings.connection, door.status().name()).await?;
            let reads = AtomicBool::new(false);
            let result = tokio::select! {
                // The server's own words come first: a refused request is otherwise one without an answer.
                biased;
                error = connection.failed() => Err(error),
                result = self.read(&connection, door, stop, &reads) => result,
            };
            match result {
                Ok(()) => {
                    connection.flush().await;
                    return Ok(());
                }
                Err(error) if connection.has_ended().await => {
                    // What was given out is looked at on the next connection, which comes at once if this one was good.
                    *self.ended.lock() = Some(error.clone());
                    if !reads.into_inner() || stop.is_stopped() {
                        return Err(error);
                    }
                }
                Err(error) => {
                    connection.flush().await;
                    return Err(error);
                }
            }
        }
    }
}

impl Jetstream {
    pub(in crate::sources) fn new(settings: JetstreamSettings) -> Self {
        Self { settings, ended: Mutex::new(None) }
    }

    /// Reads until the source is stopped or something goes wrong. `reads`: whether it came to that.
    async fn read(
        &self,
        connection: &Connection,
        door: &Door,
        stop: &mut Stop,
        reads: &AtomicBool,
    ) -> Result<(), SourceError> {
        let mut context = jetstream::new(connection.client.clone());
        context.set_timeout(ANSWER_TIMEOUT);
        let consumer = self.consumer(&context, door).await?;
        let progress_every = progress_every(&consumer.cached_info().config);
        // Once: without the right to read the stream the source goes on as well as it can.
        let ended = self.ended.lock().take();
        if let Some(ended) = ended
            && !self.rescue(&context, &consumer, door, stop, progress_every).await?
            && !stop.is_stopped()
        {
            return Err(ended);
        }
        let mut pull = Pull::new(&connection.client, context, consumer).await?;
        reads.store(true, Ordering::Relaxed);
        loop {
            let received = tokio::select! {
                received = read_next(&mut pull, door) => received?,
                () = stop.stopped() => return Ok(()),
            };
            if !received.is_empty() {
                let messages: Vec<Message> =
                    received.iter().map(|received| read(received, door.status().name())).collect();
                accept(door, &messages, &received, progress_every).await?;
            }
        }
    }

    /// Accepts what the consumer has given out and nobody has acknowledged. Returns whether there was something that the
    /// client cannot read.
    async fn rescue(
        &self,
        context: &Context,
        consumer: &PullConsumer,
        door: &Door,
        stop: &mut Stop,
        progress_every: Duration,
    ) -> Result<bool, SourceError> {
        let config = pull::Config::try_from_consumer_config(consumer.cached_info().config.clone())
            .map_err(|error| SourceError::new("cannot use the consumer", error))?;
        let (source, filters) = (door.status().name(), filters(&config));
        let rescue = Rescue { context, consumer, source, stream: &self.settings.stream, filters: &filters };
        let (mut next, mut unreadable) = (0, 0_usize);
        loop {
            let found = tokio::select! {
                found = rescue.next(next) => found?,
                () = stop.stopped() => break,
            };
            let (messages, received): (Vec<Message>, Vec<Received>) = found.0.into_iter().unzip();
            if messages.is_empty() && found.1 == next {
                break;
            }
            next = found.1;
            unreadable += messages.iter().filter(|message| message.attribute(UNREADABLE).is_some()).count();
            accept(door, &messages, &received, progress_every).await?;
        }
        if unreadable > 0 {
            tracing::debug!(
                source = door.status().name(),
                unreadable,
                "the connection ended over what the client cannot read"
            );
        }
        Ok(unreadable > 0)
    }

    /// The consumer, which is made if it is not there.
    async fn consumer(&self, context: &Context, door: &Door) -> Result<PullConsumer, SourceError> {
        let JetstreamSettings { stream, consumer: name, filter_subjects, .. } = &self.settings;
        let wrong = |error: &dyn std::fmt::Display| {
            SourceError::new(&format!("cannot use the consumer {name} of the stream {stream}"), error)
        };
        let (consumer, is_new) = match context.get_consumer_from_stream::<pull::Config, _, _>(name, stream).await {
            Ok(consumer) => (consumer, false),
            Err(error) if is_missing(&error.kind()) => {
                let made = context.create_consumer_on_stream(self.new_consumer(), stream).await;
                (made.map_err(|error| wrong(&error))?, true)
            }
            Err(error) => return Err(wrong(&error)),
        };
        let config = pull::Config::try_from_consumer_config(consumer.cached_info().config.clone())
            .map_err(|error| wrong(&error))?;
        if config.ack_policy != AckPolicy::Explicit {
            return Err(wrong(&"its ack policy must be explicit"));
        }
        let filters = filters(&config);
        if !filter_subjects.is_empty() && sorted(filter_subjects) != sorted(&filters) {
            let reason = if is_new {
                // A server before 2.10 passes over what it does not know.
                "the server knows no more than one filter subject".to_owned()
            } else {
                format!("it exists, with the filter subjects {filters:?}")
            };
            return Err(wrong(&reason));
        }
        if config.max_deliver > 0 {
            let (source, max_deliver) = (door.status().name(), config.max_deliver);
            tracing::warn!(
                source,
                max_deliver,
                "the consumer gives messages up after some deliveries: they are lost then"
            );
        }
        tracing::info!(source = door.status().name(), stream, consumer = name, is_new, "reads from NATS");
        Ok(consumer)
    }

    fn new_consumer(&self) -> pull::Config {
        let mut filter_subjects = self.settings.filter_subjects.clone();
        // The form for one is known to older servers, too.
        let one = if filter_subjects.len() == 1 { filter_subjects.pop() } else { None };
        pull::Config {
            durable_name: Some(self.settings.consumer.clone()),
            description: Some("Postrider".to_owned()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_ack_pending: i64::try_from(MAX_ACK_PENDING).unwrap_or(i64::MAX),
            filter_subject: one.unwrap_or_default(),
            filter_subjects,
            ..pull::Config::default()
        }
    }
}

/// What is there, else what comes next. May be nothing.
async fn read_next(pull: &mut Pull, door: &Door) -> Result<Vec<Received>, SourceError> {
    let there = pull.there().await?;
    door.runs();
    if there.is_empty() { pull.next().await } else { Ok(there) }
}

fn is_missing(error: &ConsumerErrorKind) -> bool {
    matches!(error, ConsumerErrorKind::JetStream(error) if error.error_code() == ErrorCode::CONSUMER_NOT_FOUND)
}

fn filters(config: &pull::Config) -> Vec<String> {
    let one = Some(config.filter_subject.clone()).filter(|subject| !subject.is_empty());
    one.into_iter().chain(config.filter_subjects.iter().cloned()).collect()
}

fn sorted(subjects: &[String]) -> Vec<&String> {
    let mut subjects: Vec<_> = subjects.iter().collect();
    subjects.sort_unstable();
    subjects.dedup();
    subjects
}

/// How often messages that wait for their commit are said to be in progress.
fn progress_every(config: &jetstream::consumer::Config) -> Duration {
    let ack_wait = config.backoff.iter().copied().chain([config.ack_wait]).min().unwrap_or(ACK_WAIT);
    (ack_wait / PROGRESS_PART).max(LEAST_PROGRESS)
}

/// Accepts messages, and acknowledges them.
async fn accept(
    door: &Door,
    messages: &[Message],
    received: &[Received],
    progress_every: Duration,
) -> Result<(), SourceError> {
    let mut accepted = std::pin::pin!(door.accept(messages));
    let mut progress = interval_at(Instant::now() + progress_every, progress_every);
    let accepted = loop {
        tokio::select! {
            accepted = &mut accepted => break accepted,
            _ = progress.tick() => say(received.iter().map(|message| (message, AckKind::Progress))).await?,
        }
    };
    match accepted {
        Ok(taken) => {
            let kind = |taken: Taken| match taken {
                Taken::Accepted | Taken::Duplicate => AckKind::Ack,
                // As an acknowledgement, and the server tells who listens that the message was no good.
                Taken::Rejected => AckKind::Term,
            };
            say(received.iter().zip(taken.into_iter().map(kind))).await
        }
        Err(error) => {
            // Another node may have them at once.
            say(received.iter().map(|message| (message, AckKind::Nak(None)))).await?;
            Err(error)
        }
    }
}

/// An acknowledgement that is lost makes a duplicate.
async fn say(answers: impl Iterator<Item = (&Received, AckKind)>) -> Result<(), SourceError> {
    for (message, kind) in answers {
        message.ack_with(kind).await.map_err(|error| SourceError::new("cannot acknowledge", error))?;
    }
    Ok(())
}

fn read(received: &Received, source: &str) -> Message {
    // A message without a place is none of a stream; it has no id of its own then.
    let place = received.info().ok().map(|info| Place {
        source,
        stream: info.stream.to_owned(),
        sequence: info.stream_sequence,
        stored_at: info.published.unix_timestamp_nanos(),
    });
    message(received.message.clone(), place.as_ref())
}
