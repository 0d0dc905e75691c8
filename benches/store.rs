//! What one event with one webhook costs the embedded store over its life: accept and one successful
//! settlement, each with its commit and fsync. Prints wall time (criterion) and, because the disk waits
//! in it, CPU time of the whole process over a longer run.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark stops at the first surprise and prints")]

use std::sync::Arc;
use std::time::Duration;

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput};
use postrider::clock::UnixMicros;
use postrider::delivery::Transition;
use postrider::delivery::exchange::{Link, Timings};
use postrider::event::Event;
use postrider::signing::SigningKeys;
use postrider::store::exchange::KeptExchange;
use postrider::store::seal::MasterKey;
use postrider::store::sqlite::{SqliteOptions, SqliteStore};
use postrider::store::{
    Accepted, AttemptRecord, DeliveryKey, Disposition, ExchangeBlob, NewEvent, Owed, SettleBatch, Settlement, Store,
};
use postrider::topic::{Pattern, Topic};
use postrider::webhook::{DEFAULT_TENANT, Webhook, WebhookHealth, WebhookSeq, WebhookSettings};
use tokio::runtime::Runtime;

/// A typical event of DECNET, in bytes.
const BODY_BYTES: usize = 600;
/// Events of the run whose CPU time is measured.
const CPU_EVENTS: usize = 100_000;
/// Clock ticks a second in `/proc/self/stat`; 100 on every Linux that we know.
const TICKS_PER_S: f64 = 100.0;

struct Bench {
    runtime: Runtime,
    store: SqliteStore,
    webhook: WebhookSeq,
    exchange: ExchangeBlob,
    _folder: tempfile::TempDir,
}

/// Of a success on a connection that is reused.
fn exchange() -> ExchangeBlob {
    let us = |us| Some(Duration::from_micros(us));
    let timings = Timings { slot: us(3), first_byte: us(1_400), body: us(2), ..Timings::default() };
    let link = Some(Link { address: Some(([192, 0, 2, 1], 443).into()), is_reused: true, is_tls: true });
    KeptExchange { timings, link, captured: None }.to_blob()
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = MasterKey::generate().unwrap();
        let store = SqliteStore::open(folder.path(), &key, SqliteOptions::default()).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let keys = SigningKeys::generate();
        let settings = WebhookSettings {
            name: "bench".to_owned(),
            description: String::new(),
            receiver: Webhook::new("https://receiver.example/", keys).unwrap(),
            topic_patterns: vec![Pattern::parse(">").unwrap()],
            enabled: true,
            max_in_flight: 32,
            retry_schedule: None,
            policy: postrider::webhook::Policy::default(),
        };
        let records: &dyn Store = &store;
        let created = runtime.block_on(records.create_webhook(DEFAULT_TENANT, settings, UnixMicros(1))).unwrap();
        Self { runtime, store, webhook: created.seq, exchange: exchange(), _folder: folder }
    }

    fn events(&self, count: usize) -> Vec<NewEvent> {
        let owed = vec![Owed { webhook: self.webhook, disposition: Disposition::InMemory }];
        let topic = Topic::parse("attacker.session.started").unwrap();
        let event = || {
            let id = uuid::Uuid::new_v4().to_string().into_boxed_str();
            Event::from_stored(id, topic.clone(), "session".into(), Bytes::from(vec![b'x'; BODY_BYTES]))
        };
        let new = || NewEvent {
            tenant: DEFAULT_TENANT,
            event: event(),
            accepted_at: UnixMicros(1_790_000_000_000_000),
            owed: owed.clone(),
        };
        (0..count).map(|_| new()).collect()
    }

    fn live(&self, events: Vec<NewEvent>) {
        let accepted = self.runtime.block_on(self.store.accept(events)).unwrap();
        let settlements = accepted.iter().map(|accepted| self.delivered(accepted)).collect();
        let health = vec![(self.webhook, WebhookHealth::default())];
        self.runtime
            .block_on(self.store.settle(Arc::new(SettleBatch { settlements, health, is_urgent: false, fence: None })))
            .unwrap();
    }

    fn delivered(&self, accepted: &Accepted) -> Settlement {
        let (Accepted::New { seq } | Accepted::Duplicate { seq, .. }) = *accepted;
        let attempt = AttemptRecord {
            number: 1,
            started_at: UnixMicros(1_790_000_000_000_100),
            duration_us: 1_500,
            status_code: Some(200),
            error: None,
            response: Bytes::from_static(b"ok"),
            exchange: self.exchange.clone(),
        };
        Settlement {
            key: DeliveryKey { event: seq, webhook: self.webhook },
            attempt: Some(attempt),
            round_attempts: 1,
            transition: Transition::delivered(),
            at: UnixMicros(1_790_000_000_001_600),
        }
    }
}

/// CPU seconds of this process so far, user and system.
fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let ticks = |field: usize| stat.rsplit(") ").next().unwrap().split(' ').nth(field).unwrap().parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / TICKS_PER_S
}

fn main() {
    let bench = Bench::new();
    let mut criterion = Criterion::default().configure_from_args().sample_size(20);
    let mut group = criterion.benchmark_group("store/accept+settle");
    for batch in [1, 100] {
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function(format!("batch of {batch}"), |bencher| {
            bencher.iter_batched(|| bench.events(batch), |events| bench.live(black_box(events)), BatchSize::SmallInput);
        });
    }
    group.finish();
    drop(criterion);

    let start = cpu_s();
    for _ in 0..CPU_EVENTS / 1_000 {
        black_box(bench.events(1_000));
    }
    let making = cpu_s() - start;
    for batch in [1, 10, 100, 1_000] {
        let events = if batch == 1 { CPU_EVENTS / 10 } else { CPU_EVENTS };
        let start = cpu_s();
        for _ in 0..events / batch {
            bench.live(bench.events(batch));
        }
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let us = 1e6 * ((cpu_s() - start) / events as f64 - making / CPU_EVENTS as f64);
        println!("batch of {batch}: {us:.1} µs of CPU for an event");
    }
    bench.runtime.block_on(bench.store.close());
}
