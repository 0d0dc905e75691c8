//! A node that is killed: others deliver what its webhooks are owed.

use std::time::{Duration, Instant};

use crate::cluster::account::{account, first_arrivals};
use crate::cluster::nodes::{self, LEASE};
use crate::cluster::publishers::{Accepted, Publishers, webhook_of};
use crate::cluster::{PATIENCE, under_load, until};
use crate::support::receiver::{Answer, TestReceiver};

/// `POSTRIDER_CLUSTER_ROUNDS` makes it more for a longer run.
const ROUNDS: usize = 3;
const NODES: usize = 3;
/// After a death everything goes on within this time.
const TAKEN_OVER_WITHIN: Duration = LEASE.saturating_add(Duration::from_secs(5));
/// What is under way in a node, and what has ended and is not recorded yet.
const MAX_REPEATS_A_DEATH: usize = 200;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_owed_to_the_webhooks_of_a_node_that_is_killed_arrives_soon() {
    #[expect(clippy::disallowed_methods, reason = "a test has no configuration")]
    let rounds = std::env::var("POSTRIDER_CLUSTER_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().expect("a number"));
    let receiver = TestReceiver::start(|_, _| Answer(200, Duration::from_millis(20))).await;
    let (cluster, mut nodes) = nodes::start(NODES, &receiver).await;
    let publishers = Publishers::start(nodes.directory());
    let mut latest = Duration::ZERO;
    for _ in 0..rounds {
        publishers.wait_for_more(50).await;
        under_load(Duration::from_millis(fastrand::u64(..500))).await;
        let victim = fastrand::usize(..NODES);
        let webhooks = nodes.webhooks_of(&cluster, victim).await;
        nodes.kill(victim);
        let killed_at = Instant::now();
        nodes.wait_for_balance(&cluster).await;
        let mut owed = publishers.accepted();
        owed.retain(|id, _| webhooks.contains(webhook_of(id)));
        until("what was owed arrives", PATIENCE, async || {
            let arrivals = first_arrivals(&receiver);
            owed.keys().all(|id| arrivals.contains_key(id))
        })
        .await;
        latest = latest.max(longest_wait(&owed, &receiver, killed_at));
        nodes.run(victim);
        nodes.wait_for_balance(&cluster).await;
    }
    println!("{latest:?} from a death, or from being accepted after it, to the latest first arrival");
    assert!(latest <= TAKEN_OVER_WITHIN, "{latest:?} is too long");
    account(&cluster, &publishers.stop().await, &receiver, rounds * MAX_REPEATS_A_DEATH).await;
}

/// How long it took after the death, or after being accepted if that was later, until the last had arrived.
fn longest_wait(owed: &Accepted, receiver: &TestReceiver, killed_at: Instant) -> Duration {
    let arrivals = first_arrivals(receiver);
    let wait =
        |(id, accepted_at): (&String, &Instant)| arrivals[id].saturating_duration_since(killed_at.max(*accepted_at));
    owed.iter().map(wait).max().unwrap_or_default()
}
