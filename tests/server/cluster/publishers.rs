//! Publishers as there should be: what is refused, or not answered, they send again with the same ids, to another node.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::cluster::nodes::{Directory, WEBHOOKS};
use crate::cluster::{PATIENCE, until};
use crate::support::program::Caller;

const PUBLISHERS: usize = 3;
/// Events of a request.
const BATCH: usize = 5;
/// Between two requests of a publisher: some 500 events/s together, which leaves a small machine time for faults.
const PAUSE: Duration = Duration::from_millis(25);
/// How long a publisher waits for an answer before it asks another node.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// The rest before it does.
const RETRY_DELAY: Duration = Duration::from_millis(20);

/// When each id was answered with 202.
pub(crate) type Accepted = HashMap<String, Instant>;

pub(crate) struct Publishers {
    directory: Directory,
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    accepted: Mutex<Accepted>,
    /// The most nodes that were asked for one request.
    most_tries: AtomicUsize,
    is_over: AtomicBool,
}

/// What came of it. Every id that was sent has been accepted in the end.
pub(crate) struct Published {
    pub accepted: Accepted,
    pub most_tries: usize,
}

/// The webhook that an event is for.
pub(crate) fn webhook_of(id: &str) -> &str {
    id.split_once('.').expect("ids end with their webhook").1
}

fn event(id: &str) -> Value {
    json!({"id": id, "topic": format!("load.{}", webhook_of(id)), "payload": {"a": 1}})
}

impl Publishers {
    pub(crate) fn start(directory: &Directory) -> Self {
        let shared = Arc::new(Shared::default());
        let publish = |publisher| tokio::spawn(publish(directory.clone(), Arc::clone(&shared), publisher));
        let tasks = (0..PUBLISHERS).map(publish).collect();
        Self { directory: directory.clone(), shared, tasks }
    }

    pub(crate) fn accepted(&self) -> Accepted {
        self.shared.accepted.lock().expect("nobody panics").clone()
    }

    /// Sends one more, until a node accepts it.
    pub(crate) async fn send(&self, id: &str) {
        self.send_all(&[id.to_owned()]).await;
    }

    /// The same, of several in one request.
    pub(crate) async fn send_all(&self, ids: &[String]) {
        self.shared.send(&self.directory, ids).await;
    }

    /// Waits until so many more are accepted: the nodes work.
    pub(crate) async fn wait_for_more(&self, count: usize) {
        let before = self.accepted().len();
        until("publishers are answered", PATIENCE, async || self.accepted().len() >= before + count).await;
    }

    pub(crate) async fn stop(self) -> Published {
        self.shared.is_over.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("every request was accepted in the end");
        }
        let accepted = self.shared.accepted.lock().expect("nobody panics").clone();
        Published { accepted, most_tries: self.shared.most_tries.load(Ordering::Relaxed) }
    }
}

async fn publish(directory: Directory, shared: Arc<Shared>, publisher: usize) {
    for batch in 0_usize.. {
        if shared.is_over.load(Ordering::Relaxed) {
            return;
        }
        let id = |n| format!("{publisher}-{batch}-{n}.w{}", fastrand::usize(..WEBHOOKS));
        let ids: Vec<String> = (0..BATCH).map(id).collect();
        shared.send(&directory, &ids).await;
        tokio::time::sleep(PAUSE).await;
    }
}

impl Shared {
    async fn send(&self, directory: &Directory, ids: &[String]) {
        let events = Value::from(ids.iter().map(|id| event(id)).collect::<Vec<_>>());
        let (began, mut place) = (Instant::now(), fastrand::usize(..1024));
        for tries in 1.. {
            let callers = directory.all();
            place += 1;
            if is_accepted(&callers[place % callers.len()], &events).await {
                self.most_tries.fetch_max(tries, Ordering::Relaxed);
                let now = Instant::now();
                self.accepted.lock().expect("nobody panics").extend(ids.iter().map(|id| (id.clone(), now)));
                return;
            }
            assert!(began.elapsed() < PATIENCE, "no node accepts {ids:?}");
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }
}

async fn is_accepted(caller: &Caller, events: &Value) -> bool {
    let call = caller.try_call(Method::POST, "/api/v1/events/batch", events);
    let Ok(Some(answer)) = tokio::time::timeout(ANSWER_WITHIN, call).await else { return false };
    match answer.status().as_u16() {
        202 => true,
        503 | 507 => false,
        _ => panic!("{answer:?}"),
    }
}

/// One event to one node: the status, how long it took, and when to try again, as the answer says.
pub(crate) async fn send_once(caller: &Caller, id: &str) -> (u16, Duration, bool) {
    let began = Instant::now();
    let answer = caller.try_call(Method::POST, "/api/v1/events", &event(id)).await.expect("an answer");
    (answer.status().as_u16(), began.elapsed(), answer.headers().contains_key("retry-after"))
}
