//! Reading an answer of HTTP/1.1 (RFC 9112) from pieces of any size. Pure.
//!
//! The status line alone decides an attempt, so the rest is read leniently. Whatever raises doubt about the end of the
//! answer (two lengths, a line without a colon, a bare LF) keeps the connection from being used again
//! ([`AnswerReader::ends_cleanly`]). A lenient reader on a connection that is reused would let one answer pass for two.

use std::ops::Range;
use std::time::Duration;

use bytes::BytesMut;
use memchr::memchr;

use crate::delivery::fields::{AnswerFields, is_control, is_token};

/// How much a receiver may send before the head of its final answer is complete, in bytes; interim (1xx) answers count.
pub const MAX_HEAD_BYTES: usize = 64 * 1024;
/// How much framing of a chunked body (sizes, extensions, trailers) is read, in bytes.
const MAX_FRAMING_BYTES: usize = 64 * 1024;
/// How much more of it for each byte of the body. A chunk of one byte has 5 to 6 bytes of framing.
const MAX_FRAMING_PER_BYTE: usize = 16;
/// The status by which a server changes to another protocol. It is final here, because nothing asks for one.
const SWITCHING_PROTOCOLS: u16 = 101;

/// How the reading of an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyEnd {
    /// It is all there.
    Complete,
    /// There was more than asked for.
    TooLong,
    /// The connection broke, or the framing cannot be read.
    Broken,
}

/// What every status line begins with.
const BEGINNING: &[u8] = b"HTTP/";

/// Why the beginning of an answer is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("the answer is not HTTP/1.1")]
    NotHttp,
    #[error("the answer is not HTTP/1.1 (the receiver seems to speak HTTP/2 only)")]
    Http2,
    #[error("the head of the answer has more than {MAX_HEAD_BYTES} bytes")]
    TooLarge,
}

/// An answer as far as it has come.
#[derive(Debug)]
pub struct AnswerReader {
    /// The head that is being read, from its status line on; then the line of framing that is not complete.
    lines: Vec<u8>,
    /// Where the line that is being read begins in `lines`.
    line_at: usize,
    /// Where the field begins in `lines` that ends when the next line is known to be none of its own.
    field_at: usize,
    /// All bytes of heads, interim ones included.
    head_bytes: usize,
    framing_bytes: usize,
    stage: Stage,
    status: Option<u16>,
    head: Head,
    body: BytesMut,
    max_body_bytes: usize,
    is_doubtful: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    StatusLine,
    Fields,
    /// So many bytes of the body are left.
    Length(u64),
    ChunkSize,
    ChunkData(u64),
    /// The line end after the data of a chunk.
    ChunkEnd,
    Trailer,
    UntilClose,
    Ended(BodyEnd),
}

/// What `Content-Length` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Length {
    #[default]
    Absent,
    /// No number.
    Wrong,
    Bytes(u64),
}

/// The last coding of a `Transfer-Encoding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    Chunked,
    Other,
}

/// What the fields of a head say of the message and its connection.
#[derive(Debug, Default)]
struct Head {
    fields: AnswerFields,
    is_http_1_0: bool,
    length: Length,
    coding: Option<Coding>,
    says_close: bool,
    says_keep_alive: bool,
    /// `Keep-Alive: timeout=`.
    idle_limit: Option<Duration>,
}

impl AnswerReader {
    /// Keeps up to `max_body_bytes` of the body.
    pub fn of_at_most(max_body_bytes: usize) -> Self {
        Self {
            lines: Vec::new(),
            line_at: 0,
            field_at: 0,
            head_bytes: 0,
            framing_bytes: 0,
            stage: Stage::StatusLine,
            status: None,
            head: Head::default(),
            body: BytesMut::new(),
            max_body_bytes,
            is_doubtful: false,
        }
    }

    /// The status of the final answer, as soon as its line is complete: 100 to 999.
    pub fn status(&self) -> Option<u16> {
        self.status
    }

    /// The header fields; none until the head is complete.
    pub fn fields(&self) -> &AnswerFields {
        &self.head.fields
    }

    /// The same, taken out.
    pub fn take_fields(&mut self) -> AnswerFields {
        std::mem::take(&mut self.head.fields)
    }

    /// The body as far as it was read.
    pub fn into_body(self) -> BytesMut {
        self.body
    }

    /// How the answer ended, if it has.
    pub fn end(&self) -> Option<BodyEnd> {
        match self.stage {
            Stage::Ended(end) => Some(end),
            _ => None,
        }
    }

    /// Whether anything has come.
    pub fn has_begun(&self) -> bool {
        self.head_bytes > 0
    }

    /// Whether the answer ended where both sides know it, and its sender keeps the connection open.
    pub fn ends_cleanly(&self) -> bool {
        let is_kept = if self.head.is_http_1_0 { self.head.says_keep_alive } else { true };
        self.stage == Stage::Ended(BodyEnd::Complete) && !self.is_doubtful && is_kept && !self.head.says_close
    }

    /// For how long the sender keeps an idle connection, if it says so.
    pub(super) fn idle_limit(&self) -> Option<Duration> {
        self.head.idle_limit
    }

    /// Takes the next bytes of the connection.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Unreadable> {
        while !bytes.is_empty() {
            let taken = match self.stage {
                Stage::StatusLine | Stage::Fields => self.take_head(bytes)?,
                Stage::Length(left) => {
                    let (taken, left) = self.take_body(bytes, left);
                    self.go_to(if left == 0 { Stage::Ended(BodyEnd::Complete) } else { Stage::Length(left) });
                    taken
                }
                Stage::ChunkData(left) => {
                    let (taken, left) = self.take_body(bytes, left);
                    self.go_to(if left == 0 { Stage::ChunkEnd } else { Stage::ChunkData(left) });
                    taken
                }
                Stage::UntilClose => self.take_body(bytes, u64::MAX).0,
                Stage::ChunkSize | Stage::ChunkEnd | Stage::Trailer => self.take_framing(bytes),
                Stage::Ended(_) => {
                    // The answer to no question.
                    self.is_doubtful = true;
                    break;
                }
            };
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// The connection has ended, in order or not.
    pub fn close(&mut self, in_order: bool) {
        self.is_doubtful = true;
        match self.stage {
            Stage::Ended(_) => {}
            Stage::Fields if self.status.is_some() => self.end_fields(BodyEnd::Broken),
            Stage::UntilClose if in_order => self.stage = Stage::Ended(BodyEnd::Complete),
            _ => self.stage = Stage::Ended(BodyEnd::Broken),
        }
    }

    /// An end stays what it is.
    fn go_to(&mut self, stage: Stage) {
        if self.end().is_none() {
            self.stage = stage;
        }
    }

    /// Appends bytes up to the next line end to `lines`: how many they were, and the line if it is complete.
    fn take_line(&mut self, bytes: &[u8]) -> (usize, Option<Range<usize>>) {
        let end = memchr(b'\n', bytes);
        let taken = end.map_or(bytes.len(), |at| at + 1);
        self.lines.extend_from_slice(&bytes[..taken]);
        (taken, end.map(|_| std::mem::replace(&mut self.line_at, self.lines.len())..self.lines.len()))
    }

    fn forget_lines(&mut self) {
        self.lines.clear();
        (self.line_at, self.field_at) = (0, 0);
    }

    fn take_head(&mut self, bytes: &[u8]) -> Result<usize, Unreadable> {
        let (taken, line) = self.take_line(bytes);
        self.head_bytes += taken;
        match line {
            Some(line) => self.end_line(line)?,
            None if self.stage == Stage::StatusLine => check_beginning(&self.lines[self.line_at..])?,
            None => {}
        }
        let is_open = matches!(self.stage, Stage::StatusLine | Stage::Fields);
        if is_open && self.head_bytes > MAX_HEAD_BYTES {
            if self.status.is_none() {
                return Err(Unreadable::TooLarge);
            }
            self.end_fields(BodyEnd::TooLong);
        }
        Ok(taken)
    }

    /// The fields of a head that is not complete are better than none.
    fn end_fields(&mut self, end: BodyEnd) {
        self.head.fields = AnswerFields::of(std::mem::take(&mut self.lines));
        self.is_doubtful = true;
        self.stage = Stage::Ended(end);
    }

    /// A line of the head is complete.
    fn end_line(&mut self, line: Range<usize>) -> Result<(), Unreadable> {
        let line_at = line.start;
        let (text, is_strict) = without_line_end(&self.lines[line]);
        self.is_doubtful |= !is_strict;
        match self.stage {
            // Left over from the answer before it, or from a careless sender.
            Stage::StatusLine if text.is_empty() => self.is_doubtful = true,
            Stage::StatusLine => {
                let (version, status) = status_line(text).ok_or_else(|| unreadable(text))?;
                self.head = Head { is_http_1_0: version == (1, 0), ..Head::default() };
                // Some programs behind a server write `HTTP/2.0` themselves.
                self.is_doubtful |= version.0 != 1;
                self.status = (status >= 200 || status == SWITCHING_PROTOCOLS).then_some(status);
                self.stage = Stage::Fields;
                self.forget_lines();
            }
            // A part of the field before it (RFC 9112, section 5.2).
            _ if text.first().is_some_and(u8::is_ascii_whitespace) => self.is_doubtful = true,
            _ => {
                let is_last = text.is_empty();
                let field = &self.lines[std::mem::replace(&mut self.field_at, line_at)..line_at];
                self.is_doubtful |= !field.is_empty() && !self.head.read_field(without_line_end(field).0);
                if is_last {
                    self.end_head();
                }
            }
        }
        Ok(())
    }

    fn end_head(&mut self) {
        let Some(status) = self.status else {
            self.stage = Stage::StatusLine;
            return self.forget_lines();
        };
        let head = &mut self.head;
        head.fields = AnswerFields::of(std::mem::take(&mut self.lines));
        self.line_at = 0;
        let has_length = head.length != Length::Absent;
        self.is_doubtful |= match status {
            SWITCHING_PROTOCOLS => true,
            204 => head.coding.is_some() || (has_length && head.length != Length::Bytes(0)),
            _ => head.coding.is_some() && (has_length || head.is_http_1_0),
        };
        self.stage = match (status, head.coding, head.length) {
            (SWITCHING_PROTOCOLS | 204 | 304, ..) | (_, None, Length::Bytes(0)) => Stage::Ended(BodyEnd::Complete),
            (_, Some(Coding::Chunked), _) => Stage::ChunkSize,
            (_, None, Length::Bytes(length)) => Stage::Length(length),
            // A sender that keeps the connection open would be waited for in vain.
            (_, None, Length::Wrong) => Stage::Ended(BodyEnd::Broken),
            (_, Some(Coding::Other), _) | (_, None, Length::Absent) => Stage::UntilClose,
        };
    }

    /// Keeps what there is room for of the `left` bytes that are due: how many were taken, and how many are left.
    fn take_body(&mut self, bytes: &[u8], left: u64) -> (usize, u64) {
        let due = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let room = self.max_body_bytes.saturating_sub(self.body.len());
        self.body.extend_from_slice(&bytes[..due.min(room)]);
        if due > room {
            self.stage = Stage::Ended(BodyEnd::TooLong);
        }
        (due, left - due as u64)
    }

    /// A line between the data of chunks, or after them.
    fn take_framing(&mut self, bytes: &[u8]) -> usize {
        let (taken, line) = self.take_line(bytes);
        self.framing_bytes += taken;
        if self.framing_bytes > MAX_FRAMING_BYTES + self.body.len() * MAX_FRAMING_PER_BYTE {
            self.stage = Stage::Ended(BodyEnd::Broken);
        } else if let Some(line) = line {
            let (text, is_strict) = without_line_end(&self.lines[line]);
            self.is_doubtful |= !is_strict;
            self.stage = match self.stage {
                Stage::ChunkSize => match chunk_size(text) {
                    Some(0) => Stage::Trailer,
                    Some(size) => Stage::ChunkData(size),
                    None => Stage::Ended(BodyEnd::Broken),
                },
                Stage::ChunkEnd if text.is_empty() => Stage::ChunkSize,
                Stage::ChunkEnd => Stage::Ended(BodyEnd::Broken),
                _ if text.is_empty() => Stage::Ended(BodyEnd::Complete),
                stage => stage,
            };
            self.forget_lines();
        }
        taken
    }
}

impl Head {
    /// Notes what the field means for the framing; whether it is beyond doubt. A folded one is not: it has line ends.
    fn read_field(&mut self, field: &[u8]) -> bool {
        let Some(colon) = memchr(b':', field) else { return false };
        let (name, value) = (&field[..colon], &field[colon + 1..]);
        let is_strict = is_token(name) && !value.iter().copied().any(is_control);
        // Folded, and there is nothing before it.
        if field[0].is_ascii_whitespace() {
            return false;
        }
        let (name, value) = (name.trim_ascii_end(), value.trim_ascii());
        let is_understood = match name.len() {
            10 if name.eq_ignore_ascii_case(b"connection") => {
                self.says_close |= has_token(value, b"close");
                self.says_keep_alive |= has_token(value, b"keep-alive");
                true
            }
            10 if name.eq_ignore_ascii_case(b"keep-alive") => {
                self.idle_limit = keep_alive_timeout(value).or(self.idle_limit);
                true
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => self.read_length(value),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => self.read_coding(value),
            _ => true,
        };
        is_strict && is_understood
    }

    /// The same length twice is allowed (RFC 9110, section 8.6). Of two lengths the first is taken, with doubt.
    fn read_length(&mut self, value: &[u8]) -> bool {
        let mut is_fine = true;
        for part in value.split(|byte| *byte == b',') {
            match (decimal(first_line(part)), self.length) {
                (Some(length), Length::Absent) => self.length = Length::Bytes(length),
                (Some(length), known) => is_fine &= known == Length::Bytes(length),
                (None, Length::Absent) => (self.length, is_fine) = (Length::Wrong, false),
                (None, _) => is_fine = false,
            }
        }
        is_fine
    }

    /// The last coding frames the message (RFC 9112, section 6.3).
    fn read_coding(&mut self, value: &[u8]) -> bool {
        let was_chunked = self.coding == Some(Coding::Chunked);
        let last = value.rsplit(|byte| *byte == b',').next().map_or(&[][..], first_line);
        let is_chunked = last.eq_ignore_ascii_case(b"chunked");
        self.coding = Some(if is_chunked { Coding::Chunked } else { Coding::Other });
        !was_chunked
    }
}

/// `HTTP/1.1 200 OK`: the version and the status, 100 to 999. What follows the status is for people.
fn status_line(line: &[u8]) -> Option<((u8, u8), u16)> {
    let (version, rest) = line.strip_prefix(BEGINNING)?.split_at_checked(3)?;
    let &[major @ b'0'..=b'9', b'.', minor @ b'0'..=b'9'] = version else { return None };
    let code = rest.strip_prefix(b" ")?.trim_ascii_start();
    let (digits, rest) = code.split_at_checked(3)?;
    let status = decimal(digits).and_then(|status| u16::try_from(status).ok()).filter(|status| *status >= 100)?;
    let is_alone = rest.first().is_none_or(u8::is_ascii_whitespace);
    is_alone.then(|| ((major - b'0', minor - b'0'), status))
}

/// Refuses the beginning of a line that will be no status line.
fn check_beginning(line: &[u8]) -> Result<(), Unreadable> {
    let length = line.len().min(BEGINNING.len());
    if line[..length] == BEGINNING[..length] || line == b"\r" { Ok(()) } else { Err(unreadable(line)) }
}

/// What speaks no HTTP/1: its first bytes may say what it speaks.
fn unreadable(beginning: &[u8]) -> Unreadable {
    // The header of the frame SETTINGS, which a server of HTTP/2 begins with (RFC 9113, section 3.4).
    if beginning.starts_with(&[0, 0]) { Unreadable::Http2 } else { Unreadable::NotHttp }
}

/// A line's text, and whether the line ends as it should, in CR LF.
fn without_line_end(line: &[u8]) -> (&[u8], bool) {
    match line.strip_suffix(b"\r\n") {
        Some(text) => (text, true),
        None => (line.strip_suffix(b"\n").unwrap_or(line), false),
    }
}

/// The first line of a value, or of a part of one, that has more than spaces.
fn first_line(value: &[u8]) -> &[u8] {
    let value = value.trim_ascii();
    memchr(b'\r', value).or_else(|| memchr(b'\n', value)).map_or(value, |end| value[..end].trim_ascii_end())
}

/// The size of a chunk; its extensions mean nothing here.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|byte| *byte == b';').next()?.trim_ascii_end();
    if !(1..=16).contains(&digits.len()) {
        return None;
    }
    digits.iter().try_fold(0, |size: u64, digit| Some(size << 4 | u64::from(char::from(*digit).to_digit(16)?)))
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if !(1..=19).contains(&digits.len()) {
        return None;
    }
    digits
        .iter()
        .try_fold(0, |number: u64, digit| digit.is_ascii_digit().then(|| number * 10 + u64::from(digit - b'0')))
}

/// Whether a list of tokens separated by commas has this one.
fn has_token(value: &[u8], token: &[u8]) -> bool {
    value.split(|byte| *byte == b',').any(|found| found.trim_ascii().eq_ignore_ascii_case(token))
}

/// Of `timeout=5, max=100`.
fn keep_alive_timeout(value: &[u8]) -> Option<Duration> {
    let parameter = |part: &[u8]| {
        let part = part.trim_ascii();
        let at = memchr(b'=', part)?;
        part[..at].eq_ignore_ascii_case(b"timeout").then(|| decimal(&part[at + 1..]))?
    };
    value.split(|byte| *byte == b',').find_map(parameter).map(Duration::from_secs)
}
