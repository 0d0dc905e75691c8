//! The question that a filter asks of one leaf.

use std::cmp::Ordering;
use std::net::IpAddr;

use ipnet::IpNet;
use memchr::memmem;

use super::value::{Micros, Value, folded};

/// A condition on one leaf.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Predicate {
    /// This string.
    Text(Box<str>),
    /// This number, `true`, `false` or `null`, by its characters.
    Bare(Box<str>),
    /// A string that equals this one after case folding. The operand is folded, as in the next variants.
    IgnoreCase(Box<str>),
    Prefix(Box<str>),
    PrefixIgnoreCase(Box<str>),
    Suffix(Box<str>),
    SuffixIgnoreCase(Box<str>),
    Wildcard(Wildcard),
    /// A number from the first to the second, both included.
    Range(Micros, Micros),
    /// A string that is an address in this network.
    Network(IpNet),
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
            (Self::Bare(wanted), Value::Number(text, _) | Value::Word(text)) => **wanted == *text,
            (Self::Range(from, to), Value::Number(_, Some(number))) => (*from..=*to).contains(&number),
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
            Self::Network(network) => address(text).is_some_and(|address| network.contains(&address)),
            Self::Bare(_) | Self::Range(..) => false,
        }
    }
}

/// Whether `text`, folded, begins with `wanted`.
fn begins(mut text: impl Iterator<Item = char>, mut wanted: impl Iterator<Item = char>) -> bool {
    wanted.all(|wanted| text.next().map(folded) == Some(wanted))
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
