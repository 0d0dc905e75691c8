//! Ordered webhooks under load: a receiver that now and then answers 503 or 404, publishers that send what is refused
//! again, and the account of the order in which things ended.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::program::Caller;
use crate::support::receiver::{Received, TestReceiver};

/// Events of a request.
const BATCH: usize = 5;
const RETRY_DELAY: Duration = Duration::from_millis(20);
/// Tries of a request before a test gives up.
const MAX_TRIES: usize = 3_000;

/// Of a hundred requests so many are to be sent again, and so many end their deliveries.
const RETRIED: u8 = 10;
const REFUSED: u8 = 2;

pub(crate) struct OrderedReceiver {
    pub(crate) receiver: TestReceiver,
    /// In order of arrival: the id of the event and what was answered.
    answers: Arc<Mutex<Vec<(String, u16)>>>,
}

/// How many events a test publishes: so many, or what `POSTRIDER_ORDERED_EVENTS` says for a longer run.
pub(crate) fn event_count(usual: usize) -> usize {
    #[expect(clippy::disallowed_methods, reason = "a test has no configuration")]
    let wanted = std::env::var("POSTRIDER_ORDERED_EVENTS");
    wanted.map_or(usual, |count| count.parse().expect("a number"))
}

/// The servers, of which a publisher takes any.
pub(crate) type Callers = Arc<dyn Fn() -> Vec<Caller> + Send + Sync>;

/// The webhook and the number of an event.
fn parts(id: &str) -> (&str, usize) {
    let (number, webhook) = id.split_once('.').expect("ids end with their webhook");
    (webhook, number.parse().expect("ids begin with a number"))
}

impl OrderedReceiver {
    pub(crate) async fn start() -> Self {
        let answers = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&answers);
        let answer = move |_, request: &Received| {
            let status = match fastrand::u8(..100) {
                n if n < RETRIED => 503,
                n if n < RETRIED + REFUSED => 404,
                _ => 200,
            };
            log.lock().expect("nobody panics").push((request.event_id(), status));
            status.into()
        };
        Self { receiver: TestReceiver::start(answer).await, answers }
    }

    /// How many events have ended here.
    pub(crate) fn ended(&self) -> usize {
        let answers = self.answers.lock().expect("nobody panics");
        answers
            .iter()
            .filter(|(_, status)| *status != 503)
            .map(|(id, _)| id)
            .collect::<std::collections::HashSet<_>>()
            .len()
    }

    /// Of each webhook's events, those that ended before an earlier one had: `is_end` says which answers count.
    fn overtakers(&self, is_end: impl Fn(u16) -> bool) -> Vec<String> {
        let answers = self.answers.lock().expect("nobody panics");
        let mut first_ends: HashMap<&str, usize> = HashMap::new();
        for (place, (id, status)) in answers.iter().enumerate() {
            if is_end(*status) {
                first_ends.entry(id).or_insert(place);
            }
        }
        let mut ends: Vec<_> = first_ends.into_iter().map(|(id, place)| (parts(id), place, id)).collect();
        ends.sort_unstable();
        let mut latest: HashMap<&str, usize> = HashMap::new();
        let mut early = Vec::new();
        for ((webhook, _), place, id) in ends {
            let latest = latest.entry(webhook).or_default();
            if place < *latest {
                early.push(id.to_owned());
            }
            *latest = place.max(*latest);
        }
        early
    }

    /// Waits until so many have.
    pub(crate) async fn wait_for_ends(&self, count: usize, patience: Duration) {
        let began = Instant::now();
        while self.ended() < count {
            assert!(began.elapsed() < patience, "{} of {count} ended", self.ended());
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }

    /// Nothing succeeded, and nothing ended, before what was published before it.
    pub(crate) fn assert_ordered(&self, events: usize) {
        assert_eq!(self.ended(), events, "everything ends");
        let (successes, ends) = (self.overtakers(|status| status == 200), self.overtakers(|status| status != 503));
        println!("{events} events: {} successes and {} ends out of order", successes.len(), ends.len());
        assert!(successes.is_empty() && ends.is_empty(), "out of order: {successes:?} {ends:?}");
    }
}

/// The settings of the webhooks `w0` and so on, each of which wants its own topic in order.
pub(crate) fn webhooks(url: &str, count: usize) -> Vec<Value> {
    let webhook = |n| {
        json!({
            "name": format!("w{n}"), "url": format!("{url}/w{n}"), "topic_patterns": [format!("load.w{n}")],
            "ordered": true, "retry_schedule": vec![0.1; 40],
        })
    };
    (0..count).map(webhook).collect()
}

/// Publishes so many events to each of the webhooks, one batch after the other.
pub(crate) fn publish(callers: &Callers, webhooks: usize, events: usize) -> Vec<JoinHandle<()>> {
    (0..webhooks).map(|webhook| tokio::spawn(publish_to(Arc::clone(callers), webhook, events))).collect()
}

async fn publish_to(callers: Callers, webhook: usize, events: usize) {
    for first in (0..events).step_by(BATCH) {
        let batch: Value = (first..events.min(first + BATCH))
            .map(|n| json!({"id": format!("{n}.w{webhook}"), "topic": format!("load.w{webhook}"), "payload": {"n": n}}))
            .collect();
        let mut tries = 0;
        while !is_accepted(&callers(), &batch).await {
            tries += 1;
            assert!(tries < MAX_TRIES, "no server accepts {batch}");
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }
}

async fn is_accepted(callers: &[Caller], batch: &Value) -> bool {
    let caller = &callers[fastrand::usize(..callers.len())];
    let call = caller.try_call(Method::POST, "/api/v1/events/batch", batch);
    let Ok(Some(answer)) = tokio::time::timeout(Duration::from_secs(5), call).await else { return false };
    match answer.status().as_u16() {
        202 => true,
        429 | 503 => false,
        _ => panic!("{answer:?}"),
    }
}
