//! Hook0: subscriptions of applications, by its API (`/organizations`, `/applications`, `/subscriptions`).

use serde_json::{Value, json};

use super::draft::{Draft, tenant_of};
use super::found::Found;
use super::vendor::{Api, Origin, list};

/// The parameter of a page; the header `Link` of the page before names it.
fn next(_: &Value, cursor: Option<String>) -> Option<(&'static str, String)> {
    Some(("pagination_cursor", cursor?))
}

/// The applications with their subscriptions.
pub(super) async fn fetch(api: &Api, from: &[String]) -> anyhow::Result<Value> {
    let mut organizations = from.to_vec();
    if from.is_empty() {
        let all = api.all(&["organizations"], &[], "", next).await?;
        organizations = all.iter().filter_map(|one| one["organization_id"].as_str().map(str::to_owned)).collect();
    }
    let mut applications = Vec::new();
    for organization in organizations {
        let of = [("organization_id", organization)];
        applications.extend(api.all(&["applications"], &of, "", next).await?);
    }
    for application in &mut applications {
        let Some(id) = application["application_id"].as_str() else { continue };
        let of = [("application_id", id.to_owned())];
        application["subscriptions"] = api.all(&["subscriptions"], &of, "", next).await?.into();
    }
    Ok(json!({ "applications": applications }))
}

pub(super) fn found(document: &Value, origin: &Origin, with_tenants: bool) -> anyhow::Result<Vec<Found>> {
    let mut found = Vec::new();
    for application in list(document, "applications")? {
        let tenant = tenant_of(&application["application_id"]).filter(|_| with_tenants);
        let subscriptions = list(application, "subscriptions")?;
        // Labels that all subscriptions have choose none of them.
        let labels = subscriptions.first().map(|first| &first["labels"]);
        let is_choosing = subscriptions.iter().any(|one| Some(&one["labels"]) != labels);
        for subscription in subscriptions {
            let signature = origin.signature.as_deref();
            found.push(translated(subscription, is_choosing, tenant.as_deref(), signature));
        }
    }
    Ok(found)
}

fn translated(subscription: &Value, is_choosing: bool, tenant: Option<&str>, signature: Option<&str>) -> Found {
    let target = &subscription["target"];
    let mut draft = Draft::new("hook0", &subscription["subscription_id"], &target["url"], tenant);
    if target["type"] != "http" {
        draft.fault("its target is not of the type http");
    }
    if let Some(method) = target["method"].as_str() {
        draft.set("method", method.to_ascii_uppercase());
    }
    draft.headers(target["headers"].as_object().into_iter().flatten().map(|(name, value)| {
        // A header that is there once may be a list of one.
        let single = value.as_array().filter(|values| values.len() == 1).map(|values| &values[0]);
        (name.clone(), single.unwrap_or(value))
    }));
    draft.sign(signature.unwrap_or("hook0"), &subscription["secret"]);
    draft.topics(Some(subscription["event_types"].as_array().map_or(&[][..], Vec::as_slice)));
    let labels = subscription["labels"].as_object().filter(|labels| !labels.is_empty());
    if let Some(labels) = labels.map(|labels| Value::from(labels.clone())) {
        if is_choosing {
            draft.fault(format!(
                "its labels {labels} choose among the events of its application; there are no labels here"
            ));
        } else {
            draft.note(format!("its labels {labels} are left out, which all subscriptions of its application have"));
        }
    }
    if subscription["retry_schedule_id"].is_string() {
        draft.note("its retry schedule is left out; `retry_schedule` sets one");
    }
    draft.describe(&subscription["description"]);
    draft.metadata(&subscription["metadata"]);
    draft.created_at(&subscription["created_at"]);
    if subscription["is_enabled"] == false {
        draft.turn_off(None, &Value::Null);
    }
    draft.finish()
}
