//! Failed authentications cost a peer time: who guesses tokens, or sends dead ones in a loop, keeps the store from no one.

use std::collections::HashMap;
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

/// Counts failed look-ups by peer. Cached tokens are not counted, so clients with valid tokens are not held up by other
/// clients at the same address.
#[derive(Default)]
pub(super) struct Slowdown(Mutex<Peers>);

#[derive(Default)]
struct Peers {
    /// The remaining look-ups of each peer.
    left: HashMap<IpAddr, Bucket>,
    swept_at: Option<Instant>,
}

/// The charge for one look-up, taken in advance.
#[must_use]
pub(super) struct Charge(IpAddr);

impl Slowdown {
    /// Charges `peer` for a look-up. `Err`: the time to wait.
    pub(super) fn charge(&self, peer: Option<IpAddr>, now: Instant) -> Result<Charge, Duration> {
        let mut peers = self.0.lock();
        let peer = peers.place(group(peer), now);
        peers.left.entry(peer).or_default().take(1, rate(), now)?;
        Ok(Charge(peer))
    }

    /// Returns the charge after a valid token.
    pub(super) fn refund(&self, Charge(peer): Charge) {
        if let Some(left) = self.0.lock().left.get_mut(&peer) {
            left.refund(1, rate());
        }
    }
}

impl Peers {
    /// The key under which failures of `peer` are counted.
    fn place(&mut self, peer: IpAddr, now: Instant) -> IpAddr {
        if self.left.len() < MAX_FAILING_PEERS || self.left.contains_key(&peer) {
            return peer;
        }
        if self.swept_at.is_none_or(|swept_at| now.saturating_duration_since(swept_at) >= SWEEP_STEP) {
            self.swept_at = Some(now);
            self.left.retain(|_, left| !left.is_full(rate(), now));
        }
        if self.left.len() < MAX_FAILING_PEERS { peer } else { Ipv6Addr::UNSPECIFIED.into() }
    }
}

fn rate() -> Rate {
    Rate::one_in(AUTH_FAILURE_COUNTS, AUTH_FAILURES)
}

fn group(peer: Option<IpAddr>) -> IpAddr {
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
    fn in_vain(slowdown: &Slowdown, peer: IpAddr, now: Instant) -> usize {
        (0..1_000).filter(|_| slowdown.charge(Some(peer), now).is_ok()).count()
    }

    #[test]
    fn a_peer_that_guesses_is_told_when_to_come_back_and_others_are_not_held_up() {
        let (slowdown, now) = (Slowdown::default(), Instant::now());
        assert_eq!(in_vain(&slowdown, peer("192.0.2.1"), now), AUTH_FAILURES as usize);
        assert_eq!(slowdown.charge(Some(peer("::ffff:192.0.2.1")), now).err(), Some(AUTH_FAILURE_COUNTS));
        assert!(slowdown.charge(Some(peer("192.0.2.2")), now).is_ok());
        assert_eq!(in_vain(&slowdown, peer("192.0.2.1"), now + AUTH_FAILURE_COUNTS), 1);
        assert_eq!(in_vain(&slowdown, peer("192.0.2.1"), now + AUTH_FAILURE_COUNTS * 100), AUTH_FAILURES as usize);
        assert_eq!(in_vain(&slowdown, peer("2001:db8::1"), now), AUTH_FAILURES as usize);
        assert!(slowdown.charge(Some(peer("2001:db8::ffff:1")), now).is_err(), "a customer has all of a /64");
    }

    #[test]
    fn good_tokens_cost_nothing() {
        let (slowdown, now) = (Slowdown::default(), Instant::now());
        for _ in 0..1_000 {
            let Ok(charge) = slowdown.charge(Some(peer("192.0.2.1")), now) else { panic!("held up") };
            slowdown.refund(charge);
        }
    }

    #[test]
    fn however_many_peers_fail_the_table_stays_small() {
        let (slowdown, now) = (Slowdown::default(), Instant::now());
        let addresses = |from: u32| (from..from + 10_000).map(|bits| Some(IpAddr::V4(bits.into())));
        let admitted = addresses(1).filter(|peer| slowdown.charge(*peer, now).is_ok()).count();
        assert_eq!(slowdown.0.lock().left.len(), MAX_FAILING_PEERS + 1);
        assert_eq!(admitted, MAX_FAILING_PEERS + AUTH_FAILURES as usize, "the others share one count");
        let later = now + AUTH_FAILURE_COUNTS * AUTH_FAILURES;
        assert!(addresses(1 << 20).take(MAX_FAILING_PEERS).all(|peer| slowdown.charge(peer, later).is_ok()));
        assert_eq!(slowdown.0.lock().left.len(), MAX_FAILING_PEERS);
    }
}
