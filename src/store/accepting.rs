//! What is accepted, and what is answered.

use serde::{Deserialize, Serialize};

use crate::clock::UnixMicros;
use crate::delivery::id::EventSeq;
use crate::event::Event;
use crate::fit::fit;
use crate::webhook::{TenantSeq, WebhookSeq};

/// An event to be accepted.
#[derive(Clone, Debug)]
pub struct NewEvent {
    pub tenant: TenantSeq,
    pub event: Event,
    pub accepted_at: UnixMicros,
    /// Ascending by webhook, each once.
    pub owed: Vec<Owed>,
}

impl NewEvent {
    #[must_use]
    pub fn share(&self) -> Share {
        let is_skipped = |owed: &&Owed| matches!(owed.disposition, Disposition::Skipped(_));
        Share::of(self.owed.len(), self.owed.iter().filter(is_skipped).count())
    }
}

/// How many webhooks an event is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Webhooks that get the event.
    pub deliveries: u32,
    /// Webhooks that match the topic, but do not get the event.
    pub skipped: u32,
}

impl Share {
    /// From the number of all webhooks on an event's list, and of the skipped ones among them.
    #[must_use]
    pub fn of(listed: usize, skipped: usize) -> Self {
        let count = |number: usize| fit(number, u32::MAX);
        Self { deliveries: count(listed.saturating_sub(skipped)), skipped: count(skipped) }
    }
}

/// A webhook that an event is owed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owed {
    pub webhook: WebhookSeq,
    pub disposition: Disposition,
}

/// The place of a new delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// The lane has room. No row is written; the caller puts the delivery into the lane after the commit.
    InMemory,
    /// The lane is full, its circuit is open, memory is short, or earlier deliveries wait in the store. A pending row
    /// is written, due at once, which the lane reads later.
    Stored,
    /// The publisher has set a time. A pending row is written, due at that time.
    Later(UnixMicros),
    /// No attempt is made; a row has the reason.
    Skipped(&'static str),
}

/// The answer to one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    New {
        seq: EventSeq,
    },
    /// The tenant has sent this id before. A webhook that was skipped then and got the event since counts among the
    /// deliveries.
    Duplicate {
        seq: EventSeq,
        share: Share,
    },
}

/// Recognises a request that is repeated.
#[derive(Clone, Debug)]
pub struct Idempotency {
    pub key: String,
    /// SHA-256 of the request's body.
    pub body_hash: [u8; 32],
    pub now: UnixMicros,
    /// After this time the key can be used again.
    pub expires_at: UnixMicros,
}

/// The answer to a request with an [`Idempotency`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AcceptedOnce {
    Now(Vec<Accepted>),
    /// The request was accepted before; these are the receipts of that time.
    Before(Vec<KeptReceipt>),
}

/// The kept part of the answer to one event: its id, its deliveries and its skipped deliveries. Receipts of versions
/// that did not count skipped ones have them among the deliveries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptReceipt(pub String, pub u32, #[serde(default)] pub u32);

impl KeptReceipt {
    pub(crate) fn of(new: &NewEvent, accepted: &Accepted) -> Self {
        let Share { deliveries, skipped } = match accepted {
            Accepted::New { .. } => new.share(),
            Accepted::Duplicate { share, .. } => *share,
        };
        Self(new.event.id().to_owned(), deliveries, skipped)
    }
}
