//! Who calls, and what they may do: bearer tokens and their scopes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::RwLock;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::App;
use super::problem::Problem;
use crate::clock::UnixMicros;
use crate::store::{Scope, Store, StoreError, TokenRecord};
use crate::webhook::{DEFAULT_TENANT, TenantSeq};

const TOKEN_PREFIX: &str = "pr_";
const TOKEN_BYTES: usize = 32;
/// How long a token is believed without asking the store: bounds how long one lives on that another node revoked.
const CACHE_TTL: Duration = Duration::from_secs(30);
/// The most tokens remembered; beyond it the memory starts anew.
const MAX_CACHED_TOKENS: usize = 1_024;

/// The SHA-256 of a token: all that is ever kept of one.
pub type TokenHash = [u8; 32];

/// A new token: `pr_` and 43 characters of URL-safe base64, 256 random bits.
pub fn new_token() -> Result<SecretString, aws_lc_rs::error::Unspecified> {
    let mut bytes = zeroize::Zeroizing::new([0; TOKEN_BYTES]);
    aws_lc_rs::rand::fill(&mut *bytes)?;
    Ok(format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(*bytes)).into())
}

#[must_use]
pub fn hash_token(token: &SecretString) -> TokenHash {
    hash(token.expose_secret())
}

fn hash(token: &str) -> TokenHash {
    Sha256::digest(token.as_bytes()).into()
}

/// Knows the tokens. Publishing costs no store read: what the store said is remembered for a moment.
pub struct Auth {
    store: Arc<dyn Store>,
    /// The admin token that the environment gave; it needs no row.
    environment_admin: Option<TokenHash>,
    cache: RwLock<Cache>,
}

#[derive(Default)]
struct Cache {
    tokens: HashMap<TokenHash, Cached>,
    /// Counts revocations: a look-up that was under way during one is not remembered.
    generation: u64,
}

#[derive(Clone)]
struct Cached {
    token: Arc<TokenRecord>,
    read_at: Instant,
}

impl Auth {
    pub fn new(store: Arc<dyn Store>, environment_admin: Option<TokenHash>) -> Self {
        Self { store, environment_admin, cache: RwLock::default() }
    }

    /// The tenant that a request with this `Authorization` header acts for, if it may do what `needed` allows.
    async fn admit(&self, authorization: &[u8], needed: Scope, now: UnixMicros) -> Result<TenantSeq, Problem> {
        let token = bearer(authorization)
            .ok_or_else(|| Problem::unauthorized("a token is needed: send `Authorization: Bearer <token>`"))?;
        let hash = hash(token);
        if self.environment_admin.is_some_and(|admin| bool::from(admin.ct_eq(&hash))) {
            return Ok(DEFAULT_TENANT);
        }
        let unknown = || Problem::unauthorized("the token is unknown, revoked or expired");
        if !is_well_formed(token) {
            return Err(unknown());
        }
        let token = self.look_up(hash).await?.ok_or_else(unknown)?;
        if token.expires_at.is_some_and(|expires_at| expires_at <= now) {
            return Err(unknown());
        }
        if !token.scopes.iter().any(|&scope| scope == needed || scope == Scope::Admin) {
            let detail = format!("the token lacks the scope `{}`", scope_name(needed));
            return Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail));
        }
        Ok(token.tenant)
    }

    async fn look_up(&self, hash: TokenHash) -> Result<Option<Arc<TokenRecord>>, StoreError> {
        let generation = {
            let cache = self.cache.read();
            match cache.tokens.get(&hash) {
                Some(cached) if cached.read_at.elapsed() < CACHE_TTL => return Ok(Some(Arc::clone(&cached.token))),
                _ => cache.generation,
            }
        };
        let Some(token) = self.store.token_by_hash(hash).await?.map(Arc::new) else { return Ok(None) };
        let mut cache = self.cache.write();
        if cache.generation == generation {
            if cache.tokens.len() >= MAX_CACHED_TOKENS {
                cache.tokens.clear();
            }
            cache.tokens.insert(hash, Cached { token: Arc::clone(&token), read_at: Instant::now() });
        }
        Ok(Some(token))
    }

    /// Forgets what is remembered: a revocation takes effect at once.
    pub(super) fn forget(&self) {
        let mut cache = self.cache.write();
        cache.tokens.clear();
        cache.generation += 1;
    }
}

/// The token of `Bearer <token>`; the scheme's case does not matter (RFC 9110, 11.1).
fn bearer(authorization: &[u8]) -> Option<&str> {
    let (scheme, token) = std::str::from_utf8(authorization).ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// Whether it can be one of ours: a text that cannot costs no look-up.
fn is_well_formed(token: &str) -> bool {
    let mut bytes = [0; TOKEN_BYTES];
    token.strip_prefix(TOKEN_PREFIX).is_some_and(|encoded| {
        encoded.len() == TOKEN_BYTES.div_ceil(3) * 4 - 1
            && URL_SAFE_NO_PAD.decode_slice(encoded, &mut bytes) == Ok(TOKEN_BYTES)
    })
}

pub(super) fn scope_name(scope: Scope) -> &'static str {
    match scope {
        Scope::Admin => "admin",
        Scope::Publish => "publish",
        Scope::Read => "read",
    }
}

/// A caller that may do everything, for its tenant.
pub(super) struct Admin(pub(super) TenantSeq);
/// A caller that may send events.
pub(super) struct Publisher(pub(super) TenantSeq);
/// A caller that may see everything but secrets and tokens.
pub(super) struct Reader(pub(super) TenantSeq);

async fn admit(parts: &Parts, app: &App, needed: Scope) -> Result<TenantSeq, Problem> {
    let authorization = parts.headers.get(AUTHORIZATION).map_or(&b""[..], |value| value.as_bytes());
    app.auth.admit(authorization, needed, app.engine.now()).await
}

impl FromRequestParts<Arc<App>> for Admin {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        admit(parts, app, Scope::Admin).await.map(Self)
    }
}

impl FromRequestParts<Arc<App>> for Publisher {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        admit(parts, app, Scope::Publish).await.map(Self)
    }
}

impl FromRequestParts<Arc<App>> for Reader {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        admit(parts, app, Scope::Read).await.map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_token_is_43_characters_after_its_prefix_and_never_the_same() {
        let (one, other) = (new_token().unwrap(), new_token().unwrap());
        assert_eq!(one.expose_secret().len(), 46);
        assert!(is_well_formed(one.expose_secret()));
        assert_ne!(one.expose_secret(), other.expose_secret());
    }

    #[test]
    fn what_cannot_be_a_token_is_not_looked_up() {
        for text in ["", "pr_", "pr_short", "xx_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", &"pr_A".repeat(90)] {
            assert!(!is_well_formed(text), "{text}");
        }
    }

    #[test]
    fn the_scheme_is_read_in_any_case() {
        assert_eq!(bearer(b"Bearer abc"), Some("abc"));
        assert_eq!(bearer(b"bEARER  abc"), Some("abc"));
        for text in [&b"Basic abc"[..], b"Bearer", b"Bearer ", b"", b"Bearer \xff"] {
            assert_eq!(bearer(text), None);
        }
    }
}
