//! Tenants as a store keeps them, and what one may use.

use std::ops::RangeInclusive;

use uuid::Uuid;

use crate::clock::UnixMicros;
use crate::fit::fit;
use crate::webhook::{TenantSeq, WebhookSeq};

/// The longest name of a tenant, in characters.
pub const MAX_TENANT_NAME_CHARS: usize = 64;
/// The longest description of a tenant, in characters.
pub const MAX_TENANT_DESCRIPTION_CHARS: usize = 1_024;
/// The values of a quota of webhooks, events a second, deliveries, or tokens. More is as good as unlimited.
pub const QUOTA: RangeInclusive<u32> = 0..=1_000_000_000;
/// The values of a quota of stored bytes, at most 1 PiB.
pub const BYTES_QUOTA: RangeInclusive<u64> = 0..=1 << 50;

/// A tenant that is not deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantRecord {
    pub seq: TenantSeq,
    pub uuid: Uuid,
    /// 1 to [`MAX_TENANT_NAME_CHARS`] of `a-z`, `0-9` and `-`; unique.
    pub name: String,
    pub description: String,
    pub quotas: Quotas,
    pub created_at: UnixMicros,
}

/// The tenant that a change is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantKey {
    pub seq: TenantSeq,
    /// Set: the caller has named it so, and means no tenant that is called otherwise when the change is made.
    pub name: Option<String>,
}

impl TenantKey {
    /// The tenant that `given`, its name or its UUID, has led to.
    #[must_use]
    pub fn found_by(given: &str, tenant: &TenantRecord) -> Self {
        Self { seq: tenant.seq, name: (tenant.name == given).then(|| given.to_owned()) }
    }
}

impl From<TenantSeq> for TenantKey {
    fn from(seq: TenantSeq) -> Self {
        Self { seq, name: None }
    }
}

/// The limits of a tenant; `None`: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quotas {
    /// The most webhooks.
    pub max_webhooks: Option<u32>,
    /// The most events accepted a second, both as the rate and as the burst.
    pub max_events_per_s: Option<u32>,
    /// The most deliveries that wait or are under way.
    pub max_pending: Option<u32>,
    /// The most tokens that are neither revoked nor expired.
    pub max_tokens: Option<u32>,
    /// The most bytes of the bodies of stored events.
    pub max_stored_bytes: Option<u64>,
}

impl Quotas {
    /// As the stores keep them, in the order of the fields.
    pub(super) fn columns(self) -> [Option<i64>; 5] {
        let Self { max_webhooks, max_events_per_s, max_pending, max_tokens, max_stored_bytes } = self;
        let [max_webhooks, max_events_per_s, max_pending, max_tokens] =
            [max_webhooks, max_events_per_s, max_pending, max_tokens].map(|max| max.map(i64::from));
        let max_stored_bytes = max_stored_bytes.map(|max| fit(max, i64::MAX));
        [max_webhooks, max_events_per_s, max_pending, max_tokens, max_stored_bytes]
    }
}

/// Settings of a tenant: all of them to create one, some to change one. A quota is absent, unlimited, or a number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TenantPatch {
    pub name: Option<String>,
    pub description: Option<String>,
    pub max_webhooks: Option<Option<u32>>,
    pub max_events_per_s: Option<Option<u32>>,
    pub max_pending: Option<Option<u32>>,
    pub max_tokens: Option<Option<u32>>,
    pub max_stored_bytes: Option<Option<u64>>,
}

impl TenantPatch {
    /// All faults: the field's name in the API, and the reason.
    #[must_use]
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        if let Some(name) = &self.name
            && !is_tenant_name(name)
        {
            faults.push(("name", format!("must have 1 to {MAX_TENANT_NAME_CHARS} characters of a-z, 0-9 and -")));
        }
        let is_wrong =
            |text: &String| text.chars().count() > MAX_TENANT_DESCRIPTION_CHARS || text.chars().any(char::is_control);
        if self.description.as_ref().is_some_and(is_wrong) {
            let most = MAX_TENANT_DESCRIPTION_CHARS;
            let reason = format!("must have at most {most} characters, none of them a control character");
            faults.push(("description", reason));
        }
        for (field, quota) in [
            ("quotas.max_webhooks", self.max_webhooks),
            ("quotas.max_events_per_s", self.max_events_per_s),
            ("quotas.max_pending", self.max_pending),
            ("quotas.max_tokens", self.max_tokens),
        ] {
            if let Some(quota) = quota.flatten().filter(|quota| !QUOTA.contains(quota)) {
                faults.push((field, beyond(quota.into(), QUOTA.end().to_owned().into())));
            }
        }
        if let Some(quota) = self.max_stored_bytes.flatten().filter(|quota| !BYTES_QUOTA.contains(quota)) {
            faults.push(("quotas.max_stored_bytes", beyond(quota, *BYTES_QUOTA.end())));
        }
        faults
    }

    /// The patch for a new tenant. Quotas that are not given come from `quotas`.
    #[must_use]
    pub fn or(self, quotas: Quotas) -> Self {
        Self {
            max_webhooks: self.max_webhooks.or(Some(quotas.max_webhooks)),
            max_events_per_s: self.max_events_per_s.or(Some(quotas.max_events_per_s)),
            max_pending: self.max_pending.or(Some(quotas.max_pending)),
            max_tokens: self.max_tokens.or(Some(quotas.max_tokens)),
            max_stored_bytes: self.max_stored_bytes.or(Some(quotas.max_stored_bytes)),
            ..self
        }
    }

    pub fn apply(self, tenant: &mut TenantRecord) {
        let TenantPatch { name, description, .. } = self;
        tenant.name = name.unwrap_or_else(|| std::mem::take(&mut tenant.name));
        tenant.description = description.unwrap_or_else(|| std::mem::take(&mut tenant.description));
        let quotas = &mut tenant.quotas;
        quotas.max_webhooks = self.max_webhooks.unwrap_or(quotas.max_webhooks);
        quotas.max_events_per_s = self.max_events_per_s.unwrap_or(quotas.max_events_per_s);
        quotas.max_pending = self.max_pending.unwrap_or(quotas.max_pending);
        quotas.max_tokens = self.max_tokens.unwrap_or(quotas.max_tokens);
        quotas.max_stored_bytes = self.max_stored_bytes.unwrap_or(quotas.max_stored_bytes);
    }
}

fn beyond(quota: u64, most: u64) -> String {
    format!("is {quota}, must be 0 to {most}, or null for no limit")
}

fn is_tenant_name(name: &str) -> bool {
    (1..=MAX_TENANT_NAME_CHARS).contains(&name.len())
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        // A request names a tenant by its name or its UUID, so a name must not look like a UUID.
        && Uuid::try_parse(name).is_err()
}

/// A tenant that was just deleted, and the webhooks that went with it.
#[derive(Clone, Debug)]
pub struct DeletedTenant {
    pub tenant: TenantRecord,
    pub webhooks: Vec<WebhookSeq>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_lower_case_and_no_uuid() {
        for name in ["a", "default", "blue-team-2", "-", &"a".repeat(MAX_TENANT_NAME_CHARS)] {
            assert!(is_tenant_name(name), "{name}");
        }
        let uuid = Uuid::from_u128(7);
        let too_long = "a".repeat(MAX_TENANT_NAME_CHARS + 1);
        for name in ["", "A", "a b", "a_b", "ä", "a\n", &too_long, &uuid.to_string(), &uuid.simple().to_string()] {
            assert!(!is_tenant_name(name), "{name}");
        }
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let patch = TenantPatch {
            name: Some("Two Words".to_owned()),
            description: Some("x".repeat(MAX_TENANT_DESCRIPTION_CHARS + 1)),
            max_webhooks: Some(Some(QUOTA.end() + 1)),
            max_events_per_s: Some(Some(*QUOTA.end())),
            max_pending: Some(None),
            max_tokens: Some(Some(QUOTA.end() + 1)),
            max_stored_bytes: Some(Some(BYTES_QUOTA.end() + 1)),
        };
        let fields: Vec<_> = patch.faults().into_iter().map(|(field, _)| field).collect();
        let quotas = ["quotas.max_webhooks", "quotas.max_tokens", "quotas.max_stored_bytes"];
        assert_eq!(fields, [&["name", "description"][..], &quotas].concat());
        assert_eq!(TenantPatch::default().faults(), []);
        let largest = TenantPatch { max_stored_bytes: Some(Some(*BYTES_QUOTA.end())), ..TenantPatch::default() };
        assert_eq!(largest.faults(), []);
    }

    #[test]
    fn a_description_has_no_control_characters() {
        for (description, faults) in [("two words, ä 🦀", 0), ("a\0", 1), ("a\nb", 1), ("\u{9b}", 1)] {
            let patch = TenantPatch { description: Some(description.to_owned()), ..TenantPatch::default() };
            assert_eq!(patch.faults().len(), faults, "{description:?}");
        }
    }

    #[test]
    fn what_is_not_said_of_a_new_tenant_is_as_the_server_has_it() {
        let quotas = Quotas { max_webhooks: Some(1), max_pending: Some(2), max_tokens: Some(3), ..Quotas::default() };
        let patch = TenantPatch { max_pending: Some(None), max_tokens: Some(Some(9)), ..TenantPatch::default() };
        let patch = patch.or(quotas);
        assert_eq!((patch.max_webhooks, patch.max_pending), (Some(Some(1)), Some(None)));
        assert_eq!((patch.max_tokens, patch.max_stored_bytes), (Some(Some(9)), Some(None)));
    }
}
