//! A way from nodes to the database, or to a receiver, that a test can break.

use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// A part of the statement that accepts events, which is a transaction by itself.
const ACCEPT: &str = "INSERT INTO event_id";
const COMMIT: &str = "COMMIT";

/// Listens until it is dropped; then its connections end.
pub(crate) struct Proxy {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Commits that the database makes and nobody hears of: the connection ends before the answer.
#[derive(Default)]
pub(crate) struct Cuts {
    /// The next one that accepts is cut.
    next_accept: AtomicBool,
    /// One in so many is; 0: none.
    one_in: AtomicU32,
    made: AtomicUsize,
}

impl Cuts {
    pub(crate) fn cut_next_accept(&self) {
        self.next_accept.store(true, Ordering::SeqCst);
    }

    pub(crate) fn cut_one_in(&self, count: u32) {
        self.one_in.store(count, Ordering::SeqCst);
    }

    pub(crate) fn made(&self) -> usize {
        self.made.load(Ordering::SeqCst)
    }

    fn decide(&self, accepts: bool) -> bool {
        let one_in = self.one_in.load(Ordering::SeqCst);
        let is_cut =
            (accepts && self.next_accept.swap(false, Ordering::SeqCst)) || (one_in > 0 && fastrand::u32(..one_in) == 0);
        self.made.fetch_add(usize::from(is_cut), Ordering::SeqCst);
        is_cut
    }
}

impl Proxy {
    /// Passes on whatever comes.
    pub(crate) async fn to(target: SocketAddr, ip: Ipv4Addr) -> Self {
        Self::start(ip, move |mut client| async move {
            let mut server = TcpStream::connect(target).await?;
            tokio::io::copy_bidirectional(&mut client, &mut server).await.map(drop)
        })
        .await
    }

    /// To a PostgreSQL without TLS.
    pub(crate) async fn to_postgres(target: SocketAddr, cuts: Arc<Cuts>) -> Self {
        Self::start(Ipv4Addr::LOCALHOST, move |client| {
            let cuts = Arc::clone(&cuts);
            async move {
                let server = TcpStream::connect(target).await?;
                // Messages are passed on one by one, and none waits for the acknowledgement of the one before.
                client.set_nodelay(true)?;
                server.set_nodelay(true)?;
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                let cut_at = AtomicUsize::new(usize::MAX);
                // Whichever ends first ends the other.
                tokio::select! {
                    ended = requests(from_client, to_server, &cuts, &cut_at) => ended,
                    ended = answers(from_server, to_client, &cut_at) => ended,
                }
            }
        })
        .await
    }

    async fn start<F>(ip: Ipv4Addr, serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind((ip, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(serve(client));
            }
        });
        Self { address, task }
    }
}

/// One message of the protocol, whole; the first of a client has no type.
async fn message(stream: &mut OwnedReadHalf, has_type: bool) -> io::Result<Vec<u8>> {
    let head = if has_type { 5 } else { 4 };
    let mut message = vec![0; head];
    stream.read_exact(&mut message).await?;
    let length = u32::from_be_bytes(message[head - 4..].try_into().expect("four bytes"));
    message.resize(head - 4 + usize::try_from(length).expect("it fits"), 0);
    stream.read_exact(&mut message[head..]).await?;
    Ok(message)
}

/// The text that ends with a zero at the beginning of `bytes`, and what follows.
fn text(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes.iter().position(|byte| *byte == 0).expect("texts end with a zero");
    (&bytes[..end], &bytes[end + 1..])
}

/// Passes on what the node asks for. `cut_at` is which of its rounds has no answer; PostgreSQL ends each of them with
/// `ReadyForQuery`.
async fn requests(
    mut node: OwnedReadHalf,
    mut database: OwnedWriteHalf,
    cuts: &Cuts,
    cut_at: &AtomicUsize,
) -> io::Result<()> {
    let mut accepting: HashSet<Vec<u8>> = HashSet::new();
    // Round 0 is the greeting.
    let mut round = 1;
    database.write_all(&message(&mut node, false).await?).await?;
    loop {
        let message = message(&mut node, true).await?;
        let body = &message[5..];
        let is_commit = match message[0] {
            b'P' => {
                let (name, rest) = text(body);
                if String::from_utf8_lossy(text(rest).0).contains(ACCEPT) {
                    accepting.insert(name.to_vec());
                }
                false
            }
            // A portal, then a statement.
            b'B' => accepting.contains(text(text(body).1).0),
            b'Q' => text(body).0.starts_with(COMMIT.as_bytes()),
            _ => false,
        };
        if is_commit && cuts.decide(message[0] == b'B') {
            cut_at.fetch_min(round, Ordering::SeqCst);
        }
        round += usize::from([b'Q', b'S'].contains(&message[0]));
        database.write_all(&message).await?;
    }
}

/// Passes on what PostgreSQL answers, up to the round that is cut; ends when that is over.
async fn answers(mut database: OwnedReadHalf, mut node: OwnedWriteHalf, cut_at: &AtomicUsize) -> io::Result<()> {
    let mut round = 0;
    loop {
        let message = message(&mut database, true).await?;
        let is_cut = round >= cut_at.load(Ordering::SeqCst);
        if !is_cut {
            node.write_all(&message).await?;
        }
        if message[0] == b'Z' {
            if is_cut {
                return Ok(());
            }
            round += 1;
        }
    }
}
