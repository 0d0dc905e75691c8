//! The OpenAPI document, made from the handlers.

use std::sync::LazyLock;

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use bytes::Bytes;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::schema::{AdditionalProperties, OneOf};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, InfoBuilder, License, OpenApi, Ref, RefOr, Required, Response, Schema, Tag};
use utoipa::{PartialSchema, ToSchema};

use super::input::JSON;
use super::problem::{CONTENT_TYPE_PROBLEM, FieldError, Problem};
use crate::delivery::access::RawAuth;

const TOKEN: &str = "token";

/// Refusals that every route with a token may answer with.
const REFUSALS: [(&str, &str); 6] = [
    ("401", "The token is missing, unknown, revoked or expired."),
    ("403", "The token lacks the scope, or is for another tenant than `X-Postrider-Tenant` names."),
    ("404", "There is no tenant that `X-Postrider-Tenant` names."),
    (
        "429",
        "Too many tokens from this address were not known, or the tenant does too many acts for the audit log \
         (`too-many-acts`); `Retry-After` says when to come back.",
    ),
    ("500", "The server failed; its log says why."),
    ("503", "The store is unavailable or the server is shutting down; `Retry-After` says when to try again."),
];

/// Refusals of acts without input beside the path.
const NO_INPUT: [(&str, &str); 4] = [
    ("400", "There is a body, and it is no JSON."),
    ("413", "The body is too large."),
    ("415", "There is a body, and it is not `application/json`."),
    ("422", "The body or the query says something that is not known here."),
];

/// The OpenAPI 3.1 document of the API.
#[must_use]
pub fn openapi() -> OpenApi {
    let mut document = super::documented_routes().into_openapi();
    let mut license = License::new(env!("CARGO_PKG_LICENSE"));
    license.identifier = Some(env!("CARGO_PKG_LICENSE").to_owned());
    document.info = InfoBuilder::new()
        .title("Postrider")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(concat!(
            env!("CARGO_PKG_DESCRIPTION"),
            "\n\nA trailing slash is always optional. Errors are problem details (RFC 9457)."
        )))
        .license(Some(license))
        .build();
    document.tags = Some(tags());
    document.security = Some(vec![SecurityRequirement::new(TOKEN, Vec::<String>::new())]);
    let components = document.components.get_or_insert_default();
    components.schemas.insert(Problem::name().into_owned(), Problem::schema());
    components.schemas.insert(FieldError::name().into_owned(), FieldError::schema());
    if let Some(RefOr::T(Schema::OneOf(variants))) = components.schemas.get_mut(&*RawAuth::name()) {
        shut(variants);
    }
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(
        "A token with the scope `publish` (send events), `read` (see everything but secrets, tokens and the audit log), \
         `admin` (everything in its tenant) or `operator` (everything in every tenant).",
    ));
    components.add_security_scheme(TOKEN, SecurityScheme::Http(bearer.build()));
    for item in document.paths.paths.values_mut() {
        let acts = [&mut item.post, &mut item.delete].into_iter().flatten();
        acts.filter(|act| act.request_body.is_none()).for_each(refuses_input);
        operations(item).for_each(complete);
    }
    document
}

fn tags() -> Vec<Tag> {
    [
        ("events", "What happened."),
        ("webhooks", "Receivers of events."),
        ("deliveries", "One event owed to one webhook."),
        ("shapes", "The bodies that receivers can get."),
        ("filters", "Which events a webhook wants."),
        ("replays", "Jobs over many deliveries."),
        ("stats", "Counts since the installation."),
        ("figures", "What happened over time."),
        ("tokens", "Who may do what."),
        ("inlets", "Where other senders' webhooks come in."),
        ("tenants", "Who has webhooks, events and tokens here, and how many; for operators."),
        ("nodes", "The servers that share the store; for operators."),
        ("audit", "Who did what."),
        ("operation", "For those who run the server; without a token."),
    ]
    .into_iter()
    .map(|(name, description)| {
        let mut tag = Tag::new(name);
        tag.description = Some(description.to_owned());
        tag
    })
    .collect()
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.post, &mut item.patch, &mut item.delete].into_iter().flatten()
}

/// Marks the variants of an enum as refusing unknown fields, since utoipa ignores `deny_unknown_fields` there.
fn shut(variants: &mut OneOf) {
    for variant in &mut variants.items {
        if let RefOr::T(Schema::Object(object)) = variant {
            object.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
        }
    }
}

/// Adds the refusals of an act without input.
fn refuses_input(act: &mut Operation) {
    for (status, description) in NO_INPUT {
        act.responses.responses.entry(status.to_owned()).or_insert_with(|| Response::new(description).into());
    }
}

/// Adds the common parts of all routes: refusals, and the form of errors.
fn complete(operation: &mut Operation) {
    // Names of handlers are unique in their file, names of operations in the document.
    let resource = operation.tags.iter().flatten().next();
    operation.operation_id = resource.zip(operation.operation_id.as_ref()).map(|(tag, name)| format!("{tag}_{name}"));
    let responses = &mut operation.responses.responses;
    // Only routes without a token declare a security of their own.
    if operation.security.is_none() {
        for (status, description) in REFUSALS {
            responses.entry(status.to_owned()).or_insert_with(|| Response::new(description).into());
        }
        operation.parameters.get_or_insert_default().push(tenant_parameter().into());
    }
    for (status, response) in responses {
        let RefOr::T(response) = response else { continue };
        if response.description.is_empty() {
            let reason = status.parse().ok().and_then(|status: StatusCode| status.canonical_reason());
            response.description = format!("{}.", reason.unwrap_or("Done"));
        }
        if status.as_str() >= "400" {
            let problem = Content::new(Some(Ref::from_schema_name(Problem::name())));
            response.content.insert(CONTENT_TYPE_PROBLEM.to_owned(), problem.into());
        }
    }
}

fn tenant_parameter() -> Parameter {
    ParameterBuilder::new()
        .name("X-Postrider-Tenant")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some("For an operator: act for the tenant of this name or UUID. By default the token's own."))
        .schema(Some(String::schema()))
        .build()
}

/// The OpenAPI document
#[utoipa::path(get, path = "/openapi.json", tag = "operation", security(()), responses(
    (status = 200, body = serde_json::Value, description = "This document."),
))]
pub(super) async fn document() -> Result<impl IntoResponse, Problem> {
    static DOCUMENT: LazyLock<Result<Bytes, String>> =
        LazyLock::new(|| openapi().to_pretty_json().map(Bytes::from).map_err(|error| error.to_string()));
    let document = DOCUMENT.clone().map_err(Problem::internal)?;
    Ok(([(CONTENT_TYPE, JSON)], document))
}
