//! `postrider replay`: jobs that make many deliveries again or give them up.

use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::answer::Answer;
use super::listing::{Page, Query, Range, more};
use super::output::{self, BAD, GOOD, Output, QUIET, WARN};
use super::remote::{Connection, Remote};

/// The interval in which `--follow` asks for a job's progress.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);
/// The parts of a progress bar.
const PROGRESS_PARTS: u64 = 1_000;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: postrider replay start siem --since 1d --follow")]
pub(super) struct Args {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Deliver a webhook's events again, those that are dead if nothing else is said
    #[command(after_help = "Examples:\n  postrider replay start siem --since 1d\n  \
        postrider replay start siem --state delivered --since 2h --until 1h --follow\n  \
        postrider replay start siem --include-unmatched --topic 'attacker.>'")]
    Start(Start),
    /// List jobs, newest first
    #[command(after_help = "Example: postrider replay list --state running")]
    List(List),
    /// Show a job and how far it is
    #[command(after_help = "Example: postrider replay show 0b9d…")]
    Show(Named),
    /// Cancel a job; what it has changed stays changed
    #[command(after_help = "Example: postrider replay cancel 0b9d…")]
    Cancel(Named),
}

#[derive(Debug, clap::Args)]
struct Start {
    /// The webhook: its name or UUID
    webhook: String,
    /// Also events that are not owed to it and that it would match now: those from before it was made
    #[arg(long)]
    include_unmatched: bool,
    #[command(flatten)]
    job: Job,
}

/// What jobs of every kind are told.
#[derive(Debug, clap::Args)]
pub(super) struct Job {
    /// Deliveries in this state (repeatable) [default: dead]
    #[arg(long = "state", value_name = "STATE", value_parser = ["pending", "delivered", "dead", "skipped", "discarded"])]
    states: Vec<String>,
    /// Only topics that match
    #[arg(long, value_name = "PATTERN")]
    topic: Option<String>,
    #[command(flatten)]
    range: Range,
    /// At most this many deliveries a second [default: 1000]
    #[arg(long, value_name = "COUNT")]
    rate: Option<u32>,
    /// Wait for the job's end
    #[arg(long)]
    follow: bool,
}

#[derive(Debug, clap::Args)]
struct Named {
    /// The job's UUID
    #[arg(value_name = "JOB")]
    id: String,
}

#[derive(Debug, clap::Args)]
struct List {
    /// Only of this webhook: its name or UUID
    #[arg(long)]
    webhook: Option<String>,
    /// Only in this state
    #[arg(long, value_parser = ["queued", "running", "done", "cancelled", "failed"])]
    state: Option<String>,
    #[command(flatten)]
    page: Page,
}

pub(super) async fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let remote = args.connection.open()?;
    match args.command {
        Command::Start(args) => {
            let webhook = remote.webhook(&args.webhook).await?;
            let mut body = Map::new();
            if args.include_unmatched {
                body.insert("include_unmatched".to_owned(), true.into());
            }
            start(&remote, &["webhooks", &webhook, "replay"], body, args.job, output).await
        }
        Command::List(args) => list(&remote, args, output).await,
        Command::Show(Named { id }) => {
            let answer = remote.get(&["replays", &id], &[]).await?;
            shown(&answer, output)
        }
        Command::Cancel(Named { id }) => {
            let answer = remote.post(&["replays", &id, "cancel"], &json!({})).await?;
            shown(&answer, output)
        }
    }
}

/// Starts a job with the fields of `body` and `job`, and follows it with `--follow`.
pub(super) async fn start(
    remote: &Remote,
    path: &[&str],
    mut body: Map<String, Value>,
    job: Job,
    output: Output,
) -> anyhow::Result<ExitCode> {
    let mut range = Query::new();
    job.range.add_to(&mut range);
    body.extend(range.into_iter().map(|(name, time)| (name.to_owned(), time.into())));
    if !job.states.is_empty() {
        body.insert("states".to_owned(), job.states.into());
    }
    body.extend(job.topic.map(|topic| ("topic".to_owned(), topic.into())));
    body.extend(job.rate.map(|rate| ("rate_per_s".to_owned(), rate.into())));
    let mut answer = remote.post(path, &Value::Object(body)).await?;
    if job.follow {
        answer = follow(remote, answer, output).await?;
    }
    shown(&answer, output)
}

/// Polls until the job has ended.
async fn follow(remote: &Remote, mut answer: Answer, output: Output) -> anyhow::Result<Answer> {
    let progress = output.progress(Some(PROGRESS_PARTS), "parts");
    let id = output::text(&answer.value, "uuid");
    while matches!(answer.value["state"].as_str(), Some("queued" | "running")) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1,000")]
        let parts = (answer.value["progress"].as_f64().unwrap_or(0.0).clamp(0.0, 1.0) * 1_000.0) as u64;
        progress.set_position(parts);
        progress.set_message(format!("{} deliveries", output::text(&answer.value, "changed")));
        tokio::time::sleep(FOLLOW_EVERY).await;
        answer = remote.get(&["replays", &id], &[]).await?;
    }
    progress.finish_and_clear();
    Ok(answer)
}

/// Shows a job. A failed job makes the command fail, too.
fn shown(answer: &Answer, output: Output) -> anyhow::Result<ExitCode> {
    let job = &answer.value;
    let code = if job["state"] == "failed" { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    if output.answer(answer)? {
        return Ok(code);
    }
    output.fields(&[
        ("job", output::text(job, "uuid")),
        ("action", output::text(job, "action")),
        ("webhook", webhook(job)),
        ("states", output::text(job, "states")),
        ("topic", output::text(job, "topic")),
        ("since", output::moment(job, "since")),
        ("until", output::moment(job, "until")),
        ("unmatched too", output.yes_no(job["include_unmatched"] == true)),
        ("discard reason", output::text(job, "discard_reason")),
        ("rate", format!("{} a second", output::text(job, "rate_per_s"))),
        ("state", state(job, output)),
        ("reason", output::text(job, "reason")),
        ("progress", percent(job)),
        ("looked at", output::text(job, "scanned")),
        ("changed", output::text(job, "changed")),
        ("created", output::moment(job, "created_at")),
        ("updated", output::moment(job, "updated_at")),
    ])?;
    Ok(code)
}

fn webhook(job: &Value) -> String {
    if job["webhook_name"].is_null() { "all".to_owned() } else { output::text(job, "webhook_name") }
}

fn percent(job: &Value) -> String {
    format!("{:.1} %", job["progress"].as_f64().unwrap_or(0.0) * 100.0)
}

fn state(job: &Value, output: Output) -> String {
    let state = output::text(job, "state");
    let style = match state.as_str() {
        "done" => GOOD,
        "failed" => BAD,
        "running" => WARN,
        _ => QUIET,
    };
    output.paint(style, state)
}

async fn list(remote: &Remote, args: List, output: Output) -> anyhow::Result<ExitCode> {
    let mut query = Query::new();
    if let Some(webhook) = args.webhook {
        query.push(("webhook", remote.webhook(&webhook).await?));
    }
    query.extend(args.state.map(|state| ("state", state)));
    args.page.add_to(&mut query);
    let answer = remote.page("replays", &query).await?;
    if output.answer(&answer)? {
        return Ok(ExitCode::SUCCESS);
    }
    let items = answer.value["items"].as_array().map_or(&[][..], Vec::as_slice);
    if items.is_empty() {
        output.note("no jobs match");
        return Ok(ExitCode::SUCCESS);
    }
    let rows = items.iter().map(|job| {
        vec![
            output.paint(QUIET, output::moment(job, "created_at")),
            output::text(job, "action"),
            webhook(job),
            state(job, output),
            percent(job),
            output::text(job, "changed"),
            output.paint(QUIET, output::text(job, "uuid")),
        ]
    });
    output.table(&["created (utc)", "action", "webhook", "state", "progress", "changed", "job"], rows.collect())?;
    more(&answer.value, output);
    Ok(ExitCode::SUCCESS)
}
