//! States as numbers and as words in the columns of both stores.

use crate::delivery::DeliveryState;
use crate::store::failure::{Failure, corrupt};
use crate::store::replay::ReplayState;
use crate::store::{Scope, StoreError};

/// States by their code in the column `delivery.state`. Partial indexes name the codes too.
const DELIVERY_STATES: [DeliveryState; 5] = [
    DeliveryState::Delivered,
    DeliveryState::Dead,
    DeliveryState::Skipped,
    DeliveryState::Discarded,
    DeliveryState::Pending,
];

pub(in crate::store) fn delivery_code(state: DeliveryState) -> u8 {
    match state {
        DeliveryState::Delivered => 0,
        DeliveryState::Dead => 1,
        DeliveryState::Skipped => 2,
        DeliveryState::Discarded => 3,
        DeliveryState::Pending => 4,
    }
}

/// `None`: the code is none of a state.
pub(in crate::store) fn delivery_state(code: i64) -> Option<DeliveryState> {
    DELIVERY_STATES.get(usize::try_from(code).ok()?).copied()
}

/// For the column `replay_job.state`. Statements say `state < 2` for jobs that have not ended.
pub(in crate::store) fn replay_code(state: ReplayState) -> u32 {
    match state {
        ReplayState::Queued => 0,
        ReplayState::Running => 1,
        ReplayState::Done => 2,
        ReplayState::Cancelled => 3,
        ReplayState::Failed => 4,
    }
}

pub(super) fn replay_state(code: u32) -> Result<ReplayState, Failure> {
    let state = ReplayState::ALL.into_iter().find(|state| replay_code(*state) == code);
    state.ok_or_else(|| corrupt(format!("{code} is no state of a replay job")))
}

/// Names with spaces between.
pub(super) fn delivery_states(names: &str) -> Result<Vec<DeliveryState>, Failure> {
    words(names, "state", |name| DeliveryState::ALL.into_iter().find(|state| state.as_str() == name))
}

/// Names with spaces between.
pub(super) fn scopes(names: &str) -> Result<Vec<Scope>, Failure> {
    words(names, "scope", |name| Scope::ALL.into_iter().find(|scope| scope.as_str() == name))
}

fn words<T>(names: &str, what: &str, find: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, Failure> {
    let found = |name| find(name).ok_or_else(|| StoreError::Corrupt(format!("unknown {what} {name:?}")).into());
    names.split_whitespace().map(found).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_comes_back() {
        for state in DeliveryState::ALL {
            assert_eq!(delivery_state(delivery_code(state).into()), Some(state));
        }
        assert_eq!([-1, 5].map(delivery_state), [None, None]);
        for state in ReplayState::ALL {
            assert_eq!(replay_state(replay_code(state)).unwrap(), state);
        }
        assert!(replay_state(5).is_err());
    }
}
