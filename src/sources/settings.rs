//! What an operator configures of sources: tables of the settings file → validated settings.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Source;
use super::decnet_bus::{self, BusSettings, DecnetBus};
#[cfg(feature = "nats")]
use super::nats::{self, Core, CoreSettings, Jetstream, JetstreamSettings};
use super::postgres_outbox::{self, Outbox, OutboxSettings, PostgresOutbox};
#[cfg(feature = "rabbitmq")]
use super::rabbitmq::{self, QueueSettings, RabbitQueue};
#[cfg(feature = "redis")]
use super::redis_streams::{self, RedisStream, StreamSettings};
pub use super::secret::Surroundings;

/// The most sources of a server.
pub const MAX_SOURCES: usize = 64;
/// The longest name of a source, in characters.
pub const MAX_SOURCE_NAME_CHARS: usize = 64;
/// The tenant of sources that name none.
const DEFAULT_TENANT_NAME: &str = "default";

/// One source.
#[derive(Clone, Debug)]
pub struct SourceSettings {
    /// Letters, digits, `-` and `_`.
    pub name: String,
    /// The name of the tenant that owns the events.
    pub tenant: String,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    DecnetBus(BusSettings),
    PostgresOutbox(OutboxSettings),
    #[cfg(feature = "nats")]
    Nats(CoreSettings),
    #[cfg(feature = "nats")]
    Jetstream(JetstreamSettings),
    #[cfg(feature = "rabbitmq")]
    Rabbitmq(Box<QueueSettings>),
    #[cfg(feature = "redis")]
    Redis(Box<StreamSettings>),
}

/// The names of the kinds, in the settings file.
const KINDS: &[&str] = &[
    decnet_bus::KIND,
    postgres_outbox::KIND,
    #[cfg(feature = "nats")]
    nats::CORE,
    #[cfg(feature = "nats")]
    nats::JETSTREAM,
    #[cfg(feature = "rabbitmq")]
    rabbitmq::KIND,
    #[cfg(feature = "redis")]
    redis_streams::KIND,
];

/// What all sources have.
#[derive(Deserialize)]
struct Common {
    name: String,
    kind: String,
    tenant: Option<String>,
}

/// Validates the tables of the sources. The error names the source.
pub fn validate(tables: &[toml::Table], surroundings: &Surroundings) -> Result<Vec<SourceSettings>, String> {
    if tables.len() > MAX_SOURCES {
        return Err(format!("there are {} sources, the limit is {MAX_SOURCES}", tables.len()));
    }
    let mut names = BTreeSet::new();
    let one = |(index, table)| {
        let settings = SourceSettings::of(table, surroundings).map_err(|reason| named(index, table, &reason))?;
        if !names.insert(settings.name.clone()) {
            return Err(named(index, table, "the name is taken by another source"));
        }
        Ok(settings)
    };
    tables.iter().enumerate().map(one).collect()
}

/// The error with the name of the source, or its number if it has none.
fn named(index: usize, table: &toml::Table, reason: &str) -> String {
    match table.get("name").and_then(toml::Value::as_str) {
        Some(name) => format!("`{name}`: {reason}"),
        None => format!("number {}: {reason}", index + 1),
    }
}

impl SourceSettings {
    fn of(table: &toml::Table, surroundings: &Surroundings) -> Result<Self, String> {
        let mut own = table.clone();
        let common = ["name", "kind", "tenant"].into_iter().filter_map(|key| own.remove_entry(key)).collect();
        let Common { name, kind, tenant } = read(common)?;
        let is_name_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if !(1..=MAX_SOURCE_NAME_CHARS).contains(&name.len()) || !name.chars().all(is_name_char) {
            return Err(format!("name: must have 1 to {MAX_SOURCE_NAME_CHARS} letters, digits, `-` or `_`"));
        }
        let kind = match &*kind {
            decnet_bus::KIND => Kind::DecnetBus(read::<BusSettings>(own)?.within(surroundings)),
            postgres_outbox::KIND => {
                Kind::PostgresOutbox(read::<postgres_outbox::RawSettings>(own)?.within(surroundings)?)
            }
            #[cfg(feature = "nats")]
            nats::CORE => Kind::Nats(CoreSettings::of(own, surroundings)?),
            #[cfg(feature = "nats")]
            nats::JETSTREAM => Kind::Jetstream(JetstreamSettings::of(own, surroundings)?),
            #[cfg(feature = "rabbitmq")]
            rabbitmq::KIND => Kind::Rabbitmq(Box::new(QueueSettings::of(own, surroundings)?)),
            #[cfg(feature = "redis")]
            redis_streams::KIND => Kind::Redis(Box::new(StreamSettings::of(own, surroundings)?)),
            _ => return Err(format!("kind: there is no kind `{kind}`; there are {}", KINDS.join(", "))),
        };
        Ok(Self { name, tenant: tenant.unwrap_or_else(|| DEFAULT_TENANT_NAME.to_owned()), kind })
    }

    /// The name of the kind, as in the settings file.
    #[must_use]
    pub fn kind_name(&self) -> &'static str {
        match self.kind {
            Kind::DecnetBus(_) => decnet_bus::KIND,
            Kind::PostgresOutbox(_) => postgres_outbox::KIND,
            #[cfg(feature = "nats")]
            Kind::Nats(_) => nats::CORE,
            #[cfg(feature = "nats")]
            Kind::Jetstream(_) => nats::JETSTREAM,
            #[cfg(feature = "rabbitmq")]
            Kind::Rabbitmq(_) => rabbitmq::KIND,
            #[cfg(feature = "redis")]
            Kind::Redis(_) => redis_streams::KIND,
        }
    }

    /// The outbox that it reads, if it is of that kind.
    #[must_use]
    pub fn outbox(&self) -> Option<&Outbox> {
        match &self.kind {
            Kind::PostgresOutbox(settings) => Some(settings.outbox()),
            Kind::DecnetBus(_) => None,
            #[cfg(feature = "nats")]
            Kind::Nats(_) | Kind::Jetstream(_) => None,
            #[cfg(feature = "rabbitmq")]
            Kind::Rabbitmq(_) => None,
            #[cfg(feature = "redis")]
            Kind::Redis(_) => None,
        }
    }

    /// Whether one node alone may run it. Otherwise its origin is a thing of one machine, or shares the work out itself.
    pub(super) fn runs_on_one_node(&self) -> bool {
        match &self.kind {
            // A socket is there for the nodes of one machine, which need not own the source's shard.
            Kind::DecnetBus(_) => false,
            Kind::PostgresOutbox(_) => true,
            // In a queue group each message goes to one node. Without one each node would get all of them.
            #[cfg(feature = "nats")]
            Kind::Nats(settings) => !settings.is_shared(),
            // A pull consumer gives each message to the node that asks first.
            #[cfg(feature = "nats")]
            Kind::Jetstream(_) => false,
            // So do a queue and a group.
            #[cfg(feature = "rabbitmq")]
            Kind::Rabbitmq(_) => false,
            #[cfg(feature = "redis")]
            Kind::Redis(_) => false,
        }
    }

    pub(super) fn source(&self) -> Arc<dyn Source> {
        match &self.kind {
            Kind::DecnetBus(settings) => Arc::new(DecnetBus::new(settings.clone())),
            Kind::PostgresOutbox(settings) => Arc::new(PostgresOutbox::new(settings.clone())),
            #[cfg(feature = "nats")]
            Kind::Nats(settings) => Arc::new(Core::new(settings.clone())),
            #[cfg(feature = "nats")]
            Kind::Jetstream(settings) => Arc::new(Jetstream::new(settings.clone())),
            #[cfg(feature = "rabbitmq")]
            Kind::Rabbitmq(settings) => Arc::new(RabbitQueue::new((**settings).clone())),
            #[cfg(feature = "redis")]
            Kind::Redis(settings) => Arc::new(RedisStream::new((**settings).clone())),
        }
    }
}

fn read<T: DeserializeOwned>(table: toml::Table) -> Result<T, String> {
    table.try_into().map_err(|error: toml::de::Error| error.message().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validated(text: &str) -> Result<Vec<SourceSettings>, String> {
        let mut file: toml::Table = toml::from_str(text).unwrap();
        let Some(toml::Value::Array(tables)) = file.remove("source") else { panic!("no sources") };
        let tables: Vec<toml::Table> = tables.into_iter().map(|table| table.try_into().unwrap()).collect();
        validate(&tables, &Surroundings::default())
    }

    #[test]
    fn sources_have_names_of_their_own_and_a_tenant() {
        let sources = validated(
            "[[source]]\nname = 'decnet'\nkind = 'decnet-bus'\n[[source]]\nname = 'lab_2'\nkind = 'decnet-bus'\n\
             tenant = 'lab'\nsocket = '/run/lab/bus.sock'",
        );
        let sources = sources.unwrap();
        assert_eq!(sources[0].tenant, "default");
        assert_eq!((&*sources[1].name, &*sources[1].tenant), ("lab_2", "lab"));
    }

    #[test]
    fn what_is_wrong_is_said_with_the_name_of_the_source() {
        for (text, expected) in [
            ("kind = 'decnet-bus'", "number 1: missing field `name`"),
            ("name = 'a'", "`a`: missing field `kind`"),
            (
                "name = 'a'\nkind = 'kafka'",
                "`a`: kind: there is no kind `kafka`; there are decnet-bus, postgres-outbox",
            ),
            ("name = 'a b'\nkind = 'decnet-bus'", "`a b`: name: must have 1 to 64 letters, digits, `-` or `_`"),
            ("name = 'a'\nkind = 'decnet-bus'\nsockett = 'x'", "`a`: unknown field `sockett`"),
            ("name = 'a'\nkind = 'decnet-bus'\nstop = 'now'", "`a`: unknown variant `now`"),
        ] {
            let error = validated(&format!("[[source]]\n{text}")).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
        let twice = "[[source]]\nname = 'a'\nkind = 'decnet-bus'\n".repeat(2);
        assert_eq!(validated(&twice).unwrap_err(), "`a`: the name is taken by another source");
        let number = |n| format!("[[source]]\nname = 'n{n}'\nkind = 'decnet-bus'\n");
        let many = (0..=MAX_SOURCES).map(number).collect::<Vec<_>>().concat();
        assert_eq!(validated(&many).unwrap_err(), "there are 65 sources, the limit is 64");
    }
}
