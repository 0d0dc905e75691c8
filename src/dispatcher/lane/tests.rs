//! Random histories of one ordered lane over a model of its store: the order holds, and nothing is forgotten.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use tokio::time::Instant;
use uuid::Uuid;

use super::backlog::earlier;
use super::*;
use crate::clock::UnixMicros;
use crate::delivery::retry::Schedule;
use crate::delivery::statuses::StatusLists;
use crate::delivery::verdict::{Reading, judge};
use crate::delivery::{End, Outcome};
use crate::dispatcher::CircuitSettings;
use crate::dispatcher::memory::MIN_MEMORY_BYTES;
use crate::event::Event;
use crate::signing::SigningKeys;
use crate::store::{Disposition, EventSeq, LiveEvent};
use crate::topic::Topic;
use crate::webhook::{Capture, DEFAULT_TENANT, WebhookHealth, WebhookPatch, WebhookSettings};

const CIRCUIT: CircuitSettings =
    CircuitSettings { threshold: 4, cool_down: Duration::from_secs(5), max_cool_down: Duration::from_secs(20) };
const MAX_QUEUED: usize = 4;
const STEPS: usize = 120;
const LOAD_RETRY_DELAY: Duration = Duration::from_millis(200);

fn limits() -> DispatcherSettings {
    DispatcherSettings {
        max_in_flight: 3,
        max_lane_deliveries: MAX_QUEUED,
        max_memory_bytes: MIN_MEMORY_BYTES,
        retry_schedule: Schedule::original(),
        max_age: None,
        capture: Capture::Failures,
        statuses: StatusLists::default(),
        circuit: CIRCUIT,
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Accept,
    /// Time passes; alarms that are due go off.
    Wait {
        seconds: u64,
    },
    /// The worker takes what it may and attempts it.
    Attempt {
        ends: Ending,
    },
    /// What was attempted is committed.
    Commit,
    /// And the lane learns of it.
    Settle,
    /// A load begins; it reads the store at this moment.
    Read,
    /// And brings what it read.
    Bring,
    /// Or the store could not be read.
    Fail,
    /// An operator ends the first delivery of all, or makes it due at once.
    Discard,
    Retry,
    Restart,
    /// Another node takes the lane over, and this one has it again: what is under way here comes to nothing.
    Move,
    /// What the store answers for a lane that is gone.
    AnswerLate,
}

#[derive(Clone, Copy, Debug)]
enum Ending {
    Success,
    Retry { seconds: i64 },
    Dead,
}

fn step() -> impl Strategy<Value = Step> {
    let ending = prop_oneof![
        4 => Just(Ending::Success),
        3 => (0..30_i64).prop_map(|seconds| Ending::Retry { seconds }),
        1 => Just(Ending::Dead),
    ];
    prop_oneof![
        6 => Just(Step::Accept),
        4 => (0..20_u64).prop_map(|seconds| Step::Wait { seconds }),
        8 => ending.prop_map(|ends| Step::Attempt { ends }),
        4 => Just(Step::Commit),
        6 => Just(Step::Settle),
        4 => Just(Step::Read),
        4 => Just(Step::Bring),
        2 => Just(Step::Fail),
        1 => Just(Step::Discard),
        1 => Just(Step::Retry),
        1 => Just(Step::Restart),
        1 => Just(Step::Move),
        1 => Just(Step::AnswerLate),
    ]
}

/// An event, and when it is to be tried again.
type Committed = (EventSeq, Option<UnixMicros>);

/// A lane, the store behind it and the dispatcher around it.
struct World {
    record: WebhookRecord,
    lane: Arc<Lane>,
    memory: Memory,
    now: UnixMicros,
    next_event: i64,
    /// The store: when each pending delivery is due.
    pending: BTreeMap<EventSeq, UnixMicros>,
    /// Attempted, not yet committed.
    ended: Vec<(Vec<EventSeq>, Ending)>,
    /// Committed, and the lane does not know: when each is to be tried again.
    committed: Vec<Committed>,
    read: Option<Loaded>,
    alarm: Option<UnixMicros>,
    /// The lane that another node took over, and what the store has yet to answer it.
    former: Option<(Arc<Lane>, Option<Loaded>, Vec<Committed>)>,
}

impl World {
    fn new(batch: Option<u32>) -> Self {
        let batch = batch.map(|max_events| format!(r#","batch":{{"max_events":{max_events},"max_wait_ms":0}}"#));
        let patch = format!(
            r#"{{"name":"w","url":"https://w.example","topic_patterns":[">"],"ordered":true{}}}"#,
            batch.unwrap_or_default()
        );
        let patch: WebhookPatch = serde_json::from_str(&patch).unwrap();
        let mut settings = WebhookSettings::create(patch).unwrap();
        settings.receiver.keys = SigningKeys::generate();
        let now = UnixMicros(1_000_000_000);
        let record = WebhookRecord {
            seq: WebhookSeq(1),
            uuid: Uuid::nil(),
            tenant: DEFAULT_TENANT,
            version: 1,
            settings,
            health: WebhookHealth::default(),
            switched_off: None,
            created_at: now,
            updated_at: now,
        };
        let memory = Memory::new(MIN_MEMORY_BYTES);
        let lane = Arc::new(Lane::new(&record, &limits(), memory.clone(), None, now));
        Self {
            record,
            lane,
            memory,
            now,
            next_event: 1,
            pending: BTreeMap::new(),
            ended: Vec::new(),
            committed: Vec::new(),
            read: None,
            alarm: None,
            former: None,
        }
    }

    fn carry_out(&mut self, todo: &Todo) {
        assert!(todo.evicted.iter().all(|queued| queued.is_stored), "an ordered lane holds nothing of its own");
        self.alarm = earlier(self.alarm, todo.wake_at);
        if todo.load {
            self.load();
        }
    }

    /// As the dispatcher begins a load, and the store answers.
    fn load(&mut self) {
        match self.lane.begin_load(self.now) {
            Err(at) => self.alarm = earlier(self.alarm, at),
            Ok(portion) => {
                assert!(portion.in_order && self.read.is_none());
                let awaited = self.pending.iter().find(|(_, at)| **at > self.now).map(|(seq, at)| (*seq, *at));
                let end = awaited.map_or(EventSeq(i64::MAX), |(seq, _)| seq);
                let due: Vec<_> = self.pending.range(..end).map(|(seq, _)| *seq).collect();
                let mut free = due.into_iter().filter(|seq| !portion.held.contains(seq));
                let deliveries = free.by_ref().take(portion.max_deliveries as usize);
                let deliveries: Vec<_> = deliveries.map(|seq| self.queued(seq)).collect();
                let cut_off = free.next();
                let is_rest_due = cut_off.is_some();
                let awaited = cut_off.map(|seq| (seq, self.now)).or(awaited);
                let later = self.pending.values().filter(|at| **at > self.now).min().copied();
                let next_due = if is_rest_due { Some(self.now) } else { later };
                self.read = Some(Loaded { deliveries, next_due, is_rest_due, awaited, rest_until: None });
            }
        }
    }

    fn queued(&self, seq: EventSeq) -> Queued {
        let topic = Topic::parse("a.b").unwrap();
        let event = Event::from_stored(seq.0.to_string().into(), topic, "".into(), Bytes::from_static(b"{}"));
        let charge = self.memory.charge(2).unwrap();
        let event = charge.hold(Arc::new(LiveEvent { seq, event, is_damaged: false }));
        Queued {
            event,
            attempts: 0,
            round_attempts: 0,
            is_stored: true,
            begins_at: self.now,
            waits_since: Instant::now(),
            half: None,
        }
    }

    fn attempt(&mut self, ends: Ending) {
        let Some(job) = self.lane.take_job() else { return };
        let taken: Vec<_> = std::iter::once(&job.queued).chain(&job.more).map(Queued::seq).collect();
        let first: Vec<_> = self.pending.keys().take(taken.len()).copied().collect();
        assert_eq!(taken, first, "of {:?}", self.pending);
        let under_way = (&self.ended, &self.committed);
        assert!(self.ended.is_empty() && self.committed.is_empty(), "{under_way:?} are under way");
        self.carry_out(&job.todo);
        let (error, end) = match ends {
            Ending::Success => (None, End::Status(200)),
            Ending::Retry { .. } => (Some("http 503"), End::Status(503)),
            Ending::Dead => (Some("non-retryable 404"), End::Status(404)),
        };
        let outcome = Outcome {
            started_at: self.now,
            duration: Duration::ZERO,
            end,
            headers: crate::delivery::AnswerFields::default(),
            response: Bytes::new(),
            retry_after: None,
            control: None,
            exchange: crate::delivery::exchange::Exchange::default(),
        };
        let judgement = judge(&outcome, Reading::default());
        let ended = Ended { outcome: &outcome, judgement, error, event: job.more.is_empty().then(|| job.queued.seq()) };
        let booked = self.lane.book(&job.settings, &ended, self.now);
        self.carry_out(&booked.todo);
        self.ended.push((taken, ends));
    }

    fn commit(&mut self) {
        for (events, ends) in std::mem::take(&mut self.ended) {
            for event in events {
                let retry_at = match ends {
                    Ending::Retry { seconds } => Some(UnixMicros(self.now.0 + seconds * 1_000_000)),
                    Ending::Success | Ending::Dead => None,
                };
                match retry_at {
                    Some(at) => self.pending.insert(event, at),
                    None => self.pending.remove(&event),
                };
                self.committed.push((event, retry_at));
            }
        }
    }

    fn settle(&mut self) {
        self.commit();
        for (event, retry_at) in std::mem::take(&mut self.committed) {
            let todo = self.lane.settled(event, true, retry_at);
            self.carry_out(&todo);
        }
    }

    /// A lane as its owner makes it, which knows when the first of what is pending is due.
    fn begin_anew(&mut self) -> Arc<Lane> {
        self.record.health = self.lane.take_health(self.now).unwrap_or_else(|| self.record.health.clone());
        let lane = Arc::new(Lane::new(&self.record, &limits(), self.memory.clone(), None, self.now));
        let former = std::mem::replace(&mut self.lane, lane);
        (self.ended, self.alarm) = (Vec::new(), None);
        if let Some(at) = self.pending.values().min().copied() {
            let todo = self.lane.note_stored(at);
            self.carry_out(&todo);
        }
        former
    }

    /// A lane that has moved asks for nothing and attempts nothing, whatever it is told.
    fn answer_late(&mut self) {
        let Some((lane, read, committed)) = self.former.take() else { return };
        let mut todos = Vec::new();
        todos.extend(read.map(|loaded| lane.finish_load(loaded, self.now)));
        todos.extend(committed.into_iter().map(|(event, retry_at)| lane.settled(event, true, retry_at)));
        todos.push(lane.fail_load(self.now, self.now));
        for todo in todos {
            assert!(todo.start_workers == 0 && !todo.discard && todo.evicted.is_empty());
            assert!(!todo.load || lane.begin_load(self.now).is_err());
        }
        assert!(lane.take_job().is_none() && lane.begin_load(self.now).is_err());
    }

    fn operate(
        &mut self,
        change: impl FnOnce(&mut BTreeMap<EventSeq, UnixMicros>, EventSeq, UnixMicros) -> Option<UnixMicros>,
    ) {
        let Some(first) = self.pending.keys().next().copied() else { return };
        let Whereabouts::Withheld(_) = self.lane.withhold(first) else { return };
        change(&mut self.pending, first, self.now);
        let todo = self.lane.restore(first, None, self.now);
        self.carry_out(&todo);
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Accept => {
                assert_eq!(Arc::clone(&self.lane).reserve(usize::MAX).disposition(), Disposition::Stored);
                self.pending.insert(EventSeq(self.next_event), self.now);
                self.next_event += 1;
                let todo = self.lane.note_stored(self.now);
                self.carry_out(&todo);
            }
            Step::Wait { seconds } => {
                self.now = self.now.after(Duration::from_secs(seconds));
                if self.alarm.take_if(|at| *at <= self.now).is_some() {
                    self.load();
                }
            }
            Step::Attempt { ends } => self.attempt(ends),
            Step::Commit => self.commit(),
            Step::Settle => self.settle(),
            Step::Read => self.load(),
            Step::Fail => {
                if self.read.take().is_some() {
                    let todo = self.lane.fail_load(self.now.after(LOAD_RETRY_DELAY), self.now);
                    self.carry_out(&todo);
                }
            }
            Step::Bring => {
                if let Some(loaded) = self.read.take() {
                    let todo = self.lane.finish_load(loaded, self.now);
                    self.carry_out(&todo);
                }
            }
            Step::Discard => self.operate(|pending, first, _| pending.remove(&first)),
            Step::Retry => self.operate(BTreeMap::insert),
            Step::Restart => {
                // What was attempted and not committed is attempted again.
                (self.read, self.committed) = (None, Vec::new());
                drop(self.begin_anew());
            }
            Step::Move => {
                let (read, committed) = (self.read.take(), std::mem::take(&mut self.committed));
                self.lane.move_away();
                let former = self.begin_anew();
                self.former = Some((former, read, committed));
            }
            Step::AnswerLate => self.answer_late(),
        }
    }
}

proptest! {
    #[test]
    fn the_order_holds_over_any_history_and_all_arrives(
        steps in proptest::collection::vec(step(), 0..STEPS),
        batch in proptest::option::of(2..4_u32),
    ) {
        let mut world = World::new(batch);
        for step in steps {
            world.take(step);
        }
        world.answer_late();
        // From here on the receiver is well, and only what the lane asked for wakes it.
        for _ in 0..4 * STEPS {
            for step in [Step::Bring, Step::Attempt { ends: Ending::Success }, Step::Settle, Step::Wait { seconds: 1 }] {
                world.take(step);
            }
        }
        let state = world.lane.state.lock();
        prop_assert!(
            world.pending.is_empty(),
            "forgotten: {:?} at {}; queued {:?}, awaited {:?}, due {:?}, under way {:?}, alarm {:?}, open {}",
            world.pending,
            world.now.0,
            state.backlog.queue.events().collect::<Vec<_>>(),
            state.backlog.awaited,
            state.backlog.stored_due,
            state.backlog.under_way,
            world.alarm,
            state.breaker.is_open(),
        );
    }
}

#[test]
fn a_place_is_free_again_unless_its_delivery_took_it() {
    let world = World::new(None);
    let mut record = world.record.clone();
    record.settings.policy.ordered = false;
    let lane = Arc::new(Lane::new(&record, &limits(), world.memory.clone(), None, world.now));
    let reserve = || Arc::clone(&lane).reserve(usize::MAX);
    let held: Vec<_> = (0..MAX_QUEUED).map(|_| reserve()).collect();
    assert!(held.iter().all(|reserved| reserved.disposition() == Disposition::InMemory) && !lane.is_idle());
    assert_eq!(reserve().disposition(), Disposition::Stored, "it is full");
    drop(held);
    assert!(lane.is_idle());
    lane.state.lock().backlog.has_overflow = false;
    let mut reserved = reserve();
    assert!(reserved.admit(world.queued(EventSeq(1)).event, world.now).is_some());
    assert!(reserved.admit(world.queued(EventSeq(1)).event, world.now).is_none(), "a place is taken once");
    drop(reserved);
    let state = lane.state.lock();
    assert_eq!((state.backlog.reserved, state.backlog.queue.len()), (0, 1));
}
