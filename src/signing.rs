//! Signature schemes, their keys and their rotation, and verification for receivers. Pure.

mod diagnosis;
mod ed25519;
mod keys;
mod mac;
mod profile;
mod profiles;
mod rotation;
mod signatures;
#[cfg(test)]
mod tests;
mod verify;

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha2::Sha256;

pub use self::diagnosis::{BodyChange, Cause, Diagnosis, Finding, MAX_DIAGNOSED_BYTES, Match, ReceiverKeys, diagnose};
pub use self::ed25519::{Ed25519Key, Ed25519PublicKey};
pub use self::keys::{
    KeyError, MIN_FOREIGN_SECRET_CHARS, SECRET_CHARS, SHOWN_SECRET, STANDARD_KEY_BYTES, Secret, StandardKey,
};
pub use self::profile::{
    Encoding, FieldValue, Hash, Head, KeyKind, MAX_PROFILE_NAME_CHARS, MAX_PROFILE_TEMPLATE_BYTES, MAX_SEPARATOR_BYTES,
    MAX_SIGNATURE_HEADER_BYTES, MAX_VALUE_PIECES, Plan, Profile, ProfileError, ReceiverKey, Rotation, Signing,
    Unverified, Verified, verify,
};
pub use self::profiles::{profile, profiles};
pub use self::rotation::{DEFAULT_OVERLAP, MAX_LIVE_KEYS, MAX_OVERLAP, OlderKeys, RotationError, SigningKeys};
pub use self::signatures::{MAX_OWN_PROFILES, MAX_WEBHOOK_SIGNATURES, SignatureInput, Signatures, SignaturesError};
pub use self::verify::{
    DEFAULT_TOLERANCE_S, MAX_SIGNATURES, VerifyError, verify_decnet, verify_ed25519, verify_standard,
};
use crate::hex;

/// The names of the headers that carry signatures and what they cover.
pub mod header {
    /// `sha256=<hex>`: the DECNET signature of the body.
    pub const DECNET_SIGNATURE: &str = "x-decnet-signature";
    /// The same with the secret before the newest, while that is valid.
    pub const DECNET_SIGNATURE_PREVIOUS: &str = "x-decnet-signature-previous";
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

const DECNET_PREFIX: &str = "sha256=";
const STANDARD_PREFIX: &str = "v1,";
const ED25519_PREFIX: &str = "v1a,";
/// `v1,` and the base64 of 32 bytes.
const STANDARD_SIGNATURE_CHARS: usize = 47;
/// `v1a,` and the base64 of 64 bytes.
const ED25519_SIGNATURE_CHARS: usize = 92;

/// One way to sign a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// `X-DECNET-Signature: sha256=<hex HMAC-SHA256(secret, body)>`
    Decnet,
    /// `webhook-signature: v1,<base64 HMAC-SHA256(key, id.timestamp.body)>`, the Standard Webhooks scheme.
    Standard,
    /// `webhook-signature: v1a,<base64 Ed25519(key, id.timestamp.body)>`, the same with a key pair: whoever
    /// can verify cannot sign.
    Ed25519,
}

impl Scheme {
    pub const ALL: [Self; 3] = [Self::Decnet, Self::Standard, Self::Ed25519];

    /// The name that settings and the API use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Decnet => "decnet",
            Self::Standard => "standard",
            Self::Ed25519 => "ed25519",
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
#[error("unknown signature scheme {0:?}, expected \"decnet\", \"standard\" or \"ed25519\"")]
pub struct UnknownScheme(pub String);

impl FromStr for Scheme {
    type Err = UnknownScheme;

    fn from_str(text: &str) -> Result<Self, UnknownScheme> {
        let named = Self::ALL.into_iter().find(|scheme| scheme.as_str() == text);
        named.ok_or_else(|| UnknownScheme(text.to_owned()))
    }
}

/// `sha256=<hex>` of the DECNET scheme.
#[must_use]
pub fn decnet_signature(secret: &Secret, body: &[u8]) -> String {
    let code = secret.mac.over(&[body]).finalize().into_bytes();
    let mut signature = String::with_capacity(DECNET_PREFIX.len() + 2 * code.len());
    signature.push_str(DECNET_PREFIX);
    hex::push(&mut signature, &code);
    signature
}

/// `v1,<base64>` of the Standard Webhooks scheme; `timestamp_s` is unix seconds.
#[must_use]
pub fn standard_signature(key: &StandardKey, webhook_id: &str, timestamp_s: i64, body: &[u8]) -> String {
    let mut digits = itoa::Buffer::new();
    let mut signature = String::with_capacity(STANDARD_SIGNATURE_CHARS);
    push_standard(&mut signature, key, webhook_id, digits.format(timestamp_s), body);
    signature
}

/// `v1a,<base64>` of the Standard Webhooks scheme with key pairs; `timestamp_s` is unix seconds.
#[must_use]
pub fn ed25519_signature(key: &Ed25519Key, webhook_id: &str, timestamp_s: i64, body: &[u8]) -> String {
    let mut digits = itoa::Buffer::new();
    let mut signature = String::with_capacity(ED25519_SIGNATURE_CHARS);
    push_ed25519(&mut signature, key, &signed_content(webhook_id, digits.format(timestamp_s), body));
    signature
}

fn push_standard(signatures: &mut String, key: &StandardKey, webhook_id: &str, timestamp: &str, body: &[u8]) {
    signatures.push_str(STANDARD_PREFIX);
    STANDARD.encode_string(standard_mac(key, webhook_id, timestamp, body).finalize().into_bytes(), signatures);
}

fn push_ed25519(signatures: &mut String, key: &Ed25519Key, content: &[u8]) {
    signatures.push_str(ED25519_PREFIX);
    STANDARD.encode_string(key.sign(content), signatures);
}

fn standard_mac(key: &StandardKey, webhook_id: &str, timestamp: &str, body: &[u8]) -> Hmac<Sha256> {
    key.mac.over(&[webhook_id.as_bytes(), b".", timestamp.as_bytes(), b".", body])
}

/// `id.timestamp.body` in one piece, which Ed25519 needs: it goes over the content twice.
fn signed_content(webhook_id: &str, timestamp: &str, body: &[u8]) -> Vec<u8> {
    [webhook_id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat()
}
