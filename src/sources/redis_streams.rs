//! A stream of Redis as a source, read by a consumer group.

mod answers;
mod checked;
mod connection;
mod entry;
mod reading;

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use secrecy::SecretString;
use serde::Deserialize;

use self::connection::Connection;
use self::entry::Body;
use self::reading::Reading;
use super::dial::{Address, Scheme};
use super::door::Door;
use super::mapped::{self, Mapped, RawMapped, read, take};
use super::secret::{Secret, Surroundings};
use super::tls::RawTls;
use super::{Message, Source, SourceError, Stop};
use crate::clock::UnixMicros;
use crate::event::Event;

/// The name of the kind, in the settings file.
pub(super) const KIND: &str = "redis";
const SCHEME: Scheme = Scheme { plain: "redis", plain_port: 6379, tls: "rediss", tls_port: 6379 };
/// The attributes of a message.
const STREAM: &str = "stream";
const ENTRY: &str = "entry";
/// When the entry was added, in milliseconds since 1970, by the clock of Redis.
const ADDED_AT: &str = "added_at";
/// Before the name of a field.
const FIELD: &str = "field.";
/// The topic of events, if the settings have no template.
const DEFAULT_TOPIC: &str = "{stream}";
/// The field that is the body, if the settings name none.
const DEFAULT_FIELD: &str = "payload";
/// The default of `claim_after_s`.
const DEFAULT_CLAIM_AFTER_S: u32 = 60;
/// The bounds of `claim_after_s`.
const CLAIM_AFTER_S: std::ops::RangeInclusive<u32> = 1..=86_400;
/// The longest name of a stream, a group or a consumer, in bytes.
const MAX_KEY_BYTES: usize = 255;

/// The settings, as given, without those of a mapping.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStream {
    url: String,
    user: Option<String>,
    password: Option<Secret>,
    #[serde(default)]
    database: u16,
    tls: Option<RawTls>,
    stream: String,
    group: String,
    consumer: Option<String>,
    #[serde(default)]
    begin: Begin,
    field: Option<String>,
    claim_after_s: Option<u32>,
}

/// Where a group begins that is made here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Begin {
    /// With what the stream has.
    #[default]
    Oldest,
    /// With what comes after the group was made.
    New,
}

/// A source of a stream.
#[derive(Clone, Debug)]
pub(super) struct StreamSettings {
    address: Address,
    user: Option<String>,
    password: Option<SecretString>,
    database: u16,
    stream: String,
    group: String,
    /// `None`: the name of the machine and the installation.
    consumer: Option<String>,
    begin: Begin,
    body: Body,
    /// What another consumer has left for so long is taken from it.
    claim_after: std::time::Duration,
    mapped: Mapped,
}

impl StreamSettings {
    pub(super) fn of(mut table: toml::Table, surroundings: &Surroundings) -> Result<Self, String> {
        let mapped: RawMapped = take(&mut table, &mapped::KEYS)?;
        let is_known = |name: &str| [STREAM, ENTRY, ADDED_AT].contains(&name) || name.starts_with(FIELD);
        let mapped = mapped.validated(DEFAULT_TOPIC, is_known)?;
        let raw: RawStream = read(table)?;
        let address = Address::parse(&raw.url, &SCHEME, raw.tls, surroundings)?;
        if raw.user.is_some() && raw.password.is_none() {
            return Err("user: a user has a password".to_owned());
        }
        let password = raw.password.map(|password| password.read(surroundings)).transpose();
        let password = password.map_err(|reason| format!("password: {reason}"))?;
        for (setting, name) in
            [("stream", Some(&raw.stream)), ("group", Some(&raw.group)), ("consumer", raw.consumer.as_ref())]
        {
            // The name of the stream is in the ids of its events.
            let is_name = |name: &String| {
                (1..=MAX_KEY_BYTES).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic())
            };
            if name.is_some_and(|name| !is_name(name)) {
                return Err(format!("{setting}: must have 1 to {MAX_KEY_BYTES} visible characters of ASCII"));
            }
        }
        let claim_after_s = raw.claim_after_s.unwrap_or(DEFAULT_CLAIM_AFTER_S);
        if !CLAIM_AFTER_S.contains(&claim_after_s) {
            return Err(format!("claim_after_s: must be from {} to {}", CLAIM_AFTER_S.start(), CLAIM_AFTER_S.end()));
        }
        Ok(Self {
            address,
            user: raw.user,
            password,
            database: raw.database,
            stream: raw.stream,
            group: raw.group,
            consumer: raw.consumer,
            begin: raw.begin,
            body: Body::of(raw.field.as_deref().unwrap_or(DEFAULT_FIELD))?,
            claim_after: std::time::Duration::from_secs(claim_after_s.into()),
            mapped,
        })
    }
}

/// The source.
pub(super) struct RedisStream {
    settings: Arc<StreamSettings>,
    /// The id of the newest entry that was accepted, with which a group begins that somebody deleted.
    newest: Mutex<Option<String>>,
}

impl RedisStream {
    pub(super) fn new(settings: StreamSettings) -> Self {
        Self { settings: Arc::new(settings), newest: Mutex::new(None) }
    }
}

#[async_trait]
impl Source for RedisStream {
    fn event(&self, message: &Message, now: UnixMicros) -> Result<Event, String> {
        self.settings.mapped.event(&*self.settings.body.of_message(message)?, now)
    }

    async fn run(&self, door: &Door, stop: &mut Stop) -> Result<(), SourceError> {
        let connection = Connection::open(&self.settings).await?;
        Reading::new(&self.settings, &self.newest, connection, door).run(stop).await
    }
}

#[cfg(test)]
mod tests;
