//! What takes room: stored bytes, tokens and the audit log.

use std::collections::HashMap;

use postrider::store::retention::{Cutoffs, Retention};
use postrider::store::{
    Act, Actor, AuditEntry, AuditFilter, Deed, EventSeq, Idempotency, NewEvent, NewToken, Scope, Store, StoreError,
    TenantPatch, TokenRecord,
};
use postrider::webhook::{DEFAULT_TENANT, TenantSeq};
use uuid::Uuid;

use crate::store_conformance::Fixture;
use crate::store_conformance::fixtures::{WIDE, at, delivered, in_memory, key, page, settle, sized, tenant, webhooks};

/// More than a step deletes.
const MANY_LINES: i64 = 700;

async fn purge(store: &dyn Store, events_before: i64) {
    let now = Some(at(1_000_000));
    let default = Cutoffs { events: Some(at(events_before)), delivered: now, dead: now, attempts: None };
    let retention = Retention { default, tenants: HashMap::new() };
    let mut after = EventSeq(0);
    loop {
        let purged = store.purge_events(after, &retention).await.unwrap();
        after = purged.through;
        if purged.is_end {
            break;
        }
    }
}

pub(crate) async fn what_is_stored_is_counted_to_the_byte<F: Fixture>() {
    let mut fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [a] = webhooks(&*store).await;
    let blue = tenant(&*store, "blue").await;
    let theirs = |id: &str, bytes| NewEvent { tenant: blue, ..sized(id, bytes, &[]) };
    let first = store.accept(vec![sized("e1", 1_000, &[]), theirs("e1", 70_000), sized("e1", 9, &[])]).await.unwrap();
    assert_eq!(first.len(), 3);
    let owed = in_memory("owed", &[a]);
    let owed_bytes = owed.event.body().len() as u64;
    let accepted = store.accept(vec![owed, theirs("e1", 5)]).await.unwrap();
    let postrider::store::Accepted::New { seq } = accepted[0] else { panic!("{accepted:?}") };
    let once = || Idempotency { key: "k".to_owned(), body_hash: [1; 32], now: at(100), expires_at: at(200) };
    for _ in 0..2 {
        store.accept_once(blue, vec![theirs("e2", 300_000)], once()).await.unwrap();
    }
    assert_eq!(store.stored_bytes(DEFAULT_TENANT), 1_000 + owed_bytes, "a duplicate is not stored");
    assert_eq!(store.stored_bytes(blue), 370_000);
    store.check().await.unwrap();
    drop(store);
    fixture.restart().await;
    let store = fixture.store();
    assert_eq!((store.stored_bytes(DEFAULT_TENANT), store.stored_bytes(blue)), (1_000 + owed_bytes, 370_000));

    purge(&*store, 100).await;
    assert_eq!(store.stored_bytes(blue), 370_000, "nothing is old enough");
    purge(&*store, 101).await;
    assert_eq!((store.stored_bytes(DEFAULT_TENANT), store.stored_bytes(blue)), (owed_bytes, 0), "what is owed stays");
    settle(&*store, vec![delivered(key(seq, a), 1)]).await;
    purge(&*store, 101).await;
    assert_eq!(store.stored_bytes(DEFAULT_TENANT), 0);
    drop(store);
    fixture.restart().await;
    let store = fixture.store();
    assert_eq!((store.stored_bytes(DEFAULT_TENANT), store.stored_bytes(blue)), (0, 0));
    store.accept(vec![sized("e1", 1_000, &[])]).await.expect("its id is free");
    assert_eq!(store.stored_bytes(DEFAULT_TENANT), 1_000);
}

pub(crate) async fn what_many_callers_store_is_counted_to_the_byte<F: Fixture>() {
    let mut fixture = F::fresh(WIDE).await;
    let tenants = [DEFAULT_TENANT, tenant(&*fixture.store(), "blue").await, tenant(&*fixture.store(), "green").await];
    let callers: Vec<_> = (0..60_usize)
        .map(|number| {
            let store = fixture.store();
            let event = |tenant| NewEvent { tenant, ..sized(&format!("e{}", number / 2), 100 + number / 2, &[]) };
            let events: Vec<_> = tenants.map(event).into();
            tokio::spawn(async move { store.accept(events).await })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap().unwrap();
    }
    // Each was sent by two, and is stored once.
    let expected: u64 = (0..30).map(|number| 100 + number).sum();
    for _ in 0..2 {
        let store = fixture.store();
        assert_eq!(tenants.map(|tenant| store.stored_bytes(tenant)), [expected; 3]);
        drop(store);
        fixture.restart().await;
    }
}

// --- tokens ---

fn token(tenant: TenantSeq, hash: u8, now: i64, expires_at: Option<i64>) -> NewToken {
    let expires_at = expires_at.map(at);
    NewToken { tenant, name: "a".to_owned(), scopes: vec![Scope::Read], hash: [hash; 32], expires_at, now: at(now) }
}

pub(crate) async fn the_quota_of_tokens_is_exact<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let patch = TenantPatch { name: Some("blue".to_owned()), max_tokens: Some(Some(3)), ..TenantPatch::default() };
    let blue = store.create_tenant(patch, at(1)).await.unwrap().seq;
    store.create_token(token(DEFAULT_TENANT, 99, 1, None)).await.unwrap();
    let callers: Vec<_> = (0..8)
        .map(|number| {
            let (store, expires_at) = (fixture.store(), (number % 2 == 0).then_some(50));
            tokio::spawn(async move { store.create_token(token(blue, number, 10, expires_at)).await })
        })
        .collect();
    let mut made: Vec<TokenRecord> = Vec::new();
    for caller in callers {
        match caller.await.unwrap() {
            Err(StoreError::TooManyTokens { max: 3 }) => {}
            other => made.push(other.unwrap()),
        }
    }
    assert_eq!((made.len(), store.token_count(blue, at(20)).await.unwrap()), (3, 3));
    assert!(store.revoke_token(blue, made[0].uuid, at(21)).await.unwrap());
    assert_eq!(store.token_count(blue, at(21)).await.unwrap(), 2);
    store.create_token(token(blue, 20, 22, Some(40))).await.expect("one that is revoked does not count");
    let refused = store.create_token(token(blue, 21, 39, None)).await.unwrap_err();
    assert!(matches!(refused, StoreError::TooManyTokens { max: 3 }), "{refused}");
    let made = store.create_token(token(blue, 21, 40, None)).await.expect("one that has expired does not count");
    let operator = NewToken { scopes: vec![Scope::Operator], ..token(blue, 22, 40, None) };
    store.create_token(operator).await.expect("an operator's is never refused");
    assert!(store.create_token(token(blue, 23, 41, None)).await.is_err(), "but it counts");
    assert_eq!(store.token(blue, made.uuid).await.unwrap().unwrap().uuid, made.uuid);
    assert!(store.token(DEFAULT_TENANT, made.uuid).await.unwrap().is_none(), "it is another tenant's");
    store.revoke_token(blue, made.uuid, at(42)).await.unwrap();
    assert!(store.token(blue, made.uuid).await.unwrap().is_none());
    assert_eq!(store.token_count(DEFAULT_TENANT, at(40)).await.unwrap(), 1);
}

pub(crate) async fn tokens_that_ended_long_ago_are_forgotten<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [revoked, expired, good] = [(1, None), (2, Some(50)), (3, Some(500))]
        .map(|(hash, expires_at)| (hash, token(DEFAULT_TENANT, hash, 10, expires_at)));
    for (_, token) in [&revoked, &expired, &good] {
        store.create_token(token.clone()).await.unwrap();
    }
    let uuid = store.token_by_hash([1; 32]).await.unwrap().unwrap().uuid;
    store.revoke_token(DEFAULT_TENANT, uuid, at(60)).await.unwrap();
    let conflict = |result: Result<TokenRecord, StoreError>| matches!(result, Err(StoreError::Conflict(_)));
    assert!(!store.purge_audit(at(50), at(100)).await.unwrap());
    assert!(store.purge_audit(at(60), at(100)).await.unwrap());
    assert!(!store.purge_audit(at(60), at(100)).await.unwrap());
    assert!(store.token_by_hash([2; 32]).await.unwrap().is_none());
    assert!(conflict(store.create_token(revoked.1.clone()).await), "it is still known");
    while store.purge_audit(at(61), at(100)).await.unwrap() {}
    store.create_token(revoked.1.clone()).await.expect("it is forgotten");
    assert!(conflict(store.create_token(good.1.clone()).await));
    assert!(log(&*store).await.is_empty(), "what was no act has no line");
}

// --- the log ---

fn act() -> Act {
    let actor = Actor { token: Some(Uuid::from_u128(7)), name: "ops".to_owned() };
    Act { actor: Some(actor), ..Act::from(DEFAULT_TENANT) }
}

async fn note(store: &dyn Store, tenant: TenantSeq, second: i64) {
    let (target, target_name) = (Some("x".to_owned()), None);
    let deed = Deed { at: at(second), tenant, action: "webhook.test", target, target_name };
    store.audited(&act()).record(deed).await.unwrap();
}

/// Newest first.
async fn log(store: &dyn Store) -> Vec<AuditEntry> {
    store.audit(&AuditFilter::default(), page(500)).await.unwrap().items
}

fn shown(entry: &AuditEntry) -> (i64, &str, &str, Option<&str>) {
    (entry.at.seconds(), &entry.tenant, &entry.action, entry.target_name.as_deref())
}

pub(crate) async fn old_lines_of_the_log_go_and_a_line_says_which<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let blue = tenant(&*store, "blue").await;
    // A clock was set back meanwhile.
    for (tenant, second) in [(DEFAULT_TENANT, 20), (blue, 11), (blue, 10), (blue, 40), (DEFAULT_TENANT, 30)] {
        note(&*store, tenant, second).await;
    }
    assert!(!store.purge_audit(at(10), at(100)).await.unwrap());
    assert_eq!(log(&*store).await.len(), 5, "nothing is old enough, and nothing is said");
    assert!(store.purge_audit(at(30), at(100)).await.unwrap());
    while store.purge_audit(at(30), at(100)).await.unwrap() {}
    let entries = log(&*store).await;
    let (first, last) = ("1970-01-01T00:00:10.000000Z", "1970-01-01T00:00:11.000000Z");
    let of_blue = format!("2 lines from {first} to {last}");
    let twenty = "1970-01-01T00:00:20.000000Z";
    let of_default = format!("1 lines from {twenty} to {twenty}");
    let mut said: Vec<_> = entries.iter().map(shown).collect();
    said.sort_unstable();
    let expected = [
        (30, "default", "webhook.test", None),
        (40, "blue", "webhook.test", None),
        (100, "blue", "audit.purge", Some(of_blue.as_str())),
        (100, "default", "audit.purge", Some(of_default.as_str())),
    ];
    assert_eq!(said, expected);
    let line = entries.iter().find(|entry| entry.at == at(100) && entry.tenant == "blue").unwrap();
    assert_eq!(line.actor, Actor { token: None, name: postrider::store::SERVER.to_owned() });
    assert_eq!((line.target.clone(), line.fields.len(), &line.address), (Some(format!("{first}/{last}")), 0, &None));

    assert!(!store.purge_audit(at(30), at(101)).await.unwrap());
    assert_eq!(log(&*store).await, entries, "nothing went, and nothing is said");
}

pub(crate) async fn lines_about_purges_go_without_another<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    for second in 0..5 {
        note(&*store, DEFAULT_TENANT, second).await;
        while store.purge_audit(at(second + 1), at(10 + second)).await.unwrap() {}
    }
    assert_eq!(log(&*store).await.len(), 5);
    note(&*store, DEFAULT_TENANT, 9).await;
    while store.purge_audit(at(12), at(20)).await.unwrap() {}
    // Those of 10 and 11 are not counted.
    let entries = log(&*store).await;
    let nine = "1970-01-01T00:00:09.000000Z";
    assert_eq!(shown(&entries[0]).3, Some(format!("1 lines from {nine} to {nine}").as_str()));
    assert_eq!(entries.len(), 4);
    while store.purge_audit(at(1_000), at(2_000)).await.unwrap() {}
    assert!(log(&*store).await.is_empty(), "the last one is not said for ever");
}

pub(crate) async fn a_purge_of_many_lines_goes_in_steps_and_over_restarts<F: Fixture>() {
    let mut fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    for second in 0..MANY_LINES {
        note(&*store, DEFAULT_TENANT, second).await;
    }
    assert!(store.purge_audit(at(MANY_LINES), at(1_000)).await.unwrap());
    let left = log(&*store).await;
    assert!(!left.is_empty(), "not all in one step");
    assert!(left.iter().all(|entry| entry.action == "webhook.test"), "it is said once, at the end");
    drop(store);
    fixture.restart().await;
    let store = fixture.store();
    while store.purge_audit(at(MANY_LINES), at(1_001)).await.unwrap() {}
    let entries = log(&*store).await;
    let text = format!("{MANY_LINES} lines from {} to {}", at(0), at(MANY_LINES - 1));
    assert_eq!(entries.iter().map(shown).collect::<Vec<_>>(), [(1_001, "default", "audit.purge", Some(text.as_str()))]);
    assert_eq!(store.newest_at().await.unwrap(), Some(at(1_001)));
}

pub(crate) async fn the_newest_of_events_and_acts_is_known<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    assert_eq!(store.newest_at().await.unwrap(), None);
    note(&*store, DEFAULT_TENANT, 50).await;
    assert_eq!(store.newest_at().await.unwrap(), Some(at(50)), "where there is no event");
    store.accept(vec![sized("e1", 10, &[])]).await.unwrap();
    assert_eq!(store.newest_at().await.unwrap(), Some(at(100)));
    note(&*store, DEFAULT_TENANT, 200).await;
    assert_eq!(store.newest_at().await.unwrap(), Some(at(200)));
}
