//! What is special to the embedded store: its files, their damage, their size, and who may open them.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use postrider::clock::UnixMicros;
use postrider::delivery::Transition;
use postrider::event::Event;
use postrider::signing::SigningKeys;
use postrider::store::RetentionStore;
use postrider::store::seal::MasterKey;
use postrider::store::sqlite::{DATABASE_FILE, SqliteOptions, SqliteStore};
use postrider::store::{
    Accepted, Act, Actor, AttemptRecord, Deed, DeliveryKey, Disposition, EventFilter, EventSeq, ExchangeBlob, NewEvent,
    OpenError, Owed, Page, SettleBatch, Settlement, Store, StoreError,
};
use postrider::topic::{Pattern, Topic};
use postrider::webhook::{DEFAULT_TENANT, TenantSeq, Webhook, WebhookRecord, WebhookSeq, WebhookSettings};

const KEY: [u8; 32] = [7; 32];
const NOW: UnixMicros = UnixMicros(1_790_000_000_000_000);

fn open(folder: &Path) -> Result<SqliteStore, OpenError> {
    SqliteStore::open(folder, &MasterKey::new(KEY), SqliteOptions::default())
}

fn limited(folder: &Path, max_bytes: u64) -> SqliteStore {
    let options = SqliteOptions { max_bytes: Some(max_bytes), ..SqliteOptions::default() };
    SqliteStore::open(folder, &MasterKey::new(KEY), options).unwrap()
}

async fn webhook(store: &dyn Store) -> WebhookRecord {
    let keys = SigningKeys::generate();
    let settings = WebhookSettings {
        name: "receiver".to_owned(),
        description: String::new(),
        receiver: Webhook::new("https://receiver.example/", keys).unwrap(),
        topic_patterns: vec![Pattern::parse(">").unwrap()],
        enabled: true,
        max_in_flight: 32,
        retry_schedule: None,
        policy: postrider::webhook::Policy::default(),
    };
    store.create_webhook(DEFAULT_TENANT, settings, NOW).await.unwrap()
}

fn event(id: &str, body_bytes: usize, owed: &[WebhookSeq]) -> NewEvent {
    let body = Bytes::from(vec![b'x'; body_bytes]);
    let event = Event::from_stored(id.into(), Topic::parse("a.b").unwrap(), "".into(), body);
    let owed = owed.iter().map(|webhook| Owed { webhook: *webhook, disposition: Disposition::InMemory }).collect();
    NewEvent { tenant: DEFAULT_TENANT, event, accepted_at: NOW, owed }
}

async fn accept(store: &SqliteStore, new: NewEvent) -> Result<EventSeq, StoreError> {
    match store.accept(vec![new]).await?[..] {
        [Accepted::New { seq }] => Ok(seq),
        ref other => panic!("not one new event: {other:?}"),
    }
}

fn delivered(event: EventSeq, webhook: WebhookSeq) -> SettleBatch {
    let attempt = AttemptRecord {
        number: 1,
        started_at: NOW,
        duration_us: 1,
        status_code: Some(200),
        error: None,
        response: Bytes::new(),
        exchange: ExchangeBlob::default(),
    };
    let settlement = Settlement {
        key: DeliveryKey { event, webhook },
        attempt: Some(attempt),
        round_attempts: 1,
        transition: Transition::delivered(),
        at: NOW,
    };
    SettleBatch { settlements: vec![settlement], ..SettleBatch::default() }
}

/// The database's files and what is in them; not the lock, nor the index of the log, which holds nothing.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .filter(|(name, _)| name != "postrider.lock" && name != "postrider.db-shm")
        .collect();
    files.sort();
    files
}

/// A folder with a closed store of a few hundred events.
async fn filled() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    let webhook = webhook(&store).await.seq;
    let events = (0..300).map(|number| event(&number.to_string(), 600, &[webhook])).collect();
    store.accept(events).await.unwrap();
    store.close().await;
    folder
}

/// Asserts that the store is refused and that nothing was changed by that; returns the error.
fn refused(folder: &Path) -> OpenError {
    let before = contents(folder);
    let Err(error) = open(folder) else { panic!("the store was opened") };
    assert!(before == contents(folder), "a file was changed: {error}");
    error
}

#[tokio::test]
async fn a_fresh_folder_is_private_and_a_closed_store_is_one_file() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("some?/100% #1 data");
    let store = open(&folder).unwrap();
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(folder.join(DATABASE_FILE)).unwrap().permissions().mode() & 0o777, 0o600);
    accept(&store, event("e1", 10, &[])).await.unwrap();
    store.close().await;
    let names: Vec<_> = contents(&folder).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, [DATABASE_FILE]);
    open(&folder).unwrap();
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(open(folder.path()).unwrap());
    let webhook = webhook(&*store).await.seq;
    for number in 0..20 {
        let seq = accept(&store, event(&number.to_string(), 2_000, &[webhook])).await.unwrap();
        if number % 2 == 0 {
            store.settle(Arc::new(delivered(seq, webhook))).await.unwrap();
        }
        if number % 5 == 4 {
            // What a killed process leaves: the files as they are, the index of the log of no use.
            let killed = tempfile::tempdir().unwrap();
            for name in [DATABASE_FILE, "postrider.db-wal"] {
                fs::copy(folder.path().join(name), killed.path().join(name)).unwrap();
            }
            let copy = open(killed.path()).unwrap();
            for id in 0..=number {
                assert!(copy.event(DEFAULT_TENANT, &id.to_string()).await.unwrap().is_some(), "{id} of {number}");
            }
            let stats = copy.stats(DEFAULT_TENANT).await.unwrap();
            assert_eq!((stats.events, stats.delivered), (number + 1, number / 2 + 1));
            let unsettled = copy.unsettled(EventSeq(0), 100).await.unwrap();
            assert_eq!(u64::try_from(unsettled.len()).unwrap(), stats.pending);
        }
    }
}

#[tokio::test]
async fn a_transaction_that_was_cut_off_by_a_crash_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    accept(&store, event("first", 600, &[])).await.unwrap();
    let whole = fs::metadata(folder.path().join("postrider.db-wal")).unwrap().len();
    accept(&store, event("second", 600, &[])).await.unwrap();
    let killed = tempfile::tempdir().unwrap();
    for name in [DATABASE_FILE, "postrider.db-wal"] {
        fs::copy(folder.path().join(name), killed.path().join(name)).unwrap();
    }
    let log = fs::OpenOptions::new().write(true).open(killed.path().join("postrider.db-wal")).unwrap();
    log.set_len(whole + 1_000).unwrap();
    let copy = open(killed.path()).unwrap();
    assert!(copy.event(DEFAULT_TENANT, "first").await.unwrap().is_some());
    assert!(copy.event(DEFAULT_TENANT, "second").await.unwrap().is_none());
    assert!(matches!(copy.accept(vec![event("second", 600, &[])]).await.unwrap()[..], [Accepted::New { .. }]));
}

#[tokio::test]
async fn a_full_store_refuses_whole_calls_and_goes_on_when_there_is_room() {
    const LIMIT: u64 = 1 << 20;
    let folder = tempfile::tempdir().unwrap();
    let store = limited(folder.path(), LIMIT);
    let webhook = webhook(&store).await.seq;
    let mut accepted = Vec::new();
    let full = loop {
        let pair = ["a", "b"].map(|part| event(&format!("{}{part}", accepted.len()), 20_000, &[webhook]));
        match store.accept(pair.to_vec()).await {
            Ok(answers) => accepted.extend(answers),
            Err(error) => break error,
        }
        assert!(accepted.len() < 100, "the limit is not kept");
    };
    assert!(matches!(full, StoreError::Full(_)), "{full}");
    assert!(matches!(store.check().await, Err(StoreError::Full(_))));
    assert_eq!(store.stats(DEFAULT_TENANT).await.unwrap().events, accepted.len() as u64);
    let newest = store.events(DEFAULT_TENANT, &EventFilter::default(), Page { limit: 1, cursor: None }).await.unwrap();
    let Accepted::New { seq: last } = accepted[accepted.len() - 1] else { panic!() };
    assert_eq!(newest.items[0].seq, last, "nothing of the refused call is there");

    // Events that fit are accepted still, with the next number, also next to one that does not.
    let small = event("small", 100, &[]);
    let (small, large) = tokio::join!(
        accept(&store, small),
        store.accept(vec![event("large", 200_000, &[]), event("large too", 200_000, &[])])
    );
    assert_eq!(small.unwrap(), EventSeq(last.0 + 1));
    assert!(matches!(large, Err(StoreError::Full(_))));
    store.close().await;
    assert!(fs::metadata(folder.path().join(DATABASE_FILE)).unwrap().len() <= LIMIT);

    let store = limited(folder.path(), 4 * LIMIT);
    store.check().await.unwrap();
    assert_eq!(store.unsettled(EventSeq(0), 1_000).await.unwrap().len(), accepted.len());
    accept(&store, event("large", 200_000, &[])).await.unwrap();
}

#[tokio::test]
async fn damaged_files_are_refused_and_left_alone() {
    type Damage = (&'static str, fn(&mut fs::File));
    let damage: [Damage; 5] = [
        ("empty", |file| file.set_len(0).unwrap()),
        ("truncated", |file| file.set_len(file.metadata().unwrap().len() / 2 / 4_096 * 4_096).unwrap()),
        ("cut within a page", |file| file.set_len(4_096 * 3 + 77).unwrap()),
        ("a page of garbage", |file| {
            file.seek(SeekFrom::Start(4_096)).unwrap();
            file.write_all(&[0x5a; 4_096]).unwrap();
        }),
        ("a text", |file| {
            file.set_len(0).unwrap();
            file.rewind().unwrap();
            file.write_all("Dear database,\n".repeat(1_000).as_bytes()).unwrap();
        }),
    ];
    for (what, damage) in damage {
        let folder = filled().await;
        damage(&mut fs::OpenOptions::new().write(true).open(folder.path().join(DATABASE_FILE)).unwrap());
        let error = refused(folder.path());
        assert!(matches!(error, OpenError::Corrupt { .. }), "{what}: {error}");
    }
}

#[tokio::test]
async fn another_programs_database_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let other = rusqlite::Connection::open(folder.path().join(DATABASE_FILE)).unwrap();
    other.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1)").unwrap();
    drop(other);
    let error = refused(folder.path()).to_string();
    assert!(error.contains("another program"), "{error}");
}

#[tokio::test]
async fn a_lost_database_is_not_replaced_while_its_log_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    accept(&store, event("e1", 600, &[])).await.unwrap();
    let lost = tempfile::tempdir().unwrap();
    fs::copy(folder.path().join("postrider.db-wal"), lost.path().join("postrider.db-wal")).unwrap();
    assert!(matches!(refused(lost.path()), OpenError::Corrupt { .. }));
}

#[tokio::test]
async fn a_newer_schema_is_refused_also_when_only_the_log_knows() {
    let folder = filled().await;
    let database = folder.path().join(DATABASE_FILE);
    let newer = rusqlite::Connection::open(&database).unwrap();
    newer.pragma_update(None, "user_version", 99).unwrap();

    // As after a crash of the newer program: its version is in the log alone.
    let killed = tempfile::tempdir().unwrap();
    for name in [DATABASE_FILE, "postrider.db-wal"] {
        fs::copy(folder.path().join(name), killed.path().join(name)).unwrap();
    }
    assert!(matches!(refused(killed.path()), OpenError::NewerSchema { found: 99, .. }));
    newer.close().unwrap();
    assert!(matches!(refused(folder.path()), OpenError::NewerSchema { found: 99, .. }));
}

#[tokio::test]
async fn a_second_process_is_refused_until_the_first_has_closed() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    assert!(matches!(open(folder.path()), Err(OpenError::InUse { .. })));
    accept(&store, event("e1", 600, &[])).await.unwrap();
    store.close().await;
    let store = open(folder.path()).unwrap();
    assert!(matches!(open(folder.path()), Err(OpenError::InUse { .. })));
    drop(store);
    open(folder.path()).unwrap();
}

#[tokio::test]
async fn another_master_key_is_refused() {
    let folder = filled().await;
    let before = contents(folder.path());
    let other = SqliteStore::open(folder.path(), &MasterKey::new([8; 32]), SqliteOptions::default());
    assert!(matches!(other, Err(OpenError::WrongMasterKey { .. })));
    assert!(before == contents(folder.path()));
}

#[tokio::test]
async fn no_file_shows_a_secret() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    let record = webhook(&store).await;
    let keys = &record.settings.receiver.keys;
    let shown = keys.standard.expose();
    let needles = [keys.decnet.expose().as_bytes(), shown.trim_start_matches("whsec_").as_bytes(), &KEY];
    let assert_hidden = || {
        for (name, content) in contents(folder.path()) {
            for needle in needles {
                let found = content.windows(needle.len()).any(|window| window == needle);
                assert!(!found, "{name} shows a secret");
            }
        }
    };
    assert!(contents(folder.path()).len() > 1, "the log is looked at too");
    assert_hidden();
    store.close().await;
    assert_hidden();
    let store: Arc<dyn Store> = Arc::new(open(folder.path()).unwrap());
    assert_eq!(store.webhooks(DEFAULT_TENANT).await.unwrap(), [record]);
}

#[tokio::test]
async fn a_sealed_secret_that_was_moved_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    webhook(&store).await;
    store.close().await;
    let tampered = rusqlite::Connection::open(folder.path().join(DATABASE_FILE)).unwrap();
    tampered.execute("UPDATE webhook SET decnet_secret = standard_key", ()).unwrap();
    tampered.close().unwrap();
    let store: Arc<dyn Store> = Arc::new(open(folder.path()).unwrap());
    assert!(matches!(store.webhooks(DEFAULT_TENANT).await, Err(StoreError::Corrupt(_))));
}

#[tokio::test]
async fn a_half_made_database_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("postrider.db.new"), "half").unwrap();
    let store = open(folder.path()).unwrap();
    store.check().await.unwrap();
    store.close().await;
    assert_eq!(contents(folder.path()).len(), 1);
}

#[tokio::test]
async fn a_deleted_lock_file_lets_no_second_process_in() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    fs::remove_file(folder.path().join("postrider.lock")).unwrap();
    assert!(matches!(open(folder.path()), Err(OpenError::InUse { .. })));
    store.close().await;
    open(folder.path()).unwrap();
}

#[tokio::test]
async fn a_log_that_is_damaged_in_the_middle_is_kept_and_the_part_before_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    for n in 0..20 {
        accept(&store, event(&format!("e{n}"), 600, &[])).await.unwrap();
    }
    let killed = tempfile::tempdir().unwrap();
    for name in [DATABASE_FILE, "postrider.db-wal"] {
        fs::copy(folder.path().join(name), killed.path().join(name)).unwrap();
    }
    let log = killed.path().join("postrider.db-wal");
    let mut bytes = fs::read(&log).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&log, &bytes).unwrap();

    let store = open(killed.path()).unwrap();
    assert!(store.event(DEFAULT_TENANT, "e0").await.unwrap().is_some());
    assert!(store.event(DEFAULT_TENANT, "e19").await.unwrap().is_none(), "it lies behind the damage");
    assert_eq!(fs::read(killed.path().join("postrider.db-wal.damaged-1")).unwrap(), bytes);
}

#[tokio::test]
async fn a_check_fails_while_accepting_would_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    let webhook = webhook(&store).await;
    let first = accept(&store, event("e-1", 10, &[webhook.seq])).await.unwrap();
    store.check().await.unwrap();
    let other = rusqlite::Connection::open(folder.path().join(DATABASE_FILE)).unwrap();
    for table in ["event", "delivery"] {
        other.execute_batch(&format!("ALTER TABLE {table} RENAME TO other")).unwrap();
        assert!(store.check().await.is_err(), "{table}");
        other.execute_batch(&format!("ALTER TABLE other RENAME TO {table}")).unwrap();
        store.check().await.unwrap();
    }
    let second = accept(&store, event("e-2", 10, &[webhook.seq])).await.unwrap();
    assert_eq!(second.0, first.0 + 1, "no number is taken");
    let stats = store.stats(DEFAULT_TENANT).await.unwrap();
    assert_eq!((stats.events, stats.skipped), (2, 0));
    store.settle(Arc::new(delivered(first, webhook.seq))).await.unwrap();
    store.settle(Arc::new(delivered(second, webhook.seq))).await.unwrap();
    assert_eq!(store.unsettled(EventSeq(0), 10).await.unwrap().len(), 0);
}

/// What makes a folder of the schema before stored bytes were counted out of a new one.
const BACK_TO_7: &str = "
    ALTER TABLE delivery DROP COLUMN first_exchange;
    ALTER TABLE attempt DROP COLUMN exchange;
    DROP TABLE figure_mark;
    DROP TABLE figure;
    DROP TABLE inlet;
    DROP TABLE rejected;
    DROP INDEX token_live;
    DROP INDEX audit_at;
    DROP TRIGGER audit_stays;
    CREATE TRIGGER audit_stays BEFORE DELETE ON audit BEGIN SELECT raise(ABORT, 'the audit log cannot be changed'); END;
    DROP TABLE audit_purging;
    DROP TABLE audit_purge;
    ALTER TABLE counters DROP COLUMN stored_bytes;
    ALTER TABLE tenant DROP COLUMN max_tokens;
    ALTER TABLE tenant DROP COLUMN max_stored_bytes;
    DELETE FROM counters WHERE tenant = 3;
    PRAGMA user_version = 7;";

#[tokio::test]
async fn what_was_stored_before_it_was_counted_counts() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    let of = |tenant, id: &str, bytes| NewEvent { tenant: TenantSeq(tenant), ..event(id, bytes, &[]) };
    store.accept(vec![of(1, "a", 10), of(2, "a", 200_000), of(1, "b", 70_000), of(3, "a", 5)]).await.unwrap();
    store.close().await;
    let old = rusqlite::Connection::open(folder.path().join(DATABASE_FILE)).unwrap();
    old.execute_batch(BACK_TO_7).unwrap();
    drop(old);
    let store = open(folder.path()).unwrap();
    let counted = [1, 2, 3, 4].map(|tenant| store.stored_bytes(TenantSeq(tenant)));
    assert_eq!(counted, [70_010, 200_000, 5, 0]);
    store.accept(vec![of(3, "b", 6)]).await.unwrap();
    assert_eq!(store.stored_bytes(TenantSeq(3)), 11);
}

#[tokio::test]
async fn the_audit_log_cannot_be_changed_by_whoever_has_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    let actor = Some(Actor { token: None, name: "ops".to_owned() });
    let act = Act { actor, ..Act::from(DEFAULT_TENANT) };
    let deed = Deed {
        at: NOW,
        tenant: DEFAULT_TENANT,
        action: "webhook.test",
        target: Some("x".to_owned()),
        target_name: None,
    };
    store.audited(&act).record(deed).await.unwrap();
    assert!(!store.purge_audit(NOW, NOW).await.unwrap());
    store.close().await;
    let database = rusqlite::Connection::open(folder.path().join(DATABASE_FILE)).unwrap();
    for sql in ["UPDATE audit SET actor_name = 'nobody'", "DELETE FROM audit"] {
        let refused = database.execute(sql, ()).unwrap_err().to_string();
        assert!(refused.contains("cannot be changed"), "{refused}");
    }
}
