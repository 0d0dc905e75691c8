//! How a source is, and what it has brought.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::UnixMicros;

/// How a source is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It connects to its origin.
    Starting,
    Running,
    /// It holds messages back, because they cannot be accepted now.
    Waiting {
        reason: String,
    },
    /// It failed, and is started again after a pause.
    Failing {
        reason: String,
        retry_in: Duration,
    },
    /// It runs on another node, which owns its shard.
    Elsewhere,
    Stopped,
}

impl State {
    /// The word for the state.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Waiting { .. } => "waiting",
            Self::Failing { .. } => "failing",
            Self::Elsewhere => "elsewhere",
            Self::Stopped => "stopped",
        }
    }

    /// What is wrong, if something is.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        match self {
            Self::Waiting { reason } | Self::Failing { reason, .. } => Some(reason),
            _ => None,
        }
    }
}

/// Counts since the start of the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub accepted: u64,
    pub duplicates: u64,
    pub rejected: u64,
    /// Messages that were lost because the origin does not wait.
    pub lost: u64,
    /// Messages that were taken from the origin and wait for their commit.
    pub queued: u64,
    /// Bytes of these.
    pub queued_bytes: u64,
}

/// The state and the counts of one source.
#[derive(Debug)]
pub struct Status {
    name: String,
    kind: &'static str,
    tenant: String,
    state: Mutex<(State, UnixMicros)>,
    pub(super) accepted: AtomicU64,
    pub(super) duplicates: AtomicU64,
    pub(super) rejected: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) queued: AtomicU64,
    pub(super) queued_bytes: AtomicU64,
    /// When a message was accepted last, in microseconds; 0: never.
    pub(super) last_accepted_at: AtomicU64,
}

impl Status {
    pub(super) fn new(name: String, kind: &'static str, tenant: String, now: UnixMicros) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            name,
            kind,
            tenant,
            state: Mutex::new((State::Starting, now)),
            accepted: zero(),
            duplicates: zero(),
            rejected: zero(),
            lost: zero(),
            queued: zero(),
            queued_bytes: zero(),
            last_accepted_at: zero(),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// The name of the tenant that owns the events.
    pub fn tenant(&self) -> &str {
        &self.tenant
    }

    /// The state, and the time since which it has the state's word.
    pub fn state(&self) -> (State, UnixMicros) {
        self.state.lock().clone()
    }

    pub(super) fn set(&self, new: State, now: UnixMicros) {
        let mut state = self.state.lock();
        let since = if state.0.as_str() == new.as_str() { state.1 } else { now };
        *state = (new, since);
    }

    pub fn traffic(&self) -> Traffic {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            accepted: count(&self.accepted),
            duplicates: count(&self.duplicates),
            rejected: count(&self.rejected),
            lost: count(&self.lost),
            queued: count(&self.queued),
            queued_bytes: count(&self.queued_bytes),
        }
    }

    /// When a message was accepted last.
    pub fn last_accepted_at(&self) -> Option<UnixMicros> {
        let at = i64::try_from(self.last_accepted_at.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
        (at > 0).then_some(UnixMicros(at))
    }
}
