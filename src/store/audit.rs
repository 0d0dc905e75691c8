//! Who did what: the acts that an audit log keeps.

use std::collections::BTreeMap;
use std::net::IpAddr;

use uuid::Uuid;

use crate::clock::UnixMicros;
use crate::webhook::TenantSeq;

/// The circumstances of a change, as the audit log keeps them beside the change itself.
///
/// A handle made by [`super::Store::audited`] writes a line for each change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    /// The tenant that the change is for.
    pub tenant: TenantSeq,
    /// `None`: this program on its own account, which is not audited.
    pub actor: Option<Actor>,
    /// The client's address.
    pub address: Option<IpAddr>,
    /// Names of the settings that the caller gave.
    pub fields: Vec<String>,
    /// The name of the action in the log, if it says more than the change's usual name.
    pub action: Option<&'static str>,
}

impl Act {
    #[must_use]
    pub fn with_fields(self, fields: Vec<String>) -> Self {
        Self { fields, ..self }
    }
}

/// This program on its own account.
impl From<TenantSeq> for Act {
    fn from(tenant: TenantSeq) -> Self {
        Self { tenant, actor: None, address: None, fields: Vec::new(), action: None }
    }
}

/// The owner of the key that was used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// `None`: the key from the environment, or [`SERVER`].
    pub token: Option<Uuid>,
    /// The token's name at that time.
    pub name: String,
}

/// The name of this program in the log, for changes on its own account.
pub const SERVER: &str = "server";
/// The action of a purge of the log.
pub(super) const PURGE_ACTION: &str = "audit.purge";

impl Act {
    /// An act of this program on its own account that is audited all the same.
    pub(super) fn of_server(tenant: TenantSeq) -> Self {
        Self { actor: Some(Actor { token: None, name: SERVER.to_owned() }), ..Self::from(tenant) }
    }
}

/// The lines of a tenant that a purge deleted, without the lines about earlier purges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone {
    pub(super) tenant: TenantSeq,
    pub(super) lines: i64,
    /// The times of the oldest and the newest of these lines.
    pub(super) first_at: UnixMicros,
    pub(super) last_at: UnixMicros,
}

impl Gone {
    /// By tenant, from the tenant, the time and the action of each line.
    pub(super) fn gather(lines: impl IntoIterator<Item = (TenantSeq, UnixMicros, bool)>) -> Vec<Self> {
        let mut gone: BTreeMap<TenantSeq, Self> = BTreeMap::new();
        for (tenant, at, is_purge) in lines {
            if is_purge {
                continue;
            }
            let gone = gone.entry(tenant).or_insert(Self { tenant, lines: 0, first_at: at, last_at: at });
            gone.lines += 1;
            (gone.first_at, gone.last_at) = (gone.first_at.min(at), gone.last_at.max(at));
        }
        gone.into_values().collect()
    }

    /// The line about the purge. Its target is the interval from the first to the last deleted line, as in ISO 8601.
    pub(super) fn deed(&self, at: UnixMicros) -> Deed {
        let Self { tenant, lines, first_at, last_at } = self;
        let target_name = format!("{lines} lines from {first_at} to {last_at}");
        let target = format!("{first_at}/{last_at}");
        Deed { at, tenant: *tenant, action: PURGE_ACTION, target: Some(target), target_name: Some(target_name) }
    }
}

/// A change to be audited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deed {
    pub at: UnixMicros,
    /// The tenant concerned.
    pub tenant: TenantSeq,
    /// The kind of the thing, a dot, and the verb: `webhook.create`.
    pub action: &'static str,
    /// The id of the thing, as the API shows it.
    pub target: Option<String>,
    /// Its name at that moment.
    pub target_name: Option<String>,
}

impl Deed {
    /// A deed without the target's name, which may be added.
    #[must_use]
    pub fn of(action: &'static str, tenant: TenantSeq, target: Uuid, at: UnixMicros) -> Self {
        Self { at, tenant, action, target: Some(target.to_string()), target_name: None }
    }

    #[must_use]
    pub fn named(self, name: &str) -> Self {
        Self { target_name: Some(name.to_owned()), ..self }
    }
}

/// A line of the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    pub id: Uuid,
    pub at: UnixMicros,
    /// The name of the tenant concerned, also of a deleted one.
    pub tenant: String,
    pub actor: Actor,
    pub action: String,
    pub target: Option<String>,
    pub target_name: Option<String>,
    pub fields: Vec<String>,
    pub address: Option<String>,
}

/// Conditions of a listing of the log.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// `None`: of every tenant.
    pub tenant: Option<TenantSeq>,
    /// One action, or all actions of a kind by the part before the dot: `webhook`.
    pub action: Option<String>,
    /// A token's UUID, or the name of an actor.
    pub actor: Option<String>,
    /// Done at or after.
    pub since: Option<UnixMicros>,
    /// Done before.
    pub until: Option<UnixMicros>,
}

impl AuditFilter {
    /// Whether `entry` matches all conditions but the tenant.
    #[must_use]
    pub fn wants(&self, entry: &AuditEntry) -> bool {
        let is_kind = |wanted: &String| {
            entry.action.strip_prefix(wanted.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let is_actor = |wanted: &String| {
            *wanted == entry.actor.name || entry.actor.token.is_some_and(|token| Uuid::try_parse(wanted) == Ok(token))
        };
        self.action.as_ref().is_none_or(is_kind)
            && self.actor.as_ref().is_none_or(is_actor)
            && self.since.is_none_or(|since| entry.at >= since)
            && self.until.is_none_or(|until| entry.at < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_wanted_by_action_or_its_kind_by_actor_and_by_time() {
        let token = Uuid::from_u128(7);
        let entry = AuditEntry {
            id: Uuid::nil(),
            at: UnixMicros(100),
            tenant: "default".to_owned(),
            actor: Actor { token: Some(token), name: "ops".to_owned() },
            action: "webhook.create".to_owned(),
            target: None,
            target_name: None,
            fields: Vec::new(),
            address: None,
        };
        let action = |action: &str| AuditFilter { action: Some(action.to_owned()), ..AuditFilter::default() };
        let actor = |actor: &str| AuditFilter { actor: Some(actor.to_owned()), ..AuditFilter::default() };
        let between = |since, until| AuditFilter {
            since: Some(UnixMicros(since)),
            until: Some(UnixMicros(until)),
            ..AuditFilter::default()
        };
        for filter in [
            AuditFilter::default(),
            action("webhook"),
            action("webhook.create"),
            actor("ops"),
            actor(&token.to_string()),
            between(100, 101),
        ] {
            assert!(filter.wants(&entry), "{filter:?}");
        }
        for filter in [
            action("web"),
            action("webhook.delete"),
            action("token"),
            actor("op"),
            actor(&Uuid::nil().to_string()),
            between(101, 200),
            between(50, 100),
        ] {
            assert!(!filter.wants(&entry), "{filter:?}");
        }
    }
}
