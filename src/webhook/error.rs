//! Errors in the settings of a webhook.

use crate::delivery::access::AccessError;
use crate::delivery::guard::DestinationError;
use crate::delivery::retry::ScheduleError;
use crate::signing::KeyError;
use crate::topic::TopicError;

/// A fault of the given settings.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum WebhookError {
    /// Answered with 400, as the original does.
    #[error("at least one topic pattern is needed")]
    NoPattern,
    #[error("{reason}")]
    Field { field: &'static str, reason: String },
    #[error("{pattern:?} {error}")]
    Pattern { pattern: String, error: TopicError },
    #[error("{0}")]
    Destination(#[from] DestinationError),
    #[error("{0}")]
    Secret(KeyError),
    #[error("{0}")]
    StandardSecret(KeyError),
    #[error("{0}")]
    Schedule(#[from] ScheduleError),
}

impl From<AccessError> for WebhookError {
    fn from(AccessError { field, reason }: AccessError) -> Self {
        Self::Field { field, reason }
    }
}

impl WebhookError {
    /// The field's name in the API.
    #[must_use]
    pub fn field(&self) -> &'static str {
        match self {
            Self::NoPattern | Self::Pattern { .. } => "topic_patterns",
            Self::Field { field, .. } => field,
            Self::Destination(_) => "url",
            Self::Secret(_) => "secret",
            Self::StandardSecret(_) => "standard_secret",
            Self::Schedule(_) => "retry_schedule",
        }
    }
}
