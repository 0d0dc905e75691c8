//! The tables and columns that this program needs, to say which one a damaged database lacks, and the lock for changing them.

use super::pool::Connection;
use crate::store::failure::Failure;

/// `pg_advisory_xact_lock`, held by a migration.
pub(super) const MIGRATION_LOCK: i64 = 0x5052_4452_0001;

/// The tables after the last migration. Partitions and their parents have the same columns.
pub(super) const TABLES: &[(&str, &str)] = &[
    ("attempt", "event_seq webhook_seq started_at duration_us number status_code error response exchange"),
    ("audit", "seq uuid at tenant actor_token actor_name action target target_name fields address"),
    ("audit_purge", "tenant lines first_at last_at"),
    ("counters", "tenant slot events owed delivered dead skipped discarded attempts stored_bytes"),
    (
        "delivery",
        "event_seq webhook_seq updated_at first_started_at first_duration_us state attempts round_attempts status_code first_status_code reason first_error first_response first_exchange",
    ),
    ("event", "seq tenant accepted_at id topic type owed body hops checksum"),
    ("event_id", "key event_seq"),
    ("figure", "step at tenant webhook node accepted delivered failed dead skipped attempts deliveries"),
    ("figure_mark", "step at tenant webhook"),
    ("idempotency", "tenant key body_hash expires_at receipts"),
    ("inlet", "seq uuid tenant version name settings created_at updated_at"),
    ("meta", "key value"),
    ("node", "uuid name started_at seen_at address version lease_us draining stopping known"),
    ("pending", "event_seq webhook_seq next_at updated_at attempts round_attempts status_code in_memory reason"),
    ("rejected", "seq uuid source tenant origin_id attributes body length reason at"),
    (
        "replay_job",
        "seq uuid tenant webhook_seq states topic since until include_unmatched discard_reason rate_per_s first_event last_event state reason cursor_event cursor_webhook scanned changed created_at updated_at",
    ),
    ("shard", "id holder epoch lease_until"),
    (
        "tenant",
        "seq uuid name description max_webhooks max_events_per_s max_pending max_tokens max_stored_bytes created_at deleted_at changed_in",
    ),
    ("token", "seq uuid tenant name scopes hash created_at expires_at revoked_at last_used_at changed_in"),
    ("transfer", "is_only source state started_at finished_at"),
    ("transfer_progress", "name through row_count is_done"),
    (
        "webhook",
        "seq uuid tenant shard version name description url decnet_secret standard_key signatures timeout_us topic_patterns enabled max_in_flight retry_schedule created_at updated_at deleted_at policy off_reason off_at changed_in circuit_closed_by",
    ),
    (
        "webhook_health",
        "seq consecutive_failures last_success_at last_failure_at last_error auto_disabled_at probe_at cool_down_us",
    ),
];

/// The name of a missing table or column; `None`: the schema is whole.
pub(super) async fn damage(connection: &Connection) -> Result<Option<String>, Failure> {
    let columns = |columns: &'static str| columns.split(' ');
    let expected = TABLES.iter().flat_map(|(table, names)| columns(names).map(move |name| (*table, name)));
    let (tables, names): (Vec<&str>, Vec<&str>) = expected.unzip();
    let row = connection
        .query_opt(
            "SELECT wanted.of, wanted.name, found.oid IS NOT NULL
             FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS wanted (of, name, place)
                 LEFT JOIN pg_class AS found
                     ON found.relname = wanted.of AND found.relnamespace = current_schema()::regnamespace
             WHERE NOT EXISTS (
                 SELECT FROM pg_attribute
                 WHERE attrelid = found.oid AND attname = wanted.name AND attnum > 0 AND NOT attisdropped
             )
             ORDER BY wanted.place LIMIT 1",
            &[&tables, &names],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    let (table, column, is_there): (&str, &str, bool) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    Ok(Some(if is_there {
        format!("the table {table} has no column {column}")
    } else {
        format!("the table {table} is missing")
    }))
}
