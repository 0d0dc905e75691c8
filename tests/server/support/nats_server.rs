//! A NATS server of a test's own, with JetStream.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use async_nats::Client;
use async_nats::jetstream::{self, Context};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;

/// The variable that names another server than the one that is installed.
const PROGRAM: &str = "POSTRIDER_NATS_SERVER";
const PATIENCE: Duration = Duration::from_mins(1);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Another process may take the free port first.
const PORTS_TRIED: u32 = 5;

/// A server with its data in a temporary folder. Ends with the test, if not before.
pub(crate) struct NatsServer {
    folder: TempDir,
    port: u16,
    server: Option<Child>,
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
        kill_process(Pid::from_child(self.server.as_ref().unwrap()), Signal::HUP).unwrap();
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
        let mut server = Command::new(program())
            .arg("--config")
            .arg(self.folder.path().join("nats.conf"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let began = Instant::now();
        loop {
            if self.greets().await {
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

    /// Each server begins by telling who it is, before TLS and before any login.
    async fn greets(&self) -> bool {
        let Ok(mut stream) = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await else { return false };
        let mut word = [0; 4];
        stream.read_exact(&mut word).await.is_ok() && &word == b"INFO"
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
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
