//! The settings as a layer gives them, and the lowest layer.

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Count, Keep, Location, Port, ProxyUrl, Resolver, Size, Span};
use crate::api::cors::WebOrigin;
use crate::delivery::client::{DEFAULT_CONNECT_TIMEOUT, NoProxy};
use crate::delivery::guard::HostPattern;
use crate::delivery::retry::Schedule;
use crate::delivery::statuses::StatusSpan;
use crate::engine::DEFAULT_IDEMPOTENCY_TTL;
use crate::engine::nodes::{DEFAULT_LEASE, DEFAULT_POLL_INTERVAL};
use crate::store::postgres::DEFAULT_MAX_CONNECTIONS;
use crate::store::{BYTES_QUOTA, QUOTA, Quotas};
use crate::telemetry::LogFormat;
use crate::webhook::Capture;

/// The default retention of events, of delivered and skipped deliveries, and of attempts.
const DEFAULT_RETENTION: Duration = Duration::from_hours(30 * 24);
/// The default retention of dead and discarded deliveries, which somebody may still want to replay.
const DEFAULT_RETENTION_DEAD: Duration = Duration::from_hours(90 * 24);
/// The default retention of the audit log.
const DEFAULT_RETENTION_AUDIT: Duration = Duration::from_hours(365 * 24);
/// The default retention of figures over time, by the length of their steps.
const DEFAULT_RETENTION_FIGURES_MINUTES: Duration = Duration::from_hours(2 * 24);
const DEFAULT_RETENTION_FIGURES_HOURS: Duration = Duration::from_hours(90 * 24);
const DEFAULT_RETENTION_FIGURES_DAYS: Duration = Duration::from_hours(730 * 24);

/// One layer of settings, each as somebody gave it or left it out.
#[derive(Clone, Debug, Default, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub struct RawConfig {
    /// The sources, which the file alone can have.
    #[arg(skip)]
    #[serde(default, skip_serializing)]
    pub source: Vec<toml::Table>,
    /// Listen on this address; port 0 takes a free one [default: 127.0.0.1:4665]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// Keep everything in this folder [default: ./postrider-data]
    #[arg(long, value_name = "FOLDER")]
    pub data: Option<PathBuf>,
    /// Keep events in this database instead, as in `postgres://user@host/database` [default: embedded]
    #[arg(long, value_name = "URL")]
    pub store: Option<Location>,
    /// Open at most this many connections to the database [default: 16]
    #[arg(long, value_name = "COUNT")]
    pub store_connections: Option<NonZeroU32>,
    /// Use a database that can lose what it committed, because its fsync is off
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub allow_unsafe_store: Option<bool>,
    /// Call this node so among those that share its database [default: host name and port]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Let other nodes take over when this one is silent for so long [default: 10s]
    #[arg(long, value_name = "DURATION")]
    pub lease: Option<Span>,
    /// Look this often for what other nodes left or changed, beside their hints [default: 1s]
    #[arg(long, value_name = "DURATION")]
    pub poll_interval: Option<Span>,
    /// Wait this long for attempts under way when stopping [default: 30s]
    #[arg(long, value_name = "DURATION")]
    pub drain_timeout: Option<Span>,
    /// Let one client's address have this many connections, and answer 503 to more [default: 2048]
    #[arg(long, value_name = "COUNT")]
    pub max_connections_per_peer: Option<NonZeroUsize>,
    /// Let pages of this origin use the API, as in `https://console.example` (repeatable)
    #[arg(long, value_name = "ORIGINS", value_delimiter = ',')]
    pub cors_origins: Option<Vec<WebOrigin>>,
    /// Let admins of the DECNET whose API is here use this one; `POSTRIDER_DECNET_JWT_SECRET`, or `DECNET_JWT_SECRET`, is
    /// what it signs tokens with
    #[arg(long, value_name = "URL")]
    pub decnet_api: Option<String>,
    /// Let webhooks reach this private network (repeatable)
    #[arg(long, value_name = "CIDR")]
    pub allow_private: Option<Vec<IpNet>>,
    /// Let webhooks reach every private address but link-local ones and those of cloud metadata services
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub allow_private_destinations: Option<bool>,
    /// Let webhooks reach private addresses by this name, as in `receiver` or `*.svc.cluster.local` (repeatable)
    #[arg(long, value_name = "HOSTS", value_delimiter = ',')]
    pub allow_hosts: Option<Vec<HostPattern>>,
    /// Let webhooks reach this port, although it belongs to a database, mail or the like, as 9200 (repeatable)
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    pub allow_ports: Option<Vec<Port>>,
    /// Let webhooks leave it to their proxies to resolve names, which no address check sees
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub allow_proxy_resolution: Option<bool>,
    /// Refuse webhooks whose URL is not https
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub https_only: Option<bool>,
    /// Go through this proxy, as in `http://proxy.example:3128` or `socks5://…`, for webhooks that name none
    #[arg(long, value_name = "URL")]
    pub proxy: Option<ProxyUrl>,
    /// Leave it to that proxy to resolve names, which no address check sees
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub proxy_resolves: Option<bool>,
    /// Reach these hosts without that proxy, as in corp.example,10.0.0.0/8 (repeatable)
    #[arg(long, value_name = "HOSTS", value_delimiter = ',')]
    pub no_proxy: Option<Vec<NoProxy>>,
    /// Resolve host names with this resolver [default: hickory]
    #[arg(long, value_name = "RESOLVER")]
    pub resolver: Option<Resolver>,
    /// Trust the operating system's certificate authorities too
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub native_roots: Option<bool>,
    /// Call the server so in `User-Agent` [default: Postrider/VERSION, and decnet-webhook/1.0 with DECNET signatures]
    #[arg(long, value_name = "TEXT")]
    pub user_agent: Option<String>,
    /// Give a connection this long to be made [default: 5s]
    #[arg(long, value_name = "DURATION")]
    pub connect_timeout: Option<Span>,
    /// Make at most this many attempts at once, over all webhooks [default: 1024]
    #[arg(long, value_name = "COUNT")]
    pub max_in_flight: Option<NonZeroUsize>,
    /// Keep at most this many deliveries of one webhook in memory; more wait on disk [default: 8192]
    #[arg(long, value_name = "COUNT")]
    pub max_lane_deliveries: Option<NonZeroUsize>,
    /// Keep at most this many bytes of events in memory; more wait on disk [default: 64MiB]
    #[arg(long, value_name = "SIZE")]
    pub max_memory: Option<Size>,
    /// Let the database grow to this size, or `unlimited` [default: unlimited]
    #[arg(long, value_name = "SIZE")]
    pub max_database_size: Option<Size>,
    /// Wait so long between attempts, for webhooks that set nothing else [default: 1s,2s,4s,30s,2m,…]
    #[arg(long, value_name = "DURATIONS", value_delimiter = ',')]
    pub retry_schedule: Option<Vec<Span>>,
    /// Try these statuses again, as in 408,5xx,520-530, for webhooks that say nothing of them (repeatable)
    #[arg(long, value_name = "STATUSES", value_delimiter = ',')]
    pub retry_on: Option<Vec<StatusSpan>>,
    /// Take these statuses for final, and not for a failure of the receiver, for webhooks that say nothing of them (repeatable)
    #[arg(long, value_name = "STATUSES", value_delimiter = ',')]
    pub final_on: Option<Vec<StatusSpan>>,
    /// Take these statuses for a success, for webhooks that say nothing of them (repeatable)
    #[arg(long, value_name = "STATUSES", value_delimiter = ',')]
    pub success_on: Option<Vec<StatusSpan>>,
    /// End deliveries that are older than this without an attempt, or `forever`, for webhooks that set nothing else [default: forever]
    #[arg(long, value_name = "DURATION")]
    pub max_age: Option<Keep>,
    /// Keep whole exchanges of attempts that failed (`failures`), of `all` or of `none`, for webhooks that set nothing else
    /// [default: failures]
    #[arg(long, value_name = "WHICH")]
    pub capture: Option<Capture>,
    /// Open a webhook's circuit after this many failed attempts in a row [default: 5]
    #[arg(long, value_name = "COUNT")]
    pub circuit_threshold: Option<NonZeroU32>,
    /// Leave an open circuit alone for so long before an attempt is made to find out [default: 30s]
    #[arg(long, value_name = "DURATION")]
    pub circuit_cool_down: Option<Span>,
    /// Double that with each attempt that fails, up to this [default: 1h]
    #[arg(long, value_name = "DURATION")]
    pub circuit_max_cool_down: Option<Span>,
    /// Keep events this long, if all of their deliveries have ended, or `forever` [default: 30d]
    #[arg(long, value_name = "DURATION")]
    pub retention_events: Option<Keep>,
    /// Keep delivered and skipped deliveries at least this long, or `forever` [default: 30d]
    #[arg(long, value_name = "DURATION")]
    pub retention_delivered: Option<Keep>,
    /// Keep dead and discarded deliveries at least this long, or `forever` [default: 90d]
    #[arg(long, value_name = "DURATION")]
    pub retention_dead: Option<Keep>,
    /// Keep the log of attempts at most this long, or `forever` [default: 30d]
    #[arg(long, value_name = "DURATION")]
    pub retention_attempts: Option<Keep>,
    /// Keep the audit log this long, and tokens after they ended, or `forever` [default: 365d]
    #[arg(long, value_name = "DURATION")]
    pub retention_audit: Option<Keep>,
    /// Count figures over time, by webhook and tenant [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub figures: Option<bool>,
    /// Keep figures by the minute this long, or `forever` [default: 2d]
    #[arg(long, value_name = "DURATION")]
    pub retention_figures_minutes: Option<Keep>,
    /// Keep figures by the hour this long, or `forever` [default: 90d]
    #[arg(long, value_name = "DURATION")]
    pub retention_figures_hours: Option<Keep>,
    /// Keep figures by the day this long, or `forever` [default: 730d]
    #[arg(long, value_name = "DURATION")]
    pub retention_figures_days: Option<Keep>,
    /// Know requests with an Idempotency-Key this long [default: 1d]
    #[arg(long, value_name = "DURATION")]
    pub idempotency_ttl: Option<Span>,
    /// Accept at most this many events a second from a tenant made from now on, or `unlimited` [default: 1000]
    #[arg(long, value_name = "COUNT")]
    pub new_tenant_max_events_per_s: Option<Count>,
    /// Let at most this many deliveries of such a tenant be pending, or `unlimited` [default: 1000000]
    #[arg(long, value_name = "COUNT")]
    pub new_tenant_max_pending: Option<Count>,
    /// Let such a tenant have at most this many webhooks, or `unlimited` [default: 1000]
    #[arg(long, value_name = "COUNT")]
    pub new_tenant_max_webhooks: Option<Count>,
    /// Let such a tenant have at most this many tokens, or `unlimited` [default: 100]
    #[arg(long, value_name = "COUNT")]
    pub new_tenant_max_tokens: Option<Count>,
    /// Keep at most so much of events of such a tenant, or `unlimited` [default: 10GiB]
    #[arg(long, value_name = "SIZE")]
    pub new_tenant_max_stored_bytes: Option<Size>,
    /// Write the log as text or as one JSON object a line [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Log what this filter lets through, as in `info,postrider=debug` [default: info]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
}

/// The lowest layer: a value for every setting.
pub(super) fn defaults() -> RawConfig {
    RawConfig {
        source: Vec::new(),
        listen: Some(SocketAddr::from(([127, 0, 0, 1], 4665))),
        data: Some(PathBuf::from("./postrider-data")),
        store: Some(Location::Embedded),
        store_connections: NonZeroU32::new(DEFAULT_MAX_CONNECTIONS),
        allow_unsafe_store: Some(false),
        node_name: Some(String::new()),
        lease: Some(Span(DEFAULT_LEASE)),
        poll_interval: Some(Span(DEFAULT_POLL_INTERVAL)),
        drain_timeout: Some(Span(Duration::from_secs(30))),
        max_connections_per_peer: NonZeroUsize::new(2_048),
        cors_origins: Some(Vec::new()),
        decnet_api: Some(String::new()),
        allow_private: Some(Vec::new()),
        allow_private_destinations: Some(false),
        allow_hosts: Some(Vec::new()),
        allow_ports: Some(Vec::new()),
        allow_proxy_resolution: Some(false),
        https_only: Some(false),
        proxy: Some(ProxyUrl::default()),
        proxy_resolves: Some(false),
        no_proxy: Some(Vec::new()),
        resolver: Some(Resolver::Hickory),
        native_roots: Some(false),
        user_agent: Some(String::new()),
        connect_timeout: Some(Span(DEFAULT_CONNECT_TIMEOUT)),
        max_in_flight: NonZeroUsize::new(1024),
        max_lane_deliveries: NonZeroUsize::new(8192),
        max_memory: Some(Size::Bytes(64 << 20)),
        max_database_size: Some(Size::Unlimited),
        retry_schedule: Some(Schedule::server().delays().iter().copied().map(Span).collect()),
        retry_on: Some(Vec::new()),
        final_on: Some(Vec::new()),
        success_on: Some(Vec::new()),
        max_age: Some(Keep::Forever),
        capture: Some(Capture::Failures),
        circuit_threshold: NonZeroU32::new(5),
        circuit_cool_down: Some(Span(Duration::from_secs(30))),
        circuit_max_cool_down: Some(Span(Duration::from_hours(1))),
        retention_events: Some(Keep::For(DEFAULT_RETENTION)),
        retention_delivered: Some(Keep::For(DEFAULT_RETENTION)),
        retention_dead: Some(Keep::For(DEFAULT_RETENTION_DEAD)),
        retention_attempts: Some(Keep::For(DEFAULT_RETENTION)),
        retention_audit: Some(Keep::For(DEFAULT_RETENTION_AUDIT)),
        figures: Some(true),
        retention_figures_minutes: Some(Keep::For(DEFAULT_RETENTION_FIGURES_MINUTES)),
        retention_figures_hours: Some(Keep::For(DEFAULT_RETENTION_FIGURES_HOURS)),
        retention_figures_days: Some(Keep::For(DEFAULT_RETENTION_FIGURES_DAYS)),
        idempotency_ttl: Some(Span(DEFAULT_IDEMPOTENCY_TTL)),
        new_tenant_max_events_per_s: Some(Count::Of(1_000)),
        new_tenant_max_pending: Some(Count::Of(1_000_000)),
        new_tenant_max_webhooks: Some(Count::Of(1_000)),
        new_tenant_max_tokens: Some(Count::Of(100)),
        new_tenant_max_stored_bytes: Some(Size::Bytes(10 << 30)),
        log_format: Some(LogFormat::Text),
        log: Some("info".to_owned()),
    }
}

/// The setting beyond the largest quota, and the reason.
pub(super) fn beyond_quota(quotas: &Quotas) -> Option<(&'static str, String)> {
    let counts = [
        ("new_tenant_max_webhooks", quotas.max_webhooks),
        ("new_tenant_max_events_per_s", quotas.max_events_per_s),
        ("new_tenant_max_pending", quotas.max_pending),
        ("new_tenant_max_tokens", quotas.max_tokens),
    ];
    let beyond = counts.into_iter().find(|(_, max)| max.is_some_and(|max| !QUOTA.contains(&max)));
    if let Some((key, _)) = beyond {
        return Some((key, format!("must be at most {}, or unlimited", QUOTA.end())));
    }
    let is_beyond = quotas.max_stored_bytes.is_some_and(|max| !BYTES_QUOTA.contains(&max));
    is_beyond.then(|| ("new_tenant_max_stored_bytes", "must be at most 1024TiB, or unlimited".to_owned()))
}
