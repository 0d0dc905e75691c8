//! Shards: slices of all webhooks, each owned by one node at a time.

use uuid::Uuid;

/// The number of shards. It is fixed, because stored webhooks name their shards.
pub const SHARDS: u16 = 256;

/// A shard's number, from 0 to [`SHARDS`] − 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shard(u8);

impl Shard {
    /// The shard of a webhook: FNV-1a over the 16 bytes of its UUID, folded to 8 bits
    /// (<http://www.isthe.com/chongo/tech/comp/fnv/#xor-fold>). Once a webhook is stored, this must not change.
    #[must_use]
    pub fn of(webhook: Uuid) -> Self {
        Self::of_bytes(webhook.as_bytes())
    }

    /// The shard of a source, whose owner runs it.
    #[must_use]
    pub fn of_name(source: &str) -> Self {
        Self::of_bytes(source.as_bytes())
    }

    fn of_bytes(bytes: &[u8]) -> Self {
        const OFFSET_BASIS: u32 = 0x811c_9dc5;
        const PRIME: u32 = 0x0100_0193;
        let hash = bytes.iter().fold(OFFSET_BASIS, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(PRIME));
        Self(hash.to_be_bytes().into_iter().fold(0, |folded, byte| folded ^ byte))
    }

    /// Every shard.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..=u8::MAX).map(Self)
    }

    #[must_use]
    pub fn from_number(number: u8) -> Self {
        Self(number)
    }

    #[must_use]
    pub fn number(self) -> u8 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_as_there_are() {
        assert_eq!(Shard::all().count(), usize::from(SHARDS));
    }

    #[test]
    fn a_webhook_stays_in_its_shard() {
        // Databases store these values.
        assert_eq!(Shard::of(Uuid::nil()).number(), 28);
        assert_eq!(Shard::of(Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef)).number(), 166);
    }

    #[test]
    fn webhooks_spread_evenly() {
        let mut counts = [0_u32; SHARDS as usize];
        for number in 0..u128::from(SHARDS) * 100 {
            counts[usize::from(Shard::of(Uuid::from_u128(number)).number())] += 1;
        }
        assert!(counts.iter().all(|count| (50..150).contains(count)), "{counts:?}");
    }
}
