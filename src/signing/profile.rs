//! A profile: how a request is signed and verified, as data, and the same compiled once ([`Plan`]).

mod content;
mod error;
mod overlap;
mod sign;
mod value;
mod verify;

use std::borrow::Cow;

use http::HeaderName;

use self::content::Part;
pub use self::error::ProfileError;
pub use self::sign::Signing;
use self::value::Form;
pub use self::verify::{Head, ReceiverKey, Unverified, Verified, verify};

pub use super::mac::Hash;

/// The longest name of a profile of one's own, in characters.
pub const MAX_PROFILE_NAME_CHARS: usize = 64;
/// The longest `content` or `value` of a profile of one's own, in bytes.
pub const MAX_PROFILE_TEMPLATE_BYTES: usize = 128;
/// The longest `separator`, in bytes.
pub const MAX_SEPARATOR_BYTES: usize = 4;
/// The most parts of a signature header's value that are looked at. A profile has half as many: the rest is for older keys.
pub const MAX_VALUE_PIECES: usize = 64;
/// The longest name of a header that carries a signature, a time or an id, in bytes.
pub const MAX_SIGNATURE_HEADER_BYTES: usize = 128;

/// How requests are signed and verified: a row of the table of known profiles, or one of a user's own.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "server",
    derive(serde::Serialize, serde::Deserialize, utoipa::ToSchema),
    serde(deny_unknown_fields)
)]
#[cfg_attr(feature = "server", schema(as = SignatureProfile))]
pub struct Profile {
    /// For you and for errors: 1 to 64 lower-case letters, digits, `_` and `-`.
    #[cfg_attr(feature = "server", schema(value_type = String, min_length = 1, max_length = 64, example = "acme"))]
    pub name: Cow<'static, str>,
    /// The header with the signature, in the spelling in which it is sent.
    #[cfg_attr(feature = "server", schema(value_type = String, max_length = 128, example = "X-Acme-Signature"))]
    pub header: Cow<'static, str>,
    /// The hash of the HMAC; nothing to an Ed25519 key.
    #[cfg_attr(feature = "server", serde(default))]
    pub hash: Hash,
    #[cfg_attr(feature = "server", serde(default))]
    pub encoding: Encoding,
    /// What is signed, of `{id}`, `{timestamp}` (Unix seconds), `{body}` (once), `{method}`, `{path}` (with the query) and text.
    #[cfg_attr(
        feature = "server",
        schema(value_type = String, max_length = 128, example = "{timestamp}.{body}")
    )]
    pub content: Cow<'static, str>,
    /// The header's value, of `{signature}` (once), `{timestamp}` and text; `{signature}` by default.
    #[cfg_attr(
        feature = "server",
        serde(default = "signature_alone"),
        schema(value_type = String, max_length = 128, example = "t={timestamp},v1={signature}")
    )]
    pub value: Cow<'static, str>,
    /// What stands between the parts of `value`, and between signatures; a comma by default.
    #[cfg_attr(feature = "server", serde(default = "comma"), schema(value_type = String, max_length = 4))]
    pub separator: Cow<'static, str>,
    /// A header with the Unix seconds of the attempt.
    #[cfg_attr(feature = "server", serde(default), schema(value_type = Option<String>, max_length = 128))]
    pub timestamp_header: Option<Cow<'static, str>>,
    /// A header with the id of the delivery, which is the same for each of its attempts.
    #[cfg_attr(feature = "server", serde(default), schema(value_type = Option<String>, max_length = 128))]
    pub id_header: Option<Cow<'static, str>>,
    #[cfg_attr(feature = "server", serde(default))]
    pub key: KeyKind,
    #[cfg_attr(feature = "server", serde(default))]
    pub rotation: Rotation,
    /// With the rotation `header`: the header with the signature of the key before.
    #[cfg_attr(feature = "server", serde(default), schema(value_type = Option<String>, max_length = 128))]
    pub previous_header: Option<Cow<'static, str>>,
    /// Headers that a vendor's receivers read beside those of the signature; not signed.
    #[cfg_attr(feature = "server", serde(skip))]
    pub fields: &'static [(&'static str, FieldValue)],
}

#[cfg(feature = "server")]
fn signature_alone() -> Cow<'static, str> {
    Cow::Borrowed("{signature}")
}

#[cfg(feature = "server")]
fn comma() -> Cow<'static, str> {
    Cow::Borrowed(",")
}

/// The text form of a signature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "server",
    derive(serde::Serialize, serde::Deserialize, utoipa::ToSchema),
    serde(rename_all = "lowercase")
)]
#[cfg_attr(feature = "server", schema(as = SignatureEncoding))]
pub enum Encoding {
    /// In lower case; read in either.
    #[default]
    Hex,
    /// With padding.
    Base64,
}

/// Which of a webhook's keys signs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "server",
    derive(serde::Serialize, serde::Deserialize, utoipa::ToSchema),
    serde(rename_all = "lowercase")
)]
#[cfg_attr(feature = "server", schema(as = SignatureKey))]
pub enum KeyKind {
    /// `secret`: the bytes of its text.
    #[default]
    Secret,
    /// `standard_secret`: the bytes that its base64 says.
    Standard,
    /// The key pair; the signature is Ed25519's.
    Ed25519,
}

/// How the keys of before show while they are valid after a rotation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "server",
    derive(serde::Serialize, serde::Deserialize, utoipa::ToSchema),
    serde(rename_all = "lowercase")
)]
#[cfg_attr(feature = "server", schema(as = SignatureRotation))]
pub enum Rotation {
    /// The part of `value` with the signature is repeated for each valid key: `t=1,v1=new,v1=old`.
    #[default]
    Append,
    /// The signatures alone are repeated: `v1=new,old`.
    List,
    /// The key before the newest signs in `previous_header`.
    Header,
    /// The newest key signs alone.
    Newest,
    /// The oldest valid key signs alone, so that receivers change their key when it ends.
    Oldest,
}

/// The value of a header that is not signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldValue {
    /// Of the delivery, as `webhook-id`.
    Id,
    EventId,
    /// The event's type, or its topic if it has none.
    Type,
    Topic,
    /// Of the attempt, as RFC 3339 has it.
    Time,
}

/// A profile, compiled.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    profile: Profile,
    content: Vec<Part>,
    form: Form,
}

impl Plan {
    /// Checks a profile of a user's own and compiles it. Names that Postrider keeps for itself are not known here.
    pub fn new(profile: Profile) -> Result<Self, ProfileError> {
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
        if !(1..=MAX_PROFILE_NAME_CHARS).contains(&profile.name.len()) || !profile.name.chars().all(is_name) {
            return Err(ProfileError::Name);
        }
        for (field, name) in profile.named_headers() {
            if name.len() > MAX_SIGNATURE_HEADER_BYTES || HeaderName::from_bytes(name.as_bytes()).is_err() {
                return Err(ProfileError::Header { field, name: name.to_owned() });
            }
        }
        for (field, template) in [("content", &profile.content), ("value", &profile.value)] {
            if template.len() > MAX_PROFILE_TEMPLATE_BYTES {
                return Err(ProfileError::TooLong { field, bytes: template.len() });
            }
        }
        if (profile.rotation == Rotation::Header) != profile.previous_header.is_some() {
            return Err(ProfileError::PreviousHeader);
        }
        let plan = Self::of_row(profile)?;
        if plan.form.is_secret() {
            return Err(ProfileError::Placeholder { field: "value", found: "{secret}".to_owned() });
        }
        let times = [plan.profile.timestamp_header.is_some(), plan.form.has_timestamp()];
        match times {
            [true, true] => return Err(ProfileError::TwoTimestamps),
            [false, false] if plan.covers(&Part::Timestamp) => return Err(ProfileError::Unsaid("timestamp")),
            _ => {}
        }
        if plan.covers(&Part::Id) && plan.profile.id_header.is_none() {
            return Err(ProfileError::Unsaid("id"));
        }
        if plan.content.iter().filter(|part| **part == Part::Body).count() != 1 {
            return Err(ProfileError::Body);
        }
        Ok(plan)
    }

    /// A row of the table.
    pub(super) fn of_row(profile: Profile) -> Result<Self, ProfileError> {
        let content = content::parse(&profile.content)?;
        let form = Form::parse(&profile.value, &profile.separator)?;
        Ok(Self { profile, content, form })
    }

    #[must_use]
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Whether requests can be signed by it; otherwise they can be verified alone.
    #[must_use]
    pub fn signs(&self) -> bool {
        !self.form.is_secret()
    }

    fn covers(&self, part: &Part) -> bool {
        self.content.contains(part)
    }

    /// Whether a content of one may be a content of the other, while they are no same contents.
    #[must_use]
    pub fn may_be_confused_with(&self, other: &Self) -> bool {
        self.content != other.content && overlap::may_coincide(&self.content, &other.content)
    }
}

impl Profile {
    /// The headers that are part of the signature, with the fields that name them.
    pub fn named_headers(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let optional = [
            ("timestamp_header", &self.timestamp_header),
            ("id_header", &self.id_header),
            ("previous_header", &self.previous_header),
        ];
        let optional = optional.into_iter().filter_map(|(field, name)| Some((field, name.as_deref()?)));
        std::iter::once(("header", &*self.header)).chain(optional)
    }
}

#[cfg(test)]
mod tests;
