//! What other nodes have changed, and the webhooks of shards that a node takes over.

use super::pool::Connection;
use super::sql::values;
use crate::store::TenantRecord;
use crate::store::cluster::ChangedWebhook;
use crate::store::failure::{Failure, corrupt};
use crate::store::records::tenants::{select_tenants, tenant};
use crate::store::records::webhooks::{select_webhooks, webhook};
use crate::store::seal::Sealer;
use crate::store::sql::Field;
use crate::webhook::{TenantSeq, WebhookRecord, WebhookSeq};

/// The webhooks of shards.
pub(super) async fn of_shards(
    connection: &Connection,
    sealer: &Sealer,
    shards: &[i16],
) -> Result<Vec<WebhookRecord>, Failure> {
    let sql = select_webhooks!("WHERE shard = ANY($1) AND deleted_at IS NULL ORDER BY seq");
    connection.query(sql, &[&shards]).await?.iter().map(|row| webhook(values(row)?, sealer)).collect()
}

/// Deleted webhooks of shards that still have stored pending deliveries.
pub(super) async fn deleted_of_shards(connection: &Connection, shards: &[i16]) -> Result<Vec<WebhookSeq>, Failure> {
    let rows = connection
        .query(
            "SELECT seq FROM webhook
             WHERE shard = ANY($1) AND deleted_at IS NOT NULL AND EXISTS (
                 SELECT 1 FROM pending WHERE NOT in_memory AND webhook_seq = webhook.seq
             )
             ORDER BY seq",
            &[&shards],
        )
        .await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// Webhooks that were changed by transactions that had not ended in the snapshot `since`.
pub(super) async fn changed_webhooks(
    connection: &Connection,
    sealer: &Sealer,
    since: &str,
) -> Result<Vec<ChangedWebhook>, Failure> {
    let sql = select_webhooks!(
        ", circuit_closed_by",
        "WHERE changed_in >= pg_snapshot_xmin($1::text::pg_snapshot) AND deleted_at IS NULL ORDER BY seq"
    );
    let rows = connection.query(sql, &[&since]).await?;
    let changed = |row| {
        let mut values = values(row)?;
        let circuit_closed_by = values.pop().and_then(Field::of);
        let circuit_closed_by = circuit_closed_by.ok_or_else(|| corrupt("no column of the closed circuit"))?;
        Ok(ChangedWebhook { record: webhook(values, sealer)?, circuit_closed_by })
    };
    rows.iter().map(changed).collect()
}

/// Webhooks that were deleted by transactions that had not ended in the snapshot `since`.
pub(super) async fn deleted_webhooks(
    connection: &Connection,
    since: &str,
) -> Result<Vec<(TenantSeq, WebhookSeq)>, Failure> {
    let sql = "SELECT tenant, seq FROM webhook WHERE changed_in >= pg_snapshot_xmin($1::text::pg_snapshot) AND deleted_at IS NOT NULL";
    let rows = connection.query(sql, &[&since]).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// Tenants that were changed, and those that were deleted, by transactions that had not ended in the snapshot `since`.
pub(super) async fn changed_tenants(
    connection: &Connection,
    since: &str,
) -> Result<(Vec<TenantRecord>, Vec<TenantSeq>), Failure> {
    let rows = connection
        .query(select_tenants!("AND changed_in >= pg_snapshot_xmin($1::text::pg_snapshot)"), &[&since])
        .await?;
    let changed = rows.iter().map(|row| tenant(values(row)?)).collect::<Result<_, _>>()?;
    let sql =
        "SELECT seq FROM tenant WHERE changed_in >= pg_snapshot_xmin($1::text::pg_snapshot) AND deleted_at IS NOT NULL";
    let rows = connection.query(sql, &[&since]).await?;
    let deleted = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    Ok((changed, deleted))
}

/// Whether any token was revoked by a transaction that had not ended in the snapshot `since`.
pub(super) async fn any_token_revoked(connection: &Connection, since: &str) -> Result<bool, Failure> {
    let sql = "
        SELECT EXISTS (
            SELECT FROM token WHERE revoked_at IS NOT NULL AND changed_in >= pg_snapshot_xmin($1::text::pg_snapshot)
        )";
    Ok(connection.query_one(sql, &[&since]).await?.try_get(0)?)
}
