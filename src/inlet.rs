//! Inlets: other senders' webhooks, verified, and made into events. Pure.
//!
//! An inlet is a record with a URL of its own. [`InletSettings::verify`] judges a request by the signature of its sender, and
//! [`InletSettings::event`] makes an event of it.

mod incoming;
mod keep;
mod patch;
mod sender;
mod settings;

use uuid::Uuid;

pub use self::incoming::{Incoming, InletError};
pub use self::keep::{Keep, KeepInput, MAX_KEPT_HEADERS};
pub use self::patch::{InletPatch, InletSignature};
pub use self::sender::{BEARER, MAX_INLET_SECRETS, NONE, Sender};
pub use self::settings::{
    DEFAULT_INLET_TOLERANCE_S, INLET_TOLERANCE_S, InletFault, InletSettings, MAX_INLET_NAME_CHARS,
};
use crate::clock::UnixMicros;
use crate::webhook::TenantSeq;

/// The largest body that an inlet takes, in bytes. The event that is made of it has its own limit,
/// [`MAX_EVENT_BYTES`](crate::event::MAX_EVENT_BYTES).
pub const MAX_INLET_BYTES: usize = 1024 * 1024;

/// An inlet as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InletRecord {
    /// In its URL: 122 random bits.
    pub uuid: Uuid,
    pub tenant: TenantSeq,
    /// Grows with every change of the settings.
    pub version: i64,
    pub settings: InletSettings,
    pub created_at: UnixMicros,
    pub updated_at: UnixMicros,
}

#[cfg(test)]
mod tests;
