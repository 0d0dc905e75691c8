//! Stored events, by id and by number.

use rusqlite::{Connection, OptionalExtension, Row};

use crate::clock::UnixMicros;
use crate::delivery::id::EventSeq;
use crate::store::failure::{Failure, corrupt};
use crate::store::id_hash::IdHash;
use crate::store::read_back::{Columns, ReadBack};
use crate::store::{LiveEvent, StoredEvent, owed};
use crate::webhook::TenantSeq;

/// Served by the index `event_id`, and by the table only if the hash is there.
pub(super) const FIND_EVENT: &str = "SELECT seq, owed FROM event WHERE id_hash = ?1 AND tenant = ?2 AND id = ?3";

pub(super) fn find_event(
    connection: &Connection,
    id_hash: &IdHash,
    tenant: TenantSeq,
    id: &str,
) -> rusqlite::Result<Option<EventSeq>> {
    connection.prepare_cached(FIND_EVENT)?.query_row((id_hash.of(tenant, id), tenant, id), |row| row.get(0)).optional()
}

pub(super) fn event(
    connection: &Connection,
    id_hash: &IdHash,
    tenant: TenantSeq,
    id: &str,
) -> Result<Option<StoredEvent>, Failure> {
    match find_event(connection, id_hash, tenant, id)? {
        Some(seq) => event_by_seq(connection, seq),
        None => Ok(None),
    }
}

pub(super) fn event_by_seq(connection: &Connection, seq: EventSeq) -> Result<Option<StoredEvent>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT seq, id, topic, type, accepted_at, owed, body, hops, checksum FROM event WHERE seq = ?1",
    )?;
    let mut rows = statement.query([seq])?;
    rows.next()?.map(|row| stored_event(row, 0)).transpose()
}

/// An event as it is sent, and the time of its acceptance. Its `owed` is not decoded, since each of its lanes reads the
/// event, and the list may have thousands of entries.
pub(super) fn live_event(connection: &Connection, seq: EventSeq) -> Result<(LiveEvent, UnixMicros), Failure> {
    let mut statement = connection
        .prepare_cached("SELECT id, topic, type, body, hops, checksum, accepted_at FROM event WHERE seq = ?1")?;
    let mut rows = statement.query([seq])?;
    let row = rows.next()?.ok_or_else(|| corrupt("an event vanished"))?;
    let ReadBack { event, is_damaged } = read(row, [0, 1, 2, 3, 4, 5])?;
    Ok((LiveEvent { seq, event, is_damaged }, row.get(6)?))
}

/// An event from the columns `seq, id, topic, type, accepted_at, owed, body, hops, checksum`, at `first` and after.
fn stored_event(row: &Row<'_>, first: usize) -> Result<StoredEvent, Failure> {
    let ReadBack { event, is_damaged } = read(row, [first + 1, first + 2, first + 3, first + 6, first + 7, first + 8])?;
    Ok(StoredEvent {
        seq: row.get(first)?,
        event,
        accepted_at: row.get(first + 4)?,
        owed: owed::decode(row.get_ref(first + 5)?.as_blob().map_err(corrupt)?),
        is_damaged,
    })
}

/// An event from the places of its `id, topic, type, body, hops, checksum`.
fn read(row: &Row<'_>, [id, topic, kind, body, hops, checksum]: [usize; 6]) -> Result<ReadBack, Failure> {
    let bytes = |at: usize| row.get_ref(at)?.as_bytes().map_err(corrupt);
    let columns = Columns {
        id: bytes(id)?,
        topic: bytes(topic)?,
        kind: bytes(kind)?,
        body: bytes(body)?.to_vec(),
        hops: row.get_ref(hops)?.as_blob_or_null().map_err(corrupt)?,
        checksum: row.get(checksum)?,
    };
    columns.read().map_err(corrupt)
}
