//! Sources: messages from their origins to a receiver.

mod bus;
#[cfg(feature = "nats")]
mod jetstream;
mod outbox;
mod run;

use std::str::FromStr;

use secrecy::SecretString;

pub(super) use self::run::{Run, Size};
use super::database::Database;

/// An origin to be measured.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    /// DECNET's bus, served by this program.
    Bus,
    /// A server on which the outbox gets a database of its own.
    Outbox(SecretString),
    /// A server on which the benchmark makes a stream of its own.
    #[cfg(feature = "nats")]
    Jetstream(SecretString),
}

impl FromStr for Origin {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some(("postgres-outbox", url)) if !url.is_empty() => Ok(Self::Outbox(url.to_owned().into())),
            #[cfg(feature = "nats")]
            Some(("nats-jetstream", url)) if !url.is_empty() => Ok(Self::Jetstream(url.to_owned().into())),
            None if text == "decnet-bus" => Ok(Self::Bus),
            _ => {
                Err("expected decnet-bus, postgres-outbox=postgres://user@host/database or nats-jetstream=nats://host"
                    .to_owned())
            }
        }
    }
}

impl Origin {
    pub(super) async fn measure(&self, run: Run<'_>) -> anyhow::Result<()> {
        match self {
            Self::Bus => bus::measure(run).await,
            Self::Outbox(url) => {
                let database = Database::create(url.clone(), true).await?;
                let measured = outbox::measure(&database, run).await;
                database.give_back().await?;
                measured
            }
            #[cfg(feature = "nats")]
            Self::Jetstream(url) => jetstream::measure(url, run).await,
        }
    }
}
