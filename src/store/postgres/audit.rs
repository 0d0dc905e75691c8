//! The audit log: lines that the calls of named callers leave, and reading them.

use std::net::IpAddr;

use tokio_postgres::Row;
use uuid::Uuid;

use super::listings::{Portion, Scan};
use super::pool::Connection;
use super::transaction::{Commit, Failure};
use super::values::text;
use crate::delivery::id::DeliveryKey;
use crate::store::{Actor, AuditEntry, AuditFilter, Deed};

impl Commit {
    /// Adds a line to the audit log if the caller is named. For the end of a call, as what it did is certain then.
    pub(super) async fn record(&self, deed: &Deed) -> Result<(), Failure> {
        let Some((act, actor)) = self.act.as_ref().and_then(|act| Some((act, act.actor.as_ref()?))) else {
            return Ok(());
        };
        self.connection
            .execute(
                "INSERT INTO audit
                     (uuid, at, tenant, actor_token, actor_name, action, target, target_name, fields, address)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
                &[
                    &Uuid::new_v4(),
                    &deed.at,
                    &deed.tenant,
                    &actor.token,
                    &actor.name,
                    &act.action.unwrap_or(deed.action),
                    &deed.target,
                    &deed.target_name,
                    &act.fields.join(" "),
                    &act.address.as_ref().map(IpAddr::to_string),
                ],
            )
            .await
            .map(drop)
    }
}

impl Scan for AuditFilter {
    type Item = AuditEntry;

    /// Served by the primary key, or for one tenant by the index `audit_tenant`.
    async fn portion(
        &self,
        connection: &Connection,
        place: DeliveryKey,
        rows: u32,
        items: u32,
    ) -> Result<Portion<AuditEntry>, Failure> {
        let actor_token = self.actor.as_ref().and_then(|actor| Uuid::try_parse(actor).ok());
        let rows = connection
            .query(
                "WITH seen AS MATERIALIZED (
                     SELECT * FROM audit
                     WHERE seq < $1::bigint AND ($4::bigint IS NULL OR tenant = $4)
                     ORDER BY seq DESC
                     LIMIT $2
                 ), wanted AS (
                     SELECT seen.seq, 0::bigint AS webhook_seq, seen.uuid, at, tenant.name, actor_token, actor_name,
                         action, target, target_name, fields, address
                     FROM seen LEFT JOIN tenant ON tenant.seq = seen.tenant
                     WHERE ($5::text IS NULL OR action = $5 OR starts_with(action, $5 || '.'))
                         AND ($6::text IS NULL OR actor_name = $6 OR actor_token = $7::uuid)
                         AND ($8::bigint IS NULL OR at >= $8)
                         AND ($9::bigint IS NULL OR at < $9)
                     ORDER BY seen.seq DESC
                     LIMIT $3
                 )
                 SELECT ends.seq, 0::bigint, ends.rows, wanted.*
                 FROM (SELECT min(seq) AS seq, count(*) AS rows FROM seen) AS ends LEFT JOIN wanted ON true
                 ORDER BY wanted.seq DESC",
                &[
                    &place.event,
                    &i64::from(rows),
                    &i64::from(items),
                    &self.tenant,
                    &self.action.as_deref().map(text),
                    &self.actor.as_deref().map(text),
                    &actor_token,
                    &self.since,
                    &self.until,
                ],
            )
            .await?;
        Portion::read(&rows, |row, _| entry(row))
    }
}

fn entry(row: &Row) -> Result<AuditEntry, Failure> {
    let fields: &str = row.try_get(13)?;
    Ok(AuditEntry {
        id: row.try_get(5)?,
        at: row.try_get(6)?,
        tenant: row.try_get::<_, Option<String>>(7)?.unwrap_or_default(),
        actor: Actor { token: row.try_get(8)?, name: row.try_get(9)? },
        action: row.try_get(10)?,
        target: row.try_get(11)?,
        target_name: row.try_get(12)?,
        fields: fields.split_whitespace().map(str::to_owned).collect(),
        address: row.try_get(14)?,
    })
}
