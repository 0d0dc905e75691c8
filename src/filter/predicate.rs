//! The question that a filter asks of one leaf.

use std::cmp::Ordering;
use std::net::IpAddr;

use ipnet::IpNet;
use memchr::memmem;

use super::MAX_OPERAND_BYTES;
use super::value::{Place, Value, compare, folded, normalized, place};

/// A condition on one leaf.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Predicate {
    /// This string.
    Text(Box<str>),
    /// `true`, `false` or `null`.
    Word(Box<str>),
    /// A number that equals this one, in its [normalized] spelling.
    Number(Box<str>),
    /// A string that equals this one after case folding. The operand is folded, as in the next variants.
    IgnoreCase(Box<str>),
    Prefix(Box<str>),
    PrefixIgnoreCase(Box<str>),
    Suffix(Box<str>),
    SuffixIgnoreCase(Box<str>),
    Wildcard(Wildcard),
    /// A number in this range.
    Range(Range),
    /// A string that is an address in this network.
    Network(IpNet),
}

/// A range of numbers; `None`: without a limit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Range {
    pub(super) from: Option<Limit>,
    pub(super) to: Option<Limit>,
}

/// One end of a range.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Limit {
    pub(super) place: Place,
    /// The number as it was given.
    pub(super) number: Box<str>,
    pub(super) is_included: bool,
}

impl Range {
    /// Its ends among the doubles, both included. Whatever lies in the range lies between them.
    pub(super) fn places(&self) -> (Place, Place) {
        let place = |limit: &Option<Limit>, otherwise| limit.as_ref().map_or(otherwise, |limit| limit.place);
        (place(&self.from, Place::MIN), place(&self.to, Place::MAX))
    }

    /// Doubles decide, unless the number lies at the place of a limit.
    fn contains(&self, number: &str) -> bool {
        let place = place(number);
        let is_beyond = |limit: &Limit, way: Ordering| match place.cmp(&limit.place) {
            Ordering::Equal => match compare(number, &limit.number) {
                Ordering::Equal => limit.is_included,
                order => order == way,
            },
            order => order == way,
        };
        self.from.as_ref().is_none_or(|from| is_beyond(from, Ordering::Greater))
            && self.to.as_ref().is_none_or(|to| is_beyond(to, Ordering::Less))
    }
}

/// A pattern of strings: the literal parts around its asterisks, of which it has at least one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Wildcard {
    /// The beginning of the string.
    pub(super) first: Box<str>,
    /// The parts in between, in this order.
    pub(super) middle: Box<[Box<str>]>,
    /// The end of the string.
    pub(super) last: Box<str>,
}

impl Wildcard {
    /// Takes the first occurrence of each part, so that each byte of `text` is passed once.
    fn matches(&self, text: &str) -> bool {
        let inside = text.strip_prefix(&*self.first).and_then(|rest| rest.strip_suffix(&*self.last));
        let after = |rest: &[u8], part: &str| memmem::find(rest, part.as_bytes()).map(|at| at + part.len());
        inside.is_some_and(|inside| {
            let mut rest = inside.as_bytes();
            self.middle.iter().all(|part| {
                let end = after(rest, part);
                rest = &rest[end.unwrap_or(0)..];
                end.is_some()
            })
        })
    }
}

impl Predicate {
    pub(super) fn matches(&self, value: Value<'_>) -> bool {
        match (self, value) {
            (Self::Word(wanted), Value::Word(text)) => **wanted == *text,
            (Self::Number(wanted), Value::Number(text)) => {
                normalized(text, MAX_OPERAND_BYTES).is_some_and(|text| **wanted == *text)
            }
            (Self::Range(range), Value::Number(text)) => range.contains(text),
            (_, Value::Text(text)) => self.matches_text(text),
            _ => false,
        }
    }

    fn matches_text(&self, text: &str) -> bool {
        match self {
            Self::Text(wanted) => **wanted == *text,
            Self::IgnoreCase(wanted) => wanted.chars().eq(text.chars().map(folded)),
            Self::Prefix(wanted) => text.starts_with(&**wanted),
            Self::PrefixIgnoreCase(wanted) => begins(text.chars(), wanted.chars()),
            Self::Suffix(wanted) => text.ends_with(&**wanted),
            Self::SuffixIgnoreCase(wanted) => begins(text.chars().rev(), wanted.chars().rev()),
            Self::Wildcard(wildcard) => wildcard.matches(text),
            Self::Network(network) => {
                address(text).is_some_and(|address| faces(address).any(|address| network.contains(&address)))
            }
            Self::Word(_) | Self::Number(_) | Self::Range(_) => false,
        }
    }
}

/// Whether `text`, folded, begins with `wanted`.
fn begins(mut text: impl Iterator<Item = char>, mut wanted: impl Iterator<Item = char>) -> bool {
    wanted.all(|wanted| text.next().map(folded) == Some(wanted))
}

/// The address as it is, and the IPv4 address that an IPv6 one stands for (`::ffff:10.1.2.3`; RFC 4291, section 2.5.5.2).
pub(super) fn faces(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    let mapped = match address {
        IpAddr::V6(address) => address.to_ipv4_mapped().map(IpAddr::V4),
        IpAddr::V4(_) => None,
    };
    std::iter::once(address).chain(mapped)
}

/// Parses an address.
pub(super) fn address(text: &str) -> Option<IpAddr> {
    /// The longest spelling of an address, in bytes: IPv6 with an IPv4 tail.
    const MAX_ADDRESS_BYTES: usize = 45;
    if text.len() > MAX_ADDRESS_BYTES { None } else { text.parse().ok() }
}

/// Several predicates, one of which is enough.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct AnyOf {
    /// Ascending; the strings come first.
    predicates: Box<[Predicate]>,
    /// How many of them are strings.
    texts: usize,
}

impl AnyOf {
    pub(super) fn new(mut predicates: Vec<Predicate>) -> Self {
        predicates.sort_unstable();
        predicates.dedup();
        let texts = predicates.partition_point(|predicate| matches!(predicate, Predicate::Text(_)));
        Self { predicates: predicates.into(), texts }
    }

    pub(super) fn predicates(&self) -> &[Predicate] {
        &self.predicates
    }

    pub(super) fn matches(&self, value: Value<'_>) -> bool {
        let (texts, others) = self.predicates.split_at(self.texts);
        let is_text = |wanted: &str| {
            let order = |predicate: &Predicate| {
                if let Predicate::Text(text) = predicate { (**text).cmp(wanted) } else { Ordering::Greater }
            };
            texts.binary_search_by(order).is_ok()
        };
        matches!(value, Value::Text(text) if is_text(text)) || others.iter().any(|predicate| predicate.matches(value))
    }
}

/// The alternatives of a filter for one field; one is enough.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Wanted {
    /// A leaf that passes one of these.
    pub(super) any_of: AnyOf,
    /// For one of these: a leaf that passes none in it.
    pub(super) anything_but: Vec<AnyOf>,
    /// Any leaf.
    pub(super) exists: bool,
    /// No leaf.
    pub(super) absent: bool,
}

impl Wanted {
    /// Whether this leaf is what is wanted.
    pub(super) fn matches(&self, value: Value<'_>) -> bool {
        self.exists || self.any_of.matches(value) || self.excepts(value)
    }

    /// Whether this leaf is anything but what is not wanted.
    pub(super) fn excepts(&self, value: Value<'_>) -> bool {
        self.anything_but.iter().any(|unwanted| !unwanted.matches(value))
    }
}
