//! A signature profile of a user's own, as JSON: one that is taken verifies what it signs, with its own key and no other, and
//! comes back from what is shown of it. Input: the profile; then a body.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postrider::signing::{
    Head, ReceiverKey, Secret, SignatureInput, Signatures, Signing, SigningKeys, StandardKey, Unverified, verify,
};
use postrider_fuzz::{NOW, parts};

fn keys(text: &str) -> SigningKeys {
    let mut keys = SigningKeys::new(Secret::parse(text).expect("a secret"), StandardKey::generate());
    keys.need_ed25519();
    keys
}

fn receiver(keys: &SigningKeys) -> [ReceiverKey; 3] {
    let public = keys.ed25519.as_ref().expect("a pair").public();
    [
        ReceiverKey::Secret(keys.decnet.clone()),
        ReceiverKey::Standard(keys.standard.clone()),
        ReceiverKey::Ed25519(public),
    ]
}

fuzz_target!(|input: &[u8]| {
    let mut parts = parts(input);
    let Ok(given) = serde_json::from_slice::<SignatureInput>(parts.next().unwrap_or_default()) else { return };
    let body = parts.next().unwrap_or_default();
    let Ok(signatures) = Signatures::parse(&[given]) else { return };
    let shown = serde_json::to_string(&signatures.inputs()).expect("JSON");
    let again: Vec<SignatureInput> = serde_json::from_str(&shown).expect("what is shown is taken");
    assert_eq!(Signatures::parse(&again).as_ref(), Ok(&signatures));
    let (own, other) = (keys("correct-horse-battery"), keys("another-horse-battery"));
    assert!(signatures.check_keys(&own).is_ok(), "one signature is confused with none");
    for plan in signatures.others() {
        let mut headers = http::HeaderMap::new();
        let signing = Signing {
            method: "POST",
            path: "/hook",
            id: "msg_1",
            now: NOW,
            body,
            event_id: "e",
            kind: "",
            topic: None,
        };
        let push = |name: &str, value: &[u8]| {
            let name = http::HeaderName::from_bytes(name.as_bytes()).expect("a name");
            headers.append(name, http::HeaderValue::from_bytes(value).expect("a value"));
            Ok::<(), std::convert::Infallible>(())
        };
        let Ok(()) = plan.sign(&own, &signing, push);
        let head = Head { method: "POST", path: "/hook", headers: &headers };
        let found = verify(plan, &receiver(&own), head, body, NOW, 0);
        // Two parts of it may have one header.
        assert!(matches!(found, Ok(_) | Err(Unverified::Malformed(_))), "{shown}: {found:?}");
        assert!(verify(plan, &receiver(&other), head, body, NOW, 0).is_err(), "{shown}");
    }
});
