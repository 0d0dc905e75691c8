//! What a webhook's keys have beside the two in columns of their own: a part of the sealed text `webhook.policy`.

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::clock::UnixMicros;
use crate::signing::{Ed25519Key, KeyError, OlderKeys, Secret, SigningKeys, StandardKey};

/// The Ed25519 key, and the generations of before. Times are microseconds since 1970.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct StoredKeys {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ed25519: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<i64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    older: Vec<StoredGeneration>,
}

#[derive(Serialize, Deserialize)]
struct StoredGeneration {
    decnet: String,
    standard: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ed25519: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<i64>,
    until: i64,
}

impl StoredKeys {
    pub(super) fn of(keys: &SigningKeys) -> Self {
        let older = keys.older.iter().map(|keys| StoredGeneration {
            decnet: keys.decnet.expose().to_owned(),
            standard: keys.standard.expose().to_string(),
            ed25519: exposed(keys.ed25519.as_ref()),
            since: keys.since.map(|since| since.0),
            until: keys.until.0,
        });
        Self { ed25519: exposed(keys.ed25519.as_ref()), since: keys.since.map(|since| since.0), older: older.collect() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ed25519.is_none() && self.since.is_none() && self.older.is_empty()
    }

    /// Adds what is here to `keys`, which are those of the columns.
    pub(super) fn restore(&self, keys: &mut SigningKeys) -> Result<(), KeyError> {
        keys.ed25519 = self.ed25519.as_deref().map(Ed25519Key::parse).transpose()?;
        keys.since = self.since.map(UnixMicros);
        let older = self.older.iter().map(|stored| {
            Ok(OlderKeys {
                decnet: Secret::kept(&stored.decnet)?,
                standard: StandardKey::parse(&stored.standard)?,
                ed25519: stored.ed25519.as_deref().map(Ed25519Key::parse).transpose()?,
                since: stored.since.map(UnixMicros),
                until: UnixMicros(stored.until),
            })
        });
        keys.older = older.collect::<Result<_, KeyError>>()?;
        Ok(())
    }
}

fn exposed(key: Option<&Ed25519Key>) -> Option<String> {
    key.map(|key| key.expose().to_string())
}

impl Drop for StoredKeys {
    fn drop(&mut self) {
        self.ed25519.zeroize();
    }
}

impl Drop for StoredGeneration {
    fn drop(&mut self) {
        self.decnet.zeroize();
        self.standard.zeroize();
        self.ed25519.zeroize();
    }
}
