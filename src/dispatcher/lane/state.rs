//! What a lane knows, behind its lock, and the rules by which that changes. Pure but for waking workers.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::backlog::{Backlog, earlier};
use super::crew::{Crew, Wake};
use super::queue::Queued;
use super::suspects::Suspects;
use super::{Off, WEBHOOK_DELETED, WEBHOOK_DISABLED};
use crate::clock::UnixMicros;
use crate::delivery::retry::{self, Next, Rules, Schedule};
use crate::delivery::statuses::StatusLists;
use crate::delivery::verdict::{self, Evidence, Judgement, Reading, Verdict};
use crate::delivery::{End, GONE, Outcome};
use crate::dispatcher::DispatcherSettings;
use crate::dispatcher::breaker::{Breaker, CircuitChange};
use crate::dispatcher::limiter::Limiter;
use crate::dispatcher::memory::Memory;
use crate::dispatcher::rest::Rest;
use crate::store::EventSeq;
use crate::webhook::{Capture, Policy, TenantSeq, Webhook, WebhookRecord};

/// A lane opens another connection at once when more deliveries than this wait for each that it has.
/// Fewer are left to those it has, since a connection costs many times what a request on an open one does;
/// should these hang, [`Lane::relieve`](super::Lane::relieve) finds out.
const MAX_WAITING_PER_WORKER: usize = 8;

/// A batch has a quarter of the events after each failure but the first: the binary logarithm of that.
const SHRINK_SHIFT: u32 = 2;

/// A success that changes nothing but its time is stored at most this often.
const SUCCESS_FLUSH_US: i64 = 1_000_000;

/// What workers need to know of the webhook; replaced whole when the webhook changes.
pub(crate) struct LaneSettings {
    pub(in crate::dispatcher) version: i64,
    pub(crate) uuid: Uuid,
    pub(crate) tenant: TenantSeq,
    pub(crate) name: String,
    pub(crate) receiver: Webhook,
    pub(in crate::dispatcher) schedule: Schedule,
    /// The server's.
    statuses: StatusLists,
    /// What is as old is attempted no more.
    pub(in crate::dispatcher) max_age: Option<Duration>,
    pub(in crate::dispatcher) capture: Capture,
    pub(in crate::dispatcher) policy: Policy,
    pub(super) max_in_flight: usize,
}

/// Whether the first delivery of the queue may be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    Now,
    /// The rate limit, a batch that is not full yet, or a receiver that asked for time lets it go then.
    At(Instant),
    /// Another must be settled before it.
    AfterOthers,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Running,
    /// Deliveries wait in the store, new ones too.
    Paused,
    /// Turned off: what is pending waits in the store, new events are skipped.
    Off,
    /// Deleted: what is pending is discarded.
    Removed,
    /// Another node owns the webhook, or is about to.
    Moved,
    /// The node shuts down: what is pending is read back at the next start.
    Stopped,
}

/// When a test may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::dispatcher) enum Turn {
    Now,
    /// The rate limit lets it go then.
    At(Instant),
    /// All attempts that the webhook may have at once are under way; a worker that ends its attempt makes room.
    AfterOthers,
}

pub(super) struct State {
    pub(super) settings: Arc<LaneSettings>,
    pub(super) mode: Mode,
    pub(super) breaker: Breaker,
    pub(super) limiter: Option<Limiter>,
    pub(super) rest: Rest,
    pub(super) crew: Crew,
    pub(super) backlog: Backlog,
    pub(super) suspects: Suspects,
    /// An operator wants an attempt although the lane waits; the next load is for that.
    pub(super) is_wished: bool,
    /// When the backlog is next looked through for what is too old.
    pub(super) look_for_old_at: UnixMicros,
    pub(super) is_health_dirty: bool,
    pub(super) success_flushed_at: Option<UnixMicros>,
}

/// The end of an attempt, to be booked.
pub(in crate::dispatcher) struct Ended<'a> {
    pub(in crate::dispatcher) outcome: &'a Outcome,
    pub(in crate::dispatcher) judgement: Judgement,
    /// `None`: it went well.
    pub(in crate::dispatcher) error: Option<&'a str>,
    /// The event that was sent; `None`: there were several.
    pub(in crate::dispatcher) event: Option<EventSeq>,
}

/// What the caller of a lane's method must do, after the lock.
#[derive(Default)]
#[must_use]
pub(in crate::dispatcher) struct Todo {
    pub(in crate::dispatcher) start_workers: usize,
    /// Look after this lane with [`Lane::relieve`](super::Lane::relieve).
    pub(in crate::dispatcher) look_after: bool,
    pub(in crate::dispatcher) load: bool,
    /// Set an alarm: something in the store becomes due.
    pub(in crate::dispatcher) wake_at: Option<UnixMicros>,
    /// Deliveries that leave memory undelivered, with their places in the store to be written.
    pub(in crate::dispatcher) evicted: Vec<Queued>,
    /// The evicted ones are to be discarded, the stored ones too.
    pub(in crate::dispatcher) discard: bool,
}

impl Todo {
    /// Both; `other` has nothing evicted.
    pub(super) fn and(self, other: &Self) -> Self {
        Self {
            start_workers: self.start_workers + other.start_workers,
            look_after: self.look_after || other.look_after,
            load: self.load || other.load,
            wake_at: earlier(self.wake_at, other.wake_at),
            discard: self.discard || other.discard,
            ..self
        }
    }
}

impl LaneSettings {
    pub(in crate::dispatcher) fn new(record: &WebhookRecord, defaults: &DispatcherSettings) -> Arc<Self> {
        let settings = &record.settings;
        Arc::new(Self {
            version: record.version,
            uuid: record.uuid,
            tenant: record.tenant,
            name: settings.name.clone(),
            receiver: settings.receiver.clone(),
            schedule: settings.retry_schedule.clone().unwrap_or_else(|| defaults.retry_schedule.clone()),
            statuses: defaults.statuses.clone(),
            max_age: settings.policy.max_age.or(defaults.max_age),
            capture: settings.policy.capture.unwrap_or(defaults.capture),
            policy: settings.policy.clone(),
            max_in_flight: settings.max_in_flight as usize,
        })
    }

    /// How many deliveries one request with this one may have. A receiver may be unable to digest one of a batch: what was in
    /// failed ones goes with fewer each time from the second failure on, and alone in its last attempt, so that none ends for
    /// another's sake.
    pub(super) fn most_together(&self, queued: &Queued) -> usize {
        let failed = queued.round_attempts;
        let is_last = failed > 0 && self.schedule.delay_after(failed + 1).is_none();
        let most = match self.policy.batch {
            Some(batch) if !is_last => {
                batch.max_events >> failed.saturating_sub(1).saturating_mul(SHRINK_SHIFT).min(usize::BITS - 1)
            }
            _ => 1,
        };
        most.max(1)
    }

    /// What the answer to a batch means for one of its deliveries, of which it says this.
    pub(in crate::dispatcher) fn judge_part(&self, outcome: &Outcome, doubt: Option<String>) -> Judged<'_> {
        let lists = [&self.policy.statuses, self.policy.shape.statuses(), &self.statuses];
        let judgement = verdict::judge(outcome, Reading { lists: &lists, doubt: doubt.as_deref() });
        Judged { schedule: &self.schedule, lists, doubt, judgement }
    }

    /// What an attempt means that was made under these settings.
    pub(in crate::dispatcher) fn judge(&self, outcome: &Outcome) -> Judged<'_> {
        let by_status = self.judge_part(outcome, None);
        let is_delivered = by_status.judgement.verdict == Verdict::Delivered;
        match is_delivered.then(|| self.policy.doubt(outcome)).flatten() {
            None => by_status,
            doubt => self.judge_part(outcome, doubt),
        }
    }
}

/// What an attempt means, by the settings that it was made under.
pub(in crate::dispatcher) struct Judged<'a> {
    schedule: &'a Schedule,
    lists: [&'a StatusLists; 3],
    doubt: Option<String>,
    pub(in crate::dispatcher) judgement: Judgement,
}

impl Judged<'_> {
    /// What follows for a delivery of which this was attempt `attempt` of its round.
    pub(in crate::dispatcher) fn next(&self, attempt: u32, outcome: &Outcome, now: UnixMicros, jitter: f64) -> Next {
        let reading = Reading { lists: &self.lists, doubt: self.doubt.as_deref() };
        retry::next(attempt, outcome, Rules { schedule: self.schedule, reading }, now, jitter)
    }
}

impl Mode {
    pub(super) fn of(record: &WebhookRecord) -> Self {
        match &record.settings {
            settings if !settings.enabled => Self::Off,
            settings if settings.policy.paused => Self::Paused,
            _ => Self::Running,
        }
    }
}

impl State {
    pub(super) fn new(record: &WebhookRecord, defaults: &DispatcherSettings, now: UnixMicros) -> Self {
        let (settings, instant) = (LaneSettings::new(record, defaults), Instant::now());
        let mut health = record.health.clone();
        // Of a closed circuit it is the end of a rest.
        let rests_until = health.probe_at.take_if(|_| health.auto_disabled_at.is_none());
        Self {
            limiter: settings.policy.rate_limit.map(|limit| Limiter::new(limit, instant)),
            rest: Rest::kept(rests_until, now, instant),
            settings,
            mode: Mode::of(record),
            breaker: Breaker::new(health, defaults.circuit),
            crew: Crew::default(),
            backlog: Backlog::default(),
            suspects: Suspects::default(),
            is_wished: false,
            look_for_old_at: now,
            is_health_dirty: false,
            success_flushed_at: record.health.last_success_at,
        }
    }

    /// Takes over changed settings. A rate limit that stays as it was keeps its count.
    pub(super) fn change_settings(&mut self, settings: Arc<LaneSettings>, now: Instant) {
        let wanted = settings.policy.rate_limit;
        if self.limiter.as_ref().map(Limiter::limit) != wanted {
            self.limiter = wanted.map(|limit| Limiter::new(limit, now));
        }
        if !settings.policy.ordered {
            self.backlog.awaited = None;
        }
        if settings.receiver.destination != self.settings.receiver.destination {
            self.rest.end();
            self.is_health_dirty = true;
        }
        self.settings = settings;
    }

    pub(super) fn is_ordered(&self) -> bool {
        self.settings.policy.ordered
    }

    pub(super) fn can_run(&self) -> bool {
        self.mode == Mode::Running && !self.breaker.is_shut()
    }

    /// Why new deliveries are skipped, if they are.
    pub(super) fn refusal(&self) -> Option<&'static str> {
        match self.mode {
            Mode::Off => Some(WEBHOOK_DISABLED),
            Mode::Removed => Some(WEBHOOK_DELETED),
            Mode::Running | Mode::Paused | Mode::Moved | Mode::Stopped => None,
        }
    }

    /// For a queue that has something in it.
    pub(super) fn readiness(&self, now: Instant) -> Readiness {
        let Some(first) = self.backlog.queue.first() else { return Readiness::Now };
        if self.is_ordered() && (self.backlog.is_early(first) || !self.backlog.under_way.is_empty()) {
            return Readiness::AfterOthers;
        }
        self.limit(now).map_or(Readiness::Now, |(_, at)| Readiness::At(at))
    }

    /// There is nothing to probe with: another probe is for later.
    pub(super) fn cancel_idle_probe(&mut self) {
        if self.breaker.is_open() && self.backlog.has_no_probe() {
            self.breaker.cancel_probe();
        }
    }

    /// Whether to read from the store now.
    pub(super) fn wants_load(&self, max_queued: usize, memory: &Memory, now: UnixMicros) -> bool {
        self.can_run() && self.backlog.wants_load(max_queued, memory.free_bytes(), now)
    }

    /// Finds hands for `jobs` new jobs: idle workers first, then new ones up to the cap.
    pub(super) fn employ(&mut self, jobs: usize, wake: &Wake, now: Instant) -> Todo {
        let queued = self.backlog.queue.len();
        let jobs = match self.readiness(now) {
            Readiness::Now => match self.settings.policy.batch {
                Some(_) => jobs.min(
                    queued.div_ceil(self.backlog.queue.first().map_or(1, |first| self.settings.most_together(first))),
                ),
                None => jobs,
            },
            // One waits for the moment, and that is enough.
            Readiness::At(_) => jobs.min(usize::from(!self.crew.has_pacer())),
            Readiness::AfterOthers => 0,
        };
        let waiting = jobs - self.crew.wake(jobs, wake);
        let needed = if self.crew.is_empty() {
            waiting.min(1 + queued / MAX_WAITING_PER_WORKER)
        } else {
            waiting.min((queued / MAX_WAITING_PER_WORKER).saturating_sub(self.crew.len()))
        };
        let start_workers = needed.min(self.room_for_workers());
        let look_after = waiting > start_workers && !self.crew.is_crowded && self.room_for_workers() > 0;
        self.crew.is_crowded |= look_after;
        Todo { start_workers, look_after, ..Todo::default() }
    }

    /// The most workers at once. An ordered lane has one.
    pub(super) fn max_workers(&self) -> usize {
        if self.is_ordered() { 1 } else { self.settings.max_in_flight }
    }

    /// While the last attempt failed, or there was none, one worker is enough to find out: so many dead
    /// webhooks do not stand in each other's way, and a circuit opens after as many attempts as it should.
    pub(super) fn room_for_workers(&self) -> usize {
        let most = self.max_workers().saturating_sub(self.crew.trials.expected);
        self.breaker.width(self.max_workers()).min(most).saturating_sub(self.crew.len())
    }

    /// Whether there are more workers than tests leave room for.
    pub(super) fn has_workers_to_spare(&self) -> bool {
        self.crew.with_trials() > self.max_workers()
    }

    /// When a test may begin, if it comes to that: its attempt counts as one of a worker does.
    pub(super) fn trial_turn(&self, now: Instant) -> Turn {
        if self.crew.busy() >= self.max_workers() {
            return Turn::AfterOthers;
        }
        match self.limiter.as_ref().map(|limiter| limiter.ready_at(now)) {
            Some(at) if at > now => Turn::At(at),
            _ => Turn::Now,
        }
    }

    /// Finds hands for the whole queue.
    pub(super) fn employ_all(&mut self, wake: &Wake, now: Instant) -> Todo {
        self.employ(self.backlog.queue.len(), wake, now)
    }

    /// Goes on, or empties the queue and waits for the circuit's next probe, if nothing may be attempted.
    pub(super) fn resume_or_evict(&mut self, wake: &Wake, now: UnixMicros, instant: Instant) -> Todo {
        if self.can_run() {
            return Todo { load: self.backlog.stored_due.is_some(), ..self.employ_all(wake, instant) };
        }
        let wake_at = (self.mode == Mode::Running).then(|| self.breaker.probe_at(now));
        Todo { wake_at, ..self.evict() }
    }

    /// Counts an attempt. One under settings that were changed meanwhile (`is_current` is `false`) says nothing against the
    /// webhook as it is now.
    pub(super) fn book(&mut self, ended: &Ended<'_>, is_current: bool, now: UnixMicros) -> CircuitChange {
        let instant = Instant::now();
        let Some(error) = ended.error else {
            let is_news = self.breaker.health().consecutive_failures > 0;
            let is_due = self.success_flushed_at.is_none_or(|at| (now.0 - at.0).abs() >= SUCCESS_FLUSH_US);
            self.is_health_dirty |= is_news || is_due;
            self.suspects.went_well(ended.event);
            self.rest.went_well(instant);
            return self.breaker.succeeded(ended.outcome.duration, now);
        };
        self.is_health_dirty = true;
        if let Some(asked) = ended.judgement.rest.filter(|_| is_current) {
            self.rest.begin(asked, now, instant);
        }
        match ended.judgement.evidence {
            Evidence::Alive if is_current => {
                self.rest.went_well(instant);
                self.suspects.went_well(ended.event);
                self.breaker.answered(ended.outcome.duration, error, now)
            }
            Evidence::Failure if is_current => {
                let is_its_own_fault = ended.event.is_some_and(|event| self.suspects.failed(event));
                if is_its_own_fault && !self.breaker.is_open() {
                    self.breaker.note(error, now);
                    return CircuitChange::None;
                }
                let change = self.breaker.failed(error, now);
                if change == CircuitChange::Opened {
                    self.suspects.circuit_opened();
                }
                self.hasten_wished_probe(now);
                change
            }
            _ => {
                self.breaker.excused(error, now);
                self.hasten_wished_probe(now);
                CircuitChange::None
            }
        }
    }

    /// What was asked for while a probe was under way comes right after it.
    fn hasten_wished_probe(&mut self, now: UnixMicros) {
        if self.is_wished {
            self.breaker.hasten_probe(now);
        }
    }

    /// Whether an attempt's end is the end of the webhook.
    pub(super) fn reason_to_turn_off(&self, ended: &Ended<'_>, change: CircuitChange, now: UnixMicros) -> Option<Off> {
        if ended.outcome.end == End::Status(GONE) && ended.judgement.verdict == Verdict::Gone {
            return Some(Off::Gone);
        }
        if ended.outcome.asks_to_stop() {
            return Some(Off::Asked);
        }
        let days = self.settings.policy.disable_after_days.filter(|_| change == CircuitChange::StillOpen)?;
        let time = Duration::from_hours(24 * u64::from(days));
        self.breaker.is_open_for(time, now).then_some(Off::NoSuccess { days })
    }

    /// Empties the queue, because nothing will be attempted for now or ever.
    pub(super) fn evict(&mut self) -> Todo {
        if matches!(self.mode, Mode::Moved | Mode::Stopped) {
            self.backlog.queue.take_all();
            return Todo::default();
        }
        if self.backlog.queue.has_stored() {
            // They go back to where they were.
            self.backlog.note_overdue();
        }
        Todo { evicted: self.backlog.queue.take_all(), discard: self.mode == Mode::Removed, ..Todo::default() }
    }
}
