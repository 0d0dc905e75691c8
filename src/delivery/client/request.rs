//! The bytes of one request of HTTP/1.1, built once, and how far they are written.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderValue;
use memchr::memmem;

use super::route::Target;
use super::stream::Stream;
use crate::delivery::End;
use crate::delivery::exchange::SentRequest;
use crate::delivery::fields::is_control;

const LINE_END: &[u8] = b"\r\n";
/// Room for the head of a signed request.
const USUAL_HEAD_BYTES: usize = 640;

/// A request's head as it is put together: field names go out in the spelling that they are given in.
pub struct RequestHead {
    bytes: Vec<u8>,
    /// Where the values of secret fields are.
    secrets: Vec<Range<usize>>,
}

/// A request, ready for the wire.
pub struct OutgoingRequest {
    head: Vec<u8>,
    secrets: Vec<Range<usize>>,
    body: Bytes,
    written_bytes: usize,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Writing,
    Flushing,
    Sent,
    /// The connection takes no more. What has come back may still be an answer.
    Broken,
}

impl RequestHead {
    /// Request line and `Host`. `method` is a token; the path of a [`Destination`](crate::delivery::guard::Destination)
    /// has no spaces.
    pub(in crate::delivery) fn new(method: &str, target: Target<'_>) -> Self {
        let destination = target.destination;
        Self::of(method, destination.path_and_query(), destination.authority().as_bytes())
    }

    /// For another path than the destination's.
    pub fn of(method: &str, path_and_query: &str, host: &[u8]) -> Self {
        let mut head = Vec::with_capacity(USUAL_HEAD_BYTES);
        for part in [method.as_bytes(), b" ", path_and_query.as_bytes(), b" HTTP/1.1\r\nHost: ", host, b"\r\n"] {
            head.extend_from_slice(part);
        }
        Self { bytes: head, secrets: Vec::new() }
    }

    /// Adds a field. No value may end its line: the last guard before the wire against a request within a request.
    pub fn field(&mut self, name: &str, value: &[u8]) -> Result<(), End> {
        if value.iter().copied().any(is_control) {
            return Err(End::Protocol(format!("the value of {name} cannot be sent: it has a control character")));
        }
        self.bytes.reserve(name.len() + value.len() + 4);
        for part in [name.as_bytes(), b": ", value, b"\r\n"] {
            self.bytes.extend_from_slice(part);
        }
        Ok(())
    }

    /// Adds a field whose value nobody is shown.
    pub(in crate::delivery) fn secret_field(&mut self, name: &str, value: &[u8]) -> Result<(), End> {
        self.field(name, value)?;
        let end = self.bytes.len() - LINE_END.len();
        self.secrets.push(end - value.len()..end);
        Ok(())
    }

    /// Whether a field of that name was added.
    pub(in crate::delivery) fn has(&self, name: &str) -> bool {
        let mut fields =
            self.bytes.split(|byte| *byte == b'\n').skip(1).filter_map(|line| line.split_at_checked(name.len()));
        fields.any(|(found, rest)| rest.starts_with(b":") && found.eq_ignore_ascii_case(name.as_bytes()))
    }

    /// With `Content-Length`, also of an empty body.
    pub fn with_body(mut self, body: Bytes) -> OutgoingRequest {
        self.bytes.extend_from_slice(b"Content-Length: ");
        self.bytes.extend_from_slice(itoa::Buffer::new().format(body.len()).as_bytes());
        self.bytes.extend_from_slice(b"\r\n\r\n");
        OutgoingRequest { head: self.bytes, secrets: self.secrets, body, written_bytes: 0, stage: Stage::Writing }
    }
}

/// How a proxy is asked to pass a request on, rather than for a way through (RFC 9112, section 3.2.2).
#[derive(Clone)]
pub(super) struct Forwarding {
    /// The value of `Proxy-Authorization`.
    pub(super) authorization: Option<HeaderValue>,
    /// Its answer to `CONNECT`.
    pub(super) refusal: u16,
}

/// The status of a proxy that wants other credentials; no receiver has it.
const PROXY_AUTHENTICATION_REQUIRED: u16 = 407;

impl Forwarding {
    /// What an answer of this status says of the proxy; `None`: it is the receiver's. A refusal like that of `CONNECT` is
    /// taken for the proxy's: nothing tells the two apart, and the receiver may know nothing of it.
    pub(super) fn refusal(&self, status: u16) -> Option<String> {
        match status {
            PROXY_AUTHENTICATION_REQUIRED => {
                Some(format!("answered {status} (it asks for other credentials, or for some)"))
            }
            _ if status == self.refusal => Some(format!("answered {status}, to CONNECT and to the request itself")),
            _ => None,
        }
    }
}

impl OutgoingRequest {
    /// Makes the request's target absolute, for a proxy. `authority` is what `Host` says, too.
    pub(super) fn forwarded(&mut self, authority: &[u8], forwarding: &Forwarding) {
        let target_at = memchr::memchr(b' ', &self.head).map_or(0, |at| at + 1);
        let rest = self.head.split_off(target_at);
        let line_end = memmem::find(&rest, LINE_END).map_or(0, |at| at + LINE_END.len());
        let (target, fields) = rest.split_at(line_end);
        for part in [b"http://", authority, target] {
            self.head.extend_from_slice(part);
        }
        let mut own = None;
        if let Some(authorization) = &forwarding.authorization {
            for part in [b"Proxy-Authorization: ", authorization.as_bytes(), LINE_END] {
                self.head.extend_from_slice(part);
            }
            let end = self.head.len() - LINE_END.len();
            own = Some(end - authorization.len()..end);
        }
        let shift = self.head.len() - target_at - line_end;
        for secret in &mut self.secrets {
            *secret = secret.start + shift..secret.end + shift;
        }
        self.secrets.splice(0..0, own);
        self.head.extend_from_slice(fields);
    }

    /// What was to be sent, for whoever asks afterwards.
    pub(in crate::delivery) fn into_sent(self) -> SentRequest {
        SentRequest::new(self.head, self.secrets, self.body)
    }

    /// Writes what the connection takes. `Pending`: it will take more later; an error is the last word.
    pub(super) fn poll_write(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = self.poll_stages(stream, cx);
        if matches!(polled, Poll::Ready(Err(_))) {
            self.stage = Stage::Broken;
        }
        polled
    }

    fn poll_stages(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.stage == Stage::Writing {
            let head = self.head.get(self.written_bytes..).unwrap_or_default();
            let body = &self.body[self.written_bytes.saturating_sub(self.head.len())..];
            let written = match (head, body) {
                ([], body) => stream.poll_write(cx, &[IoSlice::new(body)]),
                (head, []) => stream.poll_write(cx, &[IoSlice::new(head)]),
                (head, body) => stream.poll_write(cx, &[IoSlice::new(head), IoSlice::new(body)]),
            };
            match std::task::ready!(written)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written_bytes += written,
            }
            if self.written_bytes >= self.head.len() + self.body.len() {
                self.stage = Stage::Flushing;
            }
        }
        if self.stage == Stage::Flushing {
            std::task::ready!(stream.poll_flush(cx))?;
            self.stage = Stage::Sent;
        }
        Poll::Ready(Ok(()))
    }

    /// Whether it has left as a whole.
    pub(super) fn is_sent(&self) -> bool {
        self.stage == Stage::Sent
    }

    /// Whether there is nothing more to do: it has left, or never will.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Sent | Stage::Broken)
    }
}
