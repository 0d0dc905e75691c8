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

/// The size of a call's writes, for the bounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) rows: usize,
    pub(super) bytes: usize,
    /// Whether somebody waits for it.
    pub(super) is_urgent: bool,
    /// The tenant whose turn the call takes; `None`: the server itself.
    pub(super) tenant: Option<TenantSeq>,
}

impl Size {
    /// A change of configuration.
    pub(super) const SMALL: Self = Self { rows: 1, bytes: 4_096, is_urgent: true, tenant: None };

    /// The cost of the call in its tenant's turns.
    pub(super) fn weight(self) -> usize {
        gather::weight(self.rows, self.bytes)
    }
}

/// The writer's state in memory. It changes together with a transaction, or not at all.
pub(super) struct State {
    pub(super) window: Window,
    /// The most events of the window after a commit.
    pub(super) max_window: usize,
    pub(super) sealer: Arc<Sealer>,
    pub(super) id_hash: IdHash,
    /// The tenants of all webhooks, deleted ones included.
    pub(super) tenants: HashMap<WebhookSeq, TenantSeq>,
    /// The additions of this transaction to the counters.
    pub(super) counters: HashMap<TenantSeq, Counters>,
    /// Follows the counters, for readers.
    pub(super) gauges: Arc<Gauges>,
    pub(super) delivery_ids: DeliveryIds,
}

/// A transaction under way.
pub(super) struct Commit<'c> {
    pub(super) connection: &'c Connection,
    pub(super) state: &'c mut State,
    /// The act of the present call.
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
