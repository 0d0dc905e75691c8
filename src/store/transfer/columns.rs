//! The columns that rows of an embedded store are written to, and read from again to be compared.

use tokio_postgres::types::Type;

use super::{Table, delivery};
use crate::store::sql::{Row, Value};

/// Rows of one fetch. Columns that may be large are sent as hashes.
pub(super) const ROWS_PER_FETCH: u32 = 2_000;

/// A table of the target, and its columns in the order of their values.
pub(super) struct Written {
    table: &'static str,
    columns: &'static [(&'static str, Type)],
}

impl Written {
    pub(super) fn of(table: Table) -> &'static Self {
        match table {
            Table::Keys => &KEYS,
            Table::Tenants => &TENANTS,
            Table::Counters => &COUNTERS,
            Table::Webhooks => &WEBHOOKS,
            Table::WebhookHealth => &WEBHOOK_HEALTH,
            Table::Tokens => &TOKENS,
            Table::Inlets => &INLETS,
            Table::Audit => &AUDIT,
            Table::AuditPurges => &AUDIT_PURGES,
            Table::IdempotencyKeys => &IDEMPOTENCY_KEYS,
            Table::ReplayJobs => &REPLAY_JOBS,
            Table::Rejected => &REJECTED,
            Table::Figures => &FIGURES,
            Table::FigureMarks => &FIGURE_MARKS,
            Table::Events => &EVENTS,
            Table::EventIds => &EVENT_IDS,
            Table::Deliveries => &ENDED,
            Table::Attempts => &ATTEMPTS,
        }
    }

    pub(super) fn statement(&self) -> String {
        format!("COPY {} ({}) FROM STDIN (FORMAT binary)", self.table, self.names())
    }

    fn select(&self) -> String {
        format!("SELECT {} FROM {}", self.names(), self.table)
    }

    fn names(&self) -> String {
        let names: Vec<&str> = self.columns.iter().map(|(name, _)| *name).collect();
        names.join(", ")
    }

    pub(super) fn types(&self) -> Vec<Type> {
        self.columns.iter().map(|(_, ty)| ty.clone()).collect()
    }
}

const fn written(table: &'static str, columns: &'static [(&'static str, Type)]) -> Written {
    Written { table, columns }
}

static KEYS: Written = written("meta", &[("key", Type::TEXT), ("value", Type::BYTEA)]);

static TENANTS: Written = written(
    "tenant",
    &[
        ("seq", Type::INT8),
        ("uuid", Type::UUID),
        ("name", Type::TEXT),
        ("description", Type::TEXT),
        ("max_webhooks", Type::INT8),
        ("max_events_per_s", Type::INT8),
        ("max_pending", Type::INT8),
        ("max_tokens", Type::INT8),
        ("max_stored_bytes", Type::INT8),
        ("created_at", Type::INT8),
        ("deleted_at", Type::INT8),
    ],
);

static COUNTERS: Written = written(
    "counters",
    &[
        ("tenant", Type::INT8),
        ("events", Type::INT8),
        ("owed", Type::INT8),
        ("delivered", Type::INT8),
        ("dead", Type::INT8),
        ("skipped", Type::INT8),
        ("discarded", Type::INT8),
        ("attempts", Type::INT8),
        ("stored_bytes", Type::INT8),
        ("slot", Type::INT4),
    ],
);

static WEBHOOKS: Written = written(
    "webhook",
    &[
        ("seq", Type::INT8),
        ("uuid", Type::UUID),
        ("tenant", Type::INT8),
        ("version", Type::INT8),
        ("name", Type::TEXT),
        ("description", Type::TEXT),
        ("url", Type::TEXT),
        ("decnet_secret", Type::BYTEA),
        ("standard_key", Type::BYTEA),
        ("signatures", Type::TEXT),
        ("timeout_us", Type::INT8),
        ("topic_patterns", Type::TEXT),
        ("enabled", Type::BOOL),
        ("max_in_flight", Type::INT4),
        ("retry_schedule", Type::TEXT),
        ("created_at", Type::INT8),
        ("updated_at", Type::INT8),
        ("deleted_at", Type::INT8),
        ("policy", Type::BYTEA),
        ("off_reason", Type::TEXT),
        ("off_at", Type::INT8),
        ("shard", Type::INT2),
    ],
);

static WEBHOOK_HEALTH: Written = written(
    "webhook_health",
    &[
        ("seq", Type::INT8),
        ("consecutive_failures", Type::INT8),
        ("last_success_at", Type::INT8),
        ("last_failure_at", Type::INT8),
        ("last_error", Type::TEXT),
        ("auto_disabled_at", Type::INT8),
        ("probe_at", Type::INT8),
        ("cool_down_us", Type::INT8),
    ],
);

static TOKENS: Written = written(
    "token",
    &[
        ("seq", Type::INT8),
        ("uuid", Type::UUID),
        ("tenant", Type::INT8),
        ("name", Type::TEXT),
        ("scopes", Type::TEXT),
        ("hash", Type::BYTEA),
        ("created_at", Type::INT8),
        ("expires_at", Type::INT8),
        ("revoked_at", Type::INT8),
        ("last_used_at", Type::INT8),
    ],
);

static INLETS: Written = written(
    "inlet",
    &[
        ("seq", Type::INT8),
        ("uuid", Type::UUID),
        ("tenant", Type::INT8),
        ("version", Type::INT8),
        ("name", Type::TEXT),
        ("settings", Type::BYTEA),
        ("created_at", Type::INT8),
        ("updated_at", Type::INT8),
    ],
);

static AUDIT: Written = written(
    "audit",
    &[
        ("seq", Type::INT8),
        ("uuid", Type::UUID),
        ("at", Type::INT8),
        ("tenant", Type::INT8),
        ("actor_token", Type::UUID),
        ("actor_name", Type::TEXT),
        ("action", Type::TEXT),
        ("target", Type::TEXT),
        ("target_name", Type::TEXT),
        ("fields", Type::TEXT),
        ("address", Type::TEXT),
    ],
);

static AUDIT_PURGES: Written = written(
    "audit_purge",
    &[("tenant", Type::INT8), ("lines", Type::INT8), ("first_at", Type::INT8), ("last_at", Type::INT8)],
);

static IDEMPOTENCY_KEYS: Written = written(
    "idempotency",
    &[
        ("tenant", Type::INT8),
        ("key", Type::TEXT),
        ("body_hash", Type::BYTEA),
        ("expires_at", Type::INT8),
        ("receipts", Type::TEXT),
    ],
);

static REPLAY_JOBS: Written = written(
    "replay_job",
    &[
        ("seq", Type::INT8),
        ("uuid", Type::UUID),
        ("tenant", Type::INT8),
        ("webhook_seq", Type::INT8),
        ("states", Type::TEXT),
        ("topic", Type::TEXT),
        ("since", Type::INT8),
        ("until", Type::INT8),
        ("include_unmatched", Type::BOOL),
        ("discard_reason", Type::TEXT),
        ("rate_per_s", Type::INT8),
        ("first_event", Type::INT8),
        ("last_event", Type::INT8),
        ("state", Type::INT2),
        ("reason", Type::TEXT),
        ("cursor_event", Type::INT8),
        ("cursor_webhook", Type::INT8),
        ("scanned", Type::INT8),
        ("changed", Type::INT8),
        ("created_at", Type::INT8),
        ("updated_at", Type::INT8),
    ],
);

static REJECTED: Written = written(
    "rejected",
    &[
        ("seq", Type::INT8),
        ("uuid", Type::UUID),
        ("source", Type::TEXT),
        ("tenant", Type::INT8),
        ("origin_id", Type::TEXT),
        ("attributes", Type::TEXT),
        ("body", Type::BYTEA),
        ("length", Type::INT8),
        ("digest", Type::BYTEA),
        ("reason", Type::TEXT),
        ("at", Type::INT8),
    ],
);

static FIGURES: Written = written(
    "figure",
    &[
        ("step", Type::INT2),
        ("at", Type::INT8),
        ("tenant", Type::INT8),
        ("webhook", Type::INT8),
        ("node", Type::INT8),
        ("accepted", Type::INT8),
        ("delivered", Type::INT8),
        ("failed", Type::INT8),
        ("dead", Type::INT8),
        ("skipped", Type::INT8),
        ("attempts", Type::BYTEA),
        ("deliveries", Type::BYTEA),
    ],
);

static FIGURE_MARKS: Written = written(
    "figure_mark",
    &[("step", Type::INT2), ("at", Type::INT8), ("tenant", Type::INT8), ("webhook", Type::INT8)],
);

static EVENTS: Written = written(
    "event",
    &[
        ("seq", Type::INT8),
        ("tenant", Type::INT8),
        ("accepted_at", Type::INT8),
        ("id", Type::TEXT),
        ("topic", Type::TEXT),
        ("type", Type::BYTEA),
        ("owed", Type::BYTEA),
        ("body", Type::BYTEA),
        ("hops", Type::BYTEA),
        ("checksum", Type::INT8),
    ],
);

static EVENT_IDS: Written = written("event_id", &[("key", Type::UUID), ("event_seq", Type::INT8)]);

/// Deliveries that have ended; [`ended`] makes the values.
pub(super) static ENDED: Written = written(
    "delivery",
    &[
        ("event_seq", Type::INT8),
        ("webhook_seq", Type::INT8),
        ("updated_at", Type::INT8),
        ("state", Type::INT2),
        ("attempts", Type::INT4),
        ("round_attempts", Type::INT4),
        ("status_code", Type::INT4),
        ("reason", Type::TEXT),
        ("first_started_at", Type::INT8),
        ("first_duration_us", Type::INT8),
        ("first_status_code", Type::INT4),
        ("first_error", Type::TEXT),
        ("first_response", Type::BYTEA),
        ("first_exchange", Type::BYTEA),
    ],
);

pub(super) fn ended(row: &Row) -> Vec<&Value> {
    row.iter().enumerate().filter(|(place, _)| *place != delivery::NEXT_AT).map(|(_, value)| value).collect()
}

/// Pending deliveries; [`pending`] makes the values.
pub(super) static PENDING: Written = written(
    "pending",
    &[
        ("event_seq", Type::INT8),
        ("webhook_seq", Type::INT8),
        ("updated_at", Type::INT8),
        ("attempts", Type::INT4),
        ("round_attempts", Type::INT4),
        ("status_code", Type::INT4),
        ("reason", Type::TEXT),
        ("next_at", Type::INT8),
        ("in_memory", Type::BOOL),
    ],
);

/// No lane holds a delivery during a move.
static NOT_IN_MEMORY: Value = Value::Integer(0);

pub(super) fn pending(row: &Row) -> Vec<&Value> {
    let (before, after) = (&row[..delivery::STATE], &row[delivery::ATTEMPTS..=delivery::NEXT_AT]);
    before.iter().chain(after).chain([&NOT_IN_MEMORY]).collect()
}

static ATTEMPTS: Written = written(
    "attempt",
    &[
        ("event_seq", Type::INT8),
        ("webhook_seq", Type::INT8),
        ("number", Type::INT4),
        ("started_at", Type::INT8),
        ("duration_us", Type::INT8),
        ("status_code", Type::INT4),
        ("error", Type::TEXT),
        ("response", Type::BYTEA),
        ("exchange", Type::BYTEA),
    ],
);

/// The statements that read a table for the comparison, with its columns in order, and hashes in place of large
/// columns. Deliveries are in two tables.
pub(super) fn selects(table: Table) -> Vec<String> {
    let selects: &[&str] = match table {
        Table::Keys => {
            &["SELECT key, value FROM meta WHERE key IN ('id_hash_key', 'delivery_id_key', 'master_key_check')"]
        }
        Table::Events => &["SELECT seq, tenant, accepted_at, id, topic, type, owed, sha256(body), hops, checksum
             FROM event"],
        Table::Deliveries => &[
            "SELECT event_seq, webhook_seq, updated_at, 4, attempts, round_attempts, status_code, reason, next_at,
                 NULL::bigint, NULL::bigint, NULL::integer, NULL::text, NULL::bytea,
                 NULL::bytea
             FROM pending",
            "SELECT event_seq, webhook_seq, updated_at, state, attempts, round_attempts, status_code, reason,
                 NULL::bigint, first_started_at, first_duration_us, first_status_code, first_error,
                 CASE WHEN first_started_at IS NOT NULL THEN sha256(coalesce(first_response, '')) END,
                 sha256(first_exchange)
             FROM delivery",
        ],
        Table::Attempts => &["SELECT event_seq, webhook_seq, number, started_at, duration_us, status_code, error,
                 sha256(response), sha256(exchange)
             FROM attempt"],
        _ => return vec![Written::of(table).select()],
    };
    selects.iter().map(|select| (*select).to_owned()).collect()
}
