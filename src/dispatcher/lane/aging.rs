//! What of a lane is too old to be attempted: it ends, whatever keeps it waiting.

use std::collections::HashSet;
use std::time::Duration;

use super::Lane;
use super::queue::Queued;
use super::state::{Mode, Todo};
use crate::clock::UnixMicros;
use crate::store::EventSeq;

/// A lane is looked through for what is too old once in this part of the age,
const LOOKS_PER_AGE: u32 = 8;
/// and not more often than this,
const MIN_LOOK_PAUSE: Duration = Duration::from_secs(1);
/// nor less often.
const MAX_LOOK_PAUSE: Duration = Duration::from_mins(1);

/// A look through a lane.
pub(in crate::dispatcher) struct Look {
    /// What has begun by then is too old.
    pub(in crate::dispatcher) cutoff: UnixMicros,
    /// What was in memory and is too old; under way from now on.
    pub(in crate::dispatcher) old: Vec<Queued>,
    /// What the store is not asked for; `None`: it is not asked, and the look has ended.
    pub(in crate::dispatcher) held: Option<HashSet<EventSeq>>,
}

impl Lane {
    /// Begins a look, if there is to be one: no load begins before [`Lane::end_look`], unless the store is not asked.
    pub(in crate::dispatcher) fn begin_look(&self, now: UnixMicros) -> Option<Look> {
        let mut state = self.state.lock();
        let max_age = state.settings.max_age?;
        let is_over = matches!(state.mode, Mode::Removed | Mode::Moved | Mode::Stopped);
        if is_over || now < state.look_for_old_at || state.backlog.load.is_under_way {
            return None;
        }
        state.look_for_old_at = now.after((max_age / LOOKS_PER_AGE).clamp(MIN_LOOK_PAUSE, MAX_LOOK_PAUSE));
        let cutoff = UnixMicros(now.0.saturating_sub(UnixMicros(0).after(max_age).0));
        let backlog = &mut state.backlog;
        let old = backlog.queue.take_begun_before(cutoff);
        backlog.under_way.extend(old.iter().map(Queued::seq));
        let is_in_store = backlog.stored_due.is_some();
        backlog.load.is_under_way = is_in_store;
        let held = is_in_store.then(|| backlog.held());
        Some(Look { cutoff, old, held })
    }

    /// What the store has that is too old: of that, what did not end meanwhile, under way from now on. `is_rest`: there is
    /// more.
    pub(in crate::dispatcher) fn end_look(
        &self,
        found: Vec<Queued>,
        is_rest: bool,
        now: UnixMicros,
    ) -> (Vec<Queued>, Todo) {
        let mut state = self.state.lock();
        if is_rest {
            state.look_for_old_at = now;
        }
        let is_ordered = state.is_ordered();
        let backlog = &mut state.backlog;
        backlog.load.is_under_way = false;
        let known = std::mem::take(&mut backlog.load.settled_meanwhile);
        let queued: HashSet<EventSeq> = backlog.queue.events().collect();
        let mut old = found;
        old.retain(|found| {
            !known.contains(&found.seq()) && !queued.contains(&found.seq()) && backlog.under_way.insert(found.seq())
        });
        if let Some(first) = old.iter().map(Queued::seq).chain(known).min().filter(|_| is_ordered) {
            backlog.ask_store_for(first, is_ordered);
        }
        let todo = self.go_on(&mut state, 0, now);
        (old, todo)
    }
}
