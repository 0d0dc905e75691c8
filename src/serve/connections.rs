//! Places for clients' connections. Neither a peer nor silent clients take all of them.
//!
//! A connection waits while no head of a request has come, at its beginning and between two requests. When places are
//! short, a waiting connection gives its place up: first those that never sent a request, then the one that has waited
//! longest. A complete request is answered in any case. When all places are busy, a connection gets a place of a reserve,
//! which answers requests for the server's health, and 503 to all others. A connection of a peer that has used its share
//! gets a place of a second reserve.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::api::ConnectionCounts;
use crate::log_rate::LogRate;

/// Reserved places for requests about the server's health when all others are taken, and as many for peers that have
/// used up their share.
pub(super) const RESERVED_CONNECTIONS: usize = 16;
/// Places of both reserves.
pub(super) const ALL_RESERVED_CONNECTIONS: usize = 2 * RESERVED_CONNECTIONS;
/// The time for which a new connection keeps its place in any case, since its first request may be on its way.
const PROBATION: Duration = Duration::from_millis(100);
/// The same in the reserves, whose few places must become free soon.
const RESERVE_PROBATION: Duration = Duration::from_millis(5);
/// The wait for a connection that was told to leave, before another one is told.
const LEAVING_TIME: Duration = Duration::from_millis(20);
/// The bits of an IPv6 address that name a network, since a client usually has all addresses of its network.
const IPV6_NETWORK_BITS: u32 = 64;
/// Instead of a time: a request is under way, or the place is free.
const BUSY: u64 = 0;
/// Instead of a time: the connection was told to leave.
const GOING: u64 = u64::MAX;
/// Added to a time: the connection has sent a request before.
const PROVEN: u64 = 1 << 62;

/// All places.
pub(super) struct Places {
    /// The time since which the connection at each place is idle, in microseconds from `began` and with [`PROVEN`]; or
    /// [`BUSY`] or [`GOING`]. The places of the two reserves come last.
    waiting: Box<[AtomicU64]>,
    began: Instant,
    max_per_peer: usize,
    table: Mutex<Table>,
    counts: Arc<ConnectionCounts>,
    shortages: LogRate,
}

struct Table {
    /// Free places, by [`Kind`].
    free: [Vec<usize>; 3],
    open: Vec<Option<Open>>,
    /// The number of unreserved places of each peer.
    by_peer: HashMap<Peer, usize>,
}

/// The purpose of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    All,
    /// For requests when all other places are taken.
    Reserve,
    /// For peers that have used up their share.
    BeyondShare,
}

/// A connection in the table.
struct Open {
    peer: Peer,
    /// Tells the connection to leave. Its drop ends the connection.
    leave: watch::Sender<()>,
}

/// An IPv4 address or an IPv6 network, whose connections are counted together.
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

/// A connection's place, which becomes free when this is dropped.
pub(super) struct Place {
    places: Arc<Places>,
    index: usize,
    /// A wait for the end of the connection waits for the drop of this receiver, which outlives the entry in the table.
    told: watch::Receiver<()>,
}

/// A request under way. Its drop makes the connection idle.
pub(super) struct Busy(Arc<Place>);

/// The decision about a new connection.
enum Admission {
    Admitted(Place),
    /// Another connection has been told to leave.
    After(watch::Sender<()>),
    /// No connection can be told to leave now. `is_refused`: nor soon.
    None {
        is_refused: bool,
    },
}

impl Places {
    /// `count` places, and the reserves. A peer has at most `max_per_peer` of the `count`.
    pub(super) fn new(count: usize, max_per_peer: usize, counts: Arc<ConnectionCounts>) -> Arc<Self> {
        let all = count + ALL_RESERVED_CONNECTIONS;
        let places = Self {
            waiting: (0..all).map(|_| AtomicU64::new(BUSY)).collect(),
            began: Instant::now(),
            max_per_peer,
            table: Mutex::new(Table {
                free: [Vec::new(), Vec::new(), Vec::new()],
                open: (0..all).map(|_| None).collect(),
                by_peer: HashMap::new(),
            }),
            counts,
            shortages: LogRate::default(),
        };
        for kind in [Kind::All, Kind::Reserve, Kind::BeyondShare] {
            places.table.lock().free[kind as usize] = places.range(kind).rev().collect();
        }
        Arc::new(places)
    }

    /// A place for a connection from `address`, for which an idle connection may have to leave. `None`: no place.
    pub(super) async fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let peer = Peer::from(address);
        loop {
            match self.take(peer) {
                Admission::Admitted(place) => return Some(place),
                Admission::After(leaving) => {
                    self.note_shortage(address, "one that waits for a request was closed");
                    // The connection has ended when its receiver is dropped. A connection whose request has just come
                    // stays until the answer.
                    let _ = tokio::time::timeout(LEAVING_TIME, leaving.closed()).await;
                }
                Admission::None { is_refused: true } => {
                    self.counts.refused.fetch_add(1, Ordering::Relaxed);
                    self.note_shortage(address, "it was closed");
                    return None;
                }
                Admission::None { is_refused: false } => tokio::time::sleep(RESERVE_PROBATION).await,
            }
        }
    }

    /// Ends all connections.
    pub(super) fn end_all(&self) {
        self.table.lock().open.clear();
    }

    fn take(self: &Arc<Self>, peer: Peer) -> Admission {
        let mut table = self.table.lock();
        let has_share = table.by_peer.get(&peer).is_some_and(|count| *count >= self.max_per_peer);
        if !has_share && let Some(index) = table.free[Kind::All as usize].pop() {
            return Admission::Admitted(self.place(&mut table, index, peer));
        }
        if let Some(leaving) = self.let_go(&table, Kind::All, |open| !has_share || open.peer == peer) {
            return Admission::After(leaving);
        }
        let kind = if has_share { Kind::BeyondShare } else { Kind::Reserve };
        if let Some(index) = table.free[kind as usize].pop() {
            return Admission::Admitted(self.place(&mut table, index, peer));
        }
        match self.let_go(&table, kind, |_| true) {
            Some(leaving) => Admission::After(leaving),
            // Other peers do not wait behind a peer that has used up its share.
            None => Admission::None { is_refused: has_share },
        }
    }

    fn place(self: &Arc<Self>, table: &mut Table, index: usize, peer: Peer) -> Place {
        if self.kind(index) == Kind::All {
            *table.by_peer.entry(peer).or_default() += 1;
        }
        let (leave, told) = watch::channel(());
        if let Some(open) = table.open.get_mut(index) {
            *open = Some(Open { peer, leave });
        }
        self.counts.open.fetch_add(1, Ordering::Relaxed);
        self.set(index, self.now());
        Place { places: Arc::clone(self), index, told }
    }

    /// Tells the connection to leave that is the least loss, among the `eligible` ones at places of this kind: unproven
    /// ones first, then the longest idle. `None`: none is idle for long enough.
    fn let_go(&self, table: &Table, kind: Kind, eligible: impl Fn(&Open) -> bool) -> Option<watch::Sender<()>> {
        let probation = if kind == Kind::All { PROBATION } else { RESERVE_PROBATION };
        let since = self.now().saturating_sub(micros(probation));
        loop {
            let range = self.range(kind);
            let waiting = range.filter_map(|index| {
                let (waiting, open) =
                    (self.waiting.get(index)?.load(Ordering::Acquire), table.open.get(index)?.as_ref()?);
                let may_go = waiting != BUSY && waiting != GOING && waiting & !PROVEN <= since && eligible(open);
                may_go.then_some((waiting, index))
            });
            let (waiting, index) = waiting.min()?;
            // A request may come at this moment, so the state is exchanged atomically.
            let told = self.waiting.get(index)?.compare_exchange(waiting, GOING, Ordering::AcqRel, Ordering::Relaxed);
            if told.is_ok() {
                let leave = table.open.get(index)?.as_ref()?.leave.clone();
                self.counts.let_go.fetch_add(1, Ordering::Relaxed);
                let _ = leave.send(());
                return Some(leave);
            }
        }
    }

    fn note_shortage(&self, address: IpAddr, outcome: &str) {
        if let Some(left_out) = self.shortages.admit(std::time::Instant::now()) {
            tracing::warn!(peer = %address, left_out, "there was no place for a connection: {outcome}");
        }
    }

    fn range(&self, kind: Kind) -> Range<usize> {
        let for_all = self.waiting.len() - ALL_RESERVED_CONNECTIONS;
        match kind {
            Kind::All => 0..for_all,
            Kind::Reserve => for_all..for_all + RESERVED_CONNECTIONS,
            Kind::BeyondShare => for_all + RESERVED_CONNECTIONS..self.waiting.len(),
        }
    }

    fn kind(&self, index: usize) -> Kind {
        let is_in = |kind: &Kind| self.range(*kind).contains(&index);
        [Kind::All, Kind::Reserve].into_iter().find(is_in).unwrap_or(Kind::BeyondShare)
    }

    /// Microseconds, from 1.
    fn now(&self) -> u64 {
        micros(self.began.elapsed()) + 1
    }

    fn set(&self, index: usize, waiting: u64) {
        if let Some(place) = self.waiting.get(index) {
            place.store(waiting, Ordering::Release);
        }
    }
}

/// More than 100,000 years fit below [`PROVEN`].
fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(PROVEN - 1).min(PROVEN - 2)
}

impl Place {
    /// Whether the place is in a reserve.
    pub(super) fn is_reserved(&self) -> bool {
        self.places.kind(self.index) != Kind::All
    }

    /// Notes a request. `true`: it is the last, since the connection was just told to leave.
    pub(super) fn begin(self: &Arc<Self>) -> (Busy, bool) {
        let waiting = self.places.waiting.get(self.index);
        let is_last = waiting.is_some_and(|waiting| waiting.swap(BUSY, Ordering::AcqRel) == GOING);
        (Busy(Arc::clone(self)), is_last)
    }

    /// Ready when the connection must leave and no request has come before that.
    pub(super) async fn gone(self: Arc<Self>) {
        let mut told = self.told.clone();
        // `Err`: the server ends all connections.
        let is_one = told.changed().await.is_ok();
        let has_request =
            || self.places.waiting.get(self.index).is_some_and(|waiting| waiting.load(Ordering::Acquire) != GOING);
        if is_one && has_request() {
            // The connection ends after its answer.
            let _ = told.changed().await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.set(self.index, BUSY);
        self.places.counts.open.fetch_sub(1, Ordering::Relaxed);
        let mut table = self.places.table.lock();
        let Some(open) = table.open.get_mut(self.index).and_then(Option::take) else { return };
        let kind = self.places.kind(self.index);
        if kind == Kind::All
            && let Some(count) = table.by_peer.get_mut(&open.peer)
        {
            *count -= 1;
            if *count == 0 {
                table.by_peer.remove(&open.peer);
            }
        }
        table.free[kind as usize].push(self.index);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let places = &self.0.places;
        places.set(self.0.index, places.now() | PROVEN);
    }
}

/// The body of an answer. The request ends with it.
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
            let weak = Arc::downgrade(&place);
            Some(Self { task: tokio::spawn(place.gone()), place: weak })
        }

        fn begin(&self) -> Option<Busy> {
            self.place.upgrade().map(|place| place.begin().0)
        }

        fn is_open(&self) -> bool {
            self.place.strong_count() > 0
        }

        fn kind(&self) -> Option<Kind> {
            self.place.upgrade().map(|place| place.places.kind(place.index))
        }
    }

    fn open(connections: &[Connection]) -> Vec<bool> {
        connections.iter().map(Connection::is_open).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_has_waited_longest_makes_room_and_those_first_that_never_sent_a_request() {
        let places = places(4, 4);
        let mut connections = Vec::new();
        for host in 0..4 {
            connections.push(Connection::open(&places, host).await.unwrap());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        // The first has sent a request, the second sends one.
        drop(connections[0].begin());
        let busy = connections[1].begin().unwrap();
        tokio::time::sleep(PROBATION).await;
        let new = Connection::open(&places, 5).await.unwrap();
        assert_eq!(open(&connections), [true, true, false, true]);
        assert_eq!(new.kind(), Some(Kind::All));
        tokio::time::sleep(PROBATION).await;
        Connection::open(&places, 6).await.unwrap();
        Connection::open(&places, 7).await.unwrap();
        assert_eq!(open(&connections), [true, true, false, false]);
        assert!(!new.is_open());
        // The newest connection stays, and one that has sent a request before leaves.
        Connection::open(&places, 8).await.unwrap();
        assert_eq!(open(&connections), [false, true, false, false]);
        assert_eq!(places.counts.let_go.load(Ordering::Relaxed), 4);
        drop(busy);
        places.end_all();
        for connection in connections {
            connection.task.await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_comes_as_its_connection_is_told_to_go_is_answered() {
        let places = places(1, 1);
        let first = Connection::open(&places, 1).await.unwrap();
        tokio::time::sleep(PROBATION).await;
        let Admission::After(leaving) = places.take(Peer::from(v4(2))) else { panic!("one can go") };
        let (busy, is_last) = first.place.upgrade().unwrap().begin();
        assert!(is_last);
        let waited = tokio::time::timeout(Duration::from_millis(20), leaving.closed()).await;
        assert!(waited.is_err() && first.is_open(), "its answer is awaited");
        // Others need not wait for that.
        let second = Connection::open(&places, 2).await.unwrap();
        assert_eq!(second.kind(), Some(Kind::Reserve));
        drop(leaving);
        tokio::task::yield_now().await;
        assert!(first.is_open());
        drop(busy);
        places.end_all();
        first.task.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_with_its_share_takes_no_place_of_others() {
        let places = places(8, 4);
        let mut flood = Vec::new();
        for _ in 0..4 {
            flood.push(Connection::open(&places, 1).await.unwrap());
        }
        let other = Connection::open(&places, 2).await.unwrap();
        tokio::time::sleep(PROBATION).await;
        flood.push(Connection::open(&places, 1).await.unwrap());
        assert_eq!(open(&flood), [false, true, true, true, true], "one of its own goes");
        assert!(other.is_open());
        let busy: Vec<_> = flood.iter().filter_map(Connection::begin).collect();
        // It gets a refusal, as long as there is room for that.
        let mut told = Vec::new();
        for _ in 0..RESERVED_CONNECTIONS {
            let connection = Connection::open(&places, 1).await.unwrap();
            assert_eq!(connection.kind(), Some(Kind::BeyondShare));
            told.push(connection.begin());
        }
        assert!(Connection::open(&places, 1).await.is_none());
        assert_eq!(places.counts.refused.load(Ordering::Relaxed), 1);
        assert_eq!(Connection::open(&places, 3).await.unwrap().kind(), Some(Kind::All));
        drop((busy, told));
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_are_busy_the_reserve_is_left() {
        let places = places(2, 2);
        let (mut connections, mut busy) = (Vec::new(), Vec::new());
        for host in 0..2 + u8::try_from(RESERVED_CONNECTIONS).unwrap() {
            let connection = Connection::open(&places, host).await.unwrap();
            assert_eq!(connection.kind(), Some(if host < 2 { Kind::All } else { Kind::Reserve }));
            busy.push(connection.begin());
            connections.push(connection);
        }
        let mut next = Box::pin(Connection::open(&places, 100));
        assert!(tokio::time::timeout(4 * RESERVE_PROBATION, &mut next).await.is_err(), "it waits for a moment");
        // A connection of the reserve gets its answer.
        busy.pop();
        assert_eq!(next.await.unwrap().kind(), Some(Kind::Reserve));
        assert_eq!(open(&connections).iter().filter(|is_open| **is_open).count(), 1 + RESERVED_CONNECTIONS);
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
        /// All connections become long idle.
        Wait,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..5_u8).prop_map(Step::Open),
            1 => any::<usize>().prop_map(Step::Close),
            2 => any::<usize>().prop_map(Step::Begin),
            1 => any::<usize>().prop_map(Step::End),
            1 => Just(Step::Wait),
        ]
    }

    proptest! {
        /// Over any history no place is lost or taken twice, no peer has more than its share, and a connection is
        /// admitted whenever a place is free or its connection idle.
        #[test]
        fn places_are_neither_lost_nor_taken_twice(steps in prop::collection::vec(step(), 1..200)) {
            const COUNT: usize = 6;
            const SHARE: usize = 3;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            let places = places(COUNT, SHARE);
            let (mut connections, mut busy) = (Vec::<(u8, Connection)>::new(), Vec::<(u8, Busy)>::new());
            runtime.block_on(async {
                for step in steps {
                    match step {
                        Step::Open(host) => {
                            let opened = tokio::time::timeout(Duration::from_secs(1), Connection::open(&places, host)).await;
                            connections.retain(|(_, connection)| connection.is_open());
                            connections.extend(opened.ok().flatten().map(|connection| (host, connection)));
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
                        Step::Wait => tokio::time::sleep(PROBATION).await,
                        _ => {}
                    }
                    let table = places.table.lock();
                    let taken: Vec<_> = table.open.iter().flatten().map(|open| open.peer).collect();
                    let free: usize = table.free.iter().map(Vec::len).sum();
                    prop_assert_eq!(taken.len() + free, COUNT + ALL_RESERVED_CONNECTIONS);
                    prop_assert_eq!(table.by_peer.values().sum::<usize>(), COUNT - table.free[0].len());
                    prop_assert!(table.by_peer.values().all(|count| *count <= SHARE));
                    prop_assert_eq!(places.counts.open.load(Ordering::Relaxed), taken.len() as u64);
                }
                Ok(())
            })?;
            drop((connections, busy));
        }
    }
}
