//! What the measurements of all sources have in common.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::cli::bench::load::payload;
use crate::cli::bench::node::Node;
use crate::cli::bench::receiver::ReceiverProcess;
use crate::cli::bench::report::{Figure, Report};
use crate::clock::{Clock, SystemClock};

/// Messages a second where latencies are measured.
const STEADY_PER_S: u64 = 200;
/// The time without arrivals after which the rest counts as missing.
const STALL: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(4);
/// The topic of all messages.
pub(super) const TOPIC: &str = "bench.source";

/// How much is measured.
#[derive(Clone, Copy)]
pub(in crate::cli::bench) struct Size {
    pub messages: u64,
    pub steady: Duration,
}

/// The measurement of one source.
pub(in crate::cli::bench) struct Run<'a> {
    pub folder: &'a Path,
    pub size: Size,
    pub receiver: &'a mut ReceiverProcess,
    pub report: &'a mut Report,
    /// Says what is being measured.
    pub say: &'a dyn Fn(&str),
}

impl Run<'_> {
    /// A node on the embedded store with this table as its source, which runs.
    pub(super) async fn node(&self, source: &str) -> anyhow::Result<Node> {
        std::fs::create_dir_all(self.folder)?;
        let config = self.folder.join("postrider.toml");
        std::fs::write(&config, format!("[[source]]\nname = \"bench\"\n{source}\n"))?;
        let node = Node::start_with(&self.folder.join("data"), &config).await?;
        node.add_webhook("bench", "bench.>", &self.receiver.url(0)).await?;
        let began_at = Instant::now();
        while node.remote.get(&["sources"], &[]).await?.value[0]["state"] != "running" {
            if began_at.elapsed() > STALL {
                bail!("the source does not run");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(node)
    }

    /// Reports that all messages of the run's size took this long, and this much CPU of the server.
    pub(super) fn throughput(&mut self, name: &str, took: Duration, cpu: Duration) {
        let messages = self.size.messages as f64;
        self.report.add(Figure::new(format!("{name}, to a receiver"), "events/s", messages / took.as_secs_f64()));
        self.report.add(Figure::new("  CPU of the server a delivered event", "µs", cpu.as_secs_f64() * 1e6 / messages));
    }

    /// Publishes some payloads a second and reports how long each took to the receiver.
    pub(super) async fn latency(
        &mut self,
        name: &str,
        mut publish: impl AsyncFnMut(u64, String) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.receiver.reset(1)?;
        let count = STEADY_PER_S * self.size.steady.as_secs();
        let began_at = tokio::time::Instant::now();
        for n in 0..count {
            tokio::time::sleep_until(began_at + Duration::from_micros(n * 1_000_000 / STEADY_PER_S)).await;
            publish(n, payload(n, SystemClock.now().0)).await?;
        }
        self.arrived(count).await?;
        let arrived = self.receiver.report()?;
        for (percentile, us) in [("p50", arrived.p50_us), ("p99", arrived.p99_us)] {
            let name = format!("{name}, published → received at {STEADY_PER_S}/s, {percentile}");
            self.report.add(Figure::new(name, "ms", us as f64 / 1e3));
        }
        self.report.add(Figure::new("  delivered twice", "", arrived.repeated as f64).at_most(0.0));
        Ok(())
    }

    /// Waits for arrivals.
    pub(super) async fn arrived(&mut self, expected: u64) -> anyhow::Result<()> {
        let (mut count, mut last_news) = (0, Instant::now());
        while count < expected {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = self.receiver.arrived().context("the receiver has ended")?.count;
            if now != count {
                (count, last_news) = (now, Instant::now());
            }
            if last_news.elapsed() > STALL {
                bail!("{count} of {expected} messages arrived");
            }
        }
        Ok(())
    }
}
