//! Webhooks: where to deliver, with which keys, how; and what a server keeps about each.

#[cfg(feature = "server")]
mod capture;
#[cfg(feature = "server")]
mod credentials;
#[cfg(feature = "server")]
mod error;
#[cfg(feature = "server")]
mod patch;
#[cfg(feature = "server")]
mod policy;
#[cfg(feature = "server")]
mod settings;
#[cfg(feature = "server")]
pub(crate) mod statuses;
#[cfg(feature = "server")]
mod success;
#[cfg(feature = "server")]
pub(crate) mod whole;

#[doc(inline)]
pub use crate::delivery::id::WebhookSeq;
pub use crate::delivery::receiver::{DEFAULT_TIMEOUT, Method, Webhook};

#[cfg(feature = "server")]
pub use self::capture::Capture;
#[cfg(feature = "server")]
pub use self::error::WebhookError;
#[cfg(feature = "server")]
pub use self::patch::{DEFAULT_BATCH_BYTES, RawBatching, RawRateLimit, WebhookPatch};
#[cfg(feature = "server")]
pub use self::policy::{
    BATCH_EVENTS, Batching, DISABLE_AFTER_DAYS, MAX_AGE_S, MAX_BATCH_WAIT_MS, MAX_METADATA_ENTRIES,
    MAX_METADATA_KEY_CHARS, MAX_METADATA_VALUE_CHARS, Policy, RATE_BURST, RATE_PER_S, RateLimit,
};
#[cfg(feature = "server")]
pub(crate) use self::settings::check_signing;
#[cfg(feature = "server")]
pub use self::settings::{
    DEFAULT_MAX_IN_FLIGHT, MAX_DESCRIPTION_CHARS, MAX_IN_FLIGHT, MAX_NAME_CHARS, MAX_PATTERNS, SwitchedOff,
    WebhookHealth, WebhookRecord, WebhookSettings, simple_event_patterns,
};

/// The shortest and the longest timeout that a webhook may choose, in seconds.
pub const TIMEOUT_S: std::ops::RangeInclusive<u64> = 1..=60;

/// Sequential number of a tenant inside a store; never shown outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantSeq(pub i64);

/// The tenant of a fresh installation, named `default`.
pub const DEFAULT_TENANT: TenantSeq = TenantSeq(1);
