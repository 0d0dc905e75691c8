//! What is purged, and what stays.

use std::collections::HashMap;

use postrider::clock::UnixMicros;
use postrider::delivery::DeliveryState;
use postrider::store::replay::{NewReplay, ReplayAction, ReplayFilter, ReplayState, Selection};
use postrider::store::retention::{Cutoffs, Purged, Retention};
use postrider::store::{
    AcceptedOnce, DeliveryFilter, Disposition, EventFilter, EventSeq, Idempotency, NewEvent, Store,
};
use postrider::webhook::{DEFAULT_TENANT, TenantSeq};

use crate::store_conformance::Fixture;
use crate::store_conformance::fixtures::{
    WIDE, accept, at, dead, delivered, event, failed, in_memory, key, new_event, page, read_due, settle, sized, state,
    unsettled, webhooks,
};

fn kept_since(events: i64, delivered: i64, dead: i64) -> Retention {
    let default =
        Cutoffs { events: Some(at(events)), delivered: Some(at(delivered)), dead: Some(at(dead)), attempts: None };
    Retention { default, tenants: HashMap::new() }
}

async fn purge(store: &dyn Store, retention: &Retention) -> u64 {
    let mut count = 0;
    let mut after = EventSeq(0);
    loop {
        let purged: Purged = store.purge_events(after, retention).await.unwrap();
        count += purged.count;
        if purged.is_end {
            return count;
        }
        assert!(purged.through > after, "a step gets on");
        after = purged.through;
    }
}

async fn ids(store: &dyn Store) -> Vec<String> {
    let events = store.events(DEFAULT_TENANT, &EventFilter::default(), page(500)).await.unwrap().items;
    events.iter().rev().map(|event| event.event.id().to_owned()).collect()
}

pub(crate) async fn an_event_goes_when_all_of_it_is_old<F: Fixture>() {
    let mut fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [a, b] = webhooks(&*store).await;
    // All accepted at 100 s, ended at 300 s.
    accept(&*store, new_event("unwanted", &[])).await;
    let skipped = Disposition::Skipped("webhook disabled");
    accept(&*store, new_event("skipped", &[(a, skipped)])).await;
    for id in ["delivered", "half", "retrying", "dead", "memory"] {
        let seq = accept(&*store, in_memory(id, &[a, b])).await;
        let (to_a, to_b) = (key(seq, a), key(seq, b));
        settle(
            &*store,
            match id {
                "delivered" => vec![delivered(to_a, 1), delivered(to_b, 1)],
                "half" => vec![delivered(to_a, 1)],
                "retrying" => vec![delivered(to_a, 1), failed(to_b, 1, at(900))],
                "dead" => vec![delivered(to_a, 1), dead(to_b, 1)],
                _ => Vec::new(),
            },
        )
        .await;
    }
    let before = store.stats(DEFAULT_TENANT).await.unwrap();
    assert_eq!(purge(&*store, &kept_since(100, 1_000, 1_000)).await, 0, "accepted at the cutoff, not before");
    assert_eq!(purge(&*store, &kept_since(101, 300, 1_000)).await, 2, "what was delivered is too young");
    assert_eq!(ids(&*store).await, ["delivered", "half", "retrying", "dead", "memory"]);
    assert_eq!(purge(&*store, &kept_since(101, 301, 300)).await, 1);
    assert_eq!(ids(&*store).await, ["half", "retrying", "dead", "memory"]);
    assert_eq!(purge(&*store, &kept_since(101, 301, 301)).await, 1);
    assert_eq!(purge(&*store, &kept_since(9_999, 9_999, 9_999)).await, 0, "what is not finished stays for ever");
    assert_eq!(ids(&*store).await, ["half", "retrying", "memory"]);

    assert_eq!(store.stats(DEFAULT_TENANT).await.unwrap(), before, "figures are since the installation");
    let left = unsettled(&*store).await;
    assert_eq!(left.len(), 3);
    drop(store);
    fixture.restart().await;
    let store = fixture.store();
    assert_eq!(unsettled(&*store).await, left, "holes owe nothing");
    assert_eq!(read_due(&*store, b, at(900), 10).await.deliveries.len(), 1);
    let listed = store.deliveries(DEFAULT_TENANT, &DeliveryFilter::default(), page(50)).await.unwrap();
    assert_eq!(listed.items.len(), 6);
    // New events get new numbers, and an id that is gone is new again.
    let next = accept(&*store, new_event("delivered", &[])).await;
    assert!(left.iter().all(|key| key.event < next));
}

pub(crate) async fn a_purged_event_takes_everything_with_it<F: Fixture>() {
    let mut fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [a] = webhooks(&*store).await;
    let seq = accept(&*store, in_memory("e1", &[a])).await;
    settle(&*store, vec![failed(key(seq, a), 1, at(400))]).await;
    settle(&*store, vec![dead(key(seq, a), 2)]).await;
    assert_eq!(purge(&*store, &kept_since(1_000, 1_000, 1_000)).await, 1);
    assert!(store.event(DEFAULT_TENANT, "e1").await.unwrap().is_none());
    assert!(store.delivery(DEFAULT_TENANT, key(seq, a)).await.unwrap().is_none());
    assert!(store.attempts(key(seq, a)).await.unwrap().is_empty());
    let dead_ones = DeliveryFilter { state: Some(DeliveryState::Dead), ..DeliveryFilter::default() };
    assert!(store.deliveries(DEFAULT_TENANT, &dead_ones, page(10)).await.unwrap().items.is_empty());
    // A settlement that comes late is for nothing.
    settle(&*store, vec![delivered(key(seq, a), 3)]).await;
    assert!(store.delivery(DEFAULT_TENANT, key(seq, a)).await.unwrap().is_none());
    drop(store);
    fixture.restart().await;
    assert!(unsettled(&*fixture.store()).await.is_empty());
}

pub(crate) async fn a_delivery_made_pending_again_keeps_its_event<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [a] = webhooks(&*store).await;
    let seq = accept(&*store, in_memory("e1", &[a])).await;
    settle(&*store, vec![dead(key(seq, a), 1)]).await;
    store.retry_delivery(DEFAULT_TENANT, key(seq, a), at(500)).await.unwrap();
    assert_eq!(purge(&*store, &kept_since(9_999, 9_999, 9_999)).await, 0);
    assert_eq!(state(&*store, key(seq, a)).await, DeliveryState::Pending);
}

pub(crate) async fn many_events_are_purged_in_steps<F: Fixture>() {
    let fixture = F::fresh(10_000).await;
    let store = fixture.store();
    let [a] = webhooks(&*store).await;
    for batch in 0..4 {
        let events = (0..400).map(|number| in_memory(&format!("{batch}-{number}"), &[a])).collect();
        store.accept(events).await.unwrap();
    }
    let kept = sized("kept", 10, &[(a, Disposition::InMemory)]);
    let kept = accept(&*store, kept).await;
    settle(&*store, (1..kept.0).map(|seq| delivered(key(EventSeq(seq), a), 1)).collect()).await;
    let first = store.purge_events(EventSeq(0), &kept_since(1_000, 1_000, 1_000)).await.unwrap();
    assert!(!first.is_end && first.count < 1_600, "one step does not do all: {first:?}");
    assert_eq!(first.count + purge(&*store, &kept_since(1_000, 1_000, 1_000)).await, 1_600);
    assert_eq!(ids(&*store).await, ["kept"]);
}

pub(crate) async fn old_attempts_go_and_their_deliveries_stay<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [a] = webhooks(&*store).await;
    let seq = accept(&*store, in_memory("e1", &[a])).await;
    // Started at 201, 202 and 203 s.
    for number in 1..=3 {
        settle(&*store, vec![failed(key(seq, a), number, at(900))]).await;
    }
    let since = |seconds| {
        let none = Cutoffs { events: None, delivered: None, dead: None, attempts: None };
        Retention { default: Cutoffs { attempts: Some(at(seconds)), ..none }, tenants: HashMap::new() }
    };
    let purged = store.purge_attempts(EventSeq(0), &since(203)).await.unwrap();
    assert_eq!((purged.count, purged.is_end), (2, true));
    let left: Vec<u32> = store.attempts(key(seq, a)).await.unwrap().iter().map(|attempt| attempt.number).collect();
    assert_eq!(left, [3]);
    assert_eq!(store.purge_attempts(EventSeq(0), &since(203)).await.unwrap().count, 0);
    let shown = store.delivery(DEFAULT_TENANT, key(seq, a)).await.unwrap().unwrap();
    assert_eq!((shown.attempts, shown.status_code), (3, Some(503)), "the delivery knows how many there were");
    settle(&*store, vec![delivered(key(seq, a), 4)]).await;
    assert_eq!(store.attempts(key(seq, a)).await.unwrap().len(), 2);
}

pub(crate) async fn a_tenant_can_have_its_own_cutoffs<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let other = TenantSeq(2);
    accept(&*store, new_event("mine", &[])).await;
    let theirs = NewEvent { tenant: other, event: event("theirs", "a.b"), accepted_at: at(100), owed: Vec::new() };
    accept(&*store, theirs).await;
    let mut retention = kept_since(50, 50, 50);
    retention.tenants.insert(other, kept_since(1_000, 1_000, 1_000).default);
    assert_eq!(purge(&*store, &retention).await, 1);
    assert_eq!(ids(&*store).await, ["mine"]);
    assert!(store.event(other, "theirs").await.unwrap().is_none());
}

pub(crate) async fn records_that_are_over_are_purged<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let once = |key: &str, expires_at: UnixMicros| Idempotency {
        key: key.to_owned(),
        body_hash: [1; 32],
        now: at(1),
        expires_at,
    };
    for number in 0..60 {
        store.accept_once(DEFAULT_TENANT, Vec::new(), once(&number.to_string(), at(100))).await.unwrap();
    }
    store.accept_once(DEFAULT_TENANT, Vec::new(), once("young", at(200))).await.unwrap();
    let job = NewReplay {
        webhook: None,
        selection: Selection { states: vec![DeliveryState::Dead], ..Selection::default() },
        action: ReplayAction::Replay { include_unmatched: false },
        rate_per_s: 1,
    };
    let ended = store.create_replay(DEFAULT_TENANT, job.clone(), at(1)).await.unwrap();
    store.end_replay(DEFAULT_TENANT, ended.uuid, ReplayState::Cancelled, "by hand", at(50)).await.unwrap();
    let unfinished = store.create_replay(DEFAULT_TENANT, job, at(1)).await.unwrap();

    assert!(store.purge_records(at(100), at(50)).await.unwrap(), "not all in one step");
    while store.purge_records(at(100), at(50)).await.unwrap() {}
    // What is known still is answered as before; the others are new.
    let young = store.accept_once(DEFAULT_TENANT, vec![new_event("e", &[])], once("young", at(200))).await.unwrap();
    assert_eq!(young, AcceptedOnce::Before(Vec::new()));
    let old = store.accept_once(DEFAULT_TENANT, vec![new_event("e", &[])], once("3", at(200))).await.unwrap();
    assert!(matches!(old, AcceptedOnce::Now(_)), "{old:?}");
    let jobs = async || store.replays(DEFAULT_TENANT, &ReplayFilter::default(), page(10)).await.unwrap().items;
    assert_eq!(jobs().await.len(), 2, "it ended at the cutoff, not before");
    assert!(!store.purge_records(at(100), at(51)).await.unwrap());
    assert_eq!(jobs().await.iter().map(|job| job.uuid).collect::<Vec<_>>(), [unfinished.uuid]);
}
