//! What the command line says of a webhook's keys: which it uses, and when a receiver must have a new one.

use serde_json::Value;

use super::super::output::{self, NAME, Output};
use crate::signing::{KeyKind, Profile, Rotation, profile};

/// The profiles of a webhook, as the API shows it.
fn profiles(webhook: &Value) -> Vec<Profile> {
    let shown = webhook["signatures"].as_array().into_iter().flatten();
    let of = |signature: &Value| match signature.as_str() {
        Some(name) => profile(name).map(|plan| plan.profile().clone()),
        None => serde_json::from_value(signature.clone()).ok(),
    };
    shown.filter_map(of).collect()
}

/// The names of a webhook's keys that sign: the title and the field of each.
fn keys_of(webhook: &Value) -> Vec<(&'static str, &'static str)> {
    let profiles = profiles(webhook);
    let is_used = |kind: KeyKind| profiles.is_empty() || profiles.iter().any(|profile| profile.key == kind);
    let all = [(KeyKind::Secret, ("secret", "secret")), (KeyKind::Standard, ("standard secret", "standard_secret"))];
    all.into_iter().filter(|(kind, _)| is_used(*kind)).map(|(_, names)| names).collect()
}

/// The keys of `keys` that sign for the webhook.
pub(super) fn keys_in_use(webhook: &Value, keys: &Value, output: Output) -> Vec<(&'static str, String)> {
    let shown = keys_of(webhook).into_iter();
    shown.map(|(title, field)| (title, output.paint(NAME, output::text(keys, field)))).collect()
}

/// When receivers must change to the new keys, in an overlap with the old ones: a line for each way.
pub(super) fn advice(webhook: &Value) -> Vec<String> {
    let profiles = profiles(webhook);
    let named = |is_meant: fn(Rotation) -> bool| {
        let meant = profiles.iter().filter(|profile| is_meant(profile.rotation)).map(|profile| &*profile.name);
        let names = meant.collect::<Vec<_>>().join(", ");
        (!names.is_empty()).then_some(names)
    };
    let both = named(|rotation| !matches!(rotation, Rotation::Newest | Rotation::Oldest));
    let both =
        both.map(|names| format!("{names}: the old keys sign too until then. Give receivers the new ones before."));
    let newest = named(|rotation| rotation == Rotation::Newest).map(|names| {
        format!("{names}: only the new key signs from now on. A receiver that has one key needs the new one at once.")
    });
    let oldest = named(|rotation| rotation == Rotation::Oldest).map(|names| {
        format!(
            "{names}: the old key alone signs until then. A receiver that has one key needs the new one at that time."
        )
    });
    [both, newest, oldest].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_way_of_rotation_has_its_advice() {
        let own = json!({"name": "acme", "header": "X-A", "content": "{body}", "rotation": "newest"});
        let webhook = json!({"signatures": ["stripe", "slack", "shopify", own]});
        let advice = advice(&webhook);
        assert!(advice[0].starts_with("stripe: the old keys sign too"), "{advice:?}");
        assert!(advice[1].starts_with("slack, acme: only the new key signs"), "{advice:?}");
        assert!(advice[2].starts_with("shopify: the old key alone"), "{advice:?}");
    }

    #[test]
    fn keys_that_sign_nothing_are_not_shown() {
        let shown = |signatures: Value| {
            keys_of(&json!({ "signatures": signatures })).into_iter().map(|(title, _)| title).collect::<Vec<_>>()
        };
        assert_eq!(shown(json!(["svix"])), ["standard secret"]);
        assert_eq!(shown(json!(["github"])), ["secret"]);
        assert_eq!(shown(json!(["decnet", "standard"])), ["secret", "standard secret"]);
    }
}
