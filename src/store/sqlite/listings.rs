//! Listings, newest first, in pages. A page looks at a bounded number of rows, whatever its filter.

use memchr::memmem::Finder;
use rusqlite::{Connection, OptionalExtension};
use uuid::Uuid;

use super::deliveries::{DeliveryRow, EventHead, WebhookHeads, delivery_rows, event_head, stored_delivery};
use super::events::{event_by_seq, find_event};
use crate::clock::UnixMicros;
use crate::delivery::DeliveryState;
use crate::delivery::id::{DeliveryIds, DeliveryKey, EventSeq};
use crate::store::failure::{Failure, corrupt};
use crate::store::id_hash::IdHash;
use crate::store::paging::{Bounds, Collector, NEWEST, NO_WEBHOOK, start};
use crate::store::{DeliveryFilter, EventFilter, Page, PageOf, StoreError, StoredDelivery, StoredEvent, owed};
use crate::topic::{Pattern, Topic};
use crate::webhook::{TenantSeq, WebhookSeq};

/// The context of a listing, beside its filter.
pub(super) struct Listing<'a> {
    pub(super) connection: &'a Connection,
    pub(super) ids: &'a DeliveryIds,
    pub(super) id_hash: &'a IdHash,
    pub(super) tenant: TenantSeq,
    pub(super) bounds: Bounds,
}

/// Conditions on an event that deliveries and events share.
struct EventConditions<'a> {
    tenant: TenantSeq,
    topic: Option<&'a Pattern>,
    since: Option<UnixMicros>,
    until: Option<UnixMicros>,
}

impl EventConditions<'_> {
    fn hold(&self, event: &EventHead) -> Result<bool, Failure> {
        if event.tenant != self.tenant
            || self.since.is_some_and(|since| event.accepted_at < since)
            || self.until.is_some_and(|until| event.accepted_at >= until)
        {
            return Ok(false);
        }
        let Some(pattern) = self.topic else { return Ok(true) };
        let topic = Topic::parse(&event.topic).map_err(corrupt)?;
        Ok(pattern.matches(&topic))
    }
}

impl Listing<'_> {
    pub(super) fn events(&self, filter: &EventFilter, page: &Page) -> Result<PageOf<StoredEvent>, Failure> {
        let start = self.start(page)?;
        let text = filter.q.as_deref().map(Finder::new);
        let conditions = EventConditions {
            tenant: self.tenant,
            topic: filter.topic.as_ref(),
            since: filter.since,
            until: filter.until,
        };
        let mut collector = Collector::new(page, self.bounds);
        self.scan_events(start.event.0.saturating_sub(1), |head| {
            let place = DeliveryKey { event: head.seq, webhook: NO_WEBHOOK };
            collector.see(place);
            if !conditions.hold(head)? || filter.kind.as_ref().is_some_and(|kind| *kind != head.kind) {
                return Ok(collector.goes_on());
            }
            let event = event_by_seq(self.connection, head.seq)?.ok_or_else(|| corrupt("an event vanished"))?;
            let bytes = event.event.body().len();
            let is_wanted = text.as_ref().is_none_or(|text| {
                collector.search(bytes);
                text.find(event.event.body()).is_some()
            });
            if is_wanted {
                collector.add(place, event, bytes);
            }
            Ok(collector.goes_on())
        })?;
        Ok(collector.finish(self.ids))
    }

    pub(super) fn deliveries(&self, filter: &DeliveryFilter, page: &Page) -> Result<PageOf<StoredDelivery>, Failure> {
        let start = self.start(page)?;
        let webhook = match filter.webhook {
            None => None,
            Some(uuid) => match self.find_webhook(uuid)? {
                Some(webhook) => Some(webhook),
                None => return Ok(PageOf { items: Vec::new(), next_cursor: None }),
            },
        };
        let scan = DeliveryScan {
            listing: self,
            filter,
            webhook,
            start,
            conditions: EventConditions {
                tenant: self.tenant,
                topic: filter.topic.as_ref(),
                since: filter.since,
                until: filter.until,
            },
            heads: WebhookHeads::default(),
            collector: Collector::new(page, self.bounds),
        };
        match (&filter.event, filter.state) {
            (Some(id), _) => scan.of_event(find_event(self.connection, self.id_hash, self.tenant, id)?),
            (None, Some(state @ (DeliveryState::Dead | DeliveryState::Skipped))) => scan.by_state(state),
            _ => scan.by_event(),
        }
    }

    /// The place that the page begins after.
    pub(super) fn start(&self, page: &Page) -> Result<DeliveryKey, StoreError> {
        start(self.ids, page)
    }

    /// Finds deleted webhooks, too, since their deliveries can still be listed.
    fn find_webhook(&self, uuid: Uuid) -> rusqlite::Result<Option<WebhookSeq>> {
        self.connection
            .prepare_cached("SELECT seq FROM webhook WHERE uuid = ?1 AND tenant = ?2")?
            .query_row((uuid, self.tenant), |row| row.get(0))
            .optional()
    }

    /// Walks the table from `newest` down until `visit` says `false`. Reads no body.
    fn scan_events(
        &self,
        newest: i64,
        mut visit: impl FnMut(&EventHead) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let mut statement = self.connection.prepare_cached(
            "SELECT seq, tenant, id, topic, type, accepted_at, owed FROM event WHERE seq <= ?1 ORDER BY seq DESC",
        )?;
        let mut rows = statement.query([newest])?;
        while let Some(row) = rows.next()? {
            let head = EventHead {
                seq: row.get(0)?,
                tenant: row.get(1)?,
                id: row.get(2)?,
                topic: row.get(3)?,
                kind: row.get(4)?,
                accepted_at: row.get(5)?,
                owed: owed::decode(row.get_ref(6)?.as_blob().map_err(corrupt)?),
            };
            if !visit(&head)? {
                break;
            }
        }
        Ok(())
    }
}

/// A page of deliveries in the making.
struct DeliveryScan<'a> {
    listing: &'a Listing<'a>,
    filter: &'a DeliveryFilter,
    webhook: Option<WebhookSeq>,
    start: DeliveryKey,
    conditions: EventConditions<'a>,
    heads: WebhookHeads,
    collector: Collector<StoredDelivery>,
}

impl DeliveryScan<'_> {
    fn of_event(mut self, event: Option<EventSeq>) -> Result<PageOf<StoredDelivery>, Failure> {
        if let Some(seq) = event.filter(|seq| *seq <= self.start.event)
            && let Some(head) = event_head(self.listing.connection, seq)?
        {
            self.visit(&head)?;
        }
        Ok(self.collector.finish(self.listing.ids))
    }

    /// Event by event: owed lists merged with rows.
    fn by_event(mut self) -> Result<PageOf<StoredDelivery>, Failure> {
        let listing = self.listing;
        listing.scan_events(self.start.event.0, |head| self.visit(head))?;
        Ok(self.collector.finish(listing.ids))
    }

    /// Rows of one of the states that have an index, `delivery_ended`.
    fn by_state(mut self, state: DeliveryState) -> Result<PageOf<StoredDelivery>, Failure> {
        let connection = self.listing.connection;
        let mut statement = connection.prepare_cached(
            "SELECT event_seq, webhook_seq FROM delivery INDEXED BY delivery_ended
             WHERE state = ?1 AND state BETWEEN 1 AND 3 AND (event_seq, webhook_seq) < (?2, ?3)
             ORDER BY event_seq DESC, webhook_seq DESC",
        )?;
        let mut rows = statement.query((state, self.start.event, self.start.webhook))?;
        while let Some(row) = rows.next()? {
            let key = DeliveryKey { event: row.get(0)?, webhook: row.get(1)? };
            self.collector.see(key);
            let wanted = self.webhook.is_none_or(|webhook| webhook == key.webhook);
            let head = if wanted { event_head(connection, key.event)? } else { None };
            if let Some(head) = head
                && self.conditions.hold(&head)?
            {
                let rows = delivery_rows(connection, key.event, key.webhook, key.webhook)?;
                self.add(&head, key.webhook, rows.first())?;
            }
            if !self.collector.goes_on() {
                break;
            }
        }
        Ok(self.collector.finish(self.listing.ids))
    }

    /// The deliveries of one event; `false`: the page is done.
    fn visit(&mut self, head: &EventHead) -> Result<bool, Failure> {
        self.collector.see(DeliveryKey { event: head.seq, webhook: NO_WEBHOOK });
        let wanted = self.webhook.is_none_or(|webhook| head.owed.binary_search(&webhook).is_ok());
        if !wanted || !self.conditions.hold(head)? {
            return Ok(self.collector.goes_on());
        }
        let (first, last) = self.webhook.map_or((NO_WEBHOOK, NEWEST.webhook), |webhook| (webhook, webhook));
        let rows = delivery_rows(self.listing.connection, head.seq, first, last)?;
        for webhook in head.owed.iter().rev().copied().filter(|webhook| (first..=last).contains(webhook)) {
            let key = DeliveryKey { event: head.seq, webhook };
            if key >= self.start {
                continue;
            }
            self.collector.see(key);
            let row = rows.binary_search_by_key(&webhook, |row| row.webhook).ok().map(|at| &rows[at]);
            self.add(head, webhook, row)?;
            if !self.collector.goes_on() {
                return Ok(false);
            }
        }
        Ok(self.collector.goes_on())
    }

    /// Adds a delivery if its state matches.
    fn add(&mut self, head: &EventHead, webhook: WebhookSeq, row: Option<&DeliveryRow>) -> Result<(), Failure> {
        let delivery = stored_delivery(self.listing.connection, &mut self.heads, head, webhook, row)?;
        if self.filter.state.is_none_or(|state| state == delivery.state) {
            self.collector.add(delivery.key, delivery, 0);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
