//! A node that cannot reach the database, and does not know why: packets go nowhere.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::cluster::account::account;
use crate::cluster::namespace::{Namespace, has_ip};
use crate::cluster::nodes::{DATABASE, LEASE, Nodes};
use crate::cluster::proxy::Proxy;
use crate::cluster::publishers::{Publishers, send_once};
use crate::cluster::{PATIENCE, may_act_as_root, under_load, until};
use crate::support::postgres_server::Cluster;
use crate::support::receiver::{Answer, TestReceiver};

const REFUSED_WITHIN: Duration = Duration::from_secs(5);
/// Requests to the node while it is cut off, and the time between two.
const REQUESTS: usize = 30;
const REQUEST_EVERY: Duration = Duration::from_millis(100);
const MAX_REPEATS: usize = 300;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_cut_off_from_the_database_refuses_in_time_and_goes_on_when_it_is_back() {
    if !may_act_as_root("network namespaces") {
        return;
    }
    assert!(has_ip(), "`ip` is missing: install iproute2");
    let namespace = Arc::new(Namespace::make());
    let receiver = TestReceiver::start(|_, _| Answer(200, Duration::from_millis(20))).await;
    let cluster = Cluster::with_database(DATABASE).await;
    let to_receiver = Proxy::to(receiver.address, namespace.api().outside).await;
    let database = (Ipv4Addr::LOCALHOST, cluster.port()).into();
    let to_database = Proxy::to(database, namespace.database().outside).await;
    let receivers = format!("http://{}", to_receiver.address);
    let mut nodes = Nodes::start(&cluster.url(DATABASE), 1, &receivers).await;
    let direct = format!("127.0.0.1:{}", cluster.port());
    let by_cable = cluster.url(DATABASE).replace(&direct, &to_database.address.to_string());
    nodes.add(&by_cable, Some(Arc::clone(&namespace)));
    nodes.wait_for_balance(&cluster).await;
    let publishers = Publishers::start(nodes.directory());
    publishers.wait_for_more(200).await;

    namespace.cut(namespace.database());
    let mut requests = JoinSet::new();
    for n in 0..REQUESTS {
        let (caller, id) = (nodes.caller(1), format!("cut-off-{n}.w0"));
        requests.spawn(async move { (send_once(&caller, &id).await, id) });
        under_load(REQUEST_EVERY).await;
    }
    while let Some(answered) = requests.join_next().await {
        let ((status, took, says_when), id) = answered.expect("an answer");
        assert_eq!((status, says_when), (503, true), "{id}");
        assert!(took <= REFUSED_WITHIN, "{id}: {took:?}");
    }
    assert!(nodes.webhooks_of(&cluster, 1).await.is_empty(), "its lease has ended: {LEASE:?}");
    publishers.wait_for_more(50).await;
    namespace.mend(namespace.database());
    until("it accepts again", PATIENCE, async || send_once(&nodes.caller(1), "mended.w0").await.0 == 202).await;
    nodes.wait_for_balance(&cluster).await;
    publishers.send("mended.w0").await;
    for n in 0..REQUESTS {
        publishers.send(&format!("cut-off-{n}.w0")).await;
    }
    account(&cluster, &publishers.stop().await, &receiver, MAX_REPEATS).await;
}
