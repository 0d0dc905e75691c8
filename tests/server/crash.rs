//! A server that is killed at random moments under load loses nothing that it accepted.

use std::collections::{HashMap, HashSet};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Method;
use postrider::store::sqlite::DATABASE_FILE;
use serde_json::{Value, json};

use crate::support::program::{Caller, Program};
use crate::support::receiver::{Answer, TestReceiver};

/// `POSTRIDER_CRASH_ROUNDS` makes it more for a longer run.
const ROUNDS: u32 = 50;
const PUBLISHERS: u32 = 3;
const BATCH: u32 = 20;
/// Eight attempts may be under way, and the outcomes of some more wait for their commit: milliseconds' worth of a
/// receiver that takes 4,000 a second, and more where the disk is slow.
const MAX_REPEATED_A_CRASH: usize = 200;

/// When nothing has arrived for so long after the end of a server, nothing of it will.
const QUIET: Duration = Duration::from_millis(50);

/// Publishes until told to stop or nobody answers; `accepted` gets the ids that were answered with 202.
async fn publish(caller: Caller, name: String, accepted: Arc<Mutex<Vec<String>>>, stop: Arc<AtomicBool>) {
    for batch in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let ids: Vec<String> = (0..BATCH).map(|n| format!("{name}-{batch}-{n}")).collect();
        let events: Vec<Value> =
            ids.iter().map(|id| json!({"id": id, "topic": "crash.test", "payload": {"a": 1}})).collect();
        match caller.try_call(Method::POST, "/api/v1/events/batch", &Value::from(events)).await {
            Some(answer) if answer.status() == 202 => accepted.lock().expect("nobody panics").extend(ids),
            Some(answer) => panic!("{answer:?}"),
            None => return,
        }
    }
}

/// How many requests have arrived of a server that is dead: what it sent last may lie in sockets still.
async fn count_when_quiet(receiver: &TestReceiver) -> usize {
    let mut count = receiver.received_count();
    loop {
        tokio::time::sleep(QUIET).await;
        let now = receiver.received_count();
        if now == count {
            return count;
        }
        count = now;
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
        let server = Program::start(folder.path(), &["--log", "error"], Stdio::inherit());
        if round == 0 {
            for (name, receiver) in [("steady", &steady), ("flaky", &flaky)] {
                let webhook = json!({
                    "name": name, "url": receiver.url("/"), "topic_patterns": ["crash.>"],
                    "max_in_flight": 8, "retry_schedule": vec![0.1; 40],
                });
                let (status, problem) = server.caller.call(Method::POST, "/api/v1/webhooks", &webhook).await;
                assert_eq!(status, 201, "{problem}");
            }
        }
        let stop = Arc::new(AtomicBool::new(false));
        let publishers: Vec<_> = (0..PUBLISHERS)
            .map(|publisher| {
                let name = format!("{round}-{publisher}");
                let (accepted, stop) = (Arc::clone(&accepted), Arc::clone(&stop));
                tokio::spawn(publish(server.caller.clone(), name, accepted, stop))
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(fastrand::u64(10..200))).await;
        server.kill();
        ends_of_rounds.push(count_when_quiet(&steady).await);
        stop.store(true, Ordering::Relaxed);
        for publisher in publishers {
            publisher.await.expect("the publisher saw no refusal");
        }
    }

    let server = Program::start(folder.path(), &["--log", "error"], Stdio::inherit());
    let settled = async {
        loop {
            let (_, stats) = server.caller.get("/api/v1/stats").await;
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
    let most = rounds as usize * MAX_REPEATED_A_CRASH;
    assert!(repeated <= most, "{repeated} deliveries arrived again, more than can have been under way");
    println!("{} accepted, {} arrived, {repeated} of them again after a crash", accepted.len(), arrived.len());
    assert_eq!(stats["events"].as_u64(), Some(arrived.len() as u64), "what was stored is what arrived");

    server.kill();
    let database = rusqlite::Connection::open(folder.path().join("data").join(DATABASE_FILE)).unwrap();
    let bytes = "SELECT (SELECT sum(length(body)) FROM event), (SELECT sum(stored_bytes) FROM counters)";
    let (there, counted): (i64, i64) = database.query_row(bytes, (), |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert_eq!(counted, there, "what is stored is what was counted");
}
