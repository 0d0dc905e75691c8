//! Candidates among many wildcards for a text, if the wildcards neither begin nor end with a literal part.
//!
//! Each wildcard waits at one *gram*: eight, four, two or one bytes in a row of its literal parts, where fewest others
//! wait. One pass over a text looks up every gram of those lengths in it.

use std::collections::{HashMap, HashSet};

use super::PredicateId;
use crate::filter::predicate::Wildcard;

/// Lengths of grams, in bytes.
const LENGTHS: [usize; 4] = [8, 4, 2, 1];

/// The length of a gram, and its bytes as a number.
type Gram = (usize, u64);

#[derive(Debug, Default)]
pub(super) struct Contained {
    grams: HashMap<Gram, Vec<PredicateId>>,
    /// The number of grams of each of [`LENGTHS`].
    lengths: [usize; 4],
    /// Wildcards without any literal part: `*`.
    anything: Vec<PredicateId>,
}

/// The known grams that a text contains.
pub(super) type GramSet = HashSet<Gram>;

impl Contained {
    pub(super) fn insert(&mut self, wildcard: &Wildcard, id: PredicateId) {
        let waiting = |gram: &Gram| self.grams.get(gram).map_or(0, Vec::len);
        match grams_of(wildcard).min_by_key(waiting) {
            Some(gram) => {
                let ids = self.grams.entry(gram).or_default();
                if ids.is_empty() {
                    self.lengths[class(gram.0)] += 1;
                }
                ids.push(id);
            }
            None => self.anything.push(id),
        }
    }

    pub(super) fn remove(&mut self, wildcard: &Wildcard, id: PredicateId) {
        self.anything.retain(|other| *other != id);
        for gram in grams_of(wildcard) {
            if let Some(ids) = self.grams.get_mut(&gram)
                && let Some(place) = ids.iter().position(|other| *other == id)
            {
                ids.swap_remove(place);
                if ids.is_empty() {
                    self.grams.remove(&gram);
                    self.lengths[class(gram.0)] -= 1;
                }
                return;
            }
        }
    }

    /// Gives `pass` the wildcards that `text` may match, each once.
    pub(super) fn each(&self, text: &[u8], found: &mut GramSet, pass: &mut impl FnMut(PredicateId)) {
        self.anything.iter().copied().for_each(&mut *pass);
        found.clear();
        for (length, _) in LENGTHS.into_iter().zip(self.lengths).filter(|(_, count)| *count > 0) {
            for window in text.windows(length) {
                let gram = gram(window);
                if let Some(ids) = self.grams.get(&gram).filter(|_| found.insert(gram)) {
                    ids.iter().copied().for_each(&mut *pass);
                }
            }
        }
    }
}

/// The grams of a wildcard's longest literal part: of the greatest length that fits.
fn grams_of(wildcard: &Wildcard) -> impl Iterator<Item = Gram> {
    let longest = wildcard.middle.iter().max_by_key(|part| part.len()).map_or(&b""[..], |part| part.as_bytes());
    let length = LENGTHS.into_iter().find(|length| *length <= longest.len()).unwrap_or(1);
    longest.windows(length).map(gram)
}

fn gram(window: &[u8]) -> Gram {
    (window.len(), window.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

fn class(length: usize) -> usize {
    let class = LENGTHS.iter().position(|other| *other == length);
    debug_assert!(class.is_some(), "a gram has one of these lengths");
    class.unwrap_or(0)
}
