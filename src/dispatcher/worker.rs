//! One worker of a lane: takes a delivery, attempts it, hands the outcome on. It owns one connection,
//! which is why a busy lane needs no pool.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::Id;
use tokio::time::Instant;
use tracing::Instrument;
use uuid::fmt::Hyphenated;

use super::attempted::Attempted;
use super::breaker::CircuitChange;
use super::content::{Content, content};
use super::lane::{Booked, Ended, Job, Lane, LaneSettings, Queued, Work};
use super::notices::{News, Notice, is_operational};
use super::settler::ToSettle;
use super::{Shared, batch, spans};
use crate::clock::Clock;
use crate::delivery::attempt::{self, attempt};
use crate::delivery::client::Connection;
use crate::delivery::verdict::Verdict;
use crate::delivery::{End, Outcome, Transition};
use crate::event::Event;
use crate::store::{DeliveryKey, Settlement};

/// How long an idle worker keeps its connection.
const KEEP_IDLE: Duration = Duration::from_secs(15);
/// When and why an attempt is made again that ended by a fault of this program.
const UNEXPECTED_END_DELAY: Duration = Duration::from_mins(1);
const UNEXPECTED_END: &str = "internal: the attempt ended unexpectedly";
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
        let ready_at = Instant::now();
        let Some(_slot) = shared.slots.take(standing).await else { return };
        let slot_wait = ready_at.elapsed();
        let Some(mut job) = lane.take_job() else { continue };
        shared.carry_out(&lane, std::mem::take(&mut job.todo));
        if used.as_ref().is_none_or(|settings| !Arc::ptr_eq(settings, &job.settings)) {
            connection = None;
            used = Some(Arc::clone(&job.settings));
        }
        hold.take(&job);
        let Some((job, content)) = content(&shared, &lane, job).await else {
            hold.job.clear();
            continue;
        };
        hold.take(&job);
        let span = spans::attempt(&shared, &lane, &job);
        let attempt = attempt_once(&shared, &lane, &job, &content, &mut connection).instrument(span);
        let Some(mut outcome) = shared.lease.while_it_lasts(attempt).await else {
            // Others may own the webhook now, and this lane is about to go.
            hold.job.clear();
            return;
        };
        outcome.exchange.timings.slot = Some(slot_wait);
        let settings = Arc::clone(&job.settings);
        let ended = Attempted::new(&shared, &lane, &settings, &content, outcome);
        if settle(&shared, &lane, &ended, job).await.is_none() {
            return;
        }
        hold.job.clear();
    }
}

/// Sends the outcomes of a job to be committed; `None`: the settler has ended.
async fn settle(shared: &Arc<Shared>, lane: &Arc<Lane>, ended: &Attempted<'_>, job: Job) -> Option<()> {
    if ended.is_to_be_halved(&job) {
        return halve(shared, lane, ended, job).await;
    }
    let first = ended.settle(0, &job.queued);
    book(shared, lane, ended, first.error(), &job).await;
    shared.outcomes.send(first).await.ok()?;
    for (index, queued) in job.more.iter().enumerate() {
        shared.outcomes.send(ended.settle(index + 1, queued)).await.ok()?;
    }
    Some(())
}

/// Gives the deliveries of a refused batch back to the lane, which sends half as many at once, down to single ones: so one
/// event that the receiver refuses takes no other with it.
async fn halve(shared: &Arc<Shared>, lane: &Arc<Lane>, ended: &Attempted<'_>, job: Job) -> Option<()> {
    let first = ended.keep(&job.queued);
    book(shared, lane, ended, first.error(), &job).await;
    let mut members = Vec::with_capacity(1 + job.more.len());
    for queued in std::iter::once(job.queued).chain(job.more) {
        shared.outcomes.send(ended.keep(&queued)).await.ok()?;
        let attempts = queued.attempts.saturating_add(1);
        members.push(Queued { attempts, is_stored: true, ..queued });
    }
    shared.carry_out(lane, lane.halve(members, shared.clock.now()));
    Some(())
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

impl Hold<'_> {
    fn take(&mut self, job: &Job) {
        self.job.clear();
        self.job.push(job.queued.clone());
        self.job.extend_from_slice(&job.more);
    }
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
    content: &Content,
    connection: &mut Option<Connection>,
) -> Outcome {
    let ids = shared.store.delivery_ids();
    let id_of = |queued: &Queued| ids.encode(DeliveryKey { event: queued.seq(), webhook: lane.seq });
    let mut buffer = [0; Hyphenated::LENGTH];
    let (receiver, client, clock) = (&job.settings.receiver, &shared.client, &*shared.wall);
    let event = &job.queued.event.live.event;
    let (webhook_id, message) = match content {
        Content::Late(reason) => return Outcome::without_request(clock.now(), End::Unshaped(reason.clone())),
        Content::Batch(content) => {
            let webhook_id = batch::id(content.members.iter().map(|member| member.delivery));
            let webhook_id = &*webhook_id.hyphenated().encode_lower(&mut buffer);
            let events = || std::iter::once(&job.queued).chain(&job.more).map(|queued| &queued.event.live.event);
            let hops = shared.stamp.value(events().map(Event::hops));
            (webhook_id, attempt::Message { hops, ..batch::message(webhook_id, content, events()) })
        }
        Content::Shaped(body) => {
            (&*id_of(&job.queued).hyphenated().encode_lower(&mut buffer), body.message(&shared.stamp))
        }
        Content::Event => {
            let hops = shared.stamp.value([event.hops()]);
            let webhook_id = &*id_of(&job.queued).hyphenated().encode_lower(&mut buffer);
            (webhook_id, attempt::Message { hops, ..attempt::Message::of(event) })
        }
    };
    attempt(client, connection, receiver, &message, webhook_id, clock).await
}

/// Counts the attempt, and acts when it changes the circuit or ends the webhook.
async fn book(shared: &Arc<Shared>, lane: &Arc<Lane>, attempted: &Attempted<'_>, error: Option<&str>, job: &Job) {
    let (outcome, judgement) = attempted.of_all();
    let error = error.filter(|_| judgement.verdict != Verdict::Delivered);
    match error {
        None => shared.counters.attempts_succeeded.add(1),
        Some(_) => shared.counters.attempts_failed.add(1),
    }
    let (settings, now) = (&job.settings, attempted.now);
    let event = job.more.is_empty().then(|| job.queued.seq());
    let ended = Ended { outcome, judgement, error, event };
    let Booked { change, off, todo } = lane.book(settings, &ended, now);
    shared.carry_out(lane, todo);
    let (webhook, error) = (&settings.name, error.unwrap_or_default());
    // The settings of the server keep it from its receiver, so somebody here has to act.
    if matches!(outcome.end, End::Blocked(_))
        && let Some(left_out) = shared.blocked.admit(std::time::Instant::now())
    {
        tracing::warn!(webhook, error, left_out, "an attempt was refused: the server may not send there");
    }
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
        shared.tell(Notice::health(settings, lane.seq, news, error, is_quiet, now)).await;
    }
}
