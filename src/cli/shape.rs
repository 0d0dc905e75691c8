//! `postrider shape`: what receivers can get, and a look at it before it is sent.

use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::io::AsyncReadExt;

use super::UsageError;
use super::output::{self, Output, QUIET, STRONG};
use super::remote::{Connection, Remote};
use crate::shape::{ShapeInput, TemplateInput};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: postrider shape preview slack")]
pub(super) struct Args {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the shapes that come with the server
    #[command(after_help = "Example: postrider shape list")]
    List,
    /// Show what a receiver would get of an event, without sending it
    #[command(after_help = "Examples:\n  postrider shape preview slack\n  \
        postrider shape preview thehive_alert --event-id 0191f6c0-7a2e-7c3d-9c1b-2f6d8a4e5b10\n  \
        postrider shape preview --template @mine.j2 --content-type text/plain --event @event.json")]
    Preview(Preview),
}

#[derive(Debug, clap::Args)]
struct Preview {
    /// A shape's name, as the list has it
    #[arg(required_unless_present = "template", conflicts_with = "template")]
    shape: Option<String>,
    /// A template of your own: Jinja, or @FILE to read it from, or - for standard input
    #[arg(long)]
    template: Option<String>,
    /// What the template makes [default: application/json]
    #[arg(long, value_name = "TYPE", requires = "template")]
    content_type: Option<String>,
    /// An event as JSON, or @FILE to read it from [default: a sample]
    #[arg(long, value_name = "JSON", conflicts_with = "event_id")]
    event: Option<String>,
    /// A stored event
    #[arg(long, value_name = "EVENT")]
    event_id: Option<String>,
}

pub(super) async fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let remote = args.connection.open()?;
    match args.command {
        Command::List => list(&remote, output).await,
        Command::Preview(args) => preview(&remote, args, output).await,
    }
}

async fn list(remote: &Remote, output: Output) -> anyhow::Result<ExitCode> {
    let answer = remote.get(&["shapes"], &[]).await?;
    if !output.answer(&answer)? {
        let rows = answer.value.as_array().into_iter().flatten().map(|shape| {
            vec![
                output.paint(STRONG, output::text(shape, "name")),
                output.paint(QUIET, output::text(shape, "content_type")),
                output::text(shape, "description"),
            ]
        });
        output.table(&["name", "content type", "description"], rows.collect())?;
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Serialize)]
struct Request {
    shape: ShapeInput,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<String>,
}

async fn preview(remote: &Remote, args: Preview, output: Output) -> anyhow::Result<ExitCode> {
    let shape = match (args.template, args.shape) {
        (Some(template), _) => ShapeInput::Template(TemplateInput {
            template: read("template", template).await?,
            content_type: args.content_type.unwrap_or_else(|| crate::shape::JSON.to_owned()),
        }),
        (None, shape) => ShapeInput::Name(shape.unwrap_or_default()),
    };
    let event = read_event(args.event).await?;
    let request = serde_json::to_vec(&Request { shape, event, event_id: args.event_id })?;
    let answer = remote.post_bytes(&["shapes", "preview"], "application/json", request.into()).await?;
    if !output.answer(&answer)? {
        output.note(output.paint_note(QUIET, output::text(&answer.value, "content_type")));
        output.line(output::visible_lines(answer.value["body"].as_str().unwrap_or_default()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// An event as JSON, from where [`read`] finds it. It is passed on unchanged, so that numbers keep their digits.
pub(super) async fn read_event(given: Option<String>) -> anyhow::Result<Option<Box<RawValue>>> {
    let Some(given) = given else { return Ok(None) };
    let event = read("event", given).await?;
    let no_json = |error| UsageError(format!("the event is no JSON: {error}"));
    Ok(Some(RawValue::from_string(event.trim().to_owned()).map_err(no_json)?))
}

/// The text itself, or the content that `@FILE` or `-` stands for.
pub(super) async fn read(what: &str, text: String) -> anyhow::Result<String> {
    if text == "-" {
        let mut read = String::new();
        let reading = tokio::io::stdin().read_to_string(&mut read).await;
        reading.with_context(|| format!("cannot read the {what} from standard input"))?;
        return Ok(read);
    }
    match text.strip_prefix('@') {
        Some(path) => {
            tokio::fs::read_to_string(path).await.with_context(|| format!("cannot read the {what} from {path}"))
        }
        None => Ok(text),
    }
}
