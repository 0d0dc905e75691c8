//! Connections: the only place that opens a socket to a receiver.

use std::time::Duration;

use super::guard::{EgressPolicy, SharedResolver};

/// How long a connection may take to be made, TLS included.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes connections to receivers within the egress guard. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    // TLS configuration, policy, resolver
}

/// One HTTP/1.1 connection to one guarded address for one scheme, host and port.
pub struct Connection {}

/// What a [`Client`] is made of.
pub struct ClientOptions {
    pub policy: EgressPolicy,
    /// `None`: hickory with the system's configuration and a cache by TTL.
    pub resolver: Option<SharedResolver>,
    pub roots: Roots,
    pub connect_timeout: Duration,
}

/// Which certificate authorities are trusted.
#[derive(Clone, Debug, Default)]
pub enum Roots {
    /// Mozilla's, built in.
    #[default]
    WebPki,
    /// The operating system's and Mozilla's.
    Native,
    /// These alone.
    Custom(rustls::RootCertStore),
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot read the system's resolver configuration: {0}")]
    Resolver(String),
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

impl Client {
    pub fn new(options: ClientOptions) -> Result<Self, ClientError> {
        let _ = options;
        todo!()
    }
    #[must_use]
    pub fn policy(&self) -> &EgressPolicy {
        todo!()
    }
}
