//! Delivery ids: UUIDs outside, two sequential numbers inside, and no index between them.
//!
//! A delivery is named by its event and its webhook. Its public id is that pair under a keyed
//! permutation of 122 bits (a four-round Feistel network over SipHash-2-4, Luby and Rackoff 1988),
//! in the form of a UUID version 8 (RFC 9562). So it can be turned back into the pair without a
//! look-up, and a receiver that sees many of them learns nothing about how many events there are.

use std::hash::Hasher;

use siphasher::sip::SipHasher24;
use uuid::Uuid;

use crate::event::Instance;

/// Sequential number of an event inside a store, in order of acceptance; never shown outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventSeq(pub i64);

/// Sequential number of a webhook inside a store; never shown outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WebhookSeq(pub i64);

/// A delivery: one event for one webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryKey {
    pub event: EventSeq,
    pub webhook: WebhookSeq,
}

/// Turns delivery keys into public ids and back, for one installation.
#[derive(Clone)]
pub struct DeliveryIds {
    round: SipHasher24,
}

const HALF_BITS: u32 = 61;
const HALF_MASK: u64 = (1 << HALF_BITS) - 1;
const ROUNDS: u8 = 4;

impl DeliveryIds {
    /// `key` is random. It is made once for an installation and stored.
    #[must_use]
    pub fn new(key: &[u8; 16]) -> Self {
        Self { round: SipHasher24::new_with_key(key) }
    }

    /// The public id of a delivery.
    #[must_use]
    pub fn encode(&self, key: DeliveryKey) -> Uuid {
        let mut left = key.event.0.cast_unsigned() & HALF_MASK;
        let mut right = key.webhook.0.cast_unsigned() & HALF_MASK;
        for round in 0..ROUNDS {
            (left, right) = (right, left ^ self.mix(round, right));
        }
        let bits = (u128::from(left) << HALF_BITS) | u128::from(right);
        Uuid::from_u128(spread(bits))
    }

    /// The delivery that `id` names, or `None` if this installation cannot have made it.
    #[must_use]
    pub fn decode(&self, id: Uuid) -> Option<DeliveryKey> {
        let bits = gather(id.as_u128());
        if spread(bits) != id.as_u128() {
            return None;
        }
        let mut left = low_half(bits >> HALF_BITS);
        let mut right = low_half(bits);
        for round in (0..ROUNDS).rev() {
            (left, right) = (right ^ self.mix(round, left), left);
        }
        Some(DeliveryKey { event: EventSeq(left.cast_signed()), webhook: WebhookSeq(right.cast_signed()) })
    }

    /// The installation's id for other servers, which does not reveal the key. It is the same on all nodes that share a
    /// store, and never changes.
    #[must_use]
    pub fn instance(&self) -> Instance {
        let mut hasher = self.round;
        // Longer than the input of an id's hash, so that the two never coincide.
        hasher.write(b"postrider instance");
        Instance(hasher.finish())
    }

    fn mix(&self, round: u8, half: u64) -> u64 {
        let mut hasher = self.round;
        hasher.write_u8(round);
        hasher.write_u64(half);
        hasher.finish() & HALF_MASK
    }
}

#[expect(clippy::cast_possible_truncation, reason = "masked to 61 bits")]
fn low_half(bits: u128) -> u64 {
    bits as u64 & HALF_MASK
}

/// 122 bits with the version (8, bits 76 to 79) and the variant (2, bits 62 and 63) put in.
fn spread(bits: u128) -> u128 {
    let low = bits & ((1 << 62) - 1);
    let middle = (bits >> 62) & ((1 << 12) - 1);
    let high = bits >> 74;
    (high << 80) | (8 << 76) | (middle << 64) | (2 << 62) | low
}

fn gather(uuid: u128) -> u128 {
    let low = uuid & ((1 << 62) - 1);
    let middle = (uuid >> 64) & ((1 << 12) - 1);
    let high = uuid >> 80;
    (high << 74) | (middle << 62) | low
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_pair_comes_back(event in 0..=i64::MAX >> 2, webhook in 0..=i64::MAX >> 2) {
            let ids = DeliveryIds::new(&[7; 16]);
            let key = DeliveryKey { event: EventSeq(event), webhook: WebhookSeq(webhook) };
            let id = ids.encode(key);
            prop_assert_eq!(id.get_version_num(), 8);
            prop_assert_eq!(id.get_variant(), uuid::Variant::RFC4122);
            prop_assert_eq!(ids.decode(id), Some(key));
        }
    }

    #[test]
    fn an_id_of_another_form_names_no_delivery() {
        let ids = DeliveryIds::new(&[7; 16]);
        assert_eq!(ids.decode(Uuid::new_v4()), None);
    }

    #[test]
    fn another_installation_gives_other_ids() {
        let key = DeliveryKey { event: EventSeq(1), webhook: WebhookSeq(1) };
        assert_ne!(DeliveryIds::new(&[7; 16]).encode(key), DeliveryIds::new(&[8; 16]).encode(key));
    }
}
