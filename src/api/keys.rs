//! `/webhooks/{uuid}/rotate-secret`: new keys take over from old ones.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::App;
use super::auth::Admin;
use super::input::{Id, OptionalJsonBody};
use super::problem::Problem;
use super::views::Time;
use crate::clock::UnixMicros;
use crate::engine::{ChangeError, GivenKeys};
use crate::signing::{DEFAULT_OVERLAP, Ed25519Key, KeyError, Secret, StandardKey};
use crate::webhook::{WebhookError, WebhookRecord, whole};

/// Keys of a webhook that sign, without what is secret of them.
#[derive(Serialize, ToSchema)]
pub(super) struct Keys {
    /// When they were made and took over.
    created_at: Time,
    /// Until when they sign beside newer ones; `null`: these are the newest.
    #[schema(required)]
    valid_until: Option<Time>,
    /// `whpk_…`, for signatures of version `v1a`; `null`: the webhook has no such key.
    #[schema(required, example = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=")]
    public_key: Option<String>,
}

/// The keys that sign at `now`, the newest first.
pub(super) fn live(record: &WebhookRecord, now: UnixMicros) -> Vec<Keys> {
    let keys = &record.settings.receiver.keys;
    let created_at = |since: Option<UnixMicros>| Time(since.unwrap_or(record.created_at));
    let newest =
        Keys { created_at: created_at(keys.since), valid_until: None, public_key: public_key(keys.ed25519.as_ref()) };
    let older = keys.older_live(now).map(|keys| Keys {
        created_at: created_at(keys.since),
        valid_until: Some(Time(keys.until)),
        public_key: public_key(keys.ed25519.as_ref()),
    });
    std::iter::once(newest).chain(older).collect()
}

pub(super) fn public_key(key: Option<&Ed25519Key>) -> Option<String> {
    key.map(|key| key.public().to_string())
}

/// How to rotate; all of it may be left out.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rotation {
    /// How long the keys of before still sign, in whole seconds; 86400 by default. 0 ends all of them at once.
    #[serde(default, deserialize_with = "whole::optional")]
    #[schema(maximum = 604_800)]
    overlap_s: Option<u64>,
    /// The new key of `X-DECNET-Signature`, and of other signatures that use its text; without it 32 random bytes. At least 16
    /// characters with a DECNET signature.
    #[schema(min_length = 1, max_length = 256, write_only)]
    secret: Option<String>,
    /// The new key of `webhook-signature`, `whsec_` and base64 of 24 to 64 bytes; without it 32 random bytes.
    #[schema(pattern = "^whsec_[A-Za-z0-9+/]+=*$", write_only)]
    standard_secret: Option<String>,
}

/// The new keys of a webhook, shown this once.
#[derive(Serialize, ToSchema)]
pub(super) struct RotatedKeys {
    uuid: Uuid,
    /// The key of `X-DECNET-Signature`, and of other signatures that use its text.
    secret: String,
    /// The key of `webhook-signature`, version `v1`.
    standard_secret: String,
    /// Verifies version `v1a`; `null`: the webhook has no such key.
    #[schema(required)]
    public_key: Option<String>,
    /// Until when the keys just replaced still sign; `null`: they do not any more.
    #[schema(required)]
    previous_valid_until: Option<Time>,
    /// All that sign now, the newest first.
    keys: Vec<Keys>,
}

impl Rotation {
    fn given(&self) -> Result<GivenKeys, ChangeError> {
        let mut errors = Vec::new();
        let mut note = |error: KeyError, field: fn(KeyError) -> WebhookError| errors.push(field(error));
        let decnet = self.secret.as_deref().map(Secret::parse_foreign).transpose();
        let decnet = decnet.map_err(|error| note(error, WebhookError::Secret)).ok().flatten();
        let standard = self.standard_secret.as_deref().map(StandardKey::parse).transpose();
        let standard = standard.map_err(|error| note(error, WebhookError::StandardSecret)).ok().flatten();
        if errors.is_empty() { Ok(GivenKeys { decnet, standard }) } else { Err(ChangeError::Invalid(errors)) }
    }
}

/// Rotate a webhook's keys
///
/// New keys take over at once. For the overlap `webhook-signature` carries a signature of each key, and
/// `X-DECNET-Signature-Previous` that of the secret before, so that receivers can change over in peace. Other signatures
/// show the keys before as their vendors do. At most four generations are valid at once. The answer is the only one that shows the new keys.
#[utoipa::path(post, path = "/webhooks/{uuid}/rotate-secret", tag = "webhooks", params(("uuid" = Uuid, Path)),
    request_body = Option<Rotation>, responses(
    (status = 200, body = RotatedKeys),
    (status = 400, description = "The body is no JSON."),
    (status = 404, description = "There is no such webhook."),
    (status = 409, description = "Four generations of keys are valid, or others change the webhook at this moment."),
    (status = 413, description = "The body is too large."),
    (status = 415, description = "The body is not `application/json`."),
    (status = 422, description = "A key is invalid, or the overlap is longer than seven days."),
    (status = 507, description = "The store is full."),
))]
pub(super) async fn rotate(
    State(app): State<Arc<App>>,
    Admin(act): Admin,
    Id(uuid): Id<Uuid>,
    OptionalJsonBody(rotation): OptionalJsonBody<Rotation>,
) -> Result<Json<RotatedKeys>, Problem> {
    let overlap = rotation.overlap_s.map_or(DEFAULT_OVERLAP, Duration::from_secs);
    let record = app.engine.rotate_keys(act, uuid, rotation.given()?, overlap).await?;
    let keys = &record.settings.receiver.keys;
    Ok(Json(RotatedKeys {
        uuid,
        secret: keys.decnet.expose().to_owned(),
        standard_secret: keys.standard.expose().to_string(),
        public_key: public_key(keys.ed25519.as_ref()),
        previous_valid_until: keys.older.first().map(|keys| Time(keys.until)),
        keys: live(&record, app.engine.now()),
    }))
}
