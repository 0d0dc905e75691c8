//! Webhooks: where to deliver, with which keys, how; and what a server keeps about each.

#[cfg(feature = "server")]
mod credentials;
#[cfg(feature = "server")]
mod patch;
#[cfg(feature = "server")]
mod policy;
#[cfg(feature = "server")]
mod settings;
#[cfg(feature = "server")]
pub(crate) mod whole;

use std::time::Duration;

use crate::delivery::access::Access;
use crate::delivery::guard::{Destination, DestinationError};
use crate::signing::{Scheme, SigningKeys};

#[cfg(feature = "server")]
pub use self::patch::WebhookPatch;
#[cfg(feature = "server")]
pub use self::policy::{
    BATCH_EVENTS, Batching, DEFAULT_BATCH_BYTES, DISABLE_AFTER_DAYS, MAX_BATCH_WAIT_MS, MAX_METADATA_ENTRIES,
    MAX_METADATA_KEY_CHARS, MAX_METADATA_VALUE_CHARS, MAX_RETRY_ON, Policy, RATE_BURST, RATE_PER_S, RateLimit,
    RawBatching, RawRateLimit,
};
#[cfg(feature = "server")]
pub use self::settings::{
    DEFAULT_MAX_IN_FLIGHT, MAX_DESCRIPTION_CHARS, MAX_IN_FLIGHT, MAX_NAME_CHARS, MAX_PATTERNS, SwitchedOff,
    WebhookError, WebhookHealth, WebhookRecord, WebhookSettings, simple_event_patterns,
};

/// The whole attempt, body included, may take this long by default.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// The shortest and the longest timeout that a webhook may choose, in seconds.
pub const TIMEOUT_S: std::ops::RangeInclusive<u64> = 1..=60;

/// Sequential number of a webhook inside a store; never shown outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WebhookSeq(pub i64);

/// Sequential number of a tenant inside a store; never shown outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantSeq(pub i64);

/// The tenant of a fresh installation, named `default`.
pub const DEFAULT_TENANT: TenantSeq = TenantSeq(1);

/// The HTTP method of a webhook's requests, each of which has a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema), schema(rename_all = "UPPERCASE"))]
pub enum Method {
    #[default]
    Post,
    Put,
    Patch,
}

impl Method {
    /// Every one that a webhook may choose.
    pub const ALL: [Self; 3] = [Self::Post, Self::Put, Self::Patch];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
        }
    }
}

impl From<Method> for http::Method {
    fn from(method: Method) -> Self {
        match method {
            Method::Post => Self::POST,
            Method::Put => Self::PUT,
            Method::Patch => Self::PATCH,
        }
    }
}

/// A receiver: what one attempt needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Webhook {
    pub destination: Destination,
    pub method: Method,
    pub keys: SigningKeys,
    /// Which signatures a delivery carries; never empty, each once.
    pub signatures: Vec<Scheme>,
    /// For the whole attempt, response body included.
    pub timeout: Duration,
    /// Headers, credentials, TLS and proxy; nothing special by default.
    pub access: Access,
}

impl Webhook {
    /// A receiver at `url` that gets both signatures, within the default timeout.
    pub fn new(url: &str, keys: SigningKeys) -> Result<Self, DestinationError> {
        Ok(Self {
            destination: Destination::parse(url)?,
            method: Method::default(),
            keys,
            signatures: vec![Scheme::Decnet, Scheme::Standard],
            timeout: DEFAULT_TIMEOUT,
            access: Access::default(),
        })
    }
}
