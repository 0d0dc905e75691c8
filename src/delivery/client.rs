//! Connections: the only place that opens a socket to a receiver.

mod connection;
mod pool;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response, header};
use http_body_util::Full;
use rustls::RootCertStore;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;

use self::connection::Stream;
pub use self::connection::{BodyEnd, CONFIRM_AFTER, Connection, MAX_AGE, MAX_HEAD_BYTES, MAX_IDLE};
use self::pool::Pool;
use super::guard::{Destination, DestinationError, EgressPolicy, GuardedAddr, HickoryResolver, Host, SharedResolver};
use super::{End, Timings};

/// How long a connection may take to be made, TLS included, resolution not.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the registration of a webhook waits for its name to resolve.
pub const VET_TIMEOUT: Duration = Duration::from_secs(2);
/// How many addresses of a name are tried, one after the other.
pub const MAX_ADDRESSES_TRIED: usize = 4;

/// Makes connections to receivers within the egress guard. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    policy: EgressPolicy,
    resolver: SharedResolver,
    tls: TlsConnector,
    connect_timeout: Duration,
    pool: Mutex<Pool>,
}

/// What a [`Client`] is made of. By default: nothing private may be contacted, hickory resolves,
/// Mozilla's authorities are trusted, and connecting takes at most [`DEFAULT_CONNECT_TIMEOUT`].
pub struct ClientOptions {
    pub policy: EgressPolicy,
    /// `None`: hickory with the system's configuration and a cache by TTL.
    pub resolver: Option<SharedResolver>,
    pub roots: Roots,
    pub connect_timeout: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            policy: EgressPolicy::default(),
            resolver: None,
            roots: Roots::default(),
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
        }
    }
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

/// What is under way, for the words of a timeout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    #[default]
    Dns,
    Connect,
    Tls,
    Answer,
}

impl Phase {
    /// The end of an exchange that was in this phase when `limit` had passed.
    pub(super) fn timed_out(self, limit: Duration) -> End {
        let phase = match self {
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Answer => "waiting for the response",
        };
        End::Timeout(format!("{phase} (limit {} s)", limit.as_secs_f64()))
    }
}

/// What is known of an exchange so far. It outlives an exchange that is cut off by a timeout.
#[derive(Default)]
pub(super) struct Trace {
    pub(super) phase: Phase,
    pub(super) timings: Timings,
    pub(super) head: Option<http::response::Parts>,
    pub(super) body: BytesMut,
    body_end: Option<BodyEnd>,
}

impl Client {
    /// Reads the system's resolver configuration if no resolver is given; opens nothing yet.
    pub fn new(options: ClientOptions) -> Result<Self, ClientError> {
        let ClientOptions { policy, resolver, roots, connect_timeout } = options;
        let resolver = match resolver {
            Some(resolver) => resolver,
            None => Arc::new(HickoryResolver::from_system().map_err(ClientError::Resolver)?),
        };
        let tls = TlsConnector::from(Arc::new(tls_config(roots)?));
        let pool = Mutex::default();
        Ok(Self { inner: Arc::new(Inner { policy, resolver, tls, connect_timeout, pool }) })
    }

    #[must_use]
    pub fn policy(&self) -> &EgressPolicy {
        &self.inner.policy
    }

    /// Whether an attempt would be let through to `destination` now, names resolved. A name that does not
    /// resolve within [`VET_TIMEOUT`] passes: the next attempt will ask again.
    pub async fn vet(&self, destination: &Destination) -> Result<(), DestinationError> {
        let mut trace = Trace::default();
        match timeout(VET_TIMEOUT, self.resolve(destination, &mut trace)).await {
            Ok(Err(End::Blocked { reason, .. })) => Err(DestinationError::Forbidden(reason)),
            _ => Ok(()),
        }
    }

    /// Makes one request and reads the whole answer, of at most `max_body_bytes`, within `timeout`.
    ///
    /// `request` gives method, path and query, headers and body; scheme, host and port are those of
    /// `destination`. Redirects are not followed. If a kept connection turns out to be closed, the request
    /// is sent once more, so it should be one that may arrive twice. Every status is an `Ok`; the error is never [`End::Status`].
    pub async fn request(
        &self,
        destination: &Destination,
        request: Request<Bytes>,
        max_body_bytes: usize,
        timeout: Duration,
    ) -> Result<Response<Bytes>, End> {
        let mut trace = Trace::default();
        let mut slot = self.checkout(destination);
        let build = || Ok(request.clone().map(Full::new));
        let exchange = self.exchange(&mut slot, destination, build, max_body_bytes, &mut trace);
        let cut_off = match timeout_at(Instant::now() + timeout, exchange).await {
            Ok(exchanged) => exchanged.map(|()| false)?,
            Err(_) => true,
        };
        self.checkin(slot);
        match (trace.head, trace.body_end) {
            (Some(head), Some(BodyEnd::Complete)) => Ok(Response::from_parts(head, trace.body.freeze())),
            (_, Some(BodyEnd::TooLong)) => {
                Err(End::Protocol(format!("the answer has more than {max_body_bytes} bytes")))
            }
            _ if cut_off => Err(trace.phase.timed_out(timeout)),
            _ => Err(End::Connect("the connection broke within the answer".to_owned())),
        }
    }

    /// Resolves, checks and connects: a connection for as many requests as its user likes, one after the other.
    pub async fn connect(&self, destination: &Destination) -> Result<Connection, End> {
        self.connect_traced(destination, &mut Trace::default()).await
    }

    /// An idle connection to `destination` from the pool, if there is one.
    pub(super) fn checkout(&self, destination: &Destination) -> Option<Connection> {
        self.inner.pool.lock().unwrap_or_else(PoisonError::into_inner).take(destination)
    }

    /// Keeps a connection for the next one who wants it.
    pub(super) fn checkin(&self, connection: Option<Connection>) {
        if let Some(connection) = connection {
            self.inner.pool.lock().unwrap_or_else(PoisonError::into_inner).put(connection);
        }
    }

    /// One request and its answer, in `trace`, on the connection in `slot` or on a fresh one.
    ///
    /// A connection that was idle may have been closed by the receiver at the moment of sending. If it broke
    /// before a single byte of an answer, the request is sent once more, at once, on a fresh connection.
    /// `slot` has a connection afterwards if that can take another request.
    pub(super) async fn exchange(
        &self,
        slot: &mut Option<Connection>,
        destination: &Destination,
        build: impl Fn() -> Result<Request<Full<Bytes>>, End>,
        max_body_bytes: usize,
        trace: &mut Trace,
    ) -> Result<(), End> {
        let mut idle = self.confirm(slot.take(), destination, trace).await?;
        loop {
            let reused = idle.is_some();
            let mut connection = match idle.take() {
                Some(connection) => connection,
                None => self.connect_traced(destination, trace).await?,
            };
            let mut request = build()?;
            request.headers_mut().insert(header::HOST, destination.authority().clone());
            trace.phase = Phase::Answer;
            let sent_at = Instant::now();
            match connection.send(request).await {
                Ok(response) => {
                    trace.timings.first_byte = Some(sent_at.elapsed());
                    let (head, body) = response.into_parts();
                    trace.head = Some(head);
                    let body_end = connection.read_body(body, &mut trace.body, max_body_bytes).await;
                    trace.body_end = Some(body_end);
                    if body_end == BodyEnd::Complete && connection.is_usable() {
                        connection.rest();
                        *slot = Some(connection);
                    }
                    return Ok(());
                }
                Err(_) if reused && connection.heard_nothing() => {}
                Err(end) => return Err(end),
            }
        }
    }

    /// The idle connection, if it may be used for `destination`: still open, and the host still has its address.
    async fn confirm(
        &self,
        idle: Option<Connection>,
        destination: &Destination,
        trace: &mut Trace,
    ) -> Result<Option<Connection>, End> {
        let Some(mut connection) = idle.filter(|connection| connection.serves(destination)) else { return Ok(None) };
        if !connection.is_usable() {
            return Ok(None);
        }
        if connection.confirmed_at.elapsed() > CONFIRM_AFTER {
            let addresses = self.resolve(destination, trace).await?;
            if !addresses.contains(&connection.address()) {
                return Ok(None);
            }
            connection.confirmed_at = Instant::now();
        }
        Ok(Some(connection))
    }

    /// Every address of the destination. All must be allowed: a name that also points inside is not half good.
    async fn resolve(&self, destination: &Destination, trace: &mut Trace) -> Result<Vec<GuardedAddr>, End> {
        let inner = &*self.inner;
        trace.phase = Phase::Dns;
        inner.policy.check_destination(destination).map_err(|error| blocked(error, None))?;
        let name = match destination.host() {
            Host::Ip(ip) => {
                let address = SocketAddr::new(*ip, destination.port());
                return inner.policy.check(address).map(|address| vec![address]).map_err(|error| blocked(error, None));
            }
            Host::Domain(name) => name,
        };
        let asked_at = Instant::now();
        let addresses = inner.resolver.resolve(name).await.map_err(End::Dns)?;
        trace.timings.dns = Some(asked_at.elapsed());
        if addresses.is_empty() {
            return Err(End::Dns(format!("{name} has no address")));
        }
        let check = |ip| inner.policy.check(SocketAddr::new(ip, destination.port()));
        addresses.into_iter().map(check).collect::<Result<_, _>>().map_err(|error| blocked(error, Some(name)))
    }

    async fn connect_traced(&self, destination: &Destination, trace: &mut Trace) -> Result<Connection, End> {
        let addresses = self.resolve(destination, trace).await?;
        trace.phase = Phase::Connect;
        let began_at = Instant::now();
        let (tcp, address) = connect_to_first(&addresses, self.inner.connect_timeout).await?;
        self.check_connected(&tcp, destination)?;
        trace.timings.connect = Some(began_at.elapsed());
        let stream = if destination.is_tls() {
            trace.phase = Phase::Tls;
            let deadline = began_at + self.inner.connect_timeout;
            let began_at = Instant::now();
            let handshake = self.inner.tls.connect(destination.server_name().clone(), tcp);
            let stream = timeout_at(deadline, handshake)
                .await
                .map_err(|_| Phase::Tls.timed_out(self.inner.connect_timeout))?
                .map_err(|error| End::Tls(error.to_string()))?;
            trace.timings.tls = Some(began_at.elapsed());
            Stream::Tls(Box::new(stream))
        } else {
            Stream::Plain(tcp)
        };
        Connection::start(stream, destination.clone(), address).await.map_err(|error| End::Connect(error.to_string()))
    }

    /// Refuses a connection that turns out to have reached this process.
    fn check_connected(&self, tcp: &TcpStream, destination: &Destination) -> Result<(), End> {
        let broken = |error: io::Error| End::Connect(error.to_string());
        let (local, peer) = (tcp.local_addr().map_err(broken)?, tcp.peer_addr().map_err(broken)?);
        let name = match destination.host() {
            Host::Ip(_) => None,
            Host::Domain(name) => Some(&**name),
        };
        self.inner.policy.check_connected(local, peer).map_err(|error| blocked(error, name))
    }
}

/// Tries the addresses in order, each for its share of the time that is left.
async fn connect_to_first(addresses: &[GuardedAddr], limit: Duration) -> Result<(TcpStream, GuardedAddr), End> {
    let deadline = Instant::now() + limit;
    let mut last_error = End::Connect("the host has no address".to_owned());
    let tried = addresses.len().min(MAX_ADDRESSES_TRIED);
    for (index, address) in addresses.iter().take(tried).enumerate() {
        let now = Instant::now();
        let remaining = u32::try_from(tried - index).unwrap_or(u32::MAX);
        let share = now + deadline.saturating_duration_since(now) / remaining;
        last_error = match timeout_at(share, TcpStream::connect(address.get())).await {
            Ok(Ok(tcp)) => {
                // A request leaves in one piece; waiting for more would only delay it.
                tcp.set_nodelay(true).map_err(|error| End::Connect(error.to_string()))?;
                return Ok((tcp, *address));
            }
            Ok(Err(error)) => not_connected(&error),
            Err(_) => Phase::Connect.timed_out(limit),
        };
    }
    Err(last_error)
}

/// Why there is no connection: the receiver's doing, or this machine's want of descriptors, ports or memory.
fn not_connected(error: &io::Error) -> End {
    /// `EMFILE`, `ENFILE`, `EADDRNOTAVAIL`, `ENOBUFS` and `ENOMEM` of Linux.
    const WANTS: [i32; 5] = [24, 23, 99, 105, 12];
    if error.raw_os_error().is_some_and(|code| WANTS.contains(&code)) {
        End::Local(error.to_string())
    } else {
        End::Connect(error.to_string())
    }
}

/// `name`: what was resolved, if the user did not write the address; the address is then for admins only.
fn blocked(error: DestinationError, name: Option<&str>) -> End {
    let (DestinationError::Invalid(detail) | DestinationError::Forbidden(detail)) = error;
    match name {
        None => End::Blocked { reason: detail.clone(), detail },
        Some(name) => End::Blocked {
            reason: format!("{name} resolves to an address that may not be contacted"),
            detail: format!("{name}: {detail}"),
        },
    }
}

fn tls_config(roots: Roots) -> Result<rustls::ClientConfig, rustls::Error> {
    let mozilla = || webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect::<RootCertStore>();
    let roots = match roots {
        Roots::WebPki => mozilla(),
        Roots::Custom(store) => store,
        Roots::Native => {
            let mut store = mozilla();
            let native = rustls_native_certs::load_native_certs();
            for error in native.errors {
                tracing::warn!(%error, "some of the system's certificate authorities cannot be read");
            }
            store.add_parsable_certificates(native.certs);
            store
        }
    };
    // The provider is named here, so a program around this library need not install one.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_machine_lacks_does_not_speak_against_the_receiver() {
        let exhausted = not_connected(&io::Error::from_raw_os_error(24));
        let refused = not_connected(&io::Error::from_raw_os_error(111));
        assert!(matches!(exhausted, End::Local(_)) && !exhausted.counts_as_failure(), "{exhausted:?}");
        assert!(matches!(refused, End::Connect(_)) && refused.counts_as_failure(), "{refused:?}");
    }
}
