//! `postrider bus publish`: one event.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use super::super::UsageError;
use super::super::output::{NAME, Output};
use super::super::shape;
use super::{CLIENT_NAME, Place};
use crate::bus::event;
use crate::bus::frame::{FrameReader, Verb, encode};
use crate::clock::{Clock as _, SystemClock};
use crate::config::Environment;

/// How long the server may take.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    postrider bus publish attacker.observed '{\"ip\": \"198.51.100.7\"}' --type observed\n  \
    postrider bus publish attacker.observed @payload.json\n\n\
    Those who are connected get it. The bus does not say whether there were any.")]
pub(super) struct Args {
    #[command(flatten)]
    place: Place,
    /// What it is about, as in attacker.observed
    topic: String,
    /// The payload: JSON, or @FILE to read it from, or - for standard input
    #[arg(value_name = "JSON", default_value = "{}")]
    payload: String,
    /// Its type
    #[arg(long = "type", value_name = "TYPE", default_value = "", hide_default_value = true)]
    kind: String,
}

/// The body of a `PUB`.
#[derive(Serialize)]
struct Publication<'a> {
    payload: Box<RawValue>,
    #[serde(rename = "type")]
    kind: &'a str,
}

pub(super) async fn run(args: Args, output: Output, environment: &Environment) -> anyhow::Result<ExitCode> {
    let payload = shape::read("payload", args.payload).await?;
    let payload = RawValue::from_string(payload.trim().to_owned())
        .map_err(|error| UsageError(format!("the payload is no JSON: {error}")))?;
    let body = serde_json::to_vec(&Publication { payload, kind: &args.kind })?;
    let frames = frames(args.topic.trim(), &body)?;

    let (mut stream, path) = super::connect(&args.place, environment).await?;
    let (reader, mut writer) = stream.split();
    let mut reader = FrameReader::new(reader);
    let publishing = async {
        writer.write_all(&frames).await?;
        // The server does what it is told in order, and closes at the last.
        while reader.read().await?.is_some() {}
        anyhow::Ok(())
    };
    timeout(PATIENCE, publishing)
        .await
        .with_context(|| format!("the bus at {} takes nothing for {} s", path.display(), PATIENCE.as_secs()))?
        .with_context(|| format!("the bus at {} did not take the event", path.display()))?;
    if output.json {
        output.json(&json!({ "socket": path, "topic": args.topic.trim() }))?;
    } else {
        output.note(format_args!("published on {}", output.paint_note(NAME, path.display())));
    }
    Ok(ExitCode::SUCCESS)
}

/// All that the client says. What the server would not take is refused here, since it would not say so.
fn frames(topic: &str, body: &[u8]) -> anyhow::Result<Vec<u8>> {
    if topic.is_empty() {
        anyhow::bail!(UsageError("the topic must not be empty".to_owned()));
    }
    let made = event::published(topic, body, SystemClock.now())
        .map_err(|error| UsageError(format!("the bus does not take this: {error}")))?;
    let mut frames = Vec::new();
    let refused = |error| UsageError(format!("the bus does not take this: {error}"));
    encode(Verb::Evt, topic, &made, &mut frames).map_err(refused)?;
    frames.clear();
    encode(Verb::Hello, CLIENT_NAME, b"", &mut frames).map_err(refused)?;
    encode(Verb::Pub, topic, body, &mut frames).map_err(refused)?;
    encode(Verb::Bye, "", b"", &mut frames).map_err(refused)?;
    Ok(frames)
}
