//! The settings of `postrider webhook create` and `update`, and how they are shown.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Map, Value, json};

use super::super::UsageError;
use super::super::output;
use crate::config::{Size, Span, parse_span};
use crate::delivery::statuses::{StatusError, StatusSpan};
use crate::filter::Filter;

/// The word that unsets a setting.
const NONE: &str = "none";

#[derive(Debug, clap::Args)]
pub(super) struct Settings {
    /// Deliver events whose topic matches (repeatable); `*` is one token, a last `>` one or more
    #[arg(long = "topic", value_name = "PATTERN")]
    topics: Vec<String>,
    /// Deliver a group of events: `AttackerDetail`, `DeckyStatus` or `SystemStatus` (repeatable)
    #[arg(long = "simple-event", value_name = "GROUP")]
    simple_events: Vec<String>,
    /// Say what it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Sign like this, `decnet`, `standard`, `ed25519`, `stripe`, … or a profile of your own as JSON (repeatable) [default: the first two]
    #[arg(long = "signature", value_name = "NAME")]
    signatures: Vec<String>,
    /// Give an attempt this long, in whole seconds up to 60s [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = parse_span)]
    timeout: Option<Duration>,
    /// Make at most this many attempts at once [default: 32]
    #[arg(long, value_name = "COUNT")]
    max_in_flight: Option<u32>,
    /// Wait so long between attempts, as in 1s,2s,4s; `once` for a single attempt, `default` for the server's
    #[arg(long, value_name = "DURATIONS", value_parser = parse_schedule)]
    retry_schedule: Option<RetrySchedule>,
    /// Try these statuses again, as in 408,5xx,520-530; `none` for no others than the server says
    #[arg(long, value_name = "STATUSES", value_parser = parse_statuses)]
    retry_on: Option<Statuses>,
    /// Take these statuses for final, and not for a failure of the receiver; `none` for no others than the server says
    #[arg(long, value_name = "STATUSES", value_parser = parse_statuses)]
    final_on: Option<Statuses>,
    /// Take these statuses for a success; `none` for no others than the server says
    #[arg(long, value_name = "STATUSES", value_parser = parse_statuses)]
    success_on: Option<Statuses>,
    /// Take an answer for a success only if it matches this event pattern: JSON, or @FILE; `none` for what the shape says
    #[arg(long, value_name = "PATTERN")]
    success_when: Option<String>,
    /// End deliveries that are older than this without an attempt, as in 2h; `none` for what the server says
    #[arg(long, value_name = "DURATION", value_parser = parse_age)]
    max_age: Option<Given>,
    /// Keep whole exchanges of attempts that failed, of all or of none; `default` for what the server says
    #[arg(long, value_name = "WHICH", value_parser = ["failures", "all", "none", "default"])]
    capture: Option<String>,
    /// Make at most so many attempts, as in 10/s, 100/m or 10/s,burst=5; `none` for no limit
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    rate_limit: Option<Given>,
    /// Deliver in the order of acceptance, one at a time
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    ordered: Option<bool>,
    /// Let deliveries wait until it goes on: events are accepted, and nothing is attempted
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    paused: Option<bool>,
    /// Make requests with this method, `POST`, `PUT` or `PATCH` [default: POST]
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// Send up to so many events in one request, gathered for so long, as in 100,500ms, 100,500ms,256KiB or
    /// 100,500ms,lines; `none`: one each
    #[arg(long, value_name = "BATCH", value_parser = parse_batch)]
    batch: Option<Given>,
    /// Deliver only events that match this event pattern: JSON, or @FILE; `none` for all
    #[arg(long, value_name = "PATTERN")]
    filter: Option<String>,
    /// Send this shape: the name of a built-in one, or @FILE for a Jinja template; `decnet` for the event as it is
    #[arg(long, value_name = "SHAPE")]
    shape: Option<String>,
    /// What a template makes [default: application/json]
    #[arg(long, value_name = "TYPE", requires = "shape")]
    shape_content_type: Option<String>,
    /// Send this header too, as in 'X-Team: blue' (repeatable; all that are given replace those before)
    #[arg(long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// Send this content type; `none` for the shape's own
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Authorise requests as this file says, with JSON as in {"type": "bearer", "token": "…"}; `none` for not at all
    #[arg(long, value_name = "FILE")]
    auth: Option<String>,
    /// Trust the certificate authorities in this PEM file too, or this very certificate; `none` for the usual ones alone
    #[arg(long, value_name = "FILE")]
    ca: Option<String>,
    /// Expect a certificate for this name instead of the URL's host; `none` for the host
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// Show receivers the certificate in this PEM file (mutual TLS); `none` for none
    #[arg(long, value_name = "FILE")]
    client_certificate: Option<String>,
    /// The private key of --client-certificate, in a PEM file
    #[arg(long, value_name = "FILE", requires = "client_certificate")]
    client_key: Option<String>,
    /// Go through this proxy, as in `http://proxy.example:3128`, `https://…` or `socks5://…`; `none` for none
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
    /// Leave it to the proxy to resolve the receiver's name, where the server allows that
    #[arg(long, requires = "proxy")]
    proxy_resolves: bool,
    /// Keep a note, as in team=soc (repeatable; all that are given replace those before)
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_note)]
    metadata: Vec<(String, String)>,
    /// Turn it off for good after so many days without one success, as in 5d; `none` for never
    #[arg(long, value_name = "DURATION", value_parser = parse_days)]
    disable_after: Option<Given>,
}

/// Delays in seconds; `None`: the server's default.
#[derive(Clone, Debug, PartialEq)]
struct RetrySchedule(Option<Vec<f64>>);

#[derive(Clone, Debug, PartialEq)]
struct Statuses(Vec<StatusSpan>);

/// A setting as the API has it, where `null` is a value.
#[derive(Clone, Debug, PartialEq)]
struct Given(Value);

fn parse_schedule(text: &str) -> Result<RetrySchedule, String> {
    match text {
        "default" => Ok(RetrySchedule(None)),
        "once" => Ok(RetrySchedule(Some(Vec::new()))),
        delays => {
            let seconds = delays.split(',').map(|delay| Ok(parse_span(delay.trim())?.as_secs_f64()));
            seconds.collect::<Result<_, String>>().map(|seconds| RetrySchedule(Some(seconds)))
        }
    }
}

fn parse_statuses(text: &str) -> Result<Statuses, String> {
    if text == NONE {
        return Ok(Statuses(Vec::new()));
    }
    let spans = text.split(',').map(str::parse).collect::<Result<_, StatusError>>();
    spans.map(Statuses).map_err(|error| error.to_string())
}

/// `10/s`, `100/m`, `5/h`, each with `,burst=N` or without.
fn parse_rate(text: &str) -> Result<Given, String> {
    if text == NONE {
        return Ok(Given(Value::Null));
    }
    let wrong = || format!("{text:?} is no rate; write a number and a time, as in 10/s, 100/m or 10/s,burst=5");
    let (rate, burst) = match text.split_once(",burst=") {
        Some((rate, burst)) => (rate, Some(burst.parse::<u32>().map_err(|_| wrong())?)),
        None => (text, None),
    };
    let (count, unit) = rate.split_once('/').ok_or_else(wrong)?;
    let count: f64 = count.trim().parse().map_err(|_| wrong())?;
    let seconds = match unit.trim() {
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return Err(wrong()),
    };
    let mut limit = json!({ "per_s": count / seconds });
    if let Some(burst) = burst {
        limit["burst"] = burst.into();
    }
    Ok(Given(limit))
}

/// `100,500ms`, `100,500ms,256KiB` or `100,500ms,256KiB,lines`; the size may be left out.
fn parse_batch(text: &str) -> Result<Given, String> {
    if text == NONE {
        return Ok(Given(Value::Null));
    }
    let wrong = || {
        format!("{text:?} is no batch; write events and a time, as in 100,500ms, 100,500ms,256KiB or 100,500ms,lines")
    };
    let mut parts = text.split(',').map(str::trim);
    let max_events: u32 = parts.next().and_then(|count| count.parse().ok()).ok_or_else(wrong)?;
    let max_wait = parse_span(parts.next().ok_or_else(wrong)?)?;
    let mut batch = json!({ "max_events": max_events, "max_wait_ms": u64::try_from(max_wait.as_millis()).ok() });
    let mut next = parts.next();
    if let Some(size) = next.filter(|part| part.starts_with(|c: char| c.is_ascii_digit())) {
        batch["max_bytes"] = json!(size.parse::<Size>()?.bytes());
        next = parts.next();
    }
    if let Some(format @ ("array" | "lines")) = next {
        batch["format"] = json!(format);
        next = None;
    }
    if next.is_some() || parts.next().is_some() { Err(wrong()) } else { Ok(Given(batch)) }
}

/// Not read by clap, whose error would show the text: it may be a secret.
fn parse_header(text: &str) -> Result<(String, String), UsageError> {
    let (name, value) =
        text.split_once(':').ok_or_else(|| UsageError("--header: a header is written as 'Name: value'".to_owned()))?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

fn parse_note(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a note is written as key=value")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn parse_age(text: &str) -> Result<Given, String> {
    if text == NONE {
        return Ok(Given(Value::Null));
    }
    let age = parse_span(text)?;
    if age.subsec_nanos() > 0 {
        Err(format!("{text:?} is no number of whole seconds"))
    } else {
        Ok(Given(age.as_secs().into()))
    }
}

fn parse_days(text: &str) -> Result<Given, String> {
    const DAY_S: u64 = 86_400;
    if text == NONE {
        return Ok(Given(Value::Null));
    }
    let time = parse_span(text)?;
    if time.subsec_nanos() > 0 || time.as_secs() % DAY_S > 0 {
        return Err(format!("{text:?} is no number of whole days, as in 5d"));
    }
    Ok(Given((time.as_secs() / DAY_S).into()))
}

impl Settings {
    /// The request's fields: what was given.
    pub(super) fn fields(self) -> anyhow::Result<Map<String, Value>> {
        let timeout_s = match self.timeout {
            Some(timeout) if timeout.subsec_nanos() > 0 => {
                bail!(UsageError(format!("--timeout {}: must be whole seconds", Span(timeout))))
            }
            timeout => timeout.map(|timeout| timeout.as_secs()),
        };
        let list = |items: Vec<String>| (!items.is_empty()).then_some(items);
        let map = |items: Vec<(String, String)>| {
            (!items.is_empty())
                .then(|| items.into_iter().map(|(key, value)| (key, value.into())).collect::<Map<_, Value>>())
        };
        let headers = self.headers.iter().map(|text| parse_header(text)).collect::<Result<_, _>>()?;
        let mut fields = Map::new();
        let mut set = |name: &str, value: Value| {
            if !value.is_null() {
                fields.insert(name.to_owned(), value);
            }
        };
        set("topic_patterns", json!(list(self.topics)));
        set("simple_events", json!(list(self.simple_events)));
        set("description", json!(self.description));
        let signatures = self.signatures.iter().map(|text| signature(text)).collect::<Result<Vec<_>, _>>()?;
        set("signatures", json!((!signatures.is_empty()).then_some(signatures)));
        set("timeout_s", json!(timeout_s));
        set("max_in_flight", json!(self.max_in_flight));
        for (name, given) in [("retry_on", self.retry_on), ("final_on", self.final_on), ("success_on", self.success_on)]
        {
            set(name, json!(given.map(|Statuses(spans)| spans)));
        }
        set("ordered", json!(self.ordered));
        set("paused", json!(self.paused));
        set("method", json!(self.method));
        set("headers", json!(map(headers)));
        set("metadata", json!(map(self.metadata)));
        if let Some(name) = self.shape {
            set("shape", shape(name, self.shape_content_type)?);
        }
        // Here `null` is a value: the default.
        let given = |value: Option<Given>| value.map(|Given(value)| value);
        let nullable = [
            ("retry_schedule", self.retry_schedule.map(|RetrySchedule(delays)| json!(delays))),
            ("max_age_s", given(self.max_age)),
            ("capture", self.capture.map(|which| if which == "default" { Value::Null } else { which.into() })),
            ("rate_limit", given(self.rate_limit)),
            ("batch", given(self.batch)),
            ("disable_after_days", given(self.disable_after)),
            ("success_when", self.success_when.map(|text| pattern("--success-when", text)).transpose()?),
            ("filter", self.filter.map(|text| pattern("--filter", text)).transpose()?),
            ("content_type", self.content_type.map(|text| unless_none(text, |text| Ok(text.into()))).transpose()?),
            ("auth", self.auth.map(|file| unless_none(file, |file| json_file(&file))).transpose()?),
            ("ca", self.ca.map(|file| unless_none(file, |file| Ok(read(&file)?.into()))).transpose()?),
            ("server_name", self.server_name.map(|name| unless_none(name, |name| Ok(name.into()))).transpose()?),
            ("client_certificate", certificate(self.client_certificate, self.client_key.as_deref())?),
            ("proxy", self.proxy.map(|url| unless_none(url, |url| Ok(proxy(&url, self.proxy_resolves)))).transpose()?),
        ];
        fields.extend(nullable.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        Ok(fields)
    }
}

/// A name, or a profile as JSON.
fn signature(text: &str) -> Result<Value, UsageError> {
    if !text.starts_with('{') {
        return Ok(text.into());
    }
    serde_json::from_str(text).map_err(|error| UsageError(format!("--signature: {error}")))
}

fn unless_none(text: String, value: impl FnOnce(String) -> anyhow::Result<Value>) -> anyhow::Result<Value> {
    if text == NONE { Ok(Value::Null) } else { value(text) }
}

fn read(file: &str) -> anyhow::Result<String> {
    std::fs::read_to_string(Path::new(file)).with_context(|| format!("cannot read {file}"))
}

fn json_file(file: &str) -> anyhow::Result<Value> {
    serde_json::from_str(&read(file)?).map_err(|error| UsageError(format!("{file}: {error}")).into())
}

/// JSON, or `@` and a file with it. What is wrong with it is said here, with its place.
fn pattern(flag: &str, text: String) -> anyhow::Result<Value> {
    if text == NONE {
        return Ok(Value::Null);
    }
    let text = match text.strip_prefix('@') {
        Some(file) => read(file)?,
        None => text,
    };
    let filter = Filter::parse(&text).map_err(|error| UsageError(format!("{flag}: {error}")))?;
    Ok(serde_json::from_str(filter.as_str())?)
}

/// A name, or `@` and a file with a template.
fn shape(name: String, content_type: Option<String>) -> anyhow::Result<Value> {
    let Some(file) = name.strip_prefix('@') else {
        if content_type.is_some() {
            bail!(UsageError("--shape-content-type goes with a template: --shape @FILE".to_owned()));
        }
        return Ok(name.into());
    };
    let mut template = json!({ "template": read(file)? });
    if let Some(content_type) = content_type {
        template["content_type"] = content_type.into();
    }
    Ok(template)
}

fn certificate(certificate: Option<String>, key: Option<&str>) -> anyhow::Result<Option<Value>> {
    match (certificate, key) {
        (None, _) => Ok(None),
        (Some(file), _) if file == NONE => Ok(Some(Value::Null)),
        (Some(file), Some(key)) => Ok(Some(json!({ "certificate": read(&file)?, "key": read(key)? }))),
        (Some(_), None) => bail!(UsageError("--client-certificate needs --client-key".to_owned())),
    }
}

fn proxy(url: &str, resolves: bool) -> Value {
    json!({ "url": url, "resolve": if resolves { "proxy" } else { "here" } })
}

// --- as `postrider webhook show` has it ---

pub(super) fn rate_shown(limit: &Value) -> String {
    match (limit["per_s"].as_f64(), limit["burst"].as_u64()) {
        (Some(per_s), None | Some(1)) => format!("{per_s}/s"),
        (Some(per_s), Some(burst)) => format!("{per_s}/s, bursts of {burst}"),
        (None, _) => "-".to_owned(),
    }
}

pub(super) fn batch_shown(batch: &Value) -> String {
    let field = |name: &str| batch[name].as_u64();
    match (field("max_events"), field("max_wait_ms"), field("max_bytes")) {
        (Some(events), Some(wait_ms), Some(bytes)) => {
            let format = batch["format"].as_str().map(|format| format!(", {format}")).unwrap_or_default();
            format!("{events} events, {}, {bytes} bytes{format}", Span(Duration::from_millis(wait_ms)))
        }
        _ => "-".to_owned(),
    }
}

pub(super) fn shape_shown(shape: &Value) -> String {
    match (shape.as_str(), shape["template"].as_str()) {
        (Some(name), _) => output::visible(name),
        (None, Some(template)) => {
            format!("a template of {} lines, {}", template.lines().count(), output::text(shape, "content_type"))
        }
        (None, None) => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_delays_or_a_word() {
        assert_eq!(parse_schedule("1s, 500ms,2m"), Ok(RetrySchedule(Some(vec![1.0, 0.5, 120.0]))));
        assert_eq!(parse_schedule("once"), Ok(RetrySchedule(Some(Vec::new()))));
        assert_eq!(parse_schedule("default"), Ok(RetrySchedule(None)));
        assert!(parse_schedule("").is_err());
        assert!(parse_schedule("1,2").is_err());
    }

    #[test]
    fn limits_are_written_as_people_say_them() {
        assert_eq!(parse_rate("10/s"), Ok(Given(json!({ "per_s": 10.0 }))));
        assert_eq!(parse_rate("90/m,burst=3"), Ok(Given(json!({ "per_s": 1.5, "burst": 3 }))));
        assert_eq!(parse_rate("none"), Ok(Given(Value::Null)));
        assert_eq!(parse_batch("100,500ms"), Ok(Given(json!({ "max_events": 100, "max_wait_ms": 500 }))));
        let lines = json!({ "max_events": 100, "max_wait_ms": 500, "format": "lines" });
        assert_eq!(parse_batch("100,500ms,lines"), Ok(Given(lines)));
        for wrong in ["100", "100,500ms,rows", "100,500ms,1KiB,lines,x", "100,500ms,lines,1KiB"] {
            assert!(parse_batch(wrong).is_err(), "{wrong}");
        }
        let sized = json!({ "max_events": 2, "max_wait_ms": 1_000, "max_bytes": 4_096 });
        assert_eq!(parse_batch("2, 1s, 4KiB"), Ok(Given(sized)));
        assert_eq!(parse_days("5d"), Ok(Given(5.into())));
        assert_eq!(parse_statuses("408, 5xx"), Ok(Statuses(vec!["408".parse().unwrap(), "5xx".parse().unwrap()])));
        for wrong in ["10", "10/y", "x/s", "10/s,burst=x", ""] {
            assert!(parse_rate(wrong).is_err(), "{wrong}");
        }
        for wrong in ["100", "100,x", "1,1s,1KiB,2", ""] {
            assert!(parse_batch(wrong).is_err(), "{wrong}");
        }
        assert!(parse_days("36h").is_err() && parse_header("x").is_err() && parse_note("x").is_err());
    }

    #[test]
    fn a_filter_that_is_none_is_refused_with_its_place() {
        let error = pattern("--filter", r#"{"payload": {"n": [{"numeric": ["<"]}]}}"#.to_owned()).unwrap_err();
        assert!(error.to_string().starts_with("--filter: line 1 column "), "{error}");
        assert_eq!(pattern("--filter", "none".to_owned()).unwrap(), Value::Null);
    }
}
