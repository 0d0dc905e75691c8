//! Pages that end because of what they cost.

#[path = "../../../../tests/server/support/postgres_server.rs"]
#[expect(dead_code, reason = "these tests need less of it than others")]
mod postgres_server;

use std::sync::Arc;

use bytes::Bytes;

use self::postgres_server::Cluster;
use super::*;
use crate::clock::UnixMicros;
use crate::delivery::Transition;
use crate::event::Event;
use crate::signing::SigningKeys;
use crate::store::postgres::{PostgresOptions, PostgresStore};
use crate::store::seal::MasterKey;
use crate::store::{Accepted, Disposition, NewEvent, Owed, SettleBatch, Settlement, Store};
use crate::topic::Topic;
use crate::webhook::{DEFAULT_TENANT, Webhook, WebhookSettings};

const NOW: UnixMicros = UnixMicros(1_790_000_000_000_000);

/// A store with ten events, oldest first, of 1,000 bytes each; every third has a `needle` in it. Each is owed to
/// two webhooks, and every delivery to the first of them is dead.
struct Filled {
    store: PostgresStore,
    _server: Cluster,
}

impl Filled {
    async fn new() -> Self {
        let server = Cluster::start().await;
        server.create_database("hooks", None).await;
        let options = PostgresOptions::new(server.url("hooks").into());
        let store = PostgresStore::open(options, &MasterKey::new([7; 32])).await.unwrap();
        let mut webhooks = Vec::new();
        for name in ["a", "b"] {
            let settings = WebhookSettings {
                name: name.to_owned(),
                description: String::new(),
                receiver: Webhook::new("https://receiver.example/", SigningKeys::generate()).unwrap(),
                topic_patterns: vec![Pattern::parse(">").unwrap()],
                enabled: true,
                max_in_flight: 1,
                retry_schedule: None,
                policy: crate::webhook::Policy::default(),
            };
            let store: &dyn Store = &store;
            webhooks.push(store.create_webhook(DEFAULT_TENANT, settings, NOW).await.unwrap().seq);
        }
        let owed = webhooks.iter().map(|webhook| Owed { webhook: *webhook, disposition: Disposition::InMemory });
        let owed: Vec<_> = owed.collect();
        let events = (0..10).map(|n| {
            let text = if n % 3 == 0 { "needle" } else { "hay" };
            let body = Bytes::from(format!("{text:.<1000}"));
            let event = Event::from_stored(n.to_string().into(), Topic::parse("a.b").unwrap(), "".into(), body);
            NewEvent { tenant: DEFAULT_TENANT, event, accepted_at: NOW, owed: owed.clone() }
        });
        let accepted = store.accept(events.collect()).await.unwrap();
        let dead = accepted.iter().map(|accepted| {
            let Accepted::New { seq } = *accepted else { panic!("not new: {accepted:?}") };
            Settlement {
                key: DeliveryKey { event: seq, webhook: webhooks[0] },
                attempt: None,
                round_attempts: 0,
                transition: Transition::dead("non-retryable 404".to_owned()),
                at: NOW,
            }
        });
        store.settle(Arc::new(SettleBatch { settlements: dead.collect(), ..SettleBatch::default() })).await.unwrap();
        Self { store, _server: server }
    }

    /// How many events each page has, walked to the end, and all of them.
    async fn events(&self, bounds: Bounds, q: Option<&str>) -> (Vec<usize>, Vec<String>) {
        let filter = EventFilter { q: q.map(str::to_owned), ..EventFilter::default() };
        let connection = self.store.shared.connections.snapshot(None).await.unwrap();
        let listing = Listing { bounds, ..self.store.listing(&connection) };
        let (mut sizes, mut ids) = (Vec::new(), Vec::new());
        let mut page = Page { limit: 100, cursor: None };
        loop {
            let some = listing.events(DEFAULT_TENANT, &filter, &page).await.unwrap();
            sizes.push(some.items.len());
            ids.extend(some.items.iter().map(|event| event.event.id().to_owned()));
            assert!(sizes.len() < 100, "no progress: {sizes:?}");
            page.cursor = some.next_cursor;
            if page.cursor.is_none() {
                return (sizes, ids);
            }
        }
    }

    /// As [`Self::events`], of deliveries.
    async fn deliveries(&self, bounds: Bounds, state: Option<DeliveryState>) -> (Vec<usize>, Vec<DeliveryKey>) {
        let filter = DeliveryFilter { state, ..DeliveryFilter::default() };
        let connection = self.store.shared.connections.snapshot(None).await.unwrap();
        let listing = Listing { bounds, ..self.store.listing(&connection) };
        let (mut sizes, mut keys) = (Vec::new(), Vec::new());
        let mut page = Page { limit: 100, cursor: None };
        loop {
            let some = listing.deliveries(DEFAULT_TENANT, &filter, &page).await.unwrap();
            sizes.push(some.items.len());
            keys.extend(some.items.iter().map(|delivery| delivery.key));
            assert!(sizes.len() < 100, "no progress: {sizes:?}");
            page.cursor = some.next_cursor;
            if page.cursor.is_none() {
                return (sizes, keys);
            }
        }
    }
}

/// One test, because a server takes longer to start than all of it.
#[tokio::test]
async fn a_page_costs_no_more_than_its_bounds_and_loses_nothing() {
    let filled = Filled::new().await;
    keeps_few_bytes(&filled).await;
    searches_few_bytes(&filled).await;
    looks_at_few_rows(&filled).await;
}

async fn keeps_few_bytes(filled: &Filled) {
    let bounds = |kept_bytes| Bounds { kept_bytes, ..Bounds::OF_A_PAGE };
    let all = ["9", "8", "7", "6", "5", "4", "3", "2", "1", "0"];
    for (kept_bytes, sizes) in
        [(4_000, vec![4, 4, 2]), (4_999, vec![4, 4, 2]), (5_000, vec![5, 5]), (10_000, vec![10]), (1, vec![1; 10])]
    {
        let found = filled.events(bounds(kept_bytes), None).await;
        assert_eq!(found, (sizes, all.map(str::to_owned).to_vec()), "{kept_bytes} bytes");
    }
    assert_eq!(filled.events(bounds(2_000), Some("needle")).await.0, [2, 2], "what is not kept does not count");
}

async fn searches_few_bytes(filled: &Filled) {
    let bounds = |searched_bytes| Bounds { searched_bytes, ..Bounds::OF_A_PAGE };
    // Newest first: 9 and 8; 7 and 6; and so on. After the last body there is one page more, and it is empty.
    let (sizes, found) = filled.events(bounds(2_000), Some("needle")).await;
    assert_eq!((sizes, found), (vec![1, 1, 0, 1, 1, 0], ["9", "6", "3", "0"].map(str::to_owned).to_vec()));
    assert_eq!(filled.events(bounds(3_001), Some("nowhere")).await.0, [0, 0, 0], "pages without items lead on");
    assert_eq!(filled.events(bounds(2_000), None).await.0, [10], "nothing is searched without a text");
}

async fn looks_at_few_rows(filled: &Filled) {
    let whole = Bounds::OF_A_PAGE;
    let (events, needles) = (filled.events(whole, None).await, filled.events(whole, Some("needle")).await);
    let states = [None, Some(DeliveryState::Dead), Some(DeliveryState::Pending)];
    let mut by_state = Vec::new();
    for state in states {
        by_state.push(filled.deliveries(whole, state).await);
    }
    let lengths: Vec<_> = [&events.0, &needles.0].into_iter().chain(by_state.iter().map(|(sizes, _)| sizes)).collect();
    assert_eq!(lengths, [&[10][..], &[4], &[20], &[10], &[10]], "one page each");

    for rows in 1..25 {
        let bounds = Bounds { rows, ..whole };
        let is_bounded = |sizes: &[usize]| sizes.iter().all(|size| *size <= rows as usize);
        for (q, expected) in [(None, &events), (Some("needle"), &needles)] {
            let found = filled.events(bounds, q).await;
            assert!(is_bounded(&found.0) && found.1 == expected.1, "{rows} rows: {found:?}");
        }
        for (state, expected) in states.iter().zip(&by_state) {
            let found = filled.deliveries(bounds, *state).await;
            assert!(is_bounded(&found.0) && found.1 == expected.1, "{rows} rows, {state:?}: {found:?}");
        }
    }
    assert_eq!(filled.events(Bounds { rows: 4, ..whole }, None).await.0, [4, 4, 2]);
}

#[test]
fn a_pattern_becomes_an_expression_that_takes_other_characters_as_they_are() {
    for (pattern, expression) in [
        ("a.*.b", "^a\\.[^.]+\\.b$"),
        ("a.>", "^a\\..+$"),
        ("*", "^[^.]+$"),
        (">", "^.+$"),
        ("a+(b|c)[d]$", "^a\\+\\(b\\|c\\)\\[d\\]\\$$"),
    ] {
        assert_eq!(regex(&Pattern::parse(pattern).unwrap()), expression);
    }
}
