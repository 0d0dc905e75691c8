//! An answer of a server, as it came and as it is read.

use serde_json::Value;

/// What the server said.
pub(super) struct Answer {
    /// As it came: numbers have all their digits.
    pub text: String,
    /// The same, parsed.
    pub value: Value,
}
