//! The check of an event against a set of conditions, all together.
//!
//! The rule for arrays is EventBridge's: an array stands for each of its elements, arrays in arrays are
//! opened up, and fields of objects that are different elements of one array are never taken together.
//! "No such field" is asked of the element that the other conditions took, or of all if none took one.

use super::document::{Document, Kind, NodeAt};
use super::predicate::Wanted;

/// A condition on the field at a path of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) path: Box<[Box<str>]>,
    pub(super) wanted: Wanted,
}

/// The ways in which conditions are met.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Answer {
    /// By at least one leaf.
    by_leaf: bool,
    /// By the absence of leaves.
    by_absence: bool,
}

impl Answer {
    const NO: Self = Self { by_leaf: false, by_absence: false };
    /// The answer for no conditions.
    const NOTHING_WANTED: Self = Self { by_leaf: false, by_absence: true };

    fn and(self, other: Self) -> Self {
        let by_absence = self.by_absence && other.by_absence;
        let is_met = |answer: Self| answer.by_leaf || answer.by_absence;
        Self { by_leaf: is_met(self) && is_met(other) && (self.by_leaf || other.by_leaf), by_absence }
    }
}

/// Whether the event meets all of `picked`: ascending indices into `conditions`, which are sorted by path.
///
/// Looks at each node of the event at most once for each condition whose path leads to it.
pub(super) fn meets_all(event: &Document<'_>, conditions: &[Condition], picked: &[u32]) -> bool {
    let root = super::document::ROOT;
    let search = Search { event, conditions };
    event.kind(root) == Kind::Object && search.at(picked, 0, Some(root)) != Answer::NO
}

struct Search<'a> {
    event: &'a Document<'a>,
    conditions: &'a [Condition],
}

impl<'a> Search<'a> {
    fn condition(&self, index: u32) -> &'a Condition {
        &self.conditions[index as usize]
    }

    /// Asks `picked`, whose paths have led to `node` after `depth` keys; `None` is a field that is not there.
    fn at(&self, picked: &[u32], depth: usize, node: Option<NodeAt>) -> Answer {
        // Conditions are sorted by path, so the ones that end here come first.
        let own = picked.partition_point(|index| self.condition(*index).path.len() == depth);
        let (own, deeper) = picked.split_at(own);
        let mut answer = Answer::NOTHING_WANTED;
        for index in own {
            answer = answer.and(self.leaf(&self.condition(*index).wanted, node));
            if answer == Answer::NO {
                return answer;
            }
        }
        if deeper.is_empty() { answer } else { answer.and(self.objects(deeper, depth, node)) }
    }

    fn leaf(&self, wanted: &Wanted, node: Option<NodeAt>) -> Answer {
        let mut leaves = node.into_iter().flat_map(|node| self.event.opened(node));
        let mut leaves = leaves.by_ref().filter_map(|at| self.event.value(at)).peekable();
        let by_absence = wanted.absent && leaves.peek().is_none();
        Answer { by_leaf: leaves.any(|value| wanted.matches(value)), by_absence }
    }

    /// Meets the conditions with one of the objects at `node`, or by the absence of their fields from all objects.
    fn objects(&self, picked: &[u32], depth: usize, node: Option<NodeAt>) -> Answer {
        let objects = node.into_iter().flat_map(|node| self.event.opened(node));
        let mut answer = Answer { by_leaf: false, by_absence: picked.iter().all(|i| self.condition(*i).wanted.absent) };
        for object in objects.filter(|at| self.event.kind(*at) == Kind::Object) {
            let here = self.fields(picked, depth, object);
            answer.by_leaf |= here.by_leaf;
            answer.by_absence &= here.by_absence;
            if answer.by_leaf {
                break;
            }
        }
        answer
    }

    fn fields(&self, picked: &[u32], depth: usize, object: NodeAt) -> Answer {
        let mut answer = Answer::NOTHING_WANTED;
        for group in picked.chunk_by(|a, b| self.condition(*a).path[depth] == self.condition(*b).path[depth]) {
            let key = group.first().map_or("", |index| &self.condition(*index).path[depth]);
            let member = self.event.children(object).find(|member| self.event.key(*member) == key);
            answer = answer.and(self.at(group, depth + 1, member));
            if answer == Answer::NO {
                break;
            }
        }
        answer
    }
}
