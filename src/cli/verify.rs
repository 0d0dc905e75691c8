//! `postrider verify`: whether a request's signatures match, and why not.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value, json};

use super::UsageError;
use super::keys::{ReceiverFlags, STANDARD_INPUT, document, mark, read_body};
use super::output::{self, BAD, Output};
use crate::clock::{Clock, SystemClock, UnixMicros};
use crate::config::parse_span;
use crate::signing::{DEFAULT_TOLERANCE_S, Head};

/// The most headers that are read.
const MAX_HEADERS: usize = 1_000;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n\
    \x20 export POSTRIDER_STANDARD_SECRET=whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n\
    \x20 postrider verify body.json --headers headers.txt\n\
    \x20 postrider verify body.json -H 'x-decnet-signature: sha256=…' --secret correct-horse-battery\n\
    \x20 POSTRIDER_SECRET=whsec_… postrider verify body.json --headers headers.txt --profile stripe\n\n\
    The headers' file has one header a line, as `curl -v` or a log shows them. Keep the body as it came: what an\n\
    editor or a JSON library wrote is another body, and the signature does not match. The exit code is 1 if no\n\
    signature matches.\n\
    The process list shows flags, and no environment: secrets are better given there, as POSTRIDER_SECRET and\n\
    POSTRIDER_STANDARD_SECRET.")]
pub(super) struct Args {
    /// The body, or - for standard input
    #[arg(value_name = "FILE", default_value = STANDARD_INPUT)]
    file: String,
    /// A header of the request (repeatable)
    #[arg(long, short = 'H', value_name = "NAME: VALUE")]
    header: Vec<String>,
    /// Read headers from this file
    #[arg(long, value_name = "FILE")]
    headers: Option<String>,
    #[command(flatten)]
    keys: ReceiverFlags,
    /// The method of the request, for profiles that sign it
    #[arg(long, value_name = "METHOD", default_value = "POST")]
    method: String,
    /// The path and query of the request, for profiles that sign them
    #[arg(long, value_name = "PATH", default_value = "/")]
    path: String,
    /// Let the signed time be so far from now [default: 5m]
    #[arg(long, value_name = "DURATION", value_parser = parse_span)]
    tolerance: Option<Duration>,
    /// Verify as if it were this time, in seconds since 1970 [default: now]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    at: Option<i64>,
}

pub(super) async fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let receiver = args.keys.verifier()?;
    if receiver.is_empty() {
        bail!(UsageError(
            "nothing to verify with: set POSTRIDER_SECRET, POSTRIDER_STANDARD_SECRET or POSTRIDER_PUBLIC_KEY"
                .to_owned()
        ));
    }
    if args.headers.as_deref() == Some(STANDARD_INPUT) && args.file == STANDARD_INPUT {
        bail!(UsageError("body and headers cannot both come from standard input".to_owned()));
    }
    let mut headers = HeaderMap::new();
    if let Some(file) = &args.headers {
        let text = String::from_utf8(read_body(file).await?);
        let text = text.map_err(|_| UsageError(format!("{file} is not UTF-8")))?;
        for line in text.lines().filter_map(header_line) {
            add(&mut headers, line)?;
        }
    }
    for header in &args.header {
        add(&mut headers, header)?;
    }
    let body = read_body(&args.file).await?;
    let now = args.at.map_or_else(|| SystemClock.now(), |seconds| UnixMicros(seconds.saturating_mul(1_000_000)));
    let tolerance_s = args.tolerance.map_or(DEFAULT_TOLERANCE_S, |tolerance| tolerance.as_secs());
    let head = Head { method: &args.method, path: &args.path, headers: &headers };
    let judged = receiver.judge(head, &body, now, tolerance_s);
    let verified = judged.iter().any(|judged| judged.result.is_ok());
    if output.json {
        let by_name: Map<String, Value> = judged.iter().map(|judged| (judged.name.clone(), document(judged))).collect();
        output.json(&json!({ "verified": verified, "signatures": by_name }))?;
    } else {
        for judged in &judged {
            match &judged.result {
                Ok(_) => output.line(mark(judged, output))?,
                Err(causes) => {
                    output.line(output.paint(BAD, format_args!("✗ {}", judged.name)))?;
                    for cause in causes {
                        output.line(format_args!("  {}", output::visible(&cause.text)))?;
                    }
                }
            }
        }
    }
    Ok(if verified { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A header's line, without curl's `> ` or `< ` before it. A request's first line is none.
fn header_line(line: &str) -> Option<&str> {
    let line = line.trim().trim_start_matches(['>', '<']).trim_start();
    let name = line.split_once(':')?.0;
    (!name.contains(' ')).then_some(line)
}

fn add(headers: &mut HeaderMap, line: &str) -> Result<(), UsageError> {
    let wrong = |reason: &str| UsageError(format!("{line:?} is no header: {reason}"));
    let (name, value) = line.split_once(':').ok_or_else(|| wrong("write `name: value`"))?;
    let name: HeaderName = name.trim().parse().map_err(|_| wrong("its name has characters that no header has"))?;
    let value: HeaderValue = value.trim().parse().map_err(|_| wrong("its value has control characters"))?;
    if headers.len() >= MAX_HEADERS {
        return Err(UsageError(format!("there are more than {MAX_HEADERS} headers")));
    }
    headers.append(name, value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_curl_and_logs_show_them() {
        for (line, expected) in [
            ("Webhook-Id: msg_1", Some("Webhook-Id: msg_1")),
            ("> webhook-id: msg_1\r", Some("webhook-id: msg_1")),
            ("POST /hook?a=b:c HTTP/1.1", None),
            ("", None),
            ("< HTTP/1.1 200 OK", None),
        ] {
            assert_eq!(header_line(line), expected, "{line}");
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let mut headers = HeaderMap::new();
        for line in ["webhook-id", "web hook: a", "a: b\u{0}"] {
            assert!(add(&mut headers, line).is_err(), "{line}");
        }
        for _ in 0..MAX_HEADERS {
            add(&mut headers, "a: b").unwrap();
        }
        assert!(add(&mut headers, "a: b").unwrap_err().to_string().contains("1000"));
    }
}
