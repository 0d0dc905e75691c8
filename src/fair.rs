//! What is shared, taken in turns by tenant: whoever has much to do waits behind whoever has little.
//!
//! [`Turns`] hands out places, one key after the other, first come, first served within a key. [`Caps`] bounds how many of
//! something a key has at once.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// The owner of turns, such as a tenant.
pub(crate) trait Key: Clone + Eq + Hash {}

impl<K: Clone + Eq + Hash> Key for K {}

/// A number of places that keys take in turns.
///
/// A free place goes to the next waiting key, however many waiters another key has. Waiters are never overtaken: a
/// place is taken at once only while no key waits for it. A key that has its share of the places waits without blocking
/// others.
pub(crate) struct Turns<K: Key> {
    state: Arc<Mutex<State<K>>>,
}

impl<K: Key> Clone for Turns<K> {
    fn clone(&self) -> Self {
        Self { state: Arc::clone(&self.state) }
    }
}

struct State<K: Key> {
    free: usize,
    /// The most places of a key; `None`: all, without counting.
    share: Option<usize>,
    /// With a share: the places of each key.
    taken: HashMap<K, usize>,
    next_id: u64,
    /// The waiters of each key, in order of arrival.
    waiting: HashMap<K, BTreeMap<u64, Waiting<K>>>,
    /// The keys of `waiting`, the next first.
    order: VecDeque<K>,
}

struct Waiting<K: Key> {
    places: usize,
    sender: oneshot::Sender<Permit<K>>,
}

/// Some places; dropping it passes them on.
pub(crate) struct Permit<K: Key> {
    /// `None`: the places were passed on.
    turns: Option<(Turns<K>, K)>,
    places: usize,
}

impl<K: Key> Turns<K> {
    pub(crate) fn new(places: usize) -> Self {
        Self::of(places, None)
    }

    /// No key has more than `share` of the places, even if the others are free.
    pub(crate) fn with_share(places: usize, share: usize) -> Self {
        Self::of(places, Some(share))
    }

    fn of(free: usize, share: Option<usize>) -> Self {
        let (taken, waiting, order) = (HashMap::new(), HashMap::new(), VecDeque::new());
        Self { state: Arc::new(Mutex::new(State { free, share, taken, next_id: 0, waiting, order })) }
    }

    /// Waits for a place in the key's turn. A dropped future leaves nothing behind.
    pub(crate) async fn acquire(&self, key: K) -> Permit<K> {
        self.acquire_many(key, 1).await
    }

    /// As [`Self::acquire`], for several places, at most as many as exist.
    pub(crate) async fn acquire_many(&self, key: K, places: usize) -> Permit<K> {
        let (waiter, handed_over) = {
            let mut state = self.state.lock();
            if state.take_at_once(&key, places) {
                return self.permit(key, places);
            }
            let (sender, handed_over) = oneshot::channel();
            let id = state.queue(key.clone(), Waiting { places, sender });
            (Waiter { turns: self, key, id }, handed_over)
        };
        let permit = handed_over.await;
        drop(waiter);
        // The sender cannot be dropped without a permit, since its queue lives as long as `self`.
        permit.unwrap_or(Permit { turns: None, places: 0 })
    }

    /// Computes on a blocking thread in the key's turn; `None`: the computation panicked. A computation that has begun
    /// goes on when the future is dropped.
    pub(crate) async fn compute<T: Send + 'static>(
        &self,
        key: K,
        compute: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T>
    where
        K: Send + 'static,
    {
        let permit = self.acquire(key).await;
        let computing = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            compute()
        });
        computing.await.ok()
    }

    /// The number of free places.
    pub(crate) fn free(&self) -> usize {
        self.state.lock().free
    }

    fn permit(&self, key: K, places: usize) -> Permit<K> {
        Permit { turns: Some((self.clone(), key)), places }
    }

    /// Gives places to the next waiters, outside of the lock, because a permit whose waiter has gone comes back.
    fn pass_on(&self, key: &K, places: usize) {
        self.state.lock().give_back(key, places);
        loop {
            let next = self.state.lock().next();
            let Some((key, Waiting { places, sender })) = next else { return };
            if let Err(mut unwanted) = sender.send(self.permit(key.clone(), places)) {
                unwanted.turns = None;
                self.state.lock().give_back(&key, places);
            }
        }
    }
}

impl<K: Key> State<K> {
    fn has_room(&self, key: &K, places: usize) -> bool {
        let taken = || self.taken.get(key).copied().unwrap_or_default();
        self.share.is_none_or(|share| taken() == 0 || taken() + places <= share)
    }

    fn take(&mut self, key: &K, places: usize) {
        self.free -= places;
        if self.share.is_some() {
            *self.taken.entry(key.clone()).or_default() += places;
        }
    }

    fn give_back(&mut self, key: &K, places: usize) {
        self.free += places;
        if let Some(taken) = self.taken.get_mut(key) {
            *taken -= places;
            if *taken == 0 {
                self.taken.remove(key);
            }
        }
    }

    /// Takes places at once; `false`: this would overtake a waiter.
    fn take_at_once(&mut self, key: &K, places: usize) -> bool {
        let is_wanted = |(key, queue): (&K, &BTreeMap<u64, Waiting<K>>)| {
            queue.values().next().is_some_and(|first| self.has_room(key, first.places))
        };
        if self.free < places || !self.has_room(key, places) || self.waiting.iter().any(is_wanted) {
            return false;
        }
        self.take(key, places);
        true
    }

    fn queue(&mut self, key: K, waiting: Waiting<K>) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        if !self.waiting.contains_key(&key) {
            self.order.push_back(key.clone());
        }
        self.waiting.entry(key).or_default().insert(id, waiting);
        id
    }

    /// Takes places for the first waiter of the next key that is below its share. A key with further waiters goes to
    /// the end of the order. A waiter that needs more places than are free holds up all others.
    fn next(&mut self) -> Option<(K, Waiting<K>)> {
        for _ in 0..self.order.len() {
            let key = self.order.pop_front()?;
            let first = self.waiting.get(&key).and_then(|queue| queue.values().next()).map(|first| first.places);
            let Some(places) = first else {
                self.waiting.remove(&key);
                continue;
            };
            if !self.has_room(&key, places) {
                self.order.push_back(key);
                continue;
            }
            if places > self.free {
                self.order.push_front(key);
                return None;
            }
            let queue = self.waiting.get_mut(&key)?;
            let (_, first) = queue.pop_first()?;
            if queue.is_empty() {
                self.waiting.remove(&key);
            } else {
                self.order.push_back(key.clone());
            }
            self.take(&key, places);
            return Some((key, first));
        }
        None
    }
}

impl<K: Key> Drop for Permit<K> {
    fn drop(&mut self) {
        if let Some((turns, key)) = self.turns.take() {
            turns.pass_on(&key, self.places);
        }
    }
}

/// A waiter. Its drop removes it from the queue.
struct Waiter<'a, K: Key> {
    turns: &'a Turns<K>,
    key: K,
    id: u64,
}

impl<K: Key> Drop for Waiter<'_, K> {
    fn drop(&mut self) {
        let mut state = self.turns.state.lock();
        // An empty queue keeps the key's position in the order until its turn, so that a key has only one position.
        let left = state.waiting.get_mut(&self.key).and_then(|queue| queue.remove(&self.id));
        drop(state);
        if left.is_some() {
            // Other waiters may have waited behind this one.
            self.turns.pass_on(&self.key, 0);
        }
    }
}

/// A limit of concurrent shares for each key.
pub(crate) struct Caps<K: Key> {
    most: usize,
    taken: Arc<Mutex<HashMap<K, usize>>>,
}

/// A share, which returns when dropped.
pub(crate) struct Share<K: Key> {
    key: K,
    taken: Arc<Mutex<HashMap<K, usize>>>,
}

impl<K: Key> Caps<K> {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, taken: Arc::default() }
    }

    /// `None`: the key has reached its limit.
    pub(crate) fn take(&self, key: K) -> Option<Share<K>> {
        let mut taken = self.taken.lock();
        let count = taken.entry(key.clone()).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Share { key, taken: Arc::clone(&self.taken) })
    }
}

impl<K: Key> Drop for Share<K> {
    fn drop(&mut self) {
        let mut taken = self.taken.lock();
        if let Some(count) = taken.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::Pin;
    use std::task::Poll;

    use proptest::prelude::*;

    use super::*;

    type Acquiring = Pin<Box<dyn Future<Output = Permit<u32>>>>;

    /// Begins to wait for a place; what is to be polled on.
    async fn begun(turns: &Turns<u32>, key: u32) -> Result<Permit<u32>, Acquiring> {
        begun_many(turns, key, 1).await
    }

    async fn begun_many(turns: &Turns<u32>, key: u32, places: usize) -> Result<Permit<u32>, Acquiring> {
        let turns = turns.clone();
        let mut acquiring: Acquiring = Box::pin(async move { turns.acquire_many(key, places).await });
        match poll_once(&mut acquiring).await {
            Some(permit) => Ok(permit),
            None => Err(acquiring),
        }
    }

    async fn poll_once(acquiring: &mut Acquiring) -> Option<Permit<u32>> {
        poll_fn(|context| match acquiring.as_mut().poll(context) {
            Poll::Ready(permit) => Poll::Ready(Some(permit)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    #[tokio::test]
    async fn one_with_ten_thousand_waiting_lets_the_next_one_go_next() {
        let turns = Turns::new(1);
        let held = turns.acquire(1).await;
        let mut flood = Vec::new();
        for _ in 0..10_000 {
            flood.push(begun(&turns, 1).await.err().unwrap());
        }
        let mut quiet = begun(&turns, 2).await.err().unwrap();
        drop(held);
        // The flood came first and has the first turn; the next is the other's.
        let first = poll_once(&mut flood[0]).await.unwrap();
        assert!(poll_once(&mut quiet).await.is_none());
        drop(first);
        let second = poll_once(&mut quiet).await.unwrap();
        drop(second);
        assert!(poll_once(&mut flood[1]).await.is_some());
    }

    #[tokio::test]
    async fn nobody_overtakes_whoever_waits() {
        let turns = Turns::new(1);
        let held = turns.acquire(1).await;
        let mut waiting = begun(&turns, 2).await.err().unwrap();
        drop(held);
        // The place is on its way to 2, though 2 has not looked yet.
        assert!(begun(&turns, 1).await.is_err());
        assert!(poll_once(&mut waiting).await.is_some());
    }

    #[tokio::test]
    async fn a_key_has_no_more_than_its_share_and_others_go_by() {
        let turns = Turns::with_share(2, 1);
        let held = turns.acquire(1).await;
        let mut second = begun(&turns, 1).await.err().unwrap();
        let other = begun(&turns, 2).await.ok().unwrap();
        drop(other);
        assert!(poll_once(&mut second).await.is_none(), "the place that is free is not for it");
        drop(held);
        assert!(poll_once(&mut second).await.is_some());
    }

    #[tokio::test]
    async fn one_that_needs_much_is_not_passed_by_others_that_need_little() {
        let turns = Turns::new(4);
        let held = turns.acquire_many(1, 2).await;
        let mut large = begun_many(&turns, 2, 4).await.err().unwrap();
        let mut small = begun_many(&turns, 3, 1).await.err().unwrap();
        assert!(poll_once(&mut small).await.is_none());
        drop(held);
        let large = poll_once(&mut large).await.unwrap();
        assert!(poll_once(&mut small).await.is_none());
        drop(large);
        assert!(poll_once(&mut small).await.is_some());
        // Or it gives up, and they need not wait any more.
        let held = turns.acquire_many(1, 2).await;
        let large = begun_many(&turns, 2, 4).await.err().unwrap();
        let mut small = begun_many(&turns, 3, 1).await.err().unwrap();
        drop(large);
        assert!(poll_once(&mut small).await.is_some());
        drop(held);
        assert_eq!(turns.free(), 4);
    }

    #[tokio::test]
    async fn who_gives_up_leaves_nothing_behind() {
        let turns = Turns::new(1);
        let held = turns.acquire(1).await;
        for key in 0..100 {
            drop(begun(&turns, key % 3).await.err().unwrap());
        }
        assert!(turns.state.lock().waiting.values().all(BTreeMap::is_empty));
        assert!(turns.state.lock().order.len() <= 3, "a key has one place in the order");
        // A waiter gives up after it got the place, so the next waiter gets it.
        let (first, mut second) = (begun(&turns, 1).await.err().unwrap(), begun(&turns, 2).await.err().unwrap());
        drop(held);
        drop(first);
        let held = poll_once(&mut second).await.unwrap();
        drop(held);
        assert_eq!(turns.state.lock().free, 1);
        assert!(turns.state.lock().waiting.is_empty() && turns.state.lock().order.is_empty());
    }

    #[test]
    fn a_cap_is_each_key_s_own() {
        let caps = Caps::new(2);
        let held = [caps.take(1).unwrap(), caps.take(1).unwrap()];
        assert!(caps.take(1).is_none());
        let other = caps.take(2);
        assert!(other.is_some());
        drop(held);
        assert!(caps.take(1).is_some());
        drop(other);
        assert!(caps.taken.lock().is_empty());
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// A key wants so many places.
        Come(u32, usize),
        /// The place of the n-th holder becomes free.
        Leave(usize),
        GiveUp(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..4_u32, 1..3_usize).prop_map(|(key, places)| Step::Come(key, places)),
            2 => any::<usize>().prop_map(Step::Leave),
            1 => any::<usize>().prop_map(Step::GiveUp),
        ]
    }

    proptest! {
        /// Over any history no place is lost or taken twice, no key has more than its share, and no place is idle while
        /// an allowed waiter waits.
        #[test]
        fn places_are_neither_lost_nor_idle(
            places in 2..5_usize,
            share in prop::option::of(2..5_usize),
            steps in prop::collection::vec(step(), 1..200),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let turns = share.map_or_else(|| Turns::new(places), |share| Turns::with_share(places, share));
            let (mut held, mut waiting) = (Vec::<(u32, Permit<u32>)>::new(), Vec::<(u32, usize, Acquiring)>::new());
            runtime.block_on(async {
                for step in steps {
                    match step {
                        Step::Come(key, places) => match begun_many(&turns, key, places).await {
                            Ok(permit) => held.push((key, permit)),
                            Err(acquiring) => waiting.push((key, places, acquiring)),
                        },
                        Step::Leave(at) if !held.is_empty() => drop(held.swap_remove(at % held.len())),
                        Step::GiveUp(at) if !waiting.is_empty() => drop(waiting.remove(at % waiting.len())),
                        Step::Leave(_) | Step::GiveUp(_) => {}
                    }
                    let mut still = Vec::new();
                    for (key, places, mut acquiring) in waiting.drain(..) {
                        match poll_once(&mut acquiring).await {
                            Some(permit) => held.push((key, permit)),
                            None => still.push((key, places, acquiring)),
                        }
                    }
                    waiting = still;
                    let of = |key: u32| held.iter().filter(|held| held.0 == key).map(|held| held.1.places).sum::<usize>();
                    let all: usize = (0..4).map(of).sum();
                    prop_assert!(all <= places && (0..4).all(|key| share.is_none_or(|share| of(key) <= share)));
                    let may = |key: u32, places: usize| share.is_none_or(|share| of(key) == 0 || of(key) + places <= share);
                    // A key's waiters are served in order, and the next one may need two places when only one is free.
                    let firsts = (0..4).filter_map(|key| waiting.iter().find(|waiting| waiting.0 == key));
                    let mut wanted = firsts.filter(|first| may(first.0, first.1)).map(|first| first.1);
                    prop_assert!(wanted.clone().count() == 0 || wanted.any(|wanted| all + wanted > places), "idle");
                }
                Ok(())
            })?;
            drop(waiting);
            drop(held);
            prop_assert_eq!(turns.state.lock().free, places);
            prop_assert!(turns.state.lock().taken.is_empty());
        }
    }
}
