//! An answer of a server, as it came and as it is read.

use serde_json::Value;

/// The server's answer.
pub(super) struct Answer {
    /// The unchanged text, in which numbers have all their digits.
    pub text: String,
    /// The same, parsed.
    pub value: Value,
}
