//! Replay jobs, resending, and requests that are sent again.

use std::sync::Arc;

use postrider::delivery::DeliveryState::{self, Dead, Delivered, Discarded, Pending, Skipped};
use postrider::store::replay::{
    MAX_REPLAY_SCAN_ROWS, MAX_UNFINISHED_REPLAYS, NewReplay, ReplayAction, ReplayFilter, ReplayRecord, ReplayState,
    ReplayStep, Selection, Stepped,
};
use postrider::store::{
    AcceptedOnce, DeliveryKey, Disposition, EventSeq, Idempotency, KeptReceipt, Stats, Store, StoreError,
};
use postrider::topic::Pattern;
use postrider::webhook::{DEFAULT_TENANT, TenantSeq, WebhookSeq};

use crate::store_conformance::Fixture;
use crate::store_conformance::fixtures::{
    WIDE, accept, at, dead, delivered, delivery, event, failed, in_memory, key, new_event, page, read_due, settings,
    settle, state, tenant, unsettled, webhook, webhooks,
};

fn job(states: &[DeliveryState]) -> NewReplay {
    NewReplay {
        webhook: None,
        selection: Selection { states: states.to_vec(), ..Selection::default() },
        action: ReplayAction::Replay { include_unmatched: false },
        rate_per_s: 1_000,
    }
}

async fn start(store: &dyn Store, job: NewReplay) -> ReplayRecord {
    store.create_replay(DEFAULT_TENANT, job, at(500)).await.unwrap()
}

fn patterns(texts: &[&str]) -> Arc<[Pattern]> {
    texts.iter().map(|text| Pattern::parse(text).unwrap()).collect()
}

/// One step, at 600 s: all that was scanned is changed, and all that is not owed is added.
async fn step(store: &dyn Store, job: &ReplayRecord, matching: &[&str], max_changes: u32) -> Stepped {
    let scan = store.scan_replay(job, patterns(matching), max_changes).await.unwrap();
    assert!(scan.found.len() + scan.unmatched.len() <= max_changes as usize);
    assert!(scan.is_end || scan.cursor > job.cursor, "a step gets on");
    let webhook = job.webhook.as_ref().map_or(WebhookSeq(0), |webhook| webhook.seq);
    let step = ReplayStep {
        tenant: job.tenant,
        job: job.uuid,
        from: job.cursor,
        change: scan.found,
        add: scan.unmatched.iter().map(|live| key(live.seq, webhook)).collect(),
        cursor: scan.cursor,
        scanned: scan.scanned,
        is_end: scan.is_end,
        now: at(600),
    };
    store.step_replay(step).await.unwrap()
}

/// Steps of at most `max_changes` until the job has ended; all that was changed, in order.
async fn run(store: &dyn Store, mut job: ReplayRecord, matching: &[&str], max_changes: u32) -> Vec<DeliveryKey> {
    let mut changed = Vec::new();
    while !job.state.has_ended() {
        let stepped = step(store, &job, matching, max_changes).await;
        changed.extend(stepped.changed);
        job = stepped.job;
    }
    assert_eq!((job.state, job.changed), (ReplayState::Done, changed.len() as u64));
    changed
}

/// An event in each state to a webhook: delivered, dead, skipped, discarded, pending with a row, pending in memory.
async fn one_of_each(store: &dyn Store, webhook: WebhookSeq) -> [DeliveryKey; 6] {
    let mut keys = Vec::new();
    for number in 0..6 {
        let disposition = if number == 2 { Disposition::Skipped("webhook disabled") } else { Disposition::InMemory };
        let seq = accept(store, new_event(&format!("{}-{number}", webhook.0), &[(webhook, disposition)])).await;
        keys.push(key(seq, webhook));
    }
    let keys: [DeliveryKey; 6] = keys.try_into().unwrap();
    settle(store, vec![delivered(keys[0], 1), dead(keys[1], 1), failed(keys[4], 1, at(900))]).await;
    store.discard_delivery(DEFAULT_TENANT, keys[3], "by hand", at(400)).await.unwrap();
    keys
}

async fn stats(store: &dyn Store) -> Stats {
    store.stats(DEFAULT_TENANT).await.unwrap()
}

pub(crate) async fn a_job_makes_what_it_wants_pending_and_leaves_the_rest<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [a] = webhooks(&*store).await;
    let keys = one_of_each(&*store, a).await;
    let before = stats(&*store).await;
    assert_eq!(run(&*store, start(&*store, job(&[Dead])).await, &[], 10).await, [keys[1]]);
    let again = delivery(&*store, keys[1]).await;
    assert_eq!((again.state, again.attempts, again.next_attempt_at), (Pending, 1, Some(at(600))));
    assert_eq!(stats(&*store).await, Stats { dead: 0, pending: before.pending + 1, ..before });

    let all = job(&[Delivered, Dead, Skipped, Discarded]);
    assert_eq!(run(&*store, start(&*store, all).await, &[], 1).await, [keys[0], keys[2], keys[3]]);
    let due = read_due(&*store, a, at(600), 10).await.deliveries;
    let due: Vec<_> = due.iter().map(|due| (due.event.seq, due.attempts, due.round_attempts)).collect();
    assert_eq!(due, [(keys[0].event, 1, 0), (keys[1].event, 1, 0), (keys[2].event, 0, 0), (keys[3].event, 0, 0)]);
    assert_eq!(unsettled(&*store).await, [keys[5]], "what memory knows alone is left to it");
    let expected = Stats { events: 6, pending: 6, delivered: 0, dead: 0, skipped: 0, discarded: 0, attempts: 3 };
    assert_eq!(stats(&*store).await, expected);

    // A delivered one that is delivered again counts once more, with its attempts.
    settle(&*store, vec![delivered(keys[0], 2)]).await;
    assert_eq!(store.attempts(keys[0]).await.unwrap().len(), 2);
    assert_eq!(stats(&*store).await, Stats { pending: 5, delivered: 1, attempts: 4, ..expected });
}

pub(crate) async fn a_job_is_for_a_webhook_a_topic_and_a_time<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let mine = store.create_webhook(DEFAULT_TENANT, settings("mine"), at(1)).await.unwrap();
    let (a, b) = (mine.seq, webhook(&*store, "other").await);
    let mut keys = Vec::new();
    for number in 0..4 {
        let mut new = in_memory(&number.to_string(), &[a, b]);
        new.accepted_at = at(100 + number);
        new.event = event(&number.to_string(), if number == 1 { "system.up" } else { "attacker.seen" });
        let seq = accept(&*store, new).await;
        settle(&*store, vec![dead(key(seq, a), 1), dead(key(seq, b), 1)]).await;
        keys.push(key(seq, a));
    }
    for states in [vec![Dead], vec![Delivered, Dead]] {
        let mut wanted = job(&states);
        wanted.webhook = Some(mine.uuid);
        wanted.selection.topic = Some(Pattern::parse("attacker.>").unwrap());
        (wanted.selection.since, wanted.selection.until) = (Some(at(101)), Some(at(103)));
        assert_eq!(run(&*store, start(&*store, wanted).await, &[], 10).await, [keys[2]], "{states:?}");
        settle(&*store, vec![dead(keys[2], 2)]).await;
    }
    let other = tenant(&*store, "other").await;
    let stranger = store.create_replay(other, NewReplay { webhook: Some(mine.uuid), ..job(&[Dead]) }, at(1));
    assert!(matches!(stranger.await, Err(StoreError::NotFound)));
    let theirs = store.create_replay(other, job(&[Dead]), at(1)).await.unwrap();
    assert!(run(&*store, theirs, &[], 10).await.is_empty(), "another tenant's job finds nothing");
}

pub(crate) async fn a_job_pauses_within_an_event_and_goes_on_after_a_restart<F: Fixture>() {
    let mut fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let seqs: [WebhookSeq; 5] = webhooks(&*store).await;
    for id in ["e1", "e2"] {
        let event = accept(&*store, in_memory(id, &seqs)).await;
        settle(&*store, seqs.iter().map(|webhook| dead(key(event, *webhook), 1)).collect()).await;
    }
    for states in [vec![Dead], vec![Delivered, Dead]] {
        let store = fixture.store();
        let mut wanted = start(&*store, job(&states)).await;
        let mut changed = Vec::new();
        for _ in 0..2 {
            let stepped = step(&*store, &wanted, &[], 3).await;
            changed.extend(stepped.changed);
            wanted = stepped.job;
        }
        assert_eq!((changed.len(), wanted.state), (6, ReplayState::Running));
        drop(store);
        fixture.restart().await;
        let store = fixture.store();
        let unfinished = store.unfinished_replays().await.unwrap();
        assert_eq!(unfinished, [wanted.clone()], "cursor and figures are kept");
        changed.extend(run_on(&*store, wanted).await);
        let mut distinct = changed.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!((changed.len(), distinct.len()), (10, 10), "each once");
        assert!(store.unfinished_replays().await.unwrap().is_empty());
        settle(&*store, changed.iter().map(|key| dead(*key, 2)).collect()).await;
    }
}

async fn run_on(store: &dyn Store, mut job: ReplayRecord) -> Vec<DeliveryKey> {
    let mut changed = Vec::new();
    while !job.state.has_ended() {
        let stepped = step(store, &job, &[], 3).await;
        changed.extend(stepped.changed);
        job = stepped.job;
    }
    changed
}

pub(crate) async fn what_changed_between_scan_and_step_is_left_alone<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [a] = webhooks(&*store).await;
    let seq = accept(&*store, in_memory("e1", &[a])).await;
    settle(&*store, vec![dead(key(seq, a), 1)]).await;
    let wanted = start(&*store, job(&[Dead])).await;
    let scan = store.scan_replay(&wanted, patterns(&[]), 10).await.unwrap();
    assert_eq!((scan.found.as_slice(), scan.is_end), (&[key(seq, a)][..], true));
    store.discard_delivery(DEFAULT_TENANT, key(seq, a), "by hand", at(550)).await.unwrap();
    let late = ReplayStep {
        tenant: DEFAULT_TENANT,
        job: wanted.uuid,
        from: wanted.cursor,
        change: scan.found,
        add: Vec::new(),
        cursor: scan.cursor,
        scanned: scan.scanned,
        is_end: true,
        now: at(600),
    };
    let stepped = store.step_replay(late.clone()).await.unwrap();
    assert!(stepped.changed.is_empty());
    assert_eq!((stepped.job.state, stepped.job.scanned, stepped.job.changed), (ReplayState::Done, 1, 0));
    assert_eq!(state(&*store, key(seq, a)).await, Discarded);
    // A step does nothing that begins where the job is not, because another has been made.
    let wanted = start(&*store, job(&[Discarded])).await;
    let elsewhere = ReplayStep { job: wanted.uuid, from: key(seq, a), change: vec![key(seq, a)], ..late.clone() };
    let stepped = store.step_replay(elsewhere).await.unwrap();
    assert_eq!((stepped.job.cursor, stepped.job.scanned, stepped.changed.len()), (wanted.cursor, 0, 0));
    assert_eq!(state(&*store, key(seq, a)).await, Discarded);
    // A step of a job that has ended does nothing.
    let wanted = start(&*store, job(&[Discarded])).await;
    store.end_replay(DEFAULT_TENANT, wanted.uuid, ReplayState::Cancelled, "by hand", at(560)).await.unwrap();
    let stepped = store.step_replay(ReplayStep { job: wanted.uuid, ..late }).await.unwrap();
    assert_eq!((stepped.job.state, stepped.changed.len()), (ReplayState::Cancelled, 0));
    assert_eq!(state(&*store, key(seq, a)).await, Discarded);
}

pub(crate) async fn a_job_discards_with_a_reason<F: Fixture>() {
    let mut fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [a] = webhooks(&*store).await;
    let keys = one_of_each(&*store, a).await;
    let action = ReplayAction::Discard { reason: "receiver is gone".to_owned() };
    let wanted = start(&*store, NewReplay { action, ..job(&[Pending, Dead]) }).await;
    assert_eq!(run(&*store, wanted, &[], 2).await, [keys[1], keys[4], keys[5]]);
    for key in [keys[1], keys[4], keys[5]] {
        let end = delivery(&*store, key).await;
        assert_eq!((end.state, end.reason.as_deref()), (Discarded, Some("receiver is gone")));
    }
    drop(store);
    fixture.restart().await;
    let store = fixture.store();
    assert!(unsettled(&*store).await.is_empty());
    let expected = Stats { events: 6, pending: 0, delivered: 1, dead: 0, skipped: 1, discarded: 4, attempts: 3 };
    assert_eq!(stats(&*store).await, expected);
}

pub(crate) async fn a_job_adds_what_was_not_matched<F: Fixture>() {
    let mut fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let old = webhook(&*store, "old").await;
    let first = accept(&*store, in_memory("e1", &[old])).await;
    let second = accept(&*store, new_event("e2", &[])).await;
    let mut system = new_event("e3", &[]);
    system.event = event("e3", "system.up");
    accept(&*store, system).await;
    let new = store.create_webhook(DEFAULT_TENANT, settings("new"), at(200)).await.unwrap();
    let owed = accept(&*store, in_memory("e4", &[new.seq])).await;
    settle(&*store, vec![delivered(key(owed, new.seq), 1)]).await;

    let wanted =
        NewReplay { webhook: Some(new.uuid), action: ReplayAction::Replay { include_unmatched: true }, ..job(&[]) };
    let added = run(&*store, start(&*store, wanted.clone()).await, &["attacker.>"], 1).await;
    assert_eq!(added, [key(first, new.seq), key(second, new.seq)]);
    let stored = store.event(DEFAULT_TENANT, "e1").await.unwrap().unwrap();
    assert_eq!(stored.owed, [old, new.seq]);
    assert_eq!(stored.event, in_memory("e1", &[]).event, "the event is as it was");
    assert_eq!(read_due(&*store, new.seq, at(600), 10).await.deliveries.len(), 2);
    assert_eq!(unsettled(&*store).await, [key(first, old)], "the window counts what it did");
    assert!(run(&*store, start(&*store, wanted).await, &["attacker.>"], 10).await.is_empty(), "they are owed now");

    drop(store);
    fixture.restart().await;
    let store = fixture.store();
    assert_eq!(unsettled(&*store).await, [key(first, old)]);
    settle(&*store, vec![delivered(key(first, old), 1), delivered(key(first, new.seq), 1)]).await;
    let expected = Stats { events: 4, pending: 1, delivered: 3, dead: 0, skipped: 0, discarded: 0, attempts: 3 };
    assert_eq!(stats(&*store).await, expected);
    assert!(unsettled(&*store).await.is_empty());
}

pub(crate) async fn the_jobs_of_a_webhook_end_with_it<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let doomed = store.create_webhook(DEFAULT_TENANT, settings("doomed"), at(1)).await.unwrap();
    let seq = accept(&*store, in_memory("e1", &[doomed.seq])).await;
    settle(&*store, vec![dead(key(seq, doomed.seq), 1)]).await;
    let its = start(&*store, NewReplay { webhook: Some(doomed.uuid), ..job(&[Dead]) }).await;
    let of_all = start(&*store, job(&[Dead])).await;
    store.delete_webhook(DEFAULT_TENANT, doomed.uuid, at(550)).await.unwrap();
    let ended = store.replay(DEFAULT_TENANT, its.uuid).await.unwrap().unwrap();
    assert_eq!((ended.state, ended.reason.as_deref()), (ReplayState::Cancelled, Some("webhook deleted")));
    assert!(run(&*store, of_all, &[], 10).await.is_empty(), "a deleted webhook gets nothing");
    let late = store.create_replay(DEFAULT_TENANT, NewReplay { webhook: Some(doomed.uuid), ..job(&[Dead]) }, at(560));
    assert!(matches!(late.await, Err(StoreError::NotFound)));
}

/// What a job looks at and finds, in scans of at most `max_changes`, and that many of them; nothing is changed.
async fn scanned(store: &dyn Store, mut job: ReplayRecord, matching: &[&str], max_changes: u32) -> (u32, usize) {
    let (mut scanned, mut found) = (0, 0);
    loop {
        let scan = store.scan_replay(&job, patterns(matching), max_changes).await.unwrap();
        scanned += scan.scanned;
        found += scan.found.len() + scan.unmatched.len();
        if scan.is_end {
            return (scanned, found);
        }
        assert!(scan.cursor > job.cursor, "a scan gets on");
        job.cursor = scan.cursor;
    }
}

pub(crate) async fn every_delivery_in_a_wanted_state_is_looked_at_once<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let all = [Pending, Delivered, Dead, Skipped, Discarded];
    let first = webhook(&*store, "first").await;
    let mine = store.create_webhook(DEFAULT_TENANT, settings("mine"), at(1)).await.unwrap();
    let hooks = [first, mine.seq, webhook(&*store, "last").await];
    // Another tenant's events lie between.
    let other = tenant(&*store, "other").await;
    let theirs = store.create_webhook(other, settings("theirs"), at(1)).await.unwrap().seq;
    // Every state at every webhook, in another order at each; each event is owed to two of the three.
    let (mut states, mut events) = (Vec::new(), 0);
    for number in 0..18_usize {
        let owed: Vec<_> = (0..3).filter(|place| *place != number % 3).collect();
        let state_of = |place: usize| all[(number + place) % all.len()];
        let dispositions: Vec<_> = owed
            .iter()
            .map(|place| match state_of(*place) {
                Skipped => (hooks[*place], Disposition::Skipped("webhook disabled")),
                _ => (hooks[*place], Disposition::InMemory),
            })
            .collect();
        let topic = if number % 4 == 0 { "attacker.seen" } else { "decky.seen" };
        let new = new_event(&format!("e{number}"), &dispositions);
        let new = postrider::store::NewEvent { event: event(&format!("e{number}"), topic), ..new };
        let seq = accept(&*store, new).await;
        events += 1;
        let between = postrider::store::NewEvent { tenant: other, ..in_memory(&format!("e{number}"), &[theirs]) };
        let between = accept(&*store, between).await;
        settle(&*store, vec![dead(key(between, theirs), 1)]).await;
        for place in owed {
            let (key, state) = (key(seq, hooks[place]), state_of(place));
            states.push((place == 1, number % 4 == 0, state));
            match state {
                // One with a row, one that only memory knows.
                Pending if number % 2 == 0 => settle(&*store, vec![failed(key, 1, at(900))]).await,
                Delivered => settle(&*store, vec![delivered(key, 1)]).await,
                Dead => settle(&*store, vec![dead(key, 1)]).await,
                Discarded => {
                    store.discard_delivery(DEFAULT_TENANT, key, "by hand", at(400)).await.unwrap();
                }
                Pending | Skipped => {}
            }
        }
    }
    for chosen in 1..1_u32 << all.len() {
        let wanted: Vec<_> = (0..all.len()).filter(|bit| chosen >> bit & 1 == 1).map(|bit| all[bit]).collect();
        for (webhook, topic) in [(None, None), (Some(mine.uuid), None), (None, Some("attacker.>"))] {
            let topic = topic.map(|topic| Pattern::parse(topic).unwrap());
            let new = NewReplay {
                webhook,
                selection: Selection { topic: topic.clone(), ..job(&wanted).selection },
                ..job(&wanted)
            };
            let record = start(&*store, new).await;
            let looked =
                states.iter().filter(|(is_mine, _, state)| wanted.contains(state) && (webhook.is_none() || *is_mine));
            let looked: Vec<_> = looked.collect();
            let found = looked.iter().filter(|(_, is_of_topic, _)| topic.is_none() || *is_of_topic).count();
            for max_changes in [1, 2, 100] {
                let seen = scanned(&*store, record.clone(), &[], max_changes).await;
                let expected = (u32::try_from(looked.len()).unwrap(), found);
                assert_eq!(seen, expected, "{wanted:?} {webhook:?} {topic:?}, by {max_changes}");
            }
            let ended = store.end_replay(DEFAULT_TENANT, record.uuid, ReplayState::Cancelled, "seen", at(1));
            ended.await.unwrap();
        }
    }
    // What is not owed may be wanted: each event is looked at.
    let action = ReplayAction::Replay { include_unmatched: true };
    let topic = Some(Pattern::parse("attacker.>").unwrap());
    let selection = Selection { topic, ..Selection::default() };
    let record = start(&*store, NewReplay { webhook: Some(mine.uuid), action, selection, ..job(&[]) }).await;
    for max_changes in [1, 2, 100] {
        let (seen, found) = scanned(&*store, record.clone(), &[">"], max_changes).await;
        assert_eq!((seen, found), (events, 2), "e4 and e16, by {max_changes}");
    }
}

pub(crate) async fn one_scan_reads_a_bounded_number_of_deliveries<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let owed = webhooks::<20>(&*store).await.map(|webhook| (webhook, Disposition::Skipped("webhook disabled")));
    let events = MAX_REPLAY_SCAN_ROWS as usize / owed.len() + 10;
    let new = (0..events).map(|number| new_event(&format!("e{number}"), &owed)).collect();
    assert_eq!(store.accept(new).await.unwrap().len(), events);
    let job = start(&*store, job(&[Delivered])).await;
    let first = store.scan_replay(&job, patterns(&[]), 100).await.unwrap();
    assert!(!first.is_end && first.cursor.event < job.events.1, "{first:?}");
    assert_eq!(scanned(&*store, job, &[], 100).await, (0, 0));
}

pub(crate) async fn jobs_are_listed_and_limited<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let mine = store.create_webhook(DEFAULT_TENANT, settings("mine"), at(1)).await.unwrap();
    let first = start(&*store, NewReplay { webhook: Some(mine.uuid), ..job(&[Dead]) }).await;
    for _ in 1..MAX_UNFINISHED_REPLAYS {
        start(&*store, job(&[Dead, Skipped])).await;
    }
    let refused = store.create_replay(DEFAULT_TENANT, job(&[Dead]), at(1)).await;
    assert!(matches!(refused, Err(StoreError::Conflict(_))), "{refused:?}");
    let other = tenant(&*store, "other").await;
    store.create_replay(other, job(&[Dead]), at(1)).await.unwrap();
    let cancelled = store.end_replay(DEFAULT_TENANT, first.uuid, ReplayState::Cancelled, "by hand", at(550)).await;
    assert_eq!(cancelled.unwrap().reason.as_deref(), Some("by hand"));
    let again = store.end_replay(DEFAULT_TENANT, first.uuid, ReplayState::Cancelled, "by hand", at(550)).await;
    assert!(matches!(again, Err(StoreError::Conflict(_))));
    start(&*store, job(&[Dead])).await;

    let mut seen = Vec::new();
    let mut next = page(40);
    loop {
        let some = store.replays(DEFAULT_TENANT, &ReplayFilter::default(), next.clone()).await.unwrap();
        seen.extend(some.items);
        match some.next_cursor {
            Some(cursor) => next.cursor = Some(cursor),
            None => break,
        }
    }
    assert_eq!(seen.len(), MAX_UNFINISHED_REPLAYS as usize + 1);
    assert_eq!(seen.last().map(|job| job.uuid), Some(first.uuid), "newest first");
    for filter in [
        ReplayFilter { webhook: Some(mine.uuid), state: None },
        ReplayFilter { webhook: None, state: Some(ReplayState::Cancelled) },
    ] {
        let found = store.replays(DEFAULT_TENANT, &filter, page(10)).await.unwrap().items;
        assert_eq!(found.iter().map(|job| job.uuid).collect::<Vec<_>>(), [first.uuid]);
    }
    assert!(store.replay(TenantSeq(2), first.uuid).await.unwrap().is_none());
    next.cursor = Some("made up".to_owned());
    let made_up = store.replays(DEFAULT_TENANT, &ReplayFilter::default(), next).await;
    assert!(matches!(made_up, Err(StoreError::Cursor)));
}

pub(crate) async fn an_event_is_sent_again_to_whom_it_was_owed_or_not<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [a, b, c, d] = webhooks(&*store).await;
    let seq = accept(&*store, in_memory("e1", &[a, b, c])).await;
    settle(&*store, vec![delivered(key(seq, a), 1), failed(key(seq, b), 1, at(900))]).await;
    let again = store.resend(DEFAULT_TENANT, seq, vec![a, b, c, d], at(600)).await.unwrap();
    assert_eq!(again, [a, b, d], "c is on its way, in memory");
    for webhook in [a, b, d] {
        assert_eq!(delivery(&*store, key(seq, webhook)).await.next_attempt_at, Some(at(600)));
    }
    assert_eq!(unsettled(&*store).await, [key(seq, c)]);
    assert_eq!(stats(&*store).await, Stats { events: 1, pending: 4, attempts: 2, ..Stats::default() });
    assert!(store.resend(TenantSeq(2), seq, vec![a], at(600)).await.unwrap().is_empty());
    assert!(store.resend(DEFAULT_TENANT, EventSeq(99), vec![a], at(600)).await.unwrap().is_empty());
}

fn once(key: &str, body: u8, now: i64) -> Idempotency {
    Idempotency { key: key.to_owned(), body_hash: [body; 32], now: at(now), expires_at: at(now + 100) }
}

pub(crate) async fn a_request_with_a_key_is_accepted_once<F: Fixture>() {
    let mut fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [a] = webhooks(&*store).await;
    let known = accept(&*store, new_event("known", &[])).await;
    let events = vec![in_memory("e1", &[a]), new_event("known", &[])];
    let AcceptedOnce::Now(accepted) = store.accept_once(DEFAULT_TENANT, events, once("k", 1, 1_000)).await.unwrap()
    else {
        panic!("the key is new")
    };
    assert_eq!(accepted.len(), 2);
    drop(store);
    fixture.restart().await;
    let store = fixture.store();
    // Ids made by the server differ the second time; the answer is the first one.
    let again = store.accept_once(DEFAULT_TENANT, vec![in_memory("e2", &[a])], once("k", 1, 1_099)).await.unwrap();
    assert_eq!(
        again,
        AcceptedOnce::Before(vec![KeptReceipt("e1".to_owned(), 1, 0), KeptReceipt("known".to_owned(), 0, 0)])
    );
    assert!(store.event(DEFAULT_TENANT, "e2").await.unwrap().is_none());
    let other = store.accept_once(DEFAULT_TENANT, vec![in_memory("e3", &[a])], once("k", 2, 1_050)).await;
    assert!(matches!(other, Err(StoreError::IdempotencyConflict)), "{other:?}");
    assert_eq!(stats(&*store).await.events, 2);
    // The key is the tenant's own, and free again after its time.
    let theirs = store.accept_once(TenantSeq(2), Vec::new(), once("k", 2, 1_050)).await.unwrap();
    assert_eq!(theirs, AcceptedOnce::Now(Vec::new()));
    let late = store.accept_once(DEFAULT_TENANT, vec![new_event("e4", &[])], once("k", 2, 1_100)).await.unwrap();
    assert!(matches!(&late, AcceptedOnce::Now(accepted) if accepted.len() == 1), "{late:?}");
    assert_eq!(store.event(DEFAULT_TENANT, "known").await.unwrap().unwrap().seq, known);
}

pub(crate) async fn concurrent_requests_with_one_key_are_one<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let calls: Vec<_> = (0..40)
        .map(|number| {
            let store = fixture.store();
            let new = new_event(&number.to_string(), &[]);
            tokio::spawn(async move { store.accept_once(DEFAULT_TENANT, vec![new], once("k", 1, 1)).await.unwrap() })
        })
        .collect();
    let (mut new, mut before) = (0, Vec::new());
    for call in calls {
        match call.await.unwrap() {
            AcceptedOnce::Now(_) => new += 1,
            AcceptedOnce::Before(receipts) => before.extend(receipts),
        }
    }
    assert_eq!((new, before.len()), (1, 39));
    before.dedup();
    assert_eq!(before.len(), 1, "all hear of the same event: {before:?}");
    assert_eq!(stats(&*fixture.store()).await.events, 1);
}
