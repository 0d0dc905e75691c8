//! The predicates of one field, arranged so that a value leads to those that it passes.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::ops::Bound;

use ipnet::IpNet;

use super::PredicateId;
use super::contained::{Contained, GramSet};
use crate::filter::MAX_OPERAND_BYTES;
use crate::filter::predicate::{Predicate, address, faces};
use crate::filter::value::{Place, Value, folded, normalized, place};

#[derive(Debug, Default)]
pub(super) struct Values {
    texts: HashMap<Box<str>, PredicateId>,
    words: HashMap<Box<str>, PredicateId>,
    numbers: HashMap<Box<str>, PredicateId>,
    ignoring_case: HashMap<Box<[u8]>, PredicateId>,
    prefixes: Prefixes,
    /// Prefixes of reversed values, as all suffixes.
    suffixes: Prefixes,
    folded_prefixes: Prefixes,
    folded_suffixes: Prefixes,
    /// Wildcards that neither begin nor end with a literal part; the others are with the prefixes and suffixes.
    wildcards: Contained,
    ranges: Ranges,
    networks: Networks,
    predicates: usize,
}

/// Buffers for transformed values.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    text: Vec<u8>,
    found: GramSet,
}

impl Values {
    pub(super) fn is_empty(&self) -> bool {
        self.predicates == 0
    }

    pub(super) fn insert(&mut self, predicate: &Predicate, id: PredicateId) {
        self.predicates += 1;
        match predicate {
            Predicate::Text(text) => drop(self.texts.insert(text.clone(), id)),
            Predicate::Word(text) => drop(self.words.insert(text.clone(), id)),
            Predicate::Number(text) => drop(self.numbers.insert(text.clone(), id)),
            Predicate::IgnoreCase(text) => drop(self.ignoring_case.insert(text.as_bytes().into(), id)),
            Predicate::Range(range) => self.ranges.insert(range.places(), id),
            Predicate::Network(network) => self.networks.insert(*network, id),
            _ => match (self.affixes(predicate), predicate) {
                (Some((affixes, affix)), _) => affixes.insert(affix, id),
                (None, Predicate::Wildcard(wildcard)) => self.wildcards.insert(wildcard, id),
                (None, _) => {}
            },
        }
    }

    pub(super) fn remove(&mut self, predicate: &Predicate, id: PredicateId) {
        self.predicates -= 1;
        match predicate {
            Predicate::Text(text) => drop(self.texts.remove(text)),
            Predicate::Word(text) => drop(self.words.remove(text)),
            Predicate::Number(text) => drop(self.numbers.remove(text)),
            Predicate::IgnoreCase(text) => drop(self.ignoring_case.remove(text.as_bytes())),
            Predicate::Range(_) => self.ranges.remove(id),
            Predicate::Network(network) => self.networks.remove(*network),
            _ => match (self.affixes(predicate), predicate) {
                (Some((affixes, affix)), _) => affixes.remove(&affix, id),
                (None, Predicate::Wildcard(wildcard)) => self.wildcards.remove(wildcard, id),
                (None, _) => {}
            },
        }
    }

    /// The table and the key of a predicate about the beginning or the end of a string.
    fn affixes(&mut self, predicate: &Predicate) -> Option<(&mut Prefixes, Box<[u8]>)> {
        let backwards = |text: &str| text.bytes().rev().collect();
        match predicate {
            Predicate::Prefix(text) => Some((&mut self.prefixes, text.as_bytes().into())),
            Predicate::PrefixIgnoreCase(text) => Some((&mut self.folded_prefixes, text.as_bytes().into())),
            Predicate::Suffix(text) => Some((&mut self.suffixes, backwards(text))),
            Predicate::SuffixIgnoreCase(text) => Some((&mut self.folded_suffixes, backwards(text))),
            Predicate::Wildcard(wildcard) if !wildcard.first.is_empty() => {
                Some((&mut self.prefixes, wildcard.first.as_bytes().into()))
            }
            Predicate::Wildcard(wildcard) if !wildcard.last.is_empty() => {
                Some((&mut self.suffixes, backwards(&wildcard.last)))
            }
            _ => None,
        }
    }

    /// Gives `pass` the predicates that `value` meets, and the wildcards and ranges that it may meet.
    pub(super) fn each(&self, value: Value<'_>, buffers: &mut Buffers, mut pass: impl FnMut(PredicateId)) {
        match value {
            Value::Text(text) => self.each_of_text(text, buffers, &mut pass),
            Value::Number(text) => {
                if !self.numbers.is_empty() {
                    let number = normalized(text, MAX_OPERAND_BYTES);
                    number.and_then(|number| self.numbers.get(&*number)).copied().map(&mut pass);
                }
                if !self.ranges.is_empty() {
                    self.ranges.each(place(text), &mut pass);
                }
            }
            Value::Word(text) => drop(self.words.get(text).copied().map(pass)),
        }
    }

    /// Reads only as much of `text` as an operand can be long, except for the middle parts of wildcards.
    fn each_of_text(&self, text: &str, buffers: &mut Buffers, pass: &mut impl FnMut(PredicateId)) {
        let Buffers { text: buffer, found } = buffers;
        let bytes = text.as_bytes();
        if !self.texts.is_empty() && text.len() <= MAX_OPERAND_BYTES {
            self.texts.get(text).copied().map(&mut *pass);
        }
        self.prefixes.each(&bytes[..bytes.len().min(MAX_OPERAND_BYTES)], pass);
        if !self.suffixes.is_empty() {
            buffer.clear();
            buffer.extend(bytes.iter().rev().take(MAX_OPERAND_BYTES));
            self.suffixes.each(buffer, pass);
        }
        if !self.folded_prefixes.is_empty() || !self.ignoring_case.is_empty() {
            let is_whole = fold(text.chars(), buffer, |encoded, buffer| buffer.extend(encoded));
            if is_whole {
                self.ignoring_case.get(&**buffer).copied().map(&mut *pass);
            }
            self.folded_prefixes.each(buffer, pass);
        }
        if !self.folded_suffixes.is_empty() {
            fold(text.chars().rev(), buffer, |encoded, buffer| buffer.extend(encoded.iter().rev()));
            self.folded_suffixes.each(buffer, pass);
        }
        self.wildcards.each(bytes, found, pass);
        if !self.networks.is_empty()
            && let Some(address) = address(text)
        {
            faces(address).for_each(|address| self.networks.each(address, pass));
        }
    }
}

/// Folds characters into `buffer` until it is as long as an operand can be. Whether those were all.
fn fold(mut chars: impl Iterator<Item = char>, buffer: &mut Vec<u8>, add: impl Fn(&[u8], &mut Vec<u8>)) -> bool {
    buffer.clear();
    while buffer.len() <= MAX_OPERAND_BYTES {
        let Some(c) = chars.next() else { return true };
        add(folded(c).encode_utf8(&mut [0; 4]).as_bytes(), buffer);
    }
    false
}

/// Finds all strings that are prefixes of a text.
#[derive(Debug, Default)]
struct Prefixes(BTreeMap<Box<[u8]>, Vec<PredicateId>>);

impl Prefixes {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn insert(&mut self, prefix: Box<[u8]>, id: PredicateId) {
        self.0.entry(prefix).or_default().push(id);
    }

    fn remove(&mut self, prefix: &[u8], id: PredicateId) {
        if let Some(ids) = self.0.get_mut(prefix) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.0.remove(prefix);
            }
        }
    }

    /// Of all strings up to `text` in order, the last one either begins it, or shows how long those that do can be
    /// at most: as long as what it has in common with `text`. So each step shortens `text`.
    fn each(&self, text: &[u8], pass: &mut impl FnMut(PredicateId)) {
        let mut rest = Some(text);
        while let Some(text) = rest {
            let upto: (Bound<&[u8]>, Bound<&[u8]>) = (Bound::Unbounded, Bound::Included(text));
            let Some((last, ids)) = self.0.range::<[u8], _>(upto).next_back() else { return };
            let common = last.iter().zip(text).take_while(|(a, b)| a == b).count();
            if common == last.len() {
                ids.iter().copied().for_each(&mut *pass);
                rest = common.checked_sub(1).map(|shorter| &text[..shorter]);
            } else {
                rest = Some(&text[..common]);
            }
        }
    }
}

/// Ranges of numbers, of which all that hold a number are found: an interval tree that lies in a sorted list, and the
/// latest ranges beside it, since the tree is made anew for each change.
#[derive(Debug, Default)]
struct Ranges {
    /// From, to and whose, ascending.
    sorted: Vec<Range>,
    /// For the middle of each part of the list that a search looks at: where the ranges in that part end at last.
    ends: Vec<Place>,
    latest: Vec<Range>,
}

type Range = (Place, Place, PredicateId);

impl Ranges {
    fn is_empty(&self) -> bool {
        self.sorted.is_empty() && self.latest.is_empty()
    }

    fn insert(&mut self, (from, to): (Place, Place), id: PredicateId) {
        /// As many are looked at one by one.
        const MAX_LATEST: usize = 64;
        self.latest.push((from, to, id));
        if self.latest.len() > MAX_LATEST {
            self.sorted.append(&mut self.latest);
            self.rebuild();
        }
    }

    fn remove(&mut self, id: PredicateId) {
        let is_removed = |range: &Range| range.2 == id;
        if let Some(place) = self.latest.iter().position(is_removed) {
            self.latest.swap_remove(place);
        } else if let Some(place) = self.sorted.iter().position(is_removed) {
            self.sorted.remove(place);
            self.rebuild();
        }
    }

    fn rebuild(&mut self) {
        self.sorted.sort_unstable();
        self.ends.resize(self.sorted.len(), 0);
        build(&self.sorted, &mut self.ends);
    }

    fn each(&self, number: Place, pass: &mut impl FnMut(PredicateId)) {
        search(&self.sorted, &self.ends, number, pass);
        let holding = self.latest.iter().filter(|(from, to, _)| (*from..=*to).contains(&number));
        holding.for_each(|(_, _, id)| pass(*id));
    }
}

/// Fills in `ends`, and returns the last end.
fn build(ranges: &[Range], ends: &mut [Place]) -> Place {
    let middle = ranges.len() / 2;
    let Some((_, end, _)) = ranges.get(middle) else { return Place::MIN };
    let before = build(&ranges[..middle], &mut ends[..middle]);
    let after = build(&ranges[middle + 1..], &mut ends[middle + 1..]);
    ends[middle] = before.max(after).max(*end);
    ends[middle]
}

fn search(ranges: &[Range], ends: &[Place], number: Place, pass: &mut impl FnMut(PredicateId)) {
    let middle = ranges.len() / 2;
    let Some((from, to, id)) = ranges.get(middle) else { return };
    if ends[middle] < number {
        return;
    }
    search(&ranges[..middle], &ends[..middle], number, pass);
    if *from <= number {
        if number <= *to {
            pass(*id);
        }
        search(&ranges[middle + 1..], &ends[middle + 1..], number, pass);
    }
}

/// Finds all networks that contain an address, by trying each prefix length that occurs.
#[derive(Debug, Default)]
struct Networks {
    ids: HashMap<IpNet, PredicateId>,
    /// The number of networks of each length; `true`: IPv6.
    lengths: BTreeMap<(bool, u8), usize>,
}

impl Networks {
    fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    fn insert(&mut self, network: IpNet, id: PredicateId) {
        self.ids.insert(network, id);
        *self.lengths.entry(Self::length(network)).or_default() += 1;
    }

    fn remove(&mut self, network: IpNet) {
        self.ids.remove(&network);
        let length = Self::length(network);
        if let Some(count) = self.lengths.get_mut(&length) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&length);
            }
        }
    }

    fn length(network: IpNet) -> (bool, u8) {
        (network.addr().is_ipv6(), network.prefix_len())
    }

    fn each(&self, address: IpAddr, pass: &mut impl FnMut(PredicateId)) {
        let family = address.is_ipv6();
        for ((_, length), _) in self.lengths.range((family, 0)..=(family, u8::MAX)) {
            let network = IpNet::new(address, *length).ok().map(|network| network.trunc());
            network.and_then(|network| self.ids.get(&network)).copied().map(&mut *pass);
        }
    }
}
