//! `postrider bus listen`: the events that come over the bus, one a line.

use std::process::ExitCode;

use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::io::AsyncWriteExt as _;

use super::super::output::{self, NAME, Output, QUIET, STRONG};
use super::super::{UsageError, signals};
use super::{CLIENT_NAME, Place};
use crate::bus::frame::{Frame, FrameReader, Verb, encode};
use crate::clock::{Clock as _, SystemClock, UnixMicros};
use crate::config::Environment;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  postrider bus listen\n  postrider bus listen 'attacker.>' 'decky.*.state'\n\n\
    With --json each line is an object with topic, type, id, ts and payload.")]
pub(super) struct Args {
    #[command(flatten)]
    place: Place,
    /// Show topics that match one of these: * stands for one token, > at the end for one or more
    #[arg(value_name = "PATTERN", default_value = ">")]
    patterns: Vec<String>,
    /// Stop after this many events
    #[arg(long, value_name = "COUNT")]
    events: Option<u64>,
}

/// The body of an event, as far as it is one.
#[derive(Default, Deserialize)]
struct Body<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    ts: Option<&'a RawValue>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

/// The output of `--json` for an event.
#[derive(Serialize)]
struct Line<'a> {
    topic: &'a str,
    #[serde(rename = "type")]
    kind: Option<&'a RawValue>,
    id: Option<&'a RawValue>,
    ts: Option<&'a RawValue>,
    payload: Option<&'a RawValue>,
}

pub(super) async fn run(args: Args, output: Output, environment: &Environment) -> anyhow::Result<ExitCode> {
    let mut hello = Vec::new();
    let refused = |error| UsageError(format!("the bus does not take this: {error}"));
    encode(Verb::Hello, CLIENT_NAME, b"", &mut hello).map_err(refused)?;
    for pattern in &args.patterns {
        if pattern.trim().is_empty() {
            anyhow::bail!(UsageError("a pattern must not be empty".to_owned()));
        }
        encode(Verb::Sub, pattern, b"", &mut hello).map_err(refused)?;
    }
    let stop = signals::stop_signal()?;
    let (mut stream, path) = super::connect(&args.place, environment).await?;
    stream.write_all(&hello).await?;
    if output.json {
        output.json(&json!({ "listening": path }))?;
    } else {
        output.note(format_args!("listening to the bus at {}", output.paint_note(NAME, path.display())));
    }
    let mut reader = FrameReader::new(stream);
    let print = async {
        let mut left = args.events;
        while left != Some(0) {
            let frame = reader.read().await?.filter(|frame| frame.verb != Verb::Bye);
            let Some(frame) = frame else { anyhow::bail!("the bus at {} has closed the connection", path.display()) };
            if frame.verb == Verb::Evt {
                show(&frame, output)?;
                left = left.map(|left| left - 1);
            }
        }
        anyhow::Ok(())
    };
    tokio::select! {
        printed = print => printed?,
        () = stop => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// `12:00:00.250  attacker.observed  observed  {"ip":"198.51.100.7"}`
fn show(frame: &Frame, output: Output) -> anyhow::Result<()> {
    // Within JSON line breaks stand between values alone.
    let text = String::from_utf8_lossy(&frame.body).replace(['\r', '\n'], " ");
    let body: Body<'_> = serde_json::from_str(&text).unwrap_or_default();
    if output.json {
        let Body { kind, id, ts, payload } = body;
        return Ok(output.json(&Line { topic: &frame.argument, kind, id, ts, payload })?);
    }
    let at = body.ts.and_then(|ts| ts.get().parse::<UnixMicros>().ok()).unwrap_or_else(|| SystemClock.now());
    let kind = body.kind.map(|kind| serde_json::from_str::<String>(kind.get()).unwrap_or_else(|_| kind.to_string()));
    let kind = kind.filter(|kind| !kind.is_empty()).map(|kind| format!("  {}", output.paint(NAME, kind)));
    let payload = body.payload.map_or(&*text, RawValue::get);
    Ok(output.line(format_args!(
        "{}  {}{}  {}",
        output.paint(QUIET, output::time_of_day(at)),
        output.paint(STRONG, &frame.argument),
        kind.unwrap_or_default(),
        output::visible(payload),
    ))?)
}
