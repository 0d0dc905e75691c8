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
    /// How many webhooks it is for.
    #[must_use]
    pub fn share(&self) -> Share {
        let is_skipped = |owed: &&Owed| matches!(owed.disposition, Disposition::Skipped(_));
        Share::of(self.owed.len(), self.owed.iter().filter(is_skipped).count())
    }
}

/// How many webhooks an event is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// It is delivered to them.
    pub deliveries: u32,
    /// They want its topic, and it is not delivered to them.
    pub skipped: u32,
}

impl Share {
    /// Of all webhooks on an event's list, and those of them that are skipped.
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

/// What becomes of a delivery when its event is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// The lane has room: no row is written, the caller puts it into the lane after the commit.
    InMemory,
    /// The lane is full, its circuit open, memory short or others wait before it: a pending row is written, due at
    /// once; the lane reads it later.
    Stored,
    /// Its publisher wants it later: a pending row is written, due then.
    Later(UnixMicros),
    /// It will not be attempted; a row says why.
    Skipped(&'static str),
}

/// The answer to one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    New {
        seq: EventSeq,
    },
    /// The tenant has sent this id before. What was skipped then and was delivered since counts among the deliveries.
    Duplicate {
        seq: EventSeq,
        share: Share,
    },
}

/// What makes a request known when it is sent again.
#[derive(Clone, Debug)]
pub struct Idempotency {
    pub key: String,
    /// SHA-256 of the request's body.
    pub body_hash: [u8; 32],
    pub now: UnixMicros,
    /// From then on the key is free again.
    pub expires_at: UnixMicros,
}

/// The answer to a request with an [`Idempotency`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AcceptedOnce {
    Now(Vec<Accepted>),
    /// It was accepted before: what was answered then.
    Before(Vec<KeptReceipt>),
}

/// What is kept of the answer to one event: its id, deliveries and skipped ones. Those of before they were counted apart
/// have all among the deliveries.
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
