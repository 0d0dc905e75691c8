//! The end of a lane that another node is to have.

use super::Lane;
use super::state::Mode;

impl Lane {
    /// Another node is to have the webhook: no attempt starts any more. What waits here is for that one to find.
    pub(in crate::dispatcher) fn leave(&self) {
        let mut state = self.state.lock();
        state.mode = Mode::Left;
        state.queue.take_all();
    }

    pub(crate) fn has_left(&self) -> bool {
        self.term.is_some() && self.state.lock().mode == Mode::Left
    }

    /// Nothing is under way, and nothing that is being accepted has a place here.
    pub(in crate::dispatcher) fn is_idle(&self) -> bool {
        let state = self.state.lock();
        state.under_way.is_empty() && state.reserved == 0
    }
}
