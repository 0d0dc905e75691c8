//! A queue of RabbitMQ as a source.

mod connection;
mod consuming;
mod frames;
mod properties;
mod socket;
mod window;

use std::borrow::Cow;

use async_trait::async_trait;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable};
use secrecy::SecretString;
use serde::Deserialize;

use self::connection::Connection;
use self::consuming::Consuming;
use self::properties::UNREADABLE_HEADER;
use super::dial::{Address, Scheme};
use super::door::Door;
use super::mapped::{self, MAX_HEADER_BYTES, Mapped, RawMapped, read, take};
use super::secret::{Secret, Surroundings};
use super::tls::RawTls;
use super::{Message, Source, SourceError, Stop, UNREADABLE};
use crate::clock::UnixMicros;
use crate::event::Event;

/// The name of the kind, in the settings file.
pub(super) const KIND: &str = "rabbitmq";
const SCHEME: Scheme = Scheme { plain: "amqp", plain_port: 5672, tls: "amqps", tls_port: 5671 };
/// The attributes of a message, beside its headers.
const ATTRIBUTES: [&str; 13] = [
    "queue",
    "exchange",
    "routing_key",
    "redelivered",
    "message_id",
    "type",
    "app_id",
    "user_id",
    "correlation_id",
    "reply_to",
    "content_type",
    "content_encoding",
    "timestamp",
];
/// Before the name of a header.
const HEADER: &str = "header.";
/// The topic of events, if the settings have no template.
const DEFAULT_TOPIC: &str = "{routing_key}";
/// Who signs in, if the settings do not say: the user of a new server, whom it lets in from its own machine.
const GUEST: &str = "guest";
const DEFAULT_VHOST: &str = "/";
/// The default of `prefetch`: as many as are accepted together.
const DEFAULT_PREFETCH: u16 = 256;
/// The largest `prefetch`.
const MAX_PREFETCH: u16 = 4_096;
/// The longest name in AMQP, in bytes.
const MAX_NAME_BYTES: usize = 255;

/// The settings, as given, without those of a mapping.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawQueue {
    url: String,
    user: Option<String>,
    password: Option<Secret>,
    vhost: Option<String>,
    tls: Option<RawTls>,
    queue: String,
    prefetch: Option<u16>,
}

/// A source of a queue.
#[derive(Clone, Debug)]
pub(super) struct QueueSettings {
    address: Address,
    user: String,
    password: SecretString,
    vhost: String,
    queue: String,
    prefetch: u16,
    mapped: Mapped,
}

impl QueueSettings {
    pub(super) fn of(mut table: toml::Table, surroundings: &Surroundings) -> Result<Self, String> {
        let mapped: RawMapped = take(&mut table, &mapped::KEYS)?;
        let mapped = mapped.validated(DEFAULT_TOPIC, |name| ATTRIBUTES.contains(&name) || name.starts_with(HEADER))?;
        let raw: RawQueue = read(table)?;
        let address = Address::parse(&raw.url, &SCHEME, raw.tls, surroundings)?;
        let (user, password) = match (raw.user, raw.password) {
            (None, None) => (GUEST.to_owned(), GUEST.to_owned().into()),
            (Some(user), Some(password)) => {
                (user, password.read(surroundings).map_err(|reason| format!("password: {reason}"))?)
            }
            _ => return Err("user and password belong together".to_owned()),
        };
        let vhost = raw.vhost.unwrap_or_else(|| DEFAULT_VHOST.to_owned());
        for (setting, name) in [("queue", &raw.queue), ("vhost", &vhost)] {
            if !(1..=MAX_NAME_BYTES).contains(&name.len()) || name.contains(char::is_control) {
                return Err(format!("{setting}: must have 1 to {MAX_NAME_BYTES} bytes"));
            }
        }
        let prefetch = raw.prefetch.unwrap_or(DEFAULT_PREFETCH);
        if !(1..=MAX_PREFETCH).contains(&prefetch) {
            return Err(format!("prefetch: must be from 1 to {MAX_PREFETCH}"));
        }
        Ok(Self { address, user, password, vhost, queue: raw.queue, prefetch, mapped })
    }
}

/// The source.
pub(super) struct RabbitQueue {
    settings: QueueSettings,
}

impl RabbitQueue {
    pub(super) fn new(settings: QueueSettings) -> Self {
        Self { settings }
    }
}

#[async_trait]
impl Source for RabbitQueue {
    fn event(&self, message: &Message, now: UnixMicros) -> Result<Event, String> {
        self.settings.mapped.event(message, now)
    }

    async fn run(&self, door: &Door, stop: &mut Stop) -> Result<(), SourceError> {
        let connection = Connection::open(&self.settings, door.status().name()).await?;
        let channel = connection.channel().await?;
        let result = Consuming::new(&self.settings, channel, door).run(stop).await;
        // The server puts back what is not acknowledged.
        connection.close().await;
        result
    }
}

/// A message with what came beside it. Takes its body.
fn message(queue: &str, delivery: &mut Delivery) -> Message {
    let properties = &delivery.properties;
    let text = |text: &Option<lapin::types::ShortString>| text.as_ref().map(|text| text.as_str().to_owned());
    let routing_key = delivery.routing_key.as_str();
    let values = [
        Some(queue.to_owned()),
        Some(delivery.exchange.as_str().to_owned()),
        // Exchanges that fan out need none, and a topic is never empty.
        Some(if routing_key.is_empty() { queue } else { routing_key }.to_owned()),
        Some(delivery.redelivered.to_string()),
        text(properties.message_id()),
        text(properties.kind()),
        text(properties.app_id()),
        text(properties.user_id()),
        text(properties.correlation_id()),
        text(properties.reply_to()),
        text(properties.content_type()),
        text(properties.content_encoding()),
        properties.timestamp().map(|seconds| seconds.to_string()),
    ];
    let named = ATTRIBUTES.iter().zip(values);
    let mut attributes: Vec<_> = named
        .filter_map(|(name, value)| Some(((*name).to_owned(), value.filter(|value| !value.is_empty())?)))
        .collect();
    let mut bytes = 0;
    for (name, value) in properties.headers().iter().flat_map(FieldTable::inner) {
        let (name, Some(value)) = (name.as_str(), header_text(value)) else { continue };
        if name == UNREADABLE_HEADER {
            attributes.push((UNREADABLE.to_owned(), value.into_owned()));
            continue;
        }
        if bytes + name.len() + value.len() > MAX_HEADER_BYTES {
            continue;
        }
        bytes += name.len() + value.len();
        attributes.push((format!("{HEADER}{name}"), value.into_owned()));
    }
    let origin_id = text(properties.message_id()).filter(|id| !id.is_empty());
    Message { origin_id, attributes, body: std::mem::take(&mut delivery.data).into() }
}

/// A header as text; `None`: it is a table, a list, or no text.
fn header_text(value: &AMQPValue) -> Option<Cow<'_, str>> {
    let number = |number: &dyn std::fmt::Display| Some(Cow::Owned(number.to_string()));
    match value {
        AMQPValue::Boolean(value) => number(value),
        AMQPValue::ShortShortInt(value) => number(value),
        AMQPValue::ShortShortUInt(value) => number(value),
        AMQPValue::ShortInt(value) => number(value),
        AMQPValue::ShortUInt(value) => number(value),
        AMQPValue::LongInt(value) => number(value),
        AMQPValue::LongUInt(value) => number(value),
        AMQPValue::LongLongInt(value) => number(value),
        AMQPValue::Float(value) => number(value),
        AMQPValue::Double(value) => number(value),
        AMQPValue::Timestamp(value) => number(value),
        AMQPValue::ShortString(text) => Some(Cow::Borrowed(text.as_str())),
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok().map(Cow::Borrowed),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
