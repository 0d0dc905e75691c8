//! Things by number; the number of a removed thing is used again.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::ops::{Index, IndexMut};

use crate::fit::fit;

/// The number of a `T`.
pub(super) struct Id<T> {
    number: u32,
    of: PhantomData<fn() -> T>,
}

#[derive(Debug)]
pub(super) struct Slab<T> {
    places: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Id<T> {
    fn new(number: u32) -> Self {
        Self { number, of: PhantomData }
    }

    /// For tables beside the slab.
    pub(super) fn number(self) -> usize {
        self.number as usize
    }
}

impl<T> Slab<T> {
    pub(super) fn insert(&mut self, item: T) -> Id<T> {
        if let Some(number) = self.free.pop() {
            self.places[number as usize] = Some(item);
            return Id::new(number);
        }
        self.places.push(Some(item));
        // 2^32 entries do not fit into memory.
        Id::new(fit(self.places.len() - 1, u32::MAX))
    }

    pub(super) fn remove(&mut self, id: Id<T>) -> Option<T> {
        let item = self.places.get_mut(id.number()).and_then(Option::take);
        if item.is_some() {
            self.free.push(id.number);
        }
        item
    }

    /// Larger than every number.
    pub(super) fn bound(&self) -> usize {
        self.places.len()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }
}

const REMOVED: &str = "an id is not used after its removal";

impl<T> Index<Id<T>> for Slab<T> {
    type Output = T;
    #[expect(clippy::expect_used, reason = "whoever holds an id keeps what it stands for")]
    fn index(&self, id: Id<T>) -> &T {
        self.places[id.number()].as_ref().expect(REMOVED)
    }
}

impl<T> IndexMut<Id<T>> for Slab<T> {
    #[expect(clippy::expect_used, reason = "whoever holds an id keeps what it stands for")]
    fn index_mut(&mut self, id: Id<T>) -> &mut T {
        self.places[id.number()].as_mut().expect(REMOVED)
    }
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }
}

// By hand, because a derive would require `T: Clone`.
impl<T> Clone for Id<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Id<T> {}
impl<T> PartialEq for Id<T> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}
impl<T> Eq for Id<T> {}
impl<T> PartialOrd for Id<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Id<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.number.cmp(&other.number)
    }
}
impl<T> Hash for Id<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.number.hash(state);
    }
}
impl<T> fmt::Debug for Id<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.number)
    }
}
