//! The database goes away and comes back, or another takes its place.

use std::time::Duration;

use crate::cluster::account::account;
use crate::cluster::nodes::{self, DATABASE, LEASE, Nodes, WEBHOOKS};
use crate::cluster::publishers::Publishers;
use crate::cluster::under_load;
use crate::support::postgres_server::{Cluster, Shutdown};
use crate::support::receiver::{Answer, TestReceiver};

/// Attempts that were cut off when leases ended, on a machine that is busy.
const MAX_REPEATS_AN_OUTAGE: usize = 50;
/// Events beside those of the publishers, right before an outage.
const BACKLOG: usize = 1_000;
/// Between two cuts of all connections, and for how long.
const CUT_EVERY: Duration = Duration::from_millis(200);
const CUTS: usize = 15;

async fn receiver() -> TestReceiver {
    TestReceiver::start(|_, _| Answer(200, Duration::from_millis(20))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_database_loses_nothing_whether_it_is_told_or_crashes() {
    let receiver = receiver().await;
    let (mut cluster, nodes) = nodes::start(3, &receiver).await;
    let publishers = Publishers::start(nodes.directory());
    let outages = [Shutdown::Immediate, Shutdown::Fast];
    for how in outages {
        publishers.wait_for_more(200).await;
        under_load(Duration::from_millis(fastrand::u64(..300))).await;
        cluster.stop(how);
        cluster.run_again().await;
        publishers.wait_for_more(200).await;
        nodes.wait_for_balance(&cluster).await;
    }
    account(&cluster, &publishers.stop().await, &receiver, outages.len() * MAX_REPEATS_AN_OUTAGE).await;
}

/// While the database is away, nodes go on with what they have in memory, and wait with the outcomes. All leases end. Whichever
/// node comes back first leaves the others theirs, and each records what it has sent.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_in_an_outage_longer_than_all_leases_is_recorded_after_it() {
    let receiver = receiver().await;
    let (mut cluster, nodes) = nodes::start(3, &receiver).await;
    let publishers = Publishers::start(nodes.directory());
    publishers.wait_for_more(200).await;
    let id = |n: usize| format!("backlog-{n}.w{}", n % WEBHOOKS);
    publishers.send_all(&(0..BACKLOG).map(id).collect::<Vec<_>>()).await;
    cluster.stop(Shutdown::Immediate);
    under_load(LEASE * 2).await;
    cluster.run_again().await;
    publishers.wait_for_more(200).await;
    nodes.wait_for_balance(&cluster).await;
    account(&cluster, &publishers.stop().await, &receiver, MAX_REPEATS_AN_OUTAGE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_cut_again_and_again_lose_nothing() {
    let receiver = receiver().await;
    let (cluster, nodes) = nodes::start(2, &receiver).await;
    let publishers = Publishers::start(nodes.directory());
    publishers.wait_for_more(200).await;
    for _ in 0..CUTS {
        cluster.disconnect(DATABASE).await;
        under_load(CUT_EVERY).await;
    }
    publishers.wait_for_more(200).await;
    account(&cluster, &publishers.stop().await, &receiver, MAX_REPEATS_AN_OUTAGE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_synchronous_standby_that_takes_over_has_everything_that_was_accepted() {
    let receiver = receiver().await;
    let mut primary = Cluster::start().await;
    primary.create_database(DATABASE, None).await;
    let standby = Cluster::standby_of(&primary).await;
    primary.wait_for_standby().await;
    let (first, second) = (format!("127.0.0.1:{}", primary.port()), format!("127.0.0.1:{}", standby.port()));
    let both = primary.url(DATABASE).replace(&first, &format!("{first},{second}")) + "?target_session_attrs=read-write";
    let nodes = Nodes::start(&both, 3, &receiver.url("")).await;
    nodes.wait_for_balance(&primary).await;
    let publishers = Publishers::start(nodes.directory());
    publishers.wait_for_more(300).await;
    primary.stop(Shutdown::Immediate);
    standby.promote().await;
    publishers.wait_for_more(300).await;
    nodes.wait_for_balance(&standby).await;
    account(&standby, &publishers.stop().await, &receiver, MAX_REPEATS_AN_OUTAGE).await;
}
