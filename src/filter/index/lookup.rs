//! One event, asked of all filters.

use super::slab::Id;
use super::values::Buffers;
use super::{BranchId, ConditionId, FilterId, PathId, PathNode, PredicateId, Rules};
use crate::filter::document::{Document, Kind, NodeAt, ROOT};
use crate::filter::matching;
use crate::filter::predicate::Predicate;

/// The notes of a lookup, by the numbers of predicates, conditions, paths and filters. A note contains the number of
/// its lookup, so that old notes need not be cleared.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// The number of this lookup, from 1.
    round: u64,
    passed: Vec<u64>,
    /// Conditions that are met.
    met: Vec<u64>,
    /// Paths at which there is a leaf.
    seen: Vec<u64>,
    /// Paths that lead to more than one object of one array.
    crowded: Vec<u64>,
    matched: Vec<u64>,
    seen_paths: Vec<PathId>,
    met_gates: Vec<ConditionId>,
    /// The last noted leaf of each path, as an index into `leaves`.
    last_leaf: Vec<usize>,
    /// Each with the one noted before it at the same path.
    leaves: Vec<(NodeAt, usize)>,
    buffers: Buffers,
}

/// No leaf before.
const NONE: usize = usize::MAX;

impl Scratch {
    fn begin(&mut self, rules: &Rules) {
        self.round += 1;
        let grow = |notes: &mut Vec<u64>, bound: usize| notes.resize(bound.max(notes.len()), 0);
        grow(&mut self.passed, rules.predicates.bound());
        grow(&mut self.met, rules.conditions.bound());
        grow(&mut self.seen, rules.paths.bound());
        grow(&mut self.crowded, rules.paths.bound());
        grow(&mut self.matched, rules.filters.bound());
        self.last_leaf.resize(self.seen.len(), NONE);
        self.seen_paths.clear();
        self.met_gates.clear();
        self.leaves.clear();
    }

    fn note<T>(round: u64, notes: &mut [u64], id: Id<T>) -> bool {
        std::mem::replace(&mut notes[id.number()], round) != round
    }

    fn is_noted<T>(&self, notes: &[u64], id: Id<T>) -> bool {
        notes[id.number()] == self.round
    }

    /// Whether the filter matches the event of the last lookup.
    pub(super) fn is_matched(&self, filter: FilterId) -> bool {
        self.is_noted(&self.matched, filter)
    }

    fn is_seen(&self, path: PathId) -> bool {
        self.is_noted(&self.seen, path)
    }

    fn is_crowded(&self, path: PathId) -> bool {
        self.is_noted(&self.crowded, path)
    }

    /// The leaves noted at a path.
    fn leaves(&self, path: PathId) -> impl Iterator<Item = NodeAt> {
        let last = if self.is_seen(path) { self.last_leaf[path.number()] } else { NONE };
        std::iter::successors(self.leaves.get(last), |(_, before)| self.leaves.get(*before)).map(|(leaf, _)| *leaf)
    }
}

impl Rules {
    /// Notes in `scratch` which filters the event matches.
    pub(super) fn look_up(&self, event: &Document<'_>, scratch: &mut Scratch) {
        scratch.begin(self);
        let Some(root) = self.root.filter(|_| event.kind(ROOT) == Kind::Object) else { return };
        self.walk(event, ROOT, root, scratch);
        let mut gates = std::mem::take(&mut scratch.met_gates);
        gates.extend(scratch.seen_paths.iter().flat_map(|path| &self.paths[*path].broad_gates));
        let waiting = gates.iter().flat_map(|gate| &self.conditions[*gate].gated);
        for branch in waiting.chain(&self.ungated) {
            self.consider(event, *branch, scratch);
        }
        scratch.met_gates = gates;
    }

    /// Notes the leaves of the event at a path and below.
    fn walk(&self, event: &Document<'_>, at: NodeAt, id: PathId, scratch: &mut Scratch) {
        let path = &self.paths[id];
        let mut objects = 0;
        for node in event.opened(at) {
            if event.kind(node) != Kind::Object {
                self.leaf(event, node, (id, path), scratch);
                continue;
            }
            objects += 1;
            if path.children.is_empty() {
                continue;
            }
            for member in event.children(node) {
                if let Some(child) = path.children.get(event.key(member)) {
                    self.walk(event, member, *child, scratch);
                }
            }
        }
        if objects > 1 {
            Scratch::note(scratch.round, &mut scratch.crowded, id);
        }
    }

    fn leaf(&self, event: &Document<'_>, node: NodeAt, (id, path): (PathId, &PathNode), scratch: &mut Scratch) {
        if Scratch::note(scratch.round, &mut scratch.seen, id) {
            scratch.seen_paths.push(id);
            scratch.last_leaf[id.number()] = NONE;
        }
        if path.exceptions > 0 {
            let before = std::mem::replace(&mut scratch.last_leaf[id.number()], scratch.leaves.len());
            scratch.leaves.push((node, before));
        }
        let Some(value) = event.value(node).filter(|_| !path.values.is_empty()) else { return };
        let Scratch { round, passed, met, met_gates, buffers, .. } = scratch;
        path.values.each(value, buffers, |predicate: PredicateId| {
            if passed[predicate.number()] == *round {
                return;
            }
            let indexed = &self.predicates[predicate];
            if matches!(indexed.predicate, Predicate::Wildcard(_) | Predicate::Range(_))
                && !indexed.predicate.matches(value)
            {
                return;
            }
            passed[predicate.number()] = *round;
            for condition in &indexed.conditions {
                if Scratch::note(*round, met, *condition) && !self.conditions[*condition].gated.is_empty() {
                    met_gates.push(*condition);
                }
            }
        });
    }

    /// Notes the branch's filter if the event meets its conditions.
    fn consider(&self, event: &Document<'_>, id: BranchId, scratch: &mut Scratch) {
        let branch = &self.branches[id];
        if scratch.is_matched(branch.filter) {
            return;
        }
        let is_crowded = branch.shared.iter().any(|path| scratch.is_crowded(*path));
        // The index cannot tell whether a field is absent from the object that the other conditions take.
        let mut conditions = branch.conditions.iter();
        let may_match = conditions.all(|condition| {
            (is_crowded && self.conditions[*condition].wanted.absent) || self.is_met(event, *condition, scratch)
        });
        if !may_match {
            return;
        }
        let compiled = self.filters[branch.filter].filter.compiled();
        let is_match =
            !is_crowded || matching::meets_all(event, &compiled.conditions, &compiled.branches[branch.number]);
        if is_match {
            Scratch::note(scratch.round, &mut scratch.matched, branch.filter);
        }
    }

    /// Whether the event meets a condition by itself.
    fn is_met(&self, event: &Document<'_>, id: ConditionId, scratch: &mut Scratch) -> bool {
        if scratch.is_noted(&scratch.met, id) {
            return true;
        }
        let condition = &self.conditions[id];
        let is_met = if scratch.is_seen(condition.path) {
            let excepts = |leaf| event.value(leaf).is_some_and(|value| condition.wanted.excepts(value));
            condition.wanted.exists || scratch.leaves(condition.path).any(excepts)
        } else {
            condition.wanted.absent
        };
        if is_met {
            Scratch::note(scratch.round, &mut scratch.met, id);
        }
        is_met
    }
}
