//! The account of a test: what became of everything that was accepted.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use crate::cluster::nodes::DATABASE;
use crate::cluster::publishers::{Published, webhook_of};
use crate::cluster::{PATIENCE, until};
use crate::support::postgres_server::Cluster;
use crate::support::receiver::TestReceiver;

/// Waits until nothing is pending. Then each event that was accepted is stored once, and delivered, and has arrived where
/// it belongs; the counters say so, too. Returns how many arrivals were repeats, which are as many as `most` at most.
pub(crate) async fn account(cluster: &Cluster, published: &Published, receiver: &TestReceiver, most: usize) -> usize {
    let client = cluster.connect(DATABASE).await;
    let number = async |sql: &str| -> i64 { client.query_one(sql, &[]).await.expect("the database answers").get(0) };
    until("nothing is pending", PATIENCE, async || number("SELECT count(*) FROM pending").await == 0).await;

    let accepted: BTreeSet<&str> = published.accepted.keys().map(|id| &**id).collect();
    let rows = client.query("SELECT id FROM event WHERE topic LIKE 'load.%'", &[]).await.expect("rows");
    let mut stored: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    stored.sort_unstable();
    assert!(stored.windows(2).all(|pair| pair[0] != pair[1]), "an event is stored twice");
    assert_eq!(stored.into_iter().collect::<BTreeSet<_>>(), accepted, "what is stored is what was accepted");

    let sql = "
        SELECT id, state, length(owed) FROM event LEFT JOIN delivery ON event_seq = seq
        WHERE state IS DISTINCT FROM 0";
    let others = client.query(sql, &[]).await.expect("rows");
    assert!(others.is_empty(), "not delivered: {others:?}");
    let count = i64::try_from(accepted.len()).expect("not so many");
    assert_eq!(number("SELECT count(*) FROM delivery").await, count, "each is delivered once");
    for (counter, expected) in [("events", count), ("owed", count), ("delivered", count), ("dead", 0)] {
        assert_eq!(number(&format!("SELECT sum({counter})::bigint FROM counters")).await, expected, "{counter}");
    }

    let arrivals = first_arrivals(receiver);
    let missing: Vec<_> = accepted.iter().filter(|id| !arrivals.contains_key(**id)).collect();
    assert!(missing.is_empty(), "accepted, and never arrived: {missing:?}");
    let misled: Vec<_> = receiver
        .received()
        .into_iter()
        .filter(|request| request.path[1..] != *webhook_of(&request.event_id()))
        .collect();
    assert!(misled.is_empty(), "at the wrong webhook: {misled:?}");
    let repeats = receiver.received_count() - arrivals.len();
    println!("{} events accepted, all of them arrived, {repeats} arrivals were repeats", accepted.len());
    assert!(repeats <= most, "{repeats} arrivals were repeats, and {most} may be");
    repeats
}

/// When each event arrived for the first time.
pub(crate) fn first_arrivals(receiver: &TestReceiver) -> HashMap<String, Instant> {
    let mut arrivals = HashMap::new();
    for request in receiver.received() {
        arrivals.entry(request.event_id()).or_insert(request.at);
    }
    arrivals
}
