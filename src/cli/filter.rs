//! `postrider filter`: a look at what a filter lets through.

use std::process::ExitCode;

use clap::Subcommand;
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::UsageError;
use super::output::{GOOD, Output, WARN};
use super::remote::Connection;
use super::shape::read;
use crate::clock::{Clock, SystemClock};
use crate::event::Event;
use crate::filter::Filter;

/// The exit code when the event does not match.
const NO_MATCH: u8 = 1;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: postrider filter test --filter @filter.json --event @event.json")]
pub(super) struct Args {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say whether a filter lets an event through; exit code 1 if it does not
    #[command(after_help = "Examples:\n  \
        postrider filter test --filter '{\"payload\": {\"score\": [{\"numeric\": [\">\", 5]}]}}' --event @event.json\n  \
        postrider filter test --filter @filter.json --event-id 0191f6c0-7a2e-7c3d-9c1b-2f6d8a4e5b10\n\n\
        An event that is given is tried here, without a server.")]
    Test(Test),
}

#[derive(Debug, clap::Args)]
struct Test {
    /// An event pattern as JSON, or @FILE to read it from, or - for standard input
    #[arg(long, value_name = "JSON")]
    filter: String,
    /// An event as JSON, or @FILE to read it from, or - for standard input
    #[arg(long, value_name = "JSON", required_unless_present = "event_id", conflicts_with = "event_id")]
    event: Option<String>,
    /// A stored event
    #[arg(long, value_name = "EVENT")]
    event_id: Option<String>,
}

#[derive(Serialize)]
struct Request {
    filter: Box<RawValue>,
    event_id: String,
}

pub(super) async fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let Args { connection, command: Command::Test(args) } = args;
    if args.filter == "-" && args.event.as_deref() == Some("-") {
        return Err(UsageError("only one of --filter and --event can be read from standard input".to_owned()).into());
    }
    let text = read("filter", args.filter).await?;
    // Checked before it is sent, too, so that a mistake is shown the same way with and without a server.
    let filter = Filter::parse(&text).map_err(|error| UsageError(format!("the filter: {error}")))?;
    let matches = match (args.event, args.event_id) {
        (Some(event), _) => {
            let event = read("event", event).await?;
            let event = Event::from_json(event.trim().as_bytes(), SystemClock.now());
            let event = event.map_err(|error| UsageError(format!("the event: {error}")))?;
            filter.matches(event.body())
        }
        (None, event_id) => {
            let request = Request { filter: filter.to_raw_value()?, event_id: event_id.unwrap_or_default() };
            let request = serde_json::to_vec(&request)?;
            let answer =
                connection.open()?.post_bytes(&["filters", "preview"], "application/json", request.into()).await?;
            answer.value["matches"] == true
        }
    };
    if output.json {
        output.json(&json!({ "matches": matches }))?;
    } else if matches {
        output.line(output.paint(GOOD, "matches"))?;
    } else {
        output.line(output.paint(WARN, "does not match"))?;
    }
    Ok(if matches { ExitCode::SUCCESS } else { ExitCode::from(NO_MATCH) })
}
