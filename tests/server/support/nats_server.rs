//! A NATS server of a test's own, with JetStream.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::{self, Context};
use rustix::process::{Signal, kill_process};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;

use super::started::{Patience, Started, free_port, said};

/// The variable that names another server than the one that is installed.
const PROGRAM: &str = "POSTRIDER_NATS_SERVER";
const PATIENCE: Patience = Patience { most: Duration::from_mins(1), look_every: Duration::from_millis(10) };
/// Another process may take the free port first.
const PORTS_TRIED: u32 = 5;

/// A server with its data in a temporary folder. Ends with the test, if not before.
pub(crate) struct NatsServer {
    /// Ends before its folder does.
    server: Option<Started>,
    folder: TempDir,
    port: u16,
}

impl NatsServer {
    /// Anybody may do anything.
    pub(crate) async fn start() -> Self {
        Self::start_with("").await
    }

    /// With these settings beside those of every such server.
    pub(crate) async fn start_with(settings: &str) -> Self {
        let mut server = Self::stopped();
        for _ in 0..PORTS_TRIED {
            server.configure(settings);
            if server.run().await {
                return server;
            }
            server.port = free_port();
        }
        panic!("the server does not start:\n{}", server.log());
    }

    /// Not yet started: nothing is at its port.
    pub(crate) fn stopped() -> Self {
        let server = Self { folder: tempfile::tempdir().unwrap(), port: free_port(), server: None };
        server.configure("");
        server
    }

    fn configure(&self, settings: &str) {
        let (port, folder) = (self.port, self.folder.path().display());
        let text = format!(
            "listen: \"127.0.0.1:{port}\"\nmax_payload: 8MB\njetstream {{ store_dir: \"{folder}/jetstream\" }}\n{settings}\n"
        );
        fs::write(self.folder.path().join("nats.conf"), text).unwrap();
    }

    /// Other settings, taken over without a restart.
    pub(crate) fn reload(&self, settings: &str) {
        self.configure(settings);
        kill_process(self.server.as_ref().unwrap().pid(), Signal::HUP).unwrap();
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// A client without a name or a password.
    pub(crate) async fn client(&self) -> Client {
        async_nats::connect(self.url()).await.unwrap()
    }

    pub(crate) async fn jetstream(&self) -> Context {
        jetstream::new(self.client().await)
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
        let mut command = Command::new(program());
        command.arg("--config").arg(self.folder.path().join("nats.conf"));
        let log = self.folder.path().join("log");
        self.server = Started::start(command, "nats-server", &log, &PATIENCE, || self.greets()).await;
        self.server.is_some()
    }

    /// Each server begins by telling who it is, before TLS and before any login.
    async fn greets(&self) -> bool {
        let Ok(mut stream) = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await else { return false };
        let mut word = [0; 4];
        stream.read_exact(&mut word).await.is_ok() && &word == b"INFO"
    }

    fn log(&self) -> String {
        said(&self.folder.path().join("log"))
    }
}

#[expect(clippy::disallowed_methods, reason = "where programs are is for the environment to say")]
fn program() -> PathBuf {
    if let Some(program) = std::env::var_os(PROGRAM) {
        return program.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian's package keeps it where users do not look.
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let mut programs = folders.map(|folder| folder.join("nats-server"));
    programs.find(|program| program.is_file()).expect("nats-server is missing: install Debian's package nats-server")
}
