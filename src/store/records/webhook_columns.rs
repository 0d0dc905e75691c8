//! A webhook's settings in the form of columns. Both stores keep them in the same, secrets sealed alike, so that what
//! one has written the other can read.

use std::fmt::Display;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::webhook_keys::StoredKeys;
use crate::delivery::access::Access;
use crate::delivery::guard::Destination;
use crate::delivery::retry::Schedule;
use crate::fit::fit;
use crate::signing::{Secret, SignatureInput, Signatures, SigningKeys, StandardKey};
use crate::store::seal::{Belonging, Sealer};
use crate::store::{MAX_TENANT_SETTINGS_BYTES, StoreError};
use crate::topic::Pattern;
use crate::webhook::{Method, Policy, TenantSeq, Webhook, WebhookPatch, WebhookSettings};

/// What the sealed columns are bound to.
pub(in crate::store) const DECNET_FIELD: &str = "webhook.decnet_secret";
pub(in crate::store) const STANDARD_FIELD: &str = "webhook.standard_key";
pub(in crate::store) const POLICY_FIELD: &str = "webhook.policy";

/// The columns; lists are words with spaces between.
pub(super) struct Columns {
    pub(super) name: String,
    pub(super) description: String,
    /// For people who look into a database: scheme, host and port, then `/…`. The URL is in `policy`; in a row from before
    /// it was, it is here.
    pub(super) url: String,
    pub(super) decnet_secret: Vec<u8>,
    pub(super) standard_key: Vec<u8>,
    /// Names. Where one is neither DECNET's nor of Standard Webhooks, `policy` has the signatures.
    pub(super) signatures: String,
    pub(super) timeout_us: i64,
    pub(super) topic_patterns: String,
    pub(super) enabled: bool,
    pub(super) max_in_flight: u32,
    /// Seconds; `None`: the server's default.
    pub(super) retry_schedule: Option<String>,
    /// Settings that no statement looks into, as one sealed JSON text; `None` in a row from before there were any.
    pub(super) policy: Option<Vec<u8>>,
}

/// What the column `policy` holds, sealed.
#[derive(Default, Serialize, Deserialize)]
struct StoredPolicy {
    #[serde(default)]
    settings: WebhookPatch,
    #[serde(default, skip_serializing_if = "StoredKeys::is_empty")]
    keys: StoredKeys,
}

impl Columns {
    /// What of the row grows with the settings.
    pub(super) fn settings_bytes(&self) -> u64 {
        let bytes = self.name.len() + self.description.len() + self.topic_patterns.len();
        (bytes + self.policy.as_ref().map_or(0, Vec::len)) as u64
    }

    /// Refuses this row where `others`, those of the tenant's other webhooks, leave no room for it; not where it has no more
    /// than its `old` one.
    pub(super) fn refuse_beyond_cap(&self, others: u64, old: u64) -> Result<(), StoreError> {
        let (bytes, max) = (others.saturating_add(self.settings_bytes()), MAX_TENANT_SETTINGS_BYTES);
        if bytes > max && self.settings_bytes() > old {
            Err(StoreError::TooManySettings { bytes, max })
        } else {
            Ok(())
        }
    }

    pub(super) fn of(
        settings: &WebhookSettings,
        sealer: &Sealer,
        tenant: TenantSeq,
        webhook: Uuid,
    ) -> Result<Self, StoreError> {
        let receiver = &settings.receiver;
        let url = Some(receiver.destination.as_str().to_owned());
        let patch = WebhookPatch { url, ..settings.policy_patch() };
        let policy = StoredPolicy { settings: patch, keys: StoredKeys::of(&receiver.keys) };
        let policy = Zeroizing::new(serde_json::to_string(&policy).map_err(corrupt)?);
        let seal = |text: &str, field| {
            sealer
                .seal(text.as_bytes(), &Belonging { tenant, webhook, field })
                .map_err(|error| StoreError::Unavailable(error.to_string()))
        };
        Ok(Self {
            name: settings.name.clone(),
            description: settings.description.clone(),
            url: receiver.destination.masked(),
            decnet_secret: seal(receiver.keys.decnet.expose(), DECNET_FIELD)?,
            standard_key: seal(&receiver.keys.standard.expose(), STANDARD_FIELD)?,
            signatures: join(receiver.signatures.profiles().map(|profile| profile.name.to_string())),
            timeout_us: fit(receiver.timeout.as_micros(), i64::MAX),
            topic_patterns: join(settings.topic_patterns.iter().map(Pattern::to_string)),
            enabled: settings.enabled,
            max_in_flight: settings.max_in_flight,
            retry_schedule: settings.retry_schedule.as_ref().map(|schedule| {
                // The shortest text that reads back as the same number.
                join(schedule.delays().iter().map(|delay| delay.as_secs_f64().to_string()))
            }),
            policy: Some(seal(&policy, POLICY_FIELD)?),
        })
    }

    /// The settings again, for the webhook that they were sealed for.
    pub(super) fn settings(
        self,
        sealer: &Sealer,
        tenant: TenantSeq,
        webhook: Uuid,
    ) -> Result<WebhookSettings, StoreError> {
        let open = |sealed: &[u8], field| -> Result<Zeroizing<String>, StoreError> {
            let text = sealer.open(sealed, &Belonging { tenant, webhook, field }).map_err(corrupt)?;
            std::str::from_utf8(&text).map(|text| Zeroizing::new(text.to_owned())).map_err(corrupt)
        };
        let mut keys = SigningKeys::new(
            Secret::kept(&open(&self.decnet_secret, DECNET_FIELD)?).map_err(corrupt)?,
            StandardKey::parse(&open(&self.standard_key, STANDARD_FIELD)?).map_err(corrupt)?,
        );
        let policy: StoredPolicy = match &self.policy {
            None => StoredPolicy::default(),
            Some(policy) => serde_json::from_str(&open(policy, POLICY_FIELD)?).map_err(corrupt)?,
        };
        policy.keys.restore(&mut keys).map_err(corrupt)?;
        let schedule = |text: &str| {
            let seconds: Vec<f64> =
                text.split_whitespace().map(str::parse).collect::<Result<_, _>>().map_err(corrupt)?;
            Schedule::from_seconds(&seconds).map_err(corrupt)
        };
        let signatures = if policy.settings.signatures.is_some() {
            // They come with the policy.
            Signatures::default()
        } else {
            let names: Vec<SignatureInput> = self.signatures.split_whitespace().map(Into::into).collect();
            Signatures::parse(&names).map_err(|errors| corrupt(format!("{errors:?}")))?
        };
        let patterns = self.topic_patterns.split_whitespace();
        let settings = WebhookSettings {
            name: self.name,
            description: self.description,
            receiver: Webhook {
                destination: Destination::parse(policy.settings.url.as_ref().unwrap_or(&self.url)).map_err(corrupt)?,
                method: Method::default(),
                keys,
                signatures,
                timeout: Duration::from_micros(self.timeout_us.unsigned_abs()),
                access: Access::default(),
            },
            topic_patterns: patterns.map(Pattern::parse).collect::<Result<_, _>>().map_err(corrupt)?,
            enabled: self.enabled,
            max_in_flight: self.max_in_flight,
            retry_schedule: self.retry_schedule.as_deref().map(schedule).transpose()?,
            policy: Policy::default(),
        };
        settings.restored(&policy.settings).map_err(|errors| corrupt(format!("{errors:?}")))
    }
}

/// The columns `url` and `policy` of a row in which the URL is not sealed yet; `policy` is what it has.
pub(in crate::store) fn sealed_url(
    url: &str,
    policy: Option<&[u8]>,
    sealer: &Sealer,
    tenant: TenantSeq,
    webhook: Uuid,
) -> Result<(String, Vec<u8>), StoreError> {
    let belonging = Belonging { tenant, webhook, field: POLICY_FIELD };
    let mut stored = match policy {
        None => StoredPolicy::default(),
        Some(policy) => serde_json::from_slice(&sealer.open(policy, &belonging).map_err(corrupt)?).map_err(corrupt)?,
    };
    stored.settings.url = Some(url.to_owned());
    let text = Zeroizing::new(serde_json::to_string(&stored).map_err(corrupt)?);
    let policy =
        sealer.seal(text.as_bytes(), &belonging).map_err(|error| StoreError::Unavailable(error.to_string()))?;
    Ok((Destination::parse(url).map_err(corrupt)?.masked(), policy))
}

fn join(words: impl Iterator<Item = String>) -> String {
    words.collect::<Vec<_>>().join(" ")
}

fn corrupt(reason: impl Display) -> StoreError {
    StoreError::Corrupt(reason.to_string())
}
