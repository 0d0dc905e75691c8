//! Shared by the commands that list: the part that is asked for, the beginning of the next page, and the table of deliveries.

use serde_json::Value;

use super::output::{self, Output, QUIET, STRONG};
use crate::clock::{Clock, SystemClock, UnixMicros};
use crate::config::Span;
use crate::fit::fit;

/// From when to when: acceptance of events, or acts.
#[derive(Debug, clap::Args)]
pub(super) struct Range {
    /// Only since then: RFC 3339, seconds since 1970, or how long ago, as in 1h
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only before then: RFC 3339, seconds since 1970, or how long ago, as in 1h
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

/// Which part of a listing.
#[derive(Debug, clap::Args)]
pub(super) struct Page {
    /// At most this many
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: u32,
    /// Go on from here
    #[arg(long)]
    cursor: Option<String>,
}

/// The parameters of a query: those that were given.
pub(super) type Query = Vec<(&'static str, String)>;

impl Range {
    pub(super) fn add_to(self, query: &mut Query) {
        for (name, time) in [("since", self.since), ("until", self.until)] {
            query.extend(time.map(|time| (name, ago(time))));
        }
    }
}

impl Page {
    pub(super) fn add_to(self, query: &mut Query) {
        query.push(("limit", self.limit.to_string()));
        query.extend(self.cursor.map(|cursor| ("cursor", cursor)));
    }
}

/// Turns `1h` into the moment an hour ago; other texts stay unchanged.
pub(super) fn ago(time: String) -> String {
    match time.parse::<Span>() {
        Ok(Span(span)) => {
            let span_us = fit(span.as_micros(), i64::MAX);
            UnixMicros(SystemClock.now().0.saturating_sub(span_us)).to_string()
        }
        Err(_) => time,
    }
}

/// Prints how to get the next page, if there is one.
pub(super) fn more(page: &Value, output: Output) {
    if let Some(cursor) = page["next_cursor"].as_str() {
        output.note(format_args!("\n{}", output.paint_note(QUIET, format_args!("older ones: --cursor {cursor}"))));
    }
}

/// Deliveries, one a line.
pub(super) fn table(deliveries: &[Value], output: Output) -> anyhow::Result<()> {
    let rows = deliveries.iter().map(|delivery| {
        vec![
            output.paint(QUIET, output::moment(delivery, "accepted_at")),
            output.state(&output::text(delivery, "state")),
            output.paint(STRONG, output::text(delivery, "topic")),
            output::text(delivery, "webhook_name"),
            output::text(delivery, "attempts"),
            output::text(delivery, "reason"),
            output.paint(QUIET, output::text(delivery, "id")),
        ]
    });
    output.table(&["accepted (utc)", "state", "topic", "webhook", "attempts", "reason", "id"], rows.collect())?;
    Ok(())
}
