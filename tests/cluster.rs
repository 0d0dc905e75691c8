//! Several nodes on one PostgreSQL, each a process, under load, while something breaks: a node, the network, the database.
//! Each test is a story that ends with every accepted event accounted for.

#![cfg(all(feature = "server", target_os = "linux"))]
#![allow(dead_code, reason = "what is shared with other tests is used in part")]
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and one says what it measured"
)]

#[path = "support/ordered.rs"]
mod ordered;
#[path = "support/postgres.rs"]
mod postgres_server;
#[path = "support/program.rs"]
mod program;
#[path = "support/receiver.rs"]
mod receiver;

#[path = "cluster/account.rs"]
mod account;
#[path = "cluster/ambiguous.rs"]
mod ambiguous;
#[path = "cluster/cut_off.rs"]
mod cut_off;
#[path = "cluster/database.rs"]
mod database;
#[path = "cluster/disk.rs"]
mod disk;
#[path = "cluster/in_order.rs"]
mod in_order;
#[path = "cluster/killed.rs"]
mod killed;
#[path = "cluster/known.rs"]
mod known;
#[path = "cluster/namespace.rs"]
mod namespace;
#[path = "cluster/nodes.rs"]
mod nodes;
#[path = "cluster/paused.rs"]
mod paused;
#[path = "cluster/proxy.rs"]
mod proxy;
#[path = "cluster/publishers.rs"]
mod publishers;
#[path = "cluster/rolling.rs"]
mod rolling;

use std::time::{Duration, Instant};

/// What nearly everything may take on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until it is so; returns how long that took.
async fn until(what: &str, within: Duration, mut is_so: impl AsyncFnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < within, "not within {within:?}: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    began.elapsed()
}

/// Lets the load go on.
async fn under_load(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Whether this may do what takes root; a test that may not is skipped, but not in CI.
fn may_act_as_root(needed: &str) -> bool {
    #[expect(clippy::disallowed_methods, reason = "a test has no configuration")]
    let is_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    let is_root = rustix::process::getuid().is_root();
    assert!(is_root || !is_ci, "CI must run this as root: {needed}");
    if !is_root {
        println!("skipped, not root: {needed}");
    }
    is_root
}
