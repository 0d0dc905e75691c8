//! `postrider import` and `POST /webhooks/import`: webhooks of other senders are taken over, so that no receiver notices.

mod api;
mod decnet;
mod vendors;

use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::support::server::{Answer, TestServer};

const ROUTE: &str = "/api/v1/webhooks/import";

/// What the program says and how it ends.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Said {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Runs `postrider import …` against `server`.
async fn import(server: &TestServer, arguments: &[&str]) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
    command
        .arg("import")
        .args(arguments)
        .env_clear()
        .env("POSTRIDER_SERVER", format!("http://{}", server.address))
        .env("POSTRIDER_TOKEN", &server.admin)
        .stdin(Stdio::null());
    let Output { status, stdout, stderr } =
        tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said { code: status.code(), out: text(stdout), err: text(stderr) }
}

async fn send(server: &TestServer, body: &Value) -> Answer {
    server.post(ROUTE, &body.to_string()).await
}

/// A row of the API's import.
fn row(number: u128, url: &str) -> Value {
    json!({
        "uuid": uuid::Uuid::from_u128(number),
        "settings": {"name": format!("hook {number}"), "url": url, "topic_patterns": [">"], "secret": "0123456789abcdef"},
    })
}

/// What became of each row.
fn outcomes(answer: &Value) -> Vec<&str> {
    answer["webhooks"].as_array().unwrap().iter().map(|row| row["outcome"].as_str().unwrap()).collect()
}

async fn webhooks(server: &TestServer) -> Vec<Value> {
    server.get("/api/v1/webhooks").await.expect(200).as_array().unwrap().clone()
}

async fn acts(server: &TestServer) -> usize {
    server.get("/api/v1/audit?limit=500").await.expect(200)["items"].as_array().unwrap().len()
}
