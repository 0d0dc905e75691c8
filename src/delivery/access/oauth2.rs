//! Tokens by `OAuth2` client credentials (RFC 6749, section 4.4): what is asked of a token endpoint, and what it answers.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response};

use super::assertion::AssertionKey;
use super::credential::{MAX_TOKEN_BYTES, bearer};
use super::tokens::MAX_TOKEN_LIFETIME;
use crate::clock::UnixMicros;
use crate::delivery::End;
use crate::delivery::client::{OutgoingRequest, RequestHead, Target};
use crate::event::object_members;

/// The lifetime of a token without `expires_in`.
pub const DEFAULT_TOKEN_LIFETIME: Duration = Duration::from_mins(5);
/// The longest error code of a token endpoint that is shown, in bytes.
const MAX_ERROR_CODE_BYTES: usize = 64;

/// The form that is posted, and how the client says who it is.
pub(super) struct ClientCredentials {
    pub(super) form: String,
    pub(super) client: ClientProof,
}

pub(super) enum ClientProof {
    /// The form has id and secret.
    Form,
    /// The value of `Authorization`; `None`: it cannot be sent.
    Basic(Option<HeaderValue>),
    /// RFC 7523, section 2.2: a token that the client signs for each request.
    Assertion { client_id: String, audience: String, key: AssertionKey },
}

impl ClientCredentials {
    pub(super) fn build(&self, target: Target<'_>, now: UnixMicros) -> Result<OutgoingRequest, End> {
        let mut head = RequestHead::new("POST", target);
        head.field("Accept", b"application/json")?;
        head.field("Accept-Encoding", b"identity")?;
        head.field("Content-Type", b"application/x-www-form-urlencoded")?;
        let mut form = self.form.clone();
        match &self.client {
            ClientProof::Form => {}
            ClientProof::Basic(authorization) => {
                if let Some(authorization) = authorization {
                    head.field("Authorization", authorization.as_bytes())?;
                }
            }
            ClientProof::Assertion { client_id, audience, key } => {
                let assertion = key.assert(client_id, audience, now);
                let assertion =
                    assertion.ok_or_else(|| End::Auth("no token: the private key cannot sign".to_owned()))?;
                form.push_str(
                    "&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer",
                );
                // Base64 for URLs and dots need no escapes.
                form.extend(["&client_assertion=", &*assertion]);
            }
        }
        Ok(head.with_body(form.into()))
    }

    /// The value of `Authorization` with the token, and its lifetime.
    pub(super) fn read(answer: &Response<Bytes>) -> Result<(HeaderValue, Duration), String> {
        read_token(answer)
    }
}

/// The token types that mean a bearer token, in lower case: RFC 6750's, and that of Apigee.
const BEARER_TYPES: [&str; 2] = ["bearer", "bearertoken"];

/// RFC 6749, sections 5.1 and 5.2, with what endpoints really answer: any 2xx, a byte order mark, and `null` in place of
/// a field. The error repeats no text that may be a secret.
fn read_token(answer: &Response<Bytes>) -> Result<(HeaderValue, Duration), String> {
    let body = answer.body().strip_prefix(b"\xef\xbb\xbf").unwrap_or(answer.body());
    let members = object_members(body);
    let field = |name: &str| {
        let member = members.as_ref().ok()?.iter().find(|(key, _)| **key == *name);
        member.map(|(_, value)| &**value).filter(|value| *value != "null")
    };
    if !answer.status().is_success() {
        let is_code = |code: &&str| {
            (1..=MAX_ERROR_CODE_BYTES).contains(&code.len())
                && code.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
        };
        let status = answer.status().as_u16();
        return Err(match field("error").filter(is_code) {
            Some(code) => format!("the token endpoint answered {status} ({code})"),
            None => format!("the token endpoint answered {status}"),
        });
    }
    if members.is_err() {
        return Err("the token endpoint's answer is no JSON object".to_owned());
    }
    if let Some(kind) = field("token_type")
        && !BEARER_TYPES.contains(&&*kind.to_ascii_lowercase())
    {
        return Err("the token endpoint gave a token of another type than Bearer".to_owned());
    }
    let token = field("access_token").ok_or("the token endpoint's answer has no access_token")?;
    if token.is_empty() || token.len() > MAX_TOKEN_BYTES || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("the token is not 1 to {MAX_TOKEN_BYTES} bytes of visible ASCII"));
    }
    let value = bearer(token).ok_or("the token cannot be sent")?;
    Ok((value, lifetime(field("expires_in"))))
}

/// `expires_in` is a number of seconds; some servers send it as a string.
fn lifetime(expires_in: Option<&str>) -> Duration {
    match expires_in.and_then(|seconds| seconds.parse::<f64>().ok()) {
        Some(seconds) if seconds < MAX_TOKEN_LIFETIME.as_secs_f64() => {
            Duration::try_from_secs_f64(seconds).unwrap_or(Duration::ZERO)
        }
        Some(seconds) if seconds.is_nan() => DEFAULT_TOKEN_LIFETIME,
        Some(_) => MAX_TOKEN_LIFETIME,
        None => DEFAULT_TOKEN_LIFETIME,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(status: u16, body: &str) -> Result<(String, Duration), String> {
        let answer = Response::builder().status(status).body(Bytes::from(body.to_owned())).unwrap();
        read_token(&answer).map(|(value, lifetime)| (value.to_str().unwrap().to_owned(), lifetime))
    }

    #[test]
    fn a_token_and_its_lifetime_are_read() {
        // RFC 6749, section 4.4.3.
        let answer = r#"{"access_token":"2YotnFZFEjr1zCsicMWpAA","token_type":"example","expires_in":3600}"#;
        let bearer = answer.replace("example", "bearer");
        assert_eq!(read(200, &bearer).unwrap(), ("Bearer 2YotnFZFEjr1zCsicMWpAA".to_owned(), Duration::from_hours(1)));
        assert!(read(200, answer).unwrap_err().contains("another type"));
        for kind in [r#""BearerToken""#, r#""BEARER""#, "null"] {
            let answer = format!(r#"{{"access_token":"t","token_type":{kind},"expires_in":"3599"}}"#);
            assert_eq!(read(201, &answer).unwrap(), ("Bearer t".to_owned(), Duration::from_secs(3_599)), "{kind}");
            assert!(read(202, &format!("\u{feff}{answer}")).is_ok(), "{kind}");
        }
        let escaped = r#"{"access_token":"a\/b"}"#;
        assert_eq!(read(200, escaped).unwrap(), ("Bearer a/b".to_owned(), DEFAULT_TOKEN_LIFETIME));
    }

    #[test]
    fn no_lifetime_is_taken_on_trust() {
        let second = Duration::from_secs(1);
        let cases = [
            ("60", 60 * second),
            (r#""60""#, 60 * second),
            ("1.5", second * 3 / 2),
            ("0", Duration::ZERO),
            ("-5", Duration::ZERO),
            ("1e300", MAX_TOKEN_LIFETIME),
            ("99999999999999999999", MAX_TOKEN_LIFETIME),
            (r#""inf""#, MAX_TOKEN_LIFETIME),
            (r#""NaN""#, DEFAULT_TOKEN_LIFETIME),
            (r#""soon""#, DEFAULT_TOKEN_LIFETIME),
            ("null", DEFAULT_TOKEN_LIFETIME),
            ("[]", DEFAULT_TOKEN_LIFETIME),
        ];
        for (given, expected) in cases {
            let (_, lifetime) = read(200, &format!(r#"{{"access_token":"t","expires_in":{given}}}"#)).unwrap();
            assert_eq!(lifetime, expected, "{given}");
        }
    }

    #[test]
    fn an_answer_without_a_token_says_why_and_repeats_nothing_hostile() {
        let long = format!(r#"{{"access_token":"{}"}}"#, "t".repeat(MAX_TOKEN_BYTES + 1));
        let cases = [
            (400, r#"{"error":"invalid_client","error_description":"x"}"#, "answered 400 (invalid_client)"),
            (401, r#"{"error":"<script>\r\n"}"#, "the token endpoint answered 401"),
            (500, "oops", "the token endpoint answered 500"),
            (302, "", "the token endpoint answered 302"),
            (200, "", "no JSON object"),
            (200, "[1]", "no JSON object"),
            (200, "{}", "has no access_token"),
            (200, r#"{"access_token":null}"#, "has no access_token"),
            (204, "", "no JSON object"),
            (200, "\u{feff}\u{feff}{}", "no JSON object"),
            (200, r#"{"access_token":""}"#, "visible ASCII"),
            (200, r#"{"access_token":"a\r\nx: y"}"#, "visible ASCII"),
            (200, r#"{"access_token":"a b"}"#, "visible ASCII"),
            (200, &long, "visible ASCII"),
        ];
        for (status, body, expected) in cases {
            let reason = read(status, body).unwrap_err();
            assert!(reason.contains(expected) && !reason.contains("script"), "{body}: {reason}");
        }
    }
}
