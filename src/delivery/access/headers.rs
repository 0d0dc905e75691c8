//! Custom headers: which names and values a webhook may have.

use std::collections::BTreeMap;
use std::fmt::Display;

use http::{HeaderName, HeaderValue};

use super::{Access, AccessError, SecretText};
use crate::delivery::fields::is_token;
use crate::event::HOPS_HEADER;
use crate::signing::{self, Profile, Signatures, header};

/// The most custom headers of a webhook. Many servers take a hundred headers in all.
pub const MAX_HEADERS: usize = 32;
/// The longest name of a custom header, in bytes.
pub const MAX_HEADER_NAME_BYTES: usize = 128;
/// The longest value of a custom header, in bytes.
pub const MAX_HEADER_VALUE_BYTES: usize = 4_096;
/// The most bytes of all names and values together. Many servers refuse a head of more than 8 KiB.
pub const MAX_HEADERS_BYTES: usize = 6 * 1024;
/// The longest `content_type`, in bytes.
pub const MAX_CONTENT_TYPE_BYTES: usize = 256;

/// Headers that Postrider sets itself, or that frame a message of HTTP/1.1 (RFC 9110, sections 7.6.1 and 10.1.1, and
/// RFC 9112, sections 6 and 9). With the latter a user could make one request look like two.
const RESERVED: [&str; 12] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    HOPS_HEADER,
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// Headers that Postrider sends unless the webhook has its own; no signature may be in one of them.
const OVERRIDABLE: [&str; 3] = ["accept", "accept-encoding", "user-agent"];
/// Prefixes of names that Postrider uses, or that are hop-by-hop.
const RESERVED_PREFIXES: [&str; 3] = ["proxy-", "webhook-", "x-decnet-"];

/// Whether a header that a message brings may be sent on: it frames no message, and is none that Postrider sends itself.
#[cfg(feature = "server")]
pub(crate) fn is_forwardable(name: &str) -> bool {
    let is_own = |known: &&str| known.eq_ignore_ascii_case(name);
    let is_of_proxies = name.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("proxy-"));
    is_token(name.as_bytes())
        && !is_of_proxies
        && !is_credential(name)
        && !RESERVED.iter().chain(&OVERRIDABLE).any(is_own)
}

/// Headers with credentials: an inlet keeps none of them, and none is sent on.
#[cfg(feature = "server")]
const CREDENTIALS: [&str; 5] =
    ["authorization", "cookie", "proxy-authorization", "x-gitlab-token", "x-postrider-tenant"];

#[cfg(feature = "server")]
pub(crate) fn is_credential(name: &str) -> bool {
    CREDENTIALS.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// The headers in their own spelling, ready for the wire; what is wrong with them goes to `errors`.
pub(super) fn parse(
    given: &BTreeMap<String, SecretText>,
    errors: &mut Vec<AccessError>,
) -> Vec<(Box<str>, HeaderValue)> {
    let mut wrong = |reason: &dyn Display| errors.push(AccessError::new("headers", reason));
    if given.len() > MAX_HEADERS {
        wrong(&format_args!("has {} headers, the limit is {MAX_HEADERS}", given.len()));
        return Vec::new();
    }
    let total_bytes: usize = given.iter().map(|(name, value)| name.len() + value.expose().len()).sum();
    if total_bytes > MAX_HEADERS_BYTES {
        wrong(&format_args!("has {total_bytes} bytes of names and values, the limit is {MAX_HEADERS_BYTES}"));
        return Vec::new();
    }
    let mut headers: Vec<(Box<str>, HeaderValue)> = Vec::with_capacity(given.len() + 1);
    for (name, value) in given {
        match value_under(name, value) {
            Ok(_) if headers.iter().any(|(earlier, _)| earlier.eq_ignore_ascii_case(name)) => {
                wrong(&format_args!("{name:?} is given twice, in another case"));
            }
            Ok(value) => headers.push((name.as_str().into(), value)),
            Err(reason) => wrong(&reason),
        }
    }
    headers
}

/// The value of a header that may be set.
fn value_under(name: &str, value: &SecretText) -> Result<HeaderValue, String> {
    check_name(name)?;
    value_of(name, value)
}

/// Refuses what is no name, and names that users may not set.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    if name.len() > MAX_HEADER_NAME_BYTES {
        let length = name.len();
        return Err(format!("a name has {length} bytes, the limit is {MAX_HEADER_NAME_BYTES}"));
    }
    let parsed = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| format!("{name:?} is no header name (letters, digits and -, as in X-Team)"))?;
    if is_reserved(parsed.as_str()) {
        return Err(format!("{name:?} is set by Postrider itself"));
    }
    Ok(())
}

/// Whether users may not set a header of this name, which is in lower case. `_` and `-` are the same here, as in
/// servers that pass headers to programs as variables (CGI, RFC 3875, section 4.1.18).
fn is_reserved(name: &str) -> bool {
    let name = name.replace('_', "-");
    RESERVED.contains(&&*name) || RESERVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// What is wrong with the headers of `signatures` beside those of `access`: reserved names, and names that two have.
pub(super) fn signature_faults(signatures: &Signatures, access: &Access) -> Vec<String> {
    let mut faults = Vec::new();
    let known = |profile: &Profile| signing::profile(&profile.name).is_some_and(|plan| plan.profile() == profile);
    let mut taken: Vec<(String, &Profile)> = Vec::new();
    for profile in signatures.profiles() {
        for (field, name) in profile.named_headers() {
            let lower = name.to_ascii_lowercase();
            let mut wrong = |reason: &str| faults.push(format!("{:?}: {field}: {name:?} {reason}", profile.name));
            if !known(profile) && (is_reserved(&lower) || OVERRIDABLE.contains(&&*lower)) {
                wrong("is set by Postrider itself");
            } else if access.has_header(name)
                || (access.needs_token() && name.eq_ignore_ascii_case(access.credential_header()))
            {
                wrong("is set by `headers` or `auth`, too; set one of them");
            } else if taken.iter().any(|(other, by)| *other == lower && !go_together(by, profile)) {
                wrong("is set by another signature, too; leave one of them out");
            }
            taken.push((lower, profile));
        }
    }
    faults
}

/// Whether the signatures of both stand in one header: those of Standard Webhooks.
fn go_together(one: &Profile, other: &Profile) -> bool {
    let is_standard = |profile: &Profile| profile.header == header::WEBHOOK_SIGNATURE;
    one.name != other.name && is_standard(one) && is_standard(other)
}

fn value_of(name: &str, value: &SecretText) -> Result<HeaderValue, String> {
    let text = value.expose();
    if value.is_placeholder() {
        return Err(format!("the value of {name:?} is the sign that stands for a secret; give the secret itself"));
    }
    if text.len() > MAX_HEADER_VALUE_BYTES {
        let length = text.len();
        return Err(format!("the value of {name:?} has {length} bytes, the limit is {MAX_HEADER_VALUE_BYTES}"));
    }
    if let Some((at, found)) = text.char_indices().find(|(_, c)| !matches!(c, ' '..='~')) {
        return Err(format!(
            "the value of {name:?} has the character {found:?} at byte {at}; visible ASCII and spaces are sent"
        ));
    }
    if text.trim() != text {
        return Err(format!("the value of {name:?} begins or ends with a space, which receivers drop"));
    }
    let mut value = HeaderValue::from_str(text).map_err(|_| format!("the value of {name:?} cannot be sent"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// A media type (RFC 9110, section 8.3.1): `type/subtype`, parameters after a semicolon.
pub(super) fn content_type(text: &str) -> Result<HeaderValue, AccessError> {
    let wrong = |reason: String| AccessError::new("content_type", reason);
    if text.len() > MAX_CONTENT_TYPE_BYTES {
        return Err(wrong(format!("has {} bytes, the limit is {MAX_CONTENT_TYPE_BYTES}", text.len())));
    }
    if let Some((at, found)) = text.char_indices().find(|(_, c)| !matches!(c, ' '..='~')) {
        return Err(wrong(format!("has the character {found:?} at byte {at}; it must be visible ASCII")));
    }
    let essence = text.split(';').next().unwrap_or_default().trim_end_matches(' ');
    match essence.split_once('/') {
        Some((kind, subtype))
            if is_token(kind.as_bytes()) && is_token(subtype.as_bytes()) && text.trim_end() == text => {}
        _ => return Err(wrong(format!("{text:?} is no media type, such as \"application/json\""))),
    }
    HeaderValue::from_str(text).map_err(|error| wrong(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(headers: &[(&str, &str)]) -> Vec<String> {
        let given = headers.iter().map(|(name, value)| ((*name).to_owned(), SecretText::from(*value))).collect();
        let mut errors = Vec::new();
        parse(&given, &mut errors);
        errors.into_iter().map(|error| error.reason).collect()
    }

    #[test]
    fn postrider_s_own_and_hop_by_hop_headers_are_refused_in_any_spelling() {
        let names = "Host content-length Content-Type content-encoding Connection TE trailer Transfer-Encoding upgrade \
            Keep-Alive Proxy-Authorization proxy-connection Expect X-DECNET-Signature x-decnet-anything webhook-id \
            Webhook-Signature x_decnet_signature Content_Length Postrider-Hops POSTRIDER_HOPS";
        for name in names.split_whitespace() {
            assert_eq!(errors(&[(name, "x")]), [format!("{name:?} is set by Postrider itself")]);
        }
        for name in ["User-Agent", "Authorization", "Cookie", "X-Forwarded-For", "x-team", "Accept", "webhook"] {
            assert!(errors(&[(name, "x")]).is_empty(), "{name}");
        }
    }

    #[test]
    fn nothing_can_be_smuggled_into_a_request() {
        for value in ["a\r\nx: y", "a\nb", "a\rb", "a\0b", "a\tb", "a\u{7f}", "ä", " a", "a "] {
            assert_eq!(errors(&[("X-A", value)]).len(), 1, "{value:?}");
        }
        for name in ["", "a b", "a:b", "a\r\nb", "a\0", "ä", ":method", "a\n"] {
            assert_eq!(errors(&[(name, "x")]).len(), 1, "{name:?}");
        }
        let shown = errors(&[("X-Token", "geheim\r\nx: y")]);
        assert!(shown[0].contains(r"'\r' at byte 6") && !shown[0].contains("geheim"), "{shown:?}");
        assert!(errors(&[("X-A", "")]).is_empty(), "an empty value is one");
    }

    #[test]
    fn number_and_sizes_are_limited() {
        let many: Vec<String> = (0..=MAX_HEADERS).map(|number| format!("x-{number}")).collect();
        let pairs: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "v")).collect();
        assert!(errors(&pairs[1..]).is_empty());
        assert_eq!(errors(&pairs), ["has 33 headers, the limit is 32"]);
        let fits = "v".repeat(MAX_HEADER_VALUE_BYTES);
        assert!(errors(&[("x-a", &fits)]).is_empty());
        assert_eq!(errors(&[("x-a", &format!("{fits}v"))]).len(), 1);
        assert!(errors(&[(&"n".repeat(MAX_HEADER_NAME_BYTES), "v")]).is_empty());
        assert_eq!(errors(&[(&"n".repeat(MAX_HEADER_NAME_BYTES + 1), "v")]).len(), 1);
        let half = "v".repeat(MAX_HEADERS_BYTES / 2);
        assert_eq!(
            errors(&[("x-a", &half), ("x-b", &half)]),
            ["has 6150 bytes of names and values, the limit is 6144"]
        );
        assert_eq!(errors(&[("X-A", "1"), ("x-a", "2")]), ["\"x-a\" is given twice, in another case"]);
    }

    #[test]
    fn a_content_type_is_a_media_type() {
        for good in ["application/json", "text/plain; charset=utf-8", "application/vnd.x+json;v=1", "text/xml ;a=b"] {
            assert_eq!(content_type(good).unwrap(), good);
        }
        let long = format!("a/{}", "b".repeat(MAX_CONTENT_TYPE_BYTES));
        for bad in ["", "json", "a/", "/b", "a b/c", "a/b\r\nx: y", "a/b ", "a/ä", "a/b/c", " a/b", &long] {
            assert!(content_type(bad).is_err(), "{bad:?}");
        }
        assert!(content_type(&long[..MAX_CONTENT_TYPE_BYTES]).is_ok());
    }
}
