//! Verifying by a profile, for receivers and inlets.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use subtle::ConstantTimeEq;

use super::content::{Part, Parts};
use super::value::Slot;
use super::{Encoding, KeyKind, MAX_VALUE_PIECES, Plan, Rotation};
use crate::clock::UnixMicros;
use crate::hex;
use crate::signing::{Ed25519PublicKey, MAX_SIGNATURES, Secret, StandardKey};

/// The longest signature that is decoded, in bytes: Ed25519's and SHA-512's.
const MAX_SIGNATURE_BYTES: usize = 64;

/// The head of a request that came in.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    pub method: &'a str,
    /// With the query.
    pub path: &'a str,
    pub headers: &'a HeaderMap,
}

/// A key that a receiver has.
#[derive(Clone, Debug)]
pub enum ReceiverKey {
    Secret(Secret),
    Standard(StandardKey),
    Ed25519(Ed25519PublicKey),
}

/// A request whose signature matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The position of the key that it matches among those given.
    pub key: usize,
    /// The position of the signature that matches, among those of the header that has it. The first is made with the newest key.
    pub signature: usize,
    /// Unix seconds, if the signature covers them.
    pub timestamp: Option<i64>,
    /// The id of the delivery, if the signature covers it.
    pub id: Option<String>,
}

/// The reason why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unverified {
    #[error("header: {0} is missing")]
    Missing(String),
    #[error("header: {0} is malformed, or is there more than once")]
    Malformed(String),
    #[error(
        "clock: signed {distance_s} s from now, {tolerance_s} s are tolerated: an old request, or one of the clocks is wrong"
    )]
    OutsideTolerance { distance_s: u64, tolerance_s: u64 },
    #[error("other key: no signature matches: another key made it, or the body or what else it covers was changed")]
    NoMatch,
    #[error("key: there is no key of this profile's kind to verify with")]
    NoKey,
}

impl Unverified {
    /// The kind of mistake in one word: `header`, `clock` or `key`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Missing(_) | Self::Malformed(_) => "header",
            Self::OutsideTolerance { .. } => "clock",
            Self::NoMatch | Self::NoKey => "key",
        }
    }
}

/// Verifies a request by a profile, in constant time for the signatures, and its age where the signature covers that.
///
/// One of `keys` has to match one of the signatures, of which at most [`MAX_SIGNATURES`] are looked at.
///
/// ```
/// use postrider::clock::UnixMicros;
/// use postrider::signing::{Head, ReceiverKey, Secret, Unverified, profile, verify};
///
/// let plan = profile("github").unwrap();
/// let keys = [ReceiverKey::Secret(Secret::parse_foreign("It's a Secret to Everybody").unwrap())];
/// let mut headers = http::HeaderMap::new();
/// let signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
/// headers.insert("x-hub-signature-256", signature.parse().unwrap());
/// let head = Head { method: "POST", path: "/", headers: &headers };
/// assert!(verify(plan, &keys, head, b"Hello, World!", UnixMicros(0), 300).is_ok());
/// assert_eq!(verify(plan, &keys, head, b"Hello", UnixMicros(0), 300), Err(Unverified::NoMatch));
/// ```
pub fn verify(
    plan: &Plan,
    keys: &[ReceiverKey],
    head: Head<'_>,
    body: &[u8],
    now: UnixMicros,
    tolerance_s: u64,
) -> Result<Verified, Unverified> {
    let profile = &plan.profile;
    let is_kind = |key: &ReceiverKey| match key {
        ReceiverKey::Secret(_) => profile.key == KeyKind::Secret,
        ReceiverKey::Standard(_) => profile.key == KeyKind::Standard,
        ReceiverKey::Ed25519(_) => profile.key == KeyKind::Ed25519,
    };
    let keys: Vec<_> = keys.iter().enumerate().filter(|(_, key)| is_kind(key)).collect();
    if keys.is_empty() {
        return Err(Unverified::NoKey);
    }
    let value = Value::read(plan, required(head.headers, &profile.header)?);
    let timestamp = match &profile.timestamp_header {
        Some(name) => required(head.headers, name)?,
        None => value.timestamp.unwrap_or_default(),
    };
    let covered_time = plan.covers(&Part::Timestamp).then(|| seconds(plan, timestamp)).transpose()?;
    let id = match &profile.id_header {
        Some(name) if plan.covers(&Part::Id) => {
            let id = required(head.headers, name)?;
            if plan.runs_on(id) {
                return Err(Unverified::Malformed(name.to_string()));
            }
            id
        }
        _ => "",
    };
    if value.signatures.is_empty() {
        return Err(Unverified::Malformed(profile.header.to_string()));
    }
    if let Some(timestamp) = covered_time {
        let distance_s = timestamp.abs_diff(now.seconds());
        if distance_s > tolerance_s {
            return Err(Unverified::OutsideTolerance { distance_s, tolerance_s });
        }
    }
    let parts = Parts { id, timestamp, method: head.method, path: head.path, body };
    let previous = match (&profile.rotation, &profile.previous_header) {
        (Rotation::Header, Some(name)) => required(head.headers, name).ok().map(|text| Value::read(plan, text)),
        _ => None,
    };
    for (first, value) in std::iter::once(&value).chain(&previous).enumerate() {
        for (key_at, key) in &keys {
            if let Some(at) = plan.matching(key, parts, &value.signatures) {
                let id = plan.covers(&Part::Id).then(|| id.to_owned());
                return Ok(Verified { key: *key_at, signature: first + at, timestamp: covered_time, id });
            }
        }
    }
    Err(Unverified::NoMatch)
}

impl Plan {
    /// Whether an id has in it what ends it in the signed content. The signature would be right, too, for another id and
    /// time with a part of one of the two in the other.
    fn runs_on(&self, id: &str) -> bool {
        self.content.windows(2).any(|pair| match pair {
            [Part::Id, Part::Text(end)] => id.contains(&**end),
            _ => false,
        })
    }

    /// The position of the first of `signatures` that `key` made.
    fn matching(&self, key: &ReceiverKey, parts: Parts<'_>, signatures: &[&str]) -> Option<usize> {
        let (hash, content) = (self.profile.hash, parts.of(&self.content));
        if self.form.is_secret() {
            let ReceiverKey::Secret(secret) = key else { return None };
            let secret = secret.expose().as_bytes();
            return signatures.iter().position(|given| secret.ct_eq(given.as_bytes()).into());
        }
        let decoded = signatures.iter().map(|signature| self.decode(signature));
        let found = |is: &dyn Fn(&[u8]) -> bool| {
            decoded.clone().position(|signature| signature.is_some_and(|signature| is(&signature)))
        };
        match key {
            ReceiverKey::Secret(secret) => {
                let code = secret.code(hash, content);
                found(&|signature| code.is(signature))
            }
            ReceiverKey::Standard(key) => {
                let code = key.code(hash, content);
                found(&|signature| code.is(signature))
            }
            ReceiverKey::Ed25519(public) => {
                let content: Vec<u8> = content.flatten().copied().collect();
                found(&|signature| public.verifies(&content, signature))
            }
        }
    }

    fn decode(&self, signature: &str) -> Option<Vec<u8>> {
        if signature.len() > 2 * MAX_SIGNATURE_BYTES {
            return None;
        }
        match self.profile.encoding {
            Encoding::Base64 => STANDARD.decode(signature).ok(),
            Encoding::Hex => match signature.len() / 2 {
                20 => hex::decode::<20>(signature).map(Vec::from),
                32 => hex::decode::<32>(signature).map(Vec::from),
                _ => hex::decode::<64>(signature).map(Vec::from),
            },
        }
    }
}

/// What a signature header's value says.
#[derive(Default)]
struct Value<'a> {
    timestamp: Option<&'a str>,
    signatures: Vec<&'a str>,
}

impl<'a> Value<'a> {
    /// Reads the parts that have a form of the profile's, in any order, and passes over all others.
    fn read(plan: &Plan, text: &'a str) -> Self {
        let (form, is_list) = (&plan.form, plan.profile.rotation == Rotation::List);
        let mut value = Self::default();
        if form.is_secret() {
            value.signatures.push(text);
            return value;
        }
        let has_parts = form.items.len() > 1 || matches!(plan.profile.rotation, Rotation::Append | Rotation::List);
        // What is beyond the last stays with it, so that it is no signature.
        let most = if has_parts { MAX_VALUE_PIECES + 1 } else { 1 };
        for piece in text.splitn(most, &*form.separator).take(MAX_VALUE_PIECES).map(str::trim) {
            if form.items.iter().any(|item| item.slot == Slot::None && item.before.trim() == piece) {
                continue;
            }
            let read = |slot| form.items.iter().find(|item| item.slot == slot).and_then(|item| item.read(piece));
            let is_bare = is_list && !value.signatures.is_empty();
            let signature = read(Slot::Signature).or_else(|| is_bare.then_some(piece));
            match (read(Slot::Timestamp), signature) {
                // The first counts, as with most readers, so that none can be put behind it.
                (Some(timestamp), _) if value.timestamp.is_none() && is_number(timestamp) => {
                    value.timestamp = Some(timestamp);
                }
                (_, Some(signature)) if value.signatures.len() < MAX_SIGNATURES && !signature.is_empty() => {
                    value.signatures.push(signature);
                }
                _ => {}
            }
        }
        value
    }
}

/// Whether it is digits alone: the signature covers the text, so that no sign and no space may be in it.
fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn seconds(plan: &Plan, text: &str) -> Result<i64, Unverified> {
    let name = plan.profile.timestamp_header.as_ref().unwrap_or(&plan.profile.header);
    let number = Some(text).filter(|text| is_number(text)).and_then(|text| text.parse().ok());
    number.ok_or_else(|| Unverified::Malformed(name.to_string()))
}

/// The value of a header that must be there once.
fn required<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a str, Unverified> {
    let mut values = headers.get_all(name).iter();
    let first = values.next().ok_or_else(|| Unverified::Missing(name.to_owned()))?;
    match (first.to_str(), values.next()) {
        (Ok(text), None) => Ok(text),
        _ => Err(Unverified::Malformed(name.to_owned())),
    }
}
