//! Dead webhooks beside healthy ones: what the healthy ones notice of them.
//!
//! First the healthy ones are measured alone, then beside the dead, on the same server. A third each of the dead
//! refuses connections, is silent, and hangs in the middle of its answer. They are owed events of their own, a few each
//! at once and then some every second, so that something is pending for each of them all the time; at last also every
//! event that a healthy one gets.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::STEADY_RATE;
use super::dead::DeadReceivers;
use super::load::{NODES, Publisher, Shape, Steady};
use super::node::Node;
use super::receiver::ReceiverProcess;
use super::report::{Figure, Report};

/// Events that each dead webhook is owed at once; more than the failures that open a circuit.
const BACKLOG: u64 = 6;
/// How often a hundredth of the dead webhooks are owed one event more.
const DEAD_EVENT_EVERY: Duration = Duration::from_millis(100);
const GROUPS: u64 = 100;
/// What an attempt at a dead webhook may take, in seconds; the least that can be set, since the time until all circuits
/// are open is a multiple of it.
const DEAD_TIMEOUT_S: u64 = 1;
/// Webhooks that are made at once: as many connections as a client keeps.
const MAKERS: usize = 8;
/// This part of all circuits must be open before probing is measured.
const OPEN_SHARE: f64 = 0.99;

/// How much is measured.
#[derive(Clone, Copy)]
pub(super) struct Size {
    pub dead: u64,
    pub steady: Duration,
    pub events: u64,
    /// How long to wait at most for the circuits to open.
    pub opening: Duration,
}

impl Size {
    pub(super) const FULL: Self =
        Self { dead: 10_000, steady: Duration::from_secs(20), events: 100_000, opening: Duration::from_mins(5) };
    pub(super) const QUICK: Self =
        Self { dead: 1_000, steady: Duration::from_secs(6), events: 40_000, opening: Duration::from_mins(1) };
    pub(super) const TINY: Self =
        Self { dead: 30, steady: Duration::from_secs(1), events: 400, opening: Duration::ZERO };
}

/// A server with healthy webhooks, and how it is measured.
pub(super) struct Isolation<'a> {
    size: Size,
    node: Node,
    publisher: Publisher,
    receiver: &'a mut ReceiverProcess,
    say: &'a dyn Fn(&str),
}

/// What the healthy webhooks get.
struct Healthy {
    steady: Steady,
    rate_per_s: f64,
}

impl<'a> Isolation<'a> {
    /// Healthy webhooks, one for each node that events are about, each with a first success behind it.
    pub(super) async fn start(
        size: Size,
        node: Node,
        receiver: &'a mut ReceiverProcess,
        say: &'a dyn Fn(&str),
    ) -> anyhow::Result<Self> {
        say("isolation: making healthy webhooks");
        let url = receiver.url(0);
        make(
            &node,
            NODES,
            |n| json!({ "name": format!("healthy-{n}"), "url": url, "topic_patterns": [format!("bench.node-{n}.>")] }),
        )
        .await?;
        let publisher = Publisher::new(&node)?;
        let mut isolation = Self { size, node, publisher, receiver, say };
        isolation.throughput(isolation.size.events.min(2_000)).await?;
        Ok(isolation)
    }

    pub(super) async fn measure(mut self, report: &mut Report) -> anyhow::Result<()> {
        let alone = self.healthy("alone").await?;
        let ms = |us: u64| us as f64 / 1e3;
        report.add(Figure::new("100 healthy webhooks at 500/s, p50", "ms", ms(alone.steady.arrived.p50_us)));
        report.add(Figure::new("100 healthy webhooks at 500/s, p99", "ms", ms(alone.steady.arrived.p99_us)));
        report.add(Figure::new("100 healthy webhooks, batches of 100", "events/s", alone.rate_per_s));

        let dead = self.size.dead;
        let resident_before = self.node.memory()?.resident;
        let receivers = DeadReceivers::start()?;
        let making = Instant::now();
        self.make_dead(&receivers).await?;
        report.add(Figure::new("making dead webhooks", "webhooks/s", dead as f64 / making.elapsed().as_secs_f64()));

        let failed_before = self.count("attempts_failed").await?;
        let failing_since = Instant::now();
        for _ in 0..BACKLOG {
            self.publisher.aside("dead.all").await?;
        }
        let mut dead_events = JoinSet::new();
        dead_events.spawn(keep_owing(self.publisher.clone()));
        let failing = self.healthy("beside failing ones").await?;
        let failed = self.count("attempts_failed").await? - failed_before;
        compare(report, &format!("beside {dead} dead ones that fail"), &alone, &failing);
        report.add(Figure::new("  failed attempts", "/s", failed as f64 / failing_since.elapsed().as_secs_f64()));

        self.wait_for_circuits().await?;
        report.add(Figure::new("circuits open", "", self.count("circuits_open").await? as f64));
        let probing = self.healthy("beside probed ones").await?;
        compare(report, "beside them when probed", &alone, &probing);

        (self.say)("isolation: each event to a dead one too");
        self.publisher.cases = cases(dead);
        let mixed = self.publisher.steady(STEADY_RATE, self.size.steady, self.receiver).await?;
        report.add(Figure::new("each event to a dead one too, p99", "ms", ms(mixed.arrived.p99_us)));
        report.add(slower("  against alone", &alone.steady, &mixed));
        let missing = [&alone.steady, &failing.steady, &probing.steady, &mixed].map(|steady| steady.missing);
        report.add(Figure::new("  missing at healthy ones", "", missing.iter().sum::<u64>() as f64).at_most(0.0));
        let grown = self.node.memory()?.resident.saturating_sub(resident_before) as f64;
        report.add(Figure::new("resident memory a dead webhook", "KiB", grown / 1_024.0 / dead as f64));
        // One that has ended by itself has failed, and then the dead were owed less than was meant.
        match dead_events.try_join_next() {
            Some(ended) => ended?,
            None => Ok(()),
        }
    }

    async fn healthy(&mut self, how: &str) -> anyhow::Result<Healthy> {
        (self.say)(&format!("isolation: healthy webhooks {how}, at 500 events/s"));
        let steady = self.publisher.steady(STEADY_RATE, self.size.steady, self.receiver).await?;
        (self.say)(&format!("isolation: healthy webhooks {how}, as fast as they can"));
        let rate_per_s = self.throughput(self.size.events).await?;
        Ok(Healthy { steady, rate_per_s })
    }

    async fn throughput(&mut self, events: u64) -> anyhow::Result<f64> {
        let shape = Shape { events, batch: 100, connections: 16, window: 6_000, webhooks: 1 };
        let took = self.publisher.closed_loop(shape, self.receiver, |_| {}).await?;
        Ok(events as f64 / took.as_secs_f64())
    }

    async fn make_dead(&self, receivers: &DeadReceivers) -> anyhow::Result<()> {
        (self.say)("isolation: making dead webhooks");
        let cases = cases(self.size.dead);
        make(&self.node, self.size.dead, |n| {
            json!({
                "name": format!("dead-{n}"),
                "url": receivers.url(n),
                "timeout_s": DEAD_TIMEOUT_S,
                "topic_patterns": [
                    "dead.all",
                    format!("dead.group-{}", n % GROUPS),
                    format!("bench.node-{}.case-{}", n % NODES, n / NODES % cases),
                ],
            })
        })
        .await
    }

    async fn wait_for_circuits(&self) -> anyhow::Result<()> {
        let waiting_since = Instant::now();
        while waiting_since.elapsed() < self.size.opening {
            let open = self.count("circuits_open").await?;
            (self.say)(&format!("isolation: waiting for circuits to open: {open}"));
            if open as f64 >= OPEN_SHARE * self.size.dead as f64 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Ok(())
    }

    /// What the server's process says of itself.
    async fn count(&self, name: &str) -> anyhow::Result<u64> {
        let stats = self.node.remote.get(&["stats"], &[]).await?.value;
        stats["process"][name].as_u64().ok_or_else(|| anyhow::anyhow!("the server does not say {name}"))
    }
}

/// Cases of each node, so that each case has one dead webhook.
fn cases(dead: u64) -> u64 {
    dead.div_ceil(NODES)
}

/// Makes `count` webhooks over a few connections.
async fn make(node: &Node, count: u64, webhook: impl Fn(u64) -> Value) -> anyhow::Result<()> {
    let mut requests: JoinSet<anyhow::Result<()>> = JoinSet::new();
    for n in 0..count {
        if requests.len() == MAKERS
            && let Some(made) = requests.join_next().await
        {
            made??;
        }
        let (remote, webhook) = (Arc::clone(&node.remote), webhook(n));
        requests.spawn(async move { remote.post(&["webhooks"], &webhook).await.map(drop) });
    }
    while let Some(made) = requests.join_next().await {
        made??;
    }
    Ok(())
}

/// Owes the dead webhooks events, one group after the other. Ends with an error only.
async fn keep_owing(publisher: Publisher) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(DEAD_EVENT_EVERY);
    for group in (0..GROUPS).cycle() {
        ticks.tick().await;
        publisher.aside(&format!("dead.group-{group}")).await?;
    }
    Ok(())
}

fn compare(report: &mut Report, name: &str, alone: &Healthy, beside: &Healthy) {
    let ms = |us: u64| us as f64 / 1e3;
    report.add(Figure::new(format!("{name}, p50"), "ms", ms(beside.steady.arrived.p50_us)));
    report.add(Figure::new(format!("{name}, p99"), "ms", ms(beside.steady.arrived.p99_us)));
    report.add(slower("  against alone", &alone.steady, &beside.steady));
    report.add(Figure::new(format!("{name}, batches of 100"), "events/s", beside.rate_per_s));
    report.add(Figure::new("  share of alone", "%", 100.0 * beside.rate_per_s / alone.rate_per_s).at_least(90.0));
}

fn slower(name: &str, alone: &Steady, beside: &Steady) -> Figure {
    Figure::new(name, "×", beside.arrived.p99_us as f64 / alone.arrived.p99_us.max(1) as f64).at_most(2.0)
}
