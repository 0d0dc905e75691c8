//! A transaction under way: what calls write in, and what they know.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{CachedStatement, Connection};

use super::window::Window;
use crate::delivery::id::DeliveryIds;
use crate::store::counters::{Counters, Gauges};
use crate::store::gather;
use crate::store::id_hash::IdHash;
use crate::store::seal::Sealer;
use crate::store::{Act, StoreError};
use crate::webhook::{TenantSeq, WebhookSeq};

pub(super) fn closed() -> StoreError {
    StoreError::Unavailable("it is closed".to_owned())
}

/// How much a call writes, for the bounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) rows: usize,
    pub(super) bytes: usize,
    /// Whether somebody waits for it.
    pub(super) is_urgent: bool,
    /// Who takes turns with others; `None`: the server itself.
    pub(super) tenant: Option<TenantSeq>,
}

impl Size {
    /// A change of configuration.
    pub(super) const SMALL: Self = Self { rows: 1, bytes: 4_096, is_urgent: true, tenant: None };

    /// What it takes of the turns of its tenant.
    pub(super) fn weight(self) -> usize {
        gather::weight(self.rows, self.bytes)
    }
}

/// What the writer knows beside the files; changes with the transaction or not at all.
pub(super) struct State {
    pub(super) window: Window,
    /// Events that the window may hold after a commit.
    pub(super) max_window: usize,
    pub(super) sealer: Arc<Sealer>,
    pub(super) id_hash: IdHash,
    /// Every webhook there ever was.
    pub(super) tenants: HashMap<WebhookSeq, TenantSeq>,
    /// What this transaction adds to the counters.
    pub(super) counters: HashMap<TenantSeq, Counters>,
    /// Follows the counters, for readers.
    pub(super) gauges: Arc<Gauges>,
    pub(super) delivery_ids: DeliveryIds,
}

/// A transaction under way.
pub(super) struct Commit<'c> {
    pub(super) connection: &'c Connection,
    pub(super) state: &'c mut State,
    /// Whose call is being worked off.
    pub(super) act: Option<Arc<Act>>,
}

impl<'c> Commit<'c> {
    pub(super) fn prepare(&self, sql: &str) -> rusqlite::Result<CachedStatement<'c>> {
        self.connection.prepare_cached(sql)
    }

    pub(super) fn counters(&mut self, tenant: TenantSeq) -> &mut Counters {
        self.state.counters.entry(tenant).or_default()
    }

    /// The counters of the tenant that owns `webhook`.
    pub(super) fn counters_of(&mut self, webhook: WebhookSeq) -> Option<&mut Counters> {
        let tenant = *self.state.tenants.get(&webhook)?;
        Some(self.counters(tenant))
    }
}
