//! What operators do to deliveries.

use postrider::delivery::{DeliveryState, Transition};
use postrider::event::Event;
use postrider::store::replay::{NewReplay, ReplayAction, ReplayState, Selection};
use postrider::store::{AuditFilter, DeliveryFilter, Disposition, EventFilter, Stats, StoreError, TenantPatch};
use postrider::topic::Topic;
use postrider::webhook::{DEFAULT_TENANT, TenantSeq};

use crate::store_conformance::Fixture;
use crate::store_conformance::fixtures::{
    WIDE, accept, at, dead, delivered, delivery, failed, in_memory, key, new_event, page, read_due, settings, settle,
    state, unsettled, webhooks,
};

pub(crate) async fn a_discarded_delivery_is_not_resurrected_by_a_retry<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [a] = webhooks(&*store).await;
    let seq = accept(&*store, in_memory("e1", &[a])).await;
    settle(&*store, vec![failed(key(seq, a), 1, at(400))]).await;
    let discarded = store.discard_delivery(DEFAULT_TENANT, key(seq, a), "by hand", at(350)).await.unwrap();
    assert_eq!((discarded.state, discarded.reason.as_deref()), (DeliveryState::Discarded, Some("by hand")));
    assert_eq!((discarded.attempts, discarded.next_attempt_at, discarded.updated_at), (1, None, at(350)));

    settle(&*store, vec![failed(key(seq, a), 2, at(900))]).await;
    assert_eq!(state(&*store, key(seq, a)).await, DeliveryState::Discarded);
    assert!(read_due(&*store, a, at(1_000), 10).await.deliveries.is_empty());
    assert_eq!(store.attempts(key(seq, a)).await.unwrap().len(), 1);
}

pub(crate) async fn a_delivery_that_arrived_although_discarded_shows_as_delivered<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [a] = webhooks(&*store).await;
    let seq = accept(&*store, in_memory("e1", &[a])).await;
    store.discard_delivery(DEFAULT_TENANT, key(seq, a), "by hand", at(150)).await.unwrap();
    settle(&*store, vec![delivered(key(seq, a), 1)]).await;
    let end = delivery(&*store, key(seq, a)).await;
    assert_eq!((end.state, end.reason, end.attempts), (DeliveryState::Delivered, None, 1));
    let stats = store.stats(DEFAULT_TENANT).await.unwrap();
    assert_eq!((stats.discarded, stats.delivered, stats.pending), (0, 1, 0));
}

pub(crate) async fn a_dead_delivery_is_retried<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [a] = webhooks(&*store).await;
    let seq = accept(&*store, in_memory("e1", &[a])).await;
    settle(&*store, vec![failed(key(seq, a), 1, at(400))]).await;
    settle(&*store, vec![dead(key(seq, a), 2)]).await;
    let again = store.retry_delivery(DEFAULT_TENANT, key(seq, a), at(500)).await.unwrap();
    assert_eq!((again.state, again.attempts, again.reason), (DeliveryState::Pending, 2, None));
    assert_eq!((again.next_attempt_at, again.updated_at), (Some(at(500)), at(500)));
    let due = read_due(&*store, a, at(500), 10).await.deliveries;
    assert_eq!((due.len(), due[0].attempts, due[0].round_attempts), (1, 2, 0), "a fresh schedule, the count goes on");
    let mut third = delivered(key(seq, a), 3);
    third.round_attempts = 1;
    settle(&*store, vec![third]).await;
    assert_eq!(store.attempts(key(seq, a)).await.unwrap().len(), 3);
    let stats = store.stats(DEFAULT_TENANT).await.unwrap();
    assert_eq!((stats.dead, stats.delivered, stats.attempts), (0, 1, 3));
}

pub(crate) async fn a_skipped_delivery_is_retried<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [a] = webhooks(&*store).await;
    let seq = accept(&*store, new_event("e1", &[(a, Disposition::Skipped("webhook disabled"))])).await;
    store.retry_delivery(DEFAULT_TENANT, key(seq, a), at(500)).await.unwrap();
    assert_eq!(read_due(&*store, a, at(500), 10).await.deliveries.len(), 1);
    settle(&*store, vec![delivered(key(seq, a), 1)]).await;
    let stats = store.stats(DEFAULT_TENANT).await.unwrap();
    assert_eq!((stats.skipped, stats.delivered, stats.pending), (0, 1, 0));
}

pub(crate) async fn a_delivery_in_memory_can_be_discarded<F: Fixture>() {
    let mut fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [a, b] = webhooks(&*store).await;
    let seq = accept(&*store, in_memory("e1", &[a, b])).await;
    store.discard_delivery(DEFAULT_TENANT, key(seq, a), "by hand", at(150)).await.unwrap();
    assert_eq!(unsettled(&*store).await, [key(seq, b)]);
    settle(&*store, vec![delivered(key(seq, b), 1)]).await;
    drop(store);
    fixture.restart().await;
    let store = fixture.store();
    assert!(unsettled(&*store).await.is_empty());
    assert_eq!(state(&*store, key(seq, a)).await, DeliveryState::Discarded);
}

pub(crate) async fn a_delivered_one_is_neither_retried_nor_discarded<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [a, b] = webhooks(&*store).await;
    let skipped = Disposition::Skipped("webhook disabled");
    let seq = accept(&*store, new_event("e1", &[(a, Disposition::InMemory), (b, skipped)])).await;
    settle(&*store, vec![delivered(key(seq, a), 1)]).await;
    let retried = store.retry_delivery(DEFAULT_TENANT, key(seq, a), at(500)).await;
    assert!(matches!(retried, Err(StoreError::Conflict(_))), "{retried:?}");
    for key in [key(seq, a), key(seq, b)] {
        let discarded = store.discard_delivery(DEFAULT_TENANT, key, "by hand", at(500)).await;
        assert!(matches!(discarded, Err(StoreError::Conflict(_))), "{discarded:?}");
    }
}

pub(crate) async fn another_tenant_sees_and_changes_nothing<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [a] = webhooks(&*store).await;
    let seq = accept(&*store, in_memory("e1", &[a])).await;
    let stranger = TenantSeq(2);
    assert!(store.event(stranger, "e1").await.unwrap().is_none());
    assert!(store.delivery(stranger, key(seq, a)).await.unwrap().is_none());
    assert!(store.deliveries(stranger, &DeliveryFilter::default(), page(10)).await.unwrap().items.is_empty());
    let retried = store.retry_delivery(stranger, key(seq, a), at(1)).await;
    assert!(matches!(retried, Err(StoreError::NotFound)));
    let discarded = store.discard_delivery(stranger, key(seq, a), "", at(1)).await;
    assert!(matches!(discarded, Err(StoreError::NotFound)));
    assert_eq!(store.stats(stranger).await.unwrap(), Stats::default());
    assert_eq!(state(&*store, key(seq, a)).await, DeliveryState::Pending);
}

pub(crate) async fn the_deliveries_of_a_deleted_webhook_are_discarded<F: Fixture>() {
    let mut fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let doomed = store.create_webhook(DEFAULT_TENANT, settings("doomed"), at(1)).await.unwrap();
    let a = doomed.seq;
    let stored = [(a, Disposition::Stored)];
    let first = accept(&*store, new_event("e1", &stored)).await;
    let second = accept(&*store, new_event("e2", &stored)).await;
    let third = accept(&*store, in_memory("e3", &[a])).await;
    store.delete_webhook(DEFAULT_TENANT, doomed.uuid, at(200)).await.unwrap();

    // At once in what users see, whether there is a row or not.
    for seq in [first, third] {
        let shown = delivery(&*store, key(seq, a)).await;
        assert_eq!((shown.state, shown.reason.as_deref()), (DeliveryState::Discarded, Some("webhook deleted")));
        assert_eq!((shown.next_attempt_at, shown.updated_at), (None, at(200)));
    }
    let discarded = DeliveryFilter { state: Some(DeliveryState::Discarded), ..Default::default() };
    assert_eq!(store.deliveries(DEFAULT_TENANT, &discarded, page(10)).await.unwrap().items.len(), 3);
    let retried = store.retry_delivery(DEFAULT_TENANT, key(first, a), at(300)).await;
    assert!(matches!(retried, Err(StoreError::Conflict(_))));

    // In the rows bit by bit, and a restart knows what is left to do.
    assert_eq!(store.all_webhooks().await.unwrap().deleted, [a]);
    assert_eq!(store.discard_pending(a, "webhook deleted", 1, at(300)).await.unwrap(), 1);
    drop(store);
    fixture.restart().await;
    let store = fixture.store();
    assert_eq!(store.all_webhooks().await.unwrap().deleted, [a]);
    assert_eq!(store.discard_pending(a, "webhook deleted", 10, at(300)).await.unwrap(), 1);
    assert_eq!(store.discard_pending(a, "webhook deleted", 10, at(300)).await.unwrap(), 0);
    assert!(store.all_webhooks().await.unwrap().deleted.is_empty());
    assert_eq!(unsettled(&*store).await, [key(third, a)], "the caller settles what it holds in memory");
    assert_eq!(delivery(&*store, key(second, a)).await.updated_at, at(300));
    let stats = store.stats(DEFAULT_TENANT).await.unwrap();
    assert_eq!((stats.discarded, stats.pending), (2, 1));
}

pub(crate) async fn the_figures_add_up<F: Fixture>() {
    let mut fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [a, b, c, d] = webhooks(&*store).await;
    let owed = [
        (a, Disposition::InMemory),
        (b, Disposition::InMemory),
        (c, Disposition::Skipped("webhook disabled")),
        (d, Disposition::Stored),
    ];
    let mut seqs = Vec::new();
    for number in 0..4 {
        seqs.push(accept(&*store, new_event(&format!("e{number}"), &owed)).await);
    }
    settle(&*store, seqs.iter().map(|seq| delivered(key(*seq, a), 1)).collect()).await;
    settle(&*store, vec![dead(key(seqs[0], b), 1), failed(key(seqs[1], b), 1, at(900))]).await;
    store.discard_delivery(DEFAULT_TENANT, key(seqs[0], d), "by hand", at(500)).await.unwrap();
    drop(store);
    fixture.restart().await;
    let expected = Stats { events: 4, pending: 6, delivered: 4, dead: 1, skipped: 4, discarded: 1, attempts: 6 };
    assert_eq!(fixture.store().stats(DEFAULT_TENANT).await.unwrap(), expected);
}

/// What others have written may have any character in it, U+0000 too, which not every database takes in a text.
pub(crate) async fn no_character_is_refused<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let strange = "a\0b\u{1}\u{fffd}\u{10ffff}'\"\\";
    let patch = TenantPatch {
        name: Some("strange".to_owned()),
        description: Some(strange.to_owned()),
        ..TenantPatch::default()
    };
    let tenant = store.create_tenant(patch.clone(), at(1)).await.unwrap().seq;
    store.update_tenant(tenant, patch, at(2)).await.unwrap();
    let [a, b] = webhooks(&*store).await;
    let mut new = in_memory("e1", &[a, b]);
    let body = format!(r#"{{"payload":"{strange}"}}"#).into();
    new.event = Event::from_stored("e1".into(), Topic::parse("a.b").unwrap(), strange.into(), body);
    let seq = accept(&*store, new.clone()).await;
    let mut retried = failed(key(seq, a), 1, at(900));
    retried.attempt.as_mut().unwrap().error = Some(strange.to_owned());
    retried.transition = Transition::retry_at(at(900), strange.to_owned());
    settle(&*store, vec![retried]).await;
    store.discard_delivery(DEFAULT_TENANT, key(seq, b), strange, at(400)).await.unwrap();
    assert_eq!(store.event(DEFAULT_TENANT, "e1").await.unwrap().unwrap().event, new.event, "not a bit of it is lost");
    assert_eq!(state(&*store, key(seq, b)).await, DeliveryState::Discarded);

    let by_kind = EventFilter { kind: Some(strange.to_owned()), ..EventFilter::default() };
    let by_text = EventFilter { q: Some(strange.to_owned()), ..EventFilter::default() };
    for filter in [by_kind, by_text] {
        assert_eq!(store.events(DEFAULT_TENANT, &filter, page(10)).await.unwrap().items.len(), 1, "{filter:?}");
    }
    let by_event = DeliveryFilter { event: Some(strange.to_owned()), ..DeliveryFilter::default() };
    assert!(store.deliveries(DEFAULT_TENANT, &by_event, page(10)).await.unwrap().items.is_empty());
    let (action, actor) = (Some(strange.to_owned()), Some(strange.to_owned()));
    let by_words = AuditFilter { action, actor, ..AuditFilter::default() };
    assert!(store.audit(&by_words, page(10)).await.unwrap().items.is_empty());
    let job = NewReplay {
        webhook: None,
        selection: Selection { states: vec![DeliveryState::Pending], ..Selection::default() },
        action: ReplayAction::Discard { reason: strange.to_owned() },
        rate_per_s: 1,
    };
    let job = store.create_replay(DEFAULT_TENANT, job, at(500)).await.unwrap();
    store.end_replay(DEFAULT_TENANT, job.uuid, ReplayState::Cancelled, strange, at(600)).await.unwrap();
}
