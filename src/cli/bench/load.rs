//! The publisher of a benchmark: events over HTTP, in a closed loop or at a steady rate.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::bail;
use bytes::Bytes;
use hdrhistogram::Histogram;
use http::{Method, Request, header};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::node::{Node, TOKEN};
use super::receiver::{Arrived, ReceiverProcess, histogram};
use crate::clock::{Clock, SystemClock};
use crate::delivery::client::{Client, ClientOptions};
use crate::delivery::guard::{Destination, EgressPolicy};
use crate::fit::fit;

/// Makes the canonical body of an event about 600 bytes long.
const FILLER: &str = "Failed password for invalid user admin from 203.0.113.66 port 51234 ssh2; then a second try \
    with root, a third with oracle and a fourth with test. The decoy answered each with a pause of two seconds and a \
    banner of an old release, took down the client's key exchange proposal, the order of its algorithms and the time \
    between keystrokes, and reported it here. This text stands for such a report of ordinary length.";
/// The answer to a batch is about 100 bytes an event.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;
const TIMEOUT: Duration = Duration::from_mins(1);
/// The time without arrivals after which the rest counts as missing.
const STALL: Duration = Duration::from_secs(15);
/// The interval in which a closed loop reads the arrivals.
const LOOK_EVERY: Duration = Duration::from_millis(4);

/// The longest wait for the last events of a steady load.
const LAST_ARRIVALS: Duration = Duration::from_secs(10);
/// Nodes that events are about, in turn.
pub(super) const NODES: u64 = 100;

/// Sends events to a node.
#[derive(Clone)]
pub(super) struct Publisher {
    /// The number of topics over which the events of each `bench.node-…` are spread; 0 for one.
    pub cases: u64,
    client: Client,
    /// Events go to the nodes in turn.
    doors: Arc<[Door]>,
    next: Arc<AtomicU64>,
}

/// A node's address for events.
struct Door {
    events: Destination,
    batches: Destination,
}

/// The shape of a load.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub events: u64,
    /// Events a request; 1 uses the route for single events.
    pub batch: u64,
    pub connections: usize,
    /// The most published events that have not arrived everywhere.
    pub window: u64,
    /// Deliveries an event causes.
    pub webhooks: u64,
}

pub(super) fn client() -> anyhow::Result<Client> {
    let policy = EgressPolicy { allow_private: vec!["127.0.0.0/8".parse()?], ..EgressPolicy::default() };
    Ok(Client::new(ClientOptions { policy, ..ClientOptions::default() })?)
}

/// The result of a steady load.
pub(super) struct Steady {
    /// Until each 202, in microseconds.
    pub accepted_us: Histogram<u64>,
    pub arrived: Arrived,
    /// Events that were published and have not arrived.
    pub missing: u64,
}

/// The topic of event `n`: one of a hundred nodes', and of their cases.
fn topic(n: u64, cases: u64) -> String {
    let node = n % NODES;
    match (n / NODES).checked_rem(cases) {
        Some(case) => format!("bench.node-{node}.case-{case}"),
        None => format!("bench.node-{node}.auth"),
    }
}

/// One event, as JSON.
pub(super) fn event(topic: &str, n: u64, sent_us: i64) -> String {
    format!(r#"{{"topic":"{topic}","type":"auth.failed","payload":{}}}"#, payload(n, sent_us))
}

/// Its payload.
pub(super) fn payload(n: u64, sent_us: i64) -> String {
    format!(r#"{{"filler":"{FILLER}","n":{n},"sent_us":{sent_us}}}"#)
}

impl Publisher {
    pub(super) fn new(node: &Node) -> anyhow::Result<Self> {
        Self::to_all(std::slice::from_ref(node))
    }

    /// To nodes in turn.
    pub(super) fn to_all(nodes: &[Node]) -> anyhow::Result<Self> {
        let door = |node: &Node| -> anyhow::Result<Door> {
            let events = Destination::parse(&format!("{}/api/v1/events", node.url))?;
            Ok(Door { events, batches: Destination::parse(&format!("{}/api/v1/events/batch", node.url))? })
        };
        let doors = nodes.iter().map(door).collect::<anyhow::Result<Vec<_>>>()?;
        anyhow::ensure!(!doors.is_empty(), "there is no node to publish to");
        Ok(Self { cases: 0, client: client()?, doors: doors.into(), next: Arc::default() })
    }

    /// Publishes as fast as deliveries arrive. Returns the time until all have arrived.
    pub(super) async fn closed_loop(
        &self,
        shape: Shape,
        receiver: &mut ReceiverProcess,
        progress: impl Fn(u64),
    ) -> anyhow::Result<Duration> {
        let (news, arrived) = watch::channel(0);
        self.next.store(0, Ordering::Relaxed);
        receiver.reset(shape.webhooks)?;
        let began_at = Instant::now();
        let senders: Vec<_> = (0..shape.connections)
            .map(|_| {
                let (publisher, arrived) = (self.clone(), arrived.clone());
                tokio::spawn(async move { publisher.send_in_window(shape, arrived).await })
            })
            .collect();
        let mut last_news = Instant::now();
        // A failed sender reports its error at the end. The others go on until nothing arrives any more.
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let count = tokio::task::block_in_place(|| receiver.arrived())?.count;
            if count != news.send_replace(count) {
                last_news = Instant::now();
            }
            progress(count);
            if count >= shape.events * shape.webhooks {
                break;
            }
            if last_news.elapsed() > STALL {
                break;
            }
        }
        let took = began_at.elapsed();
        drop(news);
        for sender in senders {
            sender.await??;
        }
        let (count, expected) = (receiver.arrived()?.count, shape.events * shape.webhooks);
        anyhow::ensure!(count >= expected, "{count} of {expected} deliveries arrived");
        Ok(took)
    }

    async fn send_in_window(&self, shape: Shape, mut arrived: watch::Receiver<u64>) -> anyhow::Result<()> {
        loop {
            let first = self.next.fetch_add(shape.batch, Ordering::Relaxed);
            if first >= shape.events {
                return Ok(());
            }
            arrived.wait_for(|arrived| first <= arrived / shape.webhooks + shape.window).await?;
            self.send(first, shape.batch.min(shape.events - first)).await?;
        }
    }

    /// Publishes without regard to arrivals.
    pub(super) async fn fill(&self, events: u64, batch: u64, progress: impl Fn(u64)) -> anyhow::Result<()> {
        for first in (0..events).step_by(usize::try_from(batch)?) {
            self.send(first, batch.min(events - first)).await?;
            progress(first + batch);
        }
        Ok(())
    }

    /// Publishes single events at a steady rate, in requests of their own, so that a slow one does not delay others,
    /// and waits for their arrival.
    pub(super) async fn steady(
        &self,
        rate_per_s: u64,
        duration: Duration,
        receiver: &mut ReceiverProcess,
    ) -> anyhow::Result<Steady> {
        receiver.reset(1)?;
        let accepted_us = Arc::new(Mutex::new(histogram()?));
        let count = rate_per_s * duration.as_secs();
        let began_at = Instant::now();
        let mut requests = tokio::task::JoinSet::new();
        for n in 0..count {
            let due_at = began_at + Duration::from_micros(n * 1_000_000 / rate_per_s);
            tokio::time::sleep_until(due_at).await;
            let (publisher, accepted_us) = (self.clone(), Arc::clone(&accepted_us));
            requests.spawn(async move {
                let began_at = Instant::now();
                publisher.send(n, 1).await?;
                accepted_us.lock().saturating_record(fit(began_at.elapsed().as_micros(), u64::MAX));
                anyhow::Ok(())
            });
        }
        while let Some(request) = requests.join_next().await {
            request??;
        }
        let waiting_since = Instant::now();
        while receiver.arrived()?.count < count && waiting_since.elapsed() < LAST_ARRIVALS {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let arrived = receiver.report()?;
        let accepted_us = accepted_us.lock().clone();
        Ok(Steady { accepted_us, arrived, missing: count - arrived.count })
    }

    /// Publishes one event on a topic that is not measured.
    pub(super) async fn aside(&self, topic: &str) -> anyhow::Result<()> {
        self.post(&self.doors[0].events, event(topic, 0, 0)).await
    }

    async fn send(&self, first: u64, count: u64) -> anyhow::Result<()> {
        let sent_us = SystemClock.now().0;
        // Batches begin at multiples of their size.
        let door = &self.doors[usize::try_from(first / count)? % self.doors.len()];
        let (destination, body) = if count == 1 {
            (&door.events, event(&topic(first, self.cases), first, sent_us))
        } else {
            let mut batch = String::with_capacity(2 * FILLER.len() * usize::try_from(count)?);
            for n in first..first + count {
                batch.push(if n == first { '[' } else { ',' });
                batch.push_str(&event(&topic(n, self.cases), n, sent_us));
            }
            batch.push(']');
            (&door.batches, batch)
        };
        self.post(destination, body).await
    }

    async fn post(&self, destination: &Destination, body: String) -> anyhow::Result<()> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(destination.as_str())
            .header(header::AUTHORIZATION, format!("Bearer {TOKEN}"))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Bytes::from(body))?;
        let answer = self
            .client
            .request(destination, request, MAX_ANSWER_BYTES, TIMEOUT)
            .await
            .map_err(|end| anyhow::anyhow!("publishing failed: {end:?}"))?;
        if answer.status() != 202 {
            bail!("publishing failed: {} {}", answer.status(), String::from_utf8_lossy(answer.body()));
        }
        Ok(())
    }
}
