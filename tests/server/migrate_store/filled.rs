//! An embedded store with thousands of events, filled without a server.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use postrider::clock::UnixMicros;
use postrider::delivery::Transition;
use postrider::event::{Event, Hops};
use postrider::figures::{Figure, Step};
use postrider::inlet::{InletPatch, InletSettings, InletSignature};
use postrider::signing::SigningKeys;
use postrider::store::figures::{FigureOf, Tallied};
use postrider::store::seal::MasterKey;
use postrider::store::sqlite::{DATABASE_FILE, SqliteOptions, SqliteStore};
use postrider::store::{
    Accepted, AttemptRecord, DeliveryKey, Disposition, EventSeq, Idempotency, NewEvent, NewToken, Owed, Scope,
    SettleBatch, Settlement, Store,
};
use postrider::topic::{Pattern, Topic};
use postrider::webhook::{DEFAULT_TENANT, Policy, Webhook, WebhookSeq, WebhookSettings};

pub(crate) const NOW: UnixMicros = UnixMicros(1_790_000_000_000_000);
/// In one call of the store.
const CHUNK: usize = 500;
/// From this number on are the events of the second half: another partition.
pub(crate) const FAR: i64 = 4_100_000;

/// A store in the folder's `data`, with `events` events from number 1 and as many from [`FAR`]; each is owed to three
/// webhooks. Returns the deliveries that are pending.
pub(crate) async fn fill(folder: &Path, events: usize) -> u64 {
    let data = folder.join("data");
    std::fs::create_dir_all(&data).unwrap();
    let key = MasterKey::create(&data).unwrap();
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&data, &key, SqliteOptions::default()).unwrap());
    let mut webhooks = Vec::new();
    for name in ["a", "b", "c"] {
        webhooks.push(store.create_webhook(DEFAULT_TENANT, settings(name), NOW).await.unwrap().seq);
    }
    store.delete_webhook(DEFAULT_TENANT, store.webhooks(DEFAULT_TENANT).await.unwrap()[2].uuid, NOW).await.unwrap();
    let token = NewToken {
        tenant: DEFAULT_TENANT,
        name: "t".to_owned(),
        scopes: vec![Scope::Read],
        hash: [1; 32],
        expires_at: None,
        now: NOW,
    };
    store.create_token(token).await.unwrap();
    let inlet = InletPatch {
        name: Some("shop".to_owned()),
        signature: Some(InletSignature("stripe".into())),
        secrets: Some(vec!["whsec_shop".to_owned()]),
        topic: Some("stripe.{/type}".to_owned()),
        ..InletPatch::default()
    };
    store.create_inlet(DEFAULT_TENANT, InletSettings::create(&inlet).unwrap(), NOW).await.unwrap();
    for hours in 0..3 {
        let at = UnixMicros(NOW.0 - hours * Step::Hour.length_us());
        let mut figure = Figure { delivered: 3, ..Figure::default() };
        figure.attempts.add_us(7);
        let tallied = webhooks.iter().map(|webhook| Tallied {
            at,
            of: FigureOf { tenant: DEFAULT_TENANT, webhook: *webhook },
            figure: figure.clone(),
        });
        store.add_figures(0, tallied.collect::<Vec<_>>().into()).await.unwrap();
    }
    assert!(store.roll_figures_up(Step::Hour, NOW).await.unwrap());
    let once = Idempotency { key: "k".to_owned(), body_hash: [2; 32], expires_at: NOW, now: NOW };
    store.accept_once(DEFAULT_TENANT, Vec::new(), once).await.unwrap();
    let mut pending = accept(&*store, "near", events, &webhooks).await;
    store.close().await;
    drop(store);
    // As if millions of events had been purged.
    let database = rusqlite::Connection::open(data.join(DATABASE_FILE)).unwrap();
    database.execute("UPDATE progress SET next_event = ?1", [FAR]).unwrap();
    // As if a purge of the audit log had been cut off.
    database.execute("INSERT INTO audit_purge (tenant, lines, first_at, last_at) VALUES (1, 7, 8, 9)", ()).unwrap();
    drop(database);
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&data, &key, SqliteOptions::default()).unwrap());
    pending += accept(&*store, "far", events, &webhooks).await;
    store.close().await;
    pending
}

pub(crate) fn settings(name: &str) -> WebhookSettings {
    WebhookSettings {
        name: name.to_owned(),
        description: String::new(),
        receiver: Webhook::new("https://receiver.example/", SigningKeys::generate()).unwrap(),
        topic_patterns: vec![Pattern::parse(">").unwrap()],
        enabled: true,
        max_in_flight: 32,
        retry_schedule: None,
        policy: Policy::default(),
    }
}

pub(crate) fn event(id: &str, body: &str, owed: Vec<Owed>) -> NewEvent {
    let topic = Topic::parse("a.b").unwrap();
    let event = Event::from_stored(id.into(), topic, "kind\0".into(), Bytes::from(body.to_owned()));
    // Some have come by way of other servers.
    let hops = [1, 2].map(|count| Hops::from_bytes(&[&[count][..], &[7; 8]].concat()));
    let event = event.with_hops(if id.ends_with('7') { hops[id.len() % 2].clone() } else { None });
    NewEvent { tenant: DEFAULT_TENANT, event, accepted_at: NOW, owed }
}

async fn accept(store: &dyn Store, prefix: &str, events: usize, webhooks: &[WebhookSeq]) -> u64 {
    let mut pending: i64 = 0;
    for start in (0..events).step_by(CHUNK) {
        let numbers = start..events.min(start + CHUNK);
        let new = |n: usize| {
            let dispositions = match n % 4 {
                0 => [Disposition::Stored, Disposition::InMemory, Disposition::Skipped("webhook disabled")],
                1 => [Disposition::InMemory, Disposition::Later(UnixMicros(NOW.0 + 5)), Disposition::InMemory],
                _ => [Disposition::InMemory; 3],
            };
            let owed = webhooks.iter().zip(dispositions);
            let owed = owed.map(|(webhook, disposition)| Owed { webhook: *webhook, disposition }).collect();
            event(&format!("{prefix}-{n}"), &format!("{{\"n\":{n}}}"), owed)
        };
        let accepted = store.accept(numbers.clone().map(new).collect()).await.unwrap();
        let mut settlements = Vec::new();
        for (n, accepted) in numbers.zip(accepted) {
            let Accepted::New { seq } = accepted else { panic!("{accepted:?}") };
            settlements.extend(settle(n, seq, webhooks));
        }
        let ended = settlements.iter().filter(|settlement| settlement.transition.next_attempt_at().is_none());
        pending -= i64::try_from(ended.count()).unwrap();
        store.settle(Arc::new(SettleBatch { settlements, ..SettleBatch::default() })).await.unwrap();
    }
    // Three each, but for those that are skipped.
    pending += i64::try_from(3 * events - events.div_ceil(4)).unwrap();
    u64::try_from(pending).unwrap()
}

/// Some are delivered, some failed once and wait or failed three times for good, and some are only in memory.
fn settle(n: usize, event: EventSeq, webhooks: &[WebhookSeq]) -> Vec<Settlement> {
    let settlement = |webhook: usize, number: u32, transition: Transition| {
        let is_success = transition == Transition::delivered();
        let attempt = AttemptRecord {
            number,
            started_at: UnixMicros(NOW.0 + i64::from(number)),
            duration_us: 7,
            status_code: Some(if is_success { 200 } else { 503 }),
            error: (!is_success).then(|| "it said \0 and no".to_owned()),
            response: Bytes::from(vec![b'r'; n % 50]),
            exchange: crate::store_conformance::fixtures::exchange(number),
        };
        Settlement {
            key: DeliveryKey { event, webhook: webhooks[webhook] },
            attempt: Some(attempt),
            round_attempts: number,
            transition,
            at: NOW,
        }
    };
    let again = || Transition::retry_at(UnixMicros(NOW.0 + 1_000), "503".to_owned());
    match n % 4 {
        0 => vec![settlement(0, 1, Transition::delivered())],
        1 => vec![settlement(0, 1, again()), settlement(2, 1, Transition::delivered())],
        2 => vec![
            settlement(0, 1, again()),
            settlement(0, 2, again()),
            settlement(0, 3, Transition::dead("dead\0".to_owned())),
            settlement(1, 1, Transition::delivered()),
            settlement(2, 1, Transition::delivered()),
        ],
        _ => vec![settlement(1, 1, Transition::delivered())],
    }
}
