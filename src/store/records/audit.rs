//! The lines that named callers leave in the audit log.

use std::net::IpAddr;

use uuid::Uuid;

use crate::store::failure::Failure;
use crate::store::sql::{Sql, Value};
use crate::store::{Act, Deed};

/// Takes the values of [`line()`].
pub(in crate::store) const INSERT_LINE: &str =
    "INSERT INTO audit (uuid, at, tenant, actor_token, actor_name, action, target, target_name, fields, address)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";

/// The line that `act` leaves for a deed, if its caller is named.
pub(in crate::store) fn line(act: Option<&Act>, deed: &Deed) -> Option<[Value; 10]> {
    let (act, actor) = act.and_then(|act| Some((act, act.actor.as_ref()?)))?;
    Some([
        Uuid::new_v4().into(),
        deed.at.into(),
        deed.tenant.into(),
        actor.token.into(),
        (&actor.name).into(),
        act.action.unwrap_or(deed.action).into(),
        deed.target.as_ref().into(),
        deed.target_name.as_ref().into(),
        act.fields.join(" ").into(),
        act.address.as_ref().map(IpAddr::to_string).into(),
    ])
}

/// Adds a line if the caller is named. A call records at its end, when its deed is certain.
pub(in crate::store) fn record(sql: &mut dyn Sql, deed: &Deed) -> Result<(), Failure> {
    match line(sql.act(), deed) {
        Some(values) => sql.execute(INSERT_LINE, &values).map(drop),
        None => Ok(()),
    }
}
