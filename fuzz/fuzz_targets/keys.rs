//! Secrets and keys as users give them: what is shown parses to the same key, and what it signs verifies.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postrider::signing::{Ed25519Key, Ed25519PublicKey, SECRET_CHARS, STANDARD_KEY_BYTES, Secret, StandardKey};
use postrider::signing::{decnet_signature, ed25519_signature, header, standard_signature};
use postrider::signing::{verify_decnet, verify_ed25519, verify_standard};
use postrider::store::seal::MasterKey;
use postrider_fuzz::NOW;

fn headers(signature_name: &'static str, signature: &str) -> http::HeaderMap {
    let now_s = NOW.seconds().to_string();
    let pairs = [(signature_name, signature), (header::WEBHOOK_ID, "m-1"), (header::WEBHOOK_TIMESTAMP, &now_s)];
    pairs.into_iter().map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value"))).collect()
}

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let body = input;
    if let Ok(secret) = Secret::parse(text) {
        assert!(SECRET_CHARS.contains(&text.chars().count()));
        assert_eq!(secret.expose(), text);
        let headers = headers(header::DECNET_SIGNATURE, &decnet_signature(&secret, body));
        assert_eq!(verify_decnet(&secret, &headers, body), Ok(()));
        assert!(verify_decnet(&secret, &headers, b"another").is_err());
    }
    if let Ok(key) = StandardKey::parse(text) {
        let shown = key.expose();
        assert_eq!(StandardKey::parse(&shown).as_ref(), Ok(&key));
        assert!(shown.starts_with(text.trim_end_matches('=')), "one spelling but for the padding");
        let bytes = (shown.len() - "whsec_".len()) / 4 * 3 - shown.matches('=').count();
        assert!(STANDARD_KEY_BYTES.contains(&bytes));
        let headers = headers(header::WEBHOOK_SIGNATURE, &standard_signature(&key, "m-1", NOW.seconds(), body));
        assert_eq!(verify_standard(&key, &headers, body, NOW, 0), Ok(()));
        assert!(verify_standard(&key, &headers, b"another", NOW, 0).is_err());
    }
    if let Ok(key) = Ed25519Key::parse(text) {
        let again = Ed25519Key::parse(&key.expose()).expect("what is shown parses");
        assert_eq!(again.public(), key.public());
        let headers = headers(header::WEBHOOK_SIGNATURE, &ed25519_signature(&key, "m-1", NOW.seconds(), body));
        assert_eq!(verify_ed25519(&key.public(), &headers, body, NOW, 0), Ok(()));
        assert!(verify_ed25519(&key.public(), &headers, b"another", NOW, 0).is_err());
    }
    if let Ok(key) = Ed25519PublicKey::parse(text) {
        assert_eq!(Ed25519PublicKey::parse(&key.to_string()), Ok(key));
        assert!(key.to_string().starts_with(text.trim_end_matches('=')));
    }
    if let Ok(key) = MasterKey::parse(text) {
        let hex: String = key.expose().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(MasterKey::parse(&hex).expect("hexadecimal digits").expose(), key.expose());
    }
});
