//! Where a server keeps what it must not lose.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::store::postgres::PostgresOptions;

/// The value for the store in the data folder.
const EMBEDDED: &str = "embedded";

/// The store in the data folder, or a database elsewhere. Parsing accepts any text, and only [`Location::is_valid`]
/// judges it, because an error of parsing would show the text, which may contain a password.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Location {
    Embedded,
    /// Its URL, as [`PostgresOptions::url`].
    Postgres(SecretString),
}

impl Location {
    /// The text about valid values in errors.
    pub(super) const EXPECTED: &str = "expected `embedded`, or postgres://user:password@host:port/database";

    pub(super) fn is_valid(&self) -> bool {
        match self {
            Self::Embedded => true,
            Self::Postgres(url) => PostgresOptions::new(url.clone()).shown().is_ok(),
        }
    }

    /// The value of the setting, without its password.
    pub(super) fn shown(value: &Value) -> Value {
        value.as_str().map_or(Value::Null, |text| Self::from(text.to_owned()).to_string().into())
    }
}

/// Without user and password.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded => f.write_str(EMBEDDED),
            Self::Postgres(url) => match PostgresOptions::new(url.clone()).shown() {
                Ok(shown) => f.write_str(&shown),
                Err(_) => f.write_str("a URL that cannot be read"),
            },
        }
    }
}

impl From<String> for Location {
    fn from(text: String) -> Self {
        if text == EMBEDDED { Self::Embedded } else { Self::Postgres(text.into()) }
    }
}

impl FromStr for Location {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self::from(text.to_owned()))
    }
}

/// With the password, since layers of settings are merged in this form.
impl From<Location> for String {
    fn from(location: Location) -> Self {
        match location {
            Location::Embedded => EMBEDDED.to_owned(),
            Location::Postgres(url) => url.expose_secret().to_owned(),
        }
    }
}
