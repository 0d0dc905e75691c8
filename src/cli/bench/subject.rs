//! The subject of a measurement: one node on the embedded store, or some on a database.

use std::path::Path;
use std::time::Duration;

use secrecy::SecretString;

use super::bare::Bare;
use super::database::{self, Database};
use super::disk;
use super::load::{NODES, Publisher, Shape, Steady};
use super::node::Node;
use super::receiver::ReceiverProcess;
use super::report::{Figure, Report};

/// Events before each measurement.
const WARM_UP_EVENTS: u64 = 2_000;
/// Commits whose time is measured on the disk alone.
const FSYNCS: u32 = 1_000;

/// The database server, and the number of nodes that use it.
pub(super) struct DatabaseOptions {
    pub url: SecretString,
    pub nodes: u32,
    pub allow_unsafe_server: bool,
}

pub(super) struct Subject {
    nodes: Vec<Node>,
    database: Option<Database>,
    /// On the disk that is of interest.
    folder: std::path::PathBuf,
}

impl Subject {
    /// A server with one webhook, which gets all events.
    pub(super) async fn embedded(folder: &Path, receiver: &ReceiverProcess) -> anyhow::Result<Self> {
        let node = Node::start(&folder.join("one")).await?;
        node.add_webhook("bench", "bench.>", &receiver.url(0)).await?;
        Ok(Self { nodes: vec![node], database: None, folder: folder.to_owned() })
    }

    /// Servers with a hundred webhooks over all nodes, each of which gets a part of the events.
    pub(super) async fn on_database(
        folder: &Path,
        options: &DatabaseOptions,
        receiver: &ReceiverProcess,
    ) -> anyhow::Result<Self> {
        let database = Database::create(options.url.clone(), options.allow_unsafe_server).await?;
        let mut nodes = Vec::new();
        for number in 0..options.nodes {
            let folder = folder.join(format!("node-{number}"));
            nodes.push(Node::start_on(&folder, Some((database.url(), options.allow_unsafe_server))).await?);
        }
        for webhook in 0..NODES {
            nodes[0]
                .add_webhook(&format!("bench-{webhook}"), &format!("bench.node-{webhook}.>"), &receiver.url(0))
                .await?;
        }
        for node in &nodes {
            node.wait_for_others(nodes.len(), &format!("bench.node-{}.probe", NODES - 1)).await?;
        }
        Ok(Self { nodes, database: Some(database), folder: folder.to_owned() })
    }

    pub(super) async fn give_back(self) -> anyhow::Result<()> {
        drop(self.nodes);
        match self.database {
            Some(database) => database.give_back().await,
            None => Ok(()),
        }
    }

    /// CPU time of all nodes.
    fn cpu(&self) -> anyhow::Result<Duration> {
        self.nodes.iter().map(Node::cpu).sum()
    }

    async fn usage(&self) -> anyhow::Result<Option<database::Usage>> {
        match &self.database {
            Some(database) => database.usage().await.map(Some),
            None => Ok(None),
        }
    }

    pub(super) async fn throughput(
        &self,
        report: &mut Report,
        receiver: &mut ReceiverProcess,
        bare: Bare,
        shape: Shape,
        name: &str,
        say: &impl Fn(&str),
    ) -> anyhow::Result<()> {
        let publisher = Publisher::to_all(&self.nodes)?;
        publisher.closed_loop(Shape { events: WARM_UP_EVENTS, ..shape }, receiver, |_| {}).await?;
        let (cpu_before, usage_before) = (self.cpu()?, self.usage().await?);
        let elapsed =
            publisher.closed_loop(shape, receiver, |count| say(&format!("deliveries, {name}: {count}"))).await?;
        let cpu_us = self.cpu()?.saturating_sub(cpu_before).as_secs_f64() * 1e6 / shape.events as f64;
        let rate = shape.events as f64 / elapsed.as_secs_f64();
        let arrived = receiver.arrived()?;
        let of_bare = Figure::new("  share of the bare loop", "%", 100.0 * rate / bare.posts_per_s);
        let against_bare = Figure::new("  CPU against the bare loop", "×", cpu_us / bare.cpu_us);
        report.add(Figure::new(format!("deliveries, {name}"), "events/s", rate));
        report.add(if self.database.is_some() { of_bare } else { of_bare.at_least(50.0) });
        report.add(Figure::new("  CPU a delivered event", "µs", cpu_us));
        report.add(if self.database.is_some() { against_bare } else { against_bare.at_most(3.0) });
        if let (Some(before), Some(after)) = (usage_before, self.usage().await?) {
            database::report(report, before, after, shape.events);
        }
        report.add(Figure::new("  delivered twice", "", arrived.repeated as f64).at_most(0.0));
        Ok(())
    }

    /// `load`: events a second, and the duration.
    pub(super) async fn latency(
        &self,
        report: &mut Report,
        receiver: &mut ReceiverProcess,
        load: (u64, Duration),
        say: &impl Fn(&str),
    ) -> anyhow::Result<()> {
        say("the disk's own fsync");
        let disk_us = disk::fsync_us(&self.folder, FSYNCS)?;
        let (rate, duration) = load;
        say(&format!("latency at {rate} events/s"));
        let usage_before = self.usage().await?;
        let Steady { accepted_us, arrived, missing } =
            Publisher::to_all(&self.nodes)?.steady(rate, duration, receiver).await?;
        let ms = |us: u64| us as f64 / 1e3;
        let fsync_p99_ms = ms(disk_us.value_at_quantile(0.99));
        let accept_p99_ms = ms(accepted_us.value_at_quantile(0.99));
        let accept_p99 = Figure::new(format!("accept at {rate}/s, p99"), "ms", accept_p99_ms);
        report.add(Figure::new("fsync of the disk, p50", "ms", ms(disk_us.value_at_quantile(0.5))));
        report.add(Figure::new("fsync of the disk, p99", "ms", fsync_p99_ms));
        report.add(Figure::new(format!("accept at {rate}/s, p50"), "ms", ms(accepted_us.value_at_quantile(0.5))));
        // A database may be on another disk.
        let bound = 2.0 * fsync_p99_ms + 2.0;
        report.add(if self.database.is_some() { accept_p99 } else { accept_p99.at_most(bound) });
        let to_arrival = |percentile: &str, us: u64| {
            Figure::new(format!("published → received at {rate}/s, {percentile}"), "ms", ms(us))
        };
        report.add(to_arrival("p50", arrived.p50_us).at_most(5.0));
        report.add(to_arrival("p99", arrived.p99_us).at_most(20.0));
        if let (Some(before), Some(after)) = (usage_before, self.usage().await?) {
            database::report(report, before, after, rate * duration.as_secs());
        }
        report.add(Figure::new("  missing", "", missing as f64).at_most(0.0));
        Ok(())
    }
}
