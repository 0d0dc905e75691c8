//! Which shards this node owns, and what follows from a renewal. It decides, and does nothing itself.

use std::collections::{BTreeMap, HashSet};

use crate::store::Shard;
use crate::store::cluster::{Renewed, Term};

/// The phase of a shard at this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// This node holds the term, and the take-over reads the records.
    Coming,
    /// The lanes exist.
    Owned,
    /// The lanes end their attempts, before the hand-over.
    HandingOver,
}

/// The shards of a node.
#[derive(Debug, Default)]
pub(super) struct Shards {
    held: BTreeMap<Shard, (i64, Phase)>,
}

/// The actions after a renewal.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Actions {
    /// Terms that begin.
    pub(crate) take: Vec<Term>,
    /// Terms that are over: other nodes own the shards, or may take them at any moment.
    pub(crate) lost: Vec<Term>,
    /// Terms to hand over.
    pub(crate) hand_over: Vec<Term>,
}

impl Shards {
    /// All terms, for a renewal.
    pub(super) fn terms(&self) -> Vec<Term> {
        self.held.iter().map(|(shard, (epoch, _))| Term { shard: *shard, epoch: *epoch }).collect()
    }

    /// The term of a shard whose lanes exist.
    pub(super) fn owned(&self, shard: Shard) -> Option<Term> {
        let (epoch, phase) = *self.held.get(&shard)?;
        (phase == Phase::Owned).then_some(Term { shard, epoch })
    }

    pub(super) fn all_owned(&self) -> Vec<Shard> {
        let owned = self.held.iter().filter(|(_, (_, phase))| *phase == Phase::Owned);
        owned.map(|(shard, _)| *shard).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Takes in the answer to a renewal that named `named`. A named term that this node no longer has was handed over
    /// or has lapsed meanwhile; the answer does not bring it back.
    pub(super) fn renewed(&mut self, named: &[Term], renewed: &Renewed) -> Actions {
        let (named, held): (HashSet<Term>, HashSet<Term>) =
            (named.iter().copied().collect(), renewed.held.iter().copied().collect());
        let mut actions = Actions::default();
        for term in self.terms() {
            if named.contains(&term) && !held.contains(&term) {
                self.held.remove(&term.shard);
                actions.lost.push(term);
            }
        }
        for term in renewed.held.iter().filter(|term| !named.contains(term)) {
            if let Some((epoch, _)) = self.held.insert(term.shard, (term.epoch, Phase::Coming)) {
                actions.lost.push(Term { shard: term.shard, epoch });
            }
            actions.take.push(*term);
        }
        let under_way = self.held.values().filter(|(_, phase)| *phase == Phase::HandingOver).count();
        let hand_over = if renewed.is_draining { usize::MAX } else { renewed.surplus.saturating_sub(under_way) };
        let owned = self.held.iter_mut().rev().filter(|(_, (_, phase))| *phase == Phase::Owned);
        for (shard, (epoch, phase)) in owned.take(hand_over) {
            *phase = Phase::HandingOver;
            actions.hand_over.push(Term { shard: *shard, epoch: *epoch });
        }
        actions
    }

    pub(super) fn is_coming(&self, term: Term) -> bool {
        self.held.get(&term.shard) == Some(&(term.epoch, Phase::Coming))
    }

    /// Notes that the lanes of a term exist; `false`: the term was lost before.
    pub(super) fn begin(&mut self, term: Term) -> bool {
        let is_coming = self.is_coming(term);
        if is_coming {
            self.held.insert(term.shard, (term.epoch, Phase::Owned));
        }
        is_coming
    }

    pub(super) fn handed_over(&mut self, term: Term) {
        if self.held.get(&term.shard) == Some(&(term.epoch, Phase::HandingOver)) {
            self.held.remove(&term.shard);
        }
    }

    pub(super) fn lapse(&mut self) {
        self.held.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::SHARDS;

    /// A table of shards, and renewals as the store does them.
    struct Table {
        rows: Vec<(Option<usize>, i64)>,
    }

    impl Table {
        fn renew(&mut self, node: usize, named: &[Term], live: usize) -> Renewed {
            let share = usize::from(SHARDS).div_ceil(live);
            let row = |term: &Term| self.rows[usize::from(term.shard.number())];
            let mut held: Vec<Term> =
                named.iter().filter(|term| row(term) == (Some(node), term.epoch)).copied().collect();
            let surplus = held.len().saturating_sub(share);
            let named: HashSet<Shard> = named.iter().map(|term| term.shard).collect();
            for shard in Shard::all().filter(|shard| !named.contains(shard)) {
                let (holder, epoch) = &mut self.rows[usize::from(shard.number())];
                if held.len() < share && holder.is_none_or(|holder| holder == node) {
                    (*holder, *epoch) = (Some(node), *epoch + 1);
                    held.push(Term { shard, epoch: *epoch });
                }
            }
            Renewed { held, surplus, is_draining: false }
        }

        fn release(&mut self, node: usize, term: Term) {
            let row = &mut self.rows[usize::from(term.shard.number())];
            if *row == (Some(node), term.epoch) {
                row.0 = None;
            }
        }
    }

    fn settle(table: &mut Table, nodes: &mut [Shards], live: &[usize]) -> usize {
        let mut moved = 0;
        for _ in 0..4 {
            for node in live {
                let named = nodes[*node].terms();
                let renewed = table.renew(*node, &named, live.len());
                let actions = nodes[*node].renewed(&named, &renewed);
                assert_eq!(actions.lost, [], "nobody takes what was not handed over");
                moved += actions.take.len();
                for term in actions.take {
                    assert!(nodes[*node].begin(term));
                }
                for term in actions.hand_over {
                    assert_eq!(nodes[*node].owned(term.shard), None);
                    table.release(*node, term);
                    nodes[*node].handed_over(term);
                }
            }
        }
        moved
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        /// While nodes come and go, each shard is owned once, the shares are even, and no shard moves without need.
        #[test]
        fn shards_spread_evenly_and_stay(steps in proptest::collection::vec((any::<bool>(), 0..6_usize), 1..8)) {
            let mut table = Table { rows: vec![(None, 0); usize::from(SHARDS)] };
            let mut nodes: Vec<Shards> = (0..6).map(|_| Shards::default()).collect();
            let mut live = vec![0];
            settle(&mut table, &mut nodes, &live);
            for (joins, node) in steps {
                let orphaned = nodes[node].terms();
                if joins && !live.contains(&node) {
                    live.push(node);
                } else if !joins && live.len() > 1 && live.contains(&node) {
                    live.retain(|other| *other != node);
                    nodes[node].lapse();
                    for term in &orphaned {
                        table.release(node, *term);
                    }
                } else {
                    continue;
                }
                let moved = settle(&mut table, &mut nodes, &live);
                let share = usize::from(SHARDS).div_ceil(live.len());
                prop_assert!(moved <= share.max(orphaned.len()), "{moved} moved");
                let counts: Vec<usize> = live.iter().map(|node| nodes[*node].all_owned().len()).collect();
                prop_assert_eq!(counts.iter().sum::<usize>(), usize::from(SHARDS));
                prop_assert!(counts.iter().all(|count| *count <= share), "{counts:?}");
                prop_assert_eq!(settle(&mut table, &mut nodes, &live), 0, "it has come to rest");
            }
        }
    }

    fn term(number: u8, epoch: i64) -> Term {
        Term { shard: Shard::from_number(number), epoch }
    }

    fn renewed(held: &[Term]) -> Renewed {
        Renewed { held: held.to_vec(), surplus: 0, is_draining: false }
    }

    #[test]
    fn what_was_handed_over_while_a_renewal_was_under_way_does_not_come_back() {
        let mut shards = Shards::default();
        let actions = shards.renewed(&[], &renewed(&[term(1, 5), term(2, 3)]));
        assert_eq!(actions.take, [term(1, 5), term(2, 3)]);
        assert!(shards.begin(term(1, 5)) && !shards.begin(term(2, 4)));
        let named = shards.terms();
        let draining = Renewed { is_draining: true, ..renewed(&named) };
        assert_eq!(shards.renewed(&named, &draining).hand_over, [term(1, 5)], "the other one is not here yet");
        shards.handed_over(term(1, 5));
        assert_eq!(shards.renewed(&named, &renewed(&named)), Actions::default());
        assert_eq!(shards.terms(), [term(2, 3)]);
        // The shard may come again with a new term.
        assert_eq!(shards.renewed(&shards.terms(), &renewed(&[term(1, 6), term(2, 3)])).take, [term(1, 6)]);
    }

    #[test]
    fn what_lapsed_is_taken_as_another_term_and_what_others_have_is_lost() {
        let mut shards = Shards::default();
        shards.renewed(&[], &renewed(&[term(1, 1), term(2, 1)]));
        assert!(shards.begin(term(1, 1)));
        let named = shards.terms();
        assert_eq!(shards.renewed(&named, &renewed(&[term(2, 1)])).lost, [term(1, 1)]);
        assert!(!shards.begin(term(1, 1)) && shards.begin(term(2, 1)));
        shards.lapse();
        assert_eq!(shards.renewed(&named, &renewed(&[term(2, 1)])), Actions::default());
        assert!(shards.is_empty());
        assert_eq!(shards.renewed(&[], &renewed(&[term(2, 2)])).take, [term(2, 2)]);
    }
}
