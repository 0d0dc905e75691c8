//! `postrider stats`: what happened over time, in lines of blocks.

mod spark;

use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use self::spark::{compact, gathered, line, rate};
use super::answer::Answer;
use super::listing::ago;
use super::output::{self, BAD, GOOD, Output, QUIET, STRONG, WARN};
use super::remote::{Connection, Remote};
use super::signals::stop_signal;
use crate::clock::{Clock, SystemClock, UnixMicros};

/// The pause between two looks.
const WATCH_EVERY: Duration = Duration::from_secs(5);
/// The widths of a label, of a number, and of a rate or a duration.
const LABEL: usize = 11;
const NUMBER: usize = 8;
const RATE: usize = 11;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    postrider stats\n  \
    postrider stats --webhook siem --since 24h\n  \
    postrider stats --watch\n  \
    postrider stats --since 7d --step hour --json | jq '.points[] | [.at, .dead]'\n\n\
    Figures come up to ten seconds after what they count.")]
pub(super) struct Args {
    #[command(flatten)]
    connection: Connection,
    /// Of this webhook alone, by name or UUID
    #[arg(long, value_name = "NAME")]
    webhook: Option<String>,
    /// Of all tenants together; for operators
    #[arg(long, conflicts_with = "webhook")]
    all_tenants: bool,
    /// Since then: RFC 3339, seconds since 1970, or how long ago, as in 24h
    #[arg(long, value_name = "TIME", default_value = "1h")]
    since: String,
    /// Until then
    #[arg(long, value_name = "TIME", conflicts_with = "watch")]
    until: Option<String>,
    /// By minute, hour or day [default: by the length of the time]
    #[arg(long, value_parser = ["minute", "hour", "day"])]
    step: Option<String>,
    /// Look again every five seconds until Ctrl-C
    #[arg(long)]
    watch: bool,
}

pub(super) async fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let stop = stop_signal()?;
    let asked = Asked {
        webhook: args.webhook,
        all_tenants: args.all_tenants,
        since: args.since,
        until: args.until,
        step: args.step,
    };
    let remote = args.connection.open()?;
    let uuid = match &asked.webhook {
        Some(name) => Some(remote.webhook(name).await?),
        None => None,
    };
    show(&asked, &asked.ask(&remote, uuid.as_deref()).await?, output, false)?;
    if !args.watch {
        return Ok(ExitCode::SUCCESS);
    }
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => return Ok(ExitCode::SUCCESS),
            () = tokio::time::sleep(WATCH_EVERY) => {}
        }
        match asked.ask(&remote, uuid.as_deref()).await {
            Ok(answer) => show(&asked, &answer, output, true)?,
            Err(error) => output.note(output::visible_lines(&format!("{error:#}"))),
        }
    }
}

/// What to show.
struct Asked {
    webhook: Option<String>,
    all_tenants: bool,
    since: String,
    until: Option<String>,
    step: Option<String>,
}

impl Asked {
    async fn ask(&self, remote: &Remote, webhook: Option<&str>) -> anyhow::Result<Answer> {
        let mut query = vec![("from", ago(self.since.clone()))];
        query.extend(self.until.clone().map(|until| ("to", ago(until))));
        query.extend(self.step.clone().map(|step| ("step", step)));
        query.extend(webhook.map(|uuid| ("webhook", uuid.to_owned())));
        query.extend(self.all_tenants.then(|| ("tenant", "*".to_owned())));
        remote.get(&["figures"], &query).await
    }

    fn title(&self, series: &Value) -> String {
        let of = match &self.webhook {
            Some(name) => output::visible(name),
            None if self.all_tenants => "all tenants".to_owned(),
            None => "all webhooks".to_owned(),
        };
        let (from, to) = (output::moment(series, "from"), output::moment(series, "to"));
        // To the minute, and the day once if it is the same.
        let short = |moment: &str| moment.get(..16).unwrap_or(moment).to_owned();
        let (from, to) = (short(&from), short(&to));
        let to = match (from.split_once(' '), to.split_once(' ')) {
            (Some((day, _)), Some((same, time))) if day == same => time.to_owned(),
            _ => to,
        };
        format!("{of}, {from} to {to} utc, by {}", output::text(series, "step"))
    }
}

fn show(asked: &Asked, answer: &Answer, output: Output, is_again: bool) -> anyhow::Result<()> {
    if output.answer(answer)? {
        return Ok(());
    }
    if is_again {
        output.redraw()?;
    }
    let series = &answer.value;
    output.line(output.paint(STRONG, asked.title(series)))?;
    output.line("")?;
    let points = series["points"].as_array().map_or(&[][..], Vec::as_slice);
    let seconds = seconds(series, SystemClock.now());
    for (name, style) in [("accepted", QUIET), ("delivered", GOOD), ("failed", WARN), ("dead", BAD), ("skipped", QUIET)]
    {
        let count = series["total"][name].as_u64().unwrap_or_default();
        let counts = points.iter().map(|point| point[name].as_u64().unwrap_or_default());
        let blocks = line(&gathered(&counts.map(float).collect::<Vec<_>>(), |sum, more| sum + more));
        let rate = rate(float(count) / seconds);
        let numbers = format!("{name:<LABEL$}{:>NUMBER$}{rate:>RATE$}  ", compact(count));
        output.line(format!("{numbers}{}", output.paint(style, blocks)))?;
    }
    output.line("")?;
    output.line(format!("{:<LABEL$}{:>NUMBER$}", "success", success(&series["total"])))?;
    for name in ["attempts", "deliveries"] {
        for (label, quantile) in [("p50", "p50_ms"), ("p99", "p99_ms")] {
            let total = series["total"][name][quantile].as_f64();
            let total = total.map_or_else(|| "-".to_owned(), output::milliseconds);
            let each = points.iter().map(|point| point[name][quantile].as_f64().unwrap_or_default());
            let blocks = line(&gathered(&each.collect::<Vec<_>>(), f64::max));
            let name = if label == "p50" { name } else { "" };
            let numbers = format!("{name:<LABEL$}{label:>NUMBER$}{total:>RATE$}  ");
            output.line(format!("{numbers}{}", output.paint(QUIET, blocks)))?;
        }
    }
    Ok(())
}

/// How much of the span has passed, in seconds.
fn seconds(series: &Value, now: UnixMicros) -> f64 {
    let moment = |field: &str| series[field].as_str().and_then(|text| text.parse::<UnixMicros>().ok());
    let (from, to) = (moment("from").unwrap_or(now), moment("to").unwrap_or(now).min(now));
    to.since(from).as_secs_f64().max(1.0)
}

/// Of the deliveries that ended, those that arrived.
fn success(total: &Value) -> String {
    let (delivered, dead) =
        (total["delivered"].as_u64().unwrap_or_default(), total["dead"].as_u64().unwrap_or_default());
    match delivered + dead {
        0 => "-".to_owned(),
        // What is not whole is never shown as a hundred.
        ended if dead > 0 => {
            format!("{:.2} %", (float(delivered) / float(ended) * 1e4).floor() / 1e2)
        }
        _ => "100 %".to_owned(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "it is shown with few digits")]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_success_is_never_rounded_to_a_hundred() {
        let of = |delivered: u64, dead: u64| success(&json!({"delivered": delivered, "dead": dead}));
        assert_eq!((of(0, 0), of(5, 0), of(0, 5)), ("-".to_owned(), "100 %".to_owned(), "0.00 %".to_owned()));
        assert_eq!((of(999_999, 1), of(1, 1)), ("99.99 %".to_owned(), "50.00 %".to_owned()));
    }

    #[test]
    fn a_title_says_of_whom_and_when() {
        let asked = |webhook: Option<&str>, all_tenants| Asked {
            webhook: webhook.map(str::to_owned),
            all_tenants,
            since: "1h".to_owned(),
            until: None,
            step: None,
        };
        let series =
            json!({"from": "2026-11-30T18:00:00.000000Z", "to": "2026-11-30T19:00:00.000000Z", "step": "minute"});
        let title = asked(Some("a\x1b[2Jb"), false).title(&series);
        assert_eq!(title, "a\\u{1b}[2Jb, 2026-11-30 18:00 to 19:00 utc, by minute");
        let series =
            json!({"from": "2026-11-30T18:00:00.000000Z", "to": "2026-12-01T19:00:00.000000Z", "step": "hour"});
        let title = asked(None, true).title(&series);
        assert_eq!(title, "all tenants, 2026-11-30 18:00 to 2026-12-01 19:00 utc, by hour");
        assert!(asked(None, false).title(&series).starts_with("all webhooks, "));
        let now: UnixMicros = "2026-11-30T18:00:30Z".parse().unwrap();
        assert!((seconds(&series, now) - 30.0).abs() < 1e-9, "what has not passed does not count");
    }
}
