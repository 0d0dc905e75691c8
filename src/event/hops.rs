//! Where an event has been: the header that ends loops of servers that deliver to each other, or to themselves.
//!
//! `Postrider-Hops: 2; via=3f29c1d07ab4e856, 90b1d2c3e4f50617`: how many installations the request has passed through, and
//! which. It is beside the event: neither in its body nor in any signature. Whoever leaves it out on the way can still
//! make a loop, and pays for it as a publisher.

use std::fmt;

use http::HeaderValue;

/// The header's name.
pub const HOPS_HEADER: &str = "postrider-hops";
/// The most installations that a request may have passed through to be accepted.
pub const MAX_HOPS: u8 = 5;
/// The most installations that the header names. A request with many events names the installations of all events,
/// without the oldest ones beyond this limit. The count still ends a loop.
pub const MAX_VIA: usize = 32;

/// The digits of an installation's id.
const DIGITS: usize = 16;

/// The id of an installation for other servers: the same on all nodes that share a store, and for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instance(pub(crate) u64);

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Instance {
    fn parse(text: &str) -> Option<Self> {
        let is_name = text.len() == DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        is_name.then(|| u64::from_str_radix(text, 16).ok()).flatten().map(Self)
    }
}

/// The installations that an event, or several in one request, have passed through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hops {
    /// At least 1: the highest count of all events of the request.
    count: u8,
    /// At most [`MAX_VIA`], in order of passage.
    via: Vec<Instance>,
}

/// The reason why a request is refused because of its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HopError {
    /// Answered with 400.
    #[error("is not of the form \"2; via=3f29c1d07ab4e856, 90b1d2c3e4f50617\"")]
    Malformed,
    /// Answered with 508, like the next.
    #[error("this request has passed through this server before: a webhook leads back here")]
    Loop,
    #[error(
        "this request has passed through more than {MAX_HOPS} servers that deliver webhooks; it seems to go in circles"
    )]
    TooMany,
}

impl Hops {
    /// Parses the values of a request's headers of this name; `None`: the request comes from its publisher.
    pub fn of_request<'a>(
        values: impl IntoIterator<Item = &'a HeaderValue>,
        own: Instance,
    ) -> Result<Option<Self>, HopError> {
        let mut values = values.into_iter();
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(HopError::Malformed);
        }
        let hops = value.to_str().ok().and_then(Self::parse).ok_or(HopError::Malformed)?;
        if hops.via.contains(&own) {
            return Err(HopError::Loop);
        }
        if hops.count > MAX_HOPS { Err(HopError::TooMany) } else { Ok(Some(hops)) }
    }

    fn parse(text: &str) -> Option<Self> {
        let (count, via) = text.split_once(';')?;
        let count = count.trim();
        if count.is_empty() || !count.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        // A count beyond a byte is too high in any case.
        let count = count.parse().unwrap_or(u8::MAX);
        let names = via.trim().strip_prefix("via=")?;
        let mut via = Vec::new();
        for name in names.split(',') {
            if via.len() == MAX_VIA {
                return None;
            }
            via.push(Instance::parse(name.trim())?);
        }
        (count > 0).then_some(Self { count, via })
    }

    /// The form that is stored.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let via = self.via.iter().flat_map(|instance| instance.0.to_be_bytes());
        std::iter::once(self.count).chain(via).collect()
    }

    /// Reads the stored form; `None`: the bytes are not one.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (count, via) = bytes.split_first()?;
        let (names, rest) = via.as_chunks();
        let via: Vec<_> = names.iter().map(|name| Instance(u64::from_be_bytes(*name))).collect();
        (*count > 0 && rest.is_empty() && via.len() <= MAX_VIA).then_some(Self { count: *count, via })
    }

    /// The header of a request from `own` with events that passed through `before`.
    fn onwards<'a>(before: impl Iterator<Item = &'a Self>, own: Instance) -> Self {
        let mut next = Self { count: 0, via: Vec::new() };
        for hops in before {
            next.count = next.count.max(hops.count);
            for instance in &hops.via {
                if *instance != own && !next.via.contains(instance) {
                    next.via.push(*instance);
                }
            }
            // In each step, since a thousand events may have passed through thousands of installations.
            let beyond = next.via.len().saturating_sub(MAX_VIA - 1);
            next.via.drain(..beyond);
        }
        next.count = next.count.saturating_add(1);
        next.via.push(own);
        next
    }

    /// Never `None`, since the value is visible ASCII.
    fn header(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&self.to_string()).ok()
    }
}

impl fmt::Display for Hops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; via=", self.count)?;
        for (index, instance) in self.via.iter().enumerate() {
            write!(f, "{}{instance}", if index > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

/// Writes the header of one installation's requests.
#[derive(Clone, Debug)]
pub struct Stamp {
    own: Instance,
    /// The value for events that come from their publishers, as almost all do.
    first: Option<HeaderValue>,
}

impl Stamp {
    #[must_use]
    pub fn new(own: Instance) -> Self {
        Self { own, first: Hops::onwards(std::iter::empty(), own).header() }
    }

    #[must_use]
    pub fn instance(&self) -> Instance {
        self.own
    }

    /// The header's value for a request with events that passed through `before`.
    pub fn value<'a>(&self, before: impl IntoIterator<Item = Option<&'a Hops>>) -> Option<HeaderValue> {
        let mut before = before.into_iter().flatten().peekable();
        if before.peek().is_none() {
            return self.first.clone();
        }
        Hops::onwards(before, self.own).header()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OWN: Instance = Instance(0xa);

    fn received(values: &[&str]) -> Result<Option<Hops>, HopError> {
        let values: Vec<_> = values.iter().map(|value| HeaderValue::from_str(value).unwrap()).collect();
        Hops::of_request(&values, OWN)
    }

    fn at(instance: u64) -> Hops {
        Hops { count: 1, via: vec![Instance(instance)] }
    }

    #[test]
    fn a_chain_of_servers_ends_at_the_limit_and_a_circle_at_once() {
        assert_eq!(received(&[]), Ok(None));
        let mut header = Stamp::new(Instance(0)).value([]).unwrap();
        assert_eq!(header, "1; via=0000000000000000");
        for n in 1..=u64::from(MAX_HOPS) {
            let hops = Hops::of_request([&header], OWN).unwrap();
            assert_eq!(hops.as_ref().map(|hops| u64::from(hops.count)), Some(n));
            header = Stamp::new(Instance(n)).value([hops.as_ref()]).unwrap();
        }
        assert_eq!(Hops::of_request([&header], OWN), Err(HopError::TooMany));
        for seen in 0..=u64::from(MAX_HOPS) {
            assert_eq!(Hops::of_request([&header], Instance(seen)), Err(HopError::Loop), "also beyond the limit");
        }
    }

    #[test]
    fn what_is_no_header_of_ours_is_refused_and_not_passed_over() {
        let name = "0123456789abcdef";
        assert!(received(&[&format!("300; via={name}")]) == Err(HopError::TooMany));
        assert!(received(&[&format!("2 ;via= {name} ,{name}")]).is_ok_and(|hops| hops.is_some()));
        for wrong in [
            "",
            "1",
            "1;",
            "1; via=",
            "0; via=0123456789abcdef",
            "-1; via=0123456789abcdef",
            "+1; via=0123456789abcdef",
            "x; via=0123456789abcdef",
            "1; via=0123456789ABCDEF",
            "1; via=+123456789abcdef",
            "1; via=0123456789abcdef,",
            "1; via=0123456789abcde",
            "1; of=0123456789abcdef",
        ] {
            assert_eq!(received(&[wrong]), Err(HopError::Malformed), "{wrong:?}");
        }
        let many = vec![name; MAX_VIA + 1].join(",");
        assert_eq!(received(&[&format!("1; via={many}")]), Err(HopError::Malformed));
        let one = format!("1; via={name}");
        assert_eq!(received(&[&one, &one]), Err(HopError::Malformed), "two are none");
    }

    #[test]
    fn a_batch_has_been_wherever_one_of_its_events_has_been() {
        let far = Hops { count: 4, via: vec![Instance(7), Instance(8)] };
        let value = Stamp::new(OWN).value([None, Some(&at(8)), Some(&far), Some(&at(0xa))]).unwrap();
        assert_eq!(value, "5; via=0000000000000008, 0000000000000007, 000000000000000a");
        let thousand: Vec<_> = (100..1_100).map(at).collect();
        let value = Stamp::new(OWN).value(thousand.iter().map(Some)).unwrap();
        let hops = Hops::parse(value.to_str().unwrap()).unwrap();
        assert_eq!((hops.count, hops.via.len(), hops.via.last()), (2, MAX_VIA, Some(&OWN)));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(count in 1..=u8::MAX, via in prop::collection::vec(any::<u64>(), 1..=MAX_VIA)) {
            let hops = Hops { count, via: via.into_iter().map(Instance).collect() };
            prop_assert_eq!(Hops::from_bytes(&hops.to_bytes()), Some(hops.clone()));
            prop_assert_eq!(Hops::parse(&hops.to_string()), Some(hops));
        }

        #[test]
        fn bytes_of_anything_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Some(hops) = Hops::from_bytes(&bytes) {
                prop_assert_eq!(hops.to_bytes(), bytes);
            }
        }
    }
}
