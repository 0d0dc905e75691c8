//! May this URL, this address be contacted? Pure but for resolution.
//!
//! Every attempt goes the same way: parse strictly → resolve → *every* address must be allowed →
//! connect to a checked address. IP literals never reach a resolver, so the check sits at the
//! address ([`EgressPolicy::check`]) and the connector takes nothing but a [`GuardedAddr`].
//!
//! ```
//! use postrider::delivery::guard::{Destination, EgressPolicy};
//!
//! let mut policy = EgressPolicy::default();
//! let loopback = Destination::parse("http://0x7f000001:8080/hook")?;
//! assert_eq!(loopback.as_str(), "http://127.0.0.1:8080/hook");
//! let refused = policy.check_destination(&loopback).unwrap_err();
//! assert_eq!(refused.to_string(), "egress_blocked: 127.0.0.1 is a forbidden address (loopback)");
//!
//! policy.allow_private = vec!["127.0.0.0/8".parse()?];
//! assert_eq!(policy.check_destination(&loopback), Ok(()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(feature = "dns")]
mod hickory;
mod host_pattern;
mod hosts;
mod ranges;
mod resolver;

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use http::HeaderValue;
use http::uri::PathAndQuery;
use ipnet::IpNet;
use rustls::pki_types::ServerName;

#[cfg(feature = "dns")]
pub use self::hickory::{CONFIGURATION_CHECK, HickoryResolver, RESOLUTION_DELAY};
pub use self::host_pattern::HostPattern;
pub(super) use self::host_pattern::{ascii_name, is_below};
pub use self::ranges::METADATA_NETWORKS;
use self::ranges::{carried_v4, denied_range, is_of_a_site, metadata, port_owner};
#[cfg(feature = "server")]
pub(crate) use self::resolver::SearchingResolver;
pub use self::resolver::{MAX_SYSTEM_LOOKUPS, Resolve, ResolveError, SharedResolver, SystemResolver};

/// The longest URL of a webhook, in bytes, as given and as sent.
pub const MAX_URL_BYTES: usize = 2_083;

/// The host of a URL: an address, or a name that must be resolved.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    Ip(IpAddr),
    /// ASCII, lower case.
    Domain(Box<str>),
}

/// A webhook's URL, parsed strictly: the host and port to connect to, and the request's target, ready for the wire.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Destination {
    url: url::Url,
    host: Host,
    port: u16,
    authority: HeaderValue,
    path_and_query: PathAndQuery,
    server_name: ServerName<'static>,
}

/// Without path and query.
impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Destination").field(&self.masked()).finish()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    #[error("{0}")]
    Invalid(String),
    /// The form is right, but the destination is not allowed.
    #[error("egress_blocked: {0}")]
    Forbidden(String),
}

fn invalid<T>(reason: impl fmt::Display) -> Result<T, DestinationError> {
    Err(DestinationError::Invalid(reason.to_string()))
}

/// Refuses spellings that a lenient URL parser would repair or drop, since two parsers that disagree about a host let a
/// URL bypass the guard.
fn check_spelling(url: &str) -> Result<(), DestinationError> {
    if url.len() > MAX_URL_BYTES {
        return invalid(format_args!("the URL is {} bytes long, the limit is {MAX_URL_BYTES}", url.len()));
    }
    if let Some(found) = url.chars().find(|c| c.is_control() || c.is_whitespace() || *c == '\\') {
        return invalid(format_args!("the URL has the character {found:?}"));
    }
    if url.contains('#') {
        return invalid("the URL has a fragment (#…), which is never sent");
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        return invalid("the URL must begin with https:// or http://");
    };
    if !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return invalid("the URL must begin with https:// or http://");
    }
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    if authority.contains('@') {
        return invalid("the URL has a user name or password before its host");
    }
    if authority.contains('%') {
        return invalid("the URL has a % in its host (zone ids and encoded hosts are refused)");
    }
    if authority.is_empty() || authority.starts_with(':') {
        return invalid("the URL has no host");
    }
    Ok(())
}

impl Destination {
    /// Parses `url`: `http` or `https`, at most [`MAX_URL_BYTES`], and nothing in it that parsers
    /// disagree about. Whether it may be contacted is [`EgressPolicy::check_destination`]'s question.
    pub fn parse(url: &str) -> Result<Self, DestinationError> {
        check_spelling(url)?;
        let url = url::Url::parse(url).or_else(|error| invalid(format_args!("the URL is malformed: {error}")))?;
        // This form is sent and stored. A letter may have nine bytes in it.
        if url.as_str().len() > MAX_URL_BYTES {
            let length = url.as_str().len();
            return invalid(format_args!(
                "the URL is {length} bytes long with all encoded, the limit is {MAX_URL_BYTES}"
            ));
        }
        let host = match url.host() {
            Some(url::Host::Ipv4(ip)) => Host::Ip(ip.into()),
            Some(url::Host::Ipv6(ip)) => Host::Ip(ip.into()),
            Some(url::Host::Domain(name)) if !name.trim_matches('.').is_empty() => Host::Domain(name.into()),
            _ => return invalid("the URL has no host"),
        };
        let port = match url.port_or_known_default() {
            Some(port) if port > 0 => port,
            _ => return invalid("the URL has port 0"),
        };
        let authority = HeaderValue::from_str(&url[url::Position::BeforeHost..url::Position::AfterPort])
            .or_else(|_| invalid("the URL's host cannot be sent in a Host header"))?;
        let path_and_query = PathAndQuery::try_from(&url[url::Position::BeforePath..url::Position::AfterQuery])
            .or_else(|error| invalid(format_args!("the URL's path is malformed: {error}")))?;
        let server_name = match &host {
            Host::Ip(ip) => ServerName::from(*ip),
            // Names in SNI and in certificates have no trailing dot (RFC 6066, section 3).
            Host::Domain(name) => ServerName::try_from(name.trim_end_matches('.').to_owned())
                .or_else(|_| invalid("the URL's host is no valid name of DNS"))?,
        };
        Ok(Self { url, host, port, authority, path_and_query, server_name })
    }
    /// The URL without path and query, which may contain a password: `https://host/…`.
    #[must_use]
    pub fn masked(&self) -> String {
        format!("{}/…", &self.url[..url::Position::BeforePath])
    }
    /// The URL in its normalised form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.url.as_str()
    }
    /// Whether it is `https`.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.url.scheme() == "https"
    }
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }
    /// Never 0. A URL without a port has the scheme's.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
    /// Whether `other` has the same scheme, host and port.
    #[must_use]
    pub fn same_origin(&self, other: &Self) -> bool {
        self.port == other.port && self.is_tls() == other.is_tls() && self.host == other.host
    }
    /// The value of the `Host` header.
    pub(super) fn authority(&self) -> &HeaderValue {
        &self.authority
    }
    /// Path and query, as the request line has them.
    pub(super) fn path_and_query(&self) -> &str {
        self.path_and_query.as_str()
    }
    /// The name that the certificate must have.
    pub(super) fn server_name(&self) -> &ServerName<'static> {
        &self.server_name
    }
}

/// The rules about destinations.
#[derive(Clone, Debug, Default)]
pub struct EgressPolicy {
    /// Private networks that are allowed.
    pub allow_private: Vec<IpNet>,
    /// Allows every private network, but not [`METADATA_NETWORKS`].
    pub allow_all_private: bool,
    /// Names that may lead to a site's own machines: 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10, `fc00::/7`.
    ///
    /// Whoever can set addresses of such a name chooses among all of these. Addresses of this machine and
    /// [`METADATA_NETWORKS`] stay shut, and so do the same addresses by another name or by themselves.
    pub allow_hosts: Vec<HostPattern>,
    /// Allowed ports among the ones of other services, such as databases, mail and caches.
    pub allow_ports: Vec<u16>,
    /// Addresses on which this process listens; refused even if private networks are allowed.
    pub own_listeners: Vec<SocketAddr>,
    /// Whether a webhook's proxy may resolve the receiver's name. The proxy then decides which address is contacted,
    /// and the guard does not see it.
    pub allow_proxy_resolution: bool,
    /// Refuses receivers and token endpoints without TLS.
    pub https_only: bool,
}

/// An address that the guard has checked. The connector takes nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GuardedAddr(SocketAddr);

impl GuardedAddr {
    pub(super) fn get(self) -> SocketAddr {
        self.0
    }
}

impl EgressPolicy {
    /// Whether `addr` may be contacted. The error names the address.
    pub fn check(&self, addr: SocketAddr) -> Result<GuardedAddr, DestinationError> {
        self.check_port(addr.port())?;
        self.guarded(addr, |_| false)
    }

    /// Whether `addr`, an address of the host `name`, may be contacted for it.
    pub fn check_named(&self, name: &str, addr: SocketAddr) -> Result<GuardedAddr, DestinationError> {
        self.check_port(addr.port())?;
        let is_allowed = self.allows_host(name);
        self.guarded(addr, |ip| is_allowed && is_of_a_site(ip))
    }

    /// Whether `addr` may be contacted as the operator's own proxy. Operators have proxies inside and on this machine, on
    /// any port.
    pub(super) fn check_own_proxy(&self, addr: SocketAddr) -> Result<GuardedAddr, DestinationError> {
        self.guarded(addr, |_| true)
    }

    /// See [`Self::refusal`].
    fn guarded(&self, addr: SocketAddr, is_opened: impl Fn(IpAddr) -> bool) -> Result<GuardedAddr, DestinationError> {
        match self.refusal(addr, is_opened) {
            None => Ok(GuardedAddr(addr)),
            Some(reason) => Err(DestinationError::Forbidden(format!("{} {reason}", addr.ip()))),
        }
    }

    fn allows_host(&self, name: &str) -> bool {
        self.allow_hosts.iter().any(|pattern| pattern.matches(name))
    }

    /// Whether a connection that was made from `local` to `peer` may be used. A connection from an address to itself
    /// has not left this machine, and may have reached a listener of this process on all addresses. No check before the
    /// connection can find that, since the machine's addresses are not known.
    pub fn check_connected(&self, local: SocketAddr, peer: SocketAddr) -> Result<(), DestinationError> {
        let (ip, port) = (peer.ip().to_canonical(), peer.port());
        let is_own = |own: &SocketAddr| own.port() == port && own.ip().to_canonical().is_unspecified();
        if local.ip().to_canonical() == ip && self.own_listeners.iter().any(is_own) {
            return Err(DestinationError::Forbidden(format!("{ip} port {port} is this server itself")));
        }
        Ok(())
    }

    /// Whether a webhook with this destination may be registered. Checks everything that needs no resolution.
    pub fn check_destination(&self, destination: &Destination) -> Result<(), DestinationError> {
        self.check_port(destination.port)?;
        match &destination.host {
            Host::Ip(ip) => self.check(SocketAddr::new(*ip, destination.port)).map(|_| ()),
            Host::Domain(name) => {
                let opened = self.allow_all_private || !self.allow_private.is_empty() || self.allows_host(name);
                check_name(name, opened)
            }
        }
    }

    /// Whether the scheme is allowed.
    pub fn check_scheme(&self, destination: &Destination) -> Result<(), DestinationError> {
        if self.https_only && !destination.is_tls() {
            return Err(DestinationError::Forbidden("this server sends to https only".to_owned()));
        }
        Ok(())
    }

    /// Whether `destination` may be passed to a proxy that resolves it. No address is checked afterwards, so a private
    /// name passes only if every private network is allowed. `is_own`: the proxy is the operator's, which needs no leave.
    pub fn check_delegated(&self, destination: &Destination, is_own: bool) -> Result<(), DestinationError> {
        if !self.allow_proxy_resolution && !is_own {
            let reason = "this server does not let a proxy resolve names (proxy.resolve must be \"here\")";
            return Err(DestinationError::Forbidden(reason.to_owned()));
        }
        self.check_destination(destination)?;
        match &destination.host {
            Host::Ip(_) => Ok(()),
            Host::Domain(name) => check_name(name, self.allow_all_private),
        }
    }

    fn check_port(&self, port: u16) -> Result<(), DestinationError> {
        match port_owner(port).filter(|_| !self.allow_ports.contains(&port)) {
            Some(owner) => Err(DestinationError::Forbidden(format!("port {port} belongs to {owner}"))),
            None => Ok(()),
        }
    }

    /// An IPv6 address that carries an IPv4 address is judged as both, so that it is never more permissive than either.
    /// `is_opened`: whether an address is allowed beside those of `allow_private`.
    fn refusal(&self, addr: SocketAddr, is_opened: impl Fn(IpAddr) -> bool) -> Option<String> {
        let views = || std::iter::once(addr.ip()).chain(carried_v4(addr.ip()));
        if views().any(|ip| self.is_own_listener(SocketAddr::new(ip, addr.port()))) {
            return Some(format!("port {} is this server itself", addr.port()));
        }
        let named_alone =
            |ip| self.allow_private.iter().any(|net| net.prefix_len() == net.max_prefix_len() && net.network() == ip);
        if let Some(name) = views().filter(|ip| !named_alone(*ip)).find_map(metadata) {
            return Some(format!("is where clouds serve metadata ({name})"));
        }
        if self.allow_all_private {
            return None;
        }
        let opened = |ip: &IpAddr| is_opened(*ip) || self.allow_private.iter().any(|net| net.contains(ip));
        views().filter(|ip| !opened(ip)).find_map(denied_range).map(|range| format!("is a forbidden address ({range})"))
    }

    fn is_own_listener(&self, addr: SocketAddr) -> bool {
        let (ip, port) = (addr.ip(), addr.port());
        // Connecting to 0.0.0.0 or [::] reaches this machine, as loopback does.
        let here = ip.is_loopback() || ip.is_unspecified();
        self.own_listeners.iter().any(|own| {
            let own_ip = own.ip().to_canonical();
            own.port() == port
                && (own_ip == ip || here && (own_ip.is_unspecified() || own_ip.is_loopback() && ip.is_unspecified()))
        })
    }
}

/// Whether the name is this machine's own by definition (RFC 6761, section 6.3), whatever name servers say.
pub(super) fn is_localhost(name: &str) -> bool {
    let bare = name.strip_suffix('.').unwrap_or(name);
    bare == "localhost" || is_below(bare, "localhost")
}

/// Names of the services in [`METADATA_NETWORKS`], refused even if private networks are allowed.
const METADATA_NAMES: [&str; 3] = ["metadata.google.internal", "metadata.goog", "instance-data.ec2.internal"];

/// `opened`: whether names of private zones are allowed.
fn check_name(name: &str, opened: bool) -> Result<(), DestinationError> {
    let bare = name.trim_end_matches('.');
    let within = |zone: &str| bare == zone || is_below(bare, zone);
    if METADATA_NAMES.contains(&bare) {
        return Err(DestinationError::Forbidden(format!("{name} is a cloud metadata service")));
    }
    // `internal` alone is no host of the zone `*.internal`, which ICANN reserved, but it is no public name either.
    if !opened && (within("localhost") || within("internal")) {
        return Err(DestinationError::Forbidden(format!("{name} is a private name")));
    }
    Ok(())
}
