//! A receiver: its URL, its keys, and what else an attempt needs to know. `webhook` shows these types to users.

use std::time::Duration;

use super::access::Access;
use super::guard::{Destination, DestinationError};
use crate::signing::{Signatures, SigningKeys};

/// The default timeout of a whole attempt, response body included.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// The HTTP method of a webhook's requests, each of which has a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema), schema(rename_all = "UPPERCASE"))]
pub enum Method {
    #[default]
    Post,
    Put,
    Patch,
}

impl Method {
    /// Every one that a webhook may choose.
    pub const ALL: [Self; 3] = [Self::Post, Self::Put, Self::Patch];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
        }
    }
}

/// A receiver: what one attempt needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Webhook {
    pub destination: Destination,
    pub method: Method,
    pub keys: SigningKeys,
    pub signatures: Signatures,
    /// For the whole attempt, response body included.
    pub timeout: Duration,
    /// Headers, credentials, TLS and proxy; nothing special by default.
    pub access: Access,
}

impl Webhook {
    /// A receiver at `url` that gets both signatures, within the default timeout.
    pub fn new(url: &str, keys: SigningKeys) -> Result<Self, DestinationError> {
        Ok(Self {
            destination: Destination::parse(url)?,
            method: Method::default(),
            keys,
            signatures: Signatures::default(),
            timeout: DEFAULT_TIMEOUT,
            access: Access::default(),
        })
    }
}
