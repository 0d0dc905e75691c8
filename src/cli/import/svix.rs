//! Svix: endpoints of applications, by its API (`/app`, `/app/{app_id}/endpoint` and what is below an endpoint).

use std::time::Duration;

use serde_json::{Value, json};

use super::draft::{Draft, tenant_of};
use super::found::Found;
use super::vendor::{Api, Origin, list};

/// The most items of a page.
const PAGE: &str = "250";

/// The applications with their endpoints, and with the secret, the headers and the transformation of each.
pub(super) async fn fetch(api: &Api, from: &[String]) -> anyhow::Result<Value> {
    let next = |page: &Value, _| {
        let iterator = page["iterator"].as_str().filter(|_| page["done"] != true)?;
        Some(("iterator", iterator.to_owned()))
    };
    let limit = [("limit", PAGE.to_owned())];
    let mut applications = Vec::new();
    if from.is_empty() {
        applications = api.all(&["app"], &limit, "/data", next).await?;
    }
    for id in from {
        applications.push(api.get(&["app", id], &[]).await?);
    }
    for application in &mut applications {
        let Some(app) = application["id"].as_str().map(str::to_owned) else { continue };
        let mut endpoints = api.all(&["app", &app, "endpoint"], &limit, "/data", next).await?;
        for endpoint in &mut endpoints {
            let Some(id) = endpoint["id"].as_str().map(str::to_owned) else { continue };
            for part in ["secret", "headers", "transformation"] {
                endpoint[part] = api.find(&["app", &app, "endpoint", &id, part]).await?.into();
            }
        }
        application["endpoints"] = endpoints.into();
    }
    Ok(json!({ "applications": applications }))
}

pub(super) fn found(document: &Value, origin: &Origin, with_tenants: bool) -> anyhow::Result<Vec<Found>> {
    let mut found = Vec::new();
    for application in list(document, "applications")? {
        let uid = Some(&application["uid"]).filter(|uid| uid.is_string());
        let tenant = tenant_of(uid.unwrap_or(&application["id"])).filter(|_| with_tenants);
        for endpoint in list(application, "endpoints")? {
            found.push(translated(endpoint, tenant.as_deref(), origin.signature.as_deref()));
        }
    }
    Ok(found)
}

fn translated(endpoint: &Value, tenant: Option<&str>, signature: Option<&str>) -> Found {
    let mut draft = Draft::new("svix", &endpoint["id"], &endpoint["url"], tenant);
    draft.describe(&endpoint["description"]);
    let key = &endpoint["secret"]["key"];
    if key.as_str().is_some_and(|key| key.starts_with("whsk_")) {
        draft.fault("its key is asymmetric (v1a), which Svix sends in headers of its own");
    }
    draft.sign(signature.unwrap_or("svix"), key);
    // The name in older versions of the API.
    let types = ["filterTypes", "eventTypes"].iter().find_map(|field| endpoint[field].as_array());
    draft.topics(types.map(Vec::as_slice));
    if endpoint["channels"].as_array().is_some_and(|channels| !channels.is_empty()) {
        draft.fault("it gets the events of its channels alone, and there are no channels here");
    }
    let headers = &endpoint["headers"];
    for name in headers["sensitive"].as_array().into_iter().flatten() {
        draft.fault(format!("the value of its header {name} is not shown, as it is sensitive"));
    }
    let shown = headers["headers"].as_object().into_iter().flatten();
    draft.headers(shown.map(|(name, value)| (name.clone(), value)));
    let transformation = &endpoint["transformation"];
    if transformation["enabled"] == true && transformation["code"].is_string() {
        draft.fault("it has a transformation; write it as a shape");
    }
    for rate in ["rateLimit", "throttleRate"] {
        draft.rate(&endpoint[rate], Duration::from_secs(1));
    }
    draft.metadata(&endpoint["metadata"]);
    draft.created_at(&endpoint["createdAt"]);
    if endpoint["disabled"] == true {
        draft.turn_off(None, &Value::Null);
    }
    draft.finish()
}
