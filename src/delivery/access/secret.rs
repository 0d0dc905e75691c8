//! Text that people must not see again.

use std::fmt;

use zeroize::Zeroize;

pub use crate::signing::SHOWN_SECRET;

/// A secret as a user gave it. `Debug` shows nothing, and a drop clears the memory. The serialised form is the text.
#[derive(Clone, Default, PartialEq, Eq)]
#[cfg_attr(feature = "server", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct SecretText(String);

impl SecretText {
    /// The text in clear.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The text that is shown instead of a secret.
    pub(super) fn placeholder() -> Self {
        Self(SHOWN_SECRET.to_owned())
    }

    pub(crate) fn is_placeholder(&self) -> bool {
        self.0 == SHOWN_SECRET
    }
}

impl From<String> for SecretText {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for SecretText {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SHOWN_SECRET)
    }
}

impl Drop for SecretText {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}
