//! The mistakes that are known, each with what to do about it.

use crate::signing::Scheme;

/// A reason why a signature does not match. Its text begins with the kind of mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    #[error("header: {0} is missing")]
    Missing(&'static str),
    #[error("header: {0} is malformed")]
    Malformed(&'static str),
    #[error("scheme: the request has no {0} signature: look at the webhook's `signatures`")]
    NoSignature(Scheme),
    #[error(
        "other key: this key did not make the signature, or id, timestamp or body were changed in a way that is not \
         known: compare the key with the webhook's, and the bytes with those sent"
    )]
    OtherKey,
    #[error("other body: the body is empty: something read it before, or it was not kept")]
    EmptyBody,
    #[error("re-serialised body: {0}: verify the bytes as they came, before anything parses them")]
    Body(BodyChange),
    #[error(
        "clock: signed {} s {} now, {tolerance_s} s are tolerated: an old request, or one of the clocks is wrong",
        late_s.unsigned_abs(),
        if *late_s >= 0 { "before" } else { "after" }
    )]
    Clock { late_s: i64, tolerance_s: u64 },
    #[error("clock: webhook-timestamp is in milliseconds or smaller, it has to be in seconds")]
    Milliseconds,
    #[error("clock: webhook-timestamp is no whole number of seconds since 1970")]
    TimestampForm,
    #[error("clock: the signature covers {0} in place of webhook-timestamp")]
    OtherTimestamp(&'static str),
    #[error("header: the signature covers {0} in place of webhook-id")]
    OtherId(&'static str),
    #[error("scheme: signed over {signed} in place of {expected}")]
    Content { signed: &'static str, expected: &'static str },
    #[error("scheme: whsec_ was not taken off the key, and the rest not decoded from base64")]
    PrefixNotStripped,
    #[error("scheme: the base64 after whsec_ was used as the key without decoding it")]
    KeyNotDecoded,
    #[error("scheme: the DECNET secret was decoded before use; its characters themselves are the key")]
    SecretDecoded,
    #[error("scheme: signed with the DECNET secret in place of the Standard Webhooks key")]
    SecretUsed,
    #[error("scheme: signed with the Standard Webhooks key in place of the DECNET secret")]
    StandardKeyUsed,
    #[error("scheme: the secret given is the Standard Webhooks key: it verifies webhook-signature")]
    SecretIsStandardKey,
    #[error("scheme: this {key} key made the {header} signature, for which there is another key")]
    MadeForOtherHeader { key: Scheme, header: Scheme },
    #[error("scheme: the signature is {found}, it has to be {expected}")]
    Encoding { found: &'static str, expected: &'static str },
    #[error("scheme: the signature has {found} before it, it has to be {expected}")]
    Label { found: &'static str, expected: &'static str },
}

impl Cause {
    /// The kind of mistake in one word: `header`, `key`, `body`, `clock` or `scheme`.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::Missing(_) | Self::Malformed(_) | Self::OtherId(_) => "header",
            Self::OtherKey => "key",
            Self::EmptyBody | Self::Body(_) => "body",
            Self::Clock { .. } | Self::Milliseconds | Self::TimestampForm | Self::OtherTimestamp(_) => "clock",
            Self::NoSignature(_)
            | Self::Content { .. }
            | Self::PrefixNotStripped
            | Self::KeyNotDecoded
            | Self::SecretDecoded
            | Self::SecretUsed
            | Self::StandardKeyUsed
            | Self::SecretIsStandardKey
            | Self::MadeForOtherHeader { .. }
            | Self::Encoding { .. }
            | Self::Label { .. } => "scheme",
        }
    }
}

/// A change of the body on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyChange {
    #[error("it was parsed and written again, with other spaces, order or escapes")]
    Reserialised,
    #[error("spaces were put between its parts")]
    Spaced,
    #[error("line breaks were added at its end")]
    LineBreakAdded,
    #[error("the line break at its end was taken off")]
    LineBreakLost,
    #[error("its line breaks became CR LF")]
    ToCrLf,
    #[error("its line breaks became LF")]
    ToLf,
    #[error("a byte order mark was put before it")]
    ByteOrderMark,
}
