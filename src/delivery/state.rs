//! The states of a delivery, and the transitions between them.

use crate::clock::UnixMicros;

/// The state of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeliveryState {
    /// Owed: waiting for its first attempt or its next one, or under way.
    Pending,
    /// The receiver answered 2xx.
    Delivered,
    /// Given up: the schedule is exhausted, or the answer was terminal.
    Dead,
    /// Never attempted, for a reason known when the event was accepted.
    Skipped,
    /// An operator ended it, or its webhook was deleted.
    Discarded,
}

impl DeliveryState {
    pub const ALL: [Self; 5] = [Self::Pending, Self::Delivered, Self::Dead, Self::Skipped, Self::Discarded];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
            Self::Skipped => "skipped",
            Self::Discarded => "discarded",
        }
    }
}

/// A change of a delivery's state. The functions below are the only way to make one, and
/// a store writes no state that did not come out of one.
///
/// ```text
///             accept                2xx
///    ──────────► pending ─────────────────────► delivered
///                 │  ▲ │ schedule exhausted, terminal status
///      retryable  └──┘ ├──────────────────────► dead ──── retried ───► pending
///                      │ discarded by an operator, webhook deleted
///                      └──────────────────────► discarded ── retried ─► pending
///    accept, webhook disabled ────────────────► skipped (reason) ── retried ─► pending
/// ```
///
/// An operator's replay can make delivered ones pending, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    state: DeliveryState,
    next_attempt_at: Option<UnixMicros>,
    reason: Option<String>,
}

impl Transition {
    /// The receiver answered 2xx.
    #[must_use]
    pub fn delivered() -> Self {
        Self { state: DeliveryState::Delivered, next_attempt_at: None, reason: None }
    }

    /// The attempt failed and another will be made at `at`.
    #[must_use]
    pub fn retry_at(at: UnixMicros, error: String) -> Self {
        Self { state: DeliveryState::Pending, next_attempt_at: Some(at), reason: Some(error) }
    }

    /// No attempt will follow.
    #[must_use]
    pub fn dead(error: String) -> Self {
        Self { state: DeliveryState::Dead, next_attempt_at: None, reason: Some(error) }
    }

    /// Not attempted, with the reason.
    #[must_use]
    pub fn skipped(reason: &str) -> Self {
        Self { state: DeliveryState::Skipped, next_attempt_at: None, reason: Some(reason.to_owned()) }
    }

    /// Ended by a decision, without success, with the reason.
    #[must_use]
    pub fn discarded(reason: &str) -> Self {
        Self { state: DeliveryState::Discarded, next_attempt_at: None, reason: Some(reason.to_owned()) }
    }

    /// Due at `at`: accepted without room in its lane, or replayed.
    #[must_use]
    pub fn queued(at: UnixMicros) -> Self {
        Self { state: DeliveryState::Pending, next_attempt_at: Some(at), reason: None }
    }

    #[must_use]
    pub fn state(&self) -> DeliveryState {
        self.state
    }
    /// Set if the state is pending, and only then.
    #[must_use]
    pub fn next_attempt_at(&self) -> Option<UnixMicros> {
        self.next_attempt_at
    }
    /// The error or reason that a user sees.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }
}
