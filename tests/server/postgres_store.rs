//! What is special to the PostgreSQL store: partitions, several nodes on one database, and a server that goes away.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postrider::clock::UnixMicros;
use postrider::delivery::{DeliveryState, Transition};
use postrider::event::Event;
use postrider::signing::SigningKeys;
use postrider::store::postgres::{PostgresOptions, PostgresStore};
use postrider::store::replay::{NewReplay, ReplayAction, ReplayStep, Selection};
use postrider::store::retention::{Cutoffs, Retention};
use postrider::store::seal::MasterKey;
use postrider::store::{
    Accepted, DeliveryKey, Disposition, EventSeq, NewEvent, Owed, Page, SettleBatch, Settlement, Store, StoreError,
};
use postrider::topic::{Pattern, Topic};
use postrider::webhook::{DEFAULT_TENANT, Webhook, WebhookSeq, WebhookSettings};

use crate::support::postgres_server::{Cluster, Shutdown};

const DATABASE: &str = "hooks";

fn at(seconds: i64) -> UnixMicros {
    UnixMicros(seconds * 1_000_000)
}

/// A node's store.
async fn node(server: &Cluster) -> Arc<dyn Store> {
    let options = PostgresOptions::new(server.url(DATABASE).into());
    Arc::new(PostgresStore::open(options, &MasterKey::new([7; 32])).await.unwrap())
}

fn settings(name: &str) -> WebhookSettings {
    WebhookSettings {
        name: name.to_owned(),
        description: String::new(),
        receiver: Webhook::new("https://receiver.example/", SigningKeys::generate()).unwrap(),
        topic_patterns: vec![Pattern::parse(">").unwrap()],
        enabled: true,
        max_in_flight: 1,
        retry_schedule: None,
        policy: postrider::webhook::Policy::default(),
    }
}

async fn webhook(store: &dyn Store, name: &str) -> WebhookSeq {
    store.create_webhook(DEFAULT_TENANT, settings(name), at(1)).await.unwrap().seq
}

/// Accepts an event at 100 s that is owed to one webhook.
async fn accept(store: &dyn Store, id: &str, webhook: WebhookSeq) -> DeliveryKey {
    let body = Bytes::from(format!(r#"{{"id":"{id}"}}"#));
    let event = Event::from_stored(id.into(), Topic::parse("a.b").unwrap(), "".into(), body);
    let owed = vec![Owed { webhook, disposition: Disposition::InMemory }];
    let new = NewEvent { tenant: DEFAULT_TENANT, event, accepted_at: at(100), owed };
    match store.accept(vec![new]).await.unwrap()[..] {
        [Accepted::New { seq }] => DeliveryKey { event: seq, webhook },
        ref other => panic!("not one new event: {other:?}"),
    }
}

/// Ends deliveries as dead, at 300 s.
async fn bury(store: &dyn Store, keys: &[DeliveryKey]) {
    let settlements = keys.iter().map(|key| Settlement {
        key: *key,
        attempt: None,
        round_attempts: 0,
        transition: Transition::dead("non-retryable 404".to_owned()),
        at: at(300),
    });
    store.settle(Arc::new(SettleBatch { settlements: settlements.collect(), ..SettleBatch::default() })).await.unwrap();
}

/// Lets go whatever has ended before 1,000 s.
fn retention() -> Retention {
    let cutoff = Some(at(1_000));
    let default = Cutoffs { events: cutoff, delivered: cutoff, dead: cutoff, attempts: None };
    Retention { default, tenants: HashMap::new() }
}

/// What a statement says of one number.
async fn number(server: &Cluster, sql: &str) -> i64 {
    server.connect(DATABASE).await.query_one(sql, &[]).await.unwrap().get(0)
}

async fn has_partition(server: &Cluster, partition: i64) -> bool {
    let found = "SELECT count(*) FROM pg_class WHERE relname = ANY(ARRAY";
    let names = ["event", "delivery", "attempt"].map(|table| format!("'{table}_p{partition}'")).join(", ");
    match number(server, &format!("{found}[{names}])")).await {
        0 => false,
        3 => true,
        some => panic!("{some} of the three tables of partition {partition} are there"),
    }
}

/// As if so many events had been accepted meanwhile.
async fn skip_to(server: &Cluster, event: i64) {
    server.execute(DATABASE, &format!("SELECT setval('event_number', {event})")).await;
}

#[tokio::test]
async fn a_partition_is_dropped_when_its_last_event_has_gone() {
    let server = Cluster::with_database(DATABASE).await;
    let store = node(&server).await;
    let a = webhook(&*store, "a").await;
    let first = accept(&*store, "first", a).await;
    let held = accept(&*store, "held", a).await;
    bury(&*store, &[first]).await;
    for partition in 1..4 {
        store.close().await;
        skip_to(&server, partition * 4_000_000).await;
        let store = node(&server).await;
        let later = accept(&*store, &format!("in {partition}"), a).await;
        assert_eq!(later.event.0 / 4_000_000, partition);
        bury(&*store, &[later]).await;
        store.close().await;
    }

    let store = node(&server).await;
    let purged = store.purge_events(EventSeq(0), &retention()).await.unwrap();
    assert_eq!((purged.count, purged.is_end), (4, true), "all but the one that is held");
    assert!(!store.release_space().await.unwrap(), "there is one to drop, and it was dropped");
    let mut left = Vec::new();
    for partition in 0..6 {
        left.push(has_partition(&server, partition).await);
    }
    // 0 has an event, 1 had none left, 2 is the one before the present, 4 and 5 are to come.
    assert_eq!(left, [true, false, true, true, true, true]);

    bury(&*store, &[held]).await;
    assert_eq!(store.purge_events(EventSeq(0), &retention()).await.unwrap().count, 1);
    assert!(!store.release_space().await.unwrap());
    assert!(!has_partition(&server, 0).await);
    assert_eq!(number(&server, "SELECT count(*) FROM event_id").await, 0, "ids are free again");
    store.close().await;
    let store = node(&server).await;
    assert!(!has_partition(&server, 0).await, "what is past is not made again");
    accept(&*store, "first", a).await;
}

#[tokio::test]
async fn a_partition_in_use_is_left_for_another_time() {
    let server = Cluster::with_database(DATABASE).await;
    let store = node(&server).await;
    let a = webhook(&*store, "a").await;
    store.close().await;
    skip_to(&server, 2 * 4_000_000).await;
    let store = node(&server).await;
    let reader = server.connect(DATABASE).await;
    reader.batch_execute("BEGIN; SELECT count(*) FROM event_p0").await.unwrap();
    assert!(!store.release_space().await.unwrap());
    assert!(has_partition(&server, 0).await);
    accept(&*store, "meanwhile", a).await;
    reader.batch_execute("COMMIT").await.unwrap();
    assert!(!store.release_space().await.unwrap());
    assert!(!has_partition(&server, 0).await);
}

/// An event is purged or its delivery is made pending again, never half of both.
#[tokio::test]
async fn what_is_retried_while_it_is_purged_goes_or_stays_as_a_whole() {
    let server = Cluster::with_database(DATABASE).await;
    let store = node(&server).await;
    let a = webhook(&*store, "a").await;
    let mut retried = 0;
    for number in 0..40 {
        let key = accept(&*store, &number.to_string(), a).await;
        bury(&*store, &[key]).await;
        let purging = tokio::spawn({
            let store = Arc::clone(&store);
            async move { store.purge_events(EventSeq(0), &retention()).await.unwrap().count }
        });
        let retry = if number % 2 == 0 {
            store.retry_delivery(DEFAULT_TENANT, key, at(400)).await.map(drop)
        } else {
            store.resend(DEFAULT_TENANT, key.event, vec![a], at(400)).await.map(drop)
        };
        assert!(matches!(retry, Ok(()) | Err(StoreError::NotFound)), "{retry:?}");
        purging.await.unwrap();
        match store.delivery(DEFAULT_TENANT, key).await.unwrap() {
            Some(delivery) => {
                assert_eq!(delivery.state, DeliveryState::Pending);
                retried += 1;
            }
            None => assert!(store.event(DEFAULT_TENANT, &number.to_string()).await.unwrap().is_none()),
        }
    }
    for table in ["pending", "delivery", "attempt", "event_id"] {
        let orphans = format!(
            "SELECT count(*) FROM {table} WHERE NOT EXISTS (SELECT 1 FROM event WHERE seq = {table}.event_seq)"
        );
        assert_eq!(number(&server, &orphans).await, 0, "{table}");
    }
    let stats = store.stats(DEFAULT_TENANT).await.unwrap();
    assert_eq!((stats.events, stats.pending, stats.dead), (40, retried, 40 - retried));
}

#[tokio::test]
async fn what_two_nodes_do_at_once_is_done_once() {
    let server = Cluster::with_database(DATABASE).await;
    let nodes = [node(&server).await, node(&server).await];
    let created = nodes.clone().map(|node| {
        tokio::spawn(async move { node.create_webhook(DEFAULT_TENANT, settings("the same"), at(1)).await })
    });
    let mut webhooks = Vec::new();
    for created in created {
        match created.await.unwrap() {
            Err(StoreError::NameTaken) => {}
            created => webhooks.push(created.unwrap().seq),
        }
    }
    let [a] = webhooks[..] else { panic!("{} have the name", webhooks.len()) };

    let mut keys = Vec::new();
    for number in 0..20 {
        keys.push(accept(&*nodes[number % 2], &number.to_string(), a).await);
    }
    bury(&*nodes[0], &keys).await;
    let job = NewReplay {
        webhook: None,
        selection: Selection { states: vec![DeliveryState::Dead], ..Selection::default() },
        action: ReplayAction::Replay { include_unmatched: false },
        rate_per_s: 1_000,
    };
    let job = nodes[0].create_replay(DEFAULT_TENANT, job, at(500)).await.unwrap();
    let steps = nodes.clone().map(|node| {
        let job = job.clone();
        tokio::spawn(async move {
            let scan = node.scan_replay(&job, Arc::new([]), 100).await.unwrap();
            let step = ReplayStep {
                tenant: DEFAULT_TENANT,
                job: job.uuid,
                from: job.cursor,
                change: scan.found,
                add: Vec::new(),
                cursor: scan.cursor,
                scanned: scan.scanned,
                is_end: false,
                now: at(600),
            };
            node.step_replay(step).await.unwrap().changed
        })
    });
    let mut changed = Vec::new();
    for step in steps {
        changed.extend(step.await.unwrap());
    }
    assert_eq!(changed, keys, "each once, all by one of them");
    let stats = nodes[1].stats(DEFAULT_TENANT).await.unwrap();
    assert_eq!((stats.pending, stats.dead), (20, 0));
}

#[tokio::test]
async fn what_was_accepted_outlives_a_crash_of_the_server() {
    let mut server = Cluster::with_database(DATABASE).await;
    let store = node(&server).await;
    let a = webhook(&*store, "a").await;
    let key = accept(&*store, "before", a).await;
    server.stop(Shutdown::Immediate);
    let refused = store.event(DEFAULT_TENANT, "before").await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    assert!(matches!(store.check().await, Err(StoreError::Unavailable(_))));
    server.run_again().await;
    // The same handle goes on, with new connections.
    store.check().await.expect("the server is back");
    assert_eq!(store.event(DEFAULT_TENANT, "before").await.unwrap().unwrap().seq, key.event);
    assert!(accept(&*store, "after", a).await.event > key.event);
}

#[tokio::test]
async fn a_lost_connection_is_replaced() {
    let server = Cluster::with_database(DATABASE).await;
    let store = node(&server).await;
    let a = webhook(&*store, "a").await;
    let key = accept(&*store, "before", a).await;
    server.disconnect(DATABASE).await;
    // A call may come before the news of it.
    let mut found = store.event(DEFAULT_TENANT, "before").await;
    for _ in 0..PostgresOptions::new(String::new().into()).max_connections {
        match found {
            Err(StoreError::Unavailable(_)) => found = store.event(DEFAULT_TENANT, "before").await,
            _ => break,
        }
    }
    assert_eq!(found.unwrap().unwrap().seq, key.event);
    store.check().await.unwrap();
}

#[tokio::test]
async fn the_audit_log_cannot_be_changed_by_whoever_has_the_database() {
    let server = Cluster::with_database(DATABASE).await;
    node(&server).await.close().await;
    let client = server.connect(DATABASE).await;
    let line = "INSERT INTO audit (uuid, at, tenant, actor_name, action, fields)
        VALUES (gen_random_uuid(), 1, 1, 'ops', 'webhook.create', '')";
    client.execute(line, &[]).await.unwrap();
    for sql in ["UPDATE audit SET actor_name = 'nobody'", "DELETE FROM audit", "TRUNCATE audit"] {
        let refused = client.batch_execute(sql).await.unwrap_err();
        assert!(
            refused.as_db_error().is_some_and(|error| error.message().contains("cannot be changed")),
            "{refused:?}"
        );
    }
    assert_eq!(number(&server, "SELECT count(*) FROM audit WHERE actor_name = 'ops'").await, 1);
}

#[tokio::test]
async fn a_plan_made_for_an_empty_queue_does_not_read_a_full_one() {
    const BACKLOG: i64 = 50_000;
    let server = Cluster::with_database(DATABASE).await;
    let store = node(&server).await;
    let a = webhook(&*store, "a").await;
    let key = accept(&*store, "e1", a).await;
    // The planner has never seen the queue other than empty.
    let empty = "BEGIN; CREATE TEMPORARY TABLE kept AS SELECT * FROM pending; DELETE FROM pending; COMMIT;";
    let client = server.connect(DATABASE).await;
    client.batch_execute(empty).await.unwrap();
    client.batch_execute("VACUUM ANALYZE pending").await.unwrap();
    bury(&*store, &[key]).await;

    let backlog = format!(
        "INSERT INTO pending (event_seq, webhook_seq, next_at, updated_at, attempts, round_attempts, in_memory)
         SELECT number, 99, 0, 0, 0, 0, false FROM generate_series(1000, 1000 + {BACKLOG}) AS number"
    );
    client.batch_execute(&backlog).await.unwrap();
    client.batch_execute("INSERT INTO pending SELECT * FROM kept").await.unwrap();
    bury(&*store, &[key]).await;
    assert_eq!(store.stats(DEFAULT_TENANT).await.unwrap().dead, 1);
    // Sessions have told of what they read when they have ended.
    store.close().await;
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'postrider'";
    let ended = async {
        while number(&server, sessions).await > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), ended).await.unwrap();
    let read = "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'pending_pkey'";
    let read = number(&server, read).await;
    assert!(read < BACKLOG / 10, "{read} entries were read");
}

#[tokio::test]
async fn a_page_of_webhooks_is_read_with_few_statements() {
    const WEBHOOKS: usize = 100;
    /// A search reads the names and then 32 webhooks with each statement.
    const MOST: usize = 8;
    let server = Cluster::start_with(&[("log_statement", "all")]).await;
    server.create_database(DATABASE, None).await;
    let store = node(&server).await;
    let mut names = Vec::new();
    for number in 0..WEBHOOKS {
        let name = format!("{} {number}", if number % 2 == 0 { "SIEM" } else { "chat" });
        webhook(&*store, &name).await;
        names.push(name);
    }
    let page = |limit, cursor| Page { limit, cursor };
    for q in [None, Some("siem")] {
        let expected: Vec<_> = names.iter().filter(|name| q.is_none() || name.starts_with("SIEM")).collect();
        let before = statements(&server);
        let first = store.webhook_page(DEFAULT_TENANT, q, page(40, None)).await.unwrap();
        let second = store.webhook_page(DEFAULT_TENANT, q, page(500, first.next_cursor)).await.unwrap();
        let after = statements(&server);
        let found: Vec<_> = first.items.iter().chain(&second.items).map(|record| &record.settings.name).collect();
        assert_eq!((found, second.next_cursor), (expected, None), "oldest first: {q:?}");
        assert!(after > before && after - before <= MOST, "{} statements: {q:?}", after - before);
    }
}

/// How many statements the server has logged that read webhooks.
fn statements(server: &Cluster) -> usize {
    server.log().lines().filter(|line| line.contains("execute ") && line.contains("SELECT seq")).count()
}
