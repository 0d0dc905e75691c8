//! Stored events, by id and by number.

use tokio_postgres::Row;

use super::pool::Connection;
use super::values::event;
use crate::delivery::id::EventSeq;
use crate::store::failure::Failure;
use crate::store::id_hash::IdHash;
use crate::store::read_back::ReadBack;
use crate::store::{StoredEvent, owed};
use crate::webhook::TenantSeq;

/// Served by the primary key of `event_id`.
pub(super) async fn find(
    connection: &Connection,
    id_hash: &IdHash,
    tenant: TenantSeq,
    id: &str,
) -> Result<Option<EventSeq>, Failure> {
    let key = id_hash.wide(tenant, id);
    let row = connection.query_opt("SELECT event_seq FROM event_id WHERE key = $1", &[&key]).await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?)
}

pub(super) async fn by_id(
    connection: &Connection,
    id_hash: &IdHash,
    tenant: TenantSeq,
    id: &str,
) -> Result<Option<StoredEvent>, Failure> {
    let Some(seq) = find(connection, id_hash, tenant, id).await? else { return Ok(None) };
    Ok(by_seq(connection, &[seq]).await?.pop())
}

/// The events that exist, in order of acceptance. Served by the primary key of `event`.
pub(super) async fn by_seq(connection: &Connection, seqs: &[EventSeq]) -> Result<Vec<StoredEvent>, Failure> {
    if seqs.is_empty() {
        return Ok(Vec::new());
    }
    let rows = connection
        .query(
            "SELECT seq, accepted_at, id, topic, type, owed, body, hops, checksum FROM event
             WHERE seq = ANY($1) ORDER BY seq",
            &[&seqs],
        )
        .await?;
    rows.iter().map(stored).collect()
}

fn stored(row: &Row) -> Result<StoredEvent, Failure> {
    let ReadBack { event, is_damaged } = event(row, [2, 3, 4, 6, 7, 8])?;
    Ok(StoredEvent {
        seq: row.try_get(0)?,
        event,
        accepted_at: row.try_get(1)?,
        owed: owed::decode(row.try_get(5)?),
        is_damaged,
    })
}
