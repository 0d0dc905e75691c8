//! Commits whose answers are lost: the database has made them, and the node does not know.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::account::account;
use crate::cluster::nodes::{DATABASE, Nodes};
use crate::cluster::proxy::{Cuts, Proxy};
use crate::cluster::publishers::{Publishers, send_once};
use crate::cluster::{under_load, until};
use crate::support::postgres_server::Cluster;
use crate::support::receiver::{Answer, TestReceiver};

/// One in so many commits loses its answer.
const CUT_ONE_IN: u32 = 20;
/// What nobody holds in memory is looked for every second.
const FOUND_WITHIN: Duration = Duration::from_secs(10);
const LOAD: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_commit_lost_its_answer_is_accepted_once_and_delivered_once() {
    let receiver = TestReceiver::start(|_, _| Answer(200, Duration::from_millis(20))).await;
    let cluster = Cluster::with_database(DATABASE).await;
    let cuts = Arc::new(Cuts::default());
    let database = SocketAddr::from((Ipv4Addr::LOCALHOST, cluster.port()));
    let proxy = Proxy::to_postgres(database, Arc::clone(&cuts)).await;
    let direct = format!(":{}/", cluster.port());
    let store = cluster.url(DATABASE).replace(&direct, &format!(":{}/", proxy.address.port())) + "?sslmode=disable";
    let nodes = Nodes::start(&store, 2, &receiver.url("")).await;
    nodes.wait_for_balance(&cluster).await;

    let client = cluster.connect(DATABASE).await;
    // Its lane is where it is accepted, and does not get it.
    let once = format!("once.{}", nodes.webhooks_of(&cluster, 0).await.pop_first().expect("it has some"));
    cuts.cut_next_accept();
    assert_eq!(send_once(&nodes.caller(0), &once).await.0, 503);
    assert_eq!(cuts.made(), 1, "the commit was cut off, and nothing else");
    let stored = client.query_one("SELECT count(*) FROM event WHERE id = $1", &[&once]).await.unwrap();
    assert_eq!(stored.get::<_, i64>(0), 1, "it is stored all the same");
    let publishers = Publishers::start(nodes.directory());
    publishers.send(&once).await;
    until("it arrives though the load goes on", FOUND_WITHIN, async || receiver.arrivals().contains_key(&once)).await;

    cuts.cut_one_in(CUT_ONE_IN);
    under_load(LOAD).await;
    cuts.cut_one_in(0);
    publishers.wait_for_more(50).await;
    println!("{} commits lost their answers", cuts.made());
    assert!(cuts.made() > 1, "no commit lost its answer under load");
    account(&cluster, &publishers.stop().await, &receiver, 0).await;
}
