//! Rejected messages: what a source brought that can never be an event. They are kept with their bytes and the reason,
//! until somebody sends them again or discards them.

use bytes::Bytes;
use uuid::Uuid;

use crate::clock::UnixMicros;
use crate::webhook::TenantSeq;

/// The most bytes that are kept of one rejected message.
pub const MAX_REJECTED_BYTES: usize = 1 << 20;
/// The most characters that are kept of each text beside the body: attributes, the origin's id, the reason.
pub const MAX_REJECTED_TEXT_CHARS: usize = 1_024;
/// The most bytes that are kept of the attributes of one rejected message, names and values as JSON.
pub const MAX_REJECTED_ATTRIBUTE_BYTES: usize = 64 * 1024;
/// The most rejected messages that are kept of one source. More push the oldest ones out.
pub const MAX_REJECTED: u32 = 10_000;
/// The most bytes that are kept of the rejected messages of one source together. More push the oldest ones out.
pub const MAX_REJECTED_BYTES_TOGETHER: u64 = 256 << 20;
/// The bytes of a message that a list of rejected messages shows.
pub const SHOWN_REJECTED_BYTES: u32 = 1_024;

/// A message to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRejected {
    /// The name of the source.
    pub source: String,
    pub tenant: TenantSeq,
    /// The origin's id of the message. The same bytes with the same id are kept once.
    pub origin_id: Option<String>,
    /// What came beside the body, as a JSON object of texts.
    pub attributes: String,
    /// At most [`MAX_REJECTED_BYTES`] from its beginning.
    pub body: Bytes,
    /// The bytes of the body as it came.
    pub length: u64,
    pub reason: String,
    pub at: UnixMicros,
}

/// A message that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    pub uuid: Uuid,
    pub source: String,
    pub tenant: TenantSeq,
    pub origin_id: Option<String>,
    pub attributes: String,
    /// In a list only its beginning, of [`SHOWN_REJECTED_BYTES`].
    pub body: Vec<u8>,
    pub length: u64,
    pub reason: String,
    pub at: UnixMicros,
}

impl Rejected {
    /// Whether all bytes of the message were kept.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.length <= MAX_REJECTED_BYTES as u64
    }
}
