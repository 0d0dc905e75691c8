//! Erasing the payload of an event.

use postrider::delivery::DeliveryState;
use postrider::store::{ERASED, ExchangeBlob, StoreError};
use postrider::webhook::{DEFAULT_TENANT, TenantSeq};

use super::Fixture;
use super::fixtures::{WIDE, accept, at, delivered, delivery, failed, in_memory, key, settle, webhooks};

pub(crate) async fn an_erased_payload_is_gone_and_the_record_stays<F: Fixture>() {
    let mut fixture = F::fresh(WIDE).await;
    let store = fixture.store();
    let [there, waiting, held, under_way] = webhooks(&*store).await;
    let seq = accept(&*store, in_memory("e1", &[there, waiting, held, under_way])).await;
    let other = accept(&*store, in_memory("e2", &[there])).await;
    let bytes = store.event(DEFAULT_TENANT, "e2").await.unwrap().unwrap().event.body().len() as u64;
    settle(&*store, vec![delivered(key(seq, there), 1), failed(key(seq, waiting), 1, at(400))]).await;
    settle(&*store, vec![failed(key(seq, waiting), 2, at(500)), delivered(key(other, there), 1)]).await;

    let keys = || [there, waiting, held].map(|webhook| key(seq, webhook)).to_vec();
    let of_another = store.erase_payload(TenantSeq(2), seq, keys(), at(600)).await;
    assert!(matches!(of_another, Err(StoreError::NotFound)), "{of_another:?}");
    let mut changed = store.erase_payload(DEFAULT_TENANT, seq, keys(), at(600)).await.unwrap();
    changed.sort_unstable();
    assert_eq!(changed, [key(seq, waiting), key(seq, held)]);

    for is_restarted in [false, true] {
        if is_restarted {
            fixture.restart().await;
        }
        let store = fixture.store();
        let erased = store.event(DEFAULT_TENANT, "e1").await.unwrap().unwrap();
        assert!(erased.event.is_erased() && erased.event.body().is_empty(), "{erased:?}");
        assert_eq!(
            erased.event.topic().as_str(),
            store.event(DEFAULT_TENANT, "e2").await.unwrap().unwrap().event.topic().as_str()
        );
        let state = async |webhook| delivery(&*store, key(seq, webhook)).await.state;
        assert_eq!(state(there).await, DeliveryState::Delivered);
        assert_eq!(state(under_way).await, DeliveryState::Pending, "it was not among the keys");
        for webhook in [waiting, held] {
            let ended = delivery(&*store, key(seq, webhook)).await;
            assert_eq!((ended.state, ended.reason.as_deref()), (DeliveryState::Discarded, Some(ERASED)));
        }
        for (webhook, attempts) in [(there, 1), (waiting, 2)] {
            let log = store.attempts(key(seq, webhook)).await.unwrap();
            assert_eq!(log.len(), attempts);
            assert!(
                log.iter().all(|attempt| attempt.response.is_empty() && attempt.exchange == ExchangeBlob::default())
            );
        }
        let kept = store.attempts(key(other, there)).await.unwrap();
        assert!(!kept[0].response.is_empty() && kept[0].exchange != ExchangeBlob::default(), "another's is kept");
        assert_eq!(store.stored_bytes(DEFAULT_TENANT), bytes);
        let counted = store.stats(DEFAULT_TENANT).await.unwrap();
        assert_eq!((counted.pending, counted.delivered, counted.discarded), (1, 2, 2));
    }
}
