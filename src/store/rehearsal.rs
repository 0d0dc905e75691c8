//! The event that a store tries itself with.

use bytes::Bytes;
use uuid::Uuid;

use super::{Disposition, NewEvent, Owed};
use crate::clock::UnixMicros;
use crate::event::Event;
use crate::topic::Topic;
use crate::webhook::{DEFAULT_TENANT, WebhookSeq};

impl NewEvent {
    /// An event that writes to every table that accepting writes to, and is never committed. Its id is new, so that two
    /// rehearsals do not wait for each other.
    pub(super) fn rehearsal() -> Self {
        let (topic, body) = (Topic::of_probes(), Bytes::from_static(b"{}"));
        let event = Event::from_stored(Uuid::new_v4().to_string().into(), topic, Box::default(), body);
        let owed = |webhook, disposition| Owed { webhook: WebhookSeq(webhook), disposition };
        let owed = vec![owed(0, Disposition::Stored), owed(i64::MAX, Disposition::Skipped("probe"))];
        Self { tenant: DEFAULT_TENANT, event, accepted_at: UnixMicros(0), owed }
    }
}
