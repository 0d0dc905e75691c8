//! Composition root: wire the parts together, listen, and drain.

mod connections;
mod descriptors;
mod stores;
mod strict;
mod write_timeout;

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Request;
use http::header::{CONNECTION, HeaderValue};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal, set_dumpable_behavior, setrlimit};
use rustix::system::uname;
use secrecy::SecretString;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};

use self::connections::{Answered, Place, Places};
use self::descriptors::{Descriptors, raise_file_limit};
pub use self::stores::StoreSettings;
use self::strict::Strict;
use self::write_timeout::WriteTimeout;
use crate::api::auth::{Auth, Peer, hash_token, new_token};
use crate::api::cors::{Cors, WebOrigin};
use crate::api::{self, App};
use crate::clock::{Clock, SystemClock, UnixMicros};
use crate::dashboard;
use crate::delivery::client::{Client, ClientOptions};
use crate::dispatcher::DispatcherSettings;
use crate::engine::figures::FigureSettings;
use crate::engine::nodes::NodeSettings;
use crate::engine::retention::RetentionSettings;
use crate::engine::{Engine, EngineSettings};
use crate::sources::{SourceSettings, Sources};
use crate::store::seal::{MasterKey, MasterKeyError};
use crate::store::{NewToken, Quotas, Scope, Store, StoreError};
use crate::webhook::DEFAULT_TENANT;

/// The timeout of a request's head, and of an idle connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// The timeout of an answer of which the client reads nothing.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest head of a request. A larger one is answered with 431.
const MAX_HEADER_BYTES: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;
/// The largest read buffer of a connection. A body that arrives in one piece is used without a copy.
const MAX_BUFFER_BYTES: usize = 64 * 1024;
/// The time for requests under way in a shutdown, within [`ServeSettings::drain_timeout`].
const MAX_REQUEST_DRAIN: Duration = Duration::from_secs(10);
/// The pause when no file descriptor is left for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const ADMIN_TOKEN_NAME: &str = "admin";

/// The settings of a server. `config` has the defaults.
pub struct ServeSettings {
    /// Port 0 takes a free one.
    pub listen: SocketAddr,
    pub data_dir: PathBuf,
    /// Makes a new database in a data folder that has a master key, but no database.
    pub is_new_installation: bool,
    /// The longest wait of a shutdown for requests and attempts under way. The commit of their outcomes may take 5 s
    /// more.
    pub drain_timeout: Duration,
    /// Connections of one peer at once.
    pub max_connections_per_peer: usize,
    /// The origins whose pages may use the API.
    pub cors_origins: Vec<WebOrigin>,
    /// `None`: generated at the first start, and given once in [`Started::new_admin_token`].
    pub admin_token: Option<SecretString>,
    /// A DECNET whose admins are admins here, too.
    pub decnet: Option<crate::api::auth::DecnetSettings>,
    /// `None`: the key file in the data folder, made at the first start of all nodes.
    pub master_key: Option<MasterKey>,
    /// Its `policy.own_listeners` is filled in by the server.
    pub client: ClientOptions,
    pub dispatcher: DispatcherSettings,
    pub retention: RetentionSettings,
    pub figures: FigureSettings,
    pub idempotency_ttl: Duration,
    /// The default quotas of a new tenant.
    pub new_tenant_quotas: Quotas,
    /// Its `address` is filled in by the server.
    pub node: NodeSettings,
    pub store: StoreSettings,
    pub sources: Vec<SourceSettings>,
}

/// A server that listens.
#[derive(Debug)]
pub struct Started {
    pub address: SocketAddr,
    /// Set when this start made the admin token; it is stored only as a hash.
    pub new_admin_token: Option<SecretString>,
}

/// Runs a server until `shutdown` is ready, then drains it. `started` is called once it listens.
pub async fn serve(
    settings: ServeSettings,
    started: impl FnOnce(&Started),
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    // Comes first, so that a port in use is an error before anything is changed.
    let (listener, address) = listen(settings.listen).await?;
    let descriptors = Descriptors::shared_out(raise_file_limit(), settings.store.max_connections());
    survive_file_size_limit();
    forbid_core_dumps();
    let mut client = settings.client;
    client.policy.own_listeners.push(address);
    client.sockets = descriptors.receivers;
    let client = Client::new(client)?;

    let store =
        stores::open(settings.data_dir, settings.master_key, settings.is_new_installation, settings.store).await?;
    let clock = SystemClock;
    let new_admin_token = match &settings.admin_token {
        Some(_) => None,
        None => ensure_admin(&*store, clock.now()).await?,
    };
    let environment = settings.admin_token.as_ref().map(hash_token);
    let auth = Auth::new(Arc::clone(&store), environment, settings.decnet.as_ref())?;
    let engine_settings = EngineSettings {
        dispatcher: descriptors.within(settings.dispatcher),
        retention: settings.retention,
        figures: settings.figures,
        idempotency_ttl: settings.idempotency_ttl,
        new_tenant_quotas: settings.new_tenant_quotas,
        node: named(settings.node, address),
    };
    let engine = Engine::start(store, client, Arc::new(clock), engine_settings).await?;
    let sources = Sources::start(&engine, settings.sources);
    let app = App::new(Arc::clone(&engine), Arc::clone(&sources), auth, Cors::new(&settings.cors_origins), address);

    tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "listening");
    started(&Started { address, new_admin_token });
    let places = Places::new(descriptors.clients, settings.max_connections_per_peer, app.connection_counts());
    let shutdown = until_shutdown(shutdown, sources.clone());
    let stopped_at = answer(listener, &app, &places, shutdown, settings.drain_timeout).await;
    sources.stopped().await;
    let cut_off = engine.drain(settings.drain_timeout.saturating_sub(stopped_at.elapsed())).await;
    tracing::info!(cut_off, "stopped");
    Ok(())
}

/// Ready when the server is to stop: it is told so, or the origin of a source asks for it. Sources stop at once.
async fn until_shutdown(told: impl Future<Output = ()> + Send + 'static, sources: Arc<Sources>) {
    tokio::select! {
        () = told => {}
        () = sources.end() => tracing::info!("the origin of a source has asked the server to stop"),
    }
    sources.stop();
}

/// Fills in the name and the address that other nodes see.
fn named(settings: NodeSettings, address: SocketAddr) -> NodeSettings {
    let name = match settings.name {
        name if !name.is_empty() => name,
        _ => format!("{}:{}", uname().nodename().to_string_lossy(), address.port()),
    };
    NodeSettings { name, address: address.to_string(), ..settings }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ServeError> {
    let failed = |error: std::io::Error| ServeError::Listen { address, reason: error.to_string() };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// A file that reaches its size limit (`ulimit -f`) must be an error of the store. SIGXFSZ would end the process if it
/// were not caught. The handler stays for ever.
fn survive_file_size_limit() {
    if let Err(error) = signal(SignalKind::from_raw(Signal::XFSZ.as_raw())) {
        tracing::warn!(%error, "cannot catch SIGXFSZ: a limit on the size of files would end the server");
    }
}

/// Memory has keys and tokens, so a crash must not copy it to a file or a crash reporter.
fn forbid_core_dumps() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let done = setrlimit(Resource::Core, none).and_then(|()| set_dumpable_behavior(DumpableBehavior::NotDumpable));
    if let Err(error) = done {
        tracing::warn!(%error, "cannot turn core dumps off: a crash may leave keys on the disk");
    }
}

/// Makes a token of an admin and operator, unless a valid one of an admin exists.
async fn ensure_admin(store: &dyn Store, now: UnixMicros) -> Result<Option<SecretString>, ServeError> {
    let tokens = store.tokens(DEFAULT_TENANT).await?;
    let is_good = |expires_at: Option<UnixMicros>| expires_at.is_none_or(|expires_at| expires_at > now);
    if tokens.iter().any(|token| token.permits(Scope::Admin) && is_good(token.expires_at)) {
        return Ok(None);
    }
    let token = new_token().map_err(|_| ServeError::Random)?;
    let record = NewToken {
        tenant: DEFAULT_TENANT,
        name: ADMIN_TOKEN_NAME.to_owned(),
        scopes: vec![Scope::Operator, Scope::Admin],
        hash: hash_token(&token),
        expires_at: None,
        now,
    };
    let made = store.create_token(record).await?;
    // Of nodes that start together, the first one keeps its token, since the store makes tokens one after the other.
    let tokens = store.tokens(DEFAULT_TENANT).await?;
    let first = tokens.iter().find(|token| token.permits(Scope::Admin) && is_good(token.expires_at));
    if first.is_some_and(|first| first.uuid != made.uuid) {
        store.revoke_token(DEFAULT_TENANT, made.uuid, now).await?;
        return Ok(None);
    }
    Ok(Some(token))
}

type Answers = TowerToHyperService<tower_http::normalize_path::NormalizePath<axum::Router>>;

/// Accepts connections and answers requests until `shutdown` is ready, and then finishes requests under way until
/// `drain_timeout`. Returns the time at which `shutdown` was ready.
async fn answer(
    listener: TcpListener,
    app: &Arc<App>,
    places: &Arc<Places>,
    shutdown: impl Future<Output = ()> + Send + 'static,
    drain_timeout: Duration,
) -> Instant {
    let answers = TowerToHyperService::new(api::service(app, dashboard::routes()));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_header_size(MAX_HEADER_BYTES)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_BUFFER_BYTES);
    let graceful = GracefulShutdown::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let (stream, peer, place) = tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = accept(&listener, places) => accepted,
        };
        let stream = TokioIo::new(Strict::new(WriteTimeout::new(stream, WRITE_TIMEOUT)));
        let place = Arc::new(place);
        let gone = Arc::clone(&place).gone();
        let answers = Answers::clone(&answers);
        let answers = service_fn(move |mut request: Request<Incoming>| {
            let (busy, is_last) = place.begin();
            request.extensions_mut().insert(peer);
            let is_refused = place.is_reserved() && !api::is_about_health(&request);
            let is_last = is_last || place.is_reserved();
            let answer = (!is_refused).then(|| answers.call(request));
            async move {
                let mut answer = match answer {
                    Some(answer) => answer.await?,
                    None => api::no_connection_left(),
                };
                if is_last {
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(answer.map(|body| Answered::new(body, busy)))
            }
        });
        let connection = graceful.watch(http.serve_connection(stream, answers));
        let app = Arc::clone(app);
        tokio::spawn(async move {
            tokio::select! {
                // A client that disconnects or sends nonsense is not an error of the server.
                ended = connection => if let Err(error) = ended { app.note_broken(&error, peer) },
                () = gone => {}
            }
        });
    }
    let stopped_at = Instant::now();
    app.set_draining();
    // Events of requests under way are still accepted, and delivered after the next start.
    app.engine().stop_attempts();
    drop(listener);
    if tokio::time::timeout(drain_timeout.min(MAX_REQUEST_DRAIN), graceful.shutdown()).await.is_err() {
        tracing::warn!("requests under way were cut off");
    }
    places.end_all();
    stopped_at
}

/// The next connection that gets a place.
async fn accept(listener: &TcpListener, places: &Arc<Places>) -> (TcpStream, Peer, Place) {
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                // Without this, small answers wait for the client's acknowledgement.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "a connection broke");
                }
                if let Some(place) = places.admit(address.ip()).await {
                    return (stream, Peer(address.ip()), place);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot listen on {address}: {reason}")]
    Listen { address: SocketAddr, reason: String },
    #[error(transparent)]
    MasterKey(#[from] MasterKeyError),
    #[error(transparent)]
    Open(#[from] crate::store::OpenError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Client(#[from] crate::delivery::client::ClientError),
    #[error(transparent)]
    Decnet(#[from] crate::api::auth::DecnetError),
    #[error("the operating system has no randomness to give")]
    Random,
}
