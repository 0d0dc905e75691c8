//! `postrider bench`: what this machine does, and how far that is from what it could do.
//!
//! The server runs in a process of its own on a folder of the disk, the receiver in another; this process
//! publishes over HTTP. Everything that is compared was measured in one run.

#![expect(clippy::cast_precision_loss, reason = "figures are for people and have three digits")]

mod bare;
mod database;
mod dead;
mod disk;
mod flood;
mod isolation;
mod load;
mod node;
mod process;
mod receiver;
mod report;
mod sources;
mod subject;
mod tenants;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use indicatif::ProgressBar;
use serde_json::json;

use self::bare::Bare;
use self::isolation::Isolation;
use self::load::{Publisher, Shape};
use self::node::Node;
use self::receiver::ReceiverProcess;
use self::report::{Figure, Report};
use self::sources::Origin;
use self::subject::{DatabaseOptions, Subject};
use self::tenants::Tenants;
use super::UsageError;
use super::output::Output;
use crate::config::Location;
use crate::topic::{Pattern, PatternIndex, Topic};

/// Connections of the bare loop, and the cap of the webhook that it is compared with.
const CONNECTIONS: usize = 32;
/// The rate at which latencies are measured if none is given, in events per second.
const STEADY_RATE: u64 = 500;
const FAN_OUT_WEBHOOKS: u64 = 1_000;
const PATTERNS: u32 = 100_000;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: postrider bench --quick\n\
    Example: postrider bench --store postgres://postrider@127.0.0.1/postrider --nodes 3\n\n\
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
    /// Measure with a PostgreSQL server: in a database of its own beside this one, which is dropped at the end
    #[arg(long, value_name = "URL")]
    store: Option<Location>,
    /// Run so many servers on that database
    #[arg(long, value_name = "COUNT", default_value = "1", requires = "store", value_parser = clap::value_parser!(u32).range(1..=16))]
    nodes: u32,
    /// Measure with a PostgreSQL server whose fsync is off
    #[arg(long, requires = "store")]
    allow_unsafe_store: bool,
    /// Publish so many events a second where latencies are measured
    #[arg(long, value_name = "RATE", default_value_t = STEADY_RATE, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    rate: u64,
    /// Measure this source: decnet-bus, postgres-outbox=postgres://… or nats-jetstream=nats://… (repeatable); without
    /// --only beside single events and batches
    #[arg(long, value_name = "KIND[=URL]")]
    source: Vec<Origin>,
    /// Be the receiver of a benchmark
    #[arg(long, hide = true)]
    receive: bool,
    /// Be the receivers of a benchmark that never answer
    #[arg(long, hide = true)]
    dead: bool,
    /// Be a flood of requests
    #[arg(long, hide = true)]
    flood: bool,
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
    /// Latencies at a steady rate
    Latency,
    /// 100 healthy webhooks alone and beside 10,000 dead ones: a third refuses, is silent, hangs in its answer
    Isolation,
    /// A quiet tenant alone and beside each of a loud one's floods
    Tenants,
    /// One event to 1,000 webhooks
    FanOut,
    /// Start-up and memory with a million pending deliveries
    Backlog,
    /// One topic against 100,000 patterns
    Patterns,
}

/// The parts that are also measured on a database.
const ON_DATABASE: [Part; 3] = [Part::Throughput, Part::Single, Part::Latency];

/// The sizes of the measurements.
struct Size {
    bare: Duration,
    events: u64,
    steady: Duration,
    fan_out_events: u64,
    backlog: u64,
    drain: Duration,
    isolation: isolation::Size,
    tenants: tenants::Size,
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
        tenants: tenants::Size::FULL,
    };
    const QUICK: Self = Self {
        bare: Duration::from_secs(2),
        events: 40_000,
        steady: Duration::from_secs(6),
        fan_out_events: 50,
        backlog: 100_000,
        drain: Duration::from_secs(3),
        isolation: isolation::Size::QUICK,
        tenants: tenants::Size::QUICK,
    };
    const TINY: Self = Self {
        bare: Duration::from_millis(200),
        events: 1_000,
        steady: Duration::from_secs(1),
        fan_out_events: 2,
        backlog: 1_000,
        drain: Duration::from_millis(200),
        isolation: isolation::Size::TINY,
        tenants: tenants::Size::TINY,
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
    if args.flood {
        flood::run().await?;
        return Ok(ExitCode::SUCCESS);
    }
    let database = match args.store {
        Some(Location::Postgres(url)) => {
            if let Some(part) = args.only.iter().find(|part| !ON_DATABASE.contains(part)) {
                bail!(UsageError(format!(
                    "{part:?} is measured on the embedded store alone: leave it out, or --store"
                )));
            }
            Some(DatabaseOptions { url, nodes: args.nodes, allow_unsafe_server: args.allow_unsafe_store })
        }
        Some(Location::Embedded) | None => None,
    };
    let folder = tempfile::Builder::new().prefix(".postrider-bench-").tempdir_in(&args.folder);
    let folder = folder.with_context(|| format!("cannot make a folder in {}", args.folder.display()))?;
    let bench = Bench {
        size: match (args.quick, args.tiny) {
            (true, _) => Size::QUICK,
            (_, true) => Size::TINY,
            _ => Size::FULL,
        },
        folder: folder.path().canonicalize()?,
        rate_per_s: args.rate,
        database,
        // Events over HTTP are the measure of sources.
        only: if args.source.is_empty() || !args.only.is_empty() {
            args.only
        } else {
            vec![Part::Throughput, Part::Single]
        },
        sources: args.source,
        progress: output.progress(None, ""),
    };
    let report = bench.run().await;
    bench.progress.finish_and_clear();
    report?.print(output, args.quick)?;
    Ok(ExitCode::SUCCESS)
}

struct Bench {
    size: Size,
    rate_per_s: u64,
    /// `None`: the embedded store.
    database: Option<DatabaseOptions>,
    folder: PathBuf,
    only: Vec<Part>,
    sources: Vec<Origin>,
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
            let subject = match &self.database {
                Some(options) => Subject::on_database(&self.folder, options, &receiver).await?,
                None => Subject::embedded(&self.folder, &receiver).await?,
            };
            let measured = self.measure(&subject, bare, &mut report, &mut receiver).await;
            subject.give_back().await?;
            measured?;
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
        if self.wants(Part::Tenants) {
            let node = Node::start(&self.folder.join("tenants")).await?;
            let say = |what: &str| self.say(what);
            Tenants::start(self.size.tenants, node, &mut receiver, &say).await?.measure(&mut report).await?;
        }
        for (number, origin) in self.sources.iter().enumerate() {
            let folder = self.folder.join(format!("source-{number}"));
            let run = sources::Run {
                folder: &folder,
                size: sources::Size { messages: self.size.events, steady: self.size.steady },
                receiver: &mut receiver,
                report: &mut report,
                say: &|what| self.say(what),
            };
            origin.measure(run).await?;
        }
        if self.wants(Part::Patterns) {
            report.add(match_patterns()?);
        }
        if self.wants(Part::Backlog) {
            self.backlog(&mut report, &mut receiver).await?;
        }
        Ok(report)
    }

    async fn measure(
        &self,
        subject: &Subject,
        bare: Option<Bare>,
        report: &mut Report,
        receiver: &mut ReceiverProcess,
    ) -> anyhow::Result<()> {
        let batches = Shape { events: self.size.events, batch: 100, connections: 16, window: 6_000, webhooks: 1 };
        let singles = Shape { batch: 1, connections: 64, ..batches };
        let say = |what: &str| self.say(what);
        for (part, shape, name) in
            [(Part::Throughput, batches, "batches of 100"), (Part::Single, singles, "single events")]
        {
            if let Some(bare) = bare.filter(|_| self.wants(part)) {
                subject.throughput(report, receiver, bare, shape, name, &say).await?;
            }
        }
        if self.wants(Part::Latency) {
            subject.latency(report, receiver, (self.rate_per_s, self.size.steady), &say).await?;
        }
        Ok(())
    }

    fn wants(&self, part: Part) -> bool {
        self.only.contains(&part) || self.only.is_empty() && (self.database.is_none() || ON_DATABASE.contains(&part))
    }

    fn wants_any(&self, parts: &[Part]) -> bool {
        parts.iter().any(|part| self.wants(*part))
    }

    fn say(&self, what: &str) {
        self.progress.set_message(what.to_owned());
        self.progress.tick();
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
        // As many connections as webhooks, since this figure is about them.
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
        // Nothing listens there, so the circuit opens and events stay pending.
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
