//! Verification, for receivers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::Mac;
use http::HeaderMap;

use super::{
    DECNET_PREFIX, ED25519_PREFIX, Ed25519PublicKey, STANDARD_PREFIX, Secret, StandardKey, header, signed_content,
    standard_mac,
};
use crate::clock::UnixMicros;
use crate::hex;

/// The reason why a receiver should refuse a request.
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

/// The default tolerance between a Standard Webhooks timestamp and the receiver's clock, in seconds.
pub const DEFAULT_TOLERANCE_S: u64 = 300;
/// The most signatures of `webhook-signature` that are checked. Senders have few keys, so more would only help
/// attackers.
pub const MAX_SIGNATURES: usize = 16;

/// Verifies a request's DECNET signature in constant time.
///
/// During a rotation `X-DECNET-Signature-Previous` is made with the old secret, and is enough.
pub fn verify_decnet(secret: &Secret, headers: &HeaderMap, body: &[u8]) -> Result<(), VerifyError> {
    let code = decnet_code(headers, header::DECNET_SIGNATURE)?;
    let mac = secret.mac.over(&[body]);
    if mac.clone().verify_slice(&code).is_ok() {
        return Ok(());
    }
    match decnet_code(headers, header::DECNET_SIGNATURE_PREVIOUS) {
        Ok(code) => mac.verify_slice(&code).map_err(|_| VerifyError::NoMatch),
        Err(_) => Err(VerifyError::NoMatch),
    }
}

fn decnet_code(headers: &HeaderMap, name: &'static str) -> Result<[u8; 32], VerifyError> {
    let code = required(headers, name)?.strip_prefix(DECNET_PREFIX).and_then(hex::decode::<32>);
    code.ok_or(VerifyError::MalformedHeader(name))
}

/// Verifies a request's Standard Webhooks signature in constant time, and its age.
///
/// One of several signatures has to match, since a rotation gives one for each live key. Versions other than `v1` and
/// signatures beyond [`MAX_SIGNATURES`] are ignored.
pub fn verify_standard(
    key: &StandardKey,
    headers: &HeaderMap,
    body: &[u8],
    now: UnixMicros,
    tolerance_s: u64,
) -> Result<(), VerifyError> {
    let signed = Signed::read(headers)?;
    signed.check_age(now, tolerance_s)?;
    let mac = standard_mac(key, signed.id, signed.timestamp, body);
    let is_match = signed.codes(STANDARD_PREFIX).any(|code| mac.clone().verify_slice(&code).is_ok());
    if is_match { Ok(()) } else { Err(VerifyError::NoMatch) }
}

/// As [`verify_standard`], for the signatures of version `v1a`, with the webhook's public key.
pub fn verify_ed25519(
    key: &Ed25519PublicKey,
    headers: &HeaderMap,
    body: &[u8],
    now: UnixMicros,
    tolerance_s: u64,
) -> Result<(), VerifyError> {
    let signed = Signed::read(headers)?;
    signed.check_age(now, tolerance_s)?;
    let content = signed_content(signed.id, signed.timestamp, body);
    let is_match = signed.codes(ED25519_PREFIX).any(|code| key.verifies(&content, &code));
    if is_match { Ok(()) } else { Err(VerifyError::NoMatch) }
}

/// The headers of Standard Webhooks.
struct Signed<'a> {
    id: &'a str,
    timestamp: &'a str,
    signatures: &'a str,
}

impl<'a> Signed<'a> {
    fn read(headers: &'a HeaderMap) -> Result<Self, VerifyError> {
        Ok(Self {
            id: required(headers, header::WEBHOOK_ID)?,
            timestamp: required(headers, header::WEBHOOK_TIMESTAMP)?,
            signatures: required(headers, header::WEBHOOK_SIGNATURE)?,
        })
    }

    fn check_age(&self, now: UnixMicros, tolerance_s: u64) -> Result<(), VerifyError> {
        let malformed = VerifyError::MalformedHeader(header::WEBHOOK_TIMESTAMP);
        let timestamp_s: i64 = self.timestamp.parse().map_err(|_| malformed)?;
        let distance_s = timestamp_s.abs_diff(now.seconds());
        if distance_s > tolerance_s { Err(VerifyError::OutsideTolerance(distance_s)) } else { Ok(()) }
    }

    fn codes(&self, prefix: &'static str) -> impl Iterator<Item = Vec<u8>> + use<'a> {
        let signatures = self.signatures.split_ascii_whitespace().take(MAX_SIGNATURES);
        signatures.filter_map(move |signature| STANDARD.decode(signature.strip_prefix(prefix)?).ok())
    }
}

pub(super) fn required<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<&'a str, VerifyError> {
    let value = headers.get(name).ok_or(VerifyError::MissingHeader(name))?;
    value.to_str().map_err(|_| VerifyError::MalformedHeader(name))
}
