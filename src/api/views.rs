//! Shapes that several answers share.

use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::clock::UnixMicros;
use crate::store::PageOf;

/// A moment, RFC 3339 in UTC.
#[derive(Clone, Copy, Debug, ToSchema)]
#[schema(value_type = String, format = DateTime, example = "2026-11-23T18:00:00.000000Z")]
pub(super) struct Time(pub(super) UnixMicros);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// An answer to what leaves nothing to show.
#[derive(Serialize, ToSchema)]
pub(super) struct Message {
    /// What was done, for people.
    #[schema(example = "Webhook deleted")]
    pub(super) message: &'static str,
}

/// A list in pages, or its first items as a bare array.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum ListOrPage<T> {
    List(Vec<T>),
    Page(PageOfItems<T>),
}

/// A page of a list.
#[derive(Serialize, ToSchema)]
pub(super) struct PageOfItems<T> {
    items: Vec<T>,
    /// To be sent as `cursor` for the next page; `null`: this is the last one.
    #[schema(required)]
    next_cursor: Option<String>,
}

impl<T> PageOfItems<T> {
    pub(super) fn new<R>(page: PageOf<R>, shown: impl FnMut(R) -> T) -> Self {
        Self { items: page.items.into_iter().map(shown).collect(), next_cursor: page.next_cursor }
    }
}

impl<T> ListOrPage<T> {
    /// `is_page`: the caller asked for a page.
    pub(super) fn new<R>(is_page: bool, page: PageOf<R>, shown: impl FnMut(R) -> T) -> Self {
        let page = PageOfItems::new(page, shown);
        if is_page { Self::Page(page) } else { Self::List(page.items) }
    }
}

/// Milliseconds with microseconds behind the point.
pub(super) fn millis(duration: std::time::Duration) -> f64 {
    let micros = u32::try_from(duration.as_micros()).unwrap_or(u32::MAX);
    f64::from(micros) / 1e3
}
