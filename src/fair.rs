//! What is shared, taken in turns by tenant: whoever has much to do waits behind whoever has little.
//!
//! [`Turns`] hands out places, one key after the other, first come, first served within a key. [`Caps`] bounds how many of
//! something a key has at once.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Whose turn it is: a tenant, as a rule.
pub(crate) trait Key: Clone + Eq + Hash {}

impl<K: Clone + Eq + Hash> Key for K {}

/// A number of places that keys take in turns.
///
/// A place that becomes free goes to the next key that waits, however many others wait for the key that had it. Nobody
/// overtakes: a place is taken at once only while nobody waits.
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
    next_id: u64,
    /// Each key with those who wait for it, in the order in which they came.
    waiting: HashMap<K, BTreeMap<u64, oneshot::Sender<Permit<K>>>>,
    /// The keys of `waiting`, the next first.
    order: VecDeque<K>,
}

/// A place; dropping it passes it on.
pub(crate) struct Permit<K: Key> {
    turns: Option<Turns<K>>,
}

impl<K: Key> Turns<K> {
    pub(crate) fn new(places: usize) -> Self {
        let state = State { free: places, next_id: 0, waiting: HashMap::new(), order: VecDeque::new() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Waits for a place, and for the key's turn. A future that is dropped leaves nothing behind.
    pub(crate) async fn acquire(&self, key: K) -> Permit<K> {
        let (waiter, handed_over) = {
            let mut state = self.state.lock();
            if state.free > 0 {
                state.free -= 1;
                return self.permit();
            }
            let (sender, handed_over) = oneshot::channel();
            let id = state.queue(key.clone(), sender);
            (Waiter { turns: self, key, id }, handed_over)
        };
        let permit = handed_over.await;
        drop(waiter);
        // The sender cannot go without a permit: it lies in a queue that is there as long as `self` is.
        permit.unwrap_or(Permit { turns: None })
    }

    fn permit(&self) -> Permit<K> {
        Permit { turns: Some(self.clone()) }
    }

    /// Gives a place to whoever is next, outside of the lock: a permit that nobody wants any more comes back.
    fn pass_on(&self) {
        loop {
            let next = {
                let mut state = self.state.lock();
                let next = state.next();
                state.free += usize::from(next.is_none());
                next
            };
            let Some(sender) = next else { return };
            match sender.send(self.permit()) {
                Ok(()) => return,
                Err(mut unwanted) => unwanted.turns = None,
            }
        }
    }
}

impl<K: Key> State<K> {
    fn queue(&mut self, key: K, sender: oneshot::Sender<Permit<K>>) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        if !self.waiting.contains_key(&key) {
            self.order.push_back(key.clone());
        }
        self.waiting.entry(key).or_default().insert(id, sender);
        id
    }

    /// The first of the next key, which goes to the end of the order if more wait for it.
    fn next(&mut self) -> Option<oneshot::Sender<Permit<K>>> {
        while let Some(key) = self.order.pop_front() {
            let Some(queue) = self.waiting.get_mut(&key) else { continue };
            let first = queue.pop_first();
            if queue.is_empty() {
                self.waiting.remove(&key);
            } else {
                self.order.push_back(key);
            }
            if let Some((_, sender)) = first {
                return Some(sender);
            }
        }
        None
    }
}

impl<K: Key> Drop for Permit<K> {
    fn drop(&mut self) {
        if let Some(turns) = self.turns.take() {
            turns.pass_on();
        }
    }
}

/// Someone who waits; its drop takes it out of the queue if it is still there.
struct Waiter<'a, K: Key> {
    turns: &'a Turns<K>,
    key: K,
    id: u64,
}

impl<K: Key> Drop for Waiter<'_, K> {
    fn drop(&mut self) {
        let mut state = self.turns.state.lock();
        // A queue that is empty now keeps the key's place in the order until its turn, so that it has one place there.
        if let Some(queue) = state.waiting.get_mut(&self.key) {
            queue.remove(&self.id);
        }
    }
}

/// How many of something each key may have at once.
pub(crate) struct Caps<K: Key> {
    most: usize,
    taken: Arc<Mutex<HashMap<K, usize>>>,
}

/// One of them; dropping it gives it back.
pub(crate) struct Share<K: Key> {
    key: K,
    taken: Arc<Mutex<HashMap<K, usize>>>,
}

impl<K: Key> Caps<K> {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, taken: Arc::default() }
    }

    /// `None`: the key has as many as it may have.
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
        let turns = turns.clone();
        let mut acquiring: Acquiring = Box::pin(async move { turns.acquire(key).await });
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
    async fn who_gives_up_leaves_nothing_behind() {
        let turns = Turns::new(1);
        let held = turns.acquire(1).await;
        for key in 0..100 {
            drop(begun(&turns, key % 3).await.err().unwrap());
        }
        assert!(turns.state.lock().waiting.values().all(BTreeMap::is_empty));
        assert!(turns.state.lock().order.len() <= 3, "a key has one place in the order");
        // One gives up after the place was handed to it: the next has it.
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
        Come(u32),
        /// The place of the n-th holder becomes free.
        Leave(usize),
        GiveUp(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..4_u32).prop_map(Step::Come),
            2 => any::<usize>().prop_map(Step::Leave),
            1 => any::<usize>().prop_map(Step::GiveUp),
        ]
    }

    proptest! {
        /// Over any history no place is lost or taken twice, and none lies idle while someone waits.
        #[test]
        fn places_are_neither_lost_nor_idle(places in 1..4_usize, steps in prop::collection::vec(step(), 1..200)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (turns, mut held, mut waiting) = (Turns::new(places), Vec::new(), Vec::<(u32, Acquiring)>::new());
            runtime.block_on(async {
                for step in steps {
                    match step {
                        Step::Come(key) => match begun(&turns, key).await {
                            Ok(permit) => held.push(permit),
                            Err(acquiring) => waiting.push((key, acquiring)),
                        },
                        Step::Leave(at) if !held.is_empty() => drop(held.swap_remove(at % held.len())),
                        Step::GiveUp(at) if !waiting.is_empty() => drop(waiting.remove(at % waiting.len())),
                        Step::Leave(_) | Step::GiveUp(_) => {}
                    }
                    let mut still = Vec::new();
                    for (key, mut acquiring) in waiting.drain(..) {
                        match poll_once(&mut acquiring).await {
                            Some(permit) => held.push(permit),
                            None => still.push((key, acquiring)),
                        }
                    }
                    waiting = still;
                    prop_assert!(held.len() <= places);
                    prop_assert!(waiting.is_empty() || held.len() == places, "a place lies idle");
                }
                Ok(())
            })?;
            drop(waiting);
            drop(held);
            prop_assert_eq!(turns.state.lock().free, places);
        }
    }
}
