//! The client's way to a connection that is made here, so that brokers have one way to TLS, and so that the client's thread
//! ends with the connection, whatever the server does. What the server sends is looked at on its way.

use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_rs::Tokio;
use async_rs::traits::Reactor;
use futures_io::{AsyncRead, AsyncWrite};
use futures_util::Stream as Ticks;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::sync::oneshot;

use super::frames::Frames;
use crate::sources::dial::Stream;

/// What is read at once.
const READ_BYTES: usize = 64 * 1024;
/// From so many bytes on a part of a body is read straight into the client's memory.
const STRAIGHT_BYTES: usize = 16 * 1024;

/// A connection that looks closed by the server once `end` is ready.
pub(super) struct Socket {
    stream: Box<dyn Stream>,
    end: Option<oneshot::Receiver<()>>,
    frames: Frames,
    read: Box<[u8]>,
}

impl Socket {
    /// It ends when the sender is dropped.
    pub(super) fn new(stream: Box<dyn Stream>) -> (Self, oneshot::Sender<()>) {
        let (sender, end) = oneshot::channel();
        let read = vec![0; READ_BYTES].into_boxed_slice();
        (Self { stream, end: Some(end), frames: Frames::default(), read }, sender)
    }

    fn poll_end(&mut self, context: &mut Context<'_>) -> bool {
        if let Some(end) = &mut self.end
            && Pin::new(end).poll(context).is_ready()
        {
            self.end = None;
        }
        self.end.is_none()
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.poll_end(context) {
            return Poll::Ready(Ok(0));
        }
        let Self { stream, frames, read, .. } = &mut *self;
        while !frames.has_ready() {
            let straight = frames.straight().min(into.len());
            if straight >= STRAIGHT_BYTES {
                let mut buffer = ReadBuf::new(&mut into[..straight]);
                ready!(Pin::new(stream).poll_read(context, &mut buffer))?;
                let count = buffer.filled().len();
                frames.went_straight(count);
                return Poll::Ready(Ok(count));
            }
            let mut buffer = ReadBuf::new(read);
            ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Ok(0));
            }
            frames.take(buffer.filled()).map_err(io::Error::other)?;
        }
        Poll::Ready(Ok(frames.give(into)))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.end.is_none() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Time as tokio has it, and sockets that are connected already.
#[derive(Clone, Debug)]
pub(super) struct Sockets(pub(super) Tokio);

impl Reactor for Sockets {
    type TcpStream = Socket;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: io::Read + io::Write + Send + 'static>(
        &self,
        _socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<Socket, _>(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Ticks<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        _address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        std::future::ready(Err(io::ErrorKind::Unsupported.into()))
    }
}
