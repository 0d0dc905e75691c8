//! What a user may write for a login.

use serde::{Deserialize as _, Deserializer};
use serde_json::Value;

use super::SecretText;
use super::oauth2::DEFAULT_TOKEN_LIFETIME;
use crate::fit::fit;

/// For how long a token is used if nothing is said, in seconds.
pub(super) fn default_lifetime_s() -> u32 {
    fit(DEFAULT_TOKEN_LIFETIME.as_secs(), u32::MAX)
}

/// A JSON object, itself or as a text.
pub(super) fn object_or_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretText>, D::Error> {
    Ok(match Option::deserialize(deserializer)? {
        None => None,
        Some(Value::String(text)) => Some(text.into()),
        Some(other) => Some(other.to_string().into()),
    })
}
