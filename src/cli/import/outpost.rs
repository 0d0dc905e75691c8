//! Outpost: webhook destinations of tenants, by its API (`/tenants`, `/tenants/{tenant_id}/destinations`).

use serde_json::{Value, json};

use super::draft::{Draft, tenant_of};
use super::found::Found;
use super::vendor::{Api, Origin, list};

/// The most items of a page.
const PAGE: &str = "100";
/// How the names of headers with an event's metadata begin.
const METADATA_HEADER: &str = "x-outpost-";

/// The tenants with their destinations.
pub(super) async fn fetch(api: &Api, from: &[String]) -> anyhow::Result<Value> {
    let next = |page: &Value, _| Some(("next", page["pagination"]["next"].as_str()?.to_owned()));
    let mut tenants = Vec::new();
    if from.is_empty() {
        tenants = api.all(&["tenants"], &[("limit", PAGE.to_owned())], "/models", next).await?;
    }
    for id in from {
        tenants.push(api.get(&["tenants", id], &[]).await?);
    }
    for tenant in &mut tenants {
        let Some(id) = tenant["id"].as_str().map(str::to_owned) else { continue };
        tenant["destinations"] = api.get(&["tenants", &id, "destinations"], &[]).await?;
    }
    Ok(json!({ "tenants": tenants }))
}

pub(super) fn found(document: &Value, origin: &Origin, with_tenants: bool) -> anyhow::Result<Vec<Found>> {
    let mut found = Vec::new();
    for tenant in list(document, "tenants")? {
        let name = tenant_of(&tenant["id"]).filter(|_| with_tenants);
        for destination in list(tenant, "destinations")? {
            found.push(translated(destination, name.as_deref(), origin.signature.as_deref()));
        }
    }
    Ok(found)
}

fn translated(destination: &Value, tenant: Option<&str>, signature: Option<&str>) -> Found {
    let (kind, config) = (destination["type"].as_str().unwrap_or("?"), &destination["config"]);
    if kind != "webhook" {
        let id = destination["id"].as_str().unwrap_or("?");
        return Found::refused(id, kind, format!("it is a destination of the type {kind:?}, and no webhook"));
    }
    let mut draft = Draft::new("outpost", &destination["id"], &config["url"], tenant);
    let credentials = &destination["credentials"];
    draft.sign(signature.unwrap_or("outpost"), &credentials["secret"]);
    if credentials["previous_secret"].is_string() {
        draft.note("its previous secret does not sign any more");
    }
    match &destination["topics"] {
        Value::Array(topics) if topics.iter().any(|topic| topic == "*") => draft.topics(None),
        Value::Array(topics) => draft.topics(Some(topics)),
        topics if topics == "*" => draft.topics(None),
        _ => draft.fault("its topics are no list"),
    }
    if destination["filter"].as_object().is_some_and(|filter| !filter.is_empty()) {
        draft.fault("it has a filter; write it as an event pattern");
    }
    if let Some(headers) = config["custom_headers"].as_str().filter(|headers| !headers.is_empty()) {
        match serde_json::from_str::<Value>(headers) {
            Ok(Value::Object(headers)) => draft.headers(headers.iter().map(|(name, value)| (name.clone(), value))),
            _ => draft.fault("its custom_headers are no JSON object"),
        }
    }
    let metadata = destination["delivery_metadata"].as_object().into_iter().flatten();
    draft.headers(metadata.map(|(key, value)| (format!("{METADATA_HEADER}{key}"), value)));
    draft.metadata(&destination["metadata"]);
    draft.created_at(&destination["created_at"]);
    if destination["disabled_at"].is_string() {
        draft.turn_off(Some("it was off at Outpost"), &destination["disabled_at"]);
    }
    draft.finish()
}
