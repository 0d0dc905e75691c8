//! The settings file.

use std::path::PathBuf;

use super::{ConfigError, DEFAULT_FILE, RawConfig, STORE};

pub(super) fn read(named: Option<PathBuf>) -> Result<RawConfig, ConfigError> {
    let is_named = named.is_some();
    let path = named.unwrap_or_else(|| DEFAULT_FILE.into());
    let trouble = |reason: String| ConfigError::File { path: path.display().to_string(), reason };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !is_named => return Ok(RawConfig::default()),
        Err(error) => return Err(trouble(error.to_string())),
    };
    toml::from_str(&text).map_err(|error: toml::de::Error| {
        let mut reason = quoted(&text, &error);
        for secret in ["admin_token", "master_key", "decnet_jwt_secret"] {
            if error.message().contains(&format!("unknown field `{secret}`")) {
                reason.extend(["secrets are read from the environment only: set POSTRIDER_", &secret.to_uppercase()]);
            }
        }
        trouble(reason)
    })
}

/// The error of a file with the wrong line, unless the line may contain a password.
fn quoted(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let (number, start) = (before.matches('\n').count(), before.rfind('\n').map_or(0, |end| end + 1));
    // This includes secrets that do not belong into a file.
    let line = text[start..].trim_start().trim_start_matches(['"', '\'']);
    if [STORE, "admin_token", "master_key", "decnet_jwt_secret"].iter().any(|secret| line.starts_with(secret)) {
        return format!("line {}: {}", number + 1, error.message());
    }
    error.to_string()
}
