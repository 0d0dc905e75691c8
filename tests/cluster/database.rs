//! The database goes away and comes back, or another takes its place.

use std::time::Duration;

use crate::account::account;
use crate::nodes::{self, DATABASE, Nodes};
use crate::postgres_server::{Cluster, Shutdown};
use crate::publishers::Publishers;
use crate::receiver::{Answer, TestReceiver};
use crate::under_load;

/// Attempts that were cut off when leases ended, and outcomes that could not be recorded before others came.
const MAX_REPEATS_AN_OUTAGE: usize = 500;
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
