//! Pages that end because of what they cost.

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::delivery::Transition;
use crate::event::Event;
use crate::signing::SigningKeys;
use crate::store::seal::MasterKey;
use crate::store::sqlite::{DATABASE_FILE, SqliteOptions, SqliteStore};
use crate::store::{Accepted, Disposition, NewEvent, Owed, SettleBatch, Settlement, Store};
use crate::webhook::{DEFAULT_TENANT, Webhook, WebhookSettings};

const NOW: UnixMicros = UnixMicros(1_790_000_000_000_000);

/// A store with ten events, oldest first, of 1,000 bytes each; every third has a `needle` in it. Each is owed to
/// two webhooks, and every delivery to the first of them is dead.
struct Filled {
    folder: tempfile::TempDir,
    store: SqliteStore,
}

impl Filled {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path(), &MasterKey::new([7; 32]), SqliteOptions::default()).unwrap();
        let mut webhooks = Vec::new();
        for name in ["a", "b"] {
            let keys = SigningKeys::generate();
            let settings = WebhookSettings {
                name: name.to_owned(),
                description: String::new(),
                receiver: Webhook::new("https://receiver.example/", keys).unwrap(),
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
        Self { folder, store }
    }

    /// How many items each page has, walked to the end, and all items.
    fn pages<T>(&self, bounds: Bounds, list: impl Fn(&Listing<'_>, &Page) -> PageOf<T>) -> (Vec<usize>, Vec<T>) {
        let connection = Connection::open(self.folder.path().join(DATABASE_FILE)).unwrap();
        let (ids, id_hash) = (&self.store.delivery_ids, &self.store.id_hash);
        let listing = Listing { connection: &connection, ids, id_hash, tenant: DEFAULT_TENANT, bounds };
        let (mut sizes, mut items) = (Vec::new(), Vec::new());
        let mut page = Page { limit: 100, cursor: None };
        loop {
            let PageOf { items: some, next_cursor } = list(&listing, &page);
            sizes.push(some.len());
            items.extend(some);
            assert!(sizes.len() < 100, "no progress: {sizes:?}");
            if next_cursor.is_none() {
                return (sizes, items);
            }
            page.cursor = next_cursor;
        }
    }

    fn events(&self, bounds: Bounds, q: Option<&str>) -> (Vec<usize>, Vec<String>) {
        let filter = EventFilter { q: q.map(str::to_owned), ..EventFilter::default() };
        let (sizes, events) = self.pages(bounds, |listing, page| listing.events(&filter, page).unwrap());
        (sizes, events.iter().map(|event| event.event.id().to_owned()).collect())
    }

    fn deliveries(&self, bounds: Bounds, state: Option<DeliveryState>) -> (Vec<usize>, Vec<DeliveryKey>) {
        let filter = DeliveryFilter { state, ..DeliveryFilter::default() };
        let (sizes, found) = self.pages(bounds, |listing, page| listing.deliveries(&filter, page).unwrap());
        (sizes, found.iter().map(|delivery| delivery.key).collect())
    }
}

#[tokio::test]
async fn a_page_of_events_keeps_few_bytes() {
    let filled = Filled::new().await;
    let bounds = |kept_bytes| Bounds { kept_bytes, ..Bounds::OF_A_PAGE };
    let all = ["9", "8", "7", "6", "5", "4", "3", "2", "1", "0"];
    for (kept_bytes, sizes) in
        [(4_000, vec![4, 4, 2]), (4_999, vec![4, 4, 2]), (5_000, vec![5, 5]), (10_000, vec![10]), (1, vec![1; 10])]
    {
        let found = filled.events(bounds(kept_bytes), None);
        assert_eq!(found, (sizes, all.map(str::to_owned).to_vec()), "{kept_bytes} bytes");
    }
    assert_eq!(filled.events(bounds(2_000), Some("needle")).0, [2, 2], "what is not kept does not count");
}

#[tokio::test]
async fn a_search_looks_at_few_bytes_for_a_page() {
    let filled = Filled::new().await;
    let bounds = |searched_bytes| Bounds { searched_bytes, ..Bounds::OF_A_PAGE };
    // Newest first: 9 and 8; 7 and 6; and so on. After the last body there is one page more, and it is empty.
    let (sizes, found) = filled.events(bounds(2_000), Some("needle"));
    assert_eq!((sizes, found), (vec![1, 1, 0, 1, 1, 0], ["9", "6", "3", "0"].map(str::to_owned).to_vec()));
    assert_eq!(filled.events(bounds(3_001), Some("nowhere")).0, [0, 0, 0], "pages without items lead on");
    assert_eq!(filled.events(bounds(2_000), None).0, [10], "nothing is searched without a text");
}

#[tokio::test]
async fn a_page_looks_at_few_rows_and_loses_none() {
    let filled = Filled::new().await;
    let whole = Bounds::OF_A_PAGE;
    let (events, needles) = (filled.events(whole, None), filled.events(whole, Some("needle")));
    let (all, dead) = (filled.deliveries(whole, None), filled.deliveries(whole, Some(DeliveryState::Dead)));
    let pending = filled.deliveries(whole, Some(DeliveryState::Pending));
    let lengths = [&events.0, &needles.0, &all.0, &dead.0, &pending.0].map(|sizes| sizes[..].to_vec());
    assert_eq!(lengths, [vec![10], vec![4], vec![20], vec![10], vec![10]], "one page each");

    for rows in 2..30 {
        let bounds = Bounds { rows, ..whole };
        let most = rows as usize;
        let is_bounded = |sizes: &[usize]| sizes.iter().all(|size| *size <= most);
        for (found, expected) in
            [(filled.events(bounds, None), &events), (filled.events(bounds, Some("needle")), &needles)]
        {
            assert!(is_bounded(&found.0) && found.1 == expected.1, "{rows} rows: {found:?}");
        }
        for (state, expected) in
            [(None, &all), (Some(DeliveryState::Dead), &dead), (Some(DeliveryState::Pending), &pending)]
        {
            let found = filled.deliveries(bounds, state);
            assert!(is_bounded(&found.0) && found.1 == expected.1, "{rows} rows, {state:?}: {found:?}");
        }
    }
    assert_eq!(filled.events(Bounds { rows: 4, ..whole }, None).0, [4, 4, 2]);
}
