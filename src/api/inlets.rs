//! `/inlets`: where other senders' webhooks come in.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};
use uuid::Uuid;

use super::App;
use super::auth::{Admin, Reader};
use super::change::{Change, Changes, change_schema, new_schema, new_schemas};
use super::input::{FIRST_OF_A_LIST, Given, Id, Params};
use super::problem::{FieldError, Problem};
use super::views::{ListOrPage, Message, Time};
use crate::inlet::{InletFault, InletPatch, InletRecord, InletSettings, InletSignature, KeepInput};
use crate::signing::SHOWN_SECRET;
use crate::store::StoreError;
use crate::webhook::TenantSeq;

impl Changes for InletPatch {
    const READ_ONLY: &'static [&'static str] = &["uuid", "path", "created_at", "updated_at"];
    const MOVING: &'static [&'static str] = &["updated_at"];
}

/// An inlet.
#[derive(Serialize, ToSchema)]
pub(super) struct Inlet {
    uuid: Uuid,
    name: String,
    /// Where its sender sends to, at this server.
    #[schema(example = "/in/0b0e8f4e-7a2e-4c3d-9c1b-2f6d8a4e5b10")]
    path: String,
    signature: InletSignature,
    /// Each as `…`.
    secrets: Vec<&'static str>,
    tolerance_s: u64,
    topic: String,
    /// Empty: what the sender is known to say.
    r#type: String,
    /// Empty: what the sender is known to say.
    id: String,
    keep: KeepInput,
    enabled: bool,
    created_at: Time,
    updated_at: Time,
}

impl From<InletRecord> for Inlet {
    fn from(record: InletRecord) -> Self {
        let InletRecord { uuid, settings, created_at, updated_at, .. } = record;
        let text = |template: &Option<crate::mapping::Template>| {
            template.as_ref().map(|template| template.as_str().to_owned()).unwrap_or_default()
        };
        Self {
            uuid,
            path: format!("/in/{uuid}"),
            signature: InletSignature(settings.sender.signature()),
            secrets: settings.sender.secrets().iter().map(|_| SHOWN_SECRET).collect(),
            tolerance_s: settings.tolerance_s,
            topic: settings.topic.as_str().to_owned(),
            r#type: text(&settings.kind),
            id: text(&settings.id),
            keep: settings.keep.input(),
            enabled: settings.enabled,
            name: settings.name,
            created_at: Time(created_at),
            updated_at: Time(updated_at),
        }
    }
}

/// [`InletPatch`] for a new inlet: documents what is needed.
pub(super) struct NewInlet;

impl PartialSchema for NewInlet {
    fn schema() -> RefOr<Schema> {
        let description = "A new inlet: its `name`, `signature` and `topic` are needed.";
        new_schema::<InletPatch>(&["name", "signature", "topic"], description)
    }
}

impl ToSchema for NewInlet {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        new_schemas::<InletPatch>(schemas);
    }
}

/// [`InletPatch`] for an inlet that is there: documents that what is shown is taken back.
pub(super) struct InletChange;

impl PartialSchema for InletChange {
    fn schema() -> RefOr<Schema> {
        change_schema::<InletPatch, Inlet>()
    }
}

impl ToSchema for InletChange {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        InletPatch::schemas(schemas);
    }
}

fn invalid(faults: Vec<InletFault>) -> Problem {
    let error = |InletFault { field, reason }: InletFault| FieldError { field: field.to_owned(), reason };
    Problem::fields(faults.into_iter().map(error).collect())
}

async fn find(app: &App, tenant: TenantSeq, uuid: Uuid) -> Result<InletRecord, Problem> {
    app.engine.store().inlet(tenant, uuid).await?.ok_or_else(|| Problem::not_found("inlet"))
}

fn gone(error: StoreError) -> Problem {
    match error {
        StoreError::NotFound => Problem::not_found("inlet"),
        error => error.into(),
    }
}

/// List the inlets
///
/// Oldest first: a page if `limit` or `cursor` is given, otherwise a bare array of at most 500.
#[utoipa::path(get, path = "/inlets", tag = "inlets", params(
    ("limit" = Option<u32>, Query, minimum = 1, maximum = 500, description = "50 by default, if a page is asked for."),
    ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before."),
), responses(
    (status = 200, body = ListOrPage<Inlet>),
    (status = 422, description = "A parameter is invalid or unknown."),
))]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Reader(tenant): Reader,
    mut params: Params,
) -> Result<Json<ListOrPage<Inlet>>, Problem> {
    let page = params.page_or_list();
    params.finish()?;
    let is_page = page.is_some();
    let page = app.engine.store().inlet_page(tenant, page.unwrap_or(FIRST_OF_A_LIST)).await?;
    Ok(Json(ListOrPage::new(is_page, page, Inlet::from)))
}

/// Create an inlet
///
/// Its `path` is where the sender sends to. Nobody can guess it, and whoever knows it can send if `signature` is `none`.
#[utoipa::path(post, path = "/inlets", tag = "inlets", request_body = NewInlet, responses(
    (status = 201, body = Inlet),
    (status = 400, description = "The body is no JSON."),
    (status = 409, description = "The name is taken, or the tenant has as many as it may (`quota-inlets`)."),
    (status = 413, description = "The body is too large."),
    (status = 415, description = "The body is not `application/json`."),
    (status = 422, description = "A field is missing or invalid."),
    (status = 507, description = "The store is full."),
))]
pub(super) async fn create(
    State(app): State<Arc<App>>,
    Admin(act): Admin,
    Given { input, fields }: Given<InletPatch>,
) -> Result<(StatusCode, Json<Inlet>), Problem> {
    let settings = InletSettings::create(&input).map_err(invalid)?;
    let (tenant, now) = (act.tenant, app.engine.now());
    let record = app.engine.audited(&act.with_fields(fields)).create_inlet(tenant, settings, now).await?;
    Ok((StatusCode::CREATED, Json(record.into())))
}

/// Show an inlet
#[utoipa::path(get, path = "/inlets/{uuid}", tag = "inlets", params(("uuid" = Uuid, Path)), responses(
    (status = 200, body = Inlet),
    (status = 404, description = "There is no such inlet."),
))]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    Reader(tenant): Reader,
    Id(uuid): Id<Uuid>,
) -> Result<Json<Inlet>, Problem> {
    Ok(Json(find(&app, tenant, uuid).await?.into()))
}

/// Change an inlet
///
/// Changes what is given and leaves the rest; takes effect at once. What is shown may be given back whole. Where the
/// signature changes, the secrets are needed again.
#[utoipa::path(patch, path = "/inlets/{uuid}", tag = "inlets", params(("uuid" = Uuid, Path)), request_body = InletChange,
responses(
    (status = 200, body = Inlet),
    (status = 400, description = "The body is no JSON."),
    (status = 404, description = "There is no such inlet."),
    (status = 409, description = "The name is taken, or the inlet was changed by another at the same time."),
    (status = 413, description = "The body is too large."),
    (status = 415, description = "The body is not `application/json`."),
    (status = 422, description = "A field is invalid."),
    (status = 507, description = "The store is full."),
))]
pub(super) async fn update(
    State(app): State<Arc<App>>,
    Admin(act): Admin,
    Id(uuid): Id<Uuid>,
    change: Change<InletPatch>,
) -> Result<Json<Inlet>, Problem> {
    let record = find(&app, act.tenant, uuid).await?;
    let (version, present) = (record.version, record.settings.clone());
    let Given { input, fields } = change.checked(&Inlet::from(record))?;
    let settings = present.patched(&input).map_err(invalid)?;
    let (tenant, now) = (act.tenant, app.engine.now());
    let store = app.engine.audited(&act.with_fields(fields));
    Ok(Json(store.update_inlet(tenant, uuid, version, settings, now).await.map_err(gone)?.into()))
}

/// Delete an inlet
///
/// Its sender gets a 404 from now on. Events that came in by it stay.
#[utoipa::path(delete, path = "/inlets/{uuid}", tag = "inlets", params(("uuid" = Uuid, Path)), responses(
    (status = 200, body = Message),
    (status = 404, description = "There is no such inlet."),
))]
pub(super) async fn delete(
    State(app): State<Arc<App>>,
    Admin(act): Admin,
    Id(uuid): Id<Uuid>,
    params: Params,
) -> Result<Json<Message>, Problem> {
    params.finish()?;
    app.engine.audited(&act).delete_inlet(act.tenant, uuid, app.engine.now()).await.map_err(gone)?;
    Ok(Json(Message { message: "Inlet deleted" }))
}
