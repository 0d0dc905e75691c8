//! Retention on a running engine: what is old goes, what is owed stays, and the disk gets its space back.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use postrider::clock::{ManualClock, UnixMicros};
use postrider::delivery::DeliveryState;
use postrider::delivery::client::{Client, ClientOptions};
use postrider::delivery::guard::EgressPolicy;
use postrider::delivery::retry::Schedule;
use postrider::delivery::statuses::StatusLists;
use postrider::dispatcher::{CircuitSettings, DispatcherSettings};
use postrider::engine::figures::{FigureSettings, FiguresKept};
use postrider::engine::nodes::NodeSettings;
use postrider::engine::retention::RetentionSettings;
use postrider::engine::{DEFAULT_IDEMPOTENCY_TTL, Engine, EngineSettings};
use postrider::event::Event;
use postrider::store::seal::MasterKey;
use postrider::store::sqlite::{DATABASE_FILE, SqliteOptions, SqliteStore};
use postrider::store::{
    Act, Actor, AuditFilter, DeliveryFilter, EventFilter, Page, Quotas, Stats, StoredDelivery, TenantPatch,
};
use postrider::topic::Topic;
use postrider::webhook::{Capture, DEFAULT_TENANT, WebhookPatch};

use crate::support::receiver::TestReceiver;

const KEY: [u8; 32] = [5; 32];
const DAY: Duration = Duration::from_hours(24);
const START: UnixMicros = UnixMicros(1_790_000_000_000_000);
const BODY_BYTES: usize = 20_000;
const EVENTS: usize = 1_500;

fn retention() -> RetentionSettings {
    RetentionSettings {
        events: Some(30 * DAY),
        delivered: Some(30 * DAY),
        dead: Some(90 * DAY),
        // Attempts go first, so that they tell of rounds in which nothing else goes.
        attempts: Some(28 * DAY),
        audit: Some(365 * DAY),
        figures: FiguresKept::FOREVER,
        interval: Duration::from_millis(20),
    }
}

async fn start(folder: &Path, clock: &Arc<ManualClock>) -> Arc<Engine> {
    start_with(folder, clock, retention()).await
}

async fn start_with(folder: &Path, clock: &Arc<ManualClock>, retention: RetentionSettings) -> Arc<Engine> {
    let store = SqliteStore::open(folder, &MasterKey::new(KEY), SqliteOptions::default()).unwrap();
    let policy = EgressPolicy { allow_all_private: true, ..EgressPolicy::default() };
    let client = Client::new(ClientOptions { policy, ..ClientOptions::default() }).unwrap();
    let dispatcher = DispatcherSettings {
        max_in_flight: 64,
        max_lane_deliveries: 1_000,
        max_memory_bytes: 64 << 20,
        retry_schedule: Schedule::from_seconds(&[80_000.0; 60]).unwrap(),
        max_age: None,
        capture: Capture::Failures,
        statuses: StatusLists::default(),
        circuit: CircuitSettings {
            threshold: 1_000,
            cool_down: Duration::from_secs(30),
            max_cool_down: Duration::from_hours(1),
        },
    };
    let settings = EngineSettings {
        dispatcher,
        retention,
        figures: FigureSettings::default(),
        idempotency_ttl: DEFAULT_IDEMPOTENCY_TTL,
        new_tenant_quotas: Quotas::default(),
        node: NodeSettings::default(),
    };
    Engine::start(Arc::new(store), client, Arc::clone(clock) as _, settings).await.unwrap()
}

async fn subscribe(engine: &Arc<Engine>, pattern: &str, url: &str) {
    let patch = WebhookPatch {
        name: Some(pattern.to_owned()),
        url: Some(url.to_owned()),
        topic_patterns: Some(vec![pattern.to_owned()]),
        ..WebhookPatch::default()
    };
    engine.create_webhook(DEFAULT_TENANT, patch).await.unwrap();
}

async fn publish(engine: &Arc<Engine>, topic: &str, count: usize) {
    for _ in 0..count.div_ceil(100) {
        let text = "x".repeat(BODY_BYTES);
        let event = || Event::new(Topic::parse(topic).unwrap(), "", &format!(r#"{{"t":"{text}"}}"#), START).unwrap();
        engine.publish(DEFAULT_TENANT, (0..count.min(100)).map(|_| event()).collect()).await.unwrap();
    }
}

async fn wait_for_stats(engine: &Engine, is_wanted: impl Fn(&Stats) -> bool) -> Stats {
    for _ in 0..3_000 {
        let stats = engine.store().stats(DEFAULT_TENANT).await.unwrap();
        if is_wanted(&stats) {
            return stats;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?}", engine.store().stats(DEFAULT_TENANT).await)
}

/// Waits until the engine doubts its clock, if it ever does.
async fn wait_for_doubt(engine: &Engine) {
    for _ in 0..3_000 {
        if engine.is_clock_doubted() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The topics of the events that are there, at most 500, once exactly `count` are.
async fn wait_for_events(engine: &Engine, count: usize) -> Vec<String> {
    let mut found = Vec::new();
    for _ in 0..3_000 {
        let filter = EventFilter::default();
        let page = Page { limit: 500, cursor: None };
        let events = engine.store().events(DEFAULT_TENANT, &filter, page).await.unwrap().items;
        found = events.iter().map(|event| event.event.topic().to_string()).collect();
        if found.len() == count {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} events are left, not {count}", found.len())
}

/// Deliveries that are shown as delivered, newest first, at most 500.
async fn delivered(engine: &Engine) -> Vec<StoredDelivery> {
    let filter = DeliveryFilter { state: Some(DeliveryState::Delivered), ..DeliveryFilter::default() };
    engine.store().deliveries(DEFAULT_TENANT, &filter, Page { limit: 500, cursor: None }).await.unwrap().items
}

/// Waits until the attempts of the newest delivery that was delivered are purged: in the same round, events that were old
/// enough have gone before.
async fn wait_for_round(engine: &Engine) {
    let newest = delivered(engine).await.remove(0).key;
    for _ in 0..3_000 {
        if engine.store().attempts(newest).await.unwrap().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no attempt is purged");
}

/// Waits until the engine believes its clock. What a round did that began in doubt is done.
async fn wait_for_trust(engine: &Engine) {
    for _ in 0..3_000 {
        if !engine.is_clock_doubted() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the clock stays in doubt");
}

/// Waits until the clock's jump is noticed, and says that it is right.
async fn confirm_clock(engine: &Engine) {
    for _ in 0..3_000 {
        if engine.is_clock_doubted() {
            assert!(engine.confirm_clock(DEFAULT_TENANT).await.unwrap());
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nobody notices that the clock has jumped");
}

fn size(folder: &Path) -> u64 {
    std::fs::metadata(folder.join(DATABASE_FILE)).unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn old_events_go_and_the_disk_gets_its_space_back() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(START));
    let engine = start(folder.path(), &clock).await;
    let healthy = TestReceiver::healthy().await;
    let refusing = TestReceiver::start(|_, _| 404.into()).await;
    let failing = TestReceiver::start(|_, _| 503.into()).await;
    subscribe(&engine, "good.>", &healthy.url("/")).await;
    subscribe(&engine, "dead.>", &refusing.url("/")).await;
    subscribe(&engine, "owed.>", &failing.url("/")).await;
    publish(&engine, "dead.one", 1).await;
    publish(&engine, "good.many", EVENTS).await;
    publish(&engine, "owed.one", 1).await;
    wait_for_stats(&engine, |stats| stats.delivered == EVENTS as u64 && stats.dead == 1 && stats.attempts > 1_501)
        .await;
    assert_eq!(engine.drain(Duration::from_secs(10)).await, 0);
    let full = size(folder.path());
    assert!(full > (EVENTS * BODY_BYTES) as u64, "{full}");

    // A day before it is time, nothing goes.
    clock.advance(29 * DAY);
    let engine = start(folder.path(), &clock).await;
    confirm_clock(&engine).await;
    wait_for_round(&engine).await;
    assert_eq!(delivered(&engine).await.len(), 500, "a full page");

    clock.advance(2 * DAY);
    confirm_clock(&engine).await;
    let left = wait_for_events(&engine, 2).await;
    assert_eq!(left, ["owed.one", "dead.one"]);
    let stats = engine.store().stats(DEFAULT_TENANT).await.unwrap();
    assert_eq!((stats.events, stats.delivered, stats.pending), (EVENTS as u64 + 2, EVENTS as u64, 1));
    // Space is given back while it runs.
    for _ in 0..3_000 {
        if !engine.store().release_space().await.unwrap() {
            break;
        }
    }
    assert_eq!(engine.drain(Duration::from_secs(10)).await, 0);
    let small = size(folder.path());
    assert!(small < full / 5, "{full} bytes before, {small} after");

    // The dead one goes in its time; what is owed stays.
    clock.advance(60 * DAY);
    let engine = start(folder.path(), &clock).await;
    confirm_clock(&engine).await;
    assert_eq!(wait_for_events(&engine, 1).await, ["owed.one"]);
    assert_eq!(engine.drain(Duration::from_secs(10)).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_wrong_for_a_while_deletes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(START));
    let brief = RetentionSettings { attempts: Some(Duration::from_secs(20)), ..retention() };
    let engine = start_with(folder.path(), &clock, brief).await;
    let healthy = TestReceiver::healthy().await;
    subscribe(&engine, "good.>", &healthy.url("/")).await;
    publish(&engine, "good.one", 1).await;
    wait_for_stats(&engine, |stats| stats.delivered == 1).await;
    // A round in which the clock is right.
    clock.advance(Duration::from_secs(30));
    wait_for_round(&engine).await;

    // While the server runs, and while it does not.
    for is_running in [true, false] {
        if !is_running {
            engine.drain(Duration::from_secs(10)).await;
        }
        clock.advance(400 * DAY);
        let other = if is_running { None } else { Some(start(folder.path(), &clock).await) };
        let engine = other.as_ref().unwrap_or(&engine);
        wait_for_doubt(engine).await;
        clock.set(START);
        wait_for_trust(engine).await;
        assert_eq!(wait_for_events(engine, 1).await, ["good.one"]);
        if let Some(other) = other {
            clock.advance(400 * DAY);
            confirm_clock(&other).await;
            wait_for_events(&other, 0).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_right_after_a_start_is_in_doubt_too() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(START));
    let hour = Some(Duration::from_hours(1));
    let hourly = RetentionSettings { events: hour, interval: Duration::from_secs(1), ..retention() };
    let engine = start_with(folder.path(), &clock, hourly).await;
    publish(&engine, "good.one", 1).await;
    // Before the first purge, and by less than a server may have been away. That a start has looked at its clock, which
    // takes a moment, nothing tells.
    tokio::time::sleep(Duration::from_millis(500)).await;
    clock.advance(Duration::from_hours(5));
    wait_for_doubt(&engine).await;
    assert!(engine.is_clock_doubted());
    clock.set(START);
    wait_for_trust(&engine).await;
    assert_eq!(wait_for_events(&engine, 1).await, ["good.one"]);
}

/// The actions in the audit log, newest first.
async fn acts(engine: &Engine) -> Vec<String> {
    let page = Page { limit: 100, cursor: None };
    let lines = engine.store().audit(&AuditFilter::default(), page).await.unwrap().items;
    lines.into_iter().map(|line| line.action).collect()
}

async fn wait_for_acts(engine: &Engine, expected: &[&str]) {
    for _ in 0..3_000 {
        if acts(engine).await == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?}", acts(engine).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn old_lines_of_the_audit_log_go_once_the_clock_is_believed() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(START));
    let engine = start(folder.path(), &clock).await;
    let actor = Some(Actor { token: None, name: "ops".to_owned() });
    let act = || Act { actor: actor.clone(), ..Act::from(DEFAULT_TENANT) };
    let named = |name: &str| TenantPatch { name: Some(name.to_owned()), ..TenantPatch::default() };
    let blue = engine.create_tenant(act(), named("blue")).await.unwrap();
    clock.advance(Duration::from_secs(30));
    engine.update_tenant(act(), blue.seq, named("green")).await.unwrap();
    engine.drain(Duration::from_secs(10)).await;

    // There is no event, and a start whose clock is a year ahead deletes no act.
    clock.advance(366 * DAY);
    let engine = start(folder.path(), &clock).await;
    wait_for_doubt(&engine).await;
    clock.set(START);
    wait_for_trust(&engine).await;
    assert_eq!(acts(&engine).await, ["tenant.update", "tenant.create"]);
    clock.advance(366 * DAY);
    confirm_clock(&engine).await;
    wait_for_acts(&engine, &["audit.purge"]).await;
    publish(&engine, "old.one", 1).await;
    engine.drain(Duration::from_secs(10)).await;

    // The line about it goes in its time, and leaves none.
    clock.advance(366 * DAY);
    let engine = start(folder.path(), &clock).await;
    confirm_clock(&engine).await;
    wait_for_acts(&engine, &[]).await;
    // Events are purged after acts, in the same round.
    wait_for_events(&engine, 0).await;
    assert!(acts(&engine).await.is_empty());
}
