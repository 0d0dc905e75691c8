//! Tokens by a request of one's own, as APIs have it that know no `OAuth2`: Wazuh's `POST /security/user/authenticate`, for one.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response};

use super::credential::{MAX_TOKEN_BYTES, basic, bearer, plain};
use super::headers::check_name;
use super::{AccessError, SecretText};
use crate::delivery::End;
use crate::delivery::client::{OutgoingRequest, RequestHead, Target};
use crate::event::object_members;

/// The largest body of a login, in bytes.
pub const MAX_LOGIN_BODY_BYTES: usize = 4_096;
/// The longest JSON pointer to a token, in bytes.
pub const MAX_POINTER_BYTES: usize = 256;
/// How long a token may be used, in seconds, up to a day.
pub const LOGIN_LIFETIME_S: std::ops::RangeInclusive<u32> = 1..=86_400;

/// The request of a login.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "server",
    derive(serde::Serialize, serde::Deserialize, utoipa::ToSchema),
    serde(rename_all = "UPPERCASE")
)]
pub enum LoginMethod {
    Get,
    #[default]
    Post,
    Put,
}

/// A login, ready for the wire.
pub(super) struct Login {
    pub(super) method: LoginMethod,
    /// The value of `Authorization`.
    pub(super) basic: Option<HeaderValue>,
    /// JSON.
    pub(super) body: Option<SecretText>,
    /// The way to the token in the answer; `None`: the answer is the token.
    pub(super) pointer: Option<Vec<String>>,
    pub(super) lifetime: Duration,
    /// The header that carries the token as it is; `None`: `Authorization: Bearer …`.
    pub(super) header: Option<Box<str>>,
}

impl LoginMethod {
    fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
        }
    }
}

impl Login {
    pub(super) fn header(&self) -> Option<&str> {
        self.header.as_deref()
    }

    pub(super) fn build(&self, target: Target<'_>) -> Result<OutgoingRequest, End> {
        let mut head = RequestHead::new(self.method.as_str(), target);
        head.field("Accept", b"*/*")?;
        head.field("Accept-Encoding", b"identity")?;
        if let Some(basic) = &self.basic {
            head.field("Authorization", basic.as_bytes())?;
        }
        let body = self.body.as_ref().map(|body| Bytes::copy_from_slice(body.expose().as_bytes()));
        if body.is_some() {
            head.field("Content-Type", b"application/json")?;
        }
        Ok(head.with_body(body.unwrap_or_default()))
    }

    /// The value of the header that carries the token, and its lifetime. The error repeats nothing of the answer.
    pub(super) fn read(&self, answer: &Response<Bytes>) -> Result<(HeaderValue, Duration), String> {
        let status = answer.status();
        if !status.is_success() {
            return Err(format!("the login answered {}", status.as_u16()));
        }
        let body = answer.body().strip_prefix(b"\xef\xbb\xbf").unwrap_or(answer.body());
        let text = std::str::from_utf8(body).map_err(|_| "the login's answer is no text".to_owned())?;
        let token = match &self.pointer {
            None => text.trim_ascii().to_owned(),
            Some(pointer) => member(text, pointer).ok_or("the login's answer has no token where `token` points to")?,
        };
        if token.is_empty() || token.len() > MAX_TOKEN_BYTES || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!("the token is not 1 to {MAX_TOKEN_BYTES} bytes of visible ASCII"));
        }
        let value = if self.header.is_some() { plain(&token) } else { bearer(&token) };
        Ok((value.ok_or("the token cannot be sent")?, self.lifetime))
    }
}

/// The text at `pointer`, through objects; `None`: there is none, or no text.
fn member(json: &str, pointer: &[String]) -> Option<String> {
    let mut at = json.to_owned();
    for name in pointer {
        let members = object_members(at.as_bytes()).ok()?;
        at = members.into_iter().find(|(key, _)| **key == **name)?.1.into();
    }
    let is_text = at != "null" && !at.starts_with(['{', '[']);
    is_text.then_some(at)
}

/// The names of a JSON pointer (RFC 6901).
pub(super) fn parse_pointer(text: &str) -> Result<Vec<String>, AccessError> {
    let wrong = |reason: &str| AccessError::new("auth", format_args!("token {reason}"));
    if text.len() > MAX_POINTER_BYTES {
        return Err(wrong(&format!("has {} bytes, the limit is {MAX_POINTER_BYTES}", text.len())));
    }
    let Some(names) = text.strip_prefix('/') else {
        return Err(wrong("is no JSON pointer, as in /data/token; leave it out if the answer is the token itself"));
    };
    Ok(names.split('/').map(|name| name.replace("~1", "/").replace("~0", "~")).collect())
}

/// A header that may carry a token.
pub(super) fn parse_header(name: &str) -> Result<Option<Box<str>>, AccessError> {
    if name.eq_ignore_ascii_case("authorization") {
        return Ok(None);
    }
    check_name(name).map_err(|reason| AccessError::new("auth", format_args!("header: {reason}")))?;
    Ok(Some(name.into()))
}

/// The value of `Authorization` for the login itself.
pub(super) fn basic_of(username: Option<&str>, password: Option<&SecretText>) -> Option<HeaderValue> {
    match (username, password) {
        (None, None) => None,
        (username, password) => basic(username.unwrap_or_default(), password.map_or("", SecretText::expose)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(pointer: Option<&str>, header: Option<&str>) -> Login {
        Login {
            method: LoginMethod::Post,
            basic: None,
            body: None,
            pointer: pointer.map(|pointer| parse_pointer(pointer).unwrap()),
            lifetime: Duration::from_mins(15),
            header: header.and_then(|header| parse_header(header).unwrap()),
        }
    }

    fn read(login: &Login, status: u16, body: &str) -> Result<String, String> {
        let answer = Response::builder().status(status).body(Bytes::from(body.to_owned())).unwrap();
        login.read(&answer).map(|(value, _)| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_token_is_the_answer_or_where_the_pointer_leads() {
        assert_eq!(read(&login(None, None), 200, "eyJ.a-b_c\n"), Ok("Bearer eyJ.a-b_c".to_owned()));
        // As Wazuh answers without `raw=true`.
        let wazuh = r#"{"data": {"token": "eyJ"}, "error": 0}"#;
        assert_eq!(read(&login(Some("/data/token"), None), 200, wazuh), Ok("Bearer eyJ".to_owned()));
        assert_eq!(
            read(&login(Some("/a~1b/c~0d"), Some("X-Auth")), 201, r#"{"a/b": {"c~d": "t"}}"#),
            Ok("t".to_owned())
        );
        assert_eq!(login(None, Some("AUTHORIZATION")).header(), None, "that is the usual one");
    }

    #[test]
    fn an_answer_without_a_token_says_so_and_repeats_nothing() {
        let pointed = login(Some("/data/token"), None);
        let long = "t".repeat(MAX_TOKEN_BYTES + 1);
        for (login, status, body, expected) in [
            (&pointed, 401, "no", "the login answered 401"),
            (&pointed, 200, "geheim", "no token where"),
            (&pointed, 200, r#"{"data": {"token": null, "x": "geheim"}}"#, "no token where"),
            (&pointed, 200, r#"{"data": {"token": {"x": "geheim"}}}"#, "no token where"),
            (&pointed, 200, r#"{"data": ["geheim"]}"#, "no token where"),
            (&login(None, None), 200, "", "1 to 8192 bytes"),
            (&login(None, None), 200, "geheim\r\nx: y", "1 to 8192 bytes"),
            (&login(None, None), 200, &long, "1 to 8192 bytes"),
        ] {
            let reason = read(login, status, body).map(|_| ()).unwrap_err();
            assert!(reason.contains(expected) && !reason.contains("geheim"), "{body}: {reason}");
        }
    }
}
