//! HMAC states after the key: each saves two blocks of its hash for each signature.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use aws_lc_rs::hmac as lc;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

const BLOCK_BYTES: usize = 64;
const SHA256_BYTES: usize = 32;
/// The longest code: of SHA-512.
const MAX_CODE_BYTES: usize = 64;

/// The hash of an HMAC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "server",
    derive(serde::Serialize, serde::Deserialize, utoipa::ToSchema),
    serde(rename_all = "lowercase")
)]
#[cfg_attr(feature = "server", schema(as = SignatureHash))]
pub enum Hash {
    Sha1,
    #[default]
    Sha256,
    Sha512,
}

/// The state of HMAC-SHA256 after the key. It can sign like the key, so a drop clears it, too.
#[derive(Clone)]
pub(super) struct KeyedMac(Hmac<Sha256>);

impl KeyedMac {
    pub(super) fn new(key: &[u8]) -> Self {
        Self(Hmac::new((&*block(key)).into()))
    }

    pub(super) fn over(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        for part in parts {
            mac.update(part);
        }
        mac
    }

    fn code<'a>(&self, parts: impl Iterator<Item = &'a [u8]>) -> Code {
        let mut mac = self.0.clone();
        parts.for_each(|part| mac.update(part));
        Code::of(&mac.finalize().into_bytes())
    }
}

/// The key as HMAC-SHA256 uses it. RFC 2104: a key longer than the hash's block is hashed, a shorter one is padded with
/// zeros. So keys with the same block sign alike.
pub(super) fn block(key: &[u8]) -> Zeroizing<[u8; BLOCK_BYTES]> {
    let mut block = Zeroizing::new([0; BLOCK_BYTES]);
    if key.len() > block.len() {
        block[..SHA256_BYTES].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    block
}

/// The states for the hashes that few webhooks use, each made when it is first needed. Clones share them.
#[derive(Clone, Default)]
pub(super) struct RareMacs(Arc<[OnceLock<lc::Key>; 2]>);

impl RareMacs {
    /// The code of `parts` by `hash` with `key`, of which `common` is the state.
    pub(super) fn code<'a>(
        &self,
        hash: Hash,
        key: &[u8],
        common: &KeyedMac,
        parts: impl Iterator<Item = &'a [u8]>,
    ) -> Code {
        let (state, algorithm) = match hash {
            Hash::Sha256 => return common.code(parts),
            Hash::Sha1 => (&self.0[0], lc::HMAC_SHA1_FOR_LEGACY_USE_ONLY),
            Hash::Sha512 => (&self.0[1], lc::HMAC_SHA512),
        };
        let mut context = lc::Context::with_key(state.get_or_init(|| lc::Key::new(algorithm, key)));
        parts.for_each(|part| context.update(part));
        Code::of(context.sign().as_ref())
    }
}

/// A code. `==` takes the same time whatever differs.
pub(super) struct Code {
    bytes: [u8; MAX_CODE_BYTES],
    length: usize,
}

impl Code {
    fn of(code: &[u8]) -> Self {
        let mut bytes = [0; MAX_CODE_BYTES];
        bytes[..code.len()].copy_from_slice(code);
        Self { bytes, length: code.len() }
    }

    /// Whether `other` is this code, in constant time.
    pub(super) fn is(&self, other: &[u8]) -> bool {
        (**self).ct_eq(other).into()
    }
}

impl Deref for Code {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Code(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hex;

    /// RFC 4231, test case 6: a key longer than the hash's block.
    #[test]
    fn a_long_key_is_hashed_first() {
        let text = b"Test Using Larger Than Block-Size Key - Hash Key First".as_slice();
        let code = KeyedMac::new(&[0xaa; 131]).over(&[text]);
        let expected = hex::decode::<32>("60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54").unwrap();
        assert!(code.verify_slice(&expected).is_ok());
    }

    /// RFC 4231, test case 2, and RFC 2202, test case 2 for HMAC-SHA-1.
    #[test]
    fn every_hash_has_its_published_code() {
        let (key, rare) = (b"Jefe".as_slice(), RareMacs::default());
        let common = KeyedMac::new(key);
        for (hash, expected) in [
            (Hash::Sha1, "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
            (Hash::Sha256, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
            (
                Hash::Sha512,
                "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
            ),
        ] {
            let parts = [b"what do ya want ".as_slice(), b"for nothing?"];
            let code = rare.code(hash, key, &common, parts.into_iter());
            let mut digits = String::new();
            hex::push(&mut digits, &code);
            assert_eq!(digits, expected);
            assert!(code.is(&code) && !code.is(&code[1..]) && !code.is(&[0; 32]));
        }
    }
}
