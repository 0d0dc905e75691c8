//! A loud tenant beside a quiet one: what the quiet one notices of each flood.
//!
//! The quiet one publishes at a steady rate and is measured alone and then beside the flood, for each flood, on the same
//! server. Callers of the loud one ask without a pause, and after a moment again when they are refused.

use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

use super::dead::DeadReceivers;
use super::flood::{Call, Flooding};
use super::load::{Publisher, Steady, client};
use super::node::Node;
use super::receiver::ReceiverProcess;
use super::report::{Figure, Report};
use crate::delivery::client::Client;

const LOUD: &str = "loud";
/// Events a second of the quiet tenant.
const RATE_PER_S: u64 = 200;
/// Callers of a flood.
const CALLERS: usize = 8;
/// The payload of a large event, which with the rest of it is below the limit.
const LARGE_BYTES: usize = 1_000_000;
/// Webhooks of the loud tenant that never answer, and events that each burst owes them.
const DEAD_WEBHOOKS: u64 = 200;
const BURST_EVENTS: usize = 1_000;
/// Keys of a payload that a template goes through.
const KEYS: usize = 20_000;

/// The sizes of the measurements.
#[derive(Clone, Copy)]
pub(super) struct Size {
    pub steady: Duration,
    /// The duration of a flood before the measurement. The server is left alone for twice as long before the flood.
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

/// The floods of the loud tenant.
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
        // The last flood leaves deliveries that are retried for long.
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
        // The loud tenant has no quotas.
        let quotas =
            json!({ "max_webhooks": null, "max_events_per_s": null, "max_pending": null, "max_stored_bytes": null });
        node.remote.post(&["tenants"], &json!({ "name": LOUD, "quotas": quotas })).await?;
        let publisher = Publisher::new(&node)?;
        Ok(Self { size, node, publisher, receiver, client: client()?, say })
    }

    pub(super) async fn measure(mut self, report: &mut Report) -> anyhow::Result<()> {
        (self.say)("tenants: making a loud one");
        let receivers = DeadReceivers::start()?;
        let calls = self.calls(&receivers).await?;
        for _ in 0..self.size.searched {
            self.send(&calls.large).await?;
        }
        let accept = |steady: &Steady| ms(steady.accepted_us.value_at_quantile(0.99));
        let arrival = |steady: &Steady| ms(steady.arrived.p99_us);
        let mut missing = 0;
        for flood in Flood::ALL {
            let alone = self.alone().await?;
            let flooding = Flooding::start(calls.of(flood), CALLERS)?;
            tokio::time::sleep(self.size.flooding).await;
            let beside = self.steady(&format!("beside {}", flood.name())).await?;
            drop(flooding);
            for (what, alone, beside) in
                [("accept", accept(&alone), accept(&beside)), ("arrival", arrival(&alone), arrival(&beside))]
            {
                report.add(Figure::new(format!("a quiet tenant alone, {what} p99"), "ms", alone));
                report.add(Figure::new(format!("  beside {}", flood.name()), "ms", beside));
                report.add(Figure::new("  against alone", "×", beside / alone.max(0.001)).at_most(2.0));
            }
            missing += alone.missing + beside.missing;
        }
        report.add(Figure::new("  missing at the quiet one", "", missing as f64).at_most(0.0));
        Ok(())
    }

    /// Measures the quiet tenant before a flood, after the work of the flood before is done and on the disk.
    async fn alone(&mut self) -> anyhow::Result<Steady> {
        (self.say)("tenants: waiting for the disk");
        tokio::task::spawn_blocking(rustix::fs::sync).await?;
        self.publisher.steady(RATE_PER_S, 2 * self.size.flooding, self.receiver).await?;
        self.steady("alone").await
    }

    async fn steady(&mut self, how: &str) -> anyhow::Result<Steady> {
        (self.say)(&format!("tenants: a quiet one {how}"));
        self.publisher.steady(RATE_PER_S, self.size.steady, self.receiver).await
    }

    /// Makes the loud tenant's resources and calls.
    async fn calls(&self, receivers: &DeadReceivers) -> anyhow::Result<Calls> {
        let template = "{ \"count\": {{ event.payload|length }}, \"all\": {{ event.payload|tojson }} }";
        let shaped = json!({
            "name": "shaped", "url": self.receiver.url(0), "topic_patterns": ["loud.shaped"], "shape": { "template": template },
        });
        self.make(&shaped).await?;
        // A silent receiver, for which a test waits until its timeout.
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
        let call = |method, path: &str, body| self.call(method, path, body);
        Ok(Calls {
            large: call("POST", "events", &large),
            search: call("GET", "events?q=what-is-not-there", &Value::Null),
            preview: call("POST", "shapes/preview", &preview),
            shaped: call("POST", "events", &event("loud.shaped", payload(KEYS))),
            test: call("POST", &format!("webhooks/{silent}/test"), &Value::Null),
            act: call("PATCH", &format!("webhooks/{silent}"), &json!({ "description": "once more" })),
            dead: call("POST", "events", &event("loud.dead", json!({}))),
            burst: call("POST", "events/batch", &Value::from(burst)),
        })
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Call {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let url = format!("{}/api/v1/{path}", self.node.url);
        Call { method: method.to_owned(), url, tenant: LOUD.to_owned(), body }
    }

    async fn make(&self, webhook: &Value) -> anyhow::Result<String> {
        let (status, answer) = self.call("POST", "webhooks", webhook).send(&self.client).await?;
        let made: Value = serde_json::from_slice(&answer).unwrap_or_default();
        let uuid = made["uuid"].as_str().with_context(|| format!("no webhook was made: {status} {made}"))?;
        Ok(uuid.to_owned())
    }

    async fn send(&self, call: &Call) -> anyhow::Result<()> {
        let (status, answer) = call.send(&self.client).await?;
        anyhow::ensure!(status.is_success(), "{status} {}", String::from_utf8_lossy(&answer));
        Ok(())
    }
}

/// The calls of each flood.
struct Calls {
    large: Call,
    search: Call,
    preview: Call,
    shaped: Call,
    test: Call,
    act: Call,
    dead: Call,
    burst: Call,
}

impl Calls {
    fn of(&self, flood: Flood) -> &Call {
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

fn ms(us: u64) -> f64 {
    us as f64 / 1e3
}
