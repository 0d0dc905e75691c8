//! The route of a connection: its destination and its way there. Webhooks with different routes share no connection.

use std::sync::{Arc, OnceLock};

use http::HeaderValue;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::SingleCertAndKey;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::tls::{SessionMemory, client_config};
use crate::delivery::guard::Destination;

/// What a connection is made with beside its destination.
pub(in crate::delivery) struct Route {
    /// Over everything below but `server_name`: connections of different routes are never exchanged.
    pub(in crate::delivery) id: RouteId,
    /// The name that the receiver's certificate must have and that SNI says, if it is not the URL's host.
    pub(in crate::delivery) server_name: Option<NamedRoute>,
    pub(in crate::delivery) identity: Option<Identity>,
    pub(in crate::delivery) proxy: Option<Proxy>,
}

/// A route whose receiver is known by another name than its URL's.
pub(in crate::delivery) struct NamedRoute {
    pub(in crate::delivery) name: ServerName<'static>,
    /// Over the name too.
    pub(in crate::delivery) id: RouteId,
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
    /// Whether the destination is the receiver, whom the route's `server_name` names, and not another host.
    pub(in crate::delivery) is_receiver: bool,
}

impl<'a> Target<'a> {
    pub(in crate::delivery) fn direct(destination: &'a Destination) -> Self {
        Self { destination, route: None, is_receiver: true }
    }
    fn named(self) -> Option<&'a NamedRoute> {
        self.route.and_then(|route| route.server_name.as_ref()).filter(|_| self.is_receiver)
    }
    pub(in crate::delivery) fn route_id(self) -> Option<RouteId> {
        self.named().map(|named| named.id).or(self.route.map(|route| route.id))
    }
    /// The name that the certificate must have.
    pub(in crate::delivery) fn server_name(self) -> &'a ServerName<'static> {
        self.named().map_or_else(|| self.destination.server_name(), |named| &named.name)
    }
    /// The webhook's own; see [`Client::via`](super::Client::via).
    pub(in crate::delivery) fn proxy(self) -> Option<&'a Proxy> {
        self.route.and_then(|route| route.proxy.as_ref())
    }
}

/// A proxy between this server and a receiver.
pub(in crate::delivery) struct Proxy {
    /// Where it is. The scheme is `https` where TLS is spoken to the proxy itself, and else `http`.
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

/// A webhook's own `ca`.
pub(in crate::delivery) struct Authorities {
    pub(in crate::delivery) roots: RootCertStore,
    /// The same as they were given: each is accepted as the receiver's own, too.
    pub(in crate::delivery) given: Vec<CertificateDer<'static>>,
}

/// What one webhook's TLS has beside the client's. Connections of one identity are never used for another.
pub(in crate::delivery) struct Identity {
    authorities: Option<Authorities>,
    certificate: Option<Arc<SingleCertAndKey>>,
    /// Made at the first connection; with the client's authorities that it was made with.
    connector: OnceLock<(Arc<RootCertStore>, TlsConnector)>,
}

impl Identity {
    pub(in crate::delivery) fn of(
        authorities: Option<Authorities>,
        certificate: Option<Arc<SingleCertAndKey>>,
    ) -> Option<Self> {
        let is_something = authorities.is_some() || certificate.is_some();
        is_something.then_some(Self { authorities, certificate, connector: OnceLock::new() })
    }

    /// Trusts `usual` and the own authorities.
    pub(in crate::delivery) fn connector(&self, usual: &Arc<RootCertStore>) -> Result<TlsConnector, rustls::Error> {
        if let Some((made_with, connector)) = self.connector.get()
            && Arc::ptr_eq(made_with, usual)
        {
            return Ok(connector.clone());
        }
        let (roots, given) = match &self.authorities {
            None => (Arc::clone(usual), [].as_slice()),
            Some(own) => {
                let mut roots = (**usual).clone();
                roots.extend(own.roots.roots.iter().cloned());
                (Arc::new(roots), own.given.as_slice())
            }
        };
        let config = client_config(roots, given, self.certificate.clone(), SessionMemory::OneWebhook)?;
        let connector = TlsConnector::from(Arc::new(config));
        // Another connection may have made one meanwhile; either will do.
        let _ = self.connector.set((Arc::clone(usual), connector.clone()));
        Ok(connector)
    }
}
