//! What the dispatcher tells of webhooks and deliveries beside recording it: the engine turns it into events.

use std::fmt;
use std::sync::Arc;

use super::lane::{LaneSettings, Off, Queued};
use crate::clock::UnixMicros;
use crate::event::Event;
use crate::store::{DeliveryKey, LiveEvent};
use crate::webhook::WebhookSeq;

/// The most notices that wait. Beyond that, attempts and commits wait.
pub(super) const MAX_NOTICES: usize = 1_024;

/// A fact that operators are told of by an event of the server's own.
pub(crate) struct Notice {
    pub(crate) webhook: WebhookSeq,
    pub(crate) settings: Arc<LaneSettings>,
    pub(crate) news: News,
    /// The error, as in the log.
    pub(crate) error: String,
    pub(crate) at: UnixMicros,
    /// The delivered event was one of the server's own, so this notice makes no further one.
    pub(crate) is_quiet: bool,
}

pub(crate) enum News {
    /// Half of the failures that open the circuit.
    Failing,
    Opened,
    Recovered,
    /// Turned off in the lane, not yet in the store.
    Off(Off),
    /// No attempt follows for this delivery.
    Dead(DeadDelivery),
}

pub(crate) struct DeadDelivery {
    pub(crate) key: DeliveryKey,
    pub(crate) event: Arc<LiveEvent>,
    pub(crate) attempts: u32,
    pub(crate) status_code: Option<u16>,
}

impl Notice {
    pub(super) fn health(
        settings: &Arc<LaneSettings>,
        webhook: WebhookSeq,
        news: News,
        error: &str,
        is_quiet: bool,
        at: UnixMicros,
    ) -> Self {
        Self { webhook, settings: Arc::clone(settings), news, error: error.to_owned(), at, is_quiet }
    }

    pub(super) fn dead(
        settings: &Arc<LaneSettings>,
        key: DeliveryKey,
        queued: &Queued,
        attempts: u32,
        status_code: Option<u16>,
        error: &str,
        at: UnixMicros,
    ) -> Self {
        let event = Arc::clone(&queued.event.live);
        let is_quiet = is_operational(&event.event);
        let news = News::Dead(DeadDelivery { key, event, attempts, status_code });
        Self::health(settings, key.webhook, news, error, is_quiet, at)
    }
}

/// Whether the event is one of the server's own.
pub(super) fn is_operational(event: &Event) -> bool {
    event.topic().is_operational()
}

/// The reason as it is stored and shown.
impl fmt::Display for Off {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("gone"),
            Self::Asked => f.write_str("receiver asked to stop"),
            Self::NoSuccess { days } => write!(f, "no success for {days} days"),
        }
    }
}
