//! One HTTP/1.1 connection, driven by whoever uses it: no task is spawned for it, and while it is
//! idle nobody polls it.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

use super::route::{RouteId, Target};
use super::sockets::Socket;
use crate::delivery::End;
use crate::delivery::guard::{Destination, GuardedAddr};

/// How much a receiver may send before its final status line and headers are complete, in bytes;
/// interim (1xx) answers count. hyper reads at most this ahead too, and takes at most 100 headers.
pub const MAX_HEAD_BYTES: usize = 64 * 1024;
/// How long an unused connection is kept; most servers close theirs after 60 s or more.
pub const MAX_IDLE: Duration = Duration::from_secs(55);
/// How long a connection is used at all, so that a receiver that moves gets its traffic at its new place.
pub const MAX_AGE: Duration = Duration::from_mins(5);
/// How long a name counts as still resolving to a connection's address before it is asked again.
pub const CONFIRM_AFTER: Duration = Duration::from_secs(1);

type Driver = http1::Connection<TokioIo<Metered>, Full<Bytes>>;

/// One HTTP/1.1 connection for one scheme, host and port: to one guarded address, directly or through a proxy.
pub struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    driver: Driver,
    driver_ended: bool,
    meter: Arc<Meter>,
    destination: Destination,
    route: Option<RouteId>,
    address: Option<GuardedAddr>,
    opened_at: Instant,
    used_at: Instant,
    pub(super) confirmed_at: Instant,
    _socket: Socket,
}

/// How the reading of a response body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyEnd {
    /// It is all there.
    Complete,
    /// There was more than asked for.
    TooLong,
    /// The connection broke, or what came was no HTTP.
    Broken,
}

impl Connection {
    /// HTTP/1.1 on a stream that was just made to `address` for `target`; no address if a proxy resolved the name.
    pub(super) async fn start(
        stream: Stream,
        target: Target<'_>,
        address: Option<GuardedAddr>,
        socket: Socket,
    ) -> Result<Self, hyper::Error> {
        let meter = Arc::new(Meter::default());
        let io = TokioIo::new(Metered { stream, meter: Arc::clone(&meter) });
        let (sender, driver) = http1::Builder::new().max_buf_size(MAX_HEAD_BYTES).handshake(io).await?;
        let now = Instant::now();
        Ok(Self {
            sender,
            driver,
            driver_ended: false,
            meter,
            destination: target.destination.clone(),
            route: target.route_id(),
            address,
            opened_at: now,
            used_at: now,
            confirmed_at: now,
            _socket: socket,
        })
    }

    /// Sends a request and waits for the head of the answer. The request's URI must be in origin form and
    /// it must have a `Host` header. Dropping the future ends the connection.
    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, End> {
        self.meter.restart();
        let answer = self.sender.send_request(request);
        let answer = drive(&mut self.driver, &mut self.driver_ended, answer).await.map_err(|error| end_of(&error));
        self.meter.head_is_complete();
        answer
    }

    /// Appends the response body to `into`, until that has `max_bytes`. The connection can be used again
    /// only after [`BodyEnd::Complete`].
    pub async fn read_body(&mut self, mut body: Incoming, into: &mut BytesMut, max_bytes: usize) -> BodyEnd {
        while !body.is_end_stream() {
            match drive(&mut self.driver, &mut self.driver_ended, body.frame()).await {
                None => break,
                Some(Err(_)) => return BodyEnd::Broken,
                Some(Ok(frame)) => {
                    let data = frame.into_data().unwrap_or_default();
                    let room = max_bytes.saturating_sub(into.len());
                    into.extend_from_slice(&data[..data.len().min(room)]);
                    if data.len() > room {
                        return BodyEnd::TooLong;
                    }
                }
            }
        }
        BodyEnd::Complete
    }

    /// Whether another request can be sent: the peer has not closed it, as far as this machine has heard,
    /// it is not too old, and nothing of an earlier exchange is left on it.
    pub fn is_usable(&mut self) -> bool {
        let now = Instant::now();
        if now - self.used_at > MAX_IDLE || now - self.opened_at > MAX_AGE {
            return false;
        }
        let mut nobody = Context::from_waker(Waker::noop());
        if !self.driver_ended && Pin::new(&mut self.driver).poll(&mut nobody).is_ready() {
            self.driver_ended = true;
        }
        !self.driver_ended && self.sender.is_ready()
    }

    /// Whether this connection's scheme, host and port are those of `target`, and it was made in the same way:
    /// through the same proxy, with the same authorities and the same client certificate.
    pub(super) fn serves(&self, target: Target<'_>) -> bool {
        self.route == target.route_id() && self.destination.same_origin(target.destination)
    }

    pub(super) fn destination(&self) -> &Destination {
        &self.destination
    }

    pub(super) fn route(&self) -> Option<RouteId> {
        self.route
    }

    pub(super) fn address(&self) -> Option<GuardedAddr> {
        self.address
    }

    /// Notes the end of an exchange: idleness counts from now.
    pub(super) fn rest(&mut self) {
        self.used_at = Instant::now();
    }

    /// Whether the peer has sent nothing at all since the last request began.
    pub(super) fn heard_nothing(&self) -> bool {
        self.meter.read_bytes.load(Ordering::Relaxed) == 0
    }
}

/// Runs `exchange`, which waits for the connection, and the connection itself in one task.
async fn drive<T>(driver: &mut Driver, driver_ended: &mut bool, exchange: impl Future<Output = T>) -> T {
    let mut exchange = pin!(exchange);
    std::future::poll_fn(|cx| {
        if let Poll::Ready(done) = exchange.as_mut().poll(cx) {
            return Poll::Ready(done);
        }
        // Its error, if any, reaches the exchange too.
        if !*driver_ended && Pin::new(&mut *driver).poll(cx).is_ready() {
            *driver_ended = true;
        }
        exchange.as_mut().poll(cx)
    })
    .await
}

/// What a request came to that got no answer.
fn end_of(error: &hyper::Error) -> End {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = source {
        if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
            return End::Tls(tls.to_string());
        }
        if cause.is::<HeadTooLarge>() {
            return End::Protocol(HeadTooLarge.to_string());
        }
        let io = cause.downcast_ref::<io::Error>();
        if let Some(kind) = io.filter(|io| io.get_ref().is_none()).map(io::Error::kind) {
            return End::Connect(format!("the connection broke before an answer: {kind}"));
        }
        // The standard library passes over a wrapped error itself: its `source` is what that one wraps.
        source = match io.and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => cause.source(),
        };
    }
    if error.is_parse() {
        End::Protocol(format!("the answer cannot be read: {error}"))
    } else {
        End::Connect("the receiver closed the connection before it answered".to_owned())
    }
}

/// The answer's head, interim answers included, is larger than [`MAX_HEAD_BYTES`].
#[derive(Debug, thiserror::Error)]
#[error("the head of the answer has more than {MAX_HEAD_BYTES} bytes")]
struct HeadTooLarge;

/// Counts what was read since a request began, and says how much may be.
#[derive(Default)]
struct Meter {
    read_bytes: AtomicUsize,
    limit_bytes: AtomicUsize,
}

impl Meter {
    fn restart(&self) {
        self.read_bytes.store(0, Ordering::Relaxed);
        self.limit_bytes.store(MAX_HEAD_BYTES, Ordering::Relaxed);
    }
    /// From here on whoever reads the body says how much is enough.
    fn head_is_complete(&self) {
        self.limit_bytes.store(usize::MAX, Ordering::Relaxed);
    }
}

/// A stream whose reading is counted and limited: hyper by itself would read interim answers for ever.
struct Metered {
    stream: Stream,
    meter: Arc<Meter>,
}

/// What a connection runs on.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Metered {
    fn write_half(self: Pin<&mut Self>) -> Pin<&mut (dyn AsyncWrite + Send + Unpin)> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream),
            Stream::Tls(stream) => Pin::new(stream),
        }
    }
}

impl AsyncRead for Metered {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read_bytes = this.meter.read_bytes.load(Ordering::Relaxed);
        if read_bytes > this.meter.limit_bytes.load(Ordering::Relaxed) {
            return Poll::Ready(Err(io::Error::other(HeadTooLarge)));
        }
        let filled_before = buf.filled().len();
        let polled = match &mut this.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        this.meter.read_bytes.store(read_bytes.saturating_add(buf.filled().len() - filled_before), Ordering::Relaxed);
        polled
    }
}

impl AsyncWrite for Metered {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.write_half().poll_write(cx, buf)
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write_half().poll_flush(cx)
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write_half().poll_shutdown(cx)
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write_half().poll_write_vectored(cx, bufs)
    }
    /// Head and body leave in one system call.
    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
