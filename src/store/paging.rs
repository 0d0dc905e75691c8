//! Pages of a listing: cursors, and when a page ends. A page has a bounded number of items and costs no more than its
//! bounds, whatever its filter.

use uuid::Uuid;

use super::failure::Failure;
use super::sql::{Fields, Select, Value};
use super::{
    DeliveryIds, DeliveryKey, EventSeq, MAX_BODY_BYTES_PER_PAGE, MAX_PAGE_ITEMS, MAX_ROWS_PER_PAGE,
    MAX_SEARCHED_BYTES_PER_PAGE, StoreError,
};
use crate::webhook::{TenantSeq, WebhookSeq};

#[derive(Clone, Debug)]
pub struct Page {
    /// 1 to [`MAX_PAGE_ITEMS`].
    pub limit: u32,
    /// The cursor of the page before; an unreadable one is a [`StoreError::Cursor`].
    pub cursor: Option<String>,
}

#[derive(Clone, Debug)]
pub struct PageOf<T> {
    pub items: Vec<T>,
    /// Set if there may be more. A page with few items or none can have one.
    pub next_cursor: Option<String>,
}

/// Before every delivery of every event.
pub(super) const NEWEST: DeliveryKey = DeliveryKey { event: EventSeq(i64::MAX), webhook: WebhookSeq(i64::MAX) };
/// Sorts before all webhooks, hence a place after every delivery of an event.
pub(super) const NO_WEBHOOK: WebhookSeq = WebhookSeq(0);
/// A cursor is the place of the last row seen, encoded as a delivery id, so that it shows no numbers. A made-up cursor
/// decodes to a number up to 2^61, rarely within these bounds.
const CURSOR_BOUNDS: DeliveryKey = DeliveryKey { event: EventSeq(1 << 44), webhook: WebhookSeq(1 << 32) };

/// The limits of the cost of a page, whatever its filter.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    /// Rows looked at; at least 2, an event and a delivery of it.
    pub(super) rows: u32,
    /// Of bodies on the page.
    pub(super) kept_bytes: usize,
    /// Of bodies searched for a text.
    pub(super) searched_bytes: usize,
}

impl Bounds {
    pub(super) const OF_A_PAGE: Self = Self {
        rows: MAX_ROWS_PER_PAGE,
        kept_bytes: MAX_BODY_BYTES_PER_PAGE,
        searched_bytes: MAX_SEARCHED_BYTES_PER_PAGE,
    };
}

/// Collects a page: at most `limit` items, within its bounds.
pub(super) struct Collector<T> {
    items: Vec<(DeliveryKey, T)>,
    limit: usize,
    /// The remaining bounds.
    bounds: Bounds,
    last_seen: DeliveryKey,
    /// A further item had no room on the page.
    is_full: bool,
}

impl<T> Collector<T> {
    pub(super) fn new(page: &Page, bounds: Bounds) -> Self {
        let limit = page.limit.clamp(1, MAX_PAGE_ITEMS) as usize;
        Self { items: Vec::new(), limit, bounds, last_seen: NEWEST, is_full: false }
    }

    /// Counts a row that is looked at.
    pub(super) fn see(&mut self, place: DeliveryKey) {
        self.see_rows(1, place);
    }

    /// Counts rows that are looked at, up to the one at `last`.
    pub(super) fn see_rows(&mut self, rows: u32, last: DeliveryKey) {
        self.last_seen = last;
        self.bounds.rows = self.bounds.rows.saturating_sub(rows);
    }

    /// The number of rows that the page may still look at.
    pub(super) fn rows_left(&self) -> u32 {
        self.bounds.rows
    }

    /// The number of items that the page still has room for.
    pub(super) fn room(&self) -> u32 {
        u32::try_from(self.limit.saturating_sub(self.items.len())).unwrap_or(MAX_PAGE_ITEMS)
    }

    /// Counts a body that is searched.
    pub(super) fn search(&mut self, bytes: usize) {
        self.bounds.searched_bytes = self.bounds.searched_bytes.saturating_sub(bytes);
    }

    /// Adds an item with a body of `bytes`, if it fits. Otherwise there is another page.
    pub(super) fn add(&mut self, place: DeliveryKey, item: T, bytes: usize) {
        let fits = self.items.len() < self.limit && bytes <= self.bounds.kept_bytes;
        self.is_full = !fits && !self.items.is_empty();
        if !self.is_full {
            self.items.push((place, item));
            self.bounds.kept_bytes = self.bounds.kept_bytes.saturating_sub(bytes);
        }
    }

    /// `false`: the row just seen is the page's last.
    pub(super) fn goes_on(&self) -> bool {
        !self.is_full && !self.is_exhausted()
    }

    fn is_exhausted(&self) -> bool {
        self.bounds.rows == 0 || self.bounds.searched_bytes == 0
    }

    pub(super) fn finish(self, ids: &DeliveryIds) -> PageOf<T> {
        let cursor = if self.is_full {
            self.items.last().map(|(place, _)| *place)
        } else {
            self.is_exhausted().then_some(self.last_seen)
        };
        PageOf {
            items: self.items.into_iter().map(|(_, item)| item).collect(),
            next_cursor: cursor.map(|place| ids.encode(place).to_string()),
        }
    }
}

/// Makes a page of a listing whose cursors are UUIDs. `items` has one row beyond the limit if there is another page.
pub(super) fn page_by_uuid<T>(mut items: Vec<T>, page: &Page, uuid: impl Fn(&T) -> Uuid) -> PageOf<T> {
    let limit = page.limit.clamp(1, MAX_PAGE_ITEMS) as usize;
    let is_more = items.len() > limit;
    items.truncate(limit);
    let next_cursor = items.last().filter(|_| is_more).map(|item| uuid(item).to_string());
    PageOf { items, next_cursor }
}

/// The number after which such a page begins, and the number of rows to read for it. `one` reads the number of the record
/// with a UUID, of `tenant` where records have one.
pub(super) fn start_by_uuid(
    sql: &mut dyn Select,
    page: &Page,
    one: &'static str,
    tenant: Option<TenantSeq>,
) -> Result<(i64, i64), Failure> {
    let limit = i64::from(page.limit.clamp(1, MAX_PAGE_ITEMS)) + 1;
    let Some(cursor) = &page.cursor else { return Ok((0, limit)) };
    let uuid = Uuid::try_parse(cursor).map_err(|_| StoreError::Cursor)?;
    let values: Vec<Value> = std::iter::once(uuid.into()).chain(tenant.map(Value::from)).collect();
    let row = sql.query_row(one, &values)?.ok_or(StoreError::Cursor)?;
    Ok((Fields::of(row).next()?, limit))
}

/// The place that a page begins after.
pub(super) fn start(ids: &DeliveryIds, page: &Page) -> Result<DeliveryKey, StoreError> {
    let Some(cursor) = &page.cursor else { return Ok(NEWEST) };
    let place = Uuid::try_parse(cursor).ok().and_then(|id| ids.decode(id)).ok_or(StoreError::Cursor)?;
    let made_here = place.event < CURSOR_BOUNDS.event && place.webhook < CURSOR_BOUNDS.webhook;
    if made_here { Ok(place) } else { Err(StoreError::Cursor) }
}
