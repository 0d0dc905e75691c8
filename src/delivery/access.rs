//! How a receiver is reached beyond its URL: headers, credentials, authorities, client certificate, proxy.
//!
//! [`RawAccess`] is what a user gives and a store keeps; [`Access`] is the same, checked and ready for the wire.
//! What every attempt needs (header values, certificates, the proxy's credentials) is built once, here.
//!
//! ```
//! use postrider::delivery::access::{Access, RawAccess};
//!
//! let mut raw = RawAccess::default();
//! raw.headers.insert("X-Team".to_owned(), "blue".into());
//! let access = Access::new(raw.clone()).unwrap();
//! assert_eq!(access.raw(), &raw);
//!
//! raw.headers.insert("Host".to_owned(), "inside.example".into());
//! let errors = Access::new(raw).unwrap_err();
//! assert_eq!(errors[0].to_string(), "\"Host\" is set by Postrider itself");
//! assert_eq!(errors[0].field, "headers");
//! ```

mod assertion;
mod auth;
mod credential;
mod error;
mod headers;
mod identity;
mod login;
#[cfg(feature = "server")]
mod login_input;
mod masks;
mod oauth2;
mod proxy;
mod secret;
mod tokens;
mod user_info;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use http::HeaderValue;
use rustls::pki_types::ServerName;
use sha2::{Digest, Sha256};

pub use self::auth::{AuthStyle, MAX_CLIENT_SECRET_BYTES, MAX_PASSWORD_BYTES, MAX_SCOPES, MAX_USERNAME_BYTES, RawAuth};
pub use self::credential::MAX_TOKEN_BYTES;
pub use self::error::AccessError;
pub use self::headers::{
    MAX_CONTENT_TYPE_BYTES, MAX_HEADER_NAME_BYTES, MAX_HEADER_VALUE_BYTES, MAX_HEADERS, MAX_HEADERS_BYTES,
};
#[cfg(feature = "server")]
pub(crate) use self::headers::{is_credential, is_forwardable};
pub use self::identity::{MAX_CERTIFICATES, MAX_PEM_BYTES, RawClientCertificate};
pub use self::login::{LOGIN_LIFETIME_S, LoginMethod, MAX_LOGIN_BODY_BYTES, MAX_POINTER_BYTES};
pub use self::oauth2::{DEFAULT_TOKEN_LIFETIME, MAX_TOKEN_LIFETIME};
pub use self::proxy::{RawProxy, Resolution};
pub use self::secret::{SHOWN_SECRET, SecretText};
pub use self::tokens::{EXPIRY_MARGIN, MAX_TOKEN_ANSWER_BYTES};
pub use self::user_info::split_credentials;

pub(super) use self::tokens::Authorization;
use self::tokens::TokenSource;
use super::End;
use super::client::{Client, Identity, NamedRoute, Proxy, Route, RouteId, Target};
use super::guard::Destination;
use crate::clock::Clock;
use crate::signing::Signatures;

/// The field that a credential goes into.
const AUTHORIZATION: &str = "Authorization";

/// The settings as a user gives them. The default is nothing special.
///
/// The serialised form has every secret in clear, as a store needs it. [`Self::shown`] is the form for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "server", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields, default))]
pub struct RawAccess {
    /// Beside the headers that Postrider sets; at most [`MAX_HEADERS`]. Values may be secrets.
    pub headers: BTreeMap<String, SecretText>,
    /// Replaces `application/json`, or the content type of a shape.
    pub content_type: Option<String>,
    pub auth: Option<RawAuth>,
    /// PEM: authorities that are trusted for this webhook and its token endpoint, in addition to the server's.
    ///
    /// A receiver that shows one of these very certificates is trusted, too; its name and its dates must be right.
    pub ca: Option<String>,
    /// The name that the receiver's certificate must have, and that is asked for (SNI), instead of the URL's host.
    pub server_name: Option<String>,
    /// For mutual TLS: sent to every server that asks for a certificate. It can be combined with any `auth`.
    pub client_certificate: Option<RawClientCertificate>,
    pub proxy: Option<RawProxy>,
}

impl RawAccess {
    /// The form for people: [`SHOWN_SECRET`] replaces each secret, and each value of a header, since any header may
    /// hold a secret. Given back over the settings that it was made of, it changes nothing ([`Self::unmasked`]).
    /// Elsewhere that text is refused.
    #[must_use]
    pub fn shown(&self) -> Self {
        Self {
            headers: self.headers.keys().map(|name| (name.clone(), SecretText::placeholder())).collect(),
            content_type: self.content_type.clone(),
            auth: self.auth.as_ref().map(RawAuth::shown),
            ca: self.ca.clone(),
            server_name: self.server_name.clone(),
            client_certificate: self.client_certificate.as_ref().map(RawClientCertificate::shown),
            proxy: self.proxy.as_ref().map(RawProxy::shown),
        }
    }
}

/// [`RawAccess`], checked. Clones are cheap and share one cached token. The default allocates nothing. `Debug` shows no
/// secret.
#[derive(Clone, Default)]
pub struct Access(Option<Arc<Inner>>);

struct Inner {
    raw: RawAccess,
    /// Custom headers in their own spelling, and a credential that never changes.
    headers: Vec<(Box<str>, HeaderValue)>,
    content_type: Option<HeaderValue>,
    tokens: Option<TokenSource>,
    route: Option<Route>,
}

/// The route of the settings; `None`: the client's own.
fn route(
    raw: &RawAccess,
    identity: Option<Identity>,
    server_name: Option<ServerName<'static>>,
    proxy: Option<Proxy>,
) -> Option<Route> {
    if identity.is_none() && server_name.is_none() && proxy.is_none() {
        return None;
    }
    let certificate = raw.client_certificate.as_ref();
    let parts = [
        raw.ca.as_deref(),
        certificate.map(|pair| &*pair.certificate),
        certificate.map(|pair| pair.key.expose()),
        raw.proxy.as_ref().map(|proxy| proxy.url.expose()),
        raw.proxy.as_ref().map(|proxy| proxy.resolve.as_str()),
    ];
    let mut digest = Sha256::new();
    let add = |digest: &mut Sha256, part: Option<&str>| {
        // Each part has its length, so that different lists have different digests.
        digest.update((part.map_or(u64::MAX, |part| part.len() as u64)).to_le_bytes());
        digest.update(part.unwrap_or_default());
    };
    for part in parts {
        add(&mut digest, part);
    }
    let server_name = server_name.map(|name| {
        let mut digest = digest.clone();
        add(&mut digest, Some(&name.to_str()));
        NamedRoute { name, id: RouteId(digest.finalize().into()) }
    });
    Some(Route { id: RouteId(digest.finalize().into()), server_name, identity, proxy })
}

/// Collects all errors, so that a user sees them together.
#[derive(Default)]
struct Checked(Vec<AccessError>);

impl Checked {
    fn ok<T>(&mut self, result: Result<T, AccessError>) -> Option<T> {
        result.map_err(|error| self.0.push(error)).ok()
    }
}

impl Access {
    /// Checks the settings. The error has all faults.
    pub fn new(raw: RawAccess) -> Result<Self, Vec<AccessError>> {
        if raw == RawAccess::default() {
            return Ok(Self::default());
        }
        let mut checked = Checked::default();
        let mut headers = headers::parse(&raw.headers, &mut checked.0);
        let content_type = raw.content_type.as_deref().and_then(|text| checked.ok(headers::content_type(text)));
        let mut tokens = None;
        if let Some(auth) = &raw.auth {
            let given = checked.ok(auth.check());
            let name = match &given {
                Some(auth::Auth::Fetched(source)) => source.header().unwrap_or(AUTHORIZATION),
                _ => AUTHORIZATION,
            };
            if let Some((name, _)) = headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)) {
                let name = name.to_ascii_lowercase();
                let reason = format_args!("{name:?} is set by `auth` too; set one of them").to_string();
                checked.0.push(AccessError::new("headers", reason));
            }
            match given {
                Some(auth::Auth::Fixed(value)) => headers.push((AUTHORIZATION.into(), value)),
                Some(auth::Auth::Fetched(source)) => tokens = Some(*source),
                None => {}
            }
        }
        let authorities = raw.ca.as_deref().and_then(|pem| checked.ok(identity::authorities(pem)));
        let server_name = raw.server_name.as_deref().and_then(|name| checked.ok(identity::server_name(name)));
        let certificate = raw.client_certificate.as_ref().and_then(|pair| checked.ok(pair.check()));
        let proxy = raw.proxy.as_ref().and_then(|proxy| checked.ok(proxy.check()));
        if !checked.0.is_empty() {
            return Err(checked.0);
        }
        let route = route(&raw, Identity::of(authorities, certificate), server_name, proxy);
        Ok(Self(Some(Arc::new(Inner { raw, headers, content_type, tokens, route }))))
    }

    /// The given settings, with secrets in clear: for a store, and for changes.
    #[must_use]
    pub fn raw(&self) -> &RawAccess {
        static NOTHING: RawAccess = RawAccess {
            headers: BTreeMap::new(),
            content_type: None,
            auth: None,
            ca: None,
            server_name: None,
            client_certificate: None,
            proxy: None,
        };
        self.0.as_ref().map_or(&NOTHING, |inner| &inner.raw)
    }

    /// The form for people: see [`RawAccess::shown`].
    #[must_use]
    pub fn shown(&self) -> RawAccess {
        self.raw().shown()
    }

    /// Whether nothing is set.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.0.is_none()
    }

    /// Warnings to operators about these settings for `destination`. Each begins with a word to match on.
    #[must_use]
    pub fn warnings(&self, destination: &Destination) -> Vec<&'static str> {
        let Some(inner) = &self.0 else { return Vec::new() };
        let mut warnings = Vec::new();
        if !destination.is_tls() {
            if inner.raw.auth.is_some() {
                warnings.push("insecure_auth: the credential of `auth` is sent without encryption (http)");
            }
            if inner.route.as_ref().is_some_and(|route| route.identity.is_some() || route.server_name.is_some()) {
                warnings.push("unused_tls: `ca`, `server_name` and `client_certificate` have no effect on an http URL");
            }
        }
        if inner.tokens.as_ref().is_some_and(|tokens| !tokens.endpoint().is_tls()) {
            warnings.push("insecure_token_url: the client secret is sent without encryption (http)");
        }
        warnings
    }

    /// What is wrong with the headers of `signatures` beside these settings: names that Postrider sets itself, and names that
    /// two of them have.
    #[must_use]
    pub fn signature_faults(&self, signatures: &Signatures) -> Vec<String> {
        headers::signature_faults(signatures, self)
    }

    pub(super) fn headers(&self) -> &[(Box<str>, HeaderValue)] {
        self.0.as_ref().map_or(&[], |inner| &inner.headers)
    }

    /// Whether the webhook has a header of that name, in whatever case.
    pub(super) fn has_header(&self, name: &str) -> bool {
        self.headers().iter().any(|(own, _)| own.eq_ignore_ascii_case(name))
    }

    pub(super) fn content_type(&self) -> Option<&HeaderValue> {
        self.0.as_ref()?.content_type.as_ref()
    }

    /// `destination`, with the route of these settings.
    pub(super) fn target<'a>(&'a self, destination: &'a Destination) -> Target<'a> {
        Target { destination, route: self.0.as_ref().and_then(|inner| inner.route.as_ref()), is_receiver: true }
    }

    /// The proxy's address, if there is a proxy.
    #[must_use]
    pub fn proxy_address(&self) -> Option<&Destination> {
        self.0.as_ref()?.route.as_ref()?.proxy.as_ref().map(|proxy| &proxy.address)
    }

    /// The token endpoint, if tokens are fetched.
    pub(crate) fn token_endpoint(&self) -> Option<&Destination> {
        self.0.as_ref()?.tokens.as_ref().map(TokenSource::endpoint)
    }

    /// The header that carries a credential that is fetched.
    pub(super) fn credential_header(&self) -> &str {
        self.0.as_ref().and_then(|inner| inner.tokens.as_ref()?.header()).unwrap_or(AUTHORIZATION)
    }

    pub(super) fn needs_token(&self) -> bool {
        self.token_endpoint().is_some()
    }

    /// A token, from the cache or from the token endpoint, if these settings ask for one for `receiver`.
    pub(super) async fn authorization(
        &self,
        client: &Client,
        receiver: &Destination,
        clock: &dyn Clock,
    ) -> Result<Option<Authorization>, End> {
        let Some(inner) = &self.0 else { return Ok(None) };
        let Some(tokens) = &inner.tokens else { return Ok(None) };
        let (destination, route) = (tokens.endpoint(), inner.route.as_ref());
        let target = Target { destination, route, is_receiver: destination.same_origin(receiver) };
        tokens.get(client, target, clock).await.map(Some)
    }

    /// Forgets the cached token if it is `refused`.
    pub(super) async fn forget(&self, refused: &Authorization) {
        if let Some(tokens) = self.0.as_ref().and_then(|inner| inner.tokens.as_ref()) {
            tokens.forget(refused).await;
        }
    }
}

impl PartialEq for Access {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(own), Some(others)) => Arc::ptr_eq(own, others) || own.raw == others.raw,
            (None, None) => true,
            _ => false,
        }
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            None => f.write_str("Access(default)"),
            Some(inner) => f.debug_tuple("Access").field(&inner.raw).finish(),
        }
    }
}
