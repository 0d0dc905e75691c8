//! Listings: order, pages, filters.

use postrider::delivery::DeliveryState;
use postrider::store::{
    Accepted, DeliveryFilter, DeliveryKey, Disposition, EventFilter, EventSeq, NewEvent, Page, Store, StoreError,
};
use postrider::topic::{Pattern, Topic};
use postrider::webhook::DEFAULT_TENANT;
use uuid::Uuid;

use crate::store_conformance::Fixture;
use crate::store_conformance::fixtures::{
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

pub(crate) async fn a_topic_of_any_characters_is_found_by_its_patterns<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let topics = [
        "a",
        "A",
        "ab",
        "a.b",
        "a.b.c",
        "axb",
        "a+",
        "aa",
        "a?.b",
        "(a|b).c",
        "[ab].c",
        "^a$",
        "a\\d.b",
        "a%.b_",
        "x.{2}",
        "a'b.\"c\"",
        "$1.b",
        "a-b./c",
        "~!@#&=;:,<",
    ];
    for topic in topics {
        let topic_of_it = NewEvent { event: event(topic, topic), ..new_event(topic, &[]) };
        accept(&*store, topic_of_it).await;
    }
    for pattern in
        topics.iter().copied().chain([">", "*", "*.*", "a.*", "a.>", "*.b", "*.b.>", "*.c", "a\\d.*", "(a|b).>"])
    {
        let pattern = Pattern::parse(pattern).unwrap();
        let matching = topics.iter().rev().filter(|topic| pattern.matches(&Topic::parse(topic).unwrap()));
        let matching: Vec<String> = matching.map(|topic| (*topic).to_owned()).collect();
        let filter = EventFilter { topic: Some(pattern), ..EventFilter::default() };
        assert_eq!(event_pages(&*store, &filter, 100).await, [matching], "{filter:?}");
    }
}

/// More rows than are looked at in one go, and few that are wanted.
pub(crate) async fn what_is_rare_is_found_among_many<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [a, b] = webhooks(&*store).await;
    let is_rare = |number: usize| [0, 7, 160, 161, 398].contains(&number);
    let events = (0..400).map(|number| {
        let id = number.to_string();
        let mut new = in_memory(&id, &[a, b]);
        new.event = event(&id, if is_rare(number) { "attacker.rare" } else { "attacker.common" });
        new
    });
    let mut keys = Vec::new();
    for accepted in store.accept(events.collect()).await.unwrap() {
        let Accepted::New { seq } = accepted else { panic!("not new: {accepted:?}") };
        keys.push((key(seq, a), key(seq, b)));
    }
    let ends = keys.iter().enumerate().flat_map(|(number, (to_a, to_b))| match number {
        rare if is_rare(rare) => vec![dead(*to_a, 1), delivered(*to_b, 1)],
        odd if odd % 2 == 1 => vec![delivered(*to_a, 1), dead(*to_b, 1)],
        _ => Vec::new(),
    });
    settle(&*store, ends.collect()).await;

    let rare: Vec<usize> = (0..400).rev().filter(|number| is_rare(*number)).collect();
    let rare_ids: Vec<String> = rare.iter().map(usize::to_string).collect();
    let topic = Some(Pattern::parse("*.rare").unwrap());
    let by_topic = EventFilter { topic: topic.clone(), ..EventFilter::default() };
    let by_text = EventFilter { q: Some("attacker.rare".to_owned()), ..EventFilter::default() };
    for limit in [1, 2, 3, 5, 6, 100] {
        for filter in [&by_topic, &by_text] {
            let pages = event_pages(&*store, filter, limit).await;
            assert!(pages.iter().all(|page| page.len() <= limit as usize));
            assert_eq!(pages.concat(), rare_ids, "{limit} on a page, {filter:?}");
        }
    }
    let mine = store.webhooks(DEFAULT_TENANT).await.unwrap().into_iter().find(|webhook| webhook.seq == a).unwrap();
    let in_state = |state| DeliveryFilter { topic: topic.clone(), state, ..DeliveryFilter::default() };
    let to_a: Vec<_> = rare.iter().map(|number| keys[*number].0).collect();
    let to_b: Vec<_> = rare.iter().map(|number| keys[*number].1).collect();
    let both: Vec<_> = rare.iter().flat_map(|number| [keys[*number].1, keys[*number].0]).collect();
    let of_a = DeliveryFilter { webhook: Some(mine.uuid), ..in_state(None) };
    let pending: Vec<_> = (0..400).rev().filter(|number| !is_rare(*number) && number % 2 == 0).collect();
    let pending: Vec<_> = pending.iter().flat_map(|number| [keys[*number].1, keys[*number].0]).collect();
    let all_pending = DeliveryFilter { state: Some(DeliveryState::Pending), ..DeliveryFilter::default() };
    for limit in [1, 4, 7, 100] {
        for (filter, expected) in [
            (in_state(None), &both),
            (in_state(Some(DeliveryState::Dead)), &to_a),
            (in_state(Some(DeliveryState::Delivered)), &to_b),
            (of_a.clone(), &to_a),
            (all_pending.clone(), &pending),
        ] {
            let pages = delivery_pages(&*store, &filter, limit).await;
            assert!(pages.iter().all(|page| page.len() <= limit as usize));
            assert_eq!(&pages.concat(), expected, "{limit} on a page, {filter:?}");
        }
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
