//! Dead webhooks beside healthy ones: what the healthy ones notice of them.
//!
//! The healthy ones are measured alone before and after, and beside the dead in between, on the same server. A third each
//! of the dead refuses connections, is silent, and hangs in the middle of its answer. They are owed events of their own,
//! a few each at once and then a hundredth of them one every second, so that something is pending for each of them all
//! the time; at last also every event that a healthy one gets.
//!
//! Minutes lie between the first measurement and the last, in which the machine may become faster or slower by half, where
//! others share it. So each throughput is taken between two short bare loops, and compared in POSTs of those: by their
//! CPU time, which the dead webhooks hardly touch, not by their rate.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::dead::DeadReceivers;
use super::load::{NODES, Publisher, Shape, Steady};
use super::node::Node;
use super::receiver::ReceiverProcess;
use super::report::{Figure, Report};
use super::{CONNECTIONS as BARE_CONNECTIONS, STEADY_RATE, bare};

/// The backlog of each dead webhook, in events; more than the failures that open a circuit.
const BACKLOG: u64 = 6;
/// The interval in which a hundredth of the dead webhooks get a further event.
const DEAD_EVENT_EVERY: Duration = Duration::from_secs(1);
const GROUPS: u64 = 100;
/// The timeout of dead webhooks, in seconds: the shortest one, since the time until all circuits are open is a multiple
/// of it.
const DEAD_TIMEOUT_S: u64 = 1;
/// Events before the first measurement.
const WARM_UP_EVENTS: u64 = 20_000;
const WARM_UP: Duration = Duration::from_secs(1);
/// Webhooks that are made or deleted at the same time: as many as the connections that a client keeps.
const CONNECTIONS: usize = 8;
/// The longest wait for the end of the deliveries of deleted webhooks.
const DISCARDING: Duration = Duration::from_mins(2);
/// The share of dead webhooks whose circuits must be open before probing is measured. A sixth answers `200` with an
/// endless body; these are slow, but do not fail.
const OPEN_SHARE: f64 = 0.99 * 5.0 / 6.0;

/// The sizes of the measurements.
#[derive(Clone, Copy)]
pub(super) struct Size {
    pub dead: u64,
    pub steady: Duration,
    pub events: u64,
    /// The longest wait for the circuits to open.
    pub opening: Duration,
    /// The duration of each bare loop.
    pub bare: Duration,
}

impl Size {
    pub(super) const FULL: Self = Self {
        dead: 10_000,
        steady: Duration::from_secs(20),
        events: 300_000,
        opening: Duration::from_mins(5),
        bare: Duration::from_secs(2),
    };
    pub(super) const QUICK: Self = Self {
        dead: 1_000,
        steady: Duration::from_secs(6),
        events: 100_000,
        opening: Duration::from_mins(1),
        bare: Duration::from_secs(1),
    };
    pub(super) const TINY: Self = Self {
        dead: 30,
        steady: Duration::from_secs(1),
        events: 400,
        opening: Duration::ZERO,
        bare: Duration::from_millis(50),
    };
}

/// A server with healthy webhooks, and how it is measured.
pub(super) struct Isolation<'a> {
    size: Size,
    node: Node,
    publisher: Publisher,
    receiver: &'a mut ReceiverProcess,
    say: &'a dyn Fn(&str),
}

/// The results of the healthy webhooks.
struct Healthy {
    steady: Steady,
    rate_per_s: f64,
    /// CPU time of a bare POST at that time, in microseconds.
    bare_us: f64,
}

impl Healthy {
    /// Events in the time that a thousand bare POSTs take.
    fn scaled(&self) -> f64 {
        self.rate_per_s * self.bare_us / 1e3
    }
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
        // Warms up the connections, the caches and the store's file.
        isolation.throughput(isolation.size.events.min(WARM_UP_EVENTS)).await?;
        isolation.publisher.steady(STEADY_RATE, WARM_UP, isolation.receiver).await?;
        Ok(isolation)
    }

    pub(super) async fn measure(mut self, report: &mut Report) -> anyhow::Result<()> {
        let before = self.healthy("alone").await?;
        let dead = self.size.dead;
        let resident_before = self.node.memory()?.resident;
        let receivers = DeadReceivers::start()?;
        let making = Instant::now();
        let webhooks = self.make_dead(&receivers).await?;
        let made_per_s = dead as f64 / making.elapsed().as_secs_f64();

        let failed_before = self.count("attempts_failed").await?;
        let failing_since = Instant::now();
        let mut dead_events = JoinSet::new();
        self.owe_backlog().await?;
        dead_events.spawn(keep_owing(self.publisher.clone()));
        let failing = self.healthy("beside failing ones").await?;
        let failed = self.count("attempts_failed").await? - failed_before;
        let failed_per_s = failed as f64 / failing_since.elapsed().as_secs_f64();

        self.wait_for_circuits().await?;
        let open = self.count("circuits_open").await?;
        self.owe_backlog().await?;
        let probing = self.healthy("beside probed ones").await?;

        (self.say)("isolation: each event to a dead one too");
        self.publisher.cases = cases(dead);
        let mixed = self.publisher.steady(STEADY_RATE, self.size.steady, self.receiver).await?;
        self.publisher.cases = 0;
        let grown = self.node.memory()?.resident.saturating_sub(resident_before) as f64;
        // A task that has ended by itself has failed, so the dead webhooks got fewer events than intended.
        if let Some(ended) = dead_events.try_join_next() {
            ended??;
        }
        drop(dead_events);

        self.delete(webhooks).await?;
        let after = self.healthy("alone again").await?;
        let alone = Alone::new(&before, &after);
        alone.add(report);
        report.add(Figure::new("making dead webhooks", "webhooks/s", made_per_s));
        alone.compare(report, &format!("beside {dead} dead ones that fail"), &failing);
        report.add(Figure::new("  failed attempts", "/s", failed_per_s));
        alone.compare(report, "beside them when probed", &probing);
        report.add(Figure::new("  circuits open", "", open as f64));
        report.add(Figure::new("each event to a dead one too, p99", "ms", ms(mixed.arrived.p99_us)));
        report.add(alone.slower(&mixed));
        let missing = [&before.steady, &failing.steady, &probing.steady, &mixed, &after.steady];
        let missing: u64 = missing.iter().map(|steady| steady.missing).sum();
        report.add(Figure::new("  missing at healthy ones", "", missing as f64).at_most(0.0));
        report.add(Figure::new("resident memory a dead webhook", "KiB", grown / 1_024.0 / dead as f64));
        Ok(())
    }

    /// Publishes the backlog of each dead webhook at once.
    async fn owe_backlog(&self) -> anyhow::Result<()> {
        for _ in 0..BACKLOG {
            self.publisher.aside("dead.all").await?;
        }
        Ok(())
    }

    /// Deletes webhooks, and waits until their deliveries have ended.
    async fn delete(&self, webhooks: Vec<String>) -> anyhow::Result<()> {
        (self.say)("isolation: deleting dead webhooks");
        let remote = &self.node.remote;
        at_once(webhooks, |uuid| {
            let remote = Arc::clone(remote);
            async move { remote.delete(&["webhooks", &uuid]).await.map(drop) }
        })
        .await?;
        let waiting_since = Instant::now();
        while remote.get(&["stats"], &[]).await?.value["pending"] != 0 {
            anyhow::ensure!(waiting_since.elapsed() < DISCARDING, "deliveries of deleted webhooks are still pending");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    async fn healthy(&mut self, how: &str) -> anyhow::Result<Healthy> {
        (self.say)(&format!("isolation: healthy webhooks {how}, at 500 events/s"));
        let steady = self.publisher.steady(STEADY_RATE, self.size.steady, self.receiver).await?;
        (self.say)(&format!("isolation: healthy webhooks {how}, as fast as they can"));
        let bare_before_us = self.bare_us().await?;
        let rate_per_s = self.throughput(self.size.events).await?;
        let bare_us = f64::midpoint(bare_before_us, self.bare_us().await?);
        Ok(Healthy { steady, rate_per_s, bare_us })
    }

    async fn bare_us(&self) -> anyhow::Result<f64> {
        Ok(bare::run(&[self.receiver.url(0)], BARE_CONNECTIONS, self.size.bare).await?.cpu_us)
    }

    async fn throughput(&mut self, events: u64) -> anyhow::Result<f64> {
        let shape = Shape { events, batch: 100, connections: 16, window: 6_000, webhooks: 1 };
        let took = self.publisher.closed_loop(shape, self.receiver, |_| {}).await?;
        Ok(events as f64 / took.as_secs_f64())
    }

    async fn make_dead(&self, receivers: &DeadReceivers) -> anyhow::Result<Vec<String>> {
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

    /// A figure of the server's process.
    async fn count(&self, name: &str) -> anyhow::Result<u64> {
        let stats = self.node.remote.get(&["stats"], &[]).await?.value;
        stats["process"][name].as_u64().ok_or_else(|| anyhow::anyhow!("the server does not say {name}"))
    }
}

/// Cases of each node, so that each case has one dead webhook.
fn cases(dead: u64) -> u64 {
    dead.div_ceil(NODES)
}

/// Makes `count` webhooks, and returns their uuids.
async fn make(node: &Node, count: u64, webhook: impl Fn(u64) -> Value) -> anyhow::Result<Vec<String>> {
    at_once(0..count, |n| {
        let (remote, webhook) = (Arc::clone(&node.remote), webhook(n));
        async move {
            let made = remote.post(&["webhooks"], &webhook).await?;
            Ok(made.value["uuid"].as_str().context("the answer has no uuid")?.to_owned())
        }
    })
    .await
}

/// Makes requests over a few connections at once; the answers are in no order.
async fn at_once<I, T, F>(items: impl IntoIterator<Item = I>, request: impl Fn(I) -> F) -> anyhow::Result<Vec<T>>
where
    T: Send + 'static,
    F: Future<Output = anyhow::Result<T>> + Send + 'static,
{
    let (mut requests, mut answers) = (JoinSet::new(), Vec::new());
    for item in items {
        if requests.len() == CONNECTIONS
            && let Some(answer) = requests.join_next().await
        {
            answers.push(answer??);
        }
        requests.spawn(request(item));
    }
    while let Some(answer) = requests.join_next().await {
        answers.push(answer??);
    }
    Ok(answers)
}

/// Publishes events to the dead webhooks, one group after the other. Ends only with an error.
async fn keep_owing(publisher: Publisher) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(DEAD_EVENT_EVERY);
    for group in (0..GROUPS).cycle() {
        ticks.tick().await;
        publisher.aside(&format!("dead.group-{group}")).await?;
    }
    Ok(())
}

fn ms(us: u64) -> f64 {
    us as f64 / 1e3
}

/// Healthy webhooks without dead ones: the mean of before and after.
struct Alone {
    p50_ms: f64,
    p99_ms: f64,
    rate_per_s: f64,
    scaled: f64,
    /// How far the two are apart, scaled, as a share of their mean.
    difference: f64,
}

impl Alone {
    fn new(before: &Healthy, after: &Healthy) -> Self {
        let [first, last] = [&before.steady.arrived, &after.steady.arrived];
        let scaled = f64::midpoint(before.scaled(), after.scaled());
        Self {
            p50_ms: ms(first.p50_us + last.p50_us) / 2.0,
            p99_ms: ms(first.p99_us + last.p99_us) / 2.0,
            rate_per_s: f64::midpoint(before.rate_per_s, after.rate_per_s),
            scaled,
            difference: (before.scaled() - after.scaled()).abs() / scaled,
        }
    }

    fn add(&self, report: &mut Report) {
        report.add(Figure::new("100 healthy webhooks at 500/s, p50", "ms", self.p50_ms));
        report.add(Figure::new("100 healthy webhooks at 500/s, p99", "ms", self.p99_ms));
        report.add(Figure::new("100 healthy webhooks, batches of 100", "events/s", self.rate_per_s));
        report.add(Figure::new("  a 1,000 bare POSTs", "events", self.scaled));
        report.add(Figure::new("  before and after differ by", "%", 100.0 * self.difference));
    }

    fn compare(&self, report: &mut Report, name: &str, beside: &Healthy) {
        report.add(Figure::new(format!("{name}, p50"), "ms", ms(beside.steady.arrived.p50_us)));
        report.add(Figure::new(format!("{name}, p99"), "ms", ms(beside.steady.arrived.p99_us)));
        report.add(self.slower(&beside.steady));
        report.add(Figure::new(format!("{name}, batches of 100"), "events/s", beside.rate_per_s));
        report.add(Figure::new("  a 1,000 bare POSTs", "events", beside.scaled()));
        report.add(Figure::new("  share of alone", "%", 100.0 * beside.scaled() / self.scaled).at_least(90.0));
    }

    fn slower(&self, beside: &Steady) -> Figure {
        Figure::new("  against alone", "×", ms(beside.arrived.p99_us) / self.p99_ms.max(0.001)).at_most(2.0)
    }
}
