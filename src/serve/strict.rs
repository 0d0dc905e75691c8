//! A reader before hyper's that sees a request's bytes as they came. It refuses texts that hyper tolerates and a proxy before
//! this server may read differently: a line that ends without CR, a head with two lengths, anything but digits in the size of
//! a chunk. If two readers disagree about a request's end, one request becomes two.
//!
//! It changes nothing but the byte at which a request goes wrong, into one that hyper refuses: hyper answers 400 and closes
//! the connection. So a mistake here can refuse a request, and never let another one pass.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The kept part of a line that comes in pieces, in bytes. A field with a body's length is shorter.
const MAX_KEPT_LINE_BYTES: usize = 64;
/// A byte that is invalid in a head, in a chunk's size and in a line's end.
const REFUSED: u8 = 0;

/// Refuses requests from `stream` that other servers may parse differently.
pub(super) struct Strict<S> {
    stream: S,
    framing: Framing,
}

impl<S> Strict<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, framing: Framing::default() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Strict<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Some(new) = buffer.filled_mut().get_mut(before..)
            && let Err(at) = self.framing.follow(new)
            && let Some(wrong) = new.get_mut(at)
        {
            *wrong = REFUSED;
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Strict<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The position of the next byte within a request (RFC 9112).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// Before a request line.
    #[default]
    Start,
    /// In the fields of a head.
    Fields,
    /// In a body, with the bytes that are left.
    Body(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailers,
    /// After a refusal.
    Refused,
}

/// An invalid line.
struct Wrong;

/// Follows requests through a connection.
#[derive(Debug, Default)]
struct Framing {
    at: At,
    /// The beginning of a line whose end has not come.
    kept: Vec<u8>,
    /// The last byte of that line.
    last: Option<u8>,
    /// The body's length in the present head.
    length: Option<u64>,
    is_chunked: bool,
}

impl Framing {
    /// Follows `bytes`. The error is the index of the byte at which a request becomes invalid.
    fn follow(&mut self, bytes: &[u8]) -> Result<(), usize> {
        let mut from = 0;
        while from < bytes.len() {
            match &mut self.at {
                At::Refused => return Ok(()),
                At::Body(left) | At::Chunk(left) => {
                    let here = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len() - from);
                    *left -= here as u64;
                    from += here;
                    match self.at {
                        At::Body(0) => self.at = At::Start,
                        At::Chunk(0) => self.at = At::ChunkEnd,
                        _ => {}
                    }
                }
                _ => {
                    let rest = &bytes[from..];
                    let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
                        self.keep(rest);
                        return Ok(());
                    };
                    self.end_line(&rest[..end]).map_err(|Wrong| {
                        self.at = At::Refused;
                        from + end
                    })?;
                    from += end + 1;
                }
            }
        }
        Ok(())
    }

    fn keep(&mut self, piece: &[u8]) {
        // One more byte for the CR.
        let room = MAX_KEPT_LINE_BYTES + 1 - self.kept.len();
        self.kept.extend_from_slice(&piece[..piece.len().min(room)]);
        self.last = piece.last().copied().or(self.last);
    }

    /// A line ends after `piece`, the CR included.
    fn end_line(&mut self, piece: &[u8]) -> Result<(), Wrong> {
        if self.last.is_none() {
            return self.line(piece.strip_suffix(b"\r").ok_or(Wrong)?);
        }
        self.keep(piece);
        if self.last.take() != Some(b'\r') {
            return Err(Wrong);
        }
        let kept = std::mem::take(&mut self.kept);
        // The CR of a longer line is not kept.
        let line = if kept.len() <= MAX_KEPT_LINE_BYTES { kept.strip_suffix(b"\r") } else { None };
        let done = self.line(line.unwrap_or(&kept));
        self.kept = kept;
        self.kept.clear();
        done
    }

    /// A whole line without its end, or the first [`MAX_KEPT_LINE_BYTES`] of a longer one.
    fn line(&mut self, line: &[u8]) -> Result<(), Wrong> {
        match self.at {
            // Empty lines before a request are ignored (RFC 9112, section 2.2).
            At::Start if line.is_empty() => {}
            At::Start => (self.at, self.length, self.is_chunked) = (At::Fields, None, false),
            At::Fields if line.is_empty() => self.at = self.body()?,
            At::Fields => self.field(line)?,
            At::ChunkSize => self.at = chunk(line).ok_or(Wrong)?,
            At::ChunkEnd if line.is_empty() => self.at = At::ChunkSize,
            At::ChunkEnd => return Err(Wrong),
            At::Trailers if line.is_empty() => self.at = At::Start,
            At::Trailers | At::Body(_) | At::Chunk(_) | At::Refused => {}
        }
        Ok(())
    }

    fn field(&mut self, line: &[u8]) -> Result<(), Wrong> {
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (name, value) = line.split_at(colon);
        let (is_length, is_encoding) =
            (name.eq_ignore_ascii_case(b"content-length"), name.eq_ignore_ascii_case(b"transfer-encoding"));
        if !is_length && !is_encoding {
            return Ok(());
        }
        // Both fields together, or one of them twice, can smuggle a request past a proxy.
        if line.len() >= MAX_KEPT_LINE_BYTES || self.length.is_some() || self.is_chunked {
            return Err(Wrong);
        }
        let value = value.strip_prefix(b":").unwrap_or_default().trim_ascii();
        if is_encoding {
            self.is_chunked = true;
            return if value.eq_ignore_ascii_case(b"chunked") { Ok(()) } else { Err(Wrong) };
        }
        self.length = Some(number(value, 10).ok_or(Wrong)?);
        Ok(())
    }

    /// The position after the head.
    fn body(&self) -> Result<At, Wrong> {
        Ok(match (self.is_chunked, self.length) {
            (true, Some(_)) => return Err(Wrong),
            (true, None) => At::ChunkSize,
            (false, None | Some(0)) => At::Start,
            (false, Some(length)) => At::Body(length),
        })
    }
}

/// The position after a chunk's size, which may have an extension after a semicolon. `None`: the size is invalid.
fn chunk(line: &[u8]) -> Option<At> {
    let size = line.split(|byte| *byte == b';').next()?;
    Some(match number(size, 16)? {
        0 => At::Trailers,
        size => At::Chunk(size),
    })
}

/// Parses digits only.
fn number(digits: &[u8], radix: u32) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok().filter(|text| text.chars().all(|digit| digit.is_digit(radix)))?;
    u64::from_str_radix(text, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes that hyper sees of `bytes`, which come in pieces of `piece`.
    fn shown(bytes: &[u8], piece: usize) -> Vec<u8> {
        let mut framing = Framing::default();
        let mut shown = bytes.to_vec();
        for piece in shown.chunks_mut(piece) {
            if let Err(at) = framing.follow(piece) {
                piece[at] = REFUSED;
            }
        }
        shown
    }

    fn refused_at(text: &str) -> Option<usize> {
        let found = |piece| shown(text.as_bytes(), piece).iter().position(|byte| *byte == REFUSED);
        let whole = found(usize::MAX);
        for piece in 1..text.len() {
            assert_eq!(found(piece), whole, "in pieces of {piece}: {text:?}");
        }
        whole
    }

    #[test]
    fn what_is_written_as_the_rfc_says_passes_however_it_is_cut() {
        let long =
            format!("POST /{} HTTP/1.1\r\nX: {}\r\nContent-Length: 3\r\n\r\na\nb", "p".repeat(90), "v".repeat(200));
        for text in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nline\nline\nGET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length:0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\na\nb\nc\r\n1a;x=\"y\"\r\n01234567890123456789012345\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding:  Chunked \r\n\r\n0\r\nX: y\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            &long,
        ] {
            assert_eq!(refused_at(text), None, "{text:?}");
        }
    }

    #[test]
    fn what_readers_disagree_about_is_refused_at_the_end_of_its_line() {
        let post = "POST / HTTP/1.1\r\n";
        for wrong in [
            "GET / HTTP/1.1\n",
            "\n",
            "GET / HTTP/1.1\r\nHost: a\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\n",
            &format!("{post}Content-Length: 1\r\nContent-Length: 1\r\n"),
            &format!("{post}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"),
            &format!("{post}Transfer-Encoding: chunked\r\nContent-Length: 1\r\n"),
            &format!("{post}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
            &format!("{post}Transfer-Encoding: gzip, chunked\r\n"),
            &format!("{post}Transfer-Encoding: identity\r\n"),
            &format!("{post}Content-Length: +1\r\n"),
            &format!("{post}Content-Length: 1, 1\r\n"),
            &format!("{post}Content-Length:\r\n"),
            &format!("{post}Content-Length:{}1\r\n", " ".repeat(100)),
            &format!("{post}Transfer-Encoding: chunked\r\n\r\n5 \r\n"),
            &format!("{post}Transfer-Encoding: chunked\r\n\r\n5\t\r\n"),
            &format!("{post}Transfer-Encoding: chunked\r\n\r\n5 ;x\r\n"),
            &format!("{post}Transfer-Encoding: chunked\r\n\r\n 5\r\n"),
            &format!("{post}Transfer-Encoding: chunked\r\n\r\n5\n"),
            &format!("{post}Transfer-Encoding: chunked\r\n\r\n0x5\r\n"),
            &format!("{post}Transfer-Encoding: chunked\r\n\r\n\r\n"),
            &format!("{post}Transfer-Encoding: chunked\r\n\r\n5;x\n"),
            &format!("{post}Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n"),
            &format!("{post}Transfer-Encoding: chunked\r\n\r\n1\r\na\n"),
            &format!("{post}Transfer-Encoding: chunked\r\n\r\n0\r\n\n"),
            &format!("{post}Transfer-Encoding: chunked\r\n\r\n0\r\nX: y\n"),
        ] {
            let text = format!("{wrong}GET /smuggled HTTP/1.1\r\n\r\n");
            assert_eq!(refused_at(&text), Some(wrong.len() - 1), "{wrong:?}");
        }
    }
}
