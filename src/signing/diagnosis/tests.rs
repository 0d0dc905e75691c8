//! Each known mistake, made on purpose and found.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE};
use http::HeaderMap;
use proptest::prelude::*;

use super::*;
use crate::signing::{Ed25519Key, decnet_signature, ed25519_signature, standard_signature};

const NOW: UnixMicros = UnixMicros(1_790_000_000_000_000);
const ID: &str = "msg_1";
const SECRET: &str = "Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5LXN0YXBsZQ";
const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const BODY: &[u8] = br#"{"id":"evt-1","payload":{"n":1.10,"t":"a b"},"topic":"order.paid","ts":"","type":"","v":1}"#;

fn keys() -> ReceiverKeys {
    ReceiverKeys {
        decnet: Some(Secret::parse(SECRET).unwrap()),
        standard: Some(StandardKey::parse(KEY).unwrap()),
        ed25519: None,
    }
}

fn hmac(key: &[u8], content: &[u8]) -> Vec<u8> {
    KeyedMac::new(key).over(&[content]).finalize().into_bytes().to_vec()
}

fn full(body: &[u8]) -> Vec<u8> {
    [format!("{ID}.{}.", NOW.seconds()).as_bytes(), body].concat()
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from_digit(digit.into(), 16).unwrap())
        .collect()
}

fn headers(standard: &str, decnet: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::WEBHOOK_ID, ID.parse().unwrap());
    headers.insert(header::WEBHOOK_TIMESTAMP, NOW.seconds().into());
    headers.insert(header::WEBHOOK_SIGNATURE, standard.parse().unwrap());
    headers.insert(header::DECNET_SIGNATURE, decnet.parse().unwrap());
    headers.insert(header::DECNET_EVENT_ID, "evt-1".parse().unwrap());
    headers
}

fn good() -> HeaderMap {
    let keys = keys();
    let standard = standard_signature(&keys.standard.unwrap(), ID, NOW.seconds(), BODY);
    headers(&standard, &decnet_signature(&keys.decnet.unwrap(), BODY))
}

fn causes(headers: &HeaderMap, body: &[u8], scheme: Scheme) -> Vec<Cause> {
    let findings = diagnose(&keys(), headers, body, NOW, 300);
    let finding = findings.into_iter().find(|finding| finding.scheme == scheme).unwrap();
    finding.result.unwrap_err().causes
}

fn standard_causes(signature: &str) -> Vec<Cause> {
    causes(&headers(signature, "sha256="), BODY, Scheme::Standard)
}

fn decnet_causes(signature: &str) -> Vec<Cause> {
    causes(&headers("v1,", signature), BODY, Scheme::Decnet)
}

#[test]
fn a_request_that_is_in_order_matches() {
    let findings = diagnose(&keys(), &good(), BODY, NOW, 300);
    assert_eq!(findings.len(), 2);
    assert!(findings.iter().all(|finding| finding.result == Ok(Match::Newest)), "{findings:?}");
    assert!(diagnose(&ReceiverKeys::default(), &good(), BODY, NOW, 300).is_empty());
    assert!(ReceiverKeys::default().is_empty() && !keys().is_empty());
}

#[test]
fn a_match_says_whether_the_key_is_the_newest() {
    let mut headers = good();
    let (other, secret) = (StandardKey::generate(), Secret::generate());
    let newer = standard_signature(&other, ID, NOW.seconds(), BODY);
    let both = format!("{newer} {}", headers[header::WEBHOOK_SIGNATURE].to_str().unwrap());
    headers.insert(header::WEBHOOK_SIGNATURE, both.parse().unwrap());
    let previous = headers.insert(header::DECNET_SIGNATURE, decnet_signature(&secret, BODY).parse().unwrap());
    headers.insert(header::DECNET_SIGNATURE_PREVIOUS, previous.unwrap());
    let findings = diagnose(&keys(), &headers, BODY, NOW, 300);
    assert!(findings.iter().all(|finding| finding.result == Ok(Match::Older)), "{findings:?}");
}

#[test]
fn another_key_is_told_from_a_changed_body() {
    let other = standard_signature(&StandardKey::generate(), ID, NOW.seconds(), BODY);
    assert_eq!(standard_causes(&other), [Cause::OtherKey]);
    assert_eq!(decnet_causes(&decnet_signature(&Secret::generate(), BODY)), [Cause::OtherKey]);
    assert_eq!(causes(&good(), b"", Scheme::Decnet), [Cause::EmptyBody]);
}

#[test]
fn what_became_of_the_body_is_found() {
    let pretty = r#"{
  "v": 1, "type": "", "ts": "", "topic": "order.paid",
  "payload": { "t": "a b", "n": 1.10 }, "id": "evt-1"
}"#;
    let spaced = String::from_utf8(BODY.to_vec()).unwrap().replace("\":", "\": ");
    let escaped = pretty.replace("a b", r"a\u0020b");
    let marked = format!("\u{feff}{spaced}");
    for (body, change) in [
        (pretty.as_bytes().to_vec(), BodyChange::Reserialised),
        (escaped.into_bytes(), BodyChange::Reserialised),
        (spaced.into_bytes(), BodyChange::Spaced),
        (marked.into_bytes(), BodyChange::Spaced),
        ([BODY, b"\n"].concat(), BodyChange::LineBreakAdded),
        ([BODY, b"\r\n"].concat(), BodyChange::LineBreakAdded),
        (["\u{feff}".as_bytes(), BODY].concat(), BodyChange::ByteOrderMark),
    ] {
        for scheme in [Scheme::Decnet, Scheme::Standard] {
            let found = causes(&good(), &body, scheme);
            assert_eq!(found, [Cause::Body(change)], "{}", String::from_utf8_lossy(&body));
        }
    }
    let secret = Secret::parse(SECRET).unwrap();
    for (sent, received, change) in [
        (b"a: 1\nb: 2".as_slice(), b"a: 1\r\nb: 2".as_slice(), BodyChange::ToCrLf),
        (b"a: 1\r\nb: 2", b"a: 1\nb: 2", BodyChange::ToLf),
        (b"a: 1\n", b"a: 1", BodyChange::LineBreakLost),
        (b"a: 1\r\n", b"a: 1", BodyChange::LineBreakLost),
    ] {
        let headers = headers("v1,", &decnet_signature(&secret, sent));
        assert_eq!(causes(&headers, received, Scheme::Decnet), [Cause::Body(change)]);
    }
}

#[test]
fn a_clock_or_its_unit_is_named() {
    let later = UnixMicros(NOW.0 + 3_600_000_000);
    let at = |now, headers: &HeaderMap| {
        diagnose(&keys(), headers, BODY, now, 300)[1].result.as_ref().unwrap_err().causes.clone()
    };
    assert_eq!(at(later, &good()), [Cause::Clock { late_s: 3_600, tolerance_s: 300 }]);
    let earlier = UnixMicros(NOW.0 - 301_000_000);
    assert_eq!(at(earlier, &good()), [Cause::Clock { late_s: -301, tolerance_s: 300 }]);

    let key = StandardKey::parse(KEY).unwrap();
    let mut headers = good();
    let ms = NOW.seconds() * 1_000;
    headers.insert(header::WEBHOOK_TIMESTAMP, ms.into());
    let signature = standard_signature(&key, ID, ms, BODY);
    headers.insert(header::WEBHOOK_SIGNATURE, signature.parse().unwrap());
    assert_eq!(at(NOW, &headers), [Cause::Milliseconds]);
    // Signed in milliseconds, sent in seconds.
    headers.insert(header::WEBHOOK_TIMESTAMP, NOW.seconds().into());
    assert_eq!(at(NOW, &headers), [Cause::OtherTimestamp("the same time in milliseconds")]);
    headers.insert(header::WEBHOOK_TIMESTAMP, "2026-09-21T14:13:20Z".parse().unwrap());
    assert_eq!(at(NOW, &headers)[1], Cause::TimestampForm);
    // A clock that is wrong beside a key that is another.
    let other = standard_signature(&StandardKey::generate(), ID, NOW.seconds(), BODY);
    let mut headers = good();
    headers.insert(header::WEBHOOK_SIGNATURE, other.parse().unwrap());
    assert_eq!(at(later, &headers), [Cause::OtherKey, Cause::Clock { late_s: 3_600, tolerance_s: 300 }]);
}

#[test]
fn a_key_that_was_used_in_another_form_is_found() {
    let v1 = |key: &[u8]| format!("v1,{}", STANDARD.encode(hmac(key, &full(BODY))));
    assert_eq!(standard_causes(&v1(KEY.as_bytes())), [Cause::PrefixNotStripped]);
    assert_eq!(standard_causes(&v1(&KEY.as_bytes()[6..])), [Cause::KeyNotDecoded]);
    assert_eq!(standard_causes(&v1(SECRET.as_bytes())), [Cause::SecretUsed]);
    let decnet = |key: &[u8]| format!("sha256={}", hex(&hmac(key, BODY)));
    assert_eq!(decnet_causes(&decnet(&STANDARD_NO_PAD.decode(SECRET).unwrap())), [Cause::SecretDecoded]);
    assert_eq!(decnet_causes(&decnet(&StandardKey::parse(KEY).unwrap().bytes)), [Cause::StandardKeyUsed]);
    assert_eq!(decnet_causes(&decnet(KEY.as_bytes())), [Cause::StandardKeyUsed]);
    let in_hex = "ab".repeat(32);
    let given = ReceiverKeys { decnet: Some(Secret::parse(&in_hex).unwrap()), ..ReceiverKeys::default() };
    let findings = diagnose(&given, &headers("v1,", &decnet(&[0xab; 32])), BODY, NOW, 300);
    assert_eq!(findings[0].result.as_ref().unwrap_err().causes, [Cause::SecretDecoded]);
}

#[test]
fn a_key_that_was_given_for_the_other_scheme_is_found() {
    let given = ReceiverKeys { decnet: Some(Secret::parse(KEY).unwrap()), ..ReceiverKeys::default() };
    let findings = diagnose(&given, &good(), BODY, NOW, 300);
    assert_eq!(findings[0].result.as_ref().unwrap_err().causes, [Cause::SecretIsStandardKey]);
    // A sender that signs webhook-signature with the secret and sends nothing else.
    let code = STANDARD.encode(hmac(SECRET.as_bytes(), &full(BODY)));
    let mut headers = good();
    headers.insert(header::WEBHOOK_SIGNATURE, format!("v1,{code}").parse().unwrap());
    headers.remove(header::DECNET_SIGNATURE);
    let given = ReceiverKeys { decnet: keys().decnet, ..ReceiverKeys::default() };
    let findings = diagnose(&given, &headers, BODY, NOW, 300);
    let expected = [
        Cause::Missing(header::DECNET_SIGNATURE),
        Cause::MadeForOtherHeader { key: Scheme::Decnet, header: Scheme::Standard },
    ];
    assert_eq!(findings[0].result.as_ref().unwrap_err().causes, expected);
}

#[test]
fn content_and_form_of_a_signature_are_told() {
    let key = StandardKey::parse(KEY).unwrap();
    let code = |content: &[u8]| hmac(&key.bytes, content);
    let v1 = |content: &[u8]| format!("v1,{}", STANDARD.encode(code(content)));
    let seconds = NOW.seconds();
    for (prefix, signed) in [
        (String::new(), "the body alone"),
        (format!("{seconds}."), "timestamp.body"),
        (format!("{ID}."), "id.body"),
        (format!("{seconds}.{ID}."), "timestamp.id.body"),
    ] {
        let content = [prefix.as_bytes(), BODY].concat();
        let expected = Cause::Content { signed, expected: "id.timestamp.body" };
        assert_eq!(standard_causes(&v1(&content)), [expected]);
    }
    let other_id = [format!("evt-1.{seconds}.").as_bytes(), BODY].concat();
    assert_eq!(standard_causes(&v1(&other_id)), [Cause::OtherId("x-decnet-event-id")]);

    let label = |found| Cause::Label { found, expected: "v1," };
    let form = |found| Cause::Encoding { found, expected: "base64" };
    let bytes = code(&full(BODY));
    assert_eq!(standard_causes(&STANDARD.encode(&bytes)), [label("nothing")]);
    assert_eq!(standard_causes(&format!("v1={}", STANDARD.encode(&bytes))), [label("v1=")]);
    assert_eq!(standard_causes(&format!("v1,{}", hex(&bytes))), [form("hexadecimal")]);
    assert_eq!(standard_causes(&format!("v1,{}", STANDARD_NO_PAD.encode(&bytes))), [form("base64 without padding")]);
    assert_eq!(standard_causes(&format!("sha256={}", hex(&bytes))), [label("sha256="), form("hexadecimal")]);

    let bytes = hmac(SECRET.as_bytes(), BODY);
    let form = |found| Cause::Encoding { found, expected: "hexadecimal" };
    assert_eq!(decnet_causes(&hex(&bytes)), [Cause::Label { found: "nothing", expected: "sha256=" }]);
    assert_eq!(decnet_causes(&format!("sha256={}", STANDARD.encode(&bytes))), [form("base64")]);
    let url_safe = URL_SAFE.encode(&bytes);
    if url_safe.contains(['-', '_']) {
        assert_eq!(decnet_causes(&format!("sha256={url_safe}")), [form("URL-safe base64")]);
    }
    let code = hex(&hmac(SECRET.as_bytes(), &full(BODY)));
    let content = Cause::Content { signed: "id.timestamp.body", expected: "the body alone" };
    assert_eq!(decnet_causes(&format!("sha256={code}")), [content]);
}

#[test]
fn two_mistakes_at_once_are_found() {
    let code = STANDARD.encode(hmac(KEY.as_bytes(), BODY));
    let content = Cause::Content { signed: "the body alone", expected: "id.timestamp.body" };
    assert_eq!(standard_causes(&format!("v1,{code}")), [Cause::PrefixNotStripped, content]);
}

#[test]
fn missing_and_malformed_headers_are_named() {
    for name in [header::WEBHOOK_ID, header::WEBHOOK_TIMESTAMP, header::WEBHOOK_SIGNATURE] {
        let mut headers = good();
        headers.remove(name);
        assert_eq!(causes(&headers, BODY, Scheme::Standard)[0], Cause::Missing(name));
    }
    assert_eq!(decnet_causes("sha256=what"), [Cause::Malformed(header::DECNET_SIGNATURE)]);
    assert_eq!(standard_causes("v2,AAAA"), [Cause::NoSignature(Scheme::Standard)]);
}

#[test]
fn ed25519_signatures_are_diagnosed_too() {
    let pair = Ed25519Key::generate();
    let keys = ReceiverKeys { ed25519: Some(pair.public()), ..ReceiverKeys::default() };
    let mut headers = good();
    let result = |headers: &HeaderMap, body: &[u8]| diagnose(&keys, headers, body, NOW, 300)[0].result.clone();
    assert_eq!(result(&headers, BODY).unwrap_err().causes, [Cause::NoSignature(Scheme::Ed25519)]);
    let signature = ed25519_signature(&pair, ID, NOW.seconds(), BODY);
    headers.insert(header::WEBHOOK_SIGNATURE, signature.parse().unwrap());
    assert_eq!(result(&headers, BODY), Ok(Match::Newest));
    let longer = [BODY, b"\n"].concat();
    assert_eq!(result(&headers, &longer).unwrap_err().causes, [Cause::Body(BodyChange::LineBreakAdded)]);
    assert_eq!(result(&headers, b"[]").unwrap_err().causes, [Cause::OtherKey]);
    headers.insert(header::WEBHOOK_SIGNATURE, signature.replace("v1a", "v1").parse().unwrap());
    assert_eq!(result(&headers, BODY).unwrap_err().causes, [Cause::Label { found: "v1,", expected: "v1a," }]);
}

#[test]
fn a_long_body_is_tried_with_one_mistake_at_a_time() {
    let long = [b"\"".as_slice(), &vec![b'a'; MAX_DIAGNOSED_BYTES], b"\""].concat();
    let spaced = [b" ", &*long, b" "].concat();
    let mut headers = good();
    let code = STANDARD.encode(hmac(KEY.as_bytes(), &full(&long)));
    headers.insert(header::WEBHOOK_SIGNATURE, format!("v1,{code}").parse().unwrap());
    assert_eq!(causes(&headers, &long, Scheme::Standard), [Cause::PrefixNotStripped]);
    assert_eq!(causes(&headers, &spaced, Scheme::Standard), [Cause::OtherKey]);
}

#[test]
fn every_cause_begins_with_its_kind() {
    for cause in [
        Cause::Missing("webhook-id"),
        Cause::OtherKey,
        Cause::Body(BodyChange::Spaced),
        Cause::Milliseconds,
        Cause::SecretUsed,
        Cause::NoSignature(Scheme::Ed25519),
    ] {
        let (kind, _) = cause.to_string().split_once(": ").map(|(kind, rest)| (kind.to_owned(), rest.len())).unwrap();
        assert!(kind.ends_with(cause.kind()), "{cause}");
    }
    let diagnosis = Diagnosis { causes: vec![Cause::PrefixNotStripped, Cause::Milliseconds] };
    assert!(diagnosis.to_string().contains("base64; clock:"), "{diagnosis}");
}

proptest! {
    /// Requests are hostile: whatever they hold, there is an answer, and none that says yes.
    #[test]
    fn any_request_gets_a_diagnosis(
        signature in "[ -~]{0,80}", decnet in "[ -~]{0,80}", id in "[ -~]{0,9}", timestamp in "-?[0-9.]{0,22}",
        body in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let mut headers = headers(&signature, &decnet);
        headers.insert(header::WEBHOOK_ID, id.parse().unwrap());
        headers.insert(header::WEBHOOK_TIMESTAMP, timestamp.parse().unwrap());
        let keys = ReceiverKeys { ed25519: Some(Ed25519Key::generate().public()), ..keys() };
        let findings = diagnose(&keys, &headers, &body, NOW, 300);
        prop_assert_eq!(findings.len(), 3);
        for finding in findings {
            let diagnosis = finding.result.unwrap_err();
            prop_assert!(!diagnosis.causes.is_empty() && !diagnosis.to_string().is_empty());
        }
    }
}
