//! Webhooks: where to deliver, with which keys, how; and what a server keeps about each.

use std::time::Duration;

use uuid::Uuid;

use crate::clock::UnixMicros;
use crate::delivery::guard::{Destination, DestinationError};
use crate::delivery::retry::Schedule;
use crate::signing::{KeyError, Scheme, SigningKeys};
use crate::topic::{Pattern, TopicError};

/// The longest webhook name, in characters.
pub const MAX_NAME_CHARS: usize = 64;
/// The longest description, in characters.
pub const MAX_DESCRIPTION_CHARS: usize = 1_024;
/// The most patterns of one webhook.
pub const MAX_PATTERNS: usize = 256;
/// The whole attempt, body included, may take this long by default.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// The shortest and the longest timeout that a webhook may choose, in seconds.
pub const TIMEOUT_S: std::ops::RangeInclusive<u64> = 1..=60;
/// Attempts under way at once for one webhook, by default.
pub const DEFAULT_MAX_IN_FLIGHT: u32 = 32;
/// How many attempts under way at once a webhook may choose.
pub const MAX_IN_FLIGHT: std::ops::RangeInclusive<u32> = 1..=1_024;

/// Sequential number of a webhook inside a store; never shown outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WebhookSeq(pub i64);

/// Sequential number of a tenant inside a store; never shown outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantSeq(pub i64);

/// The tenant of a fresh installation, named `default`.
pub const DEFAULT_TENANT: TenantSeq = TenantSeq(1);

/// A receiver: what one attempt needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Webhook {
    pub destination: Destination,
    pub keys: SigningKeys,
    /// Which signatures a delivery carries; never empty, each once.
    pub signatures: Vec<Scheme>,
    /// For the whole attempt, response body included.
    pub timeout: Duration,
}

/// A webhook as a server keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct WebhookRecord {
    pub seq: WebhookSeq,
    pub uuid: Uuid,
    pub tenant: TenantSeq,
    /// Counts the changes of the settings, from 1. Of two records the higher version is the newer.
    pub version: i64,
    pub settings: WebhookSettings,
    pub health: WebhookHealth,
    pub created_at: UnixMicros,
    pub updated_at: UnixMicros,
}

/// What a user sets, validated.
#[derive(Clone, Debug, PartialEq)]
pub struct WebhookSettings {
    /// 1 to [`MAX_NAME_CHARS`] characters, unique within the tenant.
    pub name: String,
    pub description: String,
    pub receiver: Webhook,
    /// 1 to [`MAX_PATTERNS`], each once.
    pub topic_patterns: Vec<Pattern>,
    pub enabled: bool,
    pub max_in_flight: u32,
    /// `None`: the server's default schedule.
    pub retry_schedule: Option<Schedule>,
}

/// How deliveries to a webhook have gone lately.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebhookHealth {
    /// Failed attempts since the last success.
    pub consecutive_failures: u32,
    pub last_success_at: Option<UnixMicros>,
    pub last_failure_at: Option<UnixMicros>,
    pub last_error: Option<String>,
    /// Since when the circuit is open; `None` while it is closed.
    pub auto_disabled_at: Option<UnixMicros>,
}

/// Why settings were refused. `field` is the name in the API.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WebhookError {
    #[error("topic_patterns: at least one pattern is needed")]
    NoPattern,
    #[error("{field}: {reason}")]
    Field { field: &'static str, reason: String },
    #[error("topic_patterns: {pattern:?} {error}")]
    Pattern { pattern: String, error: TopicError },
    #[error("url: {0}")]
    Destination(#[from] DestinationError),
    #[error("secret: {0}")]
    Key(#[from] KeyError),
}

impl Webhook {
    /// A receiver at `url` that gets both signatures, within the default timeout.
    pub fn new(url: &str, keys: SigningKeys) -> Result<Self, WebhookError> {
        Ok(Self {
            destination: Destination::parse(url)?,
            keys,
            signatures: vec![Scheme::Decnet, Scheme::Standard],
            timeout: DEFAULT_TIMEOUT,
        })
    }
}
