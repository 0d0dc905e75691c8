//! Webhooks, tokens, and the store's own health.

use std::sync::Arc;

use std::time::Duration;

use postrider::delivery::statuses::Statuses;
use postrider::shape::{MAX_TEMPLATE_BYTES, Shape, ShapeInput, TemplateInput};
use postrider::signing::Scheme;
use postrider::store::{MAX_TENANT_SETTINGS_BYTES, NewToken, Page, Scope, SettleBatch, Store, StoreError};
use postrider::topic::Pattern;
use postrider::webhook::{
    DEFAULT_TENANT, MAX_PATTERNS, RateLimit, SwitchedOff, TenantSeq, WebhookHealth, WebhookSettings,
};
use uuid::Uuid;

use crate::store_conformance::Fixture;
use crate::store_conformance::fixtures::{WIDE, at, page, settings, tenant};

pub(crate) async fn a_webhook_comes_back_with_all_its_settings<F: Fixture>() {
    let mut fixture = F::fresh(WIDE).await;
    let mut full = settings("Wazuh – main");
    full.description.push_str("Alerts for the night shift\nand \"others\"");
    full.receiver.signatures = Scheme::Standard.into();
    full.receiver.timeout = Duration::from_secs(25);
    full.topic_patterns = ["attacker.>", "decky.*.state"].map(|text| Pattern::parse(text).unwrap()).to_vec();
    full.enabled = false;
    full.max_in_flight = 7;
    full.retry_schedule = Some(postrider::delivery::retry::Schedule::from_seconds(&[0.25, 1.5, 86_400.0]).unwrap());
    full.policy.statuses.retry_on = Statuses::new(vec!["408".parse().unwrap(), "5xx".parse().unwrap()]);
    full.policy.rate_limit = Some(RateLimit { per_s: 0.1, burst: 2 });
    full.policy.ordered = true;
    full.policy.metadata.insert("team".to_owned(), "night \"shift\"".to_owned());
    let once =
        WebhookSettings { retry_schedule: Some(postrider::delivery::retry::Schedule::once()), ..settings("once") };
    let mut created = Vec::new();
    for settings in [full.clone(), settings("plain"), once] {
        let record = fixture.store().create_webhook(DEFAULT_TENANT, settings.clone(), at(5)).await.unwrap();
        assert_eq!((&record.settings, record.version, record.created_at), (&settings, 1, at(5)));
        created.push(record);
    }
    fixture.restart().await;
    let store = fixture.store();
    assert_eq!(store.webhooks(DEFAULT_TENANT).await.unwrap(), created, "oldest first");
    assert_eq!(store.webhook(DEFAULT_TENANT, created[0].uuid).await.unwrap().unwrap().settings, full);
    assert_eq!(store.all_webhooks().await.unwrap().live, created);
    assert!(store.webhook(DEFAULT_TENANT, Uuid::nil()).await.unwrap().is_none());
}

pub(crate) async fn a_name_is_unique_among_the_living<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let first = store.create_webhook(DEFAULT_TENANT, settings("a"), at(1)).await.unwrap();
    let other = store.create_webhook(DEFAULT_TENANT, settings("b"), at(1)).await.unwrap();
    let taken = store.create_webhook(DEFAULT_TENANT, settings("a"), at(2)).await;
    assert!(matches!(taken, Err(StoreError::NameTaken)));
    let taken = store.update_webhook(DEFAULT_TENANT, other.uuid, 1, settings("a"), false, at(2)).await;
    assert!(matches!(taken, Err(StoreError::NameTaken)));
    store.update_webhook(DEFAULT_TENANT, first.uuid, 1, settings("a"), false, at(2)).await.expect("its own name");
    store.delete_webhook(DEFAULT_TENANT, first.uuid, at(3)).await.unwrap();
    store.create_webhook(DEFAULT_TENANT, settings("a"), at(4)).await.expect("the name is free");
}

pub(crate) async fn a_change_on_an_old_version_is_refused<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let created = store.create_webhook(DEFAULT_TENANT, settings("a"), at(1)).await.unwrap();
    let change = settings("renamed");
    let changed = store.update_webhook(DEFAULT_TENANT, created.uuid, 1, change.clone(), false, at(2)).await.unwrap();
    assert_eq!((changed.version, &changed.settings), (2, &change));
    assert_eq!((changed.seq, changed.created_at, changed.updated_at), (created.seq, at(1), at(2)));
    let late = store.update_webhook(DEFAULT_TENANT, created.uuid, 1, settings("late"), false, at(3)).await;
    assert!(matches!(late, Err(StoreError::Stale)));
    assert_eq!(store.webhook(DEFAULT_TENANT, created.uuid).await.unwrap().unwrap(), changed);
    let nobody = store.update_webhook(DEFAULT_TENANT, Uuid::nil(), 1, settings("x"), false, at(3)).await;
    assert!(matches!(nobody, Err(StoreError::NotFound)));
}

pub(crate) async fn a_change_can_close_the_circuit<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let created = store.create_webhook(DEFAULT_TENANT, settings("a"), at(1)).await.unwrap();
    let broken = WebhookHealth {
        consecutive_failures: 9,
        last_failure_at: Some(at(8)),
        last_error: Some("http 500".to_owned()),
        auto_disabled_at: Some(at(9)),
        ..Default::default()
    };
    let batch = SettleBatch {
        settlements: Vec::new(),
        health: vec![(created.seq, broken.clone())],
        is_urgent: false,
        fence: None,
    };
    store.settle(Arc::new(batch)).await.unwrap();
    let kept = store.update_webhook(DEFAULT_TENANT, created.uuid, 1, settings("a"), false, at(10)).await.unwrap();
    assert_eq!(kept.health, broken);
    let closed = store.update_webhook(DEFAULT_TENANT, created.uuid, 2, settings("a"), true, at(11)).await.unwrap();
    assert_eq!((closed.health.consecutive_failures, closed.health.auto_disabled_at), (0, None));
    assert_eq!(store.webhook(DEFAULT_TENANT, created.uuid).await.unwrap().unwrap(), closed);
}

pub(crate) async fn a_deleted_webhook_is_gone<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let created = store.create_webhook(DEFAULT_TENANT, settings("a"), at(1)).await.unwrap();
    let deleted = store.delete_webhook(DEFAULT_TENANT, created.uuid, at(2)).await.unwrap();
    assert_eq!(deleted.uuid, created.uuid);
    assert!(store.webhook(DEFAULT_TENANT, created.uuid).await.unwrap().is_none());
    assert!(store.webhooks(DEFAULT_TENANT).await.unwrap().is_empty());
    assert!(store.all_webhooks().await.unwrap().live.is_empty());
    let again = store.delete_webhook(DEFAULT_TENANT, created.uuid, at(3)).await;
    assert!(matches!(again, Err(StoreError::NotFound)));
    let next = store.create_webhook(DEFAULT_TENANT, settings("b"), at(4)).await.unwrap();
    assert!(next.seq > created.seq, "numbers are never used again");
}

pub(crate) async fn every_tenant_has_its_own_webhooks<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let other = tenant(&*store, "other").await;
    let mine = store.create_webhook(DEFAULT_TENANT, settings("a"), at(1)).await.unwrap();
    let theirs = store.create_webhook(other, settings("a"), at(1)).await.unwrap();
    assert_eq!(store.webhooks(other).await.unwrap(), std::slice::from_ref(&theirs));
    assert!(store.webhook(other, mine.uuid).await.unwrap().is_none());
    assert!(matches!(store.delete_webhook(other, mine.uuid, at(2)).await, Err(StoreError::NotFound)));
    assert_eq!(store.all_webhooks().await.unwrap().live, [mine, theirs]);
}

pub(crate) async fn a_token_is_found_by_its_hash_until_it_is_revoked<F: Fixture>() {
    let mut fixture = F::fresh(WIDE).await;
    let new = NewToken {
        tenant: DEFAULT_TENANT,
        name: "shipper".to_owned(),
        scopes: vec![Scope::Publish, Scope::Read],
        hash: [9; 32],
        expires_at: Some(at(1_000)),
        now: at(1),
    };
    let created = fixture.store().create_token(new.clone()).await.unwrap();
    fixture.restart().await;
    let store = fixture.store();
    let found = store.token_by_hash([9; 32]).await.unwrap().unwrap();
    assert_eq!((found.uuid, &found.scopes, found.expires_at), (created.uuid, &new.scopes, new.expires_at));
    assert_eq!((found.tenant, found.name.as_str(), found.created_at), (DEFAULT_TENANT, "shipper", at(1)));
    assert!(store.token_by_hash([8; 32]).await.unwrap().is_none());
    assert!(matches!(store.create_token(new).await, Err(StoreError::Conflict(_))));
    assert_eq!(store.tokens(DEFAULT_TENANT).await.unwrap().len(), 1);

    assert!(!store.revoke_token(TenantSeq(2), created.uuid, at(2)).await.unwrap());
    assert!(store.revoke_token(DEFAULT_TENANT, created.uuid, at(2)).await.unwrap());
    assert!(!store.revoke_token(DEFAULT_TENANT, created.uuid, at(3)).await.unwrap());
    assert!(store.token_by_hash([9; 32]).await.unwrap().is_none());
    assert!(store.tokens(DEFAULT_TENANT).await.unwrap().is_empty());
}

pub(crate) async fn a_store_that_works_says_so<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    for _ in 0..3 {
        fixture.store().check().await.unwrap();
    }
}

pub(crate) async fn a_webhook_is_turned_off_without_its_owner<F: Fixture>() {
    let mut fixture = F::fresh(WIDE).await;
    let created = fixture.store().create_webhook(DEFAULT_TENANT, settings("a"), at(1)).await.unwrap();
    let off = fixture.store().switch_off(created.seq, "gone", at(7)).await.unwrap().expect("it was on");
    assert_eq!(off.switched_off, Some(SwitchedOff { reason: "gone".to_owned(), at: at(7) }));
    assert_eq!((off.version, off.settings.enabled, off.updated_at), (2, false, at(7)));
    assert!(fixture.store().switch_off(created.seq, "again", at(8)).await.unwrap().is_none(), "it is off");
    fixture.restart().await;
    let store = fixture.store();
    assert_eq!(store.webhook(DEFAULT_TENANT, created.uuid).await.unwrap(), Some(off.clone()));
    let on = WebhookSettings { enabled: true, ..off.settings };
    let on = store.update_webhook(DEFAULT_TENANT, created.uuid, 2, on, true, at(9)).await.unwrap();
    assert_eq!(on.switched_off, None);
    store.delete_webhook(DEFAULT_TENANT, created.uuid, at(10)).await.unwrap();
    assert!(store.switch_off(created.seq, "gone", at(11)).await.unwrap().is_none(), "it is deleted");
}

/// Every page of webhooks, as names.
async fn pages(store: &dyn Store, q: Option<&str>, limit: u32) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    let mut next = page(limit);
    loop {
        let got = store.webhook_page(DEFAULT_TENANT, q, next).await.unwrap();
        pages.push(got.items.into_iter().map(|record| record.settings.name).collect());
        let Some(cursor) = got.next_cursor else { return pages };
        next = Page { limit, cursor: Some(cursor) };
    }
}

pub(crate) async fn webhooks_are_listed_in_pages_and_by_name<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let mut made = Vec::new();
    for name in ["SIEM one", "soar", "siem two", "%", "Ärger siem"] {
        made.push(store.create_webhook(DEFAULT_TENANT, settings(name), at(1)).await.unwrap());
    }
    let blue = tenant(&*store, "blue").await;
    let theirs = store.create_webhook(blue, settings("siem"), at(1)).await.unwrap();
    let all = pages(&*store, None, 2).await;
    assert_eq!(all, [vec!["SIEM one", "soar"], vec!["siem two", "%"], vec!["Ärger siem"]]);
    assert_eq!(pages(&*store, None, 5).await.len(), 1, "no page after the last");
    assert_eq!(pages(&*store, Some("SieM"), 2).await, [vec!["SIEM one", "siem two"], vec!["Ärger siem"]]);
    assert_eq!(pages(&*store, Some("%"), 2).await, [vec!["%"]], "no sign means more than itself");
    assert_eq!(store.webhook_count(DEFAULT_TENANT).await.unwrap(), 5);

    // One that is deleted meanwhile ends no listing.
    let first = store.webhook_page(DEFAULT_TENANT, None, page(2)).await.unwrap();
    store.delete_webhook(DEFAULT_TENANT, made[1].uuid, at(2)).await.unwrap();
    let next = Page { limit: 2, cursor: first.next_cursor };
    let second = store.webhook_page(DEFAULT_TENANT, None, next).await.unwrap();
    assert_eq!(second.items[0].uuid, made[2].uuid);
    for made_up in ["x".to_owned(), Uuid::nil().to_string(), theirs.uuid.to_string()] {
        let refused = store.webhook_page(DEFAULT_TENANT, None, Page { limit: 2, cursor: Some(made_up) }).await;
        assert!(matches!(refused, Err(StoreError::Cursor)));
    }
}

pub(crate) async fn tokens_and_tenants_are_listed_in_pages<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let blue = tenant(&*store, "blue").await;
    for (number, tenant) in [(1, blue), (2, blue), (3, DEFAULT_TENANT), (4, blue)] {
        let token = NewToken {
            tenant,
            name: number.to_string(),
            scopes: vec![Scope::Read],
            hash: [number; 32],
            expires_at: None,
            now: at(1),
        };
        store.create_token(token).await.unwrap();
    }
    let first = store.token_page(blue, page(2)).await.unwrap();
    assert_eq!(first.items.iter().map(|token| &*token.name).collect::<Vec<_>>(), ["1", "2"]);
    store.revoke_token(blue, first.items[1].uuid, at(2)).await.unwrap();
    let second = store.token_page(blue, Page { limit: 2, cursor: first.next_cursor }).await.unwrap();
    assert_eq!(second.items.iter().map(|token| &*token.name).collect::<Vec<_>>(), ["4"]);
    assert_eq!(second.next_cursor, None);

    tenant(&*store, "green").await;
    let first = store.tenant_page(page(2)).await.unwrap();
    assert_eq!(first.items.iter().map(|tenant| &*tenant.name).collect::<Vec<_>>(), ["default", "blue"]);
    let second = store.tenant_page(Page { limit: 2, cursor: first.next_cursor }).await.unwrap();
    assert_eq!(second.items.iter().map(|tenant| &*tenant.name).collect::<Vec<_>>(), ["green"]);
    assert_eq!(second.next_cursor, None);
}

pub(crate) async fn the_settings_of_a_tenant_have_a_cap<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let mut largest = settings("largest");
    let template = Shape::parse(&ShapeInput::Template(TemplateInput {
        template: "x".repeat(MAX_TEMPLATE_BYTES),
        content_type: "text/plain".to_owned(),
    }));
    largest.policy.shape = template.unwrap();
    let pattern = |number: usize| Pattern::parse(&format!("{number}.{}", "p".repeat(250))).unwrap();
    largest.topic_patterns = (0..MAX_PATTERNS).map(pattern).collect();
    let large = |name: String| WebhookSettings { name, ..largest.clone() };
    let mut made = Vec::new();
    let refused = loop {
        match store.create_webhook(DEFAULT_TENANT, large(made.len().to_string()), at(1)).await {
            Ok(record) => made.push(record),
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, StoreError::TooManySettings { max: MAX_TENANT_SETTINGS_BYTES, .. }), "{refused:?}");
    assert!((200..300).contains(&made.len()), "{} of 130 KB", made.len());
    let small = store.create_webhook(DEFAULT_TENANT, settings("small"), at(2)).await.unwrap();
    let refused = store.update_webhook(DEFAULT_TENANT, small.uuid, 1, large("x".to_owned()), false, at(3)).await;
    assert!(matches!(refused, Err(StoreError::TooManySettings { .. })), "a change is no way around it");
    store.update_webhook(DEFAULT_TENANT, made[0].uuid, 1, settings("less"), false, at(3)).await.expect("less is fine");
    let larger = store.update_webhook(DEFAULT_TENANT, small.uuid, 1, large("x".to_owned()), false, at(4)).await;
    larger.expect("there is room again");
    let blue = tenant(&*store, "blue").await;
    store.create_webhook(blue, large("theirs".to_owned()), at(5)).await.expect("another tenant has its own");
}
