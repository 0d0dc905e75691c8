//! Ordered webhooks keep their order while connections to the database are cut.

use std::sync::Arc;
use std::time::Duration;

use crate::PATIENCE;
use crate::nodes::{DATABASE, Nodes, WEBHOOKS};
use crate::ordered::{self, Callers, OrderedReceiver};
use crate::postgres_server::Cluster;

const EVENTS: usize = 2_400;
const CUT_EVERY: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn ordered_webhooks_keep_their_order_while_connections_are_cut() {
    let events = ordered::event_count(EVENTS) / WEBHOOKS;
    let receiver = OrderedReceiver::start().await;
    let cluster = Cluster::start().await;
    cluster.create_database(DATABASE, None).await;
    let webhooks = ordered::webhooks(&receiver.receiver.url(""), WEBHOOKS);
    let nodes = Nodes::start_with(&cluster.url(DATABASE), 2, &webhooks).await;
    nodes.wait_for_balance(&cluster).await;
    let directory = nodes.directory().clone();
    let callers: Callers = Arc::new(move || directory.all());
    let publishers = ordered::publish(&callers, WEBHOOKS, events);
    let everything = receiver.wait_for_ends(events * WEBHOOKS, 10 * PATIENCE);
    tokio::pin!(everything);
    let mut cuts = 0;
    while tokio::time::timeout(CUT_EVERY, &mut everything).await.is_err() {
        cluster.disconnect(DATABASE).await;
        cuts += 1;
    }
    for publisher in publishers {
        publisher.await.expect("everything is accepted in the end");
    }
    println!("connections were cut {cuts} times");
    assert!(cuts > 1, "hardly anything was broken");
    receiver.assert_ordered(events * WEBHOOKS);
}
