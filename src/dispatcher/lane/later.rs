//! Deliveries that are not to be made yet: they wait in the store, and hold up no others but in an ordered lane.

use uuid::Uuid;

use super::Lane;
use super::state::{Mode, Todo, earlier};
use crate::clock::UnixMicros;
use crate::store::Disposition;

impl Lane {
    /// Decides where a new delivery goes that must not be attempted before `due_at`.
    pub(crate) fn postpone(&self, due_at: UnixMicros) -> Disposition {
        self.state.lock().refusal().map_or(Disposition::Later(due_at), Disposition::Skipped)
    }

    /// A delivery of this lane was committed to the store that is due at `at`, later than now.
    pub(in crate::dispatcher) fn note_later(&self, at: UnixMicros) -> Todo {
        let mut state = self.state.lock();
        if state.mode == Mode::Removed {
            return Todo { discard: true, ..Todo::default() };
        }
        let is_earlier = state.stored_due.is_none_or(|due| at < due);
        state.stored_due = earlier(state.stored_due, Some(at));
        Todo { wake_at: is_earlier.then_some(at), ..Todo::default() }
    }

    /// The webhook's UUID and name, and why a new delivery would be skipped, if it would.
    pub(crate) fn prospect(&self) -> (Uuid, String, Option<&'static str>) {
        let state = self.state.lock();
        (state.settings.uuid, state.settings.name.clone(), state.refusal())
    }
}
