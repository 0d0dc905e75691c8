//! Composition root: wire the parts together, listen, and drain.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use crate::delivery::client::ClientOptions;
use crate::dispatcher::DispatcherSettings;
use crate::store::seal::MasterKey;
use crate::store::sqlite::SqliteOptions;

/// What a server needs to know to start; every default lives in `config`.
pub struct ServeSettings {
    /// Port 0 takes a free one.
    pub listen: SocketAddr,
    pub data_dir: PathBuf,
    /// How long a shutdown waits for attempts under way.
    pub drain_timeout: Duration,
    /// `None`: made at the first start and told once in [`Started::new_admin_token`].
    pub admin_token: Option<SecretString>,
    /// `None`: the key file in the data folder, made at the first start.
    pub master_key: Option<MasterKey>,
    /// Its `policy.own_listeners` is filled in by the server.
    pub client: ClientOptions,
    pub dispatcher: DispatcherSettings,
    pub store: SqliteOptions,
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
    let _ = (settings, started, shutdown);
    todo!()
}

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot listen on {address}: {reason}")]
    Listen { address: SocketAddr, reason: String },
    #[error(transparent)]
    Open(#[from] crate::store::OpenError),
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    #[error(transparent)]
    Client(#[from] crate::delivery::client::ClientError),
}
