//! DECNET's bus, served by this program in a process of its own.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::Context;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;

use super::run::{Run, TOPIC};
use crate::bus::frame::{Verb, encode};
use crate::cli::bench::load::payload;

/// Frames that are published at once, and the most that have not arrived.
const FRAMES_TOGETHER: u64 = 50;
const FRAMES_UNDER_WAY: u64 = 700;

/// The bus's process; it ends when it is dropped.
struct BusProcess(Child);

impl Drop for BusProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(super) async fn measure(mut run: Run<'_>) -> anyhow::Result<()> {
    // A socket's path may have some hundred bytes.
    let place = tempfile::tempdir()?;
    let socket = place.path().join("bus.sock");
    let mut child = Command::new(std::env::current_exe()?);
    child
        .args(["--json", "bus", "--socket"])
        .arg(&socket)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut bus = BusProcess(child.spawn().context("cannot start the bus")?);
    let mut line = String::new();
    BufReader::new(bus.0.stdout.take().context("the bus says nothing")?).read_line(&mut line)?;
    let path = toml::Value::from(socket.to_string_lossy().into_owned());
    let node = run.node(&format!("kind = \"decnet-bus\"\nsocket = {path}")).await?;

    (run.say)("bus: frames");
    run.receiver.reset(1)?;
    let mut stream = UnixStream::connect(&socket).await?;
    let (cpu_before, began_at, messages) = (node.cpu()?, Instant::now(), run.size.messages);
    let mut frames = Vec::new();
    for n in 0..messages {
        add(&mut frames, &payload(n, 0))?;
        if (n + 1) % FRAMES_TOGETHER == 0 || n + 1 == messages {
            stream.write_all(&frames).await?;
            frames.clear();
            // The bus drops the oldest frames of a reader that is behind.
            run.arrived((n + 1).saturating_sub(FRAMES_UNDER_WAY)).await?;
        }
    }
    run.arrived(messages).await?;
    run.throughput("frames of the bus", began_at.elapsed(), node.cpu()?.saturating_sub(cpu_before));

    (run.say)("bus: a frame an event");
    run.latency("bus", async |_, payload| {
        frames.clear();
        add(&mut frames, &payload)?;
        Ok(stream.write_all(&frames).await?)
    })
    .await
}

fn add(frames: &mut Vec<u8>, payload: &str) -> anyhow::Result<()> {
    let body = format!(r#"{{"type":"auth.failed","payload":{payload}}}"#);
    Ok(encode(Verb::Pub, TOPIC, body.as_bytes(), frames)?)
}
