//! Opening the PostgreSQL store, and what it does when the server is in the way of a commit.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postrider::clock::UnixMicros;
use postrider::delivery::Transition;
use postrider::delivery::guard::Destination;
use postrider::event::Event;
use postrider::signing::SigningKeys;
use postrider::store::postgres::{PostgresOptions, PostgresStore};
use postrider::store::seal::MasterKey;
use postrider::store::{
    Accepted, AttemptRecord, DeliveryKey, Disposition, EventSeq, ExchangeBlob, Idempotency, NewEvent, OpenError, Owed,
    Portion, SettleBatch, Settlement, Share, Store, StoreError,
};
use postrider::topic::{Pattern, Topic};
use postrider::webhook::{DEFAULT_TENANT, TenantSeq, Webhook, WebhookSeq, WebhookSettings};

use crate::support::pooler;
use crate::support::postgres_server::Cluster;

const DATABASE: &str = "hooks";
const KEY: [u8; 32] = [7; 32];

fn at(seconds: i64) -> UnixMicros {
    UnixMicros(seconds * 1_000_000)
}

async fn open_with(server: &Cluster, key: [u8; 32]) -> Result<PostgresStore, OpenError> {
    PostgresStore::open(PostgresOptions::new(server.url(DATABASE).into()), &MasterKey::new(key)).await
}

async fn open(server: &Cluster) -> Arc<dyn Store> {
    Arc::new(open_with(server, KEY).await.unwrap())
}

#[tokio::test]
async fn urls_of_before_they_were_sealed_are_sealed_by_the_first_node() {
    let server = Cluster::with_database(DATABASE).await;
    let store = open(&server).await;
    webhook(&*store).await;
    let record = store.webhooks(DEFAULT_TENANT).await.unwrap().remove(0);
    let mut settings = record.settings.clone();
    settings.receiver.destination = Destination::parse("https://receiver.example/T0000/secret?key=secret").unwrap();
    let changed = store.update_webhook(DEFAULT_TENANT, record.uuid, 1, settings.clone(), false, at(2)).await.unwrap();
    assert_eq!(changed.settings, settings);
    let column = async || -> String {
        let client = server.connect(DATABASE).await;
        client.query_one("SELECT url FROM webhook", &[]).await.unwrap().get(0)
    };
    assert_eq!(column().await, "https://receiver.example/…", "a URL that is set is sealed");
    store.close().await;
    // As an older program leaves a row.
    server
        .execute(DATABASE, "UPDATE webhook SET url = 'https://receiver.example/T0000/secret?key=secret', policy = NULL")
        .await;
    let (one, other) = tokio::join!(open(&server), open(&server));
    assert_eq!(column().await, "https://receiver.example/…");
    for store in [one, other] {
        assert_eq!(store.webhooks(DEFAULT_TENANT).await.unwrap()[0].settings, settings);
        store.close().await;
    }
}

async fn webhook(store: &dyn Store) -> WebhookSeq {
    let settings = WebhookSettings {
        name: "a".to_owned(),
        description: String::new(),
        receiver: Webhook::new("https://receiver.example/", SigningKeys::generate()).unwrap(),
        topic_patterns: vec![Pattern::parse(">").unwrap()],
        enabled: true,
        max_in_flight: 1,
        retry_schedule: None,
        policy: postrider::webhook::Policy::default(),
    };
    store.create_webhook(DEFAULT_TENANT, settings, at(1)).await.unwrap().seq
}

fn new(id: &str, kind: &str, webhook: WebhookSeq) -> NewEvent {
    let event = Event::from_stored(id.into(), Topic::parse("a.b").unwrap(), kind.into(), Bytes::from_static(b"{}"));
    let owed = vec![Owed { webhook, disposition: Disposition::InMemory }];
    NewEvent { tenant: DEFAULT_TENANT, event, accepted_at: at(100), owed }
}

async fn accept(store: &dyn Store, id: &str, kind: &str, webhook: WebhookSeq) -> EventSeq {
    match store.accept(vec![new(id, kind, webhook)]).await.unwrap()[..] {
        [Accepted::New { seq }] => seq,
        ref other => panic!("not one new event: {other:?}"),
    }
}

/// What is due, as far as the store can say.
async fn due(store: &dyn Store, webhook: WebhookSeq) -> Vec<EventSeq> {
    let portion = Portion { max_deliveries: 100, max_bytes: usize::MAX, ..Portion::default() };
    match store.due(webhook, at(1_000), portion).await {
        Ok(due) => due.deliveries.iter().map(|due| due.event.seq).collect(),
        // Its connection may be one that was just cut off.
        Err(StoreError::Unavailable(_)) => Vec::new(),
        Err(other) => panic!("{other}"),
    }
}

/// Waits until `is_so`, with the patience of a slow machine.
async fn until<F: Future<Output = bool>>(is_so: impl Fn() -> F) {
    let waiting = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), waiting).await.unwrap();
}

#[tokio::test]
async fn another_master_key_and_a_newer_schema_are_refused() {
    let server = Cluster::with_database(DATABASE).await;
    open(&server).await.close().await;
    let wrong = open_with(&server, [8; 32]).await;
    assert!(matches!(wrong, Err(OpenError::WrongMasterKey { .. })), "{:?}", wrong.err());
    server.execute(DATABASE, "INSERT INTO schema_version (version) VALUES (1000)").await;
    let newer = open_with(&server, KEY).await;
    assert!(matches!(newer, Err(OpenError::NewerSchema { found: 1_000, .. })), "{:?}", newer.err());
}

#[tokio::test]
async fn nodes_that_start_together_make_one_installation() {
    let server = Cluster::with_database(DATABASE).await;
    let (a, b) = tokio::join!(open(&server), open(&server));
    let key = DeliveryKey { event: EventSeq(1), webhook: WebhookSeq(1) };
    assert_eq!(a.delivery_ids().encode(key), b.delivery_ids().encode(key));
    let webhook = webhook(&*a).await;
    let seq = accept(&*a, "e1", "", webhook).await;
    assert_eq!(
        b.accept(vec![new("e1", "", webhook)]).await.unwrap(),
        [Accepted::Duplicate { seq, share: Share { deliveries: 1, skipped: 0 } }]
    );
}

#[tokio::test]
async fn a_server_that_can_lose_what_it_committed_is_refused() {
    for setting in ["fsync", "full_page_writes"] {
        let server = Cluster::start_with(&[(setting, "off")]).await;
        server.create_database(DATABASE, None).await;
        let refused = open_with(&server, KEY).await.err().unwrap();
        assert!(matches!(&refused, OpenError::UnsafeServer { setting: found, .. } if *found == setting), "{refused}");
        let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
        let tables: i64 = server.connect(DATABASE).await.query_one(tables, &[]).await.unwrap().get(0);
        assert_eq!(tables, 0, "nothing was made in it");
        let options =
            PostgresOptions { allow_unsafe_server: true, ..PostgresOptions::new(server.url(DATABASE).into()) };
        PostgresStore::open(options, &MasterKey::new(KEY)).await.unwrap();
    }
}

#[tokio::test]
async fn commits_wait_for_the_disk_whatever_the_default_is() {
    let server = Cluster::start_with(&[("synchronous_commit", "off")]).await;
    server.create_database(DATABASE, None).await;
    // What the store sets in its sessions is seen in what a function of the database is asked by it.
    let store = open(&server).await;
    let spy = "CREATE TABLE seen (value text);
        CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO seen VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$;
        CREATE TRIGGER look AFTER INSERT ON event_id FOR EACH STATEMENT EXECUTE FUNCTION look();";
    server.execute(DATABASE, spy).await;
    let webhook = webhook(&*store).await;
    accept(&*store, "e1", "", webhook).await;
    let seen = server.connect(DATABASE).await.query("SELECT value FROM seen", &[]).await.unwrap();
    assert_eq!(seen.iter().map(|row| row.get(0)).collect::<Vec<&str>>(), ["on"]);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_without_its_password() {
    let server = Cluster::with_database(DATABASE).await;
    let (url, password) = (server.url(DATABASE), server.password().to_owned());
    let nobody = url.replace(&password, "s3cret");
    for (url, secret) in [(nobody, "s3cret"), (url.replace(DATABASE, "none"), &*password)] {
        let refused = PostgresStore::open(PostgresOptions::new(url.into()), &MasterKey::new(KEY)).await;
        let text = refused.err().unwrap().to_string();
        assert!(text.contains(&server.port().to_string()) && !text.contains(secret), "{text}");
    }
    drop(server);
    let refused = PostgresStore::open(PostgresOptions::new(url.into()), &MasterKey::new(KEY)).await;
    let text = refused.err().unwrap().to_string();
    assert!(text.starts_with("database hooks at ") && !text.contains(&password), "{text}");
}

#[tokio::test]
async fn texts_that_a_column_cannot_hold_are_kept_all_the_same() {
    let server = Cluster::with_database(DATABASE).await;
    let store = open(&server).await;
    let webhook = webhook(&*store).await;
    let kind = "type\0with\0zeros";
    let event = accept(&*store, "e1", kind, webhook).await;
    assert_eq!(store.event(DEFAULT_TENANT, "e1").await.unwrap().unwrap().event.kind(), kind);
    let key = DeliveryKey { event, webhook };
    let error = "tls: a certificate for \0".to_owned();
    let attempt = AttemptRecord {
        number: 1,
        started_at: at(200),
        duration_us: 5,
        status_code: None,
        error: Some(error.clone()),
        response: Bytes::from_static(b"\0"),
        exchange: ExchangeBlob::default(),
    };
    let settlement = Settlement {
        key,
        attempt: Some(attempt.clone()),
        round_attempts: 1,
        transition: Transition::dead(error),
        at: at(300),
    };
    store.settle(Arc::new(SettleBatch { settlements: vec![settlement], ..SettleBatch::default() })).await.unwrap();
    let shown = "tls: a certificate for \u{fffd}";
    let delivery = store.delivery(DEFAULT_TENANT, key).await.unwrap().unwrap();
    assert_eq!((&*delivery.kind, delivery.reason.as_deref()), (kind, Some(shown)));
    let kept = store.attempts(key).await.unwrap();
    assert_eq!(kept, [AttemptRecord { error: Some(shown.to_owned()), ..attempt }]);
}

/// Sessions of the store that wait for a lock.
async fn waiting(server: &Cluster) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'postrider' AND wait_event_type = 'Lock'";
    server.connect(DATABASE).await.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn after_a_commit_of_unknown_end_lanes_find_in_the_queue_what_they_do_not_hold() {
    let server = Cluster::with_database(DATABASE).await;
    let store = open(&server).await;
    let webhook = webhook(&*store).await;
    // As if its commit had gone through, and nobody had been told.
    let lost = accept(&*store, "lost", "", webhook).await;
    assert_eq!(due(&*store, webhook).await, [], "its lane holds it");

    let mut blocker = server.connect(DATABASE).await;
    let lock = blocker.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE event_id IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let call = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.accept(vec![new("cut off", "", webhook)]).await }
    });
    until(async || waiting(&server).await == 1).await;
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE application_name = 'postrider' AND wait_event_type = 'Lock'";
    server.execute(DATABASE, cut).await;
    let answer = call.await.unwrap();
    assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    lock.rollback().await.unwrap();

    until(async || due(&*store, webhook).await == [lost]).await;
    assert_eq!(store.pending(DEFAULT_TENANT), 1);
    // The publisher sends it again, as it must.
    let again = accept(&*store, "cut off", "", webhook).await;
    assert!(again > lost);
}

#[tokio::test]
async fn who_shares_a_key_waits_for_the_first_and_gets_its_answer() {
    let server = Cluster::with_database(DATABASE).await;
    let store = open(&server).await;
    let other = open(&server).await;
    let webhook = webhook(&*store).await;
    let once = |body: u8| Idempotency { key: "k".into(), body_hash: [body; 32], now: at(100), expires_at: at(200) };
    let calls = (0..8).map(|number| {
        let store = Arc::clone(if number % 2 == 0 { &store } else { &other });
        let once = once(1);
        tokio::spawn(async move { store.accept_once(DEFAULT_TENANT, vec![new("e1", "", webhook)], once).await })
    });
    let mut first = 0;
    for call in calls.collect::<Vec<_>>() {
        first += u32::from(matches!(call.await.unwrap().unwrap(), postrider::store::AcceptedOnce::Now(_)));
    }
    assert_eq!(first, 1);
    let other_body = other.accept_once(DEFAULT_TENANT, vec![new("e2", "", webhook)], once(2)).await;
    assert!(matches!(other_body, Err(StoreError::IdempotencyConflict)), "{other_body:?}");
    assert_eq!(store.stats(DEFAULT_TENANT).await.unwrap().events, 1);
}

#[tokio::test]
async fn two_nodes_that_accept_the_same_ids_in_any_order_have_each_once() {
    let server = Cluster::with_database(DATABASE).await;
    let nodes = [open(&server).await, open(&server).await];
    let webhook = webhook(&*nodes[0]).await;
    let calls: Vec<_> = (0..40)
        .map(|call| {
            let store = Arc::clone(&nodes[call % 2]);
            tokio::spawn(async move {
                let mut events: Vec<_> = (0..25).map(|id| new(&format!("e{id}"), "", webhook)).collect();
                events.rotate_left(call % 25);
                if call % 3 == 0 {
                    events.reverse();
                }
                let answers = store.accept(events).await.unwrap();
                answers.iter().filter(|answer| matches!(answer, Accepted::New { .. })).count()
            })
        })
        .collect();
    let mut new = 0;
    for call in calls {
        new += call.await.unwrap();
    }
    assert_eq!(new, 25);
    let stats = nodes[1].stats(DEFAULT_TENANT).await.unwrap();
    assert_eq!((stats.events, stats.pending), (25, 25));
}

#[tokio::test]
async fn a_pooler_in_transaction_mode_is_refused_and_called_so() {
    let server = Cluster::with_database(DATABASE).await;
    let pooler = pooler::Pooler::before(server.connect(DATABASE).await).await;
    let url = format!("postgres://postrider:x@{}/{DATABASE}", pooler.address);
    let options = PostgresOptions::new(url.into());
    let opened = PostgresStore::open(options.clone(), &MasterKey::new(KEY)).await;
    let is_new = PostgresStore::is_new(&options).await;
    for error in [opened.err().unwrap(), is_new.err().unwrap()] {
        let said = error.to_string();
        assert!(matches!(error, OpenError::SharedSessions { .. }), "{said}");
        assert!(said.contains("transaction mode") && said.contains("pool_mode = session"), "{said}");
    }
}

/// Columns that were added last are known, too.
#[tokio::test]
async fn a_missing_table_or_column_is_named() {
    let server = Cluster::with_database(DATABASE).await;
    open(&server).await.close().await;
    let client = server.connect(DATABASE).await;
    let last_columns = "
        SELECT DISTINCT ON (relname) relname, attname
        FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
        WHERE relkind IN ('r', 'p') AND NOT relispartition AND relnamespace = 'public'::regnamespace
            AND attnum > 0 AND NOT attisdropped AND relname <> 'schema_version'
        ORDER BY relname, attnum DESC";
    let columns = client.query(last_columns, &[]).await.unwrap();
    assert!(columns.len() >= 18, "{columns:?}");
    let said = async || {
        let error = open_with(&server, KEY).await.err().unwrap();
        assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
        error.to_string()
    };
    for row in columns {
        let (table, column): (String, String) = (row.get(0), row.get(1));
        let rename = async |from: &str, to: &str| {
            client.batch_execute(&format!("ALTER TABLE {table} RENAME COLUMN {from} TO {to}")).await.unwrap();
        };
        rename(&column, "other").await;
        let said = said().await;
        assert!(said.contains(&format!("the table {table} has no column {column}")), "{said}");
        rename("other", &column).await;
    }
    client.batch_execute("ALTER TABLE idempotency RENAME TO other").await.unwrap();
    assert!(said().await.contains("the table idempotency is missing"));
    client.batch_execute("ALTER TABLE other RENAME TO idempotency").await.unwrap();
    open(&server).await.close().await;
}

#[tokio::test]
async fn a_check_fails_while_accepting_would_and_leaves_nothing() {
    let server = Cluster::with_database(DATABASE).await;
    let store = open(&server).await;
    let webhook = webhook(&*store).await;
    store.check().await.unwrap();
    let mut blocker = server.connect(DATABASE).await;
    for table in ["event_id", "event", "pending", "delivery", "counters"] {
        let lock = blocker.transaction().await.unwrap();
        lock.batch_execute(&format!("LOCK TABLE {table} IN SHARE MODE")).await.unwrap();
        let check = tokio::time::timeout(Duration::from_secs(2), store.check()).await.expect("it ends by itself");
        assert!(matches!(check, Err(StoreError::Unavailable(_))), "{table}: {check:?}");
        lock.rollback().await.unwrap();
        store.check().await.unwrap();
    }
    let client = server.connect(DATABASE).await;
    for table in ["event_id", "event", "pending", "delivery"] {
        let count = client.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await.unwrap();
        assert_eq!(count.get::<_, i64>(0), 0, "{table}");
    }
    let stats = store.stats(DEFAULT_TENANT).await.unwrap();
    assert_eq!((stats.events, stats.skipped, store.pending(DEFAULT_TENANT)), (0, 0, 0));
    accept(&*store, "e1", "", webhook).await;
}

#[tokio::test]
async fn a_partition_that_is_gone_is_made_again() {
    let server = Cluster::with_database(DATABASE).await;
    let store = open(&server).await;
    let webhook = webhook(&*store).await;
    let once = |n: u8| Idempotency { key: n.to_string(), body_hash: [n; 32], now: at(1), expires_at: at(100) };
    for (n, damage) in (0..).zip([
        "DROP TABLE IF EXISTS event_p0",
        "ALTER TABLE event DETACH PARTITION event_p0",
        "DROP TABLE IF EXISTS delivery_p0",
        "DROP TABLE IF EXISTS event_p0, delivery_p0, attempt_p0",
    ]) {
        server.execute(DATABASE, damage).await;
        let key = DeliveryKey { event: accept(&*store, &format!("e{n}"), "", webhook).await, webhook };
        server.execute(DATABASE, damage).await;
        let again = vec![new(&format!("o{n}"), "", webhook)];
        store.accept_once(DEFAULT_TENANT, again, once(n)).await.unwrap();
        server.execute(DATABASE, damage).await;
        store.check().await.unwrap();
        let settlement =
            Settlement { key, attempt: None, round_attempts: 1, transition: Transition::delivered(), at: at(2) };
        store.settle(Arc::new(SettleBatch { settlements: vec![settlement], ..SettleBatch::default() })).await.unwrap();
    }
}

/// What makes a database of the schema before stored bytes were counted out of a new one.
const BACK_TO_7: &str = "
    DROP TABLE figure_mark;
    DROP TABLE figure;
    ALTER TABLE delivery DROP COLUMN first_exchange;
    ALTER TABLE attempt DROP COLUMN exchange;
    DROP TABLE inlet;
    DROP TRIGGER audit_stays_in_full ON audit;
    DROP FUNCTION refuse_deletion_from_audit;
    DROP INDEX token_live;
    DROP INDEX audit_at;
    DROP TABLE audit_purge;
    DROP TABLE rejected;
    ALTER TABLE counters DROP COLUMN stored_bytes;
    ALTER TABLE tenant DROP COLUMN max_tokens, DROP COLUMN max_stored_bytes;
    DELETE FROM counters WHERE tenant = 3;
    UPDATE counters SET slot = 3 WHERE tenant = 2;
    DELETE FROM schema_version WHERE version >= 8;";

#[tokio::test]
async fn what_was_stored_before_it_was_counted_counts() {
    let server = Cluster::with_database(DATABASE).await;
    let store = open(&server).await;
    let of = |tenant, id: &str, bytes: usize| {
        let event = Event::from_stored(id.into(), Topic::parse("a.b").unwrap(), "".into(), vec![b'x'; bytes].into());
        NewEvent { tenant: TenantSeq(tenant), event, accepted_at: at(1), owed: Vec::new() }
    };
    store.accept(vec![of(1, "a", 10), of(2, "a", 200_000), of(1, "b", 70_000), of(3, "a", 5)]).await.unwrap();
    store.close().await;
    server.execute(DATABASE, BACK_TO_7).await;
    let (store, other) = tokio::join!(open(&server), open(&server));
    for store in [&store, &other] {
        let counted = [1, 2, 3, 4].map(|tenant| store.stored_bytes(TenantSeq(tenant)));
        assert_eq!(counted, [70_010, 200_000, 5, 0]);
    }
    store.accept(vec![of(3, "b", 6)]).await.unwrap();
    assert_eq!(store.stored_bytes(TenantSeq(3)), 11);
}
