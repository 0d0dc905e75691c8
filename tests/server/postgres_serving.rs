//! A server on PostgreSQL: it delivers, it starts again, and it says why it does not start.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::support::postgres_server::Cluster;
use crate::support::program::{Caller, Program};
use crate::support::receiver::{Answer, TestReceiver};

const DATABASE: &str = "hooks";
const OK: Answer = Answer(200, Duration::ZERO);

/// `postrider serve` on `store`, which does not start.
fn refused(folder: &Path, store: &str, options: &[&str]) -> String {
    let output = command(folder).args(["serve", "--listen", "127.0.0.1:0", "--store", store]).args(options).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
    command.current_dir(folder).env_clear().stdin(Stdio::null());
    command
}

async fn publish(caller: &Caller, id: &str) {
    let event = json!({"id": id, "topic": "a.b", "type": "t", "payload": {}});
    let (status, answer) = caller.call(Method::POST, "/api/v1/events", &event).await;
    assert_eq!((status, &answer["deliveries"]), (202, &json!(1)), "{answer}");
}

async fn delivered(caller: &Caller, count: u64) {
    let waiting = async {
        while caller.get("/api/v1/stats").await.1["delivered"] != count {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(30), waiting).await;
    assert!(in_time.is_ok(), "{:?}", caller.get("/api/v1/stats").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_accepted_is_delivered_before_and_after_a_restart() {
    let (cluster, folder) = (Cluster::with_database(DATABASE).await, tempfile::tempdir().unwrap());
    let receiver = TestReceiver::start(|_, _| OK).await;
    let store = cluster.url(DATABASE);
    let first = Program::start(folder.path(), &["--store", &store], Stdio::inherit());
    let webhook = json!({"name": "w", "url": receiver.url("/"), "topic_patterns": [">"]});
    assert_eq!(first.caller.call(Method::POST, "/api/v1/webhooks", &webhook).await.0, 201);
    publish(&first.caller, "e-1").await;
    delivered(&first.caller, 1).await;
    first.kill();
    assert!(folder.path().join("data/master.key").is_file());
    assert!(!folder.path().join("data/postrider.db").exists(), "the embedded store was made, too");

    let again = Program::start(folder.path(), &["--store", &store], Stdio::inherit());
    publish(&again.caller, "e-2").await;
    delivered(&again.caller, 2).await;
    let metrics = again.caller.text("/metrics").await;
    let of_shards = |name: &str| metrics.lines().filter(|line| line.starts_with(&format!("{name}{{shard="))).count();
    let families = ["postrider_shard_epoch", "postrider_shard_lanes", "postrider_shard_deliveries_queued"];
    assert_eq!(families.map(of_shards), [256; 3], "{metrics}");
    let lanes = metrics.lines().filter(|line| line.starts_with("postrider_shard_lanes{") && line.ends_with("} 1"));
    assert_eq!(lanes.count(), 1, "the webhook is in one shard: {metrics}");
}

/// The UUID of the oldest node, when it is in that state.
async fn oldest_node(caller: &Caller, state: &str) -> String {
    let found = async {
        loop {
            let (_, nodes) = caller.get("/api/v1/nodes").await;
            // There is none before the first renewal.
            if nodes[0]["state"] == state {
                return nodes[0]["uuid"].as_str().unwrap().to_owned();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), found).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_silent_can_not_be_drained() {
    let (cluster, folder) = (Cluster::with_database(DATABASE).await, tempfile::tempdir().unwrap());
    let store = cluster.url(DATABASE);
    let options = ["--store", &store, "--lease", "1s"];
    let dead = Program::start(folder.path(), &options, Stdio::inherit());
    let uuid = oldest_node(&dead.caller, "alive").await;
    dead.kill();
    let server = Program::start(folder.path(), &options, Stdio::inherit());
    assert_eq!(oldest_node(&server.caller, "silent").await, uuid);
    for act in ["drain", "resume"] {
        let path = format!("/api/v1/nodes/{uuid}/{act}");
        let (status, problem) = server.caller.call(Method::POST, &path, &json!({})).await;
        assert_eq!(status, 409, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains("silent"), "{problem}");
    }
}

#[tokio::test]
async fn a_node_with_another_master_key_is_refused_and_told_where_to_get_it() {
    let (cluster, first, second) =
        (Cluster::with_database(DATABASE).await, tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = cluster.url(DATABASE);
    Program::start(first.path(), &["--store", &store], Stdio::inherit()).kill();
    let data = second.path().join("data");
    let data_option = ["--data", data.to_str().unwrap()];
    let none = refused(second.path(), &store, &data_option);
    assert!(none.contains("master.key is missing") && none.contains("copy master.key"), "{none}");
    assert!(!data.join("master.key").exists(), "a key was made that fits nothing");

    let other = command(second.path())
        .args(["serve", "--listen", "127.0.0.1:0", "--store", &store])
        .env("POSTRIDER_MASTER_KEY", "01".repeat(32))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&other.stderr);
    assert!(said.contains("the master key is not the one") && said.contains("POSTRIDER_MASTER_KEY"), "{said}");

    std::fs::create_dir(&data).unwrap();
    std::fs::copy(first.path().join("data/master.key"), data.join("master.key")).unwrap();
    Program::start(second.path(), &["--store", &store], Stdio::inherit());
}

#[tokio::test]
async fn a_database_that_cannot_be_used_is_named_with_what_to_do_and_without_the_password() {
    let (cluster, folder) = (Cluster::with_database(DATABASE).await, tempfile::tempdir().unwrap());
    let unsafe_cluster = Cluster::start_with(&[("fsync", "off")]).await;
    let (url, password) = (cluster.url(DATABASE), cluster.password());
    let nowhere = url.replace(&format!(":{}/", cluster.port()), ":1/");
    for (store, reason, advice) in [
        (cluster.url("missing"), "does not exist", "createdb"),
        (url.replace(password, "wrong-password"), "password authentication failed", "right user and password"),
        (nowhere, "onnection refused", "See that the database server runs"),
        (unsafe_cluster.url("postgres"), "fsync=off", "--allow-unsafe-store"),
    ] {
        let said = refused(folder.path(), &store, &[]);
        assert!(said.contains(reason) && said.contains(advice), "{said}");
        assert!(!said.contains(password) && !said.contains("wrong-password"), "{said}");
    }
    let allowed = ["--allow-unsafe-store", "--store", &unsafe_cluster.url("postgres")];
    Program::start(folder.path(), &allowed, Stdio::inherit());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_database_is_reached_over_tls_and_its_certificate_is_checked() {
    let (cluster, folder) = (Cluster::with_database(DATABASE).await, tempfile::tempdir().unwrap());
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    cluster.use_tls(&certified.cert.pem(), &certified.signing_key.serialize_pem()).await;
    let store = format!("{}?sslmode=require", cluster.url(DATABASE));
    let said = refused(folder.path(), &store, &[]);
    assert!(said.contains("certificate") && !said.contains(cluster.password()), "{said}");

    let authorities = folder.path().join("authorities.pem");
    std::fs::write(&authorities, certified.cert.pem()).unwrap();
    let mut server = command(folder.path())
        .args(["--json", "serve", "--listen", "127.0.0.1:0", "--store", &store])
        .env("SSL_CERT_FILE", &authorities)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("\"url\""), "{line}");
    let client = cluster.connect("postgres").await;
    let ways =
        "SELECT DISTINCT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'postrider'";
    let ways: Vec<bool> = client.query(ways, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!(ways, [true], "every connection is encrypted");
}

#[test]
fn no_command_shows_the_password_of_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let (secret, url) = ("s3cret-of-the-store", "postgres://ann:s3cret-of-the-store@db.example:6432/hooks");
    let silent = |output: &Output| {
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(!said.contains(secret), "{said}");
        said
    };
    std::fs::write(folder.path().join("url"), format!("{url}\n")).unwrap();
    for (name, value) in [("POSTRIDER_STORE", url), ("POSTRIDER_STORE_FILE", "url")] {
        let output = command(folder.path()).args(["config", "--json"]).env(name, value).output().unwrap();
        let shown: Value = serde_json::from_str(&silent(&output)).unwrap();
        let store = shown.as_array().unwrap().iter().find(|setting| setting["key"] == "store").unwrap();
        assert_eq!(*store, json!({"key": "store", "value": "database hooks at db.example:6432", "origin": "env"}));
    }
    let wrong = url.replace("6432", "port");
    let output = command(folder.path()).args(["config", "--store", &wrong]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(silent(&output).contains("store (flag): expected `embedded`"));
    for broken in [format!("store = \"{url}"), format!("store = \"{url}\" x"), format!("store = [\"{url}\"]")] {
        std::fs::write(folder.path().join("postrider.toml"), broken).unwrap();
        let output = command(folder.path()).arg("config").output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(silent(&output).contains("line 1"), "{output:?}");
    }
}

#[tokio::test]
async fn a_benchmark_measures_what_the_database_does_and_leaves_nothing_in_it() {
    let (cluster, folder) = (Cluster::with_database(DATABASE).await, tempfile::tempdir().unwrap());
    let output = command(folder.path())
        .args(["--json", "bench", "--tiny", "--only", "throughput,latency", "--rate", "200", "--store"])
        .arg(cluster.url(DATABASE))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let figures = report["figures"].as_array().unwrap();
    let values = |name: &str| -> Vec<f64> {
        let named = figures.iter().filter(|figure| figure["name"] == name);
        named.map(|figure| figure["value"].as_f64().unwrap()).collect()
    };
    // Each event is written at least twice, as itself and as its delivery, and has some 600 bytes.
    assert!(values("WAL a delivered event").iter().all(|bytes| *bytes > 600.0), "{report}");
    assert!(values("transactions a 1,000 of them").iter().all(|count| *count > 0.0), "{report}");
    assert_eq!(values("CPU of PostgreSQL a delivered event").len(), 2, "the server is on this machine: {report}");
    assert_eq!((values("delivered twice"), values("missing")), (vec![0.0], vec![0.0]), "{report}");
    let client = cluster.connect(DATABASE).await;
    let left = client.query("SELECT datname FROM pg_database WHERE datname LIKE 'postrider\\_scratch%'", &[]).await;
    assert!(left.unwrap().is_empty());

    let only = ["bench", "--only", "backlog", "--store", &cluster.url(DATABASE)];
    let refused = command(folder.path()).args(only).output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
}
