//! Connections: the only place that opens a socket to a receiver.

mod answer;
mod connection;
mod dial;
mod pool;
mod request;
mod resolving;
mod route;
mod server_proxy;
mod sockets;
mod stream;
mod tls;
mod tls_error;
mod trust;
mod tunnel;
mod turns;
mod validity;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Request, Response};
use rustls::RootCertStore;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

pub use self::answer::{AnswerReader, BodyEnd, MAX_HEAD_BYTES, Unreadable};
pub use self::connection::{CONFIRM_AFTER, Connection, MAX_AGE, MAX_IDLE};
use self::pool::Pool;
pub use self::request::{OutgoingRequest, RequestHead};
pub(super) use self::route::{
    Authorities, Credentials, Identity, NamedRoute, Proxy, ProxyKind, Route, RouteId, Target,
};
pub use self::server_proxy::{NoProxy, ServerProxy};
pub use self::sockets::SocketLimits;
use self::sockets::Sockets;
pub use self::tls::Roots;
use self::tls::{SessionMemory, client_config};
pub use self::tunnel::MAX_PROXY_HEAD_BYTES;
use self::turns::Turns;
pub use self::turns::{FAILURE_REMEMBERED, MAX_FAILED_ADDRESSES};
use super::End;
use super::exchange::{Link, Timings};
#[cfg(feature = "dns")]
use super::guard::HickoryResolver;
#[cfg(not(feature = "dns"))]
use super::guard::SystemResolver;
use super::guard::{Destination, DestinationError, EgressPolicy, GuardedAddr, SharedResolver};
use crate::log_rate::LogRate;

/// How long a connection may take to be made, TLS included, resolution not.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How many addresses of a name are tried in an attempt, one after the other. The next attempt tries others first.
pub const MAX_ADDRESSES_TRIED: usize = 4;

/// Makes connections to receivers within the egress guard. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    policy: EgressPolicy,
    resolver: SharedResolver,
    roots: Arc<RootCertStore>,
    tls: TlsConnector,
    connect_timeout: Duration,
    proxy: Option<ServerProxy>,
    user_agent: Option<HeaderValue>,
    sockets: Sockets,
    pool: Mutex<Pool>,
    turns: Turns,
    /// Names that led inside, for the log.
    refusals: LogRate,
}

/// What a [`Client`] is made of. By default: nothing private may be contacted, hickory resolves (the system's
/// resolver without the feature `dns`), Mozilla's authorities are trusted, and connecting takes at most [`DEFAULT_CONNECT_TIMEOUT`].
pub struct ClientOptions {
    pub policy: EgressPolicy,
    /// `None`: with the feature `dns` hickory with the system's configuration and a cache by TTL, otherwise
    /// [`SystemResolver`](super::guard::SystemResolver).
    pub resolver: Option<SharedResolver>,
    pub roots: Roots,
    pub connect_timeout: Duration,
    /// For webhooks that name no proxy, and for requests of this client's user. `None`: they go directly.
    pub proxy: Option<ServerProxy>,
    /// The `User-Agent` of deliveries. `None`: `decnet-webhook/1.0` with a DECNET signature, otherwise `Postrider/` and the version.
    pub user_agent: Option<HeaderValue>,
    /// `None`: as many as the system gives.
    pub sockets: Option<SocketLimits>,
}

#[cfg(feature = "server")]
impl ClientOptions {
    /// For one server that an operator has named, as `url`: any private address may be contacted, names are looked up with the
    /// system's search list, and the system's authorities are trusted.
    pub(crate) fn for_named_server(url: &url::Url) -> Self {
        Self {
            policy: EgressPolicy {
                allow_all_private: true,
                allow_ports: url.port().into_iter().collect(),
                ..EgressPolicy::default()
            },
            resolver: Some(Arc::new(super::guard::SearchingResolver)),
            roots: Roots::Native,
            ..Self::default()
        }
    }
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            policy: EgressPolicy::default(),
            resolver: None,
            roots: Roots::default(),
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            proxy: None,
            user_agent: None,
            sockets: None,
        }
    }
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
    /// Waits for a descriptor.
    Socket,
    Connect,
    /// On the way to a proxy.
    Proxy,
    /// A proxy was asked for a way to the receiver.
    Tunnel,
    Tls,
    Answer,
    Token,
}

impl Phase {
    /// The end of an exchange that was in this phase when `limit` had passed.
    pub(super) fn timed_out(self, limit: Duration) -> End {
        let phase = match self {
            Self::Dns => "dns",
            Self::Socket => return sockets::none_free(),
            Self::Connect => "connect",
            Self::Proxy => return End::Proxy(format!("timeout: connect (limit {} s)", limit.as_secs_f64())),
            Self::Tunnel => "connect: proxy",
            Self::Tls => "tls",
            Self::Answer => "waiting for the response",
            Self::Token => return End::Auth(format!("no token within {} s", limit.as_secs_f64())),
        };
        End::Timeout(format!("{phase} (limit {} s)", limit.as_secs_f64()))
    }
}

/// What is known of an exchange so far. It outlives an exchange that is cut off by a timeout.
pub(super) struct Trace {
    pub(super) phase: Phase,
    pub(super) timings: Timings,
    /// The connection that the request was made on.
    pub(super) link: Option<Link>,
    pub(super) request: Option<OutgoingRequest>,
    pub(super) answer: AnswerReader,
}

impl Trace {
    /// Of an exchange that has not begun, of whose answer's body up to `max_body_bytes` are kept.
    pub(super) fn of_at_most(max_body_bytes: usize) -> Self {
        let answer = AnswerReader::of_at_most(max_body_bytes);
        Self { phase: Phase::default(), timings: Timings::default(), link: None, request: None, answer }
    }
}

impl Client {
    /// Reads the system's resolver configuration if no resolver is given; opens nothing yet.
    pub fn new(options: ClientOptions) -> Result<Self, ClientError> {
        let ClientOptions { policy, resolver, roots, connect_timeout, proxy, user_agent, sockets } = options;
        let resolver = match resolver {
            Some(resolver) => resolver,
            #[cfg(feature = "dns")]
            None => Arc::new(HickoryResolver::from_system().map_err(ClientError::Resolver)?),
            #[cfg(not(feature = "dns"))]
            None => Arc::new(SystemResolver),
        };
        let roots = Arc::new(roots.into_store());
        let tls =
            TlsConnector::from(Arc::new(client_config(Arc::clone(&roots), &[], None, SessionMemory::EveryWebhook)?));
        let inner = Inner {
            policy,
            resolver,
            roots,
            tls,
            connect_timeout,
            proxy,
            user_agent,
            sockets: Sockets::new(sockets),
            pool: Mutex::default(),
            turns: Turns::default(),
            refusals: LogRate::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Whether connections should not be kept that nobody uses: few can be opened beside them.
    #[must_use]
    pub fn is_short_of_sockets(&self) -> bool {
        self.inner.sockets.are_few()
    }

    /// As in [`ClientOptions::user_agent`].
    pub(super) fn user_agent(&self) -> Option<&HeaderValue> {
        self.inner.user_agent.as_ref()
    }

    #[must_use]
    pub fn policy(&self) -> &EgressPolicy {
        &self.inner.policy
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
        let build = || {
            let path_and_query = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
            let host = destination.authority().as_bytes();
            let mut head = RequestHead::of(request.method().as_str(), path_and_query, host);
            for (name, value) in request.headers() {
                head.field(name.as_str(), value.as_bytes())?;
            }
            Ok(head.with_body(request.body().clone()))
        };
        self.request_by(Target::direct(destination), build, max_body_bytes, timeout).await
    }

    /// The request that `build` makes, by the way that `target` says.
    pub(super) async fn request_by(
        &self,
        target: Target<'_>,
        build: impl Fn() -> Result<OutgoingRequest, End>,
        max_body_bytes: usize,
        timeout: Duration,
    ) -> Result<Response<Bytes>, End> {
        let mut trace = Trace::of_at_most(max_body_bytes);
        let mut slot = self.checkout(target);
        let exchange = self.exchange(&mut slot, target, build, &mut trace);
        let cut_off = match timeout_at(Instant::now() + timeout, exchange).await {
            Ok(exchanged) => exchanged.map(|()| false)?,
            Err(_) => true,
        };
        self.checkin(slot);
        match trace.answer.end() {
            Some(BodyEnd::Complete) => response(trace.answer),
            Some(BodyEnd::TooLong) => Err(End::Protocol(format!("the answer has more than {max_body_bytes} bytes"))),
            _ if cut_off => Err(trace.phase.timed_out(timeout)),
            _ => Err(End::Connect("the connection broke within the answer".to_owned())),
        }
    }

    /// Resolves, checks and connects: a connection for as many requests as its user likes, one after the other.
    pub async fn connect(&self, destination: &Destination) -> Result<Connection, End> {
        self.connect_traced(Target::direct(destination), &mut Trace::of_at_most(0)).await
    }

    /// An idle connection to `target` from the pool, if there is one.
    pub(super) fn checkout(&self, target: Target<'_>) -> Option<Connection> {
        self.inner.pool.lock().unwrap_or_else(PoisonError::into_inner).take(target)
    }

    /// Keeps a connection for the next one who wants it.
    pub(super) fn checkin(&self, connection: Option<Connection>) {
        if let Some(connection) = connection.filter(|_| !self.is_short_of_sockets()) {
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
        target: Target<'_>,
        build: impl Fn() -> Result<OutgoingRequest, End>,
        trace: &mut Trace,
    ) -> Result<(), End> {
        self.inner.policy.check_scheme(target.destination).map_err(blocked)?;
        let mut idle = self.confirm(slot.take(), target, trace).await?;
        loop {
            let reused = idle.is_some();
            let mut connection = match idle.take() {
                Some(connection) => connection,
                None => self.connect_traced(target, trace).await?,
            };
            trace.phase = Phase::Answer;
            let Trace { timings, answer, request, link, .. } = &mut *trace;
            let request = request.insert(build()?);
            let address = connection.address().map(GuardedAddr::get);
            *link = Some(Link { address, is_reused: reused, is_tls: target.destination.is_tls() });
            let sent_at = Instant::now();
            let began = || timings.first_byte = Some(sent_at.elapsed());
            match connection.exchange(request, answer, began).await {
                Ok(()) => {
                    timings.body = timings.first_byte.map(|first_byte| sent_at.elapsed().saturating_sub(first_byte));
                    if let Some(reason) = answer.status().and_then(|status| connection.refusal_of_proxy(status)) {
                        *answer = AnswerReader::of_at_most(0);
                        return Err(End::Proxy(reason));
                    }
                    *slot = Some(connection).filter(Connection::is_clean);
                    return Ok(());
                }
                Err(_) if reused && !answer.has_begun() => {}
                Err(end) => return Err(end),
            }
        }
    }

    /// The idle connection, if it may be used for `target`: still open, and the host still has its address.
    async fn confirm(
        &self,
        idle: Option<Connection>,
        target: Target<'_>,
        trace: &mut Trace,
    ) -> Result<Option<Connection>, End> {
        let Some(mut connection) = idle.filter(|connection| connection.serves(target)) else { return Ok(None) };
        if !connection.is_usable() {
            return Ok(None);
        }
        if connection.confirmed_at.elapsed() > CONFIRM_AFTER {
            let addresses = self.resolve_target(target, trace).await?;
            // Where a proxy resolves there is no address to compare.
            if connection.address().is_some_and(|address| !addresses.contains(&address)) {
                return Ok(None);
            }
            connection.confirmed_at = Instant::now();
        }
        Ok(Some(connection))
    }

    async fn connect_traced(&self, target: Target<'_>, trace: &mut Trace) -> Result<Connection, End> {
        trace.phase = Phase::Socket;
        if self.is_short_of_sockets() {
            *self.inner.pool.lock().unwrap_or_else(PoisonError::into_inner) = Pool::default();
        }
        let socket = self.inner.sockets.connection(self.inner.connect_timeout).await?;
        let dialled = match self.via(target) {
            None => self.dial(target.destination, trace).await?,
            // Boxed: the futures of those that have no proxy need not be as large.
            Some(via) => Box::pin(self.dial_through(via, target, trace)).await?,
        };
        let stream = if target.destination.is_tls() {
            trace.phase = Phase::Tls;
            let began_at = Instant::now();
            let connector = self.connector(target)?;
            let handshake = dialled.stream.secured(&connector, target.server_name().clone());
            let stream = match timeout_at(dialled.deadline, handshake).await {
                Ok(secured) => secured.map_err(|error| End::Tls(tls_error::handshake_failure(&error))),
                Err(_) => Err(Phase::Tls.timed_out(self.inner.connect_timeout)),
            };
            if stream.is_err() {
                dialled.address.inspect(|address| self.inner.turns.failed(*address));
            }
            let stream = stream?;
            trace.timings.tls = Some(began_at.elapsed());
            stream
        } else {
            dialled.stream
        };
        Ok(Connection::new(stream, target, dialled.address, dialled.forwarding, socket))
    }

    /// TLS with the authorities and the client certificate of `target`.
    fn connector(&self, target: Target<'_>) -> Result<TlsConnector, End> {
        match target.route.and_then(|route| route.identity.as_ref()) {
            None => Ok(self.inner.tls.clone()),
            Some(identity) => identity.connector(&self.inner.roots).map_err(|error| End::Tls(tls_error::words(&error))),
        }
    }
}

/// An answer that was read to its end, without the header fields that HTTP does not allow.
fn response(answer: AnswerReader) -> Result<Response<Bytes>, End> {
    let mut response = Response::builder().status(answer.status().unwrap_or_default());
    if let Some(headers) = response.headers_mut() {
        for (name, value) in answer.fields().iter() {
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
                headers.append(name, value);
            }
        }
    }
    let response = response.body(answer.into_body().freeze());
    response.map_err(|error| End::Protocol(format!("the answer cannot be read: {error}")))
}

/// Why a webhook may not be registered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct VetError {
    /// The field that names the forbidden destination: `url`, `proxy` or `auth`.
    pub field: &'static str,
    pub error: DestinationError,
}

/// What is wrong with a destination as it is written is no secret.
fn blocked(error: DestinationError) -> End {
    let (DestinationError::Invalid(reason) | DestinationError::Forbidden(reason)) = error;
    End::Blocked(reason)
}
