//! Settings: raw layers (defaults, file, environment, flags) → one validated [`Config`].
//!
//! The defaults of the settings stand in `config/raw.rs`, or where what they set is defined. The environment is read in
//! `config/environment.rs`; where a flag of a command has a variable, by that flag.

mod decnet;
mod environment;
mod file;
mod location;
mod proxy;
mod raw;
mod units;
mod user_agent;

use std::fmt;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use ipnet::IpNet;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::api::auth::DecnetSettings;
use crate::api::cors::{MAX_CORS_ORIGINS, WebOrigin};
use crate::delivery::client::{ClientOptions, NoProxy, Roots, ServerProxy};
use crate::delivery::guard::{EgressPolicy, HostPattern, SystemResolver};
use crate::delivery::retry::Schedule;
use crate::delivery::statuses::{StatusLists, StatusSpan, Statuses};
use crate::dispatcher::{CircuitSettings, DispatcherSettings, MIN_MEMORY_BYTES};
use crate::engine::figures::{FigureSettings, FiguresKept};
use crate::engine::nodes::NodeSettings;
use crate::engine::retention::RetentionSettings;
use crate::serve::{ServeSettings, StoreSettings};
use crate::sources::SourceSettings;
use crate::sources::settings::{self, Surroundings};
use crate::store::Quotas;
use crate::store::postgres::{MIN_CONNECTIONS, PostgresOptions};
use crate::store::seal::MasterKey;
use crate::store::sqlite::SqliteOptions;
use crate::telemetry::{self, LogFormat, TelemetrySettings};
use crate::webhook::Capture;
pub use environment::Environment;
pub use location::Location;
pub use proxy::ProxyUrl;
pub use raw::RawConfig;
use raw::defaults;
pub use units::{Count, Keep, Port, Size, Span, parse_span};
pub use user_agent::MAX_USER_AGENT_BYTES;
use user_agent::parse_user_agent;

/// The file in the working directory that is read if it exists and no other file is named.
pub const DEFAULT_FILE: &str = "postrider.toml";
/// The default address of the server, for client commands.
pub const DEFAULT_SERVER: &str = "http://127.0.0.1:4665";
/// The default address of `postrider listen`.
pub const DEFAULT_RECEIVER: &str = "127.0.0.1:9000";
const ENV_PREFIX: &str = "POSTRIDER_";
/// The settings whose value may hold a password.
const STORE: &str = "store";
/// The tables of sources, in the file.
const SOURCE: &str = "source";
const PROXY: &str = "proxy";

/// Who turns host names into addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Resolver {
    /// Built in, with a cache by TTL
    Hickory,
    /// The operating system's
    System,
}

/// Every setting, validated.
#[derive(Clone)]
pub struct Config {
    values: Values,
    retry_schedule: Schedule,
    statuses: StatusLists,
    /// `None`: as the signatures of a webhook have it.
    user_agent: Option<HeaderValue>,
    admin_token: Option<SecretString>,
    master_key: Option<MasterKey>,
    decnet: Option<DecnetSettings>,
    sources: Vec<SourceSettings>,
    /// The output of `postrider config`.
    pub shown: Vec<Shown>,
}

/// One setting as `postrider config` shows it; a secret's value is `set` or `not set`.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    pub key: String,
    pub value: Value,
    pub origin: Origin,
}

/// The layer of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    Default,
    File,
    Env,
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Default => "default",
            Self::File => "file",
            Self::Env => "env",
            Self::Flag => "flag",
        })
    }
}

/// [`RawConfig`] with all values set.
#[derive(Clone, Debug, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
struct Values {
    listen: SocketAddr,
    data: PathBuf,
    store: Location,
    store_connections: NonZeroU32,
    allow_unsafe_store: bool,
    node_name: String,
    lease: Span,
    poll_interval: Span,
    drain_timeout: Span,
    max_connections_per_peer: NonZeroUsize,
    cors_origins: Vec<WebOrigin>,
    decnet_api: String,
    allow_private: Vec<IpNet>,
    allow_private_destinations: bool,
    allow_hosts: Vec<HostPattern>,
    allow_ports: Vec<Port>,
    allow_proxy_resolution: bool,
    https_only: bool,
    proxy: ProxyUrl,
    proxy_resolves: bool,
    no_proxy: Vec<NoProxy>,
    resolver: Resolver,
    native_roots: bool,
    user_agent: String,
    connect_timeout: Span,
    max_in_flight: NonZeroUsize,
    max_lane_deliveries: NonZeroUsize,
    max_memory: Size,
    max_database_size: Size,
    retry_schedule: Vec<Span>,
    retry_on: Vec<StatusSpan>,
    final_on: Vec<StatusSpan>,
    success_on: Vec<StatusSpan>,
    max_age: Keep,
    capture: Capture,
    circuit_threshold: NonZeroU32,
    circuit_cool_down: Span,
    circuit_max_cool_down: Span,
    retention_events: Keep,
    retention_delivered: Keep,
    retention_dead: Keep,
    retention_attempts: Keep,
    retention_audit: Keep,
    figures: bool,
    retention_figures_minutes: Keep,
    retention_figures_hours: Keep,
    retention_figures_days: Keep,
    idempotency_ttl: Span,
    new_tenant_max_events_per_s: Count,
    new_tenant_max_pending: Count,
    new_tenant_max_webhooks: Count,
    new_tenant_max_tokens: Count,
    new_tenant_max_stored_bytes: Size,
    log_format: LogFormat,
    log: String,
}

impl Values {
    fn dispatcher(&self, retry_schedule: Schedule, statuses: StatusLists) -> DispatcherSettings {
        DispatcherSettings {
            max_in_flight: self.max_in_flight.get(),
            max_lane_deliveries: self.max_lane_deliveries.get(),
            max_memory_bytes: usize::try_from(self.max_memory.bytes().unwrap_or(u64::MAX)).unwrap_or(usize::MAX),
            retry_schedule,
            max_age: self.max_age.span(),
            capture: self.capture,
            statuses,
            circuit: CircuitSettings {
                threshold: self.circuit_threshold.get(),
                cool_down: self.circuit_cool_down.0,
                max_cool_down: self.circuit_max_cool_down.0,
            },
        }
    }

    fn client(&self) -> ClientOptions {
        ClientOptions {
            policy: EgressPolicy {
                allow_private: self.allow_private.clone(),
                allow_all_private: self.allow_private_destinations,
                allow_hosts: self.allow_hosts.clone(),
                allow_ports: self.allow_ports.iter().map(|port| port.0.get()).collect(),
                own_listeners: Vec::new(),
                allow_proxy_resolution: self.allow_proxy_resolution,
                https_only: self.https_only,
            },
            resolver: match self.resolver {
                Resolver::Hickory => None,
                Resolver::System => Some(Arc::new(SystemResolver)),
            },
            roots: if self.native_roots { Roots::Native } else { Roots::WebPki },
            connect_timeout: self.connect_timeout.0,
            // What cannot be used was refused before.
            proxy: self.server_proxy().unwrap_or_default(),
            user_agent: None,
            sockets: None,
        }
    }

    fn server_proxy(&self) -> Result<Option<ServerProxy>, String> {
        self.proxy.server_proxy(self.proxy_resolves, &self.no_proxy)
    }

    fn statuses(&self) -> StatusLists {
        StatusLists {
            retry_on: Statuses::new(self.retry_on.clone()),
            final_on: Statuses::new(self.final_on.clone()),
            success_on: Statuses::new(self.success_on.clone()),
        }
    }

    fn retention(&self) -> RetentionSettings {
        RetentionSettings {
            events: self.retention_events.span(),
            delivered: self.retention_delivered.span(),
            dead: self.retention_dead.span(),
            attempts: self.retention_attempts.span(),
            audit: self.retention_audit.span(),
            figures: FiguresKept {
                minutes: self.retention_figures_minutes.span(),
                hours: self.retention_figures_hours.span(),
                days: self.retention_figures_days.span(),
            },
            interval: RetentionSettings::DEFAULT_INTERVAL,
        }
    }

    fn new_tenant_quotas(&self) -> Quotas {
        Quotas {
            max_webhooks: self.new_tenant_max_webhooks.max(),
            max_events_per_s: self.new_tenant_max_events_per_s.max(),
            max_pending: self.new_tenant_max_pending.max(),
            max_tokens: self.new_tenant_max_tokens.max(),
            max_stored_bytes: self.new_tenant_max_stored_bytes.bytes(),
        }
    }
}

/// The reason why the settings cannot be used, with its place.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{path}: {reason}")]
    File { path: String, reason: String },
    #[error("the environment variable {name}: {reason}")]
    Env { name: String, reason: String },
    #[error("{key} ({origin}): {reason}")]
    Value { key: &'static str, origin: Origin, reason: String },
    #[error("the settings do not fit together: {0}")]
    Merge(#[from] serde_json::Error),
}

impl Config {
    /// Flags override the environment, which overrides the file, which overrides the defaults. A file that is named,
    /// here or as `POSTRIDER_CONFIG`, must exist. Otherwise [`DEFAULT_FILE`] is read if it exists.
    pub fn load(file: Option<&Path>, environment: &Environment, flags: &RawConfig) -> Result<Self, ConfigError> {
        let named = file.map(Path::to_owned).or_else(|| environment.get("config").map(|(_, path)| path.into()));
        Self::layered(&file::read(named)?, environment, flags)
    }

    /// `flags` over the defaults, without file and environment: for servers that a command starts for itself.
    pub fn builtin(flags: &RawConfig) -> Result<Self, ConfigError> {
        Self::layered(&RawConfig::default(), &Environment::default(), flags)
    }

    fn layered(file: &RawConfig, environment: &Environment, flags: &RawConfig) -> Result<Self, ConfigError> {
        let defaults = layer(&defaults())?;
        let layers =
            [(Origin::File, layer(file)?), (Origin::Env, environment.layer(&defaults)?), (Origin::Flag, layer(flags)?)];
        let mut merged: Map<String, Value> = Map::new();
        let mut shown: Vec<Shown> = Vec::with_capacity(defaults.len() + 2);
        for (key, value) in defaults {
            let mut setting = Shown { key, value, origin: Origin::Default };
            for (origin, layer) in &layers {
                if let Some(value) = layer.get(&setting.key) {
                    (setting.value, setting.origin) = (value.clone(), *origin);
                }
            }
            merged.insert(setting.key.clone(), setting.value.clone());
            match &*setting.key {
                STORE => setting.value = Location::shown(&setting.value),
                PROXY => setting.value = ProxyUrl::shown(&setting.value),
                _ => {}
            }
            shown.push(setting);
        }
        let mut config = Self::validated(serde_json::from_value(Value::Object(merged))?, shown)?;
        config.read_secrets(environment)?;
        config.read_sources(&file.source, environment)?;
        Ok(config)
    }

    fn validated(values: Values, shown: Vec<Shown>) -> Result<Self, ConfigError> {
        let origin = |key: &str| shown.iter().find(|s| s.key == key).map_or(Origin::Default, |s| s.origin);
        let invalid = |key: &'static str, reason: String| ConfigError::Value { key, origin: origin(key), reason };
        let seconds: Vec<f64> = values.retry_schedule.iter().map(|delay| delay.0.as_secs_f64()).collect();
        let retry_schedule =
            Schedule::from_seconds(&seconds).map_err(|error| invalid("retry_schedule", error.to_string()))?;
        let statuses = values.statuses();
        statuses.check().map_err(|(kind, reason)| invalid(kind.name(), reason))?;
        telemetry::parse_filter(&values.log).map_err(|error| invalid("log", error.to_string()))?;
        if !values.store.is_valid() {
            return Err(invalid(STORE, Location::EXPECTED.to_owned()));
        }
        values.server_proxy().map_err(|reason| invalid(PROXY, reason))?;
        if values.store_connections.get() < MIN_CONNECTIONS {
            return Err(invalid("store_connections", format!("must be at least {MIN_CONNECTIONS}")));
        }
        // PostgreSQL, where it is kept, has no text with U+0000; the others would change the log and the lists.
        if values.node_name.chars().any(char::is_control) {
            return Err(invalid("node_name", "must not have control characters".to_owned()));
        }
        if values.cors_origins.len() > MAX_CORS_ORIGINS {
            return Err(invalid(
                "cors_origins",
                format!("has {} origins, must have at most {MAX_CORS_ORIGINS}", values.cors_origins.len()),
            ));
        }
        NodeSettings::check(values.lease.0, values.poll_interval.0).map_err(|(key, reason)| invalid(key, reason))?;
        if values.max_in_flight.get() < 3 {
            return Err(invalid("max_in_flight", "must be at least 3".to_owned()));
        }
        if values.max_memory.bytes().is_some_and(|bytes| bytes < MIN_MEMORY_BYTES as u64) {
            return Err(invalid("max_memory", format!("must be at least {}MiB", MIN_MEMORY_BYTES >> 20)));
        }
        if let Some((key, reason)) = raw::beyond_quota(&values.new_tenant_quotas()) {
            return Err(invalid(key, reason));
        }
        if values.circuit_cool_down.0.is_zero() || values.circuit_max_cool_down.0 < values.circuit_cool_down.0 {
            let reason = "must be longer than nothing, and circuit_max_cool_down no shorter".to_owned();
            return Err(invalid("circuit_cool_down", reason));
        }
        if values.max_age.span().is_some_and(|age| age < Duration::from_secs(1)) {
            return Err(invalid("max_age", "must be at least a second, or forever".to_owned()));
        }
        if values.connect_timeout.0.is_zero() {
            return Err(invalid("connect_timeout", "must be longer than nothing".to_owned()));
        }
        let user_agent = parse_user_agent(&values.user_agent).map_err(|reason| invalid("user_agent", reason))?;
        Ok(Self {
            values,
            retry_schedule,
            statuses,
            user_agent,
            admin_token: None,
            master_key: None,
            decnet: None,
            sources: Vec::new(),
            shown,
        })
    }

    fn read_sources(&mut self, tables: &[toml::Table], environment: &Environment) -> Result<(), ConfigError> {
        let invalid = |reason| ConfigError::Value { key: SOURCE, origin: Origin::File, reason };
        let store_url = match &self.values.store {
            Location::Embedded => None,
            Location::Postgres(url) => Some(url.clone()),
        };
        let surroundings = Surroundings { variables: environment.variables().clone(), store_url };
        self.sources = settings::validate(tables, &surroundings).map_err(invalid)?;
        for source in &self.sources {
            let (key, value) = (format!("{SOURCE}.{}", source.name), source.kind_name());
            self.shown.push(Shown { key, value: value.into(), origin: Origin::File });
        }
        Ok(())
    }

    /// Secrets come from the environment alone: flags show in the process list, and files get copied.
    fn read_secrets(&mut self, environment: &Environment) -> Result<(), ConfigError> {
        if let Some((name, token)) = environment.secret("admin_token")? {
            // Bearer tokens are visible ASCII (RFC 6750). A short one could be guessed.
            if token.len() < 16 || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                let reason = "must be 16 or more characters of visible ASCII".to_owned();
                return Err(ConfigError::Env { name, reason });
            }
            self.admin_token = Some(token.into());
        }
        self.master_key = environment.master_key("master_key")?;
        self.decnet = decnet::read(&self.values.decnet_api, &self.shown, environment)?;
        for (key, is_set) in [
            ("admin_token", self.admin_token.is_some()),
            ("master_key", self.master_key.is_some()),
            ("decnet_jwt_secret", self.decnet.is_some()),
        ] {
            let (value, origin) = if is_set { ("set", Origin::Env) } else { ("not set", Origin::Default) };
            self.shown.push(Shown { key: key.to_owned(), value: value.into(), origin });
        }
        Ok(())
    }

    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.values.data
    }

    /// The place of the store.
    #[must_use]
    pub fn store(&self) -> &Location {
        &self.values.store
    }

    #[must_use]
    pub fn sources(&self) -> &[SourceSettings] {
        &self.sources
    }

    /// `None`: the key file in the data folder.
    #[must_use]
    pub fn master_key(&self) -> Option<&MasterKey> {
        self.master_key.as_ref()
    }

    /// `colour`: whether text is coloured.
    #[must_use]
    pub fn telemetry_settings(&self, colour: bool) -> TelemetrySettings {
        TelemetrySettings { format: self.values.log_format, filter: self.values.log.clone(), colour }
    }

    /// The settings of [`crate::serve::serve`].
    #[must_use]
    pub fn serve_settings(self) -> ServeSettings {
        let values = self.values;
        let new_tenant_quotas = values.new_tenant_quotas();
        let dispatcher = values.dispatcher(self.retry_schedule, self.statuses);
        let (client, retention) = (values.client(), values.retention());
        ServeSettings {
            listen: values.listen,
            data_dir: values.data,
            is_new_installation: false,
            drain_timeout: values.drain_timeout.0,
            max_connections_per_peer: values.max_connections_per_peer.get(),
            cors_origins: values.cors_origins,
            admin_token: self.admin_token,
            decnet: self.decnet,
            master_key: self.master_key,
            client: ClientOptions { user_agent: self.user_agent, ..client },
            dispatcher,
            retention,
            figures: FigureSettings { is_on: values.figures, ..FigureSettings::default() },
            idempotency_ttl: values.idempotency_ttl.0,
            new_tenant_quotas,
            node: NodeSettings {
                name: values.node_name,
                lease: values.lease.0,
                poll_interval: values.poll_interval.0,
                hand_over_timeout: values.drain_timeout.0,
                ..NodeSettings::default()
            },
            sources: self.sources,
            store: match values.store {
                Location::Embedded => StoreSettings::Sqlite(SqliteOptions {
                    max_bytes: values.max_database_size.bytes(),
                    ..SqliteOptions::default()
                }),
                Location::Postgres(url) => StoreSettings::Postgres(PostgresOptions {
                    roots: Roots::Native,
                    max_connections: values.store_connections.get(),
                    allow_unsafe_server: values.allow_unsafe_store,
                    ..PostgresOptions::new(url)
                }),
            },
        }
    }
}

/// The settings of a layer, by key.
fn layer(raw: &RawConfig) -> Result<Map<String, Value>, serde_json::Error> {
    let Value::Object(mut layer) = serde_json::to_value(raw)? else { return Ok(Map::new()) };
    layer.retain(|_, value| !value.is_null());
    Ok(layer)
}
