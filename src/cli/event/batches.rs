//! Many events from newline-delimited JSON, in batches.

use std::process::ExitCode;

use anyhow::Context;
use serde_json::{Value, json};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};

use super::counted;
use crate::cli::output::{GOOD, Output};
use crate::cli::remote::{Refusal, Remote};
use crate::event::{MAX_BATCH_BYTES, MAX_BATCH_EVENTS};
use crate::fit::fit;

/// Lines that are sent together.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    events: usize,
    /// The number of its first line, from 1.
    first_line: u64,
    last_line: u64,
}

/// Lines of a source, gathered into batches within the API's limits.
struct Lines<R> {
    source: R,
    line: u64,
    /// A line that was read, but did not fit into the batch before.
    held: Vec<u8>,
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    /// The next batch; `None` at the end.
    async fn next_batch(&mut self) -> std::io::Result<Option<Batch>> {
        let mut batch = Batch::default();
        while batch.events < MAX_BATCH_EVENTS {
            let mut line = std::mem::take(&mut self.held);
            if line.is_empty() {
                if self.source.read_until(b'\n', &mut line).await? == 0 {
                    break;
                }
                self.line += 1;
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            if batch.events > 0 && batch.bytes.len() + line.len() > MAX_BATCH_BYTES {
                self.held = line;
                break;
            }
            if batch.events == 0 {
                batch.first_line = self.line;
            }
            batch.events += 1;
            batch.last_line = self.line;
            batch.bytes.extend_from_slice(&line);
            if line.last() != Some(&b'\n') {
                batch.bytes.push(b'\n');
            }
        }
        Ok((batch.events > 0).then_some(batch))
    }
}

/// Sends the lines of `file`, or of standard input if it is `-`. A batch is accepted as a whole or not at all. The
/// idempotency key of a batch is `key` and its number.
pub(super) async fn send(remote: &Remote, file: &str, key: Option<&str>, output: Output) -> anyhow::Result<ExitCode> {
    if file == "-" {
        return send_all(remote, BufReader::new(tokio::io::stdin()), None, key, output).await;
    }
    let open = async {
        let opened = tokio::fs::File::open(file).await?;
        let length = opened.metadata().await?.len();
        std::io::Result::Ok((opened, length))
    };
    let (opened, length) = open.await.with_context(|| format!("cannot read {file}"))?;
    send_all(remote, BufReader::new(opened), Some(length), key, output).await
}

async fn send_all(
    remote: &Remote,
    source: impl AsyncBufRead + Unpin,
    length: Option<u64>,
    key: Option<&str>,
    output: Output,
) -> anyhow::Result<ExitCode> {
    let progress = output.progress(length, "bytes");
    let mut lines = Lines { source, line: 0, held: Vec::new() };
    let (mut accepted, mut duplicates, mut deliveries, mut number) = (0, 0, 0, 0_u64);
    while let Some(batch) = lines.next_batch().await.context("cannot read the events")? {
        let (first, last, bytes) = (batch.first_line, batch.last_line, batch.bytes.len());
        number += 1;
        let key = key.map(|key| format!("{key}.{number}"));
        let path = ["events", "batch"];
        let sent = remote.post_events(&path, "application/x-ndjson", batch.bytes.into(), key.as_deref());
        let answer = match sent.await {
            Ok(answer) => answer.value,
            Err(error) => {
                progress.finish_and_clear();
                return Err(stopped(&error, first, last, accepted));
            }
        };
        accepted += answer["accepted"].as_u64().unwrap_or(0);
        duplicates += answer["duplicates"].as_u64().unwrap_or(0);
        let receipts = answer["events"].as_array().into_iter().flatten();
        let new = receipts.filter(|receipt| receipt["duplicate"] == false);
        deliveries += new.filter_map(|receipt| receipt["deliveries"].as_u64()).sum::<u64>();
        progress.set_message(counted(accepted + duplicates, "event", "events"));
        progress.inc(fit(bytes, u64::MAX));
    }
    progress.finish_and_clear();
    if output.json {
        output.json(&json!({ "accepted": accepted, "duplicates": duplicates, "deliveries": deliveries }))?;
    } else {
        let deliveries = counted(deliveries, "delivery", "deliveries");
        output.line(format_args!(
            "{}, {}, {deliveries}",
            output.paint(GOOD, format_args!("{accepted} accepted")),
            counted(duplicates, "duplicate", "duplicates"),
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The error of a sending that stopped, with its place and how to go on.
fn stopped(error: &anyhow::Error, first: u64, last: u64, accepted: u64) -> anyhow::Error {
    let refused = match error.downcast_ref::<Refusal>() {
        Some(refusal) => bad_events(&refusal.problem).map(|events| format!("\n{events}")).unwrap_or_default(),
        None => String::new(),
    };
    anyhow::anyhow!(
        "lines {first} to {last} were not accepted: {error:#}{refused}\n\
         {} before them; to go on, send from line {first} (`tail -n +{first}`).",
        counted(accepted, "event was accepted", "events were accepted"),
    )
}

/// A hint how `events[3]` in an error counts.
fn bad_events(problem: &Value) -> Option<&'static str> {
    let names_event = |error: &Value| error["field"].as_str().is_some_and(|field| field.starts_with("events["));
    let mut errors = problem["errors"].as_array()?.iter();
    errors.any(names_event).then_some("events[0] is the first of these lines; blank lines do not count.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_gathered_within_the_limits() {
        let line = format!("{{\"topic\":\"a\",\"payload\":\"{}\"}}\n", "x".repeat(MAX_BATCH_BYTES / 3));
        let text = format!("{line}\n{line}{line}{{}}");
        let mut lines = Lines { source: text.as_bytes(), line: 0, held: Vec::new() };
        let mut seen = Vec::new();
        while let Some(batch) = lines.next_batch().await.unwrap() {
            assert!(batch.bytes.len() <= MAX_BATCH_BYTES && batch.bytes.ends_with(b"\n"));
            seen.push((batch.first_line, batch.last_line, batch.events));
        }
        assert_eq!(seen, [(1, 3, 2), (4, 5, 2)]);
        let text = "{}\n".repeat(MAX_BATCH_EVENTS + 1);
        let mut lines = Lines { source: text.as_bytes(), line: 0, held: Vec::new() };
        assert_eq!(lines.next_batch().await.unwrap().unwrap().events, MAX_BATCH_EVENTS);
        assert_eq!(lines.next_batch().await.unwrap().unwrap().first_line, 1_001);
        assert!(lines.next_batch().await.unwrap().is_none());
    }
}
