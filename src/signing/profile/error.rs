//! What is wrong with a profile of a user's own.

use super::{
    MAX_PROFILE_NAME_CHARS, MAX_PROFILE_TEMPLATE_BYTES, MAX_SEPARATOR_BYTES, MAX_SIGNATURE_HEADER_BYTES,
    MAX_VALUE_PIECES,
};

/// The reason why a profile is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    #[error("name: must be 1 to {MAX_PROFILE_NAME_CHARS} lower-case letters, digits, _ and -")]
    Name,
    #[error(
        "{field}: {name:?} is no header name of at most {MAX_SIGNATURE_HEADER_BYTES} bytes, as in X-Acme-Signature"
    )]
    Header { field: &'static str, name: String },
    #[error("{field}: has {bytes} bytes, the limit is {MAX_PROFILE_TEMPLATE_BYTES}")]
    TooLong { field: &'static str, bytes: usize },
    #[error("{field}: {found:?} is no placeholder; {} are", if *field == "content" {
        "{id}, {timestamp}, {body}, {method} and {path}"
    } else {
        "{signature} and {timestamp}"
    })]
    Placeholder { field: &'static str, found: String },
    #[error("{field}: has the character {found:?}, which it may not have")]
    Character { field: &'static str, found: char },
    #[error("content: must have {{body}} once: a signature that leaves the body out protects nothing")]
    Body,
    #[error(
        "value: must have {{signature}} once and {{timestamp}} at most once, with a separator between them, and at most {} \
         parts",
        MAX_VALUE_PIECES / 2
    )]
    Value,
    #[error(
        "separator: must be 1 to {MAX_SEPARATOR_BYTES} characters, none of which a signature may have: spaces, and signs \
         such as , ; |"
    )]
    Separator,
    #[error("content: has {{{0}}}, which the request does not say: set {0}_header{other}", other = if *.0 == "timestamp" {
        ", or put {timestamp} into value"
    } else {
        ""
    })]
    Unsaid(&'static str),
    #[error("timestamp_header: value has {{timestamp}}, too; one of them is enough")]
    TwoTimestamps,
    #[error("previous_header: goes with the rotation \"header\", and that with it")]
    PreviousHeader,
}
