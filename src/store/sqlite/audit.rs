//! The audit log: lines that the calls of named callers leave, and reading them.

use std::net::IpAddr;

use rusqlite::Row;
use uuid::Uuid;

use super::listings::Listing;
use super::writer::{Commit, Failure};
use crate::delivery::id::{DeliveryKey, EventSeq};
use crate::store::paging::{Collector, NO_WEBHOOK};
use crate::store::{Actor, AuditEntry, AuditFilter, Deed, Page, PageOf};

impl Commit<'_> {
    /// Adds a line to the audit log if the caller is named. For the end of a call, as what it did is certain then.
    pub(super) fn record(&self, deed: &Deed) -> rusqlite::Result<()> {
        let Some((act, actor)) = self.act.as_ref().and_then(|act| Some((act, act.actor.as_ref()?))) else {
            return Ok(());
        };
        self.prepare(
            "INSERT INTO audit
                 (uuid, at, tenant, actor_token, actor_name, action, target, target_name, fields, address)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?
        .execute((
            Uuid::new_v4(),
            deed.at,
            deed.tenant,
            actor.token,
            &actor.name,
            act.action.unwrap_or(deed.action),
            &deed.target,
            &deed.target_name,
            act.fields.join(" "),
            act.address.as_ref().map(IpAddr::to_string),
        ))
        .map(drop)
    }
}

/// The columns that [`entry`] reads, in its order.
macro_rules! select_audit {
    ($condition:literal) => {
        concat!(
            "SELECT audit.seq, audit.uuid, at, name, actor_token, actor_name, action, target, target_name, fields,
                 address
             FROM audit LEFT JOIN tenant ON tenant.seq = audit.tenant ",
            $condition,
            " ORDER BY audit.seq DESC"
        )
    };
}

/// Newest first; the tenant is that of the filter.
pub(super) fn list(listing: &Listing<'_>, filter: &AuditFilter, page: &Page) -> Result<PageOf<AuditEntry>, Failure> {
    let start = listing.start(page)?.event;
    // Two statements, as one for both cases would not use the index.
    let sql = match filter.tenant {
        Some(_) => select_audit!("WHERE audit.tenant = ?2 AND audit.seq < ?1"),
        None => select_audit!("WHERE audit.seq < ?1 AND ?2 IS NULL"),
    };
    let mut statement = listing.connection.prepare_cached(sql)?;
    let mut rows = statement.query((start, filter.tenant))?;
    let mut collector = Collector::new(page, listing.bounds);
    while let Some(row) = rows.next()? {
        let place = DeliveryKey { event: row.get::<_, EventSeq>(0)?, webhook: NO_WEBHOOK };
        collector.see(place);
        let entry = entry(row)?;
        if filter.wants(&entry) {
            collector.add(place, entry, 0);
        }
        if !collector.goes_on() {
            break;
        }
    }
    Ok(collector.finish(listing.ids))
}

fn entry(row: &Row<'_>) -> rusqlite::Result<AuditEntry> {
    let fields: String = row.get(9)?;
    Ok(AuditEntry {
        id: row.get(1)?,
        at: row.get(2)?,
        tenant: row.get::<_, Option<String>>(3)?.unwrap_or_default(),
        actor: Actor { token: row.get(4)?, name: row.get(5)? },
        action: row.get(6)?,
        target: row.get(7)?,
        target_name: row.get(8)?,
        fields: fields.split_whitespace().map(str::to_owned).collect(),
        address: row.get(10)?,
    })
}
