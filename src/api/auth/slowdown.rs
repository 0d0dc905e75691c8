//! Failed authentications cost a peer time: who guesses tokens, or sends dead ones in a loop, keeps the store from no one.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::rate::{Bucket, Rate};

/// The most unknown tokens of one peer that are looked up at once.
pub const AUTH_FAILURES: u32 = 20;
/// The time until a peer may have a further unknown token looked up.
pub const AUTH_FAILURE_COUNTS: Duration = Duration::from_secs(3);
/// The most peers whose failures are counted apart. Further peers share one count.
pub const MAX_FAILING_PEERS: usize = 4_096;
/// The prefix of an IPv6 address that belongs to one customer, in bits.
const IPV6_PREFIX_BITS: u32 = 64;
/// The shortest interval of searches for peers whose failures no longer count.
const SWEEP_STEP: Duration = Duration::from_secs(1);

/// Counts failures by what they are of: look-ups of tokens by peer. Cached tokens are not counted, so clients with valid
/// tokens are not held up by other clients at the same address.
pub(in crate::api) struct Slowdown<K>(Mutex<Failing<K>>);

struct Failing<K> {
    /// The remaining look-ups of each; `None`: of all for which there is no place.
    left: HashMap<Option<K>, Bucket>,
    swept_at: Option<Instant>,
}

/// The charge for one look-up, taken in advance.
#[must_use]
pub(super) struct Charge<K>(Option<K>);

impl<K> Default for Slowdown<K> {
    fn default() -> Self {
        Self(Mutex::new(Failing { left: HashMap::new(), swept_at: None }))
    }
}

impl<K: Copy + Eq + Hash> Slowdown<K> {
    /// Charges `key` for a look-up. `Err`: the time to wait.
    pub(super) fn charge(&self, key: K, now: Instant) -> Result<Charge<K>, Duration> {
        let mut failing = self.0.lock();
        let place = failing.place(key, now);
        failing.left.entry(place).or_default().take(1, rate(), now)?;
        Ok(Charge(place))
    }

    /// Returns the charge after a valid token.
    pub(super) fn refund(&self, Charge(place): Charge<K>) {
        if let Some(left) = self.0.lock().left.get_mut(&place) {
            left.refund(1, rate());
        }
    }

    /// Whether there is still one look-up for `key`. `Err`: the time to wait. What succeeds is not counted, so that
    /// any number may be under way at once.
    pub(in crate::api) fn look(&self, key: K, now: Instant) -> Result<(), Duration> {
        let mut failing = self.0.lock();
        // Those without a place of their own are not held up by the failures of others.
        let Some(left) = failing.left.get_mut(&Some(key)) else { return Ok(()) };
        left.take(1, rate(), now)?;
        left.refund(1, rate());
        Ok(())
    }

    /// Counts one that failed.
    pub(in crate::api) fn note(&self, key: K, now: Instant) {
        // The next look says that there is none left.
        let _ = self.charge(key, now);
    }
}

impl<K: Copy + Eq + Hash> Failing<K> {
    /// Where failures of `key` are counted.
    fn place(&mut self, key: K, now: Instant) -> Option<K> {
        if self.left.len() < MAX_FAILING_PEERS || self.left.contains_key(&Some(key)) {
            return Some(key);
        }
        if self.swept_at.is_none_or(|swept_at| now.saturating_duration_since(swept_at) >= SWEEP_STEP) {
            self.swept_at = Some(now);
            self.left.retain(|_, left| !left.is_full(rate(), now));
        }
        (self.left.len() < MAX_FAILING_PEERS).then_some(key)
    }
}

fn rate() -> Rate {
    Rate::one_in(AUTH_FAILURE_COUNTS, AUTH_FAILURES)
}

/// The address under which failures of a peer are counted.
pub(in crate::api) fn group(peer: Option<IpAddr>) -> IpAddr {
    match peer.map(|peer| peer.to_canonical()) {
        Some(IpAddr::V6(peer)) => {
            Ipv6Addr::from_bits(peer.to_bits() & (u128::MAX << (u128::BITS - IPV6_PREFIX_BITS))).into()
        }
        Some(peer) => peer,
        None => Ipv6Addr::UNSPECIFIED.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// How many of a thousand look-ups in vain `peer` gets at `now`.
    fn in_vain(slowdown: &Slowdown<IpAddr>, peer: IpAddr, now: Instant) -> usize {
        (0..1_000).filter(|_| slowdown.charge(group(Some(peer)), now).is_ok()).count()
    }

    #[test]
    fn a_peer_that_guesses_is_told_when_to_come_back_and_others_are_not_held_up() {
        let (slowdown, now) = (Slowdown::default(), Instant::now());
        assert_eq!(in_vain(&slowdown, peer("192.0.2.1"), now), AUTH_FAILURES as usize);
        assert_eq!(slowdown.charge(group(Some(peer("::ffff:192.0.2.1"))), now).err(), Some(AUTH_FAILURE_COUNTS));
        assert!(slowdown.charge(group(Some(peer("192.0.2.2"))), now).is_ok());
        assert_eq!(in_vain(&slowdown, peer("192.0.2.1"), now + AUTH_FAILURE_COUNTS), 1);
        assert_eq!(in_vain(&slowdown, peer("192.0.2.1"), now + AUTH_FAILURE_COUNTS * 100), AUTH_FAILURES as usize);
        assert_eq!(in_vain(&slowdown, peer("2001:db8::1"), now), AUTH_FAILURES as usize);
        assert!(slowdown.charge(group(Some(peer("2001:db8::ffff:1"))), now).is_err(), "a customer has all of a /64");
    }

    #[test]
    fn good_tokens_cost_nothing() {
        let (slowdown, now) = (Slowdown::default(), Instant::now());
        for _ in 0..1_000 {
            let Ok(charge) = slowdown.charge(group(Some(peer("192.0.2.1"))), now) else { panic!("held up") };
            slowdown.refund(charge);
        }
    }

    #[test]
    fn what_succeeds_is_not_counted_and_what_fails_is_told_before_it_is_done() {
        let (slowdown, now, key) = (Slowdown::default(), Instant::now(), peer("192.0.2.1"));
        for _ in 0..AUTH_FAILURES {
            assert!((0..100).all(|_| slowdown.look(key, now).is_ok()));
            slowdown.note(key, now);
        }
        assert_eq!(slowdown.look(key, now), Err(AUTH_FAILURE_COUNTS));
        slowdown.note(key, now);
        assert!(slowdown.look(peer("192.0.2.2"), now).is_ok());
        assert!(slowdown.look(key, now + AUTH_FAILURE_COUNTS).is_ok());
    }

    #[test]
    fn however_many_peers_fail_the_table_stays_small() {
        let (slowdown, now) = (Slowdown::default(), Instant::now());
        let addresses = |from: u32| (from..from + 10_000).map(|bits| Some(IpAddr::V4(bits.into())));
        let admitted = addresses(1).filter(|peer| slowdown.charge(group(*peer), now).is_ok()).count();
        assert_eq!(slowdown.0.lock().left.len(), MAX_FAILING_PEERS + 1);
        assert_eq!(admitted, MAX_FAILING_PEERS + AUTH_FAILURES as usize, "the others share one count");
        let later = now + AUTH_FAILURE_COUNTS * AUTH_FAILURES;
        assert!(addresses(1 << 20).take(MAX_FAILING_PEERS).all(|peer| slowdown.charge(group(peer), later).is_ok()));
        assert_eq!(slowdown.0.lock().left.len(), MAX_FAILING_PEERS);
    }
}
