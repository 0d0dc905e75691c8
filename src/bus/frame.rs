//! The frames of the bus: a header line, the length of the body, the body.
//!
//! ```text
//! VERB[ argument]\n   ASCII, at most MAX_FRAME_HEADER_BYTES with the line break; CRs before it count as part of it
//! length              four bytes, the highest first, at most MAX_FRAME_BODY_BYTES
//! body                as many bytes
//! ```

use std::fmt;
use std::io;

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};

/// The longest header line, in bytes, its line break included.
pub const MAX_FRAME_HEADER_BYTES: usize = 4_096;
/// How much of a header may come without a line break. A line over [`MAX_FRAME_HEADER_BYTES`] is refused when its end comes,
/// or when this many bytes came without one.
pub const MAX_ENDLESS_LINE_BYTES: usize = 64 * 1024;
/// The longest body of a frame, in bytes.
pub const MAX_FRAME_BODY_BYTES: usize = 1024 * 1024;
/// What a [`FrameReader`] reads at once, in bytes.
pub const FRAME_READ_BYTES: usize = 8 * 1024;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// A client says its name.
    Hello,
    /// A client publishes: the argument is the topic.
    Pub,
    /// A client wants what matches the pattern in the argument.
    Sub,
    /// A client wants it no longer.
    Unsub,
    /// The server hands on an event: the argument is the topic.
    Evt,
    /// The end.
    Bye,
}

impl Verb {
    const ALL: [Self; 6] = [Self::Hello, Self::Pub, Self::Sub, Self::Unsub, Self::Evt, Self::Bye];

    /// As it stands in a header.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hello => "HELLO",
            Self::Pub => "PUB",
            Self::Sub => "SUB",
            Self::Unsub => "UNSUB",
            Self::Evt => "EVT",
            Self::Bye => "BYE",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One frame as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub verb: Verb,
    /// What follows the first space of the header, without white space at both ends. ASCII, perhaps empty, perhaps with
    /// spaces and control characters inside.
    pub argument: Box<str>,
    pub body: Bytes,
}

/// The reason why bytes are no frame, or why a frame cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    #[error("the connection ended inside a frame")]
    Cut,
    #[error("the header line is empty")]
    EmptyHeader,
    #[error("the header line has {length} bytes, the limit is {MAX_FRAME_HEADER_BYTES}")]
    LongHeader { length: usize },
    #[error("the header line has no end after {MAX_ENDLESS_LINE_BYTES} bytes")]
    EndlessHeader,
    #[error("the header line is not ASCII")]
    NotAscii,
    #[error("{found:?} is no verb of the bus")]
    UnknownVerb { found: Box<str> },
    #[error("the body has {length} bytes, the limit is {MAX_FRAME_BODY_BYTES}")]
    LongBody { length: usize },
    #[error("the argument has a line break")]
    LineBreak,
}

/// Reads frames. It holds at most a header, a body and [`FRAME_READ_BYTES`]; the room for a body grows with what came of it.
#[derive(Debug)]
pub struct FrameReader<R> {
    reader: BufReader<R>,
    partial: Partial,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub fn new(reader: R) -> Self {
        Self { reader: BufReader::with_capacity(FRAME_READ_BYTES, reader), partial: Partial::default() }
    }

    /// The next frame; `None` if the peer closed the connection between two frames.
    ///
    /// Cancel-safe: what came before the future was dropped is kept. After an error there is nothing more to read.
    pub async fn read(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            let came = self.reader.fill_buf().await?;
            if came.is_empty() {
                return if self.partial.is_between_frames() { Ok(None) } else { Err(FrameError::Cut) };
            }
            let mut rest = came;
            let frame = self.partial.take(&mut rest)?;
            let taken = came.len() - rest.len();
            self.reader.consume(taken);
            if frame.is_some() {
                return Ok(frame);
            }
        }
    }

    /// The connection. Bytes that were read and not used are lost.
    pub fn into_inner(self) -> R {
        self.reader.into_inner()
    }
}

/// A frame of which the rest has not come.
#[derive(Debug)]
enum Partial {
    /// `line` has what is kept of the `length` bytes that came: enough to see that there are too many.
    Header {
        line: Vec<u8>,
        length: usize,
    },
    Length {
        verb: Verb,
        argument: Box<str>,
        bytes: [u8; 4],
        came: usize,
    },
    Body {
        verb: Verb,
        argument: Box<str>,
        length: usize,
        body: Vec<u8>,
    },
}

impl Default for Partial {
    fn default() -> Self {
        Self::Header { line: Vec::new(), length: 0 }
    }
}

impl Partial {
    fn is_between_frames(&self) -> bool {
        matches!(self, Self::Header { length: 0, .. })
    }

    /// Takes bytes from the front of `came` until a frame is complete or no byte is left.
    fn take(&mut self, came: &mut &[u8]) -> Result<Option<Frame>, FrameError> {
        loop {
            match self {
                Self::Header { line, length } => {
                    let end = memchr::memchr(b'\n', came);
                    let part = split(came, end.map_or(came.len(), |at| at + 1));
                    *length += part.len();
                    line.extend_from_slice(&part[..part.len().min(MAX_FRAME_HEADER_BYTES - line.len())]);
                    if end.is_none() && *length > MAX_ENDLESS_LINE_BYTES {
                        return Err(FrameError::EndlessHeader);
                    }
                    if end.is_none() {
                        return Ok(None);
                    }
                    if *length > MAX_FRAME_HEADER_BYTES {
                        return Err(FrameError::LongHeader { length: *length });
                    }
                    let (verb, argument) = parse_header(line)?;
                    *self = Self::Length { verb, argument, bytes: [0; 4], came: 0 };
                }
                Self::Length { verb, argument, bytes, came: count } => {
                    let part = split(came, came.len().min(bytes.len() - *count));
                    bytes[*count..*count + part.len()].copy_from_slice(part);
                    *count += part.len();
                    if *count < bytes.len() {
                        return Ok(None);
                    }
                    let length = usize::try_from(u32::from_be_bytes(*bytes)).unwrap_or(usize::MAX);
                    if length > MAX_FRAME_BODY_BYTES {
                        return Err(FrameError::LongBody { length });
                    }
                    let (verb, argument) = (*verb, std::mem::take(argument));
                    *self = Self::Body { verb, argument, length, body: Vec::new() };
                }
                Self::Body { verb, argument, length, body } => {
                    let part = split(came, came.len().min(*length - body.len()));
                    append(body, part, *length);
                    if body.len() < *length {
                        return Ok(None);
                    }
                    let body = Bytes::from(std::mem::take(body));
                    let frame = Frame { verb: *verb, argument: std::mem::take(argument), body };
                    *self = Self::default();
                    return Ok(Some(frame));
                }
            }
        }
    }
}

/// Takes `count` bytes from the front of `bytes`.
fn split<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (front, rest) = bytes.split_at(count);
    *bytes = rest;
    front
}

/// Appends `part` to a body that will have `length` bytes. The room doubles, and is never more than the body needs.
fn append(body: &mut Vec<u8>, part: &[u8], length: usize) {
    let wanted = body.len() + part.len();
    if wanted > body.capacity() {
        body.reserve_exact(wanted.max(2 * body.len()).min(length) - body.len());
    }
    body.extend_from_slice(part);
}

/// Verb and argument of a header line with its line break.
fn parse_header(line: &[u8]) -> Result<(Verb, Box<str>), FrameError> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = &line[..line.iter().rposition(|byte| *byte != b'\r').map_or(0, |last| last + 1)];
    let line = std::str::from_utf8(line).ok().filter(|line| line.is_ascii()).ok_or(FrameError::NotAscii)?;
    if line.is_empty() {
        return Err(FrameError::EmptyHeader);
    }
    let (word, argument) = line.split_once(' ').unwrap_or((line, ""));
    let verb = Verb::ALL.into_iter().find(|verb| verb.as_str() == word);
    let verb = verb.ok_or_else(|| FrameError::UnknownVerb { found: word.chars().take(32).collect() })?;
    Ok((verb, argument.trim_matches(is_white_space).into()))
}

/// What Python strips from a text, as far as it is ASCII.
fn is_white_space(c: char) -> bool {
    matches!(c, ' ' | '\t'..='\r' | '\u{1c}'..='\u{1f}')
}

/// Appends a frame to `out`; appends nothing if it is refused.
///
/// A peer strips white space from both ends of `argument`.
pub fn encode(verb: Verb, argument: &str, body: &[u8], out: &mut Vec<u8>) -> Result<(), FrameError> {
    if argument.contains(['\r', '\n']) {
        return Err(FrameError::LineBreak);
    }
    if !argument.is_ascii() {
        return Err(FrameError::NotAscii);
    }
    let space = if argument.is_empty() { "" } else { " " };
    let header_bytes = verb.as_str().len() + space.len() + argument.len() + 1;
    if header_bytes > MAX_FRAME_HEADER_BYTES {
        return Err(FrameError::LongHeader { length: header_bytes });
    }
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= MAX_FRAME_BODY_BYTES);
    let length = length.ok_or(FrameError::LongBody { length: body.len() })?;
    out.reserve(header_bytes + 4 + body.len());
    for part in [verb.as_str().as_bytes(), space.as_bytes(), argument.as_bytes(), b"\n", &length.to_be_bytes(), body] {
        out.extend_from_slice(part);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;
    use tokio::io::AsyncWriteExt as _;

    fn encoded(verb: Verb, argument: &str, body: &[u8]) -> Result<Vec<u8>, FrameError> {
        let mut out = Vec::new();
        encode(verb, argument, body, &mut out).map(|()| out)
    }

    #[test]
    fn what_a_peer_would_refuse_is_not_written() {
        let mut out = b"before".to_vec();
        for argument in ["a\nb", "a\rb"] {
            assert!(matches!(encode(Verb::Evt, argument, b"", &mut out), Err(FrameError::LineBreak)));
        }
        assert!(matches!(encode(Verb::Evt, "caf\u{e9}", b"", &mut out), Err(FrameError::NotAscii)));
        let long = "t".repeat(MAX_FRAME_HEADER_BYTES - "EVT \n".len());
        assert!(encoded(Verb::Evt, &long, b"").is_ok());
        let longer = format!("{long}t");
        assert!(matches!(encode(Verb::Evt, &longer, b"", &mut out), Err(FrameError::LongHeader { length: 4_097 })));
        let body = vec![0; MAX_FRAME_BODY_BYTES + 1];
        assert!(encoded(Verb::Evt, "a", &body[1..]).is_ok());
        assert!(matches!(encode(Verb::Evt, "a", &body, &mut out), Err(FrameError::LongBody { .. })));
        assert_eq!(out, b"before");
        assert_eq!(encoded(Verb::Bye, "", b"").unwrap(), b"BYE\n\0\0\0\0");
    }

    #[tokio::test]
    async fn a_read_that_is_given_up_loses_nothing() {
        let (mut writer, reader) = tokio::io::duplex(64);
        let mut reader = FrameReader::new(reader);
        let bytes = encoded(Verb::Pub, "a.b", b"{\"payload\":1}").unwrap();
        for byte in &bytes[..bytes.len() - 1] {
            writer.write_all(&[*byte]).await.unwrap();
            // Whether it looks before or after the byte came, it is dropped.
            assert!(tokio::time::timeout(Duration::ZERO, reader.read()).await.is_err());
        }
        writer.write_all(&bytes[bytes.len() - 1..]).await.unwrap();
        let frame = reader.read().await.unwrap().unwrap();
        assert_eq!((frame.verb, &*frame.argument, &*frame.body), (Verb::Pub, "a.b", &b"{\"payload\":1}"[..]));
        drop(writer);
        assert!(reader.read().await.unwrap().is_none());
    }

    #[test]
    fn memory_grows_with_what_came_and_not_with_what_was_announced() {
        let mut partial = Partial::default();
        let mut came = &b"PUB a\n\x00\x10\x00\x00{"[..];
        assert!(partial.take(&mut came).unwrap().is_none());
        let capacity = |partial: &Partial| match partial {
            Partial::Header { line, .. } => line.capacity(),
            Partial::Length { .. } => 0,
            Partial::Body { body, .. } => body.capacity(),
        };
        assert!(capacity(&partial) < 100);
        let chunk = vec![b' '; 1_000];
        for count in 1..=1_048 {
            assert!(partial.take(&mut &chunk[..]).unwrap().is_none());
            assert!(capacity(&partial) <= (2 * (count * 1_000 + 1)).min(MAX_FRAME_BODY_BYTES), "at {count}");
        }
        // Nor does a header that has no end.
        let mut partial = Partial::default();
        for _ in 0..65 {
            assert!(partial.take(&mut &chunk[..]).unwrap().is_none());
            assert!(capacity(&partial) <= 2 * MAX_FRAME_HEADER_BYTES);
        }
        assert!(matches!(partial.take(&mut &chunk[..]), Err(FrameError::EndlessHeader)));
    }

    #[test]
    fn a_length_is_refused_before_the_body_comes() {
        let mut partial = Partial::default();
        let refused = partial.take(&mut &b"PUB a\n\xff\xff\xff\xff"[..]);
        assert!(matches!(refused, Err(FrameError::LongBody { length: 0xffff_ffff })));
    }

    #[test]
    fn white_space_is_what_python_strips() {
        let (verb, argument) = parse_header(b"SUB \t\x0b\x0c\x1c\x1f a \0b \x1d\r\r\n").unwrap();
        assert_eq!((verb, &*argument), (Verb::Sub, "a \0b"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            frames in prop::collection::vec((0..6_usize, "([!-~]([ -~]{0,30}[!-~])?)?", prop::collection::vec(any::<u8>(), 0..300)), 0..6),
            chunk_bytes in 1..100_usize,
        ) {
            let mut bytes = Vec::new();
            for (verb, argument, body) in &frames {
                encode(Verb::ALL[*verb], argument, body, &mut bytes).unwrap();
            }
            let (mut partial, mut read) = (Partial::default(), Vec::new());
            for mut chunk in bytes.chunks(chunk_bytes) {
                while let Some(frame) = partial.take(&mut chunk).unwrap() {
                    read.push(frame);
                }
                prop_assert!(chunk.is_empty());
            }
            prop_assert!(partial.is_between_frames());
            prop_assert_eq!(read.len(), frames.len());
            for (frame, (verb, argument, body)) in read.iter().zip(&frames) {
                prop_assert_eq!((frame.verb, &*frame.argument, &*frame.body), (Verb::ALL[*verb], &**argument, &**body));
            }
        }
    }
}
