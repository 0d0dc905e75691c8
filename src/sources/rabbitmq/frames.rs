//! Frames of AMQP on their way to the client, which cannot read all of them. Deeply nested headers overflow the stack of its
//! thread, which ends the process; text that is not UTF-8 ends the connection, so that the message blocks its queue. The
//! client gets such a message without them, and with a header that says why. Of a body that is too large for an event it
//! gets the beginning. Pure.

use std::borrow::Cow;

use super::properties::{check_properties, check_table, lossy_short, properties_with_reason, short_text};
use crate::sources::dial::MAX_CLAIMED_BYTES;
use crate::sources::mapped::MAX_BODY_BYTES;
use crate::store::rejected::MAX_REJECTED_BYTES;

/// The largest frame that is asked for, in bytes, with its head and its end. A larger one ends the connection.
pub(super) const MAX_FRAME_BYTES: u32 = 128 * 1024;
/// What the client gets of a body that is too large for an event: more than is kept, so that it shows that it was cut.
const CUT_BODY_BYTES: u64 = MAX_REJECTED_BYTES as u64 + 1;
/// Type, channel and size.
const HEAD_BYTES: usize = 7;
const END: u8 = 0xce;
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
/// `connection.start`, the one method of a server with a table.
const START: [u8; 4] = [0, 10, 0, 10];
/// `basic.deliver`, the one method with words of publishers.
const DELIVER: [u8; 4] = [0, 60, 0, 60];
/// What stands in `connection.start` before its table: the version of the protocol.
const VERSION_BYTES: usize = 2;
/// What stands in `basic.deliver` between the consumer's tag and the exchange: the delivery's tag, and whether it came before.
const DELIVERY_BYTES: usize = 9;
/// What stands in the header of a message before its properties: class, weight and size of the body.
const CLASS_BYTES: usize = 4;
const SIZE_BYTES: usize = 8;

/// What a server sent ends the connection: it is no AMQP, or more than is taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("the server sent a frame of {0} bytes, the limit is {MAX_FRAME_BYTES}")]
    TooLarge(u64),
    #[error("the server announced a message of {0} bytes, the limit is {MAX_CLAIMED_BYTES}")]
    Claimed(u64),
    #[error("the server sent what is no AMQP 0-9-1")]
    NoFrame,
    #[error("the greeting of the server cannot be read: {0}")]
    Greeting(&'static str),
}

/// What a server sends.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// The beginning of a frame whose end has not come.
    rest: Vec<u8>,
    /// What the client gets next, from `given` on.
    ready: Vec<u8>,
    given: usize,
    /// The bytes of the present frame that are still to come and go through as they are.
    passing: usize,
    /// The reason why the client cannot read the message whose delivery has come.
    unreadable: Option<&'static str>,
    /// The body that is coming, if it is cut.
    cut: Option<Cut>,
}

/// The bytes of a body that are still to come.
#[derive(Debug)]
struct Cut {
    wanted: u64,
    unwanted: u64,
}

/// The first bytes of a frame.
struct Head {
    kind: u8,
    channel: [u8; 2],
    size: usize,
}

impl Head {
    /// `None`: it is not whole yet.
    fn of(bytes: &[u8]) -> Result<Option<Self>, FrameError> {
        let Some((head, _)) = bytes.split_first_chunk::<HEAD_BYTES>() else { return Ok(None) };
        let &[kind, channel_high, channel_low, ref size @ ..] = head;
        // A server that speaks another protocol says so instead of a frame.
        if !matches!(kind, METHOD | HEADER | BODY | HEARTBEAT) {
            return Err(FrameError::NoFrame);
        }
        let size = u32::from_be_bytes(*size);
        let whole = u64::from(size) + HEAD_BYTES as u64 + 1;
        if whole > MAX_FRAME_BYTES.into() {
            return Err(FrameError::TooLarge(whole));
        }
        Ok(Some(Self { kind, channel: [channel_high, channel_low], size: size as usize }))
    }

    fn write(&self, payload: &[u8], out: &mut Vec<u8>) {
        out.push(self.kind);
        out.extend_from_slice(&self.channel);
        out.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(payload);
        out.push(END);
    }
}

impl Frames {
    /// How many bytes may go from the server to the client without coming here.
    pub(super) fn straight(&self) -> usize {
        if self.has_ready() { 0 } else { self.passing }
    }

    /// So many did.
    pub(super) fn went_straight(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.passing);
        self.passing -= bytes.min(self.passing);
    }

    pub(super) fn has_ready(&self) -> bool {
        self.given < self.ready.len()
    }

    /// Gives the client what is ready, as much as `into` holds.
    pub(super) fn give(&mut self, into: &mut [u8]) -> usize {
        let ready = &self.ready[self.given..];
        let count = ready.len().min(into.len());
        into[..count].copy_from_slice(&ready[..count]);
        self.given += count;
        if !self.has_ready() {
            self.ready.clear();
            self.given = 0;
        }
        count
    }

    /// Takes in what the server sent.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<(), FrameError> {
        if self.rest.is_empty() {
            let used = self.read(bytes)?;
            self.rest.extend_from_slice(&bytes[used..]);
        } else {
            let mut all = std::mem::take(&mut self.rest);
            all.extend_from_slice(bytes);
            let used = self.read(&all)?;
            all.drain(..used);
            self.rest = all;
        }
        Ok(())
    }

    /// Reads frames, and returns how many bytes they were. The beginning of a frame of a body goes through at once.
    fn read(&mut self, bytes: &[u8]) -> Result<usize, FrameError> {
        let mut at = 0;
        while at < bytes.len() {
            let left = &bytes[at..];
            if self.passing > 0 {
                let count = self.passing.min(left.len());
                self.ready.extend_from_slice(&left[..count]);
                self.passing -= count;
                at += count;
                continue;
            }
            let Some(head) = Head::of(left)? else { break };
            let whole = HEAD_BYTES + head.size + 1;
            if head.kind == BODY && self.cut.is_none() {
                self.passing = whole;
                continue;
            }
            let Some(frame) = left.get(..whole) else { break };
            self.frame(&head, frame)?;
            at += whole;
        }
        Ok(at)
    }

    fn frame(&mut self, head: &Head, frame: &[u8]) -> Result<(), FrameError> {
        let payload = match frame.split_last() {
            Some((&END, rest)) => &rest[HEAD_BYTES..],
            _ => return Err(FrameError::NoFrame),
        };
        let other = match head.kind {
            METHOD => self.method(payload)?,
            HEADER => self.header(payload)?,
            BODY => Some(self.part(payload)),
            _ => None,
        };
        match other {
            None => self.ready.extend_from_slice(frame),
            // A part of a body that is left out.
            Some(payload) if payload.is_empty() => {}
            Some(payload) => head.write(&payload, &mut self.ready),
        }
        Ok(())
    }

    /// What the client gets instead; `None`: it gets the frame as it is.
    fn method<'a>(&mut self, payload: &'a [u8]) -> Result<Option<Cow<'a, [u8]>>, FrameError> {
        if let Some(arguments) = payload.strip_prefix(&START) {
            let mut table = arguments.get(VERSION_BYTES..).unwrap_or_default();
            check_table(&mut table, 1).map_err(FrameError::Greeting)?;
            return Ok(None);
        }
        let Some(arguments) = payload.strip_prefix(&DELIVER) else { return Ok(None) };
        let tag = arguments.first().map_or(0, |length| 1 + usize::from(*length));
        let (before, mut texts) = arguments.split_at_checked(tag + DELIVERY_BYTES).ok_or(FrameError::NoFrame)?;
        let exchange = short_text(&mut texts).ok_or(FrameError::NoFrame)?;
        let key = short_text(&mut texts).ok_or(FrameError::NoFrame)?;
        self.unreadable = None;
        if std::str::from_utf8(exchange).is_ok() && std::str::from_utf8(key).is_ok() {
            return Ok(None);
        }
        self.unreadable = Some("the routing key is no text in UTF-8");
        let mut other = [&DELIVER[..], before].concat();
        lossy_short(exchange, &mut other);
        lossy_short(key, &mut other);
        Ok(Some(other.into()))
    }

    /// The same, of the header of a message.
    fn header<'a>(&mut self, payload: &'a [u8]) -> Result<Option<Cow<'a, [u8]>>, FrameError> {
        let (class, rest) = payload.split_at_checked(CLASS_BYTES).ok_or(FrameError::NoFrame)?;
        let (size, properties) = rest.split_first_chunk::<SIZE_BYTES>().ok_or(FrameError::NoFrame)?;
        let size = u64::from_be_bytes(*size);
        if size > MAX_CLAIMED_BYTES {
            return Err(FrameError::Claimed(size));
        }
        let is_cut = size > MAX_BODY_BYTES as u64;
        let wanted = if is_cut { CUT_BODY_BYTES } else { size };
        self.cut = is_cut.then_some(Cut { wanted, unwanted: size - wanted });
        let too_large = is_cut.then(|| format!("the message is {size} bytes long, the limit is {MAX_BODY_BYTES}"));
        let unreadable = self.unreadable.take().or(check_properties(properties).err());
        let Some(reason) = unreadable.map(Cow::Borrowed).or(too_large.map(Cow::Owned)) else { return Ok(None) };
        let properties = properties_with_reason(properties, &reason);
        Ok(Some([class, &wanted.to_be_bytes(), &properties].concat().into()))
    }

    /// The wanted part of a body that is cut.
    fn part<'a>(&mut self, payload: &'a [u8]) -> Cow<'a, [u8]> {
        let Some(cut) = &mut self.cut else { return Cow::Borrowed(payload) };
        let length = payload.len() as u64;
        let wanted = length.min(cut.wanted);
        cut.wanted -= wanted;
        cut.unwanted = cut.unwanted.saturating_sub(length - wanted);
        if cut.wanted == 0 && cut.unwanted == 0 {
            self.cut = None;
        }
        // It is at most as long as the payload.
        Cow::Borrowed(&payload[..usize::try_from(wanted).unwrap_or(payload.len())])
    }
}

#[cfg(test)]
mod tests;
