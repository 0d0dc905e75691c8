//! `postrider delivery`: what became of each event at each webhook.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Map, Value};

use super::answer::Answer;
use super::listing::{Page, Query, Range, more, table};
use super::output::{self, BAD, GOOD, Output, QUIET, STRONG};
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
    /// Show a delivery and its attempts
    #[command(after_help = "Example: postrider delivery show 6d2c…")]
    Show(Named),
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
struct Named {
    /// The delivery's id
    #[arg(value_name = "DELIVERY")]
    id: String,
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
        Command::Show(Named { id }) => {
            let answer = remote.get(&["deliveries", &id], &[]).await?;
            if !output.answer(&answer)? {
                show(&answer.value, output)?;
            }
            Ok(ExitCode::SUCCESS)
        }
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

fn show(delivery: &Value, output: Output) -> anyhow::Result<()> {
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
    let rows = attempts.iter().map(|attempt| {
        let result = match attempt["error"].as_str() {
            None => output.paint(GOOD, format_args!("{}", output::text(attempt, "status_code"))),
            Some(error) => output.paint(BAD, error),
        };
        let response = attempt["response"].as_str().and_then(|text| text.lines().next()).unwrap_or("-");
        vec![
            output::text(attempt, "number"),
            output.paint(QUIET, output::moment(attempt, "started_at")),
            attempt["duration_ms"].as_f64().map(output::milliseconds).unwrap_or_default(),
            result,
            output::visible(&response.chars().take(RESPONSE_CHARS).collect::<String>()),
        ]
    });
    output.table(&["attempt", "started (utc)", "took", "result", "response"], rows.collect())?;
    Ok(())
}
