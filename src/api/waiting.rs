//! What deliveries wait for, and how many do.

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::problem::Problem;
use super::views::Time;
use crate::clock::UnixMicros;
use crate::delivery::id::DeliveryKey;
use crate::dispatcher::lane::Hold;
use crate::engine::Engine;
use crate::engine::waiting::Backlog;
use crate::store::{StoredDelivery, Waiting};
use crate::webhook::WebhookRecord;

/// What keeps deliveries waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum WaitingFor {
    /// The webhook is turned off.
    Off,
    /// Until it goes on: `paused` is set.
    Paused,
    /// The receiver fails: until the next probe.
    Circuit,
    /// Until the time that the receiver has asked for.
    ReceiverAsked,
    /// Until the delivery's next attempt.
    Schedule,
    /// The webhook's rate limit.
    Rate,
    /// More events for its batch.
    Batch,
    /// An earlier delivery, since the webhook is ordered.
    Order,
    /// One of the attempts that the webhook, or the server, makes at once.
    Slot,
}

type Reason = (WaitingFor, Option<UnixMicros>);

/// What the deliveries of a webhook wait for.
#[derive(Clone, Copy, Default)]
pub(super) struct Waits {
    pub(super) waiting_for: Option<WaitingFor>,
    pub(super) until: Option<UnixMicros>,
    pub(super) count: u32,
    pub(super) since: Option<UnixMicros>,
}

/// What a delivery waits for.
#[derive(Default, Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "they stand among others in the answer")]
pub(super) struct DeliveryWait {
    /// What it waits for, if it is pending and not being attempted.
    #[schema(required)]
    waiting_for: Option<WaitingFor>,
    /// Until when at least; `null`: nobody knows, or it does not wait.
    #[schema(required)]
    waiting_until: Option<Time>,
    /// With `order`: the delivery that goes first.
    #[schema(required)]
    waiting_behind: Option<Uuid>,
}

/// What keeps all deliveries of a webhook waiting.
fn of_all(record: &WebhookRecord, now: UnixMicros) -> Option<Reason> {
    let health = &record.health;
    match (health.auto_disabled_at, health.probe_at) {
        _ if !record.settings.enabled => Some((WaitingFor::Off, None)),
        _ if record.settings.policy.paused => Some((WaitingFor::Paused, None)),
        (Some(_), probe_at) => Some((WaitingFor::Circuit, probe_at)),
        (None, rests_until) => rests_until.filter(|at| *at > now).map(|at| (WaitingFor::ReceiverAsked, Some(at))),
    }
}

fn of_lane((hold, until): (Hold, Option<UnixMicros>)) -> Reason {
    let what = match hold {
        Hold::Rate => WaitingFor::Rate,
        Hold::Batch => WaitingFor::Batch,
        Hold::Receiver => WaitingFor::ReceiverAsked,
        Hold::Order(_) => WaitingFor::Order,
        Hold::Turn => WaitingFor::Slot,
    };
    (what, until)
}

impl Waits {
    /// As the record has it.
    pub(super) fn of(record: &WebhookRecord, now: UnixMicros) -> Self {
        Self::default().with(of_all(record, now))
    }

    /// With what else is known.
    pub(super) fn with_backlog(self, backlog: &Backlog) -> Self {
        let reason = backlog.hold.filter(|_| self.waiting_for.is_none()).map(of_lane);
        let Waiting { count, since } = backlog.waiting;
        let waits = Self { count, since, ..self.with(reason) };
        // Of a webhook that is off nothing waits, or what it was owed before.
        let is_nothing = count == 0 && waits.waiting_for == Some(WaitingFor::Off);
        Self { waiting_for: waits.waiting_for.filter(|_| !is_nothing), ..waits }
    }

    fn with(self, reason: Option<Reason>) -> Self {
        let Some((what, until)) = reason else { return self };
        Self { waiting_for: Some(what), until, ..self }
    }
}

impl DeliveryWait {
    /// Of a pending delivery.
    pub(super) fn of(engine: &Engine, key: DeliveryKey, stored: &StoredDelivery, webhook: &WebhookRecord) -> Self {
        let now = engine.now();
        let all = of_all(webhook, now);
        let is_later = |at: &UnixMicros| *at > now;
        let reason = match (all, stored.next_attempt_at.filter(is_later)) {
            (Some((WaitingFor::Off | WaitingFor::Paused | WaitingFor::Circuit, _)), _) => all,
            (_, Some(at)) => Some((WaitingFor::Schedule, Some(at))),
            (all, None) => {
                let hold = engine.hold(key);
                if let Some((Hold::Order(first), _)) = hold {
                    let behind = DeliveryKey { event: first, ..key };
                    let waiting_behind = Some(engine.store().delivery_ids().encode(behind));
                    return Self { waiting_for: Some(WaitingFor::Order), waiting_behind, waiting_until: None };
                }
                // What is being attempted waits for nothing.
                hold.map(|hold| all.unwrap_or_else(|| of_lane(hold)))
            }
        };
        let (waiting_for, until) = reason.unzip();
        Self { waiting_for, waiting_until: until.flatten().map(Time), waiting_behind: None }
    }
}

/// The backlogs of webhooks, in their order.
pub(super) async fn backlogs(engine: &Engine, records: &[WebhookRecord]) -> Result<Vec<Backlog>, Problem> {
    Ok(engine.backlogs(records.iter().map(|record| record.seq).collect()).await?)
}
