//! Accepting events.

use std::hash::Hasher;

use rusqlite::OptionalExtension;
use siphasher::sip::SipHasher13;
use uuid::Uuid;

use super::owed;
use super::writer::{Commit, Failure, Size};
use crate::delivery::id::{DeliveryKey, EventSeq};
use crate::delivery::{DeliveryState, Transition};
use crate::store::{Accepted, Disposition, NewEvent};
use crate::webhook::TenantSeq;

/// What an event's row takes beside its texts, roughly, in bytes.
const ROW_BYTES: usize = 64;

/// Bits of a UUIDv7's time that its index key keeps: of 48 bits of milliseconds all but the last 8.
const TIME_SHIFT: u32 = 8;
/// The rest of 63 bits.
const TIMED_HASH_BITS: u32 = 23;

/// Turns event ids into keys of the index: an index of integers is a third of one of ids.
///
/// A key has a hash under a secret of this installation, so nobody can choose ids that collide. Of an id that
/// begins with its time (UUIDv7, RFC 9562, which is what events without an id get) the key does too: such
/// ids are appended to the index, where others are scattered over it and make every commit write more pages.
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
            // Negative, apart from the others.
            None => (hash | 1 << 63).cast_signed(),
        }
    }
}

/// The first 48 bits of a UUIDv7.
fn time_ms(id: &str) -> Option<u64> {
    let uuid = Uuid::try_parse(id).ok().filter(|uuid| uuid.get_version_num() == 7)?;
    u64::try_from(uuid.as_u128() >> 80).ok()
}

/// Served by the index `event_id`, and by the table only if the hash is there.
pub(super) const FIND_EVENT: &str = "SELECT seq, owed FROM event WHERE id_hash = ?1 AND tenant = ?2 AND id = ?3";

pub(super) fn size(events: &[NewEvent]) -> Size {
    let bytes = |new: &NewEvent| new.event.body().len() + new.event.id().len() + new.event.kind().len() + ROW_BYTES;
    let rows = |new: &NewEvent| 1 + new.owed.iter().filter(|owed| owed.disposition != Disposition::InMemory).count();
    Size { rows: events.iter().map(rows).sum(), bytes: events.iter().map(bytes).sum(), is_urgent: true }
}

pub(super) fn accept(commit: &mut Commit<'_>, events: &[NewEvent]) -> Result<Vec<Accepted>, Failure> {
    let mut accepted = Vec::with_capacity(events.len());
    for new in events {
        accepted.push(accept_one(commit, new)?);
    }
    Ok(accepted)
}

fn accept_one(commit: &mut Commit<'_>, new: &NewEvent) -> rusqlite::Result<Accepted> {
    let event = &new.event;
    let id_hash = commit.state.id_hash.of(new.tenant, event.id());
    let known = commit
        .prepare(FIND_EVENT)?
        .query_row((id_hash, new.tenant, event.id()), |row| {
            Ok(Accepted::Duplicate { seq: row.get(0)?, deliveries: owed::count(row.get_ref(1)?.as_blob()?) })
        })
        .optional()?;
    if let Some(duplicate) = known {
        return Ok(duplicate);
    }
    let seq = commit.state.window.next_event();
    commit
        .prepare(
            "INSERT INTO event (seq, id_hash, tenant, id, topic, type, accepted_at, owed, body)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute((
            seq,
            id_hash,
            new.tenant,
            event.id(),
            event.topic().as_str(),
            event.kind(),
            new.accepted_at,
            owed::encode(new.owed.iter().map(|owed| owed.webhook)),
            &event.body()[..],
        ))?;
    let rowless = accept_deliveries(commit, new, seq)?;
    commit.state.window.push(rowless);
    Ok(Accepted::New { seq })
}

/// Writes rows for what does not stay in memory; returns how many deliveries do.
fn accept_deliveries(commit: &mut Commit<'_>, new: &NewEvent, seq: EventSeq) -> rusqlite::Result<u32> {
    let (mut rowless, mut skipped) = (0, 0);
    for owed in &new.owed {
        let transition = match owed.disposition {
            Disposition::InMemory => {
                rowless += 1;
                continue;
            }
            Disposition::Stored => Transition::queued(new.accepted_at),
            Disposition::Later(due_at) => Transition::queued(due_at),
            Disposition::Skipped(reason) => Transition::skipped(reason),
        };
        skipped += i64::from(transition.state() == DeliveryState::Skipped);
        let key = DeliveryKey { event: seq, webhook: owed.webhook };
        super::settle::insert_unattempted(commit, key, &transition, new.accepted_at)?;
    }
    let counters = commit.counters(new.tenant);
    counters.events += 1;
    counters.owed += i64::try_from(new.owed.len()).unwrap_or(i64::MAX);
    counters.skipped += skipped;
    Ok(rowless)
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
}
