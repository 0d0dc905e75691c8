//! One connection to the server of the bus: what the client says, and what it is told.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::Notify;

use super::event::{self, BodyError};
use super::frame::{self, FrameError, FrameReader, Verb};
use super::hub::{Hub, Loss, MemberId, Next, PatternsError};
use crate::clock::Clock;
use crate::log_rate::LogRate;

/// What is written to a connection at once, in bytes; a larger event is written alone.
const BUS_WRITE_BYTES: usize = 64 * 1024;
/// Events of one publisher after which other connections have their turn.
const PUBLISHED_A_TURN: u32 = 64;
/// What is read and thrown away at the end of a connection, in bytes, so that a client sees the end and no failure.
const MAX_LEFT_BYTES: usize = 256 * 1024;

/// What all connections share.
pub(super) struct Shared {
    pub(super) hub: Mutex<Hub>,
    pub(super) clock: Arc<dyn Clock>,
    /// Lines about connections that were ended, about events that were dropped, and about readers that are too slow.
    pub(super) ended: LogRate,
    pub(super) unsendable: LogRate,
    pub(super) slow: LogRate,
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the client has gone")]
    Left,
    #[error("the server stops")]
    Stop,
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{0} needs an argument")]
    NoArgument(Verb),
    #[error("EVT is for the server to send")]
    Event,
    #[error("{0}")]
    Body(#[from] BodyError),
    #[error("{0}")]
    Patterns(#[from] PatternsError),
}

impl Shared {
    /// Queues an event, and says in the log who lost one.
    pub(super) fn publish(&self, from: Option<MemberId>, topic: &str, body: &[u8]) {
        let mut bytes = Vec::new();
        if let Err(reason) = frame::encode(Verb::Evt, topic, body, &mut bytes) {
            if let Some(left_out) = self.unsendable.admit(std::time::Instant::now()) {
                tracing::warn!(%reason, left_out, "an event cannot be handed on and is dropped");
            }
            return;
        }
        let losses = self.hub.lock().publish(from, topic, Bytes::from(bytes));
        for Loss { member, name, dropped } in losses {
            if let Some(left_out) = self.slow.admit(std::time::Instant::now()) {
                let name = &*name;
                tracing::warn!(
                    connection = %member,
                    name,
                    dropped,
                    left_out,
                    "a client reads too slowly, its oldest events are dropped"
                );
            }
        }
    }
}

/// Serves a client until either side ends it.
pub(super) async fn serve(mut stream: UnixStream, id: MemberId, wake: Arc<Notify>, shared: Arc<Shared>) {
    let (reader, writer) = stream.split();
    let Err(end) = tokio::select! {
        end = hear(FrameReader::new(reader), id, &shared) => end,
        end = tell(writer, id, &wake, &shared.hub) => end,
    };
    let name = shared.hub.lock().name_of(id);
    shared.hub.lock().leave(id);
    let name = &*name;
    match end {
        End::Left | End::Stop | End::Frame(FrameError::Io(_)) => {
            tracing::debug!(connection = %id, name, reason = %end, "a connection ended");
        }
        reason => {
            if let Some(left_out) = shared.ended.admit(std::time::Instant::now()) {
                tracing::info!(connection = %id, name, %reason, left_out, "a connection is ended");
            }
        }
    }
    let _ = stream.shutdown().await;
    let mut left = [0; 4096];
    for _ in 0..MAX_LEFT_BYTES / left.len() {
        if stream.try_read(&mut left).is_ok_and(|count| count > 0) {
            continue;
        }
        break;
    }
}

/// Does what the client says.
async fn hear(
    mut frames: FrameReader<impl AsyncRead + Unpin>,
    id: MemberId,
    shared: &Shared,
) -> Result<std::convert::Infallible, End> {
    let mut published = 0_u32;
    while let Some(frame) = frames.read().await? {
        let argument = &*frame.argument;
        match frame.verb {
            Verb::Sub | Verb::Pub if argument.is_empty() => return Err(End::NoArgument(frame.verb)),
            Verb::Hello => shared.hub.lock().name(id, argument),
            Verb::Sub => shared.hub.lock().subscribe(id, argument)?,
            Verb::Unsub => shared.hub.lock().unsubscribe(id, argument),
            Verb::Pub => {
                let body = event::published(argument, &frame.body, shared.clock.now())?;
                shared.publish(Some(id), argument, &body);
                // A burst that is here already would fill the queues of readers before they had a turn.
                published += 1;
                if published.is_multiple_of(PUBLISHED_A_TURN) {
                    tokio::task::yield_now().await;
                }
            }
            Verb::Evt => return Err(End::Event),
            Verb::Bye => break,
        }
    }
    Err(End::Left)
}

/// Writes what waits for the client.
async fn tell(
    mut writer: impl AsyncWrite + Unpin,
    id: MemberId,
    wake: &Notify,
    hub: &Mutex<Hub>,
) -> Result<std::convert::Infallible, End> {
    loop {
        let next = hub.lock().next(id, BUS_WRITE_BYTES);
        match next {
            Next::Frames(frames) => {
                let bytes = match &frames[..] {
                    [one] => one.clone(),
                    several => Bytes::from(several.concat()),
                };
                drop(frames);
                writer.write_all(&bytes).await.map_err(FrameError::from)?;
            }
            Next::Wait => wake.notified().await,
            Next::End => return Err(End::Stop),
        }
    }
}
