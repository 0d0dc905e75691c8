//! `postrider delivery`: what became of each event at each webhook.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Map, Value};

use super::UsageError;
use super::answer::Answer;
use super::exchange::{self, Parts};
use super::listing::{Page, Query, Range, more, table};
use super::output::{self, Output, QUIET, STRONG};
use super::remote::{Connection, Remote};
use super::replay;

/// The longest part of an answer's first line in the table of attempts.
const RESPONSE_CHARS: usize = 80;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: postrider delivery list --state dead")]
pub(super) struct Args {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List deliveries, newest event first
    #[command(after_help = "Example: postrider delivery list --webhook siem --state pending")]
    List(List),
    /// Show a delivery and its attempts: where their time went, what was sent, what came back
    #[command(after_help = "Examples:\n  postrider delivery show 6d2c…\n  \
        postrider delivery show 6d2c… --request --response\n  postrider delivery show 6d2c… --attempt 2 --curl")]
    Show(Show),
    /// Deliver one or many again: ended ones on a fresh schedule, waiting ones now
    #[command(after_help = "Examples:\n  postrider delivery retry 6d2c…\n  \
        postrider delivery retry --all --webhook siem --since 1d")]
    Retry(OneOrAll),
    /// Give one or many pending or dead deliveries up
    #[command(after_help = "Examples:\n  postrider delivery discard 6d2c… --reason 'receiver is gone'\n  \
        postrider delivery discard --all --webhook siem --state pending --reason 'receiver is gone'")]
    Discard {
        #[command(flatten)]
        deliveries: OneOrAll,
        /// Say why; shown with the delivery
        #[arg(long, value_name = "TEXT", required_if_eq("all", "true"))]
        reason: Option<String>,
    },
}

/// A delivery, or all that meet conditions.
#[derive(Debug, clap::Args)]
struct OneOrAll {
    /// The delivery's id
    #[arg(value_name = "DELIVERY", required_unless_present = "all")]
    #[arg(conflicts_with_all = ["all", "webhook", "states", "topic", "since", "until", "rate", "follow"])]
    id: Option<String>,
    /// All that meet the conditions below, by a job
    #[arg(long)]
    all: bool,
    /// Only to this webhook: its name or UUID
    #[arg(long)]
    webhook: Option<String>,
    #[command(flatten)]
    job: replay::Job,
}

#[derive(Debug, clap::Args)]
struct Show {
    /// The delivery's id
    #[arg(value_name = "DELIVERY")]
    id: String,
    /// Of this attempt [default: the last]
    #[arg(long, value_name = "NUMBER")]
    attempt: Option<u32>,
    #[command(flatten)]
    parts: Parts,
}

#[derive(Debug, clap::Args)]
struct List {
    /// Only to this webhook: its name or UUID
    #[arg(long)]
    webhook: Option<String>,
    /// Only of this event: its id
    #[arg(long)]
    event: Option<String>,
    /// Only in this state
    #[arg(long, value_parser = ["pending", "delivered", "dead", "skipped", "discarded"])]
    state: Option<String>,
    /// Only topics that match
    #[arg(long, value_name = "PATTERN")]
    topic: Option<String>,
    #[command(flatten)]
    range: Range,
    #[command(flatten)]
    page: Page,
}

pub(super) async fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let remote = args.connection.open()?;
    match args.command {
        Command::List(args) => list(&remote, args, output).await,
        Command::Show(args) => show(&remote, &args, output).await,
        Command::Retry(deliveries) => act(&remote, "retry", deliveries, Map::new(), output).await,
        Command::Discard { deliveries, reason } => {
            let body = reason.map(|reason| ("reason".to_owned(), reason.into())).into_iter().collect();
            act(&remote, "discard", deliveries, body, output).await
        }
    }
}

async fn act(
    remote: &Remote,
    action: &str,
    deliveries: OneOrAll,
    mut body: Map<String, Value>,
    output: Output,
) -> anyhow::Result<ExitCode> {
    if let Some(id) = deliveries.id {
        let answer = remote.post(&["deliveries", &id, action], &Value::Object(body)).await?;
        return changed(&answer, output);
    }
    if let Some(webhook) = deliveries.webhook {
        body.insert("webhook".to_owned(), remote.webhook(&webhook).await?.into());
    }
    replay::start(remote, &["deliveries", action], body, deliveries.job, output).await
}

fn changed(answer: &Answer, output: Output) -> anyhow::Result<ExitCode> {
    if !output.answer(answer)? {
        let delivery = &answer.value;
        let state = output.state(&output::text(delivery, "state"));
        output.line(format_args!("{}  {state}", output::text(delivery, "id")))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(remote: &Remote, args: List, output: Output) -> anyhow::Result<ExitCode> {
    let mut query = Query::new();
    if let Some(webhook) = args.webhook {
        query.push(("webhook", remote.webhook(&webhook).await?));
    }
    let filters = [("event", args.event), ("state", args.state), ("topic", args.topic)];
    query.extend(filters.into_iter().filter_map(|(name, value)| Some((name, value?))));
    args.range.add_to(&mut query);
    args.page.add_to(&mut query);
    let answer = remote.page("deliveries", &query).await?;
    if output.answer(&answer)? {
        return Ok(ExitCode::SUCCESS);
    }
    let items = answer.value["items"].as_array().map_or(&[][..], Vec::as_slice);
    if items.is_empty() {
        output.note("no deliveries match");
        return Ok(ExitCode::SUCCESS);
    }
    table(items, output)?;
    more(&answer.value, output);
    Ok(ExitCode::SUCCESS)
}

async fn show(remote: &Remote, args: &Show, output: Output) -> anyhow::Result<ExitCode> {
    let Show { id, attempt, parts } = args;
    let is_one_wanted = attempt.is_some() || parts.is_any();
    let delivery = remote.get(&["deliveries", id], &[]).await?;
    if !is_one_wanted {
        if !output.answer(&delivery)? {
            show_delivery(&delivery.value, output)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let last = || delivery.value["attempt_log"].as_array().and_then(|log| log.last()?["number"].as_u64());
    let Some(number) = attempt.map(u64::from).or_else(last) else {
        return Err(UsageError("no attempt was made yet".to_owned()).into());
    };
    let answer = remote.get(&["deliveries", id, "attempts", &number.to_string()], &[]).await?;
    if output.answer(&answer)? {
        return Ok(ExitCode::SUCCESS);
    }
    if parts.is_any() {
        parts.show(&answer.value, output)?;
    } else {
        show_attempt(&answer.value, output)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show_attempt(attempt: &Value, output: Output) -> anyhow::Result<()> {
    let connection = &attempt["connection"];
    let kind = if connection["reused"] == true { "reused" } else { "new" };
    let connection = match connection["address"].as_str() {
        _ if connection.is_null() => "-".to_owned(),
        Some(address) => format!("{kind}, to {address}"),
        None => kind.to_owned(),
    };
    output.fields(&[
        ("attempt", output::text(attempt, "number")),
        ("started", output::moment(attempt, "started_at")),
        ("took", attempt["duration_ms"].as_f64().map(output::milliseconds).unwrap_or_default()),
        ("result", exchange::result(attempt, output)),
        ("times", exchange::phases(&attempt["timings"])),
        ("connection", connection),
        ("differs", or_dash(differences(attempt))),
        ("answer", or_dash(answer_line(attempt))),
    ])?;
    output.note("\n--request, --response and --curl show the exchange");
    Ok(())
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

/// What is otherwise than in the attempt before.
fn differences(attempt: &Value) -> String {
    let differs = attempt["differs"].as_array().map_or(&[][..], Vec::as_slice);
    differs.iter().filter_map(Value::as_str).map(output::visible).collect::<Vec<_>>().join(", ")
}

/// The first line of the answer's body.
fn answer_line(attempt: &Value) -> String {
    let line = attempt["response"].as_str().and_then(|text| text.lines().next()).unwrap_or_default();
    output::visible(&line.chars().take(RESPONSE_CHARS).collect::<String>())
}

fn show_delivery(delivery: &Value, output: Output) -> anyhow::Result<()> {
    let webhook = format!("{}  {}", output::text(delivery, "webhook_name"), output::text(delivery, "webhook_uuid"));
    output.fields(&[
        ("id", output::text(delivery, "id")),
        ("state", output.state(&output::text(delivery, "state"))),
        ("reason", output::text(delivery, "reason")),
        ("webhook", webhook),
        ("event", output::text(delivery, "event_id")),
        ("topic", output.paint(STRONG, output::text(delivery, "topic"))),
        ("type", output::text(delivery, "type")),
        ("accepted", output::moment(delivery, "accepted_at")),
        ("updated", output::moment(delivery, "updated_at")),
        ("next attempt", output::moment(delivery, "next_attempt_at")),
        ("waiting for", output::text(delivery, "waiting_for")),
        ("waiting until", output::moment(delivery, "waiting_until")),
        ("waiting behind", output::text(delivery, "waiting_behind")),
    ])?;
    let attempts = delivery["attempt_log"].as_array().map_or(&[][..], Vec::as_slice);
    if attempts.is_empty() {
        output.note("\nno attempt yet");
        return Ok(());
    }
    output.line("")?;
    let timings: Vec<_> = attempts.iter().map(|attempt| &attempt["timings"]).collect();
    let scale_ms = timings.iter().map(|timings| exchange::phases_ms(timings)).fold(0.0, f64::max);
    let rows = attempts.iter().map(|attempt| {
        vec![
            output::text(attempt, "number"),
            output.paint(QUIET, output::moment(attempt, "started_at")),
            attempt["duration_ms"].as_f64().map(output::milliseconds).unwrap_or_default(),
            exchange::waterfall(&attempt["timings"], scale_ms),
            exchange::result(attempt, output),
        ]
    });
    output.table(&["attempt", "started (utc)", "took", "where it went", "result"], rows.collect())?;
    let legend = exchange::legend(&timings);
    if !legend.is_empty() {
        output.note(
            output.paint_note(QUIET, format_args!("{legend}  (the widest is {})", output::milliseconds(scale_ms))),
        );
    }
    let mut is_first = true;
    for attempt in attempts {
        let differs = differences(attempt);
        if !differs.is_empty() {
            if std::mem::take(&mut is_first) {
                output.line("")?;
            }
            output.line(format_args!("attempt {} differs: {differs}", output::text(attempt, "number")))?;
        }
    }
    if let Some(answer) = attempts.last().map(answer_line).filter(|line| !line.is_empty()) {
        output.line(format_args!("\nlast answer: {answer}"))?;
    }
    Ok(())
}
