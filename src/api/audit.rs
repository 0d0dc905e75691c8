//! `/audit`: who did what.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::App;
use super::auth::Auditor;
use super::input::Params;
use super::problem::Problem;
use super::views::Time;
use crate::store::AuditFilter;

/// One act. Names are those of that moment; values of settings are never kept.
#[derive(Serialize, ToSchema)]
pub(super) struct AuditEntry {
    id: Uuid,
    at: Time,
    /// The name of the tenant concerned.
    tenant: String,
    actor: Actor,
    /// What was done.
    #[schema(example = "webhook.create")]
    action: String,
    /// The id of the thing concerned.
    #[schema(required)]
    target: Option<String>,
    /// Its name; of a delivery the event's id.
    #[schema(required)]
    target_name: Option<String>,
    /// Names of the settings that were given.
    fields: Vec<String>,
    /// The client's address, as this server saw it: a proxy's, if there is one between.
    #[schema(required)]
    address: Option<String>,
}

/// Whose token was used.
#[derive(Serialize, ToSchema)]
struct Actor {
    /// The token's UUID; `null`: the token that the server's environment gave, or the server itself.
    #[schema(required)]
    token: Option<Uuid>,
    /// The token's name, `environment`, or `server`.
    name: String,
}

/// A page of the audit log.
#[derive(Serialize, ToSchema)]
pub(super) struct AuditPage {
    items: Vec<AuditEntry>,
    /// To be sent as `cursor` for the next page; `null`: this is the last one. A page may be empty and not the last.
    #[schema(required)]
    next_cursor: Option<String>,
}

impl From<crate::store::AuditEntry> for AuditEntry {
    fn from(entry: crate::store::AuditEntry) -> Self {
        Self {
            id: entry.id,
            at: Time(entry.at),
            tenant: entry.tenant,
            actor: Actor { token: entry.actor.token, name: entry.actor.name },
            action: entry.action,
            target: entry.target,
            target_name: entry.target_name,
            fields: entry.fields,
            address: entry.address,
        }
    }
}

/// A text that a column may have: no line of the log has U+0000, and PostgreSQL has no such text to compare with.
fn without_nul(text: &str) -> Result<String, String> {
    if text.contains('\0') { Err("must not have U+0000".to_owned()) } else { Ok(text.to_owned()) }
}

/// List who did what
///
/// Newest first. An operator sees all tenants, or the one that `X-Postrider-Tenant` names; an admin its own. The answers
/// to `webhook.create`, `webhook.rotate` and `token.create` showed secrets, this once. Lines older than the setting
/// `retention_audit` are deleted; a line of the server's own, `audit.purge`, says how many and from when until when.
#[utoipa::path(get, path = "/audit", tag = "audit", params(
    ("action" = Option<String>, Query, description = "An action as in `webhook.create`, or all of a kind as in `webhook`."),
    ("actor" = Option<String>, Query, description = "A token's UUID or name, `environment`, or `server`."),
    ("since" = Option<String>, Query, description = "Done at or after: RFC 3339 or unix seconds."),
    ("until" = Option<String>, Query, description = "Done before: RFC 3339 or unix seconds."),
    ("limit" = Option<u32>, Query, minimum = 1, maximum = 500, description = "50 by default."),
    ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before."),
), responses(
    (status = 200, body = AuditPage),
    (status = 422, description = "A parameter is invalid or unknown."),
))]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Auditor(tenant): Auditor,
    mut params: Params,
) -> Result<Json<AuditPage>, Problem> {
    let filter = AuditFilter {
        tenant,
        action: params.take("action", without_nul),
        actor: params.take("actor", without_nul),
        since: params.time("since"),
        until: params.time("until"),
    };
    let page = params.page();
    params.finish()?;
    let page = app.engine.store().audit(&filter, page).await?;
    Ok(Json(AuditPage { items: page.items.into_iter().map(AuditEntry::from).collect(), next_cursor: page.next_cursor }))
}
