//! Errors as a client sees them: problem details (RFC 9457), and what is logged beside them.

use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::dispatcher::shaping::PreviewError;
use crate::dispatcher::trial::TestRefused;
use crate::engine::{ChangeError, TestError};
use crate::event::{BatchError, EventError, HopError};
use crate::fit::fit;
use crate::ingest::PublishError;
use crate::signing::RotationError;
use crate::store::StoreError;
use crate::tenants::{ACT_BURST, ACTS_PER_S, QuotaError};
use crate::webhook::WebhookError;

pub(super) const CONTENT_TYPE_PROBLEM: &str = "application/problem+json";
/// The field name of the event itself in [`EventError::Field`].
const WHOLE_EVENT: &str = "event";
/// `Retry-After` of a full store, which needs an operator; an unavailable store needs only a moment.
const RETRY_AFTER_FULL_S: u32 = 5;
const RETRY_AFTER_UNAVAILABLE_S: u32 = 1;
/// `Retry-After` of limits of concurrent work.
pub(super) const RETRY_AFTER_BUSY: Duration = Duration::from_secs(1);

/// Problem details (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "type": "urn:postrider:problem:invalid-field",
    "title": "Unprocessable Content",
    "status": 422,
    "detail": "timeout_s: is 90, must be 1 to 60",
    "errors": [{"field": "timeout_s", "reason": "is 90, must be 1 to 60"}]
}))]
pub struct Problem {
    /// What kind of problem it is; stable, for programs.
    #[serde(rename = "type", serialize_with = "as_urn")]
    #[schema(example = "urn:postrider:problem:not-found")]
    kind: &'static str,
    /// The status in words.
    title: &'static str,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What is wrong, for people. Always set.
    detail: String,
    /// Every field that is wrong, if fields are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
    #[serde(skip)]
    retry_after_s: Option<u32>,
    /// For the log alone: may name paths and addresses.
    #[serde(skip)]
    internal: Option<String>,
}

/// One field that is wrong.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct FieldError {
    /// Its path: `topic`, `events[3].payload`, `body` for the whole, or a query parameter's name.
    #[schema(example = "topic")]
    pub field: String,
    #[schema(example = "must not be empty")]
    pub reason: String,
}

fn as_urn<S: Serializer>(kind: &&'static str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("urn:postrider:problem:{kind}"))
}

impl Problem {
    pub(super) fn new(status: StatusCode, kind: &'static str, detail: impl Into<String>) -> Self {
        Self {
            kind,
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
            retry_after_s: None,
            internal: None,
        }
    }

    pub(super) fn status(&self) -> u16 {
        self.status
    }

    /// What is wrong, for the log: the first field that is, or the detail.
    pub(super) fn reason(&self) -> String {
        match self.errors.first() {
            Some(FieldError { field, reason }) => format!("{field}: {reason}"),
            None => self.detail.clone(),
        }
    }

    pub(super) fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", format!("there is no such {what}"))
    }

    pub(super) fn unauthorized(detail: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
    }

    /// For a peer that has sent too many unknown tokens.
    pub(super) fn too_many_failures(wait: Duration) -> Self {
        let detail = "too many tokens from this address were not known; come back later";
        Self::too_many("too-many-failures", detail, wait)
    }

    /// For a tenant beyond its rate of audited acts.
    pub(super) fn too_many_acts(wait: Duration) -> Self {
        let detail = format!(
            "the tenant may do {ACTS_PER_S} acts for the audit log a second, and {ACT_BURST} at once; nothing was done"
        );
        Self::too_many("too-many-acts", detail, wait)
    }

    pub(super) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    pub(super) fn json(field: String, reason: String) -> Self {
        Self::with_fields(StatusCode::BAD_REQUEST, "invalid-json", vec![FieldError { field, reason }])
    }

    pub(super) fn field(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::fields(vec![FieldError { field: field.into(), reason: reason.into() }])
    }

    pub(super) fn fields(errors: Vec<FieldError>) -> Self {
        Self::with_fields(StatusCode::UNPROCESSABLE_ENTITY, "invalid-field", errors)
    }

    pub(super) fn too_large(limit: usize) -> Self {
        Self::too_large_field("body", format!("is too large, the limit is {limit} bytes"))
    }

    fn too_large_field(field: &str, reason: String) -> Self {
        let errors = vec![FieldError { field: field.to_owned(), reason }];
        Self::with_fields(StatusCode::PAYLOAD_TOO_LARGE, "too-large", errors)
    }

    pub(super) fn media_type(reason: String) -> Self {
        let errors = vec![FieldError { field: "Content-Type".to_owned(), reason }];
        Self::with_fields(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", errors)
    }

    pub(super) fn content_encoding(reason: String) -> Self {
        let errors = vec![FieldError { field: "Content-Encoding".to_owned(), reason }];
        Self::with_fields(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", errors)
    }

    pub(super) fn unavailable(detail: &str) -> Self {
        let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail);
        Self { retry_after_s: Some(RETRY_AFTER_UNAVAILABLE_S), ..problem }
    }

    /// A 429; `wait` is its `Retry-After`.
    pub(super) fn too_many(kind: &'static str, detail: impl Into<String>, wait: Duration) -> Self {
        // Rounded up to whole seconds, so that the wait is long enough.
        let seconds = fit(wait.as_millis().div_ceil(1_000), u32::MAX).max(1);
        Self { retry_after_s: Some(seconds), ..Self::new(StatusCode::TOO_MANY_REQUESTS, kind, detail) }
    }

    /// A 500. `internal` goes to the log alone.
    pub(super) fn internal(internal: String) -> Self {
        let problem = Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the server failed; its log says why");
        Self { internal: Some(internal), ..problem }
    }

    fn with_fields(status: StatusCode, kind: &'static str, errors: Vec<FieldError>) -> Self {
        let texts: Vec<String> = errors.iter().map(|error| format!("{}: {}", error.field, error.reason)).collect();
        Self { errors, ..Self::new(status, kind, texts.join("; ")) }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        match &self.internal {
            Some(internal) if status == StatusCode::INTERNAL_SERVER_ERROR => {
                tracing::error!(status = self.status, error = %internal, "a request failed");
            }
            // A store that is full or unavailable refuses many requests, and logs that itself.
            Some(internal) => tracing::debug!(status = self.status, error = %internal, "a request was refused"),
            None => {}
        }
        let mut response = (status, axum::Json(&self)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE_PROBLEM));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        match status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"postrider\""));
            }
            // The rest of the body is not read.
            StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT => {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let internal = Some(error.to_string());
        match error {
            StoreError::Full(_) => Self {
                retry_after_s: Some(RETRY_AFTER_FULL_S),
                internal,
                ..Self::new(StatusCode::INSUFFICIENT_STORAGE, "store-full", "the store is full; nothing was stored")
            },
            StoreError::Unavailable(_) => {
                Self { internal, ..Self::unavailable("the store is unavailable; nothing was stored") }
            }
            StoreError::NotFound => Self::not_found("thing"),
            StoreError::NameTaken => {
                let errors = vec![FieldError { field: "name".to_owned(), reason: "is taken".to_owned() }];
                Self::with_fields(StatusCode::CONFLICT, "name-taken", errors)
            }
            StoreError::IdTaken { index } => {
                let taken = FieldError { field: format!("events[{index}].id"), reason: error.to_string() };
                Self::with_fields(StatusCode::CONFLICT, "event-id-conflict", vec![taken])
            }
            StoreError::IdempotencyConflict => Self::new(
                StatusCode::CONFLICT,
                "idempotency-conflict",
                "the Idempotency-Key was used with another body; nothing was stored",
            ),
            StoreError::TooManyWebhooks { .. } => Self::new(StatusCode::CONFLICT, "quota-webhooks", error.to_string()),
            StoreError::TooManyTokens { .. } => Self::new(StatusCode::CONFLICT, "quota-tokens", error.to_string()),
            StoreError::TooManyInlets { .. } => Self::new(StatusCode::CONFLICT, "quota-inlets", error.to_string()),
            StoreError::TooManySettings { .. } => Self::new(StatusCode::CONFLICT, "quota-settings", error.to_string()),
            StoreError::Stale => Self::new(StatusCode::CONFLICT, "conflict", error.to_string()),
            StoreError::Conflict(reason) => Self::new(StatusCode::CONFLICT, "conflict", reason),
            StoreError::Cursor => Self::field("cursor", "is not one that this server gave out"),
            StoreError::Corrupt(_) => Self::internal(error.to_string()),
        }
    }
}

impl From<PublishError> for Problem {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Draining => Self::unavailable("the server is shutting down"),
            PublishError::Quota(error) => error.into(),
            PublishError::ReservedTopic { index } => Self::field(format!("events[{index}].topic"), error.to_string()),
            PublishError::UnknownWebhook { index, .. } => {
                Self::field(format!("events[{index}].webhooks"), error.to_string())
            }
            PublishError::TooManyDeliveries { .. } => Self::field("events", error.to_string()),
            PublishError::Store(error) => error.into(),
        }
    }
}

impl From<TestError> for Problem {
    fn from(error: TestError) -> Self {
        let refused = match error {
            TestError::Store(error) => return error.into(),
            TestError::Refused(refused) => refused,
        };
        let (kind, wait) = match refused {
            TestRefused::TooMany => ("too-many-tests", RETRY_AFTER_BUSY),
            TestRefused::Busy => ("webhook-busy", RETRY_AFTER_BUSY),
            TestRefused::RateLimited { wait } => ("webhook-rate-limit", wait),
        };
        Self::too_many(kind, refused.to_string(), wait)
    }
}

impl From<HopError> for Problem {
    fn from(error: HopError) -> Self {
        match error {
            HopError::Malformed => {
                let errors = vec![FieldError { field: "Postrider-Hops".to_owned(), reason: error.to_string() }];
                Self::with_fields(StatusCode::BAD_REQUEST, "invalid-hops", errors)
            }
            HopError::Loop | HopError::TooMany => Self::new(StatusCode::LOOP_DETECTED, "loop", error.to_string()),
        }
    }
}

impl From<QuotaError> for Problem {
    fn from(error: QuotaError) -> Self {
        let kind = match error {
            QuotaError::EventRate { .. } | QuotaError::TooManyAtOnce { .. } => "quota-events",
            QuotaError::Pending { .. } => "quota-pending",
            QuotaError::StoredBytes { .. } => "quota-stored-bytes",
            QuotaError::Arriving { .. } => "too-many-deliveries",
        };
        match error.retry_after() {
            Some(wait) => Self::too_many(kind, error.to_string(), wait),
            None => Self::new(StatusCode::TOO_MANY_REQUESTS, kind, error.to_string()),
        }
    }
}

impl From<PreviewError> for Problem {
    fn from(error: PreviewError) -> Self {
        match error {
            PreviewError::TooMany => Self::too_many("too-many-previews", error.to_string(), RETRY_AFTER_BUSY),
            PreviewError::BrokeOff => Self::internal(error.to_string()),
        }
    }
}

impl From<ChangeError> for Problem {
    fn from(error: ChangeError) -> Self {
        let errors = match error {
            ChangeError::Store(error) => return error.into(),
            ChangeError::Rotation(error) => return error.into(),
            ChangeError::Invalid(errors) => errors,
        };
        // The original answers 400 if no pattern is given, and 422 to all other errors.
        let only_patterns_missing = errors.iter().all(|error| matches!(error, WebhookError::NoPattern));
        let fields = errors
            .iter()
            .map(|error| FieldError { field: error.field().to_owned(), reason: error.to_string() })
            .collect();
        if only_patterns_missing {
            Self::with_fields(StatusCode::BAD_REQUEST, "no-pattern", fields)
        } else {
            Self::fields(fields)
        }
    }
}

impl From<RotationError> for Problem {
    fn from(error: RotationError) -> Self {
        let field = match error {
            RotationError::TooMany { .. } => {
                return Self::new(StatusCode::CONFLICT, "too-many-keys", error.to_string());
            }
            RotationError::Overlap { .. } => "overlap_s",
            RotationError::SameSecret => "secret",
            RotationError::SameStandardKey => "standard_secret",
        };
        Self::field(field, error.to_string())
    }
}

impl From<EventError> for Problem {
    fn from(error: EventError) -> Self {
        event_problem(None, error)
    }
}

impl From<BatchError> for Problem {
    fn from(error: BatchError) -> Self {
        match error {
            BatchError::Event { index, error } => event_problem(Some(index), error),
            BatchError::NotAnArray(error) => error.into(),
            BatchError::TooLarge { limit, .. } => Self::too_large(limit),
            BatchError::Empty | BatchError::TooManyEvents { .. } => Self::field("body", error.to_string()),
        }
    }
}

impl From<PathRejection> for Problem {
    fn from(_: PathRejection) -> Self {
        Self::not_found("thing")
    }
}

/// The problem of an event: the `index`th of a batch, or a single one.
fn event_problem(index: Option<usize>, error: EventError) -> Problem {
    let path = |field: &str| match (index, field) {
        (Some(index), "" | WHOLE_EVENT) => format!("events[{index}]"),
        (Some(index), field) => format!("events[{index}].{field}"),
        (None, "" | WHOLE_EVENT) => "body".to_owned(),
        (None, field) => field.to_owned(),
    };
    match error {
        EventError::Json { .. } => Problem::json(path(""), error.to_string()),
        EventError::TooLarge { length, limit } => {
            Problem::too_large_field(&path(""), format!("is {length} bytes long, the limit is {limit}"))
        }
        EventError::Field { field, reason } => Problem::field(path(&field), reason),
        EventError::Topic(error) => Problem::field(path("topic"), error.to_string()),
    }
}
