//! Sealing: webhook keys are encrypted before they reach a store's disk.

use zeroize::Zeroizing;

/// The key that seals webhook keys: 32 bytes, from the data folder's key file or `POSTRIDER_MASTER_KEY`.
#[derive(Clone)]
pub struct MasterKey(Zeroizing<[u8; 32]>);

impl MasterKey {
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }
    /// A random key.
    #[must_use]
    pub fn generate() -> Self {
        todo!()
    }
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}
