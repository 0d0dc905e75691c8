//! Tests that users ask for: one attempt each, within the limits that the webhook's deliveries have, and a few of a tenant
//! at once. Where nodes share a store, the node that is asked makes the attempt: the webhook's lane may be at another,
//! and then this node's slots and this cap bound it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::Instrument;
use uuid::Uuid;

use super::batch::BatchContent;
use super::breaker::Standing;
use super::lane::{Lane, LaneSettings, Turn};
use super::shaping::Rendered;
use super::{Dispatcher, Shared, batch, spans};
use crate::clock::Clock;
use crate::delivery::Outcome;
use crate::delivery::attempt::{Message, attempt};
use crate::delivery::retry::Next;
use crate::event::Event;
use crate::fair::Share;
use crate::shape::{Member, RenderError};
use crate::store::{EventSeq, LiveEvent};
use crate::webhook::{TenantSeq, WebhookRecord};

/// The most tests of one tenant that wait or are under way.
pub(super) const MAX_TESTS: usize = 4;
/// The longest wait of a test for the webhook's rate limit, for one of its permits, and for a slot.
const MAX_TEST_WAIT: Duration = Duration::from_secs(10);
/// The interval of looks for a permit.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The reason why a test was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TestRefused {
    #[error("{MAX_TESTS} tests of this tenant's webhooks are under way; try again when one has ended")]
    TooMany,
    #[error("the webhook's rate limit lets no attempt begin yet")]
    RateLimited { wait: Duration },
    #[error("as many attempts are under way as may be; try again when some have ended")]
    Busy,
}

/// The right to make a test.
pub(crate) type TestShare = Share<TenantSeq>;

/// The attempt of a test.
#[derive(Debug)]
pub struct Tried {
    pub outcome: Outcome,
    /// What went wrong, in the words that deliveries have; `None`: it was a success.
    pub error: Option<String>,
}

/// What a test came to; the inner error: there is no body to send.
pub(crate) type Tested = Result<Tried, RenderError>;

impl Dispatcher {
    /// A share of the tests of a tenant.
    pub(crate) fn test_share(&self, tenant: TenantSeq) -> Result<TestShare, TestRefused> {
        self.shared.tests.take(tenant).ok_or(TestRefused::TooMany)
    }

    /// Makes one attempt with a test event.
    pub(crate) async fn test(
        &self,
        share: TestShare,
        record: &WebhookRecord,
        event: Event,
    ) -> Result<Tested, TestRefused> {
        let shared = &self.shared;
        let settings = LaneSettings::new(record, &shared.settings);
        let live = Arc::new(LiveEvent { seq: EventSeq(0), event, is_damaged: false });
        let rendered = Rendered { delivery: Uuid::nil(), attempt: 1, now: shared.wall.now() };
        let body = match shared.shaping.shape(&settings, &live, rendered).await {
            Ok(body) => body,
            Err(error) => return Ok(Err(error)),
        };
        let deadline = Instant::now() + MAX_TEST_WAIT;
        let mut trial = Trial::expected(shared, shared.lane(record.seq), share);
        let ready_at = Instant::now();
        let slot = loop {
            trial.wait_for_turn(deadline).await?;
            let slot = timeout_at(deadline, shared.slots.take(trial.standing)).await;
            // Other attempts may have begun during the wait for the slot.
            match slot {
                Ok(Some(slot)) if trial.begin() => break slot,
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return Err(TestRefused::Busy),
            }
        };
        let slot_wait = ready_at.elapsed();
        let message = match settings.policy.batch_form() {
            Some(Ok(form)) => {
                let member = Member { delivery: Uuid::nil(), body: body.body.clone() };
                let content =
                    BatchContent { form, members: vec![member], content_type: Some(body.content_type.clone()) };
                let Message { hops, .. } = body.message(&shared.stamp);
                Message { hops, ..batch::message(live.event.id(), &content, std::iter::once(&live.event)) }
            }
            _ => body.message(&shared.stamp),
        };
        let span = spans::test(shared, &settings, &live.event, trial.lane.as_deref());
        let mut outcome =
            attempt(&shared.client, &mut None, &settings.receiver, &message, message.event_id, &*shared.wall)
                .instrument(span)
                .await;
        drop(slot);
        outcome.exchange.timings.slot = Some(slot_wait);
        let judged = settings.judge(&outcome);
        // After the last attempt each failure is final.
        let error = match judged.next(u32::MAX, &outcome, shared.clock.now(), 1.0) {
            Next::Delivered => None,
            Next::RetryAt { error, .. } | Next::Dead { error } => Some(error),
        };
        drop(trial);
        if error.is_none() {
            // The receiver works.
            self.wish(record.seq);
        }
        Ok(Ok(Tried { outcome, error }))
    }
}

/// A test that waits or is under way. Its drop returns the permit.
struct Trial<'a> {
    shared: &'a Arc<Shared>,
    /// `None`: another node has the lane.
    lane: Option<Arc<Lane>>,
    standing: Standing,
    is_under_way: bool,
    _share: TestShare,
}

impl<'a> Trial<'a> {
    fn expected(shared: &'a Arc<Shared>, lane: Option<Arc<Lane>>, share: TestShare) -> Self {
        let standing = lane.as_ref().map_or(Standing::Unproven, |lane| lane.expect_trial());
        Self { shared, lane, standing, is_under_way: false, _share: share }
    }

    async fn wait_for_turn(&self, deadline: Instant) -> Result<(), TestRefused> {
        let Some(lane) = &self.lane else { return Ok(()) };
        loop {
            let now = Instant::now();
            let next_look = match lane.trial_turn() {
                Turn::Now => return Ok(()),
                Turn::At(at) if at > deadline => return Err(TestRefused::RateLimited { wait: at - now }),
                Turn::At(at) => at,
                Turn::AfterOthers if now >= deadline => return Err(TestRefused::Busy),
                Turn::AfterOthers => now + LOOK_EVERY,
            };
            sleep_until(next_look).await;
        }
    }

    fn begin(&mut self) -> bool {
        self.is_under_way = self.lane.as_ref().is_none_or(|lane| lane.begin_trial());
        self.is_under_way
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        if let Some(lane) = &self.lane {
            let todo = lane.end_trial(self.is_under_way);
            self.shared.carry_out(lane, todo);
        }
    }
}
