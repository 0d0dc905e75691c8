//! What there is in the model: the database, the nodes, the statements under way between them, and the receiver.
//!
//! Time is counted in ticks. Nothing in a state grows without end: leases are what is left of them, epochs are renumbered
//! by their order. So the states are finite though nodes take shards over for ever.

use postrider::store::Shard;
use postrider::store::cluster::{Renewed, Term};

use crate::shards::{Actions, Shards};

/// The most of each that a state has room for.
pub(crate) const NODES: usize = 2;
pub(crate) const SHARDS: usize = 2;
pub(crate) const DELIVERIES: usize = 2;

/// How long the database leaves a shard to a node that is silent.
pub(crate) const LEASE_TICKS: u8 = 3;
/// By so much less a node acts by it.
pub(crate) const MARGIN_TICKS: u8 = 1;
/// The longest that a statement may take.
pub(crate) const STATEMENT_TICKS: u8 = 2;

pub(crate) type Epoch = u8;

/// A shard's row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Row {
    pub(crate) holder: Option<usize>,
    pub(crate) epoch: Epoch,
    /// Until `lease_until`.
    pub(crate) left: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Phase {
    /// `through`: the deliveries whose events had numbers when that was read.
    Coming {
        through: Option<[bool; DELIVERIES]>,
    },
    Owned,
    Leaving,
}

/// A term as its node sees it: what the real `Shards` says of it, and how far its take-over is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Held {
    pub(crate) epoch: Epoch,
    pub(crate) phase: Phase,
}

/// The second look of an owner, to come after `wait`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Late {
    pub(crate) epoch: Epoch,
    pub(crate) wait: u8,
    pub(crate) through: [bool; DELIVERIES],
}

/// Shards with their epochs: what a renewal names, what its answer gives.
pub(crate) type Epochs = [Option<Epoch>; SHARDS];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Answer {
    pub(crate) held: Epochs,
    pub(crate) surplus: usize,
    pub(crate) is_draining: bool,
}

/// A renewal that takes its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Renewal {
    pub(crate) named: Epochs,
    /// Since it was sent.
    pub(crate) age: u8,
    pub(crate) answer: Option<Answer>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Node {
    pub(crate) has_died: bool,
    pub(crate) is_paused: bool,
    /// Of its lease, by its own clock.
    pub(crate) left: u8,
    pub(crate) held: [Option<Held>; SHARDS],
    pub(crate) renewal: Option<Renewal>,
    /// A renewal that the database may still get to, though its node has given it up.
    pub(crate) orphan: Option<Epochs>,
    pub(crate) late: [Option<Late>; SHARDS],
    /// Its row: for how long the others take it for alive, and whether it is to own nothing.
    pub(crate) seen: u8,
    pub(crate) is_draining: bool,
}

/// What the database has of a delivery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Entry {
    #[default]
    Absent,
    Pending {
        in_memory: bool,
    },
    Delivered,
    /// The statement that was to store it has failed: it never was.
    Refused,
}

/// Where a statement that accepts is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    /// It has its snapshot, in which the shard is its node's for so long; 0: it is not.
    Begun {
        own_left: u8,
    },
    Numbered {
        in_memory: bool,
    },
    Committed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Accept {
    pub(crate) node: usize,
    /// The term of the lane in which it has a place.
    pub(crate) lane: Option<Epoch>,
    /// Its publisher still waits.
    pub(crate) is_awaited: bool,
    pub(crate) age: u8,
    pub(crate) stage: Stage,
}

/// What a lane has of a delivery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Work {
    #[default]
    None,
    Queued,
    /// An attempt of this term has looked at the lease, and is about to write to the receiver.
    Checked {
        epoch: Epoch,
        age: u8,
    },
    /// The request is at the receiver.
    Sent,
}

/// An outcome on its way into the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Settle {
    pub(crate) epoch: Epoch,
    /// What the fence said; `None`: the transaction has not begun.
    pub(crate) is_guarded: Option<bool>,
}

/// A delivery as one node has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Share {
    pub(crate) work: Work,
    /// The lane got it a second time.
    pub(crate) is_doubled: bool,
    pub(crate) settle: Option<Settle>,
    /// No lane holds it, and the node is to tell the database so.
    pub(crate) is_to_be_parked: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Delivery {
    pub(crate) entry: Entry,
    pub(crate) is_numbered: bool,
    pub(crate) accept: Option<Accept>,
    pub(crate) at: [Share; NODES],
    /// How often it came to the receiver, and how often of these from a node that was not the owner.
    pub(crate) sent: u8,
    pub(crate) sent_late: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) rows: [Row; SHARDS],
    pub(crate) nodes: [Node; NODES],
    pub(crate) deliveries: [Delivery; DELIVERIES],
    /// Faults that may still come.
    pub(crate) faults_left: u8,
    /// Faults that let an attempt be sent late.
    pub(crate) pauses: u8,
    /// What was promised and is not so.
    pub(crate) broken: Option<&'static str>,
}

/// A delivery's shard.
pub(crate) fn shard_of(delivery: usize, shards: usize) -> usize {
    delivery % shards
}

fn term(shard: usize, epoch: Epoch) -> Term {
    Term { shard: Shard::from_number(u8::try_from(shard).unwrap()), epoch: i64::from(epoch) }
}

pub(crate) fn terms(epochs: Epochs) -> Vec<Term> {
    let named = epochs.into_iter().enumerate();
    named.filter_map(|(shard, epoch)| epoch.map(|epoch| term(shard, epoch))).collect()
}

impl Node {
    pub(crate) fn is_awake(&self) -> bool {
        !self.has_died && !self.is_paused
    }

    pub(crate) fn epochs(&self) -> Epochs {
        self.held.map(|held| held.map(|held| held.epoch))
    }

    /// The term of a shard whose lanes are here.
    pub(crate) fn owned(&self, shard: usize) -> Option<Epoch> {
        self.held[shard].filter(|held| held.phase == Phase::Owned).map(|held| held.epoch)
    }

    /// Whether a lane of this term is here, be it about to leave.
    pub(crate) fn has_lane(&self, shard: usize, epoch: Epoch) -> bool {
        self.held[shard].is_some_and(|held| held.epoch == epoch && matches!(held.phase, Phase::Owned | Phase::Leaving))
    }

    /// The real thing, brought to where this node is.
    pub(crate) fn shards(&self) -> Shards {
        let mut shards = Shards::default();
        let held = terms(self.epochs());
        shards.renewed(&[], &Renewed { held: held.clone(), surplus: 0, is_draining: false });
        let begin = |wanted: Phase, shards: &mut Shards| {
            for (shard, held) in self.held.iter().enumerate() {
                if let Some(held) = held.filter(|held| held.phase == wanted) {
                    assert!(shards.begin(term(shard, held.epoch)));
                }
            }
        };
        begin(Phase::Leaving, &mut shards);
        shards.renewed(&held, &Renewed { held: held.clone(), surplus: 0, is_draining: true });
        begin(Phase::Owned, &mut shards);
        assert_eq!(shards.terms(), held);
        shards
    }

    /// Lets the real thing change, and takes in what it has become.
    pub(crate) fn change<T>(&mut self, change: impl FnOnce(&mut Shards) -> T) -> T {
        let mut shards = self.shards();
        let result = change(&mut shards);
        let before = std::mem::take(&mut self.held);
        for now in shards.terms() {
            let shard = usize::from(now.shard.number());
            let epoch = Epoch::try_from(now.epoch).unwrap();
            let phase = if shards.owned(now.shard) == Some(now) {
                Phase::Owned
            } else if shards.is_coming(now) {
                let known = before[shard].filter(|before| before.epoch == epoch).map(|before| before.phase);
                known.unwrap_or(Phase::Coming { through: None })
            } else {
                Phase::Leaving
            };
            self.held[shard] = Some(Held { epoch, phase });
        }
        result
    }

    pub(crate) fn renewed(&mut self, named: Epochs, answer: &Answer) -> Actions {
        let Answer { held, surplus, is_draining } = *answer;
        let renewed = Renewed { held: terms(held), surplus, is_draining };
        self.change(|shards| shards.renewed(&terms(named), &renewed))
    }

    /// The lanes of the term are here from now on, unless it was lost.
    pub(crate) fn begin(&mut self, shard: usize, epoch: Epoch) -> bool {
        self.change(|shards| shards.begin(term(shard, epoch)))
    }

    pub(crate) fn given(&mut self, shard: usize, epoch: Epoch) {
        self.change(|shards| shards.handed_over(term(shard, epoch)));
    }

    pub(crate) fn lapse(&mut self) {
        self.change(Shards::lapse);
    }
}

impl Delivery {
    /// Nothing becomes of it any more.
    pub(crate) fn is_over(&self) -> bool {
        let is_idle = |share: &Share| share.work == Work::None && share.settle.is_none() && !share.is_doubled;
        matches!(self.entry, Entry::Delivered | Entry::Refused) && self.accept.is_none() && self.at.iter().all(is_idle)
    }

    /// A mark may come that nobody has a lane for.
    fn is_being_marked(&self) -> bool {
        self.accept.is_some_and(|accept| accept.stage == Stage::Numbered { in_memory: true })
    }
}

impl State {
    /// Forgets what makes no difference any more.
    pub(crate) fn forget(&mut self, looks_at_all: bool) {
        let being_marked = self.deliveries.map(|delivery| delivery.is_being_marked());
        let marked = self.deliveries.map(|delivery| delivery.entry == (Entry::Pending { in_memory: true }));
        for node in &mut self.nodes {
            if node.held.iter().all(Option::is_none) {
                node.left = 0;
            }
            for (held, late) in node.held.iter_mut().zip(&mut node.late) {
                if let Some(Held { phase: Phase::Coming { through: Some(through) }, .. }) = held {
                    through.iter_mut().zip(being_marked).for_each(|(through, marked)| *through &= marked);
                }
                let epoch = held.map(|held| held.epoch);
                late.take_if(|late| {
                    let relevant = being_marked.iter().zip(marked).map(|(first, second)| *first || second);
                    late.through.iter_mut().zip(relevant).for_each(|(through, relevant)| *through &= relevant);
                    Some(late.epoch) != epoch || !(looks_at_all || late.through.contains(&true))
                });
            }
        }
        for delivery in &mut self.deliveries {
            delivery.is_numbered &= delivery.is_being_marked();
            if matches!(delivery.entry, Entry::Delivered | Entry::Refused) {
                delivery.at.iter_mut().for_each(|share| share.is_to_be_parked = false);
            }
        }
    }

    /// Nodes differ in nothing but their numbers: of two states in which they have changed places one stands for both.
    pub(crate) fn put_nodes_in_order(&mut self) {
        if self.nodes[0] <= self.nodes[1] {
            return;
        }
        self.nodes.swap(0, 1);
        for row in &mut self.rows {
            row.holder = row.holder.map(|holder| 1 - holder);
        }
        for delivery in &mut self.deliveries {
            delivery.at.swap(0, 1);
            if let Some(accept) = &mut delivery.accept {
                accept.node = 1 - accept.node;
            }
        }
    }

    /// Gives epochs the lowest numbers that keep their order, so that states which differ in nothing else are one.
    pub(crate) fn renumber(&mut self, shards: usize) {
        for shard in 0..shards {
            let mut known = [false; 32];
            self.each_epoch(shard, shards, &mut |epoch| known[usize::from(*epoch)] = true);
            let mut numbers = [0; 32];
            let used = numbers.iter_mut().zip(known).filter(|(_, known)| *known);
            used.zip(0..).for_each(|((number, _), next)| *number = next);
            self.each_epoch(shard, shards, &mut |epoch| *epoch = numbers[usize::from(*epoch)]);
        }
    }

    /// Calls `each` with every epoch of a shard that anything here speaks of.
    fn each_epoch(&mut self, shard: usize, shards: usize, each: &mut dyn FnMut(&mut Epoch)) {
        each(&mut self.rows[shard].epoch);
        for node in &mut self.nodes {
            node.held[shard].iter_mut().for_each(|held| each(&mut held.epoch));
            node.late[shard].iter_mut().for_each(|late| each(&mut late.epoch));
            node.orphan.iter_mut().for_each(|named| named[shard].iter_mut().for_each(&mut *each));
            if let Some(renewal) = &mut node.renewal {
                renewal.named[shard].iter_mut().for_each(&mut *each);
                renewal.answer.iter_mut().for_each(|answer| answer.held[shard].iter_mut().for_each(&mut *each));
            }
        }
        for (_, delivery) in
            self.deliveries.iter_mut().enumerate().filter(|(delivery, _)| shard_of(*delivery, shards) == shard)
        {
            if let Some(accept) = &mut delivery.accept {
                accept.lane.iter_mut().for_each(&mut *each);
            }
            for share in &mut delivery.at {
                share.settle.iter_mut().for_each(|settle| each(&mut settle.epoch));
                if let Work::Checked { epoch, .. } = &mut share.work {
                    each(epoch);
                }
            }
        }
    }
}
