//! Receivers that never answer, in a process of their own: one is silent, the other begins answers and never ends
//! them. They run until the standard input ends.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::super::output::Output;

/// Connections held at once by both; others wait to be accepted, which is no answer either. Leaves room
/// under the usual limit of 1,024 open files.
const MAX_HELD: usize = 800;
/// A connection is let go after this, whatever the other side does; longer than any attempt.
const MAX_HOLD: Duration = Duration::from_secs(75);
/// Between two bytes of an answer that never ends.
const DRIP_EVERY: Duration = Duration::from_millis(250);
/// How the answers of the hanging one begin, in turn: here the head never ends, there the body.
const BEGINNINGS: &[Option<&str>] =
    &[Some("HTTP/1.1 200 OK\r\nx-slow: "), Some("HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")];

/// The process of the dead receivers.
pub(super) async fn run(output: Output) -> anyhow::Result<()> {
    let room = Arc::new(Semaphore::new(MAX_HELD));
    let [silent, hanging] = [TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?];
    output.json(&json!({ "silent": silent.local_addr()?, "hanging": hanging.local_addr()? }))?;
    tokio::spawn(accept(silent, Arc::clone(&room), &[None]));
    tokio::spawn(accept(hanging, room, BEGINNINGS));
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    Ok(())
}

/// Holds each connection, with the beginnings in turn; `None` says nothing.
async fn accept(listener: TcpListener, room: Arc<Semaphore>, beginnings: &'static [Option<&'static str>]) {
    for beginning in beginnings.iter().cycle() {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(MAX_HOLD, hold(stream, *beginning)).await;
                    drop(place);
                });
            }
            // Out of file descriptors, most likely: some become free when connections end.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Reads until the other side hangs up. With a `beginning`, that is said after the first bytes of the request, and
/// then a byte at a time.
async fn hold(mut stream: TcpStream, beginning: Option<&str>) {
    let mut buffer = [0; 4_096];
    let mut next = beginning;
    let mut has_begun = false;
    loop {
        tokio::select! {
            read = stream.read(&mut buffer) => match read {
                Ok(0) | Err(_) => return,
                Ok(_) => has_begun = true,
            },
            () = tokio::time::sleep(DRIP_EVERY), if has_begun && next.is_some() => {
                if stream.write_all(next.unwrap_or_default().as_bytes()).await.is_err() {
                    return;
                }
                next = Some("a");
            }
        }
    }
}

/// The process of the dead receivers, seen from the benchmark.
pub(super) struct DeadReceivers {
    child: Child,
    /// Where nothing listens, where nothing is said, and where no answer ends.
    addresses: [SocketAddr; 3],
}

impl DeadReceivers {
    pub(super) fn start() -> anyhow::Result<Self> {
        // It was free a moment ago.
        let refused = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--json", "bench", "--dead"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the dead receivers")?;
        let Some(stdout) = child.stdout.take() else { bail!("the dead receivers have no standard output") };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let said: Value = serde_json::from_str(&line).context("the dead receivers did not start")?;
        let address = |name: &str| -> anyhow::Result<SocketAddr> {
            Ok(said[name].as_str().with_context(|| format!("no address of the {name} receiver"))?.parse()?)
        };
        let addresses = [refused, address("silent")?, address("hanging")?];
        Ok(Self { child, addresses })
    }

    /// Where the dead webhook number `n` points: a third of them each.
    pub(super) fn url(&self, n: u64) -> String {
        let address = self.addresses[(n % 3) as usize];
        format!("http://{address}/{n}")
    }
}

impl Drop for DeadReceivers {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
