//! Folders and databases that are left alone.

use std::process::Stdio;

use postrider::store::sqlite::DATABASE_FILE;

use crate::migrate_store::filled::fill;
use crate::migrate_store::{DATABASE, command, contents, migrate, refused};
use crate::support::postgres_server::Cluster;
use crate::support::program::Program;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_has_something_else_is_left_as_it_is() {
    let (cluster, folder, node) =
        (Cluster::with_database(DATABASE).await, tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(folder.path(), 10).await;
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    cluster.create_database("foreign_one", None).await;
    cluster.execute("foreign_one", "CREATE TABLE customers (name text)").await;
    let said = refused(&mut migrate(folder.path(), &cluster.url("foreign_one")));
    assert!(said.contains("is not empty: it has the table customers") && said.contains("createdb"), "{said}");
    let tables: i64 = cluster.connect("foreign_one").await.query_one(tables, &[]).await.unwrap().get(0);
    assert_eq!(tables, 1);

    let said = refused(migrate(folder.path(), &cluster.url(DATABASE)).arg("--verify"));
    assert!(said.contains("nothing was moved"), "{said}");
    let store = cluster.url(DATABASE);
    let running = Program::start(node.path(), &["--lease", "30s", "--store", &store], Stdio::inherit());
    let said = refused(&mut migrate(folder.path(), &store));
    assert!(said.contains("the node ") && said.contains("Stop every node"), "{said}");
    running.kill();
    // It is known to have gone when its lease is over.
    cluster.execute(DATABASE, "UPDATE node SET seen_at = seen_at - interval '1 hour'").await;
    let said = refused(&mut migrate(folder.path(), &store));
    assert!(said.contains("an installation that nodes have begun"), "{said}");

    let wrong = store.replace(cluster.password(), "wrong-password");
    let said = refused(&mut migrate(folder.path(), &wrong));
    assert!(said.contains("password authentication failed") && !said.contains("wrong-password"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_cannot_be_moved_is_left_as_it_is() {
    let (cluster, folder, empty) =
        (Cluster::with_database(DATABASE).await, tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(folder.path(), 10).await;
    let store = cluster.url(DATABASE);
    let said = refused(&mut migrate(empty.path(), &store));
    assert!(said.contains("has no database") && said.contains("--data"), "{said}");
    assert!(!empty.path().join("data").exists());
    let output = command(folder.path()).args(["migrate-store", "--data", "data"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("POSTRIDER_STORE"), "{output:?}");

    let data = folder.path().join("data");
    let files = contents(&data);
    let said = refused(migrate(folder.path(), &store).env("POSTRIDER_MASTER_KEY", "01".repeat(32)));
    assert!(said.contains("the master key is not the one"), "{said}");
    std::fs::rename(data.join("master.key"), folder.path().join("elsewhere")).unwrap();
    let said = refused(&mut migrate(folder.path(), &store));
    assert!(said.contains("master.key is missing"), "{said}");
    std::fs::rename(folder.path().join("elsewhere"), data.join("master.key")).unwrap();
    assert_eq!(contents(&data), files);
    let database = rusqlite::Connection::open(data.join(DATABASE_FILE)).unwrap();
    database.pragma_update(None, "user_version", 4).unwrap();
    drop(database);
    let said = refused(&mut migrate(folder.path(), &store));
    assert!(said.contains("schema version 4, and ") && said.contains("serve` on the folder once"), "{said}");
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    let tables: i64 = cluster.connect(DATABASE).await.query_one(tables, &[]).await.unwrap().get(0);
    assert_eq!(tables, 0, "nothing was made in the database");
}
