//! Listings, newest first, in pages. A page is read in portions of rows, each with one statement, small ones first; it
//! looks at a bounded number of rows, whatever its filter.
//!
//! They run in a snapshot, where statements are planned each time: which indexes serve them depends on what is asked.
//! What is joined to the rows of a portion stands in a `LATERAL` with an `OFFSET`, so that it is looked up row by row
//! and the planner cannot decide to read a whole table instead.

use std::collections::HashSet;

use tokio_postgres::Row;
use uuid::Uuid;

use super::deliveries::stored_delivery;
use super::events;
use super::pool::Connection;
use crate::delivery::DeliveryState;
use crate::delivery::id::{DeliveryIds, DeliveryKey, EventSeq};
use crate::fit::fit;
use crate::store::failure::Failure;
use crate::store::id_hash::IdHash;
use crate::store::paging::{Bounds, Collector, start};
use crate::store::{DeliveryFilter, EventFilter, Page, PageOf, StoredDelivery, StoredEvent};
use crate::topic::Pattern;
use crate::webhook::{TenantSeq, WebhookSeq};

/// The fewest rows of a page's first portion. Each further portion is larger by [`GROWTH`].
const FIRST_PORTION_ROWS: u32 = 64;
const GROWTH: u32 = 4;
/// The most bodies, in bytes, that one statement searches, unless one alone is larger.
const SEARCH_STEP_BYTES: usize = 4 << 20;

/// The context of a listing, beside its filter.
pub(super) struct Listing<'a> {
    pub(super) connection: &'a Connection,
    pub(super) ids: &'a DeliveryIds,
    pub(super) id_hash: &'a IdHash,
    pub(super) bounds: Bounds,
}

/// The result of one statement.
pub(super) struct PageRows<T> {
    /// In the order of the listing.
    pub(super) items: Vec<(DeliveryKey, T)>,
    pub(super) rows: u32,
    /// The last row looked at; `None`: there was none.
    pub(super) last: Option<DeliveryKey>,
}

/// A listing that is read in portions.
pub(super) trait Scan: Sync {
    type Item: Send;

    /// Looks at the next `rows` rows after `place`, and returns at most `items` matching ones.
    fn portion(
        &self,
        connection: &Connection,
        place: DeliveryKey,
        rows: u32,
        items: u32,
    ) -> impl Future<Output = Result<PageRows<Self::Item>, Failure>> + Send;
}

impl Listing<'_> {
    /// A page of what a scan finds.
    pub(super) async fn page<S: Scan>(&self, scan: &S, page: &Page) -> Result<PageOf<S::Item>, Failure> {
        let mut place = start(self.ids, page)?;
        let mut collector = Collector::new(page, self.bounds);
        let mut rows = FIRST_PORTION_ROWS.max(page.limit.saturating_add(1));
        while collector.goes_on() {
            let asked = rows.min(collector.rows_left());
            // An item beyond the page's room shows that there is another page.
            let portion = scan.portion(self.connection, place, asked, collector.room() + 1).await?;
            for (place, item) in portion.items {
                collector.add(place, item, 0);
            }
            let Some(last) = portion.last.filter(|_| collector.goes_on()) else { break };
            collector.see_rows(portion.rows, last);
            if portion.rows < asked {
                break;
            }
            (place, rows) = (last, rows.saturating_mul(GROWTH));
        }
        Ok(collector.finish(self.ids))
    }

    pub(super) async fn events(
        &self,
        tenant: TenantSeq,
        filter: &EventFilter,
        page: &Page,
    ) -> Result<PageOf<StoredEvent>, Failure> {
        let scan = EventScan { tenant, filter, topic: filter.topic.as_ref().map(regex) };
        let mut place = start(self.ids, page)?;
        let mut collector = Collector::new(page, self.bounds);
        let mut rows = FIRST_PORTION_ROWS.max(page.limit.saturating_add(1));
        while collector.goes_on() {
            let asked = rows.min(collector.rows_left());
            let items = if filter.q.is_some() { asked } else { collector.room() + 1 };
            let portion = scan.portion(self.connection, place, asked, items).await?;
            match &filter.q {
                Some(text) => self.search(&mut collector, &portion.items, text).await?,
                None => portion.items.into_iter().for_each(|(place, bytes)| collector.add(place, place.event, bytes)),
            }
            let Some(last) = portion.last.filter(|_| collector.goes_on()) else { break };
            collector.see_rows(portion.rows, last);
            if portion.rows < asked {
                break;
            }
            (place, rows) = (last, rows.saturating_mul(GROWTH));
        }
        let PageOf { items, next_cursor } = collector.finish(self.ids);
        let mut events = events::by_seq(self.connection, &items).await?;
        events.reverse();
        Ok(PageOf { items: events, next_cursor })
    }

    /// Adds those events whose bodies have `text` in them, until the page ends.
    async fn search(
        &self,
        collector: &mut Collector<EventSeq>,
        mut heads: &[(DeliveryKey, usize)],
        text: &str,
    ) -> Result<(), Failure> {
        while !heads.is_empty() {
            let mut bytes = 0;
            let count = heads.iter().take_while(|(_, body)| {
                let is_first = bytes == 0;
                bytes += body.max(&1);
                is_first || bytes <= SEARCH_STEP_BYTES
            });
            let (some, rest) = heads.split_at(count.count());
            let seqs: Vec<i64> = some.iter().map(|(place, _)| place.event.0).collect();
            let rows = self
                .connection
                .query(
                    "SELECT seq FROM event WHERE seq = ANY($1) AND position($2 IN body) > 0",
                    &[&seqs, &text.as_bytes()],
                )
                .await?;
            let found: HashSet<EventSeq> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
            for (place, bytes) in some {
                collector.see_rows(0, *place);
                collector.search(*bytes);
                if found.contains(&place.event) {
                    collector.add(*place, place.event, *bytes);
                }
                if !collector.goes_on() {
                    return Ok(());
                }
            }
            heads = rest;
        }
        Ok(())
    }

    pub(super) async fn deliveries(
        &self,
        tenant: TenantSeq,
        filter: &DeliveryFilter,
        page: &Page,
    ) -> Result<PageOf<StoredDelivery>, Failure> {
        let nothing = PageOf { items: Vec::new(), next_cursor: None };
        let webhook = match filter.webhook {
            None => None,
            Some(uuid) => match self.find_webhook(tenant, uuid).await? {
                Some(webhook) => Some(webhook),
                None => return Ok(nothing),
            },
        };
        let event = match &filter.event {
            None => None,
            Some(id) => match events::find(self.connection, self.id_hash, tenant, id).await? {
                Some(event) => Some(event),
                None => return Ok(nothing),
            },
        };
        self.page(&DeliveryScan { tenant, filter, webhook, event, topic: filter.topic.as_ref().map(regex) }, page).await
    }

    /// Finds deleted webhooks, too, since their deliveries can still be listed.
    async fn find_webhook(&self, tenant: TenantSeq, uuid: Uuid) -> Result<Option<WebhookSeq>, Failure> {
        let sql = "SELECT seq FROM webhook WHERE uuid = $1 AND tenant = $2";
        let row = self.connection.query_opt(sql, &[&uuid, &tenant]).await?;
        Ok(row.map(|row| row.try_get(0)).transpose()?)
    }
}

/// Events, each with the bytes of its body.
struct EventScan<'a> {
    tenant: TenantSeq,
    filter: &'a EventFilter,
    topic: Option<String>,
}

impl Scan for EventScan<'_> {
    type Item = usize;

    /// Served by the primary key of `event`. Reads no body.
    async fn portion(
        &self,
        connection: &Connection,
        place: DeliveryKey,
        rows: u32,
        items: u32,
    ) -> Result<PageRows<usize>, Failure> {
        let EventFilter { since, until, .. } = self.filter;
        let kind = self.filter.kind.as_deref().map(str::as_bytes);
        let rows = connection
            .query(
                "WITH seen AS MATERIALIZED (
                     SELECT seq, tenant, topic, type, accepted_at, octet_length(body) AS bytes
                     FROM event
                     WHERE seq < $1
                     ORDER BY seq DESC
                     LIMIT $2
                 ), wanted AS (
                     SELECT seq, bytes
                     FROM seen
                     WHERE tenant = $4
                         AND ($5::bytea IS NULL OR type = $5)
                         AND ($6::bigint IS NULL OR accepted_at >= $6)
                         AND ($7::bigint IS NULL OR accepted_at < $7)
                         AND ($8::text IS NULL OR topic ~ $8)
                     ORDER BY seq DESC
                     LIMIT $3
                 )
                 SELECT ends.seq, 0::bigint, ends.rows, wanted.seq, 0::bigint, wanted.bytes
                 FROM (SELECT min(seq) AS seq, count(*) AS rows FROM seen) AS ends LEFT JOIN wanted ON true
                 ORDER BY wanted.seq DESC",
                &[&place.event, &i64::from(rows), &i64::from(items), &self.tenant, &kind, since, until, &self.topic],
            )
            .await?;
        PageRows::read(&rows, |row, _| Ok(fit(row.try_get::<_, i32>(5)?, usize::MAX)))
    }
}

struct DeliveryScan<'a> {
    tenant: TenantSeq,
    filter: &'a DeliveryFilter,
    webhook: Option<WebhookSeq>,
    /// Limits the listing to the deliveries of one event.
    event: Option<EventSeq>,
    topic: Option<String>,
}

/// Served by the primary keys of `pending` and `delivery`, or for the states with an index by `delivery_ended`.
/// Discarded is none of these states, since it includes pending deliveries of deleted webhooks.
const SELECT_DELIVERIES: &str = "WITH seen AS MATERIALIZED (
         (
             SELECT event_seq, webhook_seq, 4::smallint AS state, reason, attempts, status_code, next_at,
                 updated_at
             FROM pending
             WHERE event_seq <= $1::bigint AND (event_seq, webhook_seq) < ($1, $2::bigint)
                 AND ($5::bigint IS NULL OR event_seq = $5)
                 AND ($6::smallint IS NULL OR $6 = 4)
             ORDER BY event_seq DESC, webhook_seq DESC
             LIMIT $3
         ) UNION ALL (
             SELECT event_seq, webhook_seq, state, reason, attempts, status_code, NULL, updated_at
             FROM delivery
             WHERE event_seq <= $1::bigint AND (event_seq, webhook_seq) < ($1, $2::bigint)
                 AND ($5::bigint IS NULL OR event_seq = $5)
                 AND ($6::smallint IS NULL OR (state = $6 AND state BETWEEN 1 AND 3))
             ORDER BY event_seq DESC, webhook_seq DESC
             LIMIT $3
         )
         ORDER BY event_seq DESC, webhook_seq DESC
         LIMIT $3
     ), wanted AS (
         SELECT seen.event_seq, seen.webhook_seq, webhook.uuid, webhook.name, webhook.deleted_at, event.id,
             event.topic, event.type, event.accepted_at, seen.state, seen.reason, seen.attempts,
             seen.status_code, seen.next_at, seen.updated_at
         FROM seen
             CROSS JOIN LATERAL (SELECT * FROM webhook WHERE seq = seen.webhook_seq OFFSET 0) AS webhook
             CROSS JOIN LATERAL (
                 SELECT tenant, id, topic, type, accepted_at FROM event WHERE seq = seen.event_seq OFFSET 0
             ) AS event
         WHERE ($7::bigint IS NULL OR seen.webhook_seq = $7)
             AND ($8::smallint IS NULL
                 OR $8 = CASE WHEN seen.state = 4 AND webhook.deleted_at IS NOT NULL THEN 3 ELSE seen.state END)
             AND event.tenant = $9
             AND ($10::bigint IS NULL OR event.accepted_at >= $10)
             AND ($11::bigint IS NULL OR event.accepted_at < $11)
             AND ($12::text IS NULL OR event.topic ~ $12)
         ORDER BY seen.event_seq DESC, seen.webhook_seq DESC
         LIMIT $4
     )
     SELECT ends.event_seq, ends.webhook_seq, ends.rows, wanted.*
     FROM (
             SELECT event_seq, webhook_seq, count(*) OVER () AS rows
             FROM seen ORDER BY event_seq, webhook_seq LIMIT 1
         ) AS ends LEFT JOIN wanted ON true
     ORDER BY wanted.event_seq DESC, wanted.webhook_seq DESC";

impl Scan for DeliveryScan<'_> {
    type Item = StoredDelivery;

    async fn portion(
        &self,
        connection: &Connection,
        place: DeliveryKey,
        rows: u32,
        items: u32,
    ) -> Result<PageRows<StoredDelivery>, Failure> {
        let DeliveryFilter { state, since, until, .. } = self.filter;
        let apart = state.filter(|state| !matches!(state, DeliveryState::Delivered | DeliveryState::Discarded));
        let rows = connection
            .query(
                SELECT_DELIVERIES,
                &[
                    &place.event,
                    &place.webhook,
                    &i64::from(rows),
                    &i64::from(items),
                    &self.event,
                    &apart,
                    &self.webhook,
                    state,
                    &self.tenant,
                    since,
                    until,
                    &self.topic,
                ],
            )
            .await?;
        PageRows::read(&rows, |row, key| stored_delivery(row, key, 5))
    }
}

impl<T> PageRows<T> {
    /// Reads rows of: the last place looked at (two columns), how many were looked at, a wanted place (two columns, or
    /// nothing), and what `item` reads.
    pub(super) fn read(
        rows: &[Row],
        mut item: impl FnMut(&Row, DeliveryKey) -> Result<T, Failure>,
    ) -> Result<Self, Failure> {
        let mut portion = Self { items: Vec::with_capacity(rows.len()), rows: 0, last: None };
        for row in rows {
            let Some(event) = row.try_get(0)? else { continue };
            portion.last = Some(DeliveryKey { event, webhook: row.try_get(1)? });
            portion.rows = fit(row.try_get::<_, i64>(2)?, u32::MAX);
            if let Some(event) = row.try_get(3)? {
                let place = DeliveryKey { event, webhook: row.try_get(4)? };
                portion.items.push((place, item(row, place)?));
            }
        }
        Ok(portion)
    }
}

/// A regular expression of the database that matches the same topics as `pattern`. Topics have no empty token.
pub(super) fn regex(pattern: &Pattern) -> String {
    let tokens = pattern.as_str().split('.').map(|token| match token {
        ">" => ".+".to_owned(),
        "*" => "[^.]+".to_owned(),
        literal => {
            literal.chars().flat_map(|c| (!c.is_ascii_alphanumeric()).then_some('\\').into_iter().chain([c])).collect()
        }
    });
    format!("^{}$", tokens.collect::<Vec<_>>().join("\\."))
}

#[cfg(test)]
mod tests;
