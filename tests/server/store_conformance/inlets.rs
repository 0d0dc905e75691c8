//! Inlets: records that are looked up by their URL.

use postrider::inlet::{InletPatch, InletSettings, InletSignature, KeepInput};
use postrider::store::{MAX_TENANT_INLETS, StoreError, TenantKey};
use postrider::webhook::DEFAULT_TENANT;
use uuid::Uuid;

use crate::store_conformance::Fixture;
use crate::store_conformance::fixtures::{WIDE, at, page, tenant};

fn inlet(name: &str) -> InletSettings {
    let patch = InletPatch {
        name: Some(name.to_owned()),
        signature: Some(InletSignature("stripe".into())),
        secrets: Some(vec!["new \u{1F980}".to_owned(), "old".to_owned()]),
        tolerance_s: Some(60),
        topic: Some("stripe.{/type}".to_owned()),
        r#type: Some("/type".to_owned()),
        id: Some("shop:{/id}".to_owned()),
        keep: Some(KeepInput { headers: vec!["stripe-signature".to_owned()], bytes: true, ..KeepInput::default() }),
        enabled: Some(false),
    };
    InletSettings::create(&patch).unwrap()
}

pub(crate) async fn an_inlet_comes_back_with_all_its_settings<F: Fixture>() {
    let mut fixture = F::fresh(WIDE).await;
    let made = fixture.store().create_inlet(DEFAULT_TENANT, inlet("shop"), at(5)).await.unwrap();
    assert_eq!((made.uuid.get_version_num(), made.version, made.created_at), (4, 1, at(5)));
    fixture.restart().await;
    let store = fixture.store();
    assert_eq!(store.inlet_at(made.uuid).await.unwrap(), Some(made.clone()));
    assert_eq!(store.inlet(DEFAULT_TENANT, made.uuid).await.unwrap(), Some(made.clone()));
    assert_eq!(store.inlet_at(Uuid::nil()).await.unwrap(), None);

    let changed = store.update_inlet(DEFAULT_TENANT, made.uuid, 1, inlet("market"), at(6)).await.unwrap();
    assert_eq!((changed.version, changed.created_at, changed.updated_at), (2, at(5), at(6)));
    assert_eq!(store.inlet_at(made.uuid).await.unwrap(), Some(changed));
    let stale = store.update_inlet(DEFAULT_TENANT, made.uuid, 1, inlet("other"), at(7)).await;
    assert!(matches!(stale, Err(StoreError::Stale)), "{stale:?}");
    store.delete_inlet(DEFAULT_TENANT, made.uuid, at(8)).await.unwrap();
    assert_eq!(store.inlet_at(made.uuid).await.unwrap(), None);
    let again = store.delete_inlet(DEFAULT_TENANT, made.uuid, at(9)).await;
    assert!(matches!(again, Err(StoreError::NotFound)), "{again:?}");
}

pub(crate) async fn inlets_are_a_tenant_s_and_go_with_it<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let blue = tenant(&*store, "blue").await;
    let ours = store.create_inlet(DEFAULT_TENANT, inlet("shop"), at(1)).await.unwrap();
    let theirs = store.create_inlet(blue, inlet("shop"), at(1)).await.expect("names are a tenant's own");
    let taken = store.create_inlet(blue, inlet("shop"), at(2)).await;
    assert!(matches!(taken, Err(StoreError::NameTaken)), "{taken:?}");
    assert_eq!(store.inlet(blue, ours.uuid).await.unwrap(), None);
    let foreign = store.update_inlet(blue, ours.uuid, 1, inlet("x"), at(2)).await;
    assert!(matches!(foreign, Err(StoreError::NotFound)), "{foreign:?}");
    assert!(matches!(store.delete_inlet(blue, ours.uuid, at(2)).await, Err(StoreError::NotFound)));
    let other = store.create_inlet(blue, inlet("other"), at(2)).await.unwrap();
    let taken = store.update_inlet(blue, other.uuid, 1, inlet("shop"), at(3)).await;
    assert!(matches!(taken, Err(StoreError::NameTaken)), "{taken:?}");

    let first = store.inlet_page(blue, page(1)).await.unwrap();
    assert_eq!(first.items, std::slice::from_ref(&theirs));
    let mut second = page(1);
    second.cursor = first.next_cursor;
    let second = store.inlet_page(blue, second).await.unwrap();
    assert_eq!((second.items, second.next_cursor), (vec![other], None));

    for n in 2..MAX_TENANT_INLETS {
        store.create_inlet(blue, inlet(&n.to_string()), at(4)).await.unwrap();
    }
    let more = store.create_inlet(blue, inlet("more"), at(4)).await;
    assert!(matches!(more, Err(StoreError::TooManyInlets { max: MAX_TENANT_INLETS })), "{more:?}");
    store.delete_tenant(TenantKey::from(blue), false, at(5)).await.unwrap();
    assert_eq!(store.inlet_at(theirs.uuid).await.unwrap(), None);
    assert_eq!(store.inlet_at(ours.uuid).await.unwrap(), Some(ours));
}
