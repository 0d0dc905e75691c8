//! Sealing: webhook keys are encrypted before they reach a store's disk.
//!
//! A sealed text is `format (1 byte, 1) ‖ key id (4) ‖ nonce (12) ‖ AES-256-GCM ciphertext ‖ tag (16)`.
//! The key id is the beginning of a hash of the master key, so that texts sealed under an older key can
//! be told apart when keys are rotated. What a text belongs to is authenticated with it: a sealed
//! secret that was moved to another webhook does not open.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::OpenError;
use crate::hex;
use crate::webhook::TenantSeq;

/// The key file in the data folder.
pub const MASTER_KEY_FILE: &str = "master.key";
/// The next master key, while the master key is being changed.
pub(super) const NEW_MASTER_KEY_FILE: &str = "master.key.new";
/// The most bytes that are read of a key file, which has 65.
const MAX_KEY_FILE_BYTES: u64 = 1_024;
const FORMAT: u8 = 1;
const KEY_ID_BYTES: usize = 4;
const PREFIX_BYTES: usize = 1 + KEY_ID_BYTES;

/// The key that seals webhook keys: 32 bytes, from the data folder's key file or `POSTRIDER_MASTER_KEY`.
#[derive(Clone)]
pub struct MasterKey(Zeroizing<[u8; 32]>);

/// The reason why the master key cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum MasterKeyError {
    #[error("a master key is 32 bytes as 64 hexadecimal digits or as base64")]
    Malformed,
    #[error("{path}: {error}")]
    File { path: String, error: io::Error },
    #[error("{path} can be read by others (mode {mode:03o}): run chmod 600 {path}")]
    Permissions { path: String, mode: u32 },
    #[error("{path} is missing, but the database was made with one: restore the key file that belongs to it")]
    Missing { path: String },
    #[error(
        "{path} is there, but the database that was made with it is not: put the database back, or start once with \
         --new-installation, which keeps the key and begins with nothing"
    )]
    DatabaseMissing { path: String },
    /// A change of the master key was cut off and cannot be finished now.
    #[error(transparent)]
    Unfinished(#[from] OpenError),
}

impl MasterKey {
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// A random key. Fails only if the operating system has no randomness to give.
    pub fn generate() -> io::Result<Self> {
        random_bytes().map(Self::new)
    }

    /// 32 bytes as 64 hexadecimal digits or as base64 of any kind. Surrounding space is ignored.
    pub fn parse(text: &str) -> Result<Self, MasterKeyError> {
        let text = text.trim();
        let bytes = Zeroizing::new(
            hex::decode::<32>(text).map(Vec::from).or_else(|| from_base64(text)).ok_or(MasterKeyError::Malformed)?,
        );
        let bytes: [u8; 32] = bytes.as_slice().try_into().map_err(|_| MasterKeyError::Malformed)?;
        Ok(Self::new(bytes))
    }

    /// Gives the file of a new key its name, after the key's database was made in `folder`.
    pub(super) fn keep_new(&self, folder: &Path) -> io::Result<()> {
        let (new, path) = (folder.join(NEW_MASTER_KEY_FILE), folder.join(MASTER_KEY_FILE));
        let is_ours = Self::load(&new).is_ok_and(|found| found.is_some_and(|key| key.expose() == self.expose()));
        if !is_ours || path.exists() {
            return Ok(());
        }
        fs::rename(&new, &path)?;
        File::open(folder)?.sync_all()
    }

    /// The key in the file `path`; `None`: there is no such file.
    pub(super) fn load(path: &Path) -> Result<Option<Self>, MasterKeyError> {
        let shown = path.display().to_string();
        match File::open(path) {
            Ok(file) => load(file, &shown).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(MasterKeyError::File { path: shown, error }),
        }
    }

    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// Writes the whole file under another name first, so that no crash leaves half a key. Never
    /// overwrites a key.
    pub(super) fn save(&self, path: &Path) -> io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.as_file().set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(to_hex(self.expose()).as_bytes())?;
        file.write_all(b"\n")?;
        file.as_file().sync_all()?;
        file.persist_noclobber(path).map_err(|error| error.error)?;
        File::open(folder)?.sync_all()
    }
}

fn load(mut file: File, shown: &str) -> Result<MasterKey, MasterKeyError> {
    let in_file = |error| MasterKeyError::File { path: shown.to_owned(), error };
    let mode = file.metadata().map_err(in_file)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(MasterKeyError::Permissions { path: shown.to_owned(), mode });
    }
    let mut text = Zeroizing::new(String::new());
    Read::by_ref(&mut file).take(MAX_KEY_FILE_BYTES).read_to_string(&mut text).map_err(in_file)?;
    MasterKey::parse(&text).map_err(|error| in_file(io::Error::new(io::ErrorKind::InvalidData, error.to_string())))
}

/// Bytes from the operating system's generator.
pub(crate) fn random_bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| io::Error::other("no random bytes"))?;
    Ok(bytes)
}

fn to_hex(bytes: &[u8]) -> Zeroizing<String> {
    // Allocated at full length, since growing would leave a copy behind.
    let mut text = Zeroizing::new(String::with_capacity(2 * bytes.len()));
    hex::push(&mut text, bytes);
    text
}

fn from_base64(text: &str) -> Option<Vec<u8>> {
    [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD].iter().find_map(|engine| engine.decode(text).ok())
}

/// The place that a sealed text is bound to.
#[derive(Clone, Copy, Debug)]
pub struct Belonging<'a> {
    pub tenant: TenantSeq,
    /// Or an inlet.
    pub webhook: Uuid,
    pub field: &'a str,
}

impl Belonging<'_> {
    fn aad(&self) -> Aad<Vec<u8>> {
        Aad::from([&self.tenant.0.to_be_bytes()[..], self.webhook.as_bytes(), self.field.as_bytes()].concat())
    }
}

/// Seals and opens texts under one master key.
pub struct Sealer {
    key: RandomizedNonceKey,
    key_id: [u8; KEY_ID_BYTES],
}

/// The text was sealed by another master key or for another place, or was changed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a sealed secret cannot be opened: another master key, or it was changed")]
pub struct CannotOpen;

/// The cipher refused; it has no randomness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a secret cannot be sealed")]
pub struct CannotSeal;

/// The reason why a text was not sealed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResealError {
    #[error(transparent)]
    Open(#[from] CannotOpen),
    #[error(transparent)]
    Seal(#[from] CannotSeal),
}

impl Sealer {
    pub fn new(master_key: &MasterKey) -> Result<Self, CannotSeal> {
        let hash = Sha256::new().chain_update(b"postrider master key id").chain_update(master_key.expose()).finalize();
        let mut key_id = [0; KEY_ID_BYTES];
        key_id.copy_from_slice(&hash[..KEY_ID_BYTES]);
        let key = RandomizedNonceKey::new(&AES_256_GCM, master_key.expose()).map_err(|_| CannotSeal)?;
        Ok(Self { key, key_id })
    }

    pub fn seal(&self, text: &[u8], belonging: &Belonging<'_>) -> Result<Vec<u8>, CannotSeal> {
        // Room for the tag from the start: growing would leave an unsealed copy behind.
        let mut sealed = Vec::with_capacity(text.len() + AES_256_GCM.tag_len());
        sealed.extend_from_slice(text);
        let nonce = self.key.seal_in_place_append_tag(belonging.aad(), &mut sealed).map_err(|_| CannotSeal)?;
        Ok([&[FORMAT], &self.key_id[..], nonce.as_ref(), &sealed].concat())
    }

    /// Opens a text of another sealer and seals it with this one.
    pub fn reseal(&self, other: &Self, sealed: &[u8], belonging: &Belonging<'_>) -> Result<Vec<u8>, ResealError> {
        Ok(self.seal(&other.open(sealed, belonging)?, belonging)?)
    }

    pub fn open(&self, sealed: &[u8], belonging: &Belonging<'_>) -> Result<Zeroizing<Vec<u8>>, CannotOpen> {
        let (prefix, rest) = sealed.split_at_checked(PREFIX_BYTES).ok_or(CannotOpen)?;
        let (nonce, ciphertext) = rest.split_at_checked(NONCE_LEN).ok_or(CannotOpen)?;
        if prefix[0] != FORMAT || prefix[1..] != self.key_id {
            return Err(CannotOpen);
        }
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| CannotOpen)?;
        let mut text = Zeroizing::new(ciphertext.to_vec());
        let length = self.key.open_in_place(nonce, belonging.aad(), &mut text).map_err(|_| CannotOpen)?.len();
        text.truncate(length);
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEBHOOK: Uuid = Uuid::from_u128(7);
    const PLACE: Belonging<'static> = Belonging { tenant: TenantSeq(1), webhook: WEBHOOK, field: "secret" };

    fn sealer(byte: u8) -> Sealer {
        Sealer::new(&MasterKey::new([byte; 32])).unwrap()
    }

    #[test]
    fn a_sealed_text_opens_in_its_place_alone() {
        let sealed = sealer(1).seal(b"s3cret", &PLACE).unwrap();
        assert_eq!(sealer(1).open(&sealed, &PLACE).unwrap().as_slice(), b"s3cret");
        assert_eq!(sealer(2).open(&sealed, &PLACE), Err(CannotOpen));
        for place in [
            Belonging { tenant: TenantSeq(2), ..PLACE },
            Belonging { webhook: Uuid::from_u128(8), ..PLACE },
            Belonging { field: "standard", ..PLACE },
        ] {
            assert_eq!(sealer(1).open(&sealed, &place), Err(CannotOpen), "{place:?}");
        }
    }

    #[test]
    fn every_changed_bit_and_every_cut_is_noticed() {
        let sealed = sealer(1).seal(b"s3cret", &PLACE).unwrap();
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(sealer(1).open(&changed, &PLACE), Err(CannotOpen), "byte {at}");
            assert_eq!(sealer(1).open(&sealed[..at], &PLACE), Err(CannotOpen), "cut at {at}");
        }
    }

    #[test]
    fn the_same_text_is_never_sealed_to_the_same_bytes() {
        assert_ne!(sealer(1).seal(b"s3cret", &PLACE).unwrap(), sealer(1).seal(b"s3cret", &PLACE).unwrap());
    }

    #[test]
    fn a_key_is_read_as_hex_or_base64() {
        let key = [0xab; 32];
        for text in [to_hex(&key).to_uppercase(), format!(" {}\n", *to_hex(&key)), STANDARD.encode(key)] {
            assert_eq!(MasterKey::parse(&text).unwrap().expose(), &key, "{text}");
        }
        assert_eq!(MasterKey::parse(&URL_SAFE_NO_PAD.encode([0xff; 32])).unwrap().expose(), &[0xff; 32]);
        for text in ["", "ab", &"g".repeat(64), &"a".repeat(63), &STANDARD.encode([1; 33])] {
            assert!(MasterKey::parse(text).is_err(), "{text}");
        }
    }
}
