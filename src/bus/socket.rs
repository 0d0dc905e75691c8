//! Where the socket of the bus is.

use std::ffi::OsStr;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

/// Where DECNET's units have the socket of the bus.
pub const SYSTEM_SOCKET: &str = "/run/decnet/bus.sock";
/// The folder where it is otherwise, in the home folder.
pub(super) const USER_FOLDER: &str = ".decnet";
/// The name of the socket there.
const USER_SOCKET: &str = "bus.sock";

/// The socket of the bus, for a client: the configured one, else the one that the variable `DECNET_BUS_SOCKET` names,
/// else [`SYSTEM_SOCKET`] if a socket is there, else the one in the home folder.
///
/// DECNET asks whether the folder of [`SYSTEM_SOCKET`] is writable. Members of its group may connect and not write
/// there, so the socket itself is what counts here.
#[must_use]
pub fn find(configured: Option<&Path>, decnet_bus_socket: Option<&OsStr>, home: Option<&Path>) -> PathBuf {
    find_with(Path::new(SYSTEM_SOCKET), configured, decnet_bus_socket, home)
}

fn find_with(
    system: &Path,
    configured: Option<&Path>,
    decnet_bus_socket: Option<&OsStr>,
    home: Option<&Path>,
) -> PathBuf {
    choose(system, is_socket, configured, decnet_bus_socket, home)
}

/// Where a server puts the socket: as [`find`], but the folder of [`SYSTEM_SOCKET`] must be there and writable instead of
/// the socket.
#[must_use]
pub fn to_serve(configured: Option<&Path>, decnet_bus_socket: Option<&OsStr>, home: Option<&Path>) -> PathBuf {
    let is_ours = |path: &Path| path.parent().is_some_and(|folder| access(folder, Access::WRITE_OK).is_ok());
    choose(Path::new(SYSTEM_SOCKET), is_ours, configured, decnet_bus_socket, home)
}

fn choose(
    system: &Path,
    is_usable: impl FnOnce(&Path) -> bool,
    configured: Option<&Path>,
    decnet_bus_socket: Option<&OsStr>,
    home: Option<&Path>,
) -> PathBuf {
    let named = decnet_bus_socket.filter(|path| !path.is_empty()).map(Path::new);
    match (configured.or(named), home) {
        (Some(path), _) => path.to_owned(),
        (None, Some(home)) if !is_usable(system) => home.join(USER_FOLDER).join(USER_SOCKET),
        (None, _) => system.to_owned(),
    }
}

fn is_socket(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.file_type().is_socket())
}

/// The number of a group: digits, or a name of `groups`, a text as `/etc/group` has it.
#[must_use]
pub fn group_number(group: &str, groups: &str) -> Option<u32> {
    let named = |line: &str| {
        let mut fields = line.split(':');
        (fields.next() == Some(group)).then(|| fields.nth(1)).flatten().and_then(|number| number.parse().ok())
    };
    group.parse().ok().or_else(|| groups.lines().find_map(named))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn the_socket_is_the_named_one_or_where_decnet_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let system = folder.path().join("bus.sock");
        let home = Some(Path::new("/home-of-a-user"));
        let find = |configured: Option<&str>, variable: Option<&str>, home| {
            find_with(&system, configured.map(Path::new), variable.map(OsStr::new), home)
        };
        let in_home = PathBuf::from("/home-of-a-user/.decnet/bus.sock");
        assert_eq!(find(Some("a"), Some("b"), home), Path::new("a"));
        assert_eq!(find(None, Some("b"), home), Path::new("b"));
        assert_eq!(find(None, Some(""), home), in_home);
        assert_eq!(find(None, None, None), system);
        // A folder that could be written to, or another file there, is no socket.
        std::fs::write(&system, "").unwrap();
        assert_eq!(find(None, None, home), in_home);
        std::fs::remove_file(&system).unwrap();
        let _listener = UnixListener::bind(&system).unwrap();
        assert_eq!(find(None, None, home), system);
    }

    #[test]
    fn a_group_is_found_by_name_or_number() {
        let groups = "root:x:0:\nnot a line\ndecnet-x:x:7:\ndecnet:x:995:api,worker\nbad:x:y:\n";
        assert_eq!(group_number("decnet", groups), Some(995));
        assert_eq!(group_number("root", groups), Some(0));
        assert_eq!(group_number("12", groups), Some(12));
        assert_eq!((group_number("bad", groups), group_number("none", groups)), (None, None));
    }
}
