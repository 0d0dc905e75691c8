//! A request as a receiver gets it, headers and body: verification answers, and the diagnosis agrees with it.
//! Input: the body; then headers, one a part, as `name: value`. A `{decnet}`, `{standard}` or `{ed25519}` in a value
//! stands for the right signature, so that requests that verify are found too.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use postrider::signing::{Ed25519Key, Head, ReceiverKey, ReceiverKeys, Scheme, Secret, StandardKey};
use postrider::signing::{decnet_signature, ed25519_signature, standard_signature};
use postrider::signing::{diagnose, header, profiles, verify, verify_decnet, verify_ed25519, verify_standard};
use postrider_fuzz::{NOW, parts};

struct Keys {
    decnet: Secret,
    standard: StandardKey,
    ed25519: Ed25519Key,
}

static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let seed = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    Keys {
        decnet: Secret::parse("correct-horse-battery").expect("a secret"),
        standard: StandardKey::parse(&format!("whsec_{seed}")).expect("a key"),
        ed25519: Ed25519Key::parse(&format!("whsk_{seed}")).expect("a key"),
    }
});
/// How old a request may be, in seconds.
const TOLERANCE_S: u64 = 300;

fn replaced(value: &[u8], placeholder: &str, signature: &str) -> Vec<u8> {
    match value.windows(placeholder.len()).position(|window| window == placeholder.as_bytes()) {
        Some(at) => [&value[..at], signature.as_bytes(), &value[at + placeholder.len()..]].concat(),
        None => value.to_vec(),
    }
}

fuzz_target!(|input: &[u8]| {
    let mut parts = parts(input);
    let body = parts.next().unwrap_or_default();
    let keys = &*KEYS;
    let now_s = NOW.seconds();
    let signatures = [
        ("{decnet}", decnet_signature(&keys.decnet, body)),
        ("{standard}", standard_signature(&keys.standard, "m-1", now_s, body)),
        ("{ed25519}", ed25519_signature(&keys.ed25519, "m-1", now_s, body)),
        ("{now}", now_s.to_string()),
    ];
    let mut headers = http::HeaderMap::new();
    for line in parts.take(16) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let value =
            signatures.iter().fold(line[colon + 1..].trim_ascii().to_vec(), |value, (placeholder, signature)| {
                replaced(&value, placeholder, signature)
            });
        let (name, value) = (http::HeaderName::from_bytes(&line[..colon]), http::HeaderValue::from_bytes(&value));
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let public = keys.ed25519.public();
    let verified = [
        verify_decnet(&keys.decnet, &headers, body).is_ok(),
        verify_standard(&keys.standard, &headers, body, NOW, TOLERANCE_S).is_ok(),
        verify_ed25519(&public, &headers, body, NOW, TOLERANCE_S).is_ok(),
    ];
    // By profiles, none verifies that would not by the code of its own.
    let receiver = [
        ReceiverKey::Secret(keys.decnet.clone()),
        ReceiverKey::Standard(keys.standard.clone()),
        ReceiverKey::Ed25519(public),
    ];
    let head = Head { method: "POST", path: "/", headers: &headers };
    for plan in profiles() {
        let found = verify(plan, &receiver, head, body, NOW, TOLERANCE_S);
        let own = Scheme::ALL.iter().position(|scheme| scheme.as_str() == plan.profile().name);
        assert!(found.is_err() || own.is_none_or(|own| verified[own]), "{}: {found:?}", plan.profile().name);
    }
    // Nothing but the right code verifies.
    let has = |name: &str, code: &str| {
        headers.get_all(name).iter().any(|value| String::from_utf8_lossy(value.as_bytes()).contains(code))
    };
    let decnet = signatures[0].1.to_ascii_lowercase();
    let is_decnet = [header::DECNET_SIGNATURE, header::DECNET_SIGNATURE_PREVIOUS].iter().any(|name| {
        headers.get_all(*name).iter().any(|value| value.as_bytes().to_ascii_lowercase() == decnet.as_bytes())
    });
    assert!(!verified[0] || is_decnet);
    assert!(!verified[1] || has(header::WEBHOOK_SIGNATURE, "v1,"));
    assert!(!verified[2] || has(header::WEBHOOK_SIGNATURE, "v1a,"));
    let receiver = ReceiverKeys {
        decnet: Some(keys.decnet.clone()),
        standard: Some(keys.standard.clone()),
        ed25519: Some(public),
    };
    let findings = diagnose(&receiver, &headers, body, NOW, TOLERANCE_S);
    assert_eq!(findings.iter().map(|finding| finding.scheme).collect::<Vec<_>>(), Scheme::ALL);
    for (finding, verified) in findings.iter().zip(verified) {
        assert_eq!(finding.result.is_ok(), verified, "{finding:?}");
        if let Err(diagnosis) = &finding.result {
            let text = diagnosis.to_string();
            assert!(!diagnosis.causes.is_empty() && !text.is_empty());
            assert!(!text.contains(keys.decnet.expose()), "{text:?} shows the secret");
        }
    }
});
