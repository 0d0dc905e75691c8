//! Transactions that write: begun, done, committed or done again, with what belongs to each of them: counters, and
//! whose act it is.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use parking_lot::Mutex;

use super::Shared;
use super::accept::{self, Stored};
use super::error::{is_passing, lacks_partition};
use super::pool::Connection;
use crate::delivery::id::EventSeq;
use crate::store::counters::{Counters, Usage};
use crate::store::failure::{Failure, of_postgres};
use crate::store::{Act, NewEvent, StoreError};
use crate::webhook::TenantSeq;

/// The most tries of a transaction that fails because of concurrent ones.
pub(super) const MAX_TRIES: u32 = 5;

/// A probe that waits for a lock ends before its caller's timeout, so that it does not keep a connection.
const BEGIN_REHEARSAL: &str = "SET LOCAL lock_timeout = '1s'; SAVEPOINT rehearsal";

/// Numbers of rows of the table `counters`. Each belongs to one transaction at a time, so that transactions do not wait
/// for each other.
pub(super) struct CounterSlots {
    free: Mutex<Vec<i32>>,
    count: i32,
    /// The first number of this node. Two nodes may have the same one for a moment; their transactions then wait for
    /// each other.
    first: AtomicI32,
}

impl CounterSlots {
    pub(super) fn new(count: u32) -> Self {
        let count = super::values::integer(count);
        Self { free: Mutex::new((0..count).rev().collect()), count, first: AtomicI32::new(0) }
    }

    /// `place`: the number of nodes before this one.
    pub(super) fn begin_at(&self, place: i32) {
        self.first.store(place.saturating_mul(self.count), Ordering::Relaxed);
    }
}

/// A slot on loan.
pub(super) struct CounterSlot {
    number: i32,
    shared: Arc<Shared>,
}

impl CounterSlot {
    /// The lowest free slot, so that few rows are used. There are as many slots as connections, and a connection has at
    /// most one transaction.
    pub(super) fn take(shared: &Arc<Shared>) -> Self {
        let mut free = shared.slots.free.lock();
        free.sort_unstable_by(|a, b| b.cmp(a));
        Self { number: free.pop().unwrap_or(0), shared: Arc::clone(shared) }
    }

    pub(super) fn number(&self) -> i32 {
        self.shared.slots.first.load(Ordering::Relaxed).saturating_add(self.number)
    }
}

impl Drop for CounterSlot {
    fn drop(&mut self) {
        self.shared.slots.free.lock().push(self.number);
    }
}

/// A transaction under way. It is rolled back if it is dropped without [`Commit::end`].
pub(super) struct Commit {
    pub(super) connection: Connection,
    pub(super) shared: Arc<Shared>,
    /// The act for which this call writes lines in the audit log.
    pub(super) act: Option<Arc<Act>>,
    counters: BTreeMap<TenantSeq, Counters>,
    slot: Option<CounterSlot>,
    /// Usage of events whose counters are stored already.
    used: BTreeMap<TenantSeq, Usage>,
    newest: EventSeq,
}

impl Commit {
    pub(super) async fn begin(shared: &Arc<Shared>, act: Option<&Arc<Act>>) -> Result<Self, StoreError> {
        let mut connection = shared.connections.get().await?;
        connection.begin().await.map_err(|error| of_postgres(&error))?;
        Ok(Self {
            connection,
            shared: Arc::clone(shared),
            act: act.cloned(),
            counters: BTreeMap::new(),
            slot: None,
            used: BTreeMap::new(),
            newest: EventSeq(0),
        })
    }

    /// The additions of this transaction to a tenant's counters.
    pub(super) fn counters(&mut self, tenant: TenantSeq) -> &mut Counters {
        self.counters.entry(tenant).or_default()
    }

    /// The row of the counters that this transaction has until its end.
    pub(super) fn slot(&mut self) -> i32 {
        self.slot.get_or_insert_with(|| CounterSlot::take(&self.shared)).number()
    }

    /// Takes note of events that were stored within it; returns their answers.
    pub(super) fn note_stored(&mut self, stored: Stored) {
        for (tenant, used) in stored.used {
            *self.used.entry(tenant).or_default() += used;
        }
        self.newest = self.newest.max(stored.newest);
    }

    /// Fails while events cannot be accepted or nothing can be committed. It accepts an event that touches all tables
    /// of an acceptance, rolls that back, and commits a row.
    pub(super) async fn probe(&mut self) -> Result<(), Failure> {
        self.connection.batch(BEGIN_REHEARSAL).await?;
        let slot = self.slot();
        accept::store(&self.connection, &self.shared, slot, &[&NewEvent::rehearsal()]).await?;
        self.connection.batch("ROLLBACK TO rehearsal").await?;
        self.connection
            .execute(
                "INSERT INTO meta (key, value) VALUES ('probe', decode('00', 'hex'))
                 ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                &[],
            )
            .await
            .map(drop)
    }

    /// Commits if `done` is a success, otherwise rolls back. `Continue`: the caller should try again from the
    /// beginning. The error of a statement must be passed on to here, since after one the server silently turns a
    /// commit into a rollback.
    pub(super) async fn end<T>(
        mut self,
        done: Result<T, Failure>,
        tries: &mut u32,
    ) -> ControlFlow<Result<T, StoreError>> {
        *tries += 1;
        let ended = match done {
            Ok(value) => self.commit().await.map(|()| value),
            Err(failure) => Err(failure),
        };
        match ended {
            Err(Failure::Postgres(error)) if is_passing(&error) && *tries < MAX_TRIES => ControlFlow::Continue(()),
            Err(Failure::Postgres(error)) if lacks_partition(&error) && *tries < MAX_TRIES => {
                let shared = Arc::clone(&self.shared);
                drop(self);
                shared.mend_partitions().await;
                ControlFlow::Continue(())
            }
            Err(failure) => {
                if self.newest > EventSeq(0) {
                    self.shared.window.doubt();
                }
                ControlFlow::Break(Err(failure.into()))
            }
            Ok(value) => {
                // Before the callers are answered: they free their reservations of quotas then, and rely on these
                // gauges.
                self.shared.gauges.add(self.counters.iter().map(|(tenant, added)| (*tenant, added.usage())));
                self.shared.gauges.add(std::mem::take(&mut self.used).into_iter());
                self.shared.window.saw(self.newest);
                ControlFlow::Break(Ok(value))
            }
        }
    }

    async fn commit(&mut self) -> Result<(), Failure> {
        if !self.counters.is_empty() {
            self.add_to_counters().await?;
        }
        Ok(self.connection.commit().await?)
    }

    async fn add_to_counters(&mut self) -> Result<(), Failure> {
        let slot = self.slot();
        let column = |of: fn(&Counters) -> i64| self.counters.values().map(of).collect::<Vec<_>>();
        self.connection
            .execute(
                "INSERT INTO counters
                     (tenant, slot, events, owed, delivered, dead, skipped, discarded, attempts, stored_bytes)
                 SELECT tenant, $1, events, owed, delivered, dead, skipped, discarded, attempts, stored_bytes
                 FROM unnest(
                     $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
                     $9::bigint[], $10::bigint[]
                 ) AS added (tenant, events, owed, delivered, dead, skipped, discarded, attempts, stored_bytes)
                 ON CONFLICT (tenant, slot) DO UPDATE SET
                     events = counters.events + excluded.events,
                     owed = counters.owed + excluded.owed,
                     delivered = counters.delivered + excluded.delivered,
                     dead = counters.dead + excluded.dead,
                     skipped = counters.skipped + excluded.skipped,
                     discarded = counters.discarded + excluded.discarded,
                     attempts = counters.attempts + excluded.attempts,
                     stored_bytes = counters.stored_bytes + excluded.stored_bytes",
                &[
                    &slot,
                    &self.counters.keys().copied().collect::<Vec<_>>(),
                    &column(|added| added.events),
                    &column(|added| added.owed),
                    &column(|added| added.delivered),
                    &column(|added| added.dead),
                    &column(|added| added.skipped),
                    &column(|added| added.discarded),
                    &column(|added| added.attempts),
                    &column(|added| added.stored_bytes),
                ],
            )
            .await
            .map(drop)
    }
}

/// `write!(store, |commit| …)` runs the expression in a transaction named `commit`, and returns after the commit. It
/// tries again if a concurrent transaction made it fail. It is a macro, since a closure cannot lend `commit` to a
/// future that is `Send`.
macro_rules! write {
    ($store:expr, |$commit:ident| $work:expr) => {{
        let mut tries = 0;
        loop {
            let mut transaction = $store.begin().await?;
            let $commit = &mut transaction;
            let done = $work;
            if let ::std::ops::ControlFlow::Break(answer) = transaction.end(done, &mut tries).await {
                break answer;
            }
        }
    }};
}
pub(super) use write;
