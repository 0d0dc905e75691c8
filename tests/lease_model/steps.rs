//! What each step changes: the statements of the store as `store/postgres/` has them, and what a node does by them.

use crate::state::{
    Accept, Answer, Entry, Epochs, Held, LEASE_TICKS, Late, MARGIN_TICKS, NODES, Node, Phase, Renewal, SHARDS,
    STATEMENT_TICKS, Settle, Stage, State, Work,
};
use crate::world::{Flaw, Step, World, fault};

pub(crate) const STALE_SETTLEMENT: &str = "a settlement of a term that is over has changed a row";
pub(crate) const LATE_SEND: &str = "a node has sent for a shard that another may own";
pub(crate) const TWO_OWNERS: &str = "a node may act for a shard that is not its own";
pub(crate) const SENT_TWICE: &str = "nothing was against it, and a delivery was sent twice";

impl World {
    /// The state after a step.
    pub(crate) fn apply(&self, before: &State, step: Step) -> State {
        let mut state = *before;
        state.faults_left -= u8::from(fault(step).is_some());
        match step {
            Step::Tick => tick(&mut state, self.own_lease()),
            Step::ReadThrough { .. }
            | Step::TakeOver { .. }
            | Step::LookAgain { .. }
            | Step::HandOver { .. }
            | Step::CutOff { .. } => self.move_shard(&mut state, step),
            Step::Accept { .. }
            | Step::Number { .. }
            | Step::Commit { .. }
            | Step::FailAccept { .. }
            | Step::HearAccepted { .. }
            | Step::GiveAcceptUp { .. }
            | Step::Park { .. } => self.accept(&mut state, step),
            Step::Load { .. }
            | Step::Check { .. }
            | Step::CheckAgain { .. }
            | Step::Drop { .. }
            | Step::Write { .. }
            | Step::Answer { .. } => self.attempt(&mut state, step),
            Step::BeginSettle { .. } | Step::CommitSettle { .. } | Step::LoseSettle { .. } => {
                self.settle(&mut state, step);
            }
            step => self.live(&mut state, step),
        }
        self.check_owners(&mut state);
        state.forget(self.has(Flaw::SecondLookAtAll));
        state.renumber(self.shards);
        state.put_nodes_in_order();
        state
    }

    /// What a node's own clock says never goes beyond what the store's says.
    fn check_owners(&self, state: &mut State) {
        for s in 0..self.shards {
            for (n, node) in state.nodes.iter().enumerate() {
                let acts = node.left > 0 && node.held[s].is_some_and(|held| node.has_lane(s, held.epoch));
                if acts && state.rows[s].holder != Some(n) {
                    state.broken = Some(TWO_OWNERS);
                }
            }
        }
    }

    /// Renewals, and how nodes come and go.
    fn live(&self, state: &mut State, step: Step) {
        match step {
            Step::Renew { n } => {
                let named = state.nodes[n].epochs();
                let answer = self.renew(state, n, named);
                self.take_in(state, n, named, &answer, 0);
            }
            Step::SendRenewal { n } => {
                let node = &mut state.nodes[n];
                node.renewal = Some(Renewal { named: node.epochs(), age: 0, answer: None });
            }
            Step::DoRenewal { n } => {
                let Some(mut renewal) = state.nodes[n].renewal else { return };
                renewal.answer = Some(self.renew(state, n, renewal.named));
                state.nodes[n].renewal = Some(renewal);
            }
            Step::HearRenewal { n } => {
                let Some(renewal) = state.nodes[n].renewal.take() else { return };
                let Some(answer) = renewal.answer else { return };
                self.take_in(state, n, renewal.named, &answer, renewal.age);
            }
            Step::GiveRenewalUp { n } => {
                let renewal = state.nodes[n].renewal.take();
                let unheard = renewal.filter(|renewal| renewal.answer.is_none());
                state.nodes[n].orphan = unheard.map(|renewal| renewal.named).or(state.nodes[n].orphan);
            }
            Step::DoRenewalLate { n } => {
                let Some(named) = state.nodes[n].orphan.take() else { return };
                self.renew(state, n, named);
            }
            Step::Lapse { n } => self.lapse(state, n),
            Step::Crash { n } => die(state, n),
            Step::Leave { n } => {
                die(state, n);
                for row in state.rows.iter_mut().filter(|row| row.holder == Some(n)) {
                    (row.holder, row.left) = (None, 0);
                }
                state.nodes[n].seen = 0;
            }
            Step::Pause { n } => {
                state.nodes[n].is_paused = true;
                state.pauses += 1;
            }
            Step::Resume { n } => state.nodes[n].is_paused = false,
            Step::Drain { n } => state.nodes[n].is_draining = true,
            Step::Undrain { n } => state.nodes[n].is_draining = false,
            _ => {}
        }
    }

    /// The statement `RENEW`.
    fn renew(&self, state: &mut State, n: usize, named: Epochs) -> Answer {
        // With one shard everybody's share is one, whoever lives.
        state.nodes[n].seen = if self.shards > 1 { LEASE_TICKS } else { 0 };
        let alive = |node: &Node| node.seen > 0 && !node.is_draining;
        let others = (0..NODES).filter(|other| *other != n && alive(&state.nodes[*other])).count();
        let most = if state.nodes[n].is_draining { 0 } else { self.shards.div_ceil(1 + others) };
        let mut answer = Answer { held: [None; SHARDS], surplus: 0, is_draining: state.nodes[n].is_draining };
        for (s, named) in named.into_iter().enumerate().take(self.shards) {
            let row = &mut state.rows[s];
            if named == Some(row.epoch) && row.holder == Some(n) {
                row.left = LEASE_TICKS;
                answer.held[s] = Some(row.epoch);
            }
        }
        let mut count = answer.held.iter().flatten().count();
        answer.surplus = count.saturating_sub(most);
        for (s, named) in named.into_iter().enumerate().take(self.shards) {
            let is_locked = self.is_locked(state, s);
            let row = &mut state.rows[s];
            let is_free = row.holder.is_none_or(|holder| holder == n) || row.left == 0;
            if count < most && named.is_none() && is_free && !is_locked {
                *row = crate::state::Row { holder: Some(n), epoch: row.epoch + 1, left: LEASE_TICKS };
                answer.held[s] = Some(row.epoch);
                count += 1;
            }
        }
        answer
    }

    /// A settlement of the shard is between its look at the fence and its commit.
    fn is_locked(&self, state: &State, s: usize) -> bool {
        if self.has(Flaw::NoFence) || self.has(Flaw::NoFenceLock) {
            return false;
        }
        let ours = (0..self.deliveries).filter(|d| self.shard_of(*d) == s);
        let mut settles = ours.flat_map(|d| &state.deliveries[d].at).filter_map(|share| share.settle);
        settles.any(|settle| settle.is_guarded.is_some())
    }

    /// What `Dispatcher::renewed` does with an answer to what was sent so long ago.
    fn take_in(&self, state: &mut State, n: usize, named: Epochs, answer: &Answer, age: u8) {
        if state.nodes[n].left == 0 {
            self.lapse(state, n);
        }
        state.nodes[n].left = self.own_lease().saturating_sub(age);
        if state.nodes[n].left == 0 {
            self.lapse(state, n);
            return;
        }
        let actions = state.nodes[n].renewed(named, answer);
        for term in actions.lost {
            self.abandon(state, n, usize::from(term.shard.number()));
        }
        for term in actions.hand_over {
            self.depart(state, n, usize::from(term.shard.number()));
        }
    }

    fn lapse(&self, state: &mut State, n: usize) {
        state.nodes[n].left = 0;
        state.nodes[n].lapse();
        for s in 0..self.shards {
            self.abandon(state, n, s);
        }
    }

    /// The lanes of a shard begin nothing more.
    fn depart(&self, state: &mut State, n: usize, s: usize) {
        for d in (0..self.deliveries).filter(|d| self.shard_of(*d) == s) {
            let share = &mut state.deliveries[d].at[n];
            share.is_doubled = false;
            if share.work == Work::Queued {
                share.work = Work::None;
            }
        }
    }

    /// The same, and what is under way ends where it looks next. What is about to write does not look any more.
    fn abandon(&self, state: &mut State, n: usize, s: usize) {
        self.depart(state, n, s);
        for d in (0..self.deliveries).filter(|d| self.shard_of(*d) == s) {
            let share = &mut state.deliveries[d].at[n];
            if share.work == Work::Sent {
                share.work = Work::None;
            }
        }
    }

    /// Taking over and handing over.
    fn move_shard(&self, state: &mut State, step: Step) {
        match step {
            Step::ReadThrough { n, s } => {
                let numbered = state.deliveries.map(|delivery| delivery.is_numbered);
                let Some(held) = &mut state.nodes[n].held[s] else { return };
                held.phase = Phase::Coming { through: Some(numbered) };
            }
            Step::TakeOver { n, s } => {
                let Some(Held { epoch, phase: Phase::Coming { through: Some(through) } }) = state.nodes[n].held[s]
                else {
                    return;
                };
                if !self.has(Flaw::NoTakeOver) {
                    self.retrieve(state, s, |_| true);
                }
                if state.nodes[n].begin(s, epoch) && !self.has(Flaw::NoSecondLook) {
                    // When no statement goes on that was begun before.
                    state.nodes[n].late[s] = Some(Late { epoch, wait: STATEMENT_TICKS + 1, through });
                }
            }
            Step::LookAgain { n, s } => {
                let Some(late) = state.nodes[n].late[s].take() else { return };
                if state.nodes[n].held[s].is_some_and(|held| held.epoch == late.epoch) {
                    self.retrieve(state, s, |d| late.through[d] || self.has(Flaw::SecondLookAtAll));
                }
            }
            Step::HandOver { n, s } | Step::CutOff { n, s } => {
                if matches!(step, Step::CutOff { .. }) {
                    self.abandon(state, n, s);
                    state.pauses += 1;
                }
                let Some(held) = state.nodes[n].held[s] else { return };
                let row = &mut state.rows[s];
                if row.holder == Some(n) && row.epoch == held.epoch {
                    (row.holder, row.left) = (None, 0);
                }
                state.nodes[n].given(s, held.epoch);
            }
            _ => {}
        }
    }

    /// The statement `RETRIEVE`.
    fn retrieve(&self, state: &mut State, s: usize, is_wanted: impl Fn(usize) -> bool) {
        for d in (0..self.deliveries).filter(|d| self.shard_of(*d) == s && is_wanted(*d)) {
            unmark(&mut state.deliveries[d].entry);
        }
    }

    fn accept(&self, state: &mut State, step: Step) {
        match step {
            Step::Accept { n, d } => {
                let s = self.shard_of(d);
                let row = state.rows[s];
                let is_own = row.holder == Some(n) && self.has(Flaw::OwnerOfSnapshot);
                let own_left = if is_own { row.left } else { 0 };
                let lane = state.nodes[n].owned(s);
                let begun = Stage::Begun { own_left };
                let accept = Accept { node: n, lane, is_awaited: true, age: 0, stage: begun };
                state.deliveries[d].accept = Some(accept);
            }
            Step::Number { d } => {
                let row = state.rows[self.shard_of(d)];
                let delivery = &mut state.deliveries[d];
                let Some(accept) = &mut delivery.accept else { return };
                let Stage::Begun { own_left } = accept.stage else { return };
                let is_own = if self.has(Flaw::OwnerOfSnapshot) {
                    own_left > 0
                } else {
                    row.holder == Some(accept.node) && row.left > 0
                };
                accept.stage = Stage::Numbered { in_memory: accept.lane.is_some() && is_own };
                delivery.is_numbered = true;
            }
            Step::Commit { d } => {
                let delivery = &mut state.deliveries[d];
                let Some(accept) = &mut delivery.accept else { return };
                let Stage::Numbered { in_memory } = accept.stage else { return };
                (accept.stage, accept.age) = (Stage::Committed, 0);
                delivery.entry = Entry::Pending { in_memory };
                if state.nodes[accept.node].has_died {
                    delivery.accept = None;
                }
            }
            Step::FailAccept { d } => {
                state.deliveries[d].accept = None;
                state.deliveries[d].entry = Entry::Refused;
            }
            Step::HearAccepted { d } => self.admit(state, d),
            Step::GiveAcceptUp { d } => {
                if let Some(accept) = &mut state.deliveries[d].accept {
                    accept.is_awaited = false;
                }
            }
            Step::Park { n, d } => {
                state.deliveries[d].at[n].is_to_be_parked = false;
                unmark(&mut state.deliveries[d].entry);
            }
            _ => {}
        }
    }

    /// What was accepted goes to its lane, if that is still there.
    fn admit(&self, state: &mut State, d: usize) {
        let Some(accept) = state.deliveries[d].accept.take() else { return };
        let (n, s) = (accept.node, self.shard_of(d));
        let share = &mut state.deliveries[d].at[n];
        if !accept.is_awaited {
            share.is_to_be_parked = !self.has(Flaw::NoDoubt);
            return;
        }
        let Some(epoch) = accept.lane else { return };
        if state.nodes[n].owned(s) != Some(epoch) {
            share.is_to_be_parked = true;
        } else if share.work == Work::None && share.settle.is_none_or(|settle| settle.epoch != epoch) {
            share.work = Work::Queued;
        } else {
            // A load has brought it before.
            share.is_doubled = true;
        }
    }

    fn attempt(&self, state: &mut State, step: Step) {
        let (Step::Load { n, d }
        | Step::Check { n, d }
        | Step::CheckAgain { n, d }
        | Step::Drop { n, d }
        | Step::Write { n, d }
        | Step::Answer { n, d }) = step
        else {
            return;
        };
        let (node, row) = (state.nodes[n], state.rows[self.shard_of(d)]);
        let held = node.held[self.shard_of(d)].map(|held| held.epoch);
        let delivery = &mut state.deliveries[d];
        let share = &mut delivery.at[n];
        match (step, share.work) {
            (Step::Load { .. }, _) => share.work = Work::Queued,
            (Step::Check { .. }, _) => {
                let Some(epoch) = held else { return };
                share.work = Work::Checked { epoch, age: 0 };
            }
            (Step::CheckAgain { .. }, Work::Checked { epoch, .. }) => share.work = Work::Checked { epoch, age: 0 },
            (Step::Drop { .. }, _) => share.work = Work::None,
            (Step::Write { .. }, Work::Checked { epoch, .. }) => {
                let has_lane = node.has_lane(self.shard_of(d), epoch);
                share.work = if has_lane { Work::Sent } else { Work::None };
                delivery.sent = if self.is_calm { delivery.sent + 1 } else { 0 };
                if row.holder != Some(n) {
                    delivery.sent_late += 1;
                }
                if delivery.sent_late > state.pauses {
                    state.broken = Some(LATE_SEND);
                } else if self.is_calm && delivery.sent > 1 {
                    state.broken = Some(SENT_TWICE);
                }
            }
            (Step::Answer { .. }, _) => {
                let Some(epoch) = held else { return };
                share.settle = Some(Settle { epoch, is_guarded: None });
                share.work = if std::mem::take(&mut share.is_doubled) { Work::Queued } else { Work::None };
            }
            _ => {}
        }
    }

    fn settle(&self, state: &mut State, step: Step) {
        let (Step::BeginSettle { n, d } | Step::CommitSettle { n, d } | Step::LoseSettle { n, d }) = step else {
            return;
        };
        let s = self.shard_of(d);
        let row = state.rows[s];
        let delivery = &mut state.deliveries[d];
        let Some(settle) = &mut delivery.at[n].settle else { return };
        let epoch = settle.epoch;
        let Some(is_guarded) = settle.is_guarded else {
            let is_owner = row.holder == Some(n) && row.epoch == epoch;
            settle.is_guarded = Some(is_owner || self.has(Flaw::NoFence));
            return;
        };
        delivery.at[n].settle = None;
        if matches!(step, Step::LoseSettle { .. }) {
            return;
        }
        if !is_guarded {
            // The store says that another owns it.
            if state.nodes[n].has_lane(s, epoch) {
                self.abandon(state, n, s);
            }
        } else if matches!(delivery.entry, Entry::Pending { .. }) {
            delivery.entry = Entry::Delivered;
            if row.epoch != epoch {
                state.broken = Some(STALE_SETTLEMENT);
            }
        }
    }
}

fn unmark(entry: &mut Entry) {
    if let Entry::Pending { in_memory } = entry {
        *in_memory = false;
    }
}

/// Only what the database has of it is left.
fn die(state: &mut State, n: usize) {
    let node = &mut state.nodes[n];
    let unheard = node.renewal.filter(|renewal| renewal.answer.is_none()).map(|renewal| renewal.named);
    let (orphan, seen, is_draining) = (unheard.or(node.orphan), node.seen, node.is_draining);
    *node = Node { has_died: true, orphan, seen, is_draining, ..Node::default() };
    for delivery in &mut state.deliveries {
        let share = &mut delivery.at[n];
        let settle = share.settle.filter(|settle| settle.is_guarded.is_some());
        *share = crate::state::Share { settle, ..crate::state::Share::default() };
        delivery.accept.take_if(|accept| accept.node == n && accept.stage == Stage::Committed);
    }
}

fn tick(state: &mut State, own_lease: u8) {
    let less = |left: &mut u8| *left = left.saturating_sub(1);
    state.rows.iter_mut().for_each(|row| less(&mut row.left));
    for node in &mut state.nodes {
        less(&mut node.left);
        less(&mut node.seen);
        node.late.iter_mut().flatten().for_each(|late| less(&mut late.wait));
        if let Some(renewal) = &mut node.renewal {
            renewal.age = (renewal.age + 1).min(own_lease);
        }
    }
    for delivery in &mut state.deliveries {
        if let Some(accept) = &mut delivery.accept {
            if let Stage::Begun { own_left } = &mut accept.stage {
                less(own_left);
            }
            if accept.stage != Stage::Committed {
                accept.age += 1;
            }
        }
        for share in &mut delivery.at {
            if let Work::Checked { age, .. } = &mut share.work {
                *age = (*age + 1).min(MARGIN_TICKS);
            }
        }
    }
}
