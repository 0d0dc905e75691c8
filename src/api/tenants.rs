//! `/tenants`: who has webhooks, events and tokens here, and how many. For operators.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};
use uuid::Uuid;

use super::App;
use super::auth::Operator;
use super::change::{Change, Changes, change_schema, new_schema, new_schemas};
use super::input::{FIRST_OF_A_LIST, Given, Id, Params};
use super::problem::{FieldError, Problem};
use super::views::{ListOrPage, Message, Time};
use crate::store::{TenantKey, TenantPatch, TenantRecord};
use crate::webhook::whole;

/// A tenant: whole to create one, in part to change one. `null` is like not given, but for quotas.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "blue-team", "quotas": {"max_webhooks": 20, "max_events_per_s": 500}}))]
pub(super) struct TenantInput {
    /// Unique; of `a-z`, `0-9` and `-`. The tenant `default` keeps its name.
    #[schema(min_length = 1, max_length = 64, pattern = "^[a-z0-9-]+$")]
    name: Option<String>,
    /// Without control characters.
    #[schema(max_length = 1024)]
    description: Option<String>,
    quotas: Option<QuotasInput>,
}

/// The most that a tenant may use; `null` is unlimited. A new tenant gets the server's `new_tenant_…` settings where nothing
/// is said.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(
    clippy::option_option,
    clippy::struct_field_names,
    reason = "`null` is a value of its own; names are the API's"
)]
struct QuotasInput {
    /// Webhooks there may be.
    #[serde(default, deserialize_with = "whole::given")]
    #[schema(maximum = 1_000_000_000, value_type = Option<u32>)]
    max_webhooks: Option<Option<u32>>,
    /// Events accepted a second, on the average and at once.
    #[serde(default, deserialize_with = "whole::given")]
    #[schema(maximum = 1_000_000_000, value_type = Option<u32>)]
    max_events_per_s: Option<Option<u32>>,
    /// Deliveries that may wait or be under way.
    #[serde(default, deserialize_with = "whole::given")]
    #[schema(maximum = 1_000_000_000, value_type = Option<u32>)]
    max_pending: Option<Option<u32>>,
    /// Tokens that may be neither revoked nor expired.
    #[serde(default, deserialize_with = "whole::given")]
    #[schema(maximum = 1_000_000_000, value_type = Option<u32>)]
    max_tokens: Option<Option<u32>>,
    /// Bytes that the bodies of the stored events may take.
    #[serde(default, deserialize_with = "whole::given")]
    #[schema(maximum = 1_125_899_906_842_624_i64, value_type = Option<u64>)]
    max_stored_bytes: Option<Option<u64>>,
}

/// The names of the shown figures of usage.
const USED: [&str; 4] = ["webhooks", "pending", "tokens", "stored_bytes"];

impl Changes for TenantInput {
    const READ_ONLY: &'static [&'static str] = &["uuid", "created_at", "webhooks", "pending", "tokens", "stored_bytes"];
    const MOVING: &'static [&'static str] = &USED;
}

impl TenantInput {
    fn checked(self) -> Result<TenantPatch, Problem> {
        let quotas = self.quotas.unwrap_or_default();
        let patch = TenantPatch {
            name: self.name,
            description: self.description,
            max_webhooks: quotas.max_webhooks,
            max_events_per_s: quotas.max_events_per_s,
            max_pending: quotas.max_pending,
            max_tokens: quotas.max_tokens,
            max_stored_bytes: quotas.max_stored_bytes,
        };
        let faults = patch.faults();
        let error = |(field, reason): (&str, String)| FieldError { field: field.to_owned(), reason };
        if faults.is_empty() { Ok(patch) } else { Err(Problem::fields(faults.into_iter().map(error).collect())) }
    }
}

/// A tenant.
#[derive(Serialize, ToSchema)]
pub(super) struct Tenant {
    uuid: Uuid,
    name: String,
    description: String,
    quotas: Quotas,
    created_at: Time,
}

/// The most that it may use; `null`: unlimited.
#[derive(Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "names are the API's")]
struct Quotas {
    #[schema(required)]
    max_webhooks: Option<u32>,
    #[schema(required)]
    max_events_per_s: Option<u32>,
    #[schema(required)]
    max_pending: Option<u32>,
    #[schema(required)]
    max_tokens: Option<u32>,
    #[schema(required)]
    max_stored_bytes: Option<u64>,
}

/// [`TenantInput`] for a new tenant: documents what is needed.
pub(super) struct NewTenant;

impl PartialSchema for NewTenant {
    fn schema() -> RefOr<Schema> {
        new_schema::<TenantInput>(&["name"], "A new tenant: its `name` is needed.")
    }
}

impl ToSchema for NewTenant {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        new_schemas::<TenantInput>(schemas);
    }
}

/// [`TenantInput`] for a tenant that is there: documents that what is shown is taken back.
pub(super) struct TenantChange;

impl PartialSchema for TenantChange {
    fn schema() -> RefOr<Schema> {
        let mut change = change_schema::<TenantInput, Tenant>();
        if let RefOr::T(Schema::Object(change)) = &mut change {
            change.properties.extend(USED.map(|name| (name.to_owned(), u64::schema())));
        }
        change
    }
}

impl ToSchema for TenantChange {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        TenantInput::schemas(schemas);
    }
}

/// A tenant with what it uses of its quotas.
#[derive(Serialize, ToSchema)]
pub(super) struct TenantDetail {
    #[serde(flatten)]
    tenant: Tenant,
    /// Webhooks there are.
    webhooks: u64,
    /// Deliveries that wait or are under way.
    pending: u64,
    /// Tokens that are neither revoked nor expired.
    tokens: u64,
    /// Bytes of the bodies of the stored events.
    stored_bytes: u64,
}

impl From<TenantRecord> for Tenant {
    fn from(record: TenantRecord) -> Self {
        let crate::store::Quotas { max_webhooks, max_events_per_s, max_pending, max_tokens, max_stored_bytes } =
            record.quotas;
        Self {
            uuid: record.uuid,
            name: record.name,
            description: record.description,
            quotas: Quotas { max_webhooks, max_events_per_s, max_pending, max_tokens, max_stored_bytes },
            created_at: Time(record.created_at),
        }
    }
}

fn find(app: &App, name_or_uuid: &str) -> Result<TenantRecord, Problem> {
    app.engine.tenants().find(name_or_uuid).ok_or_else(|| Problem::not_found("tenant"))
}

/// List the tenants
///
/// Oldest first: a page if `limit` or `cursor` is given, otherwise a bare array of at most 500.
#[utoipa::path(get, path = "/tenants", tag = "tenants", params(
    ("limit" = Option<u32>, Query, minimum = 1, maximum = 500, description = "50 by default, if a page is asked for."),
    ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before."),
), responses(
    (status = 200, body = ListOrPage<Tenant>),
    (status = 422, description = "A parameter is invalid or unknown."),
))]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    _: Operator,
    mut params: Params,
) -> Result<Json<ListOrPage<Tenant>>, Problem> {
    let page = params.page_or_list();
    params.finish()?;
    let is_page = page.is_some();
    let page = app.engine.store().tenant_page(page.unwrap_or(FIRST_OF_A_LIST)).await?;
    Ok(Json(ListOrPage::new(is_page, page, Tenant::from)))
}

/// Create a tenant
///
/// A quota of which nothing is said is the server's setting for new tenants (`new_tenant_…`); `null` is none.
#[utoipa::path(post, path = "/tenants", tag = "tenants", request_body = NewTenant, responses(
    (status = 201, body = Tenant),
    (status = 400, description = "The body is no JSON."),
    (status = 409, description = "The name is taken."),
    (status = 413, description = "The body is too large."),
    (status = 415, description = "The body is not `application/json`."),
    (status = 422, description = "A field is missing or invalid."),
    (status = 507, description = "The store is full."),
))]
pub(super) async fn create(
    State(app): State<Arc<App>>,
    Operator(act): Operator,
    Given { input, fields }: Given<TenantInput>,
) -> Result<(StatusCode, Json<Tenant>), Problem> {
    if input.name.is_none() {
        return Err(Problem::field("name", "is required"));
    }
    let tenant = app.engine.create_tenant(act.with_fields(fields), input.checked()?).await?;
    Ok((StatusCode::CREATED, Json(tenant.into())))
}

/// Show a tenant
///
/// With what it uses of its quotas.
#[utoipa::path(get, path = "/tenants/{tenant}", tag = "tenants",
    params(("tenant" = String, Path, description = "Its name or UUID.")), responses(
    (status = 200, body = TenantDetail),
    (status = 404, description = "There is no such tenant."),
))]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    _: Operator,
    Id(tenant): Id<String>,
) -> Result<Json<TenantDetail>, Problem> {
    let record = find(&app, &tenant)?;
    let store = app.engine.store();
    let webhooks = store.webhook_count(record.seq).await?;
    let tokens = store.token_count(record.seq, app.engine.now()).await?;
    let (pending, stored_bytes) = (store.pending(record.seq), store.stored_bytes(record.seq));
    Ok(Json(TenantDetail { webhooks, pending, tokens, stored_bytes, tenant: record.into() }))
}

/// Change a tenant
///
/// Changes what is given and leaves the rest; takes effect at once. What is shown may be given back whole. What is there beyond a new quota stays.
#[utoipa::path(patch, path = "/tenants/{tenant}", tag = "tenants",
    params(("tenant" = String, Path, description = "Its name or UUID.")), request_body = TenantChange, responses(
    (status = 200, body = Tenant),
    (status = 400, description = "The body is no JSON."),
    (status = 404, description = "There is no such tenant."),
    (status = 409, description = "The name is taken, or it is `default`, which keeps its name."),
    (status = 413, description = "The body is too large."),
    (status = 415, description = "The body is not `application/json`."),
    (status = 422, description = "A field is invalid."),
    (status = 507, description = "The store is full."),
))]
pub(super) async fn update(
    State(app): State<Arc<App>>,
    Operator(act): Operator,
    Id(tenant): Id<String>,
    change: Change<TenantInput>,
) -> Result<Json<Tenant>, Problem> {
    let record = find(&app, &tenant)?;
    let key = TenantKey::found_by(&tenant, &record);
    let shown = Tenant::from(record);
    let Given { mut input, fields } = change.checked(&shown)?;
    // One from before control characters were refused may be given back.
    input.description = input.description.filter(|description| *description != shown.description);
    let tenant = app.engine.update_tenant(act.with_fields(fields), key, input.checked()?).await?;
    Ok(Json(tenant.into()))
}

/// Delete a tenant
///
/// With `force` its webhooks go too, and their pending deliveries end as discarded. Its tokens are revoked at once.
#[utoipa::path(delete, path = "/tenants/{tenant}", tag = "tenants", params(
    ("tenant" = String, Path, description = "Its name or UUID."),
    ("force" = Option<bool>, Query, description = "Also if it has webhooks or pending deliveries; without a value it is `true`."),
), responses(
    (status = 200, body = Message),
    (status = 404, description = "There is no such tenant."),
    (status = 409, description = "It has webhooks or pending deliveries and `force` is not given, or it is `default`."),
    (status = 422, description = "A parameter is invalid or unknown."),
))]
pub(super) async fn delete(
    State(app): State<Arc<App>>,
    Operator(act): Operator,
    Id(tenant): Id<String>,
    mut params: Params,
) -> Result<Json<Message>, Problem> {
    let force = params.flag("force");
    params.finish()?;
    let key = TenantKey::found_by(&tenant, &find(&app, &tenant)?);
    app.engine.delete_tenant(act, key, force).await?;
    Ok(Json(Message { message: "Tenant deleted" }))
}
