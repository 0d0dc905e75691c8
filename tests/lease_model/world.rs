//! What can happen next in a state. What it changes is in `steps.rs`.

use crate::state::{
    DELIVERIES, Delivery, Entry, Epoch, LEASE_TICKS, MARGIN_TICKS, NODES, Phase, SHARDS, STATEMENT_TICKS, Share, Stage,
    State, Work, shard_of,
};

/// One thing that happens. `n` is a node, `s` a shard, `d` a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Time passes, for all alike.
    Tick,

    /// A renewal with everything that belongs to it, in no time.
    Renew {
        n: usize,
    },
    /// One that takes its time: it is sent, done by the database, its answer heard.
    SendRenewal {
        n: usize,
    },
    DoRenewal {
        n: usize,
    },
    HearRenewal {
        n: usize,
    },
    /// It has taken too long; the database may do it later all the same.
    GiveRenewalUp {
        n: usize,
    },
    DoRenewalLate {
        n: usize,
    },
    Lapse {
        n: usize,
    },

    ReadThrough {
        n: usize,
        s: usize,
    },
    TakeOver {
        n: usize,
        s: usize,
    },
    LookAgain {
        n: usize,
        s: usize,
    },
    HandOver {
        n: usize,
        s: usize,
    },
    /// Attempts are still under way when it is handed over.
    CutOff {
        n: usize,
        s: usize,
    },

    Accept {
        n: usize,
        d: usize,
    },
    Number {
        d: usize,
    },
    Commit {
        d: usize,
    },
    FailAccept {
        d: usize,
    },
    HearAccepted {
        d: usize,
    },
    /// The publisher is told that nobody knows what becomes of it.
    GiveAcceptUp {
        d: usize,
    },
    Park {
        n: usize,
        d: usize,
    },

    Load {
        n: usize,
        d: usize,
    },
    Check {
        n: usize,
        d: usize,
    },
    /// An attempt looks at the lease at each poll: it goes on, or ends there.
    CheckAgain {
        n: usize,
        d: usize,
    },
    Drop {
        n: usize,
        d: usize,
    },
    Write {
        n: usize,
        d: usize,
    },
    Answer {
        n: usize,
        d: usize,
    },

    BeginSettle {
        n: usize,
        d: usize,
    },
    CommitSettle {
        n: usize,
        d: usize,
    },
    LoseSettle {
        n: usize,
        d: usize,
    },

    Crash {
        n: usize,
    },
    /// It stops without waiting for what is under way, and takes leave.
    Leave {
        n: usize,
    },
    Pause {
        n: usize,
    },
    Resume {
        n: usize,
    },
    Drain {
        n: usize,
    },
    Undrain {
        n: usize,
    },
}

/// What can be against it. Of all of them together [`World::faults`] happen at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Crash,
    /// See [`Step::Leave`].
    Leave,
    /// A node takes no step while time passes.
    Pause,
    /// An operator has a node give its shards away, and may let it have some again.
    Drain,
    /// See [`Step::CutOff`].
    CutOff,
    /// A renewal takes its time, or is done after its node has given it up.
    Lag,
    /// See [`Step::GiveAcceptUp`].
    GiveUp,
}

/// What the program could do without, if the model let it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// Settlements do not look whose the shard is.
    NoFence,
    /// They look, and do not keep the shard from being taken before they are committed.
    NoFenceLock,
    /// A node acts by its lease for as long as the store says.
    NoMargin,
    /// A new owner does not take the marks of what the one before held in memory.
    NoTakeOver,
    /// It does, and does not look again later.
    NoSecondLook,
    /// At its second look it takes the marks of all that is marked, with its own.
    SecondLookAtAll,
    /// An accept reads whose the shard is in the snapshot that it began with, before it has numbers.
    OwnerOfSnapshot,
    /// What was stored for a publisher that has gone stays marked.
    NoDoubt,
}

/// A size of the model, and what happens in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct World {
    pub(crate) shards: usize,
    pub(crate) deliveries: usize,
    pub(crate) possible: &'static [Fault],
    pub(crate) faults: u8,
    /// Nodes always renew in time.
    pub(crate) is_calm: bool,
    pub(crate) flaw: Option<Flaw>,
}

impl World {
    pub(crate) fn initial(&self) -> State {
        assert!((1..=SHARDS).contains(&self.shards) && (1..=DELIVERIES).contains(&self.deliveries));
        State { faults_left: self.faults, ..State::default() }
    }

    pub(crate) fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    /// How long a node may act from when it sent a renewal.
    pub(crate) fn own_lease(&self) -> u8 {
        LEASE_TICKS - if self.has(Flaw::NoMargin) { 0 } else { MARGIN_TICKS }
    }

    pub(crate) fn shard_of(&self, delivery: usize) -> usize {
        shard_of(delivery, self.shards)
    }

    /// Everything that was accepted is delivered, and nothing is being accepted.
    pub(crate) fn owes_nothing(&self, state: &State) -> bool {
        let ours = &state.deliveries[..self.deliveries];
        ours.iter().all(|delivery| !matches!(delivery.entry, Entry::Pending { .. }) && delivery.accept.is_none())
    }

    /// Whether it happens, again and again, where nothing is against it. Nodes renew in time then.
    pub(crate) fn is_good(state: &State, step: Step) -> bool {
        match step {
            Step::Tick => Self::is_in_time(state),
            Step::DoRenewalLate { .. } | Step::FailAccept { .. } | Step::LoseSettle { .. } => false,
            step => fault(step).is_none(),
        }
    }

    /// No lease ends with this tick, except of nodes that have nothing.
    fn is_in_time(state: &State) -> bool {
        state.nodes.iter().all(|node| node.left != 1 || node.held.iter().all(Option::is_none))
    }

    fn may_tick(&self, state: &State) -> bool {
        let ends_in_time = |share: (usize, &Share)| {
            let (node, share) = share;
            let is_at_end = matches!(share.work, Work::Checked { age, .. } if age >= MARGIN_TICKS);
            // What is between a look at the lease and the write takes no longer than the margin, unless the node is paused.
            !(is_at_end && state.nodes[node].is_awake())
        };
        let mut deliveries = state.deliveries.iter();
        deliveries.all(|delivery| {
            let is_at_end = delivery
                .accept
                .is_some_and(|accept| accept.age >= STATEMENT_TICKS && !matches!(accept.stage, Stage::Committed));
            !is_at_end && delivery.at.iter().enumerate().all(ends_in_time)
        }) && (!self.is_calm || Self::is_in_time(state))
    }

    /// What can happen next.
    pub(crate) fn steps(&self, state: &State, steps: &mut Vec<Step>) {
        steps.clear();
        if state.deliveries[..self.deliveries].iter().all(Delivery::is_over) {
            return;
        }
        if self.may_tick(state) {
            steps.push(Step::Tick);
        }
        for n in 0..NODES {
            self.steps_of_lease(state, n, steps);
            for d in 0..self.deliveries {
                self.steps_of_delivery(state, n, d, steps);
                Self::steps_of_settling(state, n, d, steps);
            }
            if state.nodes[n].is_awake() {
                let others_live = (0..NODES).any(|other| other != n && !state.nodes[other].has_died);
                let fatal = [Step::Crash { n }, Step::Leave { n }];
                steps.extend(fatal.into_iter().filter(|_| others_live));
                // A node may be slow at any time. A pause is more than that only where something is to come in time.
                let is_writing = |delivery: &Delivery| matches!(delivery.at[n].work, Work::Checked { .. });
                if state.deliveries.iter().any(is_writing) {
                    steps.push(Step::Pause { n });
                }
            }
            if state.nodes[n].is_paused {
                steps.push(Step::Resume { n });
            }
            if state.nodes[n].is_draining {
                steps.push(Step::Undrain { n });
            } else if !state.nodes[n].has_died {
                steps.push(Step::Drain { n });
            }
        }
        for d in 0..self.deliveries {
            Self::steps_of_accepting(state, d, steps);
        }
        let may_happen = |fault| state.faults_left > 0 && self.possible.contains(&fault);
        steps.retain(|step| fault(*step).is_none_or(may_happen));
    }

    fn steps_of_lease(&self, state: &State, n: usize, steps: &mut Vec<Step>) {
        let node = &state.nodes[n];
        if node.renewal.is_some_and(|renewal| renewal.answer.is_none()) {
            steps.push(Step::DoRenewal { n });
        }
        if node.orphan.is_some() {
            steps.push(Step::DoRenewalLate { n });
        }
        if !node.is_awake() {
            return;
        }
        let has_lapsed = node.left == 0 && node.held.iter().any(Option::is_some);
        if has_lapsed {
            steps.push(Step::Lapse { n });
        }
        // What an attempt that is aborted was about to write is written before the database answers anything.
        let is_writing = (0..self.deliveries).any(|d| {
            let work = state.deliveries[d].at[n].work;
            matches!(work, Work::Checked { epoch, .. } if !node.has_lane(self.shard_of(d), epoch))
        });
        match node.renewal {
            None if is_writing => {}
            None if !has_lapsed => steps.extend([Step::Renew { n }, Step::SendRenewal { n }]),
            None => {}
            Some(renewal) => {
                if renewal.answer.is_some() {
                    steps.push(Step::HearRenewal { n });
                }
                if renewal.age >= self.own_lease() {
                    steps.push(Step::GiveRenewalUp { n });
                }
            }
        }
        for s in 0..self.shards {
            match node.held[s].map(|held| held.phase) {
                Some(Phase::Coming { through: None }) => steps.push(Step::ReadThrough { n, s }),
                Some(Phase::Coming { through: Some(_) }) => steps.push(Step::TakeOver { n, s }),
                Some(Phase::Leaving) if self.is_idle(state, n, s) => steps.push(Step::HandOver { n, s }),
                Some(Phase::Leaving) => steps.push(Step::CutOff { n, s }),
                Some(Phase::Owned) | None => {}
            }
            if node.late[s].is_some_and(|late| late.wait == 0) {
                steps.push(Step::LookAgain { n, s });
            }
        }
    }

    /// Nothing of the lane is under way, and nothing that is being accepted has a place in it.
    fn is_idle(&self, state: &State, n: usize, s: usize) -> bool {
        let epoch = state.nodes[n].held[s].map(|held| held.epoch);
        let is_mine = |other: Epoch| Some(other) == epoch;
        (0..self.deliveries).filter(|d| self.shard_of(*d) == s).all(|d| {
            let (delivery, share) = (&state.deliveries[d], &state.deliveries[d].at[n]);
            let is_under_way = match share.work {
                Work::None | Work::Queued => false,
                Work::Checked { epoch, .. } => is_mine(epoch),
                Work::Sent => true,
            };
            let has_place = delivery
                .accept
                .is_some_and(|accept| accept.node == n && accept.is_awaited && accept.lane.is_some_and(is_mine));
            !is_under_way && !has_place && share.settle.is_none_or(|settle| !is_mine(settle.epoch))
        })
    }

    fn steps_of_accepting(state: &State, d: usize, steps: &mut Vec<Step>) {
        let delivery = &state.deliveries[d];
        let Some(accept) = delivery.accept else {
            if delivery.entry == Entry::Absent {
                let awake = (0..NODES).filter(|n| state.nodes[*n].is_awake());
                steps.extend(awake.map(|n| Step::Accept { n, d }));
            }
            return;
        };
        match accept.stage {
            Stage::Begun { .. } => steps.push(Step::Number { d }),
            Stage::Numbered { .. } => steps.push(Step::Commit { d }),
            Stage::Committed if state.nodes[accept.node].is_awake() => steps.push(Step::HearAccepted { d }),
            Stage::Committed => {}
        }
        if accept.stage != Stage::Committed {
            let is_gone = state.nodes[accept.node].has_died;
            if is_gone || accept.age >= STATEMENT_TICKS {
                steps.push(Step::FailAccept { d });
            }
            if accept.is_awaited && state.nodes[accept.node].is_awake() {
                steps.push(Step::GiveAcceptUp { d });
            }
        }
    }

    fn steps_of_delivery(&self, state: &State, n: usize, d: usize, steps: &mut Vec<Step>) {
        let (node, delivery, s) = (&state.nodes[n], &state.deliveries[d], self.shard_of(d));
        let share = &delivery.at[n];
        if !node.is_awake() {
            return;
        }
        if share.is_to_be_parked && delivery.accept.is_none() {
            steps.push(Step::Park { n, d });
        }
        match share.work {
            Work::None => {
                let is_held = |epoch| share.settle.is_some_and(|settle| settle.epoch == epoch);
                let is_owned = node.owned(s).is_some_and(|epoch| !is_held(epoch));
                if is_owned && delivery.entry == (Entry::Pending { in_memory: false }) {
                    steps.push(Step::Load { n, d });
                }
            }
            Work::Queued if node.owned(s).is_some() && node.left > 0 => steps.push(Step::Check { n, d }),
            Work::Checked { epoch, age } => {
                steps.push(Step::Write { n, d });
                let goes_on = node.left > 0 && node.has_lane(s, epoch);
                if !goes_on {
                    steps.push(Step::Drop { n, d });
                } else if age > 0 {
                    steps.push(Step::CheckAgain { n, d });
                }
            }
            Work::Sent if node.left > 0 && share.settle.is_none() => steps.push(Step::Answer { n, d }),
            Work::Queued | Work::Sent => {}
        }
    }

    fn steps_of_settling(state: &State, n: usize, d: usize, steps: &mut Vec<Step>) {
        let Some(settle) = state.deliveries[d].at[n].settle else { return };
        match settle.is_guarded {
            None if state.nodes[n].is_awake() => steps.push(Step::BeginSettle { n, d }),
            None => {}
            Some(_) => {
                steps.push(Step::CommitSettle { n, d });
                if state.nodes[n].has_died {
                    steps.push(Step::LoseSettle { n, d });
                }
            }
        }
    }
}

/// What it is that happens, if it is against it.
pub(crate) fn fault(step: Step) -> Option<Fault> {
    Some(match step {
        Step::Crash { .. } => Fault::Crash,
        Step::Leave { .. } => Fault::Leave,
        Step::Pause { .. } => Fault::Pause,
        Step::Drain { .. } => Fault::Drain,
        Step::CutOff { .. } => Fault::CutOff,
        Step::SendRenewal { .. } => Fault::Lag,
        Step::GiveAcceptUp { .. } => Fault::GiveUp,
        _ => return None,
    })
}
