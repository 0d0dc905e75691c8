//! Group commit: calls of [`accept`] that wait share a transaction, and a few of these are under way at
//! the same time, so that one is prepared while another waits for its commit.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::Shared;
use super::accept::{self, Answer};
use super::error::{is_passing, lacks_partition};
use super::pool::closed;
use super::transaction::{CounterSlot, MAX_TRIES};
use crate::store::failure::Failure;
use crate::store::gather::{self, CommitLog, Place, Room};
use crate::store::{Accepted, NewEvent, StoreError};

/// Accepting transactions under way at the same time.
const TRANSACTIONS: usize = 2;
/// The rough size of an event's rows without its texts.
const ROW_BYTES: usize = 128;
/// The longest time until a publisher learns that the database does not answer.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_millis(4_500);

pub(super) fn too_late() -> StoreError {
    StoreError::Unavailable("the database does not answer".to_owned())
}

/// A handle to the tasks that accept.
pub(super) struct Group {
    shared: Arc<Shared>,
    /// `None` after `close`.
    calls: Mutex<Option<mpsc::UnboundedSender<Call>>>,
    room: Room,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

struct Call {
    events: Vec<NewEvent>,
    answer: oneshot::Sender<Result<Vec<Accepted>, StoreError>>,
    /// Held until the call is answered.
    room: Place,
}

impl Group {
    /// Starts the tasks, which end when this is closed or dropped.
    pub(super) fn start(shared: &Arc<Shared>) -> Self {
        let (calls, waiting) = mpsc::unbounded_channel();
        let waiting = Arc::new(tokio::sync::Mutex::new(waiting));
        let task = || tokio::spawn(run(Arc::clone(shared), Arc::clone(&waiting)));
        Self {
            shared: Arc::clone(shared),
            calls: Mutex::new(Some(calls)),
            room: Room::new(),
            tasks: Mutex::new((0..TRANSACTIONS).map(|_| task()).collect()),
        }
    }

    /// Answers within [`ANSWER_WITHIN`]. After a timeout it is unknown whether the events get stored.
    pub(super) async fn accept(&self, events: Vec<NewEvent>) -> Result<Vec<Accepted>, StoreError> {
        tokio::time::timeout(ANSWER_WITHIN, self.call(events)).await.unwrap_or_else(|_| Err(too_late()))
    }

    async fn call(&self, events: Vec<NewEvent>) -> Result<Vec<Accepted>, StoreError> {
        if events.len() > 1 {
            accept::refuse_taken(&self.shared.connections.get().await?, &self.shared, &events).await?;
        }
        let tenant = events.first().map(|new| new.tenant);
        let room = self.room.enter(tenant, gather::weight(rows(&events), bytes(&events))).await;
        let calls = self.calls.lock().clone().ok_or_else(closed)?;
        let (answer, answered) = oneshot::channel();
        calls.send(Call { events, answer, room }).map_err(|_| closed())?;
        drop(calls);
        answered.await.unwrap_or_else(|_| Err(closed()))
    }

    /// More calls wait than one transaction takes.
    pub(super) fn is_busy(&self) -> bool {
        self.room.is_busy()
    }

    /// Finishes the calls under way. Later calls fail.
    pub(super) async fn close(&self) {
        drop(self.calls.lock().take());
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            // An error is a panic of the task, which was logged.
            let _ = task.await;
        }
    }
}

fn bytes(events: &[NewEvent]) -> usize {
    events.iter().map(|new| new.event.body().len() + new.event.id().len() + new.event.kind().len() + ROW_BYTES).sum()
}

fn rows(events: &[NewEvent]) -> usize {
    events.iter().map(|new| 1 + new.owed.len()).sum()
}

type Waiting = Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<Call>>>;

/// One of the tasks: takes waiting calls, stores their events, answers.
async fn run(shared: Arc<Shared>, waiting: Waiting) {
    let mut log = CommitLog::default();
    loop {
        let Some(calls) = next(&waiting).await else { return };
        let (events, callers) = unzip(calls);
        let stored = store(&shared, &events).await;
        log.note(&stored);
        if stored.is_ok() {
            shared.keep_up().await;
        }
        if !answer(callers, stored) {
            // Events of a caller that has gone are stored, but in no lane.
            shared.window.doubt();
        }
    }
}

/// The next calls, as many as one transaction takes, at least one. `None`: no calls will come any more.
async fn next(waiting: &Waiting) -> Option<Vec<Call>> {
    let mut waiting = waiting.lock().await;
    let first = loop {
        let call = waiting.recv().await?;
        // A caller whose wait has timed out sends the events again.
        if !call.answer.is_closed() {
            break call;
        }
    };
    let (mut all_rows, mut all_bytes) = (rows(&first.events), bytes(&first.events));
    let mut calls = vec![first];
    while gather::has_room(all_rows, all_bytes) {
        let Ok(call) = waiting.try_recv() else { break };
        all_rows += rows(&call.events);
        all_bytes += bytes(&call.events);
        calls.push(call);
    }
    Some(calls)
}

/// A waiting call, and the number of its answers.
struct Caller {
    count: usize,
    answer: oneshot::Sender<Result<Vec<Accepted>, StoreError>>,
    room: Place,
}

fn unzip(calls: Vec<Call>) -> (Vec<NewEvent>, Vec<Caller>) {
    let mut all = Vec::new();
    let callers = calls.into_iter().map(|Call { mut events, answer, room }| {
        let count = events.len();
        all.append(&mut events);
        Caller { count, answer, room }
    });
    let callers = callers.collect();
    (all, callers)
}

/// `false`: something was stored for a caller that has gone.
fn answer(callers: Vec<Caller>, stored: Result<Vec<Answer>, StoreError>) -> bool {
    let mut all_heard = true;
    let mut answers = stored.map(Vec::into_iter);
    for Caller { count, answer, room } in callers {
        let own = answers.as_mut().map(|answers| accept::all(answers.by_ref().take(count)));
        // Of several events some may be stored although the id of one was taken, by another node at the same moment.
        let is_stored = own.as_ref().is_ok_and(|own| own.is_ok() || count > 1);
        let own = own.unwrap_or_else(|error| Err(error.clone()));
        let is_heard = own.is_ok() & answer.send(own).is_ok();
        all_heard &= is_heard || !is_stored;
        drop(room);
    }
    all_heard
}

async fn store(shared: &Arc<Shared>, events: &[NewEvent]) -> Result<Vec<Answer>, StoreError> {
    let events: Vec<&NewEvent> = events.iter().collect();
    let mut tries = 0;
    loop {
        tries += 1;
        let connection = shared.connections.get().await?;
        let slot = CounterSlot::take(shared);
        match accept::store(&connection, shared, slot.number(), &events).await {
            Ok(stored) => {
                shared.gauges.add(stored.used.into_iter());
                shared.window.saw(stored.newest);
                return Ok(stored.answers);
            }
            Err(Failure::Postgres(error)) if is_passing(&error) && tries < MAX_TRIES => {}
            Err(Failure::Postgres(error)) if lacks_partition(&error) && tries < MAX_TRIES => {
                drop((connection, slot));
                shared.mend_partitions().await;
            }
            Err(failure) => {
                // The events may be stored all the same, and no lane holds them then.
                shared.window.doubt();
                return Err(failure.into());
            }
        }
    }
}
