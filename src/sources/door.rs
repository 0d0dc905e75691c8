//! The door that messages of a source come in by: it makes events of them, accepts them, and sets aside what can never be
//! one. It returns after the commit.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use super::{Message, Source, SourceError, State, Status, Stop, Taken};
use crate::clock::UnixMicros;
use crate::engine::Engine;
use crate::event::Event;
use crate::fair::Turns;
use crate::ingest::{PublishError, Receipt};
use crate::log_rate::LogRate;
use crate::store::rejected::{
    MAX_REJECTED_ATTRIBUTE_BYTES, MAX_REJECTED_BYTES, MAX_REJECTED_TEXT_CHARS, NewRejected, Rejected,
};
use crate::store::{Act, StoreError};
use crate::webhook::TenantSeq;

/// The most messages of a source that are accepted in one transaction.
pub(super) const MAX_TOGETHER: usize = 256;
/// The most bytes of these, unless one alone has more.
pub(super) const MAX_BYTES_TOGETHER: usize = 4 << 20;
/// Messages with so many bytes together are parsed on a blocking thread.
const LARGE_BYTES: usize = 64 * 1024;
/// The attribute of a rejected message that has the number of those that were not kept.
const LEFT_OUT: &str = "left_out";
/// The pause before the first repetition of what cannot be accepted now. It doubles with each further one.
const FIRST_WAIT: Duration = Duration::from_millis(50);
/// The longest such pause.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// The action of a message that was sent again, in the audit log.
const RETRY: &str = "source.retry";
/// The action of a message that was discarded.
pub(crate) const DISCARD: &str = "source.discard";

/// The door of one source.
pub(crate) struct Door {
    engine: Arc<Engine>,
    source: Arc<dyn Source>,
    status: Status,
    stop: Stop,
    end: watch::Sender<bool>,
    parsing: Turns<TenantSeq>,
    /// The lines about failures, and about rejected messages.
    failures: LogRate,
    rejections: LogRate,
}

/// The answer to a rejected message that was sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Again {
    Accepted(Receipt),
    /// It can still be no event, for this reason. It stays where it is.
    Rejected(String),
}

/// The reason why a rejected message was not sent again. It stays where it is.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RetryError {
    #[error("no source of this name is configured, so that nobody knows how to read the message")]
    NotConfigured,
    #[error("only the first {MAX_REJECTED_BYTES} of its {length} bytes were kept")]
    Cut { length: u64 },
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What follows a refusal by the engine.
enum Refusal {
    /// This event can never be accepted.
    Event {
        index: usize,
        reason: String,
    },
    /// Fewer events at once may be accepted.
    TooMany,
    /// All of them may be accepted later.
    NotNow {
        reason: String,
        after: Option<Duration>,
    },
    Gone,
}

impl Refusal {
    fn of(error: &PublishError, events: usize) -> Self {
        let text = error.to_string();
        match error {
            PublishError::ReservedTopic { index }
            | PublishError::UnknownWebhook { index, .. }
            | PublishError::Store(StoreError::IdTaken { index }) => Self::Event { index: *index, reason: text },
            PublishError::TooManyDeliveries { .. } if events > 1 => Self::TooMany,
            PublishError::Quota(error) => match error.retry_after() {
                Some(after) => Self::NotNow { reason: text, after: Some(after) },
                None if events > 1 => Self::TooMany,
                // Alone it takes more than the tenant may have in all.
                None => Self::Event { index: 0, reason: text },
            },
            PublishError::Store(StoreError::NotFound) => Self::Gone,
            _ => Self::NotNow { reason: text, after: None },
        }
    }
}

impl Door {
    pub(super) fn new(
        engine: Arc<Engine>,
        source: Arc<dyn Source>,
        status: Status,
        stop: Stop,
        end: watch::Sender<bool>,
        parsing: Turns<TenantSeq>,
    ) -> Arc<Self> {
        let (failures, rejections) = (LogRate::default(), LogRate::default());
        Arc::new(Self { engine, source, status, stop, end, parsing, failures, rejections })
    }

    pub(super) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    pub(super) fn source(&self) -> &Arc<dyn Source> {
        &self.source
    }

    pub(super) fn status(&self) -> &Status {
        &self.status
    }

    pub(super) fn set(&self, state: State) {
        self.status.set(state, self.engine.now());
    }

    /// The source has reached its origin.
    pub(super) fn runs(&self) {
        if self.status.state().0 != State::Running {
            self.set(State::Running);
        }
    }

    pub(super) fn failed(&self, reason: &str, retry_in: Duration) {
        if let Some(left_out) = self.failures.admit(std::time::Instant::now()) {
            tracing::warn!(source = self.status.name(), reason, ?retry_in, left_out, "the source failed");
        }
        self.set(State::Failing { reason: reason.to_owned(), retry_in });
    }

    /// The tenant that owns the events.
    pub(super) fn tenant(&self) -> Result<TenantSeq, SourceError> {
        let tenant = self.engine.tenants().find(self.status.tenant());
        let missing = || SourceError(format!("there is no tenant `{}`", self.status.tenant()));
        tenant.map(|tenant| tenant.seq).ok_or_else(missing)
    }

    /// Asks the server to stop.
    pub(super) fn end_server(&self) {
        self.end.send_replace(true);
    }

    /// Accepts messages, in their order, and returns after the commit what became of each. What can never be an event is
    /// set aside. Waits for as long as the store or a quota is full.
    pub(super) async fn accept(&self, messages: &[Message]) -> Result<Vec<Taken>, SourceError> {
        let tenant = self.tenant()?;
        let now = self.engine.now();
        let mut taken = vec![Taken::Rejected; messages.len()];
        let mut rejected = Vec::new();
        let mut events = Vec::with_capacity(messages.len());
        for (place, event) in self.events(tenant, messages, now).await?.into_iter().enumerate() {
            match event {
                Ok(event) => events.push((place, event)),
                Err(reason) => rejected.push((place, reason)),
            }
        }
        let mut together = MAX_TOGETHER;
        while !events.is_empty() {
            let count = portion(&events, together);
            let portion = events[..count].iter().map(|(_, event)| event.clone()).collect();
            match self.engine.publish(tenant, portion).await {
                Ok(receipts) => {
                    self.count(&receipts);
                    for ((place, _), receipt) in events.drain(..count).zip(receipts) {
                        taken[place] = if receipt.duplicate { Taken::Duplicate } else { Taken::Accepted };
                    }
                    together = MAX_TOGETHER;
                }
                Err(error) => match Refusal::of(&error, count) {
                    Refusal::Event { index, reason } => {
                        let (place, _) = events.remove(index);
                        rejected.push((place, reason));
                    }
                    Refusal::TooMany => together = count.div_ceil(2),
                    Refusal::NotNow { reason, after } => self.wait(reason, after).await?,
                    Refusal::Gone => return Err(SourceError("the tenant was deleted".to_owned())),
                },
            }
        }
        self.set_aside(tenant, messages, rejected, now).await?;
        if matches!(self.status.state().0, State::Waiting { .. }) {
            self.set(State::Running);
        }
        Ok(taken)
    }

    /// The events that messages are. Much is parsed in the tenant's turn, on a blocking thread.
    async fn events(
        &self,
        tenant: TenantSeq,
        messages: &[Message],
        now: UnixMicros,
    ) -> Result<Vec<Result<Event, String>>, SourceError> {
        if messages.iter().map(|message| message.body.len()).sum::<usize>() < LARGE_BYTES {
            return Ok(messages.iter().map(|message| self.source.event(message, now)).collect());
        }
        let (source, messages) = (Arc::clone(&self.source), messages.to_vec());
        let parse = move || messages.iter().map(|message| source.event(message, now)).collect();
        let parsed = self.parsing.compute(tenant, parse).await;
        parsed.ok_or_else(|| SourceError("the parsing of messages broke off: this is an error of Postrider".to_owned()))
    }

    /// Keeps what can never be an event.
    async fn set_aside(
        &self,
        tenant: TenantSeq,
        messages: &[Message],
        rejected: Vec<(usize, String)>,
        now: UnixMicros,
    ) -> Result<(), SourceError> {
        if rejected.is_empty() {
            return Ok(());
        }
        let count = rejected.len() as u64;
        let keep =
            |(place, reason): (usize, String)| rejection(self.status.name(), tenant, &messages[place], &reason, now);
        let kept: Vec<NewRejected> = rejected.into_iter().map(keep).collect();
        let reason = kept[0].reason.clone();
        loop {
            match self.engine.store().add_rejected(kept.clone()).await {
                Ok(0) => break,
                Ok(pushed_out) => {
                    tracing::warn!(source = self.status.name(), pushed_out, "older rejected messages were let go");
                    break;
                }
                Err(error) => self.wait(error.to_string(), None).await?,
            }
        }
        self.status.rejected.fetch_add(count, Ordering::Relaxed);
        if let Some(left_out) = self.rejections.admit(std::time::Instant::now()) {
            tracing::warn!(source = self.status.name(), count, reason, left_out, "messages were rejected");
        }
        Ok(())
    }

    fn count(&self, receipts: &[Receipt]) {
        let duplicates = receipts.iter().filter(|receipt| receipt.duplicate).count() as u64;
        self.status.duplicates.fetch_add(duplicates, Ordering::Relaxed);
        self.status.accepted.fetch_add(receipts.len() as u64 - duplicates, Ordering::Relaxed);
        let now = self.engine.now();
        self.status.last_accepted_at.store(now.0.unsigned_abs(), Ordering::Relaxed);
    }

    /// Waits before what cannot be accepted now is tried again. Fails if the source is to stop.
    async fn wait(&self, reason: String, after: Option<Duration>) -> Result<(), SourceError> {
        // The pause doubles from one repetition to the next: by then it has lasted as long as it waited so far.
        let (state, since) = self.status.state();
        let waited = match state {
            State::Waiting { .. } => self.engine.now().since(since),
            _ => Duration::ZERO,
        };
        if waited.is_zero() {
            tracing::warn!(source = self.status.name(), reason, "the source holds messages back");
        }
        self.set(State::Waiting { reason });
        let pause = after.unwrap_or(waited).clamp(FIRST_WAIT, LONGEST_WAIT);
        let until = Instant::now() + pause;
        tokio::select! {
            () = tokio::time::sleep_until(until) => Ok(()),
            () = async { self.stop.clone().stopped().await } => {
                Err(SourceError("the server is shutting down".to_owned()))
            }
        }
    }

    pub(super) async fn retry(&self, act: Act, message: Uuid) -> Result<Again, RetryError> {
        let rejected = self.engine.store().rejected(self.status.name(), message).await?;
        let rejected = rejected.ok_or(StoreError::NotFound)?;
        if !rejected.is_whole() {
            return Err(RetryError::Cut { length: rejected.length });
        }
        let now = self.engine.now();
        let (tenant, message) = (rejected.tenant, stored(&rejected)?);
        let events = self.events(tenant, &[message], now).await;
        let events = events.map_err(|SourceError(reason)| StoreError::Unavailable(reason))?;
        let event = match events.into_iter().next() {
            Some(Ok(event)) => event,
            Some(Err(reason)) => return Ok(Again::Rejected(reason)),
            None => return Err(StoreError::NotFound.into()),
        };
        let receipts = match self.engine.publish(tenant, vec![event]).await {
            Ok(receipts) => receipts,
            Err(error) => match Refusal::of(&error, 1) {
                Refusal::Event { reason, .. } => return Ok(Again::Rejected(reason)),
                _ => return Err(error.into()),
            },
        };
        self.count(&receipts);
        let store = self.engine.audited(&Act { tenant, ..act });
        store.delete_rejected(self.status.name(), rejected.uuid, RETRY, now).await?;
        receipts.into_iter().next().map(Again::Accepted).ok_or_else(|| StoreError::NotFound.into())
    }
}

/// How many of the first events are accepted together.
fn portion(events: &[(usize, Event)], most: usize) -> usize {
    let mut bytes = 0;
    let fits = |(_, event): &&(usize, Event)| {
        bytes += event.body().len();
        bytes <= MAX_BYTES_TOGETHER
    };
    events.iter().take(most).take_while(fits).count().max(1)
}

/// The beginning of a text, which a database can hold. What is cut ends in an ellipsis.
fn beginning(text: &str) -> String {
    let mut chars = text.chars();
    let beginning = chars.by_ref().take(MAX_REJECTED_TEXT_CHARS);
    let mut beginning: String = beginning.map(|c| if c == '\0' { '\u{fffd}' } else { c }).collect();
    if chars.next().is_some() {
        beginning.push('…');
    }
    beginning
}

fn rejection(source: &str, tenant: TenantSeq, message: &Message, reason: &str, at: UnixMicros) -> NewRejected {
    NewRejected {
        source: source.to_owned(),
        tenant,
        origin_id: message.origin_id.as_deref().map(beginning),
        attributes: kept_attributes(&message.attributes).to_string(),
        body: message.body.slice(..message.body.len().min(MAX_REJECTED_BYTES)),
        length: message.body.len() as u64,
        reason: beginning(reason),
        at,
    }
}

/// Of the attributes as many as are kept, as they are stored.
fn kept_attributes(attributes: &[(String, String)]) -> serde_json::Value {
    let (mut kept, mut bytes, mut left_out) = (serde_json::Map::new(), 0, 0_usize);
    for (name, value) in attributes {
        let (name, value) = (beginning(name), serde_json::Value::from(beginning(value)));
        // The text has one byte more for each of them, two for the last.
        let size = serde_json::Value::from(&*name).to_string().len() + value.to_string().len() + 2;
        if bytes + size > MAX_REJECTED_ATTRIBUTE_BYTES {
            left_out += 1;
            continue;
        }
        bytes += size;
        kept.insert(name, value);
    }
    if left_out > 0 {
        kept.insert(LEFT_OUT.to_owned(), left_out.to_string().into());
    }
    serde_json::Value::Object(kept)
}

/// A message as it came.
fn stored(rejected: &Rejected) -> Result<Message, StoreError> {
    let attributes: std::collections::BTreeMap<String, String> =
        serde_json::from_str(&rejected.attributes).map_err(|error| StoreError::Corrupt(error.to_string()))?;
    Ok(Message {
        // Without an id of its own it is the same event however often it is sent again.
        origin_id: rejected.origin_id.clone().or_else(|| Some(rejected.uuid.to_string())),
        attributes: attributes.into_iter().collect(),
        body: Bytes::from(rejected.body.clone()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_beside_a_message_is_kept_within_a_bound() {
        let attribute = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let few = [attribute("topic", "a\0b"), attribute("long", &"é".repeat(MAX_REJECTED_TEXT_CHARS + 1))];
        let kept = kept_attributes(&few);
        assert_eq!(kept["topic"], "a\u{fffd}b");
        assert_eq!(kept["long"], format!("{}…", "é".repeat(MAX_REJECTED_TEXT_CHARS)));
        // Names are written by publishers, too, and as JSON a byte of them may be six.
        let name = |number: usize| format!("{number}{}", "\u{1}".repeat(60_000));
        let many: Vec<_> =
            (0..50).map(|number| attribute(&name(number), "v")).chain([attribute("last", "v")]).collect();
        let text = kept_attributes(&many).to_string();
        assert!(text.len() <= MAX_REJECTED_ATTRIBUTE_BYTES + 20, "{}", text.len());
        let kept: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&kept[LEFT_OUT], &kept["last"]), (&"40".into(), &"v".into()));
    }
}
