//! The environment: the only caller of `env::vars_os`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde_json::{Map, Value};

use super::{ConfigError, ENV_PREFIX, PROXY, RawConfig, STORE};
use crate::store::seal::{MasterKey, MasterKeyError};

const UNLIMITED: &str = "unlimited";

/// The environment variables.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

/// Shows only names, since values may be secrets.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Environment {
    /// Reads the process's environment. Variables that are not UTF-8 are skipped.
    #[must_use]
    pub fn read() -> Self {
        let text =
            std::env::vars_os().filter_map(|(name, value)| name.into_string().ok().zip(value.into_string().ok()));
        Self(text.collect())
    }

    #[cfg(test)]
    pub(super) fn of(variables: &[(&str, &str)]) -> Self {
        Self(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    /// Whether the user wants plain text even on a terminal (<https://no-color.org>).
    #[must_use]
    pub fn forbids_colour(&self) -> bool {
        self.0.get("NO_COLOR").is_some_and(|value| !value.is_empty())
            || self.0.get("TERM").is_some_and(|terminal| terminal == "dumb")
    }

    /// All variables: sources may take their secrets from any.
    pub(super) fn variables(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    /// The user's home folder.
    #[must_use]
    pub fn home(&self) -> Option<&Path> {
        self.0.get("HOME").filter(|home| !home.is_empty()).map(Path::new)
    }

    /// The socket of DECNET's bus, by DECNET's own variable.
    #[must_use]
    pub fn decnet_bus_socket(&self) -> Option<&str> {
        self.0.get("DECNET_BUS_SOCKET").map(String::as_str)
    }

    /// What a DECNET on this machine signs tokens with, by DECNET's own variable.
    pub(super) fn decnet_jwt_secret(&self) -> Option<&str> {
        self.0.get("DECNET_JWT_SECRET").map(String::as_str)
    }

    pub(super) fn get(&self, key: &str) -> Option<(String, &str)> {
        let name = format!("{ENV_PREFIX}{}", key.to_uppercase());
        let value = self.0.get(&name)?;
        Some((name, value))
    }

    /// A secret: the variable itself, or the content of the file that its `_FILE` variant names.
    pub(super) fn secret(&self, key: &str) -> Result<Option<(String, String)>, ConfigError> {
        if let Some((name, value)) = self.get(key) {
            return Ok(Some((name, value.to_owned())));
        }
        let Some((name, path)) = self.get(&format!("{key}_file")) else { return Ok(None) };
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Some((name, text.trim_end().to_owned()))),
            Err(error) => Err(ConfigError::Env { name, reason: format!("cannot read {path}: {error}") }),
        }
    }

    pub(super) fn master_key(&self, key: &str) -> Result<Option<MasterKey>, ConfigError> {
        let Some((name, text)) = self.secret(key)? else { return Ok(None) };
        let malformed = |error: MasterKeyError| format!("{error}; `openssl rand -base64 32` makes one");
        MasterKey::parse(&text).map(Some).map_err(|error| ConfigError::Env { name, reason: malformed(error) })
    }

    /// The next master key: `POSTRIDER_NEW_MASTER_KEY`, or the content of the file that its `_FILE` variant names.
    pub fn new_master_key(&self) -> Result<Option<MasterKey>, ConfigError> {
        self.master_key("new_master_key")
    }

    /// The environment's layer. A variable's text is read by the type of the default.
    pub(super) fn layer(&self, defaults: &Map<String, Value>) -> Result<Map<String, Value>, ConfigError> {
        let mut layer = Map::new();
        for (key, default) in defaults {
            let given = match &**key {
                STORE | PROXY => self.secret(key)?,
                _ => self.get(key).map(|(name, text)| (name, text.to_owned())),
            };
            let Some((name, text)) = given else { continue };
            let value = match default {
                Value::Bool(_) => text.parse().map(Value::Bool).map_err(|_| "must be true or false".to_owned()),
                // For settings that are a number or this word; other settings refuse it below.
                Value::Number(_) if text == UNLIMITED => Ok(Value::from(text.as_str())),
                Value::Number(_) => {
                    text.parse::<u64>().map(Value::from).map_err(|error| format!("{text:?} is no count: {error}"))
                }
                Value::Array(_) => Ok(text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect()),
                _ => Ok(Value::from(text.as_str())),
            };
            let value = value.and_then(|value| {
                let single = Map::from_iter([(key.clone(), value.clone())]);
                let checked = serde_json::from_value::<RawConfig>(Value::Object(single));
                checked.map(|_| value).map_err(|error| error.to_string())
            });
            layer.insert(key.clone(), value.map_err(|reason| ConfigError::Env { name, reason })?);
        }
        Ok(layer)
    }
}

#[cfg(test)]
mod tests {
    use super::Environment;

    #[test]
    fn the_environment_shows_names_and_no_values() {
        let environment = Environment::of(&[("POSTRIDER_ADMIN_TOKEN", "not-to-be-shown")]);
        assert_eq!(format!("{environment:?}"), r#"{"POSTRIDER_ADMIN_TOKEN"}"#);
    }
}
