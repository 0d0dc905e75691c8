//! Many filters, asked together.
//!
//! The fields that any filter names form a trie of paths. Equal predicates of one field are one predicate, equal
//! conditions one condition, equal filters one filter. A walk over an event finds which predicates its leaves pass by
//! looking their values up ([`values`]), not by trying each predicate.
//!
//! Each branch of a filter waits at its *gate*: that of its conditions which needs a leaf and at which fewest
//! branches wait already. Only branches whose gate was met are looked at further. A condition that a field's absence
//! meets is no gate; branches that have no other conditions are looked at for each event.
//!
//! Where a branch takes several fields from objects of which an event has more than one, conditions met one by one
//! do not mean that one object meets them all: such a branch is then asked by itself.

mod contained;
mod lookup;
mod slab;
mod values;

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;

use self::lookup::Scratch;
use self::slab::{Id, Slab};
use self::values::Values;
use super::Filter;
use super::document::Document;
use super::predicate::{Predicate, Wanted};

/// The filters of many subscribers; one filter each.
#[derive(Debug)]
pub struct FilterIndex<K> {
    rules: Rules,
    /// The subscribers with their filters, ascending.
    keys: Vec<(K, FilterId)>,
    /// Buffers of lookups, kept for reuse; several lookups may run at the same time.
    scratch: Mutex<Vec<Scratch>>,
}

type FilterId = Id<Entry>;
type BranchId = Id<Branch>;
type ConditionId = Id<Indexed>;
type PredicateId = Id<IndexedPredicate>;
type PathId = Id<PathNode>;

/// The filters, taken apart.
#[derive(Debug, Default)]
struct Rules {
    filters: Slab<Entry>,
    by_filter: HashMap<Filter, FilterId>,
    branches: Slab<Branch>,
    /// Branches without a gate.
    ungated: Vec<BranchId>,
    conditions: Slab<Indexed>,
    by_wanted: HashMap<(PathId, Arc<Wanted>), ConditionId>,
    predicates: Slab<IndexedPredicate>,
    by_predicate: HashMap<(PathId, Predicate), PredicateId>,
    paths: Slab<PathNode>,
    root: Option<PathId>,
}

#[derive(Debug)]
struct Entry {
    filter: Filter,
    /// The number of subscribers with the filter.
    keys: usize,
    branches: Vec<BranchId>,
}

#[derive(Debug)]
struct Branch {
    filter: FilterId,
    /// The branch's number within the filter.
    number: usize,
    conditions: Box<[ConditionId]>,
    /// Paths to objects from which the branch takes several fields.
    shared: Box<[PathId]>,
    gate: Option<ConditionId>,
}

/// A condition, shared by the filters that have it.
#[derive(Debug)]
struct Indexed {
    path: PathId,
    wanted: Arc<Wanted>,
    predicates: Box<[PredicateId]>,
    /// The number of branches with the condition.
    uses: usize,
    /// Branches whose gate is this condition.
    gated: Vec<BranchId>,
}

impl Indexed {
    /// Whether only its predicates can meet the condition.
    fn is_narrow(&self) -> bool {
        !self.wanted.exists && !self.wanted.absent && self.wanted.anything_but.is_empty()
    }
}

#[derive(Debug)]
struct IndexedPredicate {
    predicate: Predicate,
    /// The conditions that the predicate meets.
    conditions: Vec<ConditionId>,
}

/// A node of the tree of paths.
#[derive(Debug, Default)]
struct PathNode {
    parent: Option<(PathId, Box<str>)>,
    children: HashMap<Box<str>, PathId>,
    /// The predicates of leaves here.
    values: Values,
    /// Gates here that leaves can meet without passing a predicate.
    broad_gates: Vec<ConditionId>,
    /// Conditions here with `anything-but`, for which the leaves are noted.
    exceptions: usize,
    /// Children and conditions that need it.
    uses: usize,
}

impl<K> Default for FilterIndex<K> {
    fn default() -> Self {
        Self { rules: Rules::default(), keys: Vec::new(), scratch: Mutex::default() }
    }
}

impl<K: Copy + Ord + Hash> FilterIndex<K> {
    /// Sets the filter of the subscriber `key`.
    pub fn insert(&mut self, filter: &Filter, key: K) {
        self.remove(key);
        let id = self.rules.add(filter);
        let place = self.keys.partition_point(|(other, _)| *other < key);
        self.keys.insert(place, (key, id));
    }

    /// Removes the filter of a subscriber, if it has one.
    pub fn remove(&mut self, key: K) {
        if let Ok(place) = self.keys.binary_search_by_key(&key, |(key, _)| *key) {
            let (_, id) = self.keys.remove(place);
            self.rules.release(id);
        }
    }

    /// Whether no subscriber has a filter.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Appends to `wanting` the candidates whose filter matches the event with this body, or that have no filter, in
    /// the order of `candidates`. Ascending candidates, as from
    /// [`PatternIndex::matches`](crate::topic::PatternIndex::matches), are the fastest.
    pub fn matching(&self, body: &[u8], candidates: &[K], wanting: &mut Vec<K>) {
        /// Up to this number of filters are asked one by one.
        const FEW: usize = 4;
        let filtered = self.filters_of(candidates).filter(|(_, filter)| filter.is_some()).take(FEW + 1).count();
        let event = if filtered == 0 { None } else { Document::of_event(body) };
        let mut choose = |is_wanted: &dyn Fn(FilterId) -> bool| {
            let chosen = self.filters_of(candidates).filter(|(_, filter)| filter.is_none_or(is_wanted));
            wanting.extend(chosen.map(|(key, _)| key));
        };
        match event {
            None => choose(&|_| false),
            Some(event) if filtered <= FEW => choose(&|filter| self.rules.filters[filter].filter.wants(&event)),
            Some(event) => {
                let mut scratch = self.scratch.lock().pop().unwrap_or_default();
                self.rules.look_up(&event, &mut scratch);
                choose(&|filter| scratch.is_matched(filter));
                self.scratch.lock().push(scratch);
            }
        }
    }

    /// Each candidate with its filter.
    fn filters_of(&self, candidates: &[K]) -> impl Iterator<Item = (K, Option<FilterId>)> {
        let mut next = 0;
        candidates.iter().map(move |candidate| {
            // Ascending candidates are found by a galloping search.
            if next > 0 && self.keys[next - 1].0 >= *candidate {
                next = 0;
            }
            let rest = &self.keys[next..];
            let mut step = 1;
            while rest.get(step - 1).is_some_and(|(key, _)| key < candidate) {
                step *= 2;
            }
            let from = step / 2;
            let within = &rest[from..rest.len().min(step)];
            let place = next + from + within.partition_point(|(key, _)| key < candidate);
            let found = self.keys.get(place).filter(|(key, _)| key == candidate);
            next = place + usize::from(found.is_some());
            (*candidate, found.map(|(_, filter)| *filter))
        })
    }
}

impl Rules {
    /// Counts a further subscriber of `filter`.
    fn add(&mut self, filter: &Filter) -> FilterId {
        if let Some(id) = self.by_filter.get(filter) {
            self.filters[*id].keys += 1;
            return *id;
        }
        let id = self.filters.insert(Entry { filter: filter.clone(), keys: 1, branches: Vec::new() });
        self.by_filter.insert(filter.clone(), id);
        let compiled = filter.compiled();
        let conditions: Vec<_> = compiled.conditions.iter().map(|c| self.condition(&c.path, &c.wanted)).collect();
        for (number, picked) in compiled.branches.iter().enumerate() {
            let conditions = picked.iter().map(|index| conditions[*index as usize]).collect();
            let branch = self.add_branch(id, number, conditions);
            self.filters[id].branches.push(branch);
        }
        id
    }

    /// Counts a subscriber of the filter less.
    fn release(&mut self, id: FilterId) {
        self.filters[id].keys -= 1;
        if self.filters[id].keys > 0 {
            return;
        }
        let Some(entry) = self.filters.remove(id) else { return };
        self.by_filter.remove(&entry.filter);
        for branch in entry.branches {
            self.remove_branch(branch);
        }
    }

    fn add_branch(&mut self, filter: FilterId, number: usize, conditions: Box<[ConditionId]>) -> BranchId {
        let gate = self.gate(&conditions);
        let mut shared: Vec<PathId> = Vec::new();
        let above = |id: &ConditionId| self.above(self.conditions[*id].path);
        // Conditions are sorted by path, so those that share a path follow each other.
        for pair in conditions.windows(2) {
            let (one, other) = (above(&pair[0]), above(&pair[1]));
            let common = one.into_iter().zip(other).filter(|(a, b)| a == b).map(|(path, _)| path);
            shared.extend(common.filter(|path| Some(*path) != self.root));
        }
        shared.sort_unstable();
        shared.dedup();
        for condition in &conditions {
            self.conditions[*condition].uses += 1;
        }
        let branch = Branch { filter, number, conditions, shared: shared.into(), gate };
        let id = self.branches.insert(branch);
        let Some(gate) = gate else {
            self.ungated.push(id);
            return id;
        };
        let condition = &mut self.conditions[gate];
        if condition.gated.is_empty() && !condition.is_narrow() {
            self.paths[condition.path].broad_gates.push(gate);
        }
        condition.gated.push(id);
        id
    }

    fn remove_branch(&mut self, id: BranchId) {
        let Some(branch) = self.branches.remove(id) else { return };
        if let Some(gate) = branch.gate {
            let condition = &mut self.conditions[gate];
            take_out(&mut condition.gated, id);
            if condition.gated.is_empty() && !condition.is_narrow() {
                take_out(&mut self.paths[condition.path].broad_gates, gate);
            }
        } else {
            take_out(&mut self.ungated, id);
        }
        for condition in branch.conditions {
            self.release_condition(condition);
        }
    }

    /// The gate of a branch with these conditions.
    fn gate(&self, conditions: &[ConditionId]) -> Option<ConditionId> {
        let needs_leaf = conditions.iter().filter(|id| !self.conditions[**id].wanted.absent);
        needs_leaf.min_by_key(|id| (!self.conditions[**id].is_narrow(), self.conditions[**id].gated.len())).copied()
    }

    /// The paths to the objects that hold the field at `path`, from the root.
    fn above(&self, path: PathId) -> Vec<PathId> {
        let parent = |id: &PathId| self.paths[*id].parent.as_ref().map(|(parent, _)| *parent);
        let mut above: Vec<PathId> = std::iter::successors(parent(&path), parent).collect();
        above.reverse();
        above
    }

    /// Finds or makes the condition. The caller counts its uses.
    fn condition(&mut self, keys: &[Box<str>], wanted: &Wanted) -> ConditionId {
        let path = self.path(keys);
        let wanted = Arc::new(wanted.clone());
        if let Some(id) = self.by_wanted.get(&(path, Arc::clone(&wanted))) {
            return *id;
        }
        let predicates = wanted.any_of.predicates().iter().map(|predicate| self.predicate(path, predicate)).collect();
        let indexed = Indexed { path, wanted: Arc::clone(&wanted), predicates, uses: 0, gated: Vec::new() };
        let id = self.conditions.insert(indexed);
        for predicate in &self.conditions[id].predicates {
            self.predicates[*predicate].conditions.push(id);
        }
        let node = &mut self.paths[path];
        node.uses += 1;
        node.exceptions += usize::from(!wanted.anything_but.is_empty());
        self.by_wanted.insert((path, wanted), id);
        id
    }

    fn release_condition(&mut self, id: ConditionId) {
        let condition = &mut self.conditions[id];
        condition.uses -= 1;
        if condition.uses > 0 {
            return;
        }
        let Some(Indexed { path, wanted, predicates, .. }) = self.conditions.remove(id) else { return };
        for predicate in predicates {
            take_out(&mut self.predicates[predicate].conditions, id);
            if self.predicates[predicate].conditions.is_empty()
                && let Some(IndexedPredicate { predicate: removed, .. }) = self.predicates.remove(predicate)
            {
                self.paths[path].values.remove(&removed, predicate);
                self.by_predicate.remove(&(path, removed));
            }
        }
        self.paths[path].exceptions -= usize::from(!wanted.anything_but.is_empty());
        self.by_wanted.remove(&(path, wanted));
        self.release_path(path);
    }

    fn predicate(&mut self, path: PathId, predicate: &Predicate) -> PredicateId {
        if let Some(id) = self.by_predicate.get(&(path, predicate.clone())) {
            return *id;
        }
        let id = self.predicates.insert(IndexedPredicate { predicate: predicate.clone(), conditions: Vec::new() });
        self.by_predicate.insert((path, predicate.clone()), id);
        self.paths[path].values.insert(predicate, id);
        id
    }

    fn path(&mut self, keys: &[Box<str>]) -> PathId {
        let root = *self.root.get_or_insert_with(|| self.paths.insert(PathNode::default()));
        keys.iter().fold(root, |parent, key| {
            if let Some(child) = self.paths[parent].children.get(key) {
                return *child;
            }
            let child = self.paths.insert(PathNode { parent: Some((parent, key.clone())), ..PathNode::default() });
            let parent = &mut self.paths[parent];
            parent.children.insert(key.clone(), child);
            parent.uses += 1;
            child
        })
    }

    /// Counts a use of a path less. The last use removes the path, and perhaps paths above it.
    fn release_path(&mut self, id: PathId) {
        let path = &mut self.paths[id];
        path.uses -= 1;
        if path.uses > 0 {
            return;
        }
        if let Some((parent, key)) = path.parent.take() {
            self.paths.remove(id);
            self.paths[parent].children.remove(&key);
            self.release_path(parent);
        }
    }
}

/// Removes one item of a list whose order does not matter.
fn take_out<T: Copy + PartialEq>(list: &mut Vec<T>, item: T) {
    if let Some(place) = list.iter().position(|other| *other == item) {
        list.swap_remove(place);
    }
}

#[cfg(test)]
mod tests;
