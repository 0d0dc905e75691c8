//! Rejected messages of sources: their rows.

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::audit::record;
use crate::clock::UnixMicros;
use crate::store::failure::Failure;
use crate::store::paging::{page_by_uuid, start_by_uuid};
use crate::store::rejected::{MAX_REJECTED, MAX_REJECTED_BYTES_TOGETHER, NewRejected, Rejected, SHOWN_REJECTED_BYTES};
use crate::store::sql::{Fields, Row, Select, Sql, Value};
use crate::store::{Deed, Page, PageOf, StoreError};

/// A source's rows are trimmed whenever one gets a number that this divides. So the bounds are passed by less than this.
const TRIM_EVERY: i64 = 64;
/// The most rows that one step of a purge deletes; they have at most a MiB each.
const MAX_PURGED: u32 = 16;

/// The columns that [`rejected`] reads, in its order. `body` is an expression for the bytes of the message.
macro_rules! select_rejected {
    ($body:literal, $rest:literal) => {
        concat!(
            "SELECT uuid, source, tenant, origin_id, attributes, ",
            $body,
            ", length, reason, at FROM rejected ",
            $rest
        )
    };
}

/// Adds messages. One that is there already, by the origin's id and the bytes, gets the new reason and time. Returns how
/// many were pushed out by the bounds.
pub(super) fn add(sql: &mut dyn Sql, messages: &[NewRejected]) -> Result<u64, Failure> {
    let mut pushed_out = 0;
    for new in messages {
        // Served by the index `rejected_origin`. Rows without an id of the origin are never the same.
        let row = sql.query_row(
            "INSERT INTO rejected (uuid, source, tenant, origin_id, attributes, body, length, digest, reason, at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
             ON CONFLICT (source, origin_id, digest) DO UPDATE SET reason = excluded.reason, at = excluded.at
             RETURNING seq",
            &[
                Uuid::new_v4().into(),
                (&new.source).into(),
                new.tenant.into(),
                new.origin_id.as_ref().into(),
                (&new.attributes).into(),
                new.body[..].into(),
                Value::Integer(i64::try_from(new.length).unwrap_or(i64::MAX)),
                digest(new)[..].into(),
                (&new.reason).into(),
                new.at.into(),
            ],
        )?;
        let seq: i64 = Fields::of(row.unwrap_or_default()).next()?;
        if seq % TRIM_EVERY == 0 {
            pushed_out += trim(sql, &new.source)?;
        }
    }
    Ok(pushed_out)
}

/// What tells messages apart to which the origin gave one id. Attributes may count the deliveries, and are left out.
fn digest(new: &NewRejected) -> [u8; 32] {
    Sha256::new().chain_update(new.length.to_be_bytes()).chain_update(&new.body).finalize().into()
}

/// Deletes the oldest rows beyond the bounds. Served by the index `rejected_source`; the lengths of what was kept stand where
/// a row begins.
fn trim(sql: &mut dyn Sql, source: &str) -> Result<u64, Failure> {
    sql.execute(
        "DELETE FROM rejected WHERE seq IN (
             SELECT seq FROM (
                 SELECT seq, row_number() OVER newest AS place,
                     sum(octet_length(body) + octet_length(attributes) + octet_length(reason)) OVER newest AS bytes
                 FROM rejected WHERE source = ?1 WINDOW newest AS (ORDER BY seq DESC)
             ) AS numbered
             WHERE place > ?2 OR bytes > ?3
         )",
        &[
            source.into(),
            MAX_REJECTED.into(),
            Value::Integer(i64::try_from(MAX_REJECTED_BYTES_TOGETHER).unwrap_or(i64::MAX)),
        ],
    )
}

/// Oldest first, with the beginnings of the messages. Served by the index `rejected_source`.
pub(super) fn page(sql: &mut dyn Select, source: &str, page: &Page) -> Result<PageOf<Rejected>, Failure> {
    let (after, limit) = start_by_uuid(sql, page, "SELECT seq FROM rejected WHERE uuid = ?1", None)?;
    let rows = sql.query(
        select_rejected!("substr(body, 1, ?4)", "WHERE source = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3"),
        &[source.into(), after.into(), limit.into(), SHOWN_REJECTED_BYTES.into()],
    )?;
    let messages = rows.into_iter().map(rejected).collect::<Result<_, _>>()?;
    Ok(page_by_uuid(messages, page, |message: &Rejected| message.uuid))
}

/// Whole. Served by the unique index of `uuid`.
pub(super) fn by_uuid(sql: &mut dyn Select, source: &str, uuid: Uuid) -> Result<Option<Rejected>, Failure> {
    let row = sql.query_row(select_rejected!("body", "WHERE uuid = ?2 AND source = ?1"), &[source.into(), uuid.into()]);
    row?.map(rejected).transpose()
}

/// How many are kept, by source.
pub(super) fn counts(sql: &mut dyn Select) -> Result<Vec<(String, u64)>, Failure> {
    let rows = sql.query("SELECT source, count(*) FROM rejected GROUP BY source", &[])?;
    let count = |row| {
        let mut fields = Fields::of(row);
        Ok((fields.next()?, fields.next()?))
    };
    rows.into_iter().map(count).collect()
}

/// Deletes a message that was sent again or discarded; `deed` is what the audit log says of it.
pub(super) fn delete(
    sql: &mut dyn Sql,
    source: &str,
    uuid: Uuid,
    deed: &'static str,
    now: UnixMicros,
) -> Result<(), Failure> {
    let row = sql.query_row(
        "DELETE FROM rejected WHERE uuid = ?1 AND source = ?2 RETURNING tenant",
        &[uuid.into(), source.into()],
    )?;
    let tenant = Fields::of(row.ok_or(StoreError::NotFound)?).next()?;
    record(sql, &Deed::of(deed, tenant, uuid, now).named(source))
}

/// Deletes messages from before `before`. Served by the index `rejected_at`.
pub(super) fn purge(sql: &mut dyn Sql, before: UnixMicros) -> Result<bool, Failure> {
    let deleted = sql.execute(
        "DELETE FROM rejected WHERE seq IN (SELECT seq FROM rejected WHERE at < ?1 ORDER BY at LIMIT ?2)",
        &[before.into(), MAX_PURGED.into()],
    )?;
    Ok(deleted == u64::from(MAX_PURGED))
}

fn rejected(row: Row) -> Result<Rejected, Failure> {
    let mut fields = Fields::of(row);
    Ok(Rejected {
        uuid: fields.next()?,
        source: fields.next()?,
        tenant: fields.next()?,
        origin_id: fields.next()?,
        attributes: fields.next()?,
        body: fields.next()?,
        length: fields.next()?,
        reason: fields.next()?,
        at: fields.next()?,
    })
}
