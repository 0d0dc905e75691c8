//! Signature schemes, their keys, and verification for receivers. Pure.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hmac::{Hmac, KeyInit, Mac};
use http::HeaderMap;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::clock::UnixMicros;

/// The names of the headers that carry signatures and what they cover.
pub mod header {
    /// `sha256=<hex>`: the DECNET signature of the body.
    pub const DECNET_SIGNATURE: &str = "x-decnet-signature";
    pub const DECNET_EVENT_ID: &str = "x-decnet-event-id";
    pub const DECNET_EVENT_TOPIC: &str = "x-decnet-event-topic";
    /// Unix seconds of the attempt; the DECNET signature does not cover it.
    pub const DECNET_TIMESTAMP: &str = "x-decnet-timestamp";
    /// The same for every attempt of a delivery.
    pub const WEBHOOK_ID: &str = "webhook-id";
    /// Unix seconds of the attempt.
    pub const WEBHOOK_TIMESTAMP: &str = "webhook-timestamp";
    /// Signatures of `id.timestamp.body` with spaces between, each a version, a comma and base64.
    pub const WEBHOOK_SIGNATURE: &str = "webhook-signature";
}

/// The shortest and longest DECNET secret, in characters.
pub const SECRET_CHARS: std::ops::RangeInclusive<usize> = 16..=256;
/// The shortest and longest Standard Webhooks key, in bytes (Standard Webhooks, "Signature scheme").
pub const STANDARD_KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// The length of a key that is made here, in random bytes: that of the hash.
const GENERATED_KEY_BYTES: usize = 32;
const STANDARD_KEY_PREFIX: &str = "whsec_";
const DECNET_PREFIX: &str = "sha256=";

/// The DECNET secret of a webhook. Its `Debug` shows nothing; memory is cleared on drop.
#[derive(Clone)]
pub struct Secret {
    text: Zeroizing<String>,
    mac: KeyedMac,
}

/// The Standard Webhooks key of a webhook: 24 to 64 bytes, written `whsec_` and base64.
#[derive(Clone)]
pub struct StandardKey {
    bytes: Zeroizing<Vec<u8>>,
    mac: KeyedMac,
}

/// HMAC-SHA256 after its key: two of the hash's blocks that no signature has to compute again.
/// It can sign as the key can, and is cleared on drop as well.
#[derive(Clone)]
struct KeyedMac(Hmac<Sha256>);

impl KeyedMac {
    fn new(key: &[u8]) -> Self {
        // RFC 2104: a key longer than the hash's block is hashed, a shorter one is padded with zeros.
        let mut block = Zeroizing::new([0; 64]);
        if key.len() > block.len() {
            block[..GENERATED_KEY_BYTES].copy_from_slice(&Sha256::digest(key));
        } else {
            block[..key.len()].copy_from_slice(key);
        }
        Self(Hmac::new((&*block).into()))
    }

    fn over(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        for part in parts {
            mac.update(part);
        }
        mac
    }
}

/// One way to sign a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// `X-DECNET-Signature: sha256=<hex HMAC-SHA256(secret, body)>`
    Decnet,
    /// `webhook-signature: v1,<base64 HMAC-SHA256(key, id.timestamp.body)>`, the Standard Webhooks scheme.
    Standard,
}

impl Scheme {
    /// The name that settings and the API use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Decnet => "decnet",
            Self::Standard => "standard",
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no [`Scheme`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown signature scheme {0:?}, expected \"decnet\" or \"standard\"")]
pub struct UnknownScheme(pub String);

impl FromStr for Scheme {
    type Err = UnknownScheme;

    fn from_str(text: &str) -> Result<Self, UnknownScheme> {
        match text {
            "decnet" => Ok(Self::Decnet),
            "standard" => Ok(Self::Standard),
            _ => Err(UnknownScheme(text.to_owned())),
        }
    }
}

/// What a webhook signs with.
///
/// The two keys differ because the DECNET signature covers the body alone: with one key, the
/// signature of a body that contains `a.1790000000.`, which an attacker can write, would pass as
/// a Standard Webhooks signature of the content after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningKeys {
    pub decnet: Secret,
    pub standard: StandardKey,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("a secret has 16 to 256 characters, this one has {chars}")]
    SecretLength { chars: usize },
    #[error("a Standard Webhooks key is whsec_ and the base64 of 24 to 64 bytes: {reason}")]
    StandardKey { reason: &'static str },
}

impl Secret {
    /// A secret given by a user: 16 to 256 characters.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let chars = text.chars().count();
        if !SECRET_CHARS.contains(&chars) {
            return Err(KeyError::SecretLength { chars });
        }
        Ok(Self::from_text(Zeroizing::new(text.to_owned())))
    }
    /// 32 random bytes as URL-safe base64 without padding (43 characters).
    #[must_use]
    pub fn generate() -> Self {
        Self::from_text(Zeroizing::new(URL_SAFE_NO_PAD.encode(random_key())))
    }
    fn from_text(text: Zeroizing<String>) -> Self {
        let mac = KeyedMac::new(text.as_bytes());
        Self { text, mac }
    }
    /// The secret itself, for the one answer that shows it and for sealing.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }
}

impl StandardKey {
    /// `whsec_…`; the base64 may be without its padding.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        const BASE64: GeneralPurpose = GeneralPurpose::new(
            &alphabet::STANDARD,
            GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
        );
        let refused = |reason| KeyError::StandardKey { reason };
        let encoded = text.strip_prefix(STANDARD_KEY_PREFIX).ok_or_else(|| refused("it does not begin with whsec_"))?;
        let bytes = Zeroizing::new(BASE64.decode(encoded).map_err(|_| refused("it is no base64"))?);
        if !STANDARD_KEY_BYTES.contains(&bytes.len()) {
            return Err(refused("it is too short or too long"));
        }
        Ok(Self::from_bytes(bytes))
    }
    /// 32 random bytes.
    #[must_use]
    pub fn generate() -> Self {
        Self::from_bytes(Zeroizing::new(random_key().to_vec()))
    }
    fn from_bytes(bytes: Zeroizing<Vec<u8>>) -> Self {
        let mac = KeyedMac::new(&bytes);
        Self { bytes, mac }
    }
    /// `whsec_` and base64, for the one answer that shows it and for sealing.
    #[must_use]
    pub fn expose(&self) -> Zeroizing<String> {
        // Allocated once: a string that grows leaves copies of itself in memory.
        let base64_chars = self.bytes.len().div_ceil(3) * 4;
        let mut text = Zeroizing::new(String::with_capacity(STANDARD_KEY_PREFIX.len() + base64_chars));
        text.push_str(STANDARD_KEY_PREFIX);
        STANDARD.encode_string(&*self.bytes, &mut text);
        text
    }
}

#[expect(clippy::expect_used, reason = "a machine that has no random bytes must make no keys")]
fn random_key() -> Zeroizing<[u8; GENERATED_KEY_BYTES]> {
    let mut key = Zeroizing::new([0; GENERATED_KEY_BYTES]);
    aws_lc_rs::rand::fill(&mut *key).expect("the system's random generator failed");
    key
}

/// In constant time for secrets of one length.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.text.as_bytes().ct_eq(other.text.as_bytes()).into()
    }
}

impl Eq for Secret {}

/// In constant time for keys of one length.
impl PartialEq for StandardKey {
    fn eq(&self, other: &Self) -> bool {
        self.bytes.ct_eq(&other.bytes).into()
    }
}

impl Eq for StandardKey {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl fmt::Debug for StandardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StandardKey(…)")
    }
}

/// `sha256=<hex>` of the DECNET scheme.
#[must_use]
pub fn decnet_signature(secret: &Secret, body: &[u8]) -> String {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let code = secret.mac.over(&[body]).finalize().into_bytes();
    let mut signature = String::with_capacity(DECNET_PREFIX.len() + 2 * code.len());
    signature.push_str(DECNET_PREFIX);
    for byte in code {
        signature.push(char::from(HEX[usize::from(byte >> 4)]));
        signature.push(char::from(HEX[usize::from(byte & 15)]));
    }
    signature
}

/// `v1,<base64>` of the Standard Webhooks scheme; `timestamp_s` is unix seconds.
#[must_use]
pub fn standard_signature(key: &StandardKey, webhook_id: &str, timestamp_s: i64, body: &[u8]) -> String {
    let mut digits = itoa::Buffer::new();
    let code = standard_mac(key, webhook_id, digits.format(timestamp_s), body).finalize().into_bytes();
    let mut signature = String::with_capacity(48);
    signature.push_str("v1,");
    STANDARD.encode_string(code, &mut signature);
    signature
}

fn standard_mac(key: &StandardKey, webhook_id: &str, timestamp: &str, body: &[u8]) -> Hmac<Sha256> {
    key.mac.over(&[webhook_id.as_bytes(), b".", timestamp.as_bytes(), b".", body])
}

/// Why a receiver should refuse a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    #[error("the header {0} is missing")]
    MissingHeader(&'static str),
    #[error("the header {0} is malformed")]
    MalformedHeader(&'static str),
    #[error("the timestamp is {0} s from now, more than the tolerance")]
    OutsideTolerance(u64),
    #[error("no signature matches: another key, or the body was changed")]
    NoMatch,
}

/// How far a Standard Webhooks timestamp may be from the receiver's clock by default, in seconds.
pub const DEFAULT_TOLERANCE_S: u64 = 300;

/// Verifies a request's DECNET signature in constant time.
pub fn verify_decnet(secret: &Secret, headers: &HeaderMap, body: &[u8]) -> Result<(), VerifyError> {
    let signature = required(headers, header::DECNET_SIGNATURE)?;
    let code = signature.strip_prefix(DECNET_PREFIX).and_then(from_hex);
    let code = code.ok_or(VerifyError::MalformedHeader(header::DECNET_SIGNATURE))?;
    secret.mac.over(&[body]).verify_slice(&code).map_err(|_| VerifyError::NoMatch)
}

/// Verifies a request's Standard Webhooks signature in constant time, and its age.
///
/// Of several signatures one has to match: there are two while a key is being rotated. Versions
/// other than `v1` are passed over.
pub fn verify_standard(
    key: &StandardKey,
    headers: &HeaderMap,
    body: &[u8],
    now: UnixMicros,
    tolerance_s: u64,
) -> Result<(), VerifyError> {
    let id = required(headers, header::WEBHOOK_ID)?;
    let timestamp = required(headers, header::WEBHOOK_TIMESTAMP)?;
    let signatures = required(headers, header::WEBHOOK_SIGNATURE)?;
    let malformed = VerifyError::MalformedHeader(header::WEBHOOK_TIMESTAMP);
    let timestamp_s: i64 = timestamp.parse().map_err(|_| malformed)?;
    let distance_s = timestamp_s.abs_diff(now.seconds());
    if distance_s > tolerance_s {
        return Err(VerifyError::OutsideTolerance(distance_s));
    }
    let mac = standard_mac(key, id, timestamp, body);
    let mut codes = signatures.split_ascii_whitespace().filter_map(|signature| signature.strip_prefix("v1,"));
    let is_match = codes.any(|code| STANDARD.decode(code).is_ok_and(|code| mac.clone().verify_slice(&code).is_ok()));
    if is_match { Ok(()) } else { Err(VerifyError::NoMatch) }
}

fn required<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<&'a str, VerifyError> {
    let value = headers.get(name).ok_or(VerifyError::MissingHeader(name))?;
    value.to_str().map_err(|_| VerifyError::MalformedHeader(name))
}

fn from_hex(hex: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    let (pairs, []) = hex.as_bytes().as_chunks::<2>() else { return None };
    if pairs.len() != bytes.len() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(pairs) {
        for digit in pair {
            *byte = *byte << 4 | u8::try_from(char::from(*digit).to_digit(16)?).ok()?;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let keys = SigningKeys { decnet: Secret::parse("0123456789abcdef").unwrap(), standard: key() };
        assert_eq!(format!("{keys:?}"), "SigningKeys { decnet: Secret(…), standard: StandardKey(…) }");
    }

    /// RFC 4231, test case 6: a key longer than the hash's block.
    #[test]
    fn a_long_key_is_hashed_first() {
        let code = KeyedMac::new(&[0xaa; 131]).over(&[b"Test Using Larger Than Block-Size Key - Hash Key First"]);
        let expected = from_hex("60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54").unwrap();
        assert!(code.verify_slice(&expected).is_ok());
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
        let keys = SigningKeys { decnet: Secret::generate(), standard: StandardKey::generate() };
        let inner = br#"{"forged":true}"#;
        let signed = [b"msg.1614265330.".as_slice(), inner].concat();
        let code = from_hex(&decnet_signature(&keys.decnet, &signed)[DECNET_PREFIX.len()..]).unwrap();
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
        for scheme in [Scheme::Decnet, Scheme::Standard] {
            assert_eq!(scheme.as_str().parse(), Ok(scheme));
        }
        assert_eq!("Decnet".parse::<Scheme>(), Err(UnknownScheme("Decnet".to_owned())));
    }
}
