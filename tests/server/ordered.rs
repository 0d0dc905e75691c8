//! Ordered webhooks of the embedded store keep their order while lanes cannot be read.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use http::Method;
use rusqlite::Connection;

use crate::support::ordered;
use crate::support::ordered::{Callers, OrderedReceiver};
use crate::support::program::Program;

const WEBHOOKS: usize = 12;
const EVENTS: usize = 1_800;
/// Between two faults, and how long one lasts.
const FAULT_EVERY: Duration = Duration::from_millis(60);
/// What nearly everything may take on a busy machine.
const PATIENCE: Duration = Duration::from_mins(10);

/// What loads read by: without it they fail, while everything else goes on.
const INDEX: &str = "delivery_due";

/// Takes the index away and puts it back, again and again, until told to stop. Returns how often.
fn break_reads(database: &Path, stop: Arc<AtomicBool>) -> JoinHandle<usize> {
    let database = database.to_owned();
    std::thread::spawn(move || {
        let connection = Connection::open(&database).expect("the database is there");
        connection.busy_timeout(PATIENCE).expect("a timeout");
        let sql: String = connection
            .query_row("SELECT sql FROM sqlite_schema WHERE name = ?1", [INDEX], |row| row.get(0))
            .expect("the index");
        let mut faults = 0;
        while !stop.load(Ordering::Relaxed) {
            connection.execute_batch(&format!("DROP INDEX {INDEX}")).expect("it was there");
            std::thread::sleep(FAULT_EVERY);
            connection.execute_batch(&sql).expect("it was not there");
            std::thread::sleep(FAULT_EVERY);
            faults += 1;
        }
        faults
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn ordered_webhooks_keep_their_order_while_their_lanes_cannot_be_read() {
    let events = ordered::event_count(EVENTS) / WEBHOOKS;
    let (folder, receiver) = (tempfile::tempdir().expect("a folder"), OrderedReceiver::start().await);
    let server = Program::start(folder.path(), &["--log", "error"], Stdio::inherit());
    for webhook in ordered::webhooks(&receiver.receiver.url(""), WEBHOOKS) {
        let (status, problem) = server.caller.call(Method::POST, "/api/v1/webhooks", &webhook).await;
        assert_eq!(status, 201, "{problem}");
    }
    let stop = Arc::new(AtomicBool::new(false));
    let faults = break_reads(&folder.path().join("data/postrider.db"), Arc::clone(&stop));
    let caller = server.caller.clone();
    let callers: Callers = Arc::new(move || vec![caller.clone()]);
    for publisher in ordered::publish(&callers, WEBHOOKS, events) {
        publisher.await.expect("everything is accepted in the end");
    }
    receiver.wait_for_ends(events * WEBHOOKS, PATIENCE).await;
    stop.store(true, Ordering::Relaxed);
    let faults = faults.join().expect("the database can be changed");
    assert!(faults > 5, "hardly anything was broken: {faults}");
    receiver.assert_ordered(events * WEBHOOKS);
}
