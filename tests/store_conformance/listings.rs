//! Listings: order, pages, filters.

use postrider::delivery::DeliveryState;
use postrider::store::{
    DeliveryFilter, DeliveryKey, Disposition, EventFilter, EventSeq, NewEvent, Page, Store, StoreError,
};
use postrider::topic::Pattern;
use postrider::webhook::DEFAULT_TENANT;
use uuid::Uuid;

use crate::Fixture;
use crate::fixtures::{
    WIDE, accept, at, dead, delivered, event, failed, in_memory, key, new_event, page, settings, settle, webhooks,
};

/// Every page of events, as ids.
async fn event_pages(store: &dyn Store, filter: &EventFilter, limit: u32) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    let mut next = page(limit);
    loop {
        let got = store.events(DEFAULT_TENANT, filter, next).await.unwrap();
        pages.push(got.items.iter().map(|event| event.event.id().to_owned()).collect());
        let Some(cursor) = got.next_cursor else { return pages };
        next = Page { limit, cursor: Some(cursor) };
    }
}

/// Every page of deliveries.
async fn delivery_pages(store: &dyn Store, filter: &DeliveryFilter, limit: u32) -> Vec<Vec<DeliveryKey>> {
    let mut pages = Vec::new();
    let mut next = page(limit);
    loop {
        let got = store.deliveries(DEFAULT_TENANT, filter, next).await.unwrap();
        pages.push(got.items.iter().map(|delivery| delivery.key).collect());
        let Some(cursor) = got.next_cursor else { return pages };
        next = Page { limit, cursor: Some(cursor) };
    }
}

pub(crate) async fn events_are_listed_newest_first_in_pages<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    for id in ["1", "2", "3", "4", "5"] {
        accept(&*store, new_event(id, &[])).await;
    }
    let all = EventFilter::default();
    assert_eq!(event_pages(&*store, &all, 2).await, [vec!["5", "4"], vec!["3", "2"], vec!["1"]]);
    assert_eq!(event_pages(&*store, &all, 5).await, [vec!["5", "4", "3", "2", "1"]], "no page after the last");
}

pub(crate) async fn new_events_do_not_shift_a_page<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    for id in ["1", "2", "3"] {
        accept(&*store, new_event(id, &[])).await;
    }
    let first = store.events(DEFAULT_TENANT, &EventFilter::default(), page(1)).await.unwrap();
    accept(&*store, new_event("4", &[])).await;
    let next = Page { limit: 1, cursor: first.next_cursor };
    let second = store.events(DEFAULT_TENANT, &EventFilter::default(), next).await.unwrap();
    assert_eq!(second.items[0].event.id(), "2");
}

pub(crate) async fn events_are_filtered<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    for (id, topic, second) in [("a", "attacker.one", 10), ("b", "decky.7.state", 20), ("c", "attacker.two", 30)] {
        let new =
            NewEvent { tenant: DEFAULT_TENANT, event: event(id, topic), accepted_at: at(second), owed: Vec::new() };
        accept(&*store, new).await;
    }
    let none = EventFilter::default();
    let topic = |text| Some(Pattern::parse(text).unwrap());
    for (filter, expected) in [
        (EventFilter { topic: topic("attacker.*"), ..none.clone() }, vec!["c", "a"]),
        (EventFilter { topic: topic("decky.7.state"), ..none.clone() }, vec!["b"]),
        (EventFilter { since: Some(at(20)), ..none.clone() }, vec!["c", "b"]),
        (EventFilter { until: Some(at(20)), ..none.clone() }, vec!["a"]),
        (EventFilter { kind: Some("session".to_owned()), ..none.clone() }, vec!["c", "b", "a"]),
        (EventFilter { kind: Some("other".to_owned()), ..none.clone() }, vec![]),
        (EventFilter { q: Some(r#""id":"b""#.to_owned()), ..none.clone() }, vec!["b"]),
        (EventFilter { q: Some("ATTACKER".to_owned()), ..none.clone() }, vec![]),
    ] {
        assert_eq!(event_pages(&*store, &filter, 10).await, [expected], "{filter:?}");
    }
}

pub(crate) async fn deliveries_merge_owed_lists_with_rows<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [a, b, c, d] = webhooks(&*store).await;
    let owed = [
        (a, Disposition::InMemory),
        (b, Disposition::InMemory),
        (c, Disposition::Skipped("webhook disabled")),
        (d, Disposition::Stored),
    ];
    let seq = accept(&*store, new_event("e1", &owed)).await;
    settle(&*store, vec![delivered(key(seq, b), 1)]).await;
    let listed = store.deliveries(DEFAULT_TENANT, &DeliveryFilter::default(), page(10)).await.unwrap();
    let shown: Vec<_> = listed.items.iter().map(|item| (item.key.webhook, item.state, item.attempts)).collect();
    assert_eq!(
        shown,
        [
            (d, DeliveryState::Pending, 0),
            (c, DeliveryState::Skipped, 0),
            (b, DeliveryState::Delivered, 1),
            (a, DeliveryState::Pending, 0),
        ]
    );
    let rowless = &listed.items[3];
    assert_eq!((rowless.webhook_name.as_str(), rowless.event_id.as_str()), ("webhook 0", "e1"));
    assert_eq!((rowless.topic.as_str(), rowless.kind.as_str()), ("attacker.session.started", "session"));
    assert_eq!((rowless.accepted_at, rowless.next_attempt_at), (at(100), Some(at(100))));
    assert_eq!(listed.next_cursor, None);
}

pub(crate) async fn deliveries_are_filtered<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let a = store.create_webhook(DEFAULT_TENANT, settings("a"), at(1)).await.unwrap();
    let b = store.create_webhook(DEFAULT_TENANT, settings("b"), at(1)).await.unwrap();
    let mut seqs = Vec::new();
    for (id, topic, second) in [("e1", "attacker.one", 10), ("e2", "decky.7.state", 20), ("e3", "attacker.two", 30)] {
        let mut new = in_memory(id, &[a.seq, b.seq]);
        new.event = event(id, topic);
        new.accepted_at = at(second);
        seqs.push(accept(&*store, new).await);
    }
    let a_of = |index: usize| key(seqs[index], a.seq);
    let b_of = |index: usize| key(seqs[index], b.seq);
    settle(&*store, vec![delivered(a_of(0), 1), dead(a_of(1), 1), failed(a_of(2), 1, at(900)), dead(b_of(0), 1)]).await;

    let none = DeliveryFilter::default();
    let in_state = |state| DeliveryFilter { state: Some(state), ..DeliveryFilter::default() };
    let topic = Some(Pattern::parse("attacker.>").unwrap());
    for (filter, expected) in [
        (in_state(DeliveryState::Delivered), vec![a_of(0)]),
        (in_state(DeliveryState::Dead), vec![a_of(1), b_of(0)]),
        (in_state(DeliveryState::Pending), vec![b_of(2), a_of(2), b_of(1)]),
        (in_state(DeliveryState::Skipped), vec![]),
        (DeliveryFilter { topic: topic.clone(), ..in_state(DeliveryState::Dead) }, vec![b_of(0)]),
        (DeliveryFilter { webhook: Some(a.uuid), ..in_state(DeliveryState::Dead) }, vec![a_of(1)]),
        (DeliveryFilter { webhook: Some(a.uuid), ..none.clone() }, vec![a_of(2), a_of(1), a_of(0)]),
        (DeliveryFilter { webhook: Some(Uuid::nil()), ..none.clone() }, vec![]),
        (DeliveryFilter { event: Some("e2".to_owned()), ..none.clone() }, vec![b_of(1), a_of(1)]),
        (DeliveryFilter { event: Some("e2".to_owned()), ..in_state(DeliveryState::Dead) }, vec![a_of(1)]),
        (DeliveryFilter { event: Some("no such".to_owned()), ..none.clone() }, vec![]),
        (DeliveryFilter { topic, ..none.clone() }, vec![b_of(2), a_of(2), b_of(0), a_of(0)]),
        (DeliveryFilter { since: Some(at(20)), until: Some(at(30)), ..none.clone() }, vec![b_of(1), a_of(1)]),
    ] {
        assert_eq!(delivery_pages(&*store, &filter, 10).await, [expected], "{filter:?}");
    }
}

pub(crate) async fn deliveries_are_paged_within_an_event<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [a, b, c] = webhooks(&*store).await;
    let first = accept(&*store, in_memory("e1", &[a, b, c])).await;
    let second = accept(&*store, in_memory("e2", &[a, b, c])).await;
    let all = DeliveryFilter::default();
    assert_eq!(
        delivery_pages(&*store, &all, 2).await,
        [vec![key(second, c), key(second, b)], vec![key(second, a), key(first, c)], vec![key(first, b), key(first, a)]]
    );
    let of_event = DeliveryFilter { event: Some("e1".to_owned()), ..all };
    assert_eq!(delivery_pages(&*store, &of_event, 2).await, [vec![key(first, c), key(first, b)], vec![key(first, a)]]);
}

pub(crate) async fn dead_ones_are_paged<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [a, b] = webhooks(&*store).await;
    let mut ends = Vec::new();
    for number in 0..3 {
        let seq = accept(&*store, in_memory(&number.to_string(), &[a, b])).await;
        ends.extend([key(seq, a), key(seq, b)]);
    }
    settle(&*store, ends.iter().map(|key| dead(*key, 1)).collect()).await;
    ends.reverse();
    let filter = DeliveryFilter { state: Some(DeliveryState::Dead), ..Default::default() };
    let pages = delivery_pages(&*store, &filter, 4).await;
    assert_eq!(pages, [&ends[..4], &ends[4..]]);
}

pub(crate) async fn a_made_up_cursor_is_refused<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let far = store
        .delivery_ids()
        .encode(DeliveryKey { event: EventSeq(1 << 60), ..key(EventSeq(1), webhooks::<1>(&*store).await[0]) });
    for cursor in ["", "nonsense", "17", &Uuid::new_v4().to_string(), &far.to_string()] {
        let asked = Page { limit: 10, cursor: Some(cursor.to_owned()) };
        let events = store.events(DEFAULT_TENANT, &EventFilter::default(), asked.clone()).await;
        assert!(matches!(events, Err(StoreError::Cursor)), "{cursor}");
        let deliveries = store.deliveries(DEFAULT_TENANT, &DeliveryFilter::default(), asked).await;
        assert!(matches!(deliveries, Err(StoreError::Cursor)), "{cursor}");
    }
}
