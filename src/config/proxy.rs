//! The server's own proxy, whose URL may hold a password.

use std::convert::Infallible;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::delivery::access::{RawProxy, Resolution, SHOWN_SECRET, SecretText};
use crate::delivery::client::{NoProxy, ServerProxy};

/// A URL as in `http://user:password@proxy.example:3128`; empty: no proxy. Parsing accepts any text, and only
/// [`ProxyUrl::server_proxy`] judges it, because an error of parsing would show the text.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct ProxyUrl(SecretText);

impl ProxyUrl {
    /// The error does not repeat the URL.
    pub(super) fn server_proxy(&self, resolves: bool, no_proxy: &[NoProxy]) -> Result<Option<ServerProxy>, String> {
        if self.0.expose().is_empty() {
            return Ok(None);
        }
        let resolve = if resolves { Resolution::Proxy } else { Resolution::Here };
        let raw = RawProxy { url: self.0.clone(), resolve };
        raw.for_server(no_proxy.to_vec()).map(Some).map_err(|error| error.reason)
    }

    /// The value of the setting, without user and password.
    pub(super) fn shown(value: &Value) -> Value {
        let text = value.as_str().unwrap_or_default();
        match (text.split_once("://"), text.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{SHOWN_SECRET}@{host}").into(),
            (None, _) if !text.is_empty() => SHOWN_SECRET.into(),
            _ => text.into(),
        }
    }
}

impl From<String> for ProxyUrl {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl FromStr for ProxyUrl {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.into()))
    }
}

/// With the password, since layers of settings are merged in this form.
impl From<ProxyUrl> for String {
    fn from(url: ProxyUrl) -> Self {
        url.0.expose().to_owned()
    }
}
