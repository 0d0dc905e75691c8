//! Tokens by `OAuth2` client credentials (RFC 6749, section 4.4): fetched when one is needed, one fetch at a time,
//! kept in memory until shortly before they expire.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::credential::{MAX_TOKEN_BYTES, bearer};
use crate::clock::{Clock, UnixMicros};
use crate::delivery::End;
use crate::delivery::client::{Client, RequestHead, Target};
use crate::delivery::guard::Destination;
use crate::event::object_members;

/// The largest answer of a token endpoint, in bytes.
pub const MAX_TOKEN_ANSWER_BYTES: usize = 64 * 1024;
/// The lifetime of a token without `expires_in`.
pub const DEFAULT_TOKEN_LIFETIME: Duration = Duration::from_mins(5);
/// The longest use of a token, whatever its `expires_in`.
pub const MAX_TOKEN_LIFETIME: Duration = Duration::from_hours(24);
/// The time before its end at which a token is no longer used, so that it does not expire on its way. At most a quarter
/// of its lifetime.
pub const EXPIRY_MARGIN: Duration = Duration::from_secs(30);
/// The timeout of a fetch. An attempt that waits for it ends by its own timeout, which is no longer.
const FETCH_TIMEOUT: Duration = Duration::from_mins(1);
/// The longest error code of a token endpoint that is shown, in bytes.
const MAX_ERROR_CODE_BYTES: usize = 64;

/// The credential of one attempt.
pub(in crate::delivery) struct Authorization {
    pub(in crate::delivery) value: HeaderValue,
    /// Whether it was fetched before this attempt, so that a new token may be accepted where this one is refused.
    pub(in crate::delivery) is_cached: bool,
}

/// A token endpoint, and the present token.
pub(super) struct TokenSource {
    endpoint: Destination,
    authorization: Option<HeaderValue>,
    form: Bytes,
    /// Locked while a token is fetched, so that concurrent attempts wait for the same token.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    token: Option<Token>,
    /// The time and the error of the last failed fetch. All attempts that waited for it get the same error.
    failed: Option<(Instant, End)>,
}

struct Token {
    value: HeaderValue,
    fetched_at: Instant,
    /// The token is used between this time and `usable_until`, by the clock.
    usable_from: UnixMicros,
    usable_until: UnixMicros,
}

impl TokenSource {
    /// `form` is posted to `endpoint`, with `authorization` if there is one.
    pub(super) fn new(endpoint: Destination, authorization: Option<HeaderValue>, form: String) -> Self {
        Self { endpoint, authorization, form: Bytes::from(form), state: Mutex::default() }
    }

    pub(super) fn endpoint(&self) -> &Destination {
        &self.endpoint
    }

    /// The present token, or a new one. `target` is the endpoint with its route.
    pub(super) async fn get(
        &self,
        client: &Client,
        target: Target<'_>,
        clock: &dyn Clock,
    ) -> Result<Authorization, End> {
        let asked_at = Instant::now();
        let mut state = self.state.lock().await;
        let now = clock.now();
        let usable = |token: &&Token| (token.usable_from..token.usable_until).contains(&now);
        if let Some(token) = state.token.as_ref().filter(usable) {
            return Ok(Authorization { value: token.value.clone(), is_cached: token.fetched_at < asked_at });
        }
        if let Some((failed_at, end)) = &state.failed
            && *failed_at >= asked_at
        {
            return Err(end.clone());
        }
        match self.fetch(client, target).await {
            Ok((value, lifetime)) => {
                let usable_until = now.after(lifetime.saturating_sub(EXPIRY_MARGIN.min(lifetime / 4)));
                let token = Token { value: value.clone(), fetched_at: Instant::now(), usable_from: now, usable_until };
                *state = State { token: Some(token), failed: None };
                Ok(Authorization { value, is_cached: false })
            }
            Err(end) => {
                *state = State { token: None, failed: Some((Instant::now(), end.clone())) };
                Err(end)
            }
        }
    }

    /// Drops the present token if it is the refused one.
    pub(super) async fn forget(&self, refused: &Authorization) {
        let mut state = self.state.lock().await;
        if state.token.as_ref().is_some_and(|token| token.value == refused.value) {
            state.token = None;
        }
    }

    async fn fetch(&self, client: &Client, target: Target<'_>) -> Result<(HeaderValue, Duration), End> {
        let build = || {
            let mut head = RequestHead::new("POST", target);
            head.field("Accept", b"application/json")?;
            head.field("Accept-Encoding", b"identity")?;
            head.field("Content-Type", b"application/x-www-form-urlencoded")?;
            if let Some(authorization) = &self.authorization {
                head.field("Authorization", authorization.as_bytes())?;
            }
            Ok(head.with_body(self.form.clone()))
        };
        let fetched = client.request_by(target, build, MAX_TOKEN_ANSWER_BYTES, FETCH_TIMEOUT).await;
        let answer = fetched.map_err(without_token)?;
        read_token(&answer).map_err(|reason| End::Auth(format!("no token: {reason}")))
    }
}

/// The end of an attempt that got no token. A refusal of the guard and a lack of local resources are kept, since they
/// are not the receiver's fault.
fn without_token(end: End) -> End {
    match end {
        End::Blocked(reason) => End::Blocked(format!("token_url: {reason}")),
        End::Local(_) | End::Proxy(_) => end,
        end => End::Auth(format!("no token: {}", end.error_text().unwrap_or_default())),
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
