//! Accepting events.

use std::collections::HashSet;

use rusqlite::OptionalExtension;

use super::commit::{Commit, Size};
use super::events::{FIND_EVENT, live_event};
use crate::delivery::id::{DeliveryKey, EventSeq};
use crate::delivery::{DeliveryState, Transition};
use crate::event::Hops;
use crate::fit::fit;
use crate::store::failure::Failure;
use crate::store::read_back::checksum;
use crate::store::{Accepted, Disposition, NewEvent, Share, StoreError, owed};

/// The rough size of an event's row without its texts, in bytes.
const ROW_BYTES: usize = 64;

pub(super) fn size(events: &[NewEvent]) -> Size {
    let bytes = |new: &NewEvent| new.event.body().len() + new.event.id().len() + new.event.kind().len() + ROW_BYTES;
    let rows = |new: &NewEvent| 1 + new.owed.iter().filter(|owed| owed.disposition != Disposition::InMemory).count();
    let tenant = events.first().map(|new| new.tenant);
    Size { rows: events.iter().map(rows).sum(), bytes: events.iter().map(bytes).sum(), is_urgent: true, tenant }
}

/// Events to be accepted with what is computed before the one writer has them.
pub(super) struct Summed {
    pub(super) events: Vec<NewEvent>,
    checksums: Vec<i64>,
    /// Whether an id stands in it twice.
    has_repeats: bool,
}

impl Summed {
    pub(super) fn new(events: Vec<NewEvent>) -> Self {
        let checksums = events.iter().map(|new| checksum(&new.event)).collect();
        let mut ids = HashSet::with_capacity(if events.len() > 1 { events.len() } else { 0 });
        let has_repeats = events.len() > 1 && !events.iter().all(|new| ids.insert(new.event.id()));
        Self { events, checksums, has_repeats }
    }
}

/// All or none: whether an id is taken is known before anything is written.
pub(super) fn accept(commit: &mut Commit<'_>, summed: &Summed) -> Result<Vec<Accepted>, Failure> {
    let mut known = Vec::with_capacity(summed.events.len());
    for (index, new) in summed.events.iter().enumerate() {
        let found = find(commit, new)?;
        if let Some(Accepted::Duplicate { seq, .. }) = found {
            refuse_other(commit, new, seq, index)?;
        }
        known.push(found);
    }
    let mut accepted = Vec::with_capacity(known.len());
    for ((new, checksum), mut known) in summed.events.iter().zip(&summed.checksums).zip(known) {
        if known.is_none() && summed.has_repeats {
            known = find(commit, new)?;
        }
        accepted.push(match known {
            Some(duplicate) => duplicate,
            None => insert(commit, new, *checksum)?,
        });
    }
    Ok(accepted)
}

/// The answer to an event whose id is known.
fn find(commit: &Commit<'_>, new: &NewEvent) -> rusqlite::Result<Option<Accepted>> {
    let id_hash = commit.state.id_hash.of(new.tenant, new.event.id());
    let known = commit
        .prepare(FIND_EVENT)?
        .query_row((id_hash, new.tenant, new.event.id()), |row| {
            Ok((row.get(0)?, owed::count(row.get_ref(1)?.as_blob()?)))
        })
        .optional()?;
    let Some((seq, listed)) = known else { return Ok(None) };
    // Served by the primary key.
    let skipped: u32 = commit
        .prepare("SELECT count(*) FROM delivery WHERE event_seq = ?1 AND state = 2")?
        .query_row([seq], |row| row.get(0))?;
    Ok(Some(Accepted::Duplicate { seq, share: Share::of(listed as usize, skipped as usize) }))
}

/// Refuses an event whose id is that of another one. A stored event that is damaged may have been the same.
fn refuse_other(commit: &Commit<'_>, new: &NewEvent, seq: EventSeq, index: usize) -> Result<(), Failure> {
    let (stored, _) = live_event(commit.connection, seq)?;
    if stored.is_damaged || stored.event.has_same_content(&new.event) {
        return Ok(());
    }
    Err(StoreError::IdTaken { index }.into())
}

fn insert(commit: &mut Commit<'_>, new: &NewEvent, checksum: i64) -> rusqlite::Result<Accepted> {
    let event = &new.event;
    let id_hash = commit.state.id_hash.of(new.tenant, event.id());
    let seq = commit.state.window.next_event();
    commit
        .prepare(
            "INSERT INTO event (seq, id_hash, tenant, id, topic, type, accepted_at, owed, body, hops, checksum)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
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
            event.hops().map(Hops::to_bytes),
            checksum,
        ))?;
    let rowless = accept_deliveries(commit, new, seq)?;
    commit.state.window.push(rowless);
    Ok(Accepted::New { seq })
}

/// Accepts an event that touches all tables of an acceptance. The caller rolls it back.
pub(super) fn rehearse(commit: &mut Commit<'_>) -> rusqlite::Result<()> {
    let counters = commit.state.counters.clone();
    let new = NewEvent::rehearsal();
    let done = insert(commit, &new, checksum(&new.event));
    commit.state.counters = counters;
    if let Ok(Accepted::New { .. }) = done {
        commit.state.window.withdraw();
    }
    done.map(drop)
}

/// Writes rows for the deliveries that do not stay in memory; returns the number of the others.
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
    counters.owed += fit(new.owed.len(), i64::MAX);
    counters.skipped += skipped;
    counters.stored_bytes += fit(new.event.body().len(), i64::MAX);
    Ok(rowless)
}
