//! `/sources`: where events come from by themselves, and what they brought that is no event. For operators.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::App;
use super::auth::Operator;
use super::input::{Id, NoInput, Params};
use super::problem::Problem;
use super::views::{Message, PageOfItems, Time};
use crate::sources::{Again, DISCARD, RetryError, Status};
use crate::store::StoreError;

/// A source of this server, as this node knows it.
#[derive(Serialize, ToSchema)]
pub(super) struct Source {
    name: String,
    /// The kind of its origin.
    #[schema(example = "decnet-bus")]
    kind: &'static str,
    /// The name of the tenant that owns the events.
    tenant: String,
    state: Condition,
    /// Since when it is in this state.
    since: Time,
    /// What is wrong, while it waits or fails.
    #[schema(required)]
    reason: Option<String>,
    /// Events accepted since this node's start.
    accepted: u64,
    /// Messages that had come before.
    duplicates: u64,
    /// Messages that can be no events, since this node's start.
    rejected: u64,
    /// Messages that were lost, because the origin does not wait.
    lost: u64,
    /// Messages that were read and wait for their commit.
    queued: u64,
    queued_bytes: u64,
    #[schema(required)]
    last_accepted_at: Option<Time>,
    /// Rejected messages that are kept, from all nodes: `/sources/{name}/rejected`.
    kept_rejected: u64,
}

/// How a source is.
#[derive(Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = SourceState)]
enum Condition {
    /// It connects to its origin.
    Starting,
    Running,
    /// It holds messages back, because they cannot be accepted now.
    Waiting,
    /// It failed, and tries again.
    Failing,
    /// It runs on another node.
    Elsewhere,
    Stopped,
}

impl Condition {
    fn of(state: &crate::sources::State) -> Self {
        match state {
            crate::sources::State::Starting => Self::Starting,
            crate::sources::State::Running => Self::Running,
            crate::sources::State::Waiting { .. } => Self::Waiting,
            crate::sources::State::Failing { .. } => Self::Failing,
            crate::sources::State::Elsewhere => Self::Elsewhere,
            crate::sources::State::Stopped => Self::Stopped,
        }
    }
}

impl Source {
    fn of(status: &Status, kept_rejected: u64) -> Self {
        let (state, since) = status.state();
        let traffic = status.traffic();
        Self {
            name: status.name().to_owned(),
            kind: status.kind(),
            tenant: status.tenant().to_owned(),
            state: Condition::of(&state),
            since: Time(since),
            reason: state.trouble().map(str::to_owned),
            accepted: traffic.accepted,
            duplicates: traffic.duplicates,
            rejected: traffic.rejected,
            lost: traffic.lost,
            queued: traffic.queued,
            queued_bytes: traffic.queued_bytes,
            last_accepted_at: status.last_accepted_at().map(Time),
            kept_rejected,
        }
    }
}

/// A message that can be no event, as it came.
#[derive(Serialize, ToSchema)]
pub(super) struct Rejected {
    uuid: Uuid,
    source: String,
    at: Time,
    /// Why it is no event.
    reason: String,
    /// The origin's id of the message.
    #[schema(required)]
    origin_id: Option<String>,
    /// What came beside the body, by name.
    #[schema(value_type = Object)]
    attributes: serde_json::Value,
    /// The body as it came has so many bytes.
    length: u64,
    /// The body, if it is UTF-8; in a list its first 1,024 bytes.
    #[schema(required)]
    body: Option<String>,
    /// The same in base64, if it is not UTF-8.
    #[schema(required)]
    body_base64: Option<String>,
}

impl From<crate::store::rejected::Rejected> for Rejected {
    fn from(message: crate::store::rejected::Rejected) -> Self {
        let (body, body_base64) = match shown_text(message.body) {
            Ok(text) => (Some(text), None),
            Err(bytes) => (None, Some(STANDARD.encode(bytes))),
        };
        Self {
            uuid: message.uuid,
            source: message.source,
            at: Time(message.at),
            reason: message.reason,
            origin_id: message.origin_id,
            attributes: serde_json::from_str(&message.attributes).unwrap_or_default(),
            length: message.length,
            body,
            body_base64,
        }
    }
}

/// The text, if the bytes are one. A list may have cut its last character.
fn shown_text(bytes: Vec<u8>) -> Result<String, Vec<u8>> {
    String::from_utf8(bytes).or_else(|error| {
        let (valid, is_cut) = (error.utf8_error().valid_up_to(), error.utf8_error().error_len().is_none());
        let mut bytes = error.into_bytes();
        if !is_cut {
            return Err(bytes);
        }
        bytes.truncate(valid);
        String::from_utf8(bytes).map_err(std::string::FromUtf8Error::into_bytes)
    })
}

/// What came of a rejected message that was sent again.
#[derive(Serialize, ToSchema)]
pub(super) struct Retried {
    /// The id of the event.
    id: String,
    /// How many webhooks get it.
    deliveries: u32,
    /// The event had come before.
    duplicate: bool,
}

/// The name of a source and the id of a message.
pub(super) struct MessageId {
    source: String,
    uuid: Uuid,
}

impl<S: Send + Sync> FromRequestParts<S> for MessageId {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path((source, uuid)) = Path::<(String, String)>::from_request_parts(parts, state).await?;
        let uuid = Uuid::try_parse(&uuid).map_err(|_| Problem::not_found("message"))?;
        Ok(Self { source, uuid })
    }
}

/// List the sources
///
/// A bare array, in the order of the settings file. States and counts are those of the node that answers.
#[utoipa::path(get, path = "/sources", tag = "sources", responses((status = 200, body = [Source])))]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    _: Operator,
    params: Params,
) -> Result<Json<Vec<Source>>, Problem> {
    params.finish()?;
    let kept: HashMap<String, u64> = app.engine.store().rejected_counts().await?.into_iter().collect();
    let count = |status: &Status| kept.get(status.name()).copied().unwrap_or(0);
    Ok(Json(app.sources.statuses().map(|status| Source::of(status, count(status))).collect()))
}

/// List what a source brought that is no event
///
/// Oldest first, with the beginnings of the messages. The source need not be configured any more.
#[utoipa::path(get, path = "/sources/{name}/rejected", tag = "sources", params(
    ("name" = String, Path, description = "The source's name."),
    ("limit" = Option<u32>, Query, minimum = 1, maximum = 500, description = "50 by default."),
    ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before."),
), responses(
    (status = 200, body = PageOfItems<Rejected>),
    (status = 404, description = "There is no such source, and there are no messages of one."),
    (status = 422, description = "A parameter is invalid or unknown."),
))]
pub(super) async fn rejected(
    State(app): State<Arc<App>>,
    _: Operator,
    Id(name): Id<String>,
    mut params: Params,
) -> Result<Json<PageOfItems<Rejected>>, Problem> {
    let page = params.page();
    params.finish()?;
    let page = app.engine.store().rejected_page(&name, page).await?;
    if page.items.is_empty() && app.sources.status(&name).is_none() {
        return Err(Problem::not_found("source"));
    }
    Ok(Json(PageOfItems::new(page, Rejected::from)))
}

/// Show a rejected message whole
#[utoipa::path(get, path = "/sources/{name}/rejected/{uuid}", tag = "sources", params(
    ("name" = String, Path, description = "The source's name."),
    ("uuid" = Uuid, Path, description = "The message's id."),
), responses(
    (status = 200, body = Rejected),
    (status = 404, description = "There is no such message."),
))]
pub(super) async fn show_rejected(
    State(app): State<Arc<App>>,
    _: Operator,
    MessageId { source, uuid }: MessageId,
    params: Params,
) -> Result<Json<Rejected>, Problem> {
    params.finish()?;
    let message = app.engine.store().rejected(&source, uuid).await?;
    message.map(|message| Json(message.into())).ok_or_else(|| Problem::not_found("message"))
}

/// Try a rejected message again
///
/// As the source is configured now. What is accepted is rejected no longer.
#[utoipa::path(post, path = "/sources/{name}/rejected/{uuid}/retry", tag = "sources", params(
    ("name" = String, Path, description = "The source's name."),
    ("uuid" = Uuid, Path, description = "The message's id."),
), responses(
    (status = 200, body = Retried, description = "It is accepted."),
    (status = 404, description = "There is no such message."),
    (status = 409, description = "It is still no event, was not kept whole, or its source is not configured."),
    (status = 429, description = "A quota of the tenant is used up."),
    (status = 507, description = "The store is full."),
))]
pub(super) async fn retry(
    State(app): State<Arc<App>>,
    Operator(act): Operator,
    MessageId { source, uuid }: MessageId,
    _: NoInput,
) -> Result<Json<Retried>, Problem> {
    let conflict = |detail: String| Problem::new(StatusCode::CONFLICT, "conflict", detail);
    match app.sources.retry(act, &source, uuid).await {
        Ok(Again::Accepted(receipt)) => {
            Ok(Json(Retried { id: receipt.id, deliveries: receipt.deliveries, duplicate: receipt.duplicate }))
        }
        Ok(Again::Rejected(reason)) => Err(conflict(format!("it is still no event: {reason}"))),
        Err(RetryError::NotConfigured) => Err(conflict(RetryError::NotConfigured.to_string())),
        Err(error @ RetryError::Cut { .. }) => Err(conflict(error.to_string())),
        Err(RetryError::Publish(error)) => Err(error.into()),
        Err(RetryError::Store(StoreError::NotFound)) => Err(Problem::not_found("message")),
        Err(RetryError::Store(error)) => Err(error.into()),
    }
}

/// Discard a rejected message
///
/// It is deleted, and cannot be tried again.
#[utoipa::path(delete, path = "/sources/{name}/rejected/{uuid}", tag = "sources", params(
    ("name" = String, Path, description = "The source's name."),
    ("uuid" = Uuid, Path, description = "The message's id."),
), responses(
    (status = 200, body = Message),
    (status = 404, description = "There is no such message."),
))]
pub(super) async fn discard(
    State(app): State<Arc<App>>,
    Operator(act): Operator,
    MessageId { source, uuid }: MessageId,
    params: Params,
) -> Result<Json<Message>, Problem> {
    params.finish()?;
    let discarded = app.engine.audited(&act).delete_rejected(&source, uuid, DISCARD, app.engine.now()).await;
    match discarded {
        Ok(()) => Ok(Json(Message { message: "Message discarded" })),
        Err(StoreError::NotFound) => Err(Problem::not_found("message")),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_character_leaves_a_text_and_other_bytes_none() {
        assert_eq!(shown_text("aä".as_bytes()[..2].to_vec()), Ok("a".to_owned()));
        assert_eq!(shown_text(vec![b'a', 0xff, b'b']), Err(vec![b'a', 0xff, b'b']));
        assert_eq!(shown_text(Vec::new()), Ok(String::new()));
    }
}
