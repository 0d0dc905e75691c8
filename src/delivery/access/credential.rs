//! Credentials as headers carry them: basic ones and tokens.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use zeroize::Zeroizing;

/// The longest bearer token, in bytes; a longer one fits into no server's limits on headers.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// The value of `Authorization` (or `Proxy-Authorization`) with basic credentials.
pub(super) fn basic(username: &str, password: &str) -> Option<HeaderValue> {
    let credentials = Zeroizing::new(format!("{username}:{password}"));
    sensitive(&format!("Basic {}", STANDARD.encode(credentials.as_bytes())))
}

/// The value of a header that carries a token as it is.
pub(super) fn plain(token: &str) -> Option<HeaderValue> {
    sensitive(token)
}

/// The value of `Authorization` with a token.
pub(super) fn bearer(token: &str) -> Option<HeaderValue> {
    sensitive(&format!("Bearer {token}"))
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}
