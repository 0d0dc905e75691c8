//! Receivers that never answer to the end, in a process of their own: one is silent, two begin answers and never end
//! them. They run until the standard input ends.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::super::output::Output;

/// The most connections that all receivers hold. Others wait to be accepted, which is no answer either. Leaves room
/// under the usual limit of 1,024 open files.
const MAX_HELD: usize = 800;
/// The time after which a connection is closed; longer than any attempt.
const MAX_HOLD: Duration = Duration::from_secs(75);
/// Between two bytes of an answer that never ends.
const DRIP_EVERY: Duration = Duration::from_millis(250);
/// The beginnings of an answer with an endless head, and of one with an endless body.
const ENDLESS_HEAD: &str = "HTTP/1.1 200 OK\r\nx-slow: ";
const ENDLESS_BODY: &str = "HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n";

/// The process of the dead receivers.
pub(super) async fn run(output: Output) -> anyhow::Result<()> {
    let room = Arc::new(Semaphore::new(MAX_HELD));
    let mut addresses = Vec::new();
    for beginning in [None, Some(ENDLESS_HEAD), Some(ENDLESS_BODY)] {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        addresses.push(listener.local_addr()?);
        tokio::spawn(accept(listener, Arc::clone(&room), beginning));
    }
    output.json(&addresses)?;
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    Ok(())
}

async fn accept(listener: TcpListener, room: Arc<Semaphore>, beginning: Option<&'static str>) {
    while let Ok(place) = Arc::clone(&room).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(MAX_HOLD, hold(stream, beginning)).await;
                    drop(place);
                });
            }
            // Out of file descriptors, most likely: some become free when connections end.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Reads until the other side hangs up. A `beginning` is sent after the first bytes of the request, and then one byte
/// at a time.
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

/// The benchmark's handle to the process of the dead receivers.
pub(super) struct DeadReceivers {
    child: Child,
    /// Nothing listens there.
    refused: SocketAddr,
    silent: SocketAddr,
    endless_head: SocketAddr,
    endless_body: SocketAddr,
}

impl DeadReceivers {
    pub(super) fn start() -> anyhow::Result<Self> {
        // The port was free a moment ago, so nothing listens on it.
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
        let [silent, endless_head, endless_body] =
            serde_json::from_str(&line).context("the dead receivers did not start")?;
        Ok(Self { child, refused, silent, endless_head, endless_body })
    }

    /// The URL of the dead webhook number `n`: a third refuses, a third is silent, and a third hangs in the head or in
    /// the body of its answer.
    pub(super) fn url(&self, n: u64) -> String {
        let address = match n % 6 {
            0 | 1 => self.refused,
            2 | 3 => self.silent,
            4 => self.endless_head,
            _ => self.endless_body,
        };
        format!("http://{address}/{n}")
    }
}

impl Drop for DeadReceivers {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
