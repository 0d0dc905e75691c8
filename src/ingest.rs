//! The one door: an event that is accepted here is durable, with everything it is owed to.

mod patterns;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use self::patterns::{Patterns, named};
use crate::clock::{Clock, UnixMicros};
use crate::dispatcher::Dispatcher;
use crate::dispatcher::lane::{Lane, Reservation};
use crate::dispatcher::memory::Charge;
use crate::event::Event;
use crate::store::{
    Accepted, AcceptedOnce, Disposition, Idempotency, KeptReceipt, LiveEvent, NewEvent, Owed, Share, Store, StoreError,
};
use crate::tenants::{self, QuotaError, Tenant, Tenants};
use crate::topic::{OPERATIONAL_TOKEN, Pattern, Topic};
use crate::webhook::{TenantSeq, WebhookRecord, WebhookSeq};

/// The reason of deliveries that were skipped because of the webhook's filter.
pub(crate) const FILTERED: &str = "filter";
/// The most deliveries of the events of one request, skipped ones included. A single event may have more.
const MAX_DELIVERIES_AT_ONCE: usize = 20_000;
/// The reason why a webhook would not get an event that names other webhooks.
const NOT_NAMED: &str = "not among `webhooks`";

/// The predicted deliveries of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DryRun {
    pub id: String,
    /// Every webhook whose topics match, oldest first.
    pub webhooks: Vec<Prospect>,
}

/// The predicted delivery to one webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prospect {
    pub webhook: Uuid,
    pub name: String,
    /// The reason why it would be skipped; `None`: it would be delivered.
    pub skipped: Option<&'static str>,
}

/// The answer to a publisher, for one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub id: String,
    /// The number of webhooks that get the event.
    pub deliveries: u32,
    /// The number of webhooks that match the topic, but do not get the event.
    pub skipped: u32,
    /// The event was sent before: nothing is stored or delivered again.
    pub duplicate: bool,
}

impl Receipt {
    fn new(id: String, Share { deliveries, skipped }: Share, duplicate: bool) -> Self {
        Self { id, deliveries, skipped, duplicate }
    }
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum PublishError {
    #[error("the server is shutting down")]
    Draining,
    /// A quota is used up. Nothing was stored.
    #[error(transparent)]
    Quota(#[from] QuotaError),
    /// The index of the event, from 0.
    #[error("topics that begin with `{OPERATIONAL_TOKEN}.` are for the server's own events")]
    ReservedTopic { index: usize },
    /// The event names an unknown webhook.
    #[error("there is no webhook {webhook}")]
    UnknownWebhook { index: usize, webhook: Uuid },
    /// Nothing was stored.
    #[error("the events are for more than {max} deliveries together; send fewer of them in one request")]
    TooManyDeliveries { max: usize },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Matches events and hands them to the store, then to the lanes.
pub(crate) struct Ingest {
    store: Arc<dyn Store>,
    dispatcher: Dispatcher,
    clock: Arc<dyn Clock>,
    tenants: Arc<Tenants>,
    patterns: RwLock<Patterns>,
    /// Told of each change of `patterns`.
    pattern_changes: watch::Sender<()>,
    is_closed: AtomicBool,
}

/// The owner of a webhook.
enum Owner {
    Here(Arc<Lane>),
    /// Another node, or none yet.
    Elsewhere(WebhookSeq),
}

impl Owner {
    fn webhook(&self) -> WebhookSeq {
        match self {
            Self::Here(lane) => lane.seq,
            Self::Elsewhere(webhook) => *webhook,
        }
    }
}

/// The owners of webhooks, which are ascending. A node that is alone finds the webhooks that have a lane.
fn find_owners(dispatcher: &Dispatcher, webhooks: &[WebhookSeq], owners: &mut Vec<Owner>) {
    let has_others = dispatcher.has_others();
    dispatcher.lanes(webhooks, |webhook, lane| match lane {
        Some(lane) => owners.push(Owner::Here(Arc::clone(lane))),
        None if has_others => owners.push(Owner::Elsewhere(webhook)),
        None => {}
    });
}

/// The way of one delivery of an event.
enum Routing {
    /// To a lane of this node, or into the store behind it.
    Here(Reservation),
    /// Into the store, for the node that owns the webhook.
    Elsewhere(WebhookSeq, Disposition),
    /// Nowhere.
    Skipped(WebhookSeq, &'static str),
}

impl Routing {
    fn owed(&self) -> Owed {
        let (webhook, disposition) = match self {
            Self::Here(reserved) => (reserved.lane().seq, reserved.disposition()),
            Self::Elsewhere(webhook, disposition) => (*webhook, *disposition),
            Self::Skipped(webhook, reason) => (*webhook, Disposition::Skipped(reason)),
        };
        Owed { webhook, disposition }
    }

    fn is_skipped(&self) -> bool {
        matches!(self.owed().disposition, Disposition::Skipped(_))
    }
}

/// An event between matching and commit. Its drop gives the places back, unless it was admitted.
struct Placed {
    event: Event,
    routings: Vec<Routing>,
    charge: Option<Charge>,
}

impl Ingest {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        dispatcher: Dispatcher,
        clock: Arc<dyn Clock>,
        tenants: Arc<Tenants>,
    ) -> Self {
        let (patterns, pattern_changes) = (RwLock::default(), watch::Sender::new(()));
        Self { store, dispatcher, clock, tenants, patterns, pattern_changes, is_closed: AtomicBool::new(false) }
    }

    /// Accepts events, all or none. With `once`, a repeated request gets the same receipts again, as duplicates.
    /// Returns after the commit. The future must run to its end: dropped after the commit, it would leave events out of
    /// their lanes.
    pub(crate) async fn publish(
        &self,
        tenant: TenantSeq,
        events: Vec<Event>,
        once: Option<Idempotency>,
    ) -> Result<Vec<Receipt>, PublishError> {
        refuse_reserved_topics(&events)?;
        refuse_repeated_ids(&events)?;
        let owner = self.tenants.get(tenant).ok_or(StoreError::NotFound)?;
        let count = events.len();
        owner.take_events(count)?;
        let accepted = self.accept(tenant, events, Some(&*owner), once).await;
        if accepted.is_err() {
            owner.return_events(count);
        }
        accepted
    }

    /// Predicts the deliveries of an event. Nothing is stored.
    pub(crate) fn dry_run(&self, tenant: TenantSeq, event: &Event) -> Result<DryRun, PublishError> {
        if event.topic().is_operational() {
            return Err(PublishError::ReservedTopic { index: 0 });
        }
        let patterns = self.patterns.read();
        let mut prospects = Vec::new();
        let indexes = patterns.by_tenant.get(&tenant);
        let named = named(indexes, event, 0)?;
        if let Some(indexes) = indexes {
            let (mut webhooks, mut wanting, mut owners) = (Vec::new(), Vec::new(), Vec::new());
            indexes.of(event.topic()).matches(event.topic(), &mut webhooks);
            indexes.filters.matching(event.body(), &webhooks, &mut wanting);
            find_owners(&self.dispatcher, &webhooks, &mut owners);
            prospects.extend(owners.into_iter().filter_map(|owner| {
                let seq = owner.webhook();
                let (webhook, name, refusal) = match owner {
                    Owner::Here(lane) => lane.prospect(),
                    Owner::Elsewhere(seq) => {
                        let known = patterns.by_webhook.get(&seq)?;
                        (known.uuid, known.name.clone(), patterns.refusal(seq))
                    }
                };
                let is_named = named.as_ref().is_none_or(|named| named.binary_search(&seq).is_ok());
                let is_wanted = indexes.filters.is_empty() || wanting.binary_search(&seq).is_ok();
                let filtered = (!is_wanted).then_some(FILTERED);
                Some(Prospect { webhook, name, skipped: (!is_named).then_some(NOT_NAMED).or(filtered).or(refusal) })
            }));
        }
        Ok(DryRun { id: event.id().to_owned(), webhooks: prospects })
    }

    /// Accepts events of the server itself, without quotas.
    pub(crate) async fn publish_own(&self, tenant: TenantSeq, events: Vec<Event>) -> Result<(), PublishError> {
        self.accept(tenant, events, None, None).await.map(drop)
    }

    /// `payer` is the tenant whose quotas of pending deliveries and stored bytes apply.
    async fn accept(
        &self,
        tenant: TenantSeq,
        events: Vec<Event>,
        payer: Option<&Tenant>,
        once: Option<Idempotency>,
    ) -> Result<Vec<Receipt>, PublishError> {
        if self.is_closed.load(Ordering::Acquire) {
            return Err(PublishError::Draining);
        }
        let accepted_at = self.clock.now();
        let max_deliveries = if payer.is_some() { MAX_DELIVERIES_AT_ONCE } else { usize::MAX };
        let placed = self.place(tenant, events, accepted_at, max_deliveries)?;
        let stored = || tenants::Usage {
            deliveries: 0,
            pending: self.store.pending(tenant),
            stored_bytes: self.store.stored_bytes(tenant),
        };
        let arriving = payer.map(|payer| payer.reserve(|| added(&placed), stored));
        // Held until the store's gauges contain the commit.
        let _arriving = arriving.transpose()?;
        let new = new_events(tenant, accepted_at, &placed);
        let began = Instant::now();
        let accepted = match once {
            None => self.store.accept(new).await,
            Some(once) => match self.store.accept_once(tenant, new, once).await {
                Ok(AcceptedOnce::Now(accepted)) => Ok(accepted),
                Ok(AcceptedOnce::Before(receipts)) => {
                    let again =
                        |KeptReceipt(id, deliveries, skipped)| Receipt { id, deliveries, skipped, duplicate: true };
                    return Ok(receipts.into_iter().map(again).collect());
                }
                Err(error) => Err(error),
            },
        };
        let accepted = accepted?;
        self.dispatcher.counters().accepts.add(began.elapsed());
        Ok(self.admit(tenant, accepted_at, placed, accepted))
    }

    /// Whether any webhook matches the topic.
    pub(crate) fn is_wanted(&self, tenant: TenantSeq, topic: &Topic) -> bool {
        let mut webhooks = Vec::new();
        if let Some(indexes) = self.patterns.read().by_tenant.get(&tenant) {
            indexes.of(topic).matches(topic, &mut webhooks);
        }
        !webhooks.is_empty()
    }

    /// Matches the events, and reserves places in the lanes of this node.
    fn place(
        &self,
        tenant: TenantSeq,
        events: Vec<Event>,
        now: UnixMicros,
        max_deliveries: usize,
    ) -> Result<Vec<Placed>, PublishError> {
        let patterns = self.patterns.read();
        let indexes = patterns.by_tenant.get(&tenant);
        // All events are checked before any place is reserved.
        let directed = events.iter().enumerate().map(|(index, event)| named(indexes, event, index));
        let directed = directed.collect::<Result<Vec<_>, _>>()?;
        if let Some(indexes) = indexes {
            indexes.refuse_too_many(&events, &directed, max_deliveries)?;
        }
        let memory = self.dispatcher.memory();
        let (mut webhooks, mut wanting, mut owners) = (Vec::new(), Vec::new(), Vec::new());
        let filters = indexes.map(|indexes| &indexes.filters).filter(|filters| !filters.is_empty());
        let placed = events.into_iter().zip(directed).map(|(event, named)| {
            webhooks.clear();
            if let Some(indexes) = indexes {
                indexes.of(event.topic()).matches(event.topic(), &mut webhooks);
            }
            if let Some(named) = named {
                webhooks.retain(|webhook| named.binary_search(webhook).is_ok());
            }
            let due_at = event.options().and_then(|options| options.deliver_at).filter(|at| *at > now);
            if let Some(filters) = filters {
                wanting.clear();
                filters.matching(event.body(), &webhooks, &mut wanting);
            }
            find_owners(&self.dispatcher, &webhooks, &mut owners);
            let has_lane = owners.iter().any(|owner| matches!(owner, Owner::Here(_)));
            let charge = if has_lane { memory.charge(event.body().len()) } else { None };
            let room = charge.as_ref().map_or(0, |_| memory.room_for(event.body().len()));
            let routings = owners.drain(..).map(|owner| {
                let webhook = owner.webhook();
                match (owner, due_at) {
                    _ if filters.is_some() && wanting.binary_search(&webhook).is_err() => {
                        Routing::Skipped(webhook, FILTERED)
                    }
                    (Owner::Here(lane), Some(due_at)) => Routing::Here(lane.postpone(due_at)),
                    (Owner::Here(lane), None) => Routing::Here(lane.reserve(room)),
                    (Owner::Elsewhere(webhook), due_at) => match patterns.refusal(webhook) {
                        Some(reason) => Routing::Skipped(webhook, reason),
                        None => Routing::Elsewhere(webhook, due_at.map_or(Disposition::Stored, Disposition::Later)),
                    },
                }
            });
            let routings = routings.collect();
            Placed { event, routings, charge }
        });
        Ok(placed.collect())
    }

    /// Adds a webhook, or replaces its patterns.
    pub(crate) fn apply(&self, record: &WebhookRecord) {
        self.patterns.write().apply(record);
        self.pattern_changes.send_replace(());
    }

    pub(crate) fn remove(&self, tenant: TenantSeq, webhook: WebhookSeq) {
        self.patterns.write().remove(tenant, webhook);
        self.pattern_changes.send_replace(());
    }

    /// The patterns of a tenant's enabled webhooks, each once, without those for the server's own events.
    pub(crate) fn wanted(&self, tenant: TenantSeq) -> BTreeSet<Pattern> {
        self.patterns.read().wanted(tenant)
    }

    /// Changes whenever webhooks do.
    pub(crate) fn pattern_changes(&self) -> watch::Receiver<()> {
        self.pattern_changes.subscribe()
    }

    /// Passes accepted events to their lanes.
    fn admit(
        &self,
        tenant: TenantSeq,
        accepted_at: UnixMicros,
        placed: Vec<Placed>,
        accepted: Vec<Accepted>,
    ) -> Vec<Receipt> {
        let receipts = placed.into_iter().zip(accepted).map(|(placed, accepted)| match accepted {
            Accepted::New { seq } => {
                self.dispatcher.counters().events_accepted.add(1);
                let reached = placed.routings.iter().map(|routing| (routing.owed().webhook, routing.is_skipped()));
                self.dispatcher.tally().accepted(accepted_at, tenant, reached);
                let id = placed.event.id().to_owned();
                let skipped = placed.routings.iter().filter(|routing| routing.is_skipped()).count();
                let share = Share::of(placed.routings.len(), skipped);
                let live = LiveEvent { seq, event: placed.event, is_damaged: false };
                let held = placed.charge.map(|charge| charge.hold(Arc::new(live)));
                for routing in placed.routings {
                    match routing {
                        Routing::Here(reserved) => self.dispatcher.admit(reserved, held.as_ref(), accepted_at),
                        Routing::Elsewhere(webhook, _) => self.dispatcher.wake(webhook),
                        Routing::Skipped(..) => {}
                    }
                }
                Receipt::new(id, share, false)
            }
            Accepted::Duplicate { share, .. } => {
                self.dispatcher.counters().events_duplicate.add(1);
                Receipt::new(placed.event.id().to_owned(), share, true)
            }
        });
        receipts.collect()
    }

    /// Refuses every further event.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
    }
}

/// The usage that events add to their tenant's quotas.
fn added(placed: &[Placed]) -> tenants::Usage {
    let pending = |placed: &Placed| placed.routings.iter().filter(|routing| !routing.is_skipped()).count() as u64;
    tenants::Usage {
        deliveries: placed.iter().map(|placed| placed.routings.len() as u64).sum(),
        pending: placed.iter().map(pending).sum(),
        stored_bytes: placed.iter().map(|placed| placed.event.body().len() as u64).sum(),
    }
}

fn new_events(tenant: TenantSeq, accepted_at: UnixMicros, placed: &[Placed]) -> Vec<NewEvent> {
    let new = |Placed { event, routings, .. }: &Placed| {
        let owed = routings.iter().map(Routing::owed).collect();
        NewEvent { tenant, event: event.clone(), accepted_at, owed }
    };
    placed.iter().map(new).collect()
}

/// One request must not have two events with one id; the same event twice is a duplicate.
fn refuse_repeated_ids(events: &[Event]) -> Result<(), StoreError> {
    if events.len() < 2 {
        return Ok(());
    }
    let mut known = HashMap::with_capacity(events.len());
    for (index, event) in events.iter().enumerate() {
        if !known.entry(event.id()).or_insert(event).has_same_content(event) {
            return Err(StoreError::IdTaken { index });
        }
    }
    Ok(())
}

/// The server's own topics are for nobody else.
fn refuse_reserved_topics(events: &[Event]) -> Result<(), PublishError> {
    match events.iter().position(|event| event.topic().is_operational()) {
        Some(index) => Err(PublishError::ReservedTopic { index }),
        None => Ok(()),
    }
}
