//! What this node knows of what others have changed, and what the others know of what it has.
//!
//! A change is answered when every node that is alive has taken it in. A node whose lease is over is not waited for, and so
//! it believes nothing that it knew until it has looked again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::MutexGuard;
use tokio::time::Instant;
use uuid::Uuid;

use super::{Engine, to_the_end};
use crate::dispatcher::Member;
use crate::store::cluster::{ChangeMark, Changes, Hint};
use crate::store::{Act, StoreError};

/// The timeout of a look that an event, or its publisher's token, waits for.
const LOOK_WITHIN: Duration = Duration::from_millis(4_500);
/// The longest wait of a change for live nodes that do not take it in, in leases, up to [`MAX_KNOWN_WAIT`]. A node that
/// has died counts as alive for one lease.
const KNOWN_WITHIN_LEASES: u32 = 2;
/// The longest wait until all nodes know a change.
const MAX_KNOWN_WAIT: Duration = Duration::from_mins(1);
/// The first and the longest pause between two questions which nodes are unaware.
const ASK_PAUSES: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));
/// The interval of repeated hints during the wait.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// The state of this node's knowledge of changes.
pub(super) struct Knowledge {
    look: parking_lot::Mutex<Look>,
    /// The time of the last question after which all nodes were aware. The lock is held during a question, so that one
    /// change at a time asks.
    all_knew: tokio::sync::Mutex<Option<Instant>>,
}

/// The last look at changes.
struct Look {
    mark: ChangeMark,
    began_at: Option<Instant>,
    /// The number of the lease at its beginning.
    lease: Option<u64>,
}

impl Knowledge {
    /// Begins with the changes up to `mark` known.
    pub(super) fn new(mark: ChangeMark) -> Self {
        let look = Look { mark, began_at: None, lease: None };
        Self { look: parking_lot::Mutex::new(look), all_knew: tokio::sync::Mutex::default() }
    }
}

/// Counts revocations of tokens.
#[derive(Default)]
pub(super) struct Revocations(AtomicU64);

impl Engine {
    /// Whether changes have waited for this node at all times since its last look, because its lease has not ended.
    fn is_informed(&self) -> bool {
        let Some(membership) = &self.membership else { return true };
        let lease = self.dispatcher.lease_number();
        lease.is_some() && membership.knowledge.look.lock().lease == lease
    }

    /// Returns when this node knows every change that was answered before the call.
    pub(super) async fn be_informed(&self) -> Result<(), StoreError> {
        let Some(membership) = &self.membership else { return Ok(()) };
        if self.is_informed() {
            return Ok(());
        }
        let asked_at = Instant::now();
        let look = async {
            let in_order = self.changes.lock().await;
            let has_looked = membership.knowledge.look.lock().began_at.is_some_and(|began_at| began_at >= asked_at);
            if has_looked { Ok(()) } else { self.look(&membership.member, &membership.knowledge, &in_order).await }
        };
        let late = || Err(StoreError::Unavailable("the database does not answer".to_owned()));
        tokio::time::timeout(LOOK_WITHIN, look).await.unwrap_or_else(|_| late())
    }

    /// Takes in changes of other nodes.
    pub(super) async fn follow_changes(&self, member: &Member, knowledge: &Knowledge) -> Result<(), StoreError> {
        {
            let in_order = self.changes.lock().await;
            self.look(member, knowledge, &in_order).await?;
        }
        let jobs = self.store.unfinished_replays().await?;
        self.replays.follow(jobs);
        Ok(())
    }

    async fn look(
        &self,
        member: &Member,
        knowledge: &Knowledge,
        _in_order: &MutexGuard<'_, ()>,
    ) -> Result<(), StoreError> {
        let (began_at, lease) = (Instant::now(), self.dispatcher.lease_number());
        let since = knowledge.look.lock().mark.clone();
        let changes = member.cluster.changes(Some(&since)).await?;
        let mark = changes.mark.clone();
        self.take_in(changes);
        *knowledge.look.lock() = Look { mark: mark.clone(), began_at: Some(began_at), lease };
        member.cluster.know(member.node, &mark).await
    }

    fn take_in(&self, changes: Changes) {
        for tenant in changes.tenants {
            self.tenants.apply(tenant);
        }
        for changed in &changes.webhooks {
            self.dispatcher.follow(&changed.record, changed.circuit_closed_by);
            self.ingest.apply(&changed.record);
        }
        for (tenant, webhook) in changes.deleted_webhooks {
            self.ingest.remove(tenant, webhook);
            self.dispatcher.remove(webhook);
        }
        for tenant in changes.deleted_tenants {
            self.tenants.remove(tenant);
        }
        if changes.are_tokens_revoked {
            self.forget_tokens();
        }
    }

    /// Sends a hint of changes committed before, and returns when all live nodes have taken them in. The caller must
    /// hold no lock of the engine.
    pub(super) async fn make_known(&self) -> Result<(), StoreError> {
        let Some(membership) = &self.membership else { return Ok(()) };
        self.dispatcher.hint(Hint::Changed);
        let committed_at = Instant::now();
        let mut all_knew = membership.knowledge.all_knew.lock().await;
        if all_knew.is_none_or(|asked_at| asked_at < committed_at) {
            let asked_at = Instant::now();
            self.until_all_know(&membership.member, membership.lease()).await?;
            *all_knew = Some(asked_at);
        }
        Ok(())
    }

    async fn until_all_know(&self, member: &Member, lease: Duration) -> Result<(), StoreError> {
        let give_up_at = Instant::now() + (lease * KNOWN_WITHIN_LEASES).min(MAX_KNOWN_WAIT);
        let (mut mark, mut pause, mut told_at) = (None, ASK_PAUSES.0, Instant::now());
        loop {
            let missing = match member.cluster.unaware(member.node, mark.as_ref()).await {
                Ok(unaware) if unaware.nodes.is_empty() => return Ok(()),
                Ok(unaware) => {
                    mark.get_or_insert(unaware.mark);
                    format!("{} did not take it in", unaware.nodes.join(", "))
                }
                Err(error) => error.to_string(),
            };
            if Instant::now() >= give_up_at {
                let reason = format!("the change is stored, but may not be known to every node yet: {missing}");
                return Err(StoreError::Unavailable(reason));
            }
            if told_at.elapsed() >= TELL_EVERY {
                told_at = Instant::now();
                self.dispatcher.hint(Hint::Changed);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(ASK_PAUSES.1);
        }
    }

    // --- tokens ---

    /// A cached token is valid only under the number with which it was looked up. `None`: any token may have been
    /// revoked.
    pub(crate) fn token_generation(&self) -> Option<u64> {
        // The order matters: a look counts revocations before it makes this node informed.
        let is_informed = self.is_informed();
        is_informed.then(|| self.revocations.0.load(Ordering::Acquire))
    }

    pub(super) fn forget_tokens(&self) {
        self.revocations.0.fetch_add(1, Ordering::AcqRel);
    }

    /// When this returns, no node accepts the token. `Ok(false)`: there is no such token.
    pub async fn revoke_token(self: &Arc<Self>, act: impl Into<Act>, uuid: Uuid) -> Result<bool, StoreError> {
        let (engine, act) = (Arc::clone(self), act.into());
        to_the_end(async move {
            let revoked = engine.store.audited(&act).revoke_token(act.tenant, uuid, engine.now()).await;
            // Even after an error, since the revocation may be committed while its answer was lost.
            engine.forget_tokens();
            let was_there = revoked?;
            engine.make_known().await?;
            Ok(was_there)
        })
        .await
    }
}
