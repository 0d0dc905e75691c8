//! DECNET's own rows, as they lie in its database.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use rusqlite::{Connection, params};
use serde_json::{Value, json};

use super::{acts, import, webhooks};
use crate::support::receiver::TestReceiver;
use crate::support::server::TestServer;

const ROWS: &str = include_str!("../../fixtures/decnet/import_rows.json");

const TABLE: &str = "CREATE TABLE webhook_subscriptions (
    uuid VARCHAR NOT NULL PRIMARY KEY, name VARCHAR NOT NULL, url VARCHAR NOT NULL, secret VARCHAR NOT NULL,
    topic_patterns VARCHAR NOT NULL, enabled BOOLEAN NOT NULL, consecutive_failures INTEGER NOT NULL,
    last_success_at DATETIME, last_failure_at DATETIME, last_error VARCHAR, auto_disabled_at DATETIME,
    created_at DATETIME NOT NULL, updated_at DATETIME NOT NULL
)";

fn rows() -> Vec<Value> {
    serde_json::from_str(ROWS).unwrap()
}

/// A database as DECNET has it open: in WAL mode, nothing of it in the file itself.
fn database(path: &Path, rows: &[Value]) -> Connection {
    let database = Connection::open(path).unwrap();
    database.pragma_update(None, "journal_mode", "wal").unwrap();
    database.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
    database.execute_batch(TABLE).unwrap();
    for row in rows {
        insert(&database, row);
    }
    database
}

fn insert(database: &Connection, row: &Value) {
    let text = |field: &str| row[field].as_str();
    let number = |field: &str| row[field].as_i64();
    let sql = "INSERT INTO webhook_subscriptions VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
    let values = params![
        text("uuid"),
        text("name"),
        text("url"),
        text("secret"),
        text("topic_patterns"),
        number("enabled"),
        number("consecutive_failures"),
        text("last_success_at"),
        text("last_failure_at"),
        text("last_error"),
        text("auto_disabled_at"),
        text("created_at"),
        text("updated_at"),
    ];
    database.execute(sql, values).unwrap();
}

fn plain(number: u32, url: &str) -> Value {
    let mut row = rows()[0].clone();
    row["uuid"] = json!(uuid::Uuid::from_u128(number.into()).to_string());
    row["name"] = json!(format!("hook {number}"));
    row["url"] = json!(url);
    row
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn every_row_of_decnet_is_taken_over_or_its_reason_told() {
    let (folder, server) = TestServer::in_new_folder().await;
    let path = folder.path().join("decnet.db");
    let _running = database(&path, &rows());

    let said = import(&server, &["decnet", text(&path)]).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.out.contains("nothing made of 21 that could be") && said.out.contains("3 refused"), "{}", said.out);
    assert!(said.out.lines().all(|line| line.chars().count() <= 80), "{}", said.out);
    assert!(!said.out.contains("0123456789abcdef") && !said.out.contains("p%40ss"), "no secret: {}", said.out);
    assert!(webhooks(&server).await.is_empty(), "nothing was made");

    let before = acts(&server).await;
    let said = import(&server, &["decnet", text(folder.path()), "--skip-refused", "--json"]).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    let report = said.json();
    assert_eq!((&report["done"], &report["new"]), (&json!(true), &json!(21)), "{report}");
    assert_eq!(acts(&server).await, before + 21);
    let made = webhooks(&server).await;
    for (number, row) in (1..).zip(rows()) {
        let reported = report["webhooks"].as_array().unwrap().iter().find(|told| {
            told["uuid"].as_str().is_some_and(|uuid| uuid.eq_ignore_ascii_case(row["uuid"].as_str().unwrap()))
        });
        let told = reported.unwrap_or_else(|| panic!("nothing of {row}"));
        let is_refused = match number {
            6 => Some("egress_blocked"),
            19 => Some("the limit is 256"),
            21 => Some("egress_blocked: port 22"),
            _ => None,
        };
        if let Some(reason) = is_refused {
            assert!(told["outcome"] == "refused" && told["errors"].to_string().contains(reason), "{told}");
            continue;
        }
        let webhook = made.iter().find(|made| made["uuid"] == told["uuid"]).unwrap();
        expect_row(number, webhook, &row, told);
    }

    let said = import(&server, &["decnet", text(&path), "--skip-refused"]).await;
    assert!(said.out.contains("0 made, 21 there already, 3 refused"), "{}", said.out);
    assert_eq!((webhooks(&server).await, acts(&server).await), (made, before + 21), "nothing was changed");
    server.stop().await;
}

/// Asserts that a webhook is what the row was.
fn expect_row(number: u32, webhook: &Value, row: &Value, told: &Value) {
    let name = match number {
        10 => json!(format!("decnet {}", webhook["uuid"].as_str().unwrap())),
        11 => json!("line break"),
        _ => row["name"].clone(),
    };
    let url = match number {
        5 => json!("https://siem.example/5?x=1"),
        _ => row["url"].clone(),
    };
    let patterns = match number {
        12 => json!(["a.>", ">"]),
        13 | 17 => json!(["attacker.>"]),
        15 | 18 | 20 => json!([]),
        16 => json!(["a"]),
        _ => serde_json::from_str(row["topic_patterns"].as_str().unwrap()).unwrap(),
    };
    assert_eq!((&webhook["name"], &webhook["url"], &webhook["topic_patterns"]), (&name, &url, &patterns));
    assert_eq!(webhook["enabled"], row["enabled"] == 1, "{webhook}");
    assert_eq!(webhook["signatures"], json!(["decnet"]));
    assert_eq!(webhook["created_at"], "2026-05-01T08:09:00.123456Z");
    assert_eq!(webhook["consecutive_failures"], row["consecutive_failures"]);
    assert_eq!(webhook["last_error"], row["last_error"]);
    assert_eq!(webhook["auto_disabled_at"].is_null(), row["auto_disabled_at"].is_null());
    match number {
        3 => {
            assert_eq!(webhook["disabled_reason"], "DECNET turned it off after failures");
            assert_eq!(webhook["auto_disabled_at"], "2026-05-03T00:00:00.500000Z");
            assert_eq!(webhook["last_success_at"], "2026-05-02T00:00:00.000000Z");
        }
        4 => assert_eq!(webhook["last_failure_at"], "2026-05-03T00:00:00.000000Z"),
        5 => assert_eq!(webhook["auth"], json!({"type": "basic", "username": "user", "password": "…"})),
        _ => assert!(webhook["disabled_reason"].is_null(), "{webhook}"),
    }
    let is_noted = !told["notes"].as_array().unwrap().is_empty();
    let becomes_another = [3, 5, 9, 10, 11, 12, 13, 15, 16, 17, 18, 20, 22].contains(&number);
    assert_eq!(is_noted, becomes_another, "{number}: {told}");
}

#[tokio::test]
async fn receivers_get_what_they_got_under_the_secret_that_they_have() {
    let (folder, server) = TestServer::in_new_folder().await;
    let receiver = TestReceiver::healthy().await;
    let secrets = ["0123456789abcdef", "line1\nline2-0123456789", "schlüssel mit leerzeichen und ü", "short"];
    let rows: Vec<Value> = (0..)
        .zip(secrets)
        .map(|(number, secret)| {
            let mut row = plain(number, &receiver.url(&format!("/{number}")).replace("http://", "http://me:p%40ss@"));
            row["secret"] = json!(secret);
            row
        })
        .collect();
    let _running = database(&folder.path().join("decnet.db"), &rows);
    let said = import(&server, &["decnet", text(folder.path())]).await;
    assert_eq!((said.code, said.out.contains("4 made")), (Some(0), true), "{said:?}");
    server.post("/api/v1/events", &json!({"topic": "attacker.seen"}).to_string()).await.expect(202);
    let basic = base64::engine::general_purpose::STANDARD.encode("me:p@ss");
    for request in receiver.wait_for(4).await {
        let secret = secrets[request.path.trim_start_matches('/').parse::<usize>().unwrap()];
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret.as_bytes());
        let code = aws_lc_rs::hmac::sign(&key, &request.body);
        let hex = code.as_ref().iter().fold("sha256=".to_owned(), |hex, byte| hex + &format!("{byte:02x}"));
        assert_eq!(request.header("X-DECNET-Signature"), hex, "{secret}");
        assert_eq!(request.header("Authorization"), format!("Basic {basic}"));
        assert_eq!(request.header("webhook-signature"), "", "nothing that was not there before");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_database_is_read_as_what_it_is() {
    let (folder, server) = TestServer::in_new_folder().await;
    let at = |name: &str| {
        let folder = folder.path().join(name);
        fs::create_dir(&folder).unwrap();
        folder.join("decnet.db")
    };
    let count = async |path: PathBuf| {
        let said = import(&server, &["decnet", text(&path), "--dry-run", "--json"]).await;
        assert_eq!(said.code, Some(0), "{said:?}");
        said.json()["new"].as_u64().unwrap()
    };
    let url = "https://siem.example/";
    // While DECNET runs all rows are in the log alone.
    let live = at("live");
    let running = database(&live, &[plain(1, url), plain(2, url)]);
    assert!(fs::metadata(&live).unwrap().len() <= 4_096, "the file has no row");
    assert_eq!(count(live.clone()).await, 2);
    // After a crash of it the log is there; perhaps somebody has left the index behind.
    let crashed = at("crashed");
    for suffix in ["", "-wal"] {
        fs::copy(format!("{}{suffix}", live.display()), format!("{}{suffix}", crashed.display())).unwrap();
    }
    assert_eq!(count(crashed.clone()).await, 2);
    let left = |path: &Path| fs::read_dir(path.parent().unwrap()).unwrap().count();
    assert_eq!(left(&crashed), 2, "nothing was added beside it");
    drop(running);
    // After its stop there is one file.
    assert_eq!((left(&live), count(live.clone()).await, left(&live)), (1, 2, 1));
    // From before webhooks were turned off by themselves.
    let old = at("old");
    Connection::open(&old).unwrap().execute_batch(&TABLE.replace("auto_disabled_at DATETIME,", "")).unwrap();
    let columns = "uuid, name, url, secret, topic_patterns, enabled, consecutive_failures, created_at, updated_at";
    let values =
        "'00000000-0000-4000-8000-000000000001', 'a', 'https://siem.example/', '0123456789abcdef', '[\">\"]', 1, 0,
        '2026-05-01 08:09:00', '2026-05-01 08:09:00'";
    let sql = format!("INSERT INTO webhook_subscriptions ({columns}) VALUES ({values})");
    Connection::open(&old).unwrap().execute_batch(&sql).unwrap();
    assert_eq!((count(old.clone()).await, left(&old)), (1, 1));
    // In the middle of a transaction that was never ended, a part of which is in the file.
    let open = at("open");
    let writer = Connection::open(&open).unwrap();
    writer.execute_batch(&format!("{TABLE}; PRAGMA cache_size = 1; BEGIN")).unwrap();
    for number in 0..500 {
        insert(&writer, &plain(number, url));
    }
    let killed = at("killed");
    for suffix in ["", "-journal"] {
        fs::copy(format!("{}{suffix}", open.display()), format!("{}{suffix}", killed.display())).unwrap();
    }
    assert!(fs::metadata(&killed).unwrap().len() > 100_000, "part of it is in the file");
    assert_eq!(count(killed).await, 0, "it is as before the transaction");
    server.stop().await;
}

#[tokio::test]
async fn what_is_no_database_of_decnet_is_said_to_be_none() {
    let (folder, server) = TestServer::in_new_folder().await;
    let at = |name: &str| folder.path().join(name);
    fs::write(
        at("text.db"),
        "this is no database at all, and longer than a header of a hundred bytes has to be in any case",
    )
    .unwrap();
    File::create(at("zeros.db")).unwrap().set_len(2 << 30).unwrap();
    Connection::open(at("other.db")).unwrap().execute_batch("CREATE TABLE a (b)").unwrap();
    Connection::open(at("view.db"))
        .unwrap()
        .execute_batch(
            "CREATE VIEW webhook_subscriptions AS WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
         SELECT i AS uuid, i AS name, i AS url, i AS secret, i AS topic_patterns, i AS enabled FROM n",
        )
        .unwrap();
    Connection::open(at("columns.db")).unwrap().execute_batch("CREATE TABLE webhook_subscriptions (uuid)").unwrap();
    // So large that it is not copied, and in a mode in which it would have to be.
    drop(database(&at("large.db"), &[]));
    File::options().write(true).open(at("large.db")).unwrap().set_len(2 << 30).unwrap();
    fs::write(at("empty.db"), "").unwrap();
    for (name, reason) in [
        ("text.db", "file is not a database"),
        ("zeros.db", "file is not a database"),
        ("other.db", "has no table webhook_subscriptions"),
        ("view.db", "has no table webhook_subscriptions"),
        ("columns.db", "has no column name"),
        ("large.db", "one that must be copied may have 1073741824"),
        ("empty.db", "has no table webhook_subscriptions"),
        ("nothing.db", "there is no file"),
    ] {
        let said = import(&server, &["decnet", text(&at(name))]).await;
        assert!(said.code == Some(1) && said.err.contains(reason), "{name}: {said:?}");
    }
    // Values that are no texts, and one that is too long.
    let odd = database(&at("odd.db"), &[plain(1, "https://siem.example/")]);
    odd.execute_batch(
        "INSERT INTO webhook_subscriptions (uuid, name, url, secret, topic_patterns, enabled, consecutive_failures, created_at,
             updated_at)
         SELECT 'no-uuid', 'b', url, x'00ff', topic_patterns, 'x', -5, 'yesterday', 0 FROM webhook_subscriptions;
         INSERT INTO webhook_subscriptions SELECT 'no uuid', 'c', url, secret, topic_patterns, 7, 9999999999, 1, 2.5, x'00', '', '', ''
         FROM webhook_subscriptions WHERE name = 'hook 1'",
    ).unwrap();
    let said = import(&server, &["decnet", text(&at("odd.db")), "--skip-refused", "--json"]).await;
    let report = said.json();
    assert_eq!((&report["new"], &report["refused"]), (&json!(2), &json!(1)), "{report}");
    assert!(report.to_string().contains("its secret is bytes and no text"), "{report}");
    odd.execute_batch("UPDATE webhook_subscriptions SET secret = hex(zeroblob(1000000)) WHERE name = 'b'").unwrap();
    let said = import(&server, &["decnet", text(&at("odd.db"))]).await;
    assert!(said.code == Some(1) && said.err.contains("too big"), "{said:?}");
    server.stop().await;
}
