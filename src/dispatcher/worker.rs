//! One worker of a lane: takes a delivery, attempts it, hands the outcome on. It owns one connection,
//! which is why a busy lane needs no pool.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::Id;
use tokio::time::Instant;
use tracing::Instrument;
use uuid::fmt::Hyphenated;

use super::breaker::CircuitChange;
use super::lane::{Booked, Ended, Job, Judged, Lane, LaneSettings, Queued, Work};
use super::notices::{News, Notice, is_operational};
use super::settler::ToSettle;
use super::shaping::Rendered;
use super::unsent::{too_old, unsent};
use super::{Shared, batch, spans};
use crate::clock::{Clock, UnixMicros};
use crate::delivery::attempt::{self, attempt};
use crate::delivery::client::Connection;
use crate::delivery::retry::Next;
use crate::delivery::verdict::Verdict;
use crate::delivery::{DeliveryState, End, Outcome, Transition, random_jitter};
use crate::event::Event;
use crate::fit::fit;
use crate::shape::RenderError;
use crate::store::{AttemptRecord, DeliveryKey, MAX_KEPT_SUCCESS_RESPONSE_BYTES, Settlement};

/// How long an idle worker keeps its connection.
const KEEP_IDLE: Duration = Duration::from_secs(15);
/// When and why an attempt is made again that ended by a fault of this program.
const UNEXPECTED_END_DELAY: Duration = Duration::from_mins(1);
const UNEXPECTED_END: &str = "internal: the attempt ended unexpectedly";
/// Why a delivery ended whose event came back from the disk otherwise than it was stored.
const DAMAGED: &str = "stored body is damaged";
/// Works until the lane needs this worker no more.
pub(super) async fn run(shared: Arc<Shared>, lane: Arc<Lane>) {
    let me = tokio::task::id();
    let mut hold = Hold { shared: &shared, lane: &lane, me, job: Vec::new() };
    let mut connection: Option<Connection> = None;
    let mut used: Option<Arc<LaneSettings>> = None;
    loop {
        let standing = match lane.find_work(me) {
            Work::Ready { standing } => standing,
            Work::Retire => return,
            Work::Idle { until } => {
                if !wait_for_work(&shared, &lane, me, until, &mut connection).await {
                    return;
                }
                continue;
            }
        };
        if shared.client.is_short_of_sockets() {
            // Who has a slot needs one more than who waits for it.
            connection = None;
        }
        let Some(_slot) = shared.slots.take(standing).await else { return };
        let Some(mut job) = lane.take_job() else { continue };
        shared.carry_out(&lane, std::mem::take(&mut job.todo));
        if used.as_ref().is_none_or(|settings| !Arc::ptr_eq(settings, &job.settings)) {
            connection = None;
            used = Some(Arc::clone(&job.settings));
        }
        hold.job.push(job.queued.clone());
        hold.job.extend_from_slice(&job.more);
        let Some(job) = sound(&shared, &lane, job).await else {
            hold.job.clear();
            continue;
        };
        hold.job.clear();
        hold.job.push(job.queued.clone());
        hold.job.extend_from_slice(&job.more);
        let span = spans::attempt(&shared, &lane, &job);
        let attempt = attempt_once(&shared, &lane, &job, &mut connection).instrument(span);
        let Some(attempted) = shared.lease.while_it_lasts(attempt).await else {
            // Others may own the webhook now, and this lane is about to go.
            hold.job.clear();
            return;
        };
        let outcome = match attempted {
            Ok(outcome) => outcome,
            Err(error) => {
                shared.carry_out(&lane, lane.not_attempted(shared.clock.now()));
                let unsent = unsent(&shared, &lane, &job.settings, &job.queued, error.to_string());
                if shared.outcomes.send(unsent).await.is_err() {
                    return;
                }
                hold.job.clear();
                continue;
            }
        };
        let ended = Attempted::new(&shared, &lane, &job.settings, outcome);
        let first = ended.settle(&job.queued);
        book(&shared, &ended, first.error(), &job).await;
        if shared.outcomes.send(first).await.is_err() {
            return;
        }
        for queued in &job.more {
            if shared.outcomes.send(ended.settle(queued)).await.is_err() {
                return;
            }
        }
        hold.job.clear();
    }
}

/// Waits until there may be something to do; `false`: nothing came, and the worker is no longer counted.
async fn wait_for_work(
    shared: &Shared,
    lane: &Lane,
    me: Id,
    until: Option<Instant>,
    connection: &mut Option<Connection>,
) -> bool {
    let is_long = until.is_some_and(|at| at > Instant::now() + KEEP_IDLE);
    if is_long {
        *connection = None;
    }
    let keep = (!is_long && !shared.client.is_short_of_sockets()).then(|| shared.keeps.try_acquire().ok()).flatten();
    let patience = Instant::now() + if keep.is_some() { KEEP_IDLE } else { Duration::ZERO };
    let woken = tokio::time::timeout_at(until.unwrap_or(patience), lane.wake.woken()).await;
    if woken.is_ok() {
        return true;
    }
    let gave_up = if until.is_some() { lane.stop_waiting() } else { lane.retire(me) };
    if !gave_up {
        // Woken at the last moment: the permit is there.
        lane.wake.woken().await;
    }
    !gave_up || until.is_some()
}

/// What a worker has in hand. If it ends in the middle of a job, the job must not be forgotten.
struct Hold<'a> {
    shared: &'a Arc<Shared>,
    lane: &'a Arc<Lane>,
    me: Id,
    job: Vec<Queued>,
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let job = std::mem::take(&mut self.job);
        if job.is_empty() {
            return;
        }
        if let Some(todo) = self.lane.worker_lost(self.me, self.shared.clock.now()) {
            let (shared, lane) = (Arc::clone(self.shared), Arc::clone(self.lane));
            tracing::error!(webhook = lane.settings().name, "an attempt ended unexpectedly; it is made again later");
            tokio::spawn(async move {
                shared.carry_out(&lane, todo);
                let at = shared.clock.now();
                for queued in job {
                    let settlement = Settlement {
                        key: DeliveryKey { event: queued.seq(), webhook: lane.seq },
                        round_attempts: queued.round_attempts.saturating_add(1),
                        transition: Transition::retry_at(at.after(UNEXPECTED_END_DELAY), UNEXPECTED_END.to_owned()),
                        at,
                        attempt: None,
                    };
                    let _ = shared.outcomes.send(ToSettle::ended(&lane, settlement, None)).await;
                }
            });
        }
    }
}

/// Makes one attempt for all deliveries of a job.
async fn attempt_once(
    shared: &Shared,
    lane: &Lane,
    job: &Job,
    connection: &mut Option<Connection>,
) -> Result<Outcome, RenderError> {
    let ids = shared.store.delivery_ids();
    let id_of = |queued: &Queued| ids.encode(DeliveryKey { event: queued.seq(), webhook: lane.seq });
    let mut buffer = [0; Hyphenated::LENGTH];
    let (receiver, client, clock) = (&job.settings.receiver, &shared.client, &*shared.wall);
    let policy = &job.settings.policy;
    if policy.batch.is_none() {
        let (id, event) = (id_of(&job.queued), &job.queued.event.live);
        let webhook_id = id.hyphenated().encode_lower(&mut buffer);
        if policy.shape.is_decnet() && policy.header_templates.is_empty() {
            let hops = shared.stamp.value([event.event.hops()]);
            let message = attempt::Message { hops, ..attempt::Message::of(&event.event) };
            return Ok(attempt(client, connection, receiver, &message, webhook_id, clock).await);
        }
        let began_at = clock.now();
        let attempt_number = job.queued.attempts.saturating_add(1);
        let rendered = Rendered { delivery: id, attempt: attempt_number, now: began_at };
        let body = match shared.shaping.shape(&job.settings, event, rendered).await {
            // The machine may be busy: tried again as any attempt that failed here.
            Err(error) if error.took_too_long => {
                return Ok(Outcome::without_request(began_at, End::Unshaped(error.to_string())));
            }
            body => body?,
        };
        let message = body.message(&shared.stamp);
        return Ok(attempt(client, connection, receiver, &message, webhook_id, clock).await);
    }
    let members = || std::iter::once(&job.queued).chain(&job.more);
    let webhook_id = batch::id(members().map(id_of)).hyphenated().encode_lower(&mut buffer);
    let events = || members().map(|queued| &queued.event.live.event);
    let hops = shared.stamp.value(events().map(Event::hops));
    let message = attempt::Message { hops, ..batch::message(webhook_id, events()) };
    Ok(attempt(client, connection, receiver, &message, webhook_id, clock).await)
}

/// What of a job may be sent; deliveries of damaged events end, and those that are too old.
async fn sound(shared: &Arc<Shared>, lane: &Arc<Lane>, job: Job) -> Option<Job> {
    let now = shared.clock.now();
    let is_sound = |queued: &Queued| !queued.is_damaged() && too_old(queued, &job.settings, now).is_none();
    if is_sound(&job.queued) && job.more.iter().all(is_sound) {
        return Some(job);
    }
    let Job { queued, more, settings, todo } = job;
    let mut sound = Vec::with_capacity(more.len());
    for queued in std::iter::once(queued).chain(more) {
        let reason = if queued.is_damaged() {
            let (event, webhook) = (queued.event.live.event.id(), &settings.name);
            tracing::error!(event, webhook, "the stored event is damaged: it is not sent; look at the disk");
            shared.counters.deliveries_damaged.add(1);
            DAMAGED.to_owned()
        } else if let Some(reason) = too_old(&queued, &settings, now) {
            reason
        } else {
            sound.push(queued);
            continue;
        };
        shared.outcomes.send(unsent(shared, lane, &settings, &queued, reason)).await.ok()?;
    }
    let mut sound = sound.into_iter();
    let Some(queued) = sound.next() else {
        shared.carry_out(lane, lane.not_attempted(shared.clock.now()));
        return None;
    };
    Some(Job { queued, more: sound.collect(), settings, todo })
}

/// What an attempt came to, for each delivery that it was made for.
struct Attempted<'a> {
    lane: &'a Arc<Lane>,
    settings: &'a Arc<LaneSettings>,
    outcome: Outcome,
    judged: Judged<'a>,
    response: Bytes,
    now: UnixMicros,
    jitter: f64,
}

impl<'a> Attempted<'a> {
    fn new(shared: &Shared, lane: &'a Arc<Lane>, settings: &'a Arc<LaneSettings>, outcome: Outcome) -> Self {
        let judged = settings.judge(&outcome);
        let response = kept(&outcome, judged.judgement.verdict);
        Self { lane, settings, outcome, judged, response, now: shared.clock.now(), jitter: random_jitter() }
    }

    fn settle(&self, queued: &Queued) -> ToSettle {
        let Self { settings, outcome, now, .. } = self;
        let round_attempts = queued.round_attempts.saturating_add(1);
        let (transition, error) = match self.judged.next(round_attempts, outcome, *now, self.jitter) {
            Next::Delivered => (Transition::delivered(), None),
            Next::RetryAt { at, error } => {
                // When it becomes too old, it is to end.
                let ends_at = settings.max_age.map_or(at, |max_age| queued.begins_at.after(max_age));
                (Transition::retry_at(at.min(ends_at), error.clone()), Some(error))
            }
            // The webhook is turned off, and what it is owed is kept.
            Next::Dead { error } if self.judged.judgement.verdict == Verdict::Gone => {
                (Transition::retry_at(*now, error.clone()), Some(error))
            }
            Next::Dead { error } => (Transition::dead(error.clone()), Some(error)),
        };
        let key = DeliveryKey { event: queued.seq(), webhook: self.lane.seq };
        let attempts = queued.attempts.saturating_add(1);
        let notice = (transition.state() == DeliveryState::Dead).then(|| {
            let error = error.as_deref().unwrap_or_default();
            Notice::dead(settings, key, queued, attempts, outcome.status_code(), error, *now)
        });
        let settlement = Settlement {
            key,
            round_attempts,
            transition,
            at: *now,
            attempt: Some(AttemptRecord {
                number: attempts,
                started_at: outcome.started_at,
                duration_us: fit(outcome.duration.as_micros(), i64::MAX),
                status_code: outcome.status_code(),
                error,
                response: self.response.clone(),
            }),
        };
        ToSettle::ended(self.lane, settlement, notice)
    }
}

/// What the log keeps of the response: little of a success, so that outcomes that wait for a commit are small.
fn kept(outcome: &Outcome, verdict: Verdict) -> Bytes {
    if verdict == Verdict::Delivered && outcome.response.len() > MAX_KEPT_SUCCESS_RESPONSE_BYTES {
        return Bytes::copy_from_slice(&outcome.response[..MAX_KEPT_SUCCESS_RESPONSE_BYTES]);
    }
    outcome.response.clone()
}

/// Counts the attempt, and acts when it changes the circuit or ends the webhook.
async fn book(shared: &Arc<Shared>, attempted: &Attempted<'_>, error: Option<&str>, job: &Job) {
    match error {
        None => shared.counters.attempts_succeeded.add(1),
        Some(_) => shared.counters.attempts_failed.add(1),
    }
    let Attempted { lane, settings, outcome, judged, now, .. } = attempted;
    let event = job.more.is_empty().then(|| job.queued.seq());
    let ended = Ended { outcome, judgement: judged.judgement, error, event };
    let Booked { change, off, todo } = lane.book(settings, &ended, *now);
    shared.carry_out(lane, todo);
    let (webhook, error) = (&settings.name, error.unwrap_or_default());
    let news = match change {
        CircuitChange::None | CircuitChange::StillOpen => None,
        CircuitChange::Failing => Some(News::Failing),
        CircuitChange::Opened => {
            tracing::warn!(
                webhook,
                error,
                "circuit opened: too many failed attempts in a row; it is probed from now on"
            );
            Some(News::Opened)
        }
        CircuitChange::Recovered { was_open } => {
            if was_open {
                tracing::info!(webhook, "circuit closed: the receiver answers");
            }
            Some(News::Recovered)
        }
    };
    let off = off.map(|off| {
        tracing::warn!(webhook, error, reason = %off, "webhook turned off");
        News::Off(off)
    });
    // What the server's own events cause makes no further ones, so that they never go round in circles.
    let is_quiet = is_operational(&job.queued.event.live.event);
    for news in news.filter(|_| !is_quiet).into_iter().chain(off) {
        shared.tell(Notice::health(settings, lane.seq, news, error, is_quiet, *now)).await;
    }
}
