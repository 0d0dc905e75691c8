//! The data folder is removed, renamed or replaced under a running server, or is not whole when one starts.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use http::Method;
use serde_json::json;

use crate::support::program::Program;

const PATIENCE: Duration = Duration::from_secs(30);

fn start(folder: &Path) -> Program {
    Program::start(folder, &["--log", "off"], Stdio::inherit())
}

async fn publish(server: &Program, id: &str) -> u16 {
    let event = json!({"id": id, "topic": "folder.test", "payload": {}});
    server.caller.call(Method::POST, "/api/v1/events", &event).await.0
}

async fn wait_until_ready(server: &Program, status: u16) {
    let began = Instant::now();
    while server.caller.get("/readyz").await.0 != status {
        assert!(began.elapsed() < PATIENCE, "/readyz does not answer {status}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_accepted_while_the_folder_is_not_where_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, elsewhere) = (folder.path().join("data"), folder.path().join("elsewhere"));
    let server = start(folder.path());
    assert_eq!(publish(&server, "before").await, 202);

    fs::rename(&data, &elsewhere).expect("it can be renamed");
    assert_eq!(publish(&server, "renamed").await, 503);
    fs::create_dir(&data).expect("a folder");
    fs::copy(elsewhere.join("postrider.db"), data.join("postrider.db")).expect("a copy");
    assert_eq!(publish(&server, "replaced").await, 503);
    wait_until_ready(&server, 503).await;
    assert_eq!(server.caller.get("/healthz").await.0, 200);

    fs::remove_dir_all(&data).expect("it can be removed");
    fs::rename(&elsewhere, &data).expect("it can be renamed");
    wait_until_ready(&server, 200).await;
    assert_eq!(publish(&server, "back").await, 202);
    server.kill();
    let server = start(folder.path());
    for id in ["before", "back"] {
        assert_eq!(server.caller.get(&format!("/api/v1/events/{id}")).await.0, 200, "{id} was accepted and lost");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_accepted_once_a_file_of_the_folder_is_gone() {
    for gone in ["postrider.db", "postrider.db-wal", ""] {
        let folder = tempfile::tempdir().expect("a folder");
        let server = start(folder.path());
        assert_eq!(publish(&server, "before").await, 202);
        let gone = folder.path().join("data").join(gone);
        if gone.is_dir() { fs::remove_dir_all(&gone) } else { fs::remove_file(&gone) }.expect("it can be removed");
        assert_eq!(publish(&server, "after").await, 503, "{}", gone.display());
        // Also when nobody publishes.
        wait_until_ready(&server, 503).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_key_without_its_database_is_no_new_installation() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let server = start(folder.path());
    assert_eq!(publish(&server, "before").await, 202);
    server.kill();
    for file in fs::read_dir(&data).expect("the folder is there") {
        let path = file.expect("a file").path();
        if path.file_name().is_some_and(|name| name != "master.key") {
            fs::remove_file(path).expect("it can be removed");
        }
    }
    let key = fs::read(data.join("master.key")).expect("the key is there");
    let output = Command::new(env!("CARGO_BIN_EXE_postrider"))
        .args(["serve", "--listen", "127.0.0.1:0", "--data"])
        .arg(&data)
        .current_dir(folder.path())
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .expect("the program runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && stderr.contains("--new-installation"), "{stderr}");
    assert!(!data.join("postrider.db").exists(), "nothing was made");

    let server = Program::start(folder.path(), &["--log", "off", "--new-installation"], Stdio::inherit());
    assert_eq!(server.caller.get("/api/v1/events/before").await.0, 404);
    assert_eq!(publish(&server, "anew").await, 202);
    assert_eq!(fs::read(data.join("master.key")).expect("the key is there"), key, "the key is kept");
}
