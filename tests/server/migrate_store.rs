//! `postrider migrate-store`: what an embedded store has is in PostgreSQL afterwards, all of it, once, and the same.

mod comparing;
mod filled;
mod refusing;
mod resuming;
mod serving;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const DATABASE: &str = "hooks";

/// `postrider` in a folder whose `data` is the data folder.
fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
    command.current_dir(folder).env_clear().stdin(Stdio::null());
    command
}

/// `postrider migrate-store` of the folder's `data` to a database.
fn migrate(folder: &Path, store: &str) -> Command {
    let mut command = command(folder);
    command.args(["--json", "migrate-store", "--data", "data"]).env("POSTRIDER_STORE", store);
    command
}

/// The document that it answers with.
#[track_caller]
fn moved(command: &mut Command) -> Value {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What it says when it fails.
#[track_caller]
fn refused(command: &mut Command) -> String {
    let output: Output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The rows of a table, by what a move says of it.
#[track_caller]
fn rows(moved: &Value, table: &str) -> u64 {
    let tables = moved["tables"].as_array().unwrap();
    let found = tables.iter().find(|found| found["table"] == table).unwrap_or_else(|| panic!("no {table}: {moved}"));
    assert_eq!(found["checksum"].as_str().map(str::len), Some(64), "{found}");
    found["rows"].as_u64().unwrap()
}

/// The database's files and what is in them; not the lock, nor the index of the log, which holds nothing.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .filter(|(name, _)| name != "postrider.lock" && name != "postrider.db-shm")
        .collect();
    files.sort();
    files
}
