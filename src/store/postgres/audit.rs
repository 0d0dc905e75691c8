//! The audit log: lines that the calls of named callers leave, and reading them.

use std::net::IpAddr;

use uuid::Uuid;

use super::transaction::{Commit, Failure};
use crate::store::Deed;

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
