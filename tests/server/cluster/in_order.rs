//! Ordered webhooks keep their order while connections to the database are cut.

use std::sync::Arc;

use crate::cluster::PATIENCE;
use crate::cluster::nodes::{DATABASE, Nodes, WEBHOOKS};
use crate::support::ordered::{self, Callers, OrderedReceiver};
use crate::support::postgres_server::Cluster;

const EVENTS: usize = 2_400;
/// So many events end between two cuts, however fast the machine is.
const ENDS_BETWEEN_CUTS: usize = 300;

#[tokio::test(flavor = "multi_thread")]
async fn ordered_webhooks_keep_their_order_while_connections_are_cut() {
    let events = ordered::event_count(EVENTS) / WEBHOOKS;
    let receiver = OrderedReceiver::start().await;
    let cluster = Cluster::with_database(DATABASE).await;
    let webhooks = ordered::webhooks(&receiver.receiver.url(""), WEBHOOKS);
    let nodes = Nodes::start_with(&cluster.url(DATABASE), 2, &webhooks).await;
    nodes.wait_for_balance(&cluster).await;
    let directory = nodes.directory().clone();
    let callers: Callers = Arc::new(move || directory.all());
    let publishers = ordered::publish(&callers, WEBHOOKS, events);
    for ends in (ENDS_BETWEEN_CUTS..events * WEBHOOKS).step_by(ENDS_BETWEEN_CUTS) {
        receiver.wait_for_ends(ends, 10 * PATIENCE).await;
        cluster.disconnect(DATABASE).await;
    }
    receiver.wait_for_ends(events * WEBHOOKS, 10 * PATIENCE).await;
    for publisher in publishers {
        publisher.await.expect("everything is accepted in the end");
    }
    receiver.assert_ordered(events * WEBHOOKS);
}
