//! Keys for HMAC-SHA256: the DECNET secret and the Standard Webhooks key.

use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::mac::{Code, Hash, KeyedMac, RareMacs};

/// The shortest and longest DECNET secret, in characters.
pub const SECRET_CHARS: std::ops::RangeInclusive<usize> = 16..=256;
/// The shortest secret of a webhook that has no DECNET signature, in characters: other senders have short ones, which are
/// taken over as they are.
pub const MIN_FOREIGN_SECRET_CHARS: usize = 1;
/// Shown in place of a secret. No secret can be this text: sent back, it stands for the present secret.
pub const SHOWN_SECRET: &str = "…";
/// The shortest and longest Standard Webhooks key, in bytes (Standard Webhooks, "Signature scheme").
pub const STANDARD_KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// The length of a key that is made here, in random bytes: that of the hash.
pub(super) const GENERATED_KEY_BYTES: usize = 32;
pub(super) const STANDARD_KEY_PREFIX: &str = "whsec_";

/// The DECNET secret of a webhook. `Debug` shows nothing, and a drop clears the memory.
#[derive(Clone)]
pub struct Secret {
    text: Zeroizing<String>,
    pub(super) mac: KeyedMac,
    rare: RareMacs,
}

/// The Standard Webhooks key of a webhook: 24 to 64 bytes, written `whsec_` and base64.
#[derive(Clone)]
pub struct StandardKey {
    pub(super) bytes: Zeroizing<Vec<u8>>,
    pub(super) mac: KeyedMac,
    rare: RareMacs,
}

/// The reason why a text is no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("a secret has 16 to 256 characters, this one has {chars}")]
    SecretLength { chars: usize },
    #[error("a secret has 1 to 256 characters, this one has {chars}")]
    ForeignSecretLength { chars: usize },
    #[error(
        "a secret has no control characters; character {number} of this one is one (a line's end that was copied too?)"
    )]
    SecretControl { number: usize },
    #[error("{SHOWN_SECRET} is the sign that stands for a secret; give the secret itself")]
    SecretMasked,
    #[error("a Standard Webhooks key is whsec_ and the base64 of 24 to 64 bytes: {reason}")]
    StandardKey { reason: &'static str },
    #[error(
        "an Ed25519 key is whsk_ and the base64 of its 32 bytes, or of these and the 32 of its public key: {reason}"
    )]
    Ed25519Key { reason: &'static str },
    #[error("an Ed25519 public key is whpk_ and the base64 of its 32 bytes: {reason}")]
    Ed25519PublicKey { reason: &'static str },
}

impl Secret {
    /// A secret given by a user: 16 to 256 characters, none of them a control character.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let secret = Self::parse_foreign(text);
        match (text.chars().count(), secret) {
            (_, Err(error @ (KeyError::SecretControl { .. } | KeyError::SecretMasked))) => Err(error),
            (chars, _) if !SECRET_CHARS.contains(&chars) => Err(KeyError::SecretLength { chars }),
            (_, secret) => secret,
        }
    }
    /// One that may come from another sender, for signatures other than DECNET's: 1 to 256 characters, none of them a control
    /// character.
    pub fn parse_foreign(text: &str) -> Result<Self, KeyError> {
        match text.chars().position(char::is_control) {
            Some(at) => Err(KeyError::SecretControl { number: at + 1 }),
            None if text == SHOWN_SECRET => Err(KeyError::SecretMasked),
            None => Self::kept(text),
        }
    }
    /// One that its receiver has had from another sender, character by character: 1 to 256 of any kind.
    #[cfg(feature = "server")]
    pub(crate) fn parse_imported(text: &str) -> Result<Self, KeyError> {
        if text == SHOWN_SECRET { Err(KeyError::SecretMasked) } else { Self::kept(text) }
    }
    /// A stored secret, which an earlier version may have accepted under other rules.
    pub(crate) fn kept(text: &str) -> Result<Self, KeyError> {
        let chars = text.chars().count();
        if !(MIN_FOREIGN_SECRET_CHARS..=*SECRET_CHARS.end()).contains(&chars) {
            return Err(KeyError::ForeignSecretLength { chars });
        }
        Ok(Self::from_text(Zeroizing::new(text.to_owned())))
    }
    /// Whether it may make DECNET signatures.
    #[must_use]
    pub fn is_long_enough(&self) -> bool {
        self.text.chars().count() >= *SECRET_CHARS.start()
    }
    pub(super) fn code<'a>(&self, hash: Hash, parts: impl Iterator<Item = &'a [u8]>) -> Code {
        self.rare.code(hash, self.text.as_bytes(), &self.mac, parts)
    }
    /// 32 random bytes as URL-safe base64 without padding (43 characters).
    #[must_use]
    pub fn generate() -> Self {
        Self::from_text(Zeroizing::new(URL_SAFE_NO_PAD.encode(random_key())))
    }
    fn from_text(text: Zeroizing<String>) -> Self {
        let mac = KeyedMac::new(text.as_bytes());
        Self { text, mac, rare: RareMacs::default() }
    }
    /// The secret itself, for the one answer that shows it and for sealing.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }
}

impl StandardKey {
    /// `whsec_…`; the base64 may be without its padding.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let refused = |reason| KeyError::StandardKey { reason };
        let encoded = text.strip_prefix(STANDARD_KEY_PREFIX).ok_or_else(|| refused("it does not begin with whsec_"))?;
        let bytes = decode(encoded).ok_or_else(|| refused("it is no base64"))?;
        if !STANDARD_KEY_BYTES.contains(&bytes.len()) {
            return Err(refused("it is too short or too long"));
        }
        Ok(Self::from_bytes(bytes))
    }
    /// 32 random bytes.
    #[must_use]
    pub fn generate() -> Self {
        Self::from_bytes(Zeroizing::new(random_key().to_vec()))
    }
    pub(super) fn from_bytes(bytes: Zeroizing<Vec<u8>>) -> Self {
        let mac = KeyedMac::new(&bytes);
        Self { bytes, mac, rare: RareMacs::default() }
    }
    pub(super) fn code<'a>(&self, hash: Hash, parts: impl Iterator<Item = &'a [u8]>) -> Code {
        self.rare.code(hash, &self.bytes, &self.mac, parts)
    }
    /// `whsec_` and base64, for the one answer that shows it and for sealing.
    #[must_use]
    pub fn expose(&self) -> Zeroizing<String> {
        encode(STANDARD_KEY_PREFIX, &self.bytes)
    }
}

/// `prefix` and the base64 of `bytes`.
pub(super) fn encode(prefix: &str, bytes: &[u8]) -> Zeroizing<String> {
    // Allocated at full length, since a growing string leaves copies in memory.
    let mut text = Zeroizing::new(String::with_capacity(prefix.len() + bytes.len().div_ceil(3) * 4));
    text.push_str(prefix);
    STANDARD.encode_string(bytes, &mut text);
    text
}

/// The bytes of base64 with or without its padding.
pub(super) fn decode(base64: &str) -> Option<Zeroizing<Vec<u8>>> {
    const BASE64: GeneralPurpose = GeneralPurpose::new(
        &alphabet::STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    BASE64.decode(base64).ok().map(Zeroizing::new)
}

#[expect(clippy::expect_used, reason = "a machine that has no random bytes must make no keys")]
pub(super) fn random_key() -> Zeroizing<[u8; GENERATED_KEY_BYTES]> {
    let mut key = Zeroizing::new([0; GENERATED_KEY_BYTES]);
    aws_lc_rs::rand::fill(&mut *key).expect("the system's random generator failed");
    key
}

/// In constant time for secrets of one length.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.text.as_bytes().ct_eq(other.text.as_bytes()).into()
    }
}

impl Eq for Secret {}

/// In constant time for keys of one length.
impl PartialEq for StandardKey {
    fn eq(&self, other: &Self) -> bool {
        self.bytes.ct_eq(&other.bytes).into()
    }
}

impl Eq for StandardKey {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl fmt::Debug for StandardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StandardKey(…)")
    }
}
