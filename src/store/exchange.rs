//! The exchange of an attempt as it is stored: one small blob beside the attempt, with or without what was captured.

mod difference;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::delivery::exchange::{Link, Timings};
use crate::fit::fit;

/// The most bytes kept of each part of a captured exchange: the heads, and a body that is not the event's own. Of the rest
/// the length is known.
pub const MAX_CAPTURED_BYTES: usize = 16 * 1024;

/// The form of the blob that this program writes.
const VERSION: u8 = 1;
const IS_REUSED: u8 = 1;
const HAS_LINK: u8 = 1 << 1;
const IS_V4: u8 = 1 << 2;
const IS_V6: u8 = 1 << 3;
const IS_CAPTURED: u8 = 1 << 4;
const IS_TLS: u8 = 1 << 5;
/// Which body was sent.
const EVENT: u8 = 0;
const OWN: u8 = 1;
const BATCH: u8 = 2;

/// What the store has of an exchange. By default, and of attempts of older versions: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptExchange {
    pub timings: Timings,
    pub link: Option<Link>,
    /// `None`: the exchange was not captured, or no request was made.
    pub captured: Option<Captured>,
}

/// A [`KeptExchange`] as the blob that is stored. Cheap to clone: all deliveries of a batch have the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExchangeBlob(Arc<[u8]>);

/// What was sent, and the head of what came back. The answer's body stands beside it in the attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// The request's head, its secrets masked.
    pub request: Part,
    pub body: SentBody,
    /// The answer's head; empty if there was no answer.
    pub answer: Part,
}

/// The body of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SentBody {
    /// The event's, as it is stored.
    Event,
    /// One that was made for the receiver.
    Own(Part),
    /// Several events together, of which none is kept here; its length.
    Batch(u64),
}

/// The beginning of a text, at most [`MAX_CAPTURED_BYTES`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub bytes: Bytes,
    /// Of the whole.
    pub total_bytes: u64,
}

impl Part {
    /// Keeps the beginning; a copy, unless it is the whole.
    #[must_use]
    pub fn of(whole: &Bytes) -> Self {
        let bytes = match whole.get(..MAX_CAPTURED_BYTES) {
            Some(beginning) => Bytes::copy_from_slice(beginning),
            None => whole.clone(),
        };
        Self { bytes, total_bytes: whole.len() as u64 }
    }

    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.bytes.len() as u64 == self.total_bytes
    }
}

impl KeptExchange {
    #[must_use]
    pub fn to_blob(&self) -> ExchangeBlob {
        ExchangeBlob(self.encode().into())
    }

    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer(Vec::with_capacity(32));
        let address = self.link.and_then(|link| link.address);
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        writer.0.push(VERSION);
        writer.0.push(
            flag(self.link.is_some_and(|link| link.is_reused), IS_REUSED)
                | flag(self.link.is_some(), HAS_LINK)
                | flag(address.is_some_and(|address| address.is_ipv4()), IS_V4)
                | flag(address.is_some_and(|address| address.is_ipv6()), IS_V6)
                | flag(self.captured.is_some(), IS_CAPTURED)
                | flag(self.link.is_some_and(|link| link.is_tls), IS_TLS),
        );
        let Timings { slot, dns, connect, tls, first_byte, body } = self.timings;
        for time in [slot, dns, connect, tls, first_byte, body] {
            // 0 is none.
            writer.number(time.map_or(0, |time| 1 + fit(time.as_micros(), u64::MAX - 1)));
        }
        if let Some(address) = address {
            match address.ip() {
                IpAddr::V4(ip) => writer.0.extend_from_slice(&ip.octets()),
                IpAddr::V6(ip) => writer.0.extend_from_slice(&ip.octets()),
            }
            writer.0.extend_from_slice(&address.port().to_be_bytes());
        }
        if let Some(Captured { request, body, answer }) = &self.captured {
            writer.part(request);
            match body {
                SentBody::Event => writer.0.push(EVENT),
                SentBody::Own(part) => {
                    writer.0.push(OWN);
                    writer.part(part);
                }
                SentBody::Batch(bytes) => {
                    writer.0.push(BATCH);
                    writer.number(*bytes);
                }
            }
            writer.part(answer);
        }
        writer.0
    }
}

impl ExchangeBlob {
    /// Of the column's value.
    pub(super) fn stored(blob: Option<Vec<u8>>) -> Self {
        Self(blob.unwrap_or_default().into())
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// What it says. Of a form that a later version writes, and of damaged bytes, nothing: an attempt is shown without its
    /// exchange rather than not at all.
    #[must_use]
    pub fn read(&self) -> KeptExchange {
        Reader(Bytes::from_owner(Arc::clone(&self.0))).exchange().unwrap_or_default()
    }
}

struct Writer(Vec<u8>);

impl Writer {
    /// LEB128.
    fn number(&mut self, mut rest: u64) {
        while rest >= 0x80 {
            self.0.push(low_bits(rest) | 0x80);
            rest >>= 7;
        }
        self.0.push(low_bits(rest));
    }

    fn part(&mut self, part: &Part) {
        self.number(part.total_bytes);
        self.number(part.bytes.len() as u64);
        self.0.extend_from_slice(&part.bytes);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the lowest seven bits are wanted")]
fn low_bits(number: u64) -> u8 {
    number as u8 & 0x7f
}

/// What is left to read.
struct Reader(Bytes);

impl Reader {
    fn exchange(mut self) -> Option<KeptExchange> {
        if self.byte()? != VERSION {
            return None;
        }
        let flags = self.byte()?;
        let has = |flag: u8| flags & flag != 0;
        let mut time = || Some(self.number()?.checked_sub(1).map(Duration::from_micros));
        let (slot, dns, connect) = (time()?, time()?, time()?);
        let timings = Timings { slot, dns, connect, tls: time()?, first_byte: time()?, body: time()? };
        let ip = if has(IS_V4) {
            Some(IpAddr::from(Ipv4Addr::from(self.array::<4>()?)))
        } else if has(IS_V6) {
            Some(IpAddr::from(Ipv6Addr::from(self.array::<16>()?)))
        } else {
            None
        };
        let address = match ip {
            Some(ip) => Some(SocketAddr::new(ip, u16::from_be_bytes(self.array()?))),
            None => None,
        };
        let link = has(HAS_LINK).then_some(Link { address, is_reused: has(IS_REUSED), is_tls: has(IS_TLS) });
        let captured = if has(IS_CAPTURED) { Some(self.captured()?) } else { None };
        Some(KeptExchange { timings, link, captured })
    }

    fn captured(&mut self) -> Option<Captured> {
        let request = self.part()?;
        let body = match self.byte()? {
            EVENT => SentBody::Event,
            OWN => SentBody::Own(self.part()?),
            BATCH => SentBody::Batch(self.number()?),
            _ => return None,
        };
        Some(Captured { request, body, answer: self.part()? })
    }

    fn take(&mut self, count: usize) -> Option<Bytes> {
        (count <= self.0.len()).then(|| self.0.split_to(count))
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.as_ref().try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn part(&mut self) -> Option<Part> {
        let total_bytes = self.number()?;
        let kept = usize::try_from(self.number()?).ok()?;
        Some(Part { bytes: self.take(kept)?, total_bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn part() -> impl Strategy<Value = Part> {
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| Part::of(&bytes.into()))
    }

    fn exchange() -> impl Strategy<Value = KeptExchange> {
        let time = || proptest::option::of((0..u64::from(u32::MAX)).prop_map(Duration::from_micros));
        let timings =
            (time(), time(), time(), time(), time(), time()).prop_map(|(slot, dns, connect, tls, first_byte, body)| {
                Timings { slot, dns, connect, tls, first_byte, body }
            });
        // An address of version 6 has a flow and a scope beside what is kept, both of which are 0 here.
        let address = (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port));
        let link = (proptest::option::of(address), any::<bool>(), any::<bool>())
            .prop_map(|(address, is_reused, is_tls)| Link { address, is_reused, is_tls });
        let body =
            prop_oneof![Just(SentBody::Event), part().prop_map(SentBody::Own), any::<u64>().prop_map(SentBody::Batch)];
        let captured = (part(), body, part()).prop_map(|(request, body, answer)| Captured { request, body, answer });
        (timings, proptest::option::of(link), proptest::option::of(captured))
            .prop_map(|(timings, link, captured)| KeptExchange { timings, link, captured })
    }

    proptest! {
        #[test]
        fn an_exchange_comes_back(exchange in exchange()) {
            prop_assert_eq!(exchange.to_blob().read(), exchange);
        }

        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = ExchangeBlob::stored(Some(bytes.clone())).read();
            let _ = ExchangeBlob::stored(Some([&[VERSION, 0x3f], &*bytes].concat())).read();
        }
    }

    #[test]
    fn a_success_on_a_known_connection_costs_a_few_bytes() {
        let ms = Duration::from_millis;
        let timings = Timings { slot: Some(ms(0)), first_byte: Some(ms(12)), body: Some(ms(0)), ..Timings::default() };
        let link = Some(Link { address: Some(([192, 0, 2, 1], 443).into()), is_reused: true, is_tls: true });
        assert_eq!(KeptExchange { timings, link, captured: None }.encode().len(), 15);
    }

    #[test]
    fn a_large_part_is_cut_and_says_so() {
        let part = Part::of(&Bytes::from(vec![b'a'; MAX_CAPTURED_BYTES + 1]));
        assert_eq!((part.bytes.len(), part.total_bytes, part.is_whole()), (MAX_CAPTURED_BYTES, 16_385, false));
        assert!(Part::of(&Bytes::from(vec![b'a'; MAX_CAPTURED_BYTES])).is_whole());
    }
}
