//! Delivering: wake → fill lanes → start attempts → settle.
//!
//! A webhook has a [lane](lane::Lane). An accepted event goes straight into the lanes that have room for it and keep no
//! order; for the others it waits in the store, and so does a retry. A lane's workers attempt what is in its
//! queue, the settler commits what came of it. Wakes and timers are hints; the store is the truth.

mod attempted;
mod batch;
mod breaker;
mod content;
mod crowding;
mod expiry;
mod figures;
pub(crate) mod lane;
mod lease;
mod limiter;
mod load;
pub(crate) mod memory;
pub(crate) mod notices;
mod ownership;
mod recovery;
mod rest;
mod settler;
pub(crate) mod shaping;
pub(crate) mod shards;
mod slots;
mod spans;
mod tally;
mod timer;
pub mod trial;
mod unsent;
mod withhold;
mod worker;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, Semaphore, mpsc};

pub use self::breaker::CircuitSettings;
use self::figures::Counters;
pub use self::figures::{Figures, Latencies, ShardFigures};
use self::lane::{Held, Hold, Lane, Queued, Reservation, Todo, WEBHOOK_DELETED};
use self::lease::Lease;
pub use self::memory::MIN_MEMORY_BYTES;
use self::memory::{HeldEvent, Memory};
use self::notices::{MAX_NOTICES, Notice};
pub(crate) use self::ownership::Member;
use self::settler::ToSettle;
use self::shaping::{PreviewError, Shaping};
use self::shards::Shards;
use self::slots::Slots;
use self::tally::Tally;
use self::timer::Timer;
use crate::clock::{Clock, SteadyClock, UnixMicros};
use crate::delivery::client::Client;
use crate::delivery::retry::Schedule;
use crate::delivery::statuses::StatusLists;
use crate::event::Stamp;
use crate::fair::Caps;
use crate::log_rate::LogRate;
use crate::store::cluster::Hint;
use crate::store::{AllWebhooks, DeliveryKey, Disposition, Shard, Store, StoreError, Term};
use crate::tenants::Tenants;
use crate::webhook::{Capture, TenantSeq, WebhookRecord, WebhookSeq};
/// Idle connections that are kept, over all lanes.
const MAX_KEPT_CONNECTIONS: usize = 2_048;
/// Lanes that read from the store at the same time.
const MAX_LOADS: usize = 2;
/// Events read at once when a restart reads back what was in memory.
const RECOVERY_EVENTS: u32 = 1_000;
/// Deliveries of a deleted webhook that are ended in one commit.
const DISCARD_BATCH: u32 = 1_000;

/// The dispatcher's limits.
#[derive(Clone, Debug, PartialEq)]
pub struct DispatcherSettings {
    /// Attempts under way at once, over all webhooks; at least 3.
    pub max_in_flight: usize,
    /// Deliveries that one lane keeps in memory; more wait in the store.
    pub max_lane_deliveries: usize,
    /// Bytes of events that all lanes together keep in memory, [`MIN_MEMORY_BYTES`] at least; more wait in the store.
    pub max_memory_bytes: usize,
    /// The schedule of webhooks without one of their own.
    pub retry_schedule: Schedule,
    /// For webhooks that set none; `None`: a delivery is never too old.
    pub max_age: Option<Duration>,
    /// For webhooks that say nothing of it.
    pub capture: Capture,
    /// What statuses mean to webhooks that say nothing of them.
    pub statuses: StatusLists,
    pub circuit: CircuitSettings,
}

/// The lanes of a node and what serves them. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Dispatcher {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<dyn Store>,
    /// `None`: no other node shares the store.
    member: Option<Member>,
    shards: Mutex<Shards>,
    lease: Lease,
    client: Client,
    /// Decides which deliveries are due.
    clock: SteadyClock,
    /// The time of day, for requests.
    wall: Arc<dyn Clock>,
    settings: DispatcherSettings,
    lanes: RwLock<HashMap<WebhookSeq, Arc<Lane>>>,
    memory: Memory,
    slots: Slots,
    /// A permit for each idle worker that keeps its connection.
    keeps: Semaphore,
    loads: Semaphore,
    timer: Timer,
    shaping: Shaping,
    /// The header of requests by which servers recognise events that went round in a loop.
    stamp: Stamp,
    tests: Caps<TenantSeq>,
    /// Lanes whose deliveries wait for workers.
    crowded: Mutex<Vec<Arc<Lane>>>,
    crowding: Notify,
    outcomes: mpsc::Sender<ToSettle>,
    /// Evictions: deliveries that leave memory and get rows.
    evicted: mpsc::Sender<ToSettle>,
    notices: mpsc::Sender<Notice>,
    counters: Counters,
    tally: Tally,
    /// Lines about attempts that the guard refused.
    blocked: LogRate,
}

impl Dispatcher {
    /// Starts without lanes. The receiver must take in notices: when [`MAX_NOTICES`] wait, attempts wait, too. A
    /// `member` gets lanes as it takes shards; a node that is alone calls [`Dispatcher::recover`].
    pub(crate) fn start(
        store: Arc<dyn Store>,
        client: Client,
        clock: Arc<dyn Clock>,
        settings: DispatcherSettings,
        tenants: Arc<Tenants>,
        member: Option<Member>,
    ) -> (Self, mpsc::Receiver<Notice>) {
        let (notices, news) = mpsc::channel(MAX_NOTICES);
        let (outcomes, ended) = mpsc::channel(settler::MAX_WAITING);
        let (evicted, to_write_down) = mpsc::channel(settler::MAX_WAITING);
        let shared = Arc::new(Shared {
            memory: Memory::new(settings.max_memory_bytes),
            slots: Slots::new(settings.max_in_flight),
            keeps: Semaphore::new(MAX_KEPT_CONNECTIONS),
            loads: Semaphore::new(MAX_LOADS),
            lanes: RwLock::default(),
            timer: Timer::default(),
            shaping: Shaping::new(tenants),
            stamp: Stamp::new(store.delivery_ids().instance()),
            tests: Caps::new(trial::MAX_TESTS),
            crowded: Mutex::default(),
            crowding: Notify::new(),
            counters: Counters::default(),
            tally: Tally::default(),
            blocked: LogRate::default(),
            store,
            lease: if member.is_some() { Lease::none() } else { Lease::for_ever() },
            shards: Mutex::default(),
            member,
            client,
            clock: SteadyClock::new(Arc::clone(&clock)),
            wall: clock,
            settings,
            outcomes,
            evicted,
            notices,
        });
        tokio::spawn(settler::run(Arc::clone(&shared), ended, to_write_down));
        tokio::spawn(run_timer(Arc::clone(&shared)));
        tokio::spawn(expiry::end_what_is_too_old(Arc::downgrade(&shared)));
        tokio::spawn(crowding::look_after_crowded(Arc::clone(&shared)));
        (Self { shared }, news)
    }

    /// Makes every lane, and reads back the deliveries that a former run held in memory.
    pub(crate) async fn recover(&self, webhooks: &AllWebhooks) -> Result<(), StoreError> {
        let shared = &self.shared;
        for record in &webhooks.live {
            self.insert(record, None);
        }
        for (webhook, at) in shared.store.next_due(None, UnixMicros(i64::MIN)).await? {
            if let Some(lane) = shared.lane(webhook) {
                let todo = lane.note_stored(at);
                shared.carry_out(&lane, todo);
            }
        }
        shared.recover().await?;
        for webhook in &webhooks.deleted {
            shared.discard_stored(*webhook);
        }
        Ok(())
    }

    // --- accepting ---

    pub(crate) fn memory(&self) -> &Memory {
        &self.shared.memory
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// The counts for figures over time.
    pub(crate) fn tally(&self) -> &Tally {
        &self.shared.tally
    }

    /// Looks for the lane of each of `webhooks`.
    pub(crate) fn lanes(&self, webhooks: &[WebhookSeq], mut found: impl FnMut(WebhookSeq, Option<&Arc<Lane>>)) {
        let lanes = self.shared.lanes.read();
        for webhook in webhooks {
            found(*webhook, lanes.get(webhook));
        }
    }

    /// Whether other nodes may own webhooks that have no lane here.
    pub(crate) fn has_others(&self) -> bool {
        self.shared.member.is_some()
    }

    /// Called after the commit of an event, with the place that [`Lane::reserve`] gave.
    pub(crate) fn admit(&self, mut reserved: Reservation, event: Option<&Arc<HeldEvent>>, at: UnixMicros) {
        let admitted = event.and_then(|event| reserved.admit(Arc::clone(event), at));
        let lane = reserved.lane();
        let todo = match (admitted, reserved.disposition()) {
            (Some(todo), _) => todo,
            (None, Disposition::InMemory | Disposition::Stored) => lane.note_stored(at),
            (None, Disposition::Later(due_at)) => lane.note_later(due_at),
            (None, Disposition::Skipped(_)) => return,
        };
        self.shared.carry_out(lane, todo);
        if lane.has_moved() {
            self.hint(Hint::Due(lane.seq));
        }
    }

    /// The header of requests by which servers recognise events that went round in a loop.
    pub(crate) fn stamp(&self) -> &Stamp {
        &self.shared.stamp
    }

    // --- operating ---

    /// Makes the lane of a new webhook, if this node owns its shard.
    pub(crate) fn add(&self, record: &WebhookRecord) {
        if self.shared.member.is_none() {
            self.insert(record, None);
            return;
        }
        let shards = self.shared.shards.lock();
        if let Some(term) = shards.owned(Shard::of(record.uuid)) {
            self.insert(record, Some(term));
        }
    }

    fn insert(&self, record: &WebhookRecord, term: Option<Term>) {
        let settings = &self.shared.settings;
        let memory = self.shared.memory.clone();
        let lane = Lane::new(record, settings, memory, term, self.shared.clock.now());
        self.shared.lanes.write().entry(record.seq).or_insert_with(|| Arc::new(lane));
    }

    pub(crate) fn apply(&self, record: &WebhookRecord, close_circuit: bool) {
        if let Some(lane) = self.shared.lane(record.seq) {
            let todo = lane.apply(record, &self.shared.settings, close_circuit, self.shared.clock.now());
            self.shared.carry_out(&lane, todo);
            if close_circuit {
                // A batch on its way to the store may still contain an open circuit.
                let shared = Arc::clone(&self.shared);
                tokio::spawn(async move { shared.outcomes.send(ToSettle::Health(lane)).await });
            }
        }
    }

    pub(crate) fn remove(&self, webhook: WebhookSeq) {
        let removed = self.shared.lanes.write().remove(&webhook);
        if let Some(lane) = removed {
            let todo = lane.remove();
            self.shared.carry_out(&lane, todo);
        }
    }

    /// Called when a delivery in the store becomes due, of a lane here or at another node.
    pub(crate) fn wake(&self, webhook: WebhookSeq) {
        if let Some(lane) = self.shared.lane(webhook) {
            let now = self.shared.clock.now();
            let todo = lane.note_stored(now);
            self.shared.carry_out(&lane, todo);
        } else {
            self.hint(Hint::Due(webhook));
        }
    }

    /// An operator wants an attempt of the webhook now, whatever its circuit and its receiver say; here or at another node.
    pub(crate) fn wish(&self, webhook: WebhookSeq) {
        if !self.take_in_wish(webhook) {
            self.hint(Hint::Wished(webhook));
        }
    }

    /// The same, if the lane is here.
    pub(crate) fn take_in_wish(&self, webhook: WebhookSeq) -> bool {
        let Some(lane) = self.shared.lane(webhook) else { return false };
        let todo = lane.wish(self.shared.clock.now());
        self.shared.carry_out(&lane, todo);
        true
    }

    /// What waits in the memory of the webhook's lane; nothing, if the lane is at another node.
    pub(crate) fn held(&self, webhook: WebhookSeq) -> Held {
        self.shared.lane(webhook).map(|lane| lane.held(self.shared.clock.now())).unwrap_or_default()
    }

    /// What a delivery waits for that is due, and until when at least; `None`: it is being attempted.
    pub(crate) fn hold(&self, key: DeliveryKey) -> Option<(Hold, Option<UnixMicros>)> {
        match self.shared.lane(key.webhook) {
            Some(lane) => lane.hold(key.event, self.shared.clock.now()),
            // Another node knows.
            None => Some((Hold::Turn, None)),
        }
    }

    /// Computes a preview in the same place as the shapes of deliveries.
    pub(crate) async fn preview<T: Send + 'static>(
        &self,
        tenant: TenantSeq,
        compute: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PreviewError> {
        self.shared.shaping.preview(tenant, compute).await
    }

    pub(crate) fn latencies(&self) -> Latencies {
        self.shared.counters.latencies()
    }

    pub(crate) fn figures(&self) -> Figures {
        let counters = &self.shared.counters;
        let mut figures = Figures {
            events_accepted: counters.events_accepted.get(),
            events_duplicate: counters.events_duplicate.get(),
            attempts_succeeded: counters.attempts_succeeded.get(),
            attempts_failed: counters.attempts_failed.get(),
            deliveries_delivered: counters.deliveries_delivered.get(),
            deliveries_dead: counters.deliveries_dead.get(),
            deliveries_damaged: counters.deliveries_damaged.get(),
            settlements_stale: counters.settlements_stale.get(),
            shards: self.shard_count() as u64,
            memory_bytes: self.shared.memory.used_bytes() as u64,
            ..Figures::default()
        };
        for lane in self.shared.lanes.read().values() {
            let (queued, under_way, is_open) = lane.gauges();
            figures.lanes += 1;
            figures.circuits_open += u64::from(is_open);
            figures.in_flight += under_way as u64;
            figures.queued += queued as u64;
        }
        figures
    }

    /// Begins no more attempts. Attempts under way go on.
    pub(crate) fn stop(&self) {
        for lane in self.shared.lanes.read().values() {
            lane.stop();
        }
    }

    /// Begins no more attempts, waits for attempts under way for at most `timeout`, cuts off the rest and commits the
    /// outcomes. Returns the number of attempts cut off.
    pub(crate) async fn drain(&self, timeout: Duration) -> usize {
        self.stop();
        let lanes: Vec<_> = self.shared.lanes.read().values().cloned().collect();
        let in_time = tokio::time::timeout(timeout, self.shared.slots.all_free()).await;
        let cut_off = if in_time.is_ok() { 0 } else { self.shared.slots.in_use() };
        for lane in &lanes {
            lane.abort_workers();
        }
        // A store that cannot commit must not keep the process from ending.
        if !self.flush().await {
            tracing::error!("outcomes could not be recorded before the end; their deliveries will be made again");
        }
        cut_off
    }
}

/// The longest wait of a shutdown for the commit of the last outcomes.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

async fn run_timer(shared: Arc<Shared>) {
    loop {
        let webhook = shared.timer.next(&shared.clock).await;
        if let Some(lane) = shared.lane(webhook) {
            shared.load(&lane);
        }
    }
}

impl Shared {
    fn lane(&self, webhook: WebhookSeq) -> Option<Arc<Lane>> {
        self.lanes.read().get(&webhook).map(Arc::clone)
    }

    fn carry_out(self: &Arc<Self>, lane: &Arc<Lane>, todo: Todo) {
        if todo.start_workers > 0 {
            lane.start_workers(todo.start_workers, || {
                tokio::spawn(worker::run(Arc::clone(self), Arc::clone(lane))).abort_handle()
            });
        }
        if todo.look_after {
            self.crowded.lock().push(Arc::clone(lane));
            self.crowding.notify_one();
        }
        if let Some(at) = todo.wake_at {
            self.timer.set(at, lane.seq);
        }
        if todo.load {
            self.load(lane);
        }
        if !todo.evicted.is_empty() {
            self.write_down(lane, todo.evicted, todo.discard);
        }
        if todo.discard {
            self.discard_stored(lane.seq);
        }
    }

    /// Gives evicted deliveries rows. They wait in the store; with `discard`, for a deleted webhook, they end.
    fn write_down(self: &Arc<Self>, lane: &Arc<Lane>, evicted: Vec<Queued>, discard: bool) {
        let now = self.clock.now();
        if lane.has_moved() {
            self.pass_on(lane.seq, evicted.iter().filter(|queued| !queued.is_stored).map(Queued::seq).collect());
            return;
        }
        let keys = evicted.into_iter().filter(|queued| discard || !queued.is_stored);
        let keys = keys.map(|queued| (queued.event.live.seq, queued.round_attempts)).collect();
        tokio::spawn(recovery::write_down(Arc::clone(self), Arc::clone(lane), keys, discard, now));
    }

    /// Starts a load of a lane from the store, if the lane wants one.
    fn load(self: &Arc<Self>, lane: &Arc<Lane>) {
        let now = self.clock.now();
        match lane.begin_load(now) {
            Ok(portion) => {
                tokio::spawn(load::run(Arc::clone(self), Arc::clone(lane), portion, now));
            }
            Err(Some(at)) => self.timer.set(at, lane.seq),
            Err(None) => {}
        }
    }

    /// Ends the stored deliveries of a deleted webhook, in small steps.
    fn discard_stored(self: &Arc<Self>, webhook: WebhookSeq) {
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                let now = shared.clock.now();
                match shared.store.discard_pending(webhook, WEBHOOK_DELETED, DISCARD_BATCH, now).await {
                    Ok(0) => return,
                    Ok(_) => {}
                    Err(error) => {
                        tracing::error!(webhook_seq = webhook.0, %error, "cannot discard the deliveries of a deleted webhook; the next start goes on with it");
                        return;
                    }
                }
            }
        });
    }

    /// Sends a notice to the engine, which may have ended.
    async fn tell(&self, notice: Notice) {
        let _ = self.notices.send(notice).await;
    }
}
