//! The bus of DECNET: the server against the original's recorded behaviour, its socket, and the program.

pub(crate) mod program;
mod serving;
mod socket;
mod vectors;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use postrider::bus::claim::Claimed;
use postrider::bus::frame::{Frame, FrameError, FrameReader, Verb, encode};
use postrider::bus::server::{BusSettings, serve};
use postrider::clock::SystemClock;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const WAIT: Duration = Duration::from_secs(30);
const HEALTH: &str = "system.bus.health";
/// Often enough to wait for one.
const OFTEN: Duration = Duration::from_millis(100);

/// A server of its own.
struct Bus {
    path: PathBuf,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    _folder: TempDir,
}

impl Bus {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bus.sock");
        let claimed = Claimed::claim(&path, None, None).await.unwrap();
        let (stop, task) = run(claimed);
        Self { path, stop, task, _folder: folder }
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        timeout(WAIT, self.task).await.unwrap().unwrap();
    }
}

/// Serves the bus at a place.
fn run(claimed: Claimed) -> (oneshot::Sender<()>, JoinHandle<()>) {
    let (stop, stopped) = oneshot::channel::<()>();
    let settings = BusSettings { heartbeat: OFTEN, clock: Arc::new(SystemClock) };
    let task = tokio::spawn(serve(claimed, settings, async {
        let _ = stopped.await;
    }));
    (stop, task)
}

/// A connection to a bus.
struct Client {
    frames: FrameReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl Client {
    async fn connect(path: &Path) -> Self {
        let (reader, writer) = UnixStream::connect(path).await.unwrap().into_split();
        Self { frames: FrameReader::new(reader), writer }
    }

    /// A client of which the server knows that it wants these patterns.
    async fn subscribed(path: &Path, patterns: &[&str]) -> Self {
        let mut client = Self::connect(path).await;
        for pattern in patterns {
            client.say(Verb::Sub, pattern, "").await;
        }
        // A heartbeat can come only after the subscriptions before its own.
        client.say(Verb::Sub, HEALTH, "").await;
        assert_eq!(&*client.frame().await.argument, HEALTH);
        client.say(Verb::Unsub, HEALTH, "").await;
        client
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        timeout(WAIT, self.writer.write_all(bytes)).await.expect("the server reads")
    }

    async fn say(&mut self, verb: Verb, argument: &str, body: &str) {
        let mut bytes = Vec::new();
        encode(verb, argument, body.as_bytes(), &mut bytes).unwrap();
        self.send(&bytes).await.unwrap();
    }

    async fn read(&mut self) -> Result<Option<Frame>, FrameError> {
        timeout(WAIT, self.frames.read()).await.expect("the server says something")
    }

    /// The next frame, whatever it is.
    async fn frame(&mut self) -> Frame {
        self.read().await.unwrap().expect("the connection is open")
    }

    /// The next event that is no heartbeat: topic and body.
    async fn event(&mut self) -> (String, String) {
        loop {
            let frame = self.frame().await;
            assert_eq!(frame.verb, Verb::Evt);
            if &*frame.argument != HEALTH {
                return (frame.argument.into(), String::from_utf8(frame.body.to_vec()).unwrap());
            }
        }
    }

    /// Waits for the server to close the connection. What was not read by the server makes it a failure for the client.
    async fn expect_end(&mut self) {
        loop {
            match self.read().await {
                Ok(Some(frame)) if &*frame.argument == HEALTH => {}
                Ok(Some(frame)) => panic!("not the end: {frame:?}"),
                Ok(None) => return,
                Err(FrameError::Io(error)) if error.kind() == io::ErrorKind::ConnectionReset => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Says goodbye and waits until the server has done all that was said before.
    async fn leave(mut self) {
        self.say(Verb::Bye, "", "").await;
        self.expect_end().await;
    }
}
