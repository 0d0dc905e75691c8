//! A model of leases, fencing and settlement among nodes that share a store, checked for small sizes in every order in
//! which things can happen.
//!
//! The database is what its statements do (`store/postgres/`), a node what it does by them (`dispatcher/ownership.rs`,
//! `engine/nodes.rs`); what follows from a renewal is decided by the real code, `dispatcher/shards.rs`. Time is ticks,
//! which a paused node does not use. All attempts succeed: what a receiver answers does not matter to who may send.
//!
//! What is promised:
//! - a settlement of a term that is over changes no row, and what is delivered stays so;
//! - who may act by its own clock is the owner in the store's; so no two send for one shard at once, but for what a node
//!   was about to write when it was paused, or when attempts were cut off to hand over: that may be sent late, once. What
//!   is between a node's look at its lease and its write is taken for shorter than the margin, and, once it has lost its
//!   lane, for shorter than an exchange with the database;
//! - where nodes renew in time and none stops before its time, nothing is sent twice, however shards move;
//! - what is accepted is delivered, if from some moment on nothing more is against it.
//!
//! "Every" order is meant for the sizes below: so many nodes, shards, deliveries and faults. A check takes the model as it
//! is after each step, without what makes no difference (`State::forget`, `State::put_nodes_in_order`).
//!
//! Each part that this needs has a test in which it is missing, and the model finds what goes wrong.

#![cfg(feature = "server")]
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "these are tests")]

mod explorer;
#[path = "../../src/dispatcher/shards.rs"]
#[allow(dead_code, reason = "the model needs less of it than the dispatcher")]
mod shards;
mod state;
mod steps;
mod world;

use explorer::{Explored, STAYS_OWED, explore};
// The name by which `shards.rs` knows it.
use postrider::store;
use steps::{LATE_SEND, SENT_TWICE, STALE_SETTLEMENT};
use world::{Fault, Flaw, World};

/// One shard and one delivery.
const SMALL: World = World { shards: 1, deliveries: 1, possible: &[], faults: 0, is_calm: false, flaw: None };

fn check(name: &str, world: &World) -> Explored {
    let explored = explore(world);
    eprintln!("{name}: {} states, up to {} steps from the first", explored.states, explored.depth);
    explored
}

fn holds(name: &str, world: &World) {
    if let Some((what, way)) = check(name, world).failure {
        eprintln!("{way}");
        assert_eq!(Some(what), None, "{name}: {world:?}");
    }
}

/// The model finds it, and nothing else goes wrong with what is there instead.
fn fails(name: &str, what: &str, world: World, flaw: Flaw) {
    let explored = check(name, &World { flaw: Some(flaw), ..world });
    assert_eq!(explored.failure(), Some(what), "{name}: {flaw:?} in {world:?}");
}

#[test]
fn shards_that_are_handed_over_in_time_send_nothing_twice() {
    let drains = World { possible: &[Fault::Drain], faults: 2, is_calm: true, ..SMALL };
    holds("one shard, drained", &drains);
    holds("one shard, two deliveries", &World { deliveries: 2, faults: 1, ..drains });
    holds("two shards", &World { shards: 2, faults: 1, ..drains });
}

#[test]
fn what_a_node_that_crashes_was_owed_is_delivered_by_the_other() {
    holds("a crash", &World { possible: &[Fault::Crash], faults: 1, ..SMALL });
    holds("a leave", &World { possible: &[Fault::Leave], faults: 1, ..SMALL });
}

#[test]
fn what_nobody_knows_the_end_of_is_delivered_if_it_was_stored() {
    holds("a doubt and a crash", &World { possible: &[Fault::Crash, Fault::GiveUp], faults: 2, ..SMALL });
}

#[test]
fn what_a_paused_node_was_about_to_send_may_come_late_and_changes_nothing() {
    holds("a pause", &World { possible: &[Fault::Pause], faults: 1, ..SMALL });
}

#[test]
#[ignore = "takes minutes: --run-ignored all"]
fn a_node_that_is_paused_while_another_crashes() {
    holds("a pause and a crash", &World { possible: &[Fault::Pause, Fault::Crash], faults: 2, ..SMALL });
}

#[test]
#[ignore = "takes minutes: --run-ignored all"]
fn shards_that_are_handed_over_while_attempts_are_under_way() {
    holds("a hand-over", &World { possible: &[Fault::Drain], faults: 1, ..SMALL });
    holds("one that is cut off", &World { possible: &[Fault::Drain, Fault::CutOff], faults: 2, ..SMALL });
}

#[test]
#[ignore = "takes minutes: --run-ignored all"]
fn renewals_that_are_done_when_their_node_has_given_them_up() {
    holds("a late renewal", &World { possible: &[Fault::Lag], faults: 1, ..SMALL });
}

#[test]
fn without_the_fence_a_node_that_was_paused_settles_what_is_not_its_own() {
    let pauses = World { possible: &[Fault::Pause], faults: 1, ..SMALL };
    fails("no fence", STALE_SETTLEMENT, pauses, Flaw::NoFence);
    fails("a fence without lock", STALE_SETTLEMENT, pauses, Flaw::NoFenceLock);
}

#[test]
fn without_the_margin_a_node_sends_when_another_may_own_the_shard() {
    fails("no margin", LATE_SEND, SMALL, Flaw::NoMargin);
}

#[test]
fn without_looking_twice_what_was_accepted_in_between_is_lost() {
    let crashes = World { possible: &[Fault::Crash], faults: 1, ..SMALL };
    fails("no look", STAYS_OWED, crashes, Flaw::NoTakeOver);
    fails("no second look", STAYS_OWED, crashes, Flaw::NoSecondLook);
}

#[test]
fn what_was_stored_for_a_publisher_that_has_gone_is_lost_if_it_stays_marked() {
    let gives_up = World { possible: &[Fault::GiveUp], faults: 1, ..SMALL };
    fails("no doubt", STAYS_OWED, gives_up, Flaw::NoDoubt);
}

#[test]
fn a_second_look_at_everything_would_send_twice() {
    let drains = World { possible: &[Fault::Drain], faults: 1, is_calm: true, ..SMALL };
    fails("second look at all", SENT_TWICE, drains, Flaw::SecondLookAtAll);
}

/// A shard is given back, or its node takes leave, while a statement of that node is under way: what the statement read
/// before it had its numbers is what was true before.
#[test]
fn an_accept_that_reads_the_owner_before_it_has_numbers_is_lost() {
    let leaves = World { possible: &[Fault::Leave], faults: 1, ..SMALL };
    fails("owner of the snapshot", STAYS_OWED, leaves, Flaw::OwnerOfSnapshot);
}

#[test]
#[ignore = "takes minutes: --run-ignored all"]
fn an_accept_that_reads_the_owner_before_it_has_numbers_is_lost_when_its_node_crashes_after_a_hand_over() {
    let crashes = World { possible: &[Fault::Drain, Fault::GiveUp, Fault::Crash], faults: 3, ..SMALL };
    fails("owner of the snapshot, handed over", STAYS_OWED, crashes, Flaw::OwnerOfSnapshot);
}
