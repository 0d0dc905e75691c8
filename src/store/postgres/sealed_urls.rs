//! URLs from before they were sealed: the first node that starts seals them.

use uuid::Uuid;

use super::pool::Connections;
use super::schema::MIGRATION_LOCK;
use crate::store::failure::Failure;
use crate::store::records::webhook_columns::sealed_url;
use crate::store::seal::Sealer;
use crate::webhook::TenantSeq;

/// Seals the URLs, also of deleted webhooks. The next `VACUUM` removes the old rows.
pub(super) async fn seal_urls(connections: &Connections, sealer: &Sealer) -> Result<(), Failure> {
    let mut connection = connections.get().await?;
    let unsealed = "SELECT EXISTS (SELECT 1 FROM webhook WHERE url NOT LIKE '%/…')";
    if !connection.query_one(unsealed, &[]).await?.try_get::<_, bool>(0)? {
        return Ok(());
    }
    connection.begin().await?;
    connection.execute("SELECT pg_advisory_xact_lock($1)", &[&MIGRATION_LOCK]).await?;
    let rows = connection
        .query(
            "SELECT seq, tenant, uuid, url, policy FROM webhook WHERE url NOT LIKE '%/…' ORDER BY seq FOR NO KEY UPDATE",
            &[],
        )
        .await?;
    for row in rows {
        let (seq, tenant, uuid): (i64, TenantSeq, Uuid) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let (url, policy): (String, Option<Vec<u8>>) = (row.try_get(3)?, row.try_get(4)?);
        let (url, policy) = sealed_url(&url, policy.as_deref(), sealer, tenant, uuid)?;
        connection.execute("UPDATE webhook SET url = $2, policy = $3 WHERE seq = $1", &[&seq, &url, &policy]).await?;
    }
    Ok(connection.commit().await?)
}
