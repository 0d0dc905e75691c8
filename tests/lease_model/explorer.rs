//! Looks at every state that can be reached, breadth first, so that the way to one that must not be is a shortest one.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;

use crate::state::State;
use crate::world::{Step, World};

/// A size that was chosen wrongly ends a test here, and not when memory does.
const MAX_STATES: usize = 3_000_000;

pub(crate) struct Explored {
    pub(crate) states: usize,
    pub(crate) depth: usize,
    /// What was found, and the way there.
    pub(crate) failure: Option<(&'static str, String)>,
}

impl Explored {
    pub(crate) fn failure(&self) -> Option<&'static str> {
        self.failure.as_ref().map(|(what, _)| *what)
    }
}

/// Whatever is accepted is delivered in the end, if nothing but good things happen from some moment on and whatever can
/// happen again and again does at last.
pub(crate) const STAYS_OWED: &str = "what was accepted is never delivered";

/// A state is hashed field by field, which the usual hash is too slow for without optimisation.
#[derive(Default)]
struct Mix(u64);

impl Mix {
    fn add(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.add(u64::from(*byte));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.add(u64::from(value));
    }

    fn write_usize(&mut self, value: usize) {
        self.add(value as u64);
    }

    fn write_isize(&mut self, value: isize) {
        self.add(value.cast_unsigned() as u64);
    }
}

struct Seen {
    states: Vec<Rc<State>>,
    /// How each was reached first.
    from: Vec<Option<(usize, Step)>>,
    numbers: HashMap<Rc<State>, usize, BuildHasherDefault<Mix>>,
}

impl Seen {
    /// The number of a state, if it is new.
    fn add(&mut self, state: State, from: Option<(usize, Step)>) -> (usize, bool) {
        if let Some(number) = self.numbers.get(&state) {
            return (*number, false);
        }
        let (state, number) = (Rc::new(state), self.states.len());
        self.states.push(Rc::clone(&state));
        self.from.push(from);
        self.numbers.insert(state, number);
        (number, true)
    }

    /// The steps there, and where they lead. Nodes may have changed their numbers on the way.
    fn way_to(&self, mut number: usize) -> String {
        let mut steps = VecDeque::new();
        let last = number;
        while let Some((before, step)) = self.from[number] {
            steps.push_front(step);
            number = before;
        }
        let mut way = String::new();
        for step in steps {
            let _ = writeln!(way, "  {step:?}");
        }
        let _ = writeln!(way, "{:#?}", self.states[last]);
        way
    }

    fn depth_of(&self, mut number: usize) -> usize {
        let mut depth = 0;
        while let Some((before, _)) = self.from[number] {
            (number, depth) = (before, depth + 1);
        }
        depth
    }
}

/// Ends at the first state in which something is broken. If there is none, looks for one from which good steps alone do
/// not lead to where nothing is owed: that is what "in the end" means, loops included.
pub(crate) fn explore(world: &World) -> Explored {
    let mut seen = Seen { states: Vec::new(), from: Vec::new(), numbers: HashMap::default() };
    seen.add(world.initial(), None);
    let mut good: Vec<(u32, u32)> = Vec::new();
    let mut steps = Vec::new();
    let mut next = 0;
    while next < seen.states.len() {
        let state = Rc::clone(&seen.states[next]);
        world.steps(&state, &mut steps);
        for step in steps.drain(..) {
            let after = world.apply(&state, step);
            assert!(!is_undone(&state, &after), "a delivery has left its end: {step:?} in {state:#?}");
            let (number, is_new) = seen.add(after, Some((next, step)));
            if let Some(broken) = after.broken.filter(|_| is_new) {
                return seen.failed(broken, number);
            }
            if World::is_good(&state, step) {
                good.push((u32::try_from(number).unwrap(), u32::try_from(next).unwrap()));
            }
        }
        assert!(seen.states.len() <= MAX_STATES, "more than {MAX_STATES} states");
        next += 1;
    }
    if let Some(number) = first_stuck(world, &seen, good) {
        return seen.failed(STAYS_OWED, number);
    }
    let last = seen.states.len() - 1;
    Explored { states: seen.states.len(), depth: seen.depth_of(last), failure: None }
}

impl Seen {
    fn failed(&self, what: &'static str, number: usize) -> Explored {
        let way = self.way_to(number);
        Explored { states: self.states.len(), depth: self.depth_of(number), failure: Some((what, way)) }
    }
}

fn is_undone(before: &State, after: &State) -> bool {
    use crate::state::Entry::{Delivered, Refused};
    let entries = before.deliveries.iter().zip(&after.deliveries);
    entries
        .into_iter()
        .any(|(before, after)| matches!(before.entry, Delivered | Refused) && before.entry != after.entry)
}

/// The first state that no good steps lead out of to where nothing is owed.
fn first_stuck(world: &World, seen: &Seen, mut good: Vec<(u32, u32)>) -> Option<usize> {
    good.sort_unstable();
    good.dedup();
    let mut is_fine: Vec<bool> = seen.states.iter().map(|state| world.owes_nothing(state)).collect();
    let mut open: Vec<usize> = (0..is_fine.len()).filter(|number| is_fine[*number]).collect();
    while let Some(number) = open.pop() {
        let number = u32::try_from(number).unwrap();
        let first = good.partition_point(|(to, _)| *to < number);
        for (_, from) in good[first..].iter().take_while(|(to, _)| *to == number) {
            let from = *from as usize;
            if !std::mem::replace(&mut is_fine[from], true) {
                open.push(from);
            }
        }
    }
    is_fine.iter().position(|is_fine| !is_fine)
}
