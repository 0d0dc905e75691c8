//! Moves that are cut off, and go on.

use std::process::Stdio;
use std::time::Duration;

use postrider::store::postgres::{PostgresOptions, PostgresStore};
use postrider::store::seal::MasterKey;
use postrider::store::sqlite::{SqliteOptions, SqliteStore};
use postrider::store::{Accepted, EventSeq, Share, Store};
use postrider::webhook::{DEFAULT_TENANT, WebhookSeq};
use serde_json::{Value, json};

use crate::migrate_store::filled::{FAR, event, fill, settings};
use crate::migrate_store::{DATABASE, command, migrate, moved, refused, rows};
use crate::support::postgres_server::Cluster;

/// As many events in each half as make more than one batch.
const EVENTS: usize = 6_000;
const PATIENCE: Duration = Duration::from_mins(1);

/// The schema as a move makes it, which waits at an event's number for as long as somebody has this advisory lock.
async fn stopping_at(cluster: &Cluster, event: i64) {
    let migrations = [
        include_str!("../../../migrations/postgres/0001_initial.sql"),
        include_str!("../../../migrations/postgres/0002_nodes.sql"),
        include_str!("../../../migrations/postgres/0003_present_owner.sql"),
        include_str!("../../../migrations/postgres/0004_transfer.sql"),
        include_str!("../../../migrations/postgres/0005_hops.sql"),
        include_str!("../../../migrations/postgres/0006_checksum.sql"),
        include_str!("../../../migrations/postgres/0007_known.sql"),
        include_str!("../../../migrations/postgres/0008_disk.sql"),
        include_str!("../../../migrations/postgres/0009_records.sql"),
        include_str!("../../../migrations/postgres/0010_rejected.sql"),
        include_str!("../../../migrations/postgres/0011_inlets.sql"),
        include_str!("../../../migrations/postgres/0012_exchanges.sql"),
        include_str!("../../../migrations/postgres/0013_figures.sql"),
    ];
    cluster
        .execute(DATABASE, "CREATE TABLE schema_version (version bigint PRIMARY KEY, migrated_at timestamptz)")
        .await;
    for (number, migration) in (1..).zip(migrations) {
        cluster.execute(DATABASE, &format!("{migration}; INSERT INTO schema_version VALUES ({number}, now())")).await;
    }
    let stop = format!(
        "CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN PERFORM pg_advisory_xact_lock(42); RETURN NEW; END $$;
         CREATE TRIGGER stop BEFORE INSERT ON event FOR EACH ROW WHEN (NEW.seq = {event}) EXECUTE FUNCTION stop();"
    );
    cluster.execute(DATABASE, &stop).await;
}

async fn until_it_waits(cluster: &Cluster) {
    let client = cluster.connect(DATABASE).await;
    let sql = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 42 AND NOT granted";
    let waiting = async {
        while client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap();
}

async fn count(cluster: &Cluster, table: &str) -> u64 {
    let sql = format!("SELECT count(*) FROM {table}");
    let count: i64 = cluster.connect(DATABASE).await.query_one(&sql, &[]).await.unwrap().get(0);
    u64::try_from(count).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_is_killed_goes_on_where_it_was() {
    let (cluster, folder, other) =
        (Cluster::with_database(DATABASE).await, tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let pending = fill(folder.path(), EVENTS).await;
    fill(other.path(), 10).await;
    let store = cluster.url(DATABASE);
    stopping_at(&cluster, 5_500).await;
    let holder = cluster.connect(DATABASE).await;
    holder.execute("SELECT pg_advisory_lock(42)", &[]).await.unwrap();
    let mut first = migrate(folder.path(), &store).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until_it_waits(&cluster).await;
    first.kill().unwrap();
    first.wait().unwrap();
    assert_eq!(count(&cluster, "event").await, 5_000, "one batch is there, and the second comes to nothing");
    // Only now the server learns that nobody waits for it.
    drop(holder);

    let key = folder.path().join("data/master.key");
    let node = tempfile::tempdir().unwrap();
    std::fs::create_dir(node.path().join("data")).unwrap();
    std::fs::copy(key, node.path().join("data/master.key")).unwrap();
    let said =
        refused(command(node.path()).args(["serve", "--listen", "127.0.0.1:0", "--data", "data", "--store", &store]));
    assert!(said.contains("postrider migrate-store") && said.contains("has not finished"), "{said}");
    let said = refused(migrate(folder.path(), &store).arg("--verify"));
    assert!(said.contains("not everything"), "{said}");
    let said = refused(&mut migrate(other.path(), &store));
    assert!(said.contains("another data folder"), "{said}");

    let document = moved(&mut migrate(folder.path(), &store));
    assert_eq!((&document["outcome"], &document["was_begun"]), (&json!("moved"), &json!(true)));
    let events = 2 * EVENTS as u64;
    assert_eq!((rows(&document, "events"), rows(&document, "event ids")), (events, events));
    assert_eq!((rows(&document, "deliveries"), rows(&document, "audit purges")), (3 * events, 1));
    assert_eq!(count(&cluster, "pending").await, pending);
    assert_eq!(count(&cluster, "delivery").await, 3 * events - pending);
    let verified = moved(migrate(folder.path(), &store).arg("--verify"));
    assert_eq!((&verified["outcome"], &verified["tables"]), (&json!("verified"), &document["tables"]));
    works(&cluster, &folder.path().join("data")).await;
}

/// What comes next gets the next numbers, and what was known is known.
async fn works(cluster: &Cluster, data: &std::path::Path) {
    let key = MasterKey::in_folder(data).unwrap().unwrap();
    let store = PostgresStore::open(PostgresOptions::new(cluster.url(DATABASE).into()), &key).await.unwrap();
    let last = FAR + i64::try_from(EVENTS).unwrap() - 1;
    let again = store.accept(vec![event("near-3", "{}", Vec::new()), event("new", "{}", Vec::new())]).await.unwrap();
    assert_eq!(again[0], Accepted::Duplicate { seq: EventSeq(4), share: Share { deliveries: 3, skipped: 0 } });
    let Accepted::New { seq: EventSeq(new) } = again[1] else { panic!("{again:?}") };
    assert!((last + 1..last + 10).contains(&new), "{again:?}");
    let store: &dyn Store = &store;
    let webhook = store.create_webhook(DEFAULT_TENANT, settings("c"), crate::migrate_store::filled::NOW).await.unwrap();
    assert_eq!(webhook.seq, WebhookSeq(4), "the name of the one that was deleted is free, its number is not");
    assert_eq!(store.pending(DEFAULT_TENANT), count(cluster, "pending").await);
    let sql = "SELECT sum(octet_length(body))::bigint FROM event";
    let bytes: i64 = cluster.connect(DATABASE).await.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(store.stored_bytes(DEFAULT_TENANT), bytes.unsigned_abs());
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_is_killed_at_any_moments_ends_with_everything_once() {
    let (cluster, folder) = (Cluster::with_database(DATABASE).await, tempfile::tempdir().unwrap());
    let pending = fill(folder.path(), EVENTS).await;
    let store = cluster.url(DATABASE);
    let mut kills = 0;
    let document: Value = loop {
        let mut run = migrate(folder.path(), &store).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        // Each run has a little longer, so that one ends at last, however slow the machine is.
        let moment = Duration::from_millis(fastrand::u64(20..120) + 150 * kills);
        let began = std::time::Instant::now();
        while began.elapsed() < moment && run.try_wait().unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if run.try_wait().unwrap().is_some() {
            let output = run.wait_with_output().unwrap();
            assert!(output.status.success(), "{output:?}");
            break serde_json::from_slice(&output.stdout).unwrap();
        }
        run.kill().unwrap();
        run.wait().unwrap();
        kills += 1;
    };
    assert!(kills > 0);
    let events = 2 * EVENTS as u64;
    // One that was killed after its end and before its answer leaves nothing to be said by the next.
    if document["outcome"] != "already moved" {
        assert_eq!((rows(&document, "events"), rows(&document, "deliveries")), (events, 3 * events));
    }
    assert_eq!((count(&cluster, "pending").await, count(&cluster, "event_id").await), (pending, events));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_on_which_a_server_has_worked_meanwhile_is_not_mixed_with_what_it_was() {
    let (cluster, folder) = (Cluster::with_database(DATABASE).await, tempfile::tempdir().unwrap());
    fill(folder.path(), 10).await;
    let store = cluster.url(DATABASE);
    moved(&mut migrate(folder.path(), &store));
    cluster.execute(DATABASE, "UPDATE transfer SET finished_at = NULL").await;
    let data = folder.path().join("data");
    let key = MasterKey::in_folder(&data).unwrap().unwrap();
    let source = SqliteStore::open(&data, &key, SqliteOptions::default()).unwrap();
    source.accept(vec![event("one more", "{}", Vec::new())]).await.unwrap();
    source.close().await;
    drop(source);
    let said = refused(&mut migrate(folder.path(), &store));
    assert!(said.contains("has changed since") && said.contains("start anew"), "{said}");
    cluster.create_database("again", None).await;
    assert_eq!(rows(&moved(&mut migrate(folder.path(), &cluster.url("again"))), "events"), 21);
}
