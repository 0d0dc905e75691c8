//! A loud tenant beside a quiet one: what the quiet one notices of each flood.
//!
//! The quiet one publishes at a steady rate and is measured alone, then beside each flood, and alone again, on the same
//! server. Callers of the loud one ask without a pause, and after a moment again when they are refused.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::dead::DeadReceivers;
use super::load::{Publisher, Steady, client};
use super::node::{Node, TOKEN};
use super::receiver::ReceiverProcess;
use super::report::{Figure, Report};
use crate::delivery::client::Client;
use crate::delivery::guard::Destination;

const LOUD: &str = "loud";
/// Events a second of the quiet tenant.
const RATE_PER_S: u64 = 200;
/// Callers of a flood.
const CALLERS: usize = 8;
/// How long a caller waits who was refused, or whose connection ended.
const PAUSE: Duration = Duration::from_millis(10);
/// What is sent before the first measurement.
const WARM_UP: Duration = Duration::from_secs(1);
const MAX_ANSWER_BYTES: usize = 16 << 20;
const TIMEOUT: Duration = Duration::from_mins(1);
/// The payload of a large event, which with the rest of it is below the limit.
const LARGE_BYTES: usize = 1_000_000;
/// Webhooks of the loud tenant that never answer, and events that each burst owes them.
const DEAD_WEBHOOKS: u64 = 200;
const BURST_EVENTS: usize = 1_000;
/// Keys of a payload that a template goes through.
const KEYS: usize = 20_000;

/// How much is measured.
#[derive(Clone, Copy)]
pub(super) struct Size {
    pub steady: Duration,
    /// How long a flood goes on before it is measured beside.
    pub flooding: Duration,
    /// Large events that the loud tenant's listings search.
    pub searched: u64,
}

impl Size {
    pub(super) const FULL: Self =
        Self { steady: Duration::from_secs(15), flooding: Duration::from_secs(2), searched: 200 };
    pub(super) const QUICK: Self =
        Self { steady: Duration::from_secs(5), flooding: Duration::from_secs(1), searched: 100 };
    pub(super) const TINY: Self =
        Self { steady: Duration::from_secs(1), flooding: Duration::from_millis(50), searched: 2 };
}

/// What the loud tenant does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flood {
    Bodies,
    Listings,
    Previews,
    Shapes,
    Tests,
    Acts,
    Dead,
    Bursts,
}

impl Flood {
    const ALL: [Self; 8] =
        // The last leaves deliveries that are tried again for long.
        [
            Self::Bodies,
            Self::Listings,
            Self::Previews,
            Self::Shapes,
            Self::Tests,
            Self::Acts,
            Self::Bursts,
            Self::Dead,
        ];

    fn name(self) -> &'static str {
        match self {
            Self::Bodies => "events of 1 MB",
            Self::Listings => "searches",
            Self::Previews => "previews",
            Self::Shapes => "shapes of large events",
            Self::Tests => "tests of webhooks",
            Self::Acts => "changes of a webhook",
            Self::Dead => "dead webhooks",
            Self::Bursts => "batches of 1,000",
        }
    }
}

/// A request that a flood repeats.
struct Call {
    method: Method,
    destination: Destination,
    body: Bytes,
}

pub(super) struct Tenants<'a> {
    size: Size,
    node: Node,
    publisher: Publisher,
    receiver: &'a mut ReceiverProcess,
    client: Client,
    say: &'a dyn Fn(&str),
}

fn payload(keys: usize) -> Value {
    (0..keys).map(|n| (format!("key-{n}"), json!(n))).collect::<serde_json::Map<_, _>>().into()
}

impl<'a> Tenants<'a> {
    pub(super) async fn start(
        size: Size,
        node: Node,
        receiver: &'a mut ReceiverProcess,
        say: &'a dyn Fn(&str),
    ) -> anyhow::Result<Self> {
        node.add_webhook("quiet", "bench.>", &receiver.url(0)).await?;
        node.remote.post(&["tenants"], &json!({ "name": LOUD })).await?;
        let publisher = Publisher::new(&node)?;
        Ok(Self { size, node, publisher, receiver, client: client()?, say })
    }

    pub(super) async fn measure(mut self, report: &mut Report) -> anyhow::Result<()> {
        // Before anything is there of the loud one.
        self.publisher.steady(RATE_PER_S, WARM_UP, self.receiver).await?;
        let before = self.steady("alone").await?;
        (self.say)("tenants: making a loud one");
        let receivers = DeadReceivers::start()?;
        let calls = self.calls(&receivers).await?;
        for _ in 0..self.size.searched {
            self.send(&calls.large).await?;
        }
        // What all that left to do is done when this ends.
        self.publisher.steady(RATE_PER_S, 2 * WARM_UP, self.receiver).await?;
        let mut beside = Vec::new();
        for flood in Flood::ALL {
            let mut callers = JoinSet::new();
            for _ in 0..CALLERS {
                callers.spawn(repeat(self.client.clone(), Arc::clone(calls.of(flood))));
            }
            tokio::time::sleep(self.size.flooding).await;
            let steady = self.steady(&format!("beside {}", flood.name())).await?;
            callers.shutdown().await;
            beside.push((flood, steady));
        }
        // So that the last flood's deliveries are over.
        self.publisher.steady(RATE_PER_S, 2 * WARM_UP, self.receiver).await?;
        let after = self.steady("alone again").await?;
        let accept = |steady: &Steady| ms(steady.accepted_us.value_at_quantile(0.99));
        let arrival = |steady: &Steady| ms(steady.arrived.p99_us);
        let alone = [accept(&before), arrival(&before)];
        report.add(Figure::new("a quiet tenant at 200/s, accept p99", "ms", alone[0]));
        report.add(Figure::new("a quiet tenant at 200/s, arrival p99", "ms", alone[1]));
        // Says how far to trust the others: the machine may have been busy with something else.
        report.add(Figure::new("  after all floods, accept p99", "ms", accept(&after)));
        report.add(Figure::new("  after all floods, arrival p99", "ms", arrival(&after)));
        let mut missing = before.missing + after.missing;
        for (flood, steady) in &beside {
            for (what, value, alone) in [("accept", accept(steady), alone[0]), ("arrival", arrival(steady), alone[1])] {
                report.add(Figure::new(format!("beside {}, {what} p99", flood.name()), "ms", value));
                report.add(Figure::new("  against alone", "×", value / alone.max(0.001)).at_most(2.0));
            }
            missing += steady.missing;
        }
        report.add(Figure::new("  missing at the quiet one", "", missing as f64).at_most(0.0));
        Ok(())
    }

    async fn steady(&mut self, how: &str) -> anyhow::Result<Steady> {
        (self.say)(&format!("tenants: a quiet one {how}"));
        self.publisher.steady(RATE_PER_S, self.size.steady, self.receiver).await
    }

    /// Makes what the loud tenant needs, and what it asks.
    async fn calls(&self, receivers: &DeadReceivers) -> anyhow::Result<Calls> {
        let template = "{ \"count\": {{ event.payload|length }}, \"all\": {{ event.payload|tojson }} }";
        let shaped = json!({
            "name": "shaped", "url": self.receiver.url(0), "topic_patterns": ["loud.shaped"], "shape": { "template": template },
        });
        self.make(&shaped).await?;
        // Silent: a test waits for it until its time is over.
        let silent =
            json!({ "name": "silent", "url": receivers.url(1), "topic_patterns": ["loud.none"], "timeout_s": 1 });
        let silent = self.make(&silent).await?;
        for n in 0..DEAD_WEBHOOKS {
            let url = receivers.url(n);
            let dead =
                json!({ "name": format!("dead-{n}"), "url": url, "topic_patterns": ["loud.dead"], "timeout_s": 1 });
            self.make(&dead).await?;
        }
        let event = |topic: &str, payload: Value| json!({ "topic": topic, "payload": payload });
        let large = event("loud.large", json!({ "text": "x".repeat(LARGE_BYTES) }));
        let preview = json!({ "shape": { "template": template }, "event": event("loud.shaped", payload(KEYS)) });
        let burst: Vec<_> = (0..BURST_EVENTS).map(|n| event("loud.burst", json!({ "number": n }))).collect();
        let call = |method: Method, path: &str, body: &Value| -> anyhow::Result<Arc<Call>> {
            let destination = Destination::parse(&format!("{}/api/v1/{path}", self.node.url))?;
            let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
            Ok(Arc::new(Call { method, destination, body }))
        };
        Ok(Calls {
            large: call(Method::POST, "events", &large)?,
            search: call(Method::GET, "events?q=what-is-not-there", &Value::Null)?,
            preview: call(Method::POST, "shapes/preview", &preview)?,
            shaped: call(Method::POST, "events", &event("loud.shaped", payload(KEYS)))?,
            test: call(Method::POST, &format!("webhooks/{silent}/test"), &Value::Null)?,
            act: call(Method::PATCH, &format!("webhooks/{silent}"), &json!({ "description": "once more" }))?,
            dead: call(Method::POST, "events", &event("loud.dead", json!({})))?,
            burst: call(Method::POST, "events/batch", &Value::from(burst))?,
        })
    }

    async fn make(&self, webhook: &Value) -> anyhow::Result<String> {
        let destination = Destination::parse(&format!("{}/api/v1/webhooks", self.node.url))?;
        let body = Bytes::from(webhook.to_string());
        let (status, answer) = send(&self.client, &Call { method: Method::POST, destination, body }).await?;
        let made: Value = serde_json::from_slice(&answer).unwrap_or_default();
        let uuid = made["uuid"].as_str().with_context(|| format!("no webhook was made: {status} {made}"))?;
        Ok(uuid.to_owned())
    }

    async fn send(&self, call: &Call) -> anyhow::Result<()> {
        let (status, answer) = send(&self.client, call).await?;
        anyhow::ensure!(status.is_success(), "{status} {}", String::from_utf8_lossy(&answer));
        Ok(())
    }
}

/// What each flood repeats.
struct Calls {
    large: Arc<Call>,
    search: Arc<Call>,
    preview: Arc<Call>,
    shaped: Arc<Call>,
    test: Arc<Call>,
    act: Arc<Call>,
    dead: Arc<Call>,
    burst: Arc<Call>,
}

impl Calls {
    fn of(&self, flood: Flood) -> &Arc<Call> {
        match flood {
            Flood::Bodies => &self.large,
            Flood::Listings => &self.search,
            Flood::Previews => &self.preview,
            Flood::Shapes => &self.shaped,
            Flood::Tests => &self.test,
            Flood::Acts => &self.act,
            Flood::Dead => &self.dead,
            Flood::Bursts => &self.burst,
        }
    }
}

/// Asks again and again, until it is aborted.
async fn repeat(client: Client, call: Arc<Call>) {
    loop {
        let is_answered = send(&client, &call).await.is_ok_and(|(status, _)| status.is_success());
        if !is_answered {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// One request for the loud tenant.
async fn send(client: &Client, call: &Call) -> anyhow::Result<(StatusCode, Bytes)> {
    let request = Request::builder()
        .method(call.method.clone())
        .uri(call.destination.as_str())
        .header(header::AUTHORIZATION, format!("Bearer {TOKEN}"))
        .header(header::CONTENT_TYPE, "application/json")
        .header("x-postrider-tenant", LOUD)
        .body(call.body.clone())?;
    let answer = client
        .request(&call.destination, request, MAX_ANSWER_BYTES, TIMEOUT)
        .await
        .map_err(|end| anyhow::anyhow!("no answer: {end:?}"))?;
    Ok((answer.status(), answer.into_body()))
}

fn ms(us: u64) -> f64 {
    us as f64 / 1e3
}
