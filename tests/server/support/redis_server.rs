//! A Redis server of a test's own, which keeps all that it says it has.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::Client;
use redis::aio::MultiplexedConnection;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_mins(1);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Another process may take the free port first.
const PORTS_TRIED: u32 = 5;

/// A server with its data in a temporary folder. Ends with the test, if not before.
pub(crate) struct RedisServer {
    folder: TempDir,
    port: u16,
    /// Its port with TLS, if it has any.
    tls_port: u16,
    server: Option<Child>,
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
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }

    pub(crate) async fn run_again(&mut self) {
        assert!(self.run().await, "the server does not start again:\n{}", self.log());
    }

    /// Whether it runs.
    async fn run(&mut self) -> bool {
        let log = File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let server = Command::new("redis-server")
            .arg(self.folder.path().join("redis.conf"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        let mut server = server.expect("redis-server is missing: install Debian's package redis-server");
        let began = Instant::now();
        loop {
            if self.answers().await {
                self.server = Some(server);
                return true;
            }
            if server.try_wait().unwrap().is_some() {
                return false;
            }
            if began.elapsed() > PATIENCE {
                server.kill().unwrap();
                panic!("the server lets nobody in:\n{}", self.log());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
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
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}
