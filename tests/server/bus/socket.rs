//! The socket's place: who gets it, who keeps it, and who may connect.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;

use postrider::bus::claim::{ClaimError, Claimed};
use postrider::bus::frame::Verb;

use super::{Bus, Client, run};

#[tokio::test]
async fn a_live_server_keeps_its_socket() {
    let bus = Bus::start().await;
    let error = Claimed::claim(&bus.path, None, None).await.unwrap_err();
    assert!(matches!(error, ClaimError::Live { .. }), "{error}");
    assert!(error.to_string().contains("stop it first"), "{error}");
    let mut watcher = Client::subscribed(&bus.path, &["a"]).await;
    let mut publisher = Client::connect(&bus.path).await;
    publisher.say(Verb::Pub, "a", "").await;
    assert_eq!(watcher.event().await.0, "a", "the first server serves on");
    bus.stop().await;
}

#[tokio::test]
async fn a_dead_socket_is_replaced_and_any_other_file_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bus.sock");
    // A server that was killed leaves its file.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let claimed = Claimed::claim(&path, None, None).await.unwrap();
    assert_eq!(claimed.path(), path);
    Client::connect(&path).await;
    drop(claimed);
    assert!(!path.exists());

    fs::write(&path, "precious").unwrap();
    let error = Claimed::claim(&path, None, None).await.unwrap_err();
    assert!(matches!(error, ClaimError::NotASocket { .. }), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    fs::remove_file(&path).unwrap();
    // A link to a socket is none of ours.
    let target = folder.path().join("target.sock");
    let _target = UnixListener::bind(&target).unwrap();
    std::os::unix::fs::symlink(&target, &path).unwrap();
    assert!(matches!(Claimed::claim(&path, None, None).await, Err(ClaimError::NotASocket { .. })));
}

#[tokio::test]
async fn a_server_removes_no_socket_but_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bus.sock");
    let first = Claimed::claim(&path, None, None).await.unwrap();
    let (stop, task) = run(first);
    fs::remove_file(&path).unwrap();
    let (stop_second, second) = run(Claimed::claim(&path, None, None).await.unwrap());
    stop.send(()).unwrap();
    task.await.unwrap();
    let mut client = Client::subscribed(&path, &["a"]).await;
    stop_second.send(()).unwrap();
    second.await.unwrap();
    client.expect_end().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn two_servers_do_not_take_a_place_at_the_same_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bus.sock");
    let busy = fs::File::open(folder.path()).unwrap();
    busy.lock().unwrap();
    assert!(matches!(Claimed::claim(&path, None, None).await, Err(ClaimError::Taken { .. })));
    drop(busy);
    let claimed = Claimed::claim(&path, None, None).await.unwrap();
    drop(claimed);
}

#[tokio::test]
async fn owner_and_group_may_connect_and_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bus.sock");
    let own_group = fs::metadata(folder.path()).unwrap().gid();
    let claimed = Claimed::claim(&path, Some(own_group), None).await.unwrap();
    let metadata = fs::symlink_metadata(&path).unwrap();
    assert_eq!((metadata.permissions().mode() & 0o7777, metadata.gid()), (0o660, own_group));
    assert!(claimed.group_error().is_none());
    drop(claimed);
    // A group that only root may give is a wish.
    let claimed = Claimed::claim(&path, Some(own_group + 1), None).await.unwrap();
    let metadata = fs::symlink_metadata(&path).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o660);
    assert_eq!(metadata.gid() == own_group + 1, claimed.group_error().is_none());
}

#[tokio::test]
async fn only_the_folder_of_decnet_in_the_home_folder_is_made() {
    let home = tempfile::tempdir().unwrap();
    let elsewhere = home.path().join("elsewhere/bus.sock");
    let error = Claimed::claim(&elsewhere, None, Some(home.path())).await.unwrap_err();
    assert!(matches!(error, ClaimError::NoFolder { .. }), "{error}");
    let path = home.path().join(".decnet/bus.sock");
    assert!(matches!(Claimed::claim(&path, None, None).await, Err(ClaimError::NoFolder { .. })));
    for _ in 0..2 {
        let claimed = Claimed::claim(&path, None, Some(home.path())).await.unwrap();
        Client::connect(&path).await;
        drop(claimed);
    }
    assert_eq!(fs::metadata(home.path().join(".decnet")).unwrap().permissions().mode() & 0o777, 0o700);
}
