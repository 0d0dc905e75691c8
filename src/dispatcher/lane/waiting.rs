//! What the deliveries of a lane wait for, for people who ask.

use tokio::time::Instant;

use super::Lane;
use super::queue::Queued;
use super::state::State;
use crate::clock::UnixMicros;
use crate::store::EventSeq;

/// What keeps the next delivery of a lane from being attempted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// The rate limit.
    Rate,
    /// Its batch is not full yet.
    Batch,
    /// The receiver has asked for time.
    Receiver,
    /// In an ordered lane: the delivery of this event goes first.
    Order(EventSeq),
    /// Nothing: it waits for its turn, for a worker or a slot.
    Turn,
}

/// What waits in a lane's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// Deliveries that the store has no row for.
    pub(crate) count: u32,
    /// The acceptance of the oldest of them.
    pub(crate) since: Option<UnixMicros>,
    /// What the next delivery waits for, and until when at least; `None`: none waits.
    pub(crate) hold: Option<(Hold, Option<UnixMicros>)>,
}

impl State {
    /// The limit that lets the first of the queue go last, and when.
    pub(super) fn limit(&self, now: Instant) -> Option<(Hold, Instant)> {
        let first = self.backlog.queue.first()?;
        let limited = self.limiter.as_ref().map(|limiter| (Hold::Rate, limiter.ready_at(now)));
        let gathering = self.settings.policy.batch.and_then(|batch| {
            let queue = &self.backlog.queue;
            let is_full = first.half.is_some()
                || queue.len() >= self.settings.most_together(first)
                || queue.bytes() >= batch.max_bytes;
            // A probe finds out at once.
            (!is_full && !self.breaker.is_open()).then(|| (Hold::Batch, first.waits_since + batch.max_wait))
        });
        let resting = self.rest.ends_at(now).map(|at| (Hold::Receiver, at));
        [limited, gathering, resting].into_iter().flatten().filter(|(_, at)| *at > now).max_by_key(|(_, at)| *at)
    }

    /// The same as a moment that can be shown.
    fn limit_shown(&self, now: UnixMicros, instant: Instant) -> Option<(Hold, Option<UnixMicros>)> {
        self.limit(instant).map(|(hold, at)| (hold, Some(now.after(at - instant))))
    }

    /// The delivery that an ordered lane attempts before the one of `event`, if there is one.
    fn goes_before(&self, event: EventSeq) -> Option<EventSeq> {
        let backlog = &self.backlog;
        let awaited = backlog.awaited.map(|(awaited, _)| awaited);
        let first = backlog.queue.first().map(Queued::seq);
        let earliest = backlog.under_way.iter().copied().chain(awaited).chain(first).min()?;
        (self.is_ordered() && earliest < event).then_some(earliest)
    }
}

impl Lane {
    /// What waits here.
    pub(crate) fn held(&self, now: UnixMicros) -> Held {
        let (state, instant) = (self.state.lock(), Instant::now());
        let queue = &state.backlog.queue;
        let unstored = queue.unstored();
        let (count, since) = unstored.fold((0_u32, None), |(count, since): (u32, Option<UnixMicros>), queued| {
            (count.saturating_add(1), Some(since.map_or(queued.begins_at, |at| at.min(queued.begins_at))))
        });
        let hold = queue.first().filter(|_| state.can_run()).map(|first| match state.limit_shown(now, instant) {
            Some(limit) => limit,
            None => (state.goes_before(first.seq()).map_or(Hold::Turn, Hold::Order), None),
        });
        Held { count, since, hold }
    }

    /// What the delivery of `event` waits for, which is due; `None`: it is being attempted.
    pub(crate) fn hold(&self, event: EventSeq, now: UnixMicros) -> Option<(Hold, Option<UnixMicros>)> {
        let (state, instant) = (self.state.lock(), Instant::now());
        if state.backlog.under_way.contains(&event) {
            return None;
        }
        if let Some(first) = state.goes_before(event) {
            return Some((Hold::Order(first), None));
        }
        Some(state.limit_shown(now, instant).unwrap_or((Hold::Turn, None)))
    }
}
