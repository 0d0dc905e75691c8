//! Who is connected, who wants what, and what waits to be written. Pure, but for the wake-ups.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::Notify;

use super::pattern;

/// Connections at once. Each may hold a body of which the end has not come, and an event that its reader does not take.
pub(super) const MAX_BUS_CONNECTIONS: usize = 256;
/// Events that wait for one connection; then the oldest is dropped for each new one.
pub(super) const MAX_QUEUED_EVENTS: usize = 1_024;
/// Bytes of the events that wait for one connection; then the oldest are dropped.
pub(super) const MAX_QUEUED_EVENT_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of the events that wait for any connection, each event counted once; then the oldest are dropped of the
/// connection for which the most bytes wait.
pub(super) const MAX_ALL_QUEUED_EVENT_BYTES: usize = 64 * 1024 * 1024;
/// Patterns of one connection; one more ends it.
pub(super) const MAX_BUS_PATTERNS: usize = 4_096;
/// Bytes of the patterns of one connection; more end it.
pub(super) const MAX_BUS_PATTERN_BYTES: usize = 256 * 1024;
/// How much of a client's name is kept, in bytes.
pub(super) const MAX_CLIENT_NAME_BYTES: usize = 64;

/// A connection, by the order of the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct MemberId(u64);

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a connection cannot have one more pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PatternsError {
    #[error("it has {MAX_BUS_PATTERNS} patterns, the most that are allowed")]
    TooMany,
    #[error("its patterns have more than {MAX_BUS_PATTERN_BYTES} bytes, the limit")]
    TooLong,
}

/// A whole frame that waits for some connections. They share it.
#[derive(Debug)]
struct Event {
    frame: Bytes,
    /// The number of queues that it is in, which change under the hub's lock alone.
    queues: AtomicUsize,
}

#[derive(Debug)]
struct Member {
    name: Arc<str>,
    patterns: BTreeSet<Box<str>>,
    pattern_bytes: usize,
    queue: VecDeque<Arc<Event>>,
    queued_bytes: usize,
    dropped: u64,
    wake: Arc<Notify>,
}

/// Events that were dropped because a connection does not read them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Loss {
    pub(super) member: MemberId,
    /// The client's name for itself.
    pub(super) name: Arc<str>,
    /// Events of this connection dropped so far.
    pub(super) dropped: u64,
}

/// What a connection is to write next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Whole frames, at least one.
    Frames(Vec<Bytes>),
    /// Nothing before the next wake-up.
    Wait,
    /// Nothing any more.
    End,
}

/// What the hub has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Figures {
    /// Connections that were admitted.
    pub(super) connections: u64,
    /// Events that were published, wanted or not.
    pub(super) published: u64,
    /// Events that were dropped, once for each connection that lost one.
    pub(super) dropped: u64,
}

/// All connections of a bus.
#[derive(Debug, Default)]
pub(super) struct Hub {
    members: BTreeMap<MemberId, Member>,
    /// Bytes of the events in any queue, each counted once.
    queued_bytes: usize,
    is_closed: bool,
    figures: Figures,
}

impl Hub {
    /// A new connection; `None`: there are [`MAX_BUS_CONNECTIONS`]. The wake-up comes when [`Self::next`] has more.
    pub(super) fn join(&mut self) -> Option<(MemberId, Arc<Notify>)> {
        if self.members.len() >= MAX_BUS_CONNECTIONS || self.is_closed {
            return None;
        }
        self.figures.connections += 1;
        let (id, wake) = (MemberId(self.figures.connections), Arc::new(Notify::new()));
        let member = Member {
            name: "".into(),
            patterns: BTreeSet::new(),
            pattern_bytes: 0,
            queue: VecDeque::new(),
            queued_bytes: 0,
            dropped: 0,
            wake: Arc::clone(&wake),
        };
        self.members.insert(id, member);
        Some((id, wake))
    }

    /// The end of a connection, and of all that waits for it.
    pub(super) fn leave(&mut self, id: MemberId) {
        let Some(mut member) = self.members.remove(&id) else { return };
        while member.pop(&mut self.queued_bytes).is_some() {}
    }

    /// What the client calls itself.
    pub(super) fn name(&mut self, id: MemberId, name: &str) {
        if let Some(member) = self.members.get_mut(&id) {
            // A name is ASCII: any byte begins a character.
            member.name = name.get(..MAX_CLIENT_NAME_BYTES).unwrap_or(name).into();
        }
    }

    pub(super) fn name_of(&self, id: MemberId) -> Arc<str> {
        self.members.get(&id).map_or_else(|| "".into(), |member| Arc::clone(&member.name))
    }

    pub(super) fn subscribe(&mut self, id: MemberId, pattern: &str) -> Result<(), PatternsError> {
        let Some(member) = self.members.get_mut(&id).filter(|member| !member.patterns.contains(pattern)) else {
            return Ok(());
        };
        if member.patterns.len() >= MAX_BUS_PATTERNS {
            return Err(PatternsError::TooMany);
        }
        if member.pattern_bytes + pattern.len() > MAX_BUS_PATTERN_BYTES {
            return Err(PatternsError::TooLong);
        }
        member.pattern_bytes += pattern.len();
        member.patterns.insert(pattern.into());
        Ok(())
    }

    pub(super) fn unsubscribe(&mut self, id: MemberId, pattern: &str) {
        if let Some(member) = self.members.get_mut(&id)
            && member.patterns.remove(pattern)
        {
            member.pattern_bytes -= pattern.len();
        }
    }

    /// Queues a frame for each connection that wants `topic`, except for the one that published it. `None`: the server
    /// did. Nobody waits; what does not fit is dropped, and the answer says of whom.
    pub(super) fn publish(&mut self, from: Option<MemberId>, topic: &str, frame: Bytes) -> Vec<Loss> {
        let mut losses = BTreeMap::new();
        if self.is_closed {
            return Vec::new();
        }
        self.figures.published += 1;
        let event = Arc::new(Event { frame, queues: AtomicUsize::new(0) });
        for (id, member) in &mut self.members {
            if Some(*id) == from || !member.patterns.iter().any(|pattern| pattern::matches(pattern, topic)) {
                continue;
            }
            while member.is_full_for(&event) {
                member.lose(*id, &mut self.queued_bytes, &mut losses);
            }
            member.push(Arc::clone(&event), &mut self.queued_bytes);
        }
        while self.queued_bytes > MAX_ALL_QUEUED_EVENT_BYTES {
            let fullest = self.members.iter_mut().max_by_key(|(_, member)| member.queued_bytes);
            let Some((id, member)) = fullest else { break };
            member.lose(*id, &mut self.queued_bytes, &mut losses);
        }
        let losses: Vec<_> = losses.into_values().collect();
        for (loss, before) in &losses {
            self.figures.dropped += loss.dropped - before;
        }
        losses.into_iter().map(|(loss, _)| loss).collect()
    }

    /// Takes what a connection writes next: frames of `max_bytes` together, or one that is larger.
    pub(super) fn next(&mut self, id: MemberId, max_bytes: usize) -> Next {
        let Some(member) = self.members.get_mut(&id) else { return Next::End };
        let (mut frames, mut bytes) = (Vec::new(), 0);
        while let Some(event) = member.queue.front() {
            bytes += event.frame.len();
            if bytes > max_bytes && !frames.is_empty() {
                break;
            }
            frames.extend(member.pop(&mut self.queued_bytes).map(|event| event.frame.clone()));
        }
        match (frames.is_empty(), self.is_closed) {
            (false, _) => Next::Frames(frames),
            (true, false) => Next::Wait,
            (true, true) => Next::End,
        }
    }

    /// The end: nobody comes any more, nothing is published, and who has what waited is at the end.
    pub(super) fn close(&mut self) {
        self.is_closed = true;
        for member in self.members.values() {
            member.wake.notify_one();
        }
    }

    pub(super) fn figures(&self) -> Figures {
        self.figures
    }
}

impl Member {
    fn is_full_for(&self, event: &Event) -> bool {
        self.queue.len() >= MAX_QUEUED_EVENTS
            || (!self.queue.is_empty() && self.queued_bytes + event.frame.len() > MAX_QUEUED_EVENT_BYTES)
    }

    fn push(&mut self, event: Arc<Event>, all_queued_bytes: &mut usize) {
        if event.queues.fetch_add(1, Ordering::Relaxed) == 0 {
            *all_queued_bytes += event.frame.len();
        }
        self.queued_bytes += event.frame.len();
        self.queue.push_back(event);
        self.wake.notify_one();
    }

    fn pop(&mut self, all_queued_bytes: &mut usize) -> Option<Arc<Event>> {
        let event = self.queue.pop_front()?;
        self.queued_bytes -= event.frame.len();
        if event.queues.fetch_sub(1, Ordering::Relaxed) == 1 {
            *all_queued_bytes -= event.frame.len();
        }
        Some(event)
    }

    /// Drops the oldest event. `losses` has of each connection its loss, and what was dropped before.
    fn lose(&mut self, own: MemberId, all_queued_bytes: &mut usize, losses: &mut BTreeMap<MemberId, (Loss, u64)>) {
        if self.pop(all_queued_bytes).is_none() {
            return;
        }
        let before = self.dropped;
        self.dropped += 1;
        let new = || (Loss { member: own, name: Arc::clone(&self.name), dropped: 0 }, before);
        losses.entry(own).or_insert_with(new).0.dropped = self.dropped;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(number: usize, bytes: usize) -> Bytes {
        let mut frame = vec![0; bytes];
        frame[..8].copy_from_slice(&number.to_be_bytes());
        Bytes::from(frame)
    }

    fn number(frame: &Bytes) -> usize {
        usize::from_be_bytes(frame[..8].try_into().unwrap())
    }

    fn member(hub: &mut Hub, patterns: &[&str]) -> MemberId {
        let (id, _) = hub.join().unwrap();
        for pattern in patterns {
            hub.subscribe(id, pattern).unwrap();
        }
        id
    }

    /// Everything that waits for a connection.
    fn waiting(hub: &mut Hub, id: MemberId) -> Vec<usize> {
        let mut numbers = Vec::new();
        while let Next::Frames(frames) = hub.next(id, 64 * 1024) {
            numbers.extend(frames.iter().map(number));
        }
        numbers
    }

    #[test]
    fn an_event_goes_once_to_each_other_connection_that_wants_it() {
        let mut hub = Hub::default();
        let publisher = member(&mut hub, &[">"]);
        let twice = member(&mut hub, &["a.>", "a.b", "a.*"]);
        let other = member(&mut hub, &["b"]);
        assert!(hub.publish(Some(publisher), "a.b", frame(1, 8)).is_empty());
        assert!(waiting(&mut hub, publisher).is_empty());
        assert_eq!(waiting(&mut hub, twice), [1]);
        assert!(waiting(&mut hub, other).is_empty());
        hub.publish(None, "a.b", frame(2, 8));
        assert_eq!(waiting(&mut hub, publisher), [2], "the server's own events are for all");
        for pattern in ["a.>", "a.*", "not.there"] {
            hub.unsubscribe(twice, pattern);
        }
        hub.publish(None, "a.c", frame(3, 8));
        hub.publish(None, "a.b", frame(4, 8));
        assert_eq!(waiting(&mut hub, twice), [2, 4]);
    }

    #[test]
    fn the_oldest_of_too_many_events_are_dropped_and_counted() {
        let mut hub = Hub::default();
        let slow = member(&mut hub, &["a"]);
        hub.name(slow, "sleeper");
        for count in 1..=MAX_QUEUED_EVENTS {
            assert!(hub.publish(None, "a", frame(count, 8)).is_empty());
        }
        for dropped in 1..=3 {
            let losses = hub.publish(None, "a", frame(0, 8));
            assert_eq!(losses, [Loss { member: slow, name: "sleeper".into(), dropped }]);
        }
        assert_eq!(hub.figures().dropped, 3);
        let left = waiting(&mut hub, slow);
        assert_eq!((left.len(), left[0]), (MAX_QUEUED_EVENTS, 4));
        assert_eq!(hub.queued_bytes, 0);
    }

    #[test]
    fn a_queue_is_bounded_in_bytes() {
        let mut hub = Hub::default();
        let slow = member(&mut hub, &["a"]);
        let mib = 1024 * 1024;
        for count in 1..=20 {
            hub.publish(None, "a", frame(count, mib));
        }
        assert_eq!(hub.queued_bytes, MAX_QUEUED_EVENT_BYTES);
        assert_eq!(waiting(&mut hub, slow), (5..=20).collect::<Vec<_>>());
        // One event may be larger than all bounds.
        hub.publish(None, "a", frame(1, MAX_QUEUED_EVENT_BYTES + 1));
        assert_eq!(waiting(&mut hub, slow), [1]);
    }

    #[test]
    fn all_queues_together_are_bounded_in_bytes_and_the_fullest_pays() {
        let mut hub = Hub::default();
        let sleepers: Vec<_> = (0..5).map(|n| member(&mut hub, &[&format!("a.{n}")])).collect();
        let awake = member(&mut hub, &["b"]);
        let mib = 1024 * 1024;
        hub.publish(None, "b", frame(99, 8));
        for count in 1..=16 {
            for sleeper in 0..5 {
                hub.publish(None, &format!("a.{sleeper}"), frame(count, mib));
            }
            assert!(hub.queued_bytes <= MAX_ALL_QUEUED_EVENT_BYTES);
        }
        assert_eq!(waiting(&mut hub, awake), [99], "who reads loses nothing");
        let left: usize = sleepers.iter().map(|id| waiting(&mut hub, *id).len()).sum();
        assert_eq!(left + usize::try_from(hub.figures().dropped).unwrap(), 5 * 16);
        assert_eq!(hub.queued_bytes, 0);
    }

    #[test]
    fn an_event_for_many_is_counted_once() {
        let mut hub = Hub::default();
        let all: Vec<_> = (0..MAX_BUS_CONNECTIONS).map(|_| member(&mut hub, &[">"])).collect();
        assert!(hub.join().is_none(), "the number of connections is bounded");
        hub.publish(None, "a", frame(1, 1_000));
        assert_eq!(hub.queued_bytes, 1_000);
        hub.leave(all[0]);
        assert_eq!(hub.queued_bytes, 1_000);
        for id in &all[1..] {
            assert_eq!(waiting(&mut hub, *id), [1]);
        }
        assert_eq!(hub.queued_bytes, 0);
        assert!(hub.join().is_some(), "a place became free");
    }

    #[test]
    fn frames_are_taken_in_portions() {
        let mut hub = Hub::default();
        let id = member(&mut hub, &["a"]);
        for (number, bytes) in [(1, 100), (2, 60), (3, 60), (4, 20)] {
            hub.publish(None, "a", frame(number, bytes));
        }
        let mut portion = || match hub.next(id, 99) {
            Next::Frames(frames) => frames.iter().map(number).collect(),
            Next::Wait | Next::End => vec![],
        };
        assert_eq!([portion(), portion(), portion(), portion()], [vec![1], vec![2], vec![3, 4], vec![]]);
    }

    #[test]
    fn patterns_are_bounded() {
        let mut hub = Hub::default();
        let id = member(&mut hub, &[]);
        for count in 0..MAX_BUS_PATTERNS {
            hub.subscribe(id, &format!("a.{count}")).unwrap();
        }
        assert_eq!(hub.subscribe(id, "a.0"), Ok(()), "it has this one already");
        assert_eq!(hub.subscribe(id, "b"), Err(PatternsError::TooMany));
        let id = member(&mut hub, &[]);
        let long = "x".repeat(4_000);
        let refused = (0..1_000).find(|count| hub.subscribe(id, &format!("{long}{count:02}")).is_err());
        assert_eq!(refused, Some(MAX_BUS_PATTERN_BYTES / 4_002));
        hub.unsubscribe(id, &format!("{long}00"));
        assert_eq!(hub.subscribe(id, &long), Ok(()), "there is room again");
    }

    #[test]
    fn after_the_end_what_waits_is_taken_and_nothing_is_added() {
        let mut hub = Hub::default();
        let id = member(&mut hub, &["a"]);
        hub.publish(None, "a", frame(1, 8));
        hub.close();
        hub.publish(None, "a", frame(2, 8));
        assert!(hub.join().is_none());
        assert_eq!(hub.next(id, 99), Next::Frames(vec![frame(1, 8)]));
        assert_eq!(hub.next(id, 99), Next::End);
        hub.leave(id);
        assert_eq!(hub.next(id, 99), Next::End);
    }

    #[test]
    fn a_long_name_is_cut() {
        let mut hub = Hub::default();
        let id = member(&mut hub, &[]);
        hub.name(id, &"n".repeat(500));
        assert_eq!(hub.name_of(id).len(), MAX_CLIENT_NAME_BYTES);
    }
}
