//! The profiles that are known by name: how other senders sign, as data. Each row has its source, and a test with the
//! vendor's own library or published vectors (`tests/library/signatures.rs`).

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use super::header;
use super::profile::{Encoding, FieldValue, Hash, KeyKind, Plan, Profile, Rotation};

/// What a row says where it says nothing else.
const PLAIN: Profile = Profile {
    name: Cow::Borrowed(""),
    header: Cow::Borrowed(""),
    hash: Hash::Sha256,
    encoding: Encoding::Hex,
    content: Cow::Borrowed("{body}"),
    value: Cow::Borrowed("{signature}"),
    separator: Cow::Borrowed(","),
    timestamp_header: None,
    id_header: None,
    key: KeyKind::Secret,
    rotation: Rotation::Newest,
    previous_header: None,
    fields: &[],
};

/// Standard Webhooks, "Signature scheme"; Svix has it with names of its own.
const STANDARD: Profile = Profile {
    name: Cow::Borrowed("standard"),
    header: Cow::Borrowed(header::WEBHOOK_SIGNATURE),
    encoding: Encoding::Base64,
    content: Cow::Borrowed("{id}.{timestamp}.{body}"),
    value: Cow::Borrowed("v1,{signature}"),
    separator: Cow::Borrowed(" "),
    timestamp_header: Some(Cow::Borrowed(header::WEBHOOK_TIMESTAMP)),
    id_header: Some(Cow::Borrowed(header::WEBHOOK_ID)),
    key: KeyKind::Standard,
    rotation: Rotation::Append,
    ..PLAIN
};

const TABLE: [Profile; 13] = [
    // The original client: `X-DECNET-Signature` beside headers that are not signed.
    Profile {
        name: Cow::Borrowed("decnet"),
        header: Cow::Borrowed("X-DECNET-Signature"),
        value: Cow::Borrowed("sha256={signature}"),
        rotation: Rotation::Header,
        previous_header: Some(Cow::Borrowed("X-DECNET-Signature-Previous")),
        ..PLAIN
    },
    STANDARD,
    // Standard Webhooks, version 1a.
    Profile {
        name: Cow::Borrowed("ed25519"),
        value: Cow::Borrowed("v1a,{signature}"),
        key: KeyKind::Ed25519,
        ..STANDARD
    },
    // docs.svix.com, "Verifying webhooks manually".
    Profile {
        name: Cow::Borrowed("svix"),
        header: Cow::Borrowed("svix-signature"),
        timestamp_header: Some(Cow::Borrowed("svix-timestamp")),
        id_header: Some(Cow::Borrowed("svix-id")),
        ..STANDARD
    },
    // docs.github.com, "Validating webhook deliveries" and "Webhook events and payloads", delivery headers.
    Profile {
        name: Cow::Borrowed("github"),
        header: Cow::Borrowed("X-Hub-Signature-256"),
        value: Cow::Borrowed("sha256={signature}"),
        fields: &[("X-GitHub-Event", FieldValue::Type), ("X-GitHub-Delivery", FieldValue::Id)],
        ..PLAIN
    },
    // docs.stripe.com, "Verify webhook signatures manually". The text of a secret is the key, `whsec_` included.
    Profile {
        name: Cow::Borrowed("stripe"),
        header: Cow::Borrowed("Stripe-Signature"),
        content: Cow::Borrowed("{timestamp}.{body}"),
        value: Cow::Borrowed("t={timestamp},v1={signature}"),
        rotation: Rotation::Append,
        ..PLAIN
    },
    // shopify.dev, "Deliver webhooks through HTTPS". The secret before is used until it is revoked ("Rotate or revoke API
    // credentials").
    Profile {
        name: Cow::Borrowed("shopify"),
        header: Cow::Borrowed("X-Shopify-Hmac-Sha256"),
        encoding: Encoding::Base64,
        rotation: Rotation::Oldest,
        fields: &[
            ("X-Shopify-Topic", FieldValue::Topic),
            ("X-Shopify-Webhook-Id", FieldValue::Id),
            ("X-Shopify-Event-Id", FieldValue::EventId),
            ("X-Shopify-Triggered-At", FieldValue::Time),
        ],
        ..PLAIN
    },
    // docs.slack.dev, "Verifying requests from Slack".
    Profile {
        name: Cow::Borrowed("slack"),
        header: Cow::Borrowed("X-Slack-Signature"),
        content: Cow::Borrowed("v0:{timestamp}:{body}"),
        value: Cow::Borrowed("v0={signature}"),
        timestamp_header: Some(Cow::Borrowed("X-Slack-Request-Timestamp")),
        ..PLAIN
    },
    // Convoy's advanced signatures (`pkg/signature` of frain-dev/convoy).
    Profile {
        name: Cow::Borrowed("convoy"),
        header: Cow::Borrowed("X-Convoy-Signature"),
        content: Cow::Borrowed("{timestamp},{body}"),
        value: Cow::Borrowed("t={timestamp},v1={signature}"),
        rotation: Rotation::Append,
        ..PLAIN
    },
    // Convoy's simple signatures.
    Profile { name: Cow::Borrowed("convoy_simple"), header: Cow::Borrowed("X-Convoy-Signature"), ..PLAIN },
    // The defaults of hookdeck/outpost ("Configuration", `DESTINATIONS_WEBHOOK_…`).
    Profile {
        name: Cow::Borrowed("outpost"),
        header: Cow::Borrowed("x-outpost-signature"),
        value: Cow::Borrowed("v0={signature}"),
        rotation: Rotation::List,
        fields: &[
            ("x-outpost-event-id", FieldValue::EventId),
            ("x-outpost-topic", FieldValue::Topic),
            ("x-outpost-timestamp", FieldValue::Time),
        ],
        ..PLAIN
    },
    // Hook0's signatures of time and body (`v0`), which its clients take; they read one of a kind.
    Profile {
        name: Cow::Borrowed("hook0"),
        header: Cow::Borrowed("X-Hook0-Signature"),
        content: Cow::Borrowed("{timestamp}.{body}"),
        value: Cow::Borrowed("t={timestamp},v0={signature}"),
        fields: &[("X-Event-Id", FieldValue::EventId), ("X-Event-Type", FieldValue::Type)],
        ..PLAIN
    },
    // docs.gitlab.com, "Webhooks", secret token: the secret itself, so that it is verified and never sent.
    Profile {
        name: Cow::Borrowed("gitlab"),
        header: Cow::Borrowed("X-Gitlab-Token"),
        content: Cow::Borrowed(""),
        value: Cow::Borrowed("{secret}"),
        ..PLAIN
    },
];

static PLANS: LazyLock<Vec<Arc<Plan>>> =
    LazyLock::new(|| TABLE.into_iter().filter_map(|row| Plan::of_row(row).ok()).map(Arc::new).collect());

/// The profile of that name.
#[must_use]
pub fn profile(name: &str) -> Option<&'static Arc<Plan>> {
    PLANS.iter().find(|plan| plan.profile().name == name)
}

/// All profiles that are known by name, in the order in which they are shown.
pub fn profiles() -> impl Iterator<Item = &'static Arc<Plan>> {
    PLANS.iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_a_profile_of_a_name_of_its_own() {
        assert_eq!(PLANS.len(), TABLE.len());
        for (at, plan) in profiles().enumerate() {
            let name = &plan.profile().name;
            assert_eq!(profiles().position(|other| other.profile().name == *name), Some(at), "{name}");
            assert_eq!(plan.signs(), name != "gitlab");
        }
    }
}
