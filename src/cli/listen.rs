//! `postrider listen`: a receiver for development.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use super::keys::{Judged, ReceiverFlags, mark, reason};
use super::output::{self, BAD, GOOD, NAME, Output, QUIET, STRONG, WARN};
use super::receiver::{Answer, MAX_WAITING_REQUESTS, Received, Receiver};
use crate::clock::{Clock, SystemClock, UnixMicros};
use crate::config::{DEFAULT_RECEIVER, parse_span};
use crate::signing::{DEFAULT_TOLERANCE_S, Head};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: POSTRIDER_SECRET=correct-horse-battery postrider listen\n\n\
    The process list shows flags, and no environment: secrets are better given there.\n\
    The server reaches this machine if it runs with --allow-private 127.0.0.0/8.")]
pub(super) struct Args {
    /// Listen on this address; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = DEFAULT_RECEIVER)]
    listen: SocketAddr,
    #[command(flatten)]
    keys: ReceiverFlags,
    /// Print the headers too
    #[arg(long)]
    headers: bool,
    /// Answer with this status instead of 200
    #[arg(long, value_name = "STATUS")]
    fail: Option<StatusCode>,
    /// Fail this share of the requests, with 503 unless --fail says otherwise
    #[arg(long, value_name = "SHARE", value_parser = parse_share)]
    fail_rate: Option<f64>,
    /// Answer after this time
    #[arg(long, value_name = "DURATION", value_parser = parse_span, default_value = "0s")]
    delay: Duration,
    /// Stop after this many requests
    #[arg(long, value_name = "COUNT")]
    events: Option<u64>,
}

fn parse_share(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|share| (0.0..=1.0).contains(share)).ok_or_else(|| "must be from 0 to 1".to_owned())
}

/// A request with the findings about it.
struct Seen {
    at: UnixMicros,
    request: Received,
    status: StatusCode,
    /// One for each signature to verify.
    findings: Vec<Judged>,
}

pub(super) async fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let verifier = args.keys.verifier()?;
    let is_verifying = !verifier.is_empty();
    let share = args.fail_rate.unwrap_or(if args.fail.is_some() { 1.0 } else { 0.0 });
    let failure = args.fail.unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let delay = args.delay;
    let (send, mut seen) = mpsc::channel(MAX_WAITING_REQUESTS);
    let answer = move |request: Received| {
        let at = SystemClock.now();
        let path = request.uri.path_and_query().map_or("/", |path| path.as_str());
        let head = Head { method: request.method.as_str(), path, headers: &request.headers };
        let findings = verifier.judge(head, &request.body, at, DEFAULT_TOLERANCE_S);
        let status = if fastrand::f64() < share { failure } else { StatusCode::OK };
        let waiting = send.clone();
        async move {
            // Fails while the receiver stops, which is fine.
            let _ = waiting.send(Seen { at, request, status, findings }).await;
            Answer { status, delay }
        }
    };
    let stop = super::signals::stop_signal()?;
    let receiver = Receiver::start(args.listen, answer)
        .await
        .with_context(|| format!("cannot listen on {}; choose another address with --listen", args.listen))?;
    announce(receiver.address, is_verifying, output)?;

    let print = async {
        let mut left = args.events;
        while left != Some(0) {
            let Some(request) = seen.recv().await else { break };
            show(&request, args.headers, output)?;
            left = left.map(|left| left - 1);
        }
        anyhow::Ok(())
    };
    tokio::select! {
        printed = print => printed?,
        () = stop => {}
    }
    drop(seen);
    receiver.stop().await;
    Ok(ExitCode::SUCCESS)
}

fn announce(address: SocketAddr, verifies: bool, output: Output) -> anyhow::Result<()> {
    let url = format!("http://{address}");
    if output.json {
        return Ok(output.json(&json!({ "listening": url }))?);
    }
    output.note(format_args!("listening on {}", output.paint_note(NAME, url)));
    if !verifies {
        output.note(output.paint_note(QUIET, "signatures are not verified: give --secret or --standard-secret"));
    }
    Ok(())
}

/// The parts of a delivered body. Postrider sends all of them; other senders may send none.
#[derive(Default, Deserialize)]
struct Delivered<'a> {
    topic: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    id: Option<String>,
    ts: Option<String>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

fn show(seen: &Seen, with_headers: bool, output: Output) -> anyhow::Result<()> {
    let body = String::from_utf8_lossy(&seen.request.body);
    let event: Delivered<'_> = serde_json::from_str(&body).unwrap_or_default();
    if output.json {
        return Ok(output.json(&Line::new(seen, &event, &body))?);
    }
    let mut text = String::new();
    let status = output.paint(if seen.status.is_success() { GOOD } else { BAD }, seen.status.as_u16());
    let time = output.paint(QUIET, output::time_of_day(seen.at));
    let topic = output.paint(STRONG, event.topic.as_deref().unwrap_or("(no event)"));
    let kind = event.kind.as_deref().filter(|kind| !kind.is_empty());
    let kind = kind.map(|kind| format!("  {}", output.paint(NAME, kind))).unwrap_or_default();
    writeln!(text, "{time}  {topic}{kind}  {}  {} {status}", marks(&seen.findings, output), output.paint(QUIET, "→"))?;
    let id = event.id.map(|id| format!("id {id}  ")).unwrap_or_default();
    writeln!(text, "  {}", output.paint(QUIET, format_args!("{id}{} {}", seen.request.method, seen.request.uri)))?;
    if with_headers {
        for (name, value) in &seen.request.headers {
            let value = String::from_utf8_lossy(value.as_bytes());
            writeln!(text, "  {} {}", output.paint(QUIET, format_args!("{name}:")), output::visible(&value))?;
        }
    }
    let payload = match event.payload {
        Some(payload) => indented(payload.get()),
        None => body.into_owned(),
    };
    for line in payload.lines() {
        writeln!(text, "  {}", output::visible(line))?;
    }
    Ok(output.line(text)?)
}

/// `✓ decnet  ✗ standard (why not)`
fn marks(findings: &[Judged], output: Output) -> String {
    if findings.is_empty() {
        return output.paint(WARN, "not verified");
    }
    findings.iter().map(|finding| mark(finding, output)).collect::<Vec<_>>().join("  ")
}

/// The output of `--json` for a request.
#[derive(Serialize)]
struct Line<'a> {
    received_at: String,
    method: &'a str,
    path: String,
    status: u16,
    topic: Option<&'a str>,
    #[serde(rename = "type")]
    kind: Option<&'a str>,
    id: Option<&'a str>,
    ts: Option<&'a str>,
    payload: Option<&'a RawValue>,
    /// The body as text, if it is no event.
    body: Option<&'a str>,
    /// `null`: nothing to verify with.
    verified: Option<bool>,
    /// By scheme: `ok`, or the reason of the failure.
    signatures: Map<String, Value>,
    headers: Map<String, Value>,
}

impl<'a> Line<'a> {
    fn new(seen: &'a Seen, event: &'a Delivered<'a>, body: &'a str) -> Self {
        let reason = |finding: &Judged| match &finding.result {
            Ok(_) => "ok".to_owned(),
            Err(causes) => reason(causes),
        };
        let headers = seen.request.headers.iter();
        Self {
            received_at: seen.at.to_string(),
            method: seen.request.method.as_str(),
            path: seen.request.uri.to_string(),
            status: seen.status.as_u16(),
            topic: event.topic.as_deref(),
            kind: event.kind.as_deref(),
            id: event.id.as_deref(),
            ts: event.ts.as_deref(),
            payload: event.payload,
            body: event.payload.is_none().then_some(body),
            verified: (!seen.findings.is_empty()).then(|| seen.findings.iter().all(|finding| finding.result.is_ok())),
            signatures: seen.findings.iter().map(|finding| (finding.name.clone(), reason(finding).into())).collect(),
            headers: headers
                .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
                .collect(),
        }
    }
}

/// JSON text with line breaks and indentation. It is not parsed, so that numbers keep their digits.
pub(super) fn indented(json: &str) -> String {
    let mut text = String::with_capacity(json.len() * 2);
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    let mut characters = json.chars().peekable();
    while let Some(character) = characters.next() {
        if in_string {
            text.push(character);
            in_string = escaped || character != '"';
            escaped = !escaped && character == '\\';
            continue;
        }
        let new_line = |text: &mut String, depth: usize| {
            text.push('\n');
            text.extend(std::iter::repeat_n("  ", depth));
        };
        match character {
            '{' | '[' => {
                text.push(character);
                while characters.next_if(char::is_ascii_whitespace).is_some() {}
                if let Some(close) = characters.next_if(|next| matches!(next, '}' | ']')) {
                    text.push(close);
                } else {
                    depth += 1;
                    new_line(&mut text, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                new_line(&mut text, depth);
                text.push(character);
            }
            ',' => {
                text.push(',');
                new_line(&mut text, depth);
            }
            ':' => text.push_str(": "),
            ' ' | '\t' | '\r' | '\n' => {}
            other => {
                in_string = other == '"';
                text.push(other);
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::indented;

    #[test]
    fn a_payload_is_indented_and_its_numbers_keep_their_digits() {
        let json = r#"{"a":[1.10,{"b":"x,\"{}: y"}],"c":{},"d":[ ],"e":12345678901234567890123}"#;
        let expected = "{\n  \"a\": [\n    1.10,\n    {\n      \"b\": \"x,\\\"{}: y\"\n    }\n  ],\n  \"c\": {},\n  \
                        \"d\": [],\n  \"e\": 12345678901234567890123\n}";
        assert_eq!(indented(json), expected);
        let value: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::from_str::<serde_json::Value>(&indented(json)).unwrap(), value);
    }
}
