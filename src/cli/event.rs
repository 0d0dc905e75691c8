//! `postrider event`: send events and look at them.

mod batches;

use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::io::AsyncReadExt;

use super::UsageError;
use super::answer::Answer;
use super::listing::{self, Page, Query, Range, more};
use super::output::{self, NAME, Output, QUIET, STRONG, WARN};
use super::remote::{Connection, Remote};
use crate::clock::{Clock, SystemClock};
use crate::config::Span;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: postrider event send order.paid '{\"amount\": 12.50}'")]
pub(super) struct Args {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send an event, or many
    #[command(after_help = "Examples:\n  postrider event send order.paid '{\"amount\": 12.50}' --type paid\n  \
        postrider event send order.paid @order.json\n  postrider event send order.paid --deliver-at 10m --webhook siem\n  \
        postrider event send --ndjson events.ndjson")]
    Send(Send),
    /// List events, newest first
    #[command(after_help = "Example: postrider event list --topic 'attacker.>' --since 1h")]
    List(List),
    /// Show an event and its deliveries
    #[command(after_help = "Example: postrider event show 0191f6c0-7a2e-7c3d-9c1b-2f6d8a4e5b10")]
    Show {
        /// The event's id
        #[arg(value_name = "EVENT")]
        id: String,
    },
    /// Erase the payload of an event for good
    #[command(after_help = "Example: postrider event erase 0191f6c0-7a2e-7c3d-9c1b-2f6d8a4e5b10 --yes")]
    Erase {
        /// The event's id
        #[arg(value_name = "EVENT")]
        id: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Send an event again, to every webhook that it was owed to or to one
    #[command(after_help = "Example: postrider event resend 0191f6c0-7a2e-7c3d-9c1b-2f6d8a4e5b10 --webhook siem")]
    Resend {
        /// The event's id
        #[arg(value_name = "EVENT")]
        id: String,
        /// To this webhook, also if it was not owed to it: its name or UUID
        #[arg(long)]
        webhook: Option<String>,
    },
}

#[derive(Debug, clap::Args)]
struct Send {
    /// What it is about, as in order.paid
    #[arg(required_unless_present = "ndjson")]
    topic: Option<String>,
    /// JSON, or @FILE to read it from, or - for standard input
    payload: Option<String>,
    /// Its type
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Its id; one that was sent before is not delivered again [default: made by the server]
    #[arg(long)]
    id: Option<String>,
    /// When it happened: any text, or seconds since 1970 [default: now]
    #[arg(long, value_name = "TIME")]
    ts: Option<String>,
    /// Deliver it not before: RFC 3339, seconds since 1970, or in how long, as in 10m; at most 24 h ahead
    #[arg(long, value_name = "TIME")]
    deliver_at: Option<String>,
    /// Of the webhooks that want it, only this one gets it, by name or UUID (repeatable)
    #[arg(long, value_name = "WEBHOOK")]
    webhook: Vec<String>,
    /// Only say which webhooks would get it
    #[arg(long, conflicts_with = "idempotency_key")]
    dry_run: bool,
    /// Send many: one JSON object a line, {"topic", "payload", …}, from a file or - for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["topic", "payload", "kind", "id", "ts", "deliver_at", "webhook", "dry_run"])]
    ndjson: Option<String>,
    /// Send once: the same again with the same key is not accepted twice; with --ndjson each batch is numbered
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

#[derive(Debug, clap::Args)]
struct List {
    /// Only topics that match
    #[arg(long, value_name = "PATTERN")]
    topic: Option<String>,
    /// Only this type
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    #[command(flatten)]
    range: Range,
    /// Only events whose body has this text in it
    #[arg(long, value_name = "TEXT")]
    q: Option<String>,
    #[command(flatten)]
    page: Page,
}

/// `10m` as the moment in ten minutes; anything else as it is.
fn ahead(time: String) -> String {
    match time.parse::<Span>() {
        Ok(Span(span)) => SystemClock.now().after(span).to_string(),
        Err(_) => time,
    }
}

/// A number is seconds since 1970; anything else is a text.
fn seconds_or_text(time: String) -> serde_json::Result<Box<RawValue>> {
    match serde_json::from_str::<serde_json::Number>(&time) {
        Ok(_) => RawValue::from_string(time),
        Err(_) => serde_json::value::to_raw_value(&time),
    }
}

pub(super) async fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let remote = args.connection.open()?;
    match args.command {
        Command::Send(Send { ndjson: Some(file), idempotency_key, .. }) => {
            batches::send(&remote, &file, idempotency_key.as_deref(), output).await
        }
        Command::Send(args) => send(&remote, args, output).await,
        Command::List(args) => list(&remote, args, output).await,
        Command::Show { id } => show(&remote, &id, output).await,
        Command::Erase { id, yes } => erase(&remote, &id, yes, output).await,
        Command::Resend { id, webhook } => resend(&remote, &id, webhook, output).await,
    }
}

async fn erase(remote: &Remote, id: &str, yes: bool, output: Output) -> anyhow::Result<ExitCode> {
    if !yes {
        if !output.can_ask() {
            return Err(UsageError(format!("to erase the payload of {id} without being asked, give --yes")).into());
        }
        if !output.confirm(&format!("Erase the payload of {id} for good and end what is pending of it?"))? {
            output.note("nothing was erased");
            return Ok(ExitCode::FAILURE);
        }
    }
    let answer = remote.delete(&["events", id, "payload"]).await?;
    if !output.answer(&answer)? {
        output.line(format_args!("erased the payload of {}", output::text(&answer.value, "id")))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn resend(remote: &Remote, id: &str, webhook: Option<String>, output: Output) -> anyhow::Result<ExitCode> {
    let body = match webhook {
        Some(webhook) => json!({ "webhook": remote.webhook(&webhook).await? }),
        None => json!({}),
    };
    let answer = remote.post(&["events", id, "resend"], &body).await?;
    if output.answer(&answer)? {
        return Ok(ExitCode::SUCCESS);
    }
    let count = |field: &str| answer.value[field].as_u64().unwrap_or(0);
    output.line(counted(count("deliveries"), "delivery is made again", "deliveries are made again"))?;
    if count("under_way") > 0 {
        output.note(counted(count("under_way"), "is on its way already", "are on their way already"));
    }
    Ok(ExitCode::SUCCESS)
}

/// An event as the API takes it. The user's JSON is passed on unchanged, so that numbers keep their digits.
#[derive(Serialize)]
struct NewEvent {
    topic: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ts: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deliver_at: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    webhooks: Vec<String>,
}

async fn send(remote: &Remote, args: Send, output: Output) -> anyhow::Result<ExitCode> {
    let payload = match args.payload {
        None => None,
        Some(text) => {
            let text = read_payload(text).await?;
            Some(RawValue::from_string(text).map_err(|error| UsageError(format!("the payload is no JSON: {error}")))?)
        }
    };
    let mut webhooks = Vec::with_capacity(args.webhook.len());
    for webhook in &args.webhook {
        webhooks.push(remote.webhook(webhook).await?);
    }
    let event = NewEvent {
        topic: args.topic,
        kind: args.kind,
        id: args.id,
        ts: args.ts.map(seconds_or_text).transpose()?,
        payload,
        deliver_at: args.deliver_at.map(|time| seconds_or_text(ahead(time))).transpose()?,
        webhooks,
    };
    let event = serde_json::to_vec(&event)?;
    if args.dry_run {
        let query = [("dry_run", "true".to_owned())];
        let answer = remote.post_bytes_with(&["events"], &query, "application/json", event.into()).await?;
        return show_dry_run(&answer, output);
    }
    let key = args.idempotency_key.as_deref();
    let answer = remote.post_events(&["events"], "application/json", event.into(), key).await?;
    if output.answer(&answer)? {
        return Ok(ExitCode::SUCCESS);
    }
    let receipt = &answer.value;
    let deliveries = counted(receipt["deliveries"].as_u64().unwrap_or(0), "delivery", "deliveries");
    let id = output.paint(NAME, output::text(receipt, "id"));
    if receipt["duplicate"] == true {
        output.line(format_args!("{id}  {}", output.paint(WARN, "sent before: nothing is delivered again")))?;
    } else {
        let skipped = match receipt["skipped"].as_u64().unwrap_or(0) {
            0 => String::new(),
            skipped => format!(", {skipped} skipped"),
        };
        output.line(format_args!("{id}  {deliveries}{skipped}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show_dry_run(answer: &Answer, output: Output) -> anyhow::Result<ExitCode> {
    if output.answer(answer)? {
        return Ok(ExitCode::SUCCESS);
    }
    let answer = &answer.value;
    if answer["duplicate"] == true {
        output.note("an event with this id was sent before: nothing would be delivered again");
    }
    let webhooks = answer["webhooks"].as_array().map_or(&[][..], Vec::as_slice);
    if webhooks.is_empty() {
        output.note("no webhook wants this topic");
        return Ok(ExitCode::SUCCESS);
    }
    let rows = webhooks.iter().map(|webhook| {
        let style = if webhook["would"] == "deliver" { NAME } else { WARN };
        vec![
            output.paint(STRONG, output::text(webhook, "name")),
            output.paint(style, output::text(webhook, "would")),
            output::text(webhook, "reason"),
            output.paint(QUIET, output::text(webhook, "uuid")),
        ]
    });
    output.table(&["webhook", "would", "reason", "uuid"], rows.collect())?;
    Ok(ExitCode::SUCCESS)
}

/// The payload itself, or the content that `@FILE` or `-` stands for.
async fn read_payload(text: String) -> anyhow::Result<String> {
    let mut read = String::new();
    if text == "-" {
        tokio::io::stdin().read_to_string(&mut read).await.context("cannot read the payload from standard input")?;
    } else if let Some(path) = text.strip_prefix('@') {
        read = tokio::fs::read_to_string(path).await.with_context(|| format!("cannot read the payload from {path}"))?;
    } else {
        return Ok(text);
    }
    Ok(read.trim().to_owned())
}

/// `1 delivery`, `2 deliveries`
fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

async fn list(remote: &Remote, args: List, output: Output) -> anyhow::Result<ExitCode> {
    let mut query = Query::new();
    let filters = [("topic", args.topic), ("type", args.kind), ("q", args.q)];
    query.extend(filters.into_iter().filter_map(|(name, value)| Some((name, value?))));
    args.range.add_to(&mut query);
    args.page.add_to(&mut query);
    let answer = remote.page("events", &query).await?;
    if output.answer(&answer)? {
        return Ok(ExitCode::SUCCESS);
    }
    let items = answer.value["items"].as_array().map_or(&[][..], Vec::as_slice);
    if items.is_empty() {
        output.note("no events match");
        return Ok(ExitCode::SUCCESS);
    }
    let rows = items.iter().map(|event| {
        vec![
            output.paint(QUIET, output::moment(event, "accepted_at")),
            output.paint(STRONG, output::text(event, "topic")),
            output::text(event, "type"),
            output::text(event, "deliveries"),
            output.paint(QUIET, output::text(event, "id")),
        ]
    });
    output.table(&["accepted (utc)", "topic", "type", "deliveries", "id"], rows.collect())?;
    more(&answer.value, output);
    Ok(ExitCode::SUCCESS)
}

async fn show(remote: &Remote, id: &str, output: Output) -> anyhow::Result<ExitCode> {
    #[derive(Deserialize)]
    struct Payload<'a> {
        #[serde(borrow)]
        payload: &'a RawValue,
    }
    let answer = remote.get(&["events", id], &[]).await?;
    if output.answer(&answer)? {
        return Ok(ExitCode::SUCCESS);
    }
    let event = &answer.value;
    output.fields(&[
        ("id", output::text(event, "id")),
        ("topic", output.paint(STRONG, output::text(event, "topic"))),
        ("type", output::text(event, "type")),
        ("ts", output::text(event, "ts")),
        ("accepted", output::moment(event, "accepted_at")),
    ])?;
    if event["erased"] == true {
        output.note("\nits payload was erased");
    }
    let payload: Payload<'_> = serde_json::from_str(&answer.text)?;
    let payload = output::visible_lines(&super::listen::indented(payload.payload.get()));
    output.line(format_args!("\n{payload}\n"))?;
    let deliveries = event["delivery_page"]["items"].as_array().map_or(&[][..], Vec::as_slice);
    if deliveries.is_empty() {
        output.note("no webhook wanted it");
    } else {
        listing::table(deliveries, output)?;
    }
    Ok(ExitCode::SUCCESS)
}
