//! `/webhooks/import`: webhooks that another sender had, with their ids, secrets and states. For operators.

use std::fmt;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::App;
use super::auth::Operator;
use super::input::{ImportBody, Moment};
use super::problem::{FieldError, Problem};
use crate::clock::UnixMicros;
use crate::engine::import::{ImportOptions, ImportOutcome, ImportRow, MAX_IMPORTED_WEBHOOKS, RowOutcome, RowVerdict};
use crate::webhook::whole::whole;
use crate::webhook::{SwitchedOff, WebhookHealth, WebhookPatch};

/// The most characters of a reason or an error that comes along; the rest is cut off.
const MAX_IMPORTED_TEXT_CHARS: usize = 512;

/// Webhooks to import together.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ImportInput, example = json!({
    "dry_run": true,
    "webhooks": [{
        "uuid": "7d5a6f9e-2f67-4d27-8f1c-0f3b8f6f3f10",
        "settings": {"name": "siem", "url": "https://siem.example.com/hooks", "topic_patterns": ["attacker.>"], "signatures": ["decnet"]},
        "state": {"created_at": "2026-05-01T08:09:00Z"}
    }]
}))]
pub(super) struct ImportInput {
    /// Says what would be made, and makes nothing.
    #[serde(default)]
    dry_run: bool,
    /// Makes the others where one is refused; without it nothing is made then.
    #[serde(default)]
    skip_refused: bool,
    /// Makes the tenants that are named and not there.
    #[serde(default)]
    create_tenants: bool,
    #[schema(max_items = 10_000)]
    #[serde(deserialize_with = "rows")]
    webhooks: Vec<ImportedRow>,
}

/// Reads no more than may be imported, whatever comes behind.
fn rows<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<ImportedRow>, D::Error> {
    struct Rows;
    impl<'de> Visitor<'de> for Rows {
        type Value = Vec<ImportedRow>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {MAX_IMPORTED_WEBHOOKS} webhooks")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            let mut rows = Vec::new();
            while let Some(row) = items.next_element()? {
                if rows.len() == MAX_IMPORTED_WEBHOOKS {
                    return Err(A::Error::custom(format!("has more webhooks, the limit is {MAX_IMPORTED_WEBHOOKS}")));
                }
                rows.push(row);
            }
            Ok(rows)
        }
    }
    deserializer.deserialize_seq(Rows)
}

/// A webhook as another sender had it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ImportedWebhook)]
struct ImportedRow {
    /// The id that it keeps. A webhook with this id is left alone.
    uuid: Uuid,
    /// The name or UUID of its tenant; without it that of the request.
    tenant: Option<String>,
    /// As for a new webhook, but that a secret may be short or have control characters, and patterns may be missing.
    #[schema(value_type = WebhookPatch)]
    settings: WebhookPatch,
    #[serde(default)]
    state: StateInput,
}

/// What a webhook was elsewhere. Times after now count as now.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ImportedState)]
struct StateInput {
    /// Why its sender turned it off, if it did; `enabled` must be `false` then. Control characters become blanks.
    #[schema(max_length = 512)]
    disabled_reason: Option<String>,
    disabled_at: Option<Moment>,
    #[serde(default, deserialize_with = "whole")]
    consecutive_failures: u32,
    last_success_at: Option<Moment>,
    last_failure_at: Option<Moment>,
    #[schema(max_length = 512)]
    last_error: Option<String>,
    /// Since when its circuit is open.
    auto_disabled_at: Option<Moment>,
    created_at: Option<Moment>,
}

/// What became of an import.
#[derive(Serialize, ToSchema)]
pub(super) struct ImportResult {
    /// Whether what is `new` was made. Otherwise nothing was.
    done: bool,
    new: u64,
    same: u64,
    differs: u64,
    refused: u64,
    /// Names of the tenants that were made.
    tenants: Vec<String>,
    /// In the order of the request.
    webhooks: Vec<ImportedOutcome>,
}

/// What became of one webhook.
#[derive(Serialize, ToSchema)]
struct ImportedOutcome {
    uuid: Uuid,
    name: String,
    tenant: String,
    outcome: Outcome,
    /// The fields in which the webhook that is there differs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    differing: Vec<String>,
    /// Why it is refused.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = ImportOutcome)]
enum Outcome {
    /// It was not there.
    New,
    /// It was there already, and alike.
    Same,
    /// It is there with other settings, and was left alone.
    Differs,
    Refused,
}

impl ImportedRow {
    fn row(self) -> ImportRow {
        let state = self.state;
        let time = |moment: Option<Moment>| moment.map(|Moment(at)| at);
        let (disabled_at, auto_disabled_at) = (time(state.disabled_at), time(state.auto_disabled_at));
        let created_at = time(state.created_at);
        ImportRow {
            uuid: self.uuid,
            tenant: self.tenant,
            settings: self.settings,
            health: WebhookHealth {
                consecutive_failures: state.consecutive_failures,
                last_success_at: time(state.last_success_at),
                last_failure_at: time(state.last_failure_at),
                last_error: state.last_error.as_deref().map(plain),
                auto_disabled_at,
                ..WebhookHealth::default()
            },
            // The engine takes what is after now for now.
            switched_off: state
                .disabled_reason
                .as_deref()
                .map(|reason| SwitchedOff { reason: plain(reason), at: disabled_at.unwrap_or(UnixMicros(i64::MAX)) }),
            created_at,
        }
    }
}

/// A text for lists and terminals.
fn plain(text: &str) -> String {
    text.chars().take(MAX_IMPORTED_TEXT_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl From<RowOutcome> for ImportedOutcome {
    fn from(row: RowOutcome) -> Self {
        let (outcome, differing, errors) = match row.verdict {
            RowVerdict::New => (Outcome::New, Vec::new(), Vec::new()),
            RowVerdict::Same => (Outcome::Same, Vec::new(), Vec::new()),
            RowVerdict::Differs(fields) => (Outcome::Differs, fields, Vec::new()),
            RowVerdict::Refused(errors) => (Outcome::Refused, Vec::new(), errors),
        };
        let errors = errors.into_iter().map(|(field, reason)| FieldError { field, reason }).collect();
        Self { uuid: row.uuid, name: row.name, tenant: row.tenant, outcome, differing, errors }
    }
}

/// Import webhooks
///
/// Makes webhooks that another sender had, under their ids: all that are new or, if one is refused, none. What is there is
/// left as it is, so that an import may be repeated. At most 10,000 webhooks and 16 MiB; all are made in one transaction.
#[utoipa::path(post, path = "/webhooks/import", tag = "webhooks", request_body = ImportInput, responses(
    (status = 200, body = ImportResult, description = "What became of each webhook; `done` says whether any was made."),
    (status = 400, description = "The body is no JSON."),
    (status = 404, description = "The tenant was deleted at this moment; nothing was made."),
    (status = 409, description = "A tenant to be made was made by others at this moment; nothing was made."),
    (status = 413, description = "The body is too large."),
    (status = 415, description = "The body is not `application/json`."),
    (status = 422, description = "The body has another form, or too many webhooks."),
    (status = 507, description = "The store is full; nothing was made."),
))]
pub(super) async fn import(
    State(app): State<Arc<App>>,
    Operator(act): Operator,
    ImportBody(input): ImportBody<ImportInput>,
) -> Result<Json<ImportResult>, Problem> {
    let ImportInput { dry_run, skip_refused, create_tenants, webhooks } = input;
    let options = ImportOptions { dry_run, skip_refused, create_tenants };
    let rows = webhooks.into_iter().map(ImportedRow::row).collect();
    let ImportOutcome { rows, is_done, made_tenants } = app.engine.import(act, rows, options).await?;
    let webhooks: Vec<ImportedOutcome> = rows.into_iter().map(ImportedOutcome::from).collect();
    let count = |outcome| webhooks.iter().filter(|webhook| webhook.outcome == outcome).count() as u64;
    Ok(Json(ImportResult {
        done: is_done,
        new: count(Outcome::New),
        same: count(Outcome::Same),
        differs: count(Outcome::Differs),
        refused: count(Outcome::Refused),
        tenants: made_tenants,
        webhooks,
    }))
}
