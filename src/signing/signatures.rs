//! The signatures of a webhook's requests: any of the known profiles, and some of one's own.

use std::fmt;
use std::sync::Arc;

use super::keys::{Secret, StandardKey};
use super::mac::block;
use super::profile::{KeyKind, Plan, Profile, ProfileError};
use super::profiles::{profile, profiles};
use super::{Scheme, SigningKeys};

/// The most signatures of a webhook.
pub const MAX_WEBHOOK_SIGNATURES: usize = 8;
/// The most profiles of its own that a webhook may have.
pub const MAX_OWN_PROFILES: usize = 4;

/// The longest part of an unknown name in an error, in characters.
const SHOWN_CHARS: usize = 64;

/// A signature as a user gives it: the name of a known profile, or a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "server", derive(serde::Serialize), serde(untagged))]
pub enum SignatureInput {
    Name(String),
    Profile(Box<Profile>),
}

/// The signatures of a webhook: at least one, each once. Clones are cheap.
#[derive(Clone, PartialEq, Eq)]
pub struct Signatures {
    /// Those that DECNET and Standard Webhooks define, in the order of [`Scheme::ALL`].
    own: Vec<Scheme>,
    /// All others.
    others: Arc<[Arc<Plan>]>,
}

/// The reason why signatures are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignaturesError {
    #[error("at least one signature is needed")]
    None,
    #[error("has {count} signatures, the limit is {MAX_WEBHOOK_SIGNATURES}")]
    TooMany { count: usize },
    #[error("has {count} profiles of its own, the limit is {MAX_OWN_PROFILES}")]
    TooManyProfiles { count: usize },
    #[error("there is no signature {0:?}; there are {known}, and profiles of one's own", known = known())]
    Unknown(String),
    #[error("{0:?} is verified alone: requests are not signed by it, they would show the secret itself")]
    VerifiesAlone(String),
    #[error("{name:?}: {error}")]
    Profile { name: String, error: ProfileError },
    #[error("two signatures are named {0:?}")]
    Twice(String),
    /// The text of a secret is a key with the bytes of the other, or one key makes both.
    #[error(
        "{one:?} and {other:?} sign with the same key, and what one of them signs may be read as what the other signs, \
         so that a body could be passed off as another: give one of them another key, or leave one out"
    )]
    SameKey { one: String, other: String },
}

fn known() -> String {
    let names: Vec<_> = profiles().filter(|plan| plan.signs()).map(|plan| &*plan.profile().name).collect();
    names.join(", ")
}

impl Signatures {
    /// Those that `given` names. The error has all faults.
    pub fn parse(given: &[SignatureInput]) -> Result<Self, Vec<SignaturesError>> {
        let mut errors = Vec::new();
        let is_own = |input: &&SignatureInput| matches!(input, SignatureInput::Profile(_));
        let profiles = given.iter().filter(is_own).count();
        if given.is_empty() {
            return Err(vec![SignaturesError::None]);
        }
        if given.len() > MAX_WEBHOOK_SIGNATURES {
            return Err(vec![SignaturesError::TooMany { count: given.len() }]);
        }
        if profiles > MAX_OWN_PROFILES {
            return Err(vec![SignaturesError::TooManyProfiles { count: profiles }]);
        }
        let (mut own, mut others) = (Vec::new(), Vec::<Arc<Plan>>::new());
        for input in given {
            match plan(input) {
                Ok(plan) if !plan.signs() => {
                    errors.push(SignaturesError::VerifiesAlone(plan.profile().name.to_string()));
                }
                Ok(plan) => match scheme_of(input) {
                    Some(scheme) => own.push(scheme),
                    // A name that is given twice is one signature, as it always was; of profiles none may be two.
                    None if others.contains(&plan) => {}
                    None => others.push(plan),
                },
                Err(error) => errors.push(error),
            }
        }
        own.sort_unstable();
        own.dedup();
        let signatures = Self { own, others: others.into() };
        let names: Vec<_> = signatures.profiles().map(|profile| profile.name.clone()).collect();
        for (at, name) in names.iter().enumerate() {
            if names[..at].contains(name) {
                errors.push(SignaturesError::Twice(name.to_string()));
            }
        }
        if errors.is_empty() { Ok(signatures) } else { Err(errors) }
    }

    /// As they were given, to store and to show.
    #[must_use]
    pub fn inputs(&self) -> Vec<SignatureInput> {
        let own = self.own.iter().map(|scheme| SignatureInput::Name(scheme.as_str().to_owned()));
        let others = self.others.iter().map(|plan| {
            let shown = plan.profile();
            match profile(&shown.name) {
                Some(known) if Arc::ptr_eq(known, plan) => SignatureInput::Name(shown.name.to_string()),
                _ => SignatureInput::Profile(Box::new(shown.clone())),
            }
        });
        own.chain(others).collect()
    }

    /// Whether requests have a signature of this scheme.
    #[must_use]
    pub fn contains(&self, scheme: Scheme) -> bool {
        self.own.contains(&scheme)
    }

    /// The schemes of DECNET and Standard Webhooks.
    #[must_use]
    pub fn schemes(&self) -> &[Scheme] {
        &self.own
    }

    /// All others.
    #[must_use]
    pub fn others(&self) -> &[Arc<Plan>] {
        &self.others
    }

    /// All, each as a profile.
    pub fn profiles(&self) -> impl Iterator<Item = &Profile> {
        self.plans().map(|plan| plan.profile())
    }

    /// Whether a key pair is needed.
    #[must_use]
    pub fn need_ed25519(&self) -> bool {
        self.profiles().any(|profile| profile.key == KeyKind::Ed25519)
    }

    fn plans(&self) -> impl Iterator<Item = &Arc<Plan>> {
        self.own.iter().filter_map(|scheme| profile(scheme.as_str())).chain(self.others.iter())
    }

    /// Refuses two signatures that one key makes, if a content of one may be a content of the other: a receiver, or whoever
    /// writes bodies, could pass a request off as another that was never sent.
    pub fn check_keys(&self, keys: &SigningKeys) -> Result<(), SignaturesError> {
        let plans: Vec<_> = self.plans().collect();
        for (at, one) in plans.iter().enumerate() {
            for other in &plans[..at] {
                if share_a_key(one.profile(), other.profile(), keys) && one.may_be_confused_with(other) {
                    let name = |plan: &Plan| plan.profile().name.to_string();
                    return Err(SignaturesError::SameKey { one: name(other), other: name(one) });
                }
            }
        }
        Ok(())
    }
}

/// Whether a code by one is a code by the other, for the same content. Receivers may still take the keys of before.
fn share_a_key(one: &Profile, other: &Profile, keys: &SigningKeys) -> bool {
    // Codes of other hashes have other lengths, and Ed25519's are no codes.
    match (one.key, other.key) {
        (KeyKind::Ed25519, KeyKind::Ed25519) => true,
        (KeyKind::Ed25519, _) | (_, KeyKind::Ed25519) => false,
        _ if one.hash != other.hash => false,
        (KeyKind::Secret, KeyKind::Secret) | (KeyKind::Standard, KeyKind::Standard) => true,
        _ => keys.generations().any(|one| keys.generations().any(|other| are_one(one.decnet, other.standard))),
    }
}

fn are_one(secret: &Secret, standard: &StandardKey) -> bool {
    *block(secret.expose().as_bytes()) == *block(&standard.bytes)
}

fn plan(input: &SignatureInput) -> Result<Arc<Plan>, SignaturesError> {
    match input {
        SignatureInput::Name(name) => {
            let unknown = || SignaturesError::Unknown(name.chars().take(SHOWN_CHARS).collect());
            profile(name).cloned().ok_or_else(unknown)
        }
        SignatureInput::Profile(own) => Plan::new((**own).clone()).map(Arc::new).map_err(|error| {
            let name = own.name.chars().take(SHOWN_CHARS).collect();
            SignaturesError::Profile { name, error }
        }),
    }
}

fn scheme_of(input: &SignatureInput) -> Option<Scheme> {
    let SignatureInput::Name(name) = input else { return None };
    name.parse().ok()
}

/// Those of the original client and of Standard Webhooks.
impl Default for Signatures {
    fn default() -> Self {
        [Scheme::Decnet, Scheme::Standard].into()
    }
}

impl<const N: usize> From<[Scheme; N]> for Signatures {
    fn from(schemes: [Scheme; N]) -> Self {
        let mut own = schemes.to_vec();
        own.sort_unstable();
        own.dedup();
        Self { own, others: Arc::default() }
    }
}

impl From<Scheme> for Signatures {
    fn from(scheme: Scheme) -> Self {
        [scheme].into()
    }
}

impl From<&str> for SignatureInput {
    fn from(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

/// Names, with commas between.
impl fmt::Display for Signatures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.profiles().map(|profile| &*profile.name).collect();
        f.write_str(&names.join(", "))
    }
}

impl fmt::Debug for Signatures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signatures({self})")
    }
}

#[cfg(feature = "server")]
mod input;

#[cfg(test)]
mod tests;
