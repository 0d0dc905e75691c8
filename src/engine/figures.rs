//! Figures over time: what the dispatcher has counted goes to the store, and hours and days are made of minutes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::Engine;
use super::step::{Deference, let_events_pass};
use crate::clock::{Clock, UnixMicros};
use crate::dispatcher::Dispatcher;
use crate::figures::{Figure, Step};
use crate::store::figures::{FigureOf, MAX_FLUSHED_ROWS, ROLL_UP_DELAY, Tallied};
use crate::store::{Shard, Store, StoreError};

/// The interval in which a node writes what it has counted. A crash costs as much of the figures.
pub const FIGURES_FLUSH_INTERVAL: Duration = Duration::from_secs(10);
/// The most webhooks and sums, each in each minute anew, that wait for a store that does not take them. More is left out.
pub(crate) const MAX_UNFLUSHED: usize = 65_536;
/// The longest wait of a shutdown for the last figures.
const LAST_FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// A write waits for a busy writer, for at most a second.
const DEFERENCE: Deference = Deference { pause: Duration::from_millis(20), looks: 50 };
/// The pause between two parts of hours or days.
const STEP_PAUSE: Duration = Duration::from_millis(20);

/// Whether figures are counted, and how often they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FigureSettings {
    pub is_on: bool,
    pub flush_interval: Duration,
}

impl Default for FigureSettings {
    fn default() -> Self {
        Self { is_on: true, flush_interval: FIGURES_FLUSH_INTERVAL }
    }
}

/// The times for which steps are kept, from their beginning; `None`: for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FiguresKept {
    pub minutes: Option<Duration>,
    pub hours: Option<Duration>,
    pub days: Option<Duration>,
}

impl FiguresKept {
    pub const FOREVER: Self = Self { minutes: None, hours: None, days: None };

    pub(super) fn of(self, step: Step) -> Option<Duration> {
        match step {
            Step::Minute => self.minutes,
            Step::Hour => self.hours,
            Step::Day => self.days,
        }
    }
}

/// Takes the counts of a node to the store.
pub(super) struct Bookkeeper {
    store: Arc<dyn Store>,
    dispatcher: Dispatcher,
    clock: Arc<dyn Clock>,
    flush_interval: Duration,
    /// The number of this node in the rows of the store.
    node: i64,
    unflushed: Mutex<Unflushed>,
}

/// What was counted and is not in the store yet.
#[derive(Default)]
struct Unflushed {
    figures: BTreeMap<(UnixMicros, FigureOf), Figure>,
    is_failing: bool,
}

/// The task, and what it has not written yet.
pub(super) struct Bookkeeping {
    keeper: Arc<Bookkeeper>,
    kept: FiguresKept,
    task: JoinHandle<()>,
}

impl Bookkeeping {
    /// Begins to count, and to write what was counted.
    pub(super) fn start(
        store: Arc<dyn Store>,
        dispatcher: Dispatcher,
        clock: Arc<dyn Clock>,
        (settings, kept): (FigureSettings, FiguresKept),
        node: Uuid,
    ) -> Self {
        if settings.is_on {
            dispatcher.tally().turn_on();
        }
        let node = if store.cluster().is_some() { number(node) } else { 0 };
        let (flush_interval, unflushed) = (settings.flush_interval, Mutex::default());
        let keeper = Arc::new(Bookkeeper { store, dispatcher, clock, flush_interval, node, unflushed });
        let task = tokio::spawn(Arc::clone(&keeper).run());
        Self { keeper, kept, task }
    }

    /// Writes what is left.
    pub(super) async fn stop(&self) {
        if !matches!(tokio::time::timeout(LAST_FLUSH_TIMEOUT, self.keeper.flush()).await, Ok(Ok(()))) {
            tracing::warn!("the last seconds of the figures could not be written");
        }
        self.task.abort();
    }
}

impl Engine {
    /// The shortest step, of `step` and longer ones, that is kept for so long that `from` is in it.
    pub fn figure_step(&self, step: Step, from: UnixMicros) -> Step {
        let age = self.now().since(from);
        let is_kept = |step: &Step| self.bookkeeping.kept.of(*step).is_none_or(|kept| age <= kept);
        Step::ALL.into_iter().filter(|longer| *longer >= step).find(is_kept).unwrap_or(Step::Day)
    }
}

/// The number of a node, never 0. It needs no order, and of two nodes it is the same once in 2^63.
fn number(node: Uuid) -> i64 {
    let (high, low) = node.as_u64_pair();
    ((high ^ low) >> 1).max(1).cast_signed()
}

impl Bookkeeper {
    async fn run(self: Arc<Self>) {
        let mut rolled_up_at = None;
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.flush_interval) => {}
                () = self.dispatcher.tally().is_full() => {}
            }
            // What fails is tried again with the next.
            let _ = self.flush().await;
            let minute = Step::Minute.floor(self.clock.now());
            if rolled_up_at != Some(minute) && self.dispatcher.owns(Shard::from_number(0)) {
                rolled_up_at = Some(minute);
                if let Err(error) = self.roll_up().await {
                    tracing::debug!(%error, "hours and days of the figures cannot be made yet");
                }
            }
        }
    }

    /// Writes what was counted, in transactions of a few rows. What cannot be written waits for the next time.
    async fn flush(&self) -> Result<(), StoreError> {
        let mut unflushed = self.unflushed.lock().await;
        let left_out = unflushed.add(self.dispatcher.tally().take());
        if left_out > 0 {
            tracing::warn!(left_out, "the store takes no figures, and more than may wait are left out");
        }
        while !unflushed.figures.is_empty() {
            let some = unflushed.figures.iter().take(MAX_FLUSHED_ROWS);
            let some = some.map(|((at, of), figure)| Tallied { at: *at, of: *of, figure: figure.clone() });
            let some: Arc<[Tallied]> = some.collect();
            let added = self.store.add_figures(self.node, Arc::clone(&some)).await;
            match &added {
                Ok(()) => {
                    for Tallied { at, of, .. } in some.iter() {
                        unflushed.figures.remove(&(*at, *of));
                    }
                }
                Err(error) if !unflushed.is_failing => {
                    tracing::warn!(%error, "cannot write figures; trying again");
                }
                Err(_) => {}
            }
            unflushed.is_failing = added.is_err();
            added?;
            if !unflushed.figures.is_empty() {
                let_events_pass(&*self.store, DEFERENCE).await;
            }
        }
        Ok(())
    }

    /// Makes the hours and days that have ended.
    async fn roll_up(&self) -> Result<(), StoreError> {
        let delay_us = i64::try_from(ROLL_UP_DELAY.as_micros()).unwrap_or(i64::MAX);
        let until = UnixMicros(self.clock.now().0.saturating_sub(delay_us));
        for step in [Step::Hour, Step::Day] {
            while self.store.roll_figures_up(step, until).await? {
                tokio::time::sleep(STEP_PAUSE).await;
                let_events_pass(&*self.store, DEFERENCE).await;
            }
        }
        Ok(())
    }
}

impl Unflushed {
    /// Returns how many had no room.
    fn add(&mut self, tallied: Vec<Tallied>) -> usize {
        let mut left_out = 0;
        for Tallied { at, of, figure } in tallied {
            if self.figures.len() < MAX_UNFLUSHED || self.figures.contains_key(&(at, of)) {
                self.figures.entry((at, of)).or_default().merge(&figure);
            } else {
                left_out += 1;
            }
        }
        left_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::webhook::{TenantSeq, WebhookSeq};

    #[test]
    fn a_node_has_a_number_that_is_not_zero() {
        let numbers = [Uuid::nil(), Uuid::max(), Uuid::new_v4(), Uuid::new_v4()].map(number);
        assert!(numbers.iter().all(|number| *number > 0), "{numbers:?}");
        assert_ne!(numbers[2], numbers[3]);
    }

    #[test]
    fn what_a_store_does_not_take_has_a_bound() {
        let mut unflushed = Unflushed::default();
        let tallied = |webhook: usize| {
            let of = FigureOf { tenant: TenantSeq(1), webhook: WebhookSeq(i64::try_from(webhook).unwrap()) };
            Tallied { at: UnixMicros(0), of, figure: Figure { delivered: 1, ..Figure::default() } }
        };
        assert_eq!(unflushed.add((0..MAX_UNFLUSHED + 7).map(tallied).collect()), 7);
        assert_eq!(unflushed.add(vec![tallied(3), tallied(MAX_UNFLUSHED)]), 1, "what has a place is added there");
        assert_eq!(unflushed.figures.len(), MAX_UNFLUSHED);
        assert_eq!(unflushed.figures[&(UnixMicros(0), tallied(3).of)].delivered, 2);
    }
}
