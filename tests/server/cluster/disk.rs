//! The database's disk is full for a while.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::cluster::account::account;
use crate::cluster::nodes::{DATABASE, Nodes};
use crate::cluster::publishers::{Publishers, send_once};
use crate::cluster::{PATIENCE, may_act_as_root, until};
use crate::support::postgres_server::Cluster;
use crate::support::receiver::TestReceiver;

const DISK_MIB: u32 = 64;
const MAX_REPEATS: usize = 500;

/// A small disk of its own.
struct Disk(TempDir);

impl Disk {
    fn mount() -> Self {
        let disk = Self(tempfile::tempdir().expect("a folder"));
        let options = ["-t", "tmpfs", "-o", &format!("size={DISK_MIB}m"), "tmpfs"];
        let mounted = Command::new("mount").args(options).arg(disk.0.path()).status().expect("mount runs");
        assert!(mounted.success(), "mount: {mounted}");
        disk
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all the room that is left.
    fn fill(&self) {
        let mut file = File::create(self.path().join("filler")).expect("a file");
        let mut piece = vec![1; 1 << 20];
        while !piece.is_empty() {
            match file.write_all(&piece) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => piece.truncate(piece.len() / 2),
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.path().join("filler")).expect("it was made");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Also while the server has files open on it.
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_of_the_database_refuses_events_and_all_goes_on_when_there_is_room() {
    if !may_act_as_root("a disk of a test's own") {
        return;
    }
    // The log is elsewhere: where PostgreSQL cannot write that, it ends.
    let (disk, cluster) = (Disk::mount(), Cluster::start().await);
    cluster.give(disk.path());
    cluster.execute("postgres", &format!("CREATE TABLESPACE small LOCATION '{}'", disk.path().display())).await;
    cluster.execute("postgres", &format!("CREATE DATABASE {DATABASE} TEMPLATE template0 TABLESPACE small")).await;
    let receiver = TestReceiver::healthy().await;
    let nodes = Nodes::start(&cluster.url(DATABASE), 2, &receiver.url("")).await;
    nodes.wait_for_balance(&cluster).await;
    let publishers = Publishers::start(nodes.directory());
    publishers.wait_for_more(200).await;

    disk.fill();
    let (mut sent, mut answers) = (0, Vec::new());
    until("an event is refused because the disk is full", PATIENCE, async || {
        sent += 1;
        let (status, _, says_when) = send_once(&nodes.caller(sent % 2), &format!("full-{sent}.w0")).await;
        answers.push(status);
        assert!([202, 503, 507].contains(&status), "{status}");
        assert!(status == 202 || says_when, "it says when to try again");
        status == 507
    })
    .await;
    let before = publishers.accepted().len();
    println!("{before} accepted before the disk was full");
    disk.make_room();
    publishers.wait_for_more(200).await;
    nodes.wait_for_balance(&cluster).await;
    for n in 1..=sent {
        publishers.send(&format!("full-{n}.w0")).await;
    }
    account(&cluster, &publishers.stop().await, &receiver, MAX_REPEATS).await;
}
