//! What of a request is kept beside its body.

use http::HeaderName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::delivery::access::is_credential;

/// The most headers that an inlet keeps.
pub const MAX_KEPT_HEADERS: usize = 32;
/// The longest name of one, in bytes.
const MAX_NAME_BYTES: usize = 128;

/// What of a request is kept. With any of it the payload is an object with the body in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = InletKeep)]
#[expect(clippy::struct_excessive_bools, reason = "as the API has it: each is a part of a request")]
pub struct KeepInput {
    /// Names of headers.
    #[schema(max_items = 32, example = json!(["X-GitHub-Event", "X-Hub-Signature-256"]))]
    pub headers: Vec<String>,
    pub method: bool,
    /// What follows the inlet in the path.
    pub path: bool,
    pub query: bool,
    /// The body's exact bytes, also if it is JSON: as base64.
    pub bytes: bool,
}

/// The same, validated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a part of a request")]
pub struct Keep {
    pub headers: Vec<HeaderName>,
    pub method: bool,
    pub path: bool,
    pub query: bool,
    pub bytes: bool,
}

impl Keep {
    pub(super) fn parse(input: &KeepInput) -> Result<Self, String> {
        let KeepInput { headers, method, path, query, bytes } = input;
        if headers.len() > MAX_KEPT_HEADERS {
            return Err(format!("has {} headers, the limit is {MAX_KEPT_HEADERS}", headers.len()));
        }
        let mut names = Vec::with_capacity(headers.len());
        for text in headers {
            let name = Some(text).filter(|text| text.len() <= MAX_NAME_BYTES);
            let name = name.and_then(|text| HeaderName::from_bytes(text.as_bytes()).ok());
            let name = name.ok_or_else(|| format!("{text:?} is no name of a header"))?;
            if is_credential(name.as_str()) {
                return Err(format!("{text:?} is a credential, which is not kept"));
            }
            if !names.contains(&name) {
                names.push(name);
            }
        }
        Ok(Self { headers: names, method: *method, path: *path, query: *query, bytes: *bytes })
    }

    /// As it is shown and stored.
    #[must_use]
    pub fn input(&self) -> KeepInput {
        let Self { headers, method, path, query, bytes } = self;
        let headers = headers.iter().map(ToString::to_string).collect();
        KeepInput { headers, method: *method, path: *path, query: *query, bytes: *bytes }
    }

    pub(super) fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}
