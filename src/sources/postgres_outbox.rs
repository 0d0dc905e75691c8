//! An outbox in a PostgreSQL database: a table into which an application writes events in its own transactions. So an
//! event is published if, and only if, the transaction commits.
//!
//! A notification wakes the reader, polling finds what notifications missed. A row is deleted after the commit of its
//! event. No place in the table is remembered, so that a transaction that commits late is found: its rows may have
//! lower numbers than those that were read before.

mod rows;
mod session;
mod setup;
mod table;

use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;
use serde::Deserialize;

use self::session::Session;
pub use self::table::{Table, TableError};
use super::door::Door;
use super::secret::{Secret, Surroundings};
use super::{Message, Source, SourceError, Stop};
use crate::clock::UnixMicros;
use crate::event::{Event, EventError, EventParts, MAX_EVENT_BYTES};
use crate::topic::Topic;

/// The name of the kind, in the settings file.
pub(super) const KIND: &str = "postgres-outbox";
/// The default interval of polls, beside notifications.
const DEFAULT_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The values of the interval, in seconds.
const POLL_INTERVAL_S: std::ops::RangeInclusive<f64> = 0.05..=3_600.0;
/// The most rows that are read at once.
const MOST_ROWS: u32 = 256;
/// The attributes of a message: the columns of its row, and the bytes of its payload.
const TOPIC: &str = "topic";
const TYPE: &str = "type";
const LENGTH: &str = "length";

/// The settings of this kind, as given.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSettings {
    /// `None`: the database of the store.
    url: Option<Secret>,
    #[serde(default)]
    table: Table,
    poll_interval_s: Option<f64>,
    #[serde(default)]
    after: After,
}

/// What follows the commit of a row's event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum After {
    #[default]
    Delete,
    /// The column `published_at` is set.
    Mark,
}

/// The settings of this kind.
#[derive(Clone, Debug)]
pub(super) struct OutboxSettings {
    url: SecretString,
    outbox: Outbox,
    poll_interval: Duration,
}

/// The table, and what becomes of its rows.
#[derive(Clone, Debug, Default)]
pub struct Outbox {
    table: Table,
    after: After,
}

impl RawSettings {
    pub(super) fn within(self, surroundings: &Surroundings) -> Result<OutboxSettings, String> {
        let url = match &self.url {
            Some(url) => url.read(surroundings).map_err(|reason| format!("url: {reason}"))?,
            None => {
                surroundings.store_url.clone().ok_or("url: is needed, since the store is no PostgreSQL database")?
            }
        };
        session::check(&url)?;
        let seconds = self.poll_interval_s.unwrap_or(DEFAULT_POLL_INTERVAL.as_secs_f64());
        if !POLL_INTERVAL_S.contains(&seconds) {
            let (least, most) = (POLL_INTERVAL_S.start(), POLL_INTERVAL_S.end());
            return Err(format!("poll_interval_s: must be from {least} to {most}"));
        }
        let poll_interval = Duration::from_secs_f64(seconds);
        Ok(OutboxSettings { url, outbox: Outbox { table: self.table, after: self.after }, poll_interval })
    }
}

impl OutboxSettings {
    pub(super) fn outbox(&self) -> &Outbox {
        &self.outbox
    }
}

/// The source.
pub(super) struct PostgresOutbox {
    settings: OutboxSettings,
}

impl PostgresOutbox {
    pub(super) fn new(settings: OutboxSettings) -> Self {
        Self { settings }
    }
}

#[async_trait]
impl Source for PostgresOutbox {
    fn event(&self, message: &Message, now: UnixMicros) -> Result<Event, String> {
        event(message, now)
    }

    async fn run(&self, door: &Door, stop: &mut Stop) -> Result<(), SourceError> {
        let OutboxSettings { url, outbox, poll_interval } = &self.settings;
        let session = Session::open(url, outbox).await?;
        tracing::info!(source = door.status().name(), table = %outbox.table, "reads the outbox");
        let mut most = MOST_ROWS;
        loop {
            let rows = tokio::select! {
                rows = session.first_rows(most, door.status().name()) => rows?,
                () = stop.stopped() => return Ok(()),
            };
            let Some(rows) = rows else {
                most = (most / 4).max(1);
                continue;
            };
            most = (most * 2).min(MOST_ROWS);
            door.runs();
            if rows.is_empty() {
                tokio::select! {
                    () = session.notified() => {}
                    () = tokio::time::sleep(*poll_interval) => {}
                    () = stop.stopped() => return Ok(()),
                }
                continue;
            }
            door.accept(&rows.messages).await?;
            // The next start reads what is not deleted again: duplicates, since their ids are known.
            session.forget(&rows.numbers).await?;
        }
    }
}

/// The event that a row is.
fn event(message: &Message, now: UnixMicros) -> Result<Event, String> {
    let topic =
        Topic::parse(message.attribute(TOPIC).unwrap_or_default()).map_err(|error| format!("topic: {error}"))?;
    if let Some(length) = message.attribute(LENGTH).and_then(|length| length.parse().ok())
        && length > MAX_EVENT_BYTES
    {
        return Err(EventError::TooLarge { length, limit: MAX_EVENT_BYTES }.to_string());
    }
    let kind = message.attribute(TYPE).unwrap_or_default();
    let id = message.origin_id.as_deref().filter(|id| !id.is_empty());
    let parts = EventParts { id, topic, kind, ts: None, payload: &message.body };
    Event::from_parts(parts, now).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: Option<&str>, topic: Option<&str>, payload: &str) -> Message {
        let topic = topic.map(|topic| (TOPIC.to_owned(), topic.to_owned()));
        Message {
            origin_id: id.map(str::to_owned),
            attributes: topic.into_iter().chain([(TYPE.to_owned(), "made".to_owned())]).collect(),
            body: payload.to_owned().into(),
        }
    }

    #[test]
    fn a_row_is_an_event_with_its_id() {
        let event = event(&row(Some("7"), Some("orders.made"), r#"{"b": 1.50, "a": []}"#), UnixMicros(0)).unwrap();
        assert_eq!((event.id(), event.topic().as_str(), event.kind()), ("7", "orders.made", "made"));
        assert_eq!(&*event.payload_json(), br#"{"a":[],"b":1.50}"#);
    }

    #[test]
    fn rows_that_can_be_no_event_say_why() {
        for (row, expected) in [
            (row(None, None, "{}"), "topic: must not be empty"),
            (row(Some("a b"), Some("t"), "{}"), "id: must be visible ASCII"),
            (row(None, Some("t"), "{"), "invalid JSON at byte 1"),
            (row(None, Some("t"), r#"{"a":1,"a":2}"#), "invalid JSON at byte 7"),
        ] {
            let reason = event(&row, UnixMicros(0)).unwrap_err();
            assert!(reason.starts_with(expected), "{reason}");
        }
        let mut large = row(None, Some("t"), "\"cut");
        large.attributes.push((LENGTH.to_owned(), "2097152".to_owned()));
        assert_eq!(event(&large, UnixMicros(0)).unwrap_err(), "the event is 2097152 bytes long, the limit is 1048576");
    }

    #[test]
    fn settings_say_where_the_outbox_is() {
        let read = |text: &str, store: Option<&str>| {
            let raw: RawSettings = toml::from_str(text).map_err(|error| error.message().to_owned())?;
            let store_url = store.map(|url| url.to_owned().into());
            raw.within(&Surroundings { store_url, ..Surroundings::default() })
        };
        let own = read("", Some("postgres://a@b/c")).unwrap();
        assert_eq!(
            (own.outbox.table.to_string(), own.poll_interval),
            ("\"postrider\".\"outbox\"".to_owned(), DEFAULT_POLL_INTERVAL)
        );
        for (text, expected) in [
            ("", "url: is needed, since the store is no PostgreSQL database"),
            ("url = 'mysql://a'", "url: expected postgres://user:password@host:port/database"),
            ("url = { env = 'NOT_THERE' }", "url: the environment has no variable NOT_THERE"),
            ("url = 'postgres://a@b/c'\npoll_interval_s = 0.0", "poll_interval_s: must be from 0.05 to 3600"),
            ("url = 'postgres://a@b/c'\ntable = 'a b'", "table: \"a b\" is no name of a table"),
        ] {
            let error = read(text, None).unwrap_err();
            assert!(error.contains(expected.trim_start_matches("table: ")), "{text}: {error}");
        }
    }
}
