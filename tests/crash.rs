//! A server that is killed at random moments under load loses nothing that it accepted.

#![cfg(feature = "server")]
#![expect(clippy::expect_used, clippy::panic, reason = "these are tests")]

#[path = "support/receiver.rs"]
mod receiver;

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use postrider::delivery::client::{Client, ClientOptions};
use postrider::delivery::guard::{Destination, EgressPolicy};
use receiver::{Answer, TestReceiver};
use serde_json::{Value, json};

const TOKEN: &str = "pr_crashcrashcrashcrashcrashcrashcrashcrashcra";
/// `POSTRIDER_CRASH_ROUNDS` makes it more for a longer run.
const ROUNDS: u32 = 50;
const PUBLISHERS: u32 = 3;
const BATCH: u32 = 20;

struct Server {
    child: Child,
    url: String,
    client: Client,
}

impl Server {
    fn start(folder: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_postrider"))
            .args(["--json", "serve", "--listen", "127.0.0.1:0", "--allow-private", "127.0.0.0/8", "--log", "error"])
            .arg("--data")
            .arg(folder.join("data"))
            .current_dir(folder)
            .env("POSTRIDER_ADMIN_TOKEN", TOKEN)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("the server speaks");
        let started: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        let policy = EgressPolicy { allow_all_private: true, ..EgressPolicy::default() };
        let client = Client::new(ClientOptions { policy, ..ClientOptions::default() }).expect("a client");
        Self { child, url: started["url"].as_str().expect("an address").to_owned(), client }
    }

    /// The answer, or `None` if there is none because the server has gone.
    async fn call(&self, method: Method, path: &str, body: &Value) -> Option<(u16, Value)> {
        call(&self.client, &self.url, method, path, body).await
    }

    fn kill(mut self) {
        self.child.kill().expect("the server can be killed");
        self.child.wait().expect("the server ends");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn call(client: &Client, url: &str, method: Method, path: &str, body: &Value) -> Option<(u16, Value)> {
    let url = format!("{url}/api/v1{path}");
    let request = Request::builder()
        .method(method)
        .uri(&url)
        .header("authorization", format!("Bearer {TOKEN}"))
        .header("content-type", "application/json")
        .body(Bytes::from(body.to_string()))
        .expect("a request");
    let destination = Destination::parse(&url).expect("a destination");
    let response = client.request(&destination, request, 1 << 20, Duration::from_secs(20)).await.ok()?;
    Some((response.status().as_u16(), serde_json::from_slice(response.body()).unwrap_or_default()))
}

/// Publishes until told to stop or nobody answers; `accepted` gets the ids that were answered with 202.
async fn publish(client: Client, url: String, name: String, accepted: Arc<Mutex<Vec<String>>>, stop: Arc<AtomicBool>) {
    for batch in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let ids: Vec<String> = (0..BATCH).map(|n| format!("{name}-{batch}-{n}")).collect();
        let events: Vec<Value> =
            ids.iter().map(|id| json!({"id": id, "topic": "crash.test", "payload": {"a": 1}})).collect();
        match call(&client, &url, Method::POST, "/events/batch", &Value::from(events)).await {
            Some((202, _)) => accepted.lock().expect("nobody panics").extend(ids),
            Some((status, problem)) => panic!("{status} {problem}"),
            None => return,
        }
    }
}

/// Which event arrived in which rounds.
fn arrivals_by_round(receiver: &TestReceiver, ends: &[usize]) -> HashMap<String, Vec<usize>> {
    let mut rounds: HashMap<String, Vec<usize>> = HashMap::new();
    for (index, id) in receiver.event_ids().into_iter().enumerate() {
        rounds.entry(id).or_default().push(ends.partition_point(|end| *end <= index));
    }
    rounds
}

#[tokio::test(flavor = "multi_thread")]
async fn every_accepted_event_is_delivered_though_the_server_crashes_again_and_again() {
    #[expect(clippy::disallowed_methods, reason = "a test has no configuration")]
    let rounds = std::env::var("POSTRIDER_CRASH_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().expect("a number"));
    let folder = tempfile::tempdir().unwrap();
    let steady = TestReceiver::start(|_, _| Answer(200, Duration::from_millis(2))).await;
    let flaky = TestReceiver::start(|n, _| if n % 3 == 0 { 503.into() } else { 200.into() }).await;
    let accepted = Arc::new(Mutex::new(Vec::new()));
    let mut ends_of_rounds = Vec::new();
    for round in 0..rounds {
        let server = Server::start(folder.path());
        if round == 0 {
            for (name, receiver) in [("steady", &steady), ("flaky", &flaky)] {
                let webhook = json!({
                    "name": name, "url": receiver.url("/"), "topic_patterns": ["crash.>"],
                    "max_in_flight": 8, "retry_schedule": vec![0.1; 40],
                });
                let (status, problem) = server.call(Method::POST, "/webhooks", &webhook).await.expect("an answer");
                assert_eq!(status, 201, "{problem}");
            }
        }
        let stop = Arc::new(AtomicBool::new(false));
        let publishers: Vec<_> = (0..PUBLISHERS)
            .map(|publisher| {
                let name = format!("{round}-{publisher}");
                let (accepted, stop) = (Arc::clone(&accepted), Arc::clone(&stop));
                tokio::spawn(publish(server.client.clone(), server.url.clone(), name, accepted, stop))
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(fastrand::u64(10..200))).await;
        server.kill();
        ends_of_rounds.push(steady.received_count());
        stop.store(true, Ordering::Relaxed);
        for publisher in publishers {
            publisher.await.expect("the publisher saw no refusal");
        }
    }

    let server = Server::start(folder.path());
    let settled = async {
        loop {
            let (_, stats) = server.call(Method::GET, "/stats", &Value::Null).await.expect("an answer");
            if stats["pending"] == 0 {
                return stats;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let stats = tokio::time::timeout(Duration::from_mins(2), settled).await.expect("everything ends");
    assert_eq!(stats["dead"], 0, "{stats}");
    let accepted = accepted.lock().unwrap().clone();
    assert!(accepted.len() > rounds as usize, "hardly anything was accepted: {}", accepted.len());

    let arrived: HashSet<String> = steady.event_ids().into_iter().collect();
    let flaky_arrived: HashSet<String> = flaky.event_ids().into_iter().collect();
    for id in &accepted {
        assert!(arrived.contains(id) && flaky_arrived.contains(id), "{id} was accepted and never arrived");
    }
    let mut repeated = 0;
    for (id, rounds) in arrivals_by_round(&steady, &ends_of_rounds) {
        let distinct: HashSet<_> = rounds.iter().collect();
        assert_eq!(distinct.len(), rounds.len(), "{id} arrived twice without a crash between: rounds {rounds:?}");
        repeated += rounds.len() - 1;
    }
    println!("{} accepted, {} arrived, {repeated} of them again after a crash", accepted.len(), arrived.len());
    assert_eq!(stats["events"].as_u64(), Some(arrived.len() as u64), "what was stored is what arrived");
}
