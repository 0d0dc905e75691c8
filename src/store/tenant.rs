//! Tenants as a store keeps them, and what one may use.

use std::ops::RangeInclusive;

use uuid::Uuid;

use crate::clock::UnixMicros;
use crate::webhook::{TenantSeq, WebhookSeq};

/// The longest name of a tenant, in characters.
pub const MAX_TENANT_NAME_CHARS: usize = 64;
/// The longest description of a tenant, in characters.
pub const MAX_TENANT_DESCRIPTION_CHARS: usize = 1_024;
/// What a quota may be set to: webhooks, events a second, or deliveries. More is as good as unlimited.
pub const QUOTA: RangeInclusive<u32> = 0..=1_000_000_000;

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

/// The most that a tenant may use; `None`: as much as there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quotas {
    /// Webhooks there may be.
    pub max_webhooks: Option<u32>,
    /// Events accepted a second, on the average and at once.
    pub max_events_per_s: Option<u32>,
    /// Deliveries that may wait or be under way.
    pub max_pending: Option<u32>,
}

/// What of a tenant is to be set: whole to create one, in part to change one. A quota is not given, unlimited, or so many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TenantPatch {
    pub name: Option<String>,
    pub description: Option<String>,
    pub max_webhooks: Option<Option<u32>>,
    pub max_events_per_s: Option<Option<u32>>,
    pub max_pending: Option<Option<u32>>,
}

impl TenantPatch {
    /// All that is wrong with it: the field's name in the API, and why.
    #[must_use]
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        if let Some(name) = &self.name
            && !is_tenant_name(name)
        {
            faults.push(("name", format!("must have 1 to {MAX_TENANT_NAME_CHARS} characters of a-z, 0-9 and -")));
        }
        let is_too_long = |text: &String| text.chars().count() > MAX_TENANT_DESCRIPTION_CHARS;
        if self.description.as_ref().is_some_and(is_too_long) {
            faults.push(("description", format!("must have at most {MAX_TENANT_DESCRIPTION_CHARS} characters")));
        }
        for (field, quota) in [
            ("quotas.max_webhooks", self.max_webhooks),
            ("quotas.max_events_per_s", self.max_events_per_s),
            ("quotas.max_pending", self.max_pending),
        ] {
            if let Some(quota) = quota.flatten().filter(|quota| !QUOTA.contains(quota)) {
                let (least, most) = (QUOTA.start(), QUOTA.end());
                faults.push((field, format!("is {quota}, must be {least} to {most}, or null for no limit")));
            }
        }
        faults
    }

    /// Sets what is given.
    pub fn apply(self, tenant: &mut TenantRecord) {
        let TenantPatch { name, description, max_webhooks, max_events_per_s, max_pending } = self;
        tenant.name = name.unwrap_or_else(|| std::mem::take(&mut tenant.name));
        tenant.description = description.unwrap_or_else(|| std::mem::take(&mut tenant.description));
        let quotas = &mut tenant.quotas;
        quotas.max_webhooks = max_webhooks.unwrap_or(quotas.max_webhooks);
        quotas.max_events_per_s = max_events_per_s.unwrap_or(quotas.max_events_per_s);
        quotas.max_pending = max_pending.unwrap_or(quotas.max_pending);
    }
}

fn is_tenant_name(name: &str) -> bool {
    (1..=MAX_TENANT_NAME_CHARS).contains(&name.len())
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        // A request names a tenant by its name or its UUID, and must not mean two.
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
        };
        let fields: Vec<_> = patch.faults().into_iter().map(|(field, _)| field).collect();
        assert_eq!(fields, ["name", "description", "quotas.max_webhooks"]);
        assert_eq!(TenantPatch::default().faults(), []);
    }
}
