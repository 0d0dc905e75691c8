//! Events that come by themselves.

mod conformance;
mod decnet_bus;
#[cfg(feature = "nats")]
mod nats;
mod postgres_outbox;
#[cfg(feature = "rabbitmq")]
mod rabbitmq;
#[cfg(feature = "redis")]
mod redis;
#[cfg(any(feature = "nats", feature = "rabbitmq", feature = "redis"))]
mod served;

use postrider::sources::SourceSettings;
use postrider::sources::settings::{Surroundings, validate};

/// One source, as in the settings file.
pub(crate) fn source(text: &str) -> Vec<SourceSettings> {
    validate(&[toml::from_str(text).unwrap()], &Surroundings::default()).unwrap()
}
