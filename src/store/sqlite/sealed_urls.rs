//! URLs from before they were sealed: a start seals them.

use rusqlite::Connection;
use uuid::Uuid;

use super::folder::Folder;
use crate::store::OpenError;
use crate::store::records::webhook_columns::sealed_url;
use crate::store::seal::Sealer;
use crate::webhook::TenantSeq;

type Row = (i64, TenantSeq, Uuid, String, Option<Vec<u8>>);

/// Seals the URLs, also of deleted webhooks. Old texts are overwritten with zeros.
pub(super) fn seal_urls(connection: &mut Connection, folder: &Folder, sealer: &Sealer) -> Result<(), OpenError> {
    let failed = |error| folder.failed(error);
    let mut read = connection
        .prepare("SELECT seq, tenant, uuid, url, policy FROM webhook WHERE url NOT LIKE '%/…'")
        .map_err(failed)?;
    let rows = read
        .query_map((), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))
        .map_err(failed)?;
    let rows: Vec<Row> = rows.collect::<Result<_, _>>().map_err(failed)?;
    drop(read);
    if rows.is_empty() {
        return Ok(());
    }
    connection.pragma_update(None, "secure_delete", true).map_err(failed)?;
    let transaction = connection.transaction().map_err(failed)?;
    for (seq, tenant, uuid, url, policy) in rows {
        let (url, policy) = sealed_url(&url, policy.as_deref(), sealer, tenant, uuid)
            .map_err(|error| folder.corrupt(&format!("webhook {uuid}: {error}")))?;
        transaction
            .execute("UPDATE webhook SET url = ?2, policy = ?3 WHERE seq = ?1", (seq, url, policy))
            .map_err(failed)?;
    }
    transaction.commit().map_err(failed)?;
    // The write-ahead log contains the old pages, too.
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(())).map_err(failed)?;
    connection.pragma_update(None, "secure_delete", false).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::clock::UnixMicros;
    use crate::store::Store;
    use crate::store::records::webhook_columns::POLICY_FIELD;
    use crate::store::seal::{Belonging, MasterKey};
    use crate::store::sqlite::{DATABASE_FILE, SqliteOptions, SqliteStore};
    use crate::webhook::{DEFAULT_TENANT, WebhookPatch, WebhookSettings};

    const NOW: UnixMicros = UnixMicros(1_790_000_000_000_000);
    const SECRET: &str = "T0000-hook-token";

    fn settings(name: &str) -> WebhookSettings {
        WebhookSettings::create(WebhookPatch {
            name: Some(name.to_owned()),
            url: Some(format!("https://chat.example/services/{SECRET}?key={SECRET}")),
            topic_patterns: Some(vec![">".to_owned()]),
            ..WebhookPatch::default()
        })
        .unwrap()
    }

    fn is_in_files(folder: &Path) -> bool {
        fs::read_dir(folder).unwrap().any(|file| {
            let bytes = fs::read(file.unwrap().path()).unwrap();
            bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes())
        })
    }

    /// Stores URLs as versions without sealed URLs did: in the column, and not in `policy`, or without any `policy`.
    fn unseal(folder: &Path, key: &MasterKey) {
        let sealer = Sealer::new(key).unwrap();
        let connection = Connection::open(folder.join(DATABASE_FILE)).unwrap();
        let mut read = connection.prepare("SELECT seq, uuid, name, policy FROM webhook").unwrap();
        let rows = read.query_map((), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))).unwrap();
        let rows: Vec<(i64, Uuid, String, Vec<u8>)> = rows.collect::<Result<_, _>>().unwrap();
        for (seq, webhook, name, policy) in rows {
            let belonging = Belonging { tenant: DEFAULT_TENANT, webhook, field: POLICY_FIELD };
            let mut stored: serde_json::Value =
                serde_json::from_slice(&sealer.open(&policy, &belonging).unwrap()).unwrap();
            let url = stored["settings"].as_object_mut().unwrap().remove("url").unwrap();
            let policy = (name != "oldest").then(|| sealer.seal(stored.to_string().as_bytes(), &belonging).unwrap());
            let write = "UPDATE webhook SET url = ?2, policy = ?3 WHERE seq = ?1";
            connection.execute(write, (seq, url.as_str().unwrap(), policy)).unwrap();
        }
    }

    #[tokio::test]
    async fn a_url_of_before_is_sealed_by_a_start_and_leaves_no_trace() {
        let folder = tempfile::tempdir().unwrap();
        let (folder, key) = (folder.path(), MasterKey::new([7; 32]));
        let open =
            || -> Arc<dyn Store> { Arc::new(SqliteStore::open(folder, &key, SqliteOptions::default()).unwrap()) };
        let store = open();
        let mut before = Vec::new();
        for name in ["oldest", "newer", "deleted"] {
            let mut settings = settings(name);
            if name == "newer" {
                let patch = serde_json::from_str(r#"{"headers": {"X-Key": "k"}, "ordered": true}"#).unwrap();
                settings = settings.patched(&patch).unwrap();
            }
            let record = store.create_webhook(DEFAULT_TENANT, settings, NOW).await.unwrap();
            if name == "deleted" {
                store.delete_webhook(DEFAULT_TENANT, record.uuid, NOW).await.unwrap();
            } else {
                before.push(record.settings);
            }
        }
        store.close().await;
        drop(store);
        assert!(!is_in_files(folder), "a new webhook's URL is sealed");
        unseal(folder, &key);
        assert!(is_in_files(folder));

        let store = open();
        let after = store.webhooks(DEFAULT_TENANT).await.unwrap();
        assert_eq!(after.into_iter().map(|record| record.settings).collect::<Vec<_>>(), before);
        store.close().await;
        drop(store);
        assert!(!is_in_files(folder), "neither in a row nor in what is free");
        let shown: String = Connection::open(folder.join(DATABASE_FILE))
            .unwrap()
            .query_row("SELECT group_concat(DISTINCT url) FROM webhook", (), |row| row.get(0))
            .unwrap();
        assert_eq!(shown, "https://chat.example/…");
    }
}
