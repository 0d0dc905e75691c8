//! A disk that fails and works again: an ext4 in an image whose host runs full for a while. What was answered with 202
//! survives the loss of the kernel's cache and a power cut, which is a copy of the image as it is at that moment.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use http::Method;
use serde_json::json;

use crate::support::image;
use crate::support::image::Image;
use crate::support::program::Program;

const PATIENCE: Duration = Duration::from_mins(1);

fn start(folder: &Path) -> Program {
    Program::start(folder, &["--log", "warn"], Stdio::inherit())
}

/// Publishes one event after the other; notes those that were accepted.
struct Publisher {
    accepted: Vec<String>,
    sent: usize,
}

impl Publisher {
    fn new() -> Self {
        Self { accepted: Vec::new(), sent: 0 }
    }

    async fn publish(&mut self, server: &Program) -> u16 {
        self.sent += 1;
        let id = format!("e{}", self.sent);
        let event = json!({"id": id, "topic": "disk.test", "payload": {"filler": "x".repeat(2_000)}});
        let (status, _) = server.caller.call(Method::POST, "/api/v1/events", &event).await;
        if status == 202 {
            self.accepted.push(id);
        }
        status
    }

    async fn publish_well(&mut self, server: &Program, count: usize) {
        for _ in 0..count {
            assert_eq!(self.publish(server).await, 202);
        }
    }

    /// Until the disk fails.
    async fn publish_until_refused(&mut self, server: &Program) {
        let began = Instant::now();
        while self.publish(server).await == 202 {
            assert!(began.elapsed() < PATIENCE, "the disk does not fail");
        }
    }

    async fn publish_until_accepted(&mut self, server: &Program) {
        let began = Instant::now();
        while self.publish(server).await != 202 {
            assert!(began.elapsed() < PATIENCE, "the disk does not recover");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Everything that was accepted is there, and nothing that was refused.
    async fn assert_kept(&self, server: &Program) {
        let mut missing = Vec::new();
        for id in &self.accepted {
            if server.caller.get(&format!("/api/v1/events/{id}")).await.0 != 200 {
                missing.push(id);
            }
        }
        println!("{} accepted, {} refused", self.accepted.len(), self.sent - self.accepted.len());
        assert!(missing.is_empty(), "accepted and lost: {} of {}: {missing:?}", missing.len(), self.accepted.len());
        let (_, stats) = server.caller.get("/api/v1/stats").await;
        assert_eq!(stats["events"].as_u64(), Some(self.accepted.len() as u64), "{stats}");
    }
}

/// The power fails now; a server starts on what the disk has.
async fn assert_kept_over_a_power_cut(image: &Image, publisher: &Publisher) {
    let disk = image.as_after_a_power_cut();
    let server = start(disk.mounted_at());
    publisher.assert_kept(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_accepted_after_a_failed_sync_survives_a_power_cut() {
    let Some(image) = Image::make() else { return };
    let (server, mut publisher) = (start(image.mounted_at()), Publisher::new());
    publisher.publish_well(&server, 100).await;
    image.fill_host();
    publisher.publish_until_refused(&server).await;
    image.free_host();
    publisher.publish_until_accepted(&server).await;
    publisher.publish_well(&server, 100).await;
    assert_kept_over_a_power_cut(&image, &publisher).await;
    // The cache is a cache again: who reads sees the disk.
    image::drop_caches();
    publisher.assert_kept(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_while_its_disk_fails_makes_sure_of_the_disk_before_it_accepts() {
    let Some(image) = Image::make() else { return };
    let (server, mut publisher) = (start(image.mounted_at()), Publisher::new());
    publisher.publish_well(&server, 100).await;
    image.fill_host();
    publisher.publish_until_refused(&server).await;
    server.kill();
    image.free_host();
    let server = start(image.mounted_at());
    // What was refused may be there: it was being written when the disk failed.
    let (_, stats) = server.caller.get("/api/v1/stats").await;
    let events = stats["events"].as_u64().expect("a number");
    assert!(events >= publisher.accepted.len() as u64, "{stats}");
    publisher.publish_well(&server, 100).await;
    let disk = image.as_after_a_power_cut();
    let (_, before) = server.caller.get("/api/v1/stats").await;
    let server = start(disk.mounted_at());
    let (_, after) = server.caller.get("/api/v1/stats").await;
    assert_eq!(before["events"], after["events"], "{before} {after}");
    for id in &publisher.accepted {
        assert_eq!(server.caller.get(&format!("/api/v1/events/{id}")).await.0, 200, "{id} was accepted and lost");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_fails_leaves_no_hole_in_the_database() {
    let Some(image) = Image::make() else { return };
    let (server, mut publisher) = (start(image.mounted_at()), Publisher::new());
    // The log has had its blocks since the last checkpoint; the database has to grow.
    let log = image.mounted_at().join("data/postrider.db-wal");
    let database = image.mounted_at().join("data/postrider.db");
    let length = |path: &Path| std::fs::metadata(path).expect("the file is there").len();
    let began = Instant::now();
    let first = length(&database);
    while length(&database) == first {
        assert!(began.elapsed() < PATIENCE, "no checkpoint came");
        publisher.publish_well(&server, 20).await;
    }
    publisher.publish_well(&server, 20).await;
    image.fill_host();
    publisher.publish_until_refused(&server).await;
    println!("the log has {} bytes, the database {}", length(&log), length(&database));
    image.free_host();
    publisher.publish_until_accepted(&server).await;
    publisher.publish_well(&server, 20).await;
    image::drop_caches();
    publisher.assert_kept(&server).await;
    assert_kept_over_a_power_cut(&image, &publisher).await;
    drop(server);
    let connection = rusqlite::Connection::open(&database).expect("the database is there");
    let sound: String =
        connection.query_row("PRAGMA integrity_check", (), |row| row.get(0)).expect("the database can be read");
    assert_eq!(sound, "ok");
}
