//! Tests of signing, verification and rotation.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use zeroize::Zeroizing;

use super::*;
use crate::clock::UnixMicros;

/// The test vector that the Standard Webhooks libraries share.
const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
const SENT_S: i64 = 1_614_265_330;
const BODY: &[u8] = br#"{"test": 2432232314}"#;
const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

fn key() -> StandardKey {
    StandardKey::parse(KEY).unwrap()
}

fn request(signatures: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::WEBHOOK_ID, ID.parse().unwrap());
    headers.insert(header::WEBHOOK_TIMESTAMP, SENT_S.into());
    headers.insert(header::WEBHOOK_SIGNATURE, signatures.parse().unwrap());
    headers
}

fn verify(headers: &HeaderMap, seconds_later: i64) -> Result<(), VerifyError> {
    let now = UnixMicros((SENT_S + seconds_later) * 1_000_000);
    verify_standard(&key(), headers, BODY, now, DEFAULT_TOLERANCE_S)
}

#[test]
fn the_published_standard_webhooks_vector_is_signed_and_verified() {
    assert_eq!(standard_signature(&key(), ID, SENT_S, BODY), SIGNATURE);
    assert_eq!(verify(&request(SIGNATURE), 0), Ok(()));
}

#[test]
fn a_key_goes_out_as_it_came_in() {
    assert_eq!(*key().expose(), KEY);
    let made = StandardKey::generate();
    assert_eq!(StandardKey::parse(&made.expose()).unwrap(), made);
    assert_ne!(StandardKey::generate(), made);
    let secret = Secret::generate();
    assert_eq!(secret.expose().len(), 43);
    assert_eq!(Secret::parse(secret.expose()).unwrap(), secret);
    assert_ne!(Secret::generate(), secret);
}

#[test]
fn keys_of_the_wrong_form_are_refused() {
    let chars = |text: &str| Secret::parse(text).unwrap_err();
    assert_eq!(chars(&"ü".repeat(15)), KeyError::SecretLength { chars: 15 });
    assert_eq!(chars(&"ü".repeat(257)), KeyError::SecretLength { chars: 257 });
    for (text, number) in [("0123456789abcdef\n", 17), ("\r0123456789abcdef", 1), ("01234567\u{7f}89abcdef", 9)] {
        assert_eq!(chars(text), KeyError::SecretControl { number });
        assert!(Secret::kept(text).is_ok(), "one that a store has goes on");
    }
    assert_eq!((chars("…"), chars("")), (KeyError::SecretMasked, KeyError::SecretLength { chars: 0 }));
    let foreign = |text: &str| Secret::parse_foreign(text).map(drop);
    assert_eq!((foreign("a"), foreign("whsec_stripe")), (Ok(()), Ok(())));
    assert_eq!(foreign(""), Err(KeyError::ForeignSecretLength { chars: 0 }));
    assert_eq!(foreign(&"a".repeat(257)), Err(KeyError::ForeignSecretLength { chars: 257 }));
    assert_eq!(
        (foreign("a\n"), foreign("…")),
        (Err(KeyError::SecretControl { number: 2 }), Err(KeyError::SecretMasked))
    );
    assert!(Secret::parse(&"ü".repeat(16)).is_ok() && Secret::parse(&"ü".repeat(256)).is_ok());
    let reason = |text: &str| StandardKey::parse(text).unwrap_err().to_string();
    assert!(reason("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").contains("does not begin"));
    assert!(reason("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS!").contains("no base64"));
    assert!(reason("whsec_AAAA").contains("too short or too long"));
    assert!(reason(&format!("whsec_{}", STANDARD.encode([0; 65]))).contains("too short or too long"));
    let padded = format!("whsec_{}", STANDARD.encode([7; 25]));
    assert_eq!(StandardKey::parse(padded.trim_end_matches('=')).unwrap(), StandardKey::parse(&padded).unwrap());
}

#[test]
fn nothing_of_a_key_is_printed() {
    let mut keys = SigningKeys::new(Secret::parse("0123456789abcdef").unwrap(), key());
    keys.need_ed25519();
    assert_eq!(
        format!("{keys:?}"),
        "SigningKeys { decnet: Secret(…), standard: StandardKey(…), ed25519: Some(Ed25519Key(…)), since: None, older: [] }"
    );
}

#[test]
fn one_signature_of_several_is_enough_and_unknown_versions_are_passed_over() {
    let other = standard_signature(&StandardKey::generate(), ID, SENT_S, BODY);
    assert_eq!(verify(&request(&format!("v1a,AAAA {other} {SIGNATURE}")), 0), Ok(()));
    let v2 = SIGNATURE.replace("v1", "v2");
    for wrong in [&*other, "v1,", "v1,not base64", &v2, "", &SIGNATURE[3..]] {
        assert_eq!(verify(&request(wrong), 0), Err(VerifyError::NoMatch), "{wrong}");
    }
}

#[test]
fn a_request_that_is_too_old_or_from_the_future_is_refused() {
    let request = request(SIGNATURE);
    assert_eq!(verify(&request, 300), Ok(()));
    assert_eq!(verify(&request, -300), Ok(()));
    assert_eq!(verify(&request, 301), Err(VerifyError::OutsideTolerance(301)));
    assert_eq!(verify(&request, -301), Err(VerifyError::OutsideTolerance(301)));
}

#[test]
fn a_changed_request_does_not_verify() {
    let mut headers = request(SIGNATURE);
    headers.insert(header::WEBHOOK_ID, "msg_other".parse().unwrap());
    assert_eq!(verify(&headers, 0), Err(VerifyError::NoMatch));
    let mut headers = request(SIGNATURE);
    headers.insert(header::WEBHOOK_TIMESTAMP, (SENT_S + 1).into());
    assert_eq!(verify(&headers, 0), Err(VerifyError::NoMatch));
    headers.insert(header::WEBHOOK_TIMESTAMP, "soon".parse().unwrap());
    assert_eq!(verify(&headers, 0), Err(VerifyError::MalformedHeader("webhook-timestamp")));
    for name in [header::WEBHOOK_ID, header::WEBHOOK_TIMESTAMP, header::WEBHOOK_SIGNATURE] {
        let mut headers = request(SIGNATURE);
        headers.remove(name);
        assert_eq!(verify(&headers, 0), Err(VerifyError::MissingHeader(name)));
    }
}

#[test]
fn a_decnet_signature_covers_the_body() {
    let secret = Secret::parse("0123456789abcdef").unwrap();
    let signature = decnet_signature(&secret, BODY);
    let mut headers = HeaderMap::new();
    assert_eq!(verify_decnet(&secret, &headers, BODY), Err(VerifyError::MissingHeader(header::DECNET_SIGNATURE)));
    headers.insert(header::DECNET_SIGNATURE, signature.parse().unwrap());
    assert_eq!(verify_decnet(&secret, &headers, BODY), Ok(()));
    assert_eq!(verify_decnet(&secret, &headers, b"{}"), Err(VerifyError::NoMatch));
    assert_eq!(verify_decnet(&Secret::generate(), &headers, BODY), Err(VerifyError::NoMatch));
    for malformed in [&signature[7..], &signature[..70], "sha256=", "sha1=00", &signature.replace('=', "=g")] {
        headers.insert(header::DECNET_SIGNATURE, malformed.parse().unwrap());
        let expected = Err(VerifyError::MalformedHeader(header::DECNET_SIGNATURE));
        assert_eq!(verify_decnet(&secret, &headers, BODY), expected, "{malformed}");
    }
}

/// The attack that the second key prevents.
#[test]
fn a_decnet_signature_is_no_standard_signature_of_what_an_attacker_wrote_into_the_body() {
    let keys = SigningKeys::generate();
    let inner = br#"{"forged":true}"#;
    let signed = [b"msg.1614265330.".as_slice(), inner].concat();
    let code = hex::decode::<32>(&decnet_signature(&keys.decnet, &signed)[DECNET_PREFIX.len()..]).unwrap();
    let mut headers = request(&format!("v1,{}", STANDARD.encode(code)));
    headers.insert(header::WEBHOOK_ID, "msg".parse().unwrap());
    let now = UnixMicros(SENT_S * 1_000_000);
    let verified = |key: &StandardKey| verify_standard(key, &headers, inner, now, DEFAULT_TOLERANCE_S);
    assert_eq!(verified(&keys.standard), Err(VerifyError::NoMatch));
    // With one key for both it would have passed.
    let shared = StandardKey::from_bytes(Zeroizing::new(keys.decnet.expose().as_bytes().to_vec()));
    assert_eq!(verified(&shared), Ok(()));
}

#[test]
fn schemes_are_named_as_in_the_settings() {
    for scheme in Scheme::ALL {
        assert_eq!(scheme.as_str().parse(), Ok(scheme));
        assert_eq!(profile(scheme.as_str()).unwrap().profile().name, scheme.as_str());
    }
    assert_eq!("Decnet".parse::<Scheme>(), Err(UnknownScheme("Decnet".to_owned())));
}

/// The vector that the Standard Webhooks specification and Svix publish.
const PRIVATE: &str = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
const PUBLIC: &str = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";
const V1A: &str = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==";

#[test]
fn the_published_ed25519_vector_is_signed_and_verified() {
    let pair = Ed25519Key::parse(PRIVATE).unwrap();
    let public = Ed25519PublicKey::parse(PUBLIC).unwrap();
    assert_eq!((pair.public(), pair.public().to_string()), (public, PUBLIC.to_owned()));
    assert_eq!(ed25519_signature(&pair, ID, SENT_S, BODY), V1A);
    let now = UnixMicros(SENT_S * 1_000_000);
    let verified = |signatures: &str, body: &[u8], now| {
        verify_ed25519(&public, &request(signatures), body, now, DEFAULT_TOLERANCE_S)
    };
    assert_eq!(verified(V1A, BODY, now), Ok(()));
    assert_eq!(verified(&format!("v1,AAAA {SIGNATURE} {V1A}"), BODY, now), Ok(()));
    assert_eq!(verified(V1A, b"{}", now), Err(VerifyError::NoMatch));
    assert_eq!(verified(SIGNATURE, BODY, now), Err(VerifyError::NoMatch));
    assert_eq!(verified(&V1A.replace("v1a", "v1"), BODY, now), Err(VerifyError::NoMatch));
    assert_eq!(verified(V1A, BODY, UnixMicros(0)), Err(VerifyError::OutsideTolerance(SENT_S.unsigned_abs())));
    assert_eq!(verify(&request(&format!("{V1A} {SIGNATURE}")), 0), Ok(()));
}

#[test]
fn an_ed25519_key_is_read_with_and_without_its_public_half() {
    let pair = Ed25519Key::parse(PRIVATE).unwrap();
    assert_eq!(*pair.expose(), PRIVATE);
    let seed = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbc=";
    assert_eq!(Ed25519Key::parse(seed).unwrap(), pair);
    assert_eq!(Ed25519Key::parse(seed.trim_end_matches('=')).unwrap(), pair);
    let made = Ed25519Key::generate();
    assert_eq!(Ed25519Key::parse(&made.expose()).unwrap(), made);
    assert_ne!(made, pair);

    let reason = |text: &str| Ed25519Key::parse(text).unwrap_err().to_string();
    assert!(reason(PUBLIC).contains("does not begin with whsk_"));
    assert!(reason("whsk_!").contains("no base64"));
    assert!(reason("whsk_AAAA").contains("too short or too long"));
    assert!(reason(&format!("whsk_{}", STANDARD.encode([7; 63]))).contains("too short or too long"));
    assert!(reason(&format!("whsk_{}", STANDARD.encode([7; 64]))).contains("belongs to another"));
    let reason = |text: &str| Ed25519PublicKey::parse(text).unwrap_err().to_string();
    assert!(reason(PRIVATE).contains("does not begin with whpk_"));
    assert!(reason("whpk_!").contains("no base64"));
    assert!(reason(&format!("whpk_{}", STANDARD.encode([7; 33]))).contains("too short or too long"));
}

#[test]
fn signatures_beyond_the_limit_are_not_looked_at() {
    let others = |count: usize| format!("{}{SIGNATURE}", "v1,AAAA ".repeat(count));
    assert_eq!(verify(&request(&others(MAX_SIGNATURES - 1)), 0), Ok(()));
    assert_eq!(verify(&request(&others(MAX_SIGNATURES)), 0), Err(VerifyError::NoMatch));
}

#[test]
fn the_previous_secret_verifies_by_a_header_of_its_own() {
    let (old, new) = (Secret::generate(), Secret::generate());
    let mut headers = HeaderMap::new();
    headers.insert(header::DECNET_SIGNATURE, decnet_signature(&new, BODY).parse().unwrap());
    assert_eq!(verify_decnet(&old, &headers, BODY), Err(VerifyError::NoMatch));
    headers.insert(header::DECNET_SIGNATURE_PREVIOUS, decnet_signature(&old, BODY).parse().unwrap());
    assert_eq!(verify_decnet(&old, &headers, BODY), Ok(()));
    assert_eq!(verify_decnet(&new, &headers, BODY), Ok(()));
    assert_eq!(verify_decnet(&Secret::generate(), &headers, BODY), Err(VerifyError::NoMatch));
    headers.insert(header::DECNET_SIGNATURE_PREVIOUS, "sha256=what".parse().unwrap());
    assert_eq!(verify_decnet(&new, &headers, BODY), Ok(()));
}
