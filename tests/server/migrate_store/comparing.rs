//! What a comparison finds.

use crate::migrate_store::filled::fill;
use crate::migrate_store::{DATABASE, command, migrate, moved, refused};
use crate::support::postgres_server::Cluster;

/// One value each, and which table is said to differ.
const TAMPERED: [(&str, &str); 23] = [
    ("keys", "UPDATE meta SET value = '\\x00' WHERE key = 'delivery_id_key'"),
    ("tenants", "UPDATE tenant SET description = 'x'"),
    ("counters", "UPDATE counters SET delivered = delivered + 1"),
    ("webhooks", "UPDATE webhook SET url = url || 'x' WHERE seq = 1"),
    ("webhooks", "UPDATE webhook SET shard = (shard + 1) % 256 WHERE seq = 1"),
    ("webhooks", "UPDATE webhook SET enabled = NOT enabled WHERE seq = 2"),
    ("webhook health", "DELETE FROM webhook_health WHERE seq = 2"),
    ("tokens", "UPDATE token SET revoked_at = 1"),
    ("idempotency keys", "UPDATE idempotency SET expires_at = 1"),
    ("figures", "UPDATE figure SET delivered = delivered + 1 WHERE webhook = 2"),
    ("figures", "UPDATE figure SET attempts = '\\x01'"),
    ("figure marks", "UPDATE figure_mark SET at = at + 1 WHERE step = 2"),
    ("events", "UPDATE event SET body = set_byte(body, 0, 32) WHERE seq = 3"),
    ("events", "UPDATE event SET owed = '\\x01' WHERE seq = 3"),
    ("event ids", "DELETE FROM event_id WHERE event_seq = 3"),
    ("deliveries", "UPDATE delivery SET state = 1 - state WHERE event_seq = 3 AND state < 2"),
    ("deliveries", "UPDATE pending SET next_at = next_at + 1 WHERE event_seq = 4"),
    ("deliveries", "DELETE FROM pending WHERE event_seq = 4"),
    ("deliveries", "UPDATE pending SET status_code = NULL WHERE status_code IS NOT NULL"),
    ("attempts", "UPDATE delivery SET first_response = '\\x00' WHERE first_started_at IS NOT NULL"),
    ("attempts", "UPDATE attempt SET error = NULL WHERE number = 2"),
    ("attempts", "DELETE FROM attempt WHERE number = 1"),
    // Two that are changed into each other's place.
    ("deliveries", "UPDATE pending SET attempts = 1 - attempts WHERE event_seq IN (1, 4)"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_was_changed_anywhere_is_found() {
    let (cluster, folder) = (Cluster::with_database(DATABASE).await, tempfile::tempdir().unwrap());
    fill(folder.path(), 40).await;
    moved(&mut migrate(folder.path(), &cluster.url(DATABASE)));
    for (number, (table, tampering)) in TAMPERED.iter().enumerate() {
        let name = format!("tampered_{number}");
        cluster.create_database(&name, Some(DATABASE)).await;
        let changed = cluster.connect(&name).await.execute(*tampering, &[]).await.unwrap();
        assert!(changed > 0, "{tampering}");
        let said = refused(migrate(folder.path(), &cluster.url(&name)).arg("--verify"));
        assert!(said.contains(&format!("error: {table} differ")), "{tampering}: {said}");
    }
    moved(migrate(folder.path(), &cluster.url(DATABASE)).arg("--verify"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_differs_when_all_is_copied_keeps_nodes_from_starting() {
    let (cluster, folder) = (Cluster::with_database(DATABASE).await, tempfile::tempdir().unwrap());
    fill(folder.path(), 40).await;
    let store = cluster.url(DATABASE);
    moved(&mut migrate(folder.path(), &store));
    let tampering = "UPDATE transfer SET finished_at = NULL; UPDATE event SET topic = 'other' WHERE seq = 7";
    cluster.execute(DATABASE, tampering).await;
    let said = refused(&mut migrate(folder.path(), &store));
    assert!(said.contains("events differ: 80 rows") && said.contains("start anew"), "{said}");
    let node = ["serve", "--listen", "127.0.0.1:0", "--data", "data", "--store", &store];
    let said = refused(command(folder.path()).args(node));
    assert!(said.contains("has not finished"), "{said}");
    cluster.execute(DATABASE, "UPDATE event SET topic = 'a.b' WHERE seq = 7").await;
    moved(&mut migrate(folder.path(), &store));
}
