//! May this URL, this address be contacted? Pure but for resolution.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

/// A webhook's URL, parsed strictly: what to connect to and what to ask for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    url: url::Url,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    #[error("{0}")]
    Invalid(String),
    /// The form is right, the destination is not allowed.
    #[error("egress_blocked: {0}")]
    Forbidden(String),
}

impl Destination {
    pub fn parse(url: &str) -> Result<Self, DestinationError> {
        let _ = url;
        todo!()
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
}

/// Which addresses may be contacted.
#[derive(Clone, Debug, Default)]
pub struct EgressPolicy {
    /// Networks that are open although they are private.
    pub allow_private: Vec<IpNet>,
    /// Opens every private network, but not the addresses of cloud metadata services.
    pub allow_all_private: bool,
    /// Addresses this process listens on; refused even where private networks are open.
    pub own_listeners: Vec<SocketAddr>,
}

/// An address that the guard let through: the only thing the connector connects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GuardedAddr(SocketAddr);

impl EgressPolicy {
    /// Whether `addr` may be contacted.
    pub fn check(&self, addr: SocketAddr) -> Result<GuardedAddr, DestinationError> {
        let _ = addr;
        todo!()
    }
    /// Whether a webhook with this destination may be registered: checks what needs no resolution.
    pub fn check_destination(&self, destination: &Destination) -> Result<(), DestinationError> {
        let _ = destination;
        todo!()
    }
}

/// Turns a host name into addresses.
#[async_trait::async_trait]
pub trait Resolve: Send + Sync + 'static {
    /// Every address of `host`, a domain name in ASCII; the error is for people.
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, String>;
}

/// The resolver that a client uses when none is given.
pub type SharedResolver = Arc<dyn Resolve>;
