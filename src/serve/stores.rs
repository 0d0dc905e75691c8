//! Which store a server works on, and the master key for it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ServeError;
use crate::store::postgres::{PostgresOptions, PostgresStore};
use crate::store::seal::{MASTER_KEY_FILE, MasterKey, MasterKeyError};
use crate::store::sqlite::{SqliteOptions, SqliteStore};
use crate::store::{OpenError, Store, StoreError};

/// The store that a server works on.
#[derive(Clone, Debug)]
pub enum StoreSettings {
    /// In the data folder.
    Sqlite(SqliteOptions),
    /// In a database that other nodes may use, too. The data folder has only the master key, unless that is given.
    Postgres(PostgresOptions),
}

impl StoreSettings {
    /// The most connections to a database.
    pub(super) fn max_connections(&self) -> usize {
        match self {
            Self::Sqlite(_) => 0,
            Self::Postgres(options) => options.descriptors(),
        }
    }
}

/// Opens the store. `master_key` replaces the key file in `folder`. `is_new` allows a key without a database.
pub(super) async fn open(
    folder: PathBuf,
    master_key: Option<MasterKey>,
    is_new: bool,
    settings: StoreSettings,
) -> Result<Arc<dyn Store>, ServeError> {
    match settings {
        StoreSettings::Sqlite(options) => {
            blocking(move || {
                if !is_new {
                    MasterKey::check_database_of(&folder)?;
                }
                let master_key = match master_key {
                    Some(key) => key,
                    None => MasterKey::load_or_create(&folder)?,
                };
                Ok(Arc::new(SqliteStore::open(&folder, &master_key, options)?) as Arc<dyn Store>)
            })
            .await
        }
        StoreSettings::Postgres(options) => match master_key {
            Some(key) => Ok(Arc::new(PostgresStore::open(options, &key).await?)),
            None => Ok(Arc::new(open_with_file(folder, options).await?)),
        },
    }
}

/// Opens the database under the key in the folder. Only the first start of all nodes makes that key. A later start
/// without the key is an error that says so, since it would make a different one.
async fn open_with_file(folder: PathBuf, options: PostgresOptions) -> Result<PostgresStore, ServeError> {
    let found = {
        let folder = folder.clone();
        blocking(move || Ok(MasterKey::in_folder(&folder)?)).await?
    };
    if let Some(key) = found {
        return Ok(PostgresStore::open(options, &key).await?);
    }
    if !PostgresStore::is_new(&options).await? {
        return Err(missing(&folder));
    }
    let (made, folder) = blocking(move || Ok((MasterKey::create(&folder)?, folder))).await?;
    match PostgresStore::open(options, &made).await {
        // Another node that started at the same time was faster, and the database has its key.
        Err(OpenError::WrongMasterKey { .. }) => {
            blocking(move || {
                made.discard(&folder)?;
                Err(missing(&folder))
            })
            .await
        }
        Err(error) => Err(error.into()),
        Ok(store) => {
            tracing::info!(
                file = %folder.join(MASTER_KEY_FILE).display(),
                "made the master key: every other node needs a copy of the file, or the same POSTRIDER_MASTER_KEY"
            );
            Ok(store)
        }
    }
}

fn missing(folder: &Path) -> ServeError {
    MasterKeyError::Missing { path: folder.join(MASTER_KEY_FILE).display().to_string() }.into()
}

async fn blocking<T: Send + 'static>(
    open: impl FnOnce() -> Result<T, ServeError> + Send + 'static,
) -> Result<T, ServeError> {
    tokio::task::spawn_blocking(open)
        .await
        .unwrap_or_else(|error| Err(StoreError::Unavailable(format!("opening it failed: {error}")).into()))
}
