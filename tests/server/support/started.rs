//! Servers of other people that a test starts for itself.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Pid;

/// A server that runs. Dies at once when it is dropped.
pub(crate) struct Started(Child);

/// How long a server may take until it lets clients in, and how often that is looked at.
pub(crate) struct Patience {
    pub(crate) most: Duration,
    pub(crate) look_every: Duration,
}

impl Started {
    /// Starts a program of Debian's package of this name, and waits until it lets clients in. What it says is added to `log`.
    /// `None`: it ended before.
    pub(crate) async fn start<L: Future<Output = bool>>(
        mut command: Command,
        package: &str,
        log: &Path,
        patience: &Patience,
        lets_in: impl Fn() -> L,
    ) -> Option<Self> {
        let output = File::options().create(true).append(true).open(log).unwrap();
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        let server = command.spawn();
        let mut server = Self(server.unwrap_or_else(|error| panic!("{error}: install Debian's package {package}")));
        let began = Instant::now();
        while !lets_in().await {
            if server.0.try_wait().unwrap().is_some() {
                return None;
            }
            assert!(began.elapsed() <= patience.most, "the server lets nobody in:\n{}", said(log));
            tokio::time::sleep(patience.look_every).await;
        }
        Some(server)
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a server has said so far.
pub(crate) fn said(log: &Path) -> String {
    std::fs::read_to_string(log).unwrap_or_default()
}

/// A port that nobody has. Another process may take it first.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}
