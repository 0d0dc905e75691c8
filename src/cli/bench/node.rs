//! The server under test: `postrider serve` in a process of its own, on a folder of a real disk.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::super::remote::Remote;
use super::process;

/// The longest wait for a server's start.
const START_TIMEOUT: Duration = Duration::from_mins(2);
/// The admin token of the servers that this benchmark starts for itself.
pub(super) const TOKEN: &str = "pr_benchmarkbenchmarkbenchmarkbenchmarkbenchma";
/// Their master key, since they share a database.
const MASTER_KEY: &str = "0101010101010101010101010101010101010101010101010101010101010101";

/// A server's process.
pub(super) struct Node {
    child: Child,
    pub url: String,
    pub remote: Arc<Remote>,
    /// The time from the start of the process until it was ready.
    pub start_up: Duration,
}

impl Node {
    /// On the embedded store in `folder`.
    pub(super) async fn start(folder: &Path) -> anyhow::Result<Self> {
        Self::start_on(folder, None).await
    }

    /// On the embedded store in `folder`, with the settings of this file.
    pub(super) async fn start_with(folder: &Path, config: &Path) -> anyhow::Result<Self> {
        Self::start_as(folder, None, Some(config)).await
    }

    /// `store`: the URL of a database in place of the embedded store, and whether its fsync may be off.
    pub(super) async fn start_on(folder: &Path, store: Option<(&SecretString, bool)>) -> anyhow::Result<Self> {
        Self::start_as(folder, store, None).await
    }

    async fn start_as(
        folder: &Path,
        store: Option<(&SecretString, bool)>,
        config: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let began_at = Instant::now();
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--json", "serve", "--listen", "127.0.0.1:0", "--allow-private", "127.0.0.0/8"])
            .args(["--log", "error", "--data"])
            .arg(folder)
            .args(config.into_iter().flat_map(|config| [Path::new("--config"), config]))
            .current_dir(folder.parent().unwrap_or(folder))
            .env("POSTRIDER_ADMIN_TOKEN", TOKEN)
            .env("POSTRIDER_STORE", store.map_or("embedded", |(url, _)| url.expose_secret()))
            .env("POSTRIDER_ALLOW_UNSAFE_STORE", store.is_some_and(|(_, allow)| allow).to_string())
            .env("POSTRIDER_MASTER_KEY", MASTER_KEY)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the server")?;
        let Some(stdout) = child.stdout.take() else { bail!("the server has no standard output") };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let started: Value = serde_json::from_str(&line).context("the server did not start")?;
        let url = started["url"].as_str().context("the server named no address")?.to_owned();
        let remote = Arc::new(Remote::new(&url, TOKEN.into())?);
        while remote.get(&["stats"], &[]).await.is_err() {
            if began_at.elapsed() > START_TIMEOUT {
                bail!("the server is not ready after {} s", START_TIMEOUT.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(Self { child, url, remote, start_up: began_at.elapsed() })
    }

    /// A webhook for `topic` at `url`; returns its uuid.
    pub(super) async fn add_webhook(&self, name: &str, topic: &str, url: &str) -> anyhow::Result<String> {
        let webhook = json!({ "name": name, "url": url, "topic_patterns": [topic] });
        let created = self.remote.post(&["webhooks"], &webhook).await?;
        Ok(created.value["uuid"].as_str().context("the answer has no uuid")?.to_owned())
    }

    /// Waits until `nodes` share the webhooks and this node knows the webhooks for `topic`. Other nodes learn of a
    /// webhook some milliseconds after its maker.
    pub(super) async fn wait_for_others(&self, nodes: usize, topic: &str) -> anyhow::Result<()> {
        let waiting_since = Instant::now();
        let probe = json!({ "topic": topic, "payload": {} });
        loop {
            let shared = self.remote.get(&["nodes"], &[]).await?.value;
            let with_shards = shared.as_array().into_iter().flatten().filter(|node| node["shards"][0].is_u64());
            if with_shards.count() == nodes && self.remote.post(&["events"], &probe).await?.value["deliveries"] == 1 {
                return Ok(());
            }
            if waiting_since.elapsed() > START_TIMEOUT {
                bail!("the servers do not share the webhooks after {} s", START_TIMEOUT.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// CPU time used so far, of all threads, in user and kernel mode.
    pub(super) fn cpu(&self) -> anyhow::Result<Duration> {
        process::cpu(self.child.id())
    }

    pub(super) fn memory(&self) -> anyhow::Result<process::Memory> {
        process::memory(self.child.id())
    }

    /// Kills the server with SIGKILL.
    pub(super) fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
