//! Purging what is old, beside everything else: one small step after the other, each of which waits a while for a busy
//! writer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Engine;
use super::clock_trust::{Belief, CLOCK_PROBATION, ClockTrust};
use super::figures::FiguresKept;
use super::step::{Deference, let_events_pass};
use crate::clock::{Clock, UnixMicros};
use crate::dispatcher::Dispatcher;
use crate::figures::Step;
use crate::store::retention::{Cutoffs, Purged, Retention};
use crate::store::{Act, Deed, EventSeq, Shard, Store, StoreError};

/// The pause between two steps.
const STEP_PAUSE: Duration = Duration::from_millis(20);
/// A step waits for a busy writer, for at most five seconds: a full store must be purged although calls wait.
const DEFERENCE: Deference = Deference { pause: Duration::from_millis(50), looks: 100 };
/// The time after which a round looks again at events that an earlier one kept.
const FULL_ROUND_US: u64 = 6 * 3_600 * 1_000_000;
/// The interval of purges of the audit log. A purge may add a line for each tenant.
const AUDIT_ROUND_US: u64 = 24 * 3_600 * 1_000_000;
/// The time for which ended replay jobs are kept.
const ENDED_REPLAYS_KEPT: Duration = Duration::from_hours(30 * 24);

/// The times for which data is kept; `None`: for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionSettings {
    /// From an event's acceptance.
    pub events: Option<Duration>,
    /// From the end of a delivered or skipped delivery.
    pub delivered: Option<Duration>,
    /// From the end of a dead or discarded delivery.
    pub dead: Option<Duration>,
    /// From the start of an attempt.
    pub attempts: Option<Duration>,
    /// From a line of the audit log, and from the end of a token.
    pub audit: Option<Duration>,
    /// Of figures over time.
    pub figures: FiguresKept,
    /// Between two rounds of purging.
    pub interval: Duration,
}

impl RetentionSettings {
    /// The default interval of purges.
    pub const DEFAULT_INTERVAL: Duration = Duration::from_mins(1);

    /// Keeps everything for ever.
    pub const FOREVER: Self = Self {
        events: None,
        delivered: None,
        dead: None,
        attempts: None,
        audit: None,
        figures: FiguresKept::FOREVER,
        interval: Self::DEFAULT_INTERVAL,
    };

    /// The cutoffs at `now`, for all tenants alike.
    fn cutoffs(&self, now: UnixMicros) -> Retention {
        let before = |kept: Option<Duration>| kept.map(|kept| before(now, kept));
        let default = Cutoffs {
            events: before(self.events),
            delivered: before(self.delivered),
            dead: before(self.dead),
            attempts: before(self.attempts),
        };
        Retention { default, tenants: HashMap::new() }
    }
}

fn before(now: UnixMicros, span: Duration) -> UnixMicros {
    UnixMicros(now.0.saturating_sub(i64::try_from(span.as_micros()).unwrap_or(i64::MAX)))
}

/// Purges, round after round.
pub(super) struct Purge {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    settings: RetentionSettings,
    /// The owner of the first shard is the node that purges.
    dispatcher: Dispatcher,
    trust: Arc<ClockTrust>,
    /// The zero of the steady clock.
    began_at: Instant,
    /// The last event of the rounds so far; the next round goes on after it.
    events_through: EventSeq,
    attempts_through: EventSeq,
    /// The start of the last round that began with the first event.
    full_round_at: UnixMicros,
    /// When the audit log was last purged.
    audit_round_at: Option<UnixMicros>,
}

impl Purge {
    pub(super) fn new(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        settings: RetentionSettings,
        dispatcher: Dispatcher,
        trust: Arc<ClockTrust>,
    ) -> Self {
        let full_round_at = clock.now();
        let (events_through, attempts_through) = (EventSeq(0), EventSeq(0));
        Self {
            store,
            clock,
            settings,
            dispatcher,
            trust,
            began_at: Instant::now(),
            events_through,
            attempts_through,
            full_round_at,
            audit_round_at: None,
        }
    }

    pub(super) async fn run(mut self) {
        let mut is_failing = false;
        // Later looks compare the clock with this one. A look that fails is repeated.
        let _ = self.may_delete(self.clock.now()).await;
        loop {
            tokio::time::sleep(self.settings.interval).await;
            let round = self.round().await;
            if let Err(error) = &round
                && !is_failing
            {
                tracing::warn!(%error, "cannot purge what is old; trying again");
            }
            is_failing = round.is_err();
        }
    }

    async fn round(&mut self) -> Result<(), StoreError> {
        let now = self.clock.now();
        // Every node looks, so that a node that takes the purge over knows how its clock ran.
        if !self.may_delete(now).await? || !self.dispatcher.owns(Shard::from_number(0)) {
            return Ok(());
        }
        // The clock may have been set back.
        if (now.0 - self.full_round_at.0).unsigned_abs() >= FULL_ROUND_US {
            self.full_round_at = now;
            (self.events_through, self.attempts_through) = (EventSeq(0), EventSeq(0));
        }
        while self.store.purge_records(now, before(now, ENDED_REPLAYS_KEPT)).await? {
            self.rest().await;
        }
        self.purge_audit(now).await?;
        self.purge_rejected(now).await?;
        self.purge_figures(now).await?;
        let retention = self.settings.cutoffs(now);
        let (mut events, mut attempts) = (0, 0);
        loop {
            let Purged { count, through, is_end } = self.store.purge_events(self.events_through, &retention).await?;
            self.events_through = through;
            events += count;
            if is_end {
                break;
            }
            self.rest().await;
        }
        loop {
            let Purged { count, through, is_end } =
                self.store.purge_attempts(self.attempts_through, &retention).await?;
            self.attempts_through = through;
            attempts += count;
            if is_end {
                break;
            }
            self.rest().await;
        }
        while self.store.release_space().await? {
            self.rest().await;
        }
        if events + attempts > 0 {
            tracing::info!(events, attempts, "purged what was old");
        }
        Ok(())
    }

    /// Rejected messages are kept as long as dead deliveries.
    async fn purge_rejected(&self, now: UnixMicros) -> Result<(), StoreError> {
        let Some(kept) = self.settings.dead else { return Ok(()) };
        while self.store.purge_rejected(before(now, kept)).await? {
            self.rest().await;
        }
        Ok(())
    }

    async fn purge_figures(&self, now: UnixMicros) -> Result<(), StoreError> {
        for step in Step::ALL {
            let Some(kept) = self.settings.figures.of(step) else { continue };
            while self.store.purge_figures(step, before(now, kept)).await? {
                self.rest().await;
            }
        }
        Ok(())
    }

    async fn purge_audit(&mut self, now: UnixMicros) -> Result<(), StoreError> {
        let Some(kept) = self.settings.audit else { return Ok(()) };
        // The clock may have been set back.
        let is_done = |at: UnixMicros| (now.0 - at.0).unsigned_abs() < AUDIT_ROUND_US;
        if self.audit_round_at.is_some_and(is_done) {
            return Ok(());
        }
        while self.store.purge_audit(before(now, kept), now).await? {
            self.rest().await;
        }
        self.audit_round_at = Some(now);
        Ok(())
    }

    /// Whether the clock is trusted.
    async fn may_delete(&self, now: UnixMicros) -> Result<bool, StoreError> {
        let newest = self.store.newest_at().await?;
        let hours = CLOCK_PROBATION.as_secs() / 3_600;
        match self.trust.look(now, self.began_at.elapsed(), newest) {
            Belief::Trusted => Ok(true),
            Belief::Jumped { by } => {
                tracing::warn!(
                    %now, jump_s = by.as_secs(), hours,
                    "the clock is far ahead of when it was last seen: nothing is purged until it has run on for so many \
                     hours, or POST /api/v1/clock/confirm says that it is right"
                );
                Ok(false)
            }
            Belief::StillDoubted => Ok(false),
            Belief::TrustedAgain => {
                tracing::info!(%now, "the clock is believed again: what is old is purged");
                Ok(true)
            }
        }
    }

    async fn rest(&self) {
        tokio::time::sleep(STEP_PAUSE).await;
        let_events_pass(&*self.store, DEFERENCE).await;
    }
}

impl Engine {
    /// Whether purges are suspended because the clock jumped.
    pub fn is_clock_doubted(&self) -> bool {
        self.clock_trust.is_doubted()
    }

    /// An operator confirms that this node's clock is right. Returns whether it was doubted.
    pub async fn confirm_clock(&self, act: impl Into<Act>) -> Result<bool, StoreError> {
        let act = act.into();
        let (target, target_name) = (Some(self.node.uuid.to_string()), Some(self.node.name.clone()));
        let deed = Deed { at: self.now(), tenant: act.tenant, action: "clock.confirm", target, target_name };
        self.store.audited(&act).record(deed).await?;
        Ok(self.clock_trust.confirm())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_for_ever_has_no_cutoff() {
        let day = Duration::from_hours(24);
        let settings = RetentionSettings { events: Some(day), dead: Some(Duration::MAX), ..RetentionSettings::FOREVER };
        let cutoffs = settings.cutoffs(UnixMicros(200_000_000_000)).default;
        assert_eq!(cutoffs.events, Some(UnixMicros(113_600_000_000)));
        assert_eq!((cutoffs.delivered, cutoffs.attempts), (None, None));
        assert!(cutoffs.dead.is_some_and(|cutoff| cutoff < UnixMicros(0)), "longer than there is time: nothing is old");
    }
}
