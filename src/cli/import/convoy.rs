//! Convoy: subscriptions of outgoing projects with their endpoints, by its API (`/projects/{projectID}` and what is below it).

use std::time::Duration;

use anyhow::bail;
use serde_json::{Value, json};

use super::draft::{Draft, tenant_of};
use super::found::Found;
use super::vendor::{Api, Origin, list};
use crate::cli::UsageError;
use crate::config::parse_span;

/// The most items of a page.
const PAGE: &str = "100";
/// The header of Convoy's signatures where a project names none.
const HEADER: &str = "X-Convoy-Signature";

/// The projects with their endpoints and subscriptions.
pub(super) async fn fetch(api: &Api, from: &[String]) -> anyhow::Result<Value> {
    if from.is_empty() {
        bail!(UsageError("give the ids of projects with --from; a key of Convoy's API is for one".to_owned()));
    }
    let next = |page: &Value, _| {
        let pagination = &page["data"]["pagination"];
        let cursor = pagination["next_page_cursor"].as_str().filter(|_| pagination["has_next_page"] == true)?;
        Some(("next_page_cursor", cursor.to_owned()))
    };
    let query = [("perPage", PAGE.to_owned()), ("direction", "next".to_owned())];
    let mut projects = Vec::new();
    for id in from {
        let mut project = api.get(&["projects", id], &[]).await?["data"].take();
        for part in ["endpoints", "subscriptions"] {
            project[part] = api.all(&["projects", id, part], &query, "/data/content", next).await?.into();
        }
        projects.push(project);
    }
    Ok(json!({ "projects": projects }))
}

pub(super) fn found(document: &Value, origin: &Origin, with_tenants: bool) -> anyhow::Result<Vec<Found>> {
    let mut found = Vec::new();
    for project in list(document, "projects")? {
        let tenant = tenant_of(&project["uid"]).filter(|_| with_tenants);
        let (endpoints, subscriptions) = (list(project, "endpoints")?, list(project, "subscriptions")?);
        let is_of = |subscription: &Value, endpoint: &Value| {
            subscription["endpoint_metadata"]["uid"] == endpoint["uid"] && endpoint["uid"].is_string()
        };
        for subscription in subscriptions {
            let endpoint = endpoints.iter().find(|endpoint| is_of(subscription, endpoint)).unwrap_or(&Value::Null);
            let mut draft = Draft::new("convoy", &subscription["uid"], url(endpoint), tenant.as_deref());
            subscribe(&mut draft, subscription);
            found.push(reach(draft, project, endpoint, origin.signature.as_deref()));
        }
        // Nothing is sent to these but what names them.
        for endpoint in endpoints.iter().filter(|endpoint| !subscriptions.iter().any(|one| is_of(one, endpoint))) {
            let mut draft = Draft::new("convoy", &endpoint["uid"], url(endpoint), tenant.as_deref());
            draft.topics(Some(&[]));
            draft.created_at(&endpoint["created_at"]);
            found.push(reach(draft, project, endpoint, origin.signature.as_deref()));
        }
    }
    Ok(found)
}

/// The name in older versions comes second.
fn url(endpoint: &Value) -> &Value {
    if endpoint["url"].is_string() { &endpoint["url"] } else { &endpoint["target_url"] }
}

fn subscribe(draft: &mut Draft, subscription: &Value) {
    let config = &subscription["filter_config"];
    let types = config["event_types"].as_array().map_or(&[][..], Vec::as_slice);
    let is_all = types.is_empty() || types.iter().any(|kind| kind == "*");
    draft.topics(if is_all { None } else { Some(types) });
    let is_filtering = |part: &Value| part.as_object().is_some_and(|part| !part.is_empty());
    if ["headers", "body", "query", "path"].iter().any(|part| is_filtering(&config["filter"][part])) {
        draft.fault("it has a filter; write it as an event pattern");
    }
    if subscription["function"].as_str().is_some_and(|code| !code.trim().is_empty()) {
        draft.fault("it has a function that transforms; write it as a shape");
    }
    draft.created_at(&subscription["created_at"]);
}

/// How the endpoint is reached, and how its project signs.
fn reach(mut draft: Draft, project: &Value, endpoint: &Value, signature: Option<&str>) -> Found {
    if endpoint.is_null() {
        draft.fault("its endpoint is not among those of the project");
    }
    if project["type"].as_str().is_some_and(|kind| kind != "outgoing") {
        draft.fault("its project takes requests in; an inlet does that here");
    }
    let name = ["name", "title"].into_iter().map(|field| &endpoint[field]).find(|name| name.is_string());
    draft.describe(if endpoint["description"] == "" { name.unwrap_or(&Value::Null) } else { &endpoint["description"] });
    sign(&mut draft, project, endpoint, signature);
    authorize(&mut draft, &endpoint["authentication"]);
    if endpoint["mtls_client_cert"].is_object() {
        draft.fault("it has a client certificate, whose key is not shown");
    }
    if endpoint["content_type"].as_str().is_some_and(|media| !media.is_empty() && media != "application/json") {
        draft.fault("its bodies are forms and no JSON");
    }
    draft.rate(&endpoint["rate_limit"], span(&endpoint["rate_limit_duration"]));
    draft.timeout(&span(&endpoint["http_timeout"]).as_secs().into());
    match endpoint["status"].as_str() {
        None | Some("active") => {}
        Some("inactive") => draft.turn_off(Some("Convoy turned it off after failures"), &endpoint["updated_at"]),
        Some(_) => draft.turn_off(None, &Value::Null),
    }
    draft.finish()
}

/// Seconds, or a text as `1m0s` in older versions.
fn span(value: &Value) -> Duration {
    match value {
        Value::String(text) => parse_span(text).unwrap_or_default(),
        other => Duration::from_secs(other.as_u64().unwrap_or(0)),
    }
}

fn sign(draft: &mut Draft, project: &Value, endpoint: &Value, signature: Option<&str>) {
    let secrets = endpoint["secrets"].as_array().map_or(&[][..], Vec::as_slice);
    let (older, newest): (Vec<_>, Vec<_>) = secrets.iter().partition(|secret| secret["expires_at"].is_string());
    if !older.is_empty() {
        draft.note("its older secrets, which are about to end, do not sign any more");
    }
    let key = newest.last().map_or(&Value::Null, |secret| &secret["value"]);
    let config = &project["config"]["signature"];
    let versions = config["versions"].as_array().map_or(&[][..], Vec::as_slice);
    let header = config["header"].as_str().filter(|header| !header.is_empty()).unwrap_or(HEADER);
    let is_advanced = endpoint["advanced_signatures"] == true;
    if is_advanced && versions.len() > 1 {
        draft.fault("its project signs in several versions at once");
    }
    let last = versions.last().unwrap_or(&Value::Null);
    let text = |field: &str, usual: &str| last[field].as_str().unwrap_or(usual).to_ascii_lowercase();
    let (hash, encoding) = (text("hash", "sha256"), text("encoding", "hex"));
    let known = if is_advanced { "convoy" } else { "convoy_simple" };
    if signature.is_some() || (header.eq_ignore_ascii_case(HEADER) && hash == "sha256" && encoding == "hex") {
        return draft.sign(signature.unwrap_or(known), key);
    }
    let (content, value, rotation) = if is_advanced {
        ("{timestamp},{body}", "t={timestamp},v1={signature}", "append")
    } else {
        ("{body}", "{signature}", "newest")
    };
    draft.set(
        "signatures",
        json!([{
            "name": "convoy-own", "header": header, "hash": hash, "encoding": encoding, "content": content, "value": value,
            "rotation": rotation, "key": "secret",
        }]),
    );
    draft.key("secret", key);
}

fn authorize(draft: &mut Draft, authentication: &Value) {
    match authentication["type"].as_str() {
        None | Some("") => {}
        Some("api_key") => {
            let key = &authentication["api_key"];
            let name = key["header_name"].as_str().unwrap_or_default().to_owned();
            draft.headers([(name, &key["header_value"])]);
        }
        Some("basic_auth") => {
            let basic = &authentication["basic_auth"];
            draft.set("auth", json!({"type": "basic", "username": basic["username"], "password": basic["password"]}));
        }
        Some(other) => draft.fault(format!("its authentication {other:?} is not carried over; set `auth` up for it")),
    }
}
