//! Signature schemes, their keys, and verification for receivers. Pure.

use std::fmt;

use zeroize::Zeroizing;

use crate::clock::UnixMicros;

/// The shortest and longest DECNET secret, in characters.
pub const SECRET_CHARS: std::ops::RangeInclusive<usize> = 16..=256;

/// The DECNET secret of a webhook. Its `Debug` shows nothing; memory is cleared on drop.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

/// The Standard Webhooks key of a webhook: 24 to 64 bytes, written `whsec_` and base64.
#[derive(Clone, PartialEq, Eq)]
pub struct StandardKey(Zeroizing<Vec<u8>>);

/// One way to sign a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// `X-DECNET-Signature: sha256=<hex HMAC-SHA256(secret, body)>`
    Decnet,
    /// `webhook-signature: v1,<base64 HMAC-SHA256(key, id.timestamp.body)>`, the Standard Webhooks scheme.
    Standard,
}

/// What a webhook signs with. The two keys differ on purpose: see `design` in ARCHITECTURE.md.
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
        let _ = text;
        todo!()
    }
    /// 32 random bytes as URL-safe base64 without padding (43 characters).
    #[must_use]
    pub fn generate() -> Self {
        todo!()
    }
    /// The secret itself, for the one answer that shows it and for sealing.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl StandardKey {
    /// `whsec_…`
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let _ = text;
        todo!()
    }
    /// 32 random bytes.
    #[must_use]
    pub fn generate() -> Self {
        todo!()
    }
    /// `whsec_` and base64, for the one answer that shows it and for sealing.
    #[must_use]
    pub fn expose(&self) -> Zeroizing<String> {
        let _ = &self.0;
        todo!()
    }
}

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
    let _ = (secret, body);
    todo!()
}

/// `v1,<base64>` of the Standard Webhooks scheme; `timestamp_s` is unix seconds.
#[must_use]
pub fn standard_signature(key: &StandardKey, webhook_id: &str, timestamp_s: i64, body: &[u8]) -> String {
    let _ = (key, webhook_id, timestamp_s, body);
    todo!()
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
pub fn verify_decnet(secret: &Secret, headers: &http::HeaderMap, body: &[u8]) -> Result<(), VerifyError> {
    let _ = (secret, headers, body);
    todo!()
}

/// Verifies a request's Standard Webhooks signature in constant time, and its age.
pub fn verify_standard(
    key: &StandardKey,
    headers: &http::HeaderMap,
    body: &[u8],
    now: UnixMicros,
    tolerance_s: u64,
) -> Result<(), VerifyError> {
    let _ = (key, headers, body, now, tolerance_s);
    todo!()
}
