//! `/tokens`: who may do what.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::App;
use super::auth::{Admin, AnyAdmin, hash_token, new_token};
use super::input::{FIRST_OF_A_LIST, Id, JsonBody, Moment, Params};
use super::problem::{FieldError, Problem};
use super::views::{ListOrPage, Message, Time};
use crate::store::{NewToken, TokenRecord};
use crate::webhook::DEFAULT_TENANT;

const MAX_NAME_CHARS: usize = 64;

/// What a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Scope {
    /// Everything in every tenant, and the tenants themselves; for tokens of the tenant `default`.
    Operator,
    /// Everything in its tenant, tokens and the audit log included.
    Admin,
    /// Send events.
    Publish,
    /// See everything but secrets, tokens and the audit log.
    Read,
}

impl From<Scope> for crate::store::Scope {
    fn from(scope: Scope) -> Self {
        match scope {
            Scope::Operator => Self::Operator,
            Scope::Admin => Self::Admin,
            Scope::Publish => Self::Publish,
            Scope::Read => Self::Read,
        }
    }
}

impl From<crate::store::Scope> for Scope {
    fn from(scope: crate::store::Scope) -> Self {
        match scope {
            crate::store::Scope::Operator => Self::Operator,
            crate::store::Scope::Admin => Self::Admin,
            crate::store::Scope::Publish => Self::Publish,
            crate::store::Scope::Read => Self::Read,
        }
    }
}

/// A token to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "honeypot fleet", "scopes": ["publish"]}))]
pub(super) struct TokenInput {
    /// For people; need not be unique.
    #[schema(min_length = 1, max_length = 64)]
    name: String,
    #[schema(min_items = 1)]
    scopes: Vec<Scope>,
    /// In the future; without it the token is good until it is revoked.
    expires_at: Option<Moment>,
}

/// A token, without the token itself.
#[derive(Serialize, ToSchema)]
pub(super) struct Token {
    uuid: Uuid,
    name: String,
    scopes: Vec<Scope>,
    created_at: Time,
    /// `null`: good until revoked.
    #[schema(required)]
    expires_at: Option<Time>,
    /// To the minute; `null`: never.
    #[schema(required)]
    last_used_at: Option<Time>,
}

/// A token just made: the only answer that shows it.
#[derive(Serialize, ToSchema)]
pub(super) struct CreatedToken {
    #[serde(flatten)]
    record: Token,
    /// To be sent as `Authorization: Bearer <token>`. It is kept as a hash and cannot be shown again.
    #[schema(example = "pr_Vw2dGkHkL1c5oY3bqHq7mX0sU9t4ZrJ8eNf6AaBbCcD")]
    token: String,
}

impl From<TokenRecord> for Token {
    fn from(record: TokenRecord) -> Self {
        Self {
            uuid: record.uuid,
            name: record.name,
            scopes: record.scopes.into_iter().map(Scope::from).collect(),
            created_at: Time(record.created_at),
            expires_at: record.expires_at.map(Time),
            last_used_at: record.last_used_at.map(Time),
        }
    }
}

/// List the tokens
///
/// Oldest first: a page if `limit` or `cursor` is given, otherwise a bare array of at most 500.
#[utoipa::path(get, path = "/tokens", tag = "tokens", params(
    ("limit" = Option<u32>, Query, minimum = 1, maximum = 500, description = "50 by default, if a page is asked for."),
    ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before."),
), responses(
    (status = 200, body = ListOrPage<Token>),
    (status = 422, description = "A parameter is invalid or unknown."),
))]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Admin(act): Admin,
    mut params: Params,
) -> Result<Json<ListOrPage<Token>>, Problem> {
    let page = params.page_or_list();
    params.finish()?;
    let is_page = page.is_some();
    let page = app.engine.store().token_page(act.tenant, page.unwrap_or(FIRST_OF_A_LIST)).await?;
    Ok(Json(ListOrPage::new(is_page, page, Token::from)))
}

/// Make a token
///
/// The answer is the only one that shows the token.
#[utoipa::path(post, path = "/tokens", tag = "tokens", request_body = TokenInput, responses(
    (status = 201, body = CreatedToken),
    (status = 400, description = "The body is no JSON."),
    (status = 409, description = "The tenant has as many as it may (`quota-tokens`)."),
    (status = 413, description = "The body is too large."),
    (status = 415, description = "The body is not `application/json`."),
    (status = 422, description = "A field is invalid."),
    (status = 507, description = "The store is full."),
))]
pub(super) async fn create(
    State(app): State<Arc<App>>,
    AnyAdmin { act, is_operator }: AnyAdmin,
    JsonBody(input): JsonBody<TokenInput>,
) -> Result<(StatusCode, Json<CreatedToken>), Problem> {
    let now = app.engine.now();
    let mut errors = Vec::new();
    let mut wrong = |field: &str, reason: String| errors.push(FieldError { field: field.to_owned(), reason });
    let chars = input.name.chars().count();
    if !(1..=MAX_NAME_CHARS).contains(&chars) || input.name.chars().any(char::is_control) {
        wrong("name", format!("must have 1 to {MAX_NAME_CHARS} characters, none of them a control character"));
    }
    if input.scopes.is_empty() {
        wrong("scopes", "at least one of admin, publish and read is needed".to_owned());
    }
    let wants_operator = input.scopes.contains(&Scope::Operator);
    if wants_operator && act.tenant != DEFAULT_TENANT {
        wrong("scopes", "an operator's token belongs to the tenant `default`".to_owned());
    }
    let expires_at = input.expires_at.map(|Moment(at)| at);
    if expires_at.is_some_and(|at| at <= now) {
        wrong("expires_at", "is in the past".to_owned());
    }
    if !errors.is_empty() {
        return Err(Problem::fields(errors));
    }
    if wants_operator && !is_operator {
        return Err(Problem::forbidden("only an operator may make an operator's token"));
    }
    let token = new_token().map_err(|error| Problem::internal(error.to_string()))?;
    let mut scopes: Vec<crate::store::Scope> = input.scopes.into_iter().map(Into::into).collect();
    scopes.sort_unstable();
    scopes.dedup();
    let record = NewToken { tenant: act.tenant, name: input.name, scopes, hash: hash_token(&token), expires_at, now };
    let record = app.engine.audited(&act).create_token(record).await?.into();
    Ok((StatusCode::CREATED, Json(CreatedToken { record, token: token.expose_secret().to_owned() })))
}

/// Revoke a token
///
/// Requests that carry it are refused from now on.
#[utoipa::path(delete, path = "/tokens/{uuid}", tag = "tokens", params(("uuid" = Uuid, Path)), responses(
    (status = 200, body = Message),
    (status = 403, description = "It is an operator's, and the caller is none."),
    (status = 404, description = "There is no such token."),
))]
pub(super) async fn revoke(
    State(app): State<Arc<App>>,
    AnyAdmin { act, is_operator }: AnyAdmin,
    Id(uuid): Id<Uuid>,
    params: Params,
) -> Result<Json<Message>, Problem> {
    params.finish()?;
    if !is_operator {
        // Scopes never change, so the check may come before the transaction.
        let token = app.engine.store().token(act.tenant, uuid).await?;
        if token.is_some_and(|token| token.permits(crate::store::Scope::Operator)) {
            return Err(Problem::forbidden("only an operator may revoke an operator's token"));
        }
    }
    if app.engine.revoke_token(act, uuid).await? {
        Ok(Json(Message { message: "Token revoked" }))
    } else {
        Err(Problem::not_found("token"))
    }
}
