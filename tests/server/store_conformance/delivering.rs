//! What is owed, and what became of it.

use std::sync::Arc;

use bytes::Bytes;
use postrider::delivery::{DeliveryState, Transition};
use postrider::store::{Disposition, EventSeq, MAX_UNSETTLED_BYTES, Portion, Probe, SettleBatch, Settlement, Store};
use postrider::webhook::{DEFAULT_TENANT, WebhookHealth, WebhookSeq};

use crate::store_conformance::Fixture;
use crate::store_conformance::fixtures::{
    WIDE, accept, at, attempt, dead, delivered, delivery, failed, in_memory, key, new_event, read_due, settle, sized,
    state, unsettled, webhook, webhooks,
};

pub(crate) async fn what_was_in_memory_is_read_back_after_a_restart<F: Fixture>() {
    let mut fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [a, b] = webhooks(&*store).await;
    let mut owed = Vec::new();
    for number in 0..5 {
        let event = in_memory(&format!("e{number}"), &[a, b]);
        let seq = accept(&*store, event).await;
        owed.extend([key(seq, a), key(seq, b)]);
    }
    assert_eq!(unsettled(&*store).await, owed);
    drop(store);
    fixture.restart().await;
    assert_eq!(unsettled(&*fixture.store()).await, owed);
    let read = fixture.store().unsettled(EventSeq(0), 1).await.unwrap();
    assert_eq!(read[0].event.event, in_memory("e0", &[]).event);
}

pub(crate) async fn what_was_settled_is_not_read_back<F: Fixture>() {
    let mut fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [a, b, c] = webhooks(&*store).await;
    let first = accept(&*store, in_memory("e1", &[a, b, c])).await;
    let second = accept(&*store, in_memory("e2", &[a])).await;
    settle(&*store, vec![delivered(key(first, a), 1), dead(key(first, b), 1), delivered(key(second, a), 1)]).await;
    drop(store);
    fixture.restart().await;
    let store = fixture.store();
    assert_eq!(unsettled(&*store).await, [key(first, c)]);
    let end = delivery(&*store, key(first, a)).await;
    assert_eq!((end.state, end.attempts, end.status_code), (DeliveryState::Delivered, 1, Some(200)));
    assert_eq!((end.next_attempt_at, end.updated_at, end.reason), (None, at(300), None));
    let end = delivery(&*store, key(first, b)).await;
    assert_eq!((end.state, end.reason.as_deref()), (DeliveryState::Dead, Some("non-retryable 404")));
}

pub(crate) async fn a_stored_delivery_is_due_at_once_and_in_order<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [a, b] = webhooks(&*store).await;
    let mut seqs = Vec::new();
    for number in 0..5 {
        let event = new_event(&format!("e{number}"), &[(a, Disposition::Stored), (b, Disposition::InMemory)]);
        seqs.push(accept(&*store, event).await);
    }
    assert_eq!(store.next_due(Some(a), at(0)).await.unwrap(), [(a, at(100))]);
    assert!(read_due(&*store, a, at(99), 10).await.deliveries.is_empty());
    let due = read_due(&*store, a, at(100), 3).await.deliveries;
    assert_eq!(due.iter().map(|due| due.event.seq).collect::<Vec<_>>(), seqs[..3]);
    assert!(due.iter().all(|due| due.webhook == a && due.attempts == 0 && due.round_attempts == 0));
    assert_eq!(due[0].event.event, in_memory("e0", &[]).event);
    assert!(read_due(&*store, b, at(100), 10).await.deliveries.is_empty(), "in memory: no row speaks of it");
}

pub(crate) async fn what_is_due_is_read_in_portions_that_fit_into_memory<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [a] = webhooks(&*store).await;
    let mut seqs = Vec::new();
    for (id, body_bytes) in [("e0", 1_000), ("e1", 1_000), ("e2", 5_000), ("e3", 10)] {
        seqs.push(accept(&*store, sized(id, body_bytes, &[(a, Disposition::Stored)])).await);
    }
    let portion = async |max_deliveries, max_bytes, held: &[EventSeq]| {
        let held = held.iter().copied().collect();
        let portion = Portion { max_deliveries, max_bytes, held, ..Portion::default() };
        let due = store.due(a, at(100), portion).await.unwrap();
        (due.deliveries.iter().map(|due| due.event.seq).collect::<Vec<_>>(), due.is_rest_due)
    };
    assert_eq!(portion(9, 2_000, &[]).await, (seqs[..2].to_vec(), true), "two fit");
    assert_eq!(portion(9, 1_999, &[]).await, (seqs[..1].to_vec(), true), "the second would be a byte too much");
    assert_eq!(portion(9, 0, &[]).await, (seqs[..1].to_vec(), true), "one is read however large it is");
    assert_eq!(portion(9, 7_010, &[]).await, (seqs.clone(), false));
    assert_eq!(portion(4, 7_010, &[]).await, (seqs.clone(), false), "a full portion without a rest");
    assert_eq!(portion(3, 7_010, &[]).await, (seqs[..3].to_vec(), true));

    // What the lane holds is still due, and must not keep it from what comes after.
    assert_eq!(portion(9, 5_000, &seqs[..2]).await, (seqs[2..3].to_vec(), true));
    assert_eq!(portion(1, 0, &seqs[..3]).await, (seqs[3..].to_vec(), false));
    assert_eq!(portion(1, 0, &seqs).await, (Vec::new(), false));
}

pub(crate) async fn a_probe_takes_the_newest_or_the_oldest_but_for_those_that_it_avoids<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [a] = webhooks(&*store).await;
    let mut seqs = Vec::new();
    for id in ["e0", "e1", "e2", "e3"] {
        seqs.push(accept(&*store, new_event(id, &[(a, Disposition::Stored)])).await);
    }
    settle(&*store, vec![failed(key(seqs[0], a), 1, at(200)), failed(key(seqs[3], a), 1, at(900))]).await;
    let probe = async |newest_first, share, avoided: &[EventSeq]| {
        let probe = Some(Probe { newest_first, share, avoided: avoided.iter().copied().collect() });
        let portion = Portion { max_deliveries: 1, max_bytes: usize::MAX, probe, ..Portion::default() };
        let due = store.due(a, at(500), portion).await.unwrap();
        (due.deliveries.iter().map(|due| due.event.seq).collect::<Vec<_>>(), due.is_rest_due)
    };
    let begun = store.due(a, at(500), Portion { max_deliveries: 9, max_bytes: usize::MAX, ..Portion::default() }).await;
    let begun: Vec<_> = begun.unwrap().deliveries.iter().map(|due| (due.event.seq, due.begins_at)).collect();
    let accepted_at = at(100);
    assert_eq!(begun, [(seqs[1], accepted_at), (seqs[2], accepted_at), (seqs[0], accepted_at)]);
    let half = u16::MAX / 2 + 1;
    assert_eq!(probe(false, 0, &[]).await, (vec![seqs[1]], true));
    assert_eq!(probe(true, 0, &[]).await, (vec![seqs[0]], true), "due last, of those that are due");
    assert_eq!(probe(true, 0, &seqs[..1]).await, (vec![seqs[2]], true));
    assert_eq!(probe(false, half, &[]).await, (vec![seqs[2]], true), "of three the second");
    assert_eq!(probe(true, half, &[]).await, (vec![seqs[2]], true));
    assert_eq!(probe(false, u16::MAX, &[]).await, (vec![seqs[0]], false));
    assert_eq!(probe(false, 0, &seqs[..2]).await, (vec![seqs[2]], false));
    assert_eq!(probe(true, 0, &seqs).await, (Vec::new(), false));
}

pub(crate) async fn large_events_are_read_back_in_pages_that_fit_into_memory<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [a] = webhooks(&*store).await;
    let mut seqs = Vec::new();
    for number in 0..3 {
        let event = sized(&format!("e{number}"), MAX_UNSETTLED_BYTES / 2, &[(a, Disposition::InMemory)]);
        seqs.push(accept(&*store, event).await);
    }
    let huge = sized("huge", MAX_UNSETTLED_BYTES + 1, &[(a, Disposition::InMemory)]);
    seqs.push(accept(&*store, huge).await);
    let mut pages = Vec::new();
    let mut after = EventSeq(0);
    loop {
        let page = store.unsettled(after, 100).await.unwrap();
        let Some(last) = page.last() else { break };
        after = last.event.seq;
        pages.push(page.iter().map(|unsettled| unsettled.event.seq).collect::<Vec<_>>());
    }
    assert_eq!(pages, [&seqs[..2], &seqs[2..3], &seqs[3..]]);
}

pub(crate) async fn a_failed_attempt_is_due_at_its_time<F: Fixture>() {
    let mut fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [a] = webhooks(&*store).await;
    let first = accept(&*store, in_memory("e1", &[a])).await;
    let second = accept(&*store, in_memory("e2", &[a])).await;
    settle(&*store, vec![failed(key(first, a), 1, at(500)), failed(key(second, a), 1, at(400))]).await;
    drop(store);
    fixture.restart().await;
    let store = fixture.store();
    assert!(unsettled(&*store).await.is_empty());
    assert_eq!(store.next_due(None, at(0)).await.unwrap(), [(a, at(400))]);
    let due = read_due(&*store, a, at(500), 10).await.deliveries;
    assert_eq!(due.iter().map(|due| due.event.seq).collect::<Vec<_>>(), [second, first], "earliest first");
    assert_eq!((due[0].attempts, due[0].round_attempts), (1, 1));
    let waiting = delivery(&*store, key(first, a)).await;
    assert_eq!((waiting.state, waiting.next_attempt_at), (DeliveryState::Pending, Some(at(500))));
    assert_eq!(waiting.reason.as_deref(), Some("http 503"));
}

pub(crate) async fn every_attempt_is_kept<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [a, b] = webhooks(&*store).await;
    let event = new_event("e1", &[(a, Disposition::InMemory), (b, Disposition::Stored)]);
    let seq = accept(&*store, event).await;
    for key in [key(seq, a), key(seq, b)] {
        assert!(store.attempts(key).await.unwrap().is_empty());
        for number in 1..=3 {
            settle(&*store, vec![failed(key, number, at(400))]).await;
        }
        settle(&*store, vec![delivered(key, 4)]).await;
        let attempts = store.attempts(key).await.unwrap();
        let expected: Vec<_> =
            (1..=4).map(|number| attempt(number, Some(if number == 4 { 200 } else { 503 }))).collect();
        assert_eq!(attempts, expected);
        let end = delivery(&*store, key).await;
        assert_eq!((end.state, end.attempts, end.status_code), (DeliveryState::Delivered, 4, Some(200)));
    }
    assert_eq!(store.stats(DEFAULT_TENANT).await.unwrap().attempts, 8);
}

pub(crate) async fn a_long_response_is_kept<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [a, b] = webhooks(&*store).await;
    let seq = accept(&*store, in_memory("e1", &[a, b])).await;
    let long = Bytes::from(vec![b'x'; 16 * 1024]);
    let mut settlements = vec![delivered(key(seq, a), 1), failed(key(seq, b), 1, at(400))];
    for settlement in &mut settlements {
        settlement.attempt.as_mut().unwrap().response = long.clone();
    }
    settle(&*store, settlements).await;
    for webhook in [a, b] {
        assert_eq!(store.attempts(key(seq, webhook)).await.unwrap()[0].response, long);
    }
}

/// Accepts `count` events in memory, one call each.
async fn accept_many(store: &dyn Store, count: usize, webhook: WebhookSeq) -> Vec<EventSeq> {
    let mut seqs = Vec::new();
    for number in 0..count {
        seqs.push(accept(store, in_memory(&format!("many {number}"), &[webhook])).await);
    }
    seqs
}

pub(crate) async fn the_memory_window_ends_with_rows<F: Fixture>() {
    let mut fixture = F::fresh(10).await;
    let store = fixture.store();
    let [a] = webhooks(&*store).await;
    let seqs = accept_many(&*store, 25, a).await;
    let parked: Vec<_> = read_due(&*store, a, at(100), 100).await.deliveries.iter().map(|due| due.event.seq).collect();
    assert_eq!(parked, seqs[..15]);
    let in_memory: Vec<_> = seqs[15..].iter().map(|seq| key(*seq, a)).collect();
    assert_eq!(unsettled(&*store).await, in_memory);
    assert_eq!(store.stats(DEFAULT_TENANT).await.unwrap().pending, 25);
    drop(store);
    fixture.restart().await;
    assert_eq!(unsettled(&*fixture.store()).await, in_memory);
}

pub(crate) async fn a_parked_delivery_is_settled_by_a_caller_who_does_not_know<F: Fixture>() {
    let mut fixture = F::fresh(10).await;
    let store = fixture.store();
    let [a] = webhooks(&*store).await;
    let seqs = accept_many(&*store, 25, a).await;
    // All but one are settled as if they were in memory alone, parked or not.
    let left = 12;
    let settlements = seqs.iter().enumerate().filter(|(at, _)| *at != left);
    settle(&*store, settlements.map(|(_, seq)| delivered(key(*seq, a), 1)).collect()).await;
    let due: Vec<_> = read_due(&*store, a, at(100), 100).await.deliveries.iter().map(|due| due.event.seq).collect();
    assert_eq!(due, [seqs[left]]);
    assert!(unsettled(&*store).await.is_empty());
    assert_eq!(store.attempts(key(seqs[0], a)).await.unwrap(), [attempt(1, Some(200))]);
    let stats = store.stats(DEFAULT_TENANT).await.unwrap();
    assert_eq!((stats.pending, stats.delivered, stats.attempts), (1, 24, 24));

    // The window's counts are still exact: what comes now is parked when, and only when, it must be.
    drop(store);
    fixture.restart().await;
    let store = fixture.store();
    let more: Vec<_> = (0..10).map(|number| in_memory(&format!("late {number}"), &[a])).collect();
    store.accept(more).await.unwrap();
    assert_eq!(unsettled(&*store).await.len(), 10);
    assert_eq!(read_due(&*store, a, at(100), 100).await.deliveries.len(), 1);
}

pub(crate) async fn the_window_is_exact_after_a_restart<F: Fixture>() {
    let mut fixture = F::fresh(4).await;
    let store = fixture.store();
    let [a, b, c, d] = webhooks(&*store).await;
    let mixed = [
        (a, Disposition::InMemory),
        (b, Disposition::Stored),
        (c, Disposition::Skipped("webhook disabled")),
        (d, Disposition::InMemory),
    ];
    let first = accept(&*store, new_event("e1", &mixed)).await;
    let second = accept(&*store, new_event("e2", &mixed)).await;
    settle(&*store, vec![failed(key(first, a), 1, at(900)), delivered(key(second, d), 1)]).await;
    drop(store);
    fixture.restart().await;
    let store = fixture.store();
    assert_eq!(unsettled(&*store).await, [key(first, d), key(second, a)]);

    // Had the count of the first event been too high, it would never leave the window; had it been too
    // low, the restart would miss what is left of it.
    settle(&*store, vec![delivered(key(first, a), 2), delivered(key(first, b), 1), delivered(key(first, d), 1)]).await;
    drop(store);
    fixture.restart().await;
    let store = fixture.store();
    assert_eq!(unsettled(&*store).await, [key(second, a)]);
    let third = accept_many(&*store, 4, a).await;
    assert!(
        read_due(&*store, a, at(100), 9).await.deliveries.iter().any(|due| due.event.seq == second),
        "parked by now"
    );
    assert_eq!(unsettled(&*store).await, third.iter().map(|seq| key(*seq, a)).collect::<Vec<_>>());
}

pub(crate) async fn settling_twice_changes_nothing<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [a, b] = webhooks(&*store).await;
    let seq = accept(&*store, in_memory("e1", &[a, b])).await;
    settle(&*store, vec![delivered(key(seq, a), 1)]).await;
    settle(&*store, vec![delivered(key(seq, a), 1), failed(key(seq, a), 1, at(900)), dead(key(seq, a), 2)]).await;
    assert_eq!(state(&*store, key(seq, a)).await, DeliveryState::Delivered);
    let stats = store.stats(DEFAULT_TENANT).await.unwrap();
    assert_eq!((stats.delivered, stats.dead, stats.pending, stats.attempts), (1, 0, 1, 1));
    assert_eq!(unsettled(&*store).await, [key(seq, b)]);
}

pub(crate) async fn a_settlement_for_nothing_changes_nothing<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [a] = webhooks(&*store).await;
    let seq = accept(&*store, in_memory("e1", &[a])).await;
    settle(&*store, vec![delivered(key(EventSeq(seq.0 + 1), a), 1), delivered(key(EventSeq(-5), a), 1)]).await;
    settle(&*store, Vec::new()).await;
    assert_eq!(store.stats(DEFAULT_TENANT).await.unwrap().delivered, 0);
    let next = accept(&*store, in_memory("e2", &[a])).await;
    assert_eq!(unsettled(&*store).await, [key(seq, a), key(next, a)]);
}

pub(crate) async fn a_webhook_without_stored_deliveries_has_no_next_due<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [a, b, c] = webhooks(&*store).await;
    let event = new_event("e1", &[(a, Disposition::Stored), (b, Disposition::InMemory), (c, Disposition::Stored)]);
    let seq = accept(&*store, event).await;
    settle(&*store, vec![failed(key(seq, c), 1, at(700))]).await;
    assert_eq!(store.next_due(None, at(0)).await.unwrap(), [(a, at(100)), (c, at(700))]);
    assert!(store.next_due(Some(b), at(0)).await.unwrap().is_empty());
    assert_eq!(store.next_due(None, at(100)).await.unwrap(), [(c, at(700))], "strictly later");
    settle(&*store, vec![delivered(key(seq, a), 1)]).await;
    assert_eq!(store.next_due(None, at(0)).await.unwrap(), [(c, at(700))]);
}

pub(crate) async fn stored_pending_deliveries_are_counted_by_webhook<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [a, b, c] = webhooks(&*store).await;
    let all = |disposition| [(a, disposition), (b, Disposition::InMemory)];
    let first = accept(&*store, new_event("e1", &all(Disposition::Stored))).await;
    accept(&*store, new_event("e2", &all(Disposition::Stored))).await;
    let of = |count, since| postrider::store::Waiting { count, since };
    let accepted_at = store.event(DEFAULT_TENANT, "e1").await.unwrap().unwrap().accepted_at;
    let waiting = store.waiting(vec![c, a, b]).await.unwrap();
    assert_eq!(waiting, [of(0, None), of(2, Some(accepted_at)), of(0, None)], "what memory has is not counted");
    settle(&*store, vec![delivered(key(first, a), 1), failed(key(first, b), 1, at(700))]).await;
    let counts: Vec<_> = store.waiting(vec![a, b]).await.unwrap().iter().map(|waiting| waiting.count).collect();
    assert_eq!(counts, [1, 1]);
    assert!(store.waiting(Vec::new()).await.unwrap().is_empty());
}

pub(crate) async fn the_health_of_a_webhook_is_settled_too<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let a = webhook(&*store, "a").await;
    let health = WebhookHealth {
        consecutive_failures: 5,
        last_success_at: Some(at(10)),
        last_failure_at: Some(at(20)),
        last_error: Some("http 503".to_owned()),
        auto_disabled_at: Some(at(21)),
        probe_at: Some(at(330)),
        cool_down: std::time::Duration::from_mins(1),
    };
    let seq = accept(&*store, in_memory("e1", &[a])).await;
    // A deleted webhook's delivery is settled without an attempt.
    let discarded = Settlement {
        key: key(seq, a),
        attempt: None,
        round_attempts: 0,
        transition: Transition::discarded("webhook deleted"),
        at: at(22),
    };
    store
        .settle(Arc::new(SettleBatch {
            settlements: vec![discarded],
            health: vec![(a, health.clone())],
            is_urgent: true,
            fence: None,
        }))
        .await
        .unwrap();
    let record = &store.webhooks(DEFAULT_TENANT).await.unwrap()[0];
    assert_eq!(record.health, health);
    assert_eq!(record.version, 1);
    let end = delivery(&*store, key(seq, a)).await;
    assert_eq!((end.state, end.attempts, end.updated_at), (DeliveryState::Discarded, 0, at(22)));
    assert_eq!(store.stats(DEFAULT_TENANT).await.unwrap().attempts, 0);
}

pub(crate) async fn what_is_due_in_order_ends_before_what_must_wait<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [a, b] = webhooks(&*store).await;
    let mut seqs = Vec::new();
    for n in 0..6 {
        let owed = [(a, Disposition::Stored), (b, Disposition::Stored)];
        seqs.push(accept(&*store, new_event(&format!("e{n}"), &owed)).await);
    }
    let read = async |now, max_deliveries, held: &[usize]| {
        let held = held.iter().map(|n| seqs[*n]).collect();
        let portion = Portion { max_deliveries, max_bytes: usize::MAX, held, in_order: true, ..Portion::default() };
        let due = store.due(a, now, portion).await.unwrap();
        let place = |seq| seqs.iter().position(|other| *other == seq).unwrap();
        let events: Vec<_> = due.deliveries.iter().map(|delivery| place(delivery.event.seq)).collect();
        (events, due.awaited.map(|(seq, at)| (place(seq), at)), due.is_rest_due)
    };
    assert_eq!(read(at(200), 10, &[]).await, (vec![0, 1, 2, 3, 4, 5], None, false));
    // What there is no room for is the next in order.
    assert_eq!(read(at(200), 2, &[0]).await, (vec![1, 2], Some((3, at(200))), true));
    // One that failed holds up those after it, though they are due, and not those before it.
    settle(&*store, vec![failed(key(seqs[2], a), 1, at(500))]).await;
    assert_eq!(read(at(200), 10, &[]).await, (vec![0, 1], Some((2, at(500))), false));
    assert_eq!(read(at(500), 10, &[0, 1]).await, (vec![2, 3, 4, 5], None, false));
    settle(&*store, vec![dead(key(seqs[2], a), 2)]).await;
    assert_eq!(read(at(200), 10, &[]).await, (vec![0, 1, 3, 4, 5], None, false));
    // Another webhook has its own order.
    assert_eq!(read_due(&*store, b, at(200), 10).await.deliveries.len(), 6);
}
