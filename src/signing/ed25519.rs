//! Ed25519 key pairs (RFC 8032) as Standard Webhooks writes them: `whsk_` signs, `whpk_` verifies.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, Signature, UnparsedPublicKey};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::keys::{GENERATED_KEY_BYTES, KeyError, decode, encode, random_key};

const PRIVATE_PREFIX: &str = "whsk_";
const PUBLIC_PREFIX: &str = "whpk_";
const SEED_BYTES: usize = 32;
const PUBLIC_BYTES: usize = 32;

/// The private key of a webhook. `Debug` shows nothing, and a drop clears the memory.
#[derive(Clone)]
pub struct Ed25519Key {
    seed: Zeroizing<[u8; SEED_BYTES]>,
    pair: Arc<Ed25519KeyPair>,
}

/// The public key for receivers, which is no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ed25519PublicKey([u8; PUBLIC_BYTES]);

impl Ed25519Key {
    /// `whsk_` and base64, with or without padding: the 32 bytes of the private key, or these and the 32 of the
    /// public key, as libsodium and Svix write it. A public key that does not belong to the private one is refused.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let refused = |reason| KeyError::Ed25519Key { reason };
        let encoded = text.strip_prefix(PRIVATE_PREFIX).ok_or_else(|| refused("it does not begin with whsk_"))?;
        let bytes = decode(encoded).ok_or_else(|| refused("it is no base64"))?;
        let (seed, public) =
            bytes.split_first_chunk::<SEED_BYTES>().ok_or_else(|| refused("it is too short or too long"))?;
        let key = Self::from_seed(Zeroizing::new(*seed)).ok_or_else(|| refused("it is no key"))?;
        match public.len() {
            0 => Ok(key),
            PUBLIC_BYTES if public == key.public().0 => Ok(key),
            PUBLIC_BYTES => Err(refused("its public key belongs to another")),
            _ => Err(refused("it is too short or too long")),
        }
    }

    /// From 32 random bytes.
    #[must_use]
    #[expect(clippy::expect_used, reason = "RFC 8032: any 32 bytes are a private key")]
    pub fn generate() -> Self {
        const { assert!(GENERATED_KEY_BYTES == SEED_BYTES) };
        Self::from_seed(random_key()).expect("any seed makes a key")
    }

    fn from_seed(seed: Zeroizing<[u8; SEED_BYTES]>) -> Option<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&*seed).ok()?;
        Some(Self { seed, pair: Arc::new(pair) })
    }

    /// `whsk_` and the base64 of private and public key, for sealing and for `postrider sign`.
    #[must_use]
    pub fn expose(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new([0; SEED_BYTES + PUBLIC_BYTES]);
        bytes[..SEED_BYTES].copy_from_slice(&*self.seed);
        bytes[SEED_BYTES..].copy_from_slice(&self.public().0);
        encode(PRIVATE_PREFIX, &*bytes)
    }

    #[must_use]
    pub fn public(&self) -> Ed25519PublicKey {
        let mut bytes = [0; PUBLIC_BYTES];
        bytes.copy_from_slice(self.pair.public_key().as_ref());
        Ed25519PublicKey(bytes)
    }

    pub(super) fn sign(&self, content: &[u8]) -> Signature {
        self.pair.sign(content)
    }
}

impl Ed25519PublicKey {
    /// `whpk_` and base64, with or without padding, of 32 bytes.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let refused = |reason| KeyError::Ed25519PublicKey { reason };
        let encoded = text.strip_prefix(PUBLIC_PREFIX).ok_or_else(|| refused("it does not begin with whpk_"))?;
        let bytes = decode(encoded).ok_or_else(|| refused("it is no base64"))?;
        let bytes = bytes.as_slice().try_into().map_err(|_| refused("it is too short or too long"))?;
        Ok(Self(bytes))
    }

    pub(super) fn verifies(&self, content: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(content, signature).is_ok()
    }
}

/// `whpk_` and base64.
impl fmt::Display for Ed25519PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode(PUBLIC_PREFIX, &self.0))
    }
}

/// In constant time.
impl PartialEq for Ed25519Key {
    fn eq(&self, other: &Self) -> bool {
        self.seed.ct_eq(&*other.seed).into()
    }
}

impl Eq for Ed25519Key {}

impl fmt::Debug for Ed25519Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ed25519Key(…)")
    }
}
