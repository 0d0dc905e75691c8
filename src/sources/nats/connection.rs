//! One connection to NATS. It is given up when something goes wrong: the supervisor connects again and says why, which the
//! client's own endless reconnecting would hide.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerAddr, ServerError};
use serde::Deserialize;
use tokio::sync::watch;

use super::login::Login;
use crate::sources::SourceError;
use crate::sources::secret::Surroundings;
use crate::sources::tls::{RawTls, TlsSettings};

/// The time for TCP, TLS and the greeting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The time for an answer to a request.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Between pings. After some without an answer the connection is given up.
const PING_EVERY: Duration = Duration::from_secs(10);
/// Messages of one subscription that were read and not yet taken. The task that takes them never waits for the disk.
const MAX_UNTAKEN: usize = 8_192;
/// What acknowledgements may take on their way out.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// The time in which the client tells of an end that a request has met.
const NEWS_TIMEOUT: Duration = Duration::from_millis(250);
const ENDED: &str = "the connection to the server ended";
/// The most servers of a source.
const MAX_SERVERS: usize = 32;

/// The settings, as given.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConnection {
    servers: OneOrMany,
    tls: Option<RawTls>,
}

/// The names of these settings.
pub(super) const KEYS: [&str; 2] = ["servers", "tls"];

/// One server, or several of a cluster.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "servers: expected a text or a list of texts, as in nats://host:4222")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Clone, Debug)]
pub(super) struct ConnectionSettings {
    servers: Vec<ServerAddr>,
    tls: Option<TlsSettings>,
    login: Login,
}

/// What is known of a connection beside its messages.
#[derive(Clone, Debug, Default)]
struct News {
    /// The first thing that went wrong.
    trouble: Option<String>,
    /// It was the end of the connection, without words of the server.
    has_ended: bool,
    /// Messages that were lost because nobody took them in time.
    lost: u64,
}

pub(super) struct Connection {
    pub(super) client: Client,
    news: watch::Receiver<News>,
}

impl RawConnection {
    pub(super) fn within(self, login: Login, surroundings: &Surroundings) -> Result<ConnectionSettings, String> {
        let servers = match self.servers {
            OneOrMany::One(server) => vec![server],
            OneOrMany::Many(servers) => servers,
        };
        if !(1..=MAX_SERVERS).contains(&servers.len()) {
            return Err(format!("servers: must be from 1 to {MAX_SERVERS}"));
        }
        let servers: Result<Vec<_>, _> = servers.iter().map(|text| server(text)).collect();
        let tls = self.tls.map(|tls| tls.within(surroundings)).transpose()?;
        Ok(ConnectionSettings { servers: servers?, tls, login })
    }
}

/// The error has no part of the text, since a part of it may be a password.
fn server(text: &str) -> Result<ServerAddr, String> {
    let wrong = || "servers: expected nats://host:port or tls://host:port".to_owned();
    let server: ServerAddr = text.parse().map_err(|_| wrong())?;
    if server.has_user_pass() || server.password().is_some() {
        return Err("servers: a user, a password or a token is a setting of its own, and no part of a URL".to_owned());
    }
    let url = server.clone().into_inner();
    let has_more = !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some();
    let is_usable = matches!(server.scheme(), "nats" | "tls") && !server.host().is_empty() && !has_more;
    if is_usable { Ok(server) } else { Err(wrong()) }
}

impl ConnectionSettings {
    /// `name`: under which the server lists the connection.
    fn options(&self, name: &str) -> Result<ConnectOptions, SourceError> {
        let tls = self.tls.clone().unwrap_or_default();
        let options = ConnectOptions::new()
            .name(name)
            .require_tls(tls.is_required)
            .tls_client_config(tls.config().map_err(SourceError)?)
            .connection_timeout(CONNECT_TIMEOUT)
            .request_timeout(Some(ANSWER_TIMEOUT))
            .ping_interval(PING_EVERY)
            .subscription_capacity(MAX_UNTAKEN)
            // Each server is tried once, now and after an end of the connection; the supervisor does the rest.
            .max_reconnects(self.servers.len())
            .ignore_discovered_servers();
        self.login.apply(options).map_err(|_| SourceError("the credentials cannot be used".to_owned()))
    }
}

impl Connection {
    pub(super) async fn open(settings: &ConnectionSettings, source: &str) -> Result<Self, SourceError> {
        let (sender, news) = watch::channel(News::default());
        let note = move |event: Event| {
            let sender = sender.clone();
            async move { sender.send_modify(|news| news.take_in(&event)) }
        };
        let options = settings.options(&format!("postrider {source}"))?.event_callback(note);
        let connected = options.connect(&settings.servers[..]).await;
        let client = connected.map_err(|error| {
            let servers: Vec<&str> = settings.servers.iter().map(ServerAddr::as_url_str).collect();
            SourceError::new(&format!("cannot connect to {}", servers.join(", ")), reason(&error))
        })?;
        Ok(Self { client, news })
    }

    /// Ready when something went wrong, with the reason.
    pub(super) async fn failed(&self) -> SourceError {
        let mut news = self.news.clone();
        let trouble = match news.wait_for(|news| news.trouble.is_some()).await {
            Ok(news) => news.trouble.clone(),
            // The task of the client is gone.
            Err(_) => None,
        };
        SourceError(trouble.unwrap_or_else(|| ENDED.to_owned()))
    }

    /// Whether the connection ended without words of the server. Waits a moment for the news of it.
    pub(super) async fn has_ended(&self) -> bool {
        let mut news = self.news.clone();
        let known = tokio::time::timeout(NEWS_TIMEOUT, news.wait_for(|news| news.trouble.is_some())).await;
        // A task of the client that is gone has failed over what it read.
        known.is_ok_and(|news| news.map_or(true, |news| news.has_ended))
    }

    /// The number of messages that the client has told of as lost so far, when it is more than `known`. It may be less than
    /// were lost.
    pub(super) async fn lost_more_than(&self, known: u64) -> u64 {
        let mut news = self.news.clone();
        let lost = news.wait_for(|news| news.lost > known).await.ok().map(|news| news.lost);
        match lost {
            Some(lost) => lost,
            None => std::future::pending().await,
        }
    }

    /// How many messages came so far, also those that were dropped.
    pub(super) fn came(&self) -> u64 {
        self.client.statistics().in_messages.load(Ordering::Relaxed)
    }

    /// Sends what waits in memory. What does not go out in time comes again.
    pub(super) async fn flush(&self) {
        let _ = tokio::time::timeout(FLUSH_TIMEOUT, self.client.flush()).await;
    }
}

impl News {
    fn take_in(&mut self, event: &Event) {
        let trouble = match event {
            Event::ServerError(ServerError::SlowConsumer(_)) | Event::SlowConsumer(_) => {
                self.lost += 1;
                return;
            }
            Event::Disconnected | Event::Closed => ENDED.to_owned(),
            Event::ServerError(ServerError::Other(text)) => format!("the server says: {text}"),
            Event::ServerError(ServerError::AuthorizationViolation) => "the server refuses the login".to_owned(),
            // What the client tries by itself comes after an end, which is told already.
            Event::Connected | Event::LameDuckMode | Event::Draining | Event::ClientError(_) => return,
        };
        self.has_ended |= self.trouble.is_none() && trouble == ENDED;
        self.trouble.get_or_insert(trouble);
    }
}

fn reason(error: &ConnectError) -> String {
    use std::error::Error as _;
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation => "the server refuses the login".to_owned(),
        ConnectErrorKind::Authentication => "the seed or the credentials cannot be used".to_owned(),
        ConnectErrorKind::TimedOut => format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()),
        // The kind says no more than the error below it.
        _ => error.source().map_or_else(|| error.to_string(), ToString::to_string),
    }
}
