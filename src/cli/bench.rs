//! `postrider bench`: what this machine does, and how far that is from what it could do.
//!
//! The server runs in a process of its own on a folder of the disk, the receiver in another; this process
//! publishes over HTTP. Everything that is compared was measured in one run.

#![expect(clippy::cast_precision_loss, reason = "figures are for people and have three digits")]

mod bare;
mod dead;
mod disk;
mod isolation;
mod load;
mod node;
mod process;
mod receiver;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::ProgressBar;
use serde_json::json;

use self::bare::Bare;
use self::isolation::Isolation;
use self::load::{Publisher, Shape, Steady};
use self::node::Node;
use self::receiver::ReceiverProcess;
use self::report::{Figure, Report};
use super::output::Output;
use crate::topic::{Pattern, PatternIndex, Topic};

/// Connections of the bare loop, and the cap of the webhook that it is compared with.
const CONNECTIONS: usize = 32;
/// The rate at which latencies are measured, in events per second.
const STEADY_RATE: u64 = 500;
const FAN_OUT_WEBHOOKS: u64 = 1_000;
const PATTERNS: u32 = 100_000;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: postrider bench --quick\n\n\
    Takes some minutes; --quick takes about two, with fewer events. The figures of two runs differ by as much as the\n\
    machine is busy with other things: compare within one run.")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(super) struct Args {
    /// Measure less, in about two minutes
    #[arg(long)]
    quick: bool,
    /// Measure these parts only
    #[arg(long, value_name = "PART", value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Keep the servers' data in a new folder in this one, which should be on the disk that is of interest
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    folder: PathBuf,
    /// Be the receiver of a benchmark
    #[arg(long, hide = true)]
    receive: bool,
    /// Be the receivers of a benchmark that never answer
    #[arg(long, hide = true)]
    dead: bool,
    /// Measure next to nothing, to see that it can be measured
    #[arg(long, hide = true, conflicts_with = "quick")]
    tiny: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Deliveries per second and CPU per delivery, events published in batches
    Throughput,
    /// The same, one event a request
    Single,
    /// Latencies at 500 events per second
    Latency,
    /// 100 healthy webhooks alone and beside 10,000 dead ones: a third refuses, is silent, hangs in its answer
    Isolation,
    /// One event to 1,000 webhooks
    FanOut,
    /// Start-up and memory with a million pending deliveries
    Backlog,
    /// One topic against 100,000 patterns
    Patterns,
}

/// How much is measured.
struct Size {
    bare: Duration,
    events: u64,
    steady: Duration,
    fan_out_events: u64,
    backlog: u64,
    drain: Duration,
    isolation: isolation::Size,
}

impl Size {
    const FULL: Self = Self {
        bare: Duration::from_secs(8),
        events: 200_000,
        steady: Duration::from_secs(20),
        fan_out_events: 200,
        backlog: 1_000_000,
        drain: Duration::from_secs(10),
        isolation: isolation::Size::FULL,
    };
    const QUICK: Self = Self {
        bare: Duration::from_secs(2),
        events: 40_000,
        steady: Duration::from_secs(6),
        fan_out_events: 50,
        backlog: 100_000,
        drain: Duration::from_secs(3),
        isolation: isolation::Size::QUICK,
    };
    const TINY: Self = Self {
        bare: Duration::from_millis(200),
        events: 1_000,
        steady: Duration::from_secs(1),
        fan_out_events: 2,
        backlog: 1_000,
        drain: Duration::from_millis(200),
        isolation: isolation::Size::TINY,
    };
}

pub(super) async fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    if args.receive {
        receiver::run(output).await?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.dead {
        dead::run(output).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let folder = tempfile::Builder::new().prefix(".postrider-bench-").tempdir_in(&args.folder);
    let folder = folder.with_context(|| format!("cannot make a folder in {}", args.folder.display()))?;
    let bench = Bench {
        size: match (args.quick, args.tiny) {
            (true, _) => Size::QUICK,
            (_, true) => Size::TINY,
            _ => Size::FULL,
        },
        folder: folder.path().canonicalize()?,
        only: args.only,
        progress: output.progress(None, ""),
    };
    let report = bench.run().await;
    bench.progress.finish_and_clear();
    report?.print(output, args.quick)?;
    Ok(ExitCode::SUCCESS)
}

struct Bench {
    size: Size,
    folder: PathBuf,
    only: Vec<Part>,
    progress: ProgressBar,
}

impl Bench {
    async fn run(&self) -> anyhow::Result<Report> {
        let mut report = Report::default();
        let mut receiver = ReceiverProcess::start()?;
        let bare = if self.wants_any(&[Part::Throughput, Part::Single]) {
            self.say("bare loop");
            let bare = bare::run(&[receiver.url(0)], CONNECTIONS, self.size.bare).await?;
            report.add(Figure::new("bare loop", "POST/s", bare.posts_per_s));
            report.add(Figure::new("bare loop, CPU a POST", "µs", bare.cpu_us));
            Some(bare)
        } else {
            None
        };
        if self.wants_any(&[Part::Throughput, Part::Single, Part::Latency]) {
            let node = Node::start(&self.folder.join("one")).await?;
            node.add_webhook("bench", "bench.>", &receiver.url(0)).await?;
            let batches = Shape { events: self.size.events, batch: 100, connections: 16, window: 6_000, webhooks: 1 };
            let singles = Shape { batch: 1, connections: 64, ..batches };
            for (part, shape, name) in
                [(Part::Throughput, batches, "batches of 100"), (Part::Single, singles, "single events")]
            {
                if let Some(bare) = bare.filter(|_| self.wants(part)) {
                    self.throughput(&mut report, &node, &mut receiver, bare, shape, name).await?;
                }
            }
            if self.wants(Part::Latency) {
                self.latency(&mut report, &node, &mut receiver).await?;
            }
        }
        if self.wants(Part::FanOut) {
            self.fan_out(&mut report, &mut receiver).await?;
        }
        if self.wants(Part::Isolation) {
            let node = Node::start(&self.folder.join("isolation")).await?;
            let say = |what: &str| self.say(what);
            let isolation = Isolation::start(self.size.isolation, node, &mut receiver, &say).await?;
            isolation.measure(&mut report).await?;
        }
        if self.wants(Part::Patterns) {
            report.add(match_patterns()?);
        }
        if self.wants(Part::Backlog) {
            self.backlog(&mut report, &mut receiver).await?;
        }
        Ok(report)
    }

    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    fn wants_any(&self, parts: &[Part]) -> bool {
        parts.iter().any(|part| self.wants(*part))
    }

    fn say(&self, what: &str) {
        self.progress.set_message(what.to_owned());
        self.progress.tick();
    }

    async fn throughput(
        &self,
        report: &mut Report,
        node: &Node,
        receiver: &mut ReceiverProcess,
        bare: Bare,
        shape: Shape,
        name: &str,
    ) -> anyhow::Result<()> {
        let publisher = Publisher::new(node)?;
        let warm_up = Shape { events: 2_000, ..shape };
        publisher.closed_loop(warm_up, receiver, |_| {}).await?;
        let cpu_before = node.cpu()?;
        let elapsed =
            publisher.closed_loop(shape, receiver, |count| self.say(&format!("deliveries, {name}: {count}"))).await?;
        let cpu_us = node.cpu()?.saturating_sub(cpu_before).as_secs_f64() * 1e6 / shape.events as f64;
        let rate = shape.events as f64 / elapsed.as_secs_f64();
        let arrived = receiver.arrived()?;
        let percent = 100.0 * rate / bare.posts_per_s;
        report.add(Figure::new(format!("deliveries, {name}"), "events/s", rate));
        report.add(Figure::new("  share of the bare loop", "%", percent).at_least(50.0));
        report.add(Figure::new("  CPU a delivered event", "µs", cpu_us));
        report.add(Figure::new("  CPU against the bare loop", "×", cpu_us / bare.cpu_us).at_most(3.0));
        report.add(Figure::new("  delivered twice", "", arrived.repeated as f64).at_most(0.0));
        Ok(())
    }

    async fn latency(&self, report: &mut Report, node: &Node, receiver: &mut ReceiverProcess) -> anyhow::Result<()> {
        self.say("the disk's own fsync");
        let disk_us = disk::fsync_us(&self.folder, 1_000)?;
        self.say("latency at 500 events/s");
        let Steady { accepted_us, arrived, missing } =
            Publisher::new(node)?.steady(STEADY_RATE, self.size.steady, receiver).await?;
        let ms = |us: u64| us as f64 / 1e3;
        let fsync_p99_ms = ms(disk_us.value_at_quantile(0.99));
        let accept_p99_ms = ms(accepted_us.value_at_quantile(0.99));
        report.add(Figure::new("fsync of the disk, p50", "ms", ms(disk_us.value_at_quantile(0.5))));
        report.add(Figure::new("fsync of the disk, p99", "ms", fsync_p99_ms));
        report.add(Figure::new("accept at 500/s, p50", "ms", ms(accepted_us.value_at_quantile(0.5))));
        report.add(Figure::new("accept at 500/s, p99", "ms", accept_p99_ms).at_most(2.0 * fsync_p99_ms + 2.0));
        report.add(Figure::new("published → received at 500/s, p50", "ms", ms(arrived.p50_us)).at_most(5.0));
        report.add(Figure::new("published → received at 500/s, p99", "ms", ms(arrived.p99_us)).at_most(20.0));
        report.add(Figure::new("  missing", "", missing as f64).at_most(0.0));
        Ok(())
    }

    async fn fan_out(&self, report: &mut Report, receiver: &mut ReceiverProcess) -> anyhow::Result<()> {
        self.say("fan-out: making webhooks");
        let node = Node::start(&self.folder.join("many")).await?;
        for webhook in 0..FAN_OUT_WEBHOOKS {
            node.add_webhook(&format!("bench-{webhook}"), "bench.>", &receiver.url(webhook)).await?;
        }
        let publisher = Publisher::new(&node)?;
        let events = self.size.fan_out_events;
        let shape = Shape { events, batch: 1, connections: 1, window: 4, webhooks: FAN_OUT_WEBHOOKS };
        publisher.closed_loop(Shape { events: 5, ..shape }, receiver, |_| {}).await?;
        let cpu_before = node.cpu()?;
        let took = publisher.closed_loop(shape, receiver, |count| self.say(&format!("fan-out: {count}"))).await?;
        let cpu = node.cpu()?.saturating_sub(cpu_before);
        // As many connections as there are webhooks, which is what this figure is about.
        self.say("bare loop over 1,000 connections");
        let urls: Vec<String> = (0..FAN_OUT_WEBHOOKS).map(|webhook| receiver.url(webhook)).collect();
        let bare = bare::run(&urls, urls.len(), self.size.bare).await?;
        let deliveries = (events * FAN_OUT_WEBHOOKS) as f64;
        let rate = deliveries / took.as_secs_f64();
        let cpu_us = cpu.as_secs_f64() * 1e6 / deliveries;
        report.add(Figure::new("bare loop, 1,000 connections", "POST/s", bare.posts_per_s));
        report.add(Figure::new("1 event to 1,000 webhooks", "deliveries/s", rate));
        report.add(Figure::new("  share of the bare loop", "%", 100.0 * rate / bare.posts_per_s).at_least(80.0));
        report.add(Figure::new("  CPU a delivery", "µs", cpu_us));
        Ok(())
    }

    async fn backlog(&self, report: &mut Report, receiver: &mut ReceiverProcess) -> anyhow::Result<()> {
        let folder = self.folder.join("backlog");
        let count = self.size.backlog;
        let node = Node::start(&folder).await?;
        // Nothing listens there: the circuit opens and what comes in stays pending.
        let nowhere = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let webhook = node.add_webhook("backlog", "bench.>", &format!("http://{nowhere}/0")).await?;
        let filling = Instant::now();
        let publisher = Publisher::new(&node)?;
        publisher.fill(count, 1_000, |sent| self.say(&format!("backlog: {sent}"))).await?;
        report.add(Figure::new("accepting a backlog", "events/s", count as f64 / filling.elapsed().as_secs_f64()));
        node.kill()?;

        self.say("backlog: starting again");
        let node = Node::start(&folder).await?;
        let pending = node.remote.get(&["stats"], &[]).await?.value["pending"].as_u64().unwrap_or_default();
        let resident = node.memory()?.resident;
        receiver.reset(1)?;
        let repaired = json!({ "url": receiver.url(0), "enabled": true });
        node.remote.send(http::Method::PATCH, &["webhooks", &webhook], &repaired).await?;
        let draining = Instant::now();
        tokio::time::sleep(self.size.drain).await;
        let drained = receiver.arrived()?.count as f64 / draining.elapsed().as_secs_f64();
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        report.add(Figure::new("pending deliveries at a start", "", pending as f64));
        report.add(Figure::new("  start-up", "s", node.start_up.as_secs_f64()).at_most(5.0));
        report.add(Figure::new("  resident memory after it", "MiB", mib(resident)));
        report.add(Figure::new("  most while they are delivered", "MiB", mib(node.memory()?.peak)).at_most(256.0));
        report.add(Figure::new("  delivering them", "events/s", drained));
        Ok(())
    }
}

/// One topic against many patterns of many shapes, few of which match.
fn match_patterns() -> anyhow::Result<Figure> {
    let mut index = PatternIndex::default();
    for n in 0..PATTERNS {
        let site = n / 100;
        let pattern = match n % 4 {
            0 => format!("site-{site}.decoy-{n}.session.started"),
            1 => format!("site-{site}.decoy-{n}.>"),
            2 => format!("site-{site}.*.session.closed-{n}"),
            _ => format!("site-{n}.*.>"),
        };
        index.insert(&Pattern::parse(&pattern)?, n);
    }
    let topic = Topic::parse("site-500.decoy-50001.session.started")?;
    let rounds = 200_000_u32;
    let mut found = Vec::new();
    let began_at = Instant::now();
    for _ in 0..rounds {
        found.clear();
        index.matches(std::hint::black_box(&topic), &mut found);
    }
    let each_us = began_at.elapsed().as_secs_f64() * 1e6 / f64::from(rounds);
    anyhow::ensure!(!found.is_empty(), "no pattern matched");
    Ok(Figure::new("one topic against 100,000 patterns", "µs", each_us).at_most(5.0))
}
