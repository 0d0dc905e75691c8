//! Event ids as keys of an index.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;
use uuid::Uuid;

use crate::webhook::TenantSeq;

/// Bits of a UUIDv7's time that its index key keeps: of 48 bits of milliseconds all but the last 8.
const TIME_SHIFT: u32 = 8;
/// The remaining bits of 63, for the hash.
const TIMED_HASH_BITS: u32 = 23;

/// Turns event ids into keys of the index. An index of integers takes a third of the space of an index of ids.
///
/// A key contains a hash under a secret of this installation, so that a publisher cannot choose colliding ids. The key
/// of a UUIDv7 (RFC 9562), as events without an id get, begins with the id's time. Such keys are appended to the index;
/// random keys are scattered over it and make every commit write more pages.
#[derive(Clone)]
pub(super) struct IdHash(SipHasher13);

impl IdHash {
    pub(super) fn new(key: &[u8; 16]) -> Self {
        Self(SipHasher13::new_with_key(key))
    }

    pub(super) fn of(&self, tenant: TenantSeq, id: &str) -> i64 {
        let mut hasher = self.0;
        hasher.write(&tenant.0.to_le_bytes());
        hasher.write(id.as_bytes());
        let hash = hasher.finish();
        match time_ms(id) {
            Some(ms) => (((ms >> TIME_SHIFT) << TIMED_HASH_BITS) | (hash >> (64 - TIMED_HASH_BITS))).cast_signed(),
            // Negative, so that these keys never equal keys with a time.
            None => (hash | 1 << 63).cast_signed(),
        }
    }

    /// A key of 128 bits, for an index that does not compare the ids themselves: [`Self::of`] and 64 bits of a second
    /// hash. Ids of the same quarter of a second differ in 87 bits, other ids in more.
    pub(super) fn wide(&self, tenant: TenantSeq, id: &str) -> Uuid {
        let mut hasher = self.0;
        hasher.write(b"wide");
        hasher.write(&tenant.0.to_le_bytes());
        hasher.write(id.as_bytes());
        Uuid::from_u64_pair(self.of(tenant, id).cast_unsigned(), hasher.finish())
    }
}

/// The first 48 bits of a UUIDv7.
fn time_ms(id: &str) -> Option<u64> {
    let uuid = Uuid::try_parse(id).ok().filter(|uuid| uuid.get_version_num() == 7)?;
    u64::try_from(uuid.as_u128() >> 80).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENANT: TenantSeq = TenantSeq(1);

    #[test]
    fn ids_with_a_time_are_in_its_order_and_apart_from_the_others() {
        let hash = IdHash::new(&[7; 16]);
        let early = hash.of(TENANT, "019f0000-0000-7fff-bfff-ffffffffffff");
        let late = hash.of(TENANT, "019f0000-0100-7000-8000-000000000000");
        let last = hash.of(TENANT, "ffffffff-ffff-7fff-bfff-ffffffffffff");
        assert!(0 <= early && early < late && late < last);
        for other in ["a", "", "019f0000-0000-4fff-bfff-ffffffffffff", "019f0000-0000-7fff-bfff-fffffffffffg"] {
            assert!(hash.of(TENANT, other) < 0, "{other}");
        }
    }

    #[test]
    fn ids_of_one_moment_differ_by_their_hash_and_by_tenant_and_key() {
        let hash = IdHash::new(&[7; 16]);
        let (id, twin) = ("019f0000-0000-7000-8000-000000000000", "019f0000-0000-7000-8000-000000000001");
        assert_ne!(hash.of(TENANT, id), hash.of(TENANT, twin));
        assert_ne!(hash.of(TENANT, id), hash.of(TenantSeq(2), id));
        assert_ne!(hash.of(TENANT, id), IdHash::new(&[8; 16]).of(TENANT, id));
    }

    #[test]
    fn wide_keys_are_in_the_same_order_and_differ_in_both_halves() {
        let hash = IdHash::new(&[7; 16]);
        let early = hash.wide(TENANT, "019f0000-0000-7fff-bfff-ffffffffffff");
        let late = hash.wide(TENANT, "019f0000-0100-7000-8000-000000000000");
        assert!(early < late && late < hash.wide(TENANT, "a"));
        let (a, b) = (hash.wide(TENANT, "a").as_u64_pair(), hash.wide(TENANT, "b").as_u64_pair());
        assert!(a.0 != b.0 && a.1 != b.1 && a.0 != a.1);
        assert_ne!(a, hash.wide(TenantSeq(2), "a").as_u64_pair());
    }
}
