//! Tenants, their tokens, and the log of what is done.

use postrider::store::replay::{NewReplay, ReplayAction, Selection};
use postrider::store::{
    Act, Actor, AuditEntry, AuditFilter, Deed, Disposition, NewToken, Page, Quotas, Scope, Stats, Store, StoreError,
    TenantKey, TenantPatch,
};
use postrider::webhook::{DEFAULT_TENANT, TenantSeq};
use uuid::Uuid;

use crate::store_conformance::Fixture;
use crate::store_conformance::fixtures::{
    WIDE, accept, at, dead, delivered, failed, in_memory, key, new_event, page, settings, settle, tenant, webhook,
    webhooks,
};

fn named(name: &str) -> TenantPatch {
    TenantPatch { name: Some(name.to_owned()), ..TenantPatch::default() }
}

fn token(tenant: TenantSeq, hash: u8) -> NewToken {
    let scopes = vec![Scope::Operator, Scope::Admin];
    NewToken { tenant, name: "ops".to_owned(), scopes, hash: [hash; 32], expires_at: None, now: at(1) }
}

pub(crate) async fn a_tenant_comes_back_with_all_its_settings<F: Fixture>() {
    let mut fixture = F::fresh(WIDE).await;
    let patch = TenantPatch {
        description: Some("the blue team".to_owned()),
        max_webhooks: Some(Some(2)),
        max_events_per_s: Some(Some(0)),
        max_pending: Some(Some(1_000_000_000)),
        max_tokens: Some(Some(5)),
        max_stored_bytes: Some(Some(1 << 50)),
        ..named("blue")
    };
    let blue = fixture.store().create_tenant(patch, at(5)).await.unwrap();
    fixture.restart().await;
    let store = fixture.store();
    let [default, found] = <[_; 2]>::try_from(store.tenants().await.unwrap()).expect("oldest first");
    assert_eq!(found, blue);
    let quotas = Quotas {
        max_webhooks: Some(2),
        max_events_per_s: Some(0),
        max_pending: Some(1_000_000_000),
        max_tokens: Some(5),
        max_stored_bytes: Some(1 << 50),
    };
    assert_eq!((found.name.as_str(), found.description.as_str(), found.quotas), ("blue", "the blue team", quotas));
    assert_eq!((default.seq, default.name.as_str(), default.quotas), (DEFAULT_TENANT, "default", Quotas::default()));
    assert_eq!((default.uuid.get_version_num(), default.uuid.get_variant()), (4, uuid::Variant::RFC4122));

    let patch = TenantPatch { max_webhooks: Some(None), max_pending: Some(Some(7)), ..TenantPatch::default() };
    let changed = store.update_tenant(blue.seq, patch, at(6)).await.unwrap();
    assert_eq!(changed.quotas, Quotas { max_webhooks: None, max_pending: Some(7), ..quotas });
    assert_eq!((changed.uuid, changed.description.as_str()), (blue.uuid, "the blue team"), "the rest stays");
    assert_eq!(store.tenants().await.unwrap()[1], changed);
}

pub(crate) async fn a_tenant_s_name_is_unique_among_the_living<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let blue = store.create_tenant(named("blue"), at(1)).await.unwrap();
    let green = store.create_tenant(named("green"), at(1)).await.unwrap();
    assert!(matches!(store.create_tenant(named("blue"), at(2)).await, Err(StoreError::NameTaken)));
    assert!(matches!(store.create_tenant(TenantPatch::default(), at(2)).await, Err(StoreError::NameTaken)));
    assert!(matches!(store.update_tenant(green.seq, named("blue"), at(2)).await, Err(StoreError::NameTaken)));
    store.update_tenant(green.seq, named("green"), at(2)).await.expect("its own name");
    store.delete_tenant(blue.seq, false, at(3)).await.unwrap();
    let next = store.create_tenant(named("blue"), at(4)).await.expect("the name is free");
    assert!(next.seq > green.seq && next.uuid != blue.uuid, "it is another tenant");
    for gone in [blue.seq, TenantSeq(99)] {
        let changed = store.update_tenant(gone, named("other"), at(5)).await;
        assert!(matches!(changed, Err(StoreError::NotFound)));
        assert!(matches!(store.delete_tenant(gone, true, at(5)).await, Err(StoreError::NotFound)));
    }
}

pub(crate) async fn a_change_of_a_tenant_by_its_name_is_for_what_is_called_so<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let blue = store.create_tenant(named("blue"), at(1)).await.unwrap();
    let by_name = TenantKey::found_by("blue", &blue);
    let by_uuid = TenantKey::found_by(&blue.uuid.to_string(), &blue);
    store.update_tenant(by_name.clone(), named("green"), at(2)).await.unwrap();
    let changed = store.update_tenant(by_name.clone(), named("red"), at(3)).await;
    assert!(matches!(changed, Err(StoreError::NotFound)), "{changed:?}");
    let deleted = store.delete_tenant(by_name, true, at(3)).await;
    assert!(matches!(deleted, Err(StoreError::NotFound)), "{deleted:?}");
    assert_eq!(store.tenants().await.unwrap()[1].name, "green", "it is as the first change left it");
    store.delete_tenant(by_uuid, false, at(4)).await.expect("a UUID means it whatever it is called");
}

pub(crate) async fn the_default_tenant_stays<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let deleted = store.delete_tenant(DEFAULT_TENANT, true, at(1)).await;
    assert!(matches!(deleted, Err(StoreError::Conflict(_))), "{deleted:?}");
    let renamed = store.update_tenant(DEFAULT_TENANT, named("other"), at(1)).await;
    assert!(matches!(renamed, Err(StoreError::Conflict(_))), "{renamed:?}");
    let patch = TenantPatch { max_pending: Some(Some(7)), ..named("default") };
    assert_eq!(store.update_tenant(DEFAULT_TENANT, patch, at(1)).await.unwrap().quotas.max_pending, Some(7));
}

pub(crate) async fn a_tenant_with_something_to_lose_is_deleted_by_force_alone<F: Fixture>() {
    let mut fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let blue = tenant(&*store, "blue").await;
    let other = webhook(&*store, "of another tenant").await;
    store.create_token(token(blue, 1)).await.unwrap();
    store.create_token(token(DEFAULT_TENANT, 2)).await.unwrap();
    let a = store.create_webhook(blue, settings("a"), at(1)).await.unwrap();
    let with_webhook = store.delete_tenant(blue, false, at(2)).await.unwrap_err();
    assert!(with_webhook.to_string().contains("1 webhooks and 0 pending"), "{with_webhook}");
    let event = postrider::store::NewEvent { tenant: blue, ..in_memory("e1", &[a.seq]) };
    accept(&*store, event).await;
    store.delete_webhook(blue, a.uuid, at(3)).await.unwrap();
    let with_pending = store.delete_tenant(blue, false, at(4)).await.unwrap_err();
    assert!(with_pending.to_string().contains("0 webhooks and 1 pending"), "{with_pending}");

    let b = store.create_webhook(blue, settings("b"), at(5)).await.unwrap();
    let job = NewReplay {
        webhook: None,
        selection: Selection::default(),
        action: ReplayAction::Replay { include_unmatched: false },
        rate_per_s: 1,
    };
    store.create_replay(blue, job.clone(), at(5)).await.unwrap();
    let ours = store.create_replay(DEFAULT_TENANT, job, at(5)).await.unwrap().uuid;
    let deleted = store.delete_tenant(blue, true, at(6)).await.unwrap();
    assert_eq!((deleted.tenant.seq, deleted.webhooks), (blue, vec![b.seq]));
    drop(store);
    fixture.restart().await;
    let store = fixture.store();
    assert!(store.webhooks(blue).await.unwrap().is_empty());
    let unfinished: Vec<_> = store.unfinished_replays().await.unwrap().iter().map(|job| job.uuid).collect();
    assert_eq!(unfinished, [ours], "its jobs end with it");
    let live: Vec<_> = store.all_webhooks().await.unwrap().live.iter().map(|webhook| webhook.seq).collect();
    assert_eq!(live, [other], "those of others stay");
    assert!(store.token_by_hash([1; 32]).await.unwrap().is_none());
    assert!(store.token_by_hash([2; 32]).await.unwrap().is_some());
}

pub(crate) async fn a_tenant_that_is_not_there_gets_nothing<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let deleted = tenant(&*store, "deleted").await;
    store.delete_tenant(deleted, false, at(2)).await.unwrap();
    for nobody in [deleted, TenantSeq(99)] {
        let created = store.create_webhook(nobody, settings("a"), at(3)).await;
        assert!(matches!(created, Err(StoreError::NotFound)));
        assert!(matches!(store.create_token(token(nobody, 1)).await, Err(StoreError::NotFound)));
        let job = NewReplay {
            webhook: None,
            selection: Selection::default(),
            action: ReplayAction::Replay { include_unmatched: false },
            rate_per_s: 1,
        };
        assert!(matches!(store.create_replay(nobody, job, at(3)).await, Err(StoreError::NotFound)));
    }
}

pub(crate) async fn the_quota_of_webhooks_is_exact<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let patch = TenantPatch { max_webhooks: Some(Some(3)), ..named("blue") };
    let blue = store.create_tenant(patch, at(1)).await.unwrap().seq;
    webhook(&*store, "of another tenant").await;
    let callers: Vec<_> = (0..8)
        .map(|number| {
            let store = fixture.store();
            let wanted = settings(&format!("w{number}"));
            tokio::spawn(async move { store.create_webhook(blue, wanted, at(1)).await })
        })
        .collect();
    let mut refused = 0;
    for caller in callers {
        match caller.await.unwrap() {
            Err(StoreError::TooManyWebhooks { max: 3 }) => refused += 1,
            other => drop(other.unwrap()),
        }
    }
    let created = store.webhooks(blue).await.unwrap();
    assert_eq!((created.len(), refused), (3, 5));
    store.delete_webhook(blue, created[0].uuid, at(2)).await.unwrap();
    store.create_webhook(blue, settings("again"), at(3)).await.expect("there is room again");
}

pub(crate) async fn what_is_pending_is_known_at_any_time<F: Fixture>() {
    let mut fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [a, b, c] = webhooks(&*store).await;
    let owed = [(a, Disposition::InMemory), (b, Disposition::Stored), (c, Disposition::Skipped("webhook disabled"))];
    let seq = accept(&*store, new_event("e1", &owed)).await;
    assert_eq!(store.pending(DEFAULT_TENANT), 2);
    accept(&*store, in_memory("e2", &[a, b])).await;
    assert_eq!(store.pending(DEFAULT_TENANT), 4);
    settle(&*store, vec![delivered(key(seq, a), 1), failed(key(seq, b), 1, at(900))]).await;
    assert_eq!(store.pending(DEFAULT_TENANT), 3);
    settle(&*store, vec![dead(key(seq, b), 2)]).await;
    assert_eq!(store.pending(DEFAULT_TENANT), 2);
    store.retry_delivery(DEFAULT_TENANT, key(seq, b), at(1_000)).await.unwrap();
    assert_eq!(store.pending(DEFAULT_TENANT), 3);
    drop(store);
    fixture.restart().await;
    let store = fixture.store();
    assert_eq!(store.pending(DEFAULT_TENANT), 3, "a start counts again");
    store.discard_delivery(DEFAULT_TENANT, key(seq, b), "by hand", at(1_100)).await.unwrap();
    assert_eq!(store.pending(DEFAULT_TENANT), 2);
    assert_eq!(store.stats(DEFAULT_TENANT).await.unwrap().pending, 2);
    assert_eq!(store.pending(TenantSeq(99)), 0);
}

pub(crate) async fn all_tenants_together_are_counted<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    assert_eq!(store.total_stats().await.unwrap(), Stats::default());
    let blue = tenant(&*store, "blue").await;
    let theirs = store.create_webhook(blue, settings("theirs"), at(1)).await.unwrap().seq;
    let mine = webhook(&*store, "mine").await;
    accept(&*store, in_memory("e1", &[mine])).await;
    let event = postrider::store::NewEvent { tenant: blue, ..in_memory("e1", &[theirs]) };
    let seq = accept(&*store, event).await;
    settle(&*store, vec![delivered(key(seq, theirs), 1)]).await;
    let expected = Stats { events: 2, pending: 1, delivered: 1, attempts: 1, ..Stats::default() };
    assert_eq!(store.total_stats().await.unwrap(), expected);
    assert_eq!(store.stats(blue).await.unwrap().pending, 0);
}

pub(crate) async fn the_last_use_of_a_token_is_noted<F: Fixture>() {
    let mut fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let created = store.create_token(token(DEFAULT_TENANT, 1)).await.unwrap();
    assert_eq!(created.last_used_at, None);
    store.touch_token(created.uuid, at(50)).await.unwrap();
    store.touch_token(Uuid::nil(), at(50)).await.expect("a token that has gone is no error");
    drop(store);
    fixture.restart().await;
    let found = fixture.store().token_by_hash([1; 32]).await.unwrap().unwrap();
    assert_eq!((found.last_used_at, &found.scopes), (Some(at(50)), &created.scopes));
    assert_eq!(fixture.store().tokens(DEFAULT_TENANT).await.unwrap()[0].last_used_at, Some(at(50)));
}

// --- the log ---

const TOKEN: Uuid = Uuid::from_u128(7);

fn act(tenant: TenantSeq) -> Act {
    let actor = Actor { token: Some(TOKEN), name: "ops \u{1b}[2J".to_owned() };
    Act {
        actor: Some(actor),
        address: Some("192.0.2.7".parse().unwrap()),
        fields: vec!["name".to_owned(), "secret".to_owned()],
        ..Act::from(tenant)
    }
}

async fn log(store: &dyn Store, filter: &AuditFilter) -> Vec<AuditEntry> {
    store.audit(filter, page(100)).await.unwrap().items
}

pub(crate) async fn every_act_has_its_line<F: Fixture>() {
    let mut fixture = F::fresh(WIDE).await;
    let plain = fixture.store();
    let [a] = webhooks(&*plain).await;
    let seq = accept(&*plain, in_memory("e1", &[a])).await;
    let store = plain.audited(&act(DEFAULT_TENANT));
    let made = store.create_webhook(DEFAULT_TENANT, settings("siem"), at(10)).await.unwrap();
    store.update_webhook(DEFAULT_TENANT, made.uuid, 1, settings("siem 2"), false, at(11)).await.unwrap();
    let deed = Deed {
        at: at(12),
        tenant: DEFAULT_TENANT,
        action: "webhook.test",
        target: Some(made.uuid.to_string()),
        target_name: None,
    };
    store.record(deed).await.unwrap();
    store.delete_webhook(DEFAULT_TENANT, made.uuid, at(13)).await.unwrap();
    let new = NewToken { now: at(14), ..token(DEFAULT_TENANT, 1) };
    let made_token = store.create_token(new).await.unwrap();
    assert!(store.revoke_token(DEFAULT_TENANT, made_token.uuid, at(15)).await.unwrap());
    store.discard_delivery(DEFAULT_TENANT, key(seq, a), "by hand", at(16)).await.unwrap();
    store.retry_delivery(DEFAULT_TENANT, key(seq, a), at(17)).await.unwrap();
    let blue = store.create_tenant(named("blue"), at(18)).await.unwrap();
    store.update_tenant(blue.seq, named("green"), at(19)).await.unwrap();
    store.delete_tenant(blue.seq, false, at(20)).await.unwrap();
    drop((store, plain));
    fixture.restart().await;

    let store = fixture.store();
    let entries = log(&*store, &AuditFilter::default()).await;
    let delivery = store.delivery_ids().encode(key(seq, a)).to_string();
    let (webhook, token, tenant) = (made.uuid.to_string(), made_token.uuid.to_string(), blue.uuid.to_string());
    let expected = [
        (20, "green", "tenant.delete", &tenant, Some("green")),
        (19, "green", "tenant.update", &tenant, Some("green")),
        (18, "green", "tenant.create", &tenant, Some("blue")),
        (17, "default", "delivery.retry", &delivery, Some("e1")),
        (16, "default", "delivery.discard", &delivery, Some("e1")),
        (15, "default", "token.revoke", &token, Some("ops")),
        (14, "default", "token.create", &token, Some("ops")),
        (13, "default", "webhook.delete", &webhook, Some("siem 2")),
        (12, "default", "webhook.test", &webhook, None),
        (11, "default", "webhook.update", &webhook, Some("siem 2")),
        (10, "default", "webhook.create", &webhook, Some("siem")),
    ];
    assert_eq!(entries.len(), expected.len(), "{entries:?}");
    for (entry, (second, tenant, action, target, target_name)) in entries.iter().zip(expected) {
        assert_eq!((entry.at, entry.tenant.as_str(), entry.action.as_str()), (at(second), tenant, action));
        assert_eq!((entry.target.as_ref(), entry.target_name.as_deref()), (Some(target), target_name), "{action}");
        assert_eq!(Some(&entry.actor), act(DEFAULT_TENANT).actor.as_ref());
        assert_eq!((entry.fields.join(","), entry.address.as_deref()), ("name,secret".to_owned(), Some("192.0.2.7")));
    }
}

pub(crate) async fn an_act_that_is_refused_has_none<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store().audited(&act(DEFAULT_TENANT));
    store.delete_webhook(DEFAULT_TENANT, Uuid::nil(), at(1)).await.unwrap_err();
    assert!(!store.revoke_token(DEFAULT_TENANT, Uuid::nil(), at(1)).await.unwrap());
    store.delete_tenant(DEFAULT_TENANT, true, at(1)).await.unwrap_err();
    store.update_tenant(DEFAULT_TENANT, named("x"), at(1)).await.unwrap_err();
    assert_eq!(log(&*store, &AuditFilter::default()).await, []);
}

pub(crate) async fn nobody_s_act_has_none<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let own = store.audited(&Act::from(DEFAULT_TENANT));
    let made = own.create_webhook(DEFAULT_TENANT, settings("a"), at(1)).await.unwrap();
    store.switch_off(made.seq, "gone", at(2)).await.unwrap();
    store.create_tenant(named("blue"), at(3)).await.unwrap();
    // An act is of its handle alone.
    store.audited(&act(DEFAULT_TENANT)).delete_webhook(DEFAULT_TENANT, made.uuid, at(4)).await.unwrap();
    store.create_token(token(DEFAULT_TENANT, 1)).await.unwrap();
    let entries = log(&*store, &AuditFilter::default()).await;
    assert_eq!(entries.iter().map(|entry| entry.action.as_str()).collect::<Vec<_>>(), ["webhook.delete"]);
}

pub(crate) async fn the_log_is_read_in_pages_by_tenant_and_filter<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let blue = tenant(&*store, "blue").await;
    for number in 0..7 {
        for tenant in [DEFAULT_TENANT, blue] {
            let named = settings(&format!("w{number}"));
            store.audited(&act(tenant)).create_webhook(tenant, named, at(number)).await.unwrap();
        }
    }
    let filter = AuditFilter { tenant: Some(blue), ..AuditFilter::default() };
    let (mut seen, mut cursor) = (Vec::new(), None);
    loop {
        let got = store.audit(&filter, Page { limit: 3, cursor }).await.unwrap();
        assert!(got.items.iter().all(|entry| entry.tenant == "blue"));
        seen.extend(got.items.into_iter().map(|entry| entry.target_name.unwrap()));
        cursor = got.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, ["w6", "w5", "w4", "w3", "w2", "w1", "w0"]);
    assert_eq!(log(&*store, &AuditFilter::default()).await.len(), 14, "an operator sees all");
    let middle = AuditFilter { since: Some(at(2)), until: Some(at(4)), ..AuditFilter::default() };
    assert_eq!(log(&*store, &middle).await.len(), 4);
    let tokens = AuditFilter { action: Some("token".to_owned()), ..AuditFilter::default() };
    assert_eq!(log(&*store, &tokens).await, []);
    let made_up = Page { limit: 3, cursor: Some(Uuid::nil().to_string()) };
    assert!(matches!(store.audit(&filter, made_up).await, Err(StoreError::Cursor)));
}
