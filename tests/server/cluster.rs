//! Several nodes on one PostgreSQL, each a process, under load, while something breaks: a node, the network, the database.
//! Each test is a story that ends with every accepted event accounted for.

mod account;
mod ambiguous;
mod cut_off;
mod database;
mod disk;
mod in_order;
mod killed;
mod known;
mod namespace;
mod nodes;
mod paused;
mod proxy;
mod publishers;
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
