//! Tokens as a store keeps them.

use uuid::Uuid;

use crate::clock::UnixMicros;
use crate::webhook::TenantSeq;

/// The permissions of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Everything in every tenant, and the tenants themselves.
    Operator,
    /// Everything in its tenant, tokens and the audit log included.
    Admin,
    /// Send events.
    Publish,
    /// See everything but secrets, tokens and the audit log.
    Read,
}

impl Scope {
    pub const ALL: [Self; 4] = [Self::Operator, Self::Admin, Self::Publish, Self::Read];

    /// Whether a token of this scope may do what `needed` allows.
    #[must_use]
    pub fn permits(self, needed: Self) -> bool {
        match self {
            Self::Operator => true,
            Self::Admin => needed != Self::Operator,
            Self::Publish | Self::Read => self == needed,
        }
    }

    /// Its name in the API, on the command line and in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Admin => "admin",
            Self::Publish => "publish",
            Self::Read => "read",
        }
    }
}

#[derive(Clone, Debug)]
pub struct NewToken {
    pub tenant: TenantSeq,
    pub name: String,
    pub scopes: Vec<Scope>,
    pub hash: [u8; 32],
    pub expires_at: Option<UnixMicros>,
    pub now: UnixMicros,
}

#[derive(Clone, Debug)]
pub struct TokenRecord {
    pub uuid: Uuid,
    pub tenant: TenantSeq,
    pub name: String,
    pub scopes: Vec<Scope>,
    pub created_at: UnixMicros,
    pub expires_at: Option<UnixMicros>,
    /// To the minute; `None`: never.
    pub last_used_at: Option<UnixMicros>,
}

impl TokenRecord {
    /// Whether it may do what `needed` allows, in its tenant.
    #[must_use]
    pub fn permits(&self, needed: Scope) -> bool {
        self.scopes.iter().any(|scope| scope.permits(needed))
    }
}

#[cfg(test)]
mod tests {
    use super::Scope::{Admin, Operator, Publish, Read};

    #[test]
    fn a_scope_permits_itself_and_what_is_below_it() {
        for (scope, permitted) in [
            (Operator, &[Operator, Admin, Publish, Read][..]),
            (Admin, &[Admin, Publish, Read]),
            (Publish, &[Publish]),
            (Read, &[Read]),
        ] {
            for needed in [Operator, Admin, Publish, Read] {
                assert_eq!(scope.permits(needed), permitted.contains(&needed), "{scope:?} for {needed:?}");
            }
        }
    }
}
