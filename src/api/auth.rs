//! Who calls, and what they may do: bearer tokens and their scopes.

mod decnet;
mod slowdown;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::RwLock;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::time::Instant;

pub use self::decnet::{
    DECNET_TIMEOUT, DecnetError, DecnetSettings, MAX_DECNET_JWT_BYTES, MAX_DECNET_QUESTIONS,
    MIN_DECNET_JWT_SECRET_BYTES,
};
use self::decnet::{DecnetUsers, User, is_jwt};
pub use self::slowdown::{AUTH_FAILURE_COUNTS, AUTH_FAILURES, MAX_FAILING_PEERS};
pub(super) use self::slowdown::{Slowdown, group};
use super::App;
use super::budget::{Owner, OwnerOf};
use super::problem::Problem;
use crate::clock::UnixMicros;
use crate::engine::Engine;
use crate::store::{Act, Actor, Scope, Store, TokenRecord};
use crate::tenants::Tenants;
use crate::webhook::{DEFAULT_TENANT, TenantSeq};

const TOKEN_PREFIX: &str = "pr_";
const TOKEN_BYTES: usize = 32;
/// The time for which a token is cached, unless the engine has seen a revocation.
const CACHE_TTL: Duration = Duration::from_secs(30);
/// The most cached tokens. A full cache is cleared.
const MAX_CACHED_TOKENS: usize = 1_024;

/// The SHA-256 of a token. Tokens are stored only in this form.
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

/// Names the tenant that a request acts for, by name or UUID.
pub const TENANT_HEADER: &str = "x-postrider-tenant";
/// The name of the environment's token in the audit log.
const ENVIRONMENT: &str = "environment";
/// The interval in which the time of a token's last use is written, hence its precision.
const LAST_USED_STEP: Duration = Duration::from_mins(1);

/// Authenticates requests. Tokens are cached for a short time, so that publishing needs no read of the store.
pub struct Auth {
    store: Arc<dyn Store>,
    /// The operator's token from the environment, which has no row.
    environment: Option<TokenHash>,
    /// Whose admins are admins here, too.
    decnet: Option<DecnetUsers>,
    cache: RwLock<Cache>,
    slowdown: Slowdown<IpAddr>,
}

#[derive(Default)]
struct Cache {
    /// Valid tokens, including ones that must be read again: a token that was valid does not charge its peer.
    tokens: HashMap<TokenHash, Arc<Cached>>,
}

struct Cached {
    token: TokenRecord,
    read_at: Instant,
    /// The engine's generation at the look-up. A token from before the last revocation is read again.
    generation: Option<u64>,
    /// The last written time of use, in microseconds since 1970.
    noted_at: AtomicI64,
    /// It is no token of this server: DECNET has given it to one of its users.
    is_of_decnet: bool,
}

/// The caller of a request, and its tenant.
pub(super) struct Caller {
    pub(super) tenant: TenantSeq,
    /// `None`: the token of the environment.
    token: Option<Arc<Cached>>,
    pub(super) is_operator: bool,
    /// The request names its tenant.
    is_tenant_named: bool,
}

impl Caller {
    /// The caller's act, for the audit log. Acts of a tenant have a rate limit, unless the method is safe.
    fn act(&self, parts: &Parts, tenants: &Tenants) -> Result<Act, Problem> {
        if !self.is_operator
            && !parts.method.is_safe()
            && let Some(tenant) = tenants.get(self.tenant)
        {
            tenant.take_act().map_err(Problem::too_many_acts)?;
        }
        let address = parts.extensions.get::<Peer>().map(|peer| peer.0.to_canonical());
        let actor = match &self.token {
            Some(cached) => Actor { token: Some(cached.token.uuid), name: cached.token.name.clone() },
            None => Actor { token: None, name: ENVIRONMENT.to_owned() },
        };
        Ok(Act { actor: Some(actor), address, ..Act::from(self.tenant) })
    }
}

impl Auth {
    /// `decnet`: a DECNET whose admins are admins here, too.
    pub fn new(
        store: Arc<dyn Store>,
        environment: Option<TokenHash>,
        decnet: Option<&DecnetSettings>,
    ) -> Result<Self, DecnetError> {
        let decnet = decnet.map(DecnetUsers::new).transpose()?;
        Ok(Self { store, environment, decnet, cache: RwLock::default(), slowdown: Slowdown::default() })
    }

    /// The caller of a request with these headers, if its token permits `needed`.
    async fn admit(
        &self,
        headers: &HeaderMap,
        peer: Option<Peer>,
        needed: Scope,
        engine: &Engine,
    ) -> Result<Caller, Problem> {
        let (tenants, now) = (engine.tenants(), engine.now());
        let authorization = headers.get(AUTHORIZATION).map_or(&b""[..], |value| value.as_bytes());
        let token = bearer(authorization)
            .ok_or_else(|| Problem::unauthorized("a token is needed: send `Authorization: Bearer <token>`"))?;
        let hash = hash(token);
        let (own, is_operator, token) = if self.environment.is_some_and(|known| bool::from(known.ct_eq(&hash))) {
            (DEFAULT_TENANT, true, None)
        } else {
            let unknown = || Problem::unauthorized("the token is unknown, revoked or expired");
            if DecnetUsers::is_question(headers) {
                let detail = "`decnet_api` leads back to this server; it must be the address of DECNET's own API";
                return Err(Problem::new(StatusCode::LOOP_DETECTED, "decnet-loop", detail));
            }
            let cached = self.look_up(token, hash, engine.token_generation(), now, peer).await?.ok_or_else(unknown)?;
            let token = &cached.token;
            if token.expires_at.is_some_and(|expires_at| expires_at <= now) {
                return Err(unknown());
            }
            self.note_use(&cached, now);
            if !token.permits(needed) {
                let detail = format!("the token lacks the scope `{}`", needed.as_str());
                return Err(Problem::forbidden(detail));
            }
            (token.tenant, token.permits(Scope::Operator), Some(cached))
        };
        let named = named_tenant(headers)?;
        let tenant = match named {
            Some(named) => {
                for_tenant(tenants.find(named).map(|tenant| tenant.seq), own, is_operator, "X-Postrider-Tenant")?
            }
            None => own,
        };
        Ok(Caller { tenant, token, is_operator, is_tenant_named: named.is_some() })
    }

    /// Writes the time of use now and then, in a task of its own.
    fn note_use(&self, cached: &Arc<Cached>, now: UnixMicros) {
        if cached.is_of_decnet {
            return;
        }
        let noted = cached.noted_at.load(Ordering::Relaxed);
        // After the clock was set back, the written time lies in the future and is corrected.
        let is_fresh = (UnixMicros(noted)..UnixMicros(noted).after(LAST_USED_STEP)).contains(&now);
        if is_fresh || cached.noted_at.compare_exchange(noted, now.0, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        let (store, uuid) = (Arc::clone(&self.store), cached.token.uuid);
        tokio::spawn(async move {
            if let Err(error) = store.touch_token(uuid, now).await {
                tracing::debug!(%error, "cannot note the use of a token");
            }
        });
    }

    /// The token, from the cache, from the store or from DECNET. A peer is charged before the look-up of an unknown token,
    /// and gets a refund if the token is valid. A token that DECNET has signed costs nothing, since its check is local.
    async fn look_up(
        &self,
        text: &str,
        hash: TokenHash,
        generation: Option<u64>,
        now: UnixMicros,
        peer: Option<Peer>,
    ) -> Result<Option<Arc<Cached>>, Problem> {
        let was_good = {
            let cache = self.cache.read();
            let cached = cache.tokens.get(&hash);
            let is_fresh = |cached: &Cached| {
                generation.is_some() && cached.generation == generation && cached.read_at.elapsed() < CACHE_TTL
            };
            if let Some(cached) = cached.filter(|cached| is_fresh(cached)) {
                return Ok(Some(Arc::clone(cached)));
            }
            cached.is_some()
        };
        let users = self.decnet.as_ref().filter(|_| is_jwt(text));
        let user = users.and_then(|users| users.user(text, now).map(|user| (users, user)));
        let mut charge = None;
        // DECNET's signature was no guess.
        if !was_good && user.is_none() {
            let charged = self.slowdown.charge(group(peer.map(|peer| peer.0)), Instant::now());
            charge = Some(charged.map_err(Problem::too_many_failures)?);
        }
        let token = match user {
            _ if is_well_formed(text) => self.store.token_by_hash(hash).await?,
            Some((_, user)) => Some(admin_of_decnet(user)),
            None => return Ok(None),
        };
        let Some(token) = token else {
            self.cache.write().tokens.remove(&hash);
            return Ok(None);
        };
        if let Some(charge) = charge {
            self.slowdown.refund(charge);
        }
        if let Some((users, user)) = user {
            users.check_admin(text, hash, user.uuid).await?;
        }
        let noted_at = AtomicI64::new(token.last_used_at.map_or(i64::MIN, |at| at.0));
        let cached =
            Arc::new(Cached { token, read_at: Instant::now(), generation, noted_at, is_of_decnet: user.is_some() });
        let mut cache = self.cache.write();
        if cache.tokens.len() >= MAX_CACHED_TOKENS {
            cache.tokens.clear();
        }
        cache.tokens.insert(hash, Arc::clone(&cached));
        Ok(Some(cached))
    }
}

/// What a token of an admin of DECNET permits: what a token of this server with the scope `admin` does, in the default tenant.
fn admin_of_decnet(user: User) -> TokenRecord {
    TokenRecord {
        uuid: user.uuid,
        tenant: DEFAULT_TENANT,
        name: format!("decnet:{}", user.uuid),
        scopes: vec![Scope::Admin],
        created_at: UnixMicros(0),
        expires_at: Some(user.expires_at),
        last_used_at: None,
    }
}

/// The token of `Bearer <token>`; the scheme's case does not matter (RFC 9110, 11.1).
fn bearer(authorization: &[u8]) -> Option<&str> {
    let (scheme, token) = std::str::from_utf8(authorization).ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// Whether the text has the form of a token. Other texts are not looked up.
fn is_well_formed(token: &str) -> bool {
    let mut bytes = [0; TOKEN_BYTES];
    token.strip_prefix(TOKEN_PREFIX).is_some_and(|encoded| {
        encoded.len() == TOKEN_BYTES.div_ceil(3) * 4 - 1
            && URL_SAFE_NO_PAD.decode_slice(encoded, &mut bytes) == Ok(TOKEN_BYTES)
    })
}

/// The tenant that the request names.
fn named_tenant(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut values = headers.get_all(TENANT_HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::field("X-Postrider-Tenant", "is given more than once"));
    }
    // A value that is no text names no tenant.
    Ok(Some(value.to_str().unwrap_or_default()))
}

/// The tenant of a request that names `found`. A caller that is no operator gets the same error for all tenants but its
/// `own`, existing or not.
fn for_tenant(
    found: Option<TenantSeq>,
    own: TenantSeq,
    is_operator: bool,
    named_by: &str,
) -> Result<TenantSeq, Problem> {
    match found {
        Some(found) if is_operator || found == own => Ok(found),
        None if is_operator => Err(Problem::not_found("tenant")),
        _ => Err(Problem::forbidden(format!("the token is for its own tenant alone; `{named_by}` names another"))),
    }
}

/// A caller that may send events, as its tenant.
pub(super) struct Publisher(pub(super) TenantSeq);
/// A caller that may see everything but secrets, tokens and the audit log.
pub(super) struct Reader(pub(super) TenantSeq);
/// A [`Reader`], and what it may see beside.
pub(super) struct Viewer {
    pub(super) tenant: TenantSeq,
    /// Whole URLs of webhooks, as an [`Admin`] may.
    pub(super) sees_urls: bool,
    /// Addresses that names have in the server's network, as an [`Operator`] may.
    pub(super) sees_addresses: bool,
}
/// A [`Reader`], and whether it is an operator, for figures of several tenants.
pub(super) struct FigureReader {
    pub(super) tenant: TenantSeq,
    pub(super) is_operator: bool,
}

impl FigureReader {
    /// The tenant that the request names beside its own, if the caller may see it; `None`: there is none of that name.
    pub(super) fn may_see(&self, found: Option<TenantSeq>) -> Result<TenantSeq, Problem> {
        for_tenant(found, self.tenant, self.is_operator, "tenant")
    }
}
/// A caller that may do everything in a tenant, as an act for the audit log.
pub(super) struct Admin(pub(super) Act);
/// A caller that may manage tenants.
pub(super) struct Operator(pub(super) Act);
/// A caller that may see the audit log, of one tenant or (`None`) of all.
pub(super) struct Auditor(pub(super) Option<TenantSeq>);
/// An [`Admin`], and whether it is an operator.
pub(super) struct AnyAdmin {
    pub(super) act: Act,
    pub(super) is_operator: bool,
}

/// The other end of a request's connection, as an extension of the request.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

/// Authenticates the caller, to whom the request's body and answer are charged from now on.
async fn admit(parts: &mut Parts, app: &App, needed: Scope) -> Result<Caller, Problem> {
    let peer = parts.extensions.get::<Peer>().copied();
    let caller = app.auth.admit(&parts.headers, peer, needed, &app.engine).await?;
    let token = caller.token.as_ref().map(|cached| cached.token.uuid);
    if let Some(owner) = parts.extensions.get::<OwnerOf>() {
        owner.set(Owner { tenant: caller.tenant, token });
    }
    Ok(caller)
}

/// The caller, and its act.
async fn admit_act(parts: &mut Parts, app: &App, needed: Scope) -> Result<(Caller, Act), Problem> {
    let caller = admit(parts, app, needed).await?;
    let act = caller.act(parts, app.engine.tenants())?;
    Ok((caller, act))
}

impl FromRequestParts<Arc<App>> for Publisher {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        Ok(Self(admit(parts, app, Scope::Publish).await?.tenant))
    }
}

impl FromRequestParts<Arc<App>> for Reader {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        Ok(Self(admit(parts, app, Scope::Read).await?.tenant))
    }
}

impl FromRequestParts<Arc<App>> for Viewer {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let caller = admit(parts, app, Scope::Read).await?;
        let sees_urls = caller.token.as_ref().is_none_or(|cached| cached.token.permits(Scope::Admin));
        Ok(Self { tenant: caller.tenant, sees_urls, sees_addresses: caller.is_operator })
    }
}

impl FromRequestParts<Arc<App>> for FigureReader {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let caller = admit(parts, app, Scope::Read).await?;
        Ok(Self { tenant: caller.tenant, is_operator: caller.is_operator })
    }
}

impl FromRequestParts<Arc<App>> for Admin {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        Ok(Self(admit_act(parts, app, Scope::Admin).await?.1))
    }
}

impl FromRequestParts<Arc<App>> for Operator {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        Ok(Self(admit_act(parts, app, Scope::Operator).await?.1))
    }
}

impl FromRequestParts<Arc<App>> for Auditor {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let caller = admit(parts, app, Scope::Admin).await?;
        let is_for_all = caller.is_operator && !caller.is_tenant_named;
        Ok(Self((!is_for_all).then_some(caller.tenant)))
    }
}

impl FromRequestParts<Arc<App>> for AnyAdmin {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let (caller, act) = admit_act(parts, app, Scope::Admin).await?;
        Ok(Self { act, is_operator: caller.is_operator })
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
    fn only_an_operator_learns_which_tenants_there_are() {
        let (own, other) = (TenantSeq(1), TenantSeq(2));
        let status = |result: Result<TenantSeq, Problem>| {
            use axum::response::IntoResponse;
            result.map_err(|problem| problem.into_response().status().as_u16())
        };
        assert_eq!(status(for_tenant(Some(other), own, true, "X")), Ok(other));
        assert_eq!(status(for_tenant(None, own, true, "X")), Err(404));
        assert_eq!(status(for_tenant(Some(own), own, false, "X")), Ok(own));
        assert_eq!(status(for_tenant(Some(other), own, false, "X")), Err(403));
        assert_eq!(status(for_tenant(None, own, false, "X")), Err(403));
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
