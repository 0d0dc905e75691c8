//! Another master key: everything sealed is sealed again, and the key file is replaced.
//!
//! A crash at any point leaves a folder that opens. The new key is in a file of its own, [`NEW_MASTER_KEY_FILE`],
//! before the database is touched; one transaction seals all texts and the check value under it; then that file
//! takes the name of the old. In between the check value says which of the two files is the key, and
//! [`finish_key_change`] puts that in order at the next start.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rusqlite::Connection;
use uuid::Uuid;

use super::folder::{DATABASE_FILE, Folder, at};
use super::open::{MASTER_KEY_CHECK, MASTER_KEY_CHECK_TEXT, master_key_check};
use crate::store::OpenError;
use crate::store::records::inlets::SETTINGS_FIELD;
use crate::store::records::webhook_columns::{DECNET_FIELD, POLICY_FIELD, STANDARD_FIELD};
use crate::store::seal::{
    Belonging, CannotSeal, MASTER_KEY_FILE, MasterKey, MasterKeyError, NEW_MASTER_KEY_FILE, Sealer,
};
use crate::webhook::TenantSeq;

/// The result of a change of the master key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// The number of texts that were sealed under the new key.
    Resealed(usize),
    /// The folder was under the new key already, as after a change that was cut off after its commit.
    WasDone,
}

/// The reason why the master key was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeKeyError {
    #[error("{path} has no database")]
    NoDatabase { path: String },
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Key(#[from] MasterKeyError),
    #[error(transparent)]
    Seal(#[from] CannotSeal),
    #[error("{path}: {error}")]
    File { path: String, error: io::Error },
}

/// Where a test cuts a change off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    NewKeyWritten,
    Resealed,
    Committed,
}

/// Seals everything in `folder` under `new`. `current`: the present master key; `None`: the key is in the key file,
/// which then gets the new one. Takes the folder's lock. Blocks.
pub fn change_master_key(
    folder: &Path,
    current: Option<&MasterKey>,
    new: &MasterKey,
) -> Result<Changed, ChangeKeyError> {
    change(folder, current, new, &mut |_| true)
}

fn change(
    folder: &Path,
    current: Option<&MasterKey>,
    new: &MasterKey,
    go_on: &mut dyn FnMut(Step) -> bool,
) -> Result<Changed, ChangeKeyError> {
    // Without this check the lock would create the folder.
    if !folder.join(DATABASE_FILE).exists() {
        return Err(ChangeKeyError::NoDatabase { path: folder.display().to_string() });
    }
    let locked = Folder::lock(folder)?;
    let file = folder.join(MASTER_KEY_FILE);
    let (old, is_in_file) = if let Some(key) = current {
        (key.clone(), false)
    } else {
        finish(&locked, folder)?;
        let missing = || MasterKeyError::Missing { path: file.display().to_string() };
        (MasterKey::load(&file)?.ok_or_else(missing)?, true)
    };
    let (old_sealer, new_sealer) = (Sealer::new(&old)?, Sealer::new(new)?);
    if is_under(&locked, &new_sealer)? {
        return Ok(Changed::WasDone);
    }
    let mut connection = locked.open(&old, None)?;
    if is_in_file {
        let path = folder.join(NEW_MASTER_KEY_FILE);
        let failed = |error| ChangeKeyError::File { path: path.display().to_string(), error };
        new.save(&path).map_err(failed)?;
    }
    if !go_on(Step::NewKeyWritten) {
        return Ok(Changed::Resealed(0));
    }
    let failed = |error| locked.failed(error);
    // Old texts are overwritten with zeros, since the old key may have been stolen.
    connection.pragma_update(None, "secure_delete", true).map_err(failed)?;
    let transaction = connection.transaction().map_err(failed)?;
    let texts = reseal(&transaction, &locked, &old_sealer, &new_sealer)?;
    let check = new_sealer.seal(MASTER_KEY_CHECK_TEXT, &master_key_check())?;
    let mut write = transaction.prepare("UPDATE meta SET value = ?2 WHERE key = ?1").map_err(failed)?;
    write.execute((MASTER_KEY_CHECK, check)).map_err(failed)?;
    drop(write);
    if !go_on(Step::Resealed) {
        return Ok(Changed::Resealed(0));
    }
    transaction.commit().map_err(failed)?;
    if !go_on(Step::Committed) {
        return Ok(Changed::Resealed(texts));
    }
    // The write-ahead log contains the old texts, too.
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(())).map_err(failed)?;
    if is_in_file {
        replace_key_file(folder)?;
    }
    Ok(Changed::Resealed(texts))
}

/// Whether `sealer` has the database's master key.
fn is_under(locked: &Folder, sealer: &Sealer) -> Result<bool, OpenError> {
    locked.inspect_header()?;
    let connection = locked.open_unchanging().map_err(|error| locked.failed(error))?;
    locked.fits(&connection, sealer)
}

/// The sealed columns of a row of `webhook`.
type SealedRow = (i64, TenantSeq, Uuid, Vec<u8>, Vec<u8>, Option<Vec<u8>>);

/// Seals all texts again, also of deleted webhooks; returns their number.
fn reseal(connection: &Connection, locked: &Folder, old: &Sealer, new: &Sealer) -> Result<usize, OpenError> {
    let failed = |error| locked.failed(error);
    let mut read = connection
        .prepare("SELECT seq, tenant, uuid, decnet_secret, standard_key, policy FROM webhook ORDER BY seq")
        .map_err(failed)?;
    let mut write = connection
        .prepare("UPDATE webhook SET decnet_secret = ?2, standard_key = ?3, policy = ?4 WHERE seq = ?1")
        .map_err(failed)?;
    let rows = read
        .query_map((), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?)))
        .map_err(failed)?;
    let rows: Vec<SealedRow> = rows.collect::<Result<_, _>>().map_err(failed)?;
    let mut texts = 0;
    for (seq, tenant, uuid, decnet, standard, policy) in rows {
        let mut again = |sealed: &[u8], field| {
            texts += 1;
            let belonging = Belonging { tenant, webhook: uuid, field };
            new.reseal(old, sealed, &belonging).map_err(|error| locked.corrupt(&format!("webhook {uuid}: {error}")))
        };
        let decnet = again(&decnet, DECNET_FIELD)?;
        let standard = again(&standard, STANDARD_FIELD)?;
        let policy = policy.map(|policy| again(&policy, POLICY_FIELD)).transpose()?;
        write.execute((seq, decnet, standard, policy)).map_err(failed)?;
    }
    Ok(texts + reseal_inlets(connection, locked, old, new)?)
}

/// The same for inlets.
fn reseal_inlets(connection: &Connection, locked: &Folder, old: &Sealer, new: &Sealer) -> Result<usize, OpenError> {
    let failed = |error| locked.failed(error);
    let mut read = connection.prepare("SELECT seq, tenant, uuid, settings FROM inlet ORDER BY seq").map_err(failed)?;
    let mut write = connection.prepare("UPDATE inlet SET settings = ?2 WHERE seq = ?1").map_err(failed)?;
    let rows = read.query_map((), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))).map_err(failed)?;
    let rows: Vec<(i64, TenantSeq, Uuid, Vec<u8>)> = rows.collect::<Result<_, _>>().map_err(failed)?;
    for (seq, tenant, uuid, sealed) in &rows {
        let belonging = Belonging { tenant: *tenant, webhook: *uuid, field: SETTINGS_FIELD };
        let sealed = new.reseal(old, sealed, &belonging);
        let sealed = sealed.map_err(|error| locked.corrupt(&format!("inlet {uuid}: {error}")))?;
        write.execute((seq, sealed)).map_err(failed)?;
    }
    Ok(rows.len())
}

/// Finishes a change that was cut off, or takes it back, depending on the database's key.
pub(crate) fn finish_key_change(folder: &Path) -> Result<(), OpenError> {
    let left_over = folder.join(NEW_MASTER_KEY_FILE);
    if !left_over.exists() || !folder.join(DATABASE_FILE).exists() {
        return Ok(());
    }
    finish(&Folder::lock(folder)?, folder)
}

fn finish(locked: &Folder, folder: &Path) -> Result<(), OpenError> {
    let left_over = folder.join(NEW_MASTER_KEY_FILE);
    if !left_over.exists() {
        return Ok(());
    }
    let fits = |path: &Path| -> Result<bool, OpenError> {
        // A file without a valid key fits no database.
        let Ok(Some(key)) = MasterKey::load(path) else { return Ok(false) };
        is_under(locked, &Sealer::new(&key).map_err(|error| at(path)(io::Error::other(error)))?)
    };
    if fits(&left_over)? {
        replace_key_file(folder)
    } else if fits(&folder.join(MASTER_KEY_FILE))? {
        fs::remove_file(&left_over).map_err(at(&left_over))
    } else {
        // Neither key fits. Both files stay, for the operator to decide.
        Ok(())
    }
}

fn replace_key_file(folder: &Path) -> Result<(), OpenError> {
    let file = folder.join(MASTER_KEY_FILE);
    fs::rename(folder.join(NEW_MASTER_KEY_FILE), &file).map_err(at(&file))?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(at(folder))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rusqlite::types::Value;

    use super::*;
    use crate::clock::UnixMicros;
    use crate::inlet::{InletPatch, InletSettings, InletSignature};
    use crate::store::sqlite::{SqliteOptions, SqliteStore};
    use crate::store::{Page, Store};
    use crate::webhook::{DEFAULT_TENANT, WebhookPatch, WebhookSettings};

    const NOW: UnixMicros = UnixMicros(1_790_000_000_000_000);

    fn settings(name: &str) -> WebhookSettings {
        let mut settings = WebhookSettings::create(WebhookPatch {
            name: Some(name.to_owned()),
            url: Some("https://siem.example/hook?key=secret".to_owned()),
            topic_patterns: Some(vec![">".to_owned()]),
            signatures: Some(vec!["ed25519".into()]),
            ..WebhookPatch::default()
        })
        .unwrap();
        let keys = &settings.receiver.keys;
        settings.receiver.keys =
            keys.rotated(crate::signing::SigningKeys::generate(), crate::signing::DEFAULT_OVERLAP, NOW).unwrap();
        settings
    }

    fn open(folder: &Path, key: &MasterKey) -> Result<SqliteStore, OpenError> {
        SqliteStore::open(folder, key, SqliteOptions::default())
    }

    /// A folder with three webhooks, one of them deleted; and the settings of the others.
    async fn folder_with_webhooks(key: &MasterKey, folder: &Path) -> Vec<WebhookSettings> {
        let store: Arc<dyn Store> = Arc::new(open(folder, key).unwrap());
        let mut all = Vec::new();
        for name in ["a", "b", "gone"] {
            let record = store.create_webhook(DEFAULT_TENANT, settings(name), NOW).await.unwrap();
            if name == "gone" {
                store.delete_webhook(DEFAULT_TENANT, record.uuid, NOW).await.unwrap();
            } else {
                all.push(record.settings);
            }
        }
        let inlet = InletPatch {
            name: Some("in".to_owned()),
            signature: Some(InletSignature("github".into())),
            secrets: Some(vec!["of the sender".to_owned()]),
            topic: Some("t".to_owned()),
            ..InletPatch::default()
        };
        store.create_inlet(DEFAULT_TENANT, InletSettings::create(&inlet).unwrap(), NOW).await.unwrap();
        store.close().await;
        all
    }

    async fn settings_in(folder: &Path, key: &MasterKey) -> Vec<WebhookSettings> {
        let store: Arc<dyn Store> = Arc::new(open(folder, key).unwrap());
        let records = store.webhooks(DEFAULT_TENANT).await.unwrap();
        let inlets = store.inlet_page(DEFAULT_TENANT, Page { limit: 2, cursor: None }).await.unwrap().items;
        assert_eq!(*inlets[0].settings.sender.secrets()[0].0, "of the sender");
        store.close().await;
        records.into_iter().map(|record| record.settings).collect()
    }

    /// Every blob of every table that begins as a text sealed under `key` does.
    fn sealed_under(folder: &Path, key: &MasterKey) -> usize {
        let sealed = Sealer::new(key).unwrap().seal(b"", &master_key_check()).unwrap();
        let connection = Connection::open(folder.join(DATABASE_FILE)).unwrap();
        let mut tables = connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'").unwrap();
        let tables: Vec<String> = tables.query_map((), |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
        let mut count = 0;
        for table in tables {
            let mut all = connection.prepare(&format!("SELECT * FROM \"{table}\"")).unwrap();
            let columns = all.column_count();
            let mut rows = all.query(()).unwrap();
            while let Some(row) = rows.next().unwrap() {
                let is_sealed = |value: Value| matches!(value, Value::Blob(blob) if blob.starts_with(&sealed[..5]));
                count += (0..columns).filter(|column| is_sealed(row.get(*column).unwrap())).count();
            }
        }
        count
    }

    #[tokio::test]
    async fn everything_is_sealed_under_the_new_key_and_nothing_under_the_old() {
        let folder = tempfile::tempdir().unwrap();
        let (folder, new) = (folder.path(), MasterKey::new([7; 32]));
        let old = MasterKey::load_or_create(folder).unwrap();
        let before = folder_with_webhooks(&old, folder).await;
        assert_eq!(
            sealed_under(folder, &old),
            11,
            "the example has three texts a webhook, one of an inlet, and the check value"
        );

        assert_eq!(change_master_key(folder, None, &new).unwrap(), Changed::Resealed(10));
        assert_eq!((sealed_under(folder, &old), sealed_under(folder, &new)), (0, 11));
        assert_eq!(MasterKey::load_or_create(folder).unwrap().expose(), new.expose());
        assert!(!folder.join(NEW_MASTER_KEY_FILE).exists());
        assert_eq!(settings_in(folder, &new).await, before);
        assert!(matches!(open(folder, &old), Err(OpenError::WrongMasterKey { .. })));

        // The old texts are not left in pages that are free either.
        let prefix = &Sealer::new(&old).unwrap().seal(b"", &master_key_check()).unwrap()[..5];
        for file in fs::read_dir(folder).unwrap() {
            let bytes = fs::read(file.unwrap().path()).unwrap();
            assert!(!bytes.windows(prefix.len()).any(|window| window == prefix));
        }
    }

    #[tokio::test]
    async fn a_change_that_is_cut_off_anywhere_leaves_a_folder_that_opens() {
        for (step, is_done) in [(Step::NewKeyWritten, false), (Step::Resealed, false), (Step::Committed, true)] {
            let folder = tempfile::tempdir().unwrap();
            let (folder, new) = (folder.path(), MasterKey::new([7; 32]));
            let old = MasterKey::load_or_create(folder).unwrap();
            let before = folder_with_webhooks(&old, folder).await;
            change(folder, None, &new, &mut |reached| reached != step).unwrap();
            assert!(folder.join(NEW_MASTER_KEY_FILE).exists(), "{step:?}");

            let key = MasterKey::load_or_create(folder).unwrap();
            assert_eq!(key.expose(), if is_done { &new } else { &old }.expose(), "{step:?}");
            assert!(!folder.join(NEW_MASTER_KEY_FILE).exists(), "{step:?}");
            assert_eq!(settings_in(folder, &key).await, before, "{step:?}");
            let again = change_master_key(folder, None, &new).unwrap();
            assert_eq!(again, if is_done { Changed::WasDone } else { Changed::Resealed(10) }, "{step:?}");
            assert_eq!(settings_in(folder, &new).await, before, "{step:?}");
        }
    }

    #[tokio::test]
    async fn a_key_from_elsewhere_is_written_to_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let (folder, old, new) = (folder.path(), MasterKey::new([1; 32]), MasterKey::new([2; 32]));
        let before = folder_with_webhooks(&old, folder).await;
        assert_eq!(change_master_key(folder, Some(&old), &new).unwrap(), Changed::Resealed(10));
        assert!(!folder.join(MASTER_KEY_FILE).exists() && !folder.join(NEW_MASTER_KEY_FILE).exists());
        assert_eq!(settings_in(folder, &new).await, before);
        // A repeated change is no error.
        assert_eq!(change_master_key(folder, Some(&old), &new).unwrap(), Changed::WasDone);
        let third = MasterKey::new([3; 32]);
        let refused = change_master_key(folder, Some(&old), &third);
        assert!(matches!(refused, Err(ChangeKeyError::Open(OpenError::WrongMasterKey { .. }))));
    }

    #[tokio::test]
    async fn a_folder_in_use_or_without_a_database_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (data, new) = (folder.path().join("data"), MasterKey::new([7; 32]));
        assert!(matches!(change_master_key(&data, None, &new), Err(ChangeKeyError::NoDatabase { .. })));
        assert!(!data.exists());
        let key = MasterKey::load_or_create(&data).unwrap();
        let store = open(&data, &key).unwrap();
        let refused = change_master_key(&data, None, &new);
        assert!(matches!(refused, Err(ChangeKeyError::Open(OpenError::InUse { .. }))));
        store.close().await;
        drop(store);
        fs::remove_file(data.join(MASTER_KEY_FILE)).unwrap();
        assert!(matches!(
            change_master_key(&data, None, &new),
            Err(ChangeKeyError::Key(MasterKeyError::Missing { .. }))
        ));
    }

    #[tokio::test]
    async fn two_key_files_of_which_none_fits_both_stay() {
        let folder = tempfile::tempdir().unwrap();
        let (folder, other) = (folder.path(), MasterKey::new([7; 32]));
        folder_with_webhooks(&MasterKey::new([1; 32]), folder).await;
        for name in [MASTER_KEY_FILE, NEW_MASTER_KEY_FILE] {
            other.save(&folder.join(name)).unwrap();
        }
        let key = MasterKey::load_or_create(folder).unwrap();
        assert!(matches!(open(folder, &key), Err(OpenError::WrongMasterKey { .. })));
        assert!(folder.join(NEW_MASTER_KEY_FILE).exists());
    }
}
