//! New versions are rolled out: all nodes are restarted, one after the other.

use std::time::Duration;

use crate::cluster::account::account;
use crate::cluster::nodes;
use crate::cluster::publishers::Publishers;
use crate::support::receiver::{Answer, TestReceiver};

const NODES: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_costs_a_publisher_one_more_try_and_repeats_nothing() {
    let receiver = TestReceiver::start(|_, _| Answer(200, Duration::from_millis(20))).await;
    let (cluster, mut nodes) = nodes::start(NODES, &receiver).await;
    let publishers = Publishers::start(nodes.directory());
    for place in 0..NODES {
        publishers.wait_for_more(200).await;
        let status = nodes.terminate(place).await;
        assert!(status.success(), "{status}");
        publishers.wait_for_more(200).await;
        nodes.run(place);
        nodes.wait_for_balance(&cluster).await;
    }
    publishers.wait_for_more(200).await;
    let published = publishers.stop().await;
    assert!(published.most_tries <= 2, "a request needed {} tries", published.most_tries);
    account(&cluster, &published, &receiver, 0).await;
}
