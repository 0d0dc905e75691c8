//! A Redis server of a test's own, which keeps all that it says it has.

use std::fs;
use std::process::Command;
use std::time::Duration;

use redis::Client;
use redis::aio::MultiplexedConnection;
use tempfile::TempDir;

use super::started::{Patience, Started, free_port, said};

const PATIENCE: Patience = Patience { most: Duration::from_mins(1), look_every: Duration::from_millis(10) };
/// Another process may take the free port first.
const PORTS_TRIED: u32 = 5;

/// A server with its data in a temporary folder. Ends with the test, if not before.
pub(crate) struct RedisServer {
    /// Ends before its folder does.
    server: Option<Started>,
    folder: TempDir,
    port: u16,
    /// Its port with TLS, if it has any.
    tls_port: u16,
}

impl RedisServer {
    pub(crate) async fn start() -> Self {
        Self::start_with("").await
    }

    /// With these lines beside those of every such server.
    pub(crate) async fn start_with(settings: &str) -> Self {
        let mut server = Self::stopped();
        for _ in 0..PORTS_TRIED {
            server.configure(settings);
            if server.run().await {
                return server;
            }
            (server.port, server.tls_port) = (free_port(), free_port());
        }
        panic!("the server does not start:\n{}", server.log());
    }

    /// Not yet started: nothing is at its port.
    pub(crate) fn stopped() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = Self { folder, port: free_port(), tls_port: free_port(), server: None };
        server.configure("");
        server
    }

    fn configure(&self, settings: &str) {
        let (port, folder) = (self.port, self.folder.path().display());
        let text = format!(
            "bind 127.0.0.1\nport {port}\ndir {folder}\nsave \"\"\nappendonly yes\nappendfsync always\n{}\n",
            settings.replace("TLS_PORT", &self.tls_port.to_string())
        );
        fs::write(self.folder.path().join("redis.conf"), text).unwrap();
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn tls_url(&self) -> String {
        format!("rediss://127.0.0.1:{}", self.tls_port)
    }

    /// A client that may do anything, unless the settings say otherwise.
    pub(crate) async fn client(&self) -> MultiplexedConnection {
        let client = Client::open(self.url()).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }

    /// Dies at once.
    pub(crate) fn kill(&mut self) {
        self.server = None;
    }

    pub(crate) async fn run_again(&mut self) {
        assert!(self.run().await, "the server does not start again:\n{}", self.log());
    }

    /// Whether it runs.
    async fn run(&mut self) -> bool {
        let mut command = Command::new("redis-server");
        command.arg(self.folder.path().join("redis.conf"));
        let log = self.folder.path().join("log");
        self.server = Started::start(command, "redis-server", &log, &PATIENCE, || self.answers()).await;
        self.server.is_some()
    }

    /// It answers with an error while it loads, and to whom it does not know.
    async fn answers(&self) -> bool {
        let client = Client::open(self.url()).unwrap();
        let Ok(mut client) = client.get_multiplexed_async_connection().await else { return false };
        match redis::cmd("PING").query_async::<()>(&mut client).await {
            Ok(()) => true,
            Err(error) => error.code() == Some("NOAUTH"),
        }
    }

    fn log(&self) -> String {
        said(&self.folder.path().join("log"))
    }
}
