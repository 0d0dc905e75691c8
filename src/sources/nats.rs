//! NATS as a source: subjects of the core protocol, and streams of JetStream by a durable pull consumer.

mod connection;
mod core;
mod jetstream;
mod login;
mod pull;
mod rescue;
mod stored;

use async_nats::Message as NatsMessage;
use serde::Deserialize;

use self::connection::{ConnectionSettings, RawConnection};
pub(super) use self::core::Core;
pub(super) use self::jetstream::Jetstream;
use self::login::RawLogin;
use super::mapped::{self, MAX_HEADER_BYTES, Mapped, RawMapped, read, take};
use super::secret::Surroundings;
use super::{Message, id_by_place};

/// The name of the kind for subjects without JetStream, in the settings file.
pub(super) const CORE: &str = "nats";
/// The name of the kind for streams.
pub(super) const JETSTREAM: &str = "nats-jetstream";
/// The attributes of a message. All but the first are of messages of a stream alone.
const SUBJECT: &str = "subject";
const STREAM: &str = "stream";
const SEQUENCE: &str = "sequence";
/// When the stream got it, in nanoseconds since 1970.
const STORED_AT: &str = "stored_at";
/// Before the name of a header, as it is written there.
const HEADER: &str = "header.";
/// The topic of events, if the settings have no template.
const DEFAULT_TOPIC: &str = "{subject}";
/// The header by which publishers name a message, so that it is stored once.
const MESSAGE_ID: &str = "Nats-Msg-Id";
/// The most subjects of a source.
const MAX_SUBJECTS: usize = 1_000;

/// What a source of core subjects has of its own, as given.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCore {
    subjects: Vec<String>,
    queue_group: Option<String>,
}

/// What a source of a stream has of its own, as given.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawJetstream {
    stream: String,
    consumer: String,
    #[serde(default)]
    filter_subjects: Vec<String>,
}

/// A source of core subjects.
#[derive(Clone, Debug)]
pub(super) struct CoreSettings {
    connection: ConnectionSettings,
    mapped: Mapped,
    subjects: Vec<String>,
    queue_group: Option<String>,
}

/// A source of a stream.
#[derive(Clone, Debug)]
pub(super) struct JetstreamSettings {
    connection: ConnectionSettings,
    mapped: Mapped,
    stream: String,
    consumer: String,
    filter_subjects: Vec<String>,
}

impl CoreSettings {
    pub(super) fn of(mut table: toml::Table, surroundings: &Surroundings) -> Result<Self, String> {
        let is_known = |name: &str| name == SUBJECT || name.starts_with(HEADER);
        let (connection, mapped) = shared(&mut table, surroundings, is_known)?;
        let RawCore { subjects, queue_group } = read(table)?;
        if subjects.is_empty() {
            return Err("subjects: must name at least one".to_owned());
        }
        check_subjects("subjects", &subjects)?;
        if queue_group.as_deref().is_some_and(|name| !is_token(name)) {
            return Err("queue_group: must be a name without blanks".to_owned());
        }
        Ok(Self { connection, mapped, subjects, queue_group })
    }

    /// Whether servers of NATS share the messages out between all who ask.
    pub(super) fn is_shared(&self) -> bool {
        self.queue_group.is_some()
    }
}

impl JetstreamSettings {
    pub(super) fn of(mut table: toml::Table, surroundings: &Surroundings) -> Result<Self, String> {
        let is_known = |name: &str| [SUBJECT, STREAM, SEQUENCE, STORED_AT].contains(&name) || name.starts_with(HEADER);
        let (connection, mapped) = shared(&mut table, surroundings, is_known)?;
        let RawJetstream { stream, consumer, filter_subjects } = read(table)?;
        for (setting, name) in [("stream", &stream), ("consumer", &consumer)] {
            if !is_token(name) || name.contains(['.', '*', '>', '/', '\\']) {
                return Err(format!("{setting}: {name:?} is no name: without blanks, `.`, `*`, `>` and slashes"));
            }
        }
        check_subjects("filter_subjects", &filter_subjects)?;
        Ok(Self { connection, mapped, stream, consumer, filter_subjects })
    }
}

/// The settings that both kinds have, taken out of `table`.
fn shared(
    table: &mut toml::Table,
    surroundings: &Surroundings,
    is_known: impl Fn(&str) -> bool,
) -> Result<(ConnectionSettings, Mapped), String> {
    let connection: RawConnection = take(table, &connection::KEYS)?;
    let login: RawLogin = take(table, &login::KEYS)?;
    let mapped: RawMapped = take(table, &mapped::KEYS)?;
    Ok((connection.within(login.within(surroundings)?, surroundings)?, mapped.validated(DEFAULT_TOPIC, is_known)?))
}

fn check_subjects(setting: &str, subjects: &[String]) -> Result<(), String> {
    if subjects.len() > MAX_SUBJECTS {
        return Err(format!("{setting}: there are {}, the limit is {MAX_SUBJECTS}", subjects.len()));
    }
    let is_subject = |subject: &String| is_token(subject) && subject.split('.').all(|token| !token.is_empty());
    match subjects.iter().find(|subject| !is_subject(subject)) {
        Some(subject) => Err(format!("{setting}: {subject:?} is no subject, as in `orders.*` or `orders.>`")),
        None => Ok(()),
    }
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.len() <= 255 && !text.contains(|c: char| c.is_whitespace() || c.is_control())
}

/// Where a message is in a stream.
struct Place<'a> {
    /// The name of the source.
    source: &'a str,
    stream: String,
    sequence: u64,
    stored_at: i128,
}

/// A message with what came beside it.
fn message(received: NatsMessage, place: Option<&Place<'_>>) -> Message {
    let mut attributes = vec![(SUBJECT.to_owned(), received.subject.to_string())];
    if let Some(Place { stream, sequence, stored_at, .. }) = place {
        attributes.push((STREAM.to_owned(), stream.clone()));
        attributes.push((SEQUENCE.to_owned(), sequence.to_string()));
        attributes.push((STORED_AT.to_owned(), stored_at.to_string()));
    }
    let headers = received.headers.unwrap_or_default();
    let id = headers.get(MESSAGE_ID).map(|id| id.as_str().to_owned()).filter(|id| !id.is_empty());
    let mut bytes = 0;
    // Their order is none, but for the values of one name.
    let mut headers: Vec<_> = headers.iter().collect();
    headers.sort_unstable_by_key(|(name, _)| name.to_string());
    for (name, values) in headers {
        let (name, Some(value)) = (name.to_string(), values.first()) else { continue };
        bytes += name.len() + value.as_str().len();
        if bytes > MAX_HEADER_BYTES {
            break;
        }
        attributes.push((format!("{HEADER}{name}"), value.as_str().to_owned()));
    }
    let origin_id = id
        .or_else(|| place.map(|place| id_by_place(place.source, format_args!("{}-{}", place.stream, place.sequence))));
    Message { origin_id, attributes, body: received.payload }
}

#[cfg(test)]
mod tests;
