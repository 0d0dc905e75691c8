//! The signatures of a request, in whatever form they are.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use http::HeaderMap;

use super::cause::Cause;
use crate::hex;
use crate::signing::verify::required;
use crate::signing::{MAX_SIGNATURES, Scheme, header};

/// A signature, decoded.
pub(super) struct Found {
    pub(super) code: Vec<u8>,
    /// The faults of its form.
    pub(super) causes: Vec<Cause>,
}

/// Labels before signatures, of this and other schemes. Of labels with a common beginning the longest comes first.
const LABELS: [&str; 7] = ["sha256=", "sha256:", "v1a,", "v1a=", "v1,", "v1=", "v0="];

/// Possible signatures of `scheme`, in the right form or not; at most [`MAX_SIGNATURES`].
pub(super) fn found_in(headers: &HeaderMap, scheme: Scheme) -> Vec<Found> {
    let names: &[&'static str] = match scheme {
        Scheme::Decnet => &[header::DECNET_SIGNATURE, header::DECNET_SIGNATURE_PREVIOUS],
        Scheme::Standard | Scheme::Ed25519 => &[header::WEBHOOK_SIGNATURE],
    };
    let values = names.iter().filter_map(|name| required(headers, name).ok());
    let texts = values.flat_map(str::split_ascii_whitespace).take(MAX_SIGNATURES);
    texts.filter_map(|text| found(text, scheme)).collect()
}

fn found(text: &str, scheme: Scheme) -> Option<Found> {
    let (expected_label, expected_form, length) = match scheme {
        Scheme::Decnet => ("sha256=", "hexadecimal", 32),
        Scheme::Standard => ("v1,", "base64", 32),
        Scheme::Ed25519 => ("v1a,", "base64", 64),
    };
    let label = LABELS.into_iter().find(|label| text.starts_with(label)).unwrap_or_default();
    let (code, form) = decode(&text[label.len()..])?;
    if code.len() != length {
        return None;
    }
    let mut causes = Vec::new();
    if label != expected_label {
        let found = if label.is_empty() { "nothing" } else { label };
        causes.push(Cause::Label { found, expected: expected_label });
    }
    if form != expected_form {
        causes.push(Cause::Encoding { found: form, expected: expected_form });
    }
    Some(Found { code, causes })
}

fn decode(text: &str) -> Option<(Vec<u8>, &'static str)> {
    if let Some(code) = hex::decode::<32>(text) {
        return Some((code.to_vec(), "hexadecimal"));
    }
    let engines = [
        (STANDARD, "base64"),
        (STANDARD_NO_PAD, "base64 without padding"),
        (URL_SAFE, "URL-safe base64"),
        (URL_SAFE_NO_PAD, "URL-safe base64 without padding"),
    ];
    engines.iter().find_map(|(engine, name)| Some((engine.decode(text).ok()?, *name)))
}
