//! Memory for what is on its way, of which no tenant and no token takes all.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use uuid::Uuid;

use crate::webhook::TenantSeq;

/// A tenant may have one in this many bytes of a budget, whatever the number of its tokens.
const TENANT_SHARE: usize = 2;
/// A token may have one in this many bytes.
const TOKEN_SHARE: usize = 4;

/// The caller to whom memory is charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Owner {
    pub(super) tenant: TenantSeq,
    /// `None`: the environment's.
    pub(super) token: Option<Uuid>,
}

/// An extension of a request with its owner, which is set when the owner is known.
#[derive(Clone, Debug, Default)]
pub(super) struct OwnerOf(Arc<OnceLock<Owner>>);

impl OwnerOf {
    pub(super) fn set(&self, owner: Owner) {
        // A request has only one caller, so a second set is ignored.
        let _ = self.0.set(owner);
    }

    /// `None`: the request is not authenticated.
    pub(super) fn get(&self) -> Option<Owner> {
        self.0.get().copied()
    }
}

/// The accounts by which bytes are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Account {
    All,
    /// `None`: requests without a caller.
    Tenant(Option<TenantSeq>),
    Token(Option<Owner>),
}

/// The reason why no memory is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exhausted {
    All,
    Tenant,
    Token,
}

/// A limit of bytes.
#[derive(Clone)]
pub(super) struct Budget {
    bytes: usize,
    taken: Arc<Mutex<HashMap<Account, usize>>>,
}

/// A part of a budget, which returns when dropped.
pub(super) struct Share {
    budget: Budget,
    owner: Option<Owner>,
    bytes: usize,
}

impl Budget {
    pub(super) fn new(bytes: usize) -> Self {
        Self { bytes, taken: Arc::default() }
    }

    /// The accounts of an owner, each with its limit and its error.
    fn accounts(&self, owner: Option<Owner>) -> [(Account, usize, Exhausted); 3] {
        let said = |exhausted| if owner.is_some() { exhausted } else { Exhausted::All };
        [
            (Account::Token(owner), self.bytes / TOKEN_SHARE, said(Exhausted::Token)),
            (Account::Tenant(owner.map(|owner| owner.tenant)), self.bytes / TENANT_SHARE, said(Exhausted::Tenant)),
            (Account::All, self.bytes, Exhausted::All),
        ]
    }

    pub(super) fn reserve(&self, owner: Option<Owner>, bytes: usize) -> Result<Share, Exhausted> {
        let mut taken = self.taken.lock();
        for (account, most, exhausted) in self.accounts(owner) {
            if taken.get(&account).copied().unwrap_or_default().saturating_add(bytes) > most {
                return Err(exhausted);
            }
        }
        for (account, ..) in self.accounts(owner) {
            *taken.entry(account).or_default() += bytes;
        }
        Ok(Share { budget: self.clone(), owner, bytes })
    }

    #[cfg(test)]
    pub(super) fn left(&self) -> usize {
        self.bytes - self.taken.lock().get(&Account::All).copied().unwrap_or_default()
    }
}

impl Share {
    /// Adds `more`, which must have the same owner.
    pub(super) fn add(&mut self, mut more: Self) {
        self.bytes += std::mem::take(&mut more.bytes);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.budget.taken.lock();
        for (account, ..) in self.budget.accounts(self.owner) {
            if let Some(bytes) = taken.get_mut(&account) {
                *bytes -= self.bytes;
                if *bytes == 0 {
                    taken.remove(&account);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;

    #[test]
    fn no_token_and_no_tenant_takes_the_room_of_others() {
        let budget = Budget::new(64 * MIB);
        let owner = |tenant, token| Some(Owner { tenant: TenantSeq(tenant), token: Some(Uuid::from_u128(token)) });
        let flood = |owner| std::iter::from_fn(|| budget.reserve(owner, MIB).ok()).collect::<Vec<_>>();
        let mut held = flood(owner(1, 1));
        assert_eq!(held.len(), 64 / TOKEN_SHARE);
        assert_eq!(budget.reserve(owner(1, 1), MIB).err(), Some(Exhausted::Token));
        held.extend(flood(owner(1, 2)));
        assert_eq!(held.len(), 64 / TENANT_SHARE);
        assert_eq!(budget.reserve(owner(1, 3), MIB).err(), Some(Exhausted::Tenant), "of a third token, too");
        let mut others = budget.reserve(owner(2, 4), MIB).unwrap();
        others.add(budget.reserve(owner(2, 4), MIB).unwrap());
        let of_nobody = flood(None);
        assert_eq!(of_nobody.len(), 64 / TOKEN_SHARE, "who has no token is one of many");
        assert_eq!(budget.reserve(None, MIB).err(), Some(Exhausted::All));
        held.extend(of_nobody);
        held.extend(flood(owner(3, 5)));
        assert_eq!(budget.left(), 0);
        assert_eq!(budget.reserve(owner(4, 6), 1).err(), Some(Exhausted::All));
        drop(others);
        assert_eq!(budget.left(), 2 * MIB);
        drop(held);
        assert_eq!(budget.left(), 64 * MIB);
        assert!(budget.taken.lock().is_empty(), "nobody is remembered");
    }
}
