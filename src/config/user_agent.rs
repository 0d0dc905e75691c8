//! The `User-Agent` of requests.

use http::HeaderValue;

/// The longest `user_agent`, in bytes.
pub const MAX_USER_AGENT_BYTES: usize = 256;

/// A header's value, and nothing of the empty text.
pub(super) fn parse_user_agent(text: &str) -> Result<Option<HeaderValue>, String> {
    if text.len() > MAX_USER_AGENT_BYTES {
        return Err(format!("has {} bytes, the limit is {MAX_USER_AGENT_BYTES}", text.len()));
    }
    if text.trim() != text || !text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Err("must be visible ASCII, with spaces between at most".to_owned());
    }
    Ok(HeaderValue::from_str(text).ok().filter(|value| !value.is_empty()))
}
