//! Reading everything in a data folder, for a move to another store. Nothing in the folder is changed.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::{Batch, Digests, Identity, LastNumbers, Table, TransferError, delivery};
use crate::store::id_hash::IdHash;
use crate::store::seal::{MASTER_KEY_FILE, MasterKey, MasterKeyError, Sealer};
use crate::store::sql::{Row, Value};
use crate::store::sqlite::folder::{DATABASE_FILE, Folder, at};
use crate::store::sqlite::open::{DELIVERY_ID_KEY, ID_HASH_KEY, MASTER_KEY_CHECK, SCHEMA_VERSION, read_meta};
use crate::store::sqlite::sql;
use crate::store::{OpenError, Shard, owed};
use crate::webhook::{TenantSeq, WebhookSeq};

/// The most rows of a batch.
const MAX_MOVED_ROWS: usize = 5_000;
/// The most bytes of a batch, unless one row alone is larger.
const MAX_MOVED_BYTES: usize = 8 << 20;

/// The columns of a delivery, in the order of [`delivery`].
const DELIVERIES: &str = "
    SELECT event_seq, webhook_seq, updated_at, state, attempts, round_attempts, status_code, reason, next_at,
        first_started_at, first_duration_us, first_status_code, first_error,
        CASE WHEN first_started_at IS NOT NULL THEN coalesce(first_response, x'') END, first_exchange
    FROM delivery WHERE event_seq > ?1 ORDER BY event_seq, webhook_seq";
/// The key is one number that has step and minute in it, in the order of the primary key.
const FIGURES: &str = "
    SELECT step * 1000000000 + at / 60000000, step, at, tenant, webhook, node, accepted, delivered, failed, dead, skipped,
        attempts, deliveries
    FROM figure WHERE step * 1000000000 + at / 60000000 > ?1 ORDER BY step, at, tenant, webhook, node";
const OWED: &str = "SELECT seq, accepted_at, owed FROM event WHERE seq > ?1 ORDER BY seq";

/// A data folder, locked until this is dropped.
pub(super) struct Source {
    folder: Folder,
    connection: Connection,
    id_hash: IdHash,
}

impl Source {
    /// Locks the folder and checks its database. `master_key`: in place of the key file. Blocks.
    pub(super) fn open(path: &Path, master_key: Option<MasterKey>) -> Result<Self, TransferError> {
        // Without this check the lock would create the folder.
        if !path.join(DATABASE_FILE).exists() {
            return Err(TransferError::NoDatabase { path: path.display().to_string() });
        }
        let missing = || MasterKeyError::Missing { path: path.join(MASTER_KEY_FILE).display().to_string() };
        let master_key = match master_key {
            Some(key) => key,
            None => MasterKey::in_folder(path)?.ok_or_else(missing)?,
        };
        let folder = Folder::lock(path)?;
        let sealer = Sealer::new(&master_key).map_err(|error| at(&folder.database)(io::Error::other(error)))?;
        let connection = folder.open_unchanged(&sealer)?;
        let found: i64 = connection
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .map_err(|error| folder.failed(error))?;
        if found != SCHEMA_VERSION {
            let path = folder.database.display().to_string();
            return Err(TransferError::OlderSchema { path, found, known: SCHEMA_VERSION });
        }
        let key = read_meta(&connection, ID_HASH_KEY).map_err(|error| folder.failed(error))?;
        let key = key.and_then(|key| key.try_into().ok());
        let key = key.ok_or_else(|| folder.corrupt("a key is missing or has the wrong length"))?;
        Ok(Self { id_hash: IdHash::new(&key), connection, folder })
    }

    /// The identity and the state of the store.
    pub(super) fn identity(&self) -> Result<Identity, OpenError> {
        let identity = || -> rusqlite::Result<Identity> {
            let mut source = Sha256::new();
            for key in [ID_HASH_KEY, DELIVERY_ID_KEY] {
                source.update(read_meta(&self.connection, key)?.unwrap_or_default());
            }
            let mut state = Sha256::new();
            for table in Table::TELLING {
                let mut digests = Digests::default();
                self.try_read(table, i64::MIN, &mut |batch| {
                    batch.rows.into_iter().for_each(|row| digests.add(table, &table.condensed(row)));
                    true
                })?;
                state.update(digests.get(table).to_string());
            }
            let numbers: [Option<i64>; 6] = self.connection.query_row(
                "SELECT low_water, next_event, (SELECT max(seq) FROM audit), (SELECT min(seq) FROM event),
                     (SELECT max(seq) FROM idempotency), (SELECT min(seq) FROM audit)
                 FROM progress",
                (),
                |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?]),
            )?;
            state.update(format!("{numbers:?}"));
            Ok(Identity { source: source.finalize().into(), state: state.finalize().into() })
        };
        identity().map_err(|error| self.folder.failed(error))
    }

    pub(super) fn last_numbers(&self) -> Result<LastNumbers, OpenError> {
        let read = || -> rusqlite::Result<LastNumbers> {
            let next: i64 = self.connection.query_row("SELECT next_event FROM progress", (), |row| row.get(0))?;
            let mut others = BTreeMap::new();
            for (table, sql) in [
                ("tenant", "SELECT max(seq) FROM tenant"),
                ("webhook", "SELECT max(seq) FROM webhook"),
                ("token", "SELECT max(seq) FROM token"),
                ("inlet", "SELECT max(seq) FROM inlet"),
                ("replay_job", "SELECT max(seq) FROM replay_job"),
                ("rejected", "SELECT max(seq) FROM rejected"),
                ("audit", "SELECT max(seq) FROM audit"),
            ] {
                let present: Option<i64> = self.connection.query_row(sql, (), |row| row.get(0))?;
                // Includes the numbers of deleted rows.
                let given: Option<i64> = self
                    .connection
                    .query_row("SELECT seq FROM sqlite_sequence WHERE name = ?1", [table], |row| row.get(0))
                    .optional()?;
                others.insert(table, present.max(given).unwrap_or(0));
            }
            Ok(LastNumbers { event: next - 1, others })
        };
        read().map_err(|error| self.folder.failed(error))
    }

    /// The first and the last key of a table; `None`: it is empty.
    pub(super) fn extent(&self, table: Table) -> Result<Option<(i64, i64)>, OpenError> {
        let sql = match table {
            Table::Keys => return Ok(Some((0, 0))),
            Table::Tenants => "SELECT (SELECT min(seq) FROM tenant), (SELECT max(seq) FROM tenant)",
            Table::Counters => "SELECT (SELECT min(tenant) FROM counters), (SELECT max(tenant) FROM counters)",
            Table::Webhooks => "SELECT (SELECT min(seq) FROM webhook), (SELECT max(seq) FROM webhook)",
            Table::WebhookHealth => {
                "SELECT (SELECT min(seq) FROM webhook_health), (SELECT max(seq) FROM webhook_health)"
            }
            Table::Tokens => "SELECT (SELECT min(seq) FROM token), (SELECT max(seq) FROM token)",
            Table::Inlets => "SELECT (SELECT min(seq) FROM inlet), (SELECT max(seq) FROM inlet)",
            Table::Audit => "SELECT (SELECT min(seq) FROM audit), (SELECT max(seq) FROM audit)",
            Table::AuditPurges => "SELECT (SELECT min(tenant) FROM audit_purge), (SELECT max(tenant) FROM audit_purge)",
            Table::IdempotencyKeys => "SELECT (SELECT min(seq) FROM idempotency), (SELECT max(seq) FROM idempotency)",
            Table::ReplayJobs => "SELECT (SELECT min(seq) FROM replay_job), (SELECT max(seq) FROM replay_job)",
            Table::Rejected => "SELECT (SELECT min(seq) FROM rejected), (SELECT max(seq) FROM rejected)",
            Table::Figures => {
                "SELECT (SELECT step * 1000000000 + at / 60000000 FROM figure ORDER BY step, at LIMIT 1),
                     (SELECT step * 1000000000 + at / 60000000 FROM figure ORDER BY step DESC, at DESC LIMIT 1)"
            }
            Table::FigureMarks => "SELECT (SELECT min(step) FROM figure_mark), (SELECT max(step) FROM figure_mark)",
            Table::Events | Table::EventIds | Table::Deliveries => {
                "SELECT (SELECT min(seq) FROM event), (SELECT max(seq) FROM event)"
            }
            Table::Attempts => "SELECT (SELECT min(event_seq) FROM attempt), (SELECT max(event_seq) FROM attempt)",
        };
        let read = self.connection.query_row(sql, (), |row| Ok(row.get::<_, Option<i64>>(0)?.zip(row.get(1)?)));
        read.map_err(|error| self.folder.failed(error))
    }

    /// Passes the rows of a table after a key to `take`, in order of the keys, until none are left or it returns
    /// `false`. Blocks. All rows of a key are in one batch.
    pub(super) fn read(&self, table: Table, after: i64, take: &mut dyn FnMut(Batch) -> bool) -> Result<(), OpenError> {
        self.try_read(table, after, take).map_err(|error| self.folder.failed(error))
    }

    fn try_read(&self, table: Table, after: i64, take: &mut dyn FnMut(Batch) -> bool) -> rusqlite::Result<()> {
        let mut batches = Batches { batch: Batch::default(), bytes: 0, take };
        match table {
            Table::Keys => {
                for key in [ID_HASH_KEY, DELIVERY_ID_KEY, MASTER_KEY_CHECK] {
                    let value = read_meta(&self.connection, key)?.unwrap_or_default();
                    batches.push(0, vec![Value::Text(key.to_owned()), Value::Bytes(value)]);
                }
            }
            Table::Deliveries => self.read_deliveries(after, &mut batches)?,
            _ => self.read_rows(table, after, &mut batches)?,
        }
        batches.end();
        Ok(())
    }

    fn read_rows(&self, table: Table, after: i64, batches: &mut Batches<'_>) -> rusqlite::Result<()> {
        let mut statement = self.connection.prepare(select(table))?;
        let mut rows = statement.query([after])?;
        while let Some(found) = rows.next()? {
            let (key, mut row) = (found.get(0)?, values(found)?);
            match table {
                Table::IdempotencyKeys | Table::Figures => drop(row.remove(0)),
                // The slot.
                Table::Counters => row.push(Value::Integer(0)),
                Table::Webhooks => {
                    let uuid: Uuid = found.get(1)?;
                    row.push(Value::Integer(Shard::of(uuid).number().into()));
                }
                Table::EventIds => {
                    let (tenant, id): (TenantSeq, String) = (found.get(1)?, found.get(2)?);
                    let id = self.id_hash.wide(tenant, &id);
                    row = vec![Value::Bytes(id.as_bytes().to_vec()), Value::Integer(key)];
                }
                _ => {}
            }
            if !batches.push(key, row) {
                break;
            }
        }
        Ok(())
    }

    /// Reads both tables once, in their order on disk, without bodies. A delivery exists if the event's list names it
    /// or it has a row.
    fn read_deliveries(&self, after: i64, batches: &mut Batches<'_>) -> rusqlite::Result<()> {
        let (mut events, mut rows) = (self.connection.prepare(OWED)?, self.connection.prepare(DELIVERIES)?);
        let (mut events, mut rows) = (events.query([after])?, rows.query([after])?);
        let mut next = || -> rusqlite::Result<Option<((i64, i64), Row)>> {
            rows.next()?.map(|row| Ok(((row.get(0)?, row.get(1)?), values(row)?))).transpose()
        };
        let mut stored = next()?;
        while let Some(found) = events.next()? {
            let (event, accepted_at): (i64, i64) = (found.get(0)?, found.get(1)?);
            for WebhookSeq(webhook) in owed::decode(found.get_ref(2)?.as_blob()?) {
                while let Some((key, row)) = stored.take_if(|(key, _)| *key < (event, webhook)) {
                    if !batches.push(key.0, row) {
                        return Ok(());
                    }
                    stored = next()?;
                }
                let row = match stored.take_if(|(key, _)| *key == (event, webhook)) {
                    Some((_, row)) => {
                        stored = next()?;
                        row
                    }
                    None => delivery::in_memory(event, webhook, accepted_at),
                };
                if !batches.push(event, row) {
                    return Ok(());
                }
            }
        }
        while let Some((key, row)) = stored {
            if !batches.push(key.0, row) {
                break;
            }
            stored = next()?;
        }
        Ok(())
    }
}

/// The rows of a table after a key, which is the first column. The others are in the order of the columns in the other
/// store; see `src/store/transfer/columns.rs`.
fn select(table: Table) -> &'static str {
    match table {
        Table::Tenants => {
            "SELECT seq, uuid, name, description, max_webhooks, max_events_per_s, max_pending, max_tokens,
                 max_stored_bytes, created_at, deleted_at
             FROM tenant WHERE seq > ?1 ORDER BY seq"
        }
        Table::Counters => {
            "SELECT tenant, events, owed, delivered, dead, skipped, discarded, attempts, stored_bytes
             FROM counters WHERE tenant > ?1 ORDER BY tenant"
        }
        Table::Webhooks => {
            "SELECT seq, uuid, tenant, version, name, description, url, decnet_secret, standard_key, signatures,
                 timeout_us, topic_patterns, enabled, max_in_flight, retry_schedule, created_at, updated_at, deleted_at,
                 policy, off_reason, off_at
             FROM webhook WHERE seq > ?1 ORDER BY seq"
        }
        Table::WebhookHealth => {
            "SELECT seq, consecutive_failures, last_success_at, last_failure_at, last_error, auto_disabled_at, probe_at,
                 cool_down_us
             FROM webhook_health WHERE seq > ?1 ORDER BY seq"
        }
        Table::Tokens => {
            "SELECT seq, uuid, tenant, name, scopes, hash, created_at, expires_at, revoked_at, last_used_at
             FROM token WHERE seq > ?1 ORDER BY seq"
        }
        Table::Inlets => {
            "SELECT seq, uuid, tenant, version, name, settings, created_at, updated_at
             FROM inlet WHERE seq > ?1 ORDER BY seq"
        }
        Table::Audit => {
            "SELECT seq, uuid, at, tenant, actor_token, actor_name, action, target, target_name, fields, address
             FROM audit WHERE seq > ?1 ORDER BY seq"
        }
        Table::AuditPurges => {
            "SELECT tenant, lines, first_at, last_at FROM audit_purge WHERE tenant > ?1 ORDER BY tenant"
        }
        Table::IdempotencyKeys => {
            "SELECT seq, tenant, key, body_hash, expires_at, receipts
             FROM idempotency WHERE seq > ?1 ORDER BY seq"
        }
        Table::ReplayJobs => {
            "SELECT seq, uuid, tenant, webhook_seq, states, topic, since, until, include_unmatched, discard_reason,
                 rate_per_s, first_event, last_event, state, reason, cursor_event, cursor_webhook, scanned, changed,
                 created_at, updated_at
             FROM replay_job WHERE seq > ?1 ORDER BY seq"
        }
        Table::Rejected => {
            "SELECT seq, uuid, source, tenant, origin_id, attributes, body, length, digest, reason, at
             FROM rejected WHERE seq > ?1 ORDER BY seq"
        }
        Table::Figures => FIGURES,
        Table::FigureMarks => "SELECT step, at, tenant, webhook FROM figure_mark WHERE step > ?1 ORDER BY step",
        // The type may contain U+0000, so PostgreSQL stores it as bytes.
        Table::Events => {
            "SELECT seq, tenant, accepted_at, id, topic, CAST(type AS BLOB), owed, body, hops, checksum
             FROM event WHERE seq > ?1 ORDER BY seq"
        }
        Table::EventIds => "SELECT seq, tenant, id FROM event WHERE seq > ?1 ORDER BY seq",
        Table::Attempts => {
            "SELECT event_seq, webhook_seq, number, started_at, duration_us, status_code, error, response, exchange
             FROM attempt WHERE event_seq > ?1 ORDER BY event_seq, webhook_seq, number"
        }
        Table::Deliveries => DELIVERIES,
        Table::Keys => "SELECT 0, key, value FROM meta WHERE 0 > ?1",
    }
}

/// The values of a row as PostgreSQL can hold them: its texts have no U+0000.
fn values(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    let mut values = sql::values(row)?;
    for value in &mut values {
        if let Value::Text(text) = value
            && text.contains('\0')
        {
            *text = text.replace('\0', "\u{fffd}");
        }
    }
    Ok(values)
}

/// Gathers rows to batches.
struct Batches<'a> {
    batch: Batch,
    bytes: usize,
    take: &'a mut dyn FnMut(Batch) -> bool,
}

impl Batches<'_> {
    /// `false`: no more rows are wanted.
    fn push(&mut self, key: i64, row: Row) -> bool {
        let is_full = self.batch.rows.len() >= MAX_MOVED_ROWS || self.bytes >= MAX_MOVED_BYTES;
        if is_full && key != self.batch.through && !self.hand_over() {
            return false;
        }
        self.bytes += row.iter().map(Value::bytes).sum::<usize>();
        self.batch.rows.push(row);
        self.batch.through = key;
        true
    }

    fn hand_over(&mut self) -> bool {
        self.bytes = 0;
        (self.take)(std::mem::take(&mut self.batch))
    }

    fn end(&mut self) {
        if !self.batch.rows.is_empty() {
            self.hand_over();
        }
    }
}
