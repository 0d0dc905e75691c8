//! Accepting events.

use std::collections::BTreeSet;

use postrider::delivery::DeliveryState;
use postrider::event::Hops;
use postrider::store::{
    Accepted, AcceptedOnce, Disposition, EventFilter, EventSeq, Idempotency, NewEvent, Share, StoreError,
};
use postrider::webhook::{DEFAULT_TENANT, TenantSeq};

use crate::store_conformance::Fixture;
use crate::store_conformance::fixtures::{
    WIDE, accept, at, delivery, event, in_memory, key, new_event, page, read_due, unsettled, webhooks,
};

pub(crate) async fn an_accepted_event_is_there_after_a_restart<F: Fixture>() {
    let mut fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [a, b, c] = webhooks(&*store).await;
    let skipped = Disposition::Skipped("webhook disabled");
    let new = new_event("e1", &[(a, Disposition::InMemory), (b, Disposition::Stored), (c, skipped)]);
    let seq = accept(&*store, new.clone()).await;

    drop(store);
    fixture.restart().await;
    let store = fixture.store();
    let stored = store.event(DEFAULT_TENANT, "e1").await.unwrap().unwrap();
    assert_eq!((stored.seq, stored.event, stored.accepted_at), (seq, new.event, at(100)));
    assert_eq!(stored.owed, [a, b, c]);
    assert_eq!(unsettled(&*store).await, [key(seq, a)]);
    assert_eq!(read_due(&*store, b, at(100), 10).await.deliveries.len(), 1);
    let skipped = delivery(&*store, key(seq, c)).await;
    assert_eq!((skipped.state, skipped.reason.as_deref()), (DeliveryState::Skipped, Some("webhook disabled")));
}

pub(crate) async fn the_way_that_an_event_came_is_kept<F: Fixture>() {
    let mut fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [a, b] = webhooks(&*store).await;
    let hops = Hops::from_bytes(&[2, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]).unwrap();
    let mut come = new_event("come", &[(a, Disposition::InMemory), (b, Disposition::Stored)]);
    come.event = come.event.with_hops(Some(hops.clone()));
    let own = new_event("own", &[(a, Disposition::InMemory), (b, Disposition::Stored)]);
    store.accept(vec![own, come]).await.unwrap();

    drop(store);
    fixture.restart().await;
    let store = fixture.store();
    let expected = [None, Some(&hops)];
    for (id, expected) in ["own", "come"].into_iter().zip(expected) {
        let stored = store.event(DEFAULT_TENANT, id).await.unwrap().unwrap();
        assert_eq!(stored.event.hops(), expected, "{id}");
    }
    let due = read_due(&*store, b, at(100), 10).await.deliveries;
    assert_eq!(due.iter().map(|delivery| delivery.event.event.hops()).collect::<Vec<_>>(), expected);
    let unsettled = store.unsettled(EventSeq(0), 10).await.unwrap();
    assert_eq!(unsettled.iter().map(|owed| owed.event.event.hops()).collect::<Vec<_>>(), expected);
}

pub(crate) async fn an_event_that_matched_nothing_is_stored_and_shown<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    accept(&*store, new_event("lonely", &[])).await;
    let listed = store.events(DEFAULT_TENANT, &EventFilter::default(), page(10)).await.unwrap();
    assert_eq!(listed.items.len(), 1);
    assert_eq!(listed.items[0].event.id(), "lonely");
    assert!(listed.items[0].owed.is_empty());
}

pub(crate) async fn an_id_is_accepted_once<F: Fixture>() {
    let mut fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [a, b] = webhooks(&*store).await;
    let seq = accept(&*store, in_memory("e1", &[a, b])).await;
    drop(store);
    fixture.restart().await;
    let store = fixture.store();
    let again = store.accept(vec![in_memory("e1", &[a])]).await.unwrap();
    assert_eq!(again, [Accepted::Duplicate { seq, share: Share { deliveries: 2, skipped: 0 } }]);
    assert_eq!(unsettled(&*store).await, [key(seq, a), key(seq, b)]);
    assert_eq!(store.stats(DEFAULT_TENANT).await.unwrap().events, 1);
}

pub(crate) async fn an_id_is_accepted_once_within_one_call<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [a] = webhooks(&*store).await;
    let answers = store.accept(vec![in_memory("x", &[a]), in_memory("y", &[]), in_memory("x", &[])]).await.unwrap();
    let [Accepted::New { seq: x }, Accepted::New { seq: y }, duplicate] = answers[..] else { panic!("{answers:?}") };
    assert!(x < y);
    assert_eq!(duplicate, Accepted::Duplicate { seq: x, share: Share { deliveries: 1, skipped: 0 } });
}

pub(crate) async fn an_id_is_refused_for_another_event_and_nothing_of_the_call_is_stored<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let other = |id: &str| NewEvent { event: event(id, "another.topic"), ..new_event(id, &[]) };
    accept(&*store, new_event("x", &[])).await;
    let refused = store.accept(vec![other("x")]).await.unwrap_err();
    assert!(matches!(refused, StoreError::IdTaken { index: 0 }), "{refused:?}");
    let refused = store.accept(vec![new_event("y", &[]), new_event("x", &[]), other("x"), other("z")]).await;
    assert!(matches!(refused, Err(StoreError::IdTaken { index: 2 })), "{refused:?}");
    let once = Idempotency { key: "k".to_owned(), body_hash: [7; 32], now: at(1), expires_at: at(100) };
    let batch = vec![new_event("y", &[]), other("x")];
    let refused = store.accept_once(DEFAULT_TENANT, batch, once.clone()).await;
    assert!(matches!(refused, Err(StoreError::IdTaken { index: 1 })), "{refused:?}");
    let listed = store.events(DEFAULT_TENANT, &EventFilter::default(), page(10)).await.unwrap();
    assert_eq!(listed.items.iter().map(|event| event.event.id()).collect::<Vec<_>>(), ["x"]);
    assert_eq!(store.stats(DEFAULT_TENANT).await.unwrap().events, 1);
    let again = store.accept_once(DEFAULT_TENANT, vec![new_event("y", &[])], once).await.unwrap();
    assert!(
        matches!(&again, AcceptedOnce::Now(accepted) if matches!(accepted[..], [Accepted::New { .. }])),
        "{again:?}"
    );
}

pub(crate) async fn of_different_events_with_one_id_at_one_moment_one_is_accepted<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let calls: Vec<_> = (0..40)
        .map(|number| {
            let store = fixture.store();
            let topic = format!("topic.{}", number % 4);
            let new = NewEvent { event: event("same", &topic), ..new_event("same", &[]) };
            tokio::spawn(async move { (topic, store.accept(vec![new]).await.map(|accepted| accepted[0])) })
        })
        .collect();
    let (mut new, mut duplicates, mut refused) = (Vec::new(), Vec::new(), 0);
    for call in calls {
        match call.await.unwrap() {
            (topic, Ok(Accepted::New { .. })) => new.push(topic),
            (topic, Ok(Accepted::Duplicate { .. })) => duplicates.push(topic),
            (_, Err(StoreError::IdTaken { index: 0 })) => refused += 1,
            (_, Err(error)) => panic!("{error}"),
        }
    }
    assert_eq!((new.len(), duplicates.len(), refused), (1, 9, 30));
    assert!(duplicates.iter().all(|topic| *topic == new[0]), "{new:?} {duplicates:?}");
    assert_eq!(store.stats(DEFAULT_TENANT).await.unwrap().events, 1);
}

pub(crate) async fn an_id_is_accepted_once_by_concurrent_callers<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let store = fixture.store();
            tokio::spawn(async move { store.accept(vec![new_event("same", &[])]).await.unwrap()[0] })
        })
        .collect();
    let mut new = 0;
    for call in calls {
        new += usize::from(matches!(call.await.unwrap(), Accepted::New { .. }));
    }
    assert_eq!(new, 1);
    assert_eq!(store.stats(DEFAULT_TENANT).await.unwrap().events, 1);
}

pub(crate) async fn two_tenants_may_use_one_id<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let other = TenantSeq(2);
    let mine = accept(&*store, new_event("e1", &[])).await;
    let theirs = NewEvent { tenant: other, event: event("e1", "b"), accepted_at: at(1), owed: Vec::new() };
    let theirs = accept(&*store, theirs).await;
    assert_ne!(mine, theirs);
    assert_eq!(store.event(other, "e1").await.unwrap().unwrap().seq, theirs);
    assert_eq!(store.stats(other).await.unwrap().events, 1);
    let listed = store.events(DEFAULT_TENANT, &EventFilter::default(), page(10)).await.unwrap();
    assert_eq!(listed.items.iter().map(|event| event.seq).collect::<Vec<_>>(), [mine]);
}

pub(crate) async fn many_callers_get_their_own_numbers<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let calls: Vec<_> = (0..200)
        .map(|number| {
            let store = fixture.store();
            tokio::spawn(async move { accept(&*store, new_event(&format!("e{number}"), &[])).await })
        })
        .collect();
    let mut seqs = BTreeSet::new();
    for (number, call) in calls.into_iter().enumerate() {
        let seq = call.await.unwrap();
        let stored = fixture.store().event(DEFAULT_TENANT, &format!("e{number}")).await.unwrap().unwrap();
        assert_eq!(stored.seq, seq);
        seqs.insert(seq);
    }
    assert_eq!(seqs.len(), 200);
}

const CALLERS: usize = 8;

pub(crate) async fn a_fan_out_to_a_thousand_webhooks_comes_back<F: Fixture>() {
    let mut fixture = F::fresh(WIDE).await;
    let seqs: [_; 1_000] = webhooks_at_once(&fixture).await;
    let seq = accept(&*fixture.store(), in_memory("wide", &seqs)).await;
    fixture.restart().await;
    let read = fixture.store().unsettled(EventSeq(0), 10).await.unwrap();
    assert_eq!((read.len(), read[0].event.seq), (1, seq));
    assert_eq!(read[0].webhooks, seqs);
}

/// By a few callers: webhooks of a tenant are made one after the other, and a call does not wait for a connection for ever.
async fn webhooks_at_once<F: Fixture, const N: usize>(fixture: &F) -> [postrider::webhook::WebhookSeq; N] {
    let places = std::sync::Arc::new(tokio::sync::Semaphore::new(CALLERS));
    let calls: Vec<_> = (0..N)
        .map(|number| {
            let (store, places) = (fixture.store(), std::sync::Arc::clone(&places));
            tokio::spawn(async move {
                let _place = places.acquire().await.unwrap();
                crate::store_conformance::fixtures::webhook(&*store, &number.to_string()).await
            })
        })
        .collect();
    let mut seqs = Vec::new();
    for call in calls {
        seqs.push(call.await.unwrap());
    }
    seqs.sort_unstable();
    seqs.try_into().unwrap()
}

pub(crate) async fn a_closed_store_refuses<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    store.close().await;
    store.close().await;
    assert!(matches!(store.accept(vec![new_event("late", &[])]).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.event(DEFAULT_TENANT, "late").await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.check().await, Err(StoreError::Unavailable(_))));
}
