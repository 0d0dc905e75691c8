//! What is wrong with the settings of [`RawAccess`](super::RawAccess).

use std::fmt;

/// A fault of one field of [`RawAccess`](super::RawAccess). The text shows no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct AccessError {
    /// The field's name in the API: `headers`, `content_type`, `auth`, `ca`, `server_name`, `client_certificate` or `proxy`.
    pub field: &'static str,
    pub reason: String,
}

impl AccessError {
    pub(super) fn new(field: &'static str, reason: impl fmt::Display) -> Self {
        Self { field, reason: reason.to_string() }
    }
}
