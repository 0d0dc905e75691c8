//! Places for clients' connections, of which neither a peer nor a client that says nothing takes all.
//!
//! A connection waits while no head of a request has come, at its beginning and between two requests. When places are
//! short, the one that has waited longest gives its place up. When all are busy, a connection gets a place of a reserve,
//! which answers what asks for the server's health, and nothing else.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use hyper::body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::api::ConnectionCounts;
use crate::log_rate::LogRate;

/// Places beside the others, for requests about the server's health.
pub(super) const RESERVED_CONNECTIONS: usize = 16;
/// The part of all places that a peer may take, whatever the settings say.
const PEER_SHARE: usize = 2;
/// The bits of an IPv6 address that name a network: whoever has one has all addresses within.
const IPV6_NETWORK_BITS: u32 = 64;
/// In place of the time since which a connection waits: a request is under way.
const BUSY: u64 = 0;

/// All places.
pub(super) struct Places {
    /// Since when the connection at this place waits, in microseconds from `began`, or [`BUSY`]. The last
    /// [`RESERVED_CONNECTIONS`] are the reserve.
    waiting: Box<[AtomicU64]>,
    began: Instant,
    max_per_peer: usize,
    table: Mutex<Table>,
    counts: Arc<ConnectionCounts>,
    shortages: LogRate,
}

struct Table {
    /// Places that nobody has; those of the reserve apart.
    free: Vec<usize>,
    free_reserved: Vec<usize>,
    open: Vec<Option<Open>>,
    by_peer: HashMap<Peer, usize>,
}

/// A connection as the table knows it.
struct Open {
    peer: Peer,
    /// Its going ends the connection. `None`: it is being ended.
    keep: Option<watch::Sender<()>>,
}

/// Whose connections are counted together: an IPv4 address, or an IPv6 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Peer(IpAddr);

impl From<IpAddr> for Peer {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = address.to_bits() >> (128 - IPV6_NETWORK_BITS) << (128 - IPV6_NETWORK_BITS);
                Self(IpAddr::V6(Ipv6Addr::from_bits(network)))
            }
            v4 @ IpAddr::V4(_) => Self(v4),
        }
    }
}

/// A connection's place; dropping it gives it back.
pub(super) struct Place {
    places: Arc<Places>,
    index: usize,
    /// Ends when the connection is to go. It outlives the entry in the table, whose end its sender waits for.
    kept: watch::Receiver<()>,
}

/// A request under way; dropping it makes its connection one that waits.
pub(super) struct Busy(Arc<Place>);

impl Places {
    /// `count` places and the reserve beside them. No peer has more than `max_per_peer` of them, or half.
    pub(super) fn new(count: usize, max_per_peer: usize, counts: Arc<ConnectionCounts>) -> Arc<Self> {
        let all = count + RESERVED_CONNECTIONS;
        let table = Table {
            free: (0..count).rev().collect(),
            free_reserved: (count..all).collect(),
            open: (0..all).map(|_| None).collect(),
            by_peer: HashMap::new(),
        };
        Arc::new(Self {
            waiting: (0..all).map(|_| AtomicU64::new(BUSY)).collect(),
            began: Instant::now(),
            max_per_peer: max_per_peer.min(count.div_ceil(PEER_SHARE)),
            table: Mutex::new(table),
            counts,
            shortages: LogRate::default(),
        })
    }

    /// A place for a connection from `address`, for which another may have to go; `None`: there is none.
    pub(super) async fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let peer = Peer::from(address);
        loop {
            match self.take(peer) {
                Ok(place) => return Some(place),
                // It is gone when nobody listens any more.
                Err(Some(leaving)) => {
                    self.note_shortage(address, "one that waits for a request was closed");
                    leaving.closed().await;
                }
                Err(None) => {
                    self.counts.refused.fetch_add(1, Ordering::Relaxed);
                    self.note_shortage(address, "it was closed");
                    return None;
                }
            }
        }
    }

    /// Ends all connections.
    pub(super) fn end_all(&self) {
        for open in self.table.lock().open.iter_mut().flatten() {
            open.keep = None;
        }
    }

    /// A place; or else, if one is to be had, the connection whose place it is still.
    fn take(self: &Arc<Self>, peer: Peer) -> Result<Place, Option<watch::Sender<()>>> {
        let mut table = self.table.lock();
        if table.by_peer.get(&peer).is_some_and(|count| *count >= self.max_per_peer) {
            let is_its_own = |open: &Open| open.peer == peer;
            return Err(self.let_go(&mut table, |_, open| open.as_ref().is_some_and(is_its_own)));
        }
        let index = match table.free.pop() {
            Some(index) => index,
            None => match self.let_go(&mut table, |index, _| !self.is_reserved(index)) {
                Some(leaving) => return Err(Some(leaving)),
                None => match table.free_reserved.pop() {
                    Some(index) => index,
                    None => return Err(self.let_go(&mut table, |index, _| self.is_reserved(index))),
                },
            },
        };
        *table.by_peer.entry(peer).or_default() += 1;
        let (keep, kept) = watch::channel(());
        if let Some(open) = table.open.get_mut(index) {
            *open = Some(Open { peer, keep: Some(keep) });
        }
        self.counts.open.fetch_add(1, Ordering::Relaxed);
        self.wait_at(index);
        Ok(Place { places: Arc::clone(self), index, kept })
    }

    /// Ends the connection that has waited longest of those that are `eligible`; `None`: none of them waits.
    fn let_go(&self, table: &mut Table, eligible: impl Fn(usize, &Option<Open>) -> bool) -> Option<watch::Sender<()>> {
        let since = self.waiting.iter().map(|since| since.load(Ordering::Relaxed));
        let waiting = since.zip(&table.open).enumerate().filter(|(_, (since, _))| *since != BUSY);
        let eligible = waiting.filter(|(index, (_, open))| eligible(*index, open));
        let (index, _) = eligible.min_by_key(|(_, (since, _))| *since)?;
        let keep = table.open.get_mut(index)?.as_mut()?.keep.take()?;
        // So that it is not found again.
        self.set(index, BUSY);
        self.counts.let_go.fetch_add(1, Ordering::Relaxed);
        let _ = keep.send(());
        Some(keep)
    }

    fn note_shortage(&self, address: IpAddr, outcome: &str) {
        if let Some(left_out) = self.shortages.admit(Instant::now()) {
            tracing::warn!(peer = %address, left_out, "there was no place for a connection: {outcome}");
        }
    }

    fn is_reserved(&self, index: usize) -> bool {
        index + RESERVED_CONNECTIONS >= self.waiting.len()
    }

    fn wait_at(&self, index: usize) {
        // More than 500,000 years fit.
        let now = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.set(index, now.max(BUSY + 1));
    }

    fn set(&self, index: usize, since: u64) {
        if let Some(waiting) = self.waiting.get(index) {
            waiting.store(since, Ordering::Relaxed);
        }
    }
}

impl Place {
    /// Whether it is of the reserve.
    pub(super) fn is_reserved(&self) -> bool {
        self.places.is_reserved(self.index)
    }

    /// A request has come.
    pub(super) fn begin(self: &Arc<Self>) -> Busy {
        self.places.set(self.index, BUSY);
        Busy(Arc::clone(self))
    }

    /// Ready when the connection is to go.
    pub(super) fn gone(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut kept = self.kept.clone();
        async move {
            // Whether it is told or forgotten.
            let _ = kept.changed().await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.set(self.index, BUSY);
        self.places.counts.open.fetch_sub(1, Ordering::Relaxed);
        let mut table = self.places.table.lock();
        let Some(open) = table.open.get_mut(self.index).and_then(Option::take) else { return };
        if let Some(count) = table.by_peer.get_mut(&open.peer) {
            *count -= 1;
            if *count == 0 {
                table.by_peer.remove(&open.peer);
            }
        }
        if self.places.is_reserved(self.index) {
            table.free_reserved.push(self.index);
        } else {
            table.free.push(self.index);
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.places.wait_at(self.0.index);
    }
}

/// The body of an answer, with whose end the request ends.
pub(super) struct Answered<B> {
    body: B,
    _busy: Busy,
}

impl<B> Answered<B> {
    pub(super) fn new(body: B, busy: Busy) -> Self {
        Self { body, _busy: busy }
    }
}

impl<B: Body + Unpin> Body for Answered<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Weak;
    use std::time::Duration;
    use tokio::task::JoinHandle;

    fn places(count: usize, max_per_peer: usize) -> Arc<Places> {
        Places::new(count, max_per_peer, Arc::default())
    }

    fn v4(host: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, host])
    }

    /// A connection in a task, which ends when it is to go, and its place as long as it has one.
    struct Connection {
        task: JoinHandle<()>,
        place: Weak<Place>,
    }

    impl Connection {
        async fn open(places: &Arc<Places>, host: u8) -> Option<Self> {
            let place = Arc::new(places.admit(v4(host)).await?);
            let (gone, weak) = (place.gone(), Arc::downgrade(&place));
            let task = tokio::spawn(async move {
                gone.await;
                drop(place);
            });
            Some(Self { task, place: weak })
        }

        fn begin(&self) -> Option<Busy> {
            self.place.upgrade().map(|place| place.begin())
        }

        fn is_open(&self) -> bool {
            self.place.strong_count() > 0
        }
    }

    #[tokio::test]
    async fn whoever_has_waited_longest_makes_room() {
        let places = places(3, 3);
        let mut connections = Vec::new();
        for host in 0..3 {
            connections.push(Connection::open(&places, host).await.unwrap());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let busy = connections[0].begin().unwrap();
        let new = Connection::open(&places, 4).await.unwrap();
        assert_eq!(connections.iter().map(Connection::is_open).collect::<Vec<_>>(), [true, false, true]);
        assert!(!new.place.upgrade().unwrap().is_reserved());
        // It waits from now on, for less long than the others.
        tokio::time::sleep(Duration::from_millis(2)).await;
        drop(busy);
        Connection::open(&places, 5).await.unwrap();
        assert_eq!(connections.iter().map(Connection::is_open).collect::<Vec<_>>(), [true, false, false]);
        assert_eq!(places.counts.let_go.load(Ordering::Relaxed), 2);
        places.end_all();
        for connection in connections {
            connection.task.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_peer_with_its_share_takes_no_place_of_others() {
        let places = places(8, 100);
        let flood: Vec<_> = [Connection::open(&places, 1).await, Connection::open(&places, 1).await]
            .into_iter()
            .chain([Connection::open(&places, 1).await, Connection::open(&places, 1).await])
            .flatten()
            .collect();
        let other = Connection::open(&places, 2).await.unwrap();
        let fifth = Connection::open(&places, 1).await.unwrap();
        assert_eq!(
            flood.iter().filter(|connection| connection.is_open()).count(),
            3,
            "half of the places is its share"
        );
        assert!(other.is_open());
        let busy: Vec<_> = flood.iter().chain([&fifth]).filter_map(Connection::begin).collect();
        assert!(Connection::open(&places, 1).await.is_none(), "none of its own waits");
        assert_eq!(places.counts.refused.load(Ordering::Relaxed), 1);
        drop(busy);
    }

    #[tokio::test]
    async fn when_all_are_busy_the_reserve_is_left() {
        let places = places(2, 2);
        let mut connections = Vec::new();
        let mut busy = Vec::new();
        for host in 0..2 {
            let connection = Connection::open(&places, host).await.unwrap();
            busy.push(connection.begin().unwrap());
            connections.push(connection);
        }
        for n in 0..RESERVED_CONNECTIONS {
            let connection = Connection::open(&places, 10 + u8::try_from(n).unwrap()).await.unwrap();
            assert!(connection.place.upgrade().unwrap().is_reserved());
            busy.push(connection.begin().unwrap());
            connections.push(connection);
        }
        assert!(Connection::open(&places, 100).await.is_none());
        // One of the reserve has its answer.
        busy.pop();
        let connection = Connection::open(&places, 100).await.unwrap();
        assert!(connection.place.upgrade().unwrap().is_reserved());
        assert_eq!(connections.iter().filter(|connection| connection.is_open()).count(), 1 + RESERVED_CONNECTIONS);
    }

    #[test]
    fn an_ipv6_network_is_one_peer() {
        let peer = |address: &str| Peer::from(address.parse::<IpAddr>().unwrap());
        assert_eq!(peer("2001:db8::1"), peer("2001:db8::ffff:ffff:ffff:ffff"));
        assert_ne!(peer("2001:db8:0:1::1"), peer("2001:db8::1"));
        assert_eq!(peer("::ffff:192.0.2.1"), peer("192.0.2.1"));
        assert_ne!(peer("192.0.2.1"), peer("192.0.2.2"));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Open(u8),
        Close(usize),
        Begin(usize),
        End(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..5_u8).prop_map(Step::Open),
            1 => any::<usize>().prop_map(Step::Close),
            2 => any::<usize>().prop_map(Step::Begin),
            1 => any::<usize>().prop_map(Step::End),
        ]
    }

    proptest! {
        /// Over any history no place is lost or taken twice, nobody has more than a share, and one is refused only while
        /// none that it could replace waits.
        #[test]
        fn places_are_neither_lost_nor_taken_twice(steps in prop::collection::vec(step(), 1..300)) {
            const COUNT: usize = 6;
            const SHARE: usize = 3;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let places = places(COUNT, SHARE);
            let (mut connections, mut busy) = (Vec::<(u8, Connection)>::new(), Vec::<(u8, Busy)>::new());
            runtime.block_on(async {
                for step in steps {
                    match step {
                        Step::Open(host) => {
                            let opened = Connection::open(&places, host).await;
                            connections.retain(|(_, connection)| connection.is_open());
                            let of_host = busy.iter().filter(|(other, _)| *other == host).count();
                            let may_be_refused = of_host == SHARE || busy.len() == COUNT + RESERVED_CONNECTIONS;
                            prop_assert!(opened.is_some() || may_be_refused);
                            connections.extend(opened.map(|connection| (host, connection)));
                        }
                        Step::Close(at) if !connections.is_empty() => {
                            let (_, connection) = connections.swap_remove(at % connections.len());
                            connection.task.abort();
                            // A request under way keeps its place.
                            let _ = connection.task.await;
                        }
                        Step::Begin(at) if !connections.is_empty() => {
                            let (host, connection) = &connections[at % connections.len()];
                            if connection.place.strong_count() == 1 {
                                busy.extend(connection.begin().map(|begun| (*host, begun)));
                            }
                        }
                        Step::End(at) if !busy.is_empty() => drop(busy.swap_remove(at % busy.len())),
                        _ => {}
                    }
                    let table = places.table.lock();
                    let open: Vec<_> = table.open.iter().flatten().map(|open| open.peer).collect();
                    prop_assert_eq!(open.len() + table.free.len() + table.free_reserved.len(), COUNT + RESERVED_CONNECTIONS);
                    prop_assert_eq!(table.by_peer.values().sum::<usize>(), open.len());
                    prop_assert!(table.by_peer.values().all(|count| *count <= SHARE));
                    prop_assert_eq!(places.counts.open.load(Ordering::Relaxed), open.len() as u64);
                }
                Ok(())
            })?;
        }
    }
}
