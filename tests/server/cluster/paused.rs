//! A process that is stopped for longer than its lease, as a machine that is moved or out of memory may be.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::cluster::account::account;
use crate::cluster::nodes::{self, DATABASE, LEASE};
use crate::cluster::publishers::{Published, Publishers, send_once, webhook_of};
use crate::cluster::{PATIENCE, under_load, until};
use crate::support::receiver::{Answer, TestReceiver};

/// How long the process is stopped.
const STOPPED_FOR: Duration = LEASE.saturating_mul(3);
/// PostgreSQL ends the transactions of a node that says nothing, and the others go on.
const TAKEN_OVER_WITHIN: Duration = LEASE.saturating_add(Duration::from_secs(5));
/// What is under way in a node.
const MAX_REPEATS: usize = 300;

/// What is recorded of deliveries: event, state, attempts, when it changed, when the first attempt began, status.
type Recorded = Vec<(String, i16, i32, i64, Option<i64>, Option<i32>)>;

async fn recorded(client: &Client, ids: &[String]) -> Recorded {
    let sql = "
        SELECT event.id, state, attempts, updated_at, first_started_at, status_code
        FROM delivery JOIN event ON event.seq = delivery.event_seq
        WHERE event.id = ANY($1) ORDER BY event.id";
    let rows = client.query(sql, &[&ids]).await.expect("the database answers");
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4), row.get(5))).collect()
}

/// How many connections of nodes are so.
async fn connections(client: &Client, condition: &str) -> i64 {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity
         WHERE datname = '{DATABASE}' AND pid <> pg_backend_pid() AND application_name = 'postrider' AND {condition}"
    );
    client.query_one(&sql, &[]).await.expect("the database answers").get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_stopped_within_a_settlement_holds_nobody_up_and_changes_nothing_later() {
    let thinking = Duration::from_secs(2);
    let receiver = TestReceiver::start(move |n, _| Answer(200, if n == 0 { thinking } else { Duration::ZERO })).await;
    let (cluster, mut nodes) = nodes::start(2, &receiver).await;
    let webhook = nodes.webhooks_of(&cluster, 0).await.pop_first().expect("it has some");
    let id = format!("settled.{webhook}");
    let accepted = HashMap::from([(id.clone(), Instant::now())]);
    assert_eq!(send_once(&nodes.caller(0), &id).await.0, 202);
    receiver.wait_for(1).await;
    let (client, locks) = (cluster.connect(DATABASE).await, cluster.connect(DATABASE).await);
    locks.batch_execute("BEGIN; SELECT FROM pending FOR UPDATE").await.unwrap();
    until("the settlement waits", PATIENCE, async || connections(&client, "wait_event_type = 'Lock'").await == 1).await;
    nodes.pause(0);
    let stopped_at = Instant::now();
    locks.batch_execute("COMMIT").await.unwrap();
    let stands_open = "state = 'idle in transaction'";
    until("its transaction stands open", PATIENCE, async || connections(&client, stands_open).await == 1).await;

    until("the other node delivers", PATIENCE, async || receiver.received_count() == 2).await;
    let took = stopped_at.elapsed();
    println!("{took:?} from the stop to the delivery by the next owner");
    assert!(took <= TAKEN_OVER_WITHIN, "it took {took:?}");
    let ids = [id];
    until("the other node records it", PATIENCE, async || !recorded(&client, &ids).await.is_empty()).await;
    let before = recorded(&client, &ids).await;
    under_load(STOPPED_FOR.saturating_sub(stopped_at.elapsed())).await;
    nodes.resume(0);
    nodes.wait_for_balance(&cluster).await;
    assert_eq!(recorded(&client, &ids).await, before, "what the new owner recorded stays");
    account(&cluster, &Published { accepted, most_tries: 1 }, &receiver, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_stopped_under_load_for_longer_than_its_lease_changes_nothing_later() {
    let receiver = TestReceiver::start(|_, _| Answer(200, Duration::from_millis(250))).await;
    let (cluster, mut nodes) = nodes::start(3, &receiver).await;
    let publishers = Publishers::start(nodes.directory());
    publishers.wait_for_more(300).await;
    let webhooks = nodes.webhooks_of(&cluster, 0).await;
    nodes.pause(0);
    let stopped_at = Instant::now();
    nodes.wait_for_balance(&cluster).await;
    let ids: Vec<String> = publishers.accepted().into_keys().filter(|id| webhooks.contains(webhook_of(id))).collect();
    let client = cluster.connect(DATABASE).await;
    until("the next owners deliver", PATIENCE, async || recorded(&client, &ids).await.len() == ids.len()).await;
    let before = recorded(&client, &ids).await;
    under_load(STOPPED_FOR.saturating_sub(stopped_at.elapsed())).await;
    nodes.resume(0);
    nodes.wait_for_balance(&cluster).await;
    publishers.wait_for_more(200).await;
    assert_eq!(recorded(&client, &ids).await, before, "what the new owners recorded stays");
    let repeats = account(&cluster, &publishers.stop().await, &receiver, MAX_REPEATS).await;
    assert!(repeats > 0, "no attempt was under way when the node was stopped");
}
