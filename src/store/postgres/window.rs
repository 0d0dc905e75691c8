//! The memory window: which entries of the queue may be those that lanes hold since they were accepted.
//!
//! An entry is marked `in_memory` while its lane has held it since then, and is passed over where a lane asks for what is
//! due. The mark goes when so many events were accepted after it, so that what a restart reads back is bounded; and when
//! it may be wrong, because nobody knows whether a transaction was committed.

use std::sync::Weak;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::pool::Connection;
use super::{Shared, counters};
use crate::delivery::id::EventSeq;
use crate::store::StoreError;
use crate::store::failure::Failure;

/// Marks are cleared in steps of the window's length divided by this.
const STEPS_PER_WINDOW: i64 = 64;
/// The most event numbers of one statement, so that it is short even if each event has many deliveries.
const MAX_STEP_EVENTS: i64 = 4_096;
/// The most statements of the window beside one accepting transaction, so that it catches up without delaying events.
const MAX_STEPS: u32 = 16;
/// The time after an error in which a transaction may still get committed: longer than a statement's timeout.
const DOUBT: Duration = Duration::from_secs(35);
/// The interval in which all marks are cleared during a doubt.
const SETTLE_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Window {
    /// Its length, in event numbers.
    length: i64,
    /// No entry up to this event is marked.
    parked_through: AtomicI64,
    /// The newest event that this node knows of.
    newest: AtomicI64,
    doubt: Mutex<Option<Doubt>>,
    /// The way to the task that settles doubts.
    doubts: mpsc::Sender<()>,
}

/// A transaction whose result is unknown.
#[derive(Clone, Copy)]
struct Doubt {
    /// The doubt is about events after this one.
    after: i64,
    until: Instant,
}

impl Window {
    /// `length` is in event numbers. The receiver is for [`settle_doubts`].
    pub(super) async fn read(connection: &Connection, length: u32) -> Result<(Self, mpsc::Receiver<()>), Failure> {
        let row = connection
            .query_one(
                "SELECT last_value, (SELECT event_seq FROM pending ORDER BY event_seq, webhook_seq LIMIT 1)
                 FROM event_number",
                &[],
            )
            .await?;
        let (newest, oldest): (i64, Option<i64>) = (row.try_get(0)?, row.try_get(1)?);
        let (doubts, told) = mpsc::channel(1);
        let window = Self {
            length: i64::from(length),
            parked_through: AtomicI64::new(oldest.map_or(newest, |oldest| oldest.min(newest)) - 1),
            newest: AtomicI64::new(newest),
            doubt: Mutex::new(None),
            doubts,
        };
        Ok((window, told))
    }

    /// Notes that an event was stored.
    pub(super) fn saw(&self, event: EventSeq) {
        self.newest.fetch_max(event.0, Ordering::Relaxed);
    }

    pub(super) fn newest(&self) -> EventSeq {
        EventSeq(self.newest.load(Ordering::Relaxed))
    }

    /// Notes that an accepting transaction has failed, but may get committed all the same.
    pub(super) fn doubt(&self) {
        let mut doubt = self.doubt.lock();
        let after = doubt.map_or_else(|| self.parked_through.load(Ordering::Relaxed), |doubt| doubt.after);
        *doubt = Some(Doubt { after, until: Instant::now() + DOUBT });
        // A full channel has a message already, which is enough.
        let _ = self.doubts.try_send(());
    }

    fn is_in_doubt(&self) -> bool {
        self.doubt.lock().is_some()
    }

    /// Whether enough events have left the window to be worth a statement.
    fn is_too_long(&self) -> bool {
        let behind = self.newest().0 - self.length - self.parked_through.load(Ordering::Relaxed);
        behind >= (self.length / STEPS_PER_WINDOW).max(1)
    }

    /// Clears the marks of events that have left the window. Two tasks may do this at the same time.
    async fn slide(&self, connection: &Connection) -> Result<(), Failure> {
        let end = self.newest().0 - self.length;
        for _ in 0..MAX_STEPS {
            let after = self.parked_through.load(Ordering::Relaxed);
            if after >= end {
                break;
            }
            let through = end.min(after.saturating_add(MAX_STEP_EVENTS));
            park(connection, after, through).await?;
            self.parked_through.fetch_max(through, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Clears the marks of events after `after` up to `through`.
async fn park(connection: &Connection, after: i64, through: i64) -> Result<(), Failure> {
    connection
        .execute(
            "UPDATE pending SET in_memory = false WHERE in_memory AND event_seq > $1 AND event_seq <= $2",
            &[&after, &through],
        )
        .await
        .map(drop)
}

/// Settles doubts until the store is dropped. This is a task of its own, since the accepting tasks may never be idle.
pub(super) async fn settle_doubts(shared: Weak<Shared>, mut doubts: mpsc::Receiver<()>) {
    while doubts.recv().await.is_some() {
        loop {
            let Some(shared) = shared.upgrade() else { return };
            if !shared.window.is_in_doubt() {
                break;
            }
            if let Err(error) = shared.settle_doubt().await {
                debug!(%error, "what may have been accepted cannot be looked for yet");
            }
            drop(shared);
            tokio::time::sleep(SETTLE_EVERY).await;
        }
    }
}

impl Shared {
    /// Makes partitions and moves the window, after events were stored. A later call repeats what fails.
    pub(super) async fn keep_up(&self) {
        if self.partitions.are_wanted(self.window.newest())
            && let Err(error) = self.partitions.make(&self.connections).await
        {
            warn!(%error, "a partition for later events cannot be made yet");
        }
        if self.window.is_too_long()
            && let Err(error) = self.slide_window().await
        {
            warn!(%error, "deliveries cannot leave the memory window yet");
        }
    }

    /// Called after a row found no partition, because an operator has dropped or detached some.
    pub(super) async fn mend_partitions(&self) {
        match self.partitions.make(&self.connections).await {
            Ok(()) => warn!("a partition was missing, and has been made or attached again"),
            Err(error) => warn!(%error, "a missing partition cannot be made again yet"),
        }
    }

    async fn slide_window(&self) -> Result<(), StoreError> {
        let connection = self.connections.get().await?;
        Ok(self.window.slide(&connection).await?)
    }

    /// After an error, events may be committed whose deliveries no lane holds. So all marks are cleared, and the lanes
    /// load the deliveries from the queue; they skip deliveries that they hold. The usage of tenants is counted anew.
    async fn settle_doubt(&self) -> Result<(), StoreError> {
        let Some(doubt) = *self.window.doubt.lock() else { return Ok(()) };
        let is_over = Instant::now() >= doubt.until;
        let connection = self.connections.get().await?;
        park(&connection, doubt.after, i64::MAX).await?;
        self.gauges.set(counters::usage(&connection).await?);
        let mut now = self.window.doubt.lock();
        if is_over && now.is_some_and(|now| now.until == doubt.until) {
            *now = None;
        }
        Ok(())
    }
}
