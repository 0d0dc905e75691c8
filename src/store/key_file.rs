//! The master key in a data folder: made with the database, read at each start, never made anew beside one.

use std::fs;
use std::path::Path;

use super::seal::{MASTER_KEY_FILE, MasterKey, MasterKeyError, NEW_MASTER_KEY_FILE};
use super::sqlite::{DATABASE_FILE, create_folder, finish_key_change};

impl MasterKey {
    /// The key in `folder`, made on the first call. A key file that others can read is refused, and so is
    /// a folder that has a database but no key. Finishes a change of the key that was cut off.
    ///
    /// A new key stays in a file of another name until its database is made. So a first start that was cut off in
    /// between does not look like a lost database.
    pub fn load_or_create(folder: &Path) -> Result<Self, MasterKeyError> {
        finish_key_change(folder)?;
        let path = folder.join(MASTER_KEY_FILE);
        if let Some(key) = Self::load(&path)? {
            return Ok(key);
        }
        if folder.join(DATABASE_FILE).exists() {
            return Err(MasterKeyError::Missing { path: path.display().to_string() });
        }
        let new = folder.join(NEW_MASTER_KEY_FILE);
        match Self::load(&new)? {
            Some(key) => Ok(key),
            None => Self::create_in(&new),
        }
    }

    /// Fails if the folder has a key, but no database.
    pub fn check_database_of(folder: &Path) -> Result<(), MasterKeyError> {
        let path = folder.join(MASTER_KEY_FILE);
        if path.exists() && !folder.join(DATABASE_FILE).exists() {
            return Err(MasterKeyError::DatabaseMissing { path: path.display().to_string() });
        }
        Ok(())
    }

    /// The key in `folder` for a database elsewhere; `None`: there is no key. Finishes a change of the key that was cut
    /// off.
    pub fn in_folder(folder: &Path) -> Result<Option<Self>, MasterKeyError> {
        finish_key_change(folder)?;
        Self::load(&folder.join(MASTER_KEY_FILE))
    }

    /// Makes a key in `folder`, which has none.
    pub fn create(folder: &Path) -> Result<Self, MasterKeyError> {
        Self::create_in(&folder.join(MASTER_KEY_FILE))
    }

    fn create_in(path: &Path) -> Result<Self, MasterKeyError> {
        let in_file = |error| MasterKeyError::File { path: path.display().to_string(), error };
        create_folder(path.parent().unwrap_or(Path::new("."))).map_err(in_file)?;
        let key = Self::generate().map_err(in_file)?;
        key.save(path).map_err(in_file)?;
        Ok(key)
    }

    /// Deletes the key in `folder` if it is this one, after the database could not be made.
    pub fn discard(&self, folder: &Path) -> Result<(), MasterKeyError> {
        let path = folder.join(MASTER_KEY_FILE);
        if Self::load(&path)?.is_some_and(|key| key.expose() == self.expose()) {
            let in_file = |error| MasterKeyError::File { path: path.display().to_string(), error };
            fs::remove_file(&path).map_err(in_file)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_key_file_is_made_once_and_kept_private() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let first = MasterKey::load_or_create(&data).unwrap();
        let second = MasterKey::load_or_create(&data).unwrap();
        assert_eq!(first.expose(), second.expose());
        MasterKey::check_database_of(&data).unwrap();
        MasterKey::generate().unwrap().keep_new(&data).unwrap();
        assert!(!data.join(MASTER_KEY_FILE).exists(), "that was another key");
        first.keep_new(&data).unwrap();
        assert!(matches!(MasterKey::check_database_of(&data), Err(MasterKeyError::DatabaseMissing { .. })));
        let third = MasterKey::load_or_create(&data).unwrap();
        assert_eq!(first.expose(), third.expose());

        let path = data.join(MASTER_KEY_FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let refused = MasterKey::load_or_create(&data).err().unwrap().to_string();
        assert!(refused.contains("chmod 600"), "{refused}");
    }

    #[test]
    fn a_spoilt_or_lost_key_file_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(MASTER_KEY_FILE);
        MasterKey::load_or_create(folder.path()).unwrap().keep_new(folder.path()).unwrap();
        fs::write(&path, "").unwrap();
        assert!(matches!(MasterKey::load_or_create(folder.path()), Err(MasterKeyError::File { .. })));

        fs::remove_file(&path).unwrap();
        fs::write(folder.path().join(DATABASE_FILE), "").unwrap();
        assert!(matches!(MasterKey::load_or_create(folder.path()), Err(MasterKeyError::Missing { .. })));
        assert!(!path.exists());
    }
}
