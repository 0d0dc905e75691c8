//! The place of a server's socket: taken so that nobody loses a server, and nobody connects before the mode is set.

use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _, lchown};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixSocket, UnixStream};

/// The mode of the socket: its owner and its group may connect.
const SOCKET_MODE: u32 = 0o660;
/// The mode of the folder in the home folder, if it is made.
const FOLDER_MODE: u32 = 0o700;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 128;

/// The reason why a server does not get the place of its socket.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error("another server has {}: stop it first, or choose another socket", path.display())]
    Live { path: PathBuf },
    #[error("{} is there and no socket; it is left alone", path.display())]
    NotASocket { path: PathBuf },
    #[error("the folder {} is not there", folder.display())]
    NoFolder { folder: PathBuf },
    #[error("another server takes a place in {} at this moment", folder.display())]
    Taken { folder: PathBuf },
    #[error("cannot tell whether another server has {}: {source}", path.display())]
    Doubt { path: PathBuf, source: io::Error },
    #[error("cannot make the socket {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// A socket that listens. Its file is removed at the end, if it is still this one's.
#[derive(Debug)]
pub struct Claimed {
    // First, so that the file goes before the listener: its inode is not another's meanwhile.
    file: SocketFile,
    listener: UnixListener,
    group_error: Option<io::Error>,
}

impl Claimed {
    /// Takes the place `path` with mode 0660, and with the group `group` if that is possible. A socket without a server
    /// is replaced; anything else that is there is left alone. The folder must be there; in `home` the folder `.decnet` is
    /// made.
    pub async fn claim(path: &Path, group: Option<u32>, home: Option<&Path>) -> Result<Self, ClaimError> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if home.is_some_and(|home| folder == home.join(super::socket::USER_FOLDER)) {
            // An error shows below, where the folder is opened.
            let _ = DirBuilder::new().mode(FOLDER_MODE).create(folder);
        }
        let failed = |source| ClaimError::Io { path: path.to_owned(), source };
        let _lock = lock(folder).map_err(|error| match error {
            TryLockError::WouldBlock => ClaimError::Taken { folder: folder.to_owned() },
            TryLockError::Error(error) if error.kind() == io::ErrorKind::NotFound => {
                ClaimError::NoFolder { folder: folder.to_owned() }
            }
            TryLockError::Error(error) => failed(error),
        })?;
        clear(path).await?;
        // Nobody can connect before it listens.
        let socket = UnixSocket::new_stream().map_err(failed)?;
        socket.bind(path).map_err(failed)?;
        let file = SocketFile::at(path).map_err(failed)?;
        let group_error = group.and_then(|group| lchown(path, None, Some(group)).err());
        fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE)).map_err(failed)?;
        let listener = socket.listen(BACKLOG).map_err(failed)?;
        Ok(Self { file, listener, group_error })
    }

    /// Why the socket does not have the group that was wished for.
    #[must_use]
    pub fn group_error(&self) -> Option<&io::Error> {
        self.group_error.as_ref()
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}

/// Holds the folder, so that two servers do not look for each other and take the place at the same time.
fn lock(folder: &Path) -> Result<File, TryLockError> {
    let folder = File::open(folder).map_err(TryLockError::Error)?;
    folder.try_lock()?;
    Ok(folder)
}

/// Removes a socket at `path` that has no server.
async fn clear(path: &Path) -> Result<(), ClaimError> {
    let own = || path.to_owned();
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(ClaimError::NotASocket { path: own() }),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(ClaimError::Doubt { path: own(), source }),
    }
    match UnixStream::connect(path).await {
        Ok(_) => return Err(ClaimError::Live { path: own() }),
        // Its backlog is full.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(ClaimError::Live { path: own() }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(ClaimError::Doubt { path: own(), source }),
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ClaimError::Io { path: own(), source: error }),
        _ => Ok(()),
    }
}

/// The file of a socket, removed at the end unless another server has put its own there.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), device: metadata.dev(), inode: metadata.ino() })
    }

    fn is_there(&self) -> bool {
        Self::at(&self.path).is_ok_and(|found| (found.device, found.inode) == (self.device, self.inode))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Who has the lock replaces this file, or sees that it is alive.
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if let Ok(_lock) = lock(folder)
            && self.is_there()
        {
            // A socket without a server is no harm: the next one replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}
