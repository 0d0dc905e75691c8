//! One worker of a lane: takes a delivery, attempts it, hands the outcome on. It owns one connection,
//! which is why a busy lane needs no pool.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::Id;
use uuid::fmt::Hyphenated;

use super::Shared;
use super::breaker::Change;
use super::lane::{Job, Lane, LaneSettings, Queued, Work};
use super::settler::Message;
use crate::delivery::attempt::{self, attempt};
use crate::delivery::client::Connection;
use crate::delivery::retry::{self, Next};
use crate::delivery::{Outcome, Transition};
use crate::store::{AttemptRecord, DeliveryKey, MAX_KEPT_SUCCESS_RESPONSE_BYTES, Settlement};

/// How long an idle worker keeps its connection.
const KEEP_IDLE: Duration = Duration::from_secs(15);
/// When and why an attempt is made again that ended by a fault of this program.
const UNEXPECTED_END_DELAY: Duration = Duration::from_mins(1);
const UNEXPECTED_END: &str = "internal: the attempt ended unexpectedly";
/// This part of all slots is for webhooks whose last attempt failed, or that were never tried: when all of
/// them hang, the others have the rest to themselves.
const UNPROVEN_SHARE: u32 = 4;

/// The attempts that may be under way at once, over all lanes.
pub(super) struct Slots {
    proven: Semaphore,
    unproven: Semaphore,
    proven_count: u32,
    unproven_count: u32,
}

impl Slots {
    pub(super) fn new(max_in_flight: usize) -> Self {
        let total = u32::try_from(max_in_flight).unwrap_or(u32::MAX).clamp(2, 1 << 20);
        let unproven_count = (total / UNPROVEN_SHARE).max(1);
        let proven_count = total - unproven_count;
        Self {
            proven: Semaphore::new(proven_count as usize),
            unproven: Semaphore::new(unproven_count as usize),
            proven_count,
            unproven_count,
        }
    }

    /// `None` once the slots are closed.
    async fn take(&self, is_proven: bool) -> Option<SemaphorePermit<'_>> {
        let slots = if is_proven { &self.proven } else { &self.unproven };
        slots.acquire().await.ok()
    }

    /// Waits until no attempt is under way.
    pub(super) async fn all_free(&self) {
        let _ =
            tokio::join!(self.proven.acquire_many(self.proven_count), self.unproven.acquire_many(self.unproven_count));
    }

    pub(super) fn in_use(&self) -> usize {
        let all = self.proven_count as usize + self.unproven_count as usize;
        all - self.proven.available_permits() - self.unproven.available_permits()
    }
}

/// Works until the lane needs this worker no more.
pub(super) async fn run(shared: Arc<Shared>, lane: Arc<Lane>) {
    let me = tokio::task::id();
    let mut hold = Hold { shared: &shared, lane: &lane, me, job: None };
    let mut connection: Option<Connection> = None;
    let mut used: Option<Arc<LaneSettings>> = None;
    loop {
        let is_proven = match lane.find_work(me) {
            Work::Ready { is_proven } => is_proven,
            Work::Retire => return,
            Work::Idle => {
                let keep = shared.keeps.try_acquire();
                let patience = if keep.is_ok() { KEEP_IDLE } else { Duration::ZERO };
                match tokio::time::timeout(patience, lane.wake.acquire()).await {
                    Ok(Ok(woken)) => woken.forget(),
                    // Woken at the last moment: the permit is there.
                    _ if !lane.retire(me) => {
                        if let Ok(woken) = lane.wake.acquire().await {
                            woken.forget();
                        }
                    }
                    _ => return,
                }
                continue;
            }
        };
        let Some(_slot) = shared.slots.take(is_proven).await else { return };
        let Some(job) = lane.take_job() else { continue };
        if job.load {
            shared.load(&lane);
        }
        if used.as_ref().is_none_or(|settings| !Arc::ptr_eq(settings, &job.settings)) {
            connection = None;
            used = Some(Arc::clone(&job.settings));
        }
        hold.job = Some(job.queued.clone());
        let settlement = deliver_once(&shared, &lane, &job, &mut connection).await;
        let ended = Message::Ended { lane: Arc::clone(&lane), settlement, was_under_way: true };
        if shared.outcomes.send(ended).await.is_err() {
            return;
        }
        hold.job = None;
    }
}

/// What a worker has in hand. If it ends in the middle of a job, the job must not be forgotten.
struct Hold<'a> {
    shared: &'a Arc<Shared>,
    lane: &'a Arc<Lane>,
    me: Id,
    job: Option<Queued>,
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let Some(job) = self.job.take() else { return };
        if let Some(todo) = self.lane.worker_lost(self.me) {
            let (shared, lane) = (Arc::clone(self.shared), Arc::clone(self.lane));
            tracing::error!("an attempt ended unexpectedly; it is made again later");
            tokio::spawn(async move {
                shared.carry_out(&lane, todo);
                let at = shared.clock.now();
                let settlement = Settlement {
                    key: DeliveryKey { event: job.event.live.seq, webhook: lane.seq },
                    round_attempts: job.round_attempts.saturating_add(1),
                    transition: Transition::retry_at(at.after(UNEXPECTED_END_DELAY), UNEXPECTED_END.to_owned()),
                    at,
                    attempt: None,
                };
                let _ = shared.outcomes.send(Message::Ended { lane, settlement, was_under_way: true }).await;
            });
        }
    }
}

async fn deliver_once(
    shared: &Arc<Shared>,
    lane: &Arc<Lane>,
    job: &Job,
    connection: &mut Option<Connection>,
) -> Settlement {
    let Job { queued, settings, .. } = job;
    let event = &queued.event.live;
    let key = DeliveryKey { event: event.seq, webhook: lane.seq };
    let mut buffer = [0; Hyphenated::LENGTH];
    let id = shared.store.delivery_ids().encode(key);
    let webhook_id: &str = id.hyphenated().encode_lower(&mut buffer);
    let message = attempt::Message::of(&event.event);
    let outcome = attempt(&shared.client, connection, &settings.receiver, &message, webhook_id, &*shared.clock).await;

    let now = shared.clock.now();
    let round_attempts = queued.round_attempts.saturating_add(1);
    let jitter = 0.8 + 0.4 * fastrand::f64();
    let next = retry::next(round_attempts, &outcome, &settings.schedule, now, jitter);
    let (transition, error) = match next {
        Next::Delivered => (Transition::delivered(), None),
        Next::RetryAt { at, error } => (Transition::retry_at(at, error.clone()), Some(error)),
        Next::Dead { error } => (Transition::dead(error.clone()), Some(error)),
    };
    book(shared, lane, settings, &outcome, error.as_deref());
    Settlement {
        key,
        round_attempts,
        transition,
        at: now,
        attempt: Some(AttemptRecord {
            number: queued.attempts.saturating_add(1),
            started_at: outcome.started_at,
            duration_us: i64::try_from(outcome.duration.as_micros()).unwrap_or(i64::MAX),
            status_code: outcome.status_code(),
            error,
            response: kept(&outcome),
        }),
    }
}

/// What the log keeps of the response: little of a success, so that outcomes that wait for a commit are small.
fn kept(outcome: &Outcome) -> Bytes {
    if outcome.is_success() && outcome.response.len() > MAX_KEPT_SUCCESS_RESPONSE_BYTES {
        return Bytes::copy_from_slice(&outcome.response[..MAX_KEPT_SUCCESS_RESPONSE_BYTES]);
    }
    outcome.response.clone()
}

/// Counts the attempt, and acts when it opens or closes the circuit.
fn book(shared: &Arc<Shared>, lane: &Arc<Lane>, settings: &Arc<LaneSettings>, outcome: &Outcome, error: Option<&str>) {
    match error {
        None => shared.counters.attempts_succeeded.add(1),
        Some(_) => shared.counters.attempts_failed.add(1),
    }
    let (change, todo) = lane.book(settings, outcome, error, shared.clock.now());
    match change {
        Change::None => {}
        Change::Opened => {
            let error = error.unwrap_or_default();
            tracing::warn!(
                webhook = settings.name,
                error,
                "circuit opened: too many failed attempts in a row; enable the webhook to go on"
            );
        }
        Change::Closed => tracing::info!(webhook = settings.name, "circuit closed: an attempt succeeded"),
    }
    shared.carry_out(lane, todo);
}
