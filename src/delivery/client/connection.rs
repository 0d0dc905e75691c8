//! One HTTP/1.1 connection, driven by whoever uses it: no task is spawned for it, and while it is
//! idle nobody polls it.

use std::io;
use std::mem::MaybeUninit;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::ReadBuf;
use tokio::time::Instant;

use super::answer::AnswerReader;
use super::request::{Forwarding, OutgoingRequest};
use super::route::{RouteId, Target};
use super::sockets::Socket;
use super::stream::Stream;
use super::tls_error;
use crate::delivery::End;
use crate::delivery::guard::{Destination, GuardedAddr};

/// How long an unused connection is kept; most servers close theirs after 60 s or more.
pub const MAX_IDLE: Duration = Duration::from_secs(55);
/// How long a connection is used at all, so that a receiver that moves gets its traffic at its new place.
pub const MAX_AGE: Duration = Duration::from_mins(5);
/// How long a name counts as still resolving to a connection's address before it is asked again.
pub const CONFIRM_AFTER: Duration = Duration::from_secs(1);
/// How long before a receiver closes an idle connection, by its `Keep-Alive: timeout`, it is not used any more; half of
/// the time if that is shorter.
const CLOSING_MARGIN: Duration = Duration::from_secs(1);
/// How much is read at once, on the stack: an idle connection has no buffer.
const READ_BYTES: usize = 8 * 1024;

/// One HTTP/1.1 connection for one scheme, host and port: to one guarded address, directly or through a proxy.
pub struct Connection {
    stream: Stream,
    /// Whether the last exchange left the connection ready for another one.
    is_clean: bool,
    idle_limit: Duration,
    destination: Destination,
    route: Option<RouteId>,
    address: Option<GuardedAddr>,
    /// How requests are passed on, by a proxy that gives no way through.
    forwarding: Option<Forwarding>,
    opened_at: Instant,
    used_at: Instant,
    pub(super) confirmed_at: Instant,
    _socket: Socket,
}

impl Connection {
    /// HTTP/1.1 on a stream that was just made to `address` for `target`; no address if a proxy resolved the name.
    pub(super) fn new(
        stream: Stream,
        target: Target<'_>,
        address: Option<GuardedAddr>,
        forwarding: Option<Forwarding>,
        socket: Socket,
    ) -> Self {
        let now = Instant::now();
        Self {
            stream,
            is_clean: true,
            idle_limit: MAX_IDLE,
            destination: target.destination.clone(),
            route: target.route_id(),
            address,
            forwarding,
            opened_at: now,
            used_at: now,
            confirmed_at: now,
            _socket: socket,
        }
    }

    /// Writes a request and reads its answer meanwhile; `began` is called at the final status line. Dropping the future
    /// ends the connection, and `answer` keeps what has come.
    ///
    /// An answer may come before the request is written, and is the answer all the same. A refusal ends the writing; a
    /// success does not, because its sender may go on reading.
    pub async fn exchange(
        &mut self,
        request: &mut OutgoingRequest,
        answer: &mut AnswerReader,
        mut began: impl FnMut(),
    ) -> Result<(), End> {
        self.is_clean = false;
        if let Some(forwarding) = &self.forwarding {
            request.forwarded(self.destination.authority().as_bytes(), forwarding);
        }
        std::future::poll_fn(|cx| self.poll_exchange(cx, request, answer, &mut began)).await?;
        self.is_clean = request.is_sent() && answer.ends_cleanly();
        let asked = answer.idle_limit().map(|limit| limit.saturating_sub(CLOSING_MARGIN.min(limit / 2)));
        self.idle_limit = asked.map_or(MAX_IDLE, |limit| limit.min(MAX_IDLE));
        self.used_at = Instant::now();
        Ok(())
    }

    fn poll_exchange(
        &mut self,
        cx: &mut Context<'_>,
        request: &mut OutgoingRequest,
        answer: &mut AnswerReader,
        began: &mut impl FnMut(),
    ) -> Poll<Result<(), End>> {
        let mut write_error = None;
        loop {
            if !request.is_over()
                && let Poll::Ready(Err(error)) = request.poll_write(&mut self.stream, cx)
            {
                write_error = Some(error);
            }
            let is_enough = request.is_over() || !matches!(answer.status(), Some(200..=299));
            if answer.end().is_some() {
                return if is_enough { Poll::Ready(Ok(())) } else { Poll::Pending };
            }
            let mut scratch = [MaybeUninit::uninit(); READ_BYTES];
            let mut read = ReadBuf::uninit(&mut scratch);
            let had_status = answer.status().is_some();
            let read = std::task::ready!(self.stream.poll_read(cx, &mut read)).map(|()| read.filled());
            match read {
                Ok(bytes) if !bytes.is_empty() => {
                    answer.feed(bytes).map_err(|error| End::Protocol(error.to_string()))?;
                    if !had_status && answer.status().is_some() {
                        began();
                    }
                }
                ended if had_status => answer.close(ended.is_ok()),
                // Why the request could not be written says more than that nothing came back.
                ended => {
                    return Poll::Ready(Err(write_error
                        .or(ended.err())
                        .as_ref()
                        .map_or_else(closed_early, unanswered)));
                }
            }
        }
    }

    /// Whether the last exchange, if any, left nothing on the connection.
    pub(super) fn is_clean(&self) -> bool {
        self.is_clean
    }

    /// Whether another request can be sent: the peer has not closed it, as far as this machine has heard,
    /// it is not too old, and nothing of an earlier exchange is left on it.
    pub fn is_usable(&mut self) -> bool {
        let now = Instant::now();
        if !self.is_clean || now - self.used_at > self.idle_limit || now - self.opened_at > MAX_AGE {
            return false;
        }
        // Whatever there is to read, also its end, is the answer to no question.
        let mut scratch = [MaybeUninit::uninit(); 1];
        let mut nobody = Context::from_waker(Waker::noop());
        self.is_clean = self.stream.poll_read(&mut nobody, &mut ReadBuf::uninit(&mut scratch)).is_pending();
        self.is_clean
    }

    /// Whether this connection's scheme, host and port are those of `target`, and it was made in the same way:
    /// through the same proxy, with the same authorities and the same client certificate.
    pub(super) fn serves(&self, target: Target<'_>) -> bool {
        self.route == target.route_id() && self.destination.same_origin(target.destination)
    }

    /// Why an answer of this status is one of the proxy itself; `None`: it is the receiver's.
    pub(super) fn refusal_of_proxy(&self, status: u16) -> Option<String> {
        self.forwarding.as_ref()?.refusal(status)
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
}

/// The end of a request that got no answer.
fn unanswered(error: &io::Error) -> End {
    if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return End::Tls(tls_error::words(tls));
    }
    match error.kind() {
        io::ErrorKind::UnexpectedEof => closed_early(),
        kind => End::Connect(format!("the connection broke before an answer: {kind}")),
    }
}

fn closed_early() -> End {
    End::Connect("the receiver closed the connection before it answered".to_owned())
}
