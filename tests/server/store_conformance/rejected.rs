//! Rejected messages of sources: what is kept of them is bounded.

use bytes::Bytes;
use postrider::store::rejected::{MAX_REJECTED_BYTES, MAX_REJECTED_BYTES_TOGETHER, NewRejected};
use postrider::webhook::DEFAULT_TENANT;

use crate::store_conformance::Fixture;
use crate::store_conformance::fixtures::{WIDE, at};

/// A message of `length` bytes, of which as many are kept as are.
fn message(number: usize, length: u64, attributes: usize) -> NewRejected {
    let kept = usize::try_from(length).unwrap().min(MAX_REJECTED_BYTES);
    NewRejected {
        source: "shop".to_owned(),
        tenant: DEFAULT_TENANT,
        origin_id: Some(number.to_string()),
        attributes: serde_json::json!({ "x": "x".repeat(attributes) }).to_string(),
        body: Bytes::from(vec![b'x'; kept]),
        length,
        reason: "no JSON".to_owned(),
        at: at(1),
    }
}

async fn kept(store: &dyn postrider::store::Store) -> u64 {
    store.rejected_counts().await.unwrap().into_iter().map(|(_, count)| count).sum()
}

pub(crate) async fn a_message_that_is_longer_than_all_that_is_kept_pushes_no_others_out<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let few: Vec<NewRejected> = (0..100).map(|number| message(number, 10, 0)).collect();
    assert_eq!(store.add_rejected(few).await.unwrap(), 0);
    assert_eq!(store.add_rejected(vec![message(100, 300 << 20, 0)]).await.unwrap(), 0);
    let more: Vec<NewRejected> = (101..300).map(|number| message(number, 10, 0)).collect();
    assert_eq!(store.add_rejected(more).await.unwrap(), 0);
    assert_eq!(kept(&*store).await, 300);
}

pub(crate) async fn what_came_beside_messages_counts_towards_their_bound<F: Fixture>() {
    let fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let (each, mut pushed_out) = (4 << 20, 0);
    for number in 0..128 {
        pushed_out += store.add_rejected(vec![message(number, 1, each)]).await.unwrap();
    }
    let most = usize::try_from(MAX_REJECTED_BYTES_TOGETHER).unwrap() / each;
    // The bound is looked at once in 64 messages.
    assert_eq!((kept(&*store).await, pushed_out), (most as u64 - 1, 128 - (most as u64 - 1)));
}
