//! Ids of deliveries, which are also cursors: each names one delivery or none, and comes back from it.
//! Input: the text of an id, or the 16 bytes of a key and 16 of an id.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postrider::delivery::id::{DeliveryIds, DeliveryKey, EventSeq};
use postrider::webhook::WebhookSeq;
use uuid::Uuid;

/// Numbers have so many bits.
const MASK: i64 = (1 << 61) - 1;

fn check(ids: &DeliveryIds, id: Uuid) {
    if let Some(key) = ids.decode(id) {
        assert_eq!(ids.encode(key), id);
        assert!((0..=MASK).contains(&key.event.0) && (0..=MASK).contains(&key.webhook.0));
        assert_eq!(id.get_version_num(), 8);
    } else {
        assert!(id.get_version_num() != 8 || id.get_variant() != uuid::Variant::RFC4122, "{id} has the form of an id");
    }
}

fuzz_target!(|input: &[u8]| {
    if let Some(id) = std::str::from_utf8(input).ok().and_then(|text| Uuid::try_parse(text).ok()) {
        check(&DeliveryIds::new(&[7; 16]), id);
    }
    let Some((key, rest)) = input.split_first_chunk::<16>() else { return };
    let Some((id, _)) = rest.split_first_chunk::<16>() else { return };
    let ids = DeliveryIds::new(key);
    check(&ids, Uuid::from_bytes(*id));
    // Any pair of numbers is the name of itself.
    let number = |bytes: &[u8]| bytes.iter().fold(0_i64, |number, byte| (number << 8 | i64::from(*byte)) & MASK);
    let named = DeliveryKey { event: EventSeq(number(&id[..8])), webhook: WebhookSeq(number(&id[8..])) };
    assert_eq!(ids.decode(ids.encode(named)), Some(named));
});
