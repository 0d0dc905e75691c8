//! Which addresses of a name have their turn: only a few are tried in one attempt.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::delivery::guard::GuardedAddr;

/// The most addresses that are remembered as failed. Beyond them the oldest failure is forgotten.
pub const MAX_FAILED_ADDRESSES: usize = 1_024;
/// How long an address that failed comes after the others of its name. Retries of one delivery may be as far apart.
pub const FAILURE_REMEMBERED: Duration = Duration::from_hours(24);

/// The addresses of names with several of them to which no connection could be made lately.
#[derive(Default)]
pub(super) struct Turns(Mutex<HashMap<GuardedAddr, Instant>>);

impl Turns {
    /// Puts addresses without a failure first, and then those whose failure is the longest ago.
    pub(super) fn order(&self, addresses: &mut [GuardedAddr]) {
        if addresses.len() < 2 {
            return;
        }
        let failed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !failed.is_empty() {
            let failed_at = |address: &GuardedAddr| failed.get(address).filter(|at| at.elapsed() < FAILURE_REMEMBERED);
            addresses.sort_by_key(|address| failed_at(address).copied());
        }
    }

    /// Notes that there was no connection to the address.
    pub(super) fn failed(&self, address: GuardedAddr) {
        let mut failed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.len() >= MAX_FAILED_ADDRESSES && !failed.contains_key(&address) {
            let oldest = failed.iter().min_by_key(|(_, at)| **at).map(|(address, _)| *address);
            oldest.map(|address| failed.remove(&address));
        }
        failed.insert(address, Instant::now());
    }

    /// Notes that there was a connection.
    pub(super) fn connected(&self, address: GuardedAddr) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&address);
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::delivery::guard::EgressPolicy;

    fn guarded(index: usize) -> GuardedAddr {
        let [high, low] = u16::try_from(index).unwrap().to_be_bytes();
        EgressPolicy::default().check(SocketAddr::from(([8, 8, high, low], 443))).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn every_address_has_its_turn_and_a_failure_is_forgotten() {
        let turns = Turns::default();
        let all: Vec<_> = (0..10).map(guarded).collect();
        let mut tried = Vec::new();
        for _ in 0..3 {
            let mut order = all.clone();
            turns.order(&mut order);
            for address in &order[..4] {
                tried.push(*address);
                turns.failed(*address);
                tokio::time::advance(Duration::from_millis(1)).await;
            }
        }
        assert_eq!(tried[..10], all, "each once, in their order");
        assert_eq!(tried[10..], all[..2], "and then the one whose failure is the longest ago");
        turns.connected(all[7]);
        let mut order = all.clone();
        turns.order(&mut order);
        assert_eq!(order[0], all[7]);
        tokio::time::advance(FAILURE_REMEMBERED).await;
        turns.order(&mut order);
        assert_eq!(order[0], all[7], "nothing is left to say");
        let mut order = all.clone();
        turns.order(&mut order);
        assert_eq!(order, all);
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_failures_are_remembered_and_no_more() {
        let turns = Turns::default();
        for index in 0..MAX_FAILED_ADDRESSES + 5 {
            turns.failed(guarded(index));
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(turns.0.lock().unwrap().len(), MAX_FAILED_ADDRESSES);
        let mut order = [guarded(5), guarded(4)];
        turns.order(&mut order);
        assert_eq!(order, [guarded(4), guarded(5)], "the oldest went");
    }
}
