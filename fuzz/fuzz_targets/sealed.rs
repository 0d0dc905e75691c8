//! Sealed keys as they are read from a disk: what was not sealed here does not open, nor does what was changed or moved.
//! Input: a byte that says what is changed, and what is sealed, or taken for it.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use postrider::store::seal::{Belonging, MasterKey, Sealer};
use postrider::webhook::TenantSeq;
use uuid::Uuid;

static SEALERS: LazyLock<[Sealer; 2]> =
    LazyLock::new(|| [[3; 32], [4; 32]].map(|key| Sealer::new(&MasterKey::new(key)).expect("a sealer")));

fuzz_target!(|input: &[u8]| {
    let [sealer, other] = &*SEALERS;
    let here = Belonging { tenant: TenantSeq(1), webhook: Uuid::from_u128(5), field: "secret" };
    // One in 2^128 would open; 33 bytes before the text are the format, the key's id, the nonce and the tag.
    assert!(sealer.open(input, &here).is_err());
    let forged = [&[1], &sealer.seal(b"", &here).expect("it seals")[1..5], input].concat();
    assert!(sealer.open(&forged, &here).is_err());
    let Some((change, text)) = input.split_first() else { return };
    let sealed = sealer.seal(text, &here).expect("it seals");
    assert_eq!(sealer.open(&sealed, &here).as_ref().map(|opened| &***opened), Ok(text));
    let mut changed = sealed.clone();
    let at = usize::from(*change) * 251 % changed.len();
    changed[at] ^= 1 << (change % 8);
    assert!(sealer.open(&changed, &here).is_err());
    assert!(sealer.open(&sealed[..at], &here).is_err());
    assert!(sealer.open(&sealed, &Belonging { tenant: TenantSeq(2), ..here }).is_err());
    assert!(sealer.open(&sealed, &Belonging { webhook: Uuid::from_u128(6), ..here }).is_err());
    assert!(sealer.open(&sealed, &Belonging { field: "standard_secret", ..here }).is_err());
    assert!(other.open(&sealed, &here).is_err());
    let resealed = other.reseal(sealer, &sealed, &here).expect("it can be sealed under another key");
    assert_eq!(other.open(&resealed, &here).as_ref().map(|opened| &***opened), Ok(text));
});
