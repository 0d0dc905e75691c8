//! Why a signature does not match. A receiver that fails knows no more than that; here the mistakes that people
//! make are tried one by one, and in pairs, until the signature comes out.

mod cause;
mod content;
mod found;

use std::fmt;

use hmac::Mac;
use http::HeaderMap;

pub use self::cause::{BodyChange, Cause};
use self::content::{Body, bodies, prefixes};
use self::found::{Found, found_in};
use super::keys::{STANDARD_KEY_PREFIX, decode};
use super::mac::KeyedMac;
use super::verify::required;
use super::{
    Ed25519PublicKey, Scheme, Secret, StandardKey, VerifyError, header, verify_decnet, verify_ed25519, verify_standard,
};
use crate::clock::UnixMicros;
use crate::hex;

/// The longest body, in bytes, for which combinations of mistakes are tried.
pub const MAX_DIAGNOSED_BYTES: usize = 64 * 1024;
/// The most mistakes of a combination.
const MAX_MISTAKES: usize = 2;

/// The keys that a receiver has.
#[derive(Clone, Debug, Default)]
pub struct ReceiverKeys {
    pub decnet: Option<Secret>,
    pub standard: Option<StandardKey>,
    pub ed25519: Option<Ed25519PublicKey>,
}

impl ReceiverKeys {
    /// Whether there is nothing to verify with.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.decnet.is_none() && self.standard.is_none() && self.ed25519.is_none()
    }
}

/// The result about the signatures of one scheme.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub scheme: Scheme,
    pub result: Result<Match, Diagnosis>,
}

/// A signature that verifies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// Made with the newest key.
    Newest,
    /// Made with a replaced key that is still valid. The receiver should change to the newer one.
    Older,
}

/// The reason why no signature of a scheme verifies: the likeliest combination of few causes, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    pub causes: Vec<Cause>,
}

/// The causes with semicolons between.
impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, cause) in self.causes.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{cause}")?;
        }
        Ok(())
    }
}

/// Verifies a request with each of `keys`, and explains failures.
///
/// It takes much longer than verifying, and is for tools and answers to people, not for all requests of strangers.
///
/// ```
/// use postrider::clock::UnixMicros;
/// use postrider::signing::{ReceiverKeys, Secret, decnet_signature, diagnose, header};
///
/// let secret = Secret::parse("correct-horse-battery").unwrap();
/// let mut headers = http::HeaderMap::new();
/// let signature = decnet_signature(&secret, br#"{"a":1,"b":2}"#);
/// headers.insert(header::DECNET_SIGNATURE, signature.parse().unwrap());
///
/// // What a web framework makes of it when it parses the body and writes it again.
/// let body = br#"{"b": 2, "a": 1}"#;
/// let keys = ReceiverKeys { decnet: Some(secret), ..ReceiverKeys::default() };
/// let findings = diagnose(&keys, &headers, body, UnixMicros(0), 300);
/// let why = findings[0].result.as_ref().unwrap_err().to_string();
/// assert!(why.starts_with("re-serialised body:"));
/// ```
#[must_use]
pub fn diagnose(
    keys: &ReceiverKeys,
    headers: &HeaderMap,
    body: &[u8],
    now: UnixMicros,
    tolerance_s: u64,
) -> Vec<Finding> {
    let request = Request { headers, body, now, tolerance_s };
    let mut findings = Vec::new();
    if let Some(secret) = &keys.decnet {
        let verified = verify_decnet(secret, headers, body);
        let result = request.result(Scheme::Decnet, &verified, &decnet_forms(secret, keys.standard.as_ref()));
        findings.push(Finding { scheme: Scheme::Decnet, result });
    }
    if let Some(key) = &keys.standard {
        let verified = verify_standard(key, headers, body, now, tolerance_s);
        let result = request.result(Scheme::Standard, &verified, &standard_forms(key, keys.decnet.as_ref()));
        findings.push(Finding { scheme: Scheme::Standard, result });
    }
    if let Some(key) = &keys.ed25519 {
        let verified = verify_ed25519(key, headers, body, now, tolerance_s);
        let form = KeyForm { verifier: Verifier::Ed25519(*key), cause: None };
        let result = request.result(Scheme::Ed25519, &verified, &[form]);
        findings.push(Finding { scheme: Scheme::Ed25519, result });
    }
    findings
}

/// A form in which a key may have been used.
struct KeyForm {
    verifier: Verifier,
    /// `None`: as it should be used.
    cause: Option<Cause>,
}

enum Verifier {
    Hmac(KeyedMac),
    Ed25519(Ed25519PublicKey),
}

impl KeyForm {
    fn hmac(key: &[u8], cause: Option<Cause>) -> Self {
        Self { verifier: Verifier::Hmac(KeyedMac::new(key)), cause }
    }
}

fn decnet_forms(secret: &Secret, standard: Option<&StandardKey>) -> Vec<KeyForm> {
    let text = secret.expose();
    let mut forms = vec![KeyForm::hmac(text.as_bytes(), None)];
    // The keys may have been confused.
    if let Some(key) = text.strip_prefix(STANDARD_KEY_PREFIX).and_then(decode) {
        forms.push(KeyForm::hmac(&key, Some(Cause::SecretIsStandardKey)));
    }
    if let Some(key) = standard {
        forms.push(KeyForm::hmac(&key.bytes, Some(Cause::StandardKeyUsed)));
        forms.push(KeyForm::hmac(key.expose().as_bytes(), Some(Cause::StandardKeyUsed)));
    }
    let url_safe = text.replace('-', "+").replace('_', "/");
    if let Some(decoded) = decode(&url_safe) {
        forms.push(KeyForm::hmac(&decoded, Some(Cause::SecretDecoded)));
    }
    if let Some(decoded) = hex::decode::<32>(text) {
        forms.push(KeyForm::hmac(&decoded, Some(Cause::SecretDecoded)));
    }
    forms
}

fn standard_forms(key: &StandardKey, secret: Option<&Secret>) -> Vec<KeyForm> {
    let text = key.expose();
    let mut forms = vec![
        KeyForm::hmac(&key.bytes, None),
        KeyForm::hmac(text.as_bytes(), Some(Cause::PrefixNotStripped)),
        KeyForm::hmac(text[STANDARD_KEY_PREFIX.len()..].as_bytes(), Some(Cause::KeyNotDecoded)),
    ];
    if let Some(secret) = secret {
        forms.push(KeyForm::hmac(secret.expose().as_bytes(), Some(Cause::SecretUsed)));
    }
    forms
}

struct Request<'a> {
    headers: &'a HeaderMap,
    body: &'a [u8],
    now: UnixMicros,
    tolerance_s: u64,
}

impl Request<'_> {
    fn result(
        &self,
        scheme: Scheme,
        verified: &Result<(), VerifyError>,
        forms: &[KeyForm],
    ) -> Result<Match, Diagnosis> {
        let own = found_in(self.headers, scheme);
        if verified.is_ok() {
            return Ok(self.position(&own, scheme, &forms[0]));
        }
        let mut causes = self.wrong_time(scheme);
        match verified {
            Err(VerifyError::MissingHeader(name)) => causes.insert(0, Cause::Missing(name)),
            Err(VerifyError::MalformedHeader(name)) if own.is_empty() && *name != header::WEBHOOK_TIMESTAMP => {
                causes.insert(0, Cause::Malformed(name));
            }
            _ => {}
        }
        match self.explain(&own, scheme, &forms.iter().collect::<Vec<_>>()) {
            Some(found) => causes.splice(0..0, found).for_each(drop),
            None => {
                if let Some(found) = self.explain_other_headers(scheme, forms) {
                    causes.extend(found);
                } else if !own.is_empty() && !matches!(causes.first(), Some(Cause::Missing(_))) {
                    causes.insert(0, if self.body.is_empty() { Cause::EmptyBody } else { Cause::OtherKey });
                } else if causes.is_empty() {
                    causes.push(Cause::NoSignature(scheme));
                }
            }
        }
        if causes.is_empty() {
            causes.push(Cause::OtherKey);
        }
        Err(Diagnosis { causes })
    }

    /// The position of the signature. The first is made with the newest key.
    fn position(&self, found: &[Found], scheme: Scheme, form: &KeyForm) -> Match {
        let (prefixes, body) = (prefixes(self.headers, self.body, scheme), Body::as_it_came(self.body));
        let prefix = prefixes.first().map_or("", |prefix| &prefix.text);
        let is_newest = found
            .first()
            .is_some_and(|first| made(&form.verifier, prefix, &body, std::slice::from_ref(first)).is_some());
        if is_newest { Match::Newest } else { Match::Older }
    }

    /// A timestamp that is in another unit, no number, or too far from now.
    fn wrong_time(&self, scheme: Scheme) -> Vec<Cause> {
        let Ok(text) = required(self.headers, header::WEBHOOK_TIMESTAMP) else { return Vec::new() };
        if scheme == Scheme::Decnet {
            return Vec::new();
        }
        let Ok(timestamp) = text.parse::<i64>() else { return vec![Cause::TimestampForm] };
        let late_s = self.now.seconds().saturating_sub(timestamp);
        if late_s.unsigned_abs() <= self.tolerance_s {
            return Vec::new();
        }
        if timestamp > MAX_SECONDS {
            return vec![Cause::Milliseconds];
        }
        vec![Cause::Clock { late_s, tolerance_s: self.tolerance_s }]
    }

    /// The fewest mistakes that explain one of `found`; an empty list if there is no mistake.
    fn explain(&self, found: &[Found], scheme: Scheme, forms: &[&KeyForm]) -> Option<Vec<Cause>> {
        let prefixes = prefixes(self.headers, self.body, scheme);
        let bodies = bodies(self.body);
        let most = if self.body.len() > MAX_DIAGNOSED_BYTES { 1 } else { MAX_MISTAKES };
        for mistakes in 0..=most {
            for form in forms {
                for prefix in &prefixes {
                    for body in &bodies {
                        let causes: Vec<Cause> = [form.cause, prefix.cause, body.cause].into_iter().flatten().collect();
                        if causes.len() != mistakes {
                            continue;
                        }
                        if let Some(found) = made(&form.verifier, &prefix.text, body, found) {
                            return Some(causes.into_iter().chain(found.causes.iter().copied()).collect());
                        }
                    }
                }
            }
        }
        None
    }

    /// Whether a key of one scheme made the signature of another.
    fn explain_other_headers(&self, scheme: Scheme, forms: &[KeyForm]) -> Option<Vec<Cause>> {
        let other = match scheme {
            Scheme::Decnet => Scheme::Standard,
            Scheme::Standard => Scheme::Decnet,
            Scheme::Ed25519 => return None,
        };
        let found = found_in(self.headers, other);
        // A signature of the other scheme by its own key is no mistake.
        let is_own = |form: &&KeyForm| !matches!(form.cause, Some(Cause::SecretUsed | Cause::StandardKeyUsed));
        let own: Vec<_> = forms.iter().filter(is_own).collect();
        let mut causes = self.explain(&found, other, &own)?;
        // If the given key belongs to the other scheme, that explains the header, too.
        if !causes.contains(&Cause::SecretIsStandardKey) {
            causes.insert(0, Cause::MadeForOtherHeader { key: scheme, header: other });
        }
        Some(causes)
    }
}

/// Unix seconds beyond this are past the year 5000, and so are milliseconds.
const MAX_SECONDS: i64 = 100_000_000_000;

/// The first of `found` that equals the signature of `prefix` and `body`.
fn made<'a>(verifier: &Verifier, prefix: &str, body: &Body<'_>, found: &'a [Found]) -> Option<&'a Found> {
    match verifier {
        Verifier::Hmac(mac) => {
            let mac = mac.over(&[prefix.as_bytes(), &body.bytes]);
            found.iter().find(|found| mac.clone().verify_slice(&found.code).is_ok())
        }
        Verifier::Ed25519(key) => {
            let content = [prefix.as_bytes(), &body.bytes].concat();
            found.iter().find(|found| key.verifies(&content, &found.code))
        }
    }
}

#[cfg(test)]
mod tests;
