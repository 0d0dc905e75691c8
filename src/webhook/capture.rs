//! How much is kept of the exchanges with a receiver.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What is kept of an attempt beside its status, error and times: heads of request and answer, and the bodies that are not
/// kept anyway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Capture {
    /// Nothing, and nothing of the answer's body either.
    None,
    /// The whole exchange of attempts that failed; of others the beginning of the answer's body.
    #[default]
    Failures,
    /// The whole exchange of each attempt.
    All,
}

impl Capture {
    pub const ALL: [Self; 3] = [Self::None, Self::Failures, Self::All];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Failures => "failures",
            Self::All => "all",
        }
    }

    /// Whether an exchange is kept whole.
    #[must_use]
    pub fn keeps(self, is_failure: bool) -> bool {
        match self {
            Self::None => false,
            Self::Failures => is_failure,
            Self::All => true,
        }
    }
}

impl fmt::Display for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Capture {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|capture| capture.as_str() == text);
        known.ok_or_else(|| format!("{text:?} is none of none, failures, all"))
    }
}
