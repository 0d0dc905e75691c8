//! Replay: jobs that go through stored deliveries in small steps, and resending one event.
//!
//! A job reads what it meets next, keeps it from being attempted, commits a step, and rests. What is under way is left
//! alone. Events go first: a step is small, waits while the writer is busy, and a job makes no more than its rate.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use uuid::Uuid;

use super::step::{Deference, let_events_pass};
use super::{Engine, to_the_end};
use crate::clock::Clock;
use crate::dispatcher::Dispatcher;
use crate::fit::fit;
use crate::store::cluster::Hint;
use crate::store::replay::{
    MAX_RESEND_DELIVERIES, NewReplay, ReplayAction, ReplayRecord, ReplayState, ReplayStep, Stepped,
};
use crate::store::{Act, Deed, DeliveryKey, EventSeq, Shard, Store, StoreError};
use crate::topic::Pattern;
use crate::webhook::{TenantSeq, WebhookSeq, WebhookSettings};

/// The most jobs that run at the same time. Others wait for their turn.
pub const MAX_RUNNING_REPLAYS: usize = 4;
/// The default rate of a job, in changed deliveries a second.
pub const DEFAULT_REPLAY_RATE_PER_S: u32 = 1_000;
/// The rates that a job may have.
pub const REPLAY_RATE_PER_S: std::ops::RangeInclusive<u32> = 1..=10_000;
/// The most deliveries that one step of a job changes.
const MAX_STEP_CHANGES: u32 = 100;
/// The steps a second of a job that reaches its rate, roughly.
const STEPS_PER_S: u32 = 20;
/// The shortest pause between two steps.
const STEP_PAUSE: Duration = Duration::from_millis(5);
/// A step waits for a busy writer, for at most a second.
const DEFERENCE: Deference = Deference { pause: Duration::from_millis(20), looks: 50 };
/// The pause of a job after the store failed.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// The reason of a cancelled job.
const CANCELLED: &str = "cancelled by an operator";

/// The result of resending an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resent {
    /// The number of deliveries made pending.
    pub deliveries: u32,
    /// The number of deliveries that are on their way already.
    pub under_way: u32,
}

/// The jobs that wait or run.
pub(super) struct Replays {
    runner: Runner,
    tasks: Mutex<Tasks>,
}

#[derive(Default)]
struct Tasks {
    all: JoinSet<()>,
    running: HashMap<Uuid, AbortHandle>,
}

#[derive(Clone)]
struct Runner {
    store: Arc<dyn Store>,
    dispatcher: Dispatcher,
    clock: Arc<dyn Clock>,
    slots: Arc<Semaphore>,
}

impl Replays {
    pub(super) fn new(store: Arc<dyn Store>, dispatcher: Dispatcher, clock: Arc<dyn Clock>) -> Self {
        let slots = Arc::new(Semaphore::new(MAX_RUNNING_REPLAYS));
        Self { runner: Runner { store, dispatcher, clock, slots }, tasks: Mutex::default() }
    }

    /// Continues the unfinished jobs of this node, whose ids belong to its shards, and stops jobs that belong to other
    /// nodes now.
    pub(super) fn follow(&self, unfinished: Vec<ReplayRecord>) {
        let mut tasks = self.tasks.lock();
        tasks.running.retain(|job, task| {
            let is_ours = self.runner.is_ours(*job);
            if !is_ours {
                task.abort();
            }
            is_ours && !task.is_finished()
        });
        drop(tasks);
        for job in unfinished {
            self.run(job);
        }
    }

    /// Runs a job, if it belongs to this node and does not run yet.
    fn run(&self, job: ReplayRecord) {
        let mut tasks = self.tasks.lock();
        while tasks.all.try_join_next().is_some() {}
        if self.runner.is_ours(job.uuid) && !tasks.running.contains_key(&job.uuid) {
            let uuid = job.uuid;
            let task = tasks.all.spawn(self.runner.clone().run(job));
            tasks.running.insert(uuid, task);
        }
    }

    /// Stops all jobs where they are. The next start continues them.
    pub(super) fn stop(&self) {
        self.tasks.lock().all.abort_all();
    }
}

impl Runner {
    fn is_ours(&self, job: Uuid) -> bool {
        self.dispatcher.owns(Shard::of(job))
    }

    async fn run(self, mut job: ReplayRecord) {
        let Ok(_slot) = Arc::clone(&self.slots).acquire_owned().await else { return };
        let mut is_failing = false;
        while !job.state.has_ended() && self.is_ours(job.uuid) {
            let started = Instant::now();
            match self.step(&job).await {
                Ok(stepped) => {
                    is_failing = false;
                    let changed = fit(stepped.changed.len(), u32::MAX);
                    job = stepped.job;
                    let rest = Duration::from_secs(u64::from(changed)) / job.rate_per_s.max(1);
                    tokio::time::sleep(rest.saturating_sub(started.elapsed()).max(STEP_PAUSE)).await;
                }
                Err(StoreError::Full(_) | StoreError::Unavailable(_)) => {
                    if !is_failing {
                        tracing::warn!(job = %job.uuid, "a replay waits until the store works again");
                    }
                    is_failing = true;
                    tokio::time::sleep(RETRY_DELAY).await;
                }
                Err(error) => {
                    tracing::error!(job = %job.uuid, %error, "a replay failed");
                    let reason = error.to_string();
                    let now = self.clock.now();
                    // If the failure cannot be stored, the next start finds it again.
                    let _ = self.store.end_replay(job.tenant, job.uuid, ReplayState::Failed, &reason, now).await;
                    return;
                }
            }
        }
    }

    async fn step(&self, job: &ReplayRecord) -> Result<Stepped, StoreError> {
        let_events_pass(&*self.store, DEFERENCE).await;
        let settings = self.settings_of(job).await?;
        let patterns: Arc<[Pattern]> = settings.iter().flat_map(|settings| settings.topic_patterns.clone()).collect();
        let max_changes = (job.rate_per_s / STEPS_PER_S).clamp(1, MAX_STEP_CHANGES);
        let scan = self.store.scan_replay(job, patterns, max_changes).await?;
        let add: Vec<DeliveryKey> = match (&job.webhook, &settings) {
            (Some(webhook), Some(settings)) => {
                let wanted = scan.unmatched.iter().filter(|live| settings.wants(&live.event));
                wanted.map(|live| DeliveryKey { event: live.seq, webhook: webhook.seq }).collect()
            }
            _ => Vec::new(),
        };
        let mut webhooks: Vec<WebhookSeq> = scan.found.iter().chain(&add).map(|key| key.webhook).collect();
        webhooks.sort_unstable();
        webhooks.dedup();
        let step = |change| ReplayStep {
            tenant: job.tenant,
            job: job.uuid,
            from: job.cursor,
            change,
            add,
            cursor: scan.cursor,
            scanned: scan.scanned,
            is_end: scan.is_end,
            now: self.clock.now(),
        };
        let commit = async |change| {
            let stepped = self.store.step_replay(step(change)).await?;
            let changed = stepped.changed.clone();
            Ok((stepped, changed))
        };
        let stepped = self.dispatcher.withhold_all(scan.found, commit).await?;
        if matches!(job.action, ReplayAction::Replay { .. }) && !stepped.changed.is_empty() {
            // The first step has the operator's word; the others are the machine's.
            let wake = if job.scanned == 0 { Dispatcher::wish } else { Dispatcher::wake };
            for webhook in webhooks {
                wake(&self.dispatcher, webhook);
            }
        }
        Ok(stepped)
    }

    /// The settings of the job's webhook, by which a job with `include_unmatched` finds further events.
    async fn settings_of(&self, job: &ReplayRecord) -> Result<Option<WebhookSettings>, StoreError> {
        let (ReplayAction::Replay { include_unmatched: true }, Some(webhook)) = (&job.action, &job.webhook) else {
            return Ok(None);
        };
        Ok(self.store.webhook(job.tenant, webhook.uuid).await?.map(|record| record.settings))
    }
}

impl Engine {
    /// Makes a job, which starts at once or waits for its turn.
    pub async fn start_replay(
        self: &Arc<Self>,
        act: impl Into<Act>,
        job: NewReplay,
    ) -> Result<ReplayRecord, StoreError> {
        let (engine, act) = (Arc::clone(self), act.into());
        to_the_end(async move {
            let record = engine.store.audited(&act).create_replay(act.tenant, job, engine.now()).await?;
            engine.replays.run(record.clone());
            engine.dispatcher.hint(Hint::Changed);
            Ok(record)
        })
        .await
    }

    /// Deliveries that the job has changed stay changed.
    pub async fn cancel_replay(&self, act: impl Into<Act>, uuid: Uuid) -> Result<ReplayRecord, StoreError> {
        let act = act.into();
        let store = self.store.audited(&act);
        store.end_replay(act.tenant, uuid, ReplayState::Cancelled, CANCELLED, self.now()).await
    }

    /// Sends an event again, whatever the states of its deliveries: to each webhook on its list that still exists, or
    /// to a given webhook, which need not be on the list.
    pub async fn resend(
        self: &Arc<Self>,
        act: impl Into<Act>,
        id: &str,
        webhook: Option<Uuid>,
    ) -> Result<Resent, StoreError> {
        let act = act.into();
        let tenant = act.tenant;
        let event = self.store.event(tenant, id).await?.ok_or(StoreError::NotFound)?;
        if event.event.is_erased() {
            return Err(StoreError::Conflict("its payload was erased".to_owned()));
        }
        let webhooks = if let Some(uuid) = webhook {
            vec![self.find(tenant, uuid).await?.seq]
        } else {
            let live: Vec<_> = self.store.webhooks(tenant).await?.iter().map(|record| record.seq).collect();
            event.owed.into_iter().filter(|webhook| live.binary_search(webhook).is_ok()).collect()
        };
        let (engine, id) = (Arc::clone(self), id.to_owned());
        to_the_end(async move {
            let deed = Deed { at: engine.now(), tenant, action: "event.resend", target: Some(id), target_name: None };
            engine.store.audited(&act).record(deed).await?;
            let mut resent = Resent { deliveries: 0, under_way: 0 };
            for some in webhooks.chunks(MAX_RESEND_DELIVERIES) {
                let changed = engine.resend_to(tenant, event.seq, some).await?;
                resent.deliveries += fit(changed, u32::MAX);
                resent.under_way += fit(some.len() - changed, u32::MAX);
            }
            Ok(resent)
        })
        .await
    }

    async fn resend_to(
        &self,
        tenant: TenantSeq,
        event: EventSeq,
        webhooks: &[WebhookSeq],
    ) -> Result<usize, StoreError> {
        let key = |webhook: &WebhookSeq| DeliveryKey { event, webhook: *webhook };
        let resend = async |free: Vec<DeliveryKey>| {
            let free = free.into_iter().map(|key| key.webhook).collect();
            let changed = self.store.resend(tenant, event, free, self.now()).await?;
            Ok((changed.clone(), changed.iter().map(key).collect()))
        };
        let changed = self.dispatcher.withhold_all(webhooks.iter().map(key).collect(), resend).await?;
        for webhook in &changed {
            self.dispatcher.wish(*webhook);
        }
        Ok(changed.len())
    }
}
