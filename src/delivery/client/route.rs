//! The route of a connection: its destination and its way there. Webhooks with different routes share no connection.

use std::sync::{Arc, OnceLock};

use http::HeaderValue;
use rustls::RootCertStore;
use rustls::sign::SingleCertAndKey;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::tls::{SessionMemory, client_config};
use crate::delivery::guard::Destination;

/// What a connection is made with beside its destination.
pub(in crate::delivery) struct Route {
    /// Over everything below: connections of different routes are never exchanged.
    pub(in crate::delivery) id: RouteId,
    pub(in crate::delivery) identity: Option<Identity>,
    pub(in crate::delivery) proxy: Option<Proxy>,
}

/// SHA-256 over authorities, client certificate with its key, and proxy with its credentials.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::delivery) struct RouteId(pub(in crate::delivery) [u8; 32]);

/// Where a connection goes and how.
#[derive(Clone, Copy)]
pub(in crate::delivery) struct Target<'a> {
    pub(in crate::delivery) destination: &'a Destination,
    /// `None`: directly, with the client's own authorities and no certificate.
    pub(in crate::delivery) route: Option<&'a Route>,
}

impl<'a> Target<'a> {
    pub(in crate::delivery) fn direct(destination: &'a Destination) -> Self {
        Self { destination, route: None }
    }
    pub(in crate::delivery) fn route_id(self) -> Option<RouteId> {
        self.route.map(|route| route.id)
    }
    pub(in crate::delivery) fn proxy(self) -> Option<&'a Proxy> {
        self.route.and_then(|route| route.proxy.as_ref())
    }
    /// Whether a proxy resolves the destination's name.
    pub(in crate::delivery) fn delegates(self) -> bool {
        self.proxy().is_some_and(|proxy| proxy.resolves)
    }
}

/// A proxy between this server and a receiver.
pub(in crate::delivery) struct Proxy {
    /// Where it is. The scheme is `http` for both kinds and means nothing.
    pub(in crate::delivery) address: Destination,
    pub(in crate::delivery) kind: ProxyKind,
    /// Whether it is handed names to resolve.
    pub(in crate::delivery) resolves: bool,
}

pub(in crate::delivery) enum ProxyKind {
    Http {
        /// The value of `Proxy-Authorization`.
        authorization: Option<HeaderValue>,
    },
    Socks5 {
        credentials: Option<Credentials>,
    },
}

pub(in crate::delivery) struct Credentials {
    pub(in crate::delivery) username: Zeroizing<String>,
    pub(in crate::delivery) password: Zeroizing<String>,
}

/// What one webhook's TLS has beside the client's. Connections of one identity are never used for another.
pub(in crate::delivery) struct Identity {
    roots: Option<RootCertStore>,
    certificate: Option<Arc<SingleCertAndKey>>,
    /// Made at the first connection; with the client's authorities that it was made with.
    connector: OnceLock<(Arc<RootCertStore>, TlsConnector)>,
}

impl Identity {
    pub(in crate::delivery) fn of(
        roots: Option<RootCertStore>,
        certificate: Option<Arc<SingleCertAndKey>>,
    ) -> Option<Self> {
        let is_something = roots.is_some() || certificate.is_some();
        is_something.then_some(Self { roots, certificate, connector: OnceLock::new() })
    }

    /// Trusts `usual` and the own authorities.
    pub(in crate::delivery) fn connector(&self, usual: &Arc<RootCertStore>) -> Result<TlsConnector, rustls::Error> {
        if let Some((made_with, connector)) = self.connector.get()
            && Arc::ptr_eq(made_with, usual)
        {
            return Ok(connector.clone());
        }
        let roots = match &self.roots {
            None => Arc::clone(usual),
            Some(own) => {
                let mut roots = (**usual).clone();
                roots.extend(own.roots.iter().cloned());
                Arc::new(roots)
            }
        };
        let config = client_config(roots, self.certificate.clone(), SessionMemory::OneWebhook)?;
        let connector = TlsConnector::from(Arc::new(config));
        // Another connection may have made one meanwhile; either will do.
        let _ = self.connector.set((Arc::clone(usual), connector.clone()));
        Ok(connector)
    }
}
