//! Secrets of sources: given as they are, by a variable of the environment, or by a file.

use std::collections::BTreeMap;

use secrecy::SecretString;
use serde::Deserialize;

/// What a secret may be.
const EXPECTED: &str = "expected a text, { env = \"NAME\" } or { file = \"PATH\" }";

/// What surrounds the table of a source. It cannot be printed, since any variable may be a secret.
#[derive(Default)]
pub struct Surroundings {
    /// The environment.
    pub variables: BTreeMap<String, String>,
    /// The URL of the store's database, if it has one.
    pub store_url: Option<SecretString>,
}

impl Surroundings {
    /// A variable of the environment that is not empty.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

/// Where a secret is. An error of another form repeats nothing of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "toml::Value")]
pub(super) enum Secret {
    Plain(SecretString),
    /// The name of a variable.
    Env(String),
    /// The path.
    File(String),
}

impl TryFrom<toml::Value> for Secret {
    type Error = &'static str;

    fn try_from(value: toml::Value) -> Result<Self, Self::Error> {
        match value {
            toml::Value::String(text) => Ok(Self::Plain(text.into())),
            toml::Value::Table(table) if table.len() == 1 => match table.into_iter().next() {
                Some((key, toml::Value::String(name))) if key == "env" => Ok(Self::Env(name)),
                Some((key, toml::Value::String(path))) if key == "file" => Ok(Self::File(path)),
                _ => Err(EXPECTED),
            },
            _ => Err(EXPECTED),
        }
    }
}

impl Secret {
    /// The secret; of a file without white space at its end. The error says what is missing, and never the secret.
    pub(super) fn read(&self, surroundings: &Surroundings) -> Result<SecretString, String> {
        match self {
            Self::Plain(secret) => Ok(secret.clone()),
            Self::Env(name) => match surroundings.variable(name) {
                Some(value) => Ok(value.to_owned().into()),
                None => Err(format!("the environment has no variable {name}")),
            },
            Self::File(path) => match std::fs::read_to_string(path) {
                Ok(text) => Ok(text.trim_end().to_owned().into()),
                Err(error) => Err(format!("cannot read {path}: {error}")),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    fn read(text: &str) -> Result<String, String> {
        let table: toml::Table = toml::from_str(text).unwrap();
        let secret: Secret =
            table["url"].clone().try_into().map_err(|error: toml::de::Error| error.message().to_owned())?;
        assert!(!format!("{secret:?}").contains("hunter2"), "{secret:?}");
        let variables = [("ORDERS_URL".to_owned(), "hunter2".to_owned())].into();
        secret.read(&Surroundings { variables, ..Surroundings::default() }).map(|text| text.expose_secret().to_owned())
    }

    #[test]
    fn a_secret_is_a_text_a_variable_or_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hunter2\n").unwrap();
        let in_file = format!("url = {{ file = '{}' }}", file.path().display());
        for text in ["url = 'hunter2'", "url = { env = 'ORDERS_URL' }", &in_file] {
            assert_eq!(read(text).unwrap(), "hunter2", "{text}");
        }
        assert_eq!(read("url = { env = 'OTHER' }").unwrap_err(), "the environment has no variable OTHER");
        assert!(read("url = { file = '/nowhere' }").unwrap_err().starts_with("cannot read /nowhere: "));
        assert!(read("url = { vault = 'x' }").unwrap_err().starts_with("expected a text"));
        // What stands in a place of its own is no name of a variable, either.
        for wrong in ["url = ['hunter2']", "url = { env = ['hunter2'] }", "url = ['a', 'hunter2']", "url = 7"] {
            assert_eq!(read(wrong).unwrap_err(), EXPECTED, "{wrong}");
        }
    }
}
