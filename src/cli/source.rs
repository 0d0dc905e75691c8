//! `postrider source`: where events come from by themselves, and what they brought that is no event.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use super::UsageError;
use super::answer::Answer;
use super::listing::{Page, Query};
use super::output::{self, BAD, GOOD, Output, QUIET, STRONG, WARN};
use super::remote::{Connection, Refusal, Remote};
use crate::config::{Config, Environment, RawConfig};
use crate::sources::postgres_outbox::Outbox;

/// The longest part of a message in a table, in characters.
const MESSAGE_CHARS: usize = 60;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: postrider source list\n\n\
    Sources stand in postrider.toml. These commands need a token with the scope `operator`.")]
pub(super) struct Args {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the sources, how they are, and what they have brought
    #[command(after_help = "Example: postrider source list --json | jq -r '.[] | select(.state == \"failing\").name'")]
    List,
    /// List what a source brought that can be no event, or show one message whole
    #[command(after_help = "Examples:\n  postrider source rejected orders\n  postrider source rejected orders 6d2c…")]
    Rejected {
        /// The source's name
        source: String,
        /// The message's id
        message: Option<String>,
        #[command(flatten)]
        page: Page,
    },
    /// Try rejected messages again, as the source is configured now
    #[command(after_help = "Examples:\n  postrider source retry orders 6d2c…\n  postrider source retry orders --all")]
    Retry(Messages),
    /// Print what an outbox in PostgreSQL needs: table, function, rights
    #[command(after_help = "Examples:\n  postrider source setup | psql shop\n  \
        postrider source setup orders --application shop --reader postrider | psql shop")]
    Setup(Setup),
    /// Discard rejected messages for good
    #[command(after_help = "Example: postrider source discard orders 6d2c…")]
    Discard {
        #[command(flatten)]
        messages: Messages,
        /// Do not ask before all are discarded
        #[arg(long, requires = "all")]
        yes: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Setup {
    /// The source's name, as in the settings file [default: an outbox with the default settings]
    source: Option<String>,
    /// The database role of the application, which publishes
    #[arg(long, value_name = "ROLE", default_value = "application")]
    application: String,
    /// The database role as which Postrider reads
    #[arg(long, value_name = "ROLE", default_value = "postrider")]
    reader: String,
    /// Read settings from this file [default: postrider.toml if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Messages {
    /// The source's name
    source: String,
    /// The messages' ids
    #[arg(value_name = "MESSAGE", required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<String>,
    /// All that the source has now
    #[arg(long)]
    all: bool,
}

pub(super) async fn run(args: Args, output: Output, environment: &Environment) -> anyhow::Result<ExitCode> {
    if let Command::Setup(args) = args.command {
        setup(&args, output, environment)?;
        return Ok(ExitCode::SUCCESS);
    }
    let remote = args.connection.open()?;
    match args.command {
        Command::Setup(_) => {}
        Command::List => list(&remote, output).await?,
        Command::Rejected { source, message: Some(message), .. } => show(&remote, &source, &message, output).await?,
        Command::Rejected { source, message: None, page } => rejected(&remote, &source, page, output).await?,
        Command::Retry(messages) => return each(&remote, messages, Deed::Retry, true, output).await,
        Command::Discard { messages, yes } => return each(&remote, messages, Deed::Discard, yes, output).await,
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the statements for the database of an outbox.
fn setup(args: &Setup, output: Output, environment: &Environment) -> anyhow::Result<()> {
    let outbox = match &args.source {
        None => Outbox::default(),
        Some(name) => {
            let config = Config::load(args.config.as_deref(), environment, &RawConfig::default())?;
            let source = config.sources().iter().find(|source| source.name == *name);
            let missing =
                || UsageError(format!("no source `{name}` is configured; `postrider config` shows those there are"));
            let other = |kind| UsageError(format!("`{name}` is a {kind} and needs no setup"));
            let source = source.ok_or_else(missing)?;
            source.outbox().cloned().ok_or_else(|| other(source.kind_name()))?
        }
    };
    let sql = outbox.setup(&args.application, &args.reader);
    if output.json {
        output.json(&json!({ "sql": sql }))?;
    } else {
        output.verbatim(sql)?;
    }
    Ok(())
}

async fn list(remote: &Remote, output: Output) -> anyhow::Result<()> {
    let answer = remote.get(&["sources"], &[]).await?;
    if output.answer(&answer)? {
        return Ok(());
    }
    let sources = answer.value.as_array().map_or(&[][..], Vec::as_slice);
    if sources.is_empty() {
        output.note("no source is configured: a [[source]] table in postrider.toml makes one");
        return Ok(());
    }
    let rows = sources.iter().map(|source| {
        vec![
            output.paint(STRONG, output::text(source, "name")),
            output::text(source, "kind"),
            state(source, output),
            output::text(source, "accepted"),
            output::text(source, "duplicates"),
            output::text(source, "kept_rejected"),
            output::text(source, "lost"),
            output::text(source, "queued"),
            output.paint(QUIET, output::moment(source, "last_accepted_at")),
        ]
    });
    let head = ["name", "kind", "state", "accepted", "twice", "rejected", "lost", "queued", "last (utc)"];
    output.table(&head, rows.collect())?;
    for source in sources.iter().filter(|source| !source["reason"].is_null()) {
        let (name, reason) = (output::text(source, "name"), output::text(source, "reason"));
        output.note(format_args!("\n{}: {reason}", output.paint_note(STRONG, name)));
    }
    Ok(())
}

fn state(source: &Value, output: Output) -> String {
    let state = output::text(source, "state");
    let style = match state.as_str() {
        "running" => GOOD,
        "failing" => BAD,
        "waiting" | "starting" => WARN,
        _ => QUIET,
    };
    output.paint(style, state)
}

async fn rejected(remote: &Remote, source: &str, page: Page, output: Output) -> anyhow::Result<()> {
    let mut query = Query::new();
    page.add_to(&mut query);
    let answer = remote.get(&["sources", source, "rejected"], &query).await?;
    if output.answer(&answer)? {
        return Ok(());
    }
    let items = answer.value["items"].as_array().map_or(&[][..], Vec::as_slice);
    if items.is_empty() {
        output.note(format_args!("{source} has no rejected messages"));
        return Ok(());
    }
    let rows = items.iter().map(|message| {
        vec![
            output.paint(QUIET, output::moment(message, "at")),
            output::text(message, "reason"),
            beginning(message),
            output::text(message, "length"),
            output.paint(QUIET, output::text(message, "uuid")),
        ]
    });
    output.table(&["at (utc)", "reason", "message", "bytes", "id"], rows.collect())?;
    if let Some(cursor) = answer.value["next_cursor"].as_str() {
        output.note(format_args!("\n{}", output.paint_note(QUIET, format_args!("newer ones: --cursor {cursor}"))));
    }
    Ok(())
}

/// The beginning of a message, on one line.
fn beginning(message: &Value) -> String {
    let text = message["body"].as_str().or_else(|| message["body_base64"].as_str()).unwrap_or_default();
    let is_long = text.chars().nth(MESSAGE_CHARS).is_some();
    let mut line: String = output::visible_lines(text).chars().take(MESSAGE_CHARS).collect();
    if is_long {
        line.push('…');
    }
    line
}

async fn show(remote: &Remote, source: &str, message: &str, output: Output) -> anyhow::Result<()> {
    let answer: Answer = remote.get(&["sources", source, "rejected", message], &[]).await?;
    if output.answer(&answer)? {
        return Ok(());
    }
    let message = &answer.value;
    let mut fields = vec![
        ("message", output::text(message, "uuid")),
        ("source", output::text(message, "source")),
        ("at", output::moment(message, "at")),
        ("reason", output::text(message, "reason")),
        ("origin's id", output::text(message, "origin_id")),
        ("bytes", output::text(message, "length")),
    ];
    let attributes = message["attributes"].as_object().into_iter().flatten();
    let attributes: Vec<(&String, String)> =
        attributes.map(|(name, value)| (name, output::visible_lines(value.as_str().unwrap_or_default()))).collect();
    fields.extend(attributes.iter().map(|(name, value)| (name.as_str(), value.clone())));
    match message["body"].as_str() {
        Some(body) => fields.push(("body", output::visible_lines(body))),
        None => fields.push(("body (base64)", output::text(message, "body_base64"))),
    }
    output.fields(&fields)?;
    Ok(())
}

/// What is done with rejected messages.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Deed {
    Retry,
    Discard,
}

/// Does it with each message. One that is refused does not keep the others from it; the exit code says so.
async fn each(remote: &Remote, messages: Messages, deed: Deed, yes: bool, output: Output) -> anyhow::Result<ExitCode> {
    let Messages { source, ids, all } = messages;
    let messages = if all { every(remote, &source).await? } else { ids };
    let question = || format!("Discard {} messages of {source} for good?", messages.len());
    if all && !yes && output.can_ask() && !output.confirm(&question())? {
        return Ok(ExitCode::FAILURE);
    }
    let progress = output.progress(Some(messages.len() as u64), "messages");
    let (mut done, mut refused) = (Vec::new(), Vec::new());
    for message in messages {
        let path = ["sources", &source, "rejected", &message, "retry"];
        let result = match deed {
            Deed::Retry => remote.post(&path, &json!({})).await,
            Deed::Discard => remote.delete(&path[..4]).await,
        };
        progress.inc(1);
        match result {
            Ok(answer) => done.push(json!({"message": message, "event": answer.value["id"]})),
            // Others may have dealt with it meanwhile; a server that is gone ends the command.
            Err(error) if error.is::<Refusal>() => {
                refused.push(json!({"message": message, "reason": format!("{error:#}")}));
            }
            Err(error) => return Err(error),
        }
    }
    progress.finish_and_clear();
    let code = if refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    let word = if deed == Deed::Retry { "accepted" } else { "discarded" };
    if output.json {
        output.json(&json!({word: done, "refused": refused}))?;
        return Ok(code);
    }
    output.line(format_args!("{} {word}, {} left as they are", done.len(), refused.len()))?;
    for refused in refused {
        let (message, reason) = (output::text(&refused, "message"), output::text(&refused, "reason"));
        output.note(format_args!("{}: {reason}", output.paint_note(QUIET, message)));
    }
    Ok(code)
}

/// The ids of all rejected messages of a source.
async fn every(remote: &Remote, source: &str) -> anyhow::Result<Vec<String>> {
    let all = remote.all(&["sources", source, "rejected"], &[]).await?.value;
    let ids = all.as_array().into_iter().flatten().filter_map(|message| message["uuid"].as_str());
    Ok(ids.map(str::to_owned).collect())
}
